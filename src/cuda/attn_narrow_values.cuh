/*
 * attn_narrow_values.cuh - the value warps: probabilities times values, output; and they ask for rows ahead.
 *
 * Place: cuda, sm_90a only; part of attn_narrow.cu, which describes the kernel.
 *
 * Dimensions are on the rows of the product, heads on its columns: value v[g][4 * t + i] of a thread is dimension
 * own_dim(g, i) and head 8 * t + 2 * (lane % 4) + i % 2.
 */
#ifndef DSV4_CUDA_ATTN_NARROW_VALUES_CUH
#define DSV4_CUDA_ATTN_NARROW_VALUES_CUH

#include "attn_narrow_scores.cuh"

template <int HEADS> struct value_sums {
    float v[N_DIM_GROUPS][HEADS / 2];
};

__device__ __forceinline__ int own_dim(int group, int i)
{
    return GROUP_DIMS * group + threadIdx.x / 32 % N_WARPGROUP_WARPS * 16 + threadIdx.x % 32 / 4 +
           8 * (i / 2 % 2);
}

/* factors: of the thread's heads, as own_head numbers them. */
template <int HEADS>
__device__ __forceinline__ void scale_sums(value_sums<HEADS> &sums,
                                           const float (&factors)[HEADS / 4])
{
#pragma unroll
    for (int g = 0; g < N_DIM_GROUPS; g++) {
#pragma unroll
        for (int i = 0; i < HEADS / 2; i++) sums.v[g][i] *= factors[2 * (i / 4) + i % 2];
    }
}

template <int HEADS> __device__ __forceinline__ void settle_sums(value_sums<HEADS> &sums)
{
#pragma unroll
    for (int g = 0; g < N_DIM_GROUPS; g++) wgmma_settle(sums.v[g]);
}

template <int HEADS> __device__ __forceinline__ void clear_sums(value_sums<HEADS> &sums)
{
#pragma unroll
    for (int g = 0; g < N_DIM_GROUPS; g++) {
#pragma unroll
        for (int i = 0; i < HEADS / 2; i++) sums.v[g][i] = 0.0f;
    }
    settle_sums<HEADS>(sums);
}

/* Begins to add a half of a block's dimensions. */
template <int HEADS>
__device__ __forceinline__ void add_half(value_sums<HEADS> &sums, uint64_t values, uint64_t probs,
                                         int half)
{
#pragma unroll
    for (int k = 0; k < 4; k++) {
#pragma unroll
        for (int g = half * N_HALF_GROUPS; g < (half + 1) * N_HALF_GROUPS; g++) {
            wgmma_ss_ta_f16(sums.v[g], wgmma_move(values, g * GROUP_BYTES + k * 2048),
                            wgmma_move(probs, k * 32), true);
        }
    }
    wgmma_commit();
}

template <class PART, int HEADS>
__device__ __forceinline__ void add_block(const attn_args &a, value_sums<HEADS> &sums, uint32_t b,
                                          row_finder &finder, shared_memory<HEADS> &s)
{
    const uint32_t place = b % N_PLACES, parity = b / N_PLACES & 1;
    barrier_wait(shared_address(&s.full[place][0]), parity);
    barrier_wait(shared_address(&s.full[place][1]), parity);
    barrier_wait(shared_address(&s.probs_full[place]), parity);
    if (s.needs_rescale[place]) {
        float factors[HEADS / 4];
#pragma unroll
        for (int j = 0; j < HEADS / 4; j++) factors[j] = s.rescale[place][own_head(j)];
        scale_sums<HEADS>(sums, factors);
    }
    const uint64_t values = wgmma_matrix(uniform(shared_address(s.values[place])), GROUP_BYTES);
    const uint64_t probs = wgmma_matrix(uniform(shared_address(s.probs[place])), 16);
    wgmma_fence();
    add_half<HEADS>(sums, values, probs, 0);
    add_half<HEADS>(sums, values, probs, 1);
    prefetch_rows<PART>(a, finder);
    wgmma_wait<1>();
    barrier_arrive_warp(shared_address(&s.empty[place][0]));
    wgmma_wait<0>();
    settle_sums<HEADS>(sums);
    barrier_arrive_warp(shared_address(&s.empty[place][1]));
    barrier_arrive_warp(shared_address(&s.probs_empty[place]));
}

/* ---- output ---- */

template <int HEADS>
__device__ __forceinline__ head_total read_total(int h, int turn, const shared_memory<HEADS> &s)
{
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < N_WARPGROUP_WARPS; w++) sum += s.part_sum[turn][w][h];
    return {s.part_ref[turn][h], sum};
}

/*
 * To a part's state, [HEADS][DIM] behind references and sums. Threads of neighbouring dimensions trade, so that each has
 * both of one head.
 */
template <int HEADS>
__device__ __forceinline__ void leave_state(const attn_args &a, const attn_part &p, int turn,
                                            const value_sums<HEADS> &sums,
                                            const shared_memory<HEADS> &s)
{
    float *state = own_state(a, p);
    const int h = threadIdx.x % WARPGROUP;
    const bool is_odd = (threadIdx.x & 4) != 0;
    if (h < HEADS) {
        const head_total total = read_total<HEADS>(h, turn, s);
        state[h] = total.ref;
        state[ATTN_MAX_GROUP + h] = total.sum;
    }
    float *values = state + 2 * ATTN_MAX_GROUP + own_head(is_odd) * DIM + own_dim(0, 0) - is_odd;
#pragma unroll
    for (int g = 0; g < N_DIM_GROUPS; g++) {
#pragma unroll
        for (int i = 0; i < HEADS / 2; i += 2) {
            const float kept = is_odd ? sums.v[g][i + 1] : sums.v[g][i];
            const float given = is_odd ? sums.v[g][i] : sums.v[g][i + 1];
            const float other = __shfl_xor_sync(0xffffffffu, given, 4);
            float *to = values + i / 4 * 8 * DIM + g * GROUP_DIMS + i / 2 % 2 * 8;
            *(float2 *)to = is_odd ? make_float2(other, kept) : make_float2(kept, other);
        }
    }
}

/* Turns the rotated group, the last, back by the query's position: a pair is two rows of neighbouring threads. */
template <int HEADS, class PART>
__device__ __forceinline__ void turn_back(const attn_args &a, const PART &p,
                                          value_sums<HEADS> &sums)
{
    float *v = sums.v[N_DIM_GROUPS - 1];
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++) {
        const int dim = own_dim(0, i),
                  head = part_first_head(p, HEADS) + own_head(2 * (i / 4) + i % 2);
        const float2 turn = find_turn(a, p, head, dim / 2);
        const float other = __shfl_xor_sync(0xffffffffu, v[i], 4);
        v[i] = dim % 2 == 0 ? v[i] * turn.x + other * turn.y : v[i] * turn.x - other * turn.y;
    }
}

/* Any dtype and alignment, one value at a time. */
template <int HEADS, class PART>
__device__ __forceinline__ void write_values(const attn_args &a, const PART &p,
                                             const value_sums<HEADS> &sums)
{
#pragma unroll
    for (int g = 0; g < N_DIM_GROUPS; g++) {
#pragma unroll
        for (int i = 0; i < HEADS / 2; i++) {
            const int head = part_first_head(p, HEADS) + own_head(2 * (i / 4) + i % 2);
            char *out = head_out(a, p, head);
            if (head >= count_heads(a, p)) continue;
            if (a.out_is_f32) {
                ((float *)out)[own_dim(g, i)] = sums.v[g][i];
            } else {
                ((uint16_t *)out)[own_dim(g, i)] = (uint16_t)to_bf16_pair(sums.v[g][i], 0.0f);
            }
        }
    }
}

/* Of a staged head, the 16 bytes that begin at dimension 8 * chunk; heads meet in different banks. */
__device__ __forceinline__ uint32_t staged_chunk(uint32_t staged, int head, int chunk)
{
    return staged + head * STAGED_ROW_BYTES + ((chunk ^ (head % 8)) << 4);
}

/* Aligned bf16, N_STAGED_HEADS heads from `first` on, in whole rows. */
template <int HEADS, class PART>
__device__ __forceinline__ void write_rows(const attn_args &a, const PART &p, int first,
                                           const value_sums<HEADS> &sums, shared_memory<HEADS> &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % N_WARPGROUP_WARPS;
    const uint32_t staged = shared_address(s.staged);
    named_barrier(BARRIER_VALUES, WARPGROUP); /* what was there before has been sent */
#pragma unroll
    for (int g = 0; g < N_DIM_GROUPS; g++) {
#pragma unroll
        for (int t = 0; t < N_STAGED_HEADS / 8; t += 2) {
            const float *v = &sums.v[g][4 * (first / 8 + t)];
            store_matrix4_transposed(staged_chunk(staged, 8 * (t + lane / 16) + lane % 8,
                                                  8 * g + 2 * warp + lane / 8 % 2),
                                     to_bf16_pair(v[0], v[1]), to_bf16_pair(v[2], v[3]),
                                     to_bf16_pair(v[4], v[5]), to_bf16_pair(v[6], v[7]));
        }
    }
    named_barrier(BARRIER_VALUES, WARPGROUP);
#pragma unroll
    for (int i = 0; i < N_STAGED_HEADS; i += N_WARPGROUP_WARPS) {
        const int head = part_first_head(p, HEADS) + first + i + warp;
        if (head >= count_heads(a, p)) continue;
        char *out = head_out(a, p, head);
#pragma unroll
        for (int k = 0; k < 2; k++)
            *(uint4 *)(out + k * 512 + lane * 16) =
                load_shared16(staged_chunk(staged, i + warp, 32 * k + lane));
    }
}

/* Divides by the sums, writes out and lse. */
template <int HEADS, class PART>
__device__ __forceinline__ void finish_values(const attn_args &a, const PART &p, int turn,
                                              value_sums<HEADS> &sums, shared_memory<HEADS> &s)
{
    float inverse[HEADS / 4];
#pragma unroll
    for (int j = 0; j < HEADS / 4; j++) {
        const int h = own_head(j), head = part_first_head(p, HEADS) + h;
        const head_total total = read_total<HEADS>(h, turn, s);
        inverse[j] =
            inverse_sum(read_sink(a, p, min(head, count_heads(a, p) - 1)), total.ref, total.sum);
        if (threadIdx.x % WARPGROUP < 4 && head < count_heads(a, p))
            write_lse(a, p, head, total.ref, total.sum);
    }
    scale_sums<HEADS>(sums, inverse);
    if (a.rope_table != NULL) turn_back<HEADS>(a, p, sums);
    if (a.out_is_f32 || !a.out_is_aligned) {
        write_values<HEADS>(a, p, sums);
        return;
    }
#pragma unroll
    for (int first = 0; first < HEADS; first += N_STAGED_HEADS)
        write_rows<HEADS>(a, p, first, sums, s);
}

template <class PART, int HEADS>
__device__ static void run_values(const attn_args &a, shared_memory<HEADS> &s)
{
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    uint32_t b = 0;
    row_finder finder = begin_prefetch<PART>(a);
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const uint32_t end = b + count_blocks(read_part<PART>(a, rank));
        value_sums<HEADS> sums;
        prefetch_queries<PART, HEADS>(a, rank_of_round(round + 1), n_ranks);
        clear_sums<HEADS>(sums);
#pragma unroll 1
        for (; b < end; b++) add_block<PART, HEADS>(a, sums, b, finder, s);
        const PART p = read_part<PART>(a, rank); /* only now: the loop needs the registers */
        narrow_team::sync();
        if (s.is_odd(round % 2)) {
            finish_plain<HEADS, row_state, narrow_team>(a, p, *(plain_memory *)s.probs);
        } else if (p.first_slot >= 0) {
            leave_state<HEADS>(a, p, round % 2, sums, s);
        } else {
            finish_values<HEADS>(a, p, round % 2, sums, s);
        }
        if (p.first_slot >= 0)
            finish_split<unit_merge<HEADS, narrow_team>, narrow_team>(a, p, s.arrival,
                                                                      *(split_sums *)s.q);
    }
}

#endif
