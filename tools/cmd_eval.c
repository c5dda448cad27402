/*
 * cmd_eval.c - `dsv4 eval`: compares a model's logits with known ones.
 *
 * Place: program. Tokens go through a session as in real use: each chunk is one step on the caches that
 * the chunks before it left.
 */
#include "commands.h"

#include "api/api_model.h"
#include "base/checked.h"
#include "base/error.h"
#include "eval_errors.h"
#include "eval_task.h"
#include "eval_text.h"
#include "io/safetensors.h"
#include "model_call.h"
#include "number_list.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_CHUNK = 256 };

typedef struct eval {
    const dsv4_options *options;
    dsv4_model *model;
    dsv4_session *session;
    bool with_mtp;
    int64_t n_tokens, n_known; /* known rows: with MTP one fewer than tokens */
    int64_t n_vocab;
    int32_t *tokens;            /* [n_tokens + 1], -1 behind the last */
    const unsigned char *known; /* [n_known, n_vocab] f32 */
    float *logits, *mtp_logits; /* [largest_chunk, n_vocab]; mtp_logits NULL without MTP */
    dsv4_number_list chunks;
    int64_t largest_chunk;
    dsv4_eval_errors errors;
} eval;

/* ---- input ---- */

/* What the checkpoint or the file makes the library refuse is their fault. */
static dsv4_status blame_files(dsv4_status status, dsv4_error *error)
{
    if (status != DSV4_ERROR_INVALID_ARGUMENT && status != DSV4_ERROR_UNSUPPORTED) return status;
    return error->status = DSV4_ERROR_BAD_FILE;
}

/* How many tokens there are: as many as the model can take, and with MTP two or more. */
static dsv4_status check_length(const eval *e, const char *path, dsv4_error *error)
{
    int64_t max_tokens = dsv4_model_max_tokens(e->model);
    if (e->n_tokens > max_tokens) {
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                              "%.300s: tensor tokens holds %" PRId64
                              " tokens; expected at most %" PRId64 " (max_position_embeddings)",
                              path, e->n_tokens, max_tokens);
    }
    if (e->n_known >= 1) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                          "%.300s: tensor tokens holds one token; expected 2 or more for --mtp",
                          path);
}

/* A tensor of the golden file with this type and shape; n_columns 0: rank 1, n_rows 0: any. */
static dsv4_status find_tensor(const char *path, const dsv4_safetensors *file, const char *name,
                               int32_t dtype, int64_t n_rows, int64_t n_columns,
                               const dsv4_tensor_view **view, dsv4_error *error)
{
    *view = dsv4_safetensors_find(file, name);
    if (*view == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE, "%.300s: tensor %s is missing", path,
                              name);
    }
    const dsv4_tensor_view *v = *view;
    bool has_rank = v->rank == (n_columns > 0 ? 2 : 1);
    if (v->dtype == dtype && has_rank && (n_rows == 0 || v->shape[0] == n_rows) &&
        (n_columns == 0 || v->shape[1] == n_columns) && v->shape[0] >= 1) {
        return DSV4_OK;
    }
    char rows[32] = "T", columns[32] = "";
    if (n_rows > 0) (void)snprintf(rows, sizeof rows, "%" PRId64, n_rows);
    if (n_columns > 0) (void)snprintf(columns, sizeof columns, "[%" PRId64 "]", n_columns);
    return dsv4_error_set(
        error, DSV4_ERROR_BAD_FILE,
        "%.300s: tensor %s is %s of rank %" PRId32 ", first size %" PRId64 "; expected %s [%s]%s",
        path, name, dsv4_safetensors_dtype_name(v->dtype), v->rank, v->rank > 0 ? v->shape[0] : 0,
        dsv4_safetensors_dtype_name(dtype), rows, columns);
}

/* Takes tokens and known logits from the file, which must stay open. */
static dsv4_status read_golden(eval *e, const dsv4_safetensors *file, dsv4_error *error)
{
    const char *path = e->options->texts[DSV4_OPTION_GOLDEN];
    const dsv4_tensor_view *tokens, *known;
    DSV4_TRY(find_tensor(path, file, "tokens", DSV4_SAFETENSORS_I32, 0, 0, &tokens, error));
    e->n_tokens = tokens->shape[0];
    e->n_known = e->n_tokens - e->with_mtp;
    DSV4_TRY(check_length(e, path, error));
    DSV4_TRY(find_tensor(path, file, e->with_mtp ? "mtp_logits" : "logits", DSV4_SAFETENSORS_F32,
                         e->n_known, e->n_vocab, &known, error));
    e->known = known->data;
    e->tokens = malloc((size_t)tokens->len_bytes + sizeof *e->tokens);
    if (e->tokens == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory for %" PRId64 " tokens",
                              e->n_tokens);
    }
    memcpy(e->tokens, tokens->data, (size_t)tokens->len_bytes);
    e->tokens[e->n_tokens] = -1;
    char name[400];
    (void)snprintf(name, sizeof name, "%.300s: tensor tokens", path);
    return blame_files(dsv4_model_check_tokens(e->model, name, e->tokens, e->n_tokens, error),
                       error);
}

/* The number of tokens, which decides the size of the caches, from a file that is not checked yet. */
static int64_t count_tokens(const dsv4_safetensors *file)
{
    const dsv4_tensor_view *view = dsv4_safetensors_find(file, "tokens");
    return view != NULL && view->rank == 1 && view->shape[0] > 0 ? view->shape[0] : 1;
}

/* ---- computing ---- */

static dsv4_status allocate_logits(eval *e, dsv4_error *error)
{
    int64_t n_rows = e->largest_chunk < e->n_tokens ? e->largest_chunk : e->n_tokens;
    size_t n_values, len_bytes;
    bool fits = dsv4_checked_mul((size_t)n_rows, (size_t)e->n_vocab, &n_values) &&
                dsv4_checked_mul(n_values, sizeof(float), &len_bytes);
    if (fits) e->logits = malloc(len_bytes);
    if (fits && e->with_mtp) e->mtp_logits = malloc(len_bytes);
    if (e->logits == NULL || (e->with_mtp && e->mtp_logits == NULL)) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "no memory for %" PRId64 " rows of logits", n_rows);
    }
    return DSV4_OK;
}

static dsv4_status run_chunk(eval *e, int64_t first, int64_t n_tokens, dsv4_error *error)
{
    const dsv4_forward_entry entry = {
        .session = e->session,
        .tokens = e->tokens + first,
        .n_tokens = n_tokens,
        .n_logits = n_tokens,
        .logits = e->logits,
    };
    if (!e->with_mtp) return dsv4_model_forward(e->model, &entry, 1, error);
    return dsv4_model_forward_mtp(e->model, &entry, e->tokens + first + 1, e->mtp_logits, error);
}

static void compare_chunk(eval *e, int64_t first, int64_t n_tokens)
{
    const float *logits = e->with_mtp ? e->mtp_logits : e->logits;
    int64_t row_bytes = e->n_vocab * (int64_t)sizeof(float);
    for (int64_t i = 0; i < n_tokens && first + i < e->n_known; i++) {
        dsv4_eval_row row = dsv4_eval_compare(logits + i * e->n_vocab,
                                              e->known + (first + i) * row_bytes, e->n_vocab);
        dsv4_eval_add(&e->errors, &row);
        if (!e->options->given[DSV4_OPTION_VERBOSE]) continue;
        printf("position %" PRId64 ": max abs %.3e  cosine %.7f  kl %.3e  largest %" PRId64
               ", expected %" PRId64 "\n",
               first + i, row.max_abs, row.cosine, row.kl, row.largest, row.known_largest);
    }
}

static dsv4_status run_all(eval *e, dsv4_error *error)
{
    int64_t first = 0;
    for (int64_t i = 0; first < e->n_tokens; i++) {
        int64_t n_tokens = e->chunks.values[i % e->chunks.n];
        if (n_tokens > e->n_tokens - first) n_tokens = e->n_tokens - first;
        DSV4_TRY(run_chunk(e, first, n_tokens, error));
        compare_chunk(e, first, n_tokens);
        first += n_tokens;
    }
    return DSV4_OK;
}

/* ---- verdict ---- */

/* Whether an option's bound is broken; says so. Of NaN every bound is. */
static bool is_broken(const dsv4_options *options, int32_t option, double value, bool is_least)
{
    double bound = options->reals[option];
    bool holds = is_least ? value >= bound : value <= bound;
    if (!options->given[option] || holds) return false;
    printf("FAILED: %.7g breaks --%s %.7g\n", value, dsv4_options_table[option].name, bound);
    return true;
}

static int report(const eval *e)
{
    const dsv4_eval_errors *errors = &e->errors;
    double n_rows = (double)errors->n_rows, cosine = errors->cosine_sum / n_rows;
    double agree = (double)errors->n_agree / n_rows;
    printf("%s%s: %" PRId64 " positions\n", e->options->texts[DSV4_OPTION_GOLDEN],
           e->with_mtp ? " (MTP block)" : "", errors->n_rows);
    printf("max abs      %.3e\n", errors->max_abs);
    printf("cosine       mean %.7f, smallest %.7f\n", cosine, errors->min_cosine);
    printf("arg-max      %.4f agree\n", agree);
    printf("within %.0e %.4f\n", DSV4_EVAL_CLOSE, (double)errors->n_close / n_rows);
    printf("divergence   mean %.3e\n", errors->kl_sum / n_rows);
    bool failed = is_broken(e->options, DSV4_OPTION_MAX_ABS, errors->max_abs, false);
    failed |= is_broken(e->options, DSV4_OPTION_MIN_COSINE, cosine, true);
    failed |= is_broken(e->options, DSV4_OPTION_MIN_AGREE, agree, true);
    if (errors->n_not_finite > 0) {
        printf("FAILED: NaN or infinity at %" PRId64 " positions\n", errors->n_not_finite);
        failed = true;
    }
    return failed ? DSV4_EXIT_FAILED : DSV4_EXIT_OK;
}

static dsv4_status open_model(eval *e, int64_t n_tokens, dsv4_error *error)
{
    dsv4_model_options model_options;
    dsv4_model_options_default(&model_options);
    dsv4_model_call_options(e->options, &model_options);
    model_options.n_sessions = 1;
    model_options.n_tokens = n_tokens;
    model_options.step_tokens = e->largest_chunk < n_tokens ? e->largest_chunk : n_tokens;
    model_options.rewind_tokens = 0;
    DSV4_TRY(dsv4_model_call_open(e->options, &model_options, &e->model, error));
    e->n_vocab = dsv4_model_n_vocab(e->model);
    return dsv4_session_create(e->model, &e->session, error);
}

#define TASK(task) (1u << DSV4_TASK_##task)

/* Options that not all tasks take. */
static const struct {
    int option;
    unsigned tasks;
} task_options[] = {
    {DSV4_OPTION_GOLDEN, TASK(LOGITS) | TASK(TEXT) | TASK(DRAFTS)},
    {DSV4_OPTION_MTP, TASK(LOGITS)},
    {DSV4_OPTION_CHUNK, TASK(LOGITS)},
    {DSV4_OPTION_MAX_ABS, TASK(LOGITS)},
    {DSV4_OPTION_MIN_COSINE, TASK(LOGITS)},
    {DSV4_OPTION_MIN_AGREE, TASK(LOGITS)},
    {DSV4_OPTION_VERBOSE, TASK(LOGITS)},
    {DSV4_OPTION_TEXT, TASK(RECALL)},
    {DSV4_OPTION_SAMPLES, TASK(RECALL)},
    {DSV4_OPTION_CHAT, TASK(RECALL) | TASK(SUMS)},
    {DSV4_OPTION_MIN_RIGHT, TASK(RECALL) | TASK(SUMS) | TASK(DRAFTS)},
    {DSV4_OPTION_MAX_APART, TASK(TEXT)},
};

static dsv4_status check_task(const dsv4_options *options, dsv4_error *error)
{
    unsigned task = 1u << options->values[DSV4_OPTION_TASK];
    for (size_t i = 0; i < sizeof task_options / sizeof *task_options; i++) {
        int option = task_options[i].option;
        if (!options->given[option] || (task_options[i].tasks & task) != 0) continue;
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "option --%s: the task does not take it",
                              dsv4_options_table[option].name);
    }
    if (options->given[DSV4_OPTION_GOLDEN] || (task_options[0].tasks & task) == 0) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "expected --golden FILE, or --task recall or sums");
}

int dsv4_cmd_eval(const dsv4_options *options)
{
    eval e = {.options = options,
              .with_mtp = options->given[DSV4_OPTION_MTP],
              .chunks = {.values = {DEFAULT_CHUNK}, .n = 1}};
    dsv4_error error;
    dsv4_safetensors *file = NULL;
    dsv4_status status = check_task(options, &error);
    if (status != DSV4_OK) return dsv4_command_fail(options, &error);
    switch (options->values[DSV4_OPTION_TASK]) {
    case DSV4_TASK_RECALL:
    case DSV4_TASK_SUMS: return dsv4_eval_task(options);
    case DSV4_TASK_TEXT:
    case DSV4_TASK_DRAFTS: return dsv4_eval_text(options);
    default: break;
    }
    status = dsv4_number_list_read(options, DSV4_OPTION_CHUNK, 1, &e.chunks, &error);
    if (status == DSV4_OK) {
        e.largest_chunk = dsv4_number_list_largest(&e.chunks);
        status = dsv4_safetensors_open(options->texts[DSV4_OPTION_GOLDEN], &file, &error);
    }
    if (status == DSV4_OK) status = open_model(&e, count_tokens(file), &error);
    if (status == DSV4_OK) status = read_golden(&e, file, &error);
    if (status == DSV4_OK) status = allocate_logits(&e, &error);
    if (status == DSV4_OK) status = blame_files(run_all(&e, &error), &error);
    int code = status == DSV4_OK ? report(&e) : dsv4_command_fail(options, &error);
    free(e.logits);
    free(e.mtp_logits);
    free(e.tokens);
    dsv4_session_free(e.session);
    dsv4_model_close(e.model);
    dsv4_safetensors_close(file);
    return code;
}
