/*
 * attn_output.cuh - the end of a part whose sums of values lie staged in shared memory, in the natural order of dimensions.
 *
 * Place: cuda, any device from sm_80 on.
 */
#ifndef DSV4_CUDA_ATTN_OUTPUT_CUH
#define DSV4_CUDA_ATTN_OUTPUT_CUH

#include "attn_split.cuh"

enum { STAGE_PITCH = DIM + 4 }; /* floats of a staged head: heads fall into different banks */

/* A part that ended, in shared memory. */
template <int HEADS> struct part_result {
    float ref[HEADS], sum[HEADS]; /* probabilities are 2^(score - ref) */
    float inverse[HEADS], sink[HEADS];
    int arrival;
};

/* All threads of a thread block of N_TEAM_THREADS. */
struct block_team {
    __device__ static __forceinline__ int thread(void)
    {
        return threadIdx.x;
    }
    __device__ static __forceinline__ void sync(void)
    {
        __syncthreads();
    }
};

__device__ __forceinline__ float4 staged_piece(const float *staged, int i)
{
    return *(const float4 *)&staged[i / HEAD_PIECES * STAGE_PITCH + i % HEAD_PIECES * 4];
}

/* Leaves a part's state for the merge. All threads of the block call these two, behind a barrier. */
template <int HEADS>
__device__ static void leave_part(const attn_args &a, const attn_part &p, const float *staged,
                                  const part_result<HEADS> &r)
{
    float *state = own_state(a, p);
    if (threadIdx.x < HEADS) {
        state[threadIdx.x] = r.ref[threadIdx.x];
        state[ATTN_MAX_GROUP + threadIdx.x] = r.sum[threadIdx.x];
    }
#pragma unroll 4
    for (int i = threadIdx.x; i < HEADS * HEAD_PIECES; i += N_TEAM_THREADS)
        ((float4 *)(state + 2 * ATTN_MAX_GROUP))[i] = staged_piece(staged, i);
}

/* Writes out and lse of a whole task; staged and r may be overwritten behind another barrier. */
template <int HEADS, class PART>
__device__ static void finish_part(const attn_args &a, const PART &p, const float *staged,
                                   part_result<HEADS> &r)
{
    const int h = threadIdx.x, first_head = part_first_head(p, HEADS);
    if (h < HEADS && first_head + h < count_heads(a, p)) {
        r.inverse[h] = inverse_sum(r.sink[h], r.ref[h], r.sum[h]);
        write_lse(a, p, first_head + h, r.ref[h], r.sum[h]);
    }
    __syncthreads();
#pragma unroll 2
    for (int i = threadIdx.x; i < HEADS * HEAD_PIECES; i += N_TEAM_THREADS) {
        const int head = first_head + i / HEAD_PIECES;
        if (head >= count_heads(a, p)) break;
        finish_piece(a, p, head, i % HEAD_PIECES * 4,
                     multiply_four(staged_piece(staged, i), r.inverse[i / HEAD_PIECES]));
    }
}

#endif
