/*
 * text_buffer.c - a text that grows at its end.
 *
 * Place: text. Capacity doubles, so n appends move O(n) bytes.
 */
#include "text/text_buffer.h"

#include "base/checked.h"

#include <stdlib.h>
#include <string.h>

#define MIN_CAPACITY_BYTES 256

static bool reserve(dsv4_text_buffer *buffer, size_t n_more)
{
    size_t needed = 0;
    if (buffer->failed) return false;
    if (dsv4_checked_add(buffer->len_bytes, n_more, &needed)) {
        if (needed <= buffer->capacity_bytes) return true;
        size_t capacity = needed < MIN_CAPACITY_BYTES ? MIN_CAPACITY_BYTES : needed;
        if (buffer->capacity_bytes <= SIZE_MAX / 2 && capacity < 2 * buffer->capacity_bytes) {
            capacity = 2 * buffer->capacity_bytes;
        }
        char *grown = realloc(buffer->bytes, capacity);
        if (grown != NULL) {
            buffer->bytes = grown;
            buffer->capacity_bytes = capacity;
            return true;
        }
    }
    buffer->failed = true;
    return false;
}

void dsv4_text_buffer_append(dsv4_text_buffer *buffer, const char *bytes, size_t len_bytes)
{
    if (len_bytes == 0 || !reserve(buffer, len_bytes)) return;
    memcpy(buffer->bytes + buffer->len_bytes, bytes, len_bytes);
    buffer->len_bytes += len_bytes;
}

void dsv4_text_buffer_append_string(dsv4_text_buffer *buffer, const char *string)
{
    dsv4_text_buffer_append(buffer, string, strlen(string));
}

char *dsv4_text_buffer_take(dsv4_text_buffer *buffer, size_t *len_bytes)
{
    if (!reserve(buffer, 1)) {
        dsv4_text_buffer_free(buffer);
        return NULL;
    }
    char *text = buffer->bytes;
    text[buffer->len_bytes] = '\0';
    if (len_bytes != NULL) *len_bytes = buffer->len_bytes;
    *buffer = (dsv4_text_buffer){0};
    return text;
}

void dsv4_text_buffer_free(dsv4_text_buffer *buffer)
{
    free(buffer->bytes);
    *buffer = (dsv4_text_buffer){0};
}
