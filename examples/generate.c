/*
 * generate.c - text from a checkpoint: tokenize a prompt, generate, print as it comes.
 *
 * Place: examples; uses only the installed headers and library.
 *
 *   cc generate.c $(pkg-config --cflags --libs dsv4) -o generate
 *   ./generate DeepSeek-V4-Flash 'The capital of France is'
 */
#include <dsv4/dsv4.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PROMPT = 1024, MAX_NEW = 64 };

/* Called for every new token; anything but 0 would stop. */
static int32_t print_token(void *context, int32_t id, const char *bytes, size_t len_bytes)
{
    (void)context;
    (void)id;
    fwrite(bytes, 1, len_bytes, stdout);
    fflush(stdout);
    return 0;
}

static dsv4_status generate(dsv4_model *model, const char *text, dsv4_error *error)
{
    /* A prompt begins with the begin-of-sentence token; tokenizing adds nothing. */
    int32_t prompt[1 + MAX_PROMPT];
    size_t n_prompt;
    prompt[0] = dsv4_model_bos(model);
    dsv4_status status =
        dsv4_model_tokenize(model, text, strlen(text), 0, prompt + 1, MAX_PROMPT, &n_prompt, error);
    if (status != DSV4_OK) return status;
    if (n_prompt > MAX_PROMPT) n_prompt = MAX_PROMPT;

    dsv4_session *session;
    status = dsv4_session_create(model, &session, error);
    if (status != DSV4_OK) return status;

    dsv4_sampling sampling;
    dsv4_sampling_default(&sampling);
    sampling.temperature = 0.6f;
    sampling.top_p = 0.95f;
    int64_t n_new;
    status = dsv4_session_generate(session, prompt, 1 + (int64_t)n_prompt, &sampling, MAX_NEW,
                                   print_token, NULL, &n_new, error);
    printf("\n");
    dsv4_session_free(session);
    return status;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: generate DIR PROMPT\n");
        return 2;
    }
    dsv4_model_options options;
    dsv4_model_options_default(&options);
    options.n_sessions = 1;

    dsv4_model *model = NULL;
    dsv4_error error;
    dsv4_status status = dsv4_model_open(argv[1], &options, &model, &error);
    if (status == DSV4_OK) status = generate(model, argv[2], &error);
    if (status != DSV4_OK) {
        fprintf(stderr, "generate: %s: %s\n", dsv4_status_name(status), error.text);
    }
    dsv4_model_close(model);
    return status == DSV4_OK ? 0 : 1;
}
