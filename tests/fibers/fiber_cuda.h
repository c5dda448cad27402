/*
 * fiber_cuda.h - the attention's kernels of src/cuda, run on fibers.
 *
 * Place: tests.
 */
#ifndef DSV4_TESTS_FIBER_CUDA_H
#define DSV4_TESTS_FIBER_CUDA_H

#include <stdbool.h>

#include "gpu/attn_device.h"

/* A kernel, and how it is asked for. */
typedef struct fiber_cuda_way {
    const char *kernel; /* sm90 or mma: of attn_<kernel>.cu */
    int group_heads;
    int step_keys; /* of mma */
} fiber_cuda_way;

enum { FIBER_CUDA_MAX_WAYS = 8 };

/* n_ways: 0 when this build has none. */
extern const fiber_cuda_way fiber_cuda_ways[];
extern const int fiber_cuda_n_ways;

/* The way, or one with more heads, that takes joined lists of so many; NULL when there is none. */
const fiber_cuda_way *fiber_cuda_find_joined(const fiber_cuda_way *way, int least_heads);

/* is_lazy: copies and products happen where they are waited for. seed: order and speed of warps. */
void fiber_cuda_decode(const fiber_cuda_way *way, const attn_args *args, int n_thread_blocks,
                       bool is_lazy, uint64_t seed);

#endif
