/*
 * exp.h - an exponential that has the same bits on every device.
 *
 * Place: num. libm's expf and a GPU's differ in last bits. This one is f32 additions and multiplications
 * in a fixed order, so that it is the same wherever they are rounded to nearest and not contracted
 * (-ffp-contract=off, nvcc --fmad=false). The polynomial is that of Cephes' expf (S. Moshier): relative
 * error below 2e-7.
 */
#ifndef DSV4_NUM_EXP_H
#define DSV4_NUM_EXP_H

#include <stdint.h>

#if defined(__AMDGCN__) /* where there is no C library */
#define DSV4_EXP_COPY __builtin_memcpy
#else
#include <string.h>
#define DSV4_EXP_COPY memcpy
#endif

#if defined(__CUDACC__)
#define DSV4_EXP_INLINE static __host__ __device__ __forceinline__
#elif defined(__AMDGCN__)
#define DSV4_EXP_INLINE static inline __attribute__((always_inline))
#else
#define DSV4_EXP_INLINE static inline
#endif

#define DSV4_EXP_LEAST (-86.0f) /* below it, 4.5e-38, the result is 0 */

/* e^x for x <= 0; NaN stays NaN. */
DSV4_EXP_INLINE float dsv4_exp_f32(float x)
{
    if (x < DSV4_EXP_LEAST) return 0.0f;
    if (x != x) return x;
    const float to_integer = 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest integer */
    float n = (x * 1.44269504f + to_integer) - to_integer;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* ln 2 in two parts, the first exact */
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * (r * r) + r) + 1.0f;
    uint32_t bits;
    DSV4_EXP_COPY(&bits, &p, sizeof bits);
    bits += (uint32_t)(int32_t)n << 23; /* times 2^n: normal, as x >= DSV4_EXP_LEAST */
    DSV4_EXP_COPY(&p, &bits, sizeof p);
    return p;
}

#endif
