/*
 * cmd_chat.c - `dsv4 chat`: talks with a model.
 *
 * Place: program. Questions from standard input, answers to standard output; what concerns the program
 * itself goes to standard error.
 */
#include "commands.h"

#include "base/error.h"
#include "chat_line.h"
#include "chat_talk.h"
#include "interrupt.h"
#include "model_call.h"
#include "text_stream.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define DIM           "\033[2m"
#define PLAIN         "\033[0m"
#define END_THINK     "</think>"
#define HELP_COMMANDS "/think switches reasoning, /reset forgets the talk, /quit ends it"

typedef struct chat {
    const dsv4_options *options;
    dsv4_chat_talk talk;
    dsv4_sampling sampling;
    int64_t max_new;
    bool thinking;
    bool is_terminal; /* standard output */
    bool edits;       /* standard input too */
    bool is_dimmed;
    dsv4_text_stream out;
} chat;

static void set_dimmed(chat *c, bool is_dimmed)
{
    if (!c->is_terminal || c->is_dimmed == is_dimmed) return;
    c->is_dimmed = is_dimmed;
    fputs(is_dimmed ? DIM : PLAIN, stdout);
}

static int32_t write_token(void *context, int32_t id, const char *bytes, size_t len_bytes)
{
    chat *c = context;
    (void)id;
    bool ends_reasoning =
        len_bytes == strlen(END_THINK) && memcmp(bytes, END_THINK, len_bytes) == 0;
    if (ends_reasoning && c->is_dimmed) {
        dsv4_text_stream_end(&c->out);
        set_dimmed(c, false);
        fputs("\n\n", stdout);
    } else {
        dsv4_text_stream_write(&c->out, bytes, len_bytes);
    }
    return ferror(stdout) != 0 || dsv4_interrupt_came();
}

/* Another answer begins with other random numbers, yet the whole talk follows from the seed. */
static void next_seed(dsv4_sampling *sampling)
{
    sampling->seed = sampling->seed * UINT64_C(6364136223846793005) + 1;
}

/* On a terminal a question that fails is told and forgotten; the talk goes on. */
static dsv4_status ask(chat *c, const char *question, dsv4_error *error)
{
    dsv4_interrupt_clear();
    set_dimmed(c, c->thinking);
    dsv4_status status = dsv4_chat_talk_ask(&c->talk, question, c->thinking, &c->sampling,
                                            c->max_new, write_token, c, error);
    dsv4_text_stream_end(&c->out);
    set_dimmed(c, false);
    printf("\n");
    (void)fflush(stdout);
    next_seed(&c->sampling);
    if (status == DSV4_OK || !c->edits) return status;
    (void)dsv4_command_fail(c->options, error);
    return DSV4_OK;
}

/* Does what a line says; *goes_on is false after the last one. */
static dsv4_status take_line(chat *c, const char *line, bool *goes_on, dsv4_error *error)
{
    *goes_on = strcmp(line, "/quit") != 0;
    if (!*goes_on || line[0] == '\0') return DSV4_OK;
    if (strcmp(line, "/reset") == 0) {
        dsv4_chat_talk_reset(&c->talk);
        fprintf(stderr, "The talk is forgotten.\n");
    } else if (strcmp(line, "/think") == 0) {
        c->thinking = !c->thinking;
        fprintf(stderr, "Reasoning is %s.\n", c->thinking ? "on" : "off");
    } else if (line[0] == '/') {
        fprintf(stderr, "Unknown command '%.80s'; " HELP_COMMANDS ".\n", line);
    } else {
        return ask(c, line, error);
    }
    return DSV4_OK;
}

static dsv4_status run_talk(chat *c, dsv4_chat_lines *lines, dsv4_error *error)
{
    bool goes_on = true;
    while (goes_on && !ferror(stdout)) {
        const char *line;
        DSV4_TRY(dsv4_chat_lines_next(lines, &line, error));
        if (line == NULL) return DSV4_OK;
        DSV4_TRY(take_line(c, line, &goes_on, error));
    }
    return DSV4_OK;
}

/* A talk may hold two branches of its length: the last answer with and without its reasoning. */
static dsv4_status open_model(const dsv4_options *options, dsv4_model **model,
                              dsv4_model_options *model_options, int64_t *max_tokens,
                              dsv4_error *error)
{
    dsv4_model_options_default(model_options);
    dsv4_model_call_options(options, model_options);
    int64_t n_context = options->given[DSV4_OPTION_CONTEXT] ? options->values[DSV4_OPTION_CONTEXT]
                                                            : model_options->n_tokens;
    model_options->n_sessions = 2;
    model_options->n_tokens = n_context <= INT32_MAX / 2 ? 2 * n_context : INT32_MAX;
    DSV4_TRY(dsv4_model_call_open(options, model_options, model, error));
    *max_tokens = dsv4_model_max_tokens(*model);
    if (*max_tokens > n_context) *max_tokens = n_context;
    return DSV4_OK;
}

static dsv4_status run_chat(chat *c, dsv4_model *model, int64_t max_tokens, int64_t rewind_tokens,
                            dsv4_error *error)
{
    dsv4_chat_lines *lines = NULL;
    dsv4_status status = dsv4_chat_talk_open(model, max_tokens, rewind_tokens, &c->talk, error);
    c->talk.is_stopped = dsv4_interrupt_came;
    if (status == DSV4_OK) status = dsv4_chat_lines_open(c->edits, "> ", &lines, error);
    if (status == DSV4_OK) {
        if (c->edits) {
            dsv4_interrupt_catch();
            fprintf(stderr, HELP_COMMANDS "; Ctrl-C stops an answer.\n");
        }
        status = run_talk(c, lines, error);
    }
    dsv4_chat_lines_close(lines);
    dsv4_chat_talk_close(&c->talk);
    return status;
}

int dsv4_cmd_chat(const dsv4_options *options)
{
    dsv4_error error;
    dsv4_model *model = NULL;
    dsv4_model_options model_options;
    int64_t max_tokens = 0;
    chat c = {
        .options = options,
        .max_new =
            options->given[DSV4_OPTION_TOKENS] ? options->values[DSV4_OPTION_TOKENS] : INT32_MAX,
        .thinking = options->given[DSV4_OPTION_THINKING],
        .is_terminal = isatty(STDOUT_FILENO) == 1,
        .out = {.file = stdout},
    };
    c.edits = c.is_terminal && isatty(STDIN_FILENO) == 1;
    dsv4_model_call_sampling(options, &c.sampling);
    dsv4_status status = open_model(options, &model, &model_options, &max_tokens, &error);
    if (status == DSV4_OK) {
        status = run_chat(&c, model, max_tokens, model_options.rewind_tokens, &error);
    }
    dsv4_model_close(model);
    return status == DSV4_OK ? DSV4_EXIT_OK : dsv4_command_fail(options, &error);
}
