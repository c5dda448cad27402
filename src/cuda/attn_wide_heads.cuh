/*
 * attn_wide_heads.cuh - the head warps: scores, probabilities and sums of values.
 *
 * Place: cuda, sm_90a only; part of attn_wide.cu, which describes the kernel.
 *
 * Heads are on the rows of both products. A thread has two of them, own_head(0) and own_head(1), and with three others of
 * its warp all keys, or dimensions, of them: reference and sum of a head are its warp's own business. Warp w of the
 * second warpgroup has the heads of warp w of the first.
 */
#ifndef DSV4_CUDA_ATTN_WIDE_HEADS_CUH
#define DSV4_CUDA_ATTN_WIDE_HEADS_CUH

#include "attn_wide_output.cuh"
#include "attn_wide_rows.cuh"

/* Of a thread's two heads: probabilities are 2^(score - ref), the sum of a thread's keys. */
struct head_state {
    float ref[2], sum[2];
};

/* In front of what begins the matrix products that add to them. */
__device__ __forceinline__ void clear_scores(float (&scores)[KEYS / 2])
{
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) scores[i] = 0.0f;
    wgmma_settle(scores);
}

/* Begins to multiply a block's keys with the queries; adds to scores. */
__device__ __forceinline__ void ask_for_scores(float (&scores)[KEYS / 2], uint32_t b,
                                               shared_memory &s)
{
    const uint32_t place = b % N_PLACES;
    const uint64_t q = wgmma_matrix(uniform(shared_address(s.q)), 16);
    const uint64_t keys = wgmma_matrix(uniform(shared_address(s.values[place])), 16);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        barrier_wait(shared_address(&s.full[place][half]), b / N_PLACES & 1);
        wgmma_fence();
#pragma unroll
        for (int i = half * N_HALF_GROUPS; i < (half + 1) * N_HALF_GROUPS; i++) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                wgmma_ss(scores, wgmma_move(q, i * GROUP_BYTES + k * 32),
                         wgmma_move(keys, i * GROUP_BYTES + k * 32), true);
            }
        }
    }
    wgmma_commit();
}

/* Scores of rows with NaN codes become NaN, those of rows that no list names -inf. */
__device__ __forceinline__ void mark_keys(float (&scores)[KEYS / 2], const row_marks &marks)
{
    const uint4 low = *(const uint4 *)marks.unusual, high = *(const uint4 *)&marks.unusual[4];
    if ((low.x | low.y | low.z | low.w | high.x | high.y | high.z | high.w) == 0) return;
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) {
        const uint32_t bit = 1u << (8 * (threadIdx.x % 4) + 4 * (i % 2));
        if ((marks.unusual[i / 4] & bit) != 0)
            scores[i] = (marks.nan[i / 4] & bit) != 0 ? NAN : -INFINITY;
    }
}

/* Probabilities, as matrix operands, and their sum for each head. */
__device__ __forceinline__ void make_probs(const float (&scores)[KEYS / 2], float scale_log2,
                                           const float (&ref)[2], uint32_t (&probs)[KEYS / 4],
                                           float (&totals)[2])
{
    totals[0] = 0.0f;
    totals[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) {
        const int row = i % 2;
        const float first = exp2_fast(fmaf(scores[2 * i], scale_log2, -ref[row]));
        const float second = exp2_fast(fmaf(scores[2 * i + 1], scale_log2, -ref[row]));
        probs[i] = to_bf16_pair(first, second);
        totals[row] += first + second;
    }
}

/* A new reference for each of the warp's heads; factors: what was summed so far has to be multiplied with. */
__device__ __forceinline__ void move_reference(const float (&scores)[KEYS / 2], float scale_log2,
                                               head_state &heads, float (&factors)[2])
{
#pragma unroll
    for (int row = 0; row < 2; row++) {
        float largest = -INFINITY;
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++) {
            largest = fmaxf(largest, fmaxf(scores[4 * i + 2 * row], scores[4 * i + 2 * row + 1]));
        }
#pragma unroll
        for (int other = 1; other < 4; other *= 2)
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, other));
        const float ref = fmaxf(heads.ref[row], largest * scale_log2);
        factors[row] = exp2_fast(heads.ref[row] - ref);
        heads.ref[row] = ref;
        heads.sum[row] *= factors[row];
    }
}

__device__ __forceinline__ void scale_sums(value_sums &sums, const float (&factors)[2])
{
#pragma unroll
    for (int i = 0; i < HALF_DIMS / 2; i++) sums.v[i] *= factors[i / 2 % 2];
}

/* From a block's scores to its probabilities. is_first: of a part, so that there are no sums yet. */
__device__ __forceinline__ void weigh_keys(const float (&scores)[KEYS / 2], float scale_log2,
                                           bool is_first, head_state &heads, value_sums &sums,
                                           uint32_t (&probs)[KEYS / 4], shared_memory &s)
{
    const int warp = threadIdx.x / 32;
    bool moves = is_first;
    float totals[2];
#pragma unroll 1
    for (;;) { /* the second time by the same code, which has been fetched */
        if (moves) {
            float factors[2];
            move_reference(scores, scale_log2, heads, factors);
            if (!is_first) scale_sums(sums, factors);
            if (threadIdx.x % 4 == 0) {
                s.rescale[own_head(0)] = factors[0];
                s.rescale[own_head(1)] = factors[1];
            }
        }
        make_probs(scores, scale_log2, heads.ref, probs, totals);
        if (moves) break;
        moves = __any_sync(0xffffffffu, !(totals[0] < LARGEST_SUM && totals[1] < LARGEST_SUM));
        if (!moves) break;
    }
    heads.sum[0] += totals[0];
    heads.sum[1] += totals[1];
    if (threadIdx.x % 32 == 0) s.needs_rescale[warp] = moves && !is_first;
}

/* probs as [HEADS][KEYS] bf16, K-major and swizzled. */
__device__ __forceinline__ void store_probs(const uint32_t (&probs)[KEYS / 4], shared_memory &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane % 8;
    const uint32_t rows = shared_address(s.probs) + (16 * warp + lane / 8 % 2 * 8 + row) * 128;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        store_matrix4(rows + (((2 * k + lane / 16) ^ row) << 4), probs[4 * k], probs[4 * k + 1],
                      probs[4 * k + 2], probs[4 * k + 3]);
    }
}

/* A half of a block's dimensions, as values: keys on rows. */
__device__ __forceinline__ uint64_t value_matrix(uint32_t b, int half, const shared_memory &s)
{
    return wgmma_matrix(shared_address(s.values[b % N_PLACES]) + half * N_HALF_GROUPS * GROUP_BYTES,
                        GROUP_BYTES);
}

__device__ __forceinline__ void clear_sums(value_sums &sums)
{
#pragma unroll
    for (int i = 0; i < HALF_DIMS / 2; i++) sums.v[i] = 0.0f;
    wgmma_settle(sums.v);
}

/*
 * The first warpgroup: probabilities of all blocks, and the first half of the dimensions. The next block's scores are
 * computed behind the values of this one, without a wait between them.
 */
__device__ static void run_scores(const attn_args &a, shared_memory &s)
{
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    uint32_t b = 0, n_parts_done = 0; /* of parts that have blocks */
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        value_sums sums;
        float scores[KEYS / 2];
        const uint32_t begin = b, end = b + count_blocks(a, rank);
        head_state heads = {{FIRST_REF, FIRST_REF}, {0.0f, 0.0f}};
        clear_sums(sums);
        if (begin < end) {
            barrier_wait(shared_address(&s.q_full), n_parts_done++ & 1);
            clear_scores(scores);
            ask_for_scores(scores, b, s);
            wgmma_wait<0>();
            wgmma_settle(scores);
        }
#pragma unroll 1
        for (; b < end; b++) {
            uint32_t probs[KEYS / 4];
            const bool is_last = b + 1 == end;
            if (is_last) barrier_arrive_warp(shared_address(&s.q_empty));
            mark_keys(scores, s.marks[b % N_PLACES]);
            barrier_wait(shared_address(&s.probs_empty), (b & 1) ^ 1);
            weigh_keys(scores, a.scale_log2, b == begin, heads, sums, probs, s);
            store_probs(probs, s);
            fence_async_shared();
            barrier_arrive(shared_address(&s.probs_full));
            const uint64_t values = value_matrix(b, 0, s);
            clear_scores(scores);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const uint32_t step[4] = {probs[4 * k], probs[4 * k + 1], probs[4 * k + 2],
                                          probs[4 * k + 3]};
                wgmma_rs_tb(sums.v, step, wgmma_move(values, k * 2048), true);
            }
            wgmma_commit();
            if (!is_last) {
                ask_for_scores(scores, b + 1, s);
                wgmma_wait<1>();
            } else {
                wgmma_wait<0>();
            }
            barrier_arrive_warp(shared_address(&s.empty[b % N_PLACES][0]));
            wgmma_wait<0>();
            wgmma_settle(scores);
            wgmma_settle(sums.v);
        }
        leave_heads(heads.ref, heads.sum, round, s);
        finish_part(a, rank, round, sums, 0, s);
    }
}

/* The second: the other half of the dimensions; and it asks for rows ahead. */
__device__ static void run_values(const attn_args &a, shared_memory &s)
{
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    uint32_t b = 0;
    row_finder finder = begin_prefetch(a);
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        value_sums sums;
        const uint32_t end = b + count_blocks(a, rank);
        prefetch_queries(a, rank_of_round(round + 1), n_ranks);
        clear_sums(sums);
#pragma unroll 1
        for (; b < end; b++) {
            const uint32_t place = b % N_PLACES;
            barrier_wait(shared_address(&s.full[place][1]), b / N_PLACES & 1);
            barrier_wait(shared_address(&s.probs_full), b & 1);
            if (s.needs_rescale[threadIdx.x / 32 % N_WARPGROUP_WARPS]) {
                const float factors[2] = {s.rescale[own_head(0)], s.rescale[own_head(1)]};
                scale_sums(sums, factors);
            }
            const uint64_t probs = wgmma_matrix(uniform(shared_address(s.probs)), 16);
            const uint64_t values = value_matrix(b, 1, s);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < 4; k++) {
                wgmma_ss_tb(sums.v, wgmma_move(probs, k * 32), wgmma_move(values, k * 2048), true);
            }
            wgmma_commit();
            prefetch_rows(a, finder);
            wgmma_wait<0>();
            wgmma_settle(sums.v);
            barrier_arrive_warp(shared_address(&s.probs_empty));
            barrier_arrive_warp(shared_address(&s.empty[place][1]));
        }
        finish_part(a, rank, round, sums, 1, s);
    }
}

#endif
