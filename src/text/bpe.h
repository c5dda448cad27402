/*
 * bpe.h - byte pair encoding: a table of merges, and the loop that applies them to one word.
 *
 * Place: text. The order is that of Hugging Face `tokenizers`: of all pairs of neighbours in the
 * table, the one of lowest rank is merged first, the leftmost of equals, until none is left.
 */
#ifndef DSV4_TEXT_BPE_H
#define DSV4_TEXT_BPE_H

#include <stdbool.h>

#include "dsv4/base.h"

/* Ids left and right in a row become id. */
typedef struct dsv4_bpe_merge {
    uint64_t pair; /* left * 2^32 + right; DSV4_BPE_NO_PAIR in a free slot */
    uint32_t rank;
    int32_t id;
} dsv4_bpe_merge;

#define DSV4_BPE_NO_PAIR UINT64_MAX

/* Open addressing with linear probing; at least half of the slots are free. */
typedef struct dsv4_bpe_table {
    dsv4_bpe_merge *slots; /* [slot_mask + 1], a power of two */
    size_t slot_mask;
} dsv4_bpe_table;

/* Room for n_merges, none set; false when there is no memory. */
bool dsv4_bpe_table_open(dsv4_bpe_table *table, size_t n_merges);
void dsv4_bpe_table_close(dsv4_bpe_table *table);

/* Ids >= 0. A pair that is there already gets the new rank and id. */
void dsv4_bpe_table_put(dsv4_bpe_table *table, int32_t left, int32_t right, uint32_t rank,
                        int32_t id);

/* NULL when the pair is not in the table. */
const dsv4_bpe_merge *dsv4_bpe_table_find(const dsv4_bpe_table *table, int32_t left, int32_t right);

/* A token of the word being merged, in a doubly linked list. */
typedef struct dsv4_bpe_symbol {
    int32_t id;              /* -1: merged into a symbol to its left */
    uint32_t previous, next; /* DSV4_BPE_NO_SYMBOL at the ends */
} dsv4_bpe_symbol;

#define DSV4_BPE_NO_SYMBOL UINT32_MAX

/* Scratch of one thread; zeroed before first use. */
typedef struct dsv4_bpe_word {
    dsv4_bpe_symbol *symbols; /* [capacity] */
    uint64_t *queue;          /* [3 * capacity] a heap of rank * 2^32 + index of the left symbol */
    size_t capacity;
    size_t n_queued;
} dsv4_bpe_word;

/*
 * Makes room for n_symbols, fewer than 2^32 - 1; the caller then sets the ids of symbols [0,
 * n_symbols).
 */
bool dsv4_bpe_word_reserve(dsv4_bpe_word *word, size_t n_symbols);
void dsv4_bpe_word_free(dsv4_bpe_word *word);

/*
 * Applies the merges to symbols [0, n_symbols), n_symbols >= 1, in O(n log n). The result is the
 * list from symbol 0 along `next`.
 */
void dsv4_bpe_word_merge(dsv4_bpe_word *word, const dsv4_bpe_table *table, size_t n_symbols);

#endif
