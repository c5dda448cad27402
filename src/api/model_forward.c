/*
 * model_forward.c - forward calls: any mix of sessions, split into rounds.
 *
 * Place: api. A round takes up to step_tokens of every entry that is not through and runs them as one
 * step. Invariants: a round that fails leaves every session as it was before it, without the pages that
 * were reserved for it; tokens and lengths are checked before the first round.
 */
#include "api_model.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"

/* A call, and the MTP block's part of it. */
typedef struct call {
    dsv4_model *model;
    const dsv4_forward_entry *entries;
    int64_t n_entries;
    bool with_mtp;
    const int32_t *next_tokens; /* NULL: those of the entry itself */
    float *mtp_logits;
} call;

void dsv4_round_free(dsv4_round *round)
{
    free(round->tokens);
    free(round->positions);
    free(round->sequences);
    free(round->logit_tokens);
    free(round->logit_rows);
    free(round->next_tokens);
    free(round->views);
    free(round->n_done);
    free(round->logits);
}

int64_t dsv4_model_n_growths(const dsv4_model *model)
{
    return model->round.n_growths + dsv4_forward_n_growths(model->forward);
}

/* ---- checks ---- */

dsv4_status dsv4_model_check_tokens(const dsv4_model *model, const char *name,
                                    const int32_t *tokens, int64_t n_tokens, dsv4_error *error)
{
    if (n_tokens < 1 || tokens == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "%s: %" PRId64 " tokens%s, expected 1 or more", name, n_tokens,
                              tokens == NULL ? " at NULL" : "");
    }
    int64_t n_vocab = dsv4_model_n_vocab(model);
    for (int64_t i = 0; i < n_tokens; i++) {
        if (tokens[i] >= 0 && tokens[i] < n_vocab) continue;
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "%s[%" PRId64 "]: id %" PRId32 ", expected 0 .. %" PRId64, name, i,
                              tokens[i], n_vocab - 1);
    }
    return DSV4_OK;
}

static dsv4_status check_entry(const call *c, int64_t index, dsv4_error *error)
{
    const dsv4_forward_entry *entry = &c->entries[index];
    char name[64];
    if (entry->session == NULL || entry->session->model != c->model) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "entries[%" PRId64 "]: %s, expected a session of this model", index,
                              entry->session == NULL ? "session is NULL"
                                                     : "a session of another model");
    }
    for (int64_t i = 0; i < index; i++) {
        if (c->entries[i].session != entry->session) continue;
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "entries[%" PRId64 "]: the session of entries[%" PRId64
                              "], expected each session once",
                              index, i);
    }
    (void)snprintf(name, sizeof name, "entries[%" PRId64 "].tokens", index);
    DSV4_TRY(dsv4_model_check_tokens(c->model, name, entry->tokens, entry->n_tokens, error));
    if (entry->n_logits < 0 || entry->n_logits > entry->n_tokens) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "entries[%" PRId64 "].n_logits: %" PRId64 ", expected 0 .. %" PRId64
                              " (n_tokens)",
                              index, entry->n_logits, entry->n_tokens);
    }
    if (entry->n_logits > 0 && entry->logits == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "entries[%" PRId64 "].logits: is NULL, but n_logits is %" PRId64,
                              index, entry->n_logits);
    }
    int64_t n_tokens = dsv4_session_n_tokens(entry->session);
    int64_t max_tokens = dsv4_model_max_tokens(c->model);
    if (entry->n_tokens > max_tokens - n_tokens) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "entries[%" PRId64 "]: a session of %" PRId64 " tokens and %" PRId64
                              " more, expected at most %" PRId64,
                              index, n_tokens, entry->n_tokens, max_tokens);
    }
    return DSV4_OK;
}

/* ---- memory ---- */

/* Memory for n elements in place of an old one; NULL when there is none. */
static void *renew(void *old, size_t n, size_t element_bytes)
{
    size_t len_bytes;
    free(old);
    return dsv4_checked_mul(n, element_bytes, &len_bytes) ? malloc(len_bytes) : NULL;
}

static dsv4_status grow_tokens(dsv4_round *round, int64_t n_tokens, dsv4_error *error)
{
    if (n_tokens <= round->max_tokens) return DSV4_OK;
    size_t n = (size_t)n_tokens;
    round->max_tokens = 0;
    round->n_growths++;
    round->tokens = renew(round->tokens, n, sizeof *round->tokens);
    round->positions = renew(round->positions, n, sizeof *round->positions);
    round->sequences = renew(round->sequences, n, sizeof *round->sequences);
    round->logit_tokens = renew(round->logit_tokens, n, sizeof *round->logit_tokens);
    round->logit_rows = renew(round->logit_rows, n, sizeof *round->logit_rows);
    round->next_tokens = renew(round->next_tokens, n, sizeof *round->next_tokens);
    if (round->tokens == NULL || round->positions == NULL || round->sequences == NULL ||
        round->logit_tokens == NULL || round->logit_rows == NULL || round->next_tokens == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "forward: no memory for a step of %" PRId64 " tokens", n_tokens);
    }
    round->max_tokens = n_tokens;
    return DSV4_OK;
}

static dsv4_status grow_logits(dsv4_round *round, int64_t n_logits, int64_t n_vocab,
                               dsv4_error *error)
{
    if (n_logits <= round->max_logits) return DSV4_OK;
    round->max_logits = 0;
    round->n_growths++;
    round->logits = renew(round->logits, (size_t)n_logits, (size_t)n_vocab * sizeof *round->logits);
    if (round->logits == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "forward: no memory for %" PRId64 " rows of logits", n_logits);
    }
    round->max_logits = n_logits;
    return DSV4_OK;
}

/* ---- a round ---- */

/* Tokens of an entry that this round runs; 0 when it is through. */
static int64_t share_of(const call *c, int64_t index)
{
    int64_t left = c->entries[index].n_tokens - c->model->round.n_done[index];
    return left < c->model->options.step_tokens ? left : c->model->options.step_tokens;
}

/* Gives back what was reserved beyond each session's tokens. */
static void unreserve(const call *c)
{
    for (int64_t i = 0; i < c->n_entries; i++) {
        dsv4_sequence *sequence = c->entries[i].session->sequence;
        (void)dsv4_sequence_rewind(sequence, dsv4_sequence_n_tokens(sequence));
    }
}

static dsv4_status reserve(const call *c, dsv4_error *error)
{
    for (int64_t i = 0; i < c->n_entries; i++) {
        dsv4_error cause;
        dsv4_sequence *sequence = c->entries[i].session->sequence;
        dsv4_status status = dsv4_sequence_reserve(sequence, share_of(c, i), &cause);
        if (status != DSV4_OK) {
            return dsv4_error_set(error, status, "entries[%" PRId64 "]: %.400s", i, cause.text);
        }
    }
    return DSV4_OK;
}

/* Adds an entry's share to the batch, and the rows of its logits. */
static void add_share(const call *c, int64_t index, dsv4_batch *batch)
{
    const dsv4_forward_entry *entry = &c->entries[index];
    dsv4_round *round = &c->model->round;
    const dsv4_sequence *sequence = entry->session->sequence;
    int64_t n_done = round->n_done[index], n_share = share_of(c, index);
    int64_t first_position = dsv4_sequence_n_tokens(sequence);
    int64_t first_logit = entry->n_tokens - entry->n_logits;
    round->views[index] = dsv4_sequence_view(sequence);
    for (int64_t i = 0; i < n_share; i++) {
        int64_t at = batch->n_tokens++;
        round->tokens[at] = entry->tokens[n_done + i];
        round->positions[at] = first_position + i;
        round->sequences[at] = (int32_t)index;
        int64_t row = n_done + i - first_logit;
        if (row < 0) continue;
        round->logit_tokens[batch->n_logits] = (int32_t)at;
        round->logit_rows[batch->n_logits++] = entry->logits + row * dsv4_model_n_vocab(c->model);
    }
}

/* Rows of the batch lie one after the other where only one entry wants some: no copy is needed. */
static bool is_one_block(const dsv4_round *round, int64_t n_logits, int64_t n_vocab)
{
    for (int64_t i = 1; i < n_logits; i++) {
        if (round->logit_rows[i] != round->logit_rows[i - 1] + n_vocab) return false;
    }
    return true;
}

static dsv4_status run_batch(const call *c, dsv4_batch *batch, dsv4_error *error)
{
    dsv4_model *model = c->model;
    dsv4_round *round = &model->round;
    const dsv4_cache *cache = dsv4_pool_cache(model->pool);
    int64_t n_vocab = dsv4_model_n_vocab(model);
    bool copies = !is_one_block(round, batch->n_logits, n_vocab);
    if (copies) {
        DSV4_TRY(grow_logits(round, batch->n_logits, n_vocab, error));
        batch->logits = round->logits;
    } else if (batch->n_logits > 0) {
        batch->logits = round->logit_rows[0];
    }
    DSV4_TRY(dsv4_forward_step(model->forward, cache, batch, error));
    if (c->with_mtp) {
        for (int64_t i = 0; i < batch->n_tokens; i++) {
            bool is_last = i + 1 == batch->n_tokens;
            round->next_tokens[i] = is_last ? -1 : batch->tokens[i + 1];
            if (c->next_tokens != NULL) round->next_tokens[i] = c->next_tokens[i];
        }
        DSV4_TRY(dsv4_forward_mtp(model->forward, cache, batch, round->next_tokens, c->mtp_logits,
                                  error));
    }
    for (int64_t i = 0; copies && i < batch->n_logits; i++) {
        memcpy(round->logit_rows[i], round->logits + i * n_vocab,
               (size_t)n_vocab * sizeof *round->logits);
    }
    return DSV4_OK;
}

static dsv4_status try_round(const call *c, int64_t n_tokens, dsv4_error *error)
{
    dsv4_round *round = &c->model->round;
    DSV4_TRY(grow_tokens(round, n_tokens, error));
    DSV4_TRY(reserve(c, error));
    dsv4_batch batch = {
        .tokens = round->tokens,
        .positions = round->positions,
        .sequences = round->sequences,
        .views = round->views,
        .logit_tokens = round->logit_tokens,
    };
    for (int64_t i = 0; i < c->n_entries; i++) add_share(c, i, &batch);
    return run_batch(c, &batch, error);
}

static dsv4_status run_round(const call *c, int64_t n_tokens, dsv4_error *error)
{
    dsv4_round *round = &c->model->round;
    dsv4_status status = try_round(c, n_tokens, error);
    if (status != DSV4_OK) {
        unreserve(c);
        return status;
    }
    const int32_t *tokens = round->tokens;
    for (int64_t i = 0; i < c->n_entries; i++) {
        int64_t n_share = share_of(c, i);
        dsv4_sequence_advance(c->entries[i].session->sequence, tokens, n_share);
        round->n_done[i] += n_share;
        tokens += n_share;
    }
    return DSV4_OK;
}

static dsv4_status run_call(const call *c, dsv4_error *error)
{
    for (int64_t i = 0; i < c->n_entries; i++) DSV4_TRY(check_entry(c, i, error));
    /* Sessions are different ones, so there are no more entries than the arrays have room for. */
    for (int64_t i = 0; i < c->n_entries; i++) c->model->round.n_done[i] = 0;
    for (;;) {
        int64_t n_tokens = 0;
        for (int64_t i = 0; i < c->n_entries; i++) n_tokens += share_of(c, i);
        if (n_tokens == 0) return DSV4_OK;
        if (n_tokens > INT32_MAX) {
            return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                                  "forward: a step of %" PRId64 " tokens, expected at most %" PRId32
                                  ": call with fewer sessions",
                                  n_tokens, INT32_MAX);
        }
        DSV4_TRY(run_round(c, n_tokens, error));
    }
}

dsv4_status dsv4_model_forward(dsv4_model *model, const dsv4_forward_entry *entries,
                               int64_t n_entries, dsv4_error *error)
{
    const call c = {.model = model, .entries = entries, .n_entries = n_entries};
    if (n_entries < 0 || (n_entries > 0 && entries == NULL)) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "n_entries: %" PRId64 "%s, expected 0 or more", n_entries,
                              entries == NULL ? " at NULL" : "");
    }
    return run_call(&c, error);
}

dsv4_status dsv4_model_forward_mtp(dsv4_model *model, const dsv4_forward_entry *entry,
                                   const int32_t *next_tokens, float *mtp_logits, dsv4_error *error)
{
    const call c = {.model = model,
                    .entries = entry,
                    .n_entries = 1,
                    .with_mtp = true,
                    .next_tokens = next_tokens,
                    .mtp_logits = mtp_logits};
    if (entry->n_tokens > model->options.step_tokens) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "mtp: %" PRId64 " tokens, expected at most %" PRId64 " (step_tokens)",
                              entry->n_tokens, model->options.step_tokens);
    }
    return run_call(&c, error);
}

dsv4_status dsv4_model_draft(dsv4_model *model, const dsv4_session *session, int64_t n_fed,
                             int64_t n_rows, int32_t confirmed, int32_t last, float *logits,
                             dsv4_error *error)
{
    dsv4_round *round = &model->round;
    int64_t at = n_fed - 1 - (n_rows == 2 && confirmed < 0);
    for (int64_t i = 0; i < n_fed; i++) round->next_tokens[i] = -1;
    if (confirmed >= 0) round->next_tokens[at - 1] = confirmed;
    round->next_tokens[at] = last;
    round->views[0] = dsv4_sequence_view(session->sequence);
    round->logit_tokens[0] = (int32_t)at;
    const dsv4_batch batch = {
        .n_tokens = n_fed,
        .tokens = round->tokens,
        .positions = round->positions,
        .sequences = round->sequences,
        .views = round->views,
        .logit_tokens = round->logit_tokens,
        .n_logits = 1,
        .logits = logits,
    };
    return dsv4_forward_mtp(model->forward, dsv4_pool_cache(model->pool), &batch,
                            round->next_tokens, logits, error);
}
