/*
 * test_api.c - models, forward calls and sessions of dsv4/dsv4.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_api.h"

/* ---- models ---- */

static void refuse_open(const char *dir, const dsv4_model_options *options, dsv4_status status,
                        const char *text)
{
    dsv4_model *const untouched = (dsv4_model *)&small;
    dsv4_model *model = untouched;
    dsv4_error error = {0};
    assert_int_equal(dsv4_model_open(dir, options, &model, &error), status);
    assert_contains(error.text, text);
    assert_ptr_equal(model, untouched);
    assert_int_equal(dsv4_model_open(dir, options, &model, NULL), status);
}

static void options_are_refused_by_name(void **state)
{
    (void)state;
    const dsv4_model_options good = make_options(DSV4_MODEL_EXACT);
#define REFUSE(field, value, text)                                                                 \
    do {                                                                                           \
        dsv4_model_options options = good;                                                         \
        options.field = value;                                                                     \
        refuse_open(".", &options, DSV4_ERROR_INVALID_ARGUMENT, text);                             \
    } while (0)
    REFUSE(size, sizeof good - 8, "size");
    REFUSE(numerics, 0, "numerics: 0, expected 1 .. 2");
    REFUSE(numerics, 3, "numerics: 3");
    REFUSE(cpu_level, -1, "cpu_level: -1");
    REFUSE(cpu_level, 5, "cpu_level: 5");
    REFUSE(n_threads, -1, "n_threads: -1, expected 0 .. 1024");
    REFUSE(n_threads, 1025, "n_threads: 1025");
    REFUSE(n_sessions, 0, "n_sessions: 0, expected 1 ..");
    REFUSE(n_tokens, 0, "n_tokens: 0");
    REFUSE(n_tokens, (int64_t)1 << 31, "n_tokens: 2147483648");
    REFUSE(step_tokens, 0, "step_tokens: 0");
    REFUSE(rewind_tokens, -1, "rewind_tokens: -1, expected 0 ..");
#undef REFUSE
    if (dsv4_cpu_level() < DSV4_CPU_LEVEL_AVX512BF16) {
        dsv4_model_options options = good;
        options.cpu_level = DSV4_CPU_LEVEL_AVX512BF16;
        refuse_open(".", &options, DSV4_ERROR_INVALID_ARGUMENT, "cpu_level: avx512bf16, but");
    }
    refuse_open(NULL, &good, DSV4_ERROR_INVALID_ARGUMENT, "dir");
    refuse_open(".", NULL, DSV4_ERROR_INVALID_ARGUMENT, "options");
}

static void directories_are_refused(void **state)
{
    (void)state;
    const dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    refuse_open("missing", &options, DSV4_ERROR_IO, "missing");
    write_bytes("tokenizer.json", "{", 1);
    refuse_open(".", &options, DSV4_ERROR_BAD_FILE, "tokenizer.json");
    assert_int_equal(remove("tokenizer.json"), 0);
    write_bytes("config.json", "{\"model_type\":\"deepseek_v3\"}", 28);
    refuse_open(".", &options, DSV4_ERROR_UNSUPPORTED, "deepseek_v3");
}

static void a_tokenizer_of_more_ids_is_refused(void **state)
{
    (void)state;
    write_byte_tokenizer();
    const dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    refuse_open(".", &options, DSV4_ERROR_BAD_FILE, "has id 256, expected 0 .. 39");
}

/* One token per byte, and a special one. */
static void text_becomes_tokens(void **state)
{
    (void)state;
    random_model wide = small;
    wide.n_vocab = 257;
    assert_int_equal(random_model_write(".", &wide, NULL), DSV4_OK);
    write_byte_tokenizer();
    const dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    dsv4_model *model = open_with(&options);
    static const char text[] = "a<x>\xff";
    int32_t ids[6] = {-7, -7, -7, -7, -7, -7};
    size_t n_ids = 0, len_bytes = 0;
    assert_int_equal(dsv4_model_tokenize(model, text, 5, 1, NULL, 0, &n_ids, NULL), DSV4_OK);
    assert_int_equal(n_ids, 3);
    assert_int_equal(dsv4_model_tokenize(model, text, 5, 1, ids, 2, &n_ids, NULL), DSV4_OK);
    assert_int_equal(n_ids, 3);
    assert_true(ids[0] == 'a' && ids[1] == 256 && ids[2] == -7);
    assert_int_equal(dsv4_model_tokenize(model, text, 5, 0, ids, 6, &n_ids, NULL), DSV4_OK);
    assert_int_equal(n_ids, 5);
    assert_true(ids[1] == '<' && ids[4] == 0xff && ids[5] == -7);
    assert_memory_equal(dsv4_model_token_bytes(model, 0xff, &len_bytes), "\xff", 1);
    assert_int_equal(len_bytes, 1);
    assert_memory_equal(dsv4_model_token_bytes(model, 256, &len_bytes), "<x>", 3);
    assert_int_equal(len_bytes, 3);
    assert_null(dsv4_model_token_bytes(model, 257, &len_bytes));
    assert_int_equal(dsv4_model_token_is_special(model, 256), 1);
    assert_int_equal(dsv4_model_token_is_special(model, 'a'), 0);
    dsv4_model_close(model);
}

static void count_progress(void *context, int64_t n_done, int64_t n_total)
{
    int *n_calls = context;
    assert_in_range(n_done, 0, n_total);
    ++*n_calls;
}

static void a_model_tells_what_it_is(void **state)
{
    (void)state;
    int n_calls = 0;
    dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    options.progress = count_progress;
    options.progress_context = &n_calls;
    dsv4_model *model = open_with(&options);
    assert_true(n_calls > 0);
    assert_int_equal(dsv4_model_n_vocab(model), N_VOCAB);
    assert_int_equal(dsv4_model_bos(model), 0);
    assert_int_equal(dsv4_model_eos(model), EOS);
    assert_int_equal(dsv4_model_max_tokens(model), 1024);
    assert_true(dsv4_model_cache_bytes(model) > 0);
    assert_int_equal(dsv4_model_cache_used_bytes(model), 0);
    dsv4_model_close(model);

    options.n_tokens = 100;
    model = open_with(&options);
    assert_int_equal(dsv4_model_max_tokens(model), 100);
    dsv4_model_close(model);
    options.n_tokens = 5000;
    model = open_with(&options);
    assert_int_equal(dsv4_model_max_tokens(model), 1024);
    dsv4_model_close(model);
    dsv4_model_close(NULL);
}

/* However many tokens are asked for: sessions hold no more than the checkpoint's positions. */
static void cache_memory_is_bounded(void **state)
{
    (void)state;
    dsv4_model_options options = make_options(DSV4_MODEL_EXACT);
    options.n_sessions = 2;
    options.n_tokens = 2 * small.max_positions;
    dsv4_model *model = open_with(&options);
    int64_t n_bytes = dsv4_model_cache_bytes(model);
    dsv4_model_close(model);
    options.n_tokens = INT32_MAX;
    model = open_with(&options);
    assert_int_equal(dsv4_model_cache_bytes(model), n_bytes);
    assert_int_equal(dsv4_model_max_tokens(model), small.max_positions);
    dsv4_model_close(model);
    options.n_tokens = small.max_positions;
    model = open_with(&options);
    assert_true(dsv4_model_cache_bytes(model) < n_bytes);
    dsv4_model_close(model);
}

static void without_a_tokenizer_there_is_no_text(void **state)
{
    (void)state;
    const dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    dsv4_model *model = open_with(&options);
    dsv4_error error = {0};
    size_t n_ids = 7;
    assert_int_equal(dsv4_model_tokenize(model, "a", 1, 0, NULL, 0, &n_ids, &error),
                     DSV4_ERROR_UNSUPPORTED);
    assert_contains(error.text, "tokenizer.json");
    assert_null(dsv4_model_token_bytes(model, 0, &n_ids));
    assert_int_equal(n_ids, 0);
    assert_int_equal(dsv4_model_token_is_special(model, 0), 0);
    dsv4_model_close(model);
}

static void chats_become_prompts(void **state)
{
    (void)state;
    static const char messages[] = "[{\"role\":\"user\",\"content\":\"Hi\"}]";
    char *text = NULL;
    size_t len_bytes = 0;
    dsv4_error error = {0};
    assert_int_equal(dsv4_chat_prompt(messages, sizeof messages - 1, 0, &text, &len_bytes, &error),
                     DSV4_OK);
    assert_string_equal(text, "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜></think>");
    assert_int_equal(len_bytes, strlen(text));
    dsv4_text_free(text);
    assert_int_equal(dsv4_chat_prompt(messages, sizeof messages - 1, 1, &text, &len_bytes, &error),
                     DSV4_OK);
    assert_string_equal(text, "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜><think>");
    dsv4_text_free(text);
    assert_int_equal(dsv4_chat_prompt("[{", 2, 1, &text, &len_bytes, &error), DSV4_ERROR_BAD_FILE);
}

/* ---- forward calls ---- */

static void check_splitting(int32_t numerics)
{
    enum { N = 300, N_LOGITS = 100 };
    const dsv4_model_options options = make_options(numerics);
    dsv4_model *model = open_with(&options);
    static float whole[N_LOGITS * N_VOCAB], single[N_LOGITS * N_VOCAB];
    dsv4_session *a = open_session(model), *b = open_session(model);
    feed(a, text_tokens, N, N_LOGITS, whole);
    for (int i = 0; i < N; i++) {
        bool is_wanted = i >= N - N_LOGITS;
        feed(b, text_tokens + i, 1, is_wanted,
             is_wanted ? single + (i - (N - N_LOGITS)) * N_VOCAB : NULL);
    }
    assert_same(whole, single, N_LOGITS);
    assert_true(memcmp(whole, whole + N_VOCAB, N_VOCAB * sizeof *whole) != 0);
    assert_int_equal(dsv4_session_n_tokens(a), N);
    assert_memory_equal(dsv4_session_tokens(a), text_tokens, N * sizeof *text_tokens);
    dsv4_session_free(a);
    dsv4_session_free(b);
    assert_int_equal(dsv4_model_cache_used_bytes(model), 0);
    dsv4_model_close(model);
}

static void splitting_a_prompt_changes_nothing(void **state)
{
    (void)state;
    check_splitting(DSV4_MODEL_OFFICIAL);
    check_splitting(DSV4_MODEL_EXACT);
}

/* Prompts and single tokens together, with logits of none, some and all rows, in another order. */
static void sessions_do_not_see_each_other(void **state)
{
    (void)state;
    const dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    dsv4_model *model = open_with(&options);
    static float a_logits[40 * N_VOCAB], b_logits[N_VOCAB], c_logits[5 * N_VOCAB];
    static float expected[40 * N_VOCAB];
    dsv4_session *a = open_session(model), *b = open_session(model), *c = open_session(model);
    feed(b, text_tokens, 150, 0, NULL);
    feed(c, text_tokens + 9, 7, 0, NULL);
    const dsv4_forward_entry entries[] = {{c, text_tokens + 16, 70, 5, c_logits},
                                          {a, text_tokens + 100, 40, 40, a_logits},
                                          {b, text_tokens + 150, 1, 1, b_logits}};
    forward(entries, 3);
    dsv4_session_free(a);
    a = open_session(model);
    feed(a, text_tokens + 100, 40, 40, expected);
    assert_same(a_logits, expected, 40);
    assert_sound(b, text_tokens, 151);
    plain_logits(model, text_tokens, 151, expected);
    assert_same(b_logits, expected, 1);
    for (int i = 0; i < 5; i++) {
        plain_logits(model, text_tokens + 9, 77 - 4 + i, expected);
        assert_same(c_logits + i * N_VOCAB, expected, 1);
    }
    dsv4_session_free(a);
    dsv4_session_free(b);
    dsv4_session_free(c);
    dsv4_model_close(model);
}

static void refuse_forward(dsv4_model *model, const dsv4_forward_entry *entries, int64_t n_entries,
                           dsv4_status status, const char *text)
{
    dsv4_error error = {0};
    assert_int_equal(dsv4_model_forward(model, entries, n_entries, &error), status);
    assert_contains(error.text, text);
}

static void wrong_calls_change_nothing(void **state)
{
    (void)state;
    const dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    dsv4_model *model = open_with(&options), *other = open_with(&options);
    dsv4_session *a = open_session(model), *b = open_session(model), *foreign = open_session(other);
    float logits[2 * N_VOCAB];
    const int32_t bad[] = {3, 4, N_VOCAB}, negative[] = {-1};
    feed(a, text_tokens, 5, 0, NULL);
    int64_t used_bytes = dsv4_model_cache_used_bytes(model);
    const dsv4_forward_entry good = {b, text_tokens, 40, 1, logits};
    const struct {
        dsv4_forward_entry entry;
        dsv4_status status;
        const char *text;
    } cases[] = {
        {{a, bad, 3, 0, NULL},
         DSV4_ERROR_INVALID_ARGUMENT,
         "entries[1].tokens[2]: id 40, expected 0 .. 39"},
        {{a, negative, 1, 0, NULL}, DSV4_ERROR_INVALID_ARGUMENT, "entries[1].tokens[0]: id -1"},
        {{a, text_tokens, 0, 0, NULL}, DSV4_ERROR_INVALID_ARGUMENT, "entries[1].tokens: 0 tokens"},
        {{a, NULL, 1, 0, NULL}, DSV4_ERROR_INVALID_ARGUMENT, "NULL"},
        {{a, text_tokens, 2, 3, logits},
         DSV4_ERROR_INVALID_ARGUMENT,
         "entries[1].n_logits: 3, expected 0 .. 2"},
        {{a, text_tokens, 2, -1, logits}, DSV4_ERROR_INVALID_ARGUMENT, "n_logits: -1"},
        {{a, text_tokens, 2, 1, NULL}, DSV4_ERROR_INVALID_ARGUMENT, "entries[1].logits: is NULL"},
        {{b, text_tokens, 2, 0, NULL}, DSV4_ERROR_INVALID_ARGUMENT, "each session once"},
        {{NULL, text_tokens, 2, 0, NULL}, DSV4_ERROR_INVALID_ARGUMENT, "session is NULL"},
        {{foreign, text_tokens, 2, 0, NULL}, DSV4_ERROR_INVALID_ARGUMENT, "another model"},
        {{a, text_tokens, 1020, 0, NULL},
         DSV4_ERROR_OUT_OF_MEMORY,
         "entries[1]: a session of 5 tokens and 1020 more, expected at most 1024"},
    };
    static int32_t many[1020];
    for (size_t i = 0; i < LENGTH_OF(cases); i++) {
        dsv4_forward_entry entries[] = {good, cases[i].entry};
        if (entries[1].n_tokens == 1020) entries[1].tokens = many;
        refuse_forward(model, entries, 2, cases[i].status, cases[i].text);
        assert_int_equal(dsv4_session_n_tokens(a), 5);
        assert_int_equal(dsv4_session_n_tokens(b), 0);
        assert_int_equal(dsv4_model_cache_used_bytes(model), used_bytes);
    }
    refuse_forward(model, NULL, 1, DSV4_ERROR_INVALID_ARGUMENT, "n_entries");
    refuse_forward(model, &good, -1, DSV4_ERROR_INVALID_ARGUMENT, "n_entries: -1");
    assert_int_equal(dsv4_model_forward(model, NULL, 0, NULL), DSV4_OK);
    assert_sound(a, text_tokens, 5);
    dsv4_session_free(a);
    dsv4_session_free(b);
    dsv4_session_free(foreign);
    dsv4_model_close(model);
    dsv4_model_close(other);
}

/* Raw rows of ratio-4 layers are the limit: 256 tokens and two pages of 8 for each session. */
static dsv4_model *open_narrow(void)
{
    dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    options.n_tokens = 256;
    options.n_sessions = 5;
    options.rewind_tokens = 256; /* every row is kept */
    return open_with(&options);
}

static void a_full_cache_keeps_complete_steps(void **state)
{
    (void)state;
    dsv4_model *model = open_narrow();
    dsv4_session *full = open_session(model), *a = open_session(model), *b = open_session(model);
    feed(full, text_tokens, 256, 0, NULL);
    feed(a, text_tokens, 32, 0, NULL);
    const dsv4_forward_entry entries[] = {{a, text_tokens + 32, 8, 0, NULL},
                                          {b, text_tokens, 100, 0, NULL}};
    refuse_forward(model, entries, 2, DSV4_ERROR_OUT_OF_MEMORY, "entries[1]: cache: full");
    assert_int_equal(dsv4_session_n_tokens(a), 40);
    assert_int_equal(dsv4_session_n_tokens(b), 32);

    /* The first entry takes the last page; the second finds none, and the first gives it back. */
    int64_t used_bytes = dsv4_model_cache_used_bytes(model);
    dsv4_session *fresh = open_session(model);
    const dsv4_forward_entry pair[] = {{a, text_tokens + 40, 1, 0, NULL},
                                       {fresh, text_tokens, 1, 0, NULL}};
    refuse_forward(model, pair, 2, DSV4_ERROR_OUT_OF_MEMORY, "entries[1]: cache: full");
    assert_int_equal(dsv4_model_cache_used_bytes(model), used_bytes);
    assert_int_equal(dsv4_session_n_tokens(a), 40);
    assert_int_equal(dsv4_session_n_tokens(fresh), 0);

    dsv4_session_free(full);
    assert_sound(fresh, text_tokens, 0);
    assert_sound(b, text_tokens, 32);
    assert_sound(a, text_tokens, 40);
    dsv4_session_free(a);
    dsv4_session_free(b);
    dsv4_session_free(fresh);
    assert_int_equal(dsv4_model_cache_used_bytes(model), 0);
    dsv4_model_close(model);
}

/* ---- sessions ---- */

static void sessions_are_counted(void **state)
{
    (void)state;
    dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    options.n_sessions = 2;
    dsv4_model *model = open_with(&options);
    dsv4_session *a = open_session(model), *b = NULL, *none = NULL;
    dsv4_error error = {0};
    assert_int_equal(dsv4_session_fork(a, &b, &error), DSV4_OK);
    assert_int_equal(dsv4_session_create(model, &none, &error), DSV4_ERROR_INVALID_ARGUMENT);
    assert_contains(error.text, "2 are open, expected at most 2 (n_sessions)");
    assert_int_equal(dsv4_session_fork(a, &none, NULL), DSV4_ERROR_INVALID_ARGUMENT);
    assert_null(none);
    dsv4_session_free(b);
    dsv4_session_free(NULL);
    b = open_session(model);
    dsv4_session_free(a);
    dsv4_session_free(b);
    dsv4_model_close(model);
}

static void forks_share_the_past_and_part_ways(void **state)
{
    (void)state;
    const dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    dsv4_model *model = open_with(&options);
    dsv4_session *a = open_session(model), *fork = NULL;
    feed(a, text_tokens, 135, 0, NULL);
    int64_t used_bytes = dsv4_model_cache_used_bytes(model);
    assert_true(used_bytes > 0 && used_bytes < dsv4_model_cache_bytes(model));
    assert_int_equal(dsv4_session_fork(a, &fork, NULL), DSV4_OK);
    assert_int_equal(dsv4_model_cache_used_bytes(model), used_bytes);
    int32_t ours[180], theirs[180];
    memcpy(ours, text_tokens, sizeof ours);
    memcpy(theirs, text_tokens, sizeof theirs);
    for (int i = 135; i < 180; i++) theirs[i] = text_tokens[i + 300];
    feed(fork, theirs + 135, 45, 0, NULL);
    assert_true(dsv4_model_cache_used_bytes(model) > used_bytes);
    feed(a, ours + 135, 20, 0, NULL);
    assert_sound(fork, theirs, 180);
    assert_sound(a, ours, 155);
    dsv4_session_free(a);
    dsv4_session_free(fork);
    assert_int_equal(dsv4_model_cache_used_bytes(model), 0);
    dsv4_model_close(model);
}

static void check_rewind(dsv4_model *model, int64_t from, int64_t to)
{
    dsv4_session *session = open_session(model);
    dsv4_error error = {0};
    feed(session, text_tokens, from, 0, NULL);
    if (dsv4_session_rewind(session, to, &error) != DSV4_OK) fail_msg("%s", error.text);
    assert_sound(session, text_tokens, to);
    dsv4_session_free(session);
}

static void rewinds_forget(void **state)
{
    (void)state;
    const int64_t lengths[][2] = {{5, 5},     {5, 0},     {5, 3},     {9, 4},     {200, 199},
                                  {200, 136}, {200, 135}, {260, 128}, {260, 127}, {400, 3},
                                  {400, 255}, {300, 0},   {0, 0}};
    for (int64_t rewind_tokens = 0; rewind_tokens <= 64; rewind_tokens += 64) {
        dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
        options.rewind_tokens = rewind_tokens;
        dsv4_model *model = open_with(&options);
        for (size_t i = 0; i < LENGTH_OF(lengths); i++) {
            if (lengths[i][0] > 0) check_rewind(model, lengths[i][0], lengths[i][1]);
        }
        dsv4_session *session = open_session(model);
        dsv4_error error = {0};
        feed(session, text_tokens, 10, 0, NULL);
        assert_int_equal(dsv4_session_rewind(session, 11, &error), DSV4_ERROR_INVALID_ARGUMENT);
        assert_contains(error.text, "to 11 tokens, expected 0 .. 10");
        assert_int_equal(dsv4_session_rewind(session, -1, &error), DSV4_ERROR_INVALID_ARGUMENT);
        assert_sound(session, text_tokens, 10);
        dsv4_session_free(session);
        dsv4_model_close(model);
    }
}

/* A near rewind runs no step: memory of steps does not grow from nothing. */
static void near_rewinds_compute_nothing(void **state)
{
    (void)state;
    dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    options.step_tokens = 300;
    dsv4_model *model = open_with(&options);
    dsv4_session *session = open_session(model);
    for (int i = 0; i < 300; i++) feed(session, text_tokens + i, 1, 0, NULL);
    int64_t n_growths = dsv4_model_n_growths(model);
    assert_int_equal(dsv4_session_rewind(session, 300 - 64, NULL), DSV4_OK);
    assert_int_equal(dsv4_model_n_growths(model), n_growths);
    assert_int_equal(dsv4_session_rewind(session, 60, NULL), DSV4_OK);
    assert_true(dsv4_model_n_growths(model) > n_growths);
    dsv4_session_free(session);
    dsv4_model_close(model);
}

static void steady_decoding_allocates_nothing(void **state)
{
    (void)state;
    for (int32_t numerics = DSV4_MODEL_OFFICIAL; numerics <= DSV4_MODEL_EXACT; numerics++) {
        const dsv4_model_options options = make_options(numerics);
        dsv4_model *model = open_with(&options);
        dsv4_session *a = open_session(model), *b = open_session(model);
        float logits[2][N_VOCAB];
        int64_t n_growths = 0;
        for (int i = 0; i < 300; i++) {
            const dsv4_forward_entry entries[] = {{a, text_tokens + i, 1, 1, logits[1]},
                                                  {b, text_tokens + i + 1, 1, 1, logits[0]}};
            forward(entries, 2);
            if (i == 0) n_growths = dsv4_model_n_growths(model);
        }
        assert_true(n_growths > 0);
        assert_int_equal(dsv4_model_n_growths(model), n_growths);
        dsv4_session_free(a);
        dsv4_session_free(b);
        dsv4_model_close(model);
    }
}

/* Chunks, one of them with its last successor unknown, as the one-step answer. */
static void the_mtp_block_follows_in_chunks(void **state)
{
    (void)state;
    enum { N = 30 };
    const dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    dsv4_model *model = open_with(&options);
    static float logits[N * N_VOCAB], whole[N * N_VOCAB], parts[N * N_VOCAB];
    int32_t tokens[N + 1];
    memcpy(tokens, text_tokens, sizeof tokens);
    tokens[N] = -1;
    dsv4_session *a = open_session(model), *b = open_session(model);
    const dsv4_forward_entry all = {a, tokens, N, N, logits};
    assert_int_equal(dsv4_model_forward_mtp(model, &all, tokens + 1, whole, NULL), DSV4_OK);
    for (int i = 0; i < N; i += 10) {
        const dsv4_forward_entry part = {b, tokens + i, 10, 10, logits};
        assert_int_equal(
            dsv4_model_forward_mtp(model, &part, tokens + i + 1, parts + i * N_VOCAB, NULL),
            DSV4_OK);
    }
    assert_same(whole, parts, N);
    for (int i = 0; i < N_VOCAB; i++) assert_true(whole[(N - 1) * N_VOCAB + i] == 0.0f);
    assert_true(memcmp(whole, whole + N_VOCAB, N_VOCAB * sizeof *whole) != 0);
    const dsv4_forward_entry wide = {a, text_tokens, 33, 0, NULL};
    dsv4_error error = {0};
    assert_int_equal(dsv4_model_forward_mtp(model, &wide, text_tokens, whole, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_contains(error.text, "33 tokens, expected at most 32");
    dsv4_session_free(a);
    dsv4_session_free(b);
    dsv4_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_MODEL(options_are_refused_by_name),
        WITH_MODEL(directories_are_refused),
        WITH_MODEL(a_tokenizer_of_more_ids_is_refused),
        WITH_MODEL(text_becomes_tokens),
        WITH_MODEL(a_model_tells_what_it_is),
        WITH_MODEL(cache_memory_is_bounded),
        WITH_MODEL(without_a_tokenizer_there_is_no_text),
        cmocka_unit_test(chats_become_prompts),
        WITH_MODEL(splitting_a_prompt_changes_nothing),
        WITH_MODEL(sessions_do_not_see_each_other),
        WITH_MODEL(wrong_calls_change_nothing),
        WITH_MODEL(a_full_cache_keeps_complete_steps),
        WITH_MODEL(sessions_are_counted),
        WITH_MODEL(forks_share_the_past_and_part_ways),
        WITH_MODEL(rewinds_forget),
        WITH_MODEL(near_rewinds_compute_nothing),
        WITH_MODEL(steady_decoding_allocates_nothing),
        WITH_MODEL(the_mtp_block_follows_in_chunks),
    };
    return cmocka_run_group_tests(tests, fill_tokens, NULL);
}
