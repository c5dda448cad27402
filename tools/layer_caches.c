/*
 * layer_caches.c - fills a pool of cache pages and hands them to sequences.
 *
 * Place: program, bench. Pages repeat every DISTINCT_PAGES: what is in a row does not change the time,
 * where it lies does. Sequences grow side by side, so that their pages lie mixed, as in a server.
 */
#include "layer_caches.h"

#include "base/error.h"
#include "bench_data.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { STEP_TOKENS = 256, DISTINCT_PAGES = 16 };

/* ---- content ---- */

static int64_t distinct_pages(const dsv4_cache *cache, int kind)
{
    return cache->n_pages[kind] < DISTINCT_PAGES ? cache->n_pages[kind] : DISTINCT_PAGES;
}

static void repeat_pages(const dsv4_cache *cache, const dsv4_cache_tensor *tensor, int kind)
{
    int64_t stride = tensor->page_stride_bytes, n_distinct = distinct_pages(cache, kind);
    for (int64_t page = n_distinct; page < cache->n_pages[kind]; page++) {
        memcpy(tensor->base + page * stride, tensor->base + page % n_distinct * stride,
               (size_t)stride);
    }
}

/* is_index: keys of the indexer, else keys of the attention. */
static void fill_keys(const dsv4_cache *cache, const dsv4_cache_tensor *tensor, int kind,
                      bool is_index)
{
    if (tensor->base == NULL) return;
    int64_t n_rows = distinct_pages(cache, kind) * cache->page_rows[kind];
    for (int64_t slot = 0; slot < n_rows; slot++) {
        float values[DSV4_HEAD_DIM];
        dsv4_bench_fill_normal(values, is_index ? DSV4_INDEX_DIM : DSV4_HEAD_DIM, (uint64_t)slot);
        if (is_index) {
            dsv4_cache_write_index_key(cache, tensor, (int32_t)slot, values);
        } else {
            dsv4_cache_write_key(cache, tensor, kind, (int32_t)slot, values);
        }
    }
    repeat_pages(cache, tensor, kind);
}

static void fill_raw_rows(const dsv4_cache *cache, const dsv4_cache_tensor *tensor, int kind)
{
    if (tensor->base == NULL) return;
    int64_t n_values = distinct_pages(cache, kind) * tensor->page_stride_bytes / 4;
    dsv4_bench_fill_normal((void *)tensor->base, n_values, 1);
    repeat_pages(cache, tensor, kind);
}

static void fill_layer(const dsv4_cache *cache, int32_t ratio)
{
    const dsv4_layer_cache *layer = &cache->layers[0];
    fill_keys(cache, &layer->window, DSV4_CACHE_WINDOW, false);
    if (ratio == 0) return;
    fill_keys(cache, &layer->compressed, dsv4_cache_compressed_kind(ratio), false);
    fill_keys(cache, &layer->index_keys, DSV4_CACHE_C4, true);
    fill_raw_rows(cache, &layer->state, dsv4_cache_state_kind(ratio));
    fill_raw_rows(cache, &layer->index_state, dsv4_cache_state_kind(ratio));
}

/* ---- sequences ---- */

static dsv4_status grow(const dsv4_layer_caches *caches, int64_t context, dsv4_error *error)
{
    static const int32_t tokens[STEP_TOKENS]; /* zeros: no one looks at them */
    for (int64_t at = 0; at < context; at += STEP_TOKENS) {
        int64_t n_new = context - at < STEP_TOKENS ? context - at : STEP_TOKENS;
        for (int64_t i = 0; i < caches->n_sequences; i++) {
            DSV4_TRY(dsv4_sequence_reserve(caches->sequences[i], n_new, error));
            dsv4_sequence_advance(caches->sequences[i], tokens, n_new);
        }
    }
    for (int64_t i = 0; i < caches->n_sequences; i++) {
        DSV4_TRY(dsv4_sequence_reserve(caches->sequences[i], 1, error));
        caches->views[i] = dsv4_sequence_view(caches->sequences[i]);
    }
    return DSV4_OK;
}

static dsv4_status check_bytes(int64_t n_sequences, int64_t context, int64_t n_bytes,
                               int64_t limit_bytes, dsv4_error *error)
{
    if (n_bytes <= limit_bytes) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "option --context: %" PRId64 " sequences of %" PRId64
                          " tokens have caches of %" PRId64 " MiB; expected at most %" PRId64
                          " (--memory-limit)",
                          n_sequences, context, n_bytes >> 20, limit_bytes >> 20);
}

dsv4_status dsv4_layer_caches_open(const dsv4_config *config, int32_t numerics, int64_t n_sequences,
                                   int64_t context, int64_t limit_bytes, dsv4_layer_caches *caches,
                                   dsv4_error *error)
{
    *caches = (dsv4_layer_caches){.n_sequences = n_sequences};
    const dsv4_pool_options options = {.numerics = numerics,
                                       .n_tokens = n_sequences * (context + 1),
                                       .n_sequences = n_sequences,
                                       .step_tokens = STEP_TOKENS};
    /* Each sequence has page tables for all tokens of the pool, about a byte for each. */
    DSV4_TRY(check_bytes(n_sequences, context, n_sequences * options.n_tokens, limit_bytes, error));
    DSV4_TRY(dsv4_pool_create(config, &options, &caches->pool, error));
    /* Reserved, not touched yet. */
    DSV4_TRY(check_bytes(n_sequences, context, dsv4_pool_bytes(caches->pool), limit_bytes, error));
    caches->sequences = calloc((size_t)n_sequences, sizeof *caches->sequences);
    caches->views = calloc((size_t)n_sequences, sizeof *caches->views);
    if (caches->sequences == NULL || caches->views == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "no memory for %" PRId64 " sequences", n_sequences);
    }
    for (int64_t i = 0; i < n_sequences; i++) {
        DSV4_TRY(dsv4_sequence_create(caches->pool, &caches->sequences[i], error));
    }
    DSV4_TRY(grow(caches, context, error));
    fill_layer(dsv4_pool_cache(caches->pool), config->ratios[0]);
    return DSV4_OK;
}

void dsv4_layer_caches_close(dsv4_layer_caches *caches)
{
    for (int64_t i = 0; caches->sequences != NULL && i < caches->n_sequences; i++) {
        dsv4_sequence_free(caches->sequences[i]);
    }
    dsv4_pool_free(caches->pool);
    free(caches->sequences);
    free(caches->views);
    *caches = (dsv4_layer_caches){0};
}
