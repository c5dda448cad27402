/*
 * attn_sm90_values.cuh - the value warps: probabilities times values, partial states, output.
 *
 * Place: cuda, sm_90a only; part of attn_sm90.cu, which describes the kernel.
 *
 * Groups of 64 heads have heads on the rows of the product and dimensions on its columns; smaller groups, for which
 * 64 rows would be mostly empty, the other way round. Either way the four threads of a row, or eight
 * neighbouring rows, hold dimensions in the order of attn_sm90_keys.cuh.
 */
#ifndef DSV4_CUDA_ATTN_SM90_VALUES_CUH
#define DSV4_CUDA_ATTN_SM90_VALUES_CUH

#include <math.h>

#include "attn_sm90_shared.cuh"

/* A thread's share of the sums: half the dimensions are a warpgroup's. */
template <int HEADS> struct value_sums {
    float v[2 * HEADS];
};

/* The head, counted from the group's first, of this thread's value i. */
template <int HEADS> __device__ __forceinline__ int head_of(int i)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    if (HEADS == 64) return 16 * warp + lane / 4 + 8 * (i / 2 % 2);
    return 8 * (i / 4 % (HEADS / 8)) + 2 * (lane % 4) + i % 2;
}

/* Different heads of a thread, and the value that belongs to one; index of a value's head among them. */
template <int HEADS> struct own_heads {
    static constexpr int n = HEADS == 64 ? 2 : HEADS / 4;
    __device__ static constexpr int value(int own)
    {
        return HEADS == 64 ? 2 * own : 4 * (own / 2) + own % 2;
    }
    __device__ static constexpr int of(int i)
    {
        return HEADS == 64 ? i / 2 % 2 : i / 4 % (HEADS / 8) * 2 + i % 2;
    }
};

template <int HEADS>
__device__ __forceinline__ void scale_values(value_sums<HEADS> &sums, const float (&factors)[own_heads<HEADS>::n])
{
#pragma unroll
    for (int i = 0; i < 2 * HEADS; i++) sums.v[i] *= factors[own_heads<HEADS>::of(i)];
}

/* Adds a half block. probs: shared address of its first key's column; values: of the warpgroup's dimensions. */
template <int HEADS>
__device__ __forceinline__ void add_half(value_sums<HEADS> &sums, uint32_t probs, uint32_t values, bool adds)
{
#pragma unroll
    for (int k = 0; k < 2; k++) {
        if constexpr (HEADS == 64) {
#pragma unroll
            for (int g = 0; g < 4; g += 2) {
                wgmma_ss_tb(*(float(*)[64]) & sums.v[g * 32], wgmma_matrix(probs + k * 32, 16),
                            wgmma_matrix(values + g * HALF_GROUP_BYTES + k * 2048, HALF_GROUP_BYTES), adds || k > 0);
            }
        } else {
#pragma unroll
            for (int g = 0; g < 4; g++) {
                wgmma_ss_ta(*(float(*)[HEADS / 2]) & sums.v[g * (HEADS / 2)],
                            wgmma_matrix(values + g * HALF_GROUP_BYTES + k * 2048, 16),
                            wgmma_matrix(probs + k * 32, 16), adds || k > 0);
            }
        }
    }
    wgmma_commit();
}

/* ---- partial states ---- */

/* Leaves this part's state in its slot; true for every thread when all parts of the task have arrived. */
template <int HEADS>
__device__ static bool leave_state(const attn_args &a, const attn_part &p, const value_sums<HEADS> &sums,
                                   shared_memory<HEADS> &s)
{
    const int thread = threadIdx.x - WARPGROUP, n_parts = p.part_of & 0xffff;
    unsigned char *state = a.states + (int64_t)(p.first_slot + (p.part_of >> 16)) * a.state_bytes;
    float *heads = (float *)state;
    float4 *values = (float4 *)(state + ATTN_STATE_BYTES);
    if (thread < HEADS) {
        heads[thread] = s.part_ref[thread];
        heads[ATTN_MAX_GROUP + thread] = (s.part_sum[0][thread] + s.part_sum[1][thread]) +
                                         (s.part_sum[2][thread] + s.part_sum[3][thread]);
    }
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++) {
        values[i * N_VALUE_THREADS + thread] =
            make_float4(sums.v[4 * i], sums.v[4 * i + 1], sums.v[4 * i + 2], sums.v[4 * i + 3]);
    }
    named_barrier(BARRIER_VALUES, N_VALUE_THREADS);
    if (thread == 0) {
        bool is_last = add_acquire_release(&a.counters[p.first_slot], 1) == n_parts - 1;
        if (is_last) a.counters[p.first_slot] = 0;
        s.is_last_arriver = is_last;
    }
    named_barrier(BARRIER_VALUES, N_VALUE_THREADS);
    return s.is_last_arriver != 0;
}

/* The sum of all parts in their order, so that it does not depend on who came last. */
template <int HEADS>
__device__ static void merge_states(const attn_args &a, const attn_part &p, value_sums<HEADS> &sums,
                                    shared_memory<HEADS> &s)
{
    typedef own_heads<HEADS> own;
    const int thread = threadIdx.x - WARPGROUP, n_parts = p.part_of & 0xffff;
    const unsigned char *states = a.states + (int64_t)p.first_slot * a.state_bytes;
    if (thread < HEADS) {
        float ref = FIRST_REF, sum = 0.0f;
#pragma unroll 8
        for (int k = 0; k < n_parts; k++) {
            ref = fmaxf(ref, __ldcg((const float *)(states + k * a.state_bytes) + thread));
        }
#pragma unroll 8
        for (int k = 0; k < n_parts; k++) {
            const float *heads = (const float *)(states + k * a.state_bytes);
            sum += __ldcg(&heads[ATTN_MAX_GROUP + thread]) * exp2f(__ldcg(&heads[thread]) - ref);
        }
        s.part_ref[thread] = ref;
        s.part_sum[0][thread] = sum;
        s.part_sum[1][thread] = s.part_sum[2][thread] = s.part_sum[3][thread] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 2 * HEADS; i++) sums.v[i] = 0.0f;
    named_barrier(BARRIER_VALUES, N_VALUE_THREADS);
#pragma unroll(HEADS <= 16 ? 4 : 1)
    for (int k = 0; k < n_parts; k++) {
        const float *heads = (const float *)(states + k * a.state_bytes);
        const float4 *values = (const float4 *)(states + k * a.state_bytes + ATTN_STATE_BYTES);
        float weights[own::n];
#pragma unroll
        for (int i = 0; i < own::n; i++) {
            int h = head_of<HEADS>(own::value(i));
            weights[i] = exp2f(__ldcg(&heads[h]) - s.part_ref[h]);
        }
#pragma unroll
        for (int i = 0; i < HEADS / 2; i++) {
            float4 v = __ldcg(&values[i * N_VALUE_THREADS + thread]);
            sums.v[4 * i] += weights[own::of(4 * i)] * v.x;
            sums.v[4 * i + 1] += weights[own::of(4 * i + 1)] * v.y;
            sums.v[4 * i + 2] += weights[own::of(4 * i + 2)] * v.z;
            sums.v[4 * i + 3] += weights[own::of(4 * i + 3)] * v.w;
        }
    }
}

/* ---- output ---- */

__device__ __forceinline__ char *part_out(const attn_args &a, const attn_part &p)
{
    return a.out + p.request * a.out_request_stride_bytes + part_query(p) * a.out_query_stride_bytes;
}

/* cos and sin of this part's query for pair i, NaN outside the table. */
__device__ __forceinline__ float2 rope_pair(const attn_args &a, const attn_part &p, int i)
{
    int32_t row = a.rope_rows[(int64_t)p.request * a.n_queries + part_query(p)];
    if (row < 0 || row >= a.n_rope_rows) return make_float2(NAN, NAN);
    const float *table = a.rope_table + (int64_t)row * 64;
    return make_float2(table[i], table[32 + i]);
}

/* Eight bf16 to 8 dimensions of a head. */
__device__ __forceinline__ void store_eight(const attn_args &a, char *target, uint4 w)
{
    if (a.out_is_aligned) {
        *(uint4 *)target = w;
        return;
    }
    const uint32_t words[4] = {w.x, w.y, w.z, w.w};
    for (int i = 0; i < 8; i++) ((uint16_t *)target)[i] = (uint16_t)(words[i / 2] >> (16 * (i % 2)));
}

/*
 * Heads on rows: thread c of four holds, of each group of 64 dimensions, the 16 that begin at 16c, as columns
 * 8t + 2c and the next of tiles t: tile 2j dimensions 1 and 3 of four, tile 2j + 1 dimensions 0 and 2; in the rotated
 * group tile 2j dimensions 0 and 1, tile 2j + 1 dimensions 2 and 3.
 */
__device__ static void write_heads(const attn_args &a, const attn_part &p, value_sums<64> &sums, int half)
{
    const int c = threadIdx.x % 4;
#pragma unroll
    for (int g = 0; g < 4; g++) {
        const bool is_rotated = g == 3 && half == 1;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int head = part_first_head(p, 64) + head_of<64>(2 * r);
            float v[16];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float *x = &sums.v[4 * (8 * g + 2 * j) + 2 * r], *y = x + 4;
                v[4 * j] = is_rotated ? x[0] : y[0];
                v[4 * j + 1] = is_rotated ? x[1] : x[0];
                v[4 * j + 2] = is_rotated ? y[0] : y[1];
                v[4 * j + 3] = is_rotated ? y[1] : x[1];
            }
            if (is_rotated && a.rope_table != NULL) {
#pragma unroll
                for (int i = 0; i < 16; i += 2) {
                    float2 turn = rope_pair(a, p, 8 * c + i / 2);
                    float x = v[i], y = v[i + 1];
                    v[i] = x * turn.x + y * turn.y;
                    v[i + 1] = y * turn.x - x * turn.y;
                }
            }
            if (head >= a.n_heads) continue;
            char *head_out = part_out(a, p) + head * a.out_head_stride_bytes;
            const int dim = 256 * half + 64 * g + 16 * c;
            if (a.out_is_f32) {
#pragma unroll
                for (int i = 0; i < 16; i++) ((float *)head_out)[dim + i] = v[i];
                continue;
            }
#pragma unroll
            for (int i = 0; i < 16; i += 8) {
                store_eight(a, head_out + (dim + i) * 2,
                            make_uint4(pack_bf16(v[i], v[i + 1]), pack_bf16(v[i + 2], v[i + 3]),
                                       pack_bf16(v[i + 4], v[i + 5]), pack_bf16(v[i + 6], v[i + 7])));
            }
        }
    }
}

/* The dimension of row `row` of group `group`, dimensions on rows. */
__device__ __forceinline__ int dim_of_row(int group, int row)
{
    int tile = row / 8, quarter = row % 8 / 2, odd = row % 2, second = tile % 2;
    int in_four = group == N_DIM_GROUPS - 1 ? 2 * second + odd : 2 * odd + 1 - second;
    return 64 * group + 16 * quarter + 4 * (tile / 2) + in_four;
}

/* Dimensions on rows: through shared memory, [HEADS][512 rows] bf16, to eight dimensions a thread. */
template <int HEADS>
__device__ static void write_dims(const attn_args &a, const attn_part &p, value_sums<HEADS> &sums, int half,
                                  shared_memory<HEADS> &s)
{
    enum { ROW = DIM * 2 + 16 };
    const int thread = threadIdx.x % WARPGROUP, lane = thread % 32, warp = thread / 32;
    const int first_head = part_first_head(p, HEADS);
    if (a.rope_table != NULL && half == 1) { /* pairs of dimensions are neighbouring rows */
#pragma unroll
        for (int i = 0; i < HEADS / 2; i++) {
            int dim = dim_of_row(N_DIM_GROUPS - 1, 16 * warp + lane / 4 + 8 * (i / 2 % 2)) - (DIM - 64);
            float2 turn = rope_pair(a, p, dim / 2);
            float &v = sums.v[3 * (HEADS / 2) + i];
            float other = __shfl_xor_sync(0xffffffffu, v, 4);
            v = dim % 2 == 0 ? v * turn.x + other * turn.y : v * turn.x - other * turn.y;
        }
    }
    if (a.out_is_f32) {
#pragma unroll
        for (int i = 0; i < 2 * HEADS; i++) {
            int head = first_head + head_of<HEADS>(i);
            int dim = dim_of_row(4 * half + i / (HEADS / 2), 16 * warp + lane / 4 + 8 * (i / 2 % 2));
            if (head < a.n_heads) ((float *)(part_out(a, p) + head * a.out_head_stride_bytes))[dim] = sums.v[i];
        }
        return;
    }
    const uint32_t stage = shared_address(s.out);
#pragma unroll
    for (int g = 0; g < 4; g++) {
        const float *v = &sums.v[g * (HEADS / 2)];
        uint32_t column = (uint32_t)(256 * half + 64 * g + 16 * warp + 8 * (lane / 8 % 2)) * 2;
        uint32_t pairs[HEADS / 4];
#pragma unroll
        for (int i = 0; i < HEADS / 4; i++) pairs[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
        if constexpr (HEADS == 8) {
            store_matrix2_transposed(stage + (lane % 8) * ROW + column, pairs[0], pairs[1]);
        } else {
#pragma unroll
            for (int t = 0; t < HEADS / 8; t += 2) {
                store_matrix4_transposed(stage + (8 * (t + lane / 16) + lane % 8) * ROW + column, pairs[2 * t],
                                         pairs[2 * t + 1], pairs[2 * t + 2], pairs[2 * t + 3]);
            }
        }
    }
    named_barrier(BARRIER_VALUES + 1 + half, WARPGROUP);
    for (int i = thread; i < HEADS * 32; i += WARPGROUP) {
        /* dimensions 8e .. 8e + 7 of a group: pairs of quarter e / 2 in the tiles of steps 2 (e % 2) and the next */
        const int head = i / 32, group = 4 * half + i % 32 / 8, e = i % 8;
        uint32_t w[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            w[k] = load_shared4(stage + head * ROW + (64 * group + 8 * (4 * (e % 2) + k) + e / 2 * 2) * 2);
        }
        uint4 eight = make_uint4(w[0], w[1], w[2], w[3]);
        if (group < N_DIM_GROUPS - 1) {
            eight = make_uint4(__byte_perm(w[1], w[0], 0x5410), __byte_perm(w[1], w[0], 0x7632),
                               __byte_perm(w[3], w[2], 0x5410), __byte_perm(w[3], w[2], 0x7632));
        }
        if (first_head + head >= a.n_heads) continue;
        store_eight(a, part_out(a, p) + (first_head + head) * a.out_head_stride_bytes + (64 * group + 8 * e) * 2, eight);
    }
    named_barrier(BARRIER_VALUES + 1 + half, WARPGROUP);
}

/* Divides by the sums, writes out and lse. */
template <int HEADS>
__device__ static void finish_values(const attn_args &a, const attn_part &p, value_sums<HEADS> &sums, int half,
                                     shared_memory<HEADS> &s)
{
    typedef own_heads<HEADS> own;
    float inverse[own::n];
#pragma unroll
    for (int i = 0; i < own::n; i++) {
        const int h = head_of<HEADS>(own::value(i)), head = part_first_head(p, HEADS) + h;
        const float sum = (s.part_sum[0][h] + s.part_sum[1][h]) + (s.part_sum[2][h] + s.part_sum[3][h]);
        const bool is_real = head < a.n_heads;
        const float sink = a.sink == NULL || !is_real ? 0.0f : exp2f(a.sink[head] * LOG2_E - s.part_ref[h]);
        inverse[i] = sum == 0.0f ? 0.0f : 1.0f / (sum + sink);
        const bool is_owner = HEADS == 64 ? threadIdx.x % 4 == 0 : threadIdx.x % WARPGROUP < 4;
        if (a.lse != NULL && half == 0 && is_owner && is_real) {
            *(float *)(a.lse + p.request * a.lse_request_stride_bytes + part_query(p) * a.lse_query_stride_bytes +
                       head * a.lse_head_stride_bytes) =
                sum == 0.0f ? INFINITY : (s.part_ref[h] + log2f(sum)) * LN_2;
        }
    }
    scale_values<HEADS>(sums, inverse);
    if constexpr (HEADS == 64) {
        write_heads(a, p, sums, half);
    } else {
        write_dims<HEADS>(a, p, sums, half, s);
    }
}

/* Brings the next part's queries to the second-level cache. */
template <int HEADS> __device__ static void prefetch_query(const attn_args &a, int32_t rank, int32_t n_ranks)
{
    if (rank >= n_ranks) return;
    attn_part p = read_part(a, rank);
    const char *q = a.q + p.request * a.q_request_stride_bytes + part_query(p) * a.q_query_stride_bytes;
    for (int i = threadIdx.x - WARPGROUP; i < HEADS * 8; i += N_VALUE_THREADS) {
        int head = part_first_head(p, HEADS) + i / 8;
        if (head < a.n_heads) prefetch_l2(q + head * a.q_head_stride_bytes + i % 8 * 128);
    }
}

template <int HEADS> __device__ static void run_values(const attn_args &a, shared_memory<HEADS> &s)
{
    typedef own_heads<HEADS> own;
    const int half = threadIdx.x / WARPGROUP - 1, lane = threadIdx.x % 32;
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    ring_place<ring_sizes<HEADS>::values> place = {};
    uint32_t n_blocks_done = 0, n_parts_done = 0;
    value_sums<HEADS> sums;
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        attn_part p = read_part(a, rank);
        prefetch_query<HEADS>(a, rank_of_round(round + 1), n_ranks);
        if (p.first_block == p.end_block) {
#pragma unroll
            for (int i = 0; i < 2 * HEADS; i++) sums.v[i] = 0.0f;
        }
#pragma unroll 1
        for (int32_t block = p.first_block; block < p.end_block; block++) {
            const bool adds = block > p.first_block;
            barrier_wait(shared_address(&s.full), n_blocks_done & 1);
            if (adds && s.needs_rescale) {
                float factors[own::n];
#pragma unroll
                for (int i = 0; i < own::n; i++) factors[i] = s.rescale[head_of<HEADS>(own::value(i))];
                scale_values<HEADS>(sums, factors);
            }
            const uint32_t probs = shared_address(s.probs);
            const int first = place.slot;
            place.advance(1);
            const int second = place.slot;
            place.advance(1);
            wgmma_fence();
            add_half<HEADS>(sums, probs, shared_address(s.values[first]) + half * 4 * HALF_GROUP_BYTES, adds);
            add_half<HEADS>(sums, probs + 64, shared_address(s.values[second]) + half * 4 * HALF_GROUP_BYTES, true);
            wgmma_wait<1>();
            if (lane == 0) barrier_arrive(shared_address(&s.values_empty[first]));
            wgmma_wait<0>();
            if (lane == 0) {
                barrier_arrive(shared_address(&s.values_empty[second]));
                barrier_arrive(shared_address(&s.probs_empty));
            }
            n_blocks_done++;
        }
        barrier_wait(shared_address(&s.part_full), n_parts_done & 1);
        bool is_complete = true;
        if (p.first_slot >= 0) {
            is_complete = leave_state<HEADS>(a, p, sums, s);
            if (is_complete) merge_states<HEADS>(a, p, sums, s);
        }
        if (is_complete) finish_values<HEADS>(a, p, sums, half, s);
        barrier_arrive(shared_address(&s.part_empty));
        n_parts_done++;
    }
}

#endif
