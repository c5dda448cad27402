/*
 * file_error.h - error texts about a file whose names and content may be long or hostile.
 *
 * Place: io. Fills a dsv4_error like base/error.h; a text that quotes the file passes the quotation
 * through dsv4_shorten, so that the rule at the end of the text is not cut off and control
 * characters do not reach a terminal.
 */
#ifndef DSV4_IO_FILE_ERROR_H
#define DSV4_IO_FILE_ERROR_H

#include "dsv4/base.h"

/* Three of these and a rule fit in a dsv4_error. */
typedef struct dsv4_short_text {
    char text[112];
} dsv4_short_text;

/* The end of a text, after "..." when it was cut, with '?' for each control character. */
dsv4_short_text dsv4_shorten_bytes(const char *text, size_t len_bytes);
dsv4_short_text dsv4_shorten(const char *text);

/* OUT_OF_MEMORY with "<path>: out of memory". */
dsv4_status dsv4_error_set_memory(const char *path, dsv4_error *error);

/* IO with "<path>: cannot <action>: <reason>"; error_number is the errno of the failure. */
dsv4_status dsv4_error_set_io(const char *path, const char *action, int error_number,
                              dsv4_error *error);

#endif
