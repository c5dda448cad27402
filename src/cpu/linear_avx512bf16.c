/*
 * linear_avx512bf16.c - y = x W^T with bf16 products and f32 sums (AVX-512 BF16, VBMI).
 *
 * Place: cpu. x is exact in bf16, and so are e4m3 and e2m1 weights under plain scales: those that
 * keep every nonzero weight a normal, finite bf16. Four rows of W that have another scale anywhere
 * take the avx512 kernel, which follows from W alone. The dot instruction counts subnormal bf16 (in
 * x, and in BF16 weights) and subnormal sums as zero.
 *
 * A step is two vectors of 32 columns; FP4 has the even and then the odd columns. See
 * linear_tmpl.h.
 */
#include <stdbool.h>

#include "vec_avx512.h"
#include "vec_avx512bf16.h"

#include "base/compiler.h"
#include "linear_kernels.h"

#define LN_DIRECT_ROWS 4
#define LN_TILE_ROWS   6
#define LN_STEP_VECS   2

typedef __m512i lanes;

static DSV4_ALWAYS_INLINE lanes lanes_load(const void *p)
{
    return _mm512_load_si512(p);
}

static DSV4_ALWAYS_INLINE void lanes_store(void *p, lanes a)
{
    _mm512_store_si512(p, a);
}

static DSV4_ALWAYS_INLINE vf multiply_add(vf sums, lanes w, lanes x)
{
    return _mm512_dpbf16_ps(sums, (__m512bh)w, (__m512bh)x);
}

static DSV4_ALWAYS_INLINE void load_fp8(const uint8_t *codes, uint8_t scale, lanes w[2])
{
    const __m512i unpack_order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    e4m3_to_bf16(_mm512_permutexvar_epi64(unpack_order, _mm512_loadu_si512(codes)), scale, w);
}

/* A step's codes lie in two groups: the lookup's fifth bit tells them apart. */
static DSV4_ALWAYS_INLINE void load_fp4(const uint8_t *codes, const uint8_t *scales, lanes w[2])
{
    const __m512i group_bit = _mm512_maskz_set1_epi16(0xffff0000, 16);
    __m256i first = _mm256_loadu_si256((const __m256i *)dsv4_e2m1_words[scales[0]]);
    __m256i second = _mm256_loadu_si256((const __m256i *)dsv4_e2m1_words[scales[1]]);
    __m512i table = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
    __m512i pairs = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)codes));
    /* The lookup takes the low five bits: those of the odd column are cleared of the even one's. */
    __m512i low = _mm512_ternarylogic_epi64(pairs, _mm512_set1_epi16(0x0f), group_bit, 0xea);
    __m512i high = _mm512_or_si512(_mm512_srli_epi16(pairs, 4), group_bit);
    w[0] = _mm512_permutexvar_epi16(low, table);
    w[1] = _mm512_permutexvar_epi16(high, table);
}

static DSV4_ALWAYS_INLINE void load_step(int kind, const uint8_t *codes, const uint8_t *scales,
                                         lanes w[2])
{
    if (kind == DSV4_LINEAR_FP8) {
        load_fp8(codes, scales[0], w);
    } else if (kind == DSV4_LINEAR_FP4) {
        load_fp4(codes, scales, w);
    } else {
        w[0] = _mm512_loadu_si512(codes);
        w[1] = _mm512_loadu_si512(codes + 64);
    }
}

/* Every second 16-bit word of a, then of b, from word `first` on. */
static DSV4_ALWAYS_INLINE __m512i take_words(__m512i a, __m512i b, short first)
{
    const __m512i even =
        _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26,
                         24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_epi16(a, _mm512_add_epi16(even, _mm512_set1_epi16(first)), b);
}

/* The upper halves of f32 are their bf16, since nothing is lost. */
static DSV4_ALWAYS_INLINE void pack_step(int kind, const float *x, unsigned char *packed)
{
    __m512i low = take_words(_mm512_loadu_si512(x), _mm512_loadu_si512(x + 16), 1);
    __m512i high = take_words(_mm512_loadu_si512(x + 32), _mm512_loadu_si512(x + 48), 1);
    bool is_dealt = kind == DSV4_LINEAR_FP4;
    lanes_store(packed, is_dealt ? take_words(low, high, 0) : low);
    lanes_store(packed + 64, is_dealt ? take_words(low, high, 1) : high);
}

#include "linear_tmpl.h"

/* Whether n_scales bytes all lie in least .. most. */
static bool are_within(const uint8_t *scales, int64_t n_scales, int least, int most)
{
    const __m512i origin = _mm512_set1_epi8((char)least);
    const __m512i span = _mm512_set1_epi8((char)(most - least));
    __mmask64 outside = 0;
    for (int64_t i = 0; i < n_scales; i += 64) {
        int64_t n_left = n_scales - i;
        __mmask64 valid = n_left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << n_left) - 1;
        __m512i bytes = _mm512_maskz_loadu_epi8(valid, scales + i);
        outside |= _mm512_mask_cmpgt_epu8_mask(valid, _mm512_sub_epi8(bytes, origin), span);
    }
    return outside == 0;
}

/* Whether rows i .. i + 3 have plain scales only. */
static bool is_plain(const dsv4_linear *linear, int64_t i)
{
    if (linear->kind == DSV4_LINEAR_FP8) {
        int64_t n_blocks = linear->n_in / FP8_BLOCK + (linear->n_in % FP8_BLOCK != 0);
        return are_within(locate_scale(linear, i, 0), n_blocks, DSV4_E4M3_LEAST_PLAIN_SCALE,
                          DSV4_E4M3_MOST_PLAIN_SCALE);
    }
    if (linear->kind == DSV4_LINEAR_FP4) {
        int64_t n_rows = min_i64(linear->n_out - i, GROUP_ROWS);
        return are_within(locate_scale(linear, i, 0), n_rows * linear->n_in / FP4_GROUP,
                          DSV4_E2M1_LEAST_PLAIN_SCALE, DSV4_E2M1_MOST_PLAIN_SCALE);
    }
    return linear->kind == DSV4_LINEAR_BF16;
}

void dsv4_linear_kernel_avx512bf16(const dsv4_linear_job *job, int64_t begin, int64_t end)
{
    while (begin < end) {
        bool is_fast = is_plain(job->linear, begin);
        int64_t stop = begin + GROUP_ROWS;
        while (stop < end && is_plain(job->linear, stop) == is_fast) stop += GROUP_ROWS;
        stop = min_i64(stop, end);
        if (is_fast) {
            multiply(job, begin, stop);
        } else {
            dsv4_linear_kernel_avx512(job, begin, stop);
        }
        begin = stop;
    }
}
