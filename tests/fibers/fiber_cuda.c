/*
 * fiber_cuda.c - the attention's kernels of src/cuda, run on fibers.
 *
 * Place: tests.
 */
#include "fiber_cuda.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* cuda_run.h and attn_launch.h, which are for C++. */
void cuda_run_set(bool is_lazy, uint64_t seed);
int fiber_attn_sm90_launch(const attn_args *args, int group_heads, int n_thread_blocks,
                           void *stream);
int fiber_attn_sm90_joined_launch(const attn_args *args, int group_heads, int n_thread_blocks,
                                  void *stream);
int fiber_attn_mma_launch(const attn_args *args, int group_heads, int step_keys,
                          int n_thread_blocks, void *stream);

const fiber_cuda_way fiber_cuda_ways[] = {
    {"sm90", 16, 0}, {"sm90", 32, 0}, {"sm90", 64, 0},
    {"mma", 8, 64},  {"mma", 8, 32},  {"mma", 16, 32},
};
_Static_assert(sizeof fiber_cuda_ways / sizeof fiber_cuda_ways[0] <= FIBER_CUDA_MAX_WAYS,
               "too many");
const int fiber_cuda_n_ways = (int)(sizeof fiber_cuda_ways / sizeof fiber_cuda_ways[0]);

const fiber_cuda_way *fiber_cuda_find_joined(const fiber_cuda_way *way, int least_heads)
{
    const bool is_mma = strcmp(way->kernel, "mma") == 0;
    for (int i = 0; i < fiber_cuda_n_ways; i++) {
        const fiber_cuda_way *w = &fiber_cuda_ways[i];
        if ((strcmp(w->kernel, "mma") == 0) != is_mma || (is_mma && w->group_heads != 16)) continue;
        if (w->group_heads >= least_heads && w->group_heads >= way->group_heads) return w;
    }
    return NULL;
}

static int launch(const fiber_cuda_way *way, const attn_args *args, int n_thread_blocks)
{
    if (strcmp(way->kernel, "sm90") == 0 && args->joined.lists != NULL)
        return fiber_attn_sm90_joined_launch(args, way->group_heads, n_thread_blocks, NULL);
    if (strcmp(way->kernel, "sm90") == 0)
        return fiber_attn_sm90_launch(args, way->group_heads, n_thread_blocks, NULL);
    return fiber_attn_mma_launch(args, way->group_heads, way->step_keys, n_thread_blocks, NULL);
}

void fiber_cuda_decode(const fiber_cuda_way *way, const attn_args *args, int n_thread_blocks,
                       bool is_lazy, uint64_t seed)
{
    cuda_run_set(is_lazy, seed);
    if (launch(way, args, n_thread_blocks) == 0) return;
    fprintf(stderr, "no %s kernel for %d heads\n", way->kernel, way->group_heads);
    exit(3);
}
