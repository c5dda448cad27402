/*
 * attn_narrow_rows.cuh - the row warps: blocks of values, and queries.
 *
 * Place: cuda, sm_90a only; part of attn_narrow.cu, which describes the kernel. A warpgroup has half of the dimensions of
 * all blocks: four groups of codes, or three and the rotated one.
 */
#ifndef DSV4_CUDA_ATTN_NARROW_ROWS_CUH
#define DSV4_CUDA_ATTN_NARROW_ROWS_CUH

#include "attn_narrow_shared.cuh"

/* Chunks of a row that a warpgroup has. */
template <int HALF> struct half_chunks {
    static constexpr int first = HALF * N_HALF_GROUPS;
    static constexpr int n = HALF == 0 ? N_HALF_GROUPS : N_ROW_CHUNKS - N_HALF_GROUPS;
    uint4 words[n][2]; /* of both of the thread's rows */

    __device__ __forceinline__ void load(const row_stream &rows, int i)
    {
#pragma unroll
        for (int r = 0; r < 2; r++)
            words[i][r] = load_streamed16(rows.from[r] + (first + i) * CHUNK_ROW_BYTES);
    }
};

/* A half of block b, of which chunks are on their way; they become the next block's. */
template <class PART, int HEADS, int HALF>
__device__ __forceinline__ void convert_half(const attn_args &a, row_stream &rows,
                                             half_chunks<HALF> &chunks, uint32_t b,
                                             shared_memory<HEADS> &s)
{
    const uint32_t place = b % N_PLACES;
    const uint32_t values = value_row(s.values[place]);
    barrier_wait(shared_address(&s.empty[place][HALF]), (b / N_PLACES & 1) ^ 1);
    key_pair keys = begin_keys<PART>(rows, s.marks[place][HALF]);
    next_rows<PART>(a, rows);
#pragma unroll
    for (int i = 0; i < chunks.n; i++) {
        const int group = min(chunks.first + i, N_DIM_GROUPS - 1);
        if (chunks.first + i < N_DIM_GROUPS - 1) {
            store_codes<PART>(keys, chunks.words[i], values + group * GROUP_BYTES, group);
        } else {
            store_rotated(keys, chunks.words[i], values + group * GROUP_BYTES,
                          chunks.first + i - (N_DIM_GROUPS - 1));
        }
        chunks.load(rows, i);
    }
    mark_rows<PART>(keys, s.marks[place][HALF]);
    pass_on(s.full[place][HALF]);
}

/*
 * Queries, by the first warpgroup, are asked for while the first block of their part is there already: those before are
 * free only when that part's last scores are.
 */
template <class PART, int HEADS, int HALF>
__device__ static void run_rows(const attn_args &a, shared_memory<HEADS> &s)
{
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    uint32_t b = 0, n_parts_done = 0; /* of parts that have blocks */
    half_chunks<HALF> chunks;
    /* the first part's come behind its first rows, which more has to be done with */
    const bool has_part = rank_of_round(0) < n_ranks;
    const PART first = read_part<PART>(a, has_part ? rank_of_round(0) : 0);
    bool has_queries = has_part && count_blocks(first) > 0;
    row_stream rows = begin_stream<PART>(a);
#pragma unroll
    for (int i = 0; i < chunks.n; i++) chunks.load(rows, i);
    if (HALF == 0 && has_queries) ask_for_queries<HEADS>(a, first, s.q);
    find_ahead<PART>(a, rows);
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const PART p = read_part<PART>(a, rank);
        const uint32_t begin = b, end = b + count_blocks(p);
#pragma unroll 1
        for (; b < end; b++) {
            convert_half<PART, HEADS, HALF>(a, rows, chunks, b, s);
            if (HALF == 1 || b > begin) continue;
            if (!has_queries) {
                barrier_wait(shared_address(&s.q_empty), (n_parts_done & 1) ^ 1);
                ask_for_queries<HEADS>(a, p, s.q);
            }
            copy_async_wait<0>();
            pass_on(s.q_full);
            n_parts_done++;
        }
        has_queries = false;
    }
    copy_async_wait<0>();
}

#endif
