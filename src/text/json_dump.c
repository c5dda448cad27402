/*
 * json_dump.c - JSON as Python's json.dumps writes it.
 *
 * Place: text, on Jansson. Depth is bounded by Jansson's parser; containers are walked with a stack
 * of our own, not by recursion.
 */
#include "text/json_dump.h"

#include "text/utf8.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SIGNIFICANT_DIGITS 17 /* enough for every binary64 */

/* One open container of the value being written. */
typedef struct frame {
    json_t *container;
    void *member; /* of an object: the next one */
    size_t index; /* of the next element or member */
} frame;

static void append_control(dsv4_text_buffer *buffer, unsigned char c)
{
    char text[8];
    switch (c) {
    case '\b': dsv4_text_buffer_append_string(buffer, "\\b"); return;
    case '\t': dsv4_text_buffer_append_string(buffer, "\\t"); return;
    case '\n': dsv4_text_buffer_append_string(buffer, "\\n"); return;
    case '\f': dsv4_text_buffer_append_string(buffer, "\\f"); return;
    case '\r': dsv4_text_buffer_append_string(buffer, "\\r"); return;
    default: break;
    }
    (void)snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
    dsv4_text_buffer_append_string(buffer, text);
}

void dsv4_json_append_quoted(dsv4_text_buffer *buffer, const char *text, size_t len_bytes)
{
    size_t start = 0, pos = 0; /* text[start .. pos) needs no escape */
    dsv4_text_buffer_append(buffer, "\"", 1);
    while (pos < len_bytes) {
        unsigned char c = (unsigned char)text[pos];
        size_t n = dsv4_utf8_character_bytes(text + pos, len_bytes - pos);
        if (n > 0 && c >= 0x20 && c != '"' && c != '\\') {
            pos += n;
            continue;
        }
        dsv4_text_buffer_append(buffer, text + start, pos - start);
        if (n == 0) {
            dsv4_text_buffer_append_string(buffer, "\xef\xbf\xbd");
        } else if (c < 0x20) {
            append_control(buffer, c);
        } else {
            dsv4_text_buffer_append_string(buffer, c == '"' ? "\\\"" : "\\\\");
        }
        start = ++pos;
    }
    dsv4_text_buffer_append(buffer, text + start, pos - start);
    dsv4_text_buffer_append(buffer, "\"", 1);
}

/*
 * The shortest decimal that reads back as `value`: digits without a point, and the exponent of the
 * first one. Takes digits one by one because the locale may put anything for the point.
 */
static size_t shortest_digits(double value, char digits[MAX_SIGNIFICANT_DIGITS], int *exponent)
{
    char text[64];
    for (int n = 0; n < MAX_SIGNIFICANT_DIGITS; n++) {
        (void)snprintf(text, sizeof text, "%.*e", n, value);
        if (strtod(text, NULL) == value) break;
    }
    size_t n_digits = 0;
    const char *c = text;
    for (; *c != 'e'; c++) {
        if (*c >= '0' && *c <= '9') digits[n_digits++] = *c;
    }
    *exponent = atoi(c + 1);
    return n_digits;
}

/*
 * As Python's repr: positional for exponents -4 to 15, else with an exponent of two digits or more.
 */
static void append_real(dsv4_text_buffer *buffer, double value)
{
    char digits[MAX_SIGNIFICANT_DIGITS], text[16];
    int exponent = 0;
    double magnitude = value < 0 ? -value : value;
    size_t n_digits = shortest_digits(magnitude, digits, &exponent);
    if (signbit(value)) dsv4_text_buffer_append(buffer, "-", 1);
    if (exponent < -4 || exponent > 15) {
        dsv4_text_buffer_append(buffer, digits, 1);
        if (n_digits > 1) dsv4_text_buffer_append(buffer, ".", 1);
        dsv4_text_buffer_append(buffer, digits + 1, n_digits - 1);
        (void)snprintf(text, sizeof text, "e%+03d", exponent);
        dsv4_text_buffer_append_string(buffer, text);
        return;
    }
    if (exponent < 0) {
        dsv4_text_buffer_append(buffer, "0.000", (size_t)(1 - exponent));
        dsv4_text_buffer_append(buffer, digits, n_digits);
        return;
    }
    size_t n_whole = (size_t)exponent + 1;
    for (size_t i = 0; i < n_whole; i++) {
        dsv4_text_buffer_append(buffer, i < n_digits ? digits + i : "0", 1);
    }
    dsv4_text_buffer_append(buffer, ".", 1);
    if (n_digits > n_whole) {
        dsv4_text_buffer_append(buffer, digits + n_whole, n_digits - n_whole);
    } else {
        dsv4_text_buffer_append(buffer, "0", 1);
    }
}

static void append_scalar(dsv4_text_buffer *buffer, const json_t *value)
{
    char text[32];
    switch (json_typeof(value)) {
    case JSON_STRING:
        dsv4_json_append_quoted(buffer, json_string_value(value), json_string_length(value));
        return;
    case JSON_INTEGER:
        (void)snprintf(text, sizeof text, "%" PRId64, (int64_t)json_integer_value(value));
        dsv4_text_buffer_append_string(buffer, text);
        return;
    case JSON_REAL: append_real(buffer, json_real_value(value)); return;
    case JSON_TRUE: dsv4_text_buffer_append_string(buffer, "true"); return;
    case JSON_FALSE: dsv4_text_buffer_append_string(buffer, "false"); return;
    default: dsv4_text_buffer_append_string(buffer, "null"); return;
    }
}

/* The next value inside the frame, after its separator and key; NULL when the container ends. */
static json_t *next_member(dsv4_text_buffer *buffer, frame *top)
{
    bool is_object = json_is_object(top->container);
    json_t *value = is_object ? json_object_iter_value(top->member)
                              : json_array_get(top->container, top->index);
    if (value == NULL) return NULL;
    if (top->index > 0) dsv4_text_buffer_append(buffer, ", ", 2);
    top->index++;
    if (is_object) {
        const char *key = json_object_iter_key(top->member);
        dsv4_json_append_quoted(buffer, key, strlen(key));
        dsv4_text_buffer_append(buffer, ": ", 2);
        top->member = json_object_iter_next(top->container, top->member);
    }
    return value;
}

static frame open_container(dsv4_text_buffer *buffer, const json_t *value)
{
    /* Jansson's iterators want a mutable object; nothing here changes it. */
    frame result = {.container = (json_t *)(uintptr_t)value};
    bool is_object = json_is_object(value);
    dsv4_text_buffer_append(buffer, is_object ? "{" : "[", 1);
    if (is_object) result.member = json_object_iter(result.container);
    return result;
}

void dsv4_json_append_value(dsv4_text_buffer *buffer, const json_t *value)
{
    if (!json_is_object(value) && !json_is_array(value)) {
        append_scalar(buffer, value);
        return;
    }
    size_t depth = 1;
    frame *frames = malloc(JSON_PARSER_MAX_DEPTH * sizeof *frames);
    if (frames == NULL) {
        buffer->failed = true;
        return;
    }
    frames[0] = open_container(buffer, value);
    while (depth > 0) {
        frame *top = &frames[depth - 1];
        const json_t *member = next_member(buffer, top);
        if (member == NULL) {
            dsv4_text_buffer_append(buffer, json_is_object(top->container) ? "}" : "]", 1);
            depth--;
        } else if (json_is_object(member) || json_is_array(member)) {
            assert(depth < JSON_PARSER_MAX_DEPTH);
            frames[depth++] = open_container(buffer, member);
        } else {
            append_scalar(buffer, member);
        }
    }
    free(frames);
}

dsv4_json_words dsv4_json_describe_member(const json_t *value)
{
    return value == NULL ? (dsv4_json_words){"missing"} : dsv4_json_describe(value);
}
