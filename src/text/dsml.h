/*
 * dsml.h - what a model's turn says: reasoning, content, tool calls (specification 7.3).
 *
 * Place: text. Lenient on what models get wrong (a missing end tag, blanks between tags, text after the
 * calls), strict where a guess could run a wrong tool: a duplicate parameter or a nameless invoke makes
 * the whole block plain content, with `malformed` set.
 */
#ifndef DSV4_TEXT_DSML_H
#define DSV4_TEXT_DSML_H

#include <stdbool.h>

#include "dsv4/base.h"

typedef struct dsv4_tool_call {
    char *name;
    char *arguments_json; /* an object: "string" parameters as JSON strings, others as given */
} dsv4_tool_call;

typedef struct dsv4_turn {
    char *reasoning; /* "" when there is none */
    char *content;
    dsv4_tool_call *calls;
    int64_t n_calls;
    bool malformed;
} dsv4_turn;

/* text is what the model generated after the prompt; thinking: the prompt ended with <think>. */
dsv4_status dsv4_turn_parse(const char *text, size_t len_bytes, bool thinking, dsv4_turn *turn,
                            dsv4_error *error);

/* Frees what dsv4_turn_parse allocated; accepts a zeroed turn. */
void dsv4_turn_free(dsv4_turn *turn);

#endif
