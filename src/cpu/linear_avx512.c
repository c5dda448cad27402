/*
 * linear_avx512.c - y = x W^T at the avx512 level, f32 products.
 *
 * Place: cpu. Compiled with this level's instruction set; see linear_tmpl.h. A step is four
 * vectors; FP4 has the even and then the odd columns of each group of 32.
 */
#include <stdbool.h>

#include "vec_avx512.h"

#include "base/compiler.h"
#include "num/e2m1.h"
#include "linear_kernels.h"

#define LN_DIRECT_ROWS  4
#define LN_TILE_ROWS    6
#define LN_STEP_VECS    4
#define LN_STEP_COLUMNS 64

typedef vf lanes;

static DSV4_ALWAYS_INLINE lanes lanes_load(const void *p)
{
    return _mm512_load_ps(p);
}

static DSV4_ALWAYS_INLINE void lanes_store(void *p, lanes a)
{
    _mm512_store_ps(p, a);
}

static DSV4_ALWAYS_INLINE vf multiply_add(vf sums, lanes w, lanes x)
{
    return vf_fma(w, x, sums);
}

static DSV4_ALWAYS_INLINE vf load_scale(uint8_t scale)
{
    return _mm512_castsi512_ps(_mm512_set1_epi32((int)dsv4_linear_scale_bits[scale]));
}

static void load_fp8_slowly(const uint8_t *codes, uint8_t scale, float values[64])
{
    float factor = dsv4_ue8m0_to_f32(scale);
    for (int i = 0; i < 64; i++) values[i] = dsv4_e4m3_to_f32(codes[i]) * factor;
}

static DSV4_ALWAYS_INLINE void load_fp8(const uint8_t *codes, uint8_t scale, lanes w[4])
{
    const __m512i magnitude = _mm512_set1_epi8(0x7f);
    __m512i bytes = _mm512_loadu_si512(codes);
    if (scale > 246 || _mm512_cmpeq_epi8_mask(_mm512_and_si512(bytes, magnitude), magnitude) != 0) {
        float values[64];
        load_fp8_slowly(codes, scale, values);
        DSV4_UNROLL for (int i = 0; i < 4; i++) w[i] = vf_load(values + 16 * i);
        return;
    }
    /* As in vf_dequant_group: codes as binary16 numbers of 2^-8 their value. The sign, extended,
     * lies in bits 14 and 15; bit 14 is cleared. */
    vf factor = _mm512_castsi512_ps(_mm512_set1_epi32((scale + 8) << 23));
    DSV4_UNROLL for (int i = 0; i < 2; i++)
    {
        __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(codes + 32 * i)));
        __m512i halves =
            _mm512_and_si512(_mm512_slli_epi16(wide, 7), _mm512_set1_epi16((short)0xbfff));
        w[2 * i] = vf_mul(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)), factor);
        w[2 * i + 1] = vf_mul(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)), factor);
    }
}

static DSV4_ALWAYS_INLINE void load_fp4(const uint8_t *codes, const uint8_t *scales, lanes w[4])
{
    const vf table = vf_load(dsv4_e2m1_table);
    DSV4_UNROLL for (int i = 0; i < 2; i++)
    {
        vf scaled = vf_mul(table, load_scale(scales[i]));
        __m512i pairs = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(codes + 16 * i)));
        /* The permutation looks at the low four bits only. */
        w[2 * i] = _mm512_permutexvar_ps(pairs, scaled);
        w[2 * i + 1] = _mm512_permutexvar_ps(_mm512_srli_epi32(pairs, 4), scaled);
    }
}

static DSV4_ALWAYS_INLINE void load_step(int kind, const uint8_t *codes, const uint8_t *scales,
                                         lanes w[4])
{
    if (kind == DSV4_LINEAR_FP8) {
        load_fp8(codes, scales[0], w);
    } else if (kind == DSV4_LINEAR_FP4) {
        load_fp4(codes, scales, w);
    } else if (kind == DSV4_LINEAR_BF16) {
        DSV4_UNROLL for (int i = 0; i < 4; i++) w[i] = vf_load_bf16(codes + 32 * i);
    } else {
        DSV4_UNROLL for (int i = 0; i < 4; i++) w[i] = _mm512_loadu_ps(codes + 64 * i);
    }
}

static DSV4_ALWAYS_INLINE void pack_step(int kind, const float *x, unsigned char *packed)
{
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    DSV4_UNROLL for (int i = 0; i < 64; i += 32)
    {
        vf low = vf_load(x + i), high = vf_load(x + i + 16);
        bool is_dealt = kind == DSV4_LINEAR_FP4;
        lanes_store(packed + 4 * i, is_dealt ? _mm512_permutex2var_ps(low, even, high) : low);
        lanes_store(packed + 4 * i + 64, is_dealt ? _mm512_permutex2var_ps(low, odd, high) : high);
    }
}

#include "linear_tmpl.h"

void dsv4_linear_kernel_avx512(const dsv4_linear_job *job, int64_t begin, int64_t end)
{
    multiply(job, begin, end);
}
