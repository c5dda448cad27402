/*
 * vec_v2.h - vectors of 4 f32 with SSE4.2: the vocabulary of the kernel templates.
 *
 * Place: cpu. Every name here exists in each vec_*.h with the same meaning; see vec_avx512.h for it.
 */
#ifndef DSV4_CPU_VEC_V2_H
#define DSV4_CPU_VEC_V2_H

#include <smmintrin.h>
#include <math.h>
#include <string.h>

#include "num/bf16.h"
#include "num/e4m3.h"
#include "num/ue8m0.h"

#define VF_LANES     4
#define VF_TILE_KEYS 4
#define VF_TILE_VECS 2
#define VF_HAS_HALF  0

/* ln 2 in two parts: whole numbers below 2^8 times the first are exact. */
#define VF_LN2_HIGH 0x1.62e4p-1f
#define VF_LN2_LOW  0x1.7f7d1cp-20f
#define VF_LOG2_E   0x1.715476p+0f

typedef __m128 vf;

static inline vf vf_zero(void)
{
    return _mm_setzero_ps();
}

static inline vf vf_set1(float x)
{
    return _mm_set1_ps(x);
}

static inline vf vf_load(const float *p)
{
    return _mm_loadu_ps(p);
}

static inline void vf_store(float *p, vf a)
{
    _mm_storeu_ps(p, a);
}

static inline vf vf_add(vf a, vf b)
{
    return _mm_add_ps(a, b);
}

static inline vf vf_mul(vf a, vf b)
{
    return _mm_mul_ps(a, b);
}

static inline vf vf_fma(vf a, vf b, vf c)
{
    return _mm_add_ps(_mm_mul_ps(a, b), c);
}

static inline vf vf_max(vf a, vf b)
{
    return _mm_max_ps(a, b);
}

static inline vf vf_exp2_parts(vf fraction, vf whole)
{
    vf p = vf_set1(1.535336188319500e-4f);
    p = vf_fma(p, fraction, vf_set1(1.339887440266574e-3f));
    p = vf_fma(p, fraction, vf_set1(9.618437357674640e-3f));
    p = vf_fma(p, fraction, vf_set1(5.550332471162809e-2f));
    p = vf_fma(p, fraction, vf_set1(2.402264791363012e-1f));
    p = vf_fma(p, fraction, vf_set1(6.931472028550421e-1f));
    p = vf_fma(p, fraction, vf_set1(1.0f));
    __m128i exponent = _mm_slli_epi32(_mm_cvtps_epi32(whole), 23);
    return _mm_castsi128_ps(_mm_add_epi32(_mm_castps_si128(p), exponent));
}

static inline vf vf_exp2(vf x)
{
    vf clamped = _mm_max_ps(vf_set1(-126.0f), x);
    vf whole = _mm_round_ps(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vf y = vf_exp2_parts(_mm_sub_ps(clamped, whole), whole);
    y = _mm_blendv_ps(y, x, _mm_cmpunord_ps(x, x));
    return _mm_andnot_ps(_mm_cmplt_ps(x, vf_set1(-126.0f)), y);
}

static inline vf vf_exp(vf x)
{
    vf clamped = _mm_max_ps(vf_set1(-87.0f), x);
    vf whole = _mm_round_ps(vf_mul(clamped, vf_set1(VF_LOG2_E)),
                            _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vf rest = _mm_sub_ps(clamped, vf_mul(whole, vf_set1(VF_LN2_HIGH)));
    rest = _mm_sub_ps(rest, vf_mul(whole, vf_set1(VF_LN2_LOW)));
    vf y = vf_exp2_parts(vf_mul(rest, vf_set1(VF_LOG2_E)), whole);
    y = _mm_blendv_ps(y, x, _mm_cmpunord_ps(x, x));
    return _mm_andnot_ps(_mm_cmplt_ps(x, vf_set1(-87.0f)), y);
}

typedef __m128d vd;

static inline vd vd_zero(void)
{
    return _mm_setzero_pd();
}

static inline vd vd_add_products(vd sum, vf a, vf b)
{
    __m128d low = _mm_mul_pd(_mm_cvtps_pd(a), _mm_cvtps_pd(b));
    __m128d high = _mm_mul_pd(_mm_cvtps_pd(_mm_movehl_ps(a, a)), _mm_cvtps_pd(_mm_movehl_ps(b, b)));
    return _mm_add_pd(_mm_add_pd(sum, low), high);
}

static inline double vd_sum(vd a)
{
    return _mm_cvtsd_f64(_mm_add_sd(a, _mm_unpackhi_pd(a, a)));
}

static inline vf vf_sub(vf a, vf b)
{
    return _mm_sub_ps(a, b);
}

static inline vf vf_div(vf a, vf b)
{
    return _mm_div_ps(a, b);
}

static inline vf vf_min(vf a, vf b)
{
    return _mm_min_ps(a, b);
}

static inline vf vf_abs(vf a)
{
    return _mm_andnot_ps(vf_set1(-0.0f), a);
}

static inline vf vf_sign(vf a)
{
    return _mm_and_ps(vf_set1(-0.0f), a);
}

static inline vf vf_or(vf a, vf b)
{
    return _mm_or_ps(a, b);
}

static inline vf vf_and(vf a, vf b)
{
    return _mm_and_ps(a, b);
}

static inline vf vf_binade(vf a)
{
    return _mm_and_ps(vf_set1(INFINITY), a);
}

/* The bits of a, rounded to bf16 in the upper halves; what the lower halves hold means nothing. */
static inline __m128i bf16_bits(vf a)
{
    __m128i bits = _mm_castps_si128(a);
    __m128i odd = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));
    __m128i rounded = _mm_add_epi32(_mm_add_epi32(bits, _mm_set1_epi32(0x7fff)), odd);
    __m128i quiet = _mm_or_si128(bits, _mm_set1_epi32(0x400000));
    __m128 is_nan = _mm_cmpunord_ps(a, a);
    return _mm_castps_si128(
        _mm_blendv_ps(_mm_castsi128_ps(rounded), _mm_castsi128_ps(quiet), is_nan));
}

static inline vf vf_round_bf16(vf a)
{
    __m128i upper = _mm_set1_epi32((int)0xffff0000u);
    return _mm_castsi128_ps(_mm_and_si128(bf16_bits(a), upper));
}

static inline vf vf_swap(vf a, int bit)
{
    return bit == 1 ? _mm_shuffle_ps(a, a, 0xb1) : _mm_shuffle_ps(a, a, 0x4e);
}

static inline vf vf_load_bf16(const void *p)
{
    __m128i half = _mm_loadl_epi64((const __m128i *)p);
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(half), 16));
}

static inline void vf_store_bf16(void *p, vf a)
{
    __m128i half = _mm_srli_epi32(bf16_bits(a), 16);
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi32(half, half));
}

static inline void vf_transpose(vf r[VF_LANES])
{
    _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]);
}

static inline __m128 vf_sum4(vf a, vf b, vf c, vf d)
{
    vf ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    vf cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    return _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x44), _mm_shuffle_ps(ab, cd, 0xee));
}

static inline void vf_dequant_group(const uint8_t *codes, uint8_t scale, float *out)
{
    float factor = dsv4_ue8m0_to_f32(scale);
    for (int i = 0; i < 64; i++) out[i] = dsv4_e4m3_to_f32(codes[i]) * factor;
}

#endif
