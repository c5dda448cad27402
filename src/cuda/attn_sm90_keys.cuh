/*
 * attn_sm90_keys.cuh - the load warp and the key warps: from index lists to probabilities and bf16 values.
 *
 * Place: cuda, sm_90a only; part of attn_sm90.cu, which describes the kernel.
 *
 * Conversion of e4m3 to bf16: sign, exponent and mantissa of a code are put at their places in a bf16, which
 * is then the code's number times 2^-120, subnormals included; one multiplication by 2^(scale byte - 127 +
 * 120) makes it right. A word of four codes gives two pairs, bytes 1 and 3, then bytes 0 and 2.
 *
 * Order of dimensions: the four threads of a row hold 16 codes of each group of 64. Step j of a group (16 columns of
 * the matrix product) takes word j of each thread: columns 2c and 2c + 1 are bytes 1 and 3 of thread c,
 * columns 8 + 2c and 9 + 2c bytes 0 and 2. Queries are stored in that order, and so are values. In the rotated
 * group a word holds two bf16 and step j takes words 2j and 2j + 1.
 */
#ifndef DSV4_CUDA_ATTN_SM90_KEYS_CUH
#define DSV4_CUDA_ATTN_SM90_KEYS_CUH

#include <math.h>

#include "attn_sm90_shared.cuh"

enum {
    NAN_MAGNITUDE = 0x7f0, /* of code 0x7f at its place in a bf16 */
    BIG_SCALE = 134,       /* scale bytes above it need two multiplications */
};

#define LARGEST_SUM 1099511627776.0f /* 2^40 */

/* What keys that lists do not name are read from. */
__device__ static const uint4 zero_row[ROW_BYTES / 16] = {};

/* ---- load warp ---- */

/* Where loading has got to; lane l of the warp takes entry l of a half block. */
struct load_cursor {
    int32_t round, n_ranks;
    int32_t half, end_half;
    int32_t window_len, total_len;
    const char *window_list, *extra_list;
};

/* Goes on to the next part with keys; false when there is none. */
__device__ __forceinline__ bool seek_part(const attn_args &a, load_cursor &c)
{
    while (c.half >= c.end_half) {
        int32_t rank = rank_of_round(c.round);
        if (rank >= c.n_ranks) return false;
        c.round++;
        attn_part p = read_part(a, rank);
        int64_t query = part_query(p);
        c.half = 2 * p.first_block;
        c.end_half = 2 * p.end_block;
        c.window_len = p.window_len;
        c.total_len = p.total_len;
        c.window_list = a.window.indices + p.request * a.window.indices_request_stride_bytes +
                        query * a.window.indices_query_stride_bytes;
        c.extra_list = a.extra.indices + p.request * a.extra.indices_request_stride_bytes +
                       query * a.extra.indices_query_stride_bytes - 4 * (int64_t)p.window_len;
    }
    return true;
}

struct key_index {
    int32_t slot; /* negative: no key */
    bool is_extra;
};

__device__ __forceinline__ key_index load_index(const load_cursor &c)
{
    int32_t entry = c.half * HALF_KEYS + threadIdx.x % 32;
    key_index k = {-1, false};
    if (entry >= c.total_len) return k;
    k.is_extra = entry >= c.window_len;
    k.slot = __ldg((const int32_t *)((k.is_extra ? c.extra_list : c.window_list) + 4 * (int64_t)entry));
    return k;
}

struct key_row {
    const unsigned char *codes, *scales;
    bool is_valid;
};

__device__ __forceinline__ key_row locate_row(const attn_args &a, key_index k)
{
    key_row row;
    const bool x = k.is_extra;
    const uint32_t slot = (uint32_t)k.slot; /* negative ones are large */
    row.is_valid = slot < (x ? a.extra.n_slots : a.window.n_slots);
    uint32_t page = __umulhi(2 * slot, x ? a.extra.divide_factor : a.window.divide_factor) >>
                    (x ? a.extra.divide_shift : a.window.divide_shift);
    uint32_t in_page = slot - page * (x ? a.extra.page_rows : a.window.page_rows);
    const unsigned char *base = (x ? a.extra.cache : a.window.cache) +
                                page * (x ? a.extra.page_stride_bytes : a.window.page_stride_bytes);
    const unsigned char *scales = base + (x ? a.extra.scale_plane_bytes : a.window.scale_plane_bytes);
    row.codes = row.is_valid ? base + in_page * ROW_BYTES : (const unsigned char *)zero_row;
    row.scales = row.is_valid ? scales + in_page * SCALE_BYTES : (const unsigned char *)zero_row;
    return row;
}

template <int HEADS> __device__ static void run_load(const attn_args &a, shared_memory<HEADS> &s)
{
    const int lane = threadIdx.x % 32;
    load_cursor c = {};
    ring_place<ring_sizes<HEADS>::raw> place = {};
    c.n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    if (!seek_part(a, c)) return;
    key_index index = load_index(c);
    for (bool has_more = true; has_more;) {
        key_row row = locate_row(a, index);
        c.half++;
        has_more = seek_part(a, c);
        if (has_more) index = load_index(c);

        const uint32_t full = shared_address(&s.raw_full[place.slot]);
        barrier_wait(shared_address(&s.raw_empty[place.slot]), (place.pass & 1) ^ 1);
        uint32_t valid = __ballot_sync(0xffffffffu, row.is_valid);
        if (lane == 0) {
            s.valid[place.slot] = valid;
            barrier_arrive_expect(full, HALF_KEYS * ROW_BYTES);
        }
        __syncwarp();
        copy_bulk(shared_address(s.raw[place.slot]) + lane * ROW_BYTES, row.codes, ROW_BYTES, full);
        copy_async8(shared_address(s.scales[place.slot]) + lane * SCALE_BYTES, row.scales);
        copy_async_arrive(full);
        place.advance(1);
    }
}

/* ---- key warps: queries ---- */

/* 16 dimensions of a query head, 32 bytes. */
struct query_piece {
    uint4 low, high;
};

__device__ __forceinline__ query_piece load_piece(const char *source, bool is_aligned)
{
    query_piece piece;
    if (is_aligned) {
        piece.low = __ldg((const uint4 *)source);
        piece.high = __ldg((const uint4 *)source + 1);
        return piece;
    }
    uint32_t w[8];
    for (int k = 0; k < 8; k++) {
        w[k] = ((const uint16_t *)source)[2 * k] | (uint32_t)((const uint16_t *)source)[2 * k + 1] << 16;
    }
    piece.low = make_uint4(w[0], w[1], w[2], w[3]);
    piece.high = make_uint4(w[4], w[5], w[6], w[7]);
    return piece;
}

/* Thread `quarter` of a row of 128 bytes, chunks swizzled by `swizzle`. */
__device__ __forceinline__ void store_piece(query_piece piece, uint32_t row, int swizzle, int quarter,
                                            bool is_rotated)
{
    const uint32_t words[8] = {piece.low.x,  piece.low.y,  piece.low.z,  piece.low.w,
                               piece.high.x, piece.high.y, piece.high.z, piece.high.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t x = words[2 * j], y = words[2 * j + 1];
        uint32_t first = is_rotated ? x : __byte_perm(x, y, 0x7632), second = is_rotated ? y : __byte_perm(x, y, 0x5410);
        store_shared4(row + (((2 * j) ^ swizzle) << 4) + quarter * 4, first);
        store_shared4(row + (((2 * j + 1) ^ swizzle) << 4) + quarter * 4, second);
    }
}

/* Queries of a part's heads in the keys' order of dimensions, zeros behind the last head. */
template <int HEADS> __device__ static void load_query(const attn_args &a, const attn_part &p, shared_memory<HEADS> &s)
{
    enum { N_PIECES = HEADS * 32 / WARPGROUP, BATCH = N_PIECES < 8 ? N_PIECES : 8 };
    const int first_head = part_first_head(p, HEADS), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const char *q = a.q + p.request * a.q_request_stride_bytes + part_query(p) * a.q_query_stride_bytes;
#pragma unroll 1
    for (int begin = 0; begin < N_PIECES; begin += BATCH) {
        query_piece pieces[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) { /* a warp takes a group of dimensions of eight heads */
            int tile = (begin + i) * 4 + warp, head = tile / N_DIM_GROUPS * 8 + lane / 4;
            pieces[i].low = pieces[i].high = make_uint4(0, 0, 0, 0);
            if (first_head + head < a.n_heads) {
                pieces[i] = load_piece(q + (first_head + head) * a.q_head_stride_bytes +
                                           tile % N_DIM_GROUPS * 128 + lane % 4 * 32,
                                       a.q_is_aligned);
            }
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int tile = (begin + i) * 4 + warp, head = tile / N_DIM_GROUPS * 8 + lane / 4;
            uint32_t row = shared_address(s.q) + (tile % N_DIM_GROUPS * HEADS + head) * 128;
            store_piece(pieces[i], row, lane / 4, lane % 4, tile % N_DIM_GROUPS == N_DIM_GROUPS - 1);
        }
    }
    fence_async_shared();
    named_barrier(BARRIER_KEYS, WARPGROUP);
}

/* ---- key warps: conversion ---- */

__device__ __forceinline__ uint32_t scale_byte(uint2 scales, int group)
{
    return ((group < 4 ? scales.x : scales.y) >> (8 * (group % 4))) & 0xff;
}

/* 2^(byte - 127 + 120) twice; bytes above BIG_SCALE count as BIG_SCALE. */
__device__ __forceinline__ uint32_t scale_factor(uint2 scales, int group, bool is_big)
{
    uint32_t byte = scale_byte(scales, group);
    if (is_big) byte = min(byte, (uint32_t)BIG_SCALE);
    return (byte * 128 + 120 * 128) * 0x10001u;
}

/* What the first factor left out: 2^(byte - BIG_SCALE), 1 or NaN, twice. */
__device__ __forceinline__ uint32_t second_factor(uint2 scales, int group)
{
    uint32_t byte = scale_byte(scales, group);
    uint32_t bits = byte == 255 ? 0x7fffu : (127 + byte - min(byte, (uint32_t)BIG_SCALE)) * 128;
    return bits * 0x10001u;
}

__device__ __forceinline__ bool has_big_scale(uint2 scales)
{
    return (__vcmpgtu4(scales.x, 0x01010101u * BIG_SCALE) |
            (__vcmpgtu4(scales.y, 0x01010101u * BIG_SCALE) & 0x00ffffffu)) != 0;
}

/* One row's four words of codes as the matrix operand of four steps: a[4 * step + row] and [... + 2]. */
__device__ __forceinline__ void convert_codes(uint4 codes, uint32_t factor, int row, uint32_t (&a)[16],
                                              uint32_t &largest)
{
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t odd = (words[j] >> 4) & 0x07f007f0u, even = (words[j] << 4) & 0x07f007f0u;
        largest = __vimax3_u16x2(largest, odd, even);
        a[4 * j + row] = multiply_bf16x2(odd | (words[j] & 0x80008000u), factor);
        a[4 * j + row + 2] = multiply_bf16x2(even | ((words[j] << 8) & 0x80008000u), factor);
    }
}

/* This thread's share of two rows: where they lie, their scales, whether they count. */
struct key_pair {
    uint32_t codes[2]; /* shared addresses of the thread's 16 codes of group 0 */
    uint2 scales[2];
    bool has_big;      /* any row of the warp */
    uint32_t largest[2];
};

/* A thread's 16 codes of a group, or 16 values of the rotated one, of each row, as they lie in the cache. */
struct key_words {
    uint4 low[2], high[2]; /* high: rotated values only */
};

__device__ __forceinline__ key_words load_words(const key_pair &keys, int group)
{
    key_words words;
    const uint32_t offset = group < N_DIM_GROUPS - 1 ? group * 64 : 448 + threadIdx.x % 4 * 16;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        words.low[r] = load_shared16(keys.codes[r] + offset);
        if (group == N_DIM_GROUPS - 1) words.high[r] = load_shared16(keys.codes[r] + offset + 16);
    }
    return words;
}

__device__ __forceinline__ void convert_group(key_pair &keys, const key_words &words, int group, uint32_t (&a)[16])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (group == N_DIM_GROUPS - 1) {
            const uint32_t w[8] = {words.low[r].x,  words.low[r].y,  words.low[r].z,  words.low[r].w,
                                   words.high[r].x, words.high[r].y, words.high[r].z, words.high[r].w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                a[4 * j + r] = w[2 * j];
                a[4 * j + r + 2] = w[2 * j + 1];
            }
            continue;
        }
        convert_codes(words.low[r], scale_factor(keys.scales[r], group, keys.has_big), r, a, keys.largest[r]);
        if (!keys.has_big) continue;
        uint32_t factor = second_factor(keys.scales[r], group);
#pragma unroll
        for (int j = 0; j < 8; j++) a[2 * j + r] = multiply_bf16x2(a[2 * j + r], factor);
    }
}

/* ---- key warps: probabilities ---- */

/*
 * A new reference for every head from this block's scores, and by what the part's sums and values have to
 * be multiplied. Scores as in wgmma.cuh, keys on rows, heads on columns.
 */
template <int HEADS>
__device__ static void set_reference(const float (&scores)[HEADS / 2], float scale_log2, float (&sums)[HEADS / 4],
                                     shared_memory<HEADS> &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < HEADS / 4; i++) {
        float m = fmaxf(scores[i / 2 * 4 + i % 2], scores[i / 2 * 4 + i % 2 + 2]);
        for (int other = 4; other < 32; other *= 2) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, other));
        if (lane < 4) s.block_max[warp][8 * (i / 2) + 2 * lane + i % 2] = m;
    }
    named_barrier(BARRIER_KEYS, WARPGROUP);
    if (threadIdx.x < HEADS) {
        int h = threadIdx.x;
        float m = fmaxf(fmaxf(s.block_max[0][h], s.block_max[1][h]), fmaxf(s.block_max[2][h], s.block_max[3][h]));
        float old = s.ref[h], now = fmaxf(old, m * scale_log2);
        s.ref[h] = now;
        s.rescale[h] = exp2_fast(old - now);
    }
    if (threadIdx.x == 0) s.needs_rescale = 1;
    named_barrier(BARRIER_KEYS, WARPGROUP);
#pragma unroll
    for (int i = 0; i < HEADS / 4; i++) sums[i] *= s.rescale[8 * (i / 2) + 2 * (lane % 4) + i % 2];
}

/* Probabilities of a block, each head's sum of this thread's two keys, and the sum of those. */
template <int HEADS>
__device__ __forceinline__ float make_probs(const float (&scores)[HEADS / 2], float scale_log2,
                                            const shared_memory<HEADS> &s, uint32_t (&probs)[HEADS / 4],
                                            float (&block_sums)[HEADS / 4])
{
    float total = 0.0f;
#pragma unroll
    for (int t = 0; t < HEADS / 8; t++) {
        float2 ref = *(const float2 *)&s.ref[8 * t + 2 * (threadIdx.x % 4)];
        float p0 = exp2_fast(fmaf(scores[4 * t], scale_log2, -ref.x));
        float p1 = exp2_fast(fmaf(scores[4 * t + 1], scale_log2, -ref.y));
        float p2 = exp2_fast(fmaf(scores[4 * t + 2], scale_log2, -ref.x));
        float p3 = exp2_fast(fmaf(scores[4 * t + 3], scale_log2, -ref.y));
        probs[2 * t] = pack_bf16(p0, p1);
        probs[2 * t + 1] = pack_bf16(p2, p3);
        block_sums[2 * t] = p0 + p2;
        block_sums[2 * t + 1] = p1 + p3;
        total += block_sums[2 * t] + block_sums[2 * t + 1];
    }
    return total;
}

/* probs as [HEADS][64 keys] bf16, K-major and swizzled. */
template <int HEADS>
__device__ __forceinline__ void store_probs(const uint32_t (&probs)[HEADS / 4], uint32_t address)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = lane % 8, chunk = (2 * warp + (lane / 8) % 2) ^ row;
    if constexpr (HEADS == 8) {
        store_matrix2_transposed(address + row * 128 + (chunk << 4), probs[0], probs[1]);
    } else {
#pragma unroll
        for (int t = 0; t < HEADS / 8; t += 2) {
            store_matrix4_transposed(address + (8 * (t + lane / 16) + row) * 128 + (chunk << 4), probs[2 * t],
                                     probs[2 * t + 1], probs[2 * t + 2], probs[2 * t + 3]);
        }
    }
}

/* What is added to the scores of this thread's two rows: 0, -inf where there is no key, NaN for NaN codes. */
__device__ __forceinline__ bool make_bias(const key_pair &keys, const bool (&is_valid)[2], float (&bias)[2])
{
    bool is_plain = true;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        bool is_nan = (keys.largest[r] & 0xffff) >= NAN_MAGNITUDE || (keys.largest[r] >> 16) >= NAN_MAGNITUDE;
        uint32_t said = __ballot_sync(0xffffffffu, is_nan); /* of all four threads of a row */
        is_nan = ((said >> (threadIdx.x & 28)) & 15) != 0;
        bias[r] = is_nan ? NAN : (is_valid[r] ? 0.0f : -INFINITY);
        is_plain = is_plain && is_valid[r] && !is_nan;
    }
    return __all_sync(0xffffffffu, is_plain);
}

/* Leaves the references and sums of a part for the value warps. */
template <int HEADS>
__device__ static void finish_keys(const float (&sums)[HEADS / 4], shared_memory<HEADS> &s, uint32_t n_done)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    named_barrier(BARRIER_KEYS, WARPGROUP); /* the next part resets ref */
    barrier_wait(shared_address(&s.part_empty), (n_done & 1) ^ 1);
#pragma unroll
    for (int i = 0; i < HEADS / 4; i++) {
        float sum = sums[i];
        for (int other = 4; other < 32; other *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
        if (lane < 4) s.part_sum[warp][8 * (i / 2) + 2 * lane + i % 2] = sum;
    }
    if (threadIdx.x < HEADS) s.part_ref[threadIdx.x] = s.ref[threadIdx.x];
    barrier_arrive(shared_address(&s.part_full));
}

/* Four steps of a group: scores (+)= keys * queries, and the keys to the values' buffer. */
template <int HEADS>
__device__ __forceinline__ void multiply_group(float (&scores)[HEADS / 2], const uint32_t (&keys)[16],
                                               uint32_t queries, uint32_t values, bool adds)
{
#pragma unroll
    for (int j = 0; j < 4; j++) {
        store_matrix4(values ^ (j << 5), keys[4 * j], keys[4 * j + 1], keys[4 * j + 2], keys[4 * j + 3]);
    }
    wgmma_fence();
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t operand[4] = {keys[4 * j], keys[4 * j + 1], keys[4 * j + 2], keys[4 * j + 3]};
        wgmma_rs(scores, operand, wgmma_matrix(queries + j * 32, 16), adds || j > 0);
    }
    wgmma_commit();
}

template <int HEADS> __device__ static void run_keys(const attn_args &a, shared_memory<HEADS> &s)
{
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, quarter = lane % 4;
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    const int row = 16 * (warp % 2) + lane / 4; /* in the half block; the other row is 8 on */
    /* lane l stores keys l % 16 of the warp, columns 0..7 or 8..15 of a step (store_matrix4) */
    const uint32_t store_offset = (16 * (warp % 2) + lane % 16) * 128 + (((lane / 16) ^ (lane % 8)) << 4);
    ring_place<ring_sizes<HEADS>::raw> raw = {};
    ring_place<ring_sizes<HEADS>::values> values = {};
    uint32_t n_blocks_done = 0, n_parts_done = 0;
    raw.advance(warp / 2);
    values.advance(warp / 2);

    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        attn_part p = read_part(a, rank);
        float sums[HEADS / 4] = {};
        if (thread < HEADS) s.ref[thread] = FIRST_REF;
        load_query<HEADS>(a, p, s);
#pragma unroll 1
        for (int32_t block = p.first_block; block < p.end_block; block++) {
            float scores[HEADS / 2];
            uint32_t even[16], odd[16];
            key_pair keys;
            barrier_wait(shared_address(&s.raw_full[raw.slot]), raw.pass & 1);
            uint32_t codes = shared_address(s.raw[raw.slot]) + row * ROW_BYTES;
            uint32_t valid = s.valid[raw.slot] >> row;
            const bool is_valid[2] = {(valid & 1) != 0, (valid & 0x100) != 0};
#pragma unroll
            for (int r = 0; r < 2; r++) {
                keys.codes[r] = codes + 8 * r * ROW_BYTES + quarter * 16;
                keys.scales[r] = *(const uint2 *)&s.scales[raw.slot][(row + 8 * r) * SCALE_BYTES];
                keys.largest[r] = 0;
            }
            keys.has_big = __any_sync(0xffffffffu, has_big_scale(keys.scales[0]) || has_big_scale(keys.scales[1]));
            barrier_wait(shared_address(&s.values_empty[values.slot]), (values.pass & 1) ^ 1);

            const uint32_t queries = shared_address(s.q);
            const uint32_t store = shared_address(s.values[values.slot]) + store_offset;
            key_words words = load_words(keys, 0);
#pragma unroll
            for (int g = 0; g < N_DIM_GROUPS; g++) {
                uint32_t(&operand)[16] = g % 2 == 0 ? even : odd;
                key_words next = words;
                if (g + 1 < N_DIM_GROUPS) next = load_words(keys, g + 1);
                if (g > 1) wgmma_wait<1>();
                convert_group(keys, words, g, operand);
                multiply_group<HEADS>(scores, operand, queries + g * HEADS * 128, store + g * HALF_GROUP_BYTES, g > 0);
                words = next;
            }
            __syncwarp();
            if (lane == 0) barrier_arrive(shared_address(&s.raw_empty[raw.slot]));
            float bias[2];
            const bool is_plain = make_bias(keys, is_valid, bias);
            barrier_wait(shared_address(&s.probs_empty), (n_blocks_done & 1) ^ 1);
            if (thread == 0) s.needs_rescale = 0;
            wgmma_wait<0>();
            if (!is_plain) {
#pragma unroll
                for (int i = 0; i < HEADS / 2; i++) scores[i] += bias[i / 2 % 2];
            }
            uint32_t probs[HEADS / 4];
            float block_sums[HEADS / 4];
            float total = make_probs<HEADS>(scores, a.scale_log2, s, probs, block_sums);
            if (named_barrier_any(BARRIER_KEYS, WARPGROUP, !(total < LARGEST_SUM))) {
                set_reference<HEADS>(scores, a.scale_log2, sums, s);
                make_probs<HEADS>(scores, a.scale_log2, s, probs, block_sums);
            }
#pragma unroll
            for (int i = 0; i < HEADS / 4; i++) sums[i] += block_sums[i];
            store_probs<HEADS>(probs, shared_address(s.probs));
            fence_async_shared();
            barrier_arrive(shared_address(&s.full));
            raw.advance(2);
            values.advance(2);
            n_blocks_done++;
        }
        finish_keys<HEADS>(sums, s, n_parts_done++);
    }
}

#endif
