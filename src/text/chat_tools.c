/*
 * chat_tools.c - tools, tool calls, response formats and contents, as the prompt writes them.
 *
 * Place: text. The fixed texts are the release's, byte for byte: models were trained on them.
 * Values have passed chat_check.c.
 */
#include "text/chat_parts.h"

#include "base/error.h"
#include "text/json_dump.h"

#include <string.h>

#define OPEN  "<" DSV4_CHAT_DSML
#define CLOSE "</" DSV4_CHAT_DSML

static const char tools_head[] =
    "\n\n## Tools\n"
    "\n"
    "You have access to a set of tools to help answer the user's question. You can invoke tools by "
    "writing a \"" OPEN "tool_calls>\" block like the following:\n"
    "\n" OPEN "tool_calls>\n" OPEN "invoke name=\"$TOOL_NAME\">\n" OPEN
    "parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE" CLOSE "parameter>\n"
    "...\n" CLOSE "invoke>\n" OPEN "invoke name=\"$TOOL_NAME2\">\n"
    "...\n" CLOSE "invoke>\n" CLOSE "tool_calls>\n"
    "\n"
    "String parameters should be specified as is and set `string=\"true\"`. For all other types "
    "(numbers, booleans, arrays, objects), pass the value in JSON format and set "
    "`string=\"false\"`.\n"
    "\n"
    "If thinking_mode is enabled (triggered by " DSV4_CHAT_THINK
    "), you MUST output your complete reasoning inside " DSV4_CHAT_THINK "..." DSV4_CHAT_END_THINK
    " BEFORE any tool calls or final response.\n"
    "\n"
    "Otherwise, output directly after " DSV4_CHAT_END_THINK " with tool calls or final response.\n"
    "\n"
    "### Available Tool Schemas\n"
    "\n";

static const char tools_tail[] =
    "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool "
    "calls.\n";

static const char format_head[] =
    "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

void dsv4_chat_append_tools(dsv4_text_buffer *prompt, const json_t *tools)
{
    if (!dsv4_chat_is_given(tools)) return;
    dsv4_text_buffer_append_string(prompt, tools_head);
    for (size_t i = 0; i < json_array_size(tools); i++) {
        if (i > 0) dsv4_text_buffer_append_string(prompt, "\n");
        dsv4_json_append_value(prompt, json_object_get(json_array_get(tools, i), "function"));
    }
    dsv4_text_buffer_append_string(prompt, tools_tail);
}

void dsv4_chat_append_format(dsv4_text_buffer *prompt, const json_t *format)
{
    if (!dsv4_chat_is_given(format)) return;
    dsv4_text_buffer_append_string(prompt, format_head);
    dsv4_json_append_value(prompt, format);
}

static void append_string(dsv4_text_buffer *prompt, const json_t *string)
{
    dsv4_text_buffer_append(prompt, json_string_value(string), json_string_length(string));
}

static void append_parameter(dsv4_text_buffer *prompt, const char *key, const json_t *value)
{
    dsv4_text_buffer_append_string(prompt, OPEN "parameter name=\"");
    dsv4_text_buffer_append_string(prompt, key);
    if (json_is_string(value)) {
        dsv4_text_buffer_append_string(prompt, "\" string=\"true\">");
        append_string(prompt, value);
    } else {
        dsv4_text_buffer_append_string(prompt, "\" string=\"false\">");
        dsv4_json_append_value(prompt, value);
    }
    dsv4_text_buffer_append_string(prompt, CLOSE "parameter>");
}

/* JSON, but nothing that Jansson can hold. */
static bool is_beyond_jansson(const json_error_t *reason)
{
    switch (json_error_code(reason)) {
    case json_error_numeric_overflow:
    case json_error_stack_overflow:
    case json_error_null_byte_in_key: return true;
    default: return false;
    }
}

/* One parameter for each member; text that is not JSON is one parameter, `arguments`. */
static dsv4_status append_arguments(dsv4_text_buffer *prompt, const json_t *arguments, size_t index,
                                    dsv4_error *error)
{
    json_error_t reason;
    const char *text = json_string_value(arguments), *key = NULL, *separator = "";
    size_t len_bytes = json_string_length(arguments);
    json_t *value = NULL;
    if (memchr(text, '\0', len_bytes) != NULL) { /* Jansson would pass over some */
        append_parameter(prompt, "arguments", arguments);
        return DSV4_OK;
    }
    json_t *object = json_loadb(text, len_bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, &reason);
    if (object == NULL && json_error_code(&reason) == json_error_out_of_memory) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "chat: out of memory");
    }
    if (object == NULL && is_beyond_jansson(&reason)) {
        return dsv4_chat_refuse(index, "arguments of a tool call", arguments,
                                "integers of 64 bits, finite reals, 2048 levels, no NUL in a key",
                                error);
    }
    if (object == NULL) {
        append_parameter(prompt, "arguments", arguments);
        return DSV4_OK;
    }
    if (!json_is_object(object)) {
        json_decref(object);
        return dsv4_chat_refuse(index, "arguments of a tool call", arguments, "a JSON object",
                                error);
    }
    json_object_foreach(object, key, value)
    {
        dsv4_text_buffer_append_string(prompt, separator);
        append_parameter(prompt, key, value);
        separator = "\n";
    }
    json_decref(object);
    return DSV4_OK;
}

dsv4_status dsv4_chat_append_calls(dsv4_text_buffer *prompt, const json_t *calls, size_t index,
                                   dsv4_error *error)
{
    if (!dsv4_chat_is_given(calls)) return DSV4_OK;
    dsv4_text_buffer_append_string(prompt, "\n\n" OPEN "tool_calls>\n");
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const json_t *function = json_object_get(json_array_get(calls, i), "function");
        dsv4_text_buffer_append_string(prompt, OPEN "invoke name=\"");
        append_string(prompt, json_object_get(function, "name"));
        dsv4_text_buffer_append_string(prompt, "\">\n");
        DSV4_TRY(append_arguments(prompt, json_object_get(function, "arguments"), index, error));
        dsv4_text_buffer_append_string(prompt, "\n" CLOSE "invoke>\n");
    }
    dsv4_text_buffer_append_string(prompt, CLOSE "tool_calls>");
    return DSV4_OK;
}

void dsv4_chat_append_content(dsv4_text_buffer *prompt, const json_t *content)
{
    if (json_is_string(content)) append_string(prompt, content);
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *part = json_array_get(content, i), *type = json_object_get(part, "type");
        if (i > 0) dsv4_text_buffer_append_string(prompt, "\n\n");
        if (strcmp(json_string_value(type), "text") == 0) {
            append_string(prompt, json_object_get(part, "text"));
        } else {
            dsv4_text_buffer_append_string(prompt, "[Unsupported ");
            append_string(prompt, type);
            dsv4_text_buffer_append_string(prompt, "]");
        }
    }
}
