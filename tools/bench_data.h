/*
 * bench_data.h - random inputs of the benchmark: cache pools with index lists, queries, sinks.
 *
 * Place: program, bench. A pool is a paged cache and one permutation of its slots. A list is a
 * piece of the permutation, so lists name rows all over the pool; each call takes the next piece,
 * so that rows come from memory and not from what the last call left in the processor's caches,
 * as with the layers of a model.
 */
#ifndef DSV4_TOOLS_BENCH_DATA_H
#define DSV4_TOOLS_BENCH_DATA_H

#include "dsv4/attn.h"

typedef struct dsv4_bench_pool {
    unsigned char *cache; /* [n_slots / 64, page stride], every row written */
    int32_t *slots;       /* [n_slots], a permutation */
    int64_t n_slots;
    int64_t cursor; /* where the next lists begin */
} dsv4_bench_pool;

/*
 * Fills a pool; n_slots is a multiple of 4096. Close it also after a failure. Errors:
 * OUT_OF_MEMORY.
 */
dsv4_status dsv4_bench_pool_open(dsv4_bench_pool *pool, int64_t n_slots, uint64_t seed,
                                 dsv4_error *error);
void dsv4_bench_pool_close(dsv4_bench_pool *pool);

/* Describes the pool, with lists of n_indices for each request of one query, in *scope. */
void dsv4_bench_pool_scope(const dsv4_bench_pool *pool, int64_t n_indices, dsv4_attn_scope *scope);

/* The next n_indices of the permutation, at most n_slots. */
const int32_t *dsv4_bench_pool_next(dsv4_bench_pool *pool, int64_t n_indices);

/* Standard normal numbers; equal for equal seeds. */
void dsv4_bench_fill_normal(float *values, int64_t n_values, uint64_t seed);
void dsv4_bench_fill_normal_bf16(uint16_t *values, int64_t n_values, uint64_t seed);

#endif
