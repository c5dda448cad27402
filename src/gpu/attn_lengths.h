/*
 * attn_lengths.h - how many entries of a list count.
 *
 * Place: gpu; included by kernels, behind gpu.h.
 */
#ifndef DSV4_GPU_ATTN_LENGTHS_H
#define DSV4_GPU_ATTN_LENGTHS_H

#include "gpu.h"

/* lengths [n_requests], or NULL: all n_indices. */
GPU_DEVICE int32_t gpu_count_listed(const int32_t *lengths, int32_t request, int32_t n_indices)
{
    if (lengths == NULL) return n_indices;
    const int32_t n = (int32_t)gpu_load4(lengths + request);
    return n < 0 ? 0 : gpu_min_i32(n, n_indices);
}

#endif
