/*
 * number_list.c - reads lists of whole numbers.
 *
 * Place: program.
 */
#include "number_list.h"

#include "base/error.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DIGITS = 9 };

dsv4_status dsv4_number_list_read(const dsv4_options *options, int32_t option, int64_t least,
                                  dsv4_number_list *list, dsv4_error *error)
{
    const char *text = options->texts[option], *at = text;
    if (text == NULL) return DSV4_OK;
    list->n = 0;
    for (;;) {
        size_t n_digits = strspn(at, "0123456789");
        bool is_number = n_digits > 0 && n_digits <= MAX_DIGITS;
        int64_t value = is_number ? strtoll(at, NULL, 10) : 0;
        at += n_digits;
        if (!is_number || value < least || list->n == DSV4_NUMBER_LIST_MAX ||
            (*at != '\0' && *at != ',')) {
            return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                                  "option --%s: '%.80s' is wrong; expected 1 .. %d whole numbers "
                                  "from %" PRId64 " to 999999999 with commas between",
                                  dsv4_options_table[option].name, text, DSV4_NUMBER_LIST_MAX,
                                  least);
        }
        list->values[list->n++] = value;
        if (*at++ == '\0') return DSV4_OK;
    }
}

int64_t dsv4_number_list_largest(const dsv4_number_list *list)
{
    int64_t largest = list->values[0];
    for (int32_t i = 1; i < list->n; i++) {
        if (list->values[i] > largest) largest = list->values[i];
    }
    return largest;
}
