/*
 * gpu_matrix_fibers.h - gpu_matrix.h in C, for tests: what the instructions of gfx950 compute, as far as it is published;
 * with GPU_SMALL, those of gfx942 in the same way that gpu_matrix_amd.h uses them.
 *
 * Place: gpu; included by gpu_matrix.h. The products are functions of tests/fibers/fiber_matrix.c. Sums are in f32 in the
 * order of k, which is not said to be the hardware's.
 */
#ifndef DSV4_GPU_GPU_MATRIX_FIBERS_H
#define DSV4_GPU_GPU_MATRIX_FIBERS_H

/* 16x16x16: a lane has k = 4 (lane / 16) .. 4 (lane / 16) + 3. */
gpu_f32x4 fiber_multiply_bf16_k16(gpu_u32x2 a, gpu_u32x2 b, gpu_f32x4 c);
gpu_f32x4 gpu_multiply_codes(gpu_u32x8 a, gpu_u32x8 b, gpu_f32x4 c, uint32_t scale_a,
                             uint32_t scale_b);
gpu_f32x16 gpu_multiply_codes32(gpu_u32x8 a, gpu_u32x8 b, gpu_f32x16 c, uint32_t scale_a,
                                uint32_t scale_b);
uint32_t gpu_to_codes(float a, float b, float c, float d);

GPU_DEVICE uint32_t gpu_low_halves(uint32_t a, uint32_t b)
{
    return (a & 0xffffu) | b << 16;
}

GPU_DEVICE uint32_t gpu_high_halves(uint32_t a, uint32_t b)
{
    return a >> 16 | (b & 0xffff0000u);
}

#if defined(GPU_SMALL)

GPU_DEVICE gpu_f32x4 gpu_multiply_bf16(gpu_u32x4 a, gpu_u32x4 b, gpu_f32x4 c)
{
    const gpu_u32x2 a0 = {a[0], a[1]}, a1 = {a[2], a[3]}, b0 = {b[0], b[1]}, b1 = {b[2], b[3]};
    return fiber_multiply_bf16_k16(a1, b1, fiber_multiply_bf16_k16(a0, b0, c));
}

GPU_DEVICE uint32_t gpu_codes_to_bf16_low(uint32_t word, uint32_t scale)
{
    return gpu_code_pair_by_bits(word, scale);
}

GPU_DEVICE uint32_t gpu_codes_to_bf16_high(uint32_t word, uint32_t scale)
{
    return gpu_code_pair_by_bits(word >> 16, scale);
}

GPU_DEVICE void gpu_copy16_to_shared(void *to, const void *from, bool is_active)
{
    if (is_active) memcpy((char *)to + 16 * (fiber_here.thread % GPU_WAVE), from, 16);
}

GPU_DEVICE void gpu_copy4_to_shared(void *to, const void *from, bool is_active)
{
    if (is_active) memcpy((char *)to + 4 * (fiber_here.thread % GPU_WAVE), from, 4);
}

GPU_DEVICE void gpu_wait_copies(int most)
{
    (void)most;
    gpu_wave_sync();
}

#else

gpu_f32x4 gpu_multiply_bf16(gpu_u32x4 a, gpu_u32x4 b, gpu_f32x4 c);
uint32_t gpu_codes_to_bf16_low(uint32_t word, uint32_t scale);
uint32_t gpu_codes_to_bf16_high(uint32_t word, uint32_t scale);

GPU_DEVICE void gpu_copy16_to_shared(void *to, const void *from, bool is_active)
{
    fiber_copy_later((char *)to + 16 * (fiber_here.thread % GPU_WAVE), from, is_active ? 16 : 0);
}

GPU_DEVICE void gpu_copy4_to_shared(void *to, const void *from, bool is_active)
{
    fiber_copy_later((char *)to + 4 * (fiber_here.thread % GPU_WAVE), from, is_active ? 4 : 0);
}

GPU_DEVICE void gpu_wait_copies(int most)
{
    fiber_wait_copies(most);
}

#endif
#endif
