/*
 * text_stream.c - whole characters out, whole files in.
 *
 * Place: program. Invariant: what is held is a proper beginning of a character, so at most 3 bytes.
 */
#include "text_stream.h"

#include "base/error.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the character that begins with this one; 1 for what cannot begin a longer one. */
static size_t character_bytes(unsigned char first)
{
    if (first >= 0xf0 && first <= 0xf4) return 4;
    if (first >= 0xe0 && first <= 0xef) return 3;
    return first >= 0xc2 && first <= 0xdf ? 2 : 1;
}

/* How many bytes at the end of text are the beginning of a UTF-8 character: 0 .. 3. */
static size_t open_bytes(const char *text, size_t len_bytes)
{
    for (size_t n = 1; n <= 3 && n <= len_bytes; n++) {
        unsigned char byte = (unsigned char)text[len_bytes - n];
        if ((byte & 0xc0) == 0x80) continue;
        return character_bytes(byte) > n ? n : 0;
    }
    return 0;
}

/* Writes the byte behind what is held; holds all of it back while that begins a character. */
static void write_byte(dsv4_text_stream *stream, char byte)
{
    stream->held[stream->n_held++] = byte;
    size_t n_open = open_bytes(stream->held, stream->n_held);
    size_t n_done = stream->n_held - n_open;
    (void)fwrite(stream->held, 1, n_done, stream->file);
    memmove(stream->held, stream->held + n_done, n_open);
    stream->n_held = n_open;
}

void dsv4_text_stream_write(dsv4_text_stream *stream, const char *bytes, size_t len_bytes)
{
    for (size_t i = 0; i < len_bytes; i++) write_byte(stream, bytes[i]);
    (void)fflush(stream->file);
}

void dsv4_text_stream_end(dsv4_text_stream *stream)
{
    (void)fwrite(stream->held, 1, stream->n_held, stream->file);
    (void)fflush(stream->file);
    stream->n_held = 0;
}

dsv4_status dsv4_text_read(FILE *file, char **text, size_t *len_bytes, dsv4_error *error)
{
    size_t room_bytes = 1 << 16, used_bytes = 0;
    char *bytes = malloc(room_bytes);
    while (bytes != NULL) {
        used_bytes += fread(bytes + used_bytes, 1, room_bytes - 1 - used_bytes, file);
        if (used_bytes < room_bytes - 1) break;
        room_bytes *= 2;
        char *larger = realloc(bytes, room_bytes);
        if (larger == NULL) free(bytes);
        bytes = larger;
    }
    if (bytes == NULL) return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory for text");
    if (ferror(file)) {
        int read_errno = errno;
        free(bytes);
        return dsv4_error_set(error, DSV4_ERROR_IO, "cannot read standard input: %s",
                              strerror(read_errno));
    }
    bytes[used_bytes] = '\0';
    *text = bytes;
    *len_bytes = used_bytes;
    return DSV4_OK;
}
