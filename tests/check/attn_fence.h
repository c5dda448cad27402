/*
 * attn_fence.h - memory whose end nothing can be read past.
 *
 * Place: tests. A sanitizer does not see what a driver reads, and does not run beside CUDA: an access past a
 * block's end has to crash by itself, not only when the heap happens to end there.
 */
#ifndef DSV4_TESTS_ATTN_FENCE_H
#define DSV4_TESTS_ATTN_FENCE_H

#include <stddef.h>
#include <stdint.h>

typedef struct attn_fenced {
    void *mapping; /* NULL where a sanitizer watches */
    size_t mapping_bytes;
    void *memory;
} attn_fenced;

/*
 * Memory aligned to 16 bytes, to be freed with attn_fenced_free; ends the program when there is none. What follows it,
 * after the few bytes to the next multiple of 16, cannot be accessed.
 */
void *attn_fenced_alloc(attn_fenced *block, int64_t n_bytes);
void attn_fenced_free(attn_fenced *block);

#endif
