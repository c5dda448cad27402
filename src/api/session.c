/*
 * session.c - sessions: their life, rewinding, generation.
 *
 * Place: api. A session is a sequence of the model's pool; what it computes goes through
 * dsv4_model_forward.
 */
#include "api_model.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/error.h"
#include "engine/sampler.h"

static dsv4_status make_session(dsv4_model *model, dsv4_session **session, dsv4_error *error)
{
    if (model->n_sessions >= model->options.n_sessions) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "sessions: %" PRId64 " are open, expected at most %" PRId32
                              " (n_sessions)",
                              model->n_sessions, model->options.n_sessions);
    }
    dsv4_session *made = calloc(1, sizeof *made);
    if (made == NULL) return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "session: no memory");
    made->model = model;
    *session = made;
    return DSV4_OK;
}

/* Hands a made session out when it got its sequence. */
static dsv4_status finish_session(dsv4_session *made, dsv4_status status, dsv4_session **session)
{
    if (status != DSV4_OK) {
        free(made);
        return status;
    }
    made->model->n_sessions++;
    *session = made;
    return DSV4_OK;
}

dsv4_status dsv4_session_create(dsv4_model *model, dsv4_session **session, dsv4_error *error)
{
    dsv4_session *made = NULL;
    DSV4_TRY(make_session(model, &made, error));
    return finish_session(made, dsv4_sequence_create(model->pool, &made->sequence, error), session);
}

dsv4_status dsv4_session_fork(const dsv4_session *session, dsv4_session **fork, dsv4_error *error)
{
    dsv4_session *made = NULL;
    DSV4_TRY(make_session(session->model, &made, error));
    return finish_session(made, dsv4_sequence_fork(session->sequence, &made->sequence, error),
                          fork);
}

void dsv4_session_free(dsv4_session *session)
{
    if (session == NULL) return;
    dsv4_sequence_free(session->sequence);
    session->model->n_sessions--;
    free(session);
}

int64_t dsv4_session_n_tokens(const dsv4_session *session)
{
    return dsv4_sequence_n_tokens(session->sequence);
}

const int32_t *dsv4_session_tokens(const dsv4_session *session)
{
    return dsv4_sequence_tokens(session->sequence);
}

dsv4_status dsv4_session_rewind(dsv4_session *session, int64_t n_tokens, dsv4_error *error)
{
    if (n_tokens < 0 || n_tokens > dsv4_session_n_tokens(session)) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "rewind: to %" PRId64 " tokens, expected 0 .. %" PRId64, n_tokens,
                              dsv4_session_n_tokens(session));
    }
    int64_t n_computed = dsv4_sequence_rewind(session->sequence, n_tokens);
    if (n_computed == n_tokens) return DSV4_OK;
    const dsv4_forward_entry again = {
        .session = session,
        .tokens = dsv4_session_tokens(session) + n_computed,
        .n_tokens = n_tokens - n_computed,
    };
    return dsv4_model_forward(session->model, &again, 1, error);
}

/* ---- generation ---- */

/* Appends tokens; the last one's logits go to the model's memory when they are wanted. */
static dsv4_status append(dsv4_session *session, const int32_t *tokens, int64_t n_tokens,
                          bool wants_logits, dsv4_error *error)
{
    const dsv4_forward_entry entry = {
        .session = session,
        .tokens = tokens,
        .n_tokens = n_tokens,
        .n_logits = wants_logits,
        .logits = wants_logits ? session->model->sample_logits : NULL,
    };
    return dsv4_model_forward(session->model, &entry, 1, error);
}

/* A token that is reported must find room: asks for it before. */
static dsv4_status reserve_token(dsv4_session *session, dsv4_error *error)
{
    int64_t max_tokens = dsv4_model_max_tokens(session->model);
    if (dsv4_session_n_tokens(session) >= max_tokens) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "session: full: %" PRId64 " tokens, expected at most that many",
                              max_tokens);
    }
    return dsv4_sequence_reserve(session->sequence, 1, error);
}

/* Samples, reports and appends one token; *goes_on is false after the last one. */
static dsv4_status generate_token(dsv4_session *session, const dsv4_sampling *sampling,
                                  uint64_t *state, bool is_last, dsv4_on_token *on_token,
                                  void *context, int64_t *n_new, bool *goes_on, dsv4_error *error)
{
    dsv4_model *model = session->model;
    int32_t id = dsv4_sample(sampling, model->sample_logits, dsv4_model_n_vocab(model), state,
                             model->sample_scratch);
    *goes_on = false;
    if (id == DSV4_SAMPLE_NONE) {
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                              "generate: every logit after token %" PRId64
                              " is NaN: the weights are damaged",
                              dsv4_session_n_tokens(session));
    }
    if (id == dsv4_model_eos(model)) return DSV4_OK;
    DSV4_TRY(reserve_token(session, error));
    size_t len_bytes;
    const char *bytes = dsv4_model_token_bytes(model, id, &len_bytes);
    bool stops = on_token != NULL && on_token(context, id, bytes, len_bytes) != 0;
    *goes_on = !stops && !is_last;
    DSV4_TRY(append(session, &id, 1, *goes_on, error));
    *n_new += 1;
    return DSV4_OK;
}

dsv4_status dsv4_session_generate(dsv4_session *session, const int32_t *prompt, int64_t n_prompt,
                                  const dsv4_sampling *sampling, int64_t max_new,
                                  dsv4_on_token *on_token, void *context, int64_t *n_new,
                                  dsv4_error *error)
{
    *n_new = 0;
    DSV4_TRY(dsv4_sampling_check(sampling, error));
    DSV4_TRY(dsv4_model_check_tokens(session->model, "prompt", prompt, n_prompt, error));
    if (max_new < 0) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "max_new: %" PRId64 ", expected 0 or more", max_new);
    }
    DSV4_TRY(append(session, prompt, n_prompt, max_new > 0, error));
    uint64_t state = sampling->seed;
    bool goes_on = max_new > 0;
    while (goes_on) {
        DSV4_TRY(generate_token(session, sampling, &state, *n_new + 1 == max_new, on_token, context,
                                n_new, &goes_on, error));
    }
    return DSV4_OK;
}
