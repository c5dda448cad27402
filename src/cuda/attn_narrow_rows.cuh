/*
 * attn_narrow_rows.cuh - the row warps: blocks of values, and queries.
 *
 * Place: cuda, sm_90a only; part of attn_narrow.cu, which describes the kernel. A warpgroup has half of the dimensions of
 * all blocks: four groups of codes, or three and the rotated one.
 */
#ifndef DSV4_CUDA_ATTN_NARROW_ROWS_CUH
#define DSV4_CUDA_ATTN_NARROW_ROWS_CUH

#include "attn_narrow_shared.cuh"

/*
 * A half of block b. words: its first chunk; becomes the next block's. The next block's rows are found where its first
 * chunk is asked for, outside of the loops: a move of what is on its way would wait for it.
 */
template <int HEADS, int HALF>
__device__ __forceinline__ void convert_half(const attn_args &a, row_queue<N_CHUNKS> &rows,
                                             uint32_t b, uint4 (&words)[2], shared_memory<HEADS> &s)
{
    enum {
        FIRST = HALF * N_HALF_GROUPS,
        N_HALF_CHUNKS = HALF == 0 ? N_HALF_GROUPS : N_ROW_CHUNKS - N_HALF_GROUPS,
        TURN = FIRST + N_HALF_CHUNKS -
               N_CHUNKS, /* the chunk whose place the next block's first one takes */
    };
    const uint32_t place = b % N_PLACES;
    const uint32_t values = value_row(s.values[place]);
    key_pair keys = begin_keys(rows);
    keys.scales[0] >>= 8 * FIRST;
    keys.scales[1] >>= 8 * FIRST;
    barrier_wait(shared_address(&s.empty[place][HALF]), (b / N_PLACES & 1) ^ 1);
    convert_groups(rows, keys, values, FIRST, TURN, words);
    next_rows(a, rows);
    if (HALF == 0) {
        convert_groups(rows, keys, values, TURN, N_HALF_GROUPS, words);
    } else {
        convert_groups(rows, keys, values, TURN, N_DIM_GROUPS - 1, words);
        copy_rotated(rows, values, words);
    }
    mark_rows(keys, s.marks[place][HALF]);
    pass_on(s.full[place][HALF]);
}

/*
 * Queries, by the first warpgroup, are asked for while the first block of their part is there already: those before are
 * free only when that part's last scores are.
 */
template <int HEADS, int HALF>
__device__ static void run_rows(const attn_args &a, shared_memory<HEADS> &s)
{
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    uint32_t b = 0, n_parts_done = 0; /* of parts that have blocks */
    uint4 words[2];
    bool has_queries = rank_of_round(0) < n_ranks;
    if (HALF == 0 && has_queries) ask_for_queries<HEADS>(a, read_part(a, rank_of_round(0)), s.q);
    row_queue<N_CHUNKS> rows =
        begin_rows<N_CHUNKS>(a, HALF * N_HALF_GROUPS, s.chunks[HALF][0], words);
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const attn_part p = read_part(a, rank);
        const uint32_t begin = b, end = b + count_blocks(p);
#pragma unroll 1
        for (; b < end; b++) {
            convert_half<HEADS, HALF>(a, rows, b, words, s);
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
