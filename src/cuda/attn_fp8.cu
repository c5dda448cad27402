/*
 * attn_fp8.cu - decode attention for Hopper with both products on FP8 units, straight from the cache's codes.
 *
 * Place: cuda, sm_90a only. A thread block stays for all its parts (attn_device.h). Its warps, in the order of a block
 * of 64 keys:
 *
 *   key warps     two warpgroups, half of the heads each: multiply codes with the queries' codes, a group of 64
 *                 dimensions at a time, whose sums are scaled and added in f32; make probabilities, and multiply them
 *                 with each group's scales, as codes again
 *   value warps   two warpgroups, half of the dimensions each: bring rows; sums in registers (+)= values times
 *                 probabilities
 *
 * Queries: a power of two per head brings their first 448 dimensions to e4m3; the rotated ones stay bf16, as they do in
 * the cache. Sums of FP8 products have about 14 bits inside the matrix unit, so that the first product is taken out of
 * it after each group. Probabilities: relative to a reference per head, which follows the largest score; times 2^(scale
 * of the row's group - reference of the group), so that codes of all keys can be added. A block in which such a product
 * passes LARGEST_PROB (the first one always does) sets new references and makes the value warps rescale. What is below
 * 2^-16 of the references vanishes.
 */
#include "attn_fp8_keys.cuh"
#include "attn_fp8_values.cuh"
#include "attn_launch.h"
#include "attn_refuse.cuh"
#include "launch.cuh"

template <int HEADS> __device__ static void init_code_barriers(fp8_memory<HEADS> &s)
{
    for (int i = 0; i < fp8_memory<HEADS>::n_slots; i++) {
        barrier_init(shared_address(&s.loaded[i]), N_VALUE_THREADS + N_VALUE_WARPS);
        barrier_init(shared_address(&s.empty[i]), N_VALUE_WARPS);
    }
    for (int i = 0; i < N_PROBS; i++) {
        barrier_init(shared_address(&s.probs_empty[i]), N_VALUE_WARPS);
        barrier_init(shared_address(&s.full[i]), N_KEY_THREADS);
    }
    barrier_init(shared_address(&s.part_full), N_KEY_THREADS);
    barrier_init(shared_address(&s.part_empty), N_VALUE_THREADS);
    barrier_init_fence();
}

template <int HEADS>
__global__ void __launch_bounds__(N_THREADS, 1) attn_fp8_kernel(const __grid_constant__ attn_args a)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    fp8_memory<HEADS> &s = *(fp8_memory<HEADS> *)memory;
    if (threadIdx.x == 0) {
        prefetch_part(a);
        init_code_barriers(s);
    }
    if (!is_own_plan(a)) {
        refuse_plan(a);
        return;
    }
    __syncthreads();
    /* the four warpgroups start with 128 each; the sums of 64 heads take 128 of the value warps' */
    if (read_thread() >= N_KEY_THREADS) {
        registers_raise<160>();
        run_code_values<HEADS>(a, s);
    } else {
        registers_lower<96>();
        run_code_keys<HEADS>(a, s);
    }
}

template <int HEADS>
static cudaError_t launch(const attn_args *args, int n_thread_blocks, cudaStream_t stream)
{
    const size_t n_bytes = sizeof(fp8_memory<HEADS>);
    static_assert(sizeof(fp8_memory<HEADS>) <= 227 * 1024, "of a thread block");
    cudaError_t status = cudaFuncSetAttribute(
        attn_fp8_kernel<HEADS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes);
    if (status != cudaSuccess) return status;
    return launch_kernel(attn_fp8_kernel<HEADS>, (unsigned)n_thread_blocks, N_THREADS, n_bytes,
                         stream, *args);
}

cudaError_t dsv4_attn_fp8_launch(const attn_args *args, int group_heads, int n_thread_blocks,
                                 cudaStream_t stream)
{
    switch (group_heads) {
    case 32: return launch<32>(args, n_thread_blocks, stream);
    case 64: return launch<64>(args, n_thread_blocks, stream);
    default: return cudaErrorInvalidValue;
    }
}
