/*
 * attn_sm90_shared.cuh - shared memory of the Hopper attention kernel and what its warps have in common.
 *
 * Place: cuda, sm_90a only; part of attn_sm90.cu, which describes the kernel.
 *
 *   raw[]    rows as they lie in the cache, by blocks of 64 keys: asynchronous copies -> key warps
 *   values[] the same rows in bf16, by half blocks: key warps -> value warps. When a part has ended its last
 *            block's places hold the output on its way
 *   traded   scores that one warpgroup of key warps leaves for the other
 *   probs    probabilities of one block of 64 keys: key warps -> value warps
 *
 * There are two warpgroups of key warps and two of value warps; the first of each has dimensions 0..255, the second
 * the rest, and values pass from the first to the first, from the second to the second. Barriers, in the order in which
 * a block passes them: raw_full (rows have arrived), full (values and probs are stored), values_empty (a half of the block
 * was multiplied), probs_empty (all was). Rings are indexed by running numbers.
 */
#ifndef DSV4_CUDA_ATTN_SM90_SHARED_CUH
#define DSV4_CUDA_ATTN_SM90_SHARED_CUH

#include "attn_device.h"
#include "sm90.cuh"
#include "wgmma.cuh"

enum {
    DIM = 512,
    N_DIM_GROUPS = 8, /* of 64 dimensions; the last is the rotated bf16 part */
    ROW_BYTES = 576,  /* of codes and rotated values */
    SCALE_BYTES = 8,
    KEYS = ATTN_BLOCK_KEYS,
    HALF_KEYS = KEYS / 2,
    WARPGROUP = 128,
    N_KEY_THREADS = 2 * WARPGROUP,
    N_VALUE_THREADS = 2 * WARPGROUP,
    N_THREADS = N_KEY_THREADS + N_VALUE_THREADS,
    N_KEY_WARPS = N_KEY_THREADS / 32,
    WARP_KEYS = KEYS / N_KEY_WARPS,     /* rows of a block that a key warp loads */
    N_OWN_GROUPS = N_DIM_GROUPS / 2,    /* of a warpgroup */
    HALF_GROUP_BYTES = HALF_KEYS * 128, /* 64 dimensions of a half block of values */
    HALF_BYTES = N_DIM_GROUPS * HALF_GROUP_BYTES,
    BARRIER_KEYS = 1, /* ids of named barriers */
    BARRIER_VALUES = 2,
};

#define FIRST_REF (-1e30f) /* below every score: the first block sets a reference */
#define LOG2_E    1.4426950408889634f
#define LN_2      0.6931471805599453f

/* Blocks of raw rows, half blocks of values: as much as fits. */
template <int HEADS> struct ring_sizes {
    static constexpr int raw = HEADS == 64 ? 1 : 2;
    static constexpr int values = HEADS >= 32 ? 3 : 4;
};

template <int HEADS> struct shared_memory {
    alignas(1024) unsigned char q[N_DIM_GROUPS * HEADS * 128];
    alignas(1024) unsigned char values[ring_sizes<HEADS>::values][HALF_BYTES];
    alignas(1024) unsigned char probs[HEADS * 128];
    alignas(16) float4 traded[HEADS / 8][WARPGROUP]; /* by tile of eight heads */
    alignas(16) unsigned char raw[ring_sizes<HEADS>::raw][KEYS * ROW_BYTES];
    alignas(16) unsigned char scales[ring_sizes<HEADS>::raw][KEYS * SCALE_BYTES];
    uint32_t valid[ring_sizes<HEADS>::raw]
                  [N_KEY_WARPS]; /* of each key warp's rows, four bits a row */
    alignas(16) float ref[HEADS];
    float block_max[4][HEADS];
    float rescale[HEADS];     /* of values and sums so far, when needs_rescale */
    float part_ref[HEADS];    /* of the part that ended */
    float part_sum[4][HEADS]; /* by key warp */
    int needs_rescale;
    int is_last_arriver;
    uint64_t raw_full[ring_sizes<HEADS>::raw];
    uint64_t values_empty[2][ring_sizes<HEADS>::values];
    uint64_t full, probs_empty, part_full, part_empty;
};

/* A place in a ring of N and how often the ring has been passed. */
template <int N> struct ring_place {
    int slot;
    uint32_t pass;
    __device__ __forceinline__ void advance(int n)
    {
        slot += n;
        while (slot >= N) {
            slot -= N;
            pass++;
        }
    }
};

__device__ __forceinline__ int32_t rank_of_round(int32_t round)
{
    int32_t n = gridDim.x, i = blockIdx.x;
    return round * n + (round % 2 == 0 ? i : n - 1 - i);
}

__device__ __forceinline__ attn_part read_part(const attn_args &a, int32_t rank)
{
    const int4 *source = (const int4 *)(a.plan + sizeof(attn_plan_head)) + 2 * (int64_t)rank;
    int4 low = __ldg(source), high = __ldg(source + 1);
    attn_part p = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    return p;
}

__device__ __forceinline__ int32_t part_query(const attn_part &p)
{
    return p.query_group >> 8;
}

__device__ __forceinline__ int32_t part_first_head(const attn_part &p, int group_heads)
{
    return (p.query_group & 0xff) * group_heads;
}

#endif
