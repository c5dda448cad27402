/*
 * fuzz_dsml.c - libFuzzer target of the turn parser.
 *
 * Input: one byte, odd for thinking, then the turn. Arguments of every call must be a JSON object,
 * and a malformed turn has no calls. Calls that were read must be written by the chat encoder and
 * read back as the same calls.
 */
#include "text/chat.h"
#include "text/dsml.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes);

static void require(int condition)
{
    if (!condition) abort();
}

/* An assistant's message with the turn's calls; NULL when Jansson cannot hold one of them. */
static json_t *message_of(const dsv4_turn *turn)
{
    json_t *calls = json_array();
    for (int64_t i = 0; i < turn->n_calls; i++) {
        const dsv4_tool_call *call = &turn->calls[i];
        json_t *arguments = json_loads(call->arguments_json, JSON_ALLOW_NUL, NULL);
        json_t *as_reals =
            json_loads(call->arguments_json, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL);
        require(json_is_object(as_reals) && *call->name != '\0');
        json_decref(as_reals);
        if (arguments == NULL) { /* an integer that does not fit */
            json_decref(calls);
            return NULL;
        }
        json_decref(arguments);
        (void)json_array_append_new(calls,
                                    json_pack("{s:{s:s,s:s}}", "function", "name", call->name,
                                              "arguments", call->arguments_json));
    }
    return json_pack("[{s:s,s:o}]", "role", "assistant", "tool_calls", calls);
}

static void check_round_trip(const dsv4_turn *turn)
{
    json_t *messages = message_of(turn);
    if (messages == NULL) return;
    char *json = json_dumps(messages, JSON_COMPACT), *prompt = NULL;
    dsv4_chat_options options;
    size_t len_bytes = 0;
    dsv4_turn again;
    dsv4_chat_options_default(&options);
    options.add_bos = false;
    require(dsv4_chat_encode(json, strlen(json), &options, &prompt, &len_bytes, NULL) == DSV4_OK);
    require(dsv4_turn_parse(prompt, len_bytes, false, &again, NULL) == DSV4_OK);
    require(!again.malformed && again.n_calls == turn->n_calls);
    for (int64_t i = 0; i < turn->n_calls; i++) {
        require(strcmp(again.calls[i].name, turn->calls[i].name) == 0);
        json_t *left = json_loads(again.calls[i].arguments_json, JSON_ALLOW_NUL, NULL);
        json_t *right = json_loads(turn->calls[i].arguments_json, JSON_ALLOW_NUL, NULL);
        require(json_equal(left, right));
        json_decref(left);
        json_decref(right);
    }
    dsv4_turn_free(&again);
    free(prompt);
    free(json);
    json_decref(messages);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes)
{
    dsv4_turn turn;
    if (len_bytes == 0) return 0;
    bool thinking = bytes[0] % 2 == 1;
    require(dsv4_turn_parse((const char *)bytes + 1, len_bytes - 1, thinking, &turn, NULL) ==
            DSV4_OK);
    require(turn.reasoning != NULL && turn.content != NULL);
    require(!turn.malformed || turn.n_calls == 0);
    require(thinking || *turn.reasoning == '\0');
    if (turn.n_calls > 0) check_round_trip(&turn);
    dsv4_turn_free(&turn);
    return 0;
}
