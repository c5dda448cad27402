/*
 * attn_wide.cu - decode attention for Hopper, 64 heads together: f16 products on wgmma, f32 sums, keys straight from the
 * paged FP8 cache.
 *
 * Place: cuda, sm_90a only. A thread block stays for all its parts (attn_device.h). Its warps:
 *
 *   head warps   two warpgroups. The first multiplies queries with a block of 64 keys (heads on rows), makes
 *                probabilities, and adds them times the first half of the dimensions to its sums; the second adds the
 *                other half, and asks the second-level cache for rows
 *   row warps    a warpgroup: find rows, bring them, convert them to f16 in shared memory, two blocks ahead at most; and
 *                bring queries
 *
 * So a block is converted while those before are multiplied, and neither waits in the chain of the other. With fewer
 * heads the first product would be mostly empty rows: attn_narrow.cu.
 *
 * f16 has one instruction for two codes, where bf16 has six, but no room for every scale: each row and each query is taken
 * times a power of two (attn_blocks.cuh), and a part with a row that goes further is computed again without matrix units
 * (attn_plain.cuh).
 *
 * Softmax: probabilities are relative to a reference per head, and may pass 1 by a lot. So there is no running maximum: a
 * block in which a score passes its reference by MOST_PASS sets new references for its warp's heads, as the first block
 * does, and both warpgroups rescale.
 *
 * NaN comes through products by itself. Rows that no list names are never read.
 */
#include "attn_launch.h"
#include "attn_refuse.cuh"
#include "attn_wide_heads.cuh"
#include "launch.cuh"

__device__ static void init_barriers(shared_memory &s)
{
    for (int i = 0; i < N_PLACES; i++) {
        for (int half = 0; half < 2; half++) {
            barrier_init(shared_address(&s.full[i][half]), WARPGROUP);
            barrier_init(shared_address(&s.empty[i][half]), N_WARPGROUP_WARPS);
        }
    }
    barrier_init(shared_address(&s.probs_full), WARPGROUP);
    barrier_init(shared_address(&s.probs_empty), N_WARPGROUP_WARPS);
    barrier_init(shared_address(&s.q_full), WARPGROUP);
    barrier_init(shared_address(&s.q_empty), N_WARPGROUP_WARPS);
    barrier_init_fence();
}

template <class PART>
__global__ void __launch_bounds__(N_THREADS, 1)
    attn_wide_kernel(const __grid_constant__ attn_args a)
{
    shared_memory &s = *(shared_memory *)dynamic_memory();
    if (threadIdx.x == 0) {
        prefetch_part(a);
        init_barriers(s);
    }
    if (!is_own_plan(a)) {
        refuse_plan(a);
        return;
    }
    __syncthreads();
    /* the three warpgroups start with 168 each */
    const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP, 0);
    if (warpgroup == 0) {
        registers_raise<240>();
        run_scores<PART>(a, s);
    } else if (warpgroup == 1) {
        run_values<PART>(a, s);
    } else {
        registers_lower<96>();
        run_rows<PART>(a, s);
    }
}

template <class PART>
static cudaError_t launch(const attn_args *args, int n_thread_blocks, cudaStream_t stream)
{
    const size_t n_bytes = sizeof(shared_memory);
    cudaError_t status = cudaFuncSetAttribute(
        attn_wide_kernel<PART>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes);
    if (status != cudaSuccess) return status;
    return launch_kernel(attn_wide_kernel<PART>, (unsigned)n_thread_blocks, N_THREADS, n_bytes,
                         stream, *args);
}

cudaError_t dsv4_attn_wide_launch(const attn_args *args, int n_thread_blocks, cudaStream_t stream)
{
    return args->joined.lists != NULL ? launch<joined_part>(args, n_thread_blocks, stream)
                                      : launch<attn_part>(args, n_thread_blocks, stream);
}
