/*
 * attn_avx512bf16.c - decode-attention kernels with bf16 products and f32 sums (AVX-512 BF16, VBMI).
 *
 * Place: cpu. Cache values are exact in bf16 (3 mantissa bits times a power of two), and so is the query:
 * the scores lose nothing but what f32 sums lose. Probabilities are rounded to bf16 before they multiply
 * the values, and the same rounded numbers are summed into `weight`, so that the weights of the output
 * add up to one; `sum`, for the lse, adds them unrounded.
 *
 * The dot instruction multiplies pairs. Scores pair dimensions: 16 rows at a time lie as
 * [8 groups][16 rows][64 values], a tile that stays in the first-level cache until its scores are done.
 * Values pair keys: the whole block lies with two rows interleaved, as
 * [8 groups][32 row pairs][64 values][2]. Both are written in one pass over the rows. The values of a
 * state are in the order of the interleaving until the query is finished.
 */
#include <stdbool.h>

#include "vec_avx512.h"
#include "vec_avx512bf16.h"

#include "round_tmpl.h"
#include "attn_common_tmpl.h"

enum {
    GROUP_DIM = DSV4_ATTN_GROUP_DIM,
    TILE_KEYS = 8,
    TILE_ROWS = 2 * TILE_KEYS, /* rows that are dequantized, then scored, at a time */
    /* bf16 from one group of a tile or block to the next, padded so that the groups of a row fall into
     * different cache sets. */
    KEY_GROUP = TILE_ROWS * GROUP_DIM + 64,
    VALUE_GROUP = DSV4_ATTN_BLOCK_ROWS * GROUP_DIM + 128,
    KEY_VALUES = DSV4_ATTN_N_GROUPS * KEY_GROUP,
    VALUE_VALUES = DSV4_ATTN_N_GROUPS * VALUE_GROUP,
    FP8_GROUPS = DSV4_ATTN_N_GROUPS - 1,
    Q_VEC_WORDS = DSV4_ATTN_DIM / 2 * VF_LANES, /* 32-bit words of one packed head vector */
    VALUE_VECS = 4,                             /* vectors of one interleaved group */
    FEW_HEADS = 8                               /* so few have a path of their own */
};

/* ---- the order of dimensions ---- */

/*
 * 64 bf16 of a group as two vectors: of each 16 the first 8 in low, the others in high. That is how FP8
 * codes come out of their conversion; all else is dealt likewise.
 */
typedef struct group_values {
    __m512i low, high;
} group_values;

static DSV4_ALWAYS_INLINE group_values deal_group(const void *bf16)
{
    const __m512i first = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
    const __m512i second = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
    __m512i a = _mm512_loadu_si512(bf16);
    __m512i b = _mm512_loadu_si512((const unsigned char *)bf16 + 64);
    return (group_values){_mm512_permutex2var_epi64(a, first, b),
                          _mm512_permutex2var_epi64(a, second, b)};
}

/* Where dimensions 4 * quad .. 4 * quad + 3 of a head then are, in quads. */
static int dealt_quad(int quad)
{
    int in_group = quad % 16;
    return quad - in_group + in_group / 2 % 2 * 8 + in_group / 4 * 2 + in_group % 2;
}

/* ---- the query: pairs of dimensions as 32-bit words ---- */

/* One head vector: packed [256 pairs][16 heads]. */
static void pack_vector(const unsigned char *q, int64_t head_stride_bytes, int32_t n_heads,
                        uint32_t *packed)
{
    for (int pair = 0; pair < DSV4_ATTN_DIM / 2; pair += VF_LANES) {
        vf square[VF_LANES];
        for (int h = 0; h < VF_LANES; h++) {
            square[h] = vf_zero();
            if (h < n_heads) square[h] = _mm512_loadu_ps(q + h * head_stride_bytes + 4 * pair);
        }
        vf_transpose(square);
        for (int i = 0; i < VF_LANES; i++) {
            _mm512_storeu_ps(packed + (2 * dealt_quad((pair + i) / 2) + i % 2) * VF_LANES,
                             square[i]);
        }
    }
}

/* 8 x 8 numbers of 64 bits. */
static DSV4_ALWAYS_INLINE void transpose_quads(__m512d r[8])
{
    __m512d low[4], high[4];
    for (int i = 0; i < 4; i++) {
        low[i] = _mm512_unpacklo_pd(r[2 * i], r[2 * i + 1]);
        high[i] = _mm512_unpackhi_pd(r[2 * i], r[2 * i + 1]);
    }
    for (int odd = 0; odd < 2; odd++) {
        const __m512d *t = odd ? high : low;
        __m512d first = _mm512_shuffle_f64x2(t[0], t[1], 0x44);
        __m512d second = _mm512_shuffle_f64x2(t[2], t[3], 0x44);
        __m512d third = _mm512_shuffle_f64x2(t[0], t[1], 0xee);
        __m512d fourth = _mm512_shuffle_f64x2(t[2], t[3], 0xee);
        r[odd] = _mm512_shuffle_f64x2(first, second, 0x88);
        r[2 + odd] = _mm512_shuffle_f64x2(first, second, 0xdd);
        r[4 + odd] = _mm512_shuffle_f64x2(third, fourth, 0x88);
        r[6 + odd] = _mm512_shuffle_f64x2(third, fourth, 0xdd);
    }
}

/* At most 8 heads: packed [128 quads][8 heads][2 pairs]. */
static void pack_half(const unsigned char *q, int64_t head_stride_bytes, int32_t n_heads,
                      uint32_t *packed)
{
    for (int quad = 0; quad < DSV4_ATTN_DIM / 4; quad += 8) {
        __m512d square[8];
        for (int h = 0; h < 8; h++) {
            square[h] = _mm512_setzero_pd();
            if (h < n_heads) square[h] = _mm512_loadu_pd(q + h * head_stride_bytes + 8 * quad);
        }
        transpose_quads(square);
        for (int i = 0; i < 8; i++) {
            _mm512_storeu_pd(packed + dealt_quad(quad + i) * VF_LANES, square[i]);
        }
    }
}

/* A call with at most 8 heads: packed [16 chunks of 32 dimensions][8 heads][32] bf16. */
static void pack_few(const unsigned char *q, int64_t head_stride_bytes, int32_t n_heads,
                     uint32_t *packed)
{
    for (int g = 0; g < DSV4_ATTN_N_GROUPS; g++) {
        uint32_t *to = packed + 2 * g * FEW_HEADS * VF_LANES;
        for (int h = 0; h < FEW_HEADS; h++) {
            group_values values = {_mm512_setzero_si512(), _mm512_setzero_si512()};
            if (h < n_heads) values = deal_group(q + h * head_stride_bytes + 128 * g);
            _mm512_store_si512(to + h * VF_LANES, values.low);
            _mm512_store_si512(to + (FEW_HEADS + h) * VF_LANES, values.high);
        }
    }
}

static int32_t count_full_vectors(int32_t n_heads)
{
    int32_t rest = n_heads % VF_LANES;
    return n_heads / VF_LANES + (rest > VF_LANES / 2);
}

static void pack_q(const unsigned char *q, int32_t q_dtype, int64_t head_stride_bytes,
                   int32_t n_heads, void *packed)
{
    (void)q_dtype;
    uint32_t *to = packed;
    if (n_heads <= FEW_HEADS) {
        pack_few(q, head_stride_bytes, n_heads, to);
        return;
    }
    int32_t n_full = count_full_vectors(n_heads);
    for (int32_t v = 0; v < n_full; v++) {
        pack_vector(q + v * VF_LANES * head_stride_bytes, head_stride_bytes, n_heads - v * VF_LANES,
                    to + v * Q_VEC_WORDS);
    }
    int32_t n_left = n_heads - n_full * VF_LANES;
    if (n_left > 0) {
        pack_half(q + n_full * VF_LANES * head_stride_bytes, head_stride_bytes, n_left,
                  to + n_full * Q_VEC_WORDS);
    }
}

/* ---- the block: e4m3 codes to bf16 ---- */

static group_values convert_group_slowly(const uint8_t *codes, uint8_t scale)
{
    uint16_t bits[GROUP_DIM];
    float factor = dsv4_ue8m0_to_f32(scale);
    for (int i = 0; i < GROUP_DIM; i++) {
        bits[i] = dsv4_bf16_from_f32(dsv4_e4m3_to_f32(codes[i]) * factor);
    }
    return deal_group(bits);
}

static DSV4_ALWAYS_INLINE group_values convert_group(const uint8_t *codes, uint8_t plain_scale)
{
    __m512i values[2];
    e4m3_to_bf16(_mm512_loadu_si512(codes), plain_scale, values);
    return (group_values){values[0], values[1]};
}

static DSV4_ALWAYS_INLINE bool has_plain_scales(const dsv4_attn_row *row)
{
    const __m128i least = _mm_set1_epi8(DSV4_E4M3_LEAST_PLAIN_SCALE);
    const __m128i most = _mm_set1_epi8((char)DSV4_E4M3_MOST_PLAIN_SCALE);
    __m128i scales = _mm_loadl_epi64((const __m128i *)row->scales);
    __m128i inside = _mm_and_si128(_mm_cmpeq_epi8(_mm_max_epu8(scales, least), scales),
                                   _mm_cmpeq_epi8(_mm_min_epu8(scales, most), scales));
    return (_mm_movemask_epi8(inside) & 0x7f) == 0x7f;
}

/* The same group of two rows, interleaved as [64][2], dimensions in the order of restore_order. */
static DSV4_ALWAYS_INLINE void store_values(uint16_t *values, group_values even, group_values odd)
{
    _mm512_store_si512(values, _mm512_unpacklo_epi16(even.low, odd.low));
    _mm512_store_si512(values + 32, _mm512_unpackhi_epi16(even.low, odd.low));
    _mm512_store_si512(values + 64, _mm512_unpacklo_epi16(even.high, odd.high));
    _mm512_store_si512(values + 96, _mm512_unpackhi_epi16(even.high, odd.high));
}

/* Keys one after the other. */
static DSV4_ALWAYS_INLINE void store_keys(uint16_t *keys, group_values even, group_values odd)
{
    _mm512_store_si512(keys, even.low);
    _mm512_store_si512(keys + 32, even.high);
    _mm512_store_si512(keys + 64, odd.low);
    _mm512_store_si512(keys + 96, odd.high);
}

/* ---- two rows at a time ---- */

/* Stands in for rows past the last. */
static const uint8_t zero_data[DSV4_CACHE_DATA_BYTES] = {0};
static const uint8_t one_scales[DSV4_CACHE_SCALE_BYTES] = {127, 127, 127, 127, 127, 127, 127};
static const dsv4_attn_row zero_row = {zero_data, one_scales};

typedef struct row_pair {
    const dsv4_attn_row *even, *odd;
    const dsv4_attn_row *near_even, *near_odd; /* to be prefetched meanwhile */
    bool is_plain;                             /* all scales are */
} row_pair;

static const dsv4_attn_row *row_or_zero(const dsv4_attn_row *rows, int32_t row, int32_t n_rows)
{
    return row < n_rows ? &rows[row] : &zero_row;
}

static DSV4_ALWAYS_INLINE row_pair pair_of(const dsv4_attn_row *rows, int32_t row, int32_t n_rows)
{
    row_pair pair;
    pair.even = &rows[row];
    pair.odd = row_or_zero(rows, row + 1, n_rows);
    pair.near_even = row_or_zero(rows, row + NEAR_ROWS, n_rows);
    pair.near_odd = row_or_zero(rows, row + NEAR_ROWS + 1, n_rows);
    pair.is_plain = has_plain_scales(pair.even) && has_plain_scales(pair.odd);
    return pair;
}

/* One FP8 group of both rows. */
static DSV4_ALWAYS_INLINE void read_group(const row_pair *pair, int g, const bool is_plain,
                                          group_values *even, group_values *odd)
{
    const uint8_t *even_codes = pair->even->data + g * GROUP_DIM;
    const uint8_t *odd_codes = pair->odd->data + g * GROUP_DIM;
    DSV4_PREFETCH_L2(pair->near_even->data + g * GROUP_DIM);
    DSV4_PREFETCH_L2(pair->near_odd->data + g * GROUP_DIM);
    if (is_plain) {
        *even = convert_group(even_codes, pair->even->scales[g]);
        *odd = convert_group(odd_codes, pair->odd->scales[g]);
    } else {
        *even = convert_group_slowly(even_codes, pair->even->scales[g]);
        *odd = convert_group_slowly(odd_codes, pair->odd->scales[g]);
    }
}

static DSV4_ALWAYS_INLINE group_values read_tail(const dsv4_attn_row *row,
                                                 const dsv4_attn_row *near)
{
    const int offset = FP8_GROUPS * GROUP_DIM;
    DSV4_PREFETCH_L2(near->data + offset);
    DSV4_PREFETCH_L2(near->data + offset + 64);
    DSV4_PREFETCH_L2(near->scales);
    return deal_group(row->data + offset);
}

static DSV4_ALWAYS_INLINE void load_pair(const row_pair *pair, const bool is_plain, uint16_t *keys,
                                         uint16_t *values)
{
    group_values even, odd;
    DSV4_UNROLL for (int g = 0; g < FP8_GROUPS; g++)
    {
        read_group(pair, g, is_plain, &even, &odd);
        store_keys(keys + g * KEY_GROUP, even, odd);
        store_values(values + g * VALUE_GROUP, even, odd);
    }
    even = read_tail(pair->even, pair->near_even);
    odd = read_tail(pair->odd, pair->near_odd);
    store_keys(keys + FP8_GROUPS * KEY_GROUP, even, odd);
    store_values(values + FP8_GROUPS * VALUE_GROUP, even, odd);
}

/*
 * The tile of a block of n_rows that begins at row `first`. Values go to the block's, keys to the tile's;
 * keys of rows that do not exist become zero.
 */
static void load_tile(const dsv4_attn_row *rows, int32_t n_rows, int32_t first, uint16_t *keys,
                      uint16_t *values)
{
    int32_t row = first;
    for (; row < min_i32(first + TILE_ROWS, n_rows); row += 2) {
        row_pair pair = pair_of(rows, row, n_rows);
        if (pair.is_plain) {
            load_pair(&pair, true, keys, values + row * GROUP_DIM);
        } else {
            load_pair(&pair, false, keys, values + row * GROUP_DIM);
        }
        keys += 2 * GROUP_DIM;
    }
    for (; row < first + TILE_ROWS; row++) {
        for (int g = 0; g < DSV4_ATTN_N_GROUPS; g++) {
            memset(keys + g * KEY_GROUP, 0, GROUP_DIM * sizeof *keys);
        }
        keys += GROUP_DIM;
    }
}

/* ---- scores ---- */

static DSV4_ALWAYS_INLINE vf dot_pairs(vf sum, __m512i a, __m512i b)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

static DSV4_ALWAYS_INLINE __m512i broadcast_word(const void *p)
{
    int32_t word;
    memcpy(&word, p, sizeof word);
    return _mm512_set1_epi32(word);
}

static DSV4_ALWAYS_INLINE __m512i broadcast_two_words(const void *p)
{
    int64_t words;
    memcpy(&words, p, sizeof words);
    return _mm512_set1_epi64(words);
}

/* n_keys keys by n_vecs head vectors; both are constants at every call. */
static DSV4_ALWAYS_INLINE void score_tile(const uint32_t *q, const uint16_t *keys, const int n_vecs,
                                          const int n_keys, int32_t stride, float *scores)
{
    vf acc[TILE_ROWS];
    DSV4_UNROLL for (int i = 0; i < n_vecs * n_keys; i++) acc[i] = vf_zero();
    for (int g = 0; g < DSV4_ATTN_N_GROUPS; g++) {
        for (int d = 0; d < GROUP_DIM; d += 2) {
            __m512i q_vec[2];
            DSV4_UNROLL for (int v = 0; v < n_vecs; v++)
            {
                q_vec[v] = _mm512_load_si512(q + v * Q_VEC_WORDS);
            }
            q += VF_LANES;
            DSV4_UNROLL for (int k = 0; k < n_keys; k++)
            {
                __m512i key = broadcast_word(keys + k * GROUP_DIM + d);
                DSV4_UNROLL for (int v = 0; v < n_vecs; v++)
                {
                    acc[v * n_keys + k] = dot_pairs(acc[v * n_keys + k], q_vec[v], key);
                }
            }
        }
        keys += KEY_GROUP;
    }
    DSV4_UNROLL for (int k = 0; k < n_keys; k++)
    {
        DSV4_UNROLL for (int v = 0; v < n_vecs; v++)
        {
            vf_store(scores + k * stride + v * VF_LANES, acc[v * n_keys + k]);
        }
    }
}

/* 16 keys by one half vector: at most 8 heads, two pairs of dimensions at once. */
static void score_half_tile(const uint32_t *q, const uint16_t *keys, int32_t stride, float *scores)
{
    vf acc[TILE_ROWS];
    DSV4_UNROLL for (int k = 0; k < TILE_ROWS; k++) acc[k] = vf_zero();
    for (int g = 0; g < DSV4_ATTN_N_GROUPS; g++) {
        for (int d = 0; d < GROUP_DIM; d += 4) {
            __m512i q_vec = _mm512_load_si512(q);
            q += VF_LANES;
            DSV4_UNROLL for (int k = 0; k < TILE_ROWS; k++)
            {
                acc[k] = dot_pairs(acc[k], q_vec, broadcast_two_words(keys + k * GROUP_DIM + d));
            }
        }
        keys += KEY_GROUP;
    }
    DSV4_UNROLL for (int k = 0; k < TILE_ROWS; k++)
    {
        vf_store(scores + k * stride, vf_pair_sums(acc[k]));
    }
}

/* TILE_ROWS keys by all heads. */
static void score_rows(const uint32_t *q, const uint16_t *keys, int32_t n_heads, float *scores)
{
    int32_t n_full = count_full_vectors(n_heads), stride = dsv4_attn_pad_heads(n_heads), v = 0;
    for (; v + 2 <= n_full; v += 2) {
        score_tile(q + v * Q_VEC_WORDS, keys, 2, TILE_KEYS, stride, scores + v * VF_LANES);
        score_tile(q + v * Q_VEC_WORDS, keys + TILE_KEYS * GROUP_DIM, 2, TILE_KEYS, stride,
                   scores + TILE_KEYS * stride + v * VF_LANES);
    }
    for (; v < n_full; v++) {
        score_tile(q + v * Q_VEC_WORDS, keys, 1, TILE_ROWS, stride, scores + v * VF_LANES);
    }
    if (n_full * VF_LANES < n_heads) {
        score_half_tile(q + v * Q_VEC_WORDS, keys, stride, scores + v * VF_LANES);
    }
}

/* ---- at most 8 heads: scores straight from the registers that hold the dequantized rows ---- */

/* acc [2 rows][8 heads] of lane sums += q . k over one group, for n_heads (a constant) of the heads. */
static DSV4_ALWAYS_INLINE void score_group(const uint32_t *q, group_values even, group_values odd,
                                           const int n_heads, vf acc[2 * FEW_HEADS])
{
    DSV4_UNROLL for (int h = 0; h < n_heads; h++)
    {
        __m512i q_vec = _mm512_load_si512(q + h * VF_LANES);
        acc[h] = dot_pairs(acc[h], q_vec, even.low);
        acc[FEW_HEADS + h] = dot_pairs(acc[FEW_HEADS + h], q_vec, odd.low);
    }
    q += FEW_HEADS * VF_LANES;
    DSV4_UNROLL for (int h = 0; h < n_heads; h++)
    {
        __m512i q_vec = _mm512_load_si512(q + h * VF_LANES);
        acc[h] = dot_pairs(acc[h], q_vec, even.high);
        acc[FEW_HEADS + h] = dot_pairs(acc[FEW_HEADS + h], q_vec, odd.high);
    }
}

/* Lane i of the result is the sum of the lanes of a[i]. */
static DSV4_ALWAYS_INLINE vf sum_lanes(vf a[VF_LANES])
{
    vf pairs[8], quads[4];
    DSV4_UNROLL for (int i = 0; i < 8; i++)
    {
        pairs[i] = vf_add(_mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]),
                          _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]));
    }
    DSV4_UNROLL for (int i = 0; i < 4; i++)
    {
        __m512d first = _mm512_castps_pd(pairs[2 * i]), second = _mm512_castps_pd(pairs[2 * i + 1]);
        quads[i] = vf_add(_mm512_castpd_ps(_mm512_unpacklo_pd(first, second)),
                          _mm512_castpd_ps(_mm512_unpackhi_pd(first, second)));
    }
    vf low = vf_add(_mm512_shuffle_f32x4(quads[0], quads[1], 0x88),
                    _mm512_shuffle_f32x4(quads[0], quads[1], 0xdd));
    vf high = vf_add(_mm512_shuffle_f32x4(quads[2], quads[3], 0x88),
                     _mm512_shuffle_f32x4(quads[2], quads[3], 0xdd));
    return vf_add(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
}

/*
 * Two rows by 8 heads, of which n_heads (a constant) exist: their values go to `values`, their scores to
 * scores [2][16].
 */
static DSV4_ALWAYS_INLINE void score_pair(const row_pair *pair, const bool is_plain,
                                          const int n_heads, const uint32_t *q, uint16_t *values,
                                          float *scores)
{
    enum { GROUP_Q_WORDS = 2 * FEW_HEADS * VF_LANES };
    group_values even, odd;
    vf acc[2 * FEW_HEADS];
    DSV4_UNROLL for (int i = 0; i < 2 * FEW_HEADS; i++) acc[i] = vf_zero();
    for (int g = 0; g < FP8_GROUPS; g++) {
        read_group(pair, g, is_plain, &even, &odd);
        store_values(values + g * VALUE_GROUP, even, odd);
        score_group(q + g * GROUP_Q_WORDS, even, odd, n_heads, acc);
    }
    even = read_tail(pair->even, pair->near_even);
    odd = read_tail(pair->odd, pair->near_odd);
    store_values(values + FP8_GROUPS * VALUE_GROUP, even, odd);
    score_group(q + FP8_GROUPS * GROUP_Q_WORDS, even, odd, n_heads, acc);
    vf sums = sum_lanes(acc);
    vf_store(scores, _mm512_maskz_mov_ps(0x00ff, sums));
    vf_store(scores + VF_LANES, _mm512_maskz_shuffle_f32x4(0x00ff, sums, sums, 0x0e));
}

static void score_few(const dsv4_attn_row *rows, int32_t n_rows, int32_t n_heads, const uint32_t *q,
                      uint16_t *values, float *scores)
{
    for (int32_t row = 0; row < n_rows; row += 2) {
        row_pair pair = pair_of(rows, row, n_rows);
        if (!pair.is_plain) {
            score_pair(&pair, false, FEW_HEADS, q, values, scores);
        } else if (n_heads > FEW_HEADS / 2) {
            score_pair(&pair, true, FEW_HEADS, q, values, scores);
        } else {
            score_pair(&pair, true, FEW_HEADS / 2, q, values, scores);
        }
        values += 2 * GROUP_DIM;
        scores += 2 * VF_LANES;
    }
}

static void score_block(const dsv4_attn_row *rows, int32_t n_rows, const void *packed_q,
                        int32_t n_heads, void *kv, float *scores)
{
    uint16_t *keys = kv, *values = keys + KEY_VALUES;
    int32_t stride = dsv4_attn_pad_heads(n_heads);
    if (n_heads <= FEW_HEADS) {
        score_few(rows, n_rows, n_heads, packed_q, values, scores);
        return;
    }
    for (int32_t row = 0; row < n_rows; row += TILE_ROWS) {
        load_tile(rows, n_rows, row, keys, values);
        score_rows(packed_q, keys, n_heads, scores + row * stride);
    }
}

/* ---- probabilities: two rows as 32-bit words, [32 row pairs][n_heads_pad] in the scores' place ---- */

/* One head vector. A word of pair p lies where row p lay, which was read before. Returns the sum. */
static vf round_vector(int32_t n_rows, int32_t stride, float *scores)
{
    const __m512i interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    vf total = vf_zero();
    for (int32_t row = 0; row < n_rows; row += 2) {
        vf even = vf_load(scores + row * stride);
        vf odd = row + 1 < n_rows ? vf_load(scores + (row + 1) * stride) : vf_zero();
        __m512i words =
            _mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
        _mm512_storeu_si512(scores + row / 2 * stride, words);
        total = vf_add(total, _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)));
        total = vf_add(total, _mm512_castsi512_ps(
                                  _mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000))));
    }
    return total;
}

static void softmax(float scale_log2, int32_t n_heads, int32_t n_rows, const float *fixed_max,
                    float *scores, const dsv4_attn_state *part)
{
    int32_t stride = dsv4_attn_pad_heads(n_heads);
    vf scale = vf_set1(scale_log2);
    for (int32_t h = 0; h < n_heads; h += VF_LANES) {
        vf max = fixed_max == NULL ? max_vector(scale, n_rows, stride, scores + h)
                                   : vf_load(fixed_max + h);
        vf sum = softmax_vector(scale, max, n_rows, stride, scores + h);
        vf rounded_sum = round_vector(n_rows, stride, scores + h);
        vf_store(part->max + h, max);
        vf_store(part->sum + h, sum);
        vf_store(part->weight + h, fixed_max == NULL ? rounded_sum : sum);
    }
}

/* ---- values ---- */

/* n_heads (a constant at every call) heads by one group. */
static DSV4_ALWAYS_INLINE void value_tile(const float *words, int32_t stride, const uint16_t *slab,
                                          const int n_heads, int32_t n_rows, const float *alpha,
                                          const float *beta, dsv4_attn_ahead *ahead, float *values)
{
    vf acc[4 * VALUE_VECS];
    DSV4_UNROLL for (int i = 0; i < n_heads * VALUE_VECS; i++) acc[i] = vf_zero();
    for (int32_t row = 0; row < n_rows; row += 2) {
        __m512i value[VALUE_VECS];
        prefetch_line(ahead);
        prefetch_line(ahead);
        DSV4_UNROLL for (int i = 0; i < VALUE_VECS; i++) value[i] =
            _mm512_load_si512(slab + 32 * i);
        slab += 2 * GROUP_DIM;
        DSV4_UNROLL for (int h = 0; h < n_heads; h++)
        {
            __m512i weights = broadcast_word(words + h);
            DSV4_UNROLL for (int i = 0; i < VALUE_VECS; i++)
            {
                acc[h * VALUE_VECS + i] = dot_pairs(acc[h * VALUE_VECS + i], weights, value[i]);
            }
        }
        words += stride;
    }
    DSV4_UNROLL for (int h = 0; h < n_heads; h++)
    {
        float *to = values + h * DSV4_ATTN_DIM;
        if (alpha == NULL) {
            DSV4_UNROLL for (int i = 0; i < VALUE_VECS; i++)
                vf_store(to + i * VF_LANES, acc[h * VALUE_VECS + i]);
            continue;
        }
        vf a = vf_set1(alpha[h]), b = vf_set1(beta[h]);
        DSV4_UNROLL for (int i = 0; i < VALUE_VECS; i++)
        {
            vf sum = vf_mul(vf_load(to + i * VF_LANES), a);
            vf_store(to + i * VF_LANES, vf_fma(acc[h * VALUE_VECS + i], b, sum));
        }
    }
}

static void add_values(const float *words, const void *kv, int32_t n_heads, int32_t n_rows,
                       const float *alpha, const float *beta, dsv4_attn_ahead *ahead,
                       float *acc_values)
{
    int32_t stride = dsv4_attn_pad_heads(n_heads);
    for (int g = 0; g < DSV4_ATTN_N_GROUPS; g++) {
        const uint16_t *slab = (const uint16_t *)kv + KEY_VALUES + g * VALUE_GROUP;
        float *to = acc_values + g * GROUP_DIM;
        int32_t h = 0;
        for (; h + 4 <= n_heads; h += 4) {
            value_tile(words + h, stride, slab, 4, n_rows, alpha == NULL ? NULL : alpha + h,
                       beta + h, ahead, to + h * DSV4_ATTN_DIM);
        }
        for (; h < n_heads; h++) {
            value_tile(words + h, stride, slab, 1, n_rows, alpha == NULL ? NULL : alpha + h,
                       beta + h, ahead, to + h * DSV4_ATTN_DIM);
        }
    }
}

/* ---- the end of a query ---- */

/*
 * Dealt to two vectors and then interleaved within lanes, 64 dimensions are four vectors, the first of
 * which has the first quad of each 16. values [n_heads, 512] are put back into order.
 */
static void restore_order(float *values, int32_t n_heads)
{
    for (int32_t i = 0; i < n_heads * DSV4_ATTN_DIM; i += GROUP_DIM) {
        vf v[VALUE_VECS];
        for (int k = 0; k < VALUE_VECS; k++) v[k] = vf_load(values + i + k * VF_LANES);
        vf low[2] = {_mm512_shuffle_f32x4(v[0], v[1], 0x44),
                     _mm512_shuffle_f32x4(v[2], v[3], 0x44)};
        vf high[2] = {_mm512_shuffle_f32x4(v[0], v[1], 0xee),
                      _mm512_shuffle_f32x4(v[2], v[3], 0xee)};
        vf_store(values + i, _mm512_shuffle_f32x4(low[0], low[1], 0x88));
        vf_store(values + i + VF_LANES, _mm512_shuffle_f32x4(low[0], low[1], 0xdd));
        vf_store(values + i + 2 * VF_LANES, _mm512_shuffle_f32x4(high[0], high[1], 0x88));
        vf_store(values + i + 3 * VF_LANES, _mm512_shuffle_f32x4(high[0], high[1], 0xdd));
    }
}

static void finish_ordered(int32_t n_heads, const dsv4_attn_state *acc,
                           const dsv4_attn_target *target)
{
    restore_order(acc->values, n_heads);
    finish(n_heads, acc, target);
}

const dsv4_attn_kernels dsv4_attn_kernels_avx512bf16 = {
    .level = DSV4_CPU_LEVEL_AVX512BF16,
    .math = DSV4_ATTN_MATH_BF16,
    .q_head_bytes = DSV4_ATTN_DIM * sizeof(uint16_t),
    .kv_bytes = (KEY_VALUES + VALUE_VALUES) * sizeof(uint16_t),
    .pack_q = pack_q,
    .score_block = score_block,
    .raise_max = raise_max,
    .softmax = softmax,
    .fold_state = fold_state,
    .add_values = add_values,
    .fold_values = fold_values,
    .finish = finish_ordered,
};
