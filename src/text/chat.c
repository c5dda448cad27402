/*
 * chat.c - the prompt grammar of the V4 release: messages in, prompt text out (specification 7.3).
 *
 * Place: text, on Jansson. Three steps: messages are checked; runs of user and tool messages merge
 * into one user turn of blocks, whose tool results are put in the order of the calls; turns are
 * written, each with the tokens that lead over to the next.
 */
#include "text/chat.h"

#include "base/error.h"
#include "io/file_error.h"
#include "text/chat_parts.h"

#include <stdlib.h>
#include <string.h>

#define NO_TURN (-1)

/* Text or tool result of a user turn. */
typedef struct block {
    const json_t *content;
    const json_t *call_id; /* of a result; NULL when it has none */
    bool is_result;
    size_t order; /* of a result: its call's place among the assistant's */
} block;

typedef struct turn {
    int32_t role;
    const json_t *message; /* NULL: made here, without fields of its own */
    size_t index;          /* of the message, for error texts */
    size_t first_block;    /* of a user turn */
    size_t n_blocks;
} turn;

typedef struct chat {
    const dsv4_chat_options *options;
    dsv4_error *error;
    json_t *root;
    const json_t *messages;
    const json_t *tools;           /* from the top level, shown by turn 0 */
    const json_t *response_format; /* likewise */
    turn *turns;                   /* [n_turns] */
    int64_t n_turns;
    block *blocks; /* [n_blocks] */
    size_t n_blocks;
    bool drops_reasoning;
    int64_t last_user; /* the last user or developer turn, NO_TURN when there is none */
    dsv4_text_buffer prompt;
} chat;

static const char max_effort_text[] =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to "
    "resolve the root cause, rigorously stress-testing your logic against all potential paths, "
    "edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, "
    "considered alternative, and rejected hypothesis to ensure absolutely no assumption is left "
    "unchecked.\n\n";

void dsv4_chat_options_default(dsv4_chat_options *options)
{
    *options = (dsv4_chat_options){.drop_old_reasoning = true, .add_bos = true};
}

static dsv4_status out_of_memory(const chat *c)
{
    return dsv4_error_set(c->error, DSV4_ERROR_OUT_OF_MEMORY, "chat: out of memory");
}

/* Input. */

static dsv4_status parse(chat *c, const char *json, size_t len_bytes)
{
    json_error_t reason;
    const char *nul = len_bytes == 0 ? NULL : memchr(json, '\0', len_bytes);
    if (nul != NULL) { /* Jansson would pass over some */
        return dsv4_error_set(c->error, DSV4_ERROR_BAD_FILE,
                              "messages: byte %td is NUL, expected JSON", nul - json);
    }
    c->root = json_loadb(len_bytes == 0 ? "" : json, len_bytes, JSON_ALLOW_NUL, &reason);
    if (c->root == NULL && json_error_code(&reason) == json_error_out_of_memory) {
        return out_of_memory(c);
    }
    if (c->root == NULL) {
        return dsv4_error_set(c->error, DSV4_ERROR_BAD_FILE,
                              "messages: line %d, column %d: %s, expected JSON", reason.line,
                              reason.column, dsv4_shorten(reason.text).text);
    }
    c->messages = c->root;
    if (json_is_object(c->root)) {
        c->messages = json_object_get(c->root, "messages");
        c->tools = json_object_get(c->root, "tools");
        c->response_format = json_object_get(c->root, "response_format");
    }
    if (!json_is_array(c->messages)) {
        return dsv4_error_set(c->error, DSV4_ERROR_BAD_FILE,
                              "messages is not there or no array, expected an array of messages");
    }
    return dsv4_chat_check_top(c->tools, c->response_format, c->error);
}

/* Turns. */

static const json_t *field(const turn *t, const char *key)
{
    return json_object_get(t->message, key);
}

static const char *task_of(const turn *t)
{
    return json_string_value(field(t, "task"));
}

static bool is_user(const turn *t)
{
    return t->role == DSV4_CHAT_ROLE_USER || t->role == DSV4_CHAT_ROLE_DEVELOPER;
}

/*
 * A user or tool message joins a user turn before it; a user's text does not join one with a task.
 */
static void add_turn(chat *c, int32_t role, const json_t *message, size_t index)
{
    turn *last = c->n_turns == 0 ? NULL : &c->turns[c->n_turns - 1];
    bool is_result = role == DSV4_CHAT_ROLE_TOOL;
    bool has_blocks = is_result || role == DSV4_CHAT_ROLE_USER;
    bool joins = has_blocks && last != NULL && last->role == DSV4_CHAT_ROLE_USER &&
                 (is_result || task_of(last) == NULL);
    if (!joins) {
        last = &c->turns[c->n_turns++];
        *last = (turn){.role = is_result ? DSV4_CHAT_ROLE_USER : role,
                       .message = is_result ? NULL : message,
                       .index = index,
                       .first_block = c->n_blocks};
    }
    if (!has_blocks) return;
    last->n_blocks++;
    c->blocks[c->n_blocks++] = (block){
        .content = json_object_get(message, "content"),
        .call_id = is_result ? json_object_get(message, "tool_call_id") : NULL,
        .is_result = is_result,
    };
}

/* Tools and response format of the top level belong to a system message at the front. */
static dsv4_status check_front(chat *c)
{
    const turn *front = c->n_turns == 0 ? NULL : &c->turns[0];
    bool is_system = front != NULL && front->role == DSV4_CHAT_ROLE_SYSTEM;
    if (!is_system) return DSV4_OK;
    if (dsv4_chat_is_given(c->tools) && dsv4_chat_is_given(field(front, "tools"))) {
        return dsv4_chat_refuse(0, "tools", field(front, "tools"),
                                "none beside those of the top level", c->error);
    }
    if (dsv4_chat_is_given(c->response_format) &&
        dsv4_chat_is_given(field(front, "response_format"))) {
        return dsv4_chat_refuse(0, "response_format", field(front, "response_format"),
                                "none beside that of the top level", c->error);
    }
    return DSV4_OK;
}

static dsv4_status build_turns(chat *c)
{
    size_t n_messages = json_array_size(c->messages);
    bool has_front = dsv4_chat_is_given(c->tools) || dsv4_chat_is_given(c->response_format);
    c->turns = calloc(n_messages + 1, sizeof *c->turns);
    c->blocks = calloc(n_messages + 1, sizeof *c->blocks);
    if (c->turns == NULL || c->blocks == NULL) return out_of_memory(c);
    for (size_t i = 0; i < n_messages; i++) {
        const json_t *message = json_array_get(c->messages, i);
        int32_t role = 0;
        DSV4_TRY(dsv4_chat_check_message(message, i, &role, c->error));
        if (i == 0 && has_front && role != DSV4_CHAT_ROLE_SYSTEM) {
            add_turn(c, DSV4_CHAT_ROLE_SYSTEM, NULL, 0);
        }
        add_turn(c, role, message, i);
    }
    if (n_messages == 0 && has_front) add_turn(c, DSV4_CHAT_ROLE_SYSTEM, NULL, 0);
    return check_front(c);
}

/* Tool results. */

/* Adds the ids of the calls under their places; false when there is no memory. */
static bool note_calls(json_t *order, const json_t *calls)
{
    bool has_memory = json_object_clear(order) == 0;
    for (size_t i = 0; i < json_array_size(calls) && has_memory; i++) {
        const json_t *call = json_array_get(calls, i), *id = json_object_get(call, "id");
        if (json_string_length(id) == 0)
            id = json_object_get(json_object_get(call, "function"), "id");
        if (json_string_length(id) == 0) continue;
        has_memory =
            json_object_set_new(order, json_string_value(id), json_integer((json_int_t)i)) == 0;
    }
    return has_memory;
}

static int compare_orders(const void *a, const void *b)
{
    const block *left = a, *right = b;
    if (left->order != right->order) return left->order < right->order ? -1 : 1;
    return 0;
}

/*
 * Puts the results among n blocks in the order of their calls, those of equal order as they came,
 * and leaves texts where they are. scratch: [n] of what the chat holds.
 */
static void sort_results(block *blocks, size_t n, const json_t *order, block *scratch)
{
    size_t n_results = 0, next = 0;
    for (size_t i = 0; i < n; i++) {
        if (!blocks[i].is_result) continue;
        const char *id = json_string_value(blocks[i].call_id);
        const json_t *place = id == NULL ? NULL : json_object_get(order, id);
        /* a call that is not known counts as the first */
        blocks[i].order = (size_t)json_integer_value(place) * n + n_results;
        scratch[n_results++] = blocks[i];
    }
    qsort(scratch, n_results, sizeof *scratch, compare_orders);
    for (size_t i = 0; i < n; i++) {
        if (blocks[i].is_result) blocks[i] = scratch[next++];
    }
}

static dsv4_status sort_all_results(chat *c)
{
    json_t *order = json_object();
    block *scratch = calloc(c->n_blocks + 1, sizeof *scratch);
    bool has_memory = order != NULL && scratch != NULL;
    for (int64_t i = 0; i < c->n_turns && has_memory; i++) {
        const turn *t = &c->turns[i];
        const json_t *calls = field(t, "tool_calls");
        if (t->role == DSV4_CHAT_ROLE_ASSISTANT && json_array_size(calls) > 0) {
            has_memory = note_calls(order, calls);
        } else if (t->role == DSV4_CHAT_ROLE_USER) {
            sort_results(c->blocks + t->first_block, t->n_blocks, order, scratch);
        }
    }
    json_decref(order);
    free(scratch);
    return has_memory ? DSV4_OK : out_of_memory(c);
}

/* What is left out. */

static void find_last_user(chat *c)
{
    c->last_user = NO_TURN;
    for (int64_t i = 0; i < c->n_turns; i++) {
        if (is_user(&c->turns[i])) c->last_user = i;
    }
}

/* Tools keep all reasoning; without them, old developer messages go with the old reasoning. */
static void drop_old(chat *c)
{
    bool has_tools = dsv4_chat_is_given(c->tools);
    for (int64_t i = 0; i < c->n_turns && !has_tools; i++) {
        has_tools = dsv4_chat_is_given(field(&c->turns[i], "tools"));
    }
    c->drops_reasoning = c->options->drop_old_reasoning && !has_tools;
    find_last_user(c);
    if (!c->options->thinking || !c->drops_reasoning) return;
    int64_t n_kept = 0;
    for (int64_t i = 0; i < c->n_turns; i++) {
        bool is_old = i < c->last_user && c->turns[i].role == DSV4_CHAT_ROLE_DEVELOPER;
        if (!is_old) c->turns[n_kept++] = c->turns[i];
    }
    c->n_turns = n_kept;
    find_last_user(c);
}

/* Writing. */

static void append(chat *c, const char *text)
{
    dsv4_text_buffer_append_string(&c->prompt, text);
}

static void append_attachments(chat *c, int64_t i)
{
    const turn *t = &c->turns[i];
    bool is_front = i == 0 && t->role == DSV4_CHAT_ROLE_SYSTEM;
    const json_t *tools = field(t, "tools"), *format = field(t, "response_format");
    if (is_front && dsv4_chat_is_given(c->tools)) tools = c->tools;
    if (is_front && dsv4_chat_is_given(c->response_format)) format = c->response_format;
    dsv4_chat_append_tools(&c->prompt, tools);
    dsv4_chat_append_format(&c->prompt, format);
}

static void append_user(chat *c, const turn *t)
{
    append(c, DSV4_CHAT_USER);
    for (size_t k = 0; k < t->n_blocks; k++) {
        const block *b = &c->blocks[t->first_block + k];
        if (k > 0) append(c, "\n\n");
        if (b->is_result) append(c, "<tool_result>");
        dsv4_chat_append_content(&c->prompt, b->content);
        if (b->is_result) append(c, "</tool_result>");
    }
}

/* Whether the turns after i are written with their reasoning. */
static bool thinks_after(const chat *c, int64_t i)
{
    return c->options->thinking && (!c->drops_reasoning || i >= c->last_user);
}

static dsv4_status append_assistant(chat *c, int64_t i)
{
    const turn *t = &c->turns[i];
    bool answers_task = i > 0 && task_of(&c->turns[i - 1]) != NULL;
    bool has_reasoning = c->options->thinking && (!c->drops_reasoning || i > c->last_user);
    if (has_reasoning && !answers_task) {
        dsv4_chat_append_content(&c->prompt, field(t, "reasoning_content"));
        append(c, DSV4_CHAT_END_THINK);
    }
    dsv4_chat_append_content(&c->prompt, field(t, "content"));
    DSV4_TRY(dsv4_chat_append_calls(&c->prompt, field(t, "tool_calls"), t->index, c->error));
    if (!json_is_true(field(t, "wo_eos"))) append(c, DSV4_CHAT_EOS);
    return DSV4_OK;
}

/* What leads from turn i to an answer, when one is next or the prompt ends. */
static void append_transition(chat *c, int64_t i)
{
    const turn *t = &c->turns[i];
    const char *task = task_of(t);
    if (i + 1 < c->n_turns && c->turns[i + 1].role != DSV4_CHAT_ROLE_ASSISTANT &&
        c->turns[i + 1].role != DSV4_CHAT_ROLE_LATEST_REMINDER) {
        return;
    }
    if (task != NULL) {
        if (strcmp(task, "action") == 0) {
            append(c, DSV4_CHAT_ASSISTANT);
            append(c, c->options->thinking ? DSV4_CHAT_THINK : DSV4_CHAT_END_THINK);
        }
        append(c, dsv4_chat_task_token(task));
    } else if (is_user(t)) {
        append(c, DSV4_CHAT_ASSISTANT);
        append(c, thinks_after(c, i) ? DSV4_CHAT_THINK : DSV4_CHAT_END_THINK);
    }
}

static dsv4_status append_turn(chat *c, int64_t i)
{
    const turn *t = &c->turns[i];
    switch (t->role) {
    case DSV4_CHAT_ROLE_SYSTEM:
        dsv4_chat_append_content(&c->prompt, field(t, "content"));
        append_attachments(c, i);
        break;
    case DSV4_CHAT_ROLE_DEVELOPER:
        append(c, DSV4_CHAT_USER);
        dsv4_chat_append_content(&c->prompt, field(t, "content"));
        append_attachments(c, i);
        break;
    case DSV4_CHAT_ROLE_USER: append_user(c, t); break;
    case DSV4_CHAT_ROLE_LATEST_REMINDER:
        append(c, DSV4_CHAT_REMINDER);
        dsv4_chat_append_content(&c->prompt, field(t, "content"));
        break;
    default: DSV4_TRY(append_assistant(c, i)); break;
    }
    append_transition(c, i);
    return DSV4_OK;
}

static dsv4_status encode(chat *c, const char *json, size_t len_bytes)
{
    DSV4_TRY(parse(c, json, len_bytes));
    DSV4_TRY(build_turns(c));
    DSV4_TRY(sort_all_results(c));
    drop_old(c);
    if (c->options->add_bos) append(c, DSV4_CHAT_BOS);
    if (c->options->thinking && c->options->max_effort && c->n_turns > 0) {
        append(c, max_effort_text);
    }
    for (int64_t i = 0; i < c->n_turns; i++) DSV4_TRY(append_turn(c, i));
    return DSV4_OK;
}

dsv4_status dsv4_chat_encode(const char *json, size_t len_bytes, const dsv4_chat_options *options,
                             char **text, size_t *text_len_bytes, dsv4_error *error)
{
    chat c = {.options = options, .error = error};
    *text = NULL;
    *text_len_bytes = 0;
    dsv4_status status = encode(&c, json, len_bytes);
    if (status == DSV4_OK) {
        *text = dsv4_text_buffer_take(&c.prompt, text_len_bytes);
        if (*text == NULL) status = out_of_memory(&c);
    }
    dsv4_text_buffer_free(&c.prompt);
    free(c.turns);
    free(c.blocks);
    json_decref(c.root);
    return status;
}
