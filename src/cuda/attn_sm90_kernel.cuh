/*
 * attn_sm90_kernel.cuh - the kernel that attn_sm90.cu describes, of one kind of parts, and its launch.
 *
 * Place: cuda, sm_90a only. Kernels of joined lists are compiled beside those of other lists, in a file of their own.
 */
#ifndef DSV4_CUDA_ATTN_SM90_KERNEL_CUH
#define DSV4_CUDA_ATTN_SM90_KERNEL_CUH

#include "attn_refuse.cuh"
#include "attn_sm90_keys.cuh"
#include "attn_sm90_values.cuh"
#include "launch.cuh"

template <int HEADS> __device__ static void init_barriers(shared_memory<HEADS> &s)
{
    for (int i = 0; i < N_STREAMS; i++) {
        for (int k = 0; k < N_ROW_PLACES; k++) /* scales by asynchronous copies, and addresses */
            barrier_init(shared_address(&s.found[i][k]), KEYS + N_VALUE_WARPS);
        barrier_init(shared_address(&s.empty[i][0]), N_VALUE_WARPS);
        barrier_init(shared_address(&s.empty[i][1]), N_VALUE_WARPS);
        barrier_init(shared_address(&s.weighed[i]), WARPGROUP);
        barrier_init(shared_address(&s.full[i]), WARPGROUP);
        s.needs_sum_rescale[i] = 0;
    }
    barrier_init(shared_address(&s.probs_empty), N_VALUE_WARPS);
    barrier_init(shared_address(&s.part_full), N_KEY_THREADS);
    barrier_init(shared_address(&s.part_empty), N_VALUE_THREADS);
    barrier_init_fence();
}

template <class PART, int HEADS>
__global__ void __launch_bounds__(N_THREADS, 1)
    attn_sm90_kernel(const __grid_constant__ attn_args a)
{
    shared_memory<HEADS> &s = *(shared_memory<HEADS> *)dynamic_memory();
    if (threadIdx.x == 0) {
        prefetch_part(a);
        init_barriers(s);
    }
    if (!is_own_plan(a)) {
        refuse_plan(a);
        return;
    }
    __syncthreads();
    /* the four warpgroups start with 128 each; the sums of 64 heads take 128 of the value warps' */
    if (threadIdx.x < N_KEY_THREADS) {
        if (HEADS >= 32) registers_lower<96>();
        run_keys<PART, HEADS>(a, s);
    } else {
        if (HEADS >= 32) registers_raise<160>();
        run_values<PART, HEADS>(a, s);
    }
}

template <class PART, int HEADS>
static cudaError_t launch(const attn_args *args, int n_thread_blocks, cudaStream_t stream)
{
    const size_t n_bytes = sizeof(shared_memory<HEADS>);
    cudaError_t status = cudaFuncSetAttribute(
        attn_sm90_kernel<PART, HEADS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes);
    if (status != cudaSuccess) return status;
    return launch_kernel(attn_sm90_kernel<PART, HEADS>, (unsigned)n_thread_blocks, N_THREADS,
                         n_bytes, stream, *args);
}

template <class PART>
static cudaError_t launch_group(const attn_args *args, int group_heads, int n_thread_blocks,
                                cudaStream_t stream)
{
    switch (group_heads) {
    case 16: return launch<PART, 16>(args, n_thread_blocks, stream);
    case 32: return launch<PART, 32>(args, n_thread_blocks, stream);
    case 64: return launch<PART, 64>(args, n_thread_blocks, stream);
    default: return cudaErrorInvalidValue;
    }
}

#endif
