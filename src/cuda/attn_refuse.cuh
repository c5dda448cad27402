/*
 * attn_refuse.cuh - what a kernel does with a plan that was not built for its call: NaN everywhere.
 *
 * Place: cuda, any device from sm_80 on; used by the attention's kernels. Parts of such a plan may name requests, heads
 * and slots that the call's memory does not have, and the host does not wait to look at it. So nothing of it is
 * followed: the call's outputs become NaN, the workspace stays as it is, and nothing else is touched.
 */
#ifndef DSV4_CUDA_ATTN_REFUSE_CUH
#define DSV4_CUDA_ATTN_REFUSE_CUH

#include <math.h>

#include "attn_rows.cuh"

enum { REFUSED_BF16 = 0x7fc0, REFUSED_CODE = 0x7f, REFUSED_SCALE = 0xff, SCALED_DIMS = 128 };

/* The same answer for all threads of all blocks. */
__device__ __forceinline__ bool is_own_plan(const attn_args &a)
{
    return __ldg(&((const attn_plan_head *)a.plan)->fingerprint) == a.fingerprint;
}

/* One head, by a warp; element by element, so that any alignment will do. */
__device__ __forceinline__ void refuse_head(const attn_args &a, int64_t request, int64_t query,
                                            int64_t head)
{
    const int lane = threadIdx.x % 32;
    char *out = a.out + request * a.out_request_stride_bytes + query * a.out_query_stride_bytes +
                head * a.out_head_stride_bytes;
#pragma unroll 1
    for (int dim = lane; dim < DIM; dim += 32) {
        if (a.out_is_fp8) {
            ((uint8_t *)out)[dim] = REFUSED_CODE;
        } else if (a.out_is_f32) {
            ((float *)out)[dim] = NAN;
        } else {
            ((uint16_t *)out)[dim] = REFUSED_BF16;
        }
    }
    if (a.out_is_fp8 && lane < DIM / SCALED_DIMS) {
        a.out_scales[request * a.out_scales_request_stride_bytes +
                     query * a.out_scales_query_stride_bytes +
                     head * a.out_scales_head_stride_bytes + lane] = REFUSED_SCALE;
    }
    if (a.lse != NULL && lane == 0) {
        *(float *)(a.lse + request * a.lse_request_stride_bytes + query * a.lse_query_stride_bytes +
                   head * a.lse_head_stride_bytes) = NAN;
    }
}

/* Every thread of the grid calls it and then ends. Not inlined: the kernels' own code keeps its registers. */
__device__ static __noinline__ void refuse_plan(const attn_args &a)
{
    const int64_t block_warps = blockDim.x / 32, n_warps = gridDim.x * block_warps;
    const int64_t n_all = (int64_t)a.n_requests * a.n_queries * a.n_heads;
    for (int64_t i = blockIdx.x * block_warps + threadIdx.x / 32; i < n_all; i += n_warps) {
        const int64_t row = i / a.n_heads;
        refuse_head(a, row / a.n_queries, row % a.n_queries, i % a.n_heads);
    }
}

#endif
