/*
 * indexer_avx512bf16.c - index scores of FP4 keys with bf16 products and f32 sums (AVX-512 BF16).
 *
 * Place: cpu. Keys are exact in bf16 under plain scales: those that keep every nonzero value a normal,
 * finite bf16. A key with another scale is widened to f32 beside its query and multiplied there; that
 * follows from the key alone. The dot instruction counts subnormal sums as zero. See indexer_tmpl.h.
 */
#include "vec_avx512.h"

#include "base/compiler.h"
#include "indexer_kernels.h"
#include "num/e2m1.h"

#define IX_HEAD_VECS 4
#define IX_KEYS      6
#define IX_STEP_DIMS 2

enum { LEAST_PLAIN_SCALE = 2, MOST_PLAIN_SCALE = 252, N_GROUPS = 4 };

/* bf16 of the codes 0 .. 15, twice: a lookup looks at five bits. */
static const uint16_t e2m1_bits[32] = {
    0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, 0x8000, 0xbf00, 0xbf80,
    0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0, 0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040,
    0x4080, 0x40c0, 0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};

static DSV4_ALWAYS_INLINE vf multiply_add(vf sums, const float *q, const float *key)
{
    __m512i pairs = _mm512_castps_si512(_mm512_set1_ps(*key));
    return _mm512_dpbf16_ps(sums, (__m512bh)_mm512_load_si512(q), (__m512bh)pairs);
}

#include "indexer_tmpl.h"

static DSV4_ALWAYS_INLINE bool is_plain(const unsigned char *row)
{
    for (int g = 0; g < N_GROUPS; g++) {
        int scale = row[DSV4_INDEXER_FP4_BYTES + g];
        if (scale < LEAST_PLAIN_SCALE || scale > MOST_PLAIN_SCALE) return false;
    }
    return true;
}

/* key [N_STEPS]: pairs of bf16, a byte's low code in the lower half. */
static DSV4_ALWAYS_INLINE void load_fp4(const unsigned char *row, float *key)
{
    const __mmask32 nonzero = 0xfefefefe;
    const __m512i table = _mm512_loadu_si512(e2m1_bits);
    DSV4_UNROLL for (int g = 0; g < N_GROUPS; g++)
    {
        int shift = (row[DSV4_INDEXER_FP4_BYTES + g] - 127) * 128;
        __m512i scaled =
            _mm512_mask_add_epi16(table, nonzero, table, _mm512_set1_epi16((short)shift));
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(row + 16 * g));
        __m512i codes = _mm512_cvtepu8_epi32(bytes);
        codes = _mm512_or_si512(codes, _mm512_slli_epi32(codes, 12));
        codes = _mm512_and_si512(codes, _mm512_set1_epi32(0x000f000f));
        _mm512_storeu_si512(key + 16 * g, _mm512_permutexvar_epi16(codes, scaled));
    }
}

/* The upper halves of f32 are their bf16, since nothing is lost. */
static void pack_query(const float *q, dsv4_indexer_query *query)
{
    memset(query->packed, 0, sizeof(uint32_t) * DSV4_INDEXER_BLOCK_HEADS * N_STEPS);
    for (int64_t h = 0; h < query->n_heads; h++) {
        uint32_t bits[DIM];
        memcpy(bits, q + h * DIM, sizeof bits);
        for (int64_t step = 0; step < N_STEPS; step++) {
            uint32_t pair = bits[2 * step] >> 16 | (bits[2 * step + 1] & 0xffff0000u);
            memcpy(query->packed + step * DSV4_INDEXER_BLOCK_HEADS + h, &pair, sizeof pair);
        }
    }
}

_Static_assert((int)TILE_HEADS == (int)DSV4_INDEXER_BLOCK_HEADS, "a block is one tile");

/* The score of one key by f32 products. */
static float score_wide(const dsv4_indexer_query *query, const unsigned char *row)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000u);
    vf dots[IX_HEAD_VECS] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()}, total = vf_zero();
    for (int step = 0; step < N_STEPS; step++) {
        float factor =
            dsv4_ue8m0_to_f32(row[DSV4_INDEXER_FP4_BYTES + 2 * step / DSV4_INDEXER_FP4_GROUP]);
        vf even = vf_set1(dsv4_e2m1_to_f32(row[step] & 15u) * factor);
        vf odd = vf_set1(dsv4_e2m1_to_f32((uint8_t)(row[step] >> 4)) * factor);
        for (int v = 0; v < IX_HEAD_VECS; v++) {
            __m512i pairs = _mm512_load_si512(query->packed + step * TILE_HEADS + v * VF_LANES);
            dots[v] = vf_fma(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), even, dots[v]);
            dots[v] = vf_fma(_mm512_castsi512_ps(_mm512_and_si512(pairs, upper)), odd, dots[v]);
        }
    }
    for (int v = 0; v < IX_HEAD_VECS; v++) {
        vf valid = vf_load((const float *)(const void *)(query->valid + v * VF_LANES));
        total = vf_add(total, weigh(dots[v], vf_load(query->weights + v * VF_LANES), valid, true));
    }
    return _mm_cvtss_f32(vf_sum4(total, total, total, total));
}

static void score_keys(const dsv4_indexer_query *query, const dsv4_index_keys *keys, int64_t begin,
                       int64_t end, float *scores)
{
    tile_keys tile;
    float sums[KEY_SUMS];
    key_cursor cursor = cursor_at(keys, begin);
    for (int64_t j = begin; j < end; j += IX_KEYS) {
        int64_t n = end - j < IX_KEYS ? end - j : IX_KEYS;
        const unsigned char *rows[IX_KEYS];
        bool are_plain = true;
        for (int64_t k = 0; k < IX_KEYS; k++) {
            rows[k] = k < n ? cursor_next(&cursor) : rows[n - 1];
            are_plain = are_plain && is_plain(rows[k]);
            load_fp4(rows[k], tile.values[k]);
        }
        score_tile(query, &tile, true, sums);
        for (int64_t k = 0; k < n && !are_plain; k++) {
            if (!is_plain(rows[k])) sums[k] = score_wide(query, rows[k]);
        }
        put_scores(query, sums, n, scores + j);
    }
}

const dsv4_indexer_kernels dsv4_indexer_avx512bf16 = {.pack = pack_query, .score = score_keys};
