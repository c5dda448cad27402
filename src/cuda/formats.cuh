/*
 * formats.cuh - bf16, e4m3 and ue8m0, to and from f32, with the roundings of src/num.
 *
 * Place: cuda, any device from sm_80 on. Nothing here depends on the contraction of products and sums.
 */
#ifndef DSV4_CUDA_FORMATS_CUH
#define DSV4_CUDA_FORMATS_CUH

#include <stdint.h>

__device__ __forceinline__ float low_to_f32(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}

__device__ __forceinline__ float high_to_f32(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

/* The code of src/num/e4m3.c; only for devices before sm_89. */
__device__ __forceinline__ uint32_t to_e4m3(float value)
{
    const uint32_t bits = __float_as_uint(value), sign = (bits >> 31) << 7;
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
__device__ __forceinline__ uint32_t to_e4m3_four(float a, float b, float c, float d)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint16_t low, high;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;\n" : "=h"(low) : "f"(b), "f"(a));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;\n" : "=h"(high) : "f"(d), "f"(c));
    return low | (uint32_t)high << 16;
#else
    return to_e4m3(a) | to_e4m3(b) << 8 | to_e4m3(c) << 16 | to_e4m3(d) << 24;
#endif
}

/* amax / 448 rounded up to a power of two, as a ue8m0 code; 255 and more if it is not finite. */
__device__ __forceinline__ uint32_t scale_code(float amax)
{
    const uint32_t bits = __float_as_uint(amax * (1.0f / 448.0f));
    return (bits >> 23) + ((bits & 0x7fffffu) != 0u);
}

/* The ue8m0 code of a group, as dsv4_ue8m0_group_scale(amax, 448, 1e-4). */
__device__ __forceinline__ uint32_t group_scale(float amax)
{
    const uint32_t code = scale_code(fmaxf(amax, 1e-4f));
    return code > 254u ? 254u : code;
}

/* 1 / 2^(code - 127), code of group_scale; exact. */
__device__ __forceinline__ float inverse_scale(uint32_t code)
{
    return code == 254u ? 0x1p-127f : __uint_as_float((254u - code) << 23);
}

#endif
