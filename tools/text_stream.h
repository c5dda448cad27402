/*
 * text_stream.h - text into and out of the program.
 *
 * Place: program. Tokens may end inside a character; the output stream holds the beginning of one back
 * until the rest comes, so that a terminal only ever sees whole characters.
 */
#ifndef DSV4_TOOLS_TEXT_STREAM_H
#define DSV4_TOOLS_TEXT_STREAM_H

#include "dsv4/base.h"

#include <stdio.h>

typedef struct dsv4_text_stream {
    FILE *file;
    char held[4]; /* the beginning of a character */
    size_t n_held;
} dsv4_text_stream;

/* Writes and flushes; bytes that are no UTF-8 pass as they are. */
void dsv4_text_stream_write(dsv4_text_stream *stream, const char *bytes, size_t len_bytes);

/* Writes what is held back: no more is to come. */
void dsv4_text_stream_end(dsv4_text_stream *stream);

/* All of a file as malloc'ed, NUL-terminated text. Errors: IO, OUT_OF_MEMORY. */
dsv4_status dsv4_text_read(FILE *file, char **text, size_t *len_bytes, dsv4_error *error);

#endif
