/*
 * attn_fence.c - see the header.
 *
 * Place: tests. The last page of a mapping stays closed, and the memory ends where it begins. Under AddressSanitizer it
 * is a heap block of its own, which is watched to the byte and on both sides.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */

#include "attn_fence.h"

#include "attn_case_gen.h"
#include "base/compiler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGN_BYTES = 16 };

#if defined(DSV4_ADDRESS_SANITIZED)
enum { IS_WATCHED = 1 };
#else
enum { IS_WATCHED = 0 };
#endif

static size_t round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

void *attn_fenced_alloc(attn_fenced *block, int64_t n_bytes)
{
    memset(block, 0, sizeof *block);
    if (IS_WATCHED) return block->memory = attn_alloc(n_bytes);
    const size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    const size_t memory_bytes = round_up((size_t)n_bytes, ALIGN_BYTES);
    const size_t open_bytes = round_up(memory_bytes, page_bytes);
    block->mapping_bytes = open_bytes + page_bytes;
    uint8_t *mapping =
        mmap(NULL, block->mapping_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED ||
        (open_bytes > 0 && mprotect(mapping, open_bytes, PROT_READ | PROT_WRITE) != 0)) {
        fprintf(stderr, "out of memory: %lld bytes\n", (long long)n_bytes);
        exit(2);
    }
    block->mapping = mapping;
    return block->memory = mapping + (open_bytes - memory_bytes);
}

void attn_fenced_free(attn_fenced *block)
{
    if (block->mapping == NULL) {
        free(block->memory);
    } else {
        (void)munmap(block->mapping, block->mapping_bytes);
    }
}
