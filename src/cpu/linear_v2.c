/*
 * linear_v2.c - y = x W^T at the v2 level, f32 products.
 *
 * Place: cpu. Compiled with this level's instruction set; see linear_tmpl.h. A step is 16 vectors;
 * FP4 has the even and then the odd columns of each group of 32.
 */
#include "vec_v2.h"

#include "base/compiler.h"
#include "linear_kernels.h"

#define LN_DIRECT_ROWS  1
#define LN_TILE_ROWS    2
#define LN_STEP_VECS    16
#define LN_STEP_COLUMNS 64

typedef vf lanes;

static DSV4_ALWAYS_INLINE lanes lanes_load(const void *p)
{
    return _mm_load_ps(p);
}

static DSV4_ALWAYS_INLINE void lanes_store(void *p, lanes a)
{
    _mm_store_ps(p, a);
}

static DSV4_ALWAYS_INLINE vf multiply_add(vf sums, lanes w, lanes x)
{
    return vf_fma(w, x, sums);
}

static DSV4_ALWAYS_INLINE vf load_scale(uint8_t scale)
{
    return _mm_castsi128_ps(_mm_set1_epi32((int)dsv4_linear_scale_bits[scale]));
}

static DSV4_ALWAYS_INLINE void load_fp8(const uint8_t *codes, uint8_t scale, lanes w[16])
{
    vf factor = load_scale(scale);
    DSV4_UNROLL for (int i = 0; i < 16; i++)
    {
        const uint8_t *four = codes + 4 * i;
        w[i] = vf_mul(_mm_setr_ps(dsv4_e4m3_to_f32(four[0]), dsv4_e4m3_to_f32(four[1]),
                                  dsv4_e4m3_to_f32(four[2]), dsv4_e4m3_to_f32(four[3])),
                      factor);
    }
}

/* 16 codes, one per byte, to the upper and lower byte of their bf16, which is the upper half of
 * f32. */
static DSV4_ALWAYS_INLINE void load_nibbles(__m128i nibbles, vf factor, lanes w[4])
{
    const __m128i high_bytes =
        _mm_setr_epi8(0, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, (char)0x80, (char)0xbf,
                      (char)0xbf, (char)0xbf, (char)0xc0, (char)0xc0, (char)0xc0, (char)0xc0);
    const __m128i low_bytes = _mm_set1_epi64x((long long)0xc0804000c0800000u);
    __m128i high = _mm_shuffle_epi8(high_bytes, nibbles);
    __m128i low = _mm_shuffle_epi8(low_bytes, nibbles);
    __m128i halves[2] = {_mm_unpacklo_epi8(low, high), _mm_unpackhi_epi8(low, high)};
    DSV4_UNROLL for (int i = 0; i < 2; i++)
    {
        __m128i first = _mm_unpacklo_epi16(_mm_setzero_si128(), halves[i]);
        __m128i second = _mm_unpackhi_epi16(_mm_setzero_si128(), halves[i]);
        w[2 * i] = vf_mul(_mm_castsi128_ps(first), factor);
        w[2 * i + 1] = vf_mul(_mm_castsi128_ps(second), factor);
    }
}

static DSV4_ALWAYS_INLINE void load_fp4(const uint8_t *codes, const uint8_t *scales, lanes w[16])
{
    const __m128i low_bits = _mm_set1_epi8(0x0f);
    DSV4_UNROLL for (int i = 0; i < 2; i++)
    {
        __m128i pairs = _mm_loadu_si128((const __m128i *)(codes + 16 * i));
        vf factor = load_scale(scales[i]);
        load_nibbles(_mm_and_si128(pairs, low_bits), factor, w + 8 * i);
        load_nibbles(_mm_and_si128(_mm_srli_epi16(pairs, 4), low_bits), factor, w + 8 * i + 4);
    }
}

static DSV4_ALWAYS_INLINE void load_step(int kind, const uint8_t *codes, const uint8_t *scales,
                                         lanes w[16])
{
    if (kind == DSV4_LINEAR_FP8) {
        load_fp8(codes, scales[0], w);
    } else if (kind == DSV4_LINEAR_FP4) {
        load_fp4(codes, scales, w);
    } else if (kind == DSV4_LINEAR_BF16) {
        DSV4_UNROLL for (int i = 0; i < 16; i++) w[i] = vf_load_bf16(codes + 8 * i);
    } else {
        DSV4_UNROLL for (int i = 0; i < 16; i++) w[i] =
            _mm_loadu_ps((const float *)(const void *)(codes + 16 * i));
    }
}

static DSV4_ALWAYS_INLINE void pack_step(int kind, const float *x, unsigned char *packed)
{
    if (kind != DSV4_LINEAR_FP4) {
        memcpy(packed, x, 64 * sizeof *x);
        return;
    }
    for (int i = 0; i < 8; i++) {
        vf first = vf_load(x + 8 * i), second = vf_load(x + 8 * i + 4);
        unsigned char *to = packed + i / 4 * 128 + i % 4 * 16;
        lanes_store(to, _mm_shuffle_ps(first, second, 0x88));
        lanes_store(to + 64, _mm_shuffle_ps(first, second, 0xdd));
    }
}

#include "linear_tmpl.h"

void dsv4_linear_kernel_v2(const dsv4_linear_job *job, int64_t begin, int64_t end)
{
    multiply(job, begin, end);
}
