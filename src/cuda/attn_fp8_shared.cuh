/*
 * attn_fp8_shared.cuh - shared memory of the FP8 attention kernel and what its warps have in common.
 *
 * Place: cuda, sm_90a only; part of attn_fp8.cu, which describes the kernel.
 *
 *   q, q_rotated   a part's queries as codes, and their rotated dimensions in bf16: key warps -> matrix units
 *   rows[]         a block of 64 keys each, as they lie in the cache but by groups of dimensions: value warps, which
 *                  bring them -> key warps (first product) and value warps (second product)
 *   probs[]        a block's probabilities times the scales of each group, as codes, and alone in bf16: key warps ->
 *                  value warps
 *
 * Blocks are numbered over all parts of the thread block; block b has slot b % n_slots and probabilities b % N_PROBS.
 * Barriers, in the order in which a block passes them: loaded (its rows are there), probs_empty (the probabilities
 * before in its place have been multiplied), full (its probabilities are stored), empty (its rows have been
 * multiplied). Of a part: part_full (references and sums are there), part_empty (they have been read).
 */
#ifndef DSV4_CUDA_ATTN_FP8_SHARED_CUH
#define DSV4_CUDA_ATTN_FP8_SHARED_CUH

#include "attn_sm90_shared.cuh"

enum {
    N_HALVES = 2, /* of the heads: one for each warpgroup of key warps */
    N_PROBS = 2,
    N_CODE_GROUPS = N_DIM_GROUPS - 1,
    CODE_GROUP_BYTES = KEYS * GROUP_DIMS, /* 64 codes of a block's rows */
    CODE_BYTES = N_CODE_GROUPS * CODE_GROUP_BYTES,
    SLOT_BYTES = CODE_BYTES + GROUP_BYTES,
    N_FOUND = 4,       /* blocks whose rows are found together */
    PROB_EXPONENT = 6, /* a probability of 1 at the reference of scales has the code of 2^6 */
};

#define LARGEST_PROB  7.0f   /* times 2^PROB_EXPONENT it is e4m3's largest number */
#define LARGEST_SHIFT 512.0f /* times 2^PROB_EXPONENT it is f16's largest power of two */

template <int HEADS> struct fp8_memory {
    static constexpr int n_slots = HEADS == 64 ? 3 : 4, n_half = HEADS / N_HALVES;
    static constexpr int probs_bytes = HEADS * (N_CODE_GROUPS * GROUP_DIMS + 128);
    alignas(1024) unsigned char q[N_CODE_GROUPS * HEADS * GROUP_DIMS];
    alignas(1024) unsigned char q_rotated[HEADS * 128];
    alignas(1024) unsigned char rows[n_slots][SLOT_BYTES];
    alignas(1024) unsigned char probs[N_PROBS][probs_bytes];
    alignas(16) unsigned char scales[n_slots][KEYS * SCALE_BYTES];
    unsigned char is_valid[n_slots][KEYS];
    uint64_t found[N_FOUND][KEYS];        /* addresses of rows; bit 0: a list names the row */
    int32_t scale_offsets[N_FOUND][KEYS]; /* from the row to its scales */
    uint32_t slots[N_VALUE_THREADS];      /* indices */
    /* what makes a sum a score in powers of two, and the reference */
    alignas(16) float2 ref[HEADS];
    union {
        float block_max[N_HALVES][4][n_half];
        float q_max[N_CODE_GROUPS][HEADS];
    };
    float q_inverse[HEADS];
    alignas(16) float rescale[N_PROBS][HEADS]; /* of values so far, when needs_rescale */
    float part_ref[HEADS];                     /* of the part that ended */
    float part_sum[4][HEADS];                  /* by warp of a half */
    alignas(16) float inverse[HEADS];          /* of the part that ends */
    uint2 block_scales[N_HALVES][4];
    uint2 scale_ref[N_HALVES];            /* reference of each group's scales */
    uint2 scale_shift[N_PROBS][N_HALVES]; /* by how much it has grown, when needs_rescale */
    uint2 part_scale_ref[N_HALVES];
    int needs_rescale[N_PROBS][N_HALVES];
    int is_last_arriver;
    uint64_t loaded[n_slots], empty[n_slots], probs_empty[N_PROBS], full[N_PROBS];
    uint64_t part_full, part_empty;
};

/* threadIdx.x, read anew: what follows from it is then not kept in registers from block to block. */
__device__ __forceinline__ uint32_t read_thread(void)
{
    uint32_t thread;
    asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(thread));
    return thread;
}

/* Byte `group` of the two words. */
__device__ __forceinline__ uint32_t byte_of(uint2 bytes, int group)
{
    return ((group < 4 ? bytes.x : bytes.y) >> (group % 4 * 8)) & 0xffu;
}

/* place + 1, or 0 after the last of n_places. */
__device__ __forceinline__ int next_place(int place, int n_places)
{
    return place + 1 == n_places ? 0 : place + 1;
}

#endif
