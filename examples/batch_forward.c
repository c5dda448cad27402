/*
 * batch_forward.c - several sequences in one call: a long prompt, a fork of it, and a single token.
 *
 * Place: examples; uses only the installed headers and library. Works on token ids, so that it needs no
 * tokenizer, and prints the likeliest next token of each sequence.
 *
 *   cc batch_forward.c $(pkg-config --cflags --libs dsv4) -o batch_forward
 *   ./batch_forward DeepSeek-V4-Flash
 */
#include <dsv4/dsv4.h>

#include <stdio.h>
#include <stdlib.h>

enum { N_SESSIONS = 3, N_PROMPT = 40 };

static int32_t find_largest(const float *logits, int64_t n_vocab)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n_vocab; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    return (int32_t)best;
}

/* logits [N_SESSIONS, n_vocab] */
static dsv4_status run(dsv4_model *model, dsv4_session **sessions, float *logits, dsv4_error *error)
{
    int64_t n_vocab = dsv4_model_n_vocab(model);
    int32_t prompt[N_PROMPT];
    for (int i = 0; i < N_PROMPT; i++) prompt[i] = i == 0 ? dsv4_model_bos(model) : 2 + i;

    /* One session's past, without logits. */
    const dsv4_forward_entry past = {.session = sessions[0], .tokens = prompt, .n_tokens = 20};
    dsv4_status status = dsv4_model_forward(model, &past, 1, error);
    if (status != DSV4_OK) return status;

    /* A second one shares it; nothing is copied until one of them writes. */
    status = dsv4_session_fork(sessions[0], &sessions[1], error);
    if (status != DSV4_OK) return status;

    /* All in one call: the weights are read once for all of them. */
    const dsv4_forward_entry entries[N_SESSIONS] = {
        {sessions[0], prompt + 20, N_PROMPT - 20, 1, logits},
        {sessions[1], prompt + 7, 1, 1, logits + n_vocab},
        {sessions[2], prompt, N_PROMPT, 1, logits + 2 * n_vocab},
    };
    status = dsv4_model_forward(model, entries, N_SESSIONS, error);
    for (int i = 0; status == DSV4_OK && i < N_SESSIONS; i++) {
        printf("sequence %d: %lld tokens, next %ld\n", i,
               (long long)dsv4_session_n_tokens(sessions[i]),
               (long)find_largest(logits + i * n_vocab, n_vocab));
    }
    return status;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: batch_forward DIR\n");
        return 2;
    }
    dsv4_model_options options;
    dsv4_model_options_default(&options);
    options.n_sessions = N_SESSIONS;

    dsv4_model *model = NULL;
    dsv4_session *sessions[N_SESSIONS] = {NULL};
    dsv4_error error = {0};
    float *logits = NULL;
    dsv4_status status = dsv4_model_open(argv[1], &options, &model, &error);
    if (status == DSV4_OK) status = dsv4_session_create(model, &sessions[0], &error);
    if (status == DSV4_OK) status = dsv4_session_create(model, &sessions[2], &error);
    if (status == DSV4_OK) {
        logits = malloc((size_t)(N_SESSIONS * dsv4_model_n_vocab(model)) * sizeof *logits);
        status = logits != NULL ? run(model, sessions, logits, &error) : DSV4_ERROR_OUT_OF_MEMORY;
    }
    if (status != DSV4_OK) {
        fprintf(stderr, "batch_forward: %s: %s\n", dsv4_status_name(status), error.text);
    }
    for (int i = 0; i < N_SESSIONS; i++) dsv4_session_free(sessions[i]);
    dsv4_model_close(model);
    free(logits);
    return status == DSV4_OK ? 0 : 1;
}
