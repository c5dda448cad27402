/*
 * attn_wide_shared.cuh - shared memory of the Hopper attention kernel for 64 heads and what its warps have in common.
 *
 * Place: cuda, sm_90a only; part of attn_wide.cu, which describes the kernel.
 *
 *   q        a part's queries, by groups of 64 dimensions: row warps -> matrix units
 *   values[] a block of 64 keys each, bf16, by groups of 64 dimensions: row warps -> both head warpgroups
 *   probs    a block's probabilities: the first head warpgroup -> the second one's matrix units
 *   chunks[] rows as they lie in the cache, a queue of each thread of the row warps
 *
 * Everything that matrix units read has rows of 128 bytes, swizzled (wgmma.cuh), dimensions in their natural order.
 *
 * Blocks are numbered over all parts of the thread block; block b has place b % N_PLACES. Barriers, in the order in
 * which a block passes them, by halves of the dimensions where there are two: empty (a warpgroup has multiplied its half
 * of the block before in the place), full (converted), probs_empty (the probabilities before have been multiplied),
 * probs_full. Of a part that has blocks: q_empty (the queries before have been multiplied), q_full.
 */
#ifndef DSV4_CUDA_ATTN_WIDE_SHARED_CUH
#define DSV4_CUDA_ATTN_WIDE_SHARED_CUH

#include "attn_split.cuh"
#include "sm90.cuh"
#include "wgmma.cuh"

enum {
    KEYS = ATTN_BLOCK_KEYS,
    HEADS = ATTN_MAX_GROUP,
    WARPGROUP = 128,
    N_WARPGROUP_WARPS = WARPGROUP / 32,
    N_HEAD_THREADS = 2 * WARPGROUP,
    N_THREADS = N_HEAD_THREADS + WARPGROUP,
    HALF_DIMS = DIM / 2,
    N_HALF_GROUPS = N_DIM_GROUPS / 2,
    GROUP_BYTES =
        KEYS *
        128, /* 64 dimensions of a block of values, of queries, and a block's probabilities */
    BLOCK_BYTES = N_DIM_GROUPS * GROUP_BYTES,
    CHUNK_ROW_BYTES = 64, /* of a row in the cache */
    CHUNK_BYTES = KEYS * CHUNK_ROW_BYTES,
    N_ROW_CHUNKS = ROW_BYTES / CHUNK_ROW_BYTES,
    N_CHUNKS = N_ROW_CHUNKS -
               N_HALF_GROUPS, /* so that the next block's rows begin with a block's second half */
    N_PLACES = 2,
    BLOCKS_AHEAD = N_PLACES + 3, /* of the one that is multiplied, in the second-level cache */
    BARRIER_HEADS = 1,           /* id of a named barrier */
};
static_assert((int)HEADS == (int)KEYS, "queries, values and probabilities have groups of one size");
static_assert((int)N_HEAD_THREADS == (int)N_TEAM_THREADS, "the head warps finish a part");

/* Of a block's rows, by the ballots of the row warps: bit 4 * i of word w is of row 8 * w + i. */
struct row_marks {
    uint32_t unusual[KEYS / 8]; /* not listed, or with a NaN code */
    uint32_t nan[KEYS / 8];
};

struct shared_memory {
    alignas(1024) unsigned char q[BLOCK_BYTES];
    alignas(1024) unsigned char values[N_PLACES][BLOCK_BYTES];
    alignas(1024) unsigned char probs[GROUP_BYTES];
    alignas(16) unsigned char chunks[N_CHUNKS][CHUNK_BYTES];
    alignas(16) row_marks marks[N_PLACES];
    float rescale[HEADS]; /* of values so far, where a warp's heads need it */
    int needs_rescale
        [N_WARPGROUP_WARPS]; /* by warps of either head warpgroup: they have the same heads */
    float part_ref[2][HEADS], part_sum[2][HEADS]; /* of a thread block's parts in turn */
    int arrival;
    uint64_t full[N_PLACES][2], empty[N_PLACES][2];
    uint64_t probs_full, probs_empty, q_full, q_empty;
};
static_assert(sizeof(shared_memory) <= 227 * 1024, "of a thread block");

#endif
