/*
 * file_error.c - error texts about a file.
 *
 * Place: io. Nothing here allocates.
 */
#include "io/file_error.h"

#include "base/error.h"

#include <stdio.h>
#include <string.h>

dsv4_short_text dsv4_shorten_bytes(const char *text, size_t len_bytes)
{
    static const char mark[] = "...";
    dsv4_short_text result;
    size_t start = 0, n_out = 0;
    if (len_bytes >= sizeof result.text) {
        n_out = sizeof mark - 1;
        memcpy(result.text, mark, n_out);
        start = len_bytes - (sizeof result.text - 1 - n_out);
        /* not in the middle of a UTF-8 character */
        while (start < len_bytes && ((unsigned char)text[start] & 0xc0) == 0x80) start++;
    }
    for (size_t i = start; i < len_bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        result.text[n_out++] = c < 0x20 || c == 0x7f ? '?' : text[i];
    }
    result.text[n_out] = '\0';
    return result;
}

dsv4_short_text dsv4_shorten(const char *text)
{
    return dsv4_shorten_bytes(text, strlen(text));
}

dsv4_status dsv4_error_set_memory(const char *path, dsv4_error *error)
{
    return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "%s: out of memory",
                          dsv4_shorten(path).text);
}

dsv4_status dsv4_error_set_io(const char *path, const char *action, int error_number,
                              dsv4_error *error)
{
    char reason[112];
    if (strerror_r(error_number, reason, sizeof reason) != 0) {
        (void)snprintf(reason, sizeof reason, "error %d", error_number);
    }
    return dsv4_error_set(error, DSV4_ERROR_IO, "%s: cannot %s: %s", dsv4_shorten(path).text,
                          action, reason);
}
