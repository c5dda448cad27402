/*
 * bench_data.c - makes the benchmark's random inputs.
 *
 * Place: program, bench. Rows repeat every DISTINCT_ROWS slots: what is in a row does not change
 * the time, where it lies does.
 */
#define _DEFAULT_SOURCE /* madvise */
#include "bench_data.h"

#include "random_bits.h"

#include "dsv4/cache.h"

#include "base/error.h"
#include "num/bf16.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE_ROWS = 64, DISTINCT_ROWS = 4096, HUGE_PAGE_BYTES = 2 << 20 };

/* Box and Muller; of the two results one is used. */
static float next_normal(uint64_t *state)
{
    float u = (float)((dsv4_random_bits(state) >> 40) + 1) * 0x1p-24f;
    float angle = (float)(dsv4_random_bits(state) >> 40) * 0x1p-24f * 6.2831853f;
    return sqrtf(-2 * logf(u)) * cosf(angle);
}

void dsv4_bench_fill_normal(float *values, int64_t n_values, uint64_t seed)
{
    for (int64_t i = 0; i < n_values; i++) values[i] = next_normal(&seed);
}

void dsv4_bench_fill_normal_bf16(uint16_t *values, int64_t n_values, uint64_t seed)
{
    for (int64_t i = 0; i < n_values; i++) values[i] = dsv4_bf16_from_f32(next_normal(&seed));
}

static void fill_cache(dsv4_bench_pool *pool, uint64_t seed)
{
    int64_t stride_bytes = dsv4_cache_page_stride_bytes(PAGE_ROWS);
    size_t distinct_bytes = (size_t)(DISTINCT_ROWS / PAGE_ROWS * stride_bytes);
    memset(pool->cache, 0, distinct_bytes);
    for (int64_t slot = 0; slot < DISTINCT_ROWS; slot++) {
        float values[DSV4_CACHE_DIM];
        for (int i = 0; i < DSV4_CACHE_DIM; i++) values[i] = next_normal(&seed);
        dsv4_cache_row_write(pool->cache + slot / PAGE_ROWS * stride_bytes, PAGE_ROWS,
                             slot % PAGE_ROWS, values);
    }
    for (int64_t i = 1; i < pool->n_slots / DISTINCT_ROWS; i++) {
        memcpy(pool->cache + (size_t)i * distinct_bytes, pool->cache, distinct_bytes);
    }
}

dsv4_status dsv4_bench_pool_open(dsv4_bench_pool *pool, int64_t n_slots, uint64_t seed,
                                 dsv4_error *error)
{
    *pool = (dsv4_bench_pool){.n_slots = n_slots};
    int64_t stride_bytes = dsv4_cache_page_stride_bytes(PAGE_ROWS);
    size_t cache_bytes = (size_t)(n_slots / PAGE_ROWS * stride_bytes);
    cache_bytes = (cache_bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    pool->cache = aligned_alloc(HUGE_PAGE_BYTES, cache_bytes);
    /* As a server would: rows lie at random, and small pages would add a table walk to each. */
    if (pool->cache != NULL) (void)madvise(pool->cache, cache_bytes, MADV_HUGEPAGE);
    pool->slots = malloc((size_t)n_slots * sizeof *pool->slots);
    if (pool->cache == NULL || pool->slots == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "no memory for a pool of %" PRId64 " rows", n_slots);
    }
    fill_cache(pool, seed);
    for (int64_t i = 0; i < n_slots; i++) pool->slots[i] = (int32_t)i;
    for (int64_t i = n_slots - 1; i > 0; i--) {
        int64_t j = (int64_t)(dsv4_random_bits(&seed) % (uint64_t)(i + 1));
        int32_t slot = pool->slots[i];
        pool->slots[i] = pool->slots[j];
        pool->slots[j] = slot;
    }
    return DSV4_OK;
}

void dsv4_bench_pool_close(dsv4_bench_pool *pool)
{
    free(pool->cache);
    free(pool->slots);
    *pool = (dsv4_bench_pool){0};
}

void dsv4_bench_pool_scope(const dsv4_bench_pool *pool, int64_t n_indices, dsv4_attn_scope *scope)
{
    *scope = (dsv4_attn_scope){
        .cache = pool->cache,
        .n_pages = pool->n_slots / PAGE_ROWS,
        .page_rows = PAGE_ROWS,
        .page_stride_bytes = dsv4_cache_page_stride_bytes(PAGE_ROWS),
        .indices = pool->slots,
        .n_indices = n_indices,
        .indices_request_stride_bytes = n_indices * (int64_t)sizeof(int32_t),
        .indices_query_stride_bytes = n_indices * (int64_t)sizeof(int32_t),
    };
}

const int32_t *dsv4_bench_pool_next(dsv4_bench_pool *pool, int64_t n_indices)
{
    if (pool->cursor + n_indices > pool->n_slots) pool->cursor = 0;
    const int32_t *indices = pool->slots + pool->cursor;
    pool->cursor += n_indices;
    return indices;
}
