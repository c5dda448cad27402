/*
 * attn_sm90_shared.cuh - shared memory of the Hopper attention kernel and what its warps have in common.
 *
 * Place: cuda, sm_90a only; part of attn_sm90.cu, which describes the kernel.
 *
 *   values[] a block of 64 keys each, by groups of 64 dimensions. Rows come as they lie in the cache, each group's
 *            codes into the place where its bf16 values will be: value warps' asynchronous copies -> a stream of key
 *            warps, which converts them in place -> value warps
 *   probs[]  probabilities of the block of the same number: the stream -> value warps
 *
 * Blocks are numbered over all parts of the thread block; block b has place and stream b % 2. Barriers, in the order
 * in which a block passes them: rows_full (its rows have arrived), weighed (its scores have been compared with the
 * references, so that the next block's may be), full (values and probabilities are stored). There is none for empty
 * places: a value warpgroup brings new rows into the dimensions that it alone has just multiplied.
 */
#ifndef DSV4_CUDA_ATTN_SM90_SHARED_CUH
#define DSV4_CUDA_ATTN_SM90_SHARED_CUH

#include "attn_rows.cuh"
#include "sm90.cuh"
#include "wgmma.cuh"

enum {
    KEYS = ATTN_BLOCK_KEYS,
    WARPGROUP = 128,
    N_STREAMS = 2,
    N_KEY_THREADS = N_STREAMS * WARPGROUP,
    N_VALUE_THREADS = 2 * WARPGROUP,
    N_THREADS = N_KEY_THREADS + N_VALUE_THREADS,
    N_KEY_WARPS = N_KEY_THREADS / 32,
    N_HALF_GROUPS = N_DIM_GROUPS / 2, /* of a value warpgroup */
    GROUP_BYTES = KEYS * 128,         /* 64 dimensions of a block of values */
    BLOCK_BYTES = N_DIM_GROUPS * GROUP_BYTES,
    BARRIER_KEYS = 1, /* ids of named barriers */
    BARRIER_VALUES = 2,
    BARRIER_HALF = 3,   /* and the next: a value warpgroup */
    BARRIER_STREAM = 5, /* and the next */
};

template <int HEADS> struct shared_memory {
    alignas(1024) unsigned char q[N_DIM_GROUPS * HEADS * 128];
    alignas(1024) unsigned char values[N_STREAMS][BLOCK_BYTES];
    alignas(1024) unsigned char probs[N_STREAMS][HEADS * 128];
    alignas(16) unsigned char staged[2][HEADS == 64 ? 16 : HEADS * 512]; /* output of fewer heads */
    alignas(16) unsigned char scales[N_STREAMS][KEYS * SCALE_BYTES];
    uint32_t valid[N_STREAMS][KEYS / 8]; /* of eight rows each, four bits a row */
    uint32_t slots[2][2][KEYS]; /* by value warpgroup: indices of the blocks to load next */
    alignas(16) float ref[HEADS];
    float block_max[4][HEADS];
    float rescale[N_STREAMS][HEADS]; /* of values so far, when needs_rescale */
    float
        sum_rescale[N_STREAMS]
                   [HEADS]; /* of the stream's sums, when the other one has moved the references */
    float part_ref[HEADS];  /* of the part that ended */
    float part_sum[N_KEY_WARPS][HEADS];
    int needs_rescale[N_STREAMS];
    uint32_t needs_sum_rescale[N_STREAMS]; /* the part for which it does, counted from 1 */
    int is_last_arriver;
    uint64_t rows_full[N_STREAMS], weighed[N_STREAMS], full[N_STREAMS];
    uint64_t part_full, part_empty;
};

#endif
