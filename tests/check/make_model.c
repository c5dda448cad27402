/*
 * make_model.c - writes a small checkpoint and what it computes, for tests of the program.
 *
 * usage: make_model DIR N_VOCAB N_TOKENS
 *   DIR/config.json, DIR/model.safetensors   random weights, with an MTP block
 *   DIR/golden.safetensors                   tokens, logits and mtp_logits of one exact step
 *
 * Place: tests.
 */
#include "random_model.h"

#include "api/api_model.h"
#include "base/error.h"
#include "io/safetensors.h"

#include <stdio.h>
#include <stdlib.h>

static dsv4_status write_golden(const char *path, const int32_t *tokens, int64_t n_tokens,
                                const float *logits, const float *mtp_logits, int64_t n_vocab,
                                dsv4_error *error)
{
    int64_t row_bytes = n_vocab * (int64_t)sizeof(float);
    const dsv4_tensor_view views[] = {
        {.name = "logits",
         .dtype = DSV4_SAFETENSORS_F32,
         .rank = 2,
         .shape = {n_tokens, n_vocab},
         .data = logits,
         .len_bytes = n_tokens * row_bytes},
        {.name = "mtp_logits",
         .dtype = DSV4_SAFETENSORS_F32,
         .rank = 2,
         .shape = {n_tokens - 1, n_vocab},
         .data = mtp_logits,
         .len_bytes = (n_tokens - 1) * row_bytes},
        {.name = "tokens",
         .dtype = DSV4_SAFETENSORS_I32,
         .rank = 1,
         .shape = {n_tokens},
         .data = tokens,
         .len_bytes = n_tokens * (int64_t)sizeof *tokens},
    };
    return dsv4_safetensors_write(path, views, 3, NULL, 0, error);
}

static dsv4_status compute(const char *dir, int64_t n_tokens, const int32_t *tokens, float *logits,
                           float *mtp_logits, dsv4_error *error)
{
    dsv4_model_options options;
    dsv4_model_options_default(&options);
    options.numerics = DSV4_MODEL_EXACT;
    options.n_sessions = 1;
    options.n_tokens = options.step_tokens = n_tokens;
    dsv4_model *model = NULL;
    dsv4_session *session = NULL;
    dsv4_status status = dsv4_model_open(dir, &options, &model, error);
    if (status == DSV4_OK) status = dsv4_session_create(model, &session, error);
    if (status == DSV4_OK) {
        const dsv4_forward_entry entry = {.session = session,
                                          .tokens = tokens,
                                          .n_tokens = n_tokens,
                                          .n_logits = n_tokens,
                                          .logits = logits};
        status = dsv4_model_forward_mtp(model, &entry, tokens + 1, mtp_logits, error);
    }
    dsv4_session_free(session);
    dsv4_model_close(model);
    return status;
}

static dsv4_status make_all(const char *dir, int64_t n_vocab, int64_t n_tokens, dsv4_error *error)
{
    const random_model model = {
        .n_vocab = n_vocab, .n_mtp_blocks = 1, .eos_id = 1, .max_positions = 4096};
    DSV4_TRY(random_model_write(dir, &model, error));
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/golden.safetensors", dir);
    size_t n_values = (size_t)(n_tokens * n_vocab);
    int32_t *tokens = calloc((size_t)n_tokens + 1, sizeof *tokens);
    float *logits = calloc(n_values, sizeof *logits);
    float *mtp_logits = calloc(n_values, sizeof *mtp_logits);
    dsv4_status status = DSV4_ERROR_OUT_OF_MEMORY;
    if (tokens != NULL && logits != NULL && mtp_logits != NULL) {
        for (int64_t i = 0; i < n_tokens; i++) tokens[i] = (int32_t)(i * i * 7 % n_vocab);
        tokens[n_tokens] = -1;
        status = compute(dir, n_tokens, tokens, logits, mtp_logits, error);
        if (status == DSV4_OK) {
            status = write_golden(path, tokens, n_tokens, logits, mtp_logits, n_vocab, error);
        }
    } else {
        (void)dsv4_error_set(error, status, "no memory");
    }
    free(tokens);
    free(logits);
    free(mtp_logits);
    return status;
}

int main(int argc, char **argv)
{
    dsv4_error error;
    if (argc != 4) {
        fprintf(stderr, "usage: make_model DIR N_VOCAB N_TOKENS\n");
        return 2;
    }
    if (make_all(argv[1], strtoll(argv[2], NULL, 10), strtoll(argv[3], NULL, 10), &error) !=
        DSV4_OK) {
        fprintf(stderr, "make_model: %s\n", error.text);
        return 1;
    }
    return 0;
}
