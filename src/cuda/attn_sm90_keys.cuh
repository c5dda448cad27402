/*
 * attn_sm90_keys.cuh - the key warps: from index lists to probabilities and bf16 values.
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

/*
 * Of which tiles of eight heads a warpgroup makes probabilities: n from its first on. Its scores begin with them. Eight
 * heads are the first warpgroup's alone.
 */
template <int HEADS> struct own_tiles {
    static constexpr int n = HEADS == 8 ? 1 : HEADS / 16;
    static constexpr int second_first =
        HEADS == 8 ? 0 : HEADS / 2; /* the second warpgroup's first head */
};

/* ---- key warps: queries ---- */

/* 16 dimensions of a query head, 32 bytes. */
struct query_piece {
    uint4 low, high;
};

__device__ static __noinline__ query_piece load_unaligned_piece(const char *source)
{
    query_piece piece;
    uint32_t w[8];
    for (int k = 0; k < 8; k++) {
        w[k] = ((const uint16_t *)source)[2 * k] | (uint32_t)((const uint16_t *)source)[2 * k + 1]
                                                       << 16;
    }
    piece.low = make_uint4(w[0], w[1], w[2], w[3]);
    piece.high = make_uint4(w[4], w[5], w[6], w[7]);
    return piece;
}

/*
 * A warp's 16 dimensions of eight heads a thread, to rows of 128 bytes: chunk 2j gets values 1 and 3 of each four at
 * word j, chunk 2j + 1 values 0 and 2; in the rotated group words 2j and 2j + 1 as they are. row: this lane's.
 */
__device__ __forceinline__ void store_piece(query_piece piece, uint32_t row, bool is_rotated)
{
    const int lane = threadIdx.x % 32;
    const uint32_t words[8] = {piece.low.x,  piece.low.y,  piece.low.z,  piece.low.w,
                               piece.high.x, piece.high.y, piece.high.z, piece.high.w};
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
        uint32_t chunks[4];
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            const uint32_t x = words[2 * j + i], y = words[2 * j + i + 1];
            chunks[i] = is_rotated ? x : __byte_perm(x, y, 0x7632);
            chunks[i + 1] = is_rotated ? y : __byte_perm(x, y, 0x5410);
        }
        store_matrix4(row + (((2 * j + lane / 8) ^ (lane % 8)) << 4), chunks[0], chunks[1],
                      chunks[2], chunks[3]);
    }
}

/*
 * Queries of a part's heads in the keys' order of dimensions, zeros behind the last head. The second warpgroup's
 * dimensions have its own heads first (own_tiles).
 */
template <int HEADS>
__device__ static void load_query(const attn_args &a, const attn_part &p, unsigned char *q_memory,
                                  int second_first)
{
    enum { N_PIECES = HEADS * 32 / N_KEY_THREADS };
    const int first_head = part_first_head(p, HEADS), lane = threadIdx.x % 32,
              warp = threadIdx.x / 32;
    const char *q =
        a.q + p.request * a.q_request_stride_bytes + part_query(p) * a.q_query_stride_bytes;
    query_piece pieces[N_PIECES];
    const char *source = q + first_head * a.q_head_stride_bytes + warp * 128 + lane % 4 * 32;
    if (a.q_is_aligned) {
#pragma unroll
        for (int i = 0; i < N_PIECES; i++) { /* a warp takes its group of dimensions of eight heads */
            const int head = 8 * i + lane / 4;
            const uint4 *from = (const uint4 *)(source + head * a.q_head_stride_bytes);
            if (first_head + head >= a.n_heads) from = zero_row;
            pieces[i].low = __ldg(from);
            pieces[i].high = __ldg(from + 1);
        }
    } else {
#pragma unroll
        for (int i = 0; i < N_PIECES; i++) {
            const int head = 8 * i + lane / 4;
            pieces[i] = load_unaligned_piece(first_head + head < a.n_heads
                                                 ? source + head * a.q_head_stride_bytes
                                                 : (const char *)zero_row);
        }
    }
    const int first = warp < N_OWN_GROUPS ? 0 : second_first;
#pragma unroll
    for (int i = 0; i < N_PIECES; i++) {
        const int head = (8 * i + lane % 8 + HEADS - first) % HEADS;
        store_piece(pieces[i], shared_address(q_memory) + (warp * HEADS + head) * 128,
                    warp == N_DIM_GROUPS - 1);
    }
    fence_async_shared();
    named_barrier(BARRIER_KEYS, N_KEY_THREADS);
}

/* ---- key warps: conversion ---- */

/* This thread's share of two rows, of its warpgroup's groups of dimensions. */
struct key_pair {
    uint32_t codes[2];   /* shared addresses of the thread's 16 codes of the next group */
    uint32_t scales[2];  /* scale bytes from the next group on, at most BIG_SCALE */
    uint32_t all[2];     /* without that limit */
    uint32_t largest[2]; /* magnitudes of codes */
    bool has_big;        /* any row of the warp has a scale above BIG_SCALE */
};

/* Two words of four codes as the matrix operand of two steps: a[4 * step + row] and [... + 2]. */
__device__ __forceinline__ void convert_words(const uint32_t (&words)[2], uint32_t factor, int row,
                                              uint32_t (&a)[8], uint32_t &largest)
{
#pragma unroll
    for (int j = 0; j < 2; j++)
        convert_codes(words[j], factor, a[4 * j + row], a[4 * j + row + 2], largest);
}

/* Scores (+)= keys * queries for two steps, and the keys to the values' buffer. */
template <int HEADS>
__device__ __forceinline__ void multiply_keys(float (&scores)[HEADS / 2], const uint32_t (&a)[8],
                                              uint64_t queries, uint32_t values, bool adds)
{
    store_matrix4(values, a[0], a[1], a[2], a[3]);
    store_matrix4(values ^ 32, a[4], a[5], a[6], a[7]);
    wgmma_fence();
    uint32_t first[4] = {a[0], a[1], a[2], a[3]}, second[4] = {a[4], a[5], a[6], a[7]};
    wgmma_rs(scores, first, queries, adds);
    wgmma_rs(scores, second, wgmma_move(queries, 32), true);
    wgmma_commit();
}

/* Half a group, two steps: two words of this thread's 16 codes of both rows. */
__device__ __forceinline__ void convert_half(key_pair &keys, const uint32_t (&words)[2][2],
                                             uint32_t (&operand)[8])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        convert_words(words[r], scale_factor(keys.scales[r] & 0xff), r, operand, keys.largest[r]);
    }
    if (!keys.has_big) return;
#pragma unroll
    for (int n = 0; n < 8; n++)
        operand[n] = multiply_bf16x2(operand[n], second_factor(keys.all[n % 2]));
}

/* Half of the rotated group: 16 bytes of this thread's 32 of both rows. */
__device__ __forceinline__ void take_half(const uint4 (&words)[2], uint32_t (&operand)[8])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        operand[r] = words[r].x;
        operand[r + 2] = words[r].y;
        operand[r + 4] = words[r].z;
        operand[r + 6] = words[r].w;
    }
}

/*
 * The warpgroup's half of the dimensions of a block: scores of them, and values. The loop is not unrolled: its code
 * has to stay in the smallest instruction cache. Half of a group is multiplied while the other half is converted,
 * and while the other warpgroup converts.
 */
template <int HEADS>
__device__ __forceinline__ void multiply_block(key_pair &keys, int warpgroup, uint64_t queries,
                                               uint32_t values, float (&scores)[HEADS / 2])
{
    uint32_t first[8], second[8];
    uint4 words[2] = {load_shared16(keys.codes[0]), load_shared16(keys.codes[1])};
    const int n_groups = N_OWN_GROUPS - warpgroup; /* of codes */
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++) scores[i] = 0.0f;
    wgmma_settle(scores);
#pragma unroll 1
    for (int g = 0; g < n_groups; g++) {
        const uint32_t low[2][2] = {{words[0].x, words[0].y}, {words[1].x, words[1].y}};
        convert_half(keys, low, first);
        multiply_keys<HEADS>(scores, first, queries, values, true);
        const uint32_t high[2][2] = {{words[0].z, words[0].w}, {words[1].z, words[1].w}};
        wgmma_wait<1>(); /* the operands of the half before may change */
        convert_half(keys, high, second);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            keys.scales[r] >>= 8;
            keys.all[r] >>= 8;
            keys.codes[r] += 64;
            words[r] = load_shared16(
                keys.codes[r]); /* behind the last group: read, not used, or rotated */
        }
        multiply_keys<HEADS>(scores, second, wgmma_move(queries, 64), values ^ 64, true);
        queries = wgmma_move(queries, HEADS * 128);
        values += HALF_GROUP_BYTES;
        wgmma_wait<1>();
    }
    if (warpgroup == 0) {
        wgmma_wait<0>();
        return;
    }
    const uint32_t offset = threadIdx.x % 4 * 16; /* 32 bytes a thread instead of 16 */
    const uint4 low[2] = {load_shared16(keys.codes[0] + offset),
                          load_shared16(keys.codes[1] + offset)};
    const uint4 high[2] = {load_shared16(keys.codes[0] + offset + 16),
                           load_shared16(keys.codes[1] + offset + 16)};
    take_half(low, first);
    multiply_keys<HEADS>(scores, first, queries, values, true);
    wgmma_wait<1>();
    take_half(high, second);
    multiply_keys<HEADS>(scores, second, wgmma_move(queries, 64), values ^ 64, true);
    wgmma_wait<0>();
}

/* ---- key warps: probabilities ---- */

/* Where a warp leaves 16 bytes a lane for the other warpgroup: in its share of the rows that it has converted. */
__device__ __forceinline__ float4 *traded_place(unsigned char *raw, int warpgroup, int tile)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    return (float4 *)(raw + (16 * warp + 4 * tile + lane / 8) * ROW_BYTES +
                      warpgroup * N_OWN_GROUPS * 64 + lane % 8 * 16);
}

/* Hands the other warpgroup the scores of its heads and adds what it has for ours; then the rows may go. */
template <int HEADS>
__device__ __forceinline__ void trade_scores(float (&scores)[HEADS / 2], int warpgroup, int slot,
                                             shared_memory<HEADS> &s)
{
    constexpr int n = own_tiles<HEADS>::n;
    __syncwarp(); /* all lanes have read the rows */
    if (HEADS > 8 || warpgroup == 1) {
#pragma unroll
        for (int t = 0; t < n; t++) {
            const float *sent = &scores[HEADS == 8 ? 0 : 4 * (n + t)];
            *traded_place(s.raw[slot], warpgroup, t) =
                make_float4(sent[0], sent[1], sent[2], sent[3]);
        }
    }
    named_barrier(BARRIER_KEYS, N_KEY_THREADS);
    if (HEADS > 8 || warpgroup == 0) {
#pragma unroll
        for (int t = 0; t < n; t++) {
            const float4 other = *traded_place(s.raw[slot], 1 - warpgroup, t);
            scores[4 * t] += other.x;
            scores[4 * t + 1] += other.y;
            scores[4 * t + 2] += other.z;
            scores[4 * t + 3] += other.w;
        }
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(&s.raw_empty[slot]));
}

/*
 * A new reference for every head from this block's scores, and by what the part's sums and values have to
 * be multiplied. Scores of own tiles as in wgmma.cuh, keys on rows, heads on columns.
 */
template <int HEADS>
__device__ static void
set_reference(const float (&scores)[HEADS / 2], int first_head, bool has_tiles, float scale_log2,
              float (&sums)[2 * own_tiles<HEADS>::n], shared_memory<HEADS> &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4,
              column = first_head + 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < 2 * own_tiles<HEADS>::n; i++) {
        float m = fmaxf(scores[i / 2 * 4 + i % 2], scores[i / 2 * 4 + i % 2 + 2]);
        for (int other = 4; other < 32; other *= 2)
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, other));
        if (lane < 4 && has_tiles) s.block_max[warp][column + 8 * (i / 2) + i % 2] = m;
    }
    named_barrier(BARRIER_KEYS, N_KEY_THREADS);
    if (threadIdx.x < HEADS) {
        int h = threadIdx.x;
        float m = fmaxf(fmaxf(s.block_max[0][h], s.block_max[1][h]),
                        fmaxf(s.block_max[2][h], s.block_max[3][h]));
        float old = s.ref[h], now = fmaxf(old, m * scale_log2);
        s.ref[h] = now;
        s.rescale[h] = exp2_fast(old - now);
    }
    if (threadIdx.x == 0) s.needs_rescale = 1;
    named_barrier(BARRIER_KEYS, N_KEY_THREADS);
#pragma unroll
    for (int i = 0; i < 2 * own_tiles<HEADS>::n; i++)
        sums[i] *= s.rescale[column + 8 * (i / 2) + i % 2];
}

/* Probabilities of own tiles, each head's sum of this thread's two keys, and the sum of those. */
template <int HEADS>
__device__ __forceinline__ float make_probs(const float (&scores)[HEADS / 2], int first_head,
                                            float scale_log2, const shared_memory<HEADS> &s,
                                            uint32_t (&probs)[2 * own_tiles<HEADS>::n],
                                            float (&block_sums)[2 * own_tiles<HEADS>::n])
{
    float total = 0.0f;
#pragma unroll
    for (int t = 0; t < own_tiles<HEADS>::n; t++) {
        float2 ref = *(const float2 *)&s.ref[first_head + 8 * t + 2 * (threadIdx.x % 4)];
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

/* probs as [HEADS][64 keys] bf16, K-major and swizzled; address: of the first own head. */
template <int HEADS>
__device__ __forceinline__ void store_probs(const uint32_t (&probs)[2 * own_tiles<HEADS>::n],
                                            uint32_t address)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int row = lane % 8, chunk = (2 * warp + (lane / 8) % 2) ^ row;
    if constexpr (own_tiles<HEADS>::n == 1) {
        store_matrix2_transposed(address + row * 128 + (chunk << 4), probs[0], probs[1]);
    } else {
#pragma unroll
        for (int t = 0; t < own_tiles<HEADS>::n; t += 2) {
            store_matrix4_transposed(address + (8 * (t + lane / 16) + row) * 128 + (chunk << 4),
                                     probs[2 * t], probs[2 * t + 1], probs[2 * t + 2],
                                     probs[2 * t + 3]);
        }
    }
}

/* Leaves the references and sums of a part for the value warps. */
template <int HEADS>
__device__ static void finish_keys(const float (&sums)[2 * own_tiles<HEADS>::n], int first_head,
                                   bool has_tiles, shared_memory<HEADS> &s, uint32_t n_done)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    named_barrier(BARRIER_KEYS, N_KEY_THREADS); /* the next part resets ref */
    barrier_wait(shared_address(&s.part_empty), (n_done & 1) ^ 1);
#pragma unroll
    for (int i = 0; i < 2 * own_tiles<HEADS>::n; i++) {
        float sum = sums[i];
        for (int other = 4; other < 32; other *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
        if (lane < 4 && has_tiles)
            s.part_sum[warp][first_head + 8 * (i / 2) + 2 * lane + i % 2] = sum;
    }
    if (threadIdx.x < HEADS) s.part_ref[threadIdx.x] = s.ref[threadIdx.x];
    barrier_arrive(shared_address(&s.part_full));
}

/* A thread of the key warps: what it is, and how far it has got. */
template <int HEADS> struct key_state {
    int warpgroup, row; /* row of a block; the thread's other row is 8 on */
    int first_head;     /* of its own tiles */
    bool has_tiles;
    uint32_t n_blocks_done, n_parts_done;
    ring_place<N_RAW> raw;
    ring_place<ring_sizes<HEADS>::values> values;
};

/* Waits for a block's rows; valid: bits 0 and 8 for this thread's two. */
template <int HEADS>
__device__ __forceinline__ key_pair find_rows(const key_state<HEADS> &k,
                                              const shared_memory<HEADS> &s, uint32_t &valid)
{
    const int lane = threadIdx.x % 32, slot = k.raw.slot;
    key_pair keys;
    barrier_wait(shared_address(&s.raw_full[slot]), k.raw.pass & 1);
    const uint32_t codes = shared_address(s.raw[slot]) + k.row * ROW_BYTES +
                           k.warpgroup * N_OWN_GROUPS * 64 + lane % 4 * 16;
    const uint32_t *rows = &s.valid[slot][k.row / 8];
    valid = (rows[0] >> (lane / 4 * 4) & 1) | (rows[1] >> (lane / 4 * 4) & 1) << 8;
    uint32_t over = 0;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int first = (k.row + 8 * r) * SCALE_BYTES + k.warpgroup * N_OWN_GROUPS;
        keys.codes[r] = codes + 8 * r * ROW_BYTES;
        keys.all[r] = *(const uint32_t *)&s.scales[slot][first];
        keys.scales[r] = keys.all[r];
        keys.largest[r] = 0;
        over |= __vcmpgtu4(keys.all[r], 0x01010101u * BIG_SCALE);
    }
    if (k.warpgroup == 1) over &= 0x00ffffffu; /* the last byte is no scale */
    keys.has_big = __any_sync(0xffffffffu, over != 0);
    if (keys.has_big) {
        for (int r = 0; r < 2; r++) keys.scales[r] = __vminu4(keys.all[r], 0x01010101u * BIG_SCALE);
    }
    return keys;
}

/* Scores of rows with NaN codes become NaN. */
template <int HEADS>
__device__ __forceinline__ void mark_nan(const key_pair &keys, float (&scores)[HEADS / 2])
{
    const bool is_nan[2] = {is_nan_row(keys.largest[0]), is_nan_row(keys.largest[1])};
    if (!__any_sync(0xffffffffu, is_nan[0] || is_nan[1])) return;
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++) scores[i] = is_nan[i / 2 % 2] ? NAN : scores[i];
}

/* From complete scores to probabilities for the value warps. */
template <int HEADS>
__device__ __forceinline__ void
weigh_keys(const key_state<HEADS> &k, float scale_log2, uint32_t valid, float (&scores)[HEADS / 2],
           float (&sums)[2 * own_tiles<HEADS>::n], shared_memory<HEADS> &s)
{
    constexpr int n_own = own_tiles<HEADS>::n;
    if (!__all_sync(0xffffffffu, (valid & 0x101) == 0x101)) {
#pragma unroll
        for (int i = 0; i < 4 * n_own; i++) {
            if (!(valid & (i / 2 % 2 == 0 ? 1 : 0x100))) scores[i] = -INFINITY;
        }
    }
    barrier_wait(shared_address(&s.probs_empty), (k.n_blocks_done & 1) ^ 1);
    if (threadIdx.x == 0) s.needs_rescale = 0;
    uint32_t probs[2 * n_own];
    float block_sums[2 * n_own];
    const float total = make_probs<HEADS>(scores, k.first_head, scale_log2, s, probs, block_sums);
    if (named_barrier_any(BARRIER_KEYS, N_KEY_THREADS, k.has_tiles && !(total < LARGEST_SUM))) {
        set_reference<HEADS>(scores, k.first_head, k.has_tiles, scale_log2, sums, s);
        make_probs<HEADS>(scores, k.first_head, scale_log2, s, probs, block_sums);
    }
#pragma unroll
    for (int i = 0; i < 2 * n_own; i++) sums[i] += block_sums[i];
    if (k.has_tiles) store_probs<HEADS>(probs, shared_address(s.probs) + k.first_head * 128);
    fence_async_shared();
    barrier_arrive(shared_address(&s.full));
}

template <int HEADS> __device__ static void run_keys(const attn_args &a, shared_memory<HEADS> &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    key_state<HEADS> k = {};
    k.warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP, 0); /* said to be a warp's */
    k.row = 16 * warp + lane / 4;
    k.first_head = k.warpgroup * own_tiles<HEADS>::second_first;
    k.has_tiles = HEADS > 8 || k.warpgroup == 0;
    k.values.advance(warp / 2);
    /* lane l stores keys l % 16 of the warp, columns 0..7 or 8..15 of a step (store_matrix4) */
    const uint32_t store_offset = k.warpgroup * N_OWN_GROUPS * HALF_GROUP_BYTES +
                                  (16 * (warp % 2) + lane % 16) * 128 +
                                  (((lane / 16) ^ (lane % 8)) << 4);
    const uint64_t queries =
        wgmma_matrix(shared_address(s.q) + k.warpgroup * N_OWN_GROUPS * HEADS * 128, 16);

    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        attn_part p = read_part(a, rank);
        float sums[2 * own_tiles<HEADS>::n] = {};
        if (threadIdx.x < HEADS) s.ref[threadIdx.x] = FIRST_REF;
        load_query<HEADS>(a, p, s.q, own_tiles<HEADS>::second_first);
#pragma unroll 1
        for (int32_t n_left = p.end_block - p.first_block; n_left > 0; n_left--) {
            float scores[HEADS / 2];
            uint32_t valid;
            key_pair keys = find_rows<HEADS>(k, s, valid);
            barrier_wait(shared_address(&s.values_empty[k.warpgroup][k.values.slot]),
                         (k.values.pass & 1) ^ 1);
            multiply_block<HEADS>(keys, k.warpgroup, queries,
                                  shared_address(s.values[k.values.slot]) + store_offset, scores);
            mark_nan<HEADS>(keys, scores);
            trade_scores<HEADS>(scores, k.warpgroup, k.raw.slot, s);
            weigh_keys<HEADS>(k, a.scale_log2, valid, scores, sums, s);
            k.raw.advance(1);
            k.values.advance(2);
            k.n_blocks_done++;
        }
        finish_keys<HEADS>(sums, k.first_head, k.has_tiles, s, k.n_parts_done++);
    }
}

#endif
