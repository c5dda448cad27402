/*
 * attn_wide_shared.cuh - shared memory of the Hopper attention kernel for 64 heads and what its warps have in common.
 *
 * Place: cuda, sm_90a only; part of attn_wide.cu, which describes the kernel.
 *
 *   q        a part's queries, by groups of 64 dimensions: row warps, as bf16 -> head warps -> matrix units, as f16
 *   values[] a block of 64 keys each, f16, by groups of 64 dimensions: row warps -> both head warpgroups
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

#include "attn_blocks.cuh"
#include "attn_plain.cuh"

enum {
    HEADS = ATTN_MAX_GROUP,
    N_HEAD_THREADS = 2 * WARPGROUP,
    N_THREADS = N_HEAD_THREADS + WARPGROUP,
    N_CHUNKS = N_ROW_CHUNKS -
               N_HALF_GROUPS, /* so that the next block's rows begin with a block's second half */
    BARRIER_HEADS = 1,        /* id of a named barrier */
};
static_assert((int)HEADS == (int)KEYS, "queries, values and probabilities have groups of one size");
static_assert((int)N_HEAD_THREADS == (int)N_TEAM_THREADS, "the head warps finish a part");

struct shared_memory {
    alignas(1024) unsigned char q[BLOCK_BYTES];
    alignas(1024) unsigned char values[N_PLACES][BLOCK_BYTES];
    alignas(1024) unsigned char probs[GROUP_BYTES];
    alignas(16) unsigned char chunks[N_CHUNKS][CHUNK_BYTES];
    alignas(16) row_marks marks[N_PLACES];
    float q_factors[HEADS]; /* convert_queries' */
    /* of values in front of a block, where a warp's heads need it; warps of either head warpgroup have the same heads */
    float rescale[2][HEADS];
    int needs_rescale[2][N_WARPGROUP_WARPS];
    float part_ref[2][HEADS], part_sum[2][HEADS]; /* of a thread block's parts in turn */
    int part_is_odd[2];
    int arrival;
    uint64_t full[N_PLACES][2], empty[N_PLACES][2];
    uint64_t probs_full, probs_empty, q_full, q_empty;
};
static_assert(sizeof(shared_memory) <= 227 * 1024, "of a thread block");
static_assert(sizeof(plain_memory) <= sizeof shared_memory::probs, "the plain way has that memory");

#endif
