/*
 * json_dump.h - JSON as Python's json.dumps(value, ensure_ascii=False) writes it.
 *
 * Place: text. The release's prompt encoder is Python, and models were trained on its spelling:
 * separators ", " and ": ", keys in their order of arrival, floats in the shortest form that reads
 * back, control characters as lower-case \u00xx.
 */
#ifndef DSV4_TEXT_JSON_DUMP_H
#define DSV4_TEXT_JSON_DUMP_H

#include <jansson.h>

#include "io/json_text.h"
#include "text/text_buffer.h"

/* The string literal of a text; bytes that are not UTF-8 become U+FFFD, one for each. */
void dsv4_json_append_quoted(dsv4_text_buffer *buffer, const char *text, size_t len_bytes);

/* Any value that Jansson parsed. */
void dsv4_json_append_value(dsv4_text_buffer *buffer, const json_t *value);

/* dsv4_json_describe for a member that may not be there: NULL is "missing". */
dsv4_json_words dsv4_json_describe_member(const json_t *value);

#endif
