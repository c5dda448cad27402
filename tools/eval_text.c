/*
 * eval_text.c - `dsv4 eval --task text` and `--task drafts`.
 *
 * Place: program. The file holds windows of text, tokens I32 [n][T], and another engine's losses of their
 * next tokens, F32 [n][T - 1] in nats. Text compares perplexities. Drafts goes on from the beginning of each
 * window, with and without drafts of the MTP block: the text must be the same.
 */
#include "eval_text.h"

#include "api/api_model.h"
#include "base/error.h"
#include "bench_clock.h"
#include "commands.h"
#include "io/safetensors.h"
#include "model_call.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 128, N_PROMPT = 160, N_GENERATED = 64 };

typedef struct text {
    const dsv4_options *options;
    dsv4_safetensors *file;
    dsv4_model *model;
    int64_t n_windows, n_tokens; /* of a window */
    const int32_t *tokens;       /* [n_windows, n_tokens] */
    const float *losses;         /* [n_windows, n_tokens - 1] */
} text;

/* ---- the file ---- */

static dsv4_status find_tensor(const text *t, const char *name, int32_t dtype, int64_t n_rows,
                               const dsv4_tensor_view **view, dsv4_error *error)
{
    *view = dsv4_safetensors_find(t->file, name);
    const dsv4_tensor_view *v = *view;
    if (v != NULL && v->dtype == dtype && v->rank == 2 && (n_rows == 0 || v->shape[0] == n_rows) &&
        (uintptr_t)v->data % sizeof(float) == 0) {
        return DSV4_OK;
    }
    return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                          "%.300s: tensor %s is %s, expected %s of rank 2, aligned",
                          t->options->texts[DSV4_OPTION_GOLDEN], name,
                          v == NULL ? "missing" : dsv4_safetensors_dtype_name(v->dtype),
                          dsv4_safetensors_dtype_name(dtype));
}

static dsv4_status read_file(text *t, dsv4_error *error)
{
    const char *path = t->options->texts[DSV4_OPTION_GOLDEN];
    const dsv4_tensor_view *tokens, *losses;
    DSV4_TRY(dsv4_safetensors_open(path, &t->file, error));
    DSV4_TRY(find_tensor(t, "tokens", DSV4_SAFETENSORS_I32, 0, &tokens, error));
    t->n_windows = tokens->shape[0];
    t->n_tokens = tokens->shape[1];
    DSV4_TRY(find_tensor(t, "losses", DSV4_SAFETENSORS_F32, t->n_windows, &losses, error));
    if (t->n_windows < 1 || t->n_tokens <= N_PROMPT || losses->shape[1] != t->n_tokens - 1) {
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                              "%.300s: tokens [%" PRId64 "][%" PRId64 "] and losses [%" PRId64
                              "][%" PRId64 "], expected more than %d tokens and a loss fewer",
                              path, t->n_windows, t->n_tokens, losses->shape[0], losses->shape[1],
                              N_PROMPT);
    }
    t->tokens = tokens->data;
    t->losses = losses->data;
    return DSV4_OK;
}

static dsv4_status open_model(text *t, int32_t n_draft, dsv4_error *error)
{
    dsv4_model_options model_options;
    dsv4_model_options_default(&model_options);
    dsv4_model_call_options(t->options, &model_options);
    model_options.n_sessions = 1;
    model_options.n_tokens = t->n_tokens + N_GENERATED;
    model_options.n_draft = n_draft;
    dsv4_model_close(t->model);
    t->model = NULL;
    return dsv4_model_call_open(t->options, &model_options, &t->model, error);
}

/* ---- perplexity ---- */

/* -ln of the softmax of logits [n] at id. */
static double loss_of(const float *logits, int64_t n, int32_t id)
{
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) max = fmax(max, (double)logits[i]);
    for (int64_t i = 0; i < n; i++) sum += exp((double)logits[i] - max);
    return log(sum) + max - (double)logits[id];
}

static dsv4_status add_window(const text *t, const int32_t *tokens, float *logits, double *loss,
                              dsv4_error *error)
{
    int64_t n_vocab = dsv4_model_n_vocab(t->model);
    dsv4_session *session;
    dsv4_status status = dsv4_session_create(t->model, &session, error);
    if (status != DSV4_OK) return status;
    for (int64_t first = 0; first < t->n_tokens - 1 && status == DSV4_OK; first += CHUNK) {
        int64_t n = t->n_tokens - 1 - first < CHUNK ? t->n_tokens - 1 - first : CHUNK;
        const dsv4_forward_entry entry = {.session = session,
                                          .tokens = tokens + first,
                                          .n_tokens = n,
                                          .n_logits = n,
                                          .logits = logits};
        status = dsv4_model_forward(t->model, &entry, 1, error);
        for (int64_t i = 0; i < n && status == DSV4_OK; i++) {
            *loss += loss_of(logits + i * n_vocab, n_vocab, tokens[first + i + 1]);
        }
    }
    dsv4_session_free(session);
    return status;
}

static dsv4_status check_tokens(const text *t, dsv4_error *error)
{
    char name[400];
    (void)snprintf(name, sizeof name, "%.300s: tensor tokens",
                   t->options->texts[DSV4_OPTION_GOLDEN]);
    dsv4_status status =
        dsv4_model_check_tokens(t->model, name, t->tokens, t->n_windows * t->n_tokens, error);
    return status == DSV4_OK ? DSV4_OK : (error->status = DSV4_ERROR_BAD_FILE);
}

static dsv4_status run_text(text *t, bool *failed, dsv4_error *error)
{
    DSV4_TRY(open_model(t, 0, error));
    DSV4_TRY(check_tokens(t, error));
    float *logits = calloc((size_t)dsv4_model_n_vocab(t->model), CHUNK * sizeof *logits);
    if (logits == NULL) return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory");
    double loss = 0, known = 0;
    int64_t n = t->n_windows * (t->n_tokens - 1);
    dsv4_status status = DSV4_OK;
    for (int64_t i = 0; i < t->n_windows && status == DSV4_OK; i++) {
        status = add_window(t, t->tokens + i * t->n_tokens, logits, &loss, error);
    }
    free(logits);
    if (status != DSV4_OK) return status;
    for (int64_t i = 0; i < n; i++) known += (double)t->losses[i];
    double perplexity = exp(loss / (double)n), expected = exp(known / (double)n);
    double excess = fabs(perplexity / expected - 1);
    printf("perplexity of %" PRId64 " tokens: %.4f, in the file %.4f, %.4f %% apart\n", n,
           perplexity, expected, 100 * excess);
    /* Written so that NaN is out of bounds. */
    *failed = t->options->given[DSV4_OPTION_MAX_APART] &&
              !(excess <= t->options->reals[DSV4_OPTION_MAX_APART]);
    if (*failed) printf("FAILED: breaks --max-apart\n");
    return DSV4_OK;
}

/* ---- drafts ---- */

typedef struct heard {
    int32_t *ids;
    int64_t n;
} heard;

static int32_t hear(void *context, int32_t id, const char *bytes, size_t len_bytes)
{
    heard *h = context;
    (void)bytes, (void)len_bytes;
    h->ids[h->n++] = id;
    return 0;
}

/* Greedy text after the beginning of each window: ids [n_windows, N_GENERATED], -1 behind an end. */
static dsv4_status go_on(text *t, int32_t n_draft, int32_t *ids, double *time_s, int64_t *n_all,
                         dsv4_error *error)
{
    DSV4_TRY(open_model(t, n_draft, error));
    DSV4_TRY(check_tokens(t, error));
    dsv4_sampling greedy;
    dsv4_sampling_default(&greedy);
    greedy.temperature = 0;
    *time_s = 0;
    *n_all = 0;
    for (int64_t i = 0; i < t->n_windows * N_GENERATED; i++) ids[i] = -1;
    for (int64_t i = 0; i < t->n_windows; i++) {
        heard h = {.ids = ids + i * N_GENERATED};
        const int32_t *prompt = t->tokens + i * t->n_tokens;
        dsv4_session *session;
        int64_t n_new;
        DSV4_TRY(dsv4_session_create(t->model, &session, error));
        dsv4_status status = dsv4_session_generate(session, prompt, N_PROMPT - 1, &greedy, 0, NULL,
                                                   NULL, &n_new, error);
        double start_s = dsv4_bench_now_s();
        if (status == DSV4_OK) {
            status = dsv4_session_generate(session, prompt + N_PROMPT - 1, 1, &greedy, N_GENERATED,
                                           hear, &h, &n_new, error);
        }
        *time_s += dsv4_bench_now_s() - start_s;
        *n_all += h.n;
        dsv4_session_free(session);
        DSV4_TRY(status);
    }
    return DSV4_OK;
}

static dsv4_status run_drafts(text *t, bool *failed, dsv4_error *error)
{
    size_t n_ids = (size_t)t->n_windows * N_GENERATED;
    int32_t *ids = calloc(2 * n_ids, sizeof *ids);
    if (ids == NULL) return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory");
    double plain_s, draft_s;
    int64_t n_new, n_drafted = 0, n_accepted = 0;
    dsv4_status status = go_on(t, 0, ids, &plain_s, &n_new, error);
    if (status == DSV4_OK) status = go_on(t, 1, ids + n_ids, &draft_s, &n_new, error);
    if (status == DSV4_OK) {
        bool is_same = memcmp(ids, ids + n_ids, n_ids * sizeof *ids) == 0;
        dsv4_model_draft_counts(t->model, &n_drafted, &n_accepted);
        double share = n_drafted > 0 ? (double)n_accepted / (double)n_drafted : 0;
        printf("drafts: %" PRId64 " of %" PRId64 " kept, %.1f %%; the text is %s\n", n_accepted,
               n_drafted, 100 * share, is_same ? "the same" : "ANOTHER");
        printf("generation: %.1f tokens/s plain, %.1f with drafts, %.2f times\n",
               (double)n_new / plain_s, (double)n_new / draft_s, plain_s / draft_s);
        *failed = !is_same || share < t->options->reals[DSV4_OPTION_MIN_RIGHT];
        if (*failed) printf("FAILED: expected the same text, and more drafts kept\n");
    }
    free(ids);
    return status;
}

int dsv4_eval_text(const dsv4_options *options)
{
    text t = {.options = options};
    bool failed = false;
    dsv4_error error;
    dsv4_status status = read_file(&t, &error);
    if (status == DSV4_OK) {
        bool is_text = options->values[DSV4_OPTION_TASK] == DSV4_TASK_TEXT;
        status = is_text ? run_text(&t, &failed, &error) : run_drafts(&t, &failed, &error);
    }
    dsv4_model_close(t.model);
    dsv4_safetensors_close(t.file);
    if (status != DSV4_OK) return dsv4_command_fail(options, &error);
    return failed ? DSV4_EXIT_FAILED : DSV4_EXIT_OK;
}
