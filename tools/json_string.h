/*
 * json_string.h - any bytes as a JSON string.
 *
 * Place: program. Jansson takes only UTF-8; names of files and what users type may be anything.
 */
#ifndef DSV4_TOOLS_JSON_STRING_H
#define DSV4_TOOLS_JSON_STRING_H

#include <stddef.h>

#include <jansson.h>

/* A new string; each byte that is no UTF-8 becomes U+FFFD. NULL when there is no memory. */
json_t *dsv4_json_string(const char *text, size_t len_bytes);

#endif
