/*
 * forward.h - one step of the model: a ragged batch of tokens in, logits out.
 *
 * Place: model. A batch is any mix of sequences, each with one or many tokens at its own positions (prefill
 * chunks and decode steps together), tokens of one sequence in ascending order of position without gaps.
 * Each token's cache rows are written, then it attends to what is written up to its own position. A
 * token's logits depend on its sequence alone: bit-equal in any batch.
 *
 * A context owns the memory of a step. It grows when a step is larger than any before and never
 * otherwise: steady-state steps allocate nothing. One context per thread of control; weights are shared.
 */
#ifndef DSV4_MODEL_FORWARD_H
#define DSV4_MODEL_FORWARD_H

#include "layer_cache.h"
#include "cpu/linear_cpu.h"
#include "weights.h"

typedef struct dsv4_batch {
    int64_t n_tokens;
    const int32_t *tokens;    /* [n_tokens] ids, 0 .. vocab_size - 1 */
    const int64_t *positions; /* [n_tokens] */
    const int32_t *sequences; /* [n_tokens] index into views */
    const dsv4_cache_view *views;

    const int32_t *logit_tokens; /* [n_logits] indices of the tokens whose logits are wanted */
    int64_t n_logits;
    float *logits; /* [n_logits, vocab_size] f32, written */
} dsv4_batch;

typedef struct dsv4_forward dsv4_forward;

/* Errors: OUT_OF_MEMORY. weights must outlive the context. */
dsv4_status dsv4_forward_create(const dsv4_weights *weights, int32_t numerics,
                                const dsv4_compute *compute, dsv4_forward **forward,
                                dsv4_error *error);

/* Accepts NULL. */
void dsv4_forward_free(dsv4_forward *forward);

/*
 * Runs one step. The caches must hold a page for every row that the step writes: the window and raw rows
 * of each token's position, the compressed rows of groups that end in the batch; and for every row that
 * it reads (specification 3.4, 3.6).
 * Errors: OUT_OF_MEMORY (growing); INVALID_ARGUMENT (token id, position, missing page: named). When a
 * step fails, cache rows of its tokens are unspecified and nothing else has changed.
 */
dsv4_status dsv4_forward_step(dsv4_forward *forward, const dsv4_cache *cache,
                              const dsv4_batch *batch, dsv4_error *error);

/*
 * Runs the MTP block after a step, on its tokens whose successor is known (specification 6): token i's
 * streams and the embedding of next_tokens[i], at position i, predict the token after the next. Fills
 * the block's window rows for those tokens.
 *   batch        the one of the last dsv4_forward_step, which must have succeeded
 *   next_tokens  [n_tokens], -1: unknown, the block is not run on that token
 *   logits       [n_logits, vocab_size] f32 for batch->logit_tokens, written; zero where the successor is
 *                unknown. NULL: only the cache is filled
 * Errors: as dsv4_forward_step; UNSUPPORTED when the model has no MTP block.
 */
dsv4_status dsv4_forward_mtp(dsv4_forward *forward, const dsv4_cache *cache,
                             const dsv4_batch *batch, const int32_t *next_tokens, float *logits,
                             dsv4_error *error);

/* The experts that the last layer of the last step chose: [n_tokens, n_active_experts]. */
const int32_t *dsv4_forward_last_experts(const dsv4_forward *forward);

/* How often the context has grown: stands still in steady state. */
int64_t dsv4_forward_n_growths(const dsv4_forward *forward);

#endif
