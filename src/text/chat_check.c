/*
 * chat_check.c - whether messages have the shape that the chat encoder needs.
 *
 * Place: text. Messages are hostile. What the release's encoder accepts is accepted; where it would
 * crash, print Python's None, or pass over a field that was meant, the message is refused by name.
 */
#include "text/chat_parts.h"

#include "base/error.h"
#include "text/json_dump.h"

#include <stdio.h>
#include <string.h>

static const char *const role_names[DSV4_CHAT_N_ROLES] = {
    [DSV4_CHAT_ROLE_SYSTEM] = "system",       [DSV4_CHAT_ROLE_USER] = "user",
    [DSV4_CHAT_ROLE_DEVELOPER] = "developer", [DSV4_CHAT_ROLE_ASSISTANT] = "assistant",
    [DSV4_CHAT_ROLE_TOOL] = "tool",           [DSV4_CHAT_ROLE_LATEST_REMINDER] = "latest_reminder",
};

static const struct {
    const char *task;
    const char *token;
} tasks[] = {
    {"action", "<｜action｜>"}, {"query", "<｜query｜>"}, {"authority", "<｜authority｜>"},
    {"domain", "<｜domain｜>"}, {"title", "<｜title｜>"}, {"read_url", "<｜read_url｜>"},
};

/* Where a value stands, as a chain to the outermost owner: messages, [3], tool_calls, [0], id. */
typedef struct place {
    const struct place *owner; /* NULL for the outermost */
    const char *member;        /* NULL for an element */
    size_t index;              /* of an element */
} place;

#define MAX_PLACE_DEPTH 8

typedef struct place_text {
    char text[160];
} place_text;

static place member_of(const place *owner, const char *member)
{
    return (place){.owner = owner, .member = member};
}

static place element_of(const place *owner, size_t index)
{
    return (place){.owner = owner, .index = index};
}

/* "messages[3].tool_calls[0].id" and the like. */
static place_text spell(const place *where)
{
    const place *chain[MAX_PLACE_DEPTH];
    place_text result = {""};
    size_t n = 0, pos = 0;
    for (; where != NULL && n < MAX_PLACE_DEPTH; where = where->owner) chain[n++] = where;
    while (n-- > 0 && pos < sizeof result.text) {
        char *out = result.text + pos;
        size_t n_left = sizeof result.text - pos;
        const place *p = chain[n];
        int n_out = p->member == NULL
                        ? snprintf(out, n_left, "[%zu]", p->index)
                        : snprintf(out, n_left, "%s%s", pos == 0 ? "" : ".", p->member);
        pos += n_out < 0 ? 0 : (size_t)n_out;
    }
    return result;
}

static dsv4_status refuse(const place *where, const json_t *value, const char *expectation,
                          dsv4_error *error)
{
    return dsv4_error_set(error, DSV4_ERROR_BAD_FILE, "%s is %s, expected %s", spell(where).text,
                          dsv4_json_describe_member(value).text, expectation);
}

static dsv4_status refuse_member(const place *owner, const char *member, const json_t *value,
                                 const char *expectation, dsv4_error *error)
{
    place where = member_of(owner, member);
    return refuse(&where, value, expectation, error);
}

static const place all_messages = {.member = "messages"};

dsv4_status dsv4_chat_refuse(size_t index, const char *what, const json_t *value,
                             const char *expectation, dsv4_error *error)
{
    place owner = element_of(&all_messages, index);
    return refuse_member(&owner, what, value, expectation, error);
}

const char *dsv4_chat_task_token(const char *task)
{
    for (size_t i = 0; i < sizeof tasks / sizeof tasks[0]; i++) {
        if (strcmp(tasks[i].task, task) == 0) return tasks[i].token;
    }
    return NULL;
}

static bool is_absent(const json_t *value)
{
    return value == NULL || json_is_null(value);
}

/* Nothing, null or a string. */
static dsv4_status check_optional_string(const json_t *object, const place *owner, const char *key,
                                         dsv4_error *error)
{
    const json_t *value = json_object_get(object, key);
    if (is_absent(value) || json_is_string(value)) return DSV4_OK;
    return refuse_member(owner, key, value, "a string", error);
}

static dsv4_status check_string(const json_t *object, const place *owner, const char *key,
                                dsv4_error *error)
{
    const json_t *value = json_object_get(object, key);
    if (json_is_string(value)) return DSV4_OK;
    return refuse_member(owner, key, value, "a string", error);
}

/* A string, or an array of {"type": "text", "text": ...} and parts of other types. */
static dsv4_status check_content(const json_t *content, const place *owner, dsv4_error *error)
{
    if (json_is_string(content)) return DSV4_OK;
    if (!json_is_array(content)) {
        return refuse(owner, content, "a string or an array of parts", error);
    }
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *part = json_array_get(content, i);
        place name = element_of(owner, i);
        if (!json_is_object(part)) return refuse(&name, part, "an object", error);
        DSV4_TRY(check_string(part, &name, "type", error));
        if (strcmp(json_string_value(json_object_get(part, "type")), "text") == 0) {
            DSV4_TRY(check_string(part, &name, "text", error));
        }
    }
    return DSV4_OK;
}

static dsv4_status check_tools(const json_t *tools, const place *owner, dsv4_error *error)
{
    if (is_absent(tools)) return DSV4_OK;
    if (!json_is_array(tools)) return refuse(owner, tools, "an array of tools", error);
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *tool = json_array_get(tools, i);
        const json_t *function = json_object_get(tool, "function");
        place name = element_of(owner, i);
        if (!json_is_object(tool)) return refuse(&name, tool, "an object", error);
        place function_name = member_of(&name, "function");
        if (!json_is_object(function)) return refuse(&function_name, function, "an object", error);
        DSV4_TRY(check_string(function, &function_name, "name", error));
    }
    return DSV4_OK;
}

static dsv4_status check_format(const json_t *format, const place *owner, dsv4_error *error)
{
    if (is_absent(format) || json_is_object(format)) return DSV4_OK;
    return refuse(owner, format, "an object", error);
}

static dsv4_status check_calls(const json_t *calls, const place *owner, dsv4_error *error)
{
    if (is_absent(calls)) return DSV4_OK;
    if (!json_is_array(calls)) return refuse(owner, calls, "an array of tool calls", error);
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const json_t *call = json_array_get(calls, i),
                     *function = json_object_get(call, "function");
        place name = element_of(owner, i);
        if (!json_is_object(call)) return refuse(&name, call, "an object", error);
        DSV4_TRY(check_optional_string(call, &name, "id", error));
        place function_name = member_of(&name, "function");
        if (!json_is_object(function)) return refuse(&function_name, function, "an object", error);
        DSV4_TRY(check_optional_string(function, &function_name, "id", error));
        DSV4_TRY(check_string(function, &function_name, "name", error));
        DSV4_TRY(check_string(function, &function_name, "arguments", error));
    }
    return DSV4_OK;
}

bool dsv4_chat_is_given(const json_t *value)
{
    return json_array_size(value) > 0 || json_object_size(value) > 0;
}

/*
 * The release's encoder takes a missing content for an empty one, except where it would print None;
 * an assistant's and a system message's may be null.
 */
static dsv4_status check_role_content(const json_t *message, const place *owner, int32_t role,
                                      dsv4_error *error)
{
    const json_t *content = json_object_get(message, "content");
    place name = member_of(owner, "content");
    bool may_be_null = role == DSV4_CHAT_ROLE_SYSTEM || role == DSV4_CHAT_ROLE_ASSISTANT;
    bool may_be_missing = may_be_null || role == DSV4_CHAT_ROLE_USER || role == DSV4_CHAT_ROLE_TOOL;
    if (content == NULL && may_be_missing) return DSV4_OK;
    if (json_is_null(content) && may_be_null) return DSV4_OK;
    DSV4_TRY(check_content(content, &name, error));
    bool is_empty = json_string_length(content) == 0 && json_array_size(content) == 0;
    if (role == DSV4_CHAT_ROLE_DEVELOPER && is_empty) {
        return refuse(&name, content, "content that is not empty", error);
    }
    return DSV4_OK;
}

/* Tools and response formats: only system and developer messages show them to the model. */
static dsv4_status check_attachments(const json_t *message, const place *owner, int32_t role,
                                     dsv4_error *error)
{
    const json_t *tools = json_object_get(message, "tools");
    const json_t *format = json_object_get(message, "response_format");
    place tools_name = member_of(owner, "tools"), format_name = member_of(owner, "response_format");
    bool may_have = role == DSV4_CHAT_ROLE_SYSTEM || role == DSV4_CHAT_ROLE_DEVELOPER;
    static const char rule[] = "none outside of system and developer messages";
    DSV4_TRY(check_tools(tools, &tools_name, error));
    DSV4_TRY(check_format(format, &format_name, error));
    if (dsv4_chat_is_given(tools) && !may_have) return refuse(&tools_name, tools, rule, error);
    if (dsv4_chat_is_given(format) && !may_have) return refuse(&format_name, format, rule, error);
    return DSV4_OK;
}

dsv4_status dsv4_chat_check_top(const json_t *tools, const json_t *format, dsv4_error *error)
{
    static const place tools_name = {.member = "tools"},
                       format_name = {.member = "response_format"};
    DSV4_TRY(check_tools(tools, &tools_name, error));
    return check_format(format, &format_name, error);
}

static dsv4_status check_task(const json_t *message, const place *owner, dsv4_error *error)
{
    const json_t *task = json_object_get(message, "task");
    if (is_absent(task)) return DSV4_OK;
    if (json_is_string(task) && dsv4_chat_task_token(json_string_value(task)) != NULL) {
        return DSV4_OK;
    }
    return refuse_member(owner, "task", task, "action, query, authority, domain, title or read_url",
                         error);
}

static dsv4_status find_role(const json_t *message, const place *owner, int32_t *role,
                             dsv4_error *error)
{
    const json_t *name = json_object_get(message, "role");
    if (json_is_string(name)) {
        for (*role = 0; *role < DSV4_CHAT_N_ROLES; (*role)++) {
            if (strcmp(role_names[*role], json_string_value(name)) == 0) return DSV4_OK;
        }
    }
    return refuse_member(owner, "role", name,
                         "system, user, developer, assistant, tool or latest_reminder", error);
}

dsv4_status dsv4_chat_check_message(const json_t *message, size_t index, int32_t *role,
                                    dsv4_error *error)
{
    place owner = element_of(&all_messages, index);
    if (!json_is_object(message)) return refuse(&owner, message, "an object", error);
    DSV4_TRY(find_role(message, &owner, role, error));
    DSV4_TRY(check_role_content(message, &owner, *role, error));
    DSV4_TRY(check_attachments(message, &owner, *role, error));
    DSV4_TRY(check_task(message, &owner, error));
    if (*role == DSV4_CHAT_ROLE_TOOL) {
        DSV4_TRY(check_optional_string(message, &owner, "tool_call_id", error));
    }
    if (*role != DSV4_CHAT_ROLE_ASSISTANT) return DSV4_OK;
    DSV4_TRY(check_optional_string(message, &owner, "reasoning_content", error));
    const json_t *wo_eos = json_object_get(message, "wo_eos");
    if (!is_absent(wo_eos) && !json_is_boolean(wo_eos)) {
        return refuse_member(&owner, "wo_eos", wo_eos, "a boolean", error);
    }
    const json_t *calls = json_object_get(message, "tool_calls");
    place calls_name = member_of(&owner, "tool_calls");
    return check_calls(calls, &calls_name, error);
}
