/*
 * fiber_decode.h - the decode operation by src/gpu's kernels on fibers.
 *
 * Place: tests. Does what a host side does: a plan, zeroed counters, a decode; with guard bytes around plan and workspace.
 */
#ifndef DSV4_TESTS_FIBER_DECODE_H
#define DSV4_TESTS_FIBER_DECODE_H

#include "dsv4/attn.h"

#include <stdbool.h>

#include "fiber_cuda.h"

typedef struct fiber_way {
    const char *name;
    int32_t math; /* DSV4_ATTN_MATH_BF16 or _FP8 */
    int32_t group_heads;
    bool is_small;              /* the kernels of gfx942: bf16, 16 or 32 heads */
    const fiber_cuda_way *cuda; /* those of src/cuda: bf16; NULL for src/gpu's */
    bool joins;                 /* lists, where it can; of src/cuda */
    uint64_t seed;              /* of orders in which src/cuda's run */
    int32_t n_thread_blocks;
    bool may_split;
    int32_t least_parts; /* that the plan has to have; 0: any */
    bool downwards;      /* order of waves in the first block */
    bool copies_at_once; /* fiber_run.h; CUDA's products, too */
} fiber_way;

enum { FIBER_TEXT_BYTES = 200 };

/* Writes params' outputs; false, with the reason, when a guard byte was written or a counter is left. */
bool fiber_decode(const dsv4_attn_params *params, const fiber_way *way, char *text);

/* The same with a plan that was built for other shapes: outputs are refused. */
bool fiber_decode_refused(const dsv4_attn_params *params, const fiber_way *way, char *text);

/* dsv4_attn_merge by the kernel for waves of so many threads. */
void fiber_merge(const dsv4_attn_merge_params *params, int wave_threads, int n_thread_blocks);

#endif
