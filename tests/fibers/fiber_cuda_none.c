/*
 * fiber_cuda_none.c - fiber_cuda.h in a build without a C++ compiler: no kernels of src/cuda.
 *
 * Place: tests.
 */
#include "fiber_cuda.h"

#include <stdlib.h>

const fiber_cuda_way fiber_cuda_ways[] = {{"none", 0, 0}};
const int fiber_cuda_n_ways = 0;

void fiber_cuda_decode(const fiber_cuda_way *way, const attn_args *args, int n_thread_blocks,
                       bool is_lazy, uint64_t seed)
{
    (void)way;
    (void)args;
    (void)n_thread_blocks;
    (void)is_lazy;
    (void)seed;
    abort();
}

const fiber_cuda_way *fiber_cuda_find_joined(const fiber_cuda_way *way, int least_heads)
{
    (void)way;
    (void)least_heads;
    return NULL;
}
