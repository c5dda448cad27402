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

/*
 * Of a thread's two heads. Keys lie in shared memory without 2^m of their row (attn_blocks.cuh): what a score is compared
 * by is score + m, a probability as the matrix units have it is 2^(score + m - ref), and `sum`, of the thread's keys, is
 * that times 2^-m, relative to 2^ref as the sums of values are.
 */
struct head_state {
    float ref[2], sum[2];
    float scale[2]; /* from products to scores, but for 2^m */
    bool is_odd;    /* f16 had no room for a row of the part */
};

/* In front of what begins the matrix products that add to them. */
__device__ __forceinline__ void clear_scores(float (&scores)[KEYS / 2])
{
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) scores[i] = 0.0f;
    wgmma_settle(scores);
}

/* Begins to multiply half of the dimensions of a block's keys with the queries; adds to scores. */
__device__ __forceinline__ void ask_for_scores(float (&scores)[KEYS / 2], uint32_t b, int half,
                                               shared_memory &s)
{
    const uint32_t place = b % N_PLACES;
    const uint64_t q = wgmma_matrix(uniform(shared_address(s.q)), 16);
    const uint64_t keys = wgmma_matrix(uniform(shared_address(s.values[place])), 16);
    barrier_wait(shared_address(&s.full[place][half]), b / N_PLACES & 1);
    wgmma_fence();
#pragma unroll
    for (int i = half * N_HALF_GROUPS; i < (half + 1) * N_HALF_GROUPS; i++) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            wgmma_ss_f16(scores, wgmma_move(q, i * GROUP_BYTES + k * 32),
                         wgmma_move(keys, i * GROUP_BYTES + k * 32), true);
        }
    }
    wgmma_commit();
}

/* Of the keys of a thread's scores 4 * i .. 4 * i + 3, the first two neighbours: power, log2, power, log2. */
__device__ __forceinline__ float4 key_exponents(const row_marks &marks, int i)
{
    return *(const float4 *)&marks.exponents[8 * i + 2 * (threadIdx.x % 4)];
}

/* Scores of rows that do not count become -inf. */
__device__ __forceinline__ void mark_keys(float (&scores)[KEYS / 2], const uint32_t (&unusual)[4])
{
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) {
        const int key = 8 * (i / 4 % 2) + 2 * (threadIdx.x % 4) + i % 2;
        if ((unusual[i / 8] >> key & 1) != 0) scores[i] = -INFINITY;
    }
}

/* The same of joined lists: -inf for the heads of queries that do not name a row. */
__device__ __forceinline__ void mark_joined(float (&scores)[KEYS / 2], const row_marks &marks,
                                            int query_shift)
{
    const int first = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int row = 0; row < 2; row++) {
        const int query = own_head(row) >> query_shift; /* of heads behind the last: any */
        const uint32_t *named = marks.named[query % ATTN_JOIN_MAX_QUERIES];
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++) {
            const uint32_t bits = named[i / 2] >> (8 * (i % 2) + first);
            if ((bits & 1) == 0) scores[4 * i + 2 * row] = -INFINITY;
            if ((bits & 2) == 0) scores[4 * i + 2 * row + 1] = -INFINITY;
        }
    }
}

/* From a block's products to scores + m, in powers of two. */
template <class PART>
__device__ __forceinline__ void scale_scores(const attn_args &a, float (&scores)[KEYS / 2],
                                             const row_marks &marks, head_state &heads)
{
#pragma unroll
    for (int i = 0; i < KEYS / 8; i++) {
        const float4 m = key_exponents(marks, i);
#pragma unroll
        for (int row = 0; row < 2; row++) {
            float *two = &scores[4 * i + 2 * row];
            two[0] = fmaf(two[0] * heads.scale[row], m.x, m.y);
            two[1] = fmaf(two[1] * heads.scale[row], m.z, m.w);
        }
        keep_order(); /* of reads: there are no registers for all of them */
    }
    const uint4 words = *(const uint4 *)marks.unusual;
    const uint32_t unusual[4] = {words.x, words.y, words.z, words.w};
    if ((words.x | words.y | words.z | words.w) == 0) return;
    heads.is_odd |= ((words.x | words.y | words.z | words.w) & IS_ODD) != 0;
    if constexpr (is_joined<PART>) {
        mark_joined(scores, marks, a.joined.query_shift);
    } else {
        mark_keys(scores, unusual);
    }
}

__device__ __forceinline__ void scale_sums(value_sums &sums, const float (&factors)[2])
{
#pragma unroll
    for (int i = 0; i < HALF_DIMS / 2; i++) sums.v[i] *= factors[i / 2 % 2];
}

/* The largest score of a thread's keys for one of its heads. */
__device__ __forceinline__ float find_largest(const float (&scores)[KEYS / 2], int row)
{
    float largest = fmaxf(scores[2 * row], scores[2 * row + 1]);
#pragma unroll
    for (int i = 1; i < KEYS / 8; i++)
        largest = fmaxf(largest, fmaxf(scores[4 * i + 2 * row], scores[4 * i + 2 * row + 1]));
    return largest;
}

/*
 * New references for the warp's heads where scores of block b have left them far behind, as they do at first. No product
 * may be in flight: sums follow; those of the second warpgroup will, in front of block b. It has read what is written
 * here of block b - 2.
 */
__device__ __forceinline__ void check_references(const float (&scores)[KEYS / 2], uint32_t b,
                                                 head_state &heads, value_sums &sums,
                                                 shared_memory &s)
{
    float largest[2] = {find_largest(scores, 0), find_largest(scores, 1)};
    const bool moves = __any_sync(0xffffffffu, largest[0] > heads.ref[0] + MOST_PASS ||
                                                   largest[1] > heads.ref[1] + MOST_PASS);
    if (threadIdx.x % 32 == 0) s.needs_rescale[b % 2][threadIdx.x / 32] = moves;
    if (!moves) return;
    float factors[2];
#pragma unroll
    for (int row = 0; row < 2; row++) {
#pragma unroll
        for (int other = 1; other < 4; other *= 2)
            largest[row] = fmaxf(largest[row], __shfl_xor_sync(0xffffffffu, largest[row], other));
        const float ref = fmaxf(heads.ref[row], largest[row] - FIRST_PASS);
        factors[row] = exp2_fast(heads.ref[row] - ref);
        heads.ref[row] = ref;
        heads.sum[row] *= factors[row];
        if (threadIdx.x % 4 == 0) s.rescale[b % 2][own_head(row)] = factors[row];
    }
    scale_sums(sums, factors);
}

/* Probabilities, as matrix operands; their sums are added up. scores: plus m. */
__device__ __forceinline__ void make_probs(const float (&scores)[KEYS / 2], const row_marks &marks,
                                           head_state &heads, uint32_t (&probs)[KEYS / 4])
{
#pragma unroll
    for (int i = 0; i < KEYS / 8; i++) {
        const float4 m = key_exponents(marks, i);
#pragma unroll
        for (int row = 0; row < 2; row++) {
            const float first = exp2_fast(scores[4 * i + 2 * row] - heads.ref[row]);
            const float second = exp2_fast(scores[4 * i + 2 * row + 1] - heads.ref[row]);
            probs[2 * i + row] = to_f16_pair(first, second);
            heads.sum[row] = fmaf(first, inverse_power(m.x), heads.sum[row]);
            heads.sum[row] = fmaf(second, inverse_power(m.z), heads.sum[row]);
        }
        keep_order();
    }
}

/* probs as [HEADS][KEYS] f16, K-major and swizzled. */
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

/* Begins to add a block's first half of the dimensions. */
__device__ __forceinline__ void add_probs(value_sums &sums, const uint32_t (&probs)[KEYS / 4],
                                          uint32_t b, const shared_memory &s)
{
    const uint64_t values = value_matrix(b, 0, s);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const uint32_t step[4] = {probs[4 * k], probs[4 * k + 1], probs[4 * k + 2],
                                  probs[4 * k + 3]};
        wgmma_rs_tb_f16(sums.v, step, wgmma_move(values, k * 2048), true);
    }
    wgmma_commit();
}

/*
 * A step of a part: probabilities of the block in front of b, of which `scores` and references are there, and scores of
 * block b, which `scores` become. Half of these is multiplied while the probabilities are made; the other half of that
 * block is hardly there before. The first step has no block in front, the last one none behind: the same code, since what
 * is run once a part waits for its instructions.
 */
template <class PART>
__device__ __forceinline__ void step_on(const attn_args &a, uint32_t b, bool is_first, bool is_last,
                                        float (&scores)[KEYS / 2], head_state &heads,
                                        value_sums &sums, shared_memory &s)
{
    float next[KEYS / 2];
    clear_scores(next);
    if (is_last) {
        barrier_arrive_warp(shared_address(&s.q_empty));
    } else {
        ask_for_scores(next, b, 0, s);
    }
    if (!is_first) {
        uint32_t probs[KEYS / 4];
        const uint32_t before = b - 1;
        make_probs(scores, s.marks[before % N_PLACES], heads, probs);
        barrier_wait(shared_address(&s.probs_empty), (before & 1) ^ 1);
        store_probs(probs, s);
        fence_async_shared();
        barrier_arrive(shared_address(&s.probs_full));
        add_probs(sums, probs, before, s);
    }
    if (!is_last) {
        ask_for_scores(next, b, 1, s);
        wgmma_wait<1>();
    } else {
        wgmma_wait<0>();
    }
    if (!is_first) barrier_arrive_warp(shared_address(&s.empty[(b - 1) % N_PLACES][0]));
    wgmma_wait<0>();
    wgmma_settle(next);
    wgmma_settle(sums.v);
    if (is_last) return;
    scale_scores<PART>(a, next, s.marks[b % N_PLACES], heads);
    check_references(next, b, heads, sums, s);
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) scores[i] = next[i];
}

/* The first warpgroup: probabilities of all blocks, and the first half of the dimensions. */
template <class PART> __device__ static void run_scores(const attn_args &a, shared_memory &s)
{
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    uint32_t b = 0, n_parts_done = 0; /* of parts that have blocks */
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        value_sums sums;
        float scores[KEYS / 2];
        uint32_t n_left = count_blocks(read_part<PART>(a, rank));
        head_state heads = {{FIRST_REF, FIRST_REF}, {0.0f, 0.0f}, {0.0f, 0.0f}, false};
        clear_sums(sums);
        if (n_left > 0) {
            bool is_first = true;
            barrier_wait(shared_address(&s.q_full), n_parts_done++ & 1);
            heads.scale[0] = s.q_factors[own_head(0)];
            heads.scale[1] = s.q_factors[own_head(1)];
#pragma unroll
            for (int i = 0; i < KEYS / 2; i++) scores[i] = 0.0f;
#pragma unroll 1
            for (;; b++) {
                step_on<PART>(a, b, is_first, n_left == 0, scores, heads, sums, s);
                if (n_left-- == 0) break;
                is_first = false;
            }
        }
        leave_heads(heads.ref, heads.sum, heads.is_odd, round, s);
        finish_part<PART>(a, rank, round, sums, 0, s);
    }
}

/* The second: the other half of the dimensions; and it asks for rows ahead. */
template <class PART> __device__ static void run_values(const attn_args &a, shared_memory &s)
{
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    uint32_t b = 0;
    row_finder finder = begin_prefetch<PART>(a);
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        value_sums sums;
        const uint32_t end = b + count_blocks(read_part<PART>(a, rank));
        prefetch_queries<PART, HEADS>(a, rank_of_round(round + 1), n_ranks);
        clear_sums(sums);
#pragma unroll 1
        for (; b < end; b++) {
            const uint32_t place = b % N_PLACES;
            barrier_wait(shared_address(&s.full[place][1]), b / N_PLACES & 1);
            barrier_wait(shared_address(&s.probs_full), b & 1);
            if (s.needs_rescale[b % 2][threadIdx.x / 32 % N_WARPGROUP_WARPS]) {
                const float factors[2] = {s.rescale[b % 2][own_head(0)],
                                          s.rescale[b % 2][own_head(1)]};
                scale_sums(sums, factors);
            }
            const uint64_t probs = wgmma_matrix(uniform(shared_address(s.probs)), 16);
            const uint64_t values = value_matrix(b, 1, s);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < 4; k++) {
                wgmma_ss_tb_f16(sums.v, wgmma_move(probs, k * 32), wgmma_move(values, k * 2048),
                                true);
            }
            wgmma_commit();
            prefetch_rows<PART>(a, finder);
            wgmma_wait<0>();
            wgmma_settle(sums.v);
            barrier_arrive_warp(shared_address(&s.probs_empty));
            barrier_arrive_warp(shared_address(&s.empty[place][1]));
        }
        finish_part<PART>(a, rank, round, sums, 1, s);
    }
}

#endif
