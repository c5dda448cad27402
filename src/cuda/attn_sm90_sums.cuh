/*
 * attn_sm90_sums.cuh - the value warps' sums: whose they are, partial states, and what output has in common.
 *
 * Place: cuda, sm_90a only; used by the Hopper kernels of bf16 and FP8 products. A kernel's LAYOUT says which head and
 * dimension a thread's value i belongs to:
 *
 *   n, of(i), value(own)   different heads of a thread, the one of value i, a value that belongs to one
 *   head(i), dim(half, i)  head, counted from the group's first; dimension, half: the warpgroup
 *
 * A kernel's MEMORY has part_ref, part_sum and is_last_arriver (attn_sm90_shared.cuh).
 */
#ifndef DSV4_CUDA_ATTN_SM90_SUMS_CUH
#define DSV4_CUDA_ATTN_SM90_SUMS_CUH

#include "attn_sm90_shared.cuh"
#include "formats.cuh"

/* A thread's share of the sums: of four groups of dimensions. */
template <int HEADS> struct value_sums {
    float v[2 * HEADS];
};

/* Heads of a layout that has dimensions on the rows of the product. */
template <int HEADS> struct column_heads {
    static constexpr int n = HEADS / 4;
    __device__ static constexpr int value(int own)
    {
        return 4 * (own / 2) + own % 2;
    }
    __device__ static constexpr int of(int i)
    {
        return i / 4 % (HEADS / 8) * 2 + i % 2;
    }
    __device__ static __forceinline__ int head(int i)
    {
        return 8 * (i / 4 % (HEADS / 8)) + 2 * (threadIdx.x % 4) + i % 2;
    }
};

/* ---- partial states ---- */

/* A head's sum over the key warps; the same whichever stream had the part's first block. */
template <int N, int HEADS>
__device__ __forceinline__ float add_warps(const float (&sums)[N][HEADS], int head)
{
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < N / 2; w++) sum += sums[w][head] + sums[w + N / 2][head];
    return sum;
}

/* Leaves this part's state in its slot; true for every thread when all parts of the task have arrived. */
template <int HEADS, class MEMORY>
__device__ static bool leave_state(const attn_args &a, const attn_part &p,
                                   const value_sums<HEADS> &sums, MEMORY &s)
{
    const int thread = threadIdx.x - N_KEY_THREADS, n_parts = p.part_of & 0xffff;
    unsigned char *state = a.states + (int64_t)(p.first_slot + (p.part_of >> 16)) * a.state_bytes;
    float *heads = (float *)state;
    float4 *values = (float4 *)(state + ATTN_STATE_BYTES);
    if (thread < HEADS) {
        heads[thread] = s.part_ref[thread];
        heads[ATTN_MAX_GROUP + thread] = add_warps(s.part_sum, thread);
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
template <class LAYOUT, int HEADS, class MEMORY>
__device__ static void merge_states(const attn_args &a, const attn_part &p, value_sums<HEADS> &sums,
                                    MEMORY &s)
{
    const int thread = threadIdx.x - N_KEY_THREADS, n_parts = p.part_of & 0xffff;
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
        for (int w = 1; w < (int)(sizeof s.part_sum / sizeof s.part_sum[0]); w++)
            s.part_sum[w][thread] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 2 * HEADS; i++) sums.v[i] = 0.0f;
    named_barrier(BARRIER_VALUES, N_VALUE_THREADS);
#pragma unroll(HEADS <= 16 ? 4 : 1)
    for (int k = 0; k < n_parts; k++) {
        const float *heads = (const float *)(states + k * a.state_bytes);
        const float4 *values = (const float4 *)(states + k * a.state_bytes + ATTN_STATE_BYTES);
        float weights[LAYOUT::n];
#pragma unroll
        for (int i = 0; i < LAYOUT::n; i++) {
            int h = LAYOUT::head(LAYOUT::value(i));
            weights[i] = exp2f(__ldcg(&heads[h]) - s.part_ref[h]);
        }
#pragma unroll
        for (int i = 0; i < HEADS / 2; i++) {
            float4 v = __ldcg(&values[i * N_VALUE_THREADS + thread]);
            sums.v[4 * i] += weights[LAYOUT::of(4 * i)] * v.x;
            sums.v[4 * i + 1] += weights[LAYOUT::of(4 * i + 1)] * v.y;
            sums.v[4 * i + 2] += weights[LAYOUT::of(4 * i + 2)] * v.z;
            sums.v[4 * i + 3] += weights[LAYOUT::of(4 * i + 3)] * v.w;
        }
    }
}

/* ---- output ---- */

__device__ __forceinline__ char *part_out(const attn_args &a, const attn_part &p)
{
    return a.out + p.request * a.out_request_stride_bytes +
           part_query(p) * a.out_query_stride_bytes;
}

/* cos and sin of this part's query for pair i, NaN outside the table. */
__device__ __forceinline__ float2 rope_pair(const attn_args &a, const attn_part &p, int i)
{
    int32_t row = a.rope_rows[(int64_t)p.request * a.n_queries + part_query(p)];
    if (row < 0 || row >= a.n_rope_rows) return make_float2(NAN, NAN);
    const float *table = a.rope_table + (int64_t)row * 64;
    return make_float2(table[i], table[32 + i]);
}

/* Turns the rotated group, the last, back by the query's position: a pair is two rows of neighbouring threads. */
template <class LAYOUT, int HEADS>
__device__ __forceinline__ void turn_rows_back(const attn_args &a, const attn_part &p,
                                               value_sums<HEADS> &sums)
{
#pragma unroll
    for (int i = 3 * HEADS / 2; i < 2 * HEADS; i++) {
        const int dim = LAYOUT::dim(1, i) - (DIM - 64);
        float2 turn = rope_pair(a, p, dim / 2);
        float v = sums.v[i], other = __shfl_xor_sync(0xffffffffu, v, 4);
        sums.v[i] = dim % 2 == 0 ? v * turn.x + other * turn.y : v * turn.x - other * turn.y;
    }
}

/* Any dtype and alignment, one value at a time. */
template <class LAYOUT, int HEADS>
__device__ __forceinline__ void write_values(const attn_args &a, const attn_part &p,
                                             const value_sums<HEADS> &sums, int half)
{
#pragma unroll
    for (int i = 0; i < 2 * HEADS; i++) {
        const int head = part_first_head(p, HEADS) + LAYOUT::head(i), dim = LAYOUT::dim(half, i);
        char *head_out = part_out(a, p) + head * a.out_head_stride_bytes;
        if (head >= a.n_heads) continue;
        if (a.out_is_f32) {
            ((float *)head_out)[dim] = sums.v[i];
        } else {
            ((uint16_t *)head_out)[dim] = (uint16_t)to_bf16_pair(sums.v[i], 0.0f);
        }
    }
}

/* ---- parts ---- */

/* Brings the next part's queries to the second-level cache. */
template <int HEADS>
__device__ static void prefetch_query(const attn_args &a, int32_t rank, int32_t n_ranks)
{
    if (rank >= n_ranks) return;
    attn_part p = read_part(a, rank);
    const char *q =
        a.q + p.request * a.q_request_stride_bytes + part_query(p) * a.q_query_stride_bytes;
    const int head =
        part_first_head(p, HEADS) + (threadIdx.x - N_KEY_THREADS) / (N_VALUE_THREADS / HEADS);
    if (a.q_is_aligned && threadIdx.x % (N_VALUE_THREADS / HEADS) == 0 && head < a.n_heads)
        prefetch_bytes_l2(q + head * a.q_head_stride_bytes, DIM * (uint32_t)sizeof(uint16_t));
}

__device__ __forceinline__ uint32_t count_part_blocks(const attn_args &a, int32_t rank)
{
    const attn_part p = read_part(a, rank);
    return (uint32_t)(p.end_block - p.first_block);
}

#endif
