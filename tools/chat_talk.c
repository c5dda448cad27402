/*
 * chat_talk.c - messages of a talk, and answers to them.
 *
 * Place: program.
 */
#include "chat_talk.h"

#include "base/error.h"
#include "json_string.h"
#include "model_call.h"
#include "text/dsml.h"
#include "text/text_buffer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PART_TOKENS = 256 }; /* of a prompt, between two looks at whether to stop */

/* What an answer needs while it is made. */
typedef struct answer {
    dsv4_on_token *on_token;
    void *context;
    dsv4_text_buffer text;
    bool is_stopped; /* before it began */
} answer;

static dsv4_status fail_memory(dsv4_error *error)
{
    return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory for a message");
}

dsv4_status dsv4_chat_talk_open(dsv4_model *model, int64_t max_tokens, int64_t rewind_tokens,
                                dsv4_chat_talk *talk, dsv4_error *error)
{
    *talk = (dsv4_chat_talk){.model = model,
                             .messages = json_array(),
                             .max_tokens = max_tokens,
                             .rewind_tokens = rewind_tokens};
    return talk->messages != NULL ? DSV4_OK : fail_memory(error);
}

static void drop_sessions(dsv4_chat_talk *talk)
{
    dsv4_session_free(talk->asked);
    dsv4_session_free(talk->answered);
    talk->asked = NULL;
    talk->answered = NULL;
}

void dsv4_chat_talk_close(dsv4_chat_talk *talk)
{
    drop_sessions(talk);
    json_decref(talk->messages);
}

void dsv4_chat_talk_reset(dsv4_chat_talk *talk)
{
    (void)json_array_clear(talk->messages);
    drop_sessions(talk);
}

/* ---- messages ---- */

static dsv4_status add_message(dsv4_chat_talk *talk, const char *role, const char *content,
                               const char *reasoning, dsv4_error *error)
{
    json_t *message = json_object();
    int failed = json_object_set_new(message, "role", json_string(role));
    failed |= json_object_set_new(message, "content", dsv4_json_string(content, strlen(content)));
    if (reasoning != NULL) {
        failed |= json_object_set_new(message, "reasoning_content",
                                      dsv4_json_string(reasoning, strlen(reasoning)));
    }
    if (failed) {
        json_decref(message);
        return fail_memory(error);
    }
    return json_array_append_new(talk->messages, message) == 0 ? DSV4_OK : fail_memory(error);
}

/* The talk so far as token ids; *ids is to be freed. */
static dsv4_status make_prompt(const dsv4_chat_talk *talk, bool thinking, int32_t **ids,
                               size_t *n_ids, dsv4_error *error)
{
    char *text = NULL, *json = json_dumps(talk->messages, JSON_COMPACT);
    size_t len_bytes;
    if (json == NULL) return fail_memory(error);
    dsv4_status status = dsv4_chat_prompt(json, strlen(json), thinking, &text, &len_bytes, error);
    free(json);
    if (status != DSV4_OK) return status;
    status = dsv4_model_call_tokenize(talk->model, text, len_bytes, 0, ids, n_ids, error);
    dsv4_text_free(text);
    return status;
}

/* ---- sessions ---- */

/* How many tokens a session shares with the prompt, which keeps one to compute. */
static int64_t common_tokens(const dsv4_session *session, const int32_t *ids, int64_t n_ids)
{
    int64_t n = dsv4_session_n_tokens(session), i = 0;
    const int32_t *tokens = dsv4_session_tokens(session);
    while (i < n && i < n_ids - 1 && tokens[i] == ids[i]) i++;
    return i;
}

/* Whether a session gets back to what it shares with the prompt without computing. */
static bool is_near(const dsv4_chat_talk *talk, const dsv4_session *session, const int32_t *ids,
                    int64_t n_ids)
{
    if (session == NULL) return false;
    int64_t n_common = common_tokens(session, ids, n_ids);
    return dsv4_session_n_tokens(session) - n_common <= talk->rewind_tokens;
}

/* Makes `answered` the session that goes on, rewound to what it shares with the prompt. */
static dsv4_status choose_session(dsv4_chat_talk *talk, const int32_t *ids, int64_t n_ids,
                                  dsv4_error *error)
{
    if (talk->answered == NULL) return dsv4_session_create(talk->model, &talk->answered, error);
    if (!is_near(talk, talk->answered, ids, n_ids) && is_near(talk, talk->asked, ids, n_ids)) {
        dsv4_session_free(talk->answered);
        talk->answered = talk->asked;
    } else {
        dsv4_session_free(talk->asked);
    }
    talk->asked = NULL;
    return dsv4_session_rewind(talk->answered, common_tokens(talk->answered, ids, n_ids), error);
}

/* Makes `asked` another session where `answered` stands. */
static dsv4_status keep_here(dsv4_chat_talk *talk, dsv4_error *error)
{
    dsv4_session_free(talk->asked);
    talk->asked = NULL;
    return dsv4_session_fork(talk->answered, &talk->asked, error);
}

/*
 * Computes the prompt but for its last token, and keeps a session there; when it is stopped or fails, where
 * the talk so far ends.
 */
static dsv4_status process_prompt(dsv4_chat_talk *talk, const int32_t *ids, int64_t n_ids,
                                  bool *is_stopped, dsv4_error *error)
{
    DSV4_TRY(choose_session(talk, ids, n_ids, error));
    DSV4_TRY(keep_here(talk, error));
    int64_t n_done = dsv4_session_n_tokens(talk->answered);
    while (n_done < n_ids - 1) {
        *is_stopped = talk->is_stopped != NULL && talk->is_stopped();
        if (*is_stopped) return DSV4_OK;
        int64_t n_left = n_ids - 1 - n_done, n_tokens = n_left < PART_TOKENS ? n_left : PART_TOKENS;
        const dsv4_forward_entry entry = {
            .session = talk->answered, .tokens = ids + n_done, .n_tokens = n_tokens};
        DSV4_TRY(dsv4_model_forward(talk->model, &entry, 1, error));
        n_done += n_tokens;
    }
    return keep_here(talk, error);
}

/* ---- answers ---- */

static int32_t take_token(void *context, int32_t id, const char *bytes, size_t len_bytes)
{
    answer *a = context;
    dsv4_text_buffer_append(&a->text, bytes, len_bytes);
    return a->on_token(a->context, id, bytes, len_bytes);
}

static dsv4_status generate(dsv4_chat_talk *talk, bool thinking, const dsv4_sampling *sampling,
                            int64_t max_new, answer *a, dsv4_error *error)
{
    int32_t *ids = NULL;
    size_t n_all = 0;
    int64_t n_new;
    DSV4_TRY(make_prompt(talk, thinking, &ids, &n_all, error));
    int64_t n_ids = (int64_t)n_all, n_room = talk->max_tokens - n_ids;
    dsv4_status status = DSV4_OK;
    if (n_room < 1) {
        status = dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                                "the talk has become too long: %" PRId64
                                " tokens, expected fewer than %" PRId64,
                                n_ids, talk->max_tokens);
    }
    if (status == DSV4_OK) status = process_prompt(talk, ids, n_ids, &a->is_stopped, error);
    if (status == DSV4_OK && !a->is_stopped) {
        status = dsv4_session_generate(talk->answered, ids + n_ids - 1, 1, sampling,
                                       max_new < n_room ? max_new : n_room, take_token, a, &n_new,
                                       error);
    }
    free(ids);
    return status;
}

static dsv4_status add_answer(dsv4_chat_talk *talk, bool thinking, answer *a, dsv4_error *error)
{
    size_t len_bytes;
    char *text = dsv4_text_buffer_take(&a->text, &len_bytes);
    if (text == NULL) return fail_memory(error);
    dsv4_turn turn = {0};
    dsv4_status status = dsv4_turn_parse(text, len_bytes, thinking, &turn, error);
    if (status == DSV4_OK) {
        status = add_message(talk, "assistant", turn.content, turn.reasoning, error);
    }
    dsv4_turn_free(&turn);
    free(text);
    return status;
}

dsv4_status dsv4_chat_talk_ask(dsv4_chat_talk *talk, const char *question, bool thinking,
                               const dsv4_sampling *sampling, int64_t max_new,
                               dsv4_on_token *on_token, void *context, dsv4_error *error)
{
    answer a = {.on_token = on_token, .context = context};
    size_t n_messages = json_array_size(talk->messages);
    dsv4_status status = add_message(talk, "user", question, NULL, error);
    if (status == DSV4_OK) status = generate(talk, thinking, sampling, max_new, &a, error);
    if (status == DSV4_OK && !a.is_stopped) status = add_answer(talk, thinking, &a, error);
    while ((status != DSV4_OK || a.is_stopped) && json_array_size(talk->messages) > n_messages) {
        (void)json_array_remove(talk->messages, n_messages);
    }
    dsv4_text_buffer_free(&a.text);
    return status;
}
