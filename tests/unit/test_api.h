/*
 * test_api.h - what the tests of dsv4/dsv4.h share: a small model, its sessions, comparisons.
 *
 * Two ways to the same tokens must give the same bits; that the logits are the right ones is for the
 * tests of the model. Include after cmocka.h.
 */
#ifndef DSV4_TESTS_TEST_API_H
#define DSV4_TESTS_TEST_API_H

#include "api/api_model.h"
#include "../check/random_model.h"
#include "test_files.h"

#include <math.h>

enum { N_VOCAB = 40, EOS = 1, MAX_TOKENS = 700 };

static const random_model small = {
    .n_vocab = N_VOCAB, .n_mtp_blocks = 1, .eos_id = EOS, .max_positions = 1024};

static int32_t text_tokens[MAX_TOKENS]; /* what sessions are fed with */

static inline int fill_tokens(void **state)
{
    (void)state;
    for (int i = 0; i < MAX_TOKENS; i++) text_tokens[i] = (i * i * 7 + i / 9 + 3) % N_VOCAB;
    return 0;
}

static inline int enter_model(void **state)
{
    if (enter_directory(state) != 0) return -1;
    return random_model_write(".", &small, NULL) == DSV4_OK ? 0 : -1;
}

/* tokenizer.json with a token for every byte, ids as the bytes, and the special token "<x>", 256. */
static inline void write_byte_tokenizer(void)
{
    static char text[8192];
    int n = snprintf(text, sizeof text,
                     "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[{"
                     "\"id\":256,\"content\":\"<x>\",\"single_word\":false,\"lstrip\":false,"
                     "\"rstrip\":false,\"normalized\":false,\"special\":true}],\"normalizer\":null,"
                     "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                     "\"trim_offsets\":true,\"use_regex\":false},\"post_processor\":null,"
                     "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
                     "\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":\"BPE\","
                     "\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
                     "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,"
                     "\"vocab\":{");
    /* The alphabet of byte-level BPE: printable characters stand for themselves, others from 256 on. */
    int other = 256;
    for (int byte = 0; byte < 256; byte++) {
        bool is_plain = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
        n += snprintf(text + n, sizeof text - (size_t)n, "%s\"\\u%04x\":%d", byte > 0 ? "," : "",
                      is_plain ? byte : other++, byte);
    }
    n += snprintf(text + n, sizeof text - (size_t)n, "},\"merges\":[]}}");
    write_bytes("tokenizer.json", text, (size_t)n);
}

/* A unit test inside a directory that holds the small model. */
#define WITH_MODEL(test) cmocka_unit_test_setup_teardown(test, enter_model, leave_directory)

static inline dsv4_model_options make_options(int32_t numerics)
{
    dsv4_model_options options;
    dsv4_model_options_default(&options);
    options.numerics = numerics;
    options.n_threads = 2;
    options.n_tokens = 1024;
    options.step_tokens = 32;
    return options;
}

static inline dsv4_model *open_with(const dsv4_model_options *options)
{
    dsv4_model *model = NULL;
    dsv4_error error = {0};
    if (dsv4_model_open(".", options, &model, &error) != DSV4_OK) fail_msg("%s", error.text);
    return model;
}

static inline dsv4_session *open_session(dsv4_model *model)
{
    dsv4_session *session = NULL;
    dsv4_error error = {0};
    if (dsv4_session_create(model, &session, &error) != DSV4_OK) fail_msg("%s", error.text);
    return session;
}

static inline void forward(const dsv4_forward_entry *entries, int64_t n_entries)
{
    dsv4_error error = {0};
    dsv4_model *model = entries[0].session->model;
    if (dsv4_model_forward(model, entries, n_entries, &error) != DSV4_OK) {
        fail_msg("%s", error.text);
    }
}

/* Feeds tokens to the end of a session; logits [n_logits, N_VOCAB] of the last ones. */
static inline void feed(dsv4_session *session, const int32_t *tokens, int64_t n, int64_t n_logits,
                        float *logits)
{
    const dsv4_forward_entry entry = {session, tokens, n, n_logits, logits};
    forward(&entry, 1);
}

/*
 * The logits after a text in a session of its own. In pieces that end elsewhere than a model's steps; single tokens would
 * be another such way, but each costs as much as a piece, and there are many texts. They are compared with steps in
 * splitting_a_prompt_changes_nothing.
 */
static inline void plain_logits(dsv4_model *model, const int32_t *tokens, int64_t n, float *logits)
{
    enum { PIECE = 29 };
    dsv4_session *session = open_session(model);
    for (int64_t at = 0; at < n; at += PIECE) {
        int64_t n_piece = n - at < PIECE ? n - at : PIECE;
        feed(session, tokens + at, n_piece, at + n_piece == n, logits);
    }
    dsv4_session_free(session);
}

static inline void assert_same(const float *a, const float *b, int64_t n_rows)
{
    for (int64_t i = 0; i < n_rows * N_VOCAB; i++) {
        if (isnan(a[i])) fail_msg("value %ld is NaN", (long)i);
        if (a[i] != b[i]) {
            fail_msg("row %ld, token %ld: %.9g and %.9g", (long)(i / N_VOCAB), (long)(i % N_VOCAB),
                     (double)a[i], (double)b[i]);
        }
    }
}

/* A session must be as good as a new one with the same tokens. */
static inline void assert_sound(dsv4_session *session, const int32_t *tokens, int64_t n_tokens)
{
    float ours[N_VOCAB], plain[N_VOCAB];
    int32_t all[MAX_TOKENS];
    assert_int_equal(dsv4_session_n_tokens(session), n_tokens);
    assert_memory_equal(dsv4_session_tokens(session), tokens, (size_t)n_tokens * sizeof *tokens);
    memcpy(all, tokens, (size_t)n_tokens * sizeof *tokens);
    all[n_tokens] = 11;
    feed(session, all + n_tokens, 1, 1, ours);
    plain_logits(session->model, all, n_tokens + 1, plain);
    assert_same(ours, plain, 1);
}

#endif
