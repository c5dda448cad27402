/*
 * gpu_matrix_amd.h - gpu_matrix.h in instructions of gfx942 and gfx950.
 *
 * Place: gpu; included by gpu_matrix.h.
 */
#ifndef DSV4_GPU_GPU_MATRIX_AMD_H
#define DSV4_GPU_GPU_MATRIX_AMD_H

typedef short gpu_s16x4 __attribute__((vector_size(8)));
typedef int gpu_s32x8 __attribute__((vector_size(32)));
typedef __bf16 gpu_bf16x8 __attribute__((vector_size(16)));

GPU_DEVICE uint32_t gpu_low_halves(uint32_t a, uint32_t b)
{
    return __builtin_amdgcn_perm(b, a, 0x05040100u);
}

GPU_DEVICE uint32_t gpu_high_halves(uint32_t a, uint32_t b)
{
    return __builtin_amdgcn_perm(b, a, 0x07060302u);
}

#if defined(__gfx950__)

GPU_DEVICE gpu_f32x4 gpu_multiply_bf16(gpu_u32x4 a, gpu_u32x4 b, gpu_f32x4 c)
{
    return __builtin_amdgcn_mfma_f32_16x16x32_bf16(__builtin_bit_cast(gpu_bf16x8, a),
                                                   __builtin_bit_cast(gpu_bf16x8, b), c, 0, 0, 0);
}

GPU_DEVICE gpu_f32x4 gpu_multiply_codes(gpu_u32x8 a, gpu_u32x8 b, gpu_f32x4 c, uint32_t scale_a,
                                        uint32_t scale_b)
{
    return __builtin_amdgcn_mfma_scale_f32_16x16x128_f8f6f4(__builtin_bit_cast(gpu_s32x8, a),
                                                            __builtin_bit_cast(gpu_s32x8, b), c, 0,
                                                            0, 0, (int)scale_a, 0, (int)scale_b);
}

GPU_DEVICE gpu_f32x16 gpu_multiply_codes32(gpu_u32x8 a, gpu_u32x8 b, gpu_f32x16 c, uint32_t scale_a,
                                           uint32_t scale_b)
{
    return __builtin_amdgcn_mfma_scale_f32_32x32x64_f8f6f4(__builtin_bit_cast(gpu_s32x8, a),
                                                           __builtin_bit_cast(gpu_s32x8, b), c, 0,
                                                           0, 0, (int)scale_a, 0, (int)scale_b);
}

GPU_DEVICE uint32_t gpu_codes_to_bf16_low(uint32_t word, uint32_t scale)
{
    const gpu_bf16x2 pair =
        __builtin_amdgcn_cvt_scalef32_pk_bf16_fp8(word, gpu_as_f32(scale), false);
    return __builtin_bit_cast(uint32_t, pair);
}

GPU_DEVICE uint32_t gpu_codes_to_bf16_high(uint32_t word, uint32_t scale)
{
    const gpu_bf16x2 pair =
        __builtin_amdgcn_cvt_scalef32_pk_bf16_fp8(word, gpu_as_f32(scale), true);
    return __builtin_bit_cast(uint32_t, pair);
}

GPU_DEVICE uint32_t gpu_to_codes(float a, float b, float c, float d)
{
    const int low = __builtin_amdgcn_cvt_pk_fp8_f32(a, b, 0, false);
    return (uint32_t)__builtin_amdgcn_cvt_pk_fp8_f32(c, d, low, true);
}

/*
 * In assembly, not by the builtin: for that the compiler makes every later read of shared memory wait for all copies,
 * since it cannot tell which of them wrote there. m0 is the compiler's to write just before each use, so that it need
 * not know of this one; between writing and using it stands one wait state.
 */
GPU_DEVICE void gpu_copy16_to_shared(GPU_SHARED void *to, const void *from, bool is_active)
{
    if (!is_active) return;
    __asm__ volatile("s_mov_b32 m0, %0\n\ts_nop 0\n\tglobal_load_lds_dwordx4 %1, off"
                     :
                     : "s"((uint32_t)(uintptr_t)to), "v"((const GPU_GLOBAL void *)from)
                     : "memory");
}

GPU_DEVICE void gpu_copy4_to_shared(GPU_SHARED void *to, const void *from, bool is_active)
{
    if (!is_active) return;
    __asm__ volatile("s_mov_b32 m0, %0\n\ts_nop 0\n\tglobal_load_lds_dword %1, off"
                     :
                     : "s"((uint32_t)(uintptr_t)to), "v"((const GPU_GLOBAL void *)from)
                     : "memory");
}

/* most: a constant below 64. */
#define gpu_wait_copies(most) __asm__ volatile("s_waitcnt vmcnt(%0)" : : "n"(most) : "memory")

#else

/* Operands of 8 values in two halves: what k is called does not matter as long as it is alike in both. */
GPU_DEVICE gpu_f32x4 gpu_multiply_bf16(gpu_u32x4 a, gpu_u32x4 b, gpu_f32x4 c)
{
    const gpu_u32x2 a0 = {a[0], a[1]}, a1 = {a[2], a[3]}, b0 = {b[0], b[1]}, b1 = {b[2], b[3]};
    c = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(__builtin_bit_cast(gpu_s16x4, a0),
                                                  __builtin_bit_cast(gpu_s16x4, b0), c, 0, 0, 0);
    return __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(__builtin_bit_cast(gpu_s16x4, a1),
                                                     __builtin_bit_cast(gpu_s16x4, b1), c, 0, 0, 0);
}

GPU_DEVICE uint32_t gpu_codes_to_bf16_low(uint32_t word, uint32_t scale)
{
    return gpu_code_pair_by_bits(word, scale);
}

GPU_DEVICE uint32_t gpu_codes_to_bf16_high(uint32_t word, uint32_t scale)
{
    return gpu_code_pair_by_bits(word >> 16, scale);
}

/* No kernel of this chip calls it. */
gpu_f32x4 gpu_multiply_codes(gpu_u32x8 a, gpu_u32x8 b, gpu_f32x4 c, uint32_t scale_a,
                             uint32_t scale_b);
uint32_t gpu_to_codes(float a, float b, float c, float d);

/* This chip copies at most 4 bytes a lane: here a copy has happened when it returns. */
GPU_DEVICE void gpu_copy16_to_shared(GPU_SHARED void *to, const void *from, bool is_active)
{
    if (is_active) ((GPU_SHARED gpu_u32x4 *)to)[gpu_thread() % GPU_WAVE] = gpu_load16(from);
}

GPU_DEVICE void gpu_copy4_to_shared(GPU_SHARED void *to, const void *from, bool is_active)
{
    if (is_active) ((GPU_SHARED uint32_t *)to)[gpu_thread() % GPU_WAVE] = gpu_load4(from);
}

#define gpu_wait_copies(most) gpu_wave_sync()

#endif
#endif
