/*
 * linear_avx512bf16.c - y = x W^T with bf16 products and f32 sums (AVX-512 BF16, VBMI).
 *
 * Place: cpu. x is exact in bf16, and so are e4m3 and e2m1 weights under plain scales: those that
 * keep every nonzero weight a normal, finite bf16. Four rows of W that have another scale anywhere
 * take the avx512 kernel, which follows from W alone. The dot instruction counts subnormal bf16 (in
 * x, and in BF16 weights) and subnormal sums as zero.
 *
 * A step is four vectors of 32 columns; FP4 has columns 4i, then 4i + 1, 4i + 2 and 4i + 3. One or
 * two rows of x take another way through FP4, with the same bits. See linear_tmpl.h.
 */
#include <stdbool.h>
#include <string.h>

#include "vec_avx512.h"
#include "vec_avx512bf16.h"

#include "base/compiler.h"
#include "linear_kernels.h"

#define LN_DIRECT_ROWS  4
#define LN_TILE_ROWS    6
#define LN_STEP_VECS    4
#define LN_STEP_COLUMNS 128
#define LN_HAS_MODERATE_FP4

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

static DSV4_ALWAYS_INLINE void load_fp8(const uint8_t *codes, uint8_t scale, lanes w[4])
{
    const __m512i unpack_order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    e4m3_to_bf16(_mm512_permutexvar_epi64(unpack_order, _mm512_loadu_si512(codes)), scale, w);
    e4m3_to_bf16(_mm512_permutexvar_epi64(unpack_order, _mm512_loadu_si512(codes + 64)), scale,
                 w + 2);
}

/* e2m1 codes under scale 127, twice, since a lookup takes five bits; -0 is 0: no sum can tell. */
static DSV4_ALWAYS_INLINE __m512i e2m1_words(void)
{
    const __m256i magnitudes =
        _mm256_setr_epi16(0, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, 0, 0x3f00,
                          0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0);
    const __m256i signs = _mm256_setr_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, INT16_MIN, INT16_MIN,
                                            INT16_MIN, INT16_MIN, INT16_MIN, INT16_MIN, INT16_MIN);
    return _mm512_broadcast_i64x4(_mm256_or_si256(magnitudes, signs));
}

/* Columns 4i + k: word i has the codes of columns 4i .. 4i + 3, from the low bits up. */
static DSV4_ALWAYS_INLINE __m512i look_up(__m512i table, __m512i words, int k)
{
    switch (k) {
    case 0: break;
    case 1: words = _mm512_srli_epi16(words, 4); break;
    case 2: words = _mm512_srli_epi16(words, 8); break;
    default: words = _mm512_srli_epi16(words, 12); break;
    }
    return _mm512_permutexvar_epi16(words, table);
}

/* Four scales, each in the upper bytes of its block's words. */
static DSV4_ALWAYS_INLINE __m512i spread_scales(const uint8_t *scales)
{
    const __m512i order = _mm512_set_epi64(
        0x03ff03ff03ff03ff, 0x03ff03ff03ff03ff, 0x02ff02ff02ff02ff, 0x02ff02ff02ff02ff,
        0x01ff01ff01ff01ff, 0x01ff01ff01ff01ff, 0x00ff00ff00ff00ff, 0x00ff00ff00ff00ff);
    int32_t four;
    memcpy(&four, scales, sizeof four);
    return _mm512_shuffle_epi8(_mm512_set1_epi32(four), order);
}

/* Values under the largest plain scale lose exponents down to their own; there zero saturates. */
static DSV4_ALWAYS_INLINE void load_fp4(const uint8_t *codes, const uint8_t *scales, lanes w[4])
{
    const __m512i most = _mm512_set1_epi16(DSV4_E2M1_MOST_PLAIN_SCALE << 7);
    const __m512i rise = _mm512_set1_epi16((DSV4_E2M1_MOST_PLAIN_SCALE - 127) << 7);
    __m512i words = _mm512_loadu_si512(codes), table = e2m1_words();
    table = _mm512_mask_add_epi16(table, 0xfefefefe, table, rise);
    __m512i drop = _mm512_sub_epi16(most, _mm512_srli_epi16(spread_scales(scales), 1));
    DSV4_UNROLL for (int v = 0; v < LN_STEP_VECS; v++)
    {
        w[v] = _mm512_subs_epu16(look_up(table, words, v), drop);
    }
}

static DSV4_ALWAYS_INLINE void load_step(int kind, const uint8_t *codes, const uint8_t *scales,
                                         lanes w[4])
{
    if (kind == DSV4_LINEAR_FP8) {
        load_fp8(codes, scales[0], w);
    } else if (kind == DSV4_LINEAR_FP4) {
        load_fp4(codes, scales, w);
    } else {
        for (int v = 0; v < 4; v++) w[v] = _mm512_loadu_si512(codes + v * 64);
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
    __m512i v[4];
    for (int i = 0; i < 4; i++) {
        v[i] = take_words(_mm512_loadu_si512(x + 32 * i), _mm512_loadu_si512(x + 32 * i + 16), 1);
    }
    if (kind == DSV4_LINEAR_FP4) {
        __m512i even[2], odd[2];
        for (int i = 0; i < 2; i++) {
            even[i] = take_words(v[2 * i], v[2 * i + 1], 0);
            odd[i] = take_words(v[2 * i], v[2 * i + 1], 1);
        }
        v[0] = take_words(even[0], even[1], 0);
        v[1] = take_words(odd[0], odd[1], 0);
        v[2] = take_words(even[0], even[1], 1);
        v[3] = take_words(odd[0], odd[1], 1);
    }
    for (int i = 0; i < 4; i++) lanes_store(packed + 64 * i, v[i]);
}

/* Below; linear_tmpl.h takes them. */
struct weight_panel;
static bool multiply_moderate_fp4(int64_t n_x, const struct weight_panel *panel,
                                  const unsigned char *x, __m128 *sums);
static bool are_moderate(const unsigned char *packed, int64_t n_bytes);

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

/* ---- FP4, few rows of x, all of moderate size ---- */

/*
 * Sums are kept under the scale of the last block that their lane has met, and move to the next
 * one's: a product by a power of two for 8 columns, instead of scaling each weight. Bits are those
 * of scaled weights as long as no number leaves the normal range either way, which these limits
 * ensure: products and what f32 keeps of their sums are multiples of 2^-(80 + 7 + 1), scaled or
 * moved of 2^-(88 + 24).
 */
enum {
    LEAST_X_EXPONENT = 127 - 80,
    MOST_X_EXPONENT = 127 + 60,
    LEAST_SCALE = 103,
    MOST_SCALE = 127
};

/* Whether bf16 are all zero or have an exponent within the limits. */
static bool are_moderate(const unsigned char *packed, int64_t n_bytes)
{
    const __m512i magnitude = _mm512_set1_epi16(INT16_MAX);
    const __m512i least = _mm512_set1_epi16(LEAST_X_EXPONENT << 7);
    const __m512i span = _mm512_set1_epi16((MOST_X_EXPONENT - LEAST_X_EXPONENT) << 7);
    __mmask32 outside = 0;
    for (int64_t i = 0; i < n_bytes; i += 64) {
        __m512i bits = _mm512_and_si512(lanes_load(packed + i), magnitude);
        __mmask32 nonzero = _mm512_test_epi16_mask(bits, bits);
        outside |= _mm512_mask_cmpgt_epu16_mask(nonzero, _mm512_sub_epi16(bits, least), span);
    }
    return outside == 0;
}

/* What moves sums to a block's scale from that of four blocks before (at first 127): bf16 bits. */
static bool find_moves(const uint8_t *scales, int64_t n_scales, uint16_t *moves)
{
    const __m512i one = _mm512_set1_epi8(127);
    const __m512i four_lanes_down =
        _mm512_set_epi32(0x3b3a3938, 0x37363534, 0x33323130, 0x2f2e2d2c, 0x2b2a2928, 0x27262524,
                         0x23222120, 0x1f1e1d1c, 0x1b1a1918, 0x17161514, 0x13121110, 0x0f0e0d0c,
                         0x0b0a0908, 0x07060504, 0x03020100, 0);
    __mmask64 valid = n_scales >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << n_scales) - 1;
    __m512i now = _mm512_mask_loadu_epi8(one, valid, scales);
    __m512i before = _mm512_mask_permutexvar_epi8(one, ~(__mmask64)15, four_lanes_down, now);
    __m512i bytes = _mm512_add_epi8(_mm512_sub_epi8(before, now), one);
    __m512i low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(bytes));
    __m512i high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(bytes, 1));
    lanes_store(moves, _mm512_slli_epi16(low, 7));
    lanes_store(moves + 32, _mm512_slli_epi16(high, 7));
    return _mm512_cmpgt_epu8_mask(_mm512_sub_epi8(now, _mm512_set1_epi8(LEAST_SCALE)),
                                  _mm512_set1_epi8(MOST_SCALE - LEAST_SCALE)) == 0;
}

/* Four bf16, each as f32 in four lanes. */
static DSV4_ALWAYS_INLINE vf spread_moves(const uint16_t *moves)
{
    const __m512i order = _mm512_set_epi64(
        0x0706ffff0706ffff, 0x0706ffff0706ffff, 0x0504ffff0504ffff, 0x0504ffff0504ffff,
        0x0302ffff0302ffff, 0x0302ffff0302ffff, 0x0100ffff0100ffff, 0x0100ffff0100ffff);
    int64_t four;
    memcpy(&four, moves, sizeof four);
    return _mm512_castsi512_ps(_mm512_shuffle_epi8(_mm512_set1_epi64(four), order));
}

/* 2^(scale - 127) of four blocks. */
static DSV4_ALWAYS_INLINE vf spread_powers(const uint8_t *scales)
{
    __m512i exponents = _mm512_srli_epi32(spread_scales(scales), 24);
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponents, 23));
}

/* As direct_tile, but for whole steps only. */
static DSV4_ALWAYS_INLINE void moderate_tile(const int n_x, const weight_panel *panel,
                                             uint16_t moves[GROUP_ROWS][64], const unsigned char *x,
                                             __m128 *sums)
{
    const weight_run *run = &panel->runs[0];
    const __m512i table = e2m1_words();
    vf acc[LN_DIRECT_ROWS][GROUP_ROWS];
    DSV4_UNROLL for (int c = 0; c < LN_DIRECT_ROWS; c++)
    {
        DSV4_UNROLL for (int r = 0; r < GROUP_ROWS; r++) acc[c][r] = vf_zero();
    }
    for (int64_t step = 0; step < run->n_steps; step++) {
        DSV4_UNROLL for (int r = 0; r < GROUP_ROWS; r++)
        {
            const uint8_t *codes = run->codes[r] + step * 64;
            vf move = spread_moves(moves[r] + 4 * step);
            __m512i words = _mm512_loadu_si512(codes);
            prefetch_step(DSV4_LINEAR_FP4, codes + panel->ahead_bytes);
            DSV4_UNROLL for (int c = 0; c < LN_DIRECT_ROWS; c++)
            {
                if (c < n_x) acc[c][r] = vf_mul(acc[c][r], move);
            }
            DSV4_UNROLL for (int v = 0; v < LN_STEP_VECS; v++)
            {
                lanes w = look_up(table, words, v);
                DSV4_UNROLL for (int c = 0; c < LN_DIRECT_ROWS; c++)
                {
                    if (c >= n_x) continue;
                    acc[c][r] = multiply_add(acc[c][r], w, lanes_load(x + c * SLOT_BYTES + v * 64));
                }
            }
        }
        x += STEP_BYTES;
    }
    vf last[GROUP_ROWS];
    DSV4_UNROLL for (int r = 0; r < GROUP_ROWS; r++)
    {
        last[r] = spread_powers(run->scales[r] + 4 * (run->n_steps - 1));
    }
    DSV4_UNROLL for (int c = 0; c < LN_DIRECT_ROWS; c++)
    {
        if (c >= n_x) continue;
        DSV4_UNROLL for (int r = 0; r < GROUP_ROWS; r++) acc[c][r] = vf_mul(acc[c][r], last[r]);
        sums[c] = vf_sum4(acc[c][0], acc[c][1], acc[c][2], acc[c][3]);
    }
}

/* Whether it was done: not where a scale is outside the limits or columns are not whole steps. */
static bool multiply_moderate_fp4(int64_t n_x, const weight_panel *panel, const unsigned char *x,
                                  __m128 *sums)
{
    _Alignas(64) uint16_t moves[GROUP_ROWS][64];
    const weight_run *run = &panel->runs[0];
    bool is_moderate = panel->runs[1].n_steps == 0 && run->n_steps > 0;
    if (!is_moderate || n_x > 2) return false;
    for (int r = 0; r < GROUP_ROWS; r++) {
        is_moderate &= find_moves(run->scales[r], 4 * run->n_steps, moves[r]);
    }
    if (!is_moderate) return false;
    if (n_x == 1) {
        moderate_tile(1, panel, moves, x, sums);
    } else {
        moderate_tile(2, panel, moves, x, sums);
    }
    return true;
}

/* ---- plain scales ---- */

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
