/*
 * model_run.h - fixtures of the model tests, and runs over them.
 *
 * Place: tests. A fixture is a small checkpoint with answers that are not the library's (golden.safetensors,
 * tests/gen/make_golden.py). An engine is a forward context and a pool whose pages start as NaN bytes, so
 * that a row which is read but was never written shows in the logits. What a run gives for each token is
 * one row: its logits, and behind them, where the model has an MTP block, those of the block (zeros
 * for a token whose successor is unknown). So whatever compares rows tests the block as well.
 */
#ifndef DSV4_TESTS_MODEL_RUN_H
#define DSV4_TESTS_MODEL_RUN_H

#include <stdbool.h>

#include "kv/sequence.h"
#include "model/forward.h"

enum { MODEL_MAX_STEP = 512 }; /* tokens that the buffers of one step hold */

typedef struct model_fixture {
    const char *name;
    dsv4_model_dir *dir;
    dsv4_weights weights;
    dsv4_safetensors *golden;
    const int32_t *tokens; /* [n_tokens] */
    int64_t n_tokens, vocab;
    int64_t width; /* of a row: vocab, or twice that with an MTP block */
} model_fixture;

typedef struct model_setup {
    int32_t numerics, cpu_level, n_threads;
} model_setup;

typedef struct model_engine {
    const model_fixture *fixture;
    dsv4_forward *forward;
    dsv4_pool *pool;
    float *logits, *mtp_logits; /* [MODEL_MAX_STEP, vocab] of one step */
    dsv4_error error;           /* of the last failure */
} model_engine;

/* A piece of a sequence that a step computes. */
typedef struct model_piece {
    dsv4_sequence *sequence;
    const int32_t *tokens; /* [n_tokens] */
    int64_t n_tokens;
    int32_t following; /* the token after them; -1 when there is none */
    float *rows;       /* [n_tokens, width], written; NaN when the step fails */
} model_piece;

/* Ends the program with a message: for what no test is about. */
_Noreturn void model_die(const char *what, const dsv4_error *error);

void *model_alloc(int64_t count, size_t element_bytes);

void model_fixture_open(model_fixture *fixture, const char *folder, const char *name);
void model_fixture_close(model_fixture *fixture);

/* A tensor of the fixture's answers, [*n_rows, vocab] f32; NULL when it has none of this name. */
const float *model_fixture_answer(const model_fixture *fixture, const char *name, int64_t *n_rows);

/* Options of a pool for one sequence as long as the fixture, and a little more. */
dsv4_pool_options model_pool_options(const model_fixture *fixture, const model_setup *setup);

void model_engine_make(model_engine *engine, const model_fixture *fixture, const model_setup *setup,
                       const dsv4_pool_options *options);

/* All sequences must be freed. Returns the bytes that the pool still counts as held: leaked pages. */
int64_t model_engine_free(model_engine *engine);

dsv4_sequence *model_sequence_make(const model_engine *engine);

/*
 * One step of pieces of different sequences (MODEL_MAX_STEP tokens at most). order[i] is the piece of the
 * batch's i-th token; NULL: one piece after the other. False on an error, then in engine->error.
 */
bool model_step(model_engine *engine, const model_piece *pieces, int64_t n_pieces,
                const int32_t *order);

/* One step of one sequence. */
bool model_feed(model_engine *engine, const model_piece *piece);

/*
 * Feeds the fixture's tokens from the sequence's present length up to `end` in steps of `chunk`.
 *   rows [end - present length, width] written
 */
bool model_feed_chunks(model_engine *engine, dsv4_sequence *sequence, int64_t end, int64_t chunk,
                       float *rows);

/* [n_tokens, width] of the fixture's tokens in one step of a fresh sequence; to be freed. */
float *model_reference(const model_fixture *fixture, const model_setup *setup);

#endif
