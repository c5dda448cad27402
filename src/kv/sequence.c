/*
 * sequence.c - page tables of one sequence.
 *
 * Place: kv. Invariants: a page table entry is -1 or a page with a reference of ours; tables are allocated
 * once, for the longest sequence that the pool and the model allow.
 */
#include "sequence.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { N_KINDS = DSV4_CACHE_N_KINDS };

struct dsv4_sequence {
    dsv4_pool *pool;
    int32_t *tokens; /* [capacity] */
    int64_t n_tokens, capacity;
    int32_t *pages[N_KINDS];
    int64_t n_pages[N_KINDS]; /* lengths of the tables */
};

static int64_t ratio_of(int kind)
{
    return kind == DSV4_CACHE_C4 ? 4 : kind == DSV4_CACHE_C128 ? 128 : 1;
}

static const dsv4_cache *cache_of(const dsv4_sequence *sequence)
{
    return dsv4_pool_cache(sequence->pool);
}

/* First row of a kind that a sequence of n_tokens needs to go on. */
static int64_t first_needed_row(int kind, int64_t n_tokens)
{
    int64_t row = 0;
    if (kind == DSV4_CACHE_WINDOW) row = n_tokens - DSV4_WINDOW + 1;
    if (kind == DSV4_CACHE_S4) row = n_tokens / 4 * 4 - 4;
    if (kind == DSV4_CACHE_S128) row = n_tokens / 128 * 128;
    return row < 0 ? 0 : row;
}

dsv4_status dsv4_sequence_create(dsv4_pool *pool, dsv4_sequence **sequence, dsv4_error *error)
{
    dsv4_sequence *made = calloc(1, sizeof *made);
    if (made == NULL) return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "sequence: no memory");
    made->pool = pool;
    made->capacity = dsv4_pool_sequence_tokens(pool);
    made->tokens = calloc((size_t)made->capacity, sizeof *made->tokens);
    bool complete = made->tokens != NULL;
    for (int kind = 0; kind < N_KINDS; kind++) {
        int64_t rows = made->capacity / ratio_of(kind) + 1;
        made->n_pages[kind] = rows / cache_of(made)->page_rows[kind] + 1;
        made->pages[kind] = malloc((size_t)made->n_pages[kind] * sizeof **made->pages);
        if (made->pages[kind] == NULL) {
            complete = false;
            made->n_pages[kind] = 0;
        }
        for (int64_t i = 0; i < made->n_pages[kind]; i++) made->pages[kind][i] = -1;
    }
    if (!complete) {
        dsv4_sequence_free(made);
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "sequence: no memory");
    }
    *sequence = made;
    return DSV4_OK;
}

/* Gives pages begin .. end - 1 of a table back. */
static void drop_pages(dsv4_sequence *sequence, int kind, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        int32_t *page = &sequence->pages[kind][i];
        if (*page >= 0) dsv4_pool_drop(sequence->pool, kind, *page);
        *page = -1;
    }
}

void dsv4_sequence_free(dsv4_sequence *sequence)
{
    if (sequence == NULL) return;
    for (int kind = 0; kind < N_KINDS; kind++) {
        drop_pages(sequence, kind, 0, sequence->n_pages[kind]);
        free(sequence->pages[kind]);
    }
    free(sequence->tokens);
    free(sequence);
}

int64_t dsv4_sequence_n_tokens(const dsv4_sequence *sequence)
{
    return sequence->n_tokens;
}

const int32_t *dsv4_sequence_tokens(const dsv4_sequence *sequence)
{
    return sequence->tokens;
}

/* Pages of a kind that tokens n_tokens .. n_tokens + n_new - 1 write: [*begin, *end). */
static void written_pages(const dsv4_sequence *sequence, int kind, int64_t n_new, int64_t *begin,
                          int64_t *end)
{
    int64_t page_rows = cache_of(sequence)->page_rows[kind];
    int64_t first_row = sequence->n_tokens / ratio_of(kind);
    int64_t end_row = (sequence->n_tokens + n_new) / ratio_of(kind);
    *begin = first_row / page_rows;
    *end = end_row > first_row ? (end_row - 1) / page_rows + 1 : *begin;
}

static bool needs_page(const dsv4_sequence *sequence, int kind, int64_t i)
{
    int32_t page = sequence->pages[kind][i];
    return page < 0 || dsv4_pool_is_shared(sequence->pool, kind, page);
}

static dsv4_status check_room(const dsv4_sequence *sequence, int64_t n_new, dsv4_error *error)
{
    int64_t step_tokens = dsv4_pool_get_options(sequence->pool)->step_tokens;
    if (n_new < 0 || n_new > step_tokens) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "n_new: %" PRId64 ", expected 0 .. %" PRId64 " (step_tokens)", n_new,
                              step_tokens);
    }
    if (n_new > sequence->capacity - sequence->n_tokens) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "sequence: %" PRId64 " tokens and %" PRId64
                              " more, expected at most %" PRId64,
                              sequence->n_tokens, n_new, sequence->capacity);
    }
    for (int kind = 0; kind < N_KINDS; kind++) {
        int64_t begin, end, n_needed = 0;
        written_pages(sequence, kind, n_new, &begin, &end);
        for (int64_t i = begin; i < end; i++) n_needed += needs_page(sequence, kind, i);
        int64_t n_free = dsv4_pool_n_free(sequence->pool, kind);
        if (n_needed > n_free) {
            return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                                  "cache: full: %" PRId64 " pages needed, %" PRId64 " free",
                                  n_needed, n_free);
        }
    }
    return DSV4_OK;
}

dsv4_status dsv4_sequence_reserve(dsv4_sequence *sequence, int64_t n_new, dsv4_error *error)
{
    DSV4_TRY(check_room(sequence, n_new, error));
    for (int kind = 0; kind < N_KINDS; kind++) {
        int64_t begin, end;
        written_pages(sequence, kind, n_new, &begin, &end);
        for (int64_t i = begin; i < end; i++) {
            if (!needs_page(sequence, kind, i)) continue;
            int32_t *page = &sequence->pages[kind][i];
            int32_t fresh = dsv4_pool_take(sequence->pool, kind);
            if (*page >= 0) {
                dsv4_pool_copy(sequence->pool, kind, *page, fresh);
                dsv4_pool_drop(sequence->pool, kind, *page);
            }
            *page = fresh;
        }
    }
    return DSV4_OK;
}

dsv4_cache_view dsv4_sequence_view(const dsv4_sequence *sequence)
{
    dsv4_cache_view view;
    for (int kind = 0; kind < N_KINDS; kind++) {
        view.pages[kind] = sequence->pages[kind];
        view.n_pages[kind] = sequence->n_pages[kind];
    }
    return view;
}

void dsv4_sequence_advance(dsv4_sequence *sequence, const int32_t *tokens, int64_t n_new)
{
    memcpy(sequence->tokens + sequence->n_tokens, tokens, (size_t)n_new * sizeof *tokens);
    sequence->n_tokens += n_new;
    int64_t rewind_tokens = dsv4_pool_get_options(sequence->pool)->rewind_tokens;
    int64_t oldest = sequence->n_tokens - rewind_tokens;
    for (int kind = 0; kind < N_KINDS; kind++) {
        int64_t row = first_needed_row(kind, oldest < 0 ? 0 : oldest);
        int64_t end = row / cache_of(sequence)->page_rows[kind];
        for (int64_t i = end - 1; i >= 0 && sequence->pages[kind][i] >= 0; i--) {
            drop_pages(sequence, kind, i, i + 1);
        }
    }
}

dsv4_status dsv4_sequence_fork(const dsv4_sequence *sequence, dsv4_sequence **fork,
                               dsv4_error *error)
{
    dsv4_sequence *made = NULL;
    DSV4_TRY(dsv4_sequence_create(sequence->pool, &made, error));
    memcpy(made->tokens, sequence->tokens, (size_t)sequence->n_tokens * sizeof *made->tokens);
    made->n_tokens = sequence->n_tokens;
    for (int kind = 0; kind < N_KINDS; kind++) {
        for (int64_t i = 0; i < sequence->n_pages[kind]; i++) {
            int32_t page = sequence->pages[kind][i];
            if (page >= 0) dsv4_pool_share(sequence->pool, kind, page);
            made->pages[kind][i] = page;
        }
    }
    *fork = made;
    return DSV4_OK;
}

/* Whether all rows of a kind that a sequence of n_tokens needs are held. */
static bool holds_rows(const dsv4_sequence *sequence, int kind, int64_t n_tokens)
{
    int64_t page_rows = cache_of(sequence)->page_rows[kind];
    int64_t end_row = n_tokens / ratio_of(kind);
    for (int64_t row = first_needed_row(kind, n_tokens); row < end_row; row++) {
        if (sequence->pages[kind][row / page_rows] < 0) return false;
    }
    return true;
}

int64_t dsv4_sequence_rewind(dsv4_sequence *sequence, int64_t n_tokens)
{
    bool kept = true;
    for (int kind = 0; kind < N_KINDS; kind++) kept = kept && holds_rows(sequence, kind, n_tokens);
    sequence->n_tokens = kept ? n_tokens : 0;
    for (int kind = 0; kind < N_KINDS; kind++) {
        int64_t rows = sequence->n_tokens / ratio_of(kind);
        int64_t page_rows = cache_of(sequence)->page_rows[kind];
        drop_pages(sequence, kind, (rows + page_rows - 1) / page_rows, sequence->n_pages[kind]);
    }
    return sequence->n_tokens;
}
