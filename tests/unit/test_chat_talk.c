/*
 * test_chat_talk.c - talks of the program: what the sessions hold is always the talk.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "chat_talk.h"
#include "test_api.h"

enum { N_TEXT_VOCAB = 257, MAX_CONTEXT = 900, MAX_ANSWER = 120 };

typedef struct answer {
    int32_t ids[MAX_ANSWER];
    int64_t n;
} answer;

static int32_t take(void *context, int32_t id, const char *bytes, size_t len_bytes)
{
    answer *a = context;
    assert_true(bytes != NULL && len_bytes > 0);
    a->ids[a->n++] = id;
    return 0;
}

static dsv4_model *open_text_model(void)
{
    random_model wide = small;
    wide.n_vocab = N_TEXT_VOCAB;
    assert_int_equal(random_model_write(".", &wide, NULL), DSV4_OK);
    write_byte_tokenizer();
    dsv4_model_options options = make_options(DSV4_MODEL_OFFICIAL);
    options.n_tokens = 2 * MAX_CONTEXT;
    return open_with(&options);
}

/* Tokens of the talk's first n_messages messages as a prompt. */
static int64_t make_prompt(const dsv4_chat_talk *talk, size_t n_messages, bool thinking,
                           int32_t *ids)
{
    json_t *messages = json_deep_copy(talk->messages);
    while (json_array_size(messages) > n_messages) {
        assert_int_equal(json_array_remove(messages, n_messages), 0);
    }
    char *json = json_dumps(messages, 0), *text = NULL;
    size_t len_bytes, n_ids;
    assert_int_equal(dsv4_chat_prompt(json, strlen(json), thinking, &text, &len_bytes, NULL),
                     DSV4_OK);
    assert_int_equal(
        dsv4_model_tokenize(talk->model, text, len_bytes, 1, ids, MAX_CONTEXT, &n_ids, NULL),
        DSV4_OK);
    assert_in_range(n_ids, 1, MAX_CONTEXT);
    dsv4_text_free(text);
    free(json);
    json_decref(messages);
    return (int64_t)n_ids;
}

/* Logits after one more token, of a fork and of a session that computes everything anew. */
static void assert_state(const dsv4_session *session, const int32_t *ids, int64_t n_ids)
{
    static float kept[N_TEXT_VOCAB], fresh[N_TEXT_VOCAB];
    assert_int_equal(dsv4_session_n_tokens(session), n_ids);
    assert_memory_equal(dsv4_session_tokens(session), ids, (size_t)n_ids * sizeof *ids);
    dsv4_session *fork = NULL, *other = open_session(session->model);
    assert_int_equal(dsv4_session_fork(session, &fork, NULL), DSV4_OK);
    feed(fork, ids, 1, 1, kept);
    feed(other, ids, n_ids, 0, NULL);
    feed(other, ids, 1, 1, fresh);
    assert_memory_equal(kept, fresh, sizeof kept);
    dsv4_session_free(fork);
    dsv4_session_free(other);
}

static void ask(dsv4_chat_talk *talk, const char *question, bool thinking, int64_t max_new)
{
    static int32_t ids[MAX_CONTEXT + MAX_ANSWER];
    answer a = {.n = 0};
    dsv4_sampling sampling;
    dsv4_error error = {0};
    dsv4_sampling_default(&sampling);
    sampling.temperature = 0;
    size_t n_before = json_array_size(talk->messages);
    if (dsv4_chat_talk_ask(talk, question, thinking, &sampling, max_new, take, &a, &error) !=
        DSV4_OK) {
        fail_msg("%s", error.text);
    }
    assert_int_equal(json_array_size(talk->messages), n_before + 2);
    int64_t n_ids = make_prompt(talk, n_before + 1, thinking, ids);
    assert_state(talk->asked, ids, n_ids - 1);
    memcpy(ids + n_ids, a.ids, (size_t)a.n * sizeof *ids);
    assert_state(talk->answered, ids, n_ids + a.n);
}

static void check_talk(bool thinking, int64_t max_new)
{
    dsv4_model *model = open_text_model();
    dsv4_chat_talk talk;
    assert_int_equal(dsv4_chat_talk_open(model, MAX_CONTEXT, 64, &talk, NULL), DSV4_OK);
    ask(&talk, "one", thinking, max_new);
    ask(&talk, "two, and some more to say", thinking, max_new);
    ask(&talk, "\xff", thinking, max_new);
    dsv4_chat_talk_reset(&talk);
    assert_int_equal(json_array_size(talk.messages), 0);
    assert_int_equal(dsv4_model_cache_used_bytes(model), 0);
    ask(&talk, "four", !thinking, max_new);
    ask(&talk, "five", thinking, max_new);
    dsv4_chat_talk_close(&talk);
    dsv4_model_close(model);
}

static void sessions_hold_the_talk(void **state)
{
    (void)state;
    for (int64_t max_new = 4; max_new <= MAX_ANSWER; max_new *= 30) {
        check_talk(false, max_new);
        check_talk(true, max_new);
    }
}

/* What does not fit is forgotten; the talk goes on without it. */
static void long_talks_are_refused(void **state)
{
    (void)state;
    dsv4_model *model = open_text_model();
    dsv4_chat_talk talk;
    dsv4_sampling sampling;
    dsv4_error error = {0};
    answer a = {.n = 0};
    char question[MAX_CONTEXT + 1];
    memset(question, 'x', sizeof question - 1);
    question[MAX_CONTEXT] = '\0';
    dsv4_sampling_default(&sampling);
    assert_int_equal(dsv4_chat_talk_open(model, MAX_CONTEXT, 64, &talk, NULL), DSV4_OK);
    ask(&talk, "one", false, 4);
    assert_int_equal(dsv4_chat_talk_ask(&talk, question, false, &sampling, 4, take, &a, &error),
                     DSV4_ERROR_OUT_OF_MEMORY);
    assert_contains(error.text, "the talk has become too long");
    assert_int_equal(json_array_size(talk.messages), 2);
    assert_int_equal(a.n, 0);
    ask(&talk, "two", false, 4);
    dsv4_chat_talk_close(&talk);
    dsv4_model_close(model);
}

static int64_t n_looks, n_looks_before_stop;

static bool stop_later(void)
{
    return n_looks++ == n_looks_before_stop;
}

/* A question that is stopped before its answer leaves no trace in the talk, whose session is kept. */
static void stopped_questions_are_forgotten(void **state)
{
    (void)state;
    dsv4_model *model = open_text_model();
    dsv4_chat_talk talk;
    dsv4_sampling sampling;
    char question[MAX_CONTEXT - 300];
    memset(question, 'x', sizeof question - 1);
    question[sizeof question - 1] = '\0';
    dsv4_sampling_default(&sampling);
    assert_int_equal(dsv4_chat_talk_open(model, MAX_CONTEXT, 64, &talk, NULL), DSV4_OK);
    ask(&talk, "one", false, 4);
    int64_t n_tokens = dsv4_session_n_tokens(talk.answered);
    talk.is_stopped = stop_later;
    for (n_looks_before_stop = 0; n_looks_before_stop < 4; n_looks_before_stop++) {
        answer a = {.n = 0};
        n_looks = 0;
        assert_int_equal(dsv4_chat_talk_ask(&talk, question, false, &sampling, 4, take, &a, NULL),
                         DSV4_OK);
        bool is_stopped = n_looks > n_looks_before_stop;
        assert_int_equal(is_stopped, n_looks_before_stop < 3);
        assert_int_equal(json_array_size(talk.messages), is_stopped ? 2 : 4);
        assert_int_equal(a.n > 0, !is_stopped);
        if (is_stopped) {
            /* Of the answer's 4 tokens as many as its text gives again; perhaps what begins a question. */
            assert_non_null(talk.asked);
            assert_in_range(dsv4_session_n_tokens(talk.asked), n_tokens - 4, n_tokens + 100);
            ask(&talk, "two", false, 0);
        }
        while (json_array_size(talk.messages) > 2) json_array_remove(talk.messages, 2);
    }
    talk.is_stopped = NULL;
    ask(&talk, "three", false, 4);
    dsv4_chat_talk_close(&talk);
    dsv4_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIRECTORY(sessions_hold_the_talk),
        IN_DIRECTORY(long_talks_are_refused),
        IN_DIRECTORY(stopped_questions_are_forgotten),
    };
    return cmocka_run_group_tests(tests, fill_tokens, NULL);
}
