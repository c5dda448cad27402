/*
 * model_bench.c - times prompts and generation through the public interface.
 *
 * Place: program, bench. Tokens are random, as in llama-bench, whose table this prints. Each test stands
 * behind `depth` tokens of the same session: after a repetition the session is rewound to them, which
 * computes nothing again.
 */
#define _DEFAULT_SOURCE /* realpath */
#include "model_bench.h"

#include "base/error.h"
#include "base/parallel.h"
#include "bench_clock.h"
#include "bench_machine.h"
#include "json_string.h"
#include "model_call.h"
#include "model_size.h"
#include "number_list.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_PP = 512,
    DEFAULT_TG = 128,
    DEFAULT_REPS = 5,
    MAX_REPS = 1000,
    NAME_BYTES = 64,
    FILE_NAME_BYTES = 256
};

typedef struct bench {
    const dsv4_options *options;
    dsv4_model *model;
    dsv4_session *session;
    dsv4_model_options model_options;
    int64_t pp, tg, reps;
    bool drafts;
    dsv4_number_list depths;
    char name[FILE_NAME_BYTES]; /* last part of the directory's name */
    int64_t n_bytes, n_parameters;
    int32_t *tokens; /* [largest depth, pp, tg] random */
    float *logits;   /* [n_vocab] */
    double rates[MAX_REPS];
} bench;

/* One row of the table. */
typedef struct bench_test {
    bool is_prompt;
    bool drafts; /* greedy generation with drafts of the MTP block */
    int64_t n_tokens, depth;
    double mean, deviation; /* tokens per second */
} bench_test;

/* ---- measuring ---- */

/* Appends the next random tokens. */
static dsv4_status forward(bench *b, int64_t n_tokens, int64_t n_logits, dsv4_error *error)
{
    int64_t first = dsv4_session_n_tokens(b->session);
    const dsv4_forward_entry entry = {.session = b->session,
                                      .tokens = b->tokens + first,
                                      .n_tokens = n_tokens,
                                      .n_logits = n_logits,
                                      .logits = n_logits > 0 ? b->logits : NULL};
    return dsv4_model_forward(b->model, &entry, 1, error);
}

/* Generates greedily; where the model ends its text, a random token begins another. */
static dsv4_status generate(bench *b, int64_t n_tokens, dsv4_error *error)
{
    dsv4_sampling greedy;
    dsv4_sampling_default(&greedy);
    greedy.temperature = 0;
    for (int64_t n_done = 0; n_done < n_tokens;) {
        int64_t n_new;
        DSV4_TRY(dsv4_session_generate(b->session, b->tokens + n_done, 1, &greedy,
                                       n_tokens - n_done - 1, NULL, NULL, &n_new, error));
        n_done += 1 + n_new;
    }
    return DSV4_OK;
}

/* Leaves the session as it was. */
static dsv4_status run_once(bench *b, const bench_test *test, double *time_s, dsv4_error *error)
{
    double start_s = dsv4_bench_now_s();
    if (test->drafts) {
        DSV4_TRY(generate(b, test->n_tokens, error));
    } else if (test->is_prompt) {
        DSV4_TRY(forward(b, test->n_tokens, 1, error));
    } else {
        for (int64_t i = 0; i < test->n_tokens; i++) DSV4_TRY(forward(b, 1, 1, error));
    }
    *time_s = dsv4_bench_now_s() - start_s;
    return dsv4_session_rewind(b->session, test->depth, error);
}

static dsv4_status run_test(bench *b, bench_test *test, dsv4_error *error)
{
    double time_s, sum = 0, squares = 0;
    DSV4_TRY(run_once(b, test, &time_s, error)); /* memory grows, weights are read from the disk */
    for (int64_t i = 0; i < b->reps; i++) {
        DSV4_TRY(run_once(b, test, &time_s, error));
        b->rates[i] = (double)test->n_tokens / time_s;
        sum += b->rates[i];
    }
    test->mean = sum / (double)b->reps;
    for (int64_t i = 0; i < b->reps; i++) {
        squares += (b->rates[i] - test->mean) * (b->rates[i] - test->mean);
    }
    test->deviation = b->reps > 1 ? sqrt(squares / (double)(b->reps - 1)) : 0;
    return DSV4_OK;
}

/* ---- printing ---- */

static const char *numerics_name(const bench *b)
{
    return b->model_options.numerics == DSV4_MODEL_EXACT ? "exact" : "official";
}

static const char *level_name(const bench *b)
{
    int32_t level = b->model_options.cpu_level;
    return dsv4_cpu_level_name(level == DSV4_CPU_LEVEL_AUTO ? dsv4_cpu_level() : level);
}

static void print_head(void)
{
    printf("| %-24s | %10s | %10s | %-24s | %7s | %15s | %20s |\n", "model", "size", "params",
           "backend", "threads", "test", "t/s");
    printf("| ------------------------ | ---------: | ---------: | ------------------------ "
           "| ------: | --------------: | -------------------: |\n");
}

/* "512.00 MiB", "13.03 B": units as in llama-bench. */
static void format_size(const bench *b, char size[static NAME_BYTES],
                        char params[static NAME_BYTES])
{
    double mib = (double)b->n_bytes / (1 << 20), millions = (double)b->n_parameters * 1e-6;
    bool is_gib = mib >= 1024, is_billions = millions >= 1000;
    (void)snprintf(size, NAME_BYTES, "%.2f %s", is_gib ? mib / 1024 : mib, is_gib ? "GiB" : "MiB");
    (void)snprintf(params, NAME_BYTES, "%.2f %s", is_billions ? millions * 1e-3 : millions,
                   is_billions ? "B" : "M");
}

static void format_test(const bench_test *test, char text[static NAME_BYTES])
{
    int n = snprintf(text, NAME_BYTES, "%s%" PRId64 "%s", test->is_prompt ? "pp" : "tg",
                     test->n_tokens, test->drafts ? " draft" : "");
    if (test->depth > 0) {
        (void)snprintf(text + n, NAME_BYTES - (size_t)n, " @ d%" PRId64, test->depth);
    }
}

static void print_row(const bench *b, const bench_test *test)
{
    char size[NAME_BYTES], params[NAME_BYTES], name[NAME_BYTES], backend[NAME_BYTES];
    char rate[NAME_BYTES];
    format_size(b, size, params);
    format_test(test, name);
    (void)snprintf(backend, sizeof backend, "cpu %s, %s", level_name(b), numerics_name(b));
    (void)snprintf(rate, sizeof rate, "%.2f ± %.2f", test->mean, test->deviation);
    /* The sign is two bytes and one column. */
    printf("| %-24s | %10s | %10s | %-24s | %7" PRId32 " | %15s | %21s |\n", b->name, size, params,
           backend, b->model_options.n_threads, name, rate);
    (void)fflush(stdout);
}

static dsv4_status print_json(const bench *b, const bench_test *test, dsv4_error *error)
{
    char name[NAME_BYTES];
    format_test(test, name);
    json_t *rates = json_array();
    for (int64_t i = 0; i < b->reps; i++) {
        if (json_array_append_new(rates, json_real(b->rates[i])) != 0) {
            json_decref(rates);
            rates = NULL;
        }
    }
    return dsv4_bench_print_json_line(
        json_pack(
            "{s:s, s:s, s:o, s:o, s:I, s:I, s:s, s:s, s:s, s:I, s:s, s:I, s:I, s:f, s:f, s:o}",
            "bench", "model", "version", dsv4_version(), "machine", dsv4_bench_machine_json(),
            "model", dsv4_json_string(b->name, strlen(b->name)), "n_bytes", (json_int_t)b->n_bytes,
            "n_parameters", (json_int_t)b->n_parameters, "backend", "cpu", "cpu_level",
            level_name(b), "numerics", numerics_name(b), "n_threads",
            (json_int_t)b->model_options.n_threads, "test", name, "n_tokens",
            (json_int_t)test->n_tokens, "depth", (json_int_t)test->depth, "mean_per_s", test->mean,
            "deviation_per_s", test->deviation, "rates_per_s", rates),
        error);
}

/* ---- what is asked for ---- */

static int64_t value_or(const dsv4_options *options, int32_t option, int64_t otherwise)
{
    return options->given[option] ? options->values[option] : otherwise;
}

static dsv4_status read_options(bench *b, dsv4_error *error)
{
    const dsv4_options *options = b->options;
    b->pp = value_or(options, DSV4_OPTION_PP, DEFAULT_PP);
    b->tg = value_or(options, DSV4_OPTION_TG, DEFAULT_TG);
    b->reps = value_or(options, DSV4_OPTION_REPS, DEFAULT_REPS);
    b->depths = (dsv4_number_list){.values = {0}, .n = 1};
    DSV4_TRY(dsv4_number_list_read(options, DSV4_OPTION_DEPTH, 0, &b->depths, error));
    if (b->pp > 0 || b->tg > 0) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "option --pp 0 with --tg 0: nothing to measure; expected one above 0");
}

/* The last part of DIR, of its real path where it has none of its own (".", ".."). */
static void name_model(bench *b)
{
    char *path = realpath(b->options->texts[DSV4_OPTION_MODEL], NULL);
    const char *name = path != NULL ? strrchr(path, '/') : NULL;
    (void)snprintf(b->name, sizeof b->name, "%s", name != NULL ? name + 1 : "model");
    free(path);
}

static int64_t most_new(const bench *b)
{
    return b->pp > b->tg ? b->pp : b->tg;
}

static dsv4_status open_model(bench *b, dsv4_error *error)
{
    dsv4_model_options *options = &b->model_options;
    int64_t n_tokens = dsv4_number_list_largest(&b->depths) + most_new(b);
    dsv4_model_options_default(options);
    dsv4_model_call_options(b->options, options);
    options->n_sessions = 1;
    options->n_tokens = n_tokens <= INT32_MAX ? n_tokens : INT32_MAX;
    options->rewind_tokens = most_new(b);
    options->n_draft = b->drafts;
    if (options->n_threads == 0) options->n_threads = dsv4_parallel_default_threads();
    DSV4_TRY(dsv4_model_call_open(b->options, options, &b->model, error));
    if (n_tokens > dsv4_model_max_tokens(b->model)) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "option --depth: %" PRId64 " tokens and those of a test do not fit; "
                              "expected at most %" PRId64 " together (max_position_embeddings)",
                              n_tokens - most_new(b), dsv4_model_max_tokens(b->model));
    }
    DSV4_TRY(dsv4_model_size_read(b->options->texts[DSV4_OPTION_MODEL], &b->n_bytes,
                                  &b->n_parameters, error));
    return dsv4_session_create(b->model, &b->session, error);
}

static dsv4_status make_tokens(bench *b, dsv4_error *error)
{
    int64_t n_vocab = dsv4_model_n_vocab(b->model);
    int64_t n = dsv4_number_list_largest(&b->depths) + most_new(b);
    b->tokens = malloc((size_t)n * sizeof *b->tokens);
    b->logits = malloc((size_t)n_vocab * sizeof *b->logits);
    if (b->tokens == NULL || b->logits == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory for %" PRId64 " tokens",
                              n);
    }
    uint64_t random = 1;
    for (int64_t i = 0; i < n; i++) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        b->tokens[i] = (int32_t)((random >> 33) % (uint64_t)n_vocab);
    }
    return DSV4_OK;
}

/* Brings the session to a depth. */
static dsv4_status dive(bench *b, int64_t depth, dsv4_error *error)
{
    DSV4_TRY(dsv4_session_rewind(b->session, 0, error));
    return depth > 0 ? forward(b, depth, 0, error) : DSV4_OK;
}

/* Runs a test, unless it has no tokens, and prints its row. */
static dsv4_status run_row(bench *b, bench_test test, dsv4_error *error)
{
    if (test.n_tokens == 0) return DSV4_OK;
    DSV4_TRY(run_test(b, &test, error));
    if (b->options->given[DSV4_OPTION_JSON]) return print_json(b, &test, error);
    print_row(b, &test);
    return DSV4_OK;
}

static void close_model(bench *b)
{
    dsv4_session_free(b->session);
    dsv4_model_close(b->model);
    b->session = NULL;
    b->model = NULL;
}

static dsv4_status run_all(bench *b, dsv4_error *error)
{
    if (!b->options->given[DSV4_OPTION_JSON]) print_head();
    for (int32_t i = 0; i < b->depths.n; i++) {
        int64_t depth = b->depths.values[i];
        DSV4_TRY(dive(b, depth, error));
        DSV4_TRY(
            run_row(b, (bench_test){.is_prompt = true, .n_tokens = b->pp, .depth = depth}, error));
        DSV4_TRY(run_row(b, (bench_test){.n_tokens = b->tg, .depth = depth}, error));
    }
    if (!b->options->given[DSV4_OPTION_DRAFT]) return DSV4_OK;
    close_model(b);
    b->drafts = true;
    DSV4_TRY(open_model(b, error));
    for (int32_t i = 0; i < b->depths.n; i++) {
        int64_t depth = b->depths.values[i];
        DSV4_TRY(dive(b, depth, error));
        DSV4_TRY(
            run_row(b, (bench_test){.drafts = true, .n_tokens = b->tg, .depth = depth}, error));
    }
    return DSV4_OK;
}

dsv4_status dsv4_model_bench_run(const dsv4_options *options, dsv4_error *error)
{
    bench b = {.options = options};
    dsv4_status status = read_options(&b, error);
    if (status == DSV4_OK) status = open_model(&b, error);
    if (status == DSV4_OK) status = make_tokens(&b, error);
    name_model(&b);
    if (status == DSV4_OK) status = run_all(&b, error);
    free(b.tokens);
    free(b.logits);
    dsv4_session_free(b.session);
    dsv4_model_close(b.model);
    return status;
}
