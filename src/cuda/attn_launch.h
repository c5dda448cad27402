/*
 * attn_launch.h - the attention's kernels as C functions.
 *
 * Place: cuda. Each enqueues one kernel on `stream` (a cudaStream_t) and says what the launch said.
 */
#ifndef DSV4_CUDA_ATTN_LAUNCH_H
#define DSV4_CUDA_ATTN_LAUNCH_H

#include <cuda_runtime_api.h>

#include "gpu/attn_device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* n_requests * n_queries * n_groups < 2^31 - ATTN_PLAN_THREADS, n_thread_blocks <= ATTN_PLAN_THREADS. */
cudaError_t dsv4_attn_plan_launch(const attn_plan_args *args, cudaStream_t stream);

/* At least one request. */
cudaError_t dsv4_attn_join_launch(const attn_join_args *args, cudaStream_t stream);

/* group_heads: 16, 32 or 64; no FP8 output. n_thread_blocks as in the plan, at most one for each multiprocessor. */
cudaError_t dsv4_attn_sm90_launch(const attn_args *args, int group_heads, int n_thread_blocks,
                                  cudaStream_t stream);

/* The same for joined lists: group_heads of all queries together. */
cudaError_t dsv4_attn_sm90_joined_launch(const attn_args *args, int group_heads,
                                         int n_thread_blocks, cudaStream_t stream);

/* dsv4_attn_sm90_launch with FP8 products (attn_fp8.cu); group_heads: 32 or 64. */
cudaError_t dsv4_attn_fp8_launch(const attn_args *args, int group_heads, int n_thread_blocks,
                                 cudaStream_t stream);

/*
 * For any device from sm_80 on: group_heads 8 or 16, step_keys 32 or, for 8 heads, 64. n_thread_blocks as in the plan:
 * as many as run at once. shared_bytes: of one thread block. Joined lists: 16 heads.
 */
cudaError_t dsv4_attn_mma_launch(const attn_args *args, int group_heads, int step_keys,
                                 int n_thread_blocks, cudaStream_t stream);
size_t dsv4_attn_mma_shared_bytes(int group_heads, int step_keys);

/* At least one row. */
cudaError_t dsv4_attn_merge_launch(const attn_merge_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
