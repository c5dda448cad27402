/*
 * error.h - filling a caller-owned dsv4_error.
 *
 * Place: base. Invariant: the text is always NUL-terminated; a NULL error is accepted and ignored.
 */
#ifndef DSV4_BASE_ERROR_H
#define DSV4_BASE_ERROR_H

#include "dsv4/base.h"

/*
 * Stores `status` and the printf-formatted text in *error (when not NULL) and returns `status`, so
 * that a failing function can `return dsv4_error_set(error, DSV4_ERROR_IO, "...", ...)`.
 */
dsv4_status dsv4_error_set(dsv4_error *error, dsv4_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Forwards a failure: returns from the calling function when `expression` is not DSV4_OK. */
#define DSV4_TRY(expression)                                                                       \
    do {                                                                                           \
        dsv4_status try_status_ = (expression);                                                    \
        if (try_status_ != DSV4_OK) return try_status_;                                            \
    } while (0)

#endif
