/*
 * indexer_f32_tmpl.h - one level's kernels of indexer_kernels.h with f32 products.
 *
 * Place: cpu; a template. Included once by indexer_v2.c, indexer_avx2.c and indexer_avx512.c after
 * indexer_tmpl.h with one dimension per step.
 */
static void pack_query(const float *q, dsv4_indexer_query *query)
{
    memset(query->packed, 0, sizeof query->packed);
    for (int64_t h = 0; h < query->n_heads; h++) {
        float *to = query->packed + h / TILE_HEADS * TILE_HEADS * DIM + h % TILE_HEADS;
        for (int64_t d = 0; d < DIM; d++) to[d * TILE_HEADS] = q[h * DIM + d];
    }
}

static void score_keys(const dsv4_indexer_query *query, const dsv4_index_keys *keys, int64_t begin,
                       int64_t end, float *scores)
{
    tile_keys tile;
    float sums[KEY_SUMS];
    key_cursor cursor = cursor_at(keys, begin);
    for (int64_t j = begin; j < end; j += IX_KEYS) {
        int64_t n = end - j < IX_KEYS ? end - j : IX_KEYS;
        for (int64_t k = 0; k < IX_KEYS; k++) {
            if (k >= n) {
                memcpy(tile.values[k], tile.values[n - 1], sizeof tile.values[k]);
            } else if (keys->is_fp4) {
                load_fp4(cursor_next(&cursor), tile.values[k]);
            } else {
                memcpy(tile.values[k], cursor_next(&cursor), sizeof tile.values[k]);
            }
        }
        if (query->rounds) {
            score_tile(query, &tile, true, sums);
        } else {
            score_tile(query, &tile, false, sums);
        }
        put_scores(query, sums, n, scores + j);
    }
}

#define INDEXER_TABLE                                                                              \
    {                                                                                              \
        .pack = pack_query, .score = score_keys                                                    \
    }
