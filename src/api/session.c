/*
 * session.c - sessions: their life, rewinding.
 *
 * Place: api. A session is a sequence of the model's pool; what it computes goes through
 * dsv4_model_forward.
 */
#include "api_model.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/error.h"

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
