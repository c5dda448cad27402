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
    default: return "unknown status";
    }
}

const char *dsv4_version(void)
{
    return DSV4_VERSION_STRING;
}

dsv4_status dsv4_error_set(dsv4_error *error, dsv4_status status, const char *format, ...)
{
    if (error == NULL) return status;
    error->status = status;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    return status;
}
