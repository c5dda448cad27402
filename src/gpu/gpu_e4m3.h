/*
 * gpu_e4m3.h - f32 to e4m3, also without an instruction for it.
 *
 * Place: gpu, kernels.
 */
#ifndef DSV4_GPU_GPU_E4M3_H
#define DSV4_GPU_GPU_E4M3_H

#include "gpu.h"

/* The code of src/num/e4m3.c: nearest even, saturating, NaN 0x7f. */
GPU_DEVICE uint32_t to_e4m3(float value)
{
    const uint32_t bits = gpu_as_u32(value), sign = (bits >> 31) << 7;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fu;
    if (magnitude >= 0x43e00000u) return sign | 0x7eu; /* 448 */
    if (magnitude < 0x3c800000u) {                     /* 2^-6: multiples of 2^-9 */
        const uint32_t shift = 141u - (magnitude >> 23);
        if (shift > 24u) return sign;
        const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
        const uint32_t odd = (significand >> shift) & 1u;
        return sign | (significand + (1u << (shift - 1u)) - 1u + odd) >> shift;
    }
    const uint32_t odd = (magnitude >> 20) & 1u;
    return sign | (((magnitude + 0x7ffffu + odd) >> 20) - (120u << 3));
}

/* Four codes, the first in the lowest byte. */
GPU_DEVICE uint32_t to_e4m3_four(gpu_f32x4 x)
{
#if defined(GPU_HAS_E4M3)
    return gpu_to_e4m3_pair(x[0], x[1]) | gpu_to_e4m3_pair(x[2], x[3]) << 16;
#else
    return to_e4m3(x[0]) | to_e4m3(x[1]) << 8 | to_e4m3(x[2]) << 16 | to_e4m3(x[3]) << 24;
#endif
}

#endif
