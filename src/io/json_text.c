/*
 * json_text.c - hostile JSON text to Jansson values, and values to words.
 *
 * Place: io, on Jansson, whose parser bounds its own depth.
 */
#include "io/json_text.h"

#include "base/error.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

dsv4_json_words dsv4_json_describe(const json_t *value)
{
    dsv4_json_words result = {"null"};
    switch (json_typeof(value)) {
    case JSON_INTEGER:
        (void)snprintf(result.text, sizeof result.text, "%" PRId64,
                       (int64_t)json_integer_value(value));
        break;
    case JSON_REAL:
        (void)snprintf(result.text, sizeof result.text, "%g", json_real_value(value));
        break;
    case JSON_STRING:
        (void)snprintf(
            result.text, sizeof result.text, "'%s'",
            dsv4_shorten_bytes(json_string_value(value), json_string_length(value)).text);
        break;
    case JSON_OBJECT: return (dsv4_json_words){"an object"};
    case JSON_ARRAY: return (dsv4_json_words){"an array"};
    case JSON_TRUE: return (dsv4_json_words){"true"};
    case JSON_FALSE: return (dsv4_json_words){"false"};
    case JSON_NULL: break;
    }
    return result;
}

dsv4_status dsv4_json_parse(const char *path, const void *bytes, size_t len_bytes, json_t **root,
                            dsv4_error *error)
{
    /* Jansson would skip some of them. */
    const char *text = bytes;
    const char *nul = len_bytes == 0 ? NULL : memchr(text, '\0', len_bytes);
    if (nul != NULL) {
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE, "%s: byte %td is NUL, expected JSON text",
                              dsv4_shorten(path).text, nul - text);
    }
    json_error_t json_error;
    json_t *value =
        json_loadb(len_bytes == 0 ? "" : text, len_bytes, JSON_REJECT_DUPLICATES, &json_error);
    if (value == NULL) {
        /* Jansson leaves the text empty where an allocation failed. */
        if (json_error_code(&json_error) == json_error_out_of_memory ||
            json_error.text[0] == '\0') {
            return dsv4_error_set_memory(path, error);
        }
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                              "%s: line %d, column %d: %s, expected a JSON object",
                              dsv4_shorten(path).text, json_error.line, json_error.column,
                              dsv4_shorten(json_error.text).text);
    }
    if (!json_is_object(value)) {
        dsv4_status status =
            dsv4_error_set(error, DSV4_ERROR_BAD_FILE, "%s: is %s, expected a JSON object",
                           dsv4_shorten(path).text, dsv4_json_describe(value).text);
        json_decref(value);
        return status;
    }
    *root = value;
    return DSV4_OK;
}
