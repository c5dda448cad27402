/*
 * attn_plan.cu - launches the plan kernel.
 *
 * Place: cuda. The kernel is src/gpu's.
 */
#include "attn_launch.h"
#include "launch.cuh"

#include "gpu/attn_plan_kernel.c"

cudaError_t dsv4_attn_plan_launch(const attn_plan_args *args, cudaStream_t stream)
{
    return launch_kernel(dsv4_attn_plan_gpu, 1, ATTN_PLAN_THREADS, 0, stream, *args);
}
