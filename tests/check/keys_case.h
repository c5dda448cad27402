/*
 * keys_case.h - random cases of the operations of dsv4/keys.h, as one image of memory.
 *
 * Place: tests. All tensors of a case lie in one block, between guard bytes, so that a backend runs on a
 * copy of the block and whole blocks are compared: outputs, caches, state, what must not be written,
 * everything. Memory that nothing has written is 0xff: NaN to whoever reads it.
 */
#ifndef DSV4_TESTS_KEYS_CASE_H
#define DSV4_TESTS_KEYS_CASE_H

#include <stdbool.h>
#include <stddef.h>

#include "attn_rng.h"
#include "dsv4/keys.h"

enum { KEYS_DIM = 512, KEYS_ROPE = 64, KEYS_NOPE = 448, KEYS_TEXT_BYTES = 256 };

enum { KEYS_FINISH = 0, KEYS_COMPRESS, KEYS_READ, KEYS_N_OPS };

typedef struct keys_case {
    int op; /* KEYS_* */
    attn_rng rng;
    bool for_gpu; /* caches and state as the device wants them */

    uint8_t *image; /* [capacity_bytes], of which used_bytes are the case */
    size_t used_bytes, capacity_bytes;

    /* Pointers are into the image; only those of `op` are set. */
    dsv4_keys_finish_params finish;
    dsv4_keys_compress_params compress;
    dsv4_keys_read_params read;

    /* Compression: what was computed before the call. Raw rows are functions of request and position. */
    uint64_t seed;
} keys_case;

/* Draws case `id` of an operation. The image is the case's until the next draw; keys_case_free in the end. */
void keys_case_draw(keys_case *c, int op, uint64_t id, bool for_gpu);
void keys_case_free(keys_case *c);

/* One line: shapes and options. */
void keys_case_describe(const keys_case *c, char text[KEYS_TEXT_BYTES]);

/* The case's params with every pointer moved from its image to `base`, computed by `backend`, at once. */
dsv4_status keys_case_call(const keys_case *c, void *base, int32_t backend, void *stream,
                           dsv4_error *error);

/* Value of channel i of a token's raw row, before the bias: K, or G. */
float keys_raw_value(const keys_case *c, int32_t request, int32_t position, int64_t i,
                     bool is_gate);

/* Makes all NaN of outputs in an image of the case the same. */
void keys_case_level_nan(const keys_case *c, uint8_t *image);

/* n_bytes at a multiple of align_bytes, plus skew_bytes, behind and before guard bytes; filled with 0xff. */
void *keys_case_take(keys_case *c, size_t n_bytes, size_t align_bytes, size_t skew_bytes);

#endif
