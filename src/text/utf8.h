/*
 * utf8.h - where UTF-8 is valid.
 *
 * Place: text. Valid means shortest form, at most U+10FFFF, no surrogates (RFC 3629), the same rule
 * that PCRE2 and Jansson follow.
 */
#ifndef DSV4_TEXT_UTF8_H
#define DSV4_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Length of the character at the start of text, 1 to 4; 0 when none is valid there or the text is
 * empty.
 */
static inline size_t dsv4_utf8_character_bytes(const char *text, size_t len_bytes)
{
    const unsigned char *c = (const unsigned char *)text;
    if (len_bytes == 0) return 0;
    if (c[0] < 0x80) return 1;
    if (c[0] < 0xc2 || c[0] > 0xf4) return 0;
    size_t n = c[0] < 0xe0 ? 2 : c[0] < 0xf0 ? 3 : 4;
    if (len_bytes < n) return 0;
    for (size_t i = 1; i < n; i++) {
        if ((c[i] & 0xc0) != 0x80) return 0;
    }
    if (c[0] == 0xe0 && c[1] < 0xa0) return 0;
    if (c[0] == 0xed && c[1] > 0x9f) return 0;
    if (c[0] == 0xf0 && c[1] < 0x90) return 0;
    if (c[0] == 0xf4 && c[1] > 0x8f) return 0;
    return n;
}

/* How many bytes at the start of text are valid. */
static inline size_t dsv4_utf8_valid_bytes(const char *text, size_t len_bytes)
{
    size_t pos = 0, n = 0;
    while ((n = dsv4_utf8_character_bytes(text + pos, len_bytes - pos)) != 0) pos += n;
    return pos;
}

#endif
