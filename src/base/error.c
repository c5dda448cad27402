/*
 * error.c - status names and error texts.
 *
 * Place: base. Nothing here allocates; texts longer than the caller's buffer are cut.
 */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

const char *dsv4_status_name(dsv4_status status)
{
    switch (status) {
    case DSV4_OK: return "ok";
    case DSV4_ERROR_INVALID_ARGUMENT: return "invalid argument";
    case DSV4_ERROR_OUT_OF_MEMORY: return "out of memory";
    case DSV4_ERROR_IO: return "input/output error";
    case DSV4_ERROR_BAD_FILE: return "bad file";
    case DSV4_ERROR_UNSUPPORTED: return "unsupported";
    case DSV4_ERROR_DEVICE: return "device error";
    default: return "unknown status";
    }
}

const char *dsv4_version(void)
{
    return DSV4_VERSION_STRING;
}

/* Drops a UTF-8 character of which the end was cut off. */
static void drop_partial_character(char *text, size_t len_bytes)
{
    size_t lead = len_bytes;
    while (lead > 0 && ((unsigned char)text[lead - 1] & 0xc0) == 0x80) lead--;
    if (lead == 0) return;
    unsigned char first = (unsigned char)text[lead - 1];
    size_t n_needed = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 1;
    if (len_bytes - (lead - 1) < n_needed) text[lead - 1] = '\0';
}

dsv4_status dsv4_error_set(dsv4_error *error, dsv4_status status, const char *format, ...)
{
    if (error == NULL) return status;
    error->status = status;
    va_list args;
    va_start(args, format);
    int len_bytes = vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    if (len_bytes >= (int)sizeof error->text) {
        drop_partial_character(error->text, sizeof error->text - 1);
    }
    return status;
}
