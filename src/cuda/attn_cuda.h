/*
 * attn_cuda.h - the decode attention on NVIDIA GPUs: what it can do, sizes, plan, launch and merge.
 *
 * Place: cuda; validation is in src/attn. Everything refers to the calling thread's current device. In a
 * build without CUDA every function answers UNSUPPORTED.
 */
#ifndef DSV4_CUDA_ATTN_CUDA_H
#define DSV4_CUDA_ATTN_CUDA_H

#include "dsv4/attn.h"

/* Sets *kernel to the name of the kernel that these params get on the current device. Errors: UNSUPPORTED. */
dsv4_status dsv4_attn_cuda_choose(const dsv4_attn_params *params, const char **kernel,
                                  dsv4_error *error);

/* Bytes of device memory; params are valid and can be computed (dsv4_attn_cuda_choose). */
dsv4_status dsv4_attn_cuda_plan_size(const dsv4_attn_params *params, size_t *plan_bytes,
                                     size_t *workspace_bytes, dsv4_error *error);

/* Enqueues the plan's kernel; `plan` is device memory. Errors: DEVICE. */
dsv4_status dsv4_attn_cuda_plan_build(void *stream, const dsv4_attn_params *params, void *plan,
                                      dsv4_error *error);

/* Enqueues the attention; nothing but the plan's parts, tensors and workspace is touched. Errors: DEVICE. */
dsv4_status dsv4_attn_cuda_decode(void *stream, const dsv4_attn_params *params, const void *plan,
                                  void *workspace, dsv4_error *error);

/* Enqueues the merge; there is at least one row. Errors: DEVICE. */
dsv4_status dsv4_attn_cuda_merge(void *stream, const dsv4_attn_merge_params *params,
                                 dsv4_error *error);

#endif
