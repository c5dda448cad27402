/*
 * attn_sm90_shared.cuh - shared memory of the Hopper attention kernel and what its warps have in common.
 *
 * Place: cuda, sm_90a only; part of attn_sm90.cu, which describes the kernel.
 *
 *   raw[]    rows as they lie in the cache, by blocks of 64 keys: value warps' asynchronous copies -> key warps. When
 *            a key warp has converted its share of rows it leaves there the scores that the other warpgroup owns
 *   values[] the same rows in bf16, by half blocks: key warps -> value warps. When a part has ended its last
 *            block's places hold the output on its way
 *   probs    probabilities of one block of 64 keys: key warps -> value warps
 *
 * There are two warpgroups of key warps and two of value warps; the first of each has dimensions 0..255, the second
 * the rest, and values pass from the first to the first, from the second to the second. Barriers, in the order in which
 * a block passes them: raw_full (rows have arrived), full (values and probs are stored), values_empty (a half of the block
 * was multiplied), probs_empty (all was). Rings are indexed by running numbers.
 */
#ifndef DSV4_CUDA_ATTN_SM90_SHARED_CUH
#define DSV4_CUDA_ATTN_SM90_SHARED_CUH

#include "attn_rows.cuh"
#include "sm90.cuh"
#include "wgmma.cuh"

enum {
    KEYS = ATTN_BLOCK_KEYS,
    HALF_KEYS = KEYS / 2,
    WARPGROUP = 128,
    N_KEY_THREADS = 2 * WARPGROUP,
    N_VALUE_THREADS = 2 * WARPGROUP,
    N_THREADS = N_KEY_THREADS + N_VALUE_THREADS,
    N_KEY_WARPS = N_KEY_THREADS / 32,
    N_VALUE_WARPS = N_VALUE_THREADS / 32,
    N_OWN_GROUPS = N_DIM_GROUPS / 2,    /* of a warpgroup */
    HALF_GROUP_BYTES = HALF_KEYS * 128, /* 64 dimensions of a half block of values */
    HALF_BYTES = N_DIM_GROUPS * HALF_GROUP_BYTES,
    N_RAW = 2,        /* blocks of rows that are on their way or being converted */
    BARRIER_KEYS = 1, /* ids of named barriers */
    BARRIER_VALUES = 2,
};

/* Half blocks of values: as much as fits. */
template <int HEADS> struct ring_sizes {
    static constexpr int values = HEADS == 64 ? 2 : 3;
};

template <int HEADS> struct shared_memory {
    alignas(1024) unsigned char q[N_DIM_GROUPS * HEADS * 128];
    alignas(1024) unsigned char values[ring_sizes<HEADS>::values][HALF_BYTES];
    alignas(1024) unsigned char probs[HEADS * 128];
    alignas(16) unsigned char raw[N_RAW][KEYS * ROW_BYTES];
    alignas(16) unsigned char scales[N_RAW][KEYS * SCALE_BYTES];
    uint32_t valid[N_RAW][N_VALUE_WARPS]; /* of eight rows each, four bits a row */
    uint32_t slots[2][KEYS];              /* indices of the blocks to load next */
    alignas(16) float ref[HEADS];
    float block_max[4][HEADS];
    float rescale[HEADS];     /* of values and sums so far, when needs_rescale */
    float part_ref[HEADS];    /* of the part that ended */
    float part_sum[4][HEADS]; /* by key warp */
    int needs_rescale;
    int is_last_arriver;
    uint64_t raw_full[N_RAW], raw_empty[N_RAW];
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

#endif
