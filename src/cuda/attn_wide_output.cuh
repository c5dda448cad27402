/*
 * attn_wide_output.cuh - the end of a part of 64 heads: output from registers, or a partial state and its merge.
 *
 * Place: cuda, sm_90a only; part of attn_wide.cu, which describes the kernel.
 *
 * A thread's sums are of its two heads and of two neighbouring dimensions of each eight (a tile): v[4 * t + 2 * row + e]
 * is head own_head(row), dimension own_dim(half, t) + e.
 */
#ifndef DSV4_CUDA_ATTN_WIDE_OUTPUT_CUH
#define DSV4_CUDA_ATTN_WIDE_OUTPUT_CUH

#include "attn_wide_shared.cuh"

enum { N_TILES = HALF_DIMS / 8, N_ROTATED_TILES = GROUP_DIMS / 8 };

struct value_sums {
    float v[4 * N_TILES];
};

/* Counted from the group's first head. */
__device__ __forceinline__ int own_head(int row)
{
    return threadIdx.x / 32 % N_WARPGROUP_WARPS * 16 + threadIdx.x % 32 / 4 + 8 * row;
}

__device__ __forceinline__ int own_dim(int half, int tile)
{
    return half * HALF_DIMS + 8 * tile + 2 * (threadIdx.x % 4);
}

/* The head warps. */
struct head_team {
    __device__ static __forceinline__ int thread(void)
    {
        return threadIdx.x;
    }
    __device__ static __forceinline__ void sync(void)
    {
        named_barrier(BARRIER_HEADS, N_HEAD_THREADS);
    }
};

/* ---- four tiles to memory ---- */

/* Any dtype and alignment. */
__device__ __forceinline__ void write_any_pair(const attn_args &a, char *head_out, int dim, float x,
                                               float y)
{
    if (a.out_is_f32) {
        ((float *)head_out)[dim] = x;
        ((float *)head_out)[dim + 1] = y;
    } else {
        const uint32_t pair = to_bf16_pair(x, y);
        ((uint16_t *)head_out)[dim] = (uint16_t)pair;
        ((uint16_t *)head_out)[dim + 1] = (uint16_t)(pair >> 16);
    }
}

/* Word i of lane j of four becomes word j of lane i. */
__device__ __forceinline__ uint4 transpose_words(const uint32_t (&w)[4])
{
    const bool is_odd = (threadIdx.x & 1) != 0, is_upper = (threadIdx.x & 2) != 0;
    const uint32_t x = __shfl_xor_sync(0xffffffffu, is_odd ? w[0] : w[1], 1);
    const uint32_t y = __shfl_xor_sync(0xffffffffu, is_odd ? w[2] : w[3], 1);
    const uint32_t low[2] = {is_odd ? x : w[0], is_odd ? w[1] : x};
    const uint32_t high[2] = {is_odd ? y : w[2], is_odd ? w[3] : y};
    const uint32_t u = __shfl_xor_sync(0xffffffffu, is_upper ? low[0] : high[0], 2);
    const uint32_t v = __shfl_xor_sync(0xffffffffu, is_upper ? low[1] : high[1], 2);
    return is_upper ? make_uint4(u, v, high[0], high[1]) : make_uint4(low[0], low[1], u, v);
}

/* Turns a pair of the rotated group back by the query's position. */
__device__ __forceinline__ void turn_pair_back(float2 turn, float &x, float &y)
{
    const float first = x * turn.x + y * turn.y;
    y = y * turn.x - x * turn.y;
    x = first;
}

/* Four tiles from `first` on, a multiple of 4: divided by the sums, turned back, written. */
template <class PART>
__device__ __forceinline__ void write_tiles(const attn_args &a, const PART &p, int half, int first,
                                            float4 (&v)[4], const float (&inverse)[2])
{
    const bool turns = half == 1 && first >= N_TILES - N_ROTATED_TILES && a.rope_table != NULL;
#pragma unroll
    for (int t = 0; t < 4; t++) {
        v[t] = make_float4(v[t].x * inverse[0], v[t].y * inverse[0], v[t].z * inverse[1],
                           v[t].w * inverse[1]);
        if (turns) {
            const int first_head = part_first_head(p, HEADS);
            const int pair = (own_dim(half, first + t) - (DIM - GROUP_DIMS)) / 2;
            turn_pair_back(find_turn(a, p, first_head + own_head(0), pair), v[t].x, v[t].y);
            turn_pair_back(find_turn(a, p, first_head + own_head(1), pair), v[t].z, v[t].w);
        }
    }
#pragma unroll
    for (int row = 0; row < 2; row++) {
        const int head = part_first_head(p, HEADS) + own_head(row);
        char *out = head_out(a, p, head);
        const bool is_real = head < count_heads(a, p);
        if (a.out_is_f32 || !a.out_is_aligned) {
#pragma unroll
            for (int t = 0; t < 4; t++) {
                if (is_real)
                    write_any_pair(a, out, own_dim(half, first + t), row == 0 ? v[t].x : v[t].z,
                                   row == 0 ? v[t].y : v[t].w);
            }
            continue;
        }
        uint32_t words[4];
#pragma unroll
        for (int t = 0; t < 4; t++)
            words[t] = row == 0 ? to_bf16_pair(v[t].x, v[t].y) : to_bf16_pair(v[t].z, v[t].w);
        const uint4 eight = transpose_words(words);
        const int dim = half * HALF_DIMS + 8 * (first + (int)threadIdx.x % 4);
        if (is_real) *(uint4 *)(out + 2 * dim) = eight;
    }
}

/* Whether a half's dimensions are written as bf16, 16 bytes at a time, and not turned. */
__device__ __forceinline__ bool is_plain_half(const attn_args &a, int half)
{
    return !a.out_is_f32 && a.out_is_aligned && (half == 0 || a.rope_table == NULL);
}

/* All tiles of a plain half: short, since what is run once a part waits for its instructions. */
template <class PART>
__device__ __forceinline__ void write_plain_half(const attn_args &a, const PART &p, int half,
                                                 const value_sums &sums, const float (&inverse)[2])
{
    const int first_head = part_first_head(p, HEADS);
#pragma unroll
    for (int row = 0; row < 2; row++) {
        const int head = first_head + own_head(row);
        const bool is_real = head < count_heads(a, p);
        char *out = head_out(a, p, head) + half * HALF_DIMS * 2 + threadIdx.x % 4 * 16;
#pragma unroll
        for (int first = 0; first < N_TILES; first += 4) {
            uint32_t words[4];
#pragma unroll
            for (int t = 0; t < 4; t++) {
                const float *pair = &sums.v[4 * (first + t) + 2 * row];
                words[t] = to_bf16_pair(pair[0] * inverse[row], pair[1] * inverse[row]);
            }
            const uint4 eight = transpose_words(words);
            if (is_real) *(uint4 *)(out + first * 16) = eight;
        }
    }
}

__device__ __forceinline__ float4 own_tile(const value_sums &sums, int t)
{
    return make_float4(sums.v[4 * t], sums.v[4 * t + 1], sums.v[4 * t + 2], sums.v[4 * t + 3]);
}

/* What both heads' sums are multiplied with; lse, once. */
template <class PART>
__device__ __forceinline__ void end_heads(const attn_args &a, const PART &p, bool writes_lse,
                                          const head_total (&totals)[2], float (&inverse)[2])
{
#pragma unroll
    for (int row = 0; row < 2; row++) {
        const int head = part_first_head(p, HEADS) + own_head(row);
        const float sink = read_sink(a, p, min(head, count_heads(a, p) - 1));
        inverse[row] = inverse_sum(sink, totals[row].ref, totals[row].sum);
        if (writes_lse && threadIdx.x % 4 == 0 && head < count_heads(a, p))
            write_lse(a, p, head, totals[row].ref, totals[row].sum);
    }
}

/* ---- partial states: tile t of every thread, one behind the other ---- */

__device__ __forceinline__ void leave_state(const attn_args &a, const attn_part &p,
                                            const head_total (&totals)[2], const value_sums &sums,
                                            int half)
{
    float *state = own_state(a, p);
    if (half == 0 && threadIdx.x % 4 == 0) {
#pragma unroll
        for (int row = 0; row < 2; row++) {
            state[own_head(row)] = totals[row].ref;
            state[ATTN_MAX_GROUP + own_head(row)] = totals[row].sum;
        }
    }
    float4 *tiles = (float4 *)(state + 2 * ATTN_MAX_GROUP) + threadIdx.x;
#pragma unroll
    for (int t = 0; t < N_TILES; t++) tiles[t * N_HEAD_THREADS] = own_tile(sums, t);
}

/* A merge of such states: a share is some of every thread's tiles. */
struct tile_merge {
    /* Of a thread's two heads, over all parts: a quarter each of four neighbouring lanes. */
    __device__ static __forceinline__ void find_totals(const attn_args &a, const attn_part &p,
                                                       head_total (&totals)[2])
    {
        const int n_parts = p.part_of & 0xffff;
#pragma unroll
        for (int row = 0; row < 2; row++) totals[row] = {FIRST_REF, 0.0f};
#pragma unroll 1
        for (int k = threadIdx.x % 4; k < n_parts; k += 4) {
#pragma unroll
            for (int row = 0; row < 2; row++) {
                const float *head = part_state(a, p, k) + own_head(row);
                totals[row] =
                    add_totals(totals[row], {__ldcg(head), __ldcg(head + ATTN_MAX_GROUP)});
            }
        }
#pragma unroll
        for (int row = 0; row < 2; row++) {
#pragma unroll
            for (int other = 1; other < 4; other *= 2)
                totals[row] = add_lane_totals(totals[row], other);
        }
    }

    /* Four tiles from `first` on, of all parts. */
    __device__ static __forceinline__ void add_tiles(const attn_args &a, const attn_part &p,
                                                     int first, const head_total (&totals)[2],
                                                     float4 (&sums)[4])
    {
        const int n_parts = p.part_of & 0xffff;
#pragma unroll
        for (int t = 0; t < 4; t++) sums[t] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
        for (int k = 0; k < n_parts; k++) {
            const float *state = part_state(a, p, k);
            const float4 *tiles =
                (const float4 *)(state + 2 * ATTN_MAX_GROUP) + first * N_HEAD_THREADS + threadIdx.x;
            const float weight = exp2f(__ldcg(&state[own_head(0)]) - totals[0].ref);
            const float other = exp2f(__ldcg(&state[own_head(1)]) - totals[1].ref);
            float4 v[4];
#pragma unroll
            for (int t = 0; t < 4; t++) v[t] = __ldcg(tiles + t * N_HEAD_THREADS);
#pragma unroll
            for (int t = 0; t < 4; t++) {
                sums[t].x += weight * v[t].x;
                sums[t].y += weight * v[t].y;
                sums[t].z += other * v[t].z;
                sums[t].w += other * v[t].w;
            }
        }
    }

    template <class PART>
    __device__ static __forceinline__ void merge(const attn_args &a, const PART &p, int number,
                                                 split_sums &)
    {
        if (4 * number >= N_TILES) return;
        const int half = threadIdx.x / WARPGROUP;
        float inverse[2];
        head_total totals[2];
        find_totals(a, p, totals);
        end_heads(a, p, number == 0 && half == 0, totals, inverse);
#pragma unroll 1
        for (int first = 4 * number; first < N_TILES; first += 4 * (p.part_of & 0xffff)) {
            float4 sums[4];
            add_tiles(a, p, first, totals, sums);
            write_tiles(a, p, half, first, sums, inverse);
        }
    }
};
static_assert(sizeof(split_sums) <= sizeof shared_memory::q, "a merge uses the memory of queries");

/* Where a state has a value. */
struct tile_state {
    __device__ static __forceinline__ int at(int h, int dim)
    {
        const int tile = dim % HALF_DIMS / 8, lane = h % 8 * 4 + dim % 8 / 2;
        const int thread = dim / HALF_DIMS * WARPGROUP + h / 16 * 32 + lane;
        return (tile * N_HEAD_THREADS + thread) * 4 + h / 8 % 2 * 2 + dim % 2;
    }
};

/* ---- parts ---- */

/* For both warpgroups; sums: of the thread's keys. By the first, in front of finish_part. */
__device__ __forceinline__ void leave_heads(const float (&ref)[2], float (&sum)[2], bool is_odd,
                                            int32_t round, shared_memory &s)
{
    if (threadIdx.x == 0) s.part_is_odd[round % 2] = is_odd; /* the same in all threads */
#pragma unroll
    for (int row = 0; row < 2; row++) {
        sum[row] += __shfl_xor_sync(0xffffffffu, sum[row], 1);
        sum[row] += __shfl_xor_sync(0xffffffffu, sum[row], 2);
        if (threadIdx.x % 4 == 0) {
            s.part_ref[round % 2][own_head(row)] = ref[row];
            s.part_sum[round % 2][own_head(row)] = sum[row];
        }
    }
}

/* Out and lse of a task of one part. */
template <class PART>
__device__ __forceinline__ void write_sums(const attn_args &a, const PART &p,
                                           const head_total (&totals)[2], const value_sums &sums,
                                           int half)
{
    float inverse[2];
    end_heads(a, p, half == 0, totals, inverse);
    if (is_plain_half(a, half)) {
        write_plain_half(a, p, half, sums, inverse);
        return;
    }
#pragma unroll
    for (int first = 0; first < N_TILES; first += 4) {
        float4 v[4];
#pragma unroll
        for (int t = 0; t < 4; t++) v[t] = own_tile(sums, first + t);
        write_tiles(a, p, half, first, v, inverse);
    }
}

/* Writes a part's output, or leaves its state and takes part in the merge; both warpgroups, half: of the dimensions. */
template <class PART>
__device__ __forceinline__ void finish_part(const attn_args &a, int32_t rank, int32_t round,
                                            value_sums &sums, int half, shared_memory &s)
{
    const PART p = read_part<PART>(a, rank);
    head_total totals[2];
    head_team::sync();
#pragma unroll
    for (int row = 0; row < 2; row++)
        totals[row] = {s.part_ref[round % 2][own_head(row)], s.part_sum[round % 2][own_head(row)]};
    if (s.part_is_odd[round % 2] != 0) {
        finish_plain<HEADS, tile_state, head_team>(a, p, *(plain_memory *)s.probs);
    } else if (p.first_slot >= 0) {
        leave_state(a, p, totals, sums, half);
    } else {
        write_sums(a, p, totals, sums, half);
    }
    if (p.first_slot >= 0) finish_split<tile_merge, head_team>(a, p, s.arrival, *(split_sums *)s.q);
}

#endif
