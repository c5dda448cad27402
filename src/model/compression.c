/*
 * compression.c - compressed keys and the choice among them (specification 3.6, 3.7).
 *
 * Place: model. Every token leaves a raw row (K, and G with its position bias) in the cache; a token that
 * ends a group pools the raw rows of the group, wherever they were computed, into one key. So the result
 * depends on absolute positions alone, not on how a prompt was cut into steps.
 */
#include <math.h>
#include <string.h>

#include "cpu/indexer_cpu.h"
#include "ref/compress.h"
#include "ref/indexer.h"
#include "ref/rope.h"
#include "step.h"

enum { GROUP_TOKENS = 4, OVERLAP_ROWS = 8, MAX_ROWS = 128, INDEX_DIM = DSV4_INDEX_DIM };

/* One of a layer's two compressors. */
typedef struct compressor_use {
    const dsv4_compressor *weights;
    const dsv4_cache_tensor *state;
    const float *raw_k, *raw_g; /* [n_tokens, raw_width] */
    int64_t dim, state_bytes;
    int32_t ratio;
    int is_index;
} compressor_use;

static compressor_use main_use(const dsv4_step *step, const dsv4_layer *layer,
                               const dsv4_layer_cache *cache)
{
    return (compressor_use){.weights = &layer->compressor,
                            .state = &cache->state,
                            .raw_k = step->raw_k,
                            .raw_g = step->raw_g,
                            .dim = DSV4_HEAD_DIM,
                            .state_bytes = dsv4_cache_state_bytes(layer->ratio),
                            .ratio = layer->ratio};
}

static compressor_use index_use(const dsv4_step *step, const dsv4_layer *layer,
                                const dsv4_layer_cache *cache)
{
    return (compressor_use){.weights = &layer->index_compressor,
                            .state = &cache->index_state,
                            .raw_k = step->index_raw_k,
                            .raw_g = step->index_raw_g,
                            .dim = INDEX_DIM,
                            .state_bytes = dsv4_cache_index_state_bytes(layer->ratio),
                            .ratio = layer->ratio,
                            .is_index = 1};
}

static const dsv4_cache_view *view_of(const dsv4_step *step, int64_t token)
{
    return &step->batch->views[step->batch->sequences[token]];
}

static float *raw_row(const dsv4_step *step, const compressor_use *use, int64_t token,
                      int64_t position)
{
    int kind = dsv4_cache_state_kind(use->ratio);
    int32_t slot = dsv4_cache_slot(step->cache, view_of(step, token), kind, position);
    return (float *)(void *)dsv4_cache_row(step->cache, use->state, kind, use->state_bytes, slot);
}

/* Values of K, and of G, in a raw row. */
static int64_t raw_width(const compressor_use *use)
{
    return (use->ratio == GROUP_TOKENS ? 2 : 1) * use->dim;
}

typedef struct store_context {
    const dsv4_step *step;
    const compressor_use *use;
} store_context;

static void store_raw_row(void *shared, int64_t token, int32_t worker)
{
    (void)worker;
    const dsv4_step *step = ((const store_context *)shared)->step;
    const compressor_use *use = ((const store_context *)shared)->use;
    int64_t width = raw_width(use), position = step->batch->positions[token];
    float *row = raw_row(step, use, token, position);
    const float *bias = use->weights->ape + position % use->ratio * width;
    const float *raw_g = use->raw_g + token * width;
    memcpy(row, use->raw_k + token * width, (size_t)width * sizeof *row);
    for (int64_t i = 0; i < width; i++) row[width + i] = raw_g[i] + bias[i];
}

static void store_raw_rows(const dsv4_step *step, const compressor_use *use)
{
    store_context context = {step, use};
    dsv4_step_spread(step, step->n_tokens, 2 * raw_width(use), store_raw_row, &context);
}

/* The key of the group that `token` ends: values [dim]. */
static void pool_group(const dsv4_step *step, const compressor_use *use, int64_t token,
                       float *values)
{
    const float *rows[MAX_ROWS];
    int64_t position = step->batch->positions[token];
    int64_t n_rows = use->ratio == GROUP_TOKENS ? OVERLAP_ROWS : use->ratio;
    for (int64_t i = 0; i < n_rows; i++) {
        int64_t at = position - n_rows + 1 + i;
        rows[i] = at < 0 ? NULL : raw_row(step, use, token, at);
    }
    step->rows->pool(rows, use->ratio, use->dim, values);

    int64_t first_position = position - use->ratio + 1;
    float table[DSV4_ROPE_DIM];
    dsv4_rope_table(step->compressed_frequencies, first_position, table);
    dsv4_compress_finish(values, use->dim, use->weights->norm, step->config->norm_eps, table,
                         step->round);
}

static int ends_group(const dsv4_step *step, int64_t token, int32_t ratio)
{
    return (step->batch->positions[token] + 1) % ratio == 0;
}

static void emit_keys(const dsv4_step *step, const dsv4_layer *layer, const dsv4_layer_cache *cache,
                      int64_t token, int32_t worker)
{
    (void)worker;
    if (!ends_group(step, token, layer->ratio)) return;
    int kind = dsv4_cache_compressed_kind(layer->ratio);
    int32_t slot = dsv4_cache_slot(step->cache, view_of(step, token), kind,
                                   step->batch->positions[token] / layer->ratio);
    float values[DSV4_HEAD_DIM];
    compressor_use use = main_use(step, layer, cache);
    pool_group(step, &use, token, values);
    dsv4_cache_write_key(step->cache, &cache->compressed, kind, slot, values);
    if (layer->ratio != 4) return;
    use = index_use(step, layer, cache);
    pool_group(step, &use, token, values);
    if (step->round) {
        step->rows->hadamard(values);
        step->rows->round(values, INDEX_DIM);
    }
    dsv4_cache_write_index_key(step->cache, &cache->index_keys, slot, values);
}

void dsv4_step_compress(const dsv4_step *step, const dsv4_layer *layer,
                        const dsv4_layer_cache *cache)
{
    compressor_use use = main_use(step, layer, cache);
    store_raw_rows(step, &use);
    if (layer->ratio == 4) {
        use = index_use(step, layer, cache);
        store_raw_rows(step, &use);
    }
    dsv4_step_each(step, layer, cache, emit_keys);
}

static void finish_index_query(const dsv4_step *step, int64_t token)
{
    int64_t n_heads = step->config->n_index_heads;
    for (int64_t h = 0; h < n_heads; h++) {
        float *q = step->index_q + (token * n_heads + h) * INDEX_DIM;
        dsv4_step_round(step, q, INDEX_DIM);
        dsv4_rope_turn(q + INDEX_DIM - DSV4_ROPE_DIM, step->tables + token * DSV4_ROPE_DIM, 0);
        if (!step->round) continue;
        step->rows->round(q, INDEX_DIM);
        step->rows->hadamard(q);
        step->rows->round(q, INDEX_DIM);
        step->rows->quantize_fp4(q, INDEX_DIM);
    }
    float *weights = step->index_weights + token * n_heads;
    dsv4_step_round(step, weights, n_heads);
    float scale = 1.0f / sqrtf((float)(INDEX_DIM * n_heads));
    for (int64_t h = 0; h < n_heads; h++) weights[h] *= scale;
    dsv4_step_round(step, weights, n_heads);
}

/* scores [n_visible] of the token's keys, on the threads of compute. */
static void score_keys(const dsv4_step *step, const dsv4_layer_cache *cache, int64_t token,
                       int64_t n_visible, const dsv4_compute *compute, float *scores)
{
    const dsv4_cache_view *view = view_of(step, token);
    int64_t n_heads = step->config->n_index_heads;
    dsv4_index_keys keys = {.base = cache->index_keys.base,
                            .page_stride_bytes = cache->index_keys.page_stride_bytes,
                            .page_rows = step->cache->page_rows[DSV4_CACHE_C4],
                            .pages = view->pages[DSV4_CACHE_C4],
                            .is_fp4 = step->cache->numerics != DSV4_NUMERICS_EXACT};
    dsv4_indexer_cpu(compute, step->index_q + token * n_heads * INDEX_DIM,
                     step->index_weights + token * n_heads, n_heads, &keys, n_visible, scores);
}

static void choose_keys(const dsv4_step *step, const dsv4_layer_cache *cache, int64_t token,
                        int32_t worker, const dsv4_compute *compute)
{
    int64_t n_visible = (step->batch->positions[token] + 1) / GROUP_TOKENS;
    int32_t *list = step->c4_list + token * step->c4_stride;
    int64_t n_chosen = n_visible;
    int32_t *chosen = NULL;
    if (n_visible > step->config->index_topk) {
        float *scores = step->index_scores + worker * step->max_visible;
        finish_index_query(step, token);
        score_keys(step, cache, token, n_visible, compute, scores);
        chosen = step->index_chosen + worker * step->config->index_topk;
        n_chosen = dsv4_indexer_topk(scores, n_visible, step->config->index_topk,
                                     step->index_scratch + worker * step->max_visible, chosen);
    }
    for (int64_t i = 0; i < n_chosen; i++) {
        list[i] = dsv4_cache_slot(step->cache, view_of(step, token), DSV4_CACHE_C4,
                                  chosen == NULL ? i : chosen[i]);
    }
}

static void select_keys(const dsv4_step *step, const dsv4_layer *layer,
                        const dsv4_layer_cache *cache, int64_t token, int32_t worker)
{
    dsv4_compute alone = {.cpu_level = step->compute->cpu_level, .n_threads = 1};
    (void)layer;
    choose_keys(step, cache, token, worker, &alone);
}

/* With fewer tokens than threads the keys of each are shared out, else the tokens are. */
void dsv4_step_select(const dsv4_step *step, const dsv4_layer *layer, const dsv4_layer_cache *cache)
{
    if (step->n_tokens < step->compute->n_threads) {
        for (int64_t t = 0; t < step->n_tokens; t++) choose_keys(step, cache, t, 0, step->compute);
        return;
    }
    dsv4_step_each(step, layer, cache, select_keys);
}
