/*
 * test_generate.c - dsv4_session_generate.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_api.h"

typedef struct heard {
    int32_t ids[MAX_TOKENS];
    int64_t n, stop_after;
} heard;

static int32_t hear(void *context, int32_t id, const char *bytes, size_t len_bytes)
{
    heard *h = context;
    assert_null(bytes); /* the small model has no tokenizer */
    assert_int_equal(len_bytes, 0);
    h->ids[h->n++] = id;
    return h->n == h->stop_after ? 5 : 0;
}

static dsv4_sampling greedy(void)
{
    dsv4_sampling sampling;
    dsv4_sampling_default(&sampling);
    sampling.temperature = 0;
    return sampling;
}

/* What greedy decoding gives after a prompt, by hand. */
static void decode_greedily(dsv4_model *model, int64_t n_prompt, int64_t n, int32_t *ids)
{
    const dsv4_sampling sampling = greedy();
    uint64_t random = 0, scratch[N_VOCAB];
    float logits[N_VOCAB];
    dsv4_session *session = open_session(model);
    feed(session, text_tokens, n_prompt, 1, logits);
    for (int64_t i = 0; i < n; i++) {
        ids[i] = dsv4_sample(&sampling, logits, N_VOCAB, &random, scratch);
        feed(session, ids + i, 1, 1, logits);
    }
    dsv4_session_free(session);
}

/* The small model with an end of sentence that greedy decoding does not meet within n <= 20 tokens. */
static dsv4_model *open_endless(const dsv4_model_options *options, int64_t n_prompt, int64_t n)
{
    dsv4_model_options roomy = *options;
    roomy.n_tokens = 1024;
    dsv4_model *model = open_with(&roomy);
    int32_t ids[20];
    bool comes[N_VOCAB] = {false};
    decode_greedily(model, n_prompt, n, ids);
    dsv4_model_close(model);
    for (int64_t i = 0; i < n; i++) comes[ids[i]] = true;
    random_model endless = small;
    endless.eos_id = 0;
    while (comes[endless.eos_id]) endless.eos_id++;
    assert_int_equal(random_model_write(".", &endless, NULL), DSV4_OK);
    return open_with(options);
}

static void generate(dsv4_session *session, int64_t n_prompt, const dsv4_sampling *sampling,
                     int64_t max_new, heard *h)
{
    int64_t n_new = -1;
    dsv4_error error = {0};
    if (dsv4_session_generate(session, text_tokens, n_prompt, sampling, max_new, hear, h, &n_new,
                              &error) != DSV4_OK) {
        fail_msg("%s", error.text);
    }
    assert_int_equal(n_new, h->n);
}

/* prompt, then what was heard */
static void assert_kept(dsv4_session *session, int64_t n_prompt, const heard *h)
{
    int32_t tokens[MAX_TOKENS];
    memcpy(tokens, text_tokens, (size_t)n_prompt * sizeof *tokens);
    memcpy(tokens + n_prompt, h->ids, (size_t)h->n * sizeof *tokens);
    assert_sound(session, tokens, n_prompt + h->n);
}

static void generation_reports_and_keeps(void **state)
{
    (void)state;
    const dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    const dsv4_sampling sampling = greedy();
    dsv4_model *model = open_endless(&options, 50, 8);
    int32_t ids[8];
    decode_greedily(model, 50, 8, ids);

    dsv4_session *session = open_session(model);
    heard h = {.stop_after = -1};
    generate(session, 50, &sampling, 8, &h);
    assert_int_equal(h.n, 8);
    assert_memory_equal(h.ids, ids, sizeof ids);
    assert_kept(session, 50, &h);
    dsv4_session_free(session);

    session = open_session(model);
    h = (heard){.stop_after = 3};
    generate(session, 50, &sampling, 8, &h);
    assert_int_equal(h.n, 3);
    assert_memory_equal(h.ids, ids, 3 * sizeof *ids);
    assert_kept(session, 50, &h);
    dsv4_session_free(session);

    session = open_session(model);
    h = (heard){.stop_after = -1};
    generate(session, 50, &sampling, 0, &h);
    assert_kept(session, 50, &h);
    dsv4_session_free(session);
    dsv4_model_close(model);
}

/* The same weights, but the fourth greedy token ends the sentence. */
static void generation_ends_with_the_sentence(void **state)
{
    (void)state;
    const dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    const dsv4_sampling sampling = greedy();
    dsv4_model *model = open_with(&options);
    int32_t ids[4];
    decode_greedily(model, 50, 4, ids);
    dsv4_model_close(model);
    random_model ending = small;
    ending.eos_id = ids[3];
    int64_t n_before = 0;
    while (ids[n_before] != ids[3]) n_before++;
    assert_int_equal(random_model_write(".", &ending, NULL), DSV4_OK);

    model = open_with(&options);
    dsv4_session *session = open_session(model);
    heard h = {.stop_after = -1};
    generate(session, 50, &sampling, 8, &h);
    assert_int_equal(h.n, n_before);
    assert_kept(session, 50, &h);
    dsv4_session_free(session);
    dsv4_model_close(model);
}

/* A seed gives the same tokens each time; not all seeds give the same. */
static void seeds_repeat(void **state)
{
    (void)state;
    const dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    dsv4_model *model = open_with(&options);
    static heard heard_of[2][8];
    int n_different = 0;
    for (int i = 0; i < 16; i++) {
        heard *h = &heard_of[i / 8][i % 8];
        *h = (heard){.stop_after = -1};
        dsv4_sampling sampling;
        dsv4_sampling_default(&sampling);
        sampling.temperature = 3; /* flat enough that seeds part */
        sampling.seed = (uint64_t)(i % 8);
        dsv4_session *session = open_session(model);
        generate(session, 20, &sampling, 20, h);
        dsv4_session_free(session);
    }
    for (int i = 0; i < 8; i++) {
        assert_memory_equal(&heard_of[0][i], &heard_of[1][i], sizeof heard_of[0][i]);
        n_different += memcmp(&heard_of[0][0], &heard_of[0][i], sizeof heard_of[0][0]) != 0;
    }
    assert_in_range(n_different, 4, 7);
    dsv4_model_close(model);
}

static void generation_refuses_by_name(void **state)
{
    (void)state;
    const dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    dsv4_model *model = open_with(&options);
    dsv4_session *session = open_session(model);
    dsv4_sampling sampling = greedy();
    dsv4_error error = {0};
    int64_t n_new = 9;
    const int32_t bad[] = {1, -3};
    heard h = {.stop_after = -1};
#define REFUSE(prompt, n_prompt, max_new, part)                                                    \
    do {                                                                                           \
        assert_int_equal(dsv4_session_generate(session, prompt, n_prompt, &sampling, max_new,      \
                                               hear, &h, &n_new, &error),                          \
                         DSV4_ERROR_INVALID_ARGUMENT);                                             \
        assert_contains(error.text, part);                                                         \
        assert_int_equal(n_new, 0);                                                                \
        assert_int_equal(dsv4_session_n_tokens(session), 0);                                       \
    } while (0)
    REFUSE(bad, 2, 1, "prompt[1]: id -3");
    REFUSE(text_tokens, 0, 1, "prompt: 0 tokens");
    REFUSE(text_tokens, 3, -1, "max_new: -1");
    sampling.top_p = 2;
    REFUSE(text_tokens, 3, 1, "top_p: 2");
#undef REFUSE
    assert_int_equal(h.n, 0);
    dsv4_session_free(session);
    dsv4_model_close(model);
}

/* What was reported before the session was full is kept, and the session stays sound. */
static void a_full_session_ends_generation(void **state)
{
    (void)state;
    dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    options.n_tokens = 60;
    dsv4_model *model = open_endless(&options, 50, 20);
    dsv4_session *session = open_session(model);
    const dsv4_sampling sampling = greedy();
    dsv4_error error = {0};
    heard h = {.stop_after = -1};
    int64_t n_new = 0;
    assert_int_equal(
        dsv4_session_generate(session, text_tokens, 50, &sampling, 100, hear, &h, &n_new, &error),
        DSV4_ERROR_OUT_OF_MEMORY);
    assert_contains(error.text, "60 tokens");
    assert_int_equal(n_new, 10);
    assert_int_equal(h.n, 10);
    assert_int_equal(dsv4_session_n_tokens(session), 60);
    assert_int_equal(dsv4_session_rewind(session, 55, NULL), DSV4_OK);
    h.n = 5;
    assert_kept(session, 50, &h);
    dsv4_session_free(session);
    dsv4_model_close(model);
}

/* Drafts change neither what is reported nor what is kept, whatever the sampling and wherever it stops. */
static void drafts_change_nothing(void **state)
{
    (void)state;
    dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    int64_t n_drafted, n_accepted;
    for (int i = 0; i < 24; i++) {
        static const float temperatures[] = {0, 0.01f, 3};
        static heard heard_of[2];
        int64_t n_prompt = 1 + i * 13 % 70, max_new = i % 5 == 4 ? 2 : 30;
        options.numerics = i % 2 == 0 ? DSV4_MODEL_OFFICIAL : DSV4_MODEL_EXACT;
        dsv4_sampling sampling = greedy();
        sampling.temperature = temperatures[i % 3];
        sampling.seed = (uint64_t)i;
        for (int32_t n_draft = 0; n_draft <= 1; n_draft++) {
            options.n_draft = n_draft;
            options.rewind_tokens = i % 4 == 0 ? 0 : 64;
            dsv4_model *model = open_with(&options);
            dsv4_session *session = open_session(model);
            heard *h = &heard_of[n_draft];
            *h = (heard){.stop_after = i % 3 == 1 ? 1 + i : -1};
            generate(session, n_prompt, &sampling, max_new, h);
            assert_kept(session, n_prompt, h);
            dsv4_model_draft_counts(model, &n_drafted, &n_accepted);
            if (n_draft == 0) assert_int_equal(n_drafted, 0);
            if (n_draft == 1 && h->n > 2) assert_true(n_drafted > 0);
            assert_true(n_accepted <= n_drafted);
            dsv4_session_free(session);
            dsv4_model_close(model);
        }
        assert_memory_equal(&heard_of[0], &heard_of[1], sizeof heard_of[0]);
    }
}

/* The steps of a text whose drafts are always right are half as many; of one that repeats a token. */
static void right_drafts_are_kept(void **state)
{
    (void)state;
    random_model constant = small;
    constant.repeats = true;
    assert_int_equal(random_model_write(".", &constant, NULL), DSV4_OK);
    dsv4_model_options options = make_options(DSV4_MODEL_EXACT);
    options.n_draft = 1;
    dsv4_model *model = open_with(&options);
    dsv4_session *session = open_session(model);
    const dsv4_sampling sampling = greedy();
    heard h = {.stop_after = -1};
    generate(session, 40, &sampling, 21, &h);
    assert_int_equal(h.n, 21);
    assert_kept(session, 40, &h);
    int64_t n_drafted, n_accepted;
    dsv4_model_draft_counts(model, &n_drafted, &n_accepted);
    assert_int_equal(n_drafted, 10);
    assert_int_equal(n_accepted, 10);
    dsv4_session_free(session);
    dsv4_model_close(model);
}

static void drafts_want_an_mtp_block(void **state)
{
    (void)state;
    random_model plain = small;
    plain.n_mtp_blocks = 0;
    assert_int_equal(random_model_write(".", &plain, NULL), DSV4_OK);
    dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    options.n_draft = 1;
    dsv4_model *model = NULL;
    dsv4_error error = {0};
    assert_int_equal(dsv4_model_open(".", &options, &model, &error), DSV4_ERROR_UNSUPPORTED);
    assert_contains(error.text, "n_draft: 1");
    assert_contains(error.text, "num_nextn_predict_layers");
    assert_null(model);
    options.n_draft = 2;
    assert_int_equal(dsv4_model_open(".", &options, &model, &error), DSV4_ERROR_INVALID_ARGUMENT);
    assert_contains(error.text, "n_draft: 2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_MODEL(generation_reports_and_keeps),
        WITH_MODEL(generation_ends_with_the_sentence),
        WITH_MODEL(seeds_repeat),
        WITH_MODEL(generation_refuses_by_name),
        WITH_MODEL(a_full_session_ends_generation),
        WITH_MODEL(drafts_change_nothing),
        WITH_MODEL(right_drafts_are_kept),
        WITH_MODEL(drafts_want_an_mtp_block),
    };
    return cmocka_run_group_tests(tests, fill_tokens, NULL);
}
