/*
 * attn_wide_rows.cuh - the row warps: blocks of values, and queries.
 *
 * Place: cuda, sm_90a only; part of attn_wide.cu, which describes the kernel.
 */
#ifndef DSV4_CUDA_ATTN_WIDE_ROWS_CUH
#define DSV4_CUDA_ATTN_WIDE_ROWS_CUH

#include "attn_wide_shared.cuh"

/*
 * Block b, all dimensions of it. words: its chunk 0; becomes the next block's. Chunks are asked for N_CHUNKS ahead: from
 * the second half on they are the next block's, whose rows are found there.
 */
template <class PART>
__device__ __forceinline__ void convert_block(const attn_args &a, row_stream &rows,
                                              chunk_queue<N_CHUNKS> &queue, uint32_t b,
                                              uint4 (&words)[2], shared_memory &s)
{
    const uint32_t place = b % N_PLACES, parity = (b / N_PLACES & 1) ^ 1;
    const uint32_t values = value_row(s.values[place]);
    barrier_wait(shared_address(&s.empty[place][0]), parity);
    key_pair keys = begin_keys<PART>(rows, s.marks[place]);
#pragma unroll
    for (int chunk = 0; chunk < N_ROW_CHUNKS; chunk++) {
        const uint4 now[2] = {words[0], words[1]};
        if (chunk == N_HALF_GROUPS) {
            pass_on(s.full[place][0]);
            next_rows<PART>(a, rows);
            barrier_wait(shared_address(&s.empty[place][1]), parity);
        }
        next_chunk(rows, queue, (chunk + N_CHUNKS) % N_ROW_CHUNKS, words);
        if (chunk < N_DIM_GROUPS - 1) {
            store_codes<PART>(keys, now, values + chunk * GROUP_BYTES, chunk);
        } else {
            store_rotated(keys, now, values + (N_DIM_GROUPS - 1) * GROUP_BYTES,
                          chunk - (N_DIM_GROUPS - 1));
        }
    }
    mark_rows<PART>(keys, s.marks[place]);
    pass_on(s.full[place][1]);
}

/*
 * Queries are asked for while the first block of their part is there already: those before are free only when that
 * part's last scores are.
 */
template <class PART> __device__ static void run_rows(const attn_args &a, shared_memory &s)
{
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    uint32_t b = 0, n_parts_done = 0; /* of parts that have blocks */
    uint4 words[2];
    /* the first part's come behind its first rows, which more has to be done with */
    const bool has_part = rank_of_round(0) < n_ranks;
    const PART first = read_part<PART>(a, has_part ? rank_of_round(0) : 0);
    bool has_queries = has_part && count_blocks(first) > 0;
    row_stream rows = begin_stream<PART>(a);
    chunk_queue<N_CHUNKS> queue = begin_queue<N_CHUNKS>(rows, s.chunks[0]);
    if (has_queries) ask_for_queries<HEADS>(a, first, s.q);
    find_ahead<PART>(a, rows);
    read_chunk(queue, words);
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const PART p = read_part<PART>(a, rank);
        const uint32_t begin = b, end = b + count_blocks(p);
#pragma unroll 1
        for (; b < end; b++) {
            convert_block<PART>(a, rows, queue, b, words, s);
            if (b > begin) continue;
            if (!has_queries) {
                barrier_wait(shared_address(&s.q_empty), (n_parts_done & 1) ^ 1);
                ask_for_queries<HEADS>(a, p, s.q);
            }
            copy_async_wait<0>();
            convert_queries<HEADS>(a, s.q, s.q_factors, (int)threadIdx.x % WARPGROUP / 32,
                                   N_WARPGROUP_WARPS);
            pass_on(s.q_full);
            n_parts_done++;
        }
        has_queries = false;
    }
    copy_async_wait<0>();
}

#endif
