/*
 * indexer_tmpl.h - one level's kernels of indexer_kernels.h.
 *
 * Place: cpu; a template. Included once by each indexer_<level>.c after one vec_*.h and these:
 *   IX_HEAD_VECS, IX_KEYS     a register tile: vectors of heads by keys, with a sum in each place
 *   IX_STEP_DIMS              dimensions in 32 bits: 1 (f32) or 2 (bf16)
 *   multiply_add(sums, q, key)            adds the products of one step, lane by lane; q and key are
 *                                         addresses of a vector of heads and of one key's 32 bits
 *   load_fp4(row, key)        one row into [N_STEPS] of 32 bits
 *
 * A tile at the end of a range that has too few keys takes the last one several times.
 */
#include <stdbool.h>
#include <string.h>

#include "base/compiler.h"
#include "indexer_kernels.h"

enum {
    DIM = DSV4_INDEXER_DIM,
    N_STEPS = DIM / IX_STEP_DIMS,
    TILE_HEADS = IX_HEAD_VECS * VF_LANES,
    KEY_SUMS = (IX_KEYS + 3) / 4 * 4 /* vf_sum4 takes four */
};

_Static_assert(DSV4_INDEXER_BLOCK_HEADS % TILE_HEADS == 0, "a block has whole tiles");

/* Keys of a tile, dequantized. */
typedef struct tile_keys {
    _Alignas(64) float values[IX_KEYS][N_STEPS];
} tile_keys;

/* Where the next key lies. */
typedef struct key_cursor {
    const dsv4_index_keys *keys;
    const int32_t *page;
    int64_t row, row_bytes;
} key_cursor;

static key_cursor cursor_at(const dsv4_index_keys *keys, int64_t j)
{
    return (key_cursor){.keys = keys,
                        .page = keys->pages + j / keys->page_rows,
                        .row = j % keys->page_rows,
                        .row_bytes = keys->is_fp4 ? DSV4_INDEXER_FP4_ROW_BYTES
                                                  : DIM * (int64_t)sizeof(float)};
}

static inline const unsigned char *cursor_next(key_cursor *cursor)
{
    const dsv4_index_keys *keys = cursor->keys;
    const unsigned char *at =
        keys->base + *cursor->page * keys->page_stride_bytes + cursor->row * cursor->row_bytes;
    if (++cursor->row == keys->page_rows) {
        cursor->row = 0;
        cursor->page++;
    }
    return at;
}

/* w relu(dot), zero where there is no head. */
static DSV4_ALWAYS_INLINE vf weigh(vf dots, vf weights, vf valid, const bool rounds)
{
    if (rounds) dots = vf_round_bf16(dots);
    vf weighted = vf_mul(weights, vf_max(vf_zero(), dots));
    if (rounds) weighted = vf_round_bf16(weighted);
    return vf_and(weighted, valid);
}

/* Weighted dots of one register tile of heads, added to each key's vector of sums. */
static DSV4_ALWAYS_INLINE void add_heads(const dsv4_indexer_query *query, int64_t tile,
                                         const tile_keys *keys, const bool rounds,
                                         vf totals[KEY_SUMS])
{
    const float *q = query->packed + tile * TILE_HEADS * N_STEPS;
    vf dots[IX_KEYS][IX_HEAD_VECS];
    DSV4_UNROLL for (int k = 0; k < IX_KEYS; k++)
    {
        DSV4_UNROLL for (int v = 0; v < IX_HEAD_VECS; v++) dots[k][v] = vf_zero();
    }
    for (int step = 0; step < N_STEPS; step++, q += TILE_HEADS) {
        DSV4_UNROLL for (int k = 0; k < IX_KEYS; k++)
        {
            DSV4_UNROLL for (int v = 0; v < IX_HEAD_VECS; v++) dots[k][v] =
                multiply_add(dots[k][v], q + v * VF_LANES, &keys->values[k][step]);
        }
    }
    DSV4_UNROLL for (int v = 0; v < IX_HEAD_VECS; v++)
    {
        int64_t head = tile * TILE_HEADS + v * VF_LANES;
        vf weights = vf_load(query->weights + head);
        vf valid = vf_load((const float *)(const void *)(query->valid + head));
        DSV4_UNROLL for (int k = 0; k < IX_KEYS; k++)
        {
            totals[k] = vf_add(totals[k], weigh(dots[k][v], weights, valid, rounds));
        }
    }
}

static DSV4_ALWAYS_INLINE void score_tile(const dsv4_indexer_query *query, const tile_keys *keys,
                                          const bool rounds, float sums[KEY_SUMS])
{
    vf totals[KEY_SUMS];
    DSV4_UNROLL for (int k = 0; k < KEY_SUMS; k++) totals[k] = vf_zero();
    for (int64_t tile = 0; tile * TILE_HEADS < query->n_heads; tile++) {
        add_heads(query, tile, keys, rounds, totals);
    }
    DSV4_UNROLL for (int k = 0; k < KEY_SUMS; k += 4)
    {
        _mm_storeu_ps(sums + k, vf_sum4(totals[k], totals[k + 1], totals[k + 2], totals[k + 3]));
    }
}

static void put_scores(const dsv4_indexer_query *query, const float *sums, int64_t n, float *scores)
{
    for (int64_t i = 0; i < n; i++) {
        float score = query->adds ? scores[i] + sums[i] : sums[i];
        if (query->rounds && query->is_last) score = dsv4_bf16_to_f32(dsv4_bf16_from_f32(score));
        scores[i] = score;
    }
}
