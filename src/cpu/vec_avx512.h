/*
 * vec_avx512.h - vectors of 16 f32 with AVX-512 (F, BW, DQ, VL): the vocabulary of the kernel templates.
 *
 * Place: cpu. Loads and stores take any alignment. The same names in vec_avx2.h and vec_v2.h mean:
 *   VF_LANES            f32 per vector
 *   VF_TILE_KEYS        keys per register tile of the score product, with two vectors of heads
 *   VF_TILE_VECS        vectors of values per register tile of the value product, with four heads
 *   VF_HAS_HALF         1 when a tail of up to VF_LANES / 2 heads has a tile of its own
 *   vf_fma(a, b, c)     a * b + c (rounded once where the level has FMA)
 *   vf_max(a, b)        b where either is NaN
 *   vf_min(a, b)        b where either is NaN
 *   vf_sign(a)          the sign bits; vf_binade(a) the exponent bits: 2^e for a normal number >= 0
 *   vf_swap(a, bit)     lanes i and i ^ bit exchanged, bit a power of two below VF_LANES
 *   vd                  as many f64 as fit in a register of the level; vd_add_products(sum, a, b) adds all
 *                       lanes of a * b to a vd, vd_sum adds its lanes
 *   vf_round_bf16(a)    f32 of the nearest bf16, ties to even, NaN kept
 *   vf_exp2(x)          2^x for x <= 1 within 2 ulp; 0 for -inf and far below -126; NaN for NaN
 *   vf_exp(x)           e^x for x <= 0 within 2 ulp; 0 below -87; NaN for NaN
 *   vf_store_bf16       nearest-even
 *   vf_transpose        VF_LANES x VF_LANES
 *   vf_sum4             the sums of four vectors: in every four lanes (0 + 2) + (1 + 3), then halves
 *   vf_dequant_group    64 e4m3 codes times 2^(scale - 127), exact, NaN kept
 */
#ifndef DSV4_CPU_VEC_AVX512_H
#define DSV4_CPU_VEC_AVX512_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "num/bf16.h"
#include "num/e4m3.h"
#include "num/ue8m0.h"

#define VF_LANES     16
#define VF_TILE_KEYS 8
#define VF_TILE_VECS 4
#define VF_HAS_HALF  1

/* ln 2 in two parts: whole numbers below 2^8 times the first are exact. */
#define VF_LN2_HIGH 0x1.62e4p-1f
#define VF_LN2_LOW  0x1.7f7d1cp-20f
#define VF_LOG2_E   0x1.715476p+0f

typedef __m512 vf;

static inline vf vf_zero(void)
{
    return _mm512_setzero_ps();
}

static inline vf vf_set1(float x)
{
    return _mm512_set1_ps(x);
}

static inline vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void vf_store(float *p, vf a)
{
    _mm512_storeu_ps(p, a);
}

static inline vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

static inline vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

static inline vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
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
    return _mm512_scalef_ps(p, whole);
}

static inline vf vf_exp2(vf x)
{
    vf clamped = _mm512_max_ps(vf_set1(-200.0f), x);
    vf whole = _mm512_roundscale_ps(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return vf_exp2_parts(_mm512_sub_ps(clamped, whole), whole);
}

static inline vf vf_exp(vf x)
{
    vf clamped = _mm512_max_ps(vf_set1(-87.0f), x);
    vf whole = _mm512_roundscale_ps(vf_mul(clamped, vf_set1(VF_LOG2_E)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vf rest = _mm512_sub_ps(clamped, vf_mul(whole, vf_set1(VF_LN2_HIGH)));
    rest = _mm512_sub_ps(rest, vf_mul(whole, vf_set1(VF_LN2_LOW)));
    vf y = vf_exp2_parts(vf_mul(rest, vf_set1(VF_LOG2_E)), whole);
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, vf_set1(-87.0f), _CMP_LT_OQ), vf_zero());
}

typedef __m512d vd;

static inline vd vd_zero(void)
{
    return _mm512_setzero_pd();
}

static inline vd vd_add_products(vd sum, vf a, vf b)
{
    __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
    __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
    sum = _mm512_fmadd_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(b)), sum);
    return _mm512_fmadd_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(b, 1)), sum);
}

static inline double vd_sum(vd a)
{
    return _mm512_reduce_add_pd(a);
}

static inline vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

static inline vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

static inline vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

static inline vf vf_abs(vf a)
{
    return _mm512_andnot_ps(vf_set1(-0.0f), a);
}

static inline vf vf_sign(vf a)
{
    return _mm512_and_ps(vf_set1(-0.0f), a);
}

static inline vf vf_or(vf a, vf b)
{
    return _mm512_or_ps(a, b);
}

static inline vf vf_and(vf a, vf b)
{
    return _mm512_and_ps(a, b);
}

static inline vf vf_binade(vf a)
{
    return _mm512_and_ps(vf_set1(INFINITY), a);
}

/* The bits of a, rounded to bf16 in the upper halves; what the lower halves hold means nothing. */
static inline __m512i bf16_bits(vf a)
{
    __m512i bits = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000));
    return rounded;
}

static inline vf vf_round_bf16(vf a)
{
    __m512i upper = _mm512_set1_epi32((int)0xffff0000u);
    return _mm512_castsi512_ps(_mm512_and_si512(bf16_bits(a), upper));
}

static inline vf vf_swap(vf a, int bit)
{
    if (bit == 8) return _mm512_shuffle_f32x4(a, a, 0x4e);
    if (bit == 4) return _mm512_shuffle_f32x4(a, a, 0xb1);
    return bit == 1 ? _mm512_permute_ps(a, 0xb1) : _mm512_permute_ps(a, 0x4e);
}

static inline vf vf_load_bf16(const void *p)
{
    __m256i half = _mm256_loadu_si256((const __m256i *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

static inline void vf_store_bf16(void *p, vf a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bf16_bits(a), 16)));
}

static inline void vf_transpose(vf r[VF_LANES])
{
    vf pairs[16], quads[16], halves[16];
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        quads[i] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        quads[i + 1] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        quads[i + 2] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        quads[i + 3] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        halves[i] = _mm512_shuffle_f32x4(quads[i], quads[i + 4], 0x88);
        halves[i + 4] = _mm512_shuffle_f32x4(quads[i], quads[i + 4], 0xdd);
        halves[i + 8] = _mm512_shuffle_f32x4(quads[i + 8], quads[i + 12], 0x88);
        halves[i + 12] = _mm512_shuffle_f32x4(quads[i + 8], quads[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_f32x4(halves[i], halves[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(halves[i], halves[i + 8], 0xdd);
    }
}

static inline void vf_dequant_group(const uint8_t *codes, uint8_t scale, float *out)
{
    __m512i bytes = _mm512_loadu_si512(codes);
    const __m512i magnitude = _mm512_set1_epi8(0x7f);
    if (scale > 246 || _mm512_cmpeq_epi8_mask(_mm512_and_si512(bytes, magnitude), magnitude) != 0) {
        float factor = dsv4_ue8m0_to_f32(scale);
        for (int i = 0; i < 64; i++) out[i] = dsv4_e4m3_to_f32(codes[i]) * factor;
        return;
    }
    /* Codes as binary16 numbers of 2^-8 their value, so that the conversion handles subnormals;
     * then 2^(scale - 127) times that 2^8: scale + 8 is a normal exponent. */
    vf factor = _mm512_castsi512_ps(_mm512_set1_epi32((scale + 8) << 23));
    for (int i = 0; i < 64; i += 32) {
        __m256i part = _mm256_loadu_si256((const __m256i *)(codes + i));
        __m512i wide = _mm512_cvtepu8_epi16(part);
        __m512i sign =
            _mm512_and_si512(_mm512_slli_epi16(wide, 8), _mm512_set1_epi16((short)0x8000));
        __m512i rest = _mm512_and_si512(_mm512_slli_epi16(wide, 7), _mm512_set1_epi16(0x3f80));
        __m512i halves = _mm512_or_si512(sign, rest);
        vf low = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
        vf high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
        vf_store(out + i, vf_mul(low, factor));
        vf_store(out + i + 16, vf_mul(high, factor));
    }
}

static inline __m128 vf_sum4(vf a, vf b, vf c, vf d)
{
    vf ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    vf cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    vf all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* Repeats p[0], p[1] over the vector. */
static inline vf vf_set_pair(const float *p)
{
    double both;
    memcpy(&both, p, sizeof both);
    return _mm512_castpd_ps(_mm512_set1_pd(both));
}

/* Sums of adjacent lanes, in order, in the lower half; zero above. */
static inline vf vf_pair_sums(vf a)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    vf swapped = _mm512_permute_ps(a, 0xb1);
    return _mm512_maskz_permutexvar_ps(0x00ff, even, _mm512_add_ps(a, swapped));
}

#endif
