/*
 * text_buffer.h - a text that grows at its end.
 *
 * Place: text. Invariant: an append that finds no memory sets `failed`, and every later one does
 * nothing, so a writer checks once, at dsv4_text_buffer_take. A zeroed buffer is an empty one.
 */
#ifndef DSV4_TEXT_TEXT_BUFFER_H
#define DSV4_TEXT_TEXT_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct dsv4_text_buffer {
    char *bytes; /* [capacity_bytes], no NUL at the end */
    size_t len_bytes;
    size_t capacity_bytes;
    bool failed;
} dsv4_text_buffer;

void dsv4_text_buffer_append(dsv4_text_buffer *buffer, const char *bytes, size_t len_bytes);
void dsv4_text_buffer_append_string(dsv4_text_buffer *buffer, const char *string);

/*
 * Hands the text over, NUL-terminated, and empties the buffer; NULL when an append failed.
 *   *len_bytes  without the NUL; len_bytes may be NULL
 */
char *dsv4_text_buffer_take(dsv4_text_buffer *buffer, size_t *len_bytes);

void dsv4_text_buffer_free(dsv4_text_buffer *buffer);

#endif
