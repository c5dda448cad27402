/*
 * cmd_run.c - `dsv4 run`: continues a text.
 *
 * Place: program. The text goes to standard output as it is made, speeds to standard error.
 */
#include "commands.h"

#include "base/error.h"
#include "bench_clock.h"
#include "model_call.h"
#include "text_stream.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct run {
    dsv4_text_stream out;
    double open_s;  /* what opening the model took */
    double first_s; /* when the first token came; 0: none yet */
} run;

static int32_t write_token(void *context, int32_t id, const char *bytes, size_t len_bytes)
{
    run *r = context;
    (void)id;
    if (r->first_s == 0) r->first_s = dsv4_bench_now_s();
    dsv4_text_stream_write(&r->out, bytes, len_bytes);
    return ferror(r->out.file) != 0;
}

static double per_second(int64_t n, double time_s)
{
    return time_s > 0 ? (double)n / time_s : 0;
}

/* The prompt is processed when the first token comes. */
static void report_speed(const dsv4_model *model, const run *r, double start_s, int64_t n_prompt,
                         int64_t n_new)
{
    double end_s = dsv4_bench_now_s(), first_s = n_new > 0 ? r->first_s : end_s;
    fprintf(stderr, "opened in %.3f s; prompt %" PRId64 " tokens, %.2f tokens/s", r->open_s,
            n_prompt, per_second(n_prompt, first_s - start_s));
    fprintf(stderr, "; generation %" PRId64 " tokens, %.2f tokens/s", n_new,
            per_second(n_new, end_s - first_s));
    int64_t n_drafted, n_accepted;
    dsv4_model_draft_counts(model, &n_drafted, &n_accepted);
    if (n_drafted > 0) {
        fprintf(stderr, "; drafts %" PRId64 " of %" PRId64 " kept", n_accepted, n_drafted);
    }
    fprintf(stderr, "\n");
}

/* The text of --prompt, or of standard input; *owned is to be freed. */
static dsv4_status read_prompt(const dsv4_options *options, const char **text, size_t *len_bytes,
                               char **owned, dsv4_error *error)
{
    *text = options->texts[DSV4_OPTION_PROMPT];
    if (*text == NULL) {
        DSV4_TRY(dsv4_text_read(stdin, owned, len_bytes, error));
        *text = *owned;
        return DSV4_OK;
    }
    *len_bytes = strlen(*text);
    return DSV4_OK;
}

/* Token ids of the prompt behind the begin-of-sentence token, which may also stand in the text. */
static dsv4_status make_prompt(const dsv4_options *options, const dsv4_model *model, int32_t **ids,
                               size_t *n_ids, dsv4_error *error)
{
    const char *text;
    char *owned = NULL;
    size_t len_bytes;
    DSV4_TRY(read_prompt(options, &text, &len_bytes, &owned, error));
    dsv4_status status = dsv4_model_call_tokenize(model, text, len_bytes, 1, ids, n_ids, error);
    free(owned);
    if (status != DSV4_OK) return status;
    (*ids)[0] = dsv4_model_bos(model);
    if (*n_ids > 1 && (*ids)[1] == dsv4_model_bos(model)) {
        *n_ids -= 1;
        memmove(*ids, *ids + 1, *n_ids * sizeof **ids);
    }
    return DSV4_OK;
}

/* How many tokens to generate: what --tokens says, else what fits. */
static dsv4_status choose_max_new(const dsv4_options *options, const dsv4_model *model,
                                  int64_t n_prompt, int64_t *max_new, dsv4_error *error)
{
    int64_t room = dsv4_model_max_tokens(model) - n_prompt;
    *max_new = options->given[DSV4_OPTION_TOKENS] ? options->values[DSV4_OPTION_TOKENS] : room;
    if (room >= 0 && *max_new <= room) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "a prompt of %" PRId64 " tokens%s, expected at most %" PRId64
                          " together; --context sets it, up to max_position_embeddings",
                          n_prompt, room >= 0 ? " and --tokens do not fit" : "",
                          dsv4_model_max_tokens(model));
}

static dsv4_status generate(const dsv4_options *options, dsv4_model *model, double open_s,
                            dsv4_error *error)
{
    int32_t *ids = NULL;
    size_t n_ids = 0;
    int64_t max_new, n_new = 0;
    dsv4_sampling sampling;
    dsv4_model_call_sampling(options, &sampling);
    DSV4_TRY(make_prompt(options, model, &ids, &n_ids, error));
    dsv4_session *session = NULL;
    dsv4_status status = choose_max_new(options, model, (int64_t)n_ids, &max_new, error);
    if (status == DSV4_OK) status = dsv4_session_create(model, &session, error);
    if (status == DSV4_OK) {
        run r = {.out = {.file = stdout}, .open_s = open_s};
        double start_s = dsv4_bench_now_s();
        status = dsv4_session_generate(session, ids, (int64_t)n_ids, &sampling, max_new,
                                       write_token, &r, &n_new, error);
        dsv4_text_stream_end(&r.out);
        printf("\n");
        (void)fflush(stdout); /* before the speeds, where both go to one place */
        if (status == DSV4_OK) report_speed(model, &r, start_s, (int64_t)n_ids, n_new);
    }
    dsv4_session_free(session);
    free(ids);
    return status;
}

int dsv4_cmd_run(const dsv4_options *options)
{
    dsv4_error error;
    dsv4_model *model = NULL;
    dsv4_model_options model_options;
    dsv4_model_options_default(&model_options);
    dsv4_model_call_options(options, &model_options);
    model_options.n_sessions = 1;
    model_options.n_draft = options->given[DSV4_OPTION_DRAFT];
    if (options->given[DSV4_OPTION_CONTEXT]) {
        model_options.n_tokens = options->values[DSV4_OPTION_CONTEXT];
    }
    double start_s = dsv4_bench_now_s();
    dsv4_status status = dsv4_model_call_open(options, &model_options, &model, &error);
    double open_s = dsv4_bench_now_s() - start_s;
    if (status == DSV4_OK) status = generate(options, model, open_s, &error);
    dsv4_model_close(model);
    return status == DSV4_OK ? DSV4_EXIT_OK : dsv4_command_fail(options, &error);
}
