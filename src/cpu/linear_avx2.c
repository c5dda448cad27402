/*
 * linear_avx2.c - y = x W^T at the avx2 level, f32 products.
 *
 * Place: cpu. Compiled with this level's instruction set; see linear_tmpl.h. A step is eight
 * vectors. FP4 has even columns in four of them and odd ones in four, always four columns of the
 * step's first group of 32 beside four of its second.
 */
#include "vec_avx2.h"

#include "base/compiler.h"
#include "linear_kernels.h"

#define LN_DIRECT_ROWS  2
#define LN_TILE_ROWS    3
#define LN_STEP_VECS    8
#define LN_STEP_COLUMNS 64

typedef vf lanes;

static DSV4_ALWAYS_INLINE lanes lanes_load(const void *p)
{
    return _mm256_load_ps(p);
}

static DSV4_ALWAYS_INLINE void lanes_store(void *p, lanes a)
{
    _mm256_store_ps(p, a);
}

static DSV4_ALWAYS_INLINE vf multiply_add(vf sums, lanes w, lanes x)
{
    return vf_fma(w, x, sums);
}

static DSV4_ALWAYS_INLINE vf load_scale(uint8_t scale)
{
    return _mm256_castsi256_ps(_mm256_set1_epi32((int)dsv4_linear_scale_bits[scale]));
}

static void load_fp8_slowly(const uint8_t *codes, uint8_t scale, float values[64])
{
    float factor = dsv4_ue8m0_to_f32(scale);
    for (int i = 0; i < 64; i++) values[i] = dsv4_e4m3_to_f32(codes[i]) * factor;
}

static DSV4_ALWAYS_INLINE void load_fp8(const uint8_t *codes, uint8_t scale, lanes w[8])
{
    if (scale > 246 || has_nan_code(codes)) {
        float values[64];
        load_fp8_slowly(codes, scale, values);
        DSV4_UNROLL for (int i = 0; i < 8; i++) w[i] = vf_load(values + 8 * i);
        return;
    }
    /* As in vf_dequant_group: codes as binary16 numbers of 2^-8 their value. The sign, extended,
     * lies in bits 14 and 15; bit 14 is cleared. */
    vf factor = _mm256_castsi256_ps(_mm256_set1_epi32((scale + 8) << 23));
    DSV4_UNROLL for (int i = 0; i < 4; i++)
    {
        __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(codes + 16 * i)));
        __m256i halves =
            _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16((short)0xbfff));
        w[2 * i] = vf_mul(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), factor);
        w[2 * i + 1] = vf_mul(_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)), factor);
    }
}

/* 32 codes, one per byte, to the upper and lower byte of their bf16, which is the upper half of
 * f32. */
static DSV4_ALWAYS_INLINE void load_nibbles(__m256i nibbles, vf factor, lanes w[4])
{
    const __m256i high_bytes = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, (char)0x80, (char)0xbf,
                      (char)0xbf, (char)0xbf, (char)0xc0, (char)0xc0, (char)0xc0, (char)0xc0));
    const __m256i low_bytes = _mm256_set1_epi64x((long long)0xc0804000c0800000u);
    __m256i high = _mm256_shuffle_epi8(high_bytes, nibbles);
    __m256i low = _mm256_shuffle_epi8(low_bytes, nibbles);
    __m256i halves[2] = {_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
    DSV4_UNROLL for (int i = 0; i < 2; i++)
    {
        __m256i first = _mm256_unpacklo_epi16(_mm256_setzero_si256(), halves[i]);
        __m256i second = _mm256_unpackhi_epi16(_mm256_setzero_si256(), halves[i]);
        w[2 * i] = vf_mul(_mm256_castsi256_ps(first), factor);
        w[2 * i + 1] = vf_mul(_mm256_castsi256_ps(second), factor);
    }
}

static DSV4_ALWAYS_INLINE void load_fp4(const uint8_t *codes, const uint8_t *scales, lanes w[8])
{
    const __m256i low_bits = _mm256_set1_epi8(0x0f);
    __m256i pairs = _mm256_loadu_si256((const __m256i *)codes);
    vf factor = _mm256_blend_ps(load_scale(scales[0]), load_scale(scales[1]), 0xf0);
    load_nibbles(_mm256_and_si256(pairs, low_bits), factor, w);
    load_nibbles(_mm256_and_si256(_mm256_srli_epi16(pairs, 4), low_bits), factor, w + 4);
}

static DSV4_ALWAYS_INLINE void load_step(int kind, const uint8_t *codes, const uint8_t *scales,
                                         lanes w[8])
{
    if (kind == DSV4_LINEAR_FP8) {
        load_fp8(codes, scales[0], w);
    } else if (kind == DSV4_LINEAR_FP4) {
        load_fp4(codes, scales, w);
    } else if (kind == DSV4_LINEAR_BF16) {
        DSV4_UNROLL for (int i = 0; i < 8; i++) w[i] = vf_load_bf16(codes + 16 * i);
    } else {
        DSV4_UNROLL for (int i = 0; i < 8; i++) w[i] =
            _mm256_loadu_ps((const float *)(const void *)(codes + 32 * i));
    }
}

static DSV4_ALWAYS_INLINE void pack_step(int kind, const float *x, unsigned char *packed)
{
    if (kind != DSV4_LINEAR_FP4) {
        memcpy(packed, x, 64 * sizeof *x);
        return;
    }
    DSV4_UNROLL for (int i = 0; i < 4; i++)
    {
        const float *from = x + 8 * i;
        vf first = _mm256_loadu2_m128(from + 32, from);
        vf second = _mm256_loadu2_m128(from + 36, from + 4);
        lanes_store(packed + 32 * i, _mm256_shuffle_ps(first, second, 0x88));
        lanes_store(packed + 32 * i + 128, _mm256_shuffle_ps(first, second, 0xdd));
    }
}

#include "linear_tmpl.h"

void dsv4_linear_kernel_avx2(const dsv4_linear_job *job, int64_t begin, int64_t end)
{
    multiply(job, begin, end);
}
