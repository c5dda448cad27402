/*
 * attn_sm90_keys.cuh - the key warps: from rows to probabilities and bf16 values.
 *
 * Place: cuda, sm_90a only; part of attn_sm90.cu, which describes the kernel.
 *
 * Order of dimensions: the four threads of a row hold 16 codes of each group of 64. Step j of a group (16 columns of
 * the matrix product) takes word j of each thread: columns 2c and 2c + 1 are bytes 1 and 3 of thread c, columns 8 + 2c
 * and 9 + 2c bytes 0 and 2. Queries are stored in that order, and so are values. The rotated group has its natural
 * order.
 */
#ifndef DSV4_CUDA_ATTN_SM90_KEYS_CUH
#define DSV4_CUDA_ATTN_SM90_KEYS_CUH

#include "attn_sm90_loads.cuh"
#include "formats.cuh"

/* ---- queries ---- */

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
 * word j, chunk 2j + 1 values 0 and 2; rotated ones stay in order. rows: shared address of the first head's.
 */
__device__ __forceinline__ void store_piece(query_piece piece, uint32_t rows, bool is_rotated)
{
    const int lane = threadIdx.x % 32;
    if (is_rotated) {
        const uint32_t row = rows + lane / 4 * 128;
        store_shared16(row + (((lane % 4 * 2) ^ (lane / 4)) << 4), piece.low);
        store_shared16(row + (((lane % 4 * 2 + 1) ^ (lane / 4)) << 4), piece.high);
        return;
    }
    const uint32_t words[8] = {piece.low.x,  piece.low.y,  piece.low.z,  piece.low.w,
                               piece.high.x, piece.high.y, piece.high.z, piece.high.w};
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
        uint32_t chunks[4];
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            const uint32_t x = words[2 * j + i], y = words[2 * j + i + 1];
            chunks[i] = __byte_perm(x, y, 0x7632);
            chunks[i + 1] = __byte_perm(x, y, 0x5410);
        }
        store_matrix4(rows + lane % 8 * 128 + (((2 * j + lane / 8) ^ (lane % 8)) << 4), chunks[0],
                      chunks[1], chunks[2], chunks[3]);
    }
}

/* Queries of a part's heads in the keys' order of dimensions, zeros behind the last head; by all key warps. */
template <int HEADS>
__device__ static void load_query(const attn_args &a, const attn_part &p, unsigned char *q_memory)
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
        for (int i = 0; i < N_PIECES;
             i++) { /* a warp takes its group of dimensions of eight heads */
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
#pragma unroll
    for (int i = 0; i < N_PIECES; i++) {
        store_piece(pieces[i], shared_address(q_memory) + (warp * HEADS + 8 * i) * 128,
                    warp == N_DIM_GROUPS - 1);
    }
    fence_async_shared();
    named_barrier(BARRIER_KEYS, N_KEY_THREADS);
}

/* ---- conversion ---- */

/* This thread's two rows of a block. */
struct key_pair {
    uint32_t
        codes; /* shared address of its 16 codes of the first row's next group; the other is 8 rows on */
    uint64_t scales[2];  /* bytes of the groups from the next one on */
    uint32_t largest[2]; /* magnitudes of codes */
    bool has_big;        /* any row of the warp has a scale above BIG_SCALE */
};

/* Two words of both rows' codes as the matrix operand of two steps: a[4 * step + row] and [... + 2]. */
__device__ __forceinline__ void convert_half(key_pair &keys, const uint32_t (&words)[2][2],
                                             uint32_t (&a)[8])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint32_t byte = (uint32_t)keys.scales[r] & 0xff;
        const uint32_t factor = scale_factor(keys.has_big ? min(byte, (uint32_t)BIG_SCALE) : byte);
#pragma unroll
        for (int j = 0; j < 2; j++)
            convert_codes(words[r][j], factor, a[4 * j + r], a[4 * j + r + 2], keys.largest[r]);
        if (keys.has_big) {
#pragma unroll
            for (int i = r; i < 8; i += 2) a[i] = multiply_bf16x2(a[i], second_factor(byte));
        }
    }
}

/* Scores += keys * queries for two steps. */
template <int HEADS>
__device__ __forceinline__ void multiply_keys(float (&scores)[HEADS / 2], const uint32_t (&a)[8],
                                              uint64_t queries)
{
    const uint32_t first[4] = {a[0], a[1], a[2], a[3]}, second[4] = {a[4], a[5], a[6], a[7]};
    wgmma_fence();
    wgmma_rs(scores, first, queries, true);
    wgmma_rs(scores, second, wgmma_move(queries, 32), true);
    wgmma_commit();
}

/*
 * All dimensions of a block: scores of them, and values in the place of codes. values: address of the lane's 16
 * bytes of a group (store_matrix4). The loop is not unrolled: its code has to stay in the smallest instruction cache.
 * Half of a group is multiplied while the other half is converted.
 */
template <int HEADS>
__device__ __forceinline__ void multiply_block(key_pair &keys, uint64_t queries, uint32_t values,
                                               float (&scores)[HEADS / 2])
{
    uint32_t first[8], second[8];
    uint4 words[2] = {load_shared16(keys.codes), load_shared16(keys.codes + 8 * 128)};
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++) scores[i] = 0.0f;
    wgmma_settle(scores);
#pragma unroll 1
    for (int g = 0; g < N_DIM_GROUPS - 1; g++) {
        const uint32_t low[2][2] = {{words[0].x, words[0].y}, {words[1].x, words[1].y}};
        const uint32_t high[2][2] = {{words[0].z, words[0].w}, {words[1].z, words[1].w}};
        convert_half(keys, low, first);
        store_matrix4(values, first[0], first[1], first[2], first[3]);
        store_matrix4(values ^ 32, first[4], first[5], first[6], first[7]);
        multiply_keys<HEADS>(scores, first, queries);
        wgmma_wait<1>(); /* the operands of the half before may change */
        convert_half(keys, high, second);
        keys.codes += GROUP_BYTES;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            keys.scales[r] >>= 8;
            words[r] = load_shared16(keys.codes + r * 8 * 128); /* of the rotated group: not used */
        }
        store_matrix4(values ^ 64, second[0], second[1], second[2], second[3]);
        store_matrix4(values ^ 96, second[4], second[5], second[6], second[7]);
        multiply_keys<HEADS>(scores, second, wgmma_move(queries, 64));
        queries = wgmma_move(queries, HEADS * 128);
        values += GROUP_BYTES;
        wgmma_wait<1>();
    }
    load_matrix4(*(uint32_t(*)[4]) & first[0], values);
    load_matrix4(*(uint32_t(*)[4]) & first[4], values ^ 32);
    multiply_keys<HEADS>(scores, first, queries);
    wgmma_wait<1>();
    load_matrix4(*(uint32_t(*)[4]) & second[0], values ^ 64);
    load_matrix4(*(uint32_t(*)[4]) & second[4], values ^ 96);
    multiply_keys<HEADS>(scores, second, wgmma_move(queries, 64));
    wgmma_wait<0>();
    wgmma_settle(scores);
}

/* Waits for a block's rows; is_valid: of this thread's two. */
template <int HEADS>
__device__ __forceinline__ key_pair find_rows(int stream, uint32_t parity, bool (&is_valid)[2],
                                              const shared_memory<HEADS> &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, row = 16 * warp + lane / 4;
    key_pair keys;
    uint32_t over = 0;
    barrier_wait(shared_address(&s.rows_full[stream]), parity);
    keys.codes = shared_address(s.values[stream]) + code_offset(row, lane % 4);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint2 scales = *(const uint2 *)&s.scales[stream][(row + 8 * r) * SCALE_BYTES];
        is_valid[r] = (s.valid[stream][2 * warp + r] >> (lane / 4 * 4) & 1) != 0;
        keys.scales[r] = (uint64_t)scales.y << 32 | scales.x;
        keys.largest[r] = 0;
        over |= __vcmpgtu4(scales.x, 0x01010101u * BIG_SCALE) |
                (__vcmpgtu4(scales.y, 0x01010101u * BIG_SCALE) & 0x00ffffffu);
    }
    keys.has_big = __any_sync(0xffffffffu, over != 0);
    return keys;
}

/* Scores of rows with NaN codes become NaN, those of rows that no list names -inf. */
template <int HEADS>
__device__ __forceinline__ void mark_rows(const key_pair &keys, const bool (&is_valid)[2],
                                          float (&scores)[HEADS / 2])
{
    const bool is_nan[2] = {is_nan_row(keys.largest[0]), is_nan_row(keys.largest[1])};
    if (!__any_sync(0xffffffffu, is_nan[0] || is_nan[1] || !is_valid[0] || !is_valid[1])) return;
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++) {
        const int r = i / 2 % 2;
        scores[i] = is_nan[r] ? NAN : (is_valid[r] ? scores[i] : -INFINITY);
    }
}

/* ---- probabilities ---- */

/* Multiplies a thread's sums, heads 8 * (i / 2) + 2 * (lane % 4) + i % 2, by its heads' factors. */
template <int HEADS>
__device__ __forceinline__ void scale_key_sums(float (&sums)[HEADS / 4], const float *factors)
{
#pragma unroll
    for (int i = 0; i < HEADS / 4; i++)
        sums[i] *= factors[8 * (i / 2) + 2 * (threadIdx.x % 4) + i % 2];
}

/*
 * A new reference for every head from this block's scores, and by what the part's values, this stream's sums
 * and the other stream's have to be multiplied.
 */
template <int HEADS>
__device__ static void set_reference(const float (&scores)[HEADS / 2], float scale_log2, int stream,
                                     uint32_t part, float (&sums)[HEADS / 4],
                                     shared_memory<HEADS> &s)
{
    const int thread = threadIdx.x % WARPGROUP, lane = thread % 32, warp = thread / 32;
#pragma unroll
    for (int i = 0; i < HEADS / 4; i++) {
        float m = fmaxf(scores[i / 2 * 4 + i % 2], scores[i / 2 * 4 + i % 2 + 2]);
        for (int other = 4; other < 32; other *= 2)
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, other));
        if (lane < 4) s.block_max[warp][8 * (i / 2) + 2 * lane + i % 2] = m;
    }
    named_barrier(BARRIER_STREAM + stream, WARPGROUP);
    if (thread < HEADS) {
        const float *m = &s.block_max[0][thread];
        const float largest = fmaxf(fmaxf(m[0], m[HEADS]), fmaxf(m[2 * HEADS], m[3 * HEADS]));
        const float old = s.ref[thread], now = fmaxf(old, largest * scale_log2);
        const float factor = exp2_fast(old - now);
        float &others = s.sum_rescale[1 - stream][thread];
        s.ref[thread] = now;
        s.rescale[stream][thread] = factor;
        others = s.needs_sum_rescale[1 - stream] == part ? others * factor : factor;
    }
    named_barrier(BARRIER_STREAM + stream, WARPGROUP);
    if (thread == 0) {
        s.needs_rescale[stream] = 1;
        s.needs_sum_rescale[1 - stream] = part;
    }
    scale_key_sums<HEADS>(sums, s.rescale[stream]);
}

/* Probabilities, each head's sum of this thread's two keys, and the sum of those. */
template <int HEADS>
__device__ __forceinline__ float make_probs(const float (&scores)[HEADS / 2], float scale_log2,
                                            const float *ref, uint32_t (&probs)[HEADS / 4],
                                            float (&block_sums)[HEADS / 4])
{
    float total = 0.0f;
#pragma unroll
    for (int t = 0; t < HEADS / 8; t++) {
        const float2 r = *(const float2 *)&ref[8 * t + 2 * (threadIdx.x % 4)];
        const float p0 = exp2_fast(fmaf(scores[4 * t], scale_log2, -r.x));
        const float p1 = exp2_fast(fmaf(scores[4 * t + 1], scale_log2, -r.y));
        const float p2 = exp2_fast(fmaf(scores[4 * t + 2], scale_log2, -r.x));
        const float p3 = exp2_fast(fmaf(scores[4 * t + 3], scale_log2, -r.y));
        probs[2 * t] = to_bf16_pair(p0, p1);
        probs[2 * t + 1] = to_bf16_pair(p2, p3);
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
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int row = lane % 8, chunk = (2 * warp + (lane / 8) % 2) ^ row;
#pragma unroll
    for (int t = 0; t < HEADS / 8; t += 2) {
        store_matrix4_transposed(address + (8 * (t + lane / 16) + row) * 128 + (chunk << 4),
                                 probs[2 * t], probs[2 * t + 1], probs[2 * t + 2],
                                 probs[2 * t + 3]);
    }
}

/* The stream's sums follow a reference that the other stream has moved in this part. */
template <int HEADS>
__device__ __forceinline__ void
follow_reference(int stream, uint32_t part, float (&sums)[HEADS / 4], const shared_memory<HEADS> &s)
{
    if (s.needs_sum_rescale[stream] == part) scale_key_sums<HEADS>(sums, s.sum_rescale[stream]);
}

/* From complete scores to probabilities for the value warps; the block before has been weighed. */
template <int HEADS>
__device__ __forceinline__ void weigh_keys(int stream, uint32_t part, float scale_log2,
                                           const float (&scores)[HEADS / 2],
                                           float (&sums)[HEADS / 4], shared_memory<HEADS> &s)
{
    const int thread = threadIdx.x % WARPGROUP;
    uint32_t probs[HEADS / 4];
    float block_sums[HEADS / 4];
    if (thread == 0) s.needs_rescale[stream] = 0;
    const float total = make_probs<HEADS>(scores, scale_log2, s.ref, probs, block_sums);
    follow_reference<HEADS>(stream, part, sums, s);
    const bool moves =
        named_barrier_any(BARRIER_STREAM + stream, WARPGROUP, !(total < LARGEST_SUM));
    if (thread == 0) s.needs_sum_rescale[stream] = 0;
    if (moves) {
        set_reference<HEADS>(scores, scale_log2, stream, part, sums, s);
        make_probs<HEADS>(scores, scale_log2, s.ref, probs, block_sums);
    }
    barrier_arrive(shared_address(&s.weighed[stream]));
#pragma unroll
    for (int i = 0; i < HEADS / 4; i++) sums[i] += block_sums[i];
    store_probs<HEADS>(probs, shared_address(s.probs[stream]));
    fence_async_shared();
    barrier_arrive(shared_address(&s.full[stream]));
}

/* Leaves the references and sums of a part for the value warps. Parts are counted from 1. */
template <int HEADS>
__device__ static void finish_keys(int stream, uint32_t part, float (&sums)[HEADS / 4],
                                   shared_memory<HEADS> &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    named_barrier(BARRIER_KEYS, N_KEY_THREADS);
    follow_reference<HEADS>(stream, part, sums, s);
    barrier_wait(shared_address(&s.part_empty), part & 1);
#pragma unroll
    for (int i = 0; i < HEADS / 4; i++) {
        float sum = sums[i];
        for (int other = 4; other < 32; other *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
        if (lane < 4) s.part_sum[warp][8 * (i / 2) + 2 * lane + i % 2] = sum;
    }
    if (threadIdx.x < HEADS) s.part_ref[threadIdx.x] = s.ref[threadIdx.x];
    barrier_arrive(shared_address(&s.part_full));
}

template <int HEADS> __device__ static void run_keys(const attn_args &a, shared_memory<HEADS> &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int stream =
        __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP, 0); /* said to be a warp's */
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    /* lane l stores keys l % 16 of the warp, columns 0..7 or 8..15 of a step (store_matrix4) */
    const uint32_t values = shared_address(s.values[stream]) + (16 * warp + lane % 16) * 128 +
                            (((lane / 16) ^ (lane % 8)) << 4);
    const uint64_t queries = wgmma_matrix(shared_address(s.q), 16);
    uint32_t n_blocks_done = 0, part = 1; /* of both streams */
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const attn_part p = read_part(a, rank);
        const uint32_t end = n_blocks_done + (p.end_block - p.first_block);
        float sums[HEADS / 4] = {};
        if (threadIdx.x < HEADS) s.ref[threadIdx.x] = FIRST_REF;
        load_query<HEADS>(a, p, s.q);
#pragma unroll 1
        for (uint32_t b = n_blocks_done + ((n_blocks_done ^ stream) & 1); b < end; b += 2) {
            float scores[HEADS / 2];
            bool is_valid[2];
            key_pair keys = find_rows<HEADS>(stream, b / 2 & 1, is_valid, s);
            multiply_block<HEADS>(keys, queries, values, scores);
            mark_rows<HEADS>(keys, is_valid, scores);
            if (b > 0) barrier_wait(shared_address(&s.weighed[1 - stream]), (b - 1) / 2 & 1);
            weigh_keys<HEADS>(stream, part, a.scale_log2, scores, sums, s);
        }
        n_blocks_done = end;
        finish_keys<HEADS>(stream, part++, sums, s);
    }
}

#endif
