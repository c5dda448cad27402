/*
 * attn_join.cu - launches the kernel that joins the lists of a request's queries.
 *
 * Place: cuda. The kernel is src/gpu's.
 */
#include "attn_launch.h"
#include "launch.cuh"

#include "gpu/attn_join_kernel.c"

cudaError_t dsv4_attn_join_launch(const attn_join_args *args, cudaStream_t stream)
{
    return launch_kernel(dsv4_attn_join_gpu, 2 * (unsigned)args->n_requests, ATTN_JOIN_THREADS, 0,
                         stream, *args);
}
