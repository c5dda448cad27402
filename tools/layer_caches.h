/*
 * layer_caches.h - the caches of a one-layer model, as if sequences had run up to a position.
 *
 * Place: program, bench. A pool as a real model has it (kv/pool.h), whose every row of every page holds
 * valid random content; sequences hold the pages that so many tokens would have left them.
 */
#ifndef DSV4_TOOLS_LAYER_CACHES_H
#define DSV4_TOOLS_LAYER_CACHES_H

#include "kv/sequence.h"

typedef struct dsv4_layer_caches {
    dsv4_pool *pool;
    dsv4_sequence **sequences; /* [n_sequences] */
    dsv4_cache_view *views;    /* [n_sequences], with a page for one more token */
    int64_t n_sequences;
} dsv4_layer_caches;

/* Close it also after a failure. Errors: OUT_OF_MEMORY, INVALID_ARGUMENT (more than limit_bytes). */
dsv4_status dsv4_layer_caches_open(const dsv4_config *config, int32_t numerics, int64_t n_sequences,
                                   int64_t context, int64_t limit_bytes, dsv4_layer_caches *caches,
                                   dsv4_error *error);
void dsv4_layer_caches_close(dsv4_layer_caches *caches);

#endif
