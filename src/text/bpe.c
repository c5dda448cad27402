/*
 * bpe.c - byte pair encoding.
 *
 * Place: text. The queue may hold pairs that a later merge has destroyed: one is stale when its
 * left symbol is gone or its pair now has another rank, and is passed over. Ranks are distinct, so
 * an equal rank means the same pair. Each merge queues at most two pairs, so that n symbols queue
 * fewer than 3 n in all.
 */
#include "text/bpe.h"

#include "base/checked.h"

#include <assert.h>
#include <stdlib.h>

#define MIN_WORD_CAPACITY 64

static uint64_t pack(uint32_t high, uint32_t low)
{
    return (uint64_t)high << 32 | low;
}

/* The finalizer of MurmurHash3: every bit of the pair reaches the low bits of the slot. */
static size_t hash(uint64_t pair)
{
    pair = (pair ^ pair >> 33) * 0xff51afd7ed558ccdu;
    pair = (pair ^ pair >> 33) * 0xc4ceb9fe1a85ec53u;
    return (size_t)(pair ^ pair >> 33);
}

/* The slot of the pair, or the free one where it belongs. */
static dsv4_bpe_merge *slot_of(const dsv4_bpe_table *table, uint64_t pair)
{
    size_t i = hash(pair) & table->slot_mask;
    while (table->slots[i].pair != pair && table->slots[i].pair != DSV4_BPE_NO_PAIR) {
        i = (i + 1) & table->slot_mask;
    }
    return &table->slots[i];
}

bool dsv4_bpe_table_open(dsv4_bpe_table *table, size_t n_merges)
{
    size_t n_slots = 2, len_bytes = 0;
    while (n_slots / 2 < n_merges && n_slots <= SIZE_MAX / 2) n_slots *= 2;
    *table = (dsv4_bpe_table){.slot_mask = n_slots - 1};
    if (n_slots / 2 < n_merges || !dsv4_checked_mul(n_slots, sizeof *table->slots, &len_bytes)) {
        return false;
    }
    table->slots = malloc(len_bytes);
    if (table->slots == NULL) return false;
    for (size_t i = 0; i < n_slots; i++) table->slots[i].pair = DSV4_BPE_NO_PAIR;
    return true;
}

void dsv4_bpe_table_close(dsv4_bpe_table *table)
{
    free(table->slots);
    *table = (dsv4_bpe_table){0};
}

void dsv4_bpe_table_put(dsv4_bpe_table *table, int32_t left, int32_t right, uint32_t rank,
                        int32_t id)
{
    assert(left >= 0 && right >= 0);
    uint64_t pair = pack((uint32_t)left, (uint32_t)right);
    *slot_of(table, pair) = (dsv4_bpe_merge){pair, rank, id};
}

const dsv4_bpe_merge *dsv4_bpe_table_find(const dsv4_bpe_table *table, int32_t left, int32_t right)
{
    const dsv4_bpe_merge *slot = slot_of(table, pack((uint32_t)left, (uint32_t)right));
    return slot->pair == DSV4_BPE_NO_PAIR ? NULL : slot;
}

bool dsv4_bpe_word_reserve(dsv4_bpe_word *word, size_t n_symbols)
{
    size_t capacity = MIN_WORD_CAPACITY, symbols_bytes = 0, queue_bytes = 0;
    if (n_symbols <= word->capacity) return true;
    while (capacity < n_symbols && capacity <= SIZE_MAX / 2) capacity *= 2;
    if (capacity < n_symbols ||
        !dsv4_checked_mul(capacity, sizeof *word->symbols, &symbols_bytes) ||
        !dsv4_checked_mul(capacity, 3 * sizeof *word->queue, &queue_bytes)) {
        return false;
    }
    dsv4_bpe_word_free(word);
    word->symbols = malloc(symbols_bytes);
    word->queue = malloc(queue_bytes);
    if (word->symbols == NULL || word->queue == NULL) {
        dsv4_bpe_word_free(word);
        return false;
    }
    word->capacity = capacity;
    return true;
}

void dsv4_bpe_word_free(dsv4_bpe_word *word)
{
    free(word->symbols);
    free(word->queue);
    *word = (dsv4_bpe_word){0};
}

static void queue_push(dsv4_bpe_word *word, uint64_t item)
{
    uint64_t *queue = word->queue;
    size_t i = word->n_queued++;
    while (i > 0 && queue[(i - 1) / 2] > item) {
        queue[i] = queue[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    queue[i] = item;
}

static uint64_t queue_pop(dsv4_bpe_word *word)
{
    uint64_t *queue = word->queue, result = queue[0], item = queue[--word->n_queued];
    size_t i = 0, child = 1;
    while (child < word->n_queued) {
        if (child + 1 < word->n_queued && queue[child + 1] < queue[child]) child++;
        if (queue[child] >= item) break;
        queue[i] = queue[child];
        i = child;
        child = 2 * i + 1;
    }
    queue[i] = item;
    return result;
}

/* Queues the pair that begins at symbol `left`, if it can be merged. */
static void queue_pair(dsv4_bpe_word *word, const dsv4_bpe_table *table, uint32_t left)
{
    if (left == DSV4_BPE_NO_SYMBOL || word->symbols[left].next == DSV4_BPE_NO_SYMBOL) return;
    int32_t right_id = word->symbols[word->symbols[left].next].id;
    const dsv4_bpe_merge *merge = dsv4_bpe_table_find(table, word->symbols[left].id, right_id);
    if (merge != NULL) queue_push(word, pack(merge->rank, left));
}

void dsv4_bpe_word_merge(dsv4_bpe_word *word, const dsv4_bpe_table *table, size_t n_symbols)
{
    dsv4_bpe_symbol *symbols = word->symbols;
    assert(n_symbols >= 1 && n_symbols <= word->capacity);
    for (uint32_t i = 0; i < n_symbols; i++) {
        symbols[i].previous = i == 0 ? DSV4_BPE_NO_SYMBOL : i - 1;
        symbols[i].next = i + 1 == n_symbols ? DSV4_BPE_NO_SYMBOL : i + 1;
    }
    word->n_queued = 0;
    for (uint32_t i = 0; i < n_symbols; i++) queue_pair(word, table, i);
    while (word->n_queued > 0) {
        uint64_t item = queue_pop(word);
        uint32_t left = (uint32_t)item, right = symbols[left].next;
        if (symbols[left].id < 0 || right == DSV4_BPE_NO_SYMBOL) continue;
        const dsv4_bpe_merge *merge =
            dsv4_bpe_table_find(table, symbols[left].id, symbols[right].id);
        if (merge == NULL || merge->rank != item >> 32) continue;
        uint32_t after = symbols[right].next;
        symbols[left].id = merge->id;
        symbols[left].next = after;
        symbols[right].id = -1;
        if (after != DSV4_BPE_NO_SYMBOL) symbols[after].previous = left;
        queue_pair(word, table, symbols[left].previous);
        queue_pair(word, table, left);
    }
}
