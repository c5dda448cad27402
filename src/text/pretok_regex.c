/*
 * pretok_regex.c - a pre-tokenizer's regex, from Hugging Face's dialect to PCRE2's.
 *
 * Place: text. One pass over the regex, without a tree: groups are PCRE2's to check.
 */
#include "text/pretok_regex.h"

#include "base/error.h"
#include "io/file_error.h"

#include <stdbool.h>
#include <string.h>

/* White_Space. PCRE2's \s has U+180E besides, which is none since Unicode 6.3. */
static const char white_space[] =
    "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"
    "\\x{202f}\\x{205f}\\x{3000}";

/*
 * General categories, and what Unicode 15.0, 15.1 and 16.0 assigned to each. PCRE2 10.40 to 10.42
 * know Unicode 14.0; none of its code points changed category since. On a newer PCRE2 these ranges
 * are in its tables already.
 */
static const struct {
    char name;
    const char *since_unicode_14;
} categories[] = {
    {'L', "\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}"
          "\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}"
          "\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}"
          "\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}"
          "\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}"
          "\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}"
          "\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}"
          "\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"},
    {'M', "\\x{897}\\x{cf3}\\x{ece}\\x{10d69}-\\x{10d6d}\\x{10efc}-\\x{10eff}\\x{11241}"
          "\\x{113b8}-\\x{113c0}\\x{113c2}\\x{113c5}\\x{113c7}-\\x{113ca}\\x{113cc}-\\x{113d0}"
          "\\x{113d2}\\x{113e1}-\\x{113e2}\\x{11f00}-\\x{11f01}\\x{11f03}\\x{11f34}-\\x{11f3a}"
          "\\x{11f3e}-\\x{11f42}\\x{11f5a}\\x{13440}\\x{13447}-\\x{13455}\\x{1611e}-\\x{1612f}"
          "\\x{1e08f}\\x{1e4ec}-\\x{1e4ef}\\x{1e5ee}-\\x{1e5ef}"},
    {'N', "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"
          "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}"
          "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}"},
    {'P', "\\x{1b4e}-\\x{1b4f}\\x{1b7f}\\x{10d6e}\\x{113d4}-\\x{113d5}\\x{113d7}-\\x{113d8}"
          "\\x{11b00}-\\x{11b09}\\x{11be1}\\x{11f43}-\\x{11f4f}\\x{16d6d}-\\x{16d6f}\\x{1e5ff}"},
    {'S', "\\x{2427}-\\x{2429}\\x{2ffc}-\\x{2fff}\\x{31e4}-\\x{31e5}\\x{31ef}\\x{10d8e}-\\x{10d8f}"
          "\\x{1cc00}-\\x{1ccef}\\x{1cd00}-\\x{1ceb3}\\x{1f6dc}\\x{1f774}-\\x{1f776}"
          "\\x{1f77b}-\\x{1f77f}\\x{1f7d9}\\x{1f8b2}-\\x{1f8bb}\\x{1f8c0}-\\x{1f8c1}"
          "\\x{1fa75}-\\x{1fa77}\\x{1fa87}-\\x{1fa89}\\x{1fa8f}\\x{1faad}-\\x{1faaf}"
          "\\x{1fabb}-\\x{1fabf}\\x{1fac6}\\x{1face}-\\x{1facf}\\x{1fada}-\\x{1fadc}\\x{1fadf}"
          "\\x{1fae8}-\\x{1fae9}\\x{1faf7}-\\x{1faf8}\\x{1fbcb}-\\x{1fbef}"},
    {'Z', ""},
};

typedef struct translator {
    const char *path;
    const char *regex;
    size_t len_bytes;
    size_t pos; /* of the first byte not yet translated */
    dsv4_text_buffer *out;
    dsv4_error *error;
} translator;

/* The byte `ahead` of the current one; NUL, which no regex from JSON holds, after the end. */
static char peek(const translator *t, size_t ahead)
{
    return ahead < t->len_bytes - t->pos ? t->regex[t->pos + ahead] : '\0';
}

static void copy(translator *t, size_t n)
{
    dsv4_text_buffer_append(t->out, t->regex + t->pos, n);
    t->pos += n;
}

static void append(translator *t, const char *text)
{
    dsv4_text_buffer_append_string(t->out, text);
}

/* n is the length of the construct at the current position. */
static dsv4_status refuse(const translator *t, size_t n, const char *expectation)
{
    size_t n_left = t->len_bytes - t->pos;
    return dsv4_error_set(t->error, DSV4_ERROR_UNSUPPORTED,
                          "%s: regex construct '%s' at byte %zu of a pre-tokenizer, expected %s",
                          dsv4_shorten(t->path).text,
                          dsv4_shorten_bytes(t->regex + t->pos, n < n_left ? n : n_left).text,
                          t->pos, expectation);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_ascii_punctuation(char c)
{
    return c != '\0' && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", c) != NULL;
}

/* What \s, \p{..} and their negations become. */
static void append_set(translator *t, bool in_class, bool negated, const char *set,
                       const char *more)
{
    if (!in_class) append(t, negated ? "[^" : "[");
    append(t, set);
    append(t, more);
    if (!in_class) append(t, "]");
}

/* \p{X} or \P{X}. */
static dsv4_status translate_category(translator *t, bool in_class)
{
    bool negated = peek(t, 1) == 'P';
    char set[] = "\\p{?}";
    if (peek(t, 2) == '{' && peek(t, 4) == '}' && !(negated && in_class)) {
        for (size_t i = 0; i < sizeof categories / sizeof categories[0]; i++) {
            if (categories[i].name != peek(t, 3)) continue;
            set[3] = categories[i].name;
            append_set(t, in_class, negated, set, categories[i].since_unicode_14);
            t->pos += 5;
            return DSV4_OK;
        }
    }
    return refuse(t, 5, "\\p{X} with X of L, M, N, P, S, Z, negated only outside of a class");
}

/* *is_set: the escape stands for more than one character. */
static dsv4_status translate_escape(translator *t, bool in_class, bool *is_set)
{
    char c = peek(t, 1);
    *is_set = c == 's' || c == 'S' || c == 'p' || c == 'P';
    if (c == 'p' || c == 'P') return translate_category(t, in_class);
    if (c == 's' || (c == 'S' && !in_class)) {
        append_set(t, in_class, c == 'S', white_space, "");
        t->pos += 2;
        return DSV4_OK;
    }
    if (c == 'r' || c == 'n' || c == 't' || is_ascii_punctuation(c)) {
        copy(t, 2);
        return DSV4_OK;
    }
    return refuse(t, 2,
                  "\\r, \\n, \\t, \\s, \\S (not in a class), \\p{X}, \\P{X} or an escaped "
                  "punctuation character");
}

/* [...] as a flat list of characters, ranges and sets; a set at an end of a range is refused. */
static dsv4_status translate_class(translator *t)
{
    bool after_set = false, after_dash = false;
    copy(t, peek(t, 1) == '^' ? 2 : 1);
    if (peek(t, 0) == ']') return refuse(t, 1, "a class that is not empty");
    while (peek(t, 0) != ']') {
        char c = peek(t, 0);
        bool is_set = false, is_dash = c == '-' && peek(t, 1) != ']';
        if (t->pos == t->len_bytes) return refuse(t, 1, "the ']' of a class");
        if (c == '[') return refuse(t, 1, "no class inside a class");
        if (c == '&' && peek(t, 1) == '&') return refuse(t, 2, "no intersection of classes");
        if (is_dash && after_set) return refuse(t, 2, "no range that begins with a set");
        if (c == '\\') {
            if (after_dash && strchr("sSpP", peek(t, 1)) != NULL) {
                return refuse(t, 2, "no range that ends with a set");
            }
            DSV4_TRY(translate_escape(t, true, &is_set));
        } else {
            copy(t, 1);
        }
        after_set = is_set;
        after_dash = is_dash;
    }
    copy(t, 1);
    return DSV4_OK;
}

/* {m}, {m,} or {m,n}. What may follow it to make it lazy or possessive differs between dialects. */
static dsv4_status translate_interval(translator *t)
{
    size_t n = 1;
    while (is_digit(peek(t, n))) n++;
    bool is_valid = n > 1;
    if (peek(t, n) == ',') n++;
    while (is_digit(peek(t, n))) n++;
    if (!is_valid || peek(t, n) != '}') return refuse(t, n + 1, "{m}, {m,} or {m,n}");
    copy(t, n + 1);
    if (peek(t, 0) == '?' || peek(t, 0) == '+') {
        return refuse(t, 1, "an interval without a second quantifier");
    }
    return DSV4_OK;
}

static dsv4_status translate_group(translator *t)
{
    if (peek(t, 1) == '*') return refuse(t, 2, "(, (?:, (?= or (?!");
    if (peek(t, 1) != '?') {
        copy(t, 1);
        return DSV4_OK;
    }
    char kind = peek(t, 2);
    if (kind != ':' && kind != '=' && kind != '!') return refuse(t, 3, "(, (?:, (?= or (?!");
    copy(t, 3);
    return DSV4_OK;
}

dsv4_status dsv4_pretok_translate(const char *path, const char *regex, size_t len_bytes,
                                  dsv4_text_buffer *pcre2_regex, dsv4_error *error)
{
    translator t = {path, regex, len_bytes, 0, pcre2_regex, error};
    while (t.pos < len_bytes) {
        bool is_set = false;
        switch (peek(&t, 0)) {
        case '\\': DSV4_TRY(translate_escape(&t, false, &is_set)); break;
        case '[': DSV4_TRY(translate_class(&t)); break;
        case '{': DSV4_TRY(translate_interval(&t)); break;
        case '(': DSV4_TRY(translate_group(&t)); break;
        case '.':
        case '^':
        case '$':
        case ']':
        case '}': return refuse(&t, 1, "it escaped");
        default: copy(&t, 1); break;
        }
    }
    return DSV4_OK;
}
