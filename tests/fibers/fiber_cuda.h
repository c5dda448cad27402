/*
 * fiber_cuda.h - the attention's kernels of src/cuda, run on fibers.
 *
 * Place: tests.
 */
#ifndef DSV4_TESTS_FIBER_CUDA_H
#define DSV4_TESTS_FIBER_CUDA_H

#include <stdbool.h>

#include "gpu/attn_device.h"

/* group_heads: 16, 32 or 64. is_lazy: copies and products happen where they are waited for. */
void fiber_cuda_decode(const attn_args *args, int group_heads, int n_thread_blocks, bool is_lazy);

#endif
