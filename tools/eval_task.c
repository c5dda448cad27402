/*
 * eval_task.c - `dsv4 eval --task`: recall of codes by distance, and sums.
 *
 * Place: program. Answers are greedy. One is right when the text up to the end of sentence is the expected
 * one, nothing before or behind it. Recall asks at four lengths in a row, all residues of the groups of four
 * tokens that a compressed key stands for; the four prompts share what is computed for their beginning.
 */
#include "eval_task.h"

#include "base/error.h"
#include "commands.h"
#include "model_call.h"
#include "task_prompt.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_LENGTHS = 4,
    N_OPERANDS = 21,
    MOST_ANSWER = 16, /* tokens; right answers have fewer */
    DEFAULT_SAMPLES = 20,
    PATH_BYTES = 4096,
    ROOM_TOKENS = 8192
};

/* Tokens between the fact and the question. */
static const struct {
    int64_t first, last;
} bands[] = {{0, 100}, {128, 512}, {512, 1000}, {1000, 3000}};

typedef struct task {
    const dsv4_options *options;
    dsv4_model *model;
    bool is_chat;
    int64_t n_samples;
    bool failed; /* a share is below --min-right */
} task;

typedef struct answer_text {
    char bytes[DSV4_TASK_TEXT_BYTES];
    size_t len_bytes;
} answer_text;

static int32_t keep_token(void *context, int32_t id, const char *bytes, size_t len_bytes)
{
    answer_text *text = context;
    (void)id;
    if (len_bytes >= sizeof text->bytes - text->len_bytes) return 1;
    if (len_bytes > 0) memcpy(text->bytes + text->len_bytes, bytes, len_bytes);
    text->len_bytes += len_bytes;
    return 0;
}

/* Whether the session goes on from the prompt with the expected text and the end of sentence. */
static dsv4_status ask(dsv4_session *session, const dsv4_task_tokens *prompt, const char *expected,
                       bool *is_right, dsv4_error *error)
{
    dsv4_sampling greedy;
    dsv4_sampling_default(&greedy);
    greedy.temperature = 0;
    answer_text text = {.len_bytes = 0};
    int64_t n_new;
    DSV4_TRY(dsv4_session_generate(session, prompt->ids, prompt->n, &greedy, MOST_ANSWER,
                                   keep_token, &text, &n_new, error));
    *is_right = n_new < MOST_ANSWER && text.len_bytes == strlen(expected) &&
                memcmp(text.bytes, expected, text.len_bytes) == 0;
    return DSV4_OK;
}

static void report(task *t, int64_t n_right, int64_t n_asked)
{
    double share = n_asked > 0 ? (double)n_right / (double)n_asked : 0;
    printf("  %5.1f %%", 100 * share);
    t->failed |= share < t->options->reals[DSV4_OPTION_MIN_RIGHT];
}

static dsv4_status append(const task *t, dsv4_session *session, const int32_t *ids, int64_t n,
                          dsv4_error *error)
{
    const dsv4_forward_entry entry = {.session = session, .tokens = ids, .n_tokens = n};
    return n > 0 ? dsv4_model_forward(t->model, &entry, 1, error) : DSV4_OK;
}

/* ---- recall ---- */

/* Asks at N_LENGTHS lengths, the first with all but N_LENGTHS - 1 of the tokens between. */
static dsv4_status ask_lengths(const task *t, const dsv4_task_recall *recall,
                               const dsv4_task_tokens *question, const char *expected,
                               int64_t n_right[N_LENGTHS], dsv4_error *error)
{
    dsv4_session *session;
    DSV4_TRY(dsv4_session_create(t->model, &session, error));
    int64_t n_first = recall->between.n - (N_LENGTHS - 1);
    dsv4_status status = append(t, session, recall->before.ids, recall->before.n, error);
    if (status == DSV4_OK) status = append(t, session, recall->between.ids, n_first, error);
    for (int i = 0; i < N_LENGTHS && status == DSV4_OK; i++) {
        dsv4_session *fork;
        bool is_right = false;
        status = dsv4_session_fork(session, &fork, error);
        if (status != DSV4_OK) break;
        status = ask(fork, question, expected, &is_right, error);
        n_right[i] += is_right;
        dsv4_session_free(fork);
        if (status == DSV4_OK && i + 1 < N_LENGTHS) {
            status = append(t, session, recall->between.ids + n_first + i, 1, error);
        }
    }
    dsv4_session_free(session);
    return status;
}

/* A chat of one message, as the encoder writes it. */
static dsv4_status encode_chat(const char *message, char **encoded, dsv4_error *error)
{
    char messages[2 * DSV4_TASK_TEXT_BYTES];
    size_t len_bytes;
    int len =
        snprintf(messages, sizeof messages, "[{\"role\":\"user\",\"content\":\"%s\"}]", message);
    return dsv4_chat_prompt(messages, (size_t)len, 0, encoded, &len_bytes, error);
}

static dsv4_status run_recall(const task *t, const dsv4_task_filler *filler, uint64_t seed,
                              int64_t n_between, int64_t n_right[N_LENGTHS], dsv4_error *error)
{
    dsv4_task_recall recall;
    dsv4_task_tokens question = {0};
    char text[DSV4_TASK_TEXT_BYTES], expected[sizeof recall.code + 1];
    DSV4_TRY(dsv4_task_recall_make(t->model, filler, t->is_chat, seed, n_between, &recall, error));
    (void)snprintf(text, sizeof text, "%s What is the code of the %s?%s",
                   t->is_chat ? "" : " Question:", recall.thing, t->is_chat ? "" : " Answer:");
    (void)snprintf(expected, sizeof expected, t->is_chat ? "%s" : " %s", recall.code);
    char *encoded = NULL;
    dsv4_status status = DSV4_OK;
    if (t->is_chat) status = encode_chat(text, &encoded, error);
    /* The beginning of the turn is in recall.before. */
    const char *rest = encoded != NULL ? strstr(encoded, text) : text;
    if (status == DSV4_OK) status = dsv4_task_tokens_add(t->model, rest, &question, error);
    dsv4_text_free(encoded);
    if (status == DSV4_OK) status = ask_lengths(t, &recall, &question, expected, n_right, error);
    dsv4_task_tokens_free(&question);
    dsv4_task_recall_free(&recall);
    return status;
}

static dsv4_status run_bands(task *t, const dsv4_task_filler *filler, dsv4_error *error)
{
    printf("recall%s: right after N .. N + 3 tokens, %" PRId64 " texts in each row\n",
           t->is_chat ? " in a chat" : "", t->n_samples);
    for (size_t band = 0; band < sizeof bands / sizeof *bands; band++) {
        int64_t n_right[N_LENGTHS] = {0};
        for (int64_t i = 0; i < t->n_samples; i++) {
            uint64_t random = (uint64_t)band << 32 | (uint64_t)i;
            int64_t n_most = bands[band].last - bands[band].first - (N_LENGTHS - 1);
            int64_t n = bands[band].first + dsv4_task_draw(&random, 0, n_most);
            DSV4_TRY(run_recall(t, filler, random, n + N_LENGTHS - 1, n_right, error));
        }
        printf("%5" PRId64 " .. %4" PRId64 " tokens", bands[band].first, bands[band].last);
        for (int i = 0; i < N_LENGTHS; i++) report(t, n_right[i], t->n_samples);
        printf("\n");
        (void)fflush(stdout);
    }
    return DSV4_OK;
}

static dsv4_status recall_task(task *t, dsv4_error *error)
{
    char path[PATH_BYTES];
    const char *text = t->options->texts[DSV4_OPTION_TEXT];
    (void)snprintf(path, sizeof path, "%s/heldout.txt", t->options->texts[DSV4_OPTION_MODEL]);
    dsv4_task_filler filler;
    DSV4_TRY(dsv4_task_filler_open(t->model, text != NULL ? text : path, &filler, error));
    dsv4_status status = run_bands(t, &filler, error);
    dsv4_task_filler_close(&filler);
    return status;
}

/* ---- sums ---- */

/* The prompt of a sum, the begin of sentence included. */
static dsv4_status add_sum(const task *t, int a, int b, dsv4_task_tokens *prompt, dsv4_error *error)
{
    char text[DSV4_TASK_TEXT_BYTES], *encoded = NULL;
    (void)snprintf(text, sizeof text, "%sWhat is %d+%d?%s",
                   t->is_chat ? "" : "<｜begin▁of▁sentence｜>", a, b, t->is_chat ? "" : " Answer:");
    if (t->is_chat) DSV4_TRY(encode_chat(text, &encoded, error));
    dsv4_status status =
        dsv4_task_tokens_add(t->model, encoded != NULL ? encoded : text, prompt, error);
    dsv4_text_free(encoded);
    return status;
}

static dsv4_status run_sum(const task *t, int a, int b, bool *is_right, dsv4_error *error)
{
    dsv4_session *session;
    dsv4_task_tokens prompt = {0};
    char expected[8];
    (void)snprintf(expected, sizeof expected, t->is_chat ? "%d" : " %d", a + b);
    DSV4_TRY(dsv4_session_create(t->model, &session, error));
    dsv4_status status = add_sum(t, a, b, &prompt, error);
    if (status == DSV4_OK) status = ask(session, &prompt, expected, is_right, error);
    dsv4_task_tokens_free(&prompt);
    dsv4_session_free(session);
    return status;
}

static dsv4_status sums_task(task *t, dsv4_error *error)
{
    int64_t n_right = 0;
    for (int i = 0; i < N_OPERANDS * N_OPERANDS; i++) {
        bool is_right = false;
        DSV4_TRY(run_sum(t, i / N_OPERANDS, i % N_OPERANDS, &is_right, error));
        n_right += is_right;
    }
    printf("sums%s of 0 .. %d: right", t->is_chat ? " in a chat" : "", N_OPERANDS - 1);
    report(t, n_right, N_OPERANDS * N_OPERANDS);
    printf("\n");
    return DSV4_OK;
}

int dsv4_eval_task(const dsv4_options *options)
{
    task t = {.options = options, .is_chat = options->given[DSV4_OPTION_CHAT]};
    t.n_samples = options->given[DSV4_OPTION_SAMPLES] ? options->values[DSV4_OPTION_SAMPLES]
                                                      : DEFAULT_SAMPLES;
    dsv4_error error;
    dsv4_model_options model_options;
    dsv4_model_options_default(&model_options);
    dsv4_model_call_options(options, &model_options);
    model_options.n_sessions = 2;
    model_options.n_tokens = ROOM_TOKENS;
    dsv4_status status = dsv4_model_call_open(options, &model_options, &t.model, &error);
    if (status == DSV4_OK) {
        bool is_recall = options->values[DSV4_OPTION_TASK] == DSV4_TASK_RECALL;
        status = is_recall ? recall_task(&t, &error) : sums_task(&t, &error);
    }
    dsv4_model_close(t.model);
    if (status == DSV4_ERROR_UNSUPPORTED) error.status = DSV4_ERROR_BAD_FILE; /* no tokenizer */
    if (status != DSV4_OK) return dsv4_command_fail(options, &error);
    if (t.failed)
        printf("FAILED: expected at least %.1f %%\n", 100 * options->reals[DSV4_OPTION_MIN_RIGHT]);
    return t.failed ? DSV4_EXIT_FAILED : DSV4_EXIT_OK;
}
