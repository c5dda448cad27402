/*
 * json_text.h - hostile JSON text to Jansson values, and values to words.
 *
 * Place: io. A repeated key is refused, as in the other files of a model.
 */
#ifndef DSV4_IO_JSON_TEXT_H
#define DSV4_IO_JSON_TEXT_H

#include "file_error.h"

#include <jansson.h>

/*
 * Parses one JSON object; *root is the caller's to json_decref, set on success only. `path` is for
 * error texts.
 * Errors: BAD_FILE (the text names the place), OUT_OF_MEMORY (which can also show as BAD_FILE where
 * the parser does not tell the two apart).
 */
dsv4_status dsv4_json_parse(const char *path, const void *bytes, size_t len_bytes, json_t **root,
                            dsv4_error *error);

typedef struct dsv4_json_words {
    char text[sizeof(dsv4_short_text) + 2];
} dsv4_json_words;

/* A value as an error text shows it: 5, 'text' (shortened), "an array" and the like. */
dsv4_json_words dsv4_json_describe(const json_t *value);

#endif
