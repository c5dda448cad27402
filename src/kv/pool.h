/*
 * pool.h - the memory of all caches, in pages that sequences hold and share.
 *
 * Place: kv. For each kind of row (model/layer_cache.h) there is one set of page numbers; page p of a kind is
 * one page in the tensor of every layer that has the kind. Pages are counted references: a fork shares
 * them, a write to a shared page copies it first (sequence.h). All memory is reserved on creation; taking
 * and returning pages allocates nothing. Not thread-safe: one thread owns a pool.
 */
#ifndef DSV4_KV_POOL_H
#define DSV4_KV_POOL_H

#include <stdbool.h>

#include "model/layer_cache.h"

typedef struct dsv4_pool_options {
    int32_t numerics;      /* DSV4_NUMERICS_* */
    int64_t n_tokens;      /* tokens that all sequences together can hold */
    int64_t n_sequences;   /* sequences at one time, forks included */
    int64_t step_tokens;   /* most tokens that one step adds to a sequence */
    int64_t rewind_tokens; /* how far back a sequence can be rewound without recomputing */
} dsv4_pool_options;

typedef struct dsv4_pool dsv4_pool;

/* Errors: OUT_OF_MEMORY, INVALID_ARGUMENT (an option out of range, by name). */
dsv4_status dsv4_pool_create(const dsv4_config *config, const dsv4_pool_options *options,
                             dsv4_pool **pool, dsv4_error *error);

/* Accepts NULL. Sequences must be freed before. */
void dsv4_pool_free(dsv4_pool *pool);

const dsv4_cache *dsv4_pool_cache(const dsv4_pool *pool);
const dsv4_pool_options *dsv4_pool_get_options(const dsv4_pool *pool);

/* Most tokens of one sequence: all of the pool's, but no more than the model has positions for. */
int64_t dsv4_pool_sequence_tokens(const dsv4_pool *pool);

/* Bytes reserved for all pages, and bytes of the pages that are held now (shared ones once). */
int64_t dsv4_pool_bytes(const dsv4_pool *pool);
int64_t dsv4_pool_used_bytes(const dsv4_pool *pool);

int64_t dsv4_pool_n_free(const dsv4_pool *pool, int kind);

/* A page with one reference; -1 when none is free. */
int32_t dsv4_pool_take(dsv4_pool *pool, int kind);

/* One more, one less reference; the page returns to the pool with its last one. */
void dsv4_pool_share(dsv4_pool *pool, int kind, int32_t page);
void dsv4_pool_drop(dsv4_pool *pool, int kind, int32_t page);

bool dsv4_pool_is_shared(const dsv4_pool *pool, int kind, int32_t page);

/* Copies the contents of a page, in all layers. */
void dsv4_pool_copy(dsv4_pool *pool, int kind, int32_t from, int32_t to);

#endif
