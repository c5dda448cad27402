/*
 * pool.c - pages and their reference counts.
 *
 * Place: kv. Invariant: a page is on the free list exactly when its count is 0.
 */
#include "pool.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "dsv4/cache.h"

enum { N_KINDS = DSV4_CACHE_N_KINDS, TENSORS_PER_LAYER = 5, ALIGN_BYTES = 64 };

/* Rows per page of each kind. */
static const int64_t page_rows[N_KINDS] = {64, 64, 16, 8, 32};

typedef struct page_set {
    int32_t *counts;    /* [n_pages] references */
    int32_t *free_list; /* [n_pages] stack of free pages */
    int64_t n_free;
    int64_t page_bytes; /* over all layers */
} page_set;

struct dsv4_pool {
    dsv4_pool_options options;
    dsv4_cache cache;
    page_set sets[N_KINDS];
    int64_t n_layers; /* with the MTP block */
    int64_t sequence_tokens;
    unsigned char **memory; /* [n_layers * TENSORS_PER_LAYER] */
    int64_t n_memory;
};

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Tokens of each kind that a sequence still needs when it goes on, or is rewound a little. */
static int64_t kept_tokens(int kind, int64_t rewind_tokens)
{
    switch (kind) {
    case DSV4_CACHE_WINDOW: return DSV4_WINDOW - 1 + rewind_tokens;
    case DSV4_CACHE_S4: return 7 + rewind_tokens;
    case DSV4_CACHE_S128: return 127 + rewind_tokens;
    default: return INT64_MAX;
    }
}

static int64_t count_pages(const dsv4_pool_options *options, int kind)
{
    int64_t rows = options->n_tokens;
    if (kind == DSV4_CACHE_C4) rows = ceil_div(rows, 4);
    if (kind == DSV4_CACHE_C128) rows = ceil_div(rows, 128);
    /* Each sequence may leave a page part empty, and a fork copies one before it gives one back. */
    int64_t n_pages = ceil_div(rows, page_rows[kind]) + 2 * options->n_sequences;
    int64_t kept = kept_tokens(kind, options->rewind_tokens);
    if (kept == INT64_MAX) return n_pages;
    int64_t per_sequence = ceil_div(kept + options->step_tokens, page_rows[kind]) + 2;
    int64_t bounded = per_sequence * options->n_sequences;
    return bounded < n_pages ? bounded : n_pages;
}

/* One tensor of all pages of a kind; adds its page to the kind's size. */
static dsv4_status add_tensor(dsv4_pool *pool, int kind, int64_t stride_bytes,
                              dsv4_cache_tensor *tensor, dsv4_error *error)
{
    size_t len_bytes;
    tensor->page_stride_bytes = stride_bytes;
    if (!dsv4_checked_mul((size_t)pool->cache.n_pages[kind], (size_t)stride_bytes, &len_bytes) ||
        !dsv4_checked_add(len_bytes, ALIGN_BYTES - 1, &len_bytes)) {
        len_bytes = 0;
    } else {
        tensor->base = calloc(len_bytes / ALIGN_BYTES, ALIGN_BYTES);
    }
    if (tensor->base == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "cache: no memory for %" PRId64 " pages of %" PRId64 " bytes",
                              pool->cache.n_pages[kind], stride_bytes);
    }
    pool->memory[pool->n_memory++] = tensor->base;
    pool->sets[kind].page_bytes += stride_bytes;
    return DSV4_OK;
}

static int64_t key_stride(const dsv4_pool *pool, int kind)
{
    if (pool->options.numerics == DSV4_NUMERICS_EXACT) {
        return page_rows[kind] * dsv4_cache_key_bytes(DSV4_NUMERICS_EXACT);
    }
    return dsv4_cache_page_stride_bytes(page_rows[kind]);
}

static dsv4_status add_layer(dsv4_pool *pool, int32_t ratio, dsv4_layer_cache *layer,
                             dsv4_error *error)
{
    DSV4_TRY(add_tensor(pool, DSV4_CACHE_WINDOW, key_stride(pool, DSV4_CACHE_WINDOW),
                        &layer->window, error));
    if (ratio == 0) return DSV4_OK;
    int compressed = dsv4_cache_compressed_kind(ratio), state = dsv4_cache_state_kind(ratio);
    DSV4_TRY(add_tensor(pool, compressed, key_stride(pool, compressed), &layer->compressed, error));
    DSV4_TRY(add_tensor(pool, state, page_rows[state] * dsv4_cache_state_bytes(ratio),
                        &layer->state, error));
    if (ratio != 4) return DSV4_OK;
    int64_t index_bytes = dsv4_cache_index_key_bytes(pool->options.numerics);
    DSV4_TRY(add_tensor(pool, DSV4_CACHE_C4, page_rows[DSV4_CACHE_C4] * index_bytes,
                        &layer->index_keys, error));
    return add_tensor(pool, state, page_rows[state] * dsv4_cache_index_state_bytes(ratio),
                      &layer->index_state, error);
}

static dsv4_status add_set(dsv4_pool *pool, int kind, dsv4_error *error)
{
    page_set *set = &pool->sets[kind];
    int64_t n_pages = count_pages(&pool->options, kind);
    if (n_pages > INT32_MAX / page_rows[kind]) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "n_tokens: %" PRId64 ", expected fewer: slots are 32-bit",
                              pool->options.n_tokens);
    }
    pool->cache.n_pages[kind] = n_pages;
    pool->cache.page_rows[kind] = page_rows[kind];
    set->counts = calloc((size_t)n_pages, sizeof *set->counts);
    set->free_list = calloc((size_t)n_pages, sizeof *set->free_list);
    if (set->counts == NULL || set->free_list == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "cache: no memory for %" PRId64 " page numbers", n_pages);
    }
    for (int64_t i = 0; i < n_pages; i++) set->free_list[i] = (int32_t)(n_pages - 1 - i);
    set->n_free = n_pages;
    return DSV4_OK;
}

static dsv4_status check_options(const dsv4_pool_options *options, dsv4_error *error)
{
    const struct {
        const char *name;
        int64_t value, low;
    } rules[] = {{"n_tokens", options->n_tokens, 1},
                 {"n_sequences", options->n_sequences, 1},
                 {"step_tokens", options->step_tokens, 1},
                 {"rewind_tokens", options->rewind_tokens, 0}};
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (rules[i].value < rules[i].low || rules[i].value > INT32_MAX) {
            return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                                  "%s: %" PRId64 ", expected %" PRId64 " .. %" PRId32,
                                  rules[i].name, rules[i].value, rules[i].low, INT32_MAX);
        }
    }
    return DSV4_OK;
}

dsv4_status dsv4_pool_create(const dsv4_config *config, const dsv4_pool_options *options,
                             dsv4_pool **pool, dsv4_error *error)
{
    DSV4_TRY(check_options(options, error));
    dsv4_status status = DSV4_ERROR_OUT_OF_MEMORY;
    dsv4_pool *made = calloc(1, sizeof *made);
    if (made == NULL) return dsv4_error_set(error, status, "cache: no memory");
    made->options = *options;
    made->cache.numerics = options->numerics;
    made->n_layers = config->n_layers + config->n_mtp_blocks;
    made->sequence_tokens =
        options->n_tokens < config->max_positions ? options->n_tokens : config->max_positions;
    made->cache.layers = calloc((size_t)made->n_layers, sizeof *made->cache.layers);
    made->memory = calloc((size_t)made->n_layers * TENSORS_PER_LAYER, sizeof *made->memory);
    if (made->cache.layers == NULL || made->memory == NULL) {
        (void)dsv4_error_set(error, status, "cache: no memory");
        goto fail;
    }
    for (int kind = 0; kind < N_KINDS; kind++) {
        status = add_set(made, kind, error);
        if (status != DSV4_OK) goto fail;
    }
    for (int64_t i = 0; i < made->n_layers; i++) {
        status = add_layer(made, config->ratios[i], &made->cache.layers[i], error);
        if (status != DSV4_OK) goto fail;
    }
    *pool = made;
    return DSV4_OK;

fail:
    dsv4_pool_free(made);
    return status;
}

void dsv4_pool_free(dsv4_pool *pool)
{
    if (pool == NULL) return;
    for (int64_t i = 0; i < pool->n_memory; i++) free(pool->memory[i]);
    for (int kind = 0; kind < N_KINDS; kind++) {
        free(pool->sets[kind].counts);
        free(pool->sets[kind].free_list);
    }
    free(pool->memory);
    free(pool->cache.layers);
    free(pool);
}

const dsv4_cache *dsv4_pool_cache(const dsv4_pool *pool)
{
    return &pool->cache;
}

const dsv4_pool_options *dsv4_pool_get_options(const dsv4_pool *pool)
{
    return &pool->options;
}

int64_t dsv4_pool_sequence_tokens(const dsv4_pool *pool)
{
    return pool->sequence_tokens;
}

int64_t dsv4_pool_bytes(const dsv4_pool *pool)
{
    int64_t bytes = 0;
    for (int kind = 0; kind < N_KINDS; kind++) {
        bytes += pool->cache.n_pages[kind] * pool->sets[kind].page_bytes;
    }
    return bytes;
}

int64_t dsv4_pool_used_bytes(const dsv4_pool *pool)
{
    int64_t bytes = dsv4_pool_bytes(pool);
    for (int kind = 0; kind < N_KINDS; kind++) {
        bytes -= pool->sets[kind].n_free * pool->sets[kind].page_bytes;
    }
    return bytes;
}

int64_t dsv4_pool_n_free(const dsv4_pool *pool, int kind)
{
    return pool->sets[kind].n_free;
}

int32_t dsv4_pool_take(dsv4_pool *pool, int kind)
{
    page_set *set = &pool->sets[kind];
    if (set->n_free == 0) return -1;
    int32_t page = set->free_list[--set->n_free];
    set->counts[page] = 1;
    return page;
}

void dsv4_pool_share(dsv4_pool *pool, int kind, int32_t page)
{
    pool->sets[kind].counts[page]++;
}

void dsv4_pool_drop(dsv4_pool *pool, int kind, int32_t page)
{
    page_set *set = &pool->sets[kind];
    if (--set->counts[page] == 0) set->free_list[set->n_free++] = page;
}

bool dsv4_pool_is_shared(const dsv4_pool *pool, int kind, int32_t page)
{
    return pool->sets[kind].counts[page] > 1;
}

static void copy_page(const dsv4_cache_tensor *tensor, int32_t from, int32_t to)
{
    if (tensor->base == NULL) return;
    memcpy(tensor->base + to * tensor->page_stride_bytes,
           tensor->base + from * tensor->page_stride_bytes, (size_t)tensor->page_stride_bytes);
}

void dsv4_pool_copy(dsv4_pool *pool, int kind, int32_t from, int32_t to)
{
    for (int64_t i = 0; i < pool->n_layers; i++) {
        const dsv4_layer_cache *layer = &pool->cache.layers[i];
        bool is_ratio_4 = layer->index_keys.base != NULL;
        switch (kind) {
        case DSV4_CACHE_WINDOW: copy_page(&layer->window, from, to); break;
        case DSV4_CACHE_C4:
            if (is_ratio_4) copy_page(&layer->compressed, from, to);
            copy_page(&layer->index_keys, from, to);
            break;
        case DSV4_CACHE_C128:
            if (!is_ratio_4) copy_page(&layer->compressed, from, to);
            break;
        case DSV4_CACHE_S4:
            if (is_ratio_4) copy_page(&layer->state, from, to);
            copy_page(&layer->index_state, from, to);
            break;
        default:
            if (!is_ratio_4) copy_page(&layer->state, from, to);
            break;
        }
    }
}
