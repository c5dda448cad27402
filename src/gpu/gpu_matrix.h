/*
 * gpu_matrix.h - matrix products, conversions and copies to shared memory that AMD's GPUs have instructions for.
 *
 * Place: gpu; beside gpu.h, for kernels of AMD and their tests on fibers. A wave has an operand together. For a product
 * D (16x16) = A (16xK) * B (Kx16) + C, lane l of 64 with g = l / 16 holds
 *
 *   A   row l % 16, B column l % 16
 *         bf16, K = 32: k = 8g .. 8g + 7, two a word, the lower one in the lower half
 *         e4m3, K = 128: byte e of 32 is k = 16g + e % 16 + 64 (e / 16)
 *   C, D  rows 4g .. 4g + 3 of column l % 16
 *   the ue8m0 scale of a row of A (column of B) and k = 32g .. 32g + 31, in the lowest byte of a word
 *
 * and for D (32x32) with K = 64, g = l / 32: row and column l % 32; byte e is k = 16g + e % 16 + 32 (e / 16); value i of
 * 16 of C and D is row 8 (i / 4) + 4g + i % 4; the scale is that of k = 32g .. 32g + 31.
 *
 * Only the order of k within an operand is this header's to know: where A and B have it alike, products are right.
 * gfx942 has no e4m3 of this kind (its e4m3 is FNUZ): products of codes are missing there, conversions work on bits.
 *
 *   gpu_multiply_bf16(a, b, c)                    16x16x32; two products of K = 16 on gfx942
 *   gpu_multiply_codes(a, b, c, scale_a, scale_b) 16x16x128 of e4m3 codes
 *   gpu_multiply_codes32(a, b, c, scale_a, scale_b) 32x32x64 of e4m3 codes
 *   gpu_codes_to_bf16_low(word, scale)            bytes 0 and 1 of four codes times scale, f32 bits of a power of two
 *   gpu_codes_to_bf16_high(word, scale)           bytes 2 and 3
 *   gpu_to_codes(a, b, c, d)                      four f32 below 464 to e4m3, nearest even
 *   gpu_low_halves(a, b), gpu_high_halves         a's half below b's
 *   gpu_copy16_to_shared(to, from, is_active)     16 bytes of each active lane to `to`, the same for all lanes, + 16 * lane;
 *                                                 one lane at least is active, else there is no copy to count
 *   gpu_copy4_to_shared(to, from, is_active)      4 bytes likewise
 *   gpu_wait_copies(most)                         until at most so many of this wave's copies are on their way
 */
#ifndef DSV4_GPU_GPU_MATRIX_H
#define DSV4_GPU_GPU_MATRIX_H

#include "gpu.h"

typedef uint32_t gpu_u32x8 __attribute__((vector_size(32)));
typedef float gpu_f32x16 __attribute__((vector_size(64)));

/*
 * A code times a scale without an instruction for it: the code's bits at their places in an f32 are its number times
 * 2^-120, subnormals included.
 */
GPU_DEVICE uint32_t gpu_code_by_bits(uint32_t code, float scale)
{
    const uint32_t bits = (code & 0x80u) << 24 | (code & 0x7fu) << 20;
    const float value = gpu_as_f32(bits) * 0x1p120f * scale;
    return (code & 0x7fu) == 0x7fu ? 0x7fc00000u : gpu_as_u32(value);
}

/* Bytes 0 and 1 as bf16: the upper half of the f32 is the number, which has three bits of mantissa. */
GPU_DEVICE uint32_t gpu_code_pair_by_bits(uint32_t word, uint32_t scale)
{
    return gpu_code_by_bits(word & 0xffu, gpu_as_f32(scale)) >> 16 |
           (gpu_code_by_bits(word >> 8 & 0xffu, gpu_as_f32(scale)) & 0xffff0000u);
}

#if defined(__AMDGCN__)
#include "gpu_matrix_amd.h"
#else
#include "gpu_matrix_fibers.h"
#endif

/*
 * f32 bits of a ue8m0 scale for the conversions above, NaN for 255. gfx950 reads nothing but the exponent of it; where bits
 * are multiplied, 2^-127 has to be the subnormal number.
 */
GPU_DEVICE uint32_t gpu_scale_bits(uint32_t byte)
{
#if defined(GPU_SMALL)
    if (byte == 0u) return 0x00400000u;
#endif
    return byte == 255u ? 0x7fc00000u : byte << 23;
}

#endif
