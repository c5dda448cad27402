/*
 * attn_narrow.cu - decode attention for Hopper, 16 or 32 heads together: f16 products on wgmma, f32 sums, keys straight
 * from the paged FP8 cache.
 *
 * Place: cuda, sm_90a only. A thread block stays for all its parts (attn_device.h). Its warps, a warpgroup each but for
 * the last:
 *
 *   score warps  multiply a block of 64 keys with the queries (keys on rows, heads on columns), make probabilities
 *   value warps  sums in registers += values times probabilities (dimensions on rows); they ask the second-level
 *                cache for rows, and write output
 *   row warps    two warpgroups, half of the dimensions each: find rows, bring them, convert them to f16 in shared
 *                memory, two blocks ahead at most; and bring queries
 *
 * So with few heads, where bringing and converting a block takes longer than multiplying it, it goes on all the time.
 *
 * Products, softmax, NaN and rows that no list names: as in attn_wide.cu, but references move for all heads at once.
 */
#include "attn_launch.h"
#include "attn_narrow_rows.cuh"
#include "attn_narrow_values.cuh"
#include "attn_refuse.cuh"
#include "launch.cuh"

template <int HEADS> __device__ static void init_barriers(shared_memory<HEADS> &s)
{
    for (int i = 0; i < N_PLACES; i++) {
        for (int half = 0; half < 2; half++) {
            barrier_init(shared_address(&s.full[i][half]), WARPGROUP);
            barrier_init(shared_address(&s.empty[i][half]), N_WARPGROUP_WARPS);
        }
        barrier_init(shared_address(&s.probs_full[i]), WARPGROUP);
        barrier_init(shared_address(&s.probs_empty[i]), N_WARPGROUP_WARPS);
    }
    barrier_init(shared_address(&s.q_full), WARPGROUP);
    barrier_init(shared_address(&s.q_empty), N_WARPGROUP_WARPS);
    barrier_init_fence();
}

template <class PART, int HEADS>
__global__ void __launch_bounds__(N_THREADS, 1)
    attn_narrow_kernel(const __grid_constant__ attn_args a)
{
    shared_memory<HEADS> &s = *(shared_memory<HEADS> *)dynamic_memory();
    if (threadIdx.x == 0) {
        prefetch_part(a);
        init_barriers<HEADS>(s);
    }
    if (!is_own_plan(a)) {
        refuse_plan(a);
        return;
    }
    __syncthreads();
    /* the four warpgroups start with 128 each; the sums of 32 heads take 128 of the value warps' */
    const int warpgroup = (int)uniform(threadIdx.x / WARPGROUP);
    if (warpgroup == 0) {
        run_scores<PART, HEADS>(a, s);
    } else if (warpgroup == 1) {
        if (HEADS == 32) registers_raise<168>();
        run_values<PART, HEADS>(a, s);
    } else if (warpgroup == 2) {
        if (HEADS == 32) registers_lower<104>();
        run_rows<PART, HEADS, 0>(a, s);
    } else {
        if (HEADS == 32) registers_lower<104>();
        run_rows<PART, HEADS, 1>(a, s);
    }
}

template <class PART, int HEADS>
static cudaError_t launch(const attn_args *args, int n_thread_blocks, cudaStream_t stream)
{
    const size_t n_bytes = sizeof(shared_memory<HEADS>);
    static_assert(sizeof(shared_memory<HEADS>) <= 227 * 1024, "of a thread block");
    static_assert(sizeof(split_sums) <= sizeof shared_memory<HEADS>::q,
                  "a merge uses the memory of queries");
    cudaError_t status = cudaFuncSetAttribute(
        attn_narrow_kernel<PART, HEADS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes);
    if (status != cudaSuccess) return status;
    return launch_kernel(attn_narrow_kernel<PART, HEADS>, (unsigned)n_thread_blocks, N_THREADS,
                         n_bytes, stream, *args);
}

template <class PART>
static cudaError_t launch_group(const attn_args *args, int group_heads, int n_thread_blocks,
                                cudaStream_t stream)
{
    switch (group_heads) {
    case 16: return launch<PART, 16>(args, n_thread_blocks, stream);
    case 32: return launch<PART, 32>(args, n_thread_blocks, stream);
    default: return cudaErrorInvalidValue;
    }
}

cudaError_t dsv4_attn_narrow_launch(const attn_args *args, int group_heads, int n_thread_blocks,
                                    cudaStream_t stream)
{
    return args->joined.lists != NULL
               ? launch_group<joined_part>(args, group_heads, n_thread_blocks, stream)
               : launch_group<attn_part>(args, group_heads, n_thread_blocks, stream);
}
