/*
 * fiber_cuda.c - the attention's kernels of src/cuda, run on fibers.
 *
 * Place: tests.
 */
#include "fiber_cuda.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* cuda_run.h and attn_launch.h, which are for C++. */
void cuda_run_set(bool is_lazy, uint64_t seed);
int fiber_attn_wide_launch(const attn_args *args, int n_thread_blocks, void *stream);
int fiber_attn_narrow_launch(const attn_args *args, int group_heads, int n_thread_blocks,
                             void *stream);

void fiber_cuda_decode(const attn_args *args, int group_heads, int n_thread_blocks, bool is_lazy)
{
    static uint64_t n_calls;
    cuda_run_set(is_lazy, n_calls++);
    const int status = group_heads == 64
                           ? fiber_attn_wide_launch(args, n_thread_blocks, NULL)
                           : fiber_attn_narrow_launch(args, group_heads, n_thread_blocks, NULL);
    if (status == 0) return;
    fprintf(stderr, "no kernel for %d heads\n", group_heads);
    exit(3);
}
