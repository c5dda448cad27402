/*
 * pretok.c - the pre-tokenizer, on PCRE2.
 *
 * Place: text. Texts are hostile: each match has a limit of steps and of memory, past which the
 * scan fails by name. Compiled code runs as machine code where PCRE2 can do that; when its small
 * stack does not suffice for a match, the interpreter, which keeps its stack on the heap, does it
 * again.
 */
#include "text/pretok.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/error.h"
#include "io/file_error.h"
#include "text/pretok_regex.h"

#include <assert.h>

/* A run of n blanks takes n steps in V4's regexes; ten million need half a second. */
#define MAX_MATCH_STEPS    10000000
#define MAX_MATCH_HEAP_KIB 65536

/* source: the regex as the file has it, for error texts. */
static dsv4_status compile(const char *path, dsv4_short_text source, const dsv4_text_buffer *regex,
                           pcre2_code **code, dsv4_error *error)
{
    int number = 0;
    PCRE2_SIZE offset = 0;
    uint32_t can_be_empty = 0;
    PCRE2_UCHAR reason[128];
    *code = pcre2_compile((PCRE2_SPTR)regex->bytes, regex->len_bytes, PCRE2_UTF | PCRE2_UCP,
                          &number, &offset, NULL);
    if (*code == NULL) {
        (void)pcre2_get_error_message(number, reason, sizeof reason);
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                              "%s: regex '%s' of a pre-tokenizer: %s, expected a valid one",
                              dsv4_shorten(path).text, source.text, (const char *)reason);
    }
    (void)pcre2_pattern_info(*code, PCRE2_INFO_MATCHEMPTY, &can_be_empty);
    if (can_be_empty != 0) {
        pcre2_code_free(*code);
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                              "%s: regex '%s' of a pre-tokenizer can match nothing, expected at "
                              "least one character in every match",
                              dsv4_shorten(path).text, source.text);
    }
    (void)pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE); /* without it, pcre2_match interprets */
    return DSV4_OK;
}

dsv4_status dsv4_pretok_add_split(dsv4_pretok *pretok, const char *path, const char *regex,
                                  size_t len_bytes, dsv4_error *error)
{
    dsv4_text_buffer pcre2_regex = {0};
    dsv4_status status = DSV4_OK;
    if (pretok->n_splits == DSV4_PRETOK_MAX_SPLITS) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "%s: pre-tokenizer with more than %d splits, expected at most that",
                              dsv4_shorten(path).text, DSV4_PRETOK_MAX_SPLITS);
    }
    if (len_bytes == 0 || len_bytes > DSV4_PRETOK_MAX_REGEX_BYTES) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "%s: regex of %zu bytes in a pre-tokenizer, expected 1 to %d",
                              dsv4_shorten(path).text, len_bytes, DSV4_PRETOK_MAX_REGEX_BYTES);
    }
    status = dsv4_pretok_translate(path, regex, len_bytes, &pcre2_regex, error);
    if (status == DSV4_OK && pcre2_regex.failed) status = dsv4_error_set_memory(path, error);
    if (status == DSV4_OK) {
        status = compile(path, dsv4_shorten_bytes(regex, len_bytes), &pcre2_regex,
                         &pretok->splits[pretok->n_splits], error);
    }
    if (status == DSV4_OK) pretok->n_splits++;
    dsv4_text_buffer_free(&pcre2_regex);
    return status;
}

void dsv4_pretok_close(dsv4_pretok *pretok)
{
    for (int32_t i = 0; i < pretok->n_splits; i++) pcre2_code_free(pretok->splits[i]);
    pretok->n_splits = 0;
}

dsv4_status dsv4_pretok_scan_open(dsv4_pretok_scan *scan, const dsv4_pretok *pretok,
                                  dsv4_error *error)
{
    *scan = (dsv4_pretok_scan){.pretok = pretok, .depth = -1};
    scan->context = pcre2_match_context_create(NULL);
    scan->match = pcre2_match_data_create(1, NULL);
    if (scan->context == NULL || scan->match == NULL) {
        dsv4_pretok_scan_close(scan);
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "pre-tokenizer: out of memory");
    }
    (void)pcre2_set_match_limit(scan->context, MAX_MATCH_STEPS);
    (void)pcre2_set_heap_limit(scan->context, MAX_MATCH_HEAP_KIB);
    return DSV4_OK;
}

void dsv4_pretok_scan_close(dsv4_pretok_scan *scan)
{
    pcre2_match_context_free(scan->context);
    pcre2_match_data_free(scan->match);
    *scan = (dsv4_pretok_scan){.depth = -1};
}

void dsv4_pretok_scan_start(dsv4_pretok_scan *scan, const char *text, size_t len_bytes)
{
    scan->text = text;
    scan->levels[0] = (dsv4_pretok_level){.end = len_bytes};
    scan->depth = 0;
}

/* Sets the level's next match. */
static dsv4_status find_match(dsv4_pretok_scan *scan, int32_t split, dsv4_pretok_level *level,
                              dsv4_error *error)
{
    const pcre2_code *code = scan->pretok->splits[split];
    PCRE2_SPTR subject = (PCRE2_SPTR)scan->text + level->pos;
    PCRE2_SIZE len_bytes = level->end - level->pos;
    int n =
        pcre2_match(code, subject, len_bytes, 0, PCRE2_NO_UTF_CHECK, scan->match, scan->context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT) {
        n = pcre2_match(code, subject, len_bytes, 0, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, scan->match,
                        scan->context);
    }
    level->has_match = true;
    level->match_start = level->match_end = level->end;
    if (n >= 0) {
        const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(scan->match);
        assert(ends[0] < ends[1]);
        level->match_start = level->pos + ends[0];
        level->match_end = level->pos + ends[1];
    } else if (n != PCRE2_ERROR_NOMATCH) {
        PCRE2_UCHAR reason[128];
        (void)pcre2_get_error_message(n, reason, sizeof reason);
        return dsv4_error_set(
            error, DSV4_ERROR_UNSUPPORTED,
            "pre-tokenizer: split %d gave up at byte %zu of the text: %s, expected "
            "at most %d steps and %d KiB for a match",
            split, level->pos, (const char *)reason, MAX_MATCH_STEPS, MAX_MATCH_HEAP_KIB);
    }
    return DSV4_OK;
}

/*
 * Level k holds what split k has left of its piece. A piece of split k is level k + 1's task, and
 * what the last split yields is a piece of the result:
 *
 *     level k done -> back to k - 1          level k yields -> k + 1, or out after the last
 */
dsv4_status dsv4_pretok_scan_next(dsv4_pretok_scan *scan, const char **piece, size_t *len_bytes,
                                  dsv4_error *error)
{
    int32_t n_splits = scan->pretok->n_splits;
    *piece = NULL;
    *len_bytes = 0;
    while (scan->depth >= 0) {
        dsv4_pretok_level *level = &scan->levels[scan->depth];
        size_t start = level->pos, end = level->end;
        if (start == end) {
            scan->depth--;
            continue;
        }
        if (scan->depth < n_splits) {
            if (!level->has_match) DSV4_TRY(find_match(scan, scan->depth, level, error));
            bool is_gap = start < level->match_start;
            end = is_gap ? level->match_start : level->match_end;
            level->has_match = is_gap;
            level->pos = end;
            scan->levels[++scan->depth] = (dsv4_pretok_level){.pos = start, .end = end};
            continue;
        }
        *piece = scan->text + start;
        *len_bytes = end - start;
        level->pos = end;
        return DSV4_OK;
    }
    return DSV4_OK;
}
