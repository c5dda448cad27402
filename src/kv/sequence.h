/*
 * sequence.h - one sequence: its tokens and the pages that hold its rows.
 *
 * Place: kv. Life of a step: reserve pages for n tokens, run the model on a view, then advance by them;
 * a failed step is simply not advanced. Old window and raw rows are given back as the sequence grows;
 * compressed rows stay. A fork shares all pages; whoever writes to a shared page copies it first. A rewind
 * within what is kept costs nothing; further back, the caller computes the tokens again from 0, which the
 * sequence remembers.
 */
#ifndef DSV4_KV_SEQUENCE_H
#define DSV4_KV_SEQUENCE_H

#include "pool.h"

typedef struct dsv4_sequence dsv4_sequence;

/* pool must outlive the sequence. Errors: OUT_OF_MEMORY. */
dsv4_status dsv4_sequence_create(dsv4_pool *pool, dsv4_sequence **sequence, dsv4_error *error);

/* Gives all pages back. Accepts NULL. */
void dsv4_sequence_free(dsv4_sequence *sequence);

/* Tokens that were advanced over, and how many. */
int64_t dsv4_sequence_n_tokens(const dsv4_sequence *sequence);
const int32_t *dsv4_sequence_tokens(const dsv4_sequence *sequence);

/*
 * Makes every page that the next n_new tokens write present and unshared.
 * Errors: OUT_OF_MEMORY when the pool has too few pages or the sequence no room: the text says which;
 * nothing has changed then. INVALID_ARGUMENT when n_new exceeds the pool's step_tokens.
 */
dsv4_status dsv4_sequence_reserve(dsv4_sequence *sequence, int64_t n_new, dsv4_error *error);

/* The page tables for the model; valid until the next call on this sequence. */
dsv4_cache_view dsv4_sequence_view(const dsv4_sequence *sequence);

/* The step on the reserved tokens succeeded: they are part of the sequence now. */
void dsv4_sequence_advance(dsv4_sequence *sequence, const int32_t *tokens, int64_t n_new);

/* A second sequence with the same past. Errors: OUT_OF_MEMORY. */
dsv4_status dsv4_sequence_fork(const dsv4_sequence *sequence, dsv4_sequence **fork,
                               dsv4_error *error);

/*
 * Forgets tokens from n_tokens on (0 .. the present length). Returns how many tokens are still computed:
 * n_tokens, or 0 when rows that are gone are needed; the caller then runs the first n_tokens tokens, which
 * dsv4_sequence_tokens still holds, again.
 */
int64_t dsv4_sequence_rewind(dsv4_sequence *sequence, int64_t n_tokens);

#endif
