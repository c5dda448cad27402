/*
 * attn_sm90_sums.cuh - the value warps' sums: whose they are, partial states, and what output has in common.
 *
 * Place: cuda, sm_90a only; used by the Hopper kernels of bf16 and, but for partial states, of FP8 products. A kernel's LAYOUT says which head and
 * dimension a thread's value i belongs to:
 *
 *   n, of(i), value(own)   different heads of a thread, the one of value i, a value that belongs to one
 *   head(i), dim(half, i)  head, counted from the group's first; dimension, half: the warpgroup
 */
#ifndef DSV4_CUDA_ATTN_SM90_SUMS_CUH
#define DSV4_CUDA_ATTN_SM90_SUMS_CUH

#include "attn_sm90_shared.cuh"
#include "attn_split.cuh"

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

/* The value warps. */
struct value_team {
    __device__ static __forceinline__ int thread(void)
    {
        return threadIdx.x - N_KEY_THREADS;
    }
    __device__ static __forceinline__ void sync(void)
    {
        named_barrier(BARRIER_VALUES, N_VALUE_THREADS);
    }
};
static_assert((int)N_VALUE_THREADS == (int)N_TEAM_THREADS, "the value warps finish a part");

/* Sums of a layout with dimensions on rows, to a state; values i and i + 2 are of neighbouring dimensions. */
template <class LAYOUT, int HEADS>
__device__ __forceinline__ void leave_rows(const value_sums<HEADS> &sums, int half, float *values)
{
#pragma unroll
    for (int i = 0; i < 2 * HEADS; i += i % 2 == 0 ? 1 : 3) {
        float *to = values + LAYOUT::head(i) * DIM;
        const int dim = LAYOUT::dim(half, i), next = LAYOUT::dim(half, i + 2);
        if (half == 1 && i >= 3 * HEADS / 2) { /* rotated */
            to[dim] = sums.v[i];
            to[next] = sums.v[i + 2];
        } else {
            *(float2 *)(to + min(dim, next)) = dim < next ? make_float2(sums.v[i], sums.v[i + 2])
                                                          : make_float2(sums.v[i + 2], sums.v[i]);
        }
    }
}

/* ---- output ---- */

/* The query of a head. Heads behind the last, which are computed too, have that of the last query. */
__device__ __forceinline__ int32_t rope_query(const attn_args &, const attn_part &p, int)
{
    return part_query(p);
}

__device__ __forceinline__ int32_t rope_query(const attn_args &a, const joined_part &p, int head)
{
    return min(query_of(a, p, head), a.n_queries - 1);
}

/* cos and sin of a head's query for pair i, NaN outside the table. */
template <class PART>
__device__ __forceinline__ float2 rope_pair(const attn_args &a, const PART &p, int head, int i)
{
    int32_t row = a.rope_rows[(int64_t)p.request * a.n_queries + rope_query(a, p, head)];
    if (row < 0 || row >= a.n_rope_rows) return make_float2(NAN, NAN);
    const float *table = a.rope_table + (int64_t)row * 64;
    return make_float2(table[i], table[32 + i]);
}

/* Turns the rotated group, the last, back by the query's position: a pair is two rows of neighbouring threads. */
template <class LAYOUT, int HEADS, class PART>
__device__ __forceinline__ void turn_rows_back(const attn_args &a, const PART &p,
                                               value_sums<HEADS> &sums)
{
#pragma unroll
    for (int i = 3 * HEADS / 2; i < 2 * HEADS; i++) {
        const int dim = LAYOUT::dim(1, i) - (DIM - 64);
        float2 turn = rope_pair(a, p, LAYOUT::head(i), dim / 2);
        float v = sums.v[i], other = __shfl_xor_sync(0xffffffffu, v, 4);
        sums.v[i] = dim % 2 == 0 ? v * turn.x + other * turn.y : v * turn.x - other * turn.y;
    }
}

/* Any dtype and alignment, one value at a time. */
template <class LAYOUT, int HEADS, class PART>
__device__ __forceinline__ void write_values(const attn_args &a, const PART &p,
                                             const value_sums<HEADS> &sums, int half)
{
#pragma unroll
    for (int i = 0; i < 2 * HEADS; i++) {
        const int head = part_first_head(p, HEADS) + LAYOUT::head(i), dim = LAYOUT::dim(half, i);
        char *head_out = part_out(a, p, head) + head_of(a, p, head) * a.out_head_stride_bytes;
        if (head >= count_heads(a, p)) continue;
        if (a.out_is_f32) {
            ((float *)head_out)[dim] = sums.v[i];
        } else {
            ((uint16_t *)head_out)[dim] = (uint16_t)to_bf16_pair(sums.v[i], 0.0f);
        }
    }
}

/* ---- parts ---- */

/* Brings the next part's queries to the second-level cache. */
template <class PART, int HEADS>
__device__ static void prefetch_query(const attn_args &a, int32_t rank, int32_t n_ranks)
{
    if (rank >= n_ranks) return;
    PART p = read_part<PART>(a, rank);
    const char *q =
        a.q + p.request * a.q_request_stride_bytes + part_query(p) * a.q_query_stride_bytes;
    const int head =
        part_first_head(p, HEADS) + (threadIdx.x - N_KEY_THREADS) / (N_VALUE_THREADS / HEADS);
    if (a.q_is_aligned && threadIdx.x % (N_VALUE_THREADS / HEADS) == 0 && head < count_heads(a, p))
        prefetch_bytes_l2(q + query_bytes(a, p, head), DIM * (uint32_t)sizeof(uint16_t));
}

#endif
