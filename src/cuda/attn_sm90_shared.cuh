/*
 * attn_sm90_shared.cuh - shared memory of the Hopper attention kernel and what its warps have in common.
 *
 * Place: cuda, sm_90a only; part of attn_sm90.cu, which describes the kernel.
 *
 *   q        a part's queries: key warps -> matrix units; when a split task's part has ended, sums of its merge
 *   chunks[] rows as they lie in the cache, a queue of each thread of a stream (attn_sm90_loads.cuh)
 *   values[] a block of 64 keys each, bf16, by groups of 64 dimensions: a stream of key warps -> value warps
 *   probs[]  its probabilities: the stream -> value warps
 *
 * Blocks are numbered over all parts of the thread block; block b has place and stream b % 2. Barriers, in the order
 * in which a block passes them: found (addresses and scales of its rows are there), empty (its place has been
 * multiplied, by halves), weighed (its scores have been compared with the references, so that the next block's may be),
 * probs_empty (where there is one place for probabilities: those before have been multiplied), full (values and
 * probabilities are stored). Of a part: part_full (its record, references and sums are there),
 * part_empty (its output is done: the record's place, references, sums and inverse sums may be those of another part; a
 * split task's part, the last, ends without it).
 */
#ifndef DSV4_CUDA_ATTN_SM90_SHARED_CUH
#define DSV4_CUDA_ATTN_SM90_SHARED_CUH

#include "attn_split.cuh"
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
    N_VALUE_WARPS = N_VALUE_THREADS / 32,
    GROUP_BYTES = KEYS * 128, /* 64 dimensions of a block of values */
    CHUNK_ROW_BYTES = 64,     /* of a row in the cache */
    CHUNK_BYTES = KEYS * CHUNK_ROW_BYTES,
    N_STAGED_HEADS = 16,
    N_ROW_CHUNKS = ROW_BYTES / CHUNK_ROW_BYTES,
    N_ROW_PLACES = 2, /* for addresses and scales of a stream's blocks */
    BLOCK_BYTES = N_DIM_GROUPS * GROUP_BYTES,
    BARRIER_KEYS = 1, /* ids of named barriers */
    BARRIER_VALUES = 2,
    BARRIER_HALF = 3,   /* and the next: a value warpgroup */
    BARRIER_STREAM = 5, /* and the next */
};

template <int HEADS> struct shared_memory {
    static constexpr int n_chunks = HEADS == 64 ? 2 : 4, n_probs = HEADS == 64 ? 1 : 2;
    alignas(1024) unsigned char q[N_DIM_GROUPS * HEADS * 128];
    alignas(1024) unsigned char values[N_STREAMS][BLOCK_BYTES];
    alignas(1024) unsigned char probs[n_probs][HEADS * 128];
    alignas(16) unsigned char chunks[N_STREAMS][n_chunks][CHUNK_BYTES];
    /* by value warpgroup: output of some heads of a group of fewer than 64 */
    alignas(16) unsigned char staged[2][HEADS == 64 ? 16 : N_STAGED_HEADS * 512];
    alignas(16) unsigned char scales[N_STREAMS][N_ROW_PLACES][KEYS * SCALE_BYTES];
    /* addresses; bit 0: a list names the row; of joined lists bits 0 .. 3: queries that name it */
    uint64_t rows[N_STREAMS][N_ROW_PLACES][KEYS];
    uint32_t slots[2][KEYS]; /* indices of the block to find and the next */
    alignas(16) float ref[HEADS];
    float block_max[4][HEADS];
    float rescale[N_STREAMS][HEADS]; /* of values so far, when needs_rescale */
    /* of the stream's sums, when the other one has moved the references */
    float sum_rescale[N_STREAMS][HEADS];
    /* the key warps' and the one before, which the value warps may still be at; counted from 1, left by thread 0 */
    attn_part part[2];
    float part_ref[HEADS]; /* of the part that ended */
    float part_sum[N_KEY_WARPS][HEADS];
    float sink[HEADS];    /* of the value warps' part */
    float inverse[HEADS]; /* what its values are multiplied with */
    int needs_rescale[N_STREAMS];
    uint32_t needs_sum_rescale[N_STREAMS]; /* the part for which it does, counted from 1 */
    int arrival;
    uint64_t found[N_STREAMS][N_ROW_PLACES], empty[N_STREAMS][2], weighed[N_STREAMS];
    uint64_t full[N_STREAMS], probs_empty;
    uint64_t part_full, part_empty;
};

static_assert(sizeof(shared_memory<64>) <= 227 * 1024, "a thread block has no more");

#endif
