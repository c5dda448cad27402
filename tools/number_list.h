/*
 * number_list.h - options whose value is a list of whole numbers, "1,7,64".
 *
 * Place: program.
 */
#ifndef DSV4_TOOLS_NUMBER_LIST_H
#define DSV4_TOOLS_NUMBER_LIST_H

#include "options.h"

enum { DSV4_NUMBER_LIST_MAX = 64 };

typedef struct dsv4_number_list {
    int64_t values[DSV4_NUMBER_LIST_MAX];
    int32_t n;
} dsv4_number_list;

/*
 * Reads the value of an option of kind TEXT into *list, which keeps what it holds where the option is not
 * given. Errors: INVALID_ARGUMENT naming the option, unless there are 1 .. 64 numbers from least to
 * 999999999.
 */
dsv4_status dsv4_number_list_read(const dsv4_options *options, int32_t option, int64_t least,
                                  dsv4_number_list *list, dsv4_error *error);

int64_t dsv4_number_list_largest(const dsv4_number_list *list);

#endif
