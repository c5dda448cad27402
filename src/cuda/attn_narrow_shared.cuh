/*
 * attn_narrow_shared.cuh - shared memory of the Hopper attention kernel for up to 32 heads and what its warps have in
 * common.
 *
 * Place: cuda, sm_90a only; part of attn_narrow.cu, which describes the kernel.
 *
 *   q        a part's queries, by groups of 64 dimensions: row warps, as bf16 -> score warps -> matrix units, as f16
 *   values[] a block of 64 keys each, f16, by groups of 64 dimensions: row warps -> score warps and value warps
 *   probs[]  a block's probabilities, heads on rows: score warps -> value warps
 *   staged   output of some heads, in whole rows
 *
 * Everything that matrix units read has rows of 128 bytes, swizzled (wgmma.cuh), dimensions in their natural order.
 *
 * Blocks are numbered over all parts of the thread block; block b has place b % N_PLACES. Barriers, in the order in
 * which a block passes them, by halves of the dimensions where there are two: empty (the block before in the place has
 * been multiplied), full (converted), probs_empty (the probabilities before in the place have been multiplied),
 * probs_full. Of a part that has blocks: q_empty (the queries before have been multiplied), q_full.
 */
#ifndef DSV4_CUDA_ATTN_NARROW_SHARED_CUH
#define DSV4_CUDA_ATTN_NARROW_SHARED_CUH

#include "attn_blocks.cuh"
#include "attn_plain.cuh"

enum {
    N_TEAM_WARPGROUPS = 2, /* score warps and value warps */
    N_THREADS = (N_TEAM_WARPGROUPS + 2) * WARPGROUP,
    N_STAGED_HEADS = 16,
    STAGED_ROW_BYTES = DIM * 2,
    BARRIER_TEAM = 1, /* ids of named barriers */
    BARRIER_SCORES = 2,
    BARRIER_VALUES = 3,
};
static_assert(N_TEAM_WARPGROUPS * (int)WARPGROUP == (int)N_TEAM_THREADS, "they finish a part");

template <int HEADS> struct shared_memory {
    alignas(1024) unsigned char q[N_DIM_GROUPS * HEADS * 128];
    alignas(1024) unsigned char values[N_PLACES][BLOCK_BYTES];
    alignas(1024) unsigned char probs[N_PLACES][HEADS * 128];
    alignas(16) unsigned char staged[N_STAGED_HEADS * STAGED_ROW_BYTES];
    row_marks marks[N_PLACES][2]; /* by halves */
    float q_factors[HEADS];       /* convert_queries' */
    float block_max[N_WARPGROUP_WARPS][HEADS];
    float rescale[N_PLACES][HEADS]; /* of values so far, when needs_rescale */
    float part_ref[2][HEADS], part_sum[2][N_WARPGROUP_WARPS][HEADS]; /* of parts in turn */
    int part_is_odd[2][N_WARPGROUP_WARPS];
    int needs_rescale[N_PLACES];
    int arrival;
    uint64_t full[N_PLACES][2], empty[N_PLACES][2];
    uint64_t probs_full[N_PLACES], probs_empty[N_PLACES], q_full, q_empty;

    __device__ __forceinline__ bool is_odd(int turn) const
    {
        const int *odd = part_is_odd[turn];
        return (odd[0] | odd[1] | odd[2] | odd[3]) != 0;
    }
};

static_assert(sizeof(plain_memory) <= sizeof shared_memory<16>::probs,
              "the plain way has that memory");

/* Where a state has a value. */
struct row_state {
    __device__ static __forceinline__ int at(int h, int dim)
    {
        return h * DIM + dim;
    }
};

/* Score warps and value warps. */
struct narrow_team {
    __device__ static __forceinline__ int thread(void)
    {
        return threadIdx.x;
    }
    __device__ static __forceinline__ void sync(void)
    {
        named_barrier(BARRIER_TEAM, N_TEAM_THREADS);
    }
};

#endif
