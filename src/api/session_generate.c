/*
 * session_generate.c - generation of text, one token or one token and a draft at a time.
 *
 * Place: api. With drafts, the MTP block guesses the token after the next (specification 6); both go
 * through the model in one step, and the guess stays only when sampling chooses it. Logits do not depend
 * on what else is in a step, and each reported token takes one draw: the text is that of plain decoding,
 * bit for bit. Invariant: a draft that is not confirmed is taken out of the session before anything else.
 */
#include "api_model.h"

#include <inttypes.h>

#include "base/error.h"
#include "engine/sampler.h"

typedef struct generation {
    dsv4_session *session;
    const dsv4_sampling *sampling;
    uint64_t random;
    int64_t max_new, n_new; /* reported */
    int64_t n_kept;         /* of those, in the session */
    dsv4_on_token *on_token;
    void *context;
    bool drafts;
    int64_t n_fed;  /* tokens of the last step */
    int64_t n_rows; /* rows of its logits: 1, or 2 with a draft */
    int32_t draft;  /* the step's second token, when n_rows is 2 */
} generation;

/* What came of the rows of a step. */
typedef struct outcome {
    int32_t last; /* the token that was reported last and is not in the session; -1: none */
    bool confirmed, goes_on;
} outcome;

static float *row_logits(const generation *g, int64_t row)
{
    dsv4_model *model = g->session->model;
    return model->sample_logits + row * dsv4_model_n_vocab(model);
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

/* Appends tokens; the last n_rows of them leave their logits in the model's memory. */
static dsv4_status append(generation *g, const int32_t *tokens, int64_t n_tokens, int64_t n_rows,
                          dsv4_error *error)
{
    const dsv4_forward_entry entry = {
        .session = g->session,
        .tokens = tokens,
        .n_tokens = n_tokens,
        .n_logits = n_rows,
        .logits = n_rows > 0 ? row_logits(g, 0) : NULL,
    };
    g->n_fed = n_tokens;
    g->n_rows = n_rows;
    return dsv4_model_forward(g->session->model, &entry, 1, error);
}

/* Appends the prompt, with the MTP block behind every token whose successor it tells. */
static dsv4_status append_prompt(generation *g, const int32_t *prompt, int64_t n_prompt,
                                 dsv4_error *error)
{
    dsv4_model *model = g->session->model;
    int64_t n_rows = g->max_new > 0;
    if (!g->drafts) return append(g, prompt, n_prompt, n_rows, error);
    for (int64_t done = 0; done < n_prompt;) {
        int64_t n_left = n_prompt - done, n = model->options.step_tokens;
        if (n > n_left) n = n_left;
        dsv4_forward_entry entry = {.session = g->session, .tokens = prompt + done, .n_tokens = n};
        if (n < n_left) {
            DSV4_TRY(dsv4_model_forward_mtp(model, &entry, prompt + done + 1, NULL, error));
        } else {
            entry.n_logits = n_rows;
            entry.logits = row_logits(g, 0);
            DSV4_TRY(dsv4_model_forward_mtp(model, &entry, NULL, NULL, error));
            g->n_fed = n;
            g->n_rows = n_rows;
        }
        done += n;
    }
    return DSV4_OK;
}

/* Samples from a row and reports; *id is -1 where the text ends. */
static dsv4_status take_token(generation *g, int64_t row, int32_t *id, bool *goes_on,
                              dsv4_error *error)
{
    dsv4_model *model = g->session->model;
    int32_t chosen = dsv4_sample(g->sampling, row_logits(g, row), dsv4_model_n_vocab(model),
                                 &g->random, model->sample_scratch);
    *id = -1;
    *goes_on = false;
    if (chosen == DSV4_SAMPLE_NONE) {
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                              "generate: every logit after token %" PRId64
                              " is NaN: the weights are damaged",
                              dsv4_session_n_tokens(g->session) - g->n_rows + 1 + row);
    }
    if (chosen == dsv4_model_eos(model)) return DSV4_OK;
    if (row == g->n_rows - 1) DSV4_TRY(reserve_token(g->session, error));
    size_t len_bytes;
    const char *bytes = dsv4_model_token_bytes(model, chosen, &len_bytes);
    bool stops = g->on_token != NULL && g->on_token(g->context, chosen, bytes, len_bytes) != 0;
    g->n_new++;
    *id = chosen;
    *goes_on = !stops && g->n_new < g->max_new;
    return DSV4_OK;
}

/* Takes the tokens that the step's rows give, and an unconfirmed draft out of the session. */
static dsv4_status take_rows(generation *g, outcome *o, dsv4_error *error)
{
    *o = (outcome){.last = -1};
    dsv4_status status = take_token(g, 0, &o->last, &o->goes_on, error);
    if (g->n_rows == 1) return status;
    o->confirmed = status == DSV4_OK && o->last == g->draft;
    if (!o->confirmed) {
        DSV4_TRY(dsv4_session_rewind(g->session, dsv4_session_n_tokens(g->session) - 1, error));
        return status;
    }
    g->session->model->n_accepted++;
    g->n_kept++;
    o->last = -1;
    return o->goes_on ? take_token(g, 1, &o->last, &o->goes_on, error) : DSV4_OK;
}

/* What may follow `last`: the MTP block's choice, -1 when it has none. */
static dsv4_status draft_token(generation *g, const outcome *o, int32_t *draft, dsv4_error *error)
{
    dsv4_model *model = g->session->model;
    float *logits = row_logits(g, 2);
    DSV4_TRY(dsv4_model_draft(model, g->session, g->n_fed, g->n_rows, o->confirmed ? g->draft : -1,
                              o->last, logits, error));
    const dsv4_sampling greedy = {.size = sizeof greedy, .top_p = 1.0f};
    uint64_t unused = 0;
    *draft =
        dsv4_sample(&greedy, logits, dsv4_model_n_vocab(model), &unused, model->sample_scratch);
    return DSV4_OK;
}

/* Runs the next step: the last token, and a draft where there is one and room for it. */
static dsv4_status run_step(generation *g, const outcome *o, dsv4_error *error)
{
    dsv4_model *model = g->session->model;
    int32_t tokens[2] = {o->last, -1};
    int64_t n_tokens = dsv4_session_n_tokens(g->session);
    bool has_room = n_tokens + 2 <= dsv4_model_max_tokens(model) && g->n_new + 1 < g->max_new &&
                    model->options.step_tokens > 1;
    if (g->drafts && has_room) DSV4_TRY(draft_token(g, o, &tokens[1], error));
    g->draft = tokens[1];
    dsv4_status status = DSV4_ERROR_OUT_OF_MEMORY;
    if (g->draft >= 0 && g->draft != dsv4_model_eos(model)) {
        status = append(g, tokens, 2, 2, error);
        model->n_drafted += status == DSV4_OK;
    }
    /* No draft, or no page for it. */
    if (status == DSV4_ERROR_OUT_OF_MEMORY) status = append(g, tokens, 1, 1, error);
    if (status == DSV4_OK) g->n_kept++;
    return status;
}

static dsv4_status generate(generation *g, const int32_t *prompt, int64_t n_prompt,
                            dsv4_error *error)
{
    DSV4_TRY(append_prompt(g, prompt, n_prompt, error));
    outcome o = {.goes_on = g->max_new > 0};
    while (o.goes_on) {
        DSV4_TRY(take_rows(g, &o, error));
        if (o.goes_on) DSV4_TRY(run_step(g, &o, error));
    }
    if (g->max_new == 0 || o.last < 0) return DSV4_OK;
    DSV4_TRY(append(g, &o.last, 1, 0, error));
    g->n_kept++;
    return DSV4_OK;
}

dsv4_status dsv4_session_generate(dsv4_session *session, const int32_t *prompt, int64_t n_prompt,
                                  const dsv4_sampling *sampling, int64_t max_new,
                                  dsv4_on_token *on_token, void *context, int64_t *n_new,
                                  dsv4_error *error)
{
    generation g = {.session = session,
                    .sampling = sampling,
                    .max_new = max_new,
                    .on_token = on_token,
                    .context = context,
                    .drafts = session->model->options.n_draft > 0};
    *n_new = 0;
    DSV4_TRY(dsv4_sampling_check(sampling, error));
    DSV4_TRY(dsv4_model_check_tokens(session->model, "prompt", prompt, n_prompt, error));
    if (max_new < 0) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "max_new: %" PRId64 ", expected 0 or more", max_new);
    }
    g.random = sampling->seed;
    dsv4_status status = generate(&g, prompt, n_prompt, error);
    *n_new = g.n_kept;
    return status;
}
