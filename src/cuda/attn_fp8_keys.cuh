/*
 * attn_fp8_keys.cuh - the key warps of the FP8 attention kernel: from codes to probabilities as codes.
 *
 * Place: cuda, sm_90a only; part of attn_fp8.cu, which describes the kernel.
 *
 * Order of a warp's 16 keys in the second product: 0, 8, 1, 9, 2, ..., since a thread has keys 8 apart.
 */
#ifndef DSV4_CUDA_ATTN_FP8_KEYS_CUH
#define DSV4_CUDA_ATTN_FP8_KEYS_CUH

#include <cuda_fp16.h>

#include "attn_fp8_shared.cuh"
#include "attn_sm90_keys.cuh"
#include "formats.cuh"

/* ---- queries ---- */

/* The larger magnitudes by halves, of bf16 as integers: NaN is the largest. */
__device__ __forceinline__ uint32_t larger_magnitudes(uint32_t largest, uint32_t x, uint32_t y)
{
    return largest_u16x2(largest, x & 0x7fff7fffu, y & 0x7fff7fffu);
}

/* Four codes of the values in two pairs of bf16. */
__device__ __forceinline__ uint32_t codes_of(uint32_t first, uint32_t second, float inverse)
{
    return to_e4m3_four(low_to_f32(first) * inverse, high_to_f32(first) * inverse,
                        low_to_f32(second) * inverse, high_to_f32(second) * inverse);
}

/*
 * A head's scale, a power of two that brings its largest code to 224 .. 448, and what a sum of products has to be
 * multiplied by. A head with infinite values gets NaN. One that is not real gets a reference above every score: its
 * probabilities are zero and do not count where those of all heads do.
 */
template <int HEADS>
__device__ __forceinline__ void set_query_scale(int head, bool is_real, float scale_log2,
                                                fp8_memory<HEADS> &s)
{
    float amax = 0x1p-90f;
#pragma unroll
    for (int g = 0; g < N_CODE_GROUPS; g++) amax = fmaxf(amax, s.q_max[g][head]);
    const uint32_t code = scale_code(amax);
    s.q_inverse[head] = code >= 254u ? __uint_as_float(0x7fc00000u) : inverse_scale(code);
    s.ref[head] =
        make_float2(scale_log2 * __uint_as_float(code << 23), is_real ? FIRST_REF : -FIRST_REF);
}

/* 16 dimensions of a head: eight and eight more. */
struct code_piece {
    uint4 low, high;
};

/* Of piece i of a warp: head 8 * i + lane / 4, zeros behind the last one. A warp takes a group of dimensions. */
template <int HEADS, bool IS_ALIGNED>
__device__ __forceinline__ code_piece read_query_piece(const attn_args &a, const attn_part &p,
                                                       int i)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool is_rotated = warp == N_CODE_GROUPS;
    const int head = part_first_head(p, HEADS) + 8 * i + lane / 4;
    const char *q = a.q + p.request * a.q_request_stride_bytes +
                    part_query(p) * a.q_query_stride_bytes + warp * 128 +
                    lane % 4 * (is_rotated ? 16 : 32);
    const char *from =
        head < a.n_heads ? q + head * a.q_head_stride_bytes : (const char *)zero_row();
    const char *high = from + (is_rotated ? 64 : 16);
    if (IS_ALIGNED) return {__ldg((const uint4 *)from), __ldg((const uint4 *)high)};
    return {load_unaligned16(from), load_unaligned16(high)};
}

/* Leaves the largest magnitude of piece i for set_query_scale. */
template <int HEADS>
__device__ __forceinline__ void leave_largest(code_piece piece, int i, fp8_memory<HEADS> &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint4 low = piece.low, high = piece.high;
    uint32_t pair = larger_magnitudes(0, low.x, low.y);
    pair = larger_magnitudes(pair, low.z, low.w);
    pair = larger_magnitudes(pair, high.x, high.y);
    pair = larger_magnitudes(pair, high.z, high.w);
    pair = __vmaxu2(pair, __shfl_xor_sync(0xffffffffu, pair, 1));
    pair = __vmaxu2(pair, __shfl_xor_sync(0xffffffffu, pair, 2));
    const float largest = __uint_as_float(max(pair << 16, pair & 0xffff0000u));
    if (warp < N_CODE_GROUPS && lane % 4 == 0) s.q_max[warp][8 * i + lane / 4] = largest;
}

__device__ __forceinline__ uint4 multiply_bf16x8(uint4 values, uint32_t f)
{
    return make_uint4(multiply_bf16x2(values.x, f), multiply_bf16x2(values.y, f),
                      multiply_bf16x2(values.z, f), multiply_bf16x2(values.w, f));
}

/* Piece i, scaled: codes, or bf16 of the rotated group. */
template <int HEADS>
__device__ __forceinline__ void store_query_piece(code_piece piece, int i, fp8_memory<HEADS> &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float inverse = s.q_inverse[8 * i + lane / 4];
    const uint4 low = piece.low, high = piece.high;
    if (warp == N_CODE_GROUPS) {
        const uint32_t f = to_bf16_pair(inverse, inverse);
        unsigned char *to = s.q_rotated + i * 1024;
        const int at = lane / 4 * 128 + (((lane % 4) ^ (lane / 4)) << 4);
        *(uint4 *)&to[at] = multiply_bf16x8(low, f);
        *(uint4 *)&to[at ^ 64] = multiply_bf16x8(high, f);
    } else {
        unsigned char *to = s.q + (warp * HEADS + 8 * i) * GROUP_DIMS;
        *(uint4 *)&to[lane / 4 * 64 + (((lane % 4) ^ (lane / 8)) << 4)] =
            make_uint4(codes_of(low.x, low.y, inverse), codes_of(low.z, low.w, inverse),
                       codes_of(high.x, high.y, inverse), codes_of(high.z, high.w, inverse));
    }
}

template <int HEADS>
__device__ __forceinline__ void find_query_scales(const attn_args &a, const attn_part &p,
                                                  fp8_memory<HEADS> &s)
{
    const int head = threadIdx.x;
    named_barrier(BARRIER_KEYS, N_KEY_THREADS);
    if (head < HEADS)
        set_query_scale<HEADS>(head, part_first_head(p, HEADS) + head < a.n_heads, a.scale_log2, s);
    named_barrier(BARRIER_KEYS, N_KEY_THREADS);
}

/* Queries of a part's heads, by all key warps. Unaligned ones are read twice, piece by piece. */
template <int HEADS>
__device__ static void load_query_codes(const attn_args &a, const attn_part &p,
                                        fp8_memory<HEADS> &s)
{
    enum { N = HEADS / 8 };
    if (a.q_is_aligned) {
        code_piece pieces[N];
#pragma unroll
        for (int i = 0; i < N; i++) pieces[i] = read_query_piece<HEADS, true>(a, p, i);
#pragma unroll
        for (int i = 0; i < N; i++) leave_largest<HEADS>(pieces[i], i, s);
        find_query_scales<HEADS>(a, p, s);
#pragma unroll
        for (int i = 0; i < N; i++) store_query_piece<HEADS>(pieces[i], i, s);
    } else {
#pragma unroll 1
        for (int i = 0; i < N; i++)
            leave_largest<HEADS>(read_query_piece<HEADS, false>(a, p, i), i, s);
        find_query_scales<HEADS>(a, p, s);
#pragma unroll 1
        for (int i = 0; i < N; i++)
            store_query_piece<HEADS>(read_query_piece<HEADS, false>(a, p, i), i, s);
    }
    fence_async_shared();
    named_barrier(BARRIER_KEYS, N_KEY_THREADS);
}

/* ---- scores ---- */

/* This thread's two rows of a block; marks: for each row r, UNNAMED << r and NAN_SCALE << r. */
struct code_rows {
    uint2 scales[2];
    uint32_t marks;
};

enum { UNNAMED = 1, NAN_SCALE = 4 };

template <int HEADS>
__device__ __forceinline__ code_rows read_code_rows(int slot, const fp8_memory<HEADS> &s)
{
    const uint32_t thread = read_thread(), row = thread / 32 % 4 * 16 + thread % 32 / 4;
    code_rows rows;
    rows.marks = 0;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint2 &scales = rows.scales[r];
        scales = *(const uint2 *)&s.scales[slot][(row + 8 * r) * SCALE_BYTES];
        scales.y &= 0xffffffu;
        const uint32_t nan = __vcmpeq4(scales.x, 0xffffffffu) | __vcmpeq4(scales.y, 0xffffffffu);
        if (!s.is_valid[slot][row + 8 * r]) rows.marks |= UNNAMED << r;
        if (nan != 0) rows.marks |= NAN_SCALE << r;
    }
    return rows;
}

/* 2^(byte - 127), byte below 255. */
__device__ __forceinline__ float group_factor(uint2 scales, int group)
{
    return __uint_as_float(max(byte_of(scales, group) << 23, 0x400000u));
}

/* Begins the products of a group's codes with the queries of H heads. */
template <int H>
__device__ __forceinline__ void begin_group(float (&sums)[H / 2], uint64_t codes, uint64_t queries)
{
    wgmma_fence();
    wgmma_ss_e4m3(sums, codes, queries, false);
    wgmma_ss_e4m3(sums, wgmma_move(codes, 32), wgmma_move(queries, 32), true);
    wgmma_commit();
}

/* Begins the products of the rotated dimensions. */
template <int H>
__device__ __forceinline__ void begin_rotated(float (&scores)[H / 2], uint64_t values,
                                              uint64_t queries)
{
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++)
        wgmma_ss(scores, wgmma_move(values, k * 32), wgmma_move(queries, k * 32), k > 0);
    wgmma_commit();
}

/* Scores += complete sums of a group times its scales. */
template <int H>
__device__ __forceinline__ void add_group(float (&scores)[H / 2], float (&sums)[H / 2],
                                          const code_rows &rows, int g)
{
    wgmma_settle(sums);
    const float factors[2] = {group_factor(rows.scales[0], g), group_factor(rows.scales[1], g)};
#pragma unroll
    for (int i = 0; i < H / 2; i++) scores[i] = fmaf(sums[i], factors[i / 2 % 2], scores[i]);
}

/*
 * Scores of a block for half of the heads, in units of each head's scale. slot: shared address. While the sums of a
 * group are added, the next is multiplied.
 */
template <int HEADS>
__device__ __forceinline__ void multiply_codes(const code_rows &rows, uint32_t slot,
                                               uint64_t queries, uint64_t rotated_queries,
                                               float (&scores)[HEADS / 4])
{
    enum { H = HEADS / 2 };
    const uint64_t codes = wgmma_matrix64(slot);
    float sums[2][H / 2];
    begin_rotated<H>(scores, wgmma_matrix(slot + CODE_BYTES, 16), rotated_queries);
#pragma unroll
    for (int g = 0; g <= N_CODE_GROUPS; g++) {
        if (g < N_CODE_GROUPS) {
            begin_group<H>(sums[g % 2], wgmma_move(codes, g * CODE_GROUP_BYTES),
                           wgmma_move(queries, g * HEADS * GROUP_DIMS));
            wgmma_wait<1>();
        } else {
            wgmma_wait<0>();
        }
        if (g == 0) {
            wgmma_settle(scores);
        } else {
            add_group<H>(scores, sums[(g - 1) % 2], rows, g - 1);
        }
    }
}

/* Scores of rows with NaN scales become NaN, those of rows that no list names -inf. */
template <int H>
__device__ __forceinline__ void mark_code_rows(const code_rows &rows, float (&scores)[H / 2])
{
    if (!__any_sync(0xffffffffu, rows.marks != 0)) return;
#pragma unroll
    for (int i = 0; i < H / 2; i++) {
        const int r = i / 2 % 2;
        if (rows.marks & UNNAMED << r) scores[i] = -INFINITY;
        if (rows.marks & NAN_SCALE << r) scores[i] = NAN;
    }
}

/* ---- probabilities ---- */

/* Probabilities of this thread's rows, as pairs (row, row + 8): [2 * t + i] of head 8 * t + 2 * (lane % 4) + i. */
template <int H> struct code_probs {
    uint32_t pairs[H / 4];
    float largest[2]; /* of each row */
};

__device__ __forceinline__ uint32_t to_f16_pair(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/* Also sums of four keys for half of the thread's heads. ref: of the warpgroup's first head. */
template <int H>
__device__ __forceinline__ void make_code_probs(const float (&scores)[H / 2], const float2 *ref,
                                                code_probs<H> &probs, float (&block_sums)[H / 8])
{
    const float2 *own = ref + read_thread() % 4 * 2;
    probs.largest[0] = probs.largest[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < H / 16; i++) {
        float sums[2][2];
#pragma unroll
        for (int upper = 0; upper < 2; upper++) {
            const int t = i + upper * (H / 16);
            const float4 r = *(const float4 *)&own[8 * t];
            const float p0 = exp2_fast(fmaf(scores[4 * t], r.x, -r.y));
            const float p1 = exp2_fast(fmaf(scores[4 * t + 1], r.z, -r.w));
            const float p2 = exp2_fast(fmaf(scores[4 * t + 2], r.x, -r.y));
            const float p3 = exp2_fast(fmaf(scores[4 * t + 3], r.z, -r.w));
            probs.pairs[2 * t] = to_f16_pair(p0, p2);
            probs.pairs[2 * t + 1] = to_f16_pair(p1, p3);
            probs.largest[0] = fmaxf(probs.largest[0], fmaxf(p0, p1));
            probs.largest[1] = fmaxf(probs.largest[1], fmaxf(p2, p3));
            sums[upper][0] = p0 + p2;
            sums[upper][1] = p1 + p3;
        }
        block_sums[2 * i] = trade_sums(sums[0][0], sums[1][0], 4);
        block_sums[2 * i + 1] = trade_sums(sums[0][1], sums[1][1], 4);
    }
}

/* The largest scale of a row over the reference of its group, as a power of two, at least 1. */
__device__ __forceinline__ float largest_shift(uint2 scales, uint2 scale_ref)
{
    int32_t shift = 0;
#pragma unroll
    for (int g = 0; g < N_CODE_GROUPS; g++)
        shift = max(shift, (int32_t)byte_of(scales, g) - (int32_t)byte_of(scale_ref, g));
    return __uint_as_float((uint32_t)(127 + min(shift, 127)) << 23);
}

__device__ __forceinline__ float2 largest_shifts(const code_rows &rows, uint2 scale_ref)
{
    return make_float2(largest_shift(rows.scales[0], scale_ref),
                       largest_shift(rows.scales[1], scale_ref));
}

/* Bytes of a row's scales times its largest probability, rounded up to a power of two; at least 0. */
__device__ __forceinline__ uint2 weigh_scales(uint2 scales, float largest)
{
    const uint32_t below =
        127u - min((__float_as_uint(largest) + 0x7fffffu) >> 23, 127u); /* of 2^-below */
    const uint32_t bytes = below * 0x01010101u;
    return make_uint2(__vsubus4(scales.x, bytes), __vsubus4(scales.y, bytes));
}

__device__ __forceinline__ uint2 larger_bytes(uint2 a, uint2 b)
{
    return make_uint2(__vmaxu4(a.x, b.x), __vmaxu4(a.y, b.y));
}

/* A new reference of scales from probabilities of at most 1. place: of the block's probabilities. */
template <int HEADS>
__device__ __forceinline__ void set_scale_reference(const code_rows &rows,
                                                    const float (&largest)[2], int half, int place,
                                                    fp8_memory<HEADS> &s)
{
    const int thread = threadIdx.x % WARPGROUP;
    uint2 bytes = make_uint2(0, 0);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float of_row = largest[r];
        of_row = fmaxf(of_row, __shfl_xor_sync(0xffffffffu, of_row, 1));
        of_row = fmaxf(of_row, __shfl_xor_sync(0xffffffffu, of_row, 2));
        const uint2 weighed = weigh_scales(rows.scales[r], of_row);
        if (of_row > 0.0f) bytes = larger_bytes(bytes, weighed);
    }
#pragma unroll
    for (int bit = 4; bit < 32; bit *= 2) {
        bytes = larger_bytes(bytes, make_uint2(__shfl_xor_sync(0xffffffffu, bytes.x, bit),
                                               __shfl_xor_sync(0xffffffffu, bytes.y, bit)));
    }
    if (thread % 32 == 0) s.block_scales[half][thread / 32] = bytes;
    named_barrier(BARRIER_STREAM + half, WARPGROUP);
    if (thread == 0) {
        const uint2 old = s.scale_ref[half];
        uint2 now = old;
        for (int w = 0; w < 4; w++) now = larger_bytes(now, s.block_scales[half][w]);
        s.scale_ref[half] = now;
        s.scale_shift[place][half] = make_uint2(__vsub4(now.x, old.x), __vsub4(now.y, old.y));
    }
    named_barrier(BARRIER_STREAM + half, WARPGROUP);
}

/* A new reference for every head from this block's scores, and by what values and sums so far are multiplied. */
template <int HEADS>
__device__ static void set_head_references(const float (&scores)[HEADS / 4], int half, int place,
                                           head_sums &sums, fp8_memory<HEADS> &s)
{
    enum { H = HEADS / 2 };
    const int thread = threadIdx.x % WARPGROUP, head = half * H + thread;
    float largest[H / 4];
#pragma unroll
    for (int i = 0; i < H / 4; i++)
        largest[i] = fmaxf(scores[i / 2 * 4 + i % 2], scores[i / 2 * 4 + i % 2 + 2]);
    reduce_largest<H / 4, 4>(largest);
    *(float2 *)&s.block_max[half][thread / 32][first_sum_head<H>()] =
        make_float2(largest[0], largest[1]);
    named_barrier(BARRIER_STREAM + half, WARPGROUP);
    if (thread < H) {
        const float *m = &s.block_max[half][0][thread];
        const float all = fmaxf(fmaxf(m[0], m[H]), fmaxf(m[2 * H], m[3 * H]));
        const float2 ref = s.ref[head];
        const float now = fmaxf(ref.y, __fmul_ru(all, ref.x)); /* no probability is above 1 */
        s.ref[head].y = now;
        s.rescale[place][head] = exp2_fast(ref.y - now);
    }
    named_barrier(BARRIER_STREAM + half, WARPGROUP);
    scale_key_sums<H>(sums, &s.rescale[place][half * H]);
}

/*
 * 2^(scale - reference + PROB_EXPONENT) in f16 for both rows; 0 below its range. Nothing is above it where no scale is
 * above its reference by more than LARGEST_SHIFT.
 */
__device__ __forceinline__ uint32_t prob_factors(const code_rows &rows, uint2 scale_ref, int group)
{
    uint32_t pair = 0;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int32_t exponent = (int32_t)byte_of(rows.scales[r], group) -
                                 (int32_t)byte_of(scale_ref, group) + 15 + PROB_EXPONENT;
        pair |= (uint32_t)min(max(exponent, 0), 30) << (10 + 16 * r);
    }
    return pair;
}

__device__ __forceinline__ uint32_t multiply_f16x2(uint32_t a, uint32_t b)
{
    uint32_t product;
    asm("mul.rn.f16x2 %0, %1, %2;\n" : "=r"(product) : "r"(a), "r"(b));
    return product;
}

/* Two codes of a pair of f16. */
__device__ __forceinline__ uint32_t codes_of_f16(uint32_t pair)
{
    uint16_t codes;
    asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;\n" : "=h"(codes) : "r"(pair));
    return codes;
}

/* Of a group: [t] the codes of heads 8 * t + 2 * (lane % 4) and the next, for both rows. */
template <int H>
__device__ __forceinline__ void make_prob_codes(const code_probs<H> &probs, uint32_t factors,
                                                uint32_t (&codes)[H / 8])
{
#pragma unroll
    for (int t = 0; t < H / 8; t++) {
        codes[t] = codes_of_f16(multiply_f16x2(probs.pairs[2 * t], factors)) |
                   codes_of_f16(multiply_f16x2(probs.pairs[2 * t + 1], factors)) << 16;
    }
}

/* Probabilities in bf16, [H][64 keys]. */
template <int H>
__device__ __forceinline__ void store_bf16_probs(const code_probs<H> &probs, uint32_t address)
{
    uint32_t bf16[H / 4];
#pragma unroll
    for (int t = 0; t < H / 8; t++) {
        const __half2 even = *(const __half2 *)&probs.pairs[2 * t],
                      odd = *(const __half2 *)&probs.pairs[2 * t + 1];
        bf16[2 * t] = to_bf16_pair(__low2float(even), __low2float(odd));
        bf16[2 * t + 1] = to_bf16_pair(__high2float(even), __high2float(odd));
    }
    store_probs<H>(bf16, address);
}

/*
 * Probabilities of half of the heads times each group's scales as codes: of a group [HEADS][64 keys], K-major, rows of
 * 64 bytes. address: of the half's first head. Of 16 heads one store takes two groups.
 */
template <int HEADS>
__device__ __forceinline__ void store_code_probs(const code_rows &rows, uint2 scale_ref,
                                                 const code_probs<HEADS / 2> &probs,
                                                 uint32_t address)
{
    enum { H = HEADS / 2, GROUP_STRIDE = HEADS * GROUP_DIMS };
    const uint32_t thread = read_thread(), lane = thread % 32, warp = thread / 32 % 4;
    const uint32_t to = address + lane % H * 64 + ((warp ^ (lane % 8 / 2)) << 4);
    if constexpr (H == 32) {
#pragma unroll
        for (int g = 0; g < N_CODE_GROUPS; g++) {
            uint32_t codes[4];
            make_prob_codes<H>(probs, prob_factors(rows, scale_ref, g), codes);
            store_matrix4_transposed(to + g * GROUP_STRIDE, codes[0], codes[1], codes[2], codes[3]);
        }
    } else {
#pragma unroll
        for (int g = 0; g < N_CODE_GROUPS; g += 2) {
            const int other = g + 1 < N_CODE_GROUPS ? g + 1 : g; /* the last is stored twice */
            uint32_t codes[2], others[2];
            make_prob_codes<H>(probs, prob_factors(rows, scale_ref, g), codes);
            make_prob_codes<H>(probs, prob_factors(rows, scale_ref, other), others);
            store_matrix4_transposed(to + (lane < H ? g : other) * GROUP_STRIDE, codes[0], codes[1],
                                     others[0], others[1]);
        }
    }
}

/*
 * The same from scores, for rows whose scales are above the reference by more than f16 has room for: their
 * probabilities are small, but not what they are multiplied to.
 */
template <int HEADS>
__device__ __forceinline__ void store_wide_probs(const code_rows &rows, uint2 scale_ref,
                                                 const float (&scores)[HEADS / 4],
                                                 const float2 *ref, uint32_t address)
{
    enum { H = HEADS / 2, N_TILES = H / 8 };
    const uint32_t thread = read_thread(), lane = thread % 32, warp = thread / 32 % 4;
    const uint32_t to = address + lane % H * 64 + ((warp ^ (lane % 8 / 2)) << 4);
#pragma unroll 1
    for (int g = 0; g < N_CODE_GROUPS; g++) {
        float factors[2];
        uint32_t codes[N_TILES];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int32_t exponent = (int32_t)byte_of(rows.scales[r], g) -
                                     (int32_t)byte_of(scale_ref, g) + PROB_EXPONENT;
            factors[r] = exp2f((float)min(exponent, 127));
        }
#pragma unroll
        for (int t = 0; t < N_TILES; t++) {
            const float4 at = *(const float4 *)&ref[8 * t + lane % 4 * 2];
            codes[t] = to_e4m3_four(exp2_fast(fmaf(scores[4 * t], at.x, -at.y)) * factors[0],
                                    exp2_fast(fmaf(scores[4 * t + 2], at.x, -at.y)) * factors[1],
                                    exp2_fast(fmaf(scores[4 * t + 1], at.z, -at.w)) * factors[0],
                                    exp2_fast(fmaf(scores[4 * t + 3], at.z, -at.w)) * factors[1]);
        }
        store_matrix4_transposed(to + g * HEADS * GROUP_DIMS, codes[0], codes[1],
                                 codes[2 % N_TILES], codes[3 % N_TILES]);
    }
}

/* From complete scores to probabilities for the value warps, in a free place. */
template <int HEADS>
__device__ __forceinline__ void weigh_codes(int half, int place, const code_rows &rows,
                                            const float (&scores)[HEADS / 4], head_sums &sums,
                                            fp8_memory<HEADS> &s)
{
    enum { H = HEADS / 2 };
    code_probs<H> probs;
    float block_sums[H / 8];
    bool moves = false, is_wide;
#pragma unroll 1
    for (int pass = 0;; pass++) { /* the second time by the same code, which has been fetched */
        make_code_probs<H>(scores, &s.ref[half * H], probs, block_sums);
        if (pass > 0) break;
        const float2 shifts = largest_shifts(rows, s.scale_ref[half]);
        const bool fits =
            fmaxf(probs.largest[0] * shifts.x, probs.largest[1] * shifts.y) <= LARGEST_PROB;
        is_wide = fmaxf(shifts.x, shifts.y) > LARGEST_SHIFT;
        moves = named_barrier_any(BARRIER_STREAM + half, WARPGROUP, !fits);
        if (!moves) break;
        set_head_references<HEADS>(scores, half, place, sums, s);
    }
    if (moves) {
        set_scale_reference<HEADS>(rows, probs.largest, half, place, s);
        const float2 shifts = largest_shifts(rows, s.scale_ref[half]);
        is_wide = fmaxf(shifts.x, shifts.y) > LARGEST_SHIFT;
    }
    if (threadIdx.x % WARPGROUP == 0) s.needs_rescale[place][half] = moves;
    const uint32_t to = shared_address(s.probs[place]), codes = to + half * H * GROUP_DIMS;
    store_bf16_probs<H>(probs, to + N_CODE_GROUPS * HEADS * GROUP_DIMS + half * H * 128);
    if (__any_sync(0xffffffffu, is_wide)) {
        store_wide_probs<HEADS>(rows, s.scale_ref[half], scores, &s.ref[half * H], codes);
    } else {
        store_code_probs<HEADS>(rows, s.scale_ref[half], probs, codes);
    }
    fence_async_shared();
    barrier_arrive(shared_address(&s.full[place]));
    const head_sums added = add_threads<H>(block_sums);
    sums.first += added.first;
    sums.second += added.second;
}

/* Leaves the references and sums of a part for the value warps. Parts are counted from 1. */
template <int HEADS>
__device__ static void finish_codes(int half, uint32_t part, const head_sums &sums,
                                    fp8_memory<HEADS> &s)
{
    enum { H = HEADS / 2 };
    const int thread = threadIdx.x % WARPGROUP, head = half * H + thread;
    barrier_wait(shared_address(&s.part_empty), part & 1);
    *(float2 *)&s.part_sum[thread / 32][half * H + first_sum_head<H>()] =
        make_float2(sums.first, sums.second);
    named_barrier(BARRIER_KEYS, N_KEY_THREADS); /* references and queries are no longer read */
    if (thread < H) s.part_ref[head] = s.ref[head].y;
    if (thread == 0) {
        s.part_scale_ref[half] = s.scale_ref[half];
        s.scale_ref[half] = make_uint2(0, 0);
    }
    barrier_arrive(shared_address(&s.part_full));
}

template <int HEADS> __device__ static void run_code_keys(const attn_args &a, fp8_memory<HEADS> &s)
{
    enum { H = HEADS / 2 };
    const int half = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP, 0);
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    const uint64_t queries = wgmma_matrix64(shared_address(s.q) + half * H * GROUP_DIMS),
                   rotated_queries = wgmma_matrix(shared_address(s.q_rotated) + half * H * 128, 16);
    uint32_t b = 0, part = 1, slot_parity = 0;
    int slot = 0;
    if (threadIdx.x % WARPGROUP == 0) s.scale_ref[half] = make_uint2(0, 0);
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const attn_part p = read_part(a, rank);
        const uint32_t end = b + (p.end_block - p.first_block);
        head_sums sums = {};
        load_query_codes<HEADS>(a, p, s);
#pragma unroll 1
        for (; b < end; b++) {
            const int place = b % N_PROBS;
            float scores[H / 2];
            barrier_wait(shared_address(&s.loaded[slot]), slot_parity);
            fence_async_shared(); /* rows came by ordinary copies */
            const code_rows rows = read_code_rows<HEADS>(slot, s);
            multiply_codes<HEADS>(rows, shared_address(s.rows[slot]), queries, rotated_queries,
                                  scores);
            mark_code_rows<H>(rows, scores);
            barrier_wait(shared_address(&s.probs_empty[place]), (b / N_PROBS & 1) ^ 1);
            weigh_codes<HEADS>(half, place, rows, scores, sums, s);
            slot = next_place(slot, fp8_memory<HEADS>::n_slots);
            if (slot == 0) slot_parity ^= 1;
        }
        finish_codes<HEADS>(half, part++, sums, s);
    }
}

#endif
