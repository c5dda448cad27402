/*
 * vec_avx2.h - vectors of 8 f32 with AVX2, FMA and F16C: the vocabulary of the kernel templates.
 *
 * Place: cpu. Every name here exists in each vec_*.h with the same meaning; see vec_avx512.h for it.
 */
#ifndef DSV4_CPU_VEC_AVX2_H
#define DSV4_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "num/bf16.h"
#include "num/e4m3.h"
#include "num/ue8m0.h"

#define VF_LANES     8
#define VF_TILE_KEYS 4
#define VF_TILE_VECS 2
#define VF_HAS_HALF  0

/* ln 2 in two parts: whole numbers below 2^8 times the first are exact. */
#define VF_LN2_HIGH 0x1.62e4p-1f
#define VF_LN2_LOW  0x1.7f7d1cp-20f
#define VF_LOG2_E   0x1.715476p+0f

typedef __m256 vf;

static inline vf vf_zero(void)
{
    return _mm256_setzero_ps();
}

static inline vf vf_set1(float x)
{
    return _mm256_set1_ps(x);
}

static inline vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline void vf_store(float *p, vf a)
{
    _mm256_storeu_ps(p, a);
}

static inline vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

static inline vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

static inline vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
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
    __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
}

static inline vf vf_exp2(vf x)
{
    vf clamped = _mm256_max_ps(vf_set1(-126.0f), x);
    vf whole = _mm256_round_ps(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vf y = vf_exp2_parts(_mm256_sub_ps(clamped, whole), whole);
    y = _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, vf_set1(-126.0f), _CMP_LT_OQ), y);
}

static inline vf vf_exp(vf x)
{
    vf clamped = _mm256_max_ps(vf_set1(-87.0f), x);
    vf whole = _mm256_round_ps(vf_mul(clamped, vf_set1(VF_LOG2_E)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vf rest = _mm256_sub_ps(clamped, vf_mul(whole, vf_set1(VF_LN2_HIGH)));
    rest = _mm256_sub_ps(rest, vf_mul(whole, vf_set1(VF_LN2_LOW)));
    vf y = vf_exp2_parts(vf_mul(rest, vf_set1(VF_LOG2_E)), whole);
    y = _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, vf_set1(-87.0f), _CMP_LT_OQ), y);
}

typedef __m256d vd;

static inline vd vd_zero(void)
{
    return _mm256_setzero_pd();
}

static inline vd vd_add_products(vd sum, vf a, vf b)
{
    __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(a));
    __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
    sum = _mm256_fmadd_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(b)), sum);
    return _mm256_fmadd_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(b, 1)), sum);
}

static inline double vd_sum(vd a)
{
    __m128d halves = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(halves, _mm_unpackhi_pd(halves, halves)));
}

static inline vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}

static inline vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}

static inline vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

static inline vf vf_abs(vf a)
{
    return _mm256_andnot_ps(vf_set1(-0.0f), a);
}

static inline vf vf_sign(vf a)
{
    return _mm256_and_ps(vf_set1(-0.0f), a);
}

static inline vf vf_or(vf a, vf b)
{
    return _mm256_or_ps(a, b);
}

static inline vf vf_and(vf a, vf b)
{
    return _mm256_and_ps(a, b);
}

static inline vf vf_binade(vf a)
{
    return _mm256_and_ps(vf_set1(INFINITY), a);
}

/* The bits of a, rounded to bf16 in the upper halves; what the lower halves hold means nothing. */
static inline __m256i bf16_bits(vf a)
{
    __m256i bits = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256 is_nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
    return _mm256_castps_si256(
        _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), is_nan));
}

static inline vf vf_round_bf16(vf a)
{
    __m256i upper = _mm256_set1_epi32((int)0xffff0000u);
    return _mm256_castsi256_ps(_mm256_and_si256(bf16_bits(a), upper));
}

static inline vf vf_swap(vf a, int bit)
{
    if (bit == 4) return _mm256_permute2f128_ps(a, a, 1);
    return bit == 1 ? _mm256_permute_ps(a, 0xb1) : _mm256_permute_ps(a, 0x4e);
}

static inline vf vf_load_bf16(const void *p)
{
    __m128i half = _mm_loadu_si128((const __m128i *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

static inline void vf_store_bf16(void *p, vf a)
{
    __m256i half = _mm256_srli_epi32(bf16_bits(a), 16);
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(half, half), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(packed));
}

static inline void vf_transpose(vf r[VF_LANES])
{
    vf pairs[8], quads[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        quads[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        quads[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        quads[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        quads[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
}

static inline __m128 vf_sum4(vf a, vf b, vf c, vf d)
{
    vf ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    vf cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    vf all = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
}

/* 16 codes as binary16 numbers of 2^-8 their value: F16C then handles subnormals. */
static inline __m256i halves_from_codes(const uint8_t *codes)
{
    __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)codes));
    __m256i sign = _mm256_and_si256(_mm256_slli_epi16(wide, 8), _mm256_set1_epi16((short)0x8000));
    __m256i rest = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(0x3f80));
    return _mm256_or_si256(sign, rest);
}

static inline int has_nan_code(const uint8_t *codes)
{
    const __m256i magnitude = _mm256_set1_epi8(0x7f);
    __m256i low = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)codes), magnitude);
    __m256i high = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(codes + 32)), magnitude);
    __m256i found =
        _mm256_or_si256(_mm256_cmpeq_epi8(low, magnitude), _mm256_cmpeq_epi8(high, magnitude));
    return _mm256_movemask_epi8(found);
}

static inline void vf_dequant_group(const uint8_t *codes, uint8_t scale, float *out)
{
    if (scale > 246 || has_nan_code(codes)) {
        float factor = dsv4_ue8m0_to_f32(scale);
        for (int i = 0; i < 64; i++) out[i] = dsv4_e4m3_to_f32(codes[i]) * factor;
        return;
    }
    /* 2^(scale - 127) times the 2^8 that the binary16 form lacks; scale + 8 is a normal exponent. */
    vf factor = _mm256_castsi256_ps(_mm256_set1_epi32((scale + 8) << 23));
    for (int i = 0; i < 64; i += 16) {
        __m256i halves = halves_from_codes(codes + i);
        vf low = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
        vf high = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
        vf_store(out + i, vf_mul(low, factor));
        vf_store(out + i + 8, vf_mul(high, factor));
    }
}

#endif
