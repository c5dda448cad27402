/*
 * json_string.c - makes JSON strings of any bytes.
 *
 * Place: program.
 */
#include "json_string.h"

#include "text/text_buffer.h"
#include "text/utf8.h"

#include <stdlib.h>

json_t *dsv4_json_string(const char *text, size_t len_bytes)
{
    dsv4_text_buffer clean = {0};
    while (len_bytes > 0) {
        size_t n_valid = dsv4_utf8_valid_bytes(text, len_bytes);
        dsv4_text_buffer_append(&clean, text, n_valid);
        text += n_valid;
        len_bytes -= n_valid;
        if (len_bytes == 0) break;
        dsv4_text_buffer_append_string(&clean, "\xef\xbf\xbd");
        text++;
        len_bytes--;
    }
    size_t clean_bytes;
    char *taken = dsv4_text_buffer_take(&clean, &clean_bytes);
    json_t *string = taken != NULL ? json_stringn(taken, clean_bytes) : NULL;
    free(taken);
    return string;
}
