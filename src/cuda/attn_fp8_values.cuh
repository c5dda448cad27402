/*
 * attn_fp8_values.cuh - the value warps of the FP8 attention kernel: probabilities times values, output.
 *
 * Place: cuda, sm_90a only; part of attn_fp8.cu, which describes the kernel.
 *
 * Dimensions are on the rows of the second product, heads on its columns. Codes are transposed on their way to
 * registers, as pairs of dimensions, whose bytes are then sorted.
 */
#ifndef DSV4_CUDA_ATTN_FP8_VALUES_CUH
#define DSV4_CUDA_ATTN_FP8_VALUES_CUH

#include "attn_fp8_loads.cuh"
#include "attn_sm90_sums.cuh"

/* ---- products ---- */

/* 16 dimensions of a group for 32 keys: bytes of keys 0, 8, 1, 9, ... of a dimension. */
__device__ __forceinline__ void load_values(uint32_t (&a)[4], uint32_t codes)
{
    load_matrix4_transposed(a, codes);
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const uint32_t low = a[i], high = a[i + 1];
        a[i] = __byte_perm(low, high, 0x6240);
        a[i + 1] = __byte_perm(low, high, 0x7351);
    }
}

/*
 * Sums of group I of the warpgroup's += its values times the probabilities at `probs`. codes: shared address of the
 * lane's 16 bytes. One step after the other: there are no registers for the values of a second.
 */
template <int HEADS, int I>
__device__ __forceinline__ void add_values(value_sums<HEADS> &sums, uint32_t (&a)[4],
                                           uint32_t codes, uint64_t probs, bool adds)
{
    float(&d)[HEADS / 2] = *(float(*)[HEADS / 2]) & sums.v[I * (HEADS / 2)];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        if (I + k > 0) wgmma_wait<0>();
        load_values(a, codes + I * CODE_GROUP_BYTES + k * 32 * GROUP_DIMS);
        wgmma_fence();
        wgmma_rs_e4m3(d, a, wgmma_move(probs, I * HEADS * GROUP_DIMS + k * 32), adds || k > 0);
        wgmma_commit();
    }
}

/* The same of the rotated group; values: shared address of the block's. */
template <int HEADS>
__device__ __forceinline__ void add_rotated(value_sums<HEADS> &sums, uint32_t values,
                                            uint32_t probs, bool adds)
{
    float(&d)[HEADS / 2] = *(float(*)[HEADS / 2]) & sums.v[3 * (HEADS / 2)];
    const uint64_t v = wgmma_matrix(values, GROUP_BYTES), p = wgmma_matrix(probs, 16);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++)
        wgmma_ss_ta(d, wgmma_move(v, k * 2048), wgmma_move(p, k * 32), adds || k > 0);
    wgmma_commit();
}

/* A block. slot, probs: shared addresses. */
template <int HEADS>
__device__ __forceinline__ void add_code_block(value_sums<HEADS> &sums, uint32_t slot,
                                               uint32_t probs, int half, bool adds)
{
    const uint32_t thread = read_thread(), lane = thread % 32, warp = thread / 32 % 4;
    const uint32_t codes =
        slot + half * 4 * CODE_GROUP_BYTES + lane * 64 + ((warp ^ (lane / 2 % 4)) << 4);
    const uint64_t p = wgmma_move(wgmma_matrix64(probs), half * 4 * HEADS * GROUP_DIMS);
    uint32_t a[4];
    add_values<HEADS, 0>(sums, a, codes, p, adds);
    add_values<HEADS, 1>(sums, a, codes, p, adds);
    add_values<HEADS, 2>(sums, a, codes, p, adds);
    if (half == 0) {
        add_values<HEADS, 3>(sums, a, codes, p, adds);
    } else {
        add_rotated<HEADS>(sums, slot + CODE_BYTES, probs + N_CODE_GROUPS * HEADS * GROUP_DIMS,
                           adds);
    }
    wgmma_wait<0>();
}

/* A power of two for each of the warpgroup's groups; `bytes` of the rotated one are not used. */
struct group_factors {
    float v[4];
};

/* 2^-bytes. */
__device__ __forceinline__ group_factors shift_factors(uint2 bytes, int half)
{
    group_factors f;
#pragma unroll
    for (int g = 0; g < 4; g++) {
        const uint32_t below = half == 1 && g == 3 ? 0 : byte_of(bytes, half * 4 + g);
        f.v[g] = below > 126 ? 0.0f : __uint_as_float((127 - below) << 23);
    }
    return f;
}

/* From codes to numbers: what a reference of scales stands for. */
__device__ __forceinline__ group_factors scale_factors(uint2 bytes, int half)
{
    group_factors f;
#pragma unroll
    for (int g = 0; g < 4; g++) {
        const int32_t exponent = (int32_t)byte_of(bytes, half * 4 + g) - 127 - PROB_EXPONENT;
        f.v[g] = half == 1 && g == 3 ? 1.0f : exp2f((float)exponent);
    }
    return f;
}

/* Multiplies the sums of half of the heads. */
template <int HEADS, int HALF>
__device__ __forceinline__ void scale_code_half(value_sums<HEADS> &sums, const group_factors &f)
{
#pragma unroll
    for (int i = 0; i < 2 * HEADS; i++) {
        if (i / 4 % (HEADS / 8) / (HEADS / 16) == HALF) sums.v[i] *= f.v[i / (HEADS / 2)];
    }
}

/* Multiplies each head's sums by its factor. */
template <int HEADS>
__device__ __forceinline__ void scale_code_heads(value_sums<HEADS> &sums, const float *factors)
{
#pragma unroll
    for (int t = 0; t < HEADS / 8; t++) {
        const float2 f = *(const float2 *)&factors[8 * t + threadIdx.x % 4 * 2];
#pragma unroll
        for (int g = 0; g < 4; g++) {
            float *v = &sums.v[g * (HEADS / 2) + 4 * t];
            v[0] *= f.x;
            v[1] *= f.y;
            v[2] *= f.x;
            v[3] *= f.y;
        }
    }
}

/* To the references that half of the key warps have set with a block. */
template <int HEADS, int HALF>
__device__ __forceinline__ void rescale_code_half(value_sums<HEADS> &sums, const float *rescale,
                                                  uint2 shift, int half)
{
    const group_factors f = shift_factors(shift, half);
#pragma unroll
    for (int t = HALF * (HEADS / 16); t < (HALF + 1) * (HEADS / 16); t++) {
        const float2 head = *(const float2 *)&rescale[8 * t + threadIdx.x % 4 * 2];
#pragma unroll
        for (int g = 0; g < 4; g++) {
            float *v = &sums.v[g * (HEADS / 2) + 4 * t];
            v[0] *= head.x * f.v[g];
            v[1] *= head.y * f.v[g];
            v[2] *= head.x * f.v[g];
            v[3] *= head.y * f.v[g];
        }
    }
}

/* A thread has pairs of dimensions, but in the rotated group eight dimensions apart. */
template <int HEADS> struct code_layout : column_heads<HEADS> {
    __device__ static __forceinline__ int dim(int half, int i)
    {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
        const int group = half * 4 + i / (HEADS / 2), lower = i / 2 % 2;
        return 64 * group + 16 * warp +
               (group == N_CODE_GROUPS ? lane / 4 + 8 * lower : lane / 4 * 2 + lower);
    }
};

/* ---- partial states: the last to arrive merges all; the way of attn_split.cuh takes registers that are not there ---- */

/* Leaves this part's state in its slot; true for every thread when all parts of the task have arrived. */
template <int HEADS>
__device__ static bool leave_state(const attn_args &a, const attn_part &p,
                                   const value_sums<HEADS> &sums, fp8_memory<HEADS> &s)
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
        int32_t *arrived = &a.arrivals[p.first_slot].arrived;
        bool is_last = add_acquire_release(arrived, 1) == n_parts - 1;
        if (is_last) *arrived = 0;
        s.is_last_arriver = is_last;
    }
    named_barrier(BARRIER_VALUES, N_VALUE_THREADS);
    return s.is_last_arriver != 0;
}

/* The sum of all parts in their order, so that it does not depend on who came last. */
template <int HEADS>
__device__ static void merge_states(const attn_args &a, const attn_part &p, value_sums<HEADS> &sums,
                                    fp8_memory<HEADS> &s)
{
    typedef code_layout<HEADS> layout;
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
        float weights[layout::n];
#pragma unroll
        for (int i = 0; i < layout::n; i++) {
            int h = layout::head(layout::value(i));
            weights[i] = exp2f(__ldcg(&heads[h]) - s.part_ref[h]);
        }
#pragma unroll
        for (int i = 0; i < HEADS / 2; i++) {
            float4 v = __ldcg(&values[i * N_VALUE_THREADS + thread]);
            sums.v[4 * i] += weights[layout::of(4 * i)] * v.x;
            sums.v[4 * i + 1] += weights[layout::of(4 * i + 1)] * v.y;
            sums.v[4 * i + 2] += weights[layout::of(4 * i + 2)] * v.z;
            sums.v[4 * i + 3] += weights[layout::of(4 * i + 3)] * v.w;
        }
    }
}

/* ---- output ---- */

/*
 * Half of the heads, in the natural order of dimensions as bf16, to rows of 1024 bytes; 32 bytes of a warp trade places
 * so that threads meet in different banks. stage: shared address.
 */
template <int HEADS, int SECOND>
__device__ __forceinline__ void stage_code_rows(const value_sums<HEADS> &sums, int half,
                                                uint32_t stage)
{
    enum { N_TILES = HEADS / 16 };
    const uint32_t thread = read_thread(), lane = thread % 32, warp = thread / 32 % 4;
    const uint32_t odd = lane / 4 % 2, to = stage + 2 * (lane % 4) * 1024 + half * 512 +
                                            ((warp ^ (lane % 4)) << 5) + lane / 4 * 4;
    const uint32_t rotated = to - lane / 4 * 4 + odd * 16 + lane / 8 * 4;
#pragma unroll
    for (int g = 0; g < 4; g++) {
#pragma unroll
        for (int t = 0; t < N_TILES; t++) {
            const float *v = &sums.v[g * (HEADS / 2) + 4 * (t + SECOND * N_TILES)];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float low = v[e], high = v[2 + e];
                if (g == 3 && half == 1) {
                    const float other = __shfl_xor_sync(0xffffffffu, odd ? low : high, 4);
                    low = odd ? other : low;
                    high = odd ? high : other;
                }
                store_shared4((g == 3 && half == 1 ? rotated : to) + (8 * t + e) * 1024 + g * 128,
                              to_bf16_pair(low, high));
            }
        }
    }
}

/* A warp takes half of a head's 1024 bytes at a time. first_head: the first that is staged. */
template <int HEADS>
__device__ __forceinline__ void send_code_rows(const attn_args &a, const attn_part &p,
                                               int first_head, uint32_t stage)
{
    const uint32_t thread = read_thread() - N_KEY_THREADS, warp = thread / 32;
#pragma unroll 4
    for (uint32_t h = warp; h < HEADS / 2; h += N_VALUE_WARPS) {
        const uint32_t byte = thread % 32 * 16, from = stage + h * 1024 + (byte ^ (h / 2 % 4 << 5));
        char *to =
            part_out(a, p, first_head + h) + (first_head + h) * a.out_head_stride_bytes + byte;
        if (first_head + (int)h >= a.n_heads) continue;
        *(uint4 *)to = load_shared16(from);
        *(uint4 *)(to + 512) = load_shared16(from + 512);
    }
}

/* Aligned bf16. */
template <int HEADS>
__device__ __forceinline__ void write_code_rows(const attn_args &a, const attn_part &p,
                                                const value_sums<HEADS> &sums, int half,
                                                uint32_t stage)
{
    const int first_head = part_first_head(p, HEADS);
    stage_code_rows<HEADS, 0>(sums, half, stage);
    named_barrier(BARRIER_VALUES, N_VALUE_THREADS);
    send_code_rows<HEADS>(a, p, first_head, stage);
    named_barrier(BARRIER_VALUES, N_VALUE_THREADS);
    stage_code_rows<HEADS, 1>(sums, half, stage);
    named_barrier(BARRIER_VALUES, N_VALUE_THREADS);
    send_code_rows<HEADS>(a, p, first_head + HEADS / 2, stage);
}

/* What a head's sums are divided by, for all threads; and its lse. */
template <int HEADS>
__device__ __forceinline__ void finish_heads(const attn_args &a, const attn_part &p,
                                             fp8_memory<HEADS> &s)
{
    const int thread = threadIdx.x - N_KEY_THREADS, head = part_first_head(p, HEADS) + thread;
    if (thread < HEADS) {
        const float sum = add_warps(s.part_sum, thread), ref = s.part_ref[thread];
        const bool is_real = head < a.n_heads;
        const float sink = a.sink == NULL || !is_real ? 0.0f : exp2f(a.sink[head] * LOG2_E - ref);
        s.inverse[thread] = sum == 0.0f ? 0.0f : 1.0f / (sum + sink);
        if (a.lse != NULL && is_real) {
            *(float *)(a.lse + p.request * a.lse_request_stride_bytes +
                       part_query(p) * a.lse_query_stride_bytes + head * a.lse_head_stride_bytes) =
                sum == 0.0f ? INFINITY : (ref + log2f(sum)) * LN_2;
        }
    }
    named_barrier(BARRIER_VALUES, N_VALUE_THREADS);
}

/* stage: shared address of probs_bytes that are free, or 0: the part had no keys. */
template <int HEADS>
__device__ static void finish_code_values(const attn_args &a, const attn_part &p,
                                          value_sums<HEADS> &sums, int half, uint32_t stage,
                                          fp8_memory<HEADS> &s)
{
    finish_heads<HEADS>(a, p, s);
    scale_code_heads<HEADS>(sums, s.inverse);
    if (half == 1 && a.rope_table != NULL) turn_rows_back<code_layout<HEADS>>(a, p, sums);
    if (a.out_is_f32 || !a.out_is_aligned || stage == 0) {
        write_values<code_layout<HEADS>>(a, p, sums, half);
    } else {
        write_code_rows<HEADS>(a, p, sums, half, stage);
    }
}

__device__ __forceinline__ uint32_t count_part_blocks(const attn_args &a, int32_t rank)
{
    const attn_part p = read_part(a, rank);
    return (uint32_t)(p.end_block - p.first_block);
}

template <int HEADS>
__device__ static void run_code_values(const attn_args &a, fp8_memory<HEADS> &s)
{
    const int half = __shfl_sync(0xffffffffu, read_thread() / WARPGROUP, 0) - N_STREAMS;
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    uint32_t b = 0, n_parts_done = 0, slot_parity = 0;
    int slot = 0;
    value_sums<HEADS> sums;
    prefetch_query<attn_part, HEADS>(a, rank_of_round(0), n_ranks);
    code_loader loader = begin_code_rows<HEADS>(a, s);
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        prefetch_query<attn_part, HEADS>(a, rank_of_round(round + 1), n_ranks);
        const uint32_t begin = b, end = b + count_part_blocks(a, rank);
        if (begin == end) {
#pragma unroll
            for (int i = 0; i < 2 * HEADS; i++) sums.v[i] = 0.0f;
        }
#pragma unroll 1
        for (; b < end; b++) {
            const int place = b % N_PROBS;
            barrier_wait(shared_address(&s.full[place]), b / N_PROBS & 1);
            /* not waited for: the key warps have read them */
            barrier_wait(shared_address(&s.loaded[slot]), slot_parity);
            if (half == 1) fence_async_shared(); /* rotated values came by ordinary copies */
            const bool adds = b > begin;
            if (adds && s.needs_rescale[place][0])
                rescale_code_half<HEADS, 0>(sums, s.rescale[place], s.scale_shift[place][0], half);
            if (adds && s.needs_rescale[place][1])
                rescale_code_half<HEADS, 1>(sums, s.rescale[place], s.scale_shift[place][1], half);
            add_code_block<HEADS>(sums, shared_address(s.rows[slot]),
                                  shared_address(s.probs[place]), half, adds);
            barrier_arrive_warp(shared_address(&s.empty[slot]));
            if (b + 1 < end) barrier_arrive_warp(shared_address(&s.probs_empty[place]));
            load_code_rows<HEADS>(a, loader, s);
            slot = next_place(slot, fp8_memory<HEADS>::n_slots);
            if (slot == 0) slot_parity ^= 1;
        }
        const attn_part p = read_part(a, rank); /* only now: the loop needs the registers */
        barrier_wait(shared_address(&s.part_full), n_parts_done & 1);
        scale_code_half<HEADS, 0>(sums, scale_factors(s.part_scale_ref[0], half));
        scale_code_half<HEADS, 1>(sums, scale_factors(s.part_scale_ref[1], half));
        bool is_complete = true;
        if (p.first_slot >= 0) {
            is_complete = leave_state(a, p, sums, s);
            if (is_complete) merge_states(a, p, sums, s);
        }
        /* the last block's probabilities are kept from the key warps for this */
        const int place = (end - 1) % N_PROBS;
        if (is_complete) {
            const uint32_t stage = begin < end ? shared_address(s.probs[place]) : 0;
            finish_code_values<HEADS>(a, p, sums, half, stage, s);
        }
        if (begin < end) barrier_arrive_warp(shared_address(&s.probs_empty[place]));
        barrier_arrive(shared_address(&s.part_empty));
        n_parts_done++;
    }
    copy_async_wait<0>();
}

#endif
