/*
 * attn_join.cu - joins the lists of a request's queries: the kernel of gpu/attn_join_kernel.c on NVIDIA GPUs.
 *
 * Place: cuda, any device from sm_80 on.
 */
#define GPU_KERNEL(name, n_threads) __global__ static void __launch_bounds__(n_threads) name##_gpu

#include "attn_launch.h"
#include "gpu/attn_join_kernel.c"
#include "launch.cuh"

cudaError_t dsv4_attn_join_launch(const attn_join_args *args, cudaStream_t stream)
{
    return launch_kernel(dsv4_attn_join_gpu, 2 * (unsigned)args->n_requests, ATTN_JOIN_THREADS, 0,
                         stream, *args);
}
