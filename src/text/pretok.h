/*
 * pretok.h - the pre-tokenizer: cuts text into the pieces that BPE then merges one by one.
 *
 * Place: text, on PCRE2. A sequence of isolated splits: each cuts every piece of the one before it
 * into its matches and the gaps between them, and sees nothing beyond the piece. Pieces cover the
 * text in order and none is empty. An open pre-tokenizer is immutable; each thread scans with a
 * dsv4_pretok_scan of its own.
 */
#ifndef DSV4_TEXT_PRETOK_H
#define DSV4_TEXT_PRETOK_H

#include <stdbool.h>

#include "dsv4/base.h"

#define DSV4_PRETOK_MAX_SPLITS      8
#define DSV4_PRETOK_MAX_REGEX_BYTES 8192

struct pcre2_real_code_8;
struct pcre2_real_match_context_8;
struct pcre2_real_match_data_8;

typedef struct dsv4_pretok {
    struct pcre2_real_code_8 *splits[DSV4_PRETOK_MAX_SPLITS];
    int32_t n_splits;
} dsv4_pretok;

/*
 * Adds a split after those that a zeroed or open pre-tokenizer has. A regex that is broken or can
 * match nothing is BAD_FILE, a construct outside pretok_regex.h UNSUPPORTED; `path` is for the
 * text.
 */
dsv4_status dsv4_pretok_add_split(dsv4_pretok *pretok, const char *path, const char *regex,
                                  size_t len_bytes, dsv4_error *error);

/* Frees what the splits hold; accepts a zeroed pre-tokenizer. */
void dsv4_pretok_close(dsv4_pretok *pretok);

/* What one split has yet to do of the piece that it was given; offsets into the text. */
typedef struct dsv4_pretok_level {
    size_t pos, end;
    size_t match_start, match_end; /* the next match; both `end` when there is none */
    bool has_match;                /* the two are set */
} dsv4_pretok_level;

typedef struct dsv4_pretok_scan {
    const dsv4_pretok *pretok;
    struct pcre2_real_match_context_8 *context;
    struct pcre2_real_match_data_8 *match;
    const char *text;
    dsv4_pretok_level levels[DSV4_PRETOK_MAX_SPLITS + 1];
    int32_t depth; /* of the level at work; -1 when the text is done */
} dsv4_pretok_scan;

/* Allocates; the pre-tokenizer must outlive the scan. */
dsv4_status dsv4_pretok_scan_open(dsv4_pretok_scan *scan, const dsv4_pretok *pretok,
                                  dsv4_error *error);

/* Accepts a zeroed scan. */
void dsv4_pretok_scan_close(dsv4_pretok_scan *scan);

/* Begins with a text, which must be valid UTF-8 and outlive its scan. */
void dsv4_pretok_scan_start(dsv4_pretok_scan *scan, const char *text, size_t len_bytes);

/* The next piece; *len_bytes 0 at the end. UNSUPPORTED when a match takes too many steps. */
dsv4_status dsv4_pretok_scan_next(dsv4_pretok_scan *scan, const char **piece, size_t *len_bytes,
                                  dsv4_error *error);

#endif
