/*
 * attn_narrow_scores.cuh - the score warps: from blocks of values to probabilities.
 *
 * Place: cuda, sm_90a only; part of attn_narrow.cu, which describes the kernel.
 *
 * Keys are on the rows of the product, heads on its columns: a thread has two keys of a block, warp 16 * w + lane / 4 and
 * 8 on, and of each eight heads two, own_head(j). score i is of key i / 2 % 2 and head 2 * (i / 4) + i % 2.
 */
#ifndef DSV4_CUDA_ATTN_NARROW_SCORES_CUH
#define DSV4_CUDA_ATTN_NARROW_SCORES_CUH

#include "attn_narrow_shared.cuh"

/*
 * Of a thread's heads. Keys lie in shared memory without 2^m of their row (attn_blocks.cuh): what a score is compared by
 * is score + m, a probability as the matrix units have it is 2^(score + m - ref), and `sum`, of the thread's keys, is that
 * times 2^-m, relative to 2^ref as the sums of values are.
 */
template <int HEADS> struct head_state {
    float ref[HEADS / 4], sum[HEADS / 4];
    bool is_odd; /* f16 had no room for a row of the warp's, of this part */
};

/* Counted from the group's first head. */
__device__ __forceinline__ int own_head(int j)
{
    return 8 * (j / 2) + 2 * (threadIdx.x % 4) + j % 2;
}

template <int HEADS>
__device__ __forceinline__ void multiply_keys(float (&scores)[HEADS / 2], uint32_t b,
                                              shared_memory<HEADS> &s)
{
    const uint32_t place = b % N_PLACES;
    const uint64_t q = wgmma_matrix(uniform(shared_address(s.q)), 16);
    const uint64_t keys = wgmma_matrix(uniform(shared_address(s.values[place])), 16);
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++) scores[i] = 0.0f;
    wgmma_settle(scores);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        barrier_wait(shared_address(&s.full[place][half]), b / N_PLACES & 1);
        wgmma_fence();
#pragma unroll
        for (int i = half * N_HALF_GROUPS; i < (half + 1) * N_HALF_GROUPS; i++) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                wgmma_ss_f16(scores, wgmma_move(keys, i * GROUP_BYTES + k * 32),
                             wgmma_move(q, i * HEADS * 128 + k * 32), true);
            }
        }
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settle(scores);
}

/* A thread's two keys of a block. */
struct own_keys {
    row_exponent m[2];
    uint32_t unusual; /* row_marks' word of the warp */
};

template <class PART> __device__ __forceinline__ own_keys read_keys(const row_marks (&marks)[2])
{
    own_keys keys;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int key = 16 * warp + lane / 4 + 8 * r;
        keys.m[r] = marks[1].exponents[key];
        if constexpr (is_joined<PART>) { /* NaN, if it is in either half */
            const float other = marks[0].exponents[key].log2;
            keys.m[r].log2 += other - other;
        }
    }
    keys.unusual = marks[0].unusual[warp] | marks[1].unusual[warp];
    return keys;
}

/* Scores of rows that do not count become -inf. */
template <int HEADS>
__device__ __forceinline__ void mark_keys(float (&scores)[HEADS / 2], uint32_t unusual)
{
    unusual >>= threadIdx.x % 32 / 4;
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++)
        if ((unusual >> (8 * (i / 2 % 2)) & 1) != 0) scores[i] = -INFINITY;
}

/* The same of joined lists: -inf for the heads of queries that do not name a row. */
template <int HEADS>
__device__ __forceinline__ void mark_joined(float (&scores)[HEADS / 2], const row_marks &marks,
                                            int query_shift)
{
    const int warp = threadIdx.x / 32, bit = threadIdx.x % 32 / 4;
#pragma unroll
    for (int t = 0; t < HEADS / 8; t++) {
        const uint32_t named = marks.named[8 * t >> query_shift][warp] >> bit;
#pragma unroll
        for (int i = 0; i < 4; i++)
            if ((named >> (8 * (i / 2)) & 1) == 0) scores[4 * t + i] = -INFINITY;
    }
}

/* From a block's products to scores + m, in powers of two; factors: convert_queries'. */
template <class PART, int HEADS>
__device__ __forceinline__ void scale_scores(const attn_args &a, float (&scores)[HEADS / 2],
                                             const own_keys &keys, const row_marks (&marks)[2],
                                             const float *factors, head_state<HEADS> &heads)
{
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++) {
        const row_exponent m = keys.m[i / 2 % 2];
        scores[i] = fmaf(scores[i] * factors[own_head(2 * (i / 4) + i % 2)], m.power, m.log2);
    }
    if (keys.unusual == 0) return;
    heads.is_odd |= (keys.unusual & IS_ODD) != 0;
    if constexpr (is_joined<PART>) {
        mark_joined<HEADS>(scores, marks[0], a.joined.query_shift);
    } else {
        mark_keys<HEADS>(scores, keys.unusual);
    }
}

/* Probabilities, their sums for each head, and the sum of all as the matrix units have them. */
template <int HEADS>
__device__ __forceinline__ float make_probs(const float (&scores)[HEADS / 2], const own_keys &keys,
                                            const float (&ref)[HEADS / 4],
                                            uint32_t (&probs)[HEADS / 4], float (&sums)[HEADS / 4])
{
    const float inverse[2] = {inverse_power(keys.m[0].power), inverse_power(keys.m[1].power)};
    float total = 0.0f;
#pragma unroll
    for (int t = 0; t < HEADS / 8; t++) {
        float p[4];
#pragma unroll
        for (int i = 0; i < 4; i++) p[i] = exp2_fast(scores[4 * t + i] - ref[2 * t + i % 2]);
        probs[2 * t] = to_f16_pair(p[0], p[1]);
        probs[2 * t + 1] = to_f16_pair(p[2], p[3]);
        sums[2 * t] = fmaf(p[0], inverse[0], p[2] * inverse[1]);
        sums[2 * t + 1] = fmaf(p[1], inverse[0], p[3] * inverse[1]);
        total += (p[0] + p[1]) + (p[2] + p[3]);
    }
    return total;
}

/*
 * A new reference for every head, the same in all threads that have it; what was summed so far follows. place: of the
 * factors for the value warps. A barrier of the warpgroup stands between two calls.
 */
template <int HEADS>
__device__ __forceinline__ void move_reference(const float (&scores)[HEADS / 2], uint32_t place,
                                               head_state<HEADS> &heads, shared_memory<HEADS> &s)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < HEADS / 4; j++) {
        const int i = 4 * (j / 2) + j % 2;
        float largest = fmaxf(scores[i], scores[i + 2]);
#pragma unroll
        for (int other = 4; other < 32; other *= 2)
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, other));
        if (lane < 4) s.block_max[warp][own_head(j)] = largest;
    }
    named_barrier(BARRIER_SCORES, WARPGROUP);
#pragma unroll
    for (int j = 0; j < HEADS / 4; j++) {
        const int h = own_head(j);
        const float all = fmaxf(fmaxf(s.block_max[0][h], s.block_max[1][h]),
                                fmaxf(s.block_max[2][h], s.block_max[3][h]));
        const float ref = fmaxf(heads.ref[j], all - FIRST_PASS);
        const float factor = exp2_fast(heads.ref[j] - ref);
        heads.ref[j] = ref;
        heads.sum[j] *= factor;
        if (threadIdx.x < 4) s.rescale[place][h] = factor;
    }
}

/* probs as [HEADS][KEYS] f16, K-major and swizzled. */
template <int HEADS>
__device__ __forceinline__ void store_probs(const uint32_t (&probs)[HEADS / 4], uint32_t address)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = lane % 8, chunk = (2 * warp + lane / 8 % 2) ^ row;
#pragma unroll
    for (int t = 0; t < HEADS / 8; t += 2) {
        store_matrix4_transposed(address + (8 * (t + lane / 16) + row) * 128 + (chunk << 4),
                                 probs[2 * t], probs[2 * t + 1], probs[2 * t + 2],
                                 probs[2 * t + 3]);
    }
}

/* From block b's scores to probabilities for the value warps. is_first: of a part. */
template <int HEADS>
__device__ __forceinline__ void weigh_keys(const float (&scores)[HEADS / 2], const own_keys &keys,
                                           uint32_t b, bool is_first, head_state<HEADS> &heads,
                                           shared_memory<HEADS> &s)
{
    const uint32_t place = b % N_PLACES;
    bool moves = is_first;
    uint32_t probs[HEADS / 4];
    float sums[HEADS / 4];
    barrier_wait(shared_address(&s.probs_empty[place]), (b / N_PLACES & 1) ^ 1);
#pragma unroll 1
    for (;;) { /* the second time by the same code, which has been fetched */
        if (moves) move_reference<HEADS>(scores, place, heads, s);
        const float total = make_probs<HEADS>(scores, keys, heads.ref, probs, sums);
        if (moves) break;
        moves = named_barrier_any(BARRIER_SCORES, WARPGROUP, !(total < MOST_PROBS));
        if (!moves) break;
    }
#pragma unroll
    for (int j = 0; j < HEADS / 4; j++) heads.sum[j] += sums[j];
    if (threadIdx.x == 0) s.needs_rescale[place] = moves && !is_first;
    store_probs<HEADS>(probs, shared_address(s.probs[place]));
    fence_async_shared();
    barrier_arrive(shared_address(&s.probs_full[place]));
}

/* For the value warps; turn: of the parts' two places. */
template <int HEADS>
__device__ __forceinline__ void leave_heads(head_state<HEADS> &heads, int turn,
                                            shared_memory<HEADS> &s)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) s.part_is_odd[turn][warp] = heads.is_odd;
#pragma unroll
    for (int j = 0; j < HEADS / 4; j++) {
        float sum = heads.sum[j];
#pragma unroll
        for (int other = 4; other < 32; other *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
        if (lane < 4) s.part_sum[turn][warp][own_head(j)] = sum;
        if (threadIdx.x < 4) s.part_ref[turn][own_head(j)] = heads.ref[j];
    }
}

/* The queries of a part, the n-th that has blocks, have come: makes f16 of them. */
template <int HEADS>
__device__ __forceinline__ void take_queries(const attn_args &a, uint32_t n,
                                             shared_memory<HEADS> &s)
{
    barrier_wait(shared_address(&s.q_full), n & 1);
    convert_queries<HEADS>(a, s.q, s.q_factors, (int)threadIdx.x / 32, N_WARPGROUP_WARPS);
    fence_async_shared();
    named_barrier(BARRIER_SCORES, WARPGROUP);
}

template <class PART, int HEADS>
__device__ static void run_scores(const attn_args &a, shared_memory<HEADS> &s)
{
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    uint32_t b = 0, n_parts_done = 0; /* of parts that have blocks */
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const PART p = read_part<PART>(a, rank);
        const uint32_t begin = b, end = b + count_blocks(p);
        head_state<HEADS> heads;
#pragma unroll
        for (int j = 0; j < HEADS / 4; j++) {
            heads.ref[j] = FIRST_REF;
            heads.sum[j] = 0.0f;
        }
        heads.is_odd = false;
        if (begin < end) take_queries<HEADS>(a, n_parts_done++, s);
#pragma unroll 1
        for (; b < end; b++) {
            float scores[HEADS / 2];
            multiply_keys<HEADS>(scores, b, s);
            if (b + 1 == end) barrier_arrive_warp(shared_address(&s.q_empty));
            const own_keys keys = read_keys<PART>(s.marks[b % N_PLACES]);
            scale_scores<PART, HEADS>(a, scores, keys, s.marks[b % N_PLACES], s.q_factors, heads);
            weigh_keys<HEADS>(scores, keys, b, b == begin, heads, s);
        }
        leave_heads<HEADS>(heads, round % 2, s);
        narrow_team::sync();
        if (s.is_odd(round % 2))
            finish_plain<HEADS, row_state, narrow_team>(a, p, *(plain_memory *)s.probs);
        if (p.first_slot >= 0)
            finish_split<unit_merge<HEADS, narrow_team>, narrow_team>(a, p, s.arrival,
                                                                      *(split_sums *)s.q);
    }
}

#endif
