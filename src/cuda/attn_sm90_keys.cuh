/*
 * attn_sm90_keys.cuh - the key warps: from rows to probabilities and bf16 values.
 *
 * Place: cuda, sm_90a only; part of attn_sm90.cu, which describes the kernel.
 *
 * Order of dimensions: the four threads of a row hold 16 codes of each group of 64. Step j of a group (16 columns of
 * the matrix product) takes word j of each thread: columns 2c and 2c + 1 are bytes 1 and 3 of thread c, columns 8 + 2c
 * and 9 + 2c bytes 0 and 2. Of the rotated group they hold two times eight dimensions, 32 apart: columns 2c and 2c + 1
 * are word j of the first eight, columns 8 + 2c and 9 + 2c of the others. Queries are stored in that order, and so are
 * values.
 */
#ifndef DSV4_CUDA_ATTN_SM90_KEYS_CUH
#define DSV4_CUDA_ATTN_SM90_KEYS_CUH

#include "attn_sm90_loads.cuh"
#include "formats.cuh"

/* ---- queries ---- */

/* 16 dimensions of a query head; of rotated ones, eight and the eight that are 32 on. */
struct query_piece {
    uint4 low, high;
};

/*
 * A warp's 16 dimensions of eight heads a thread, to rows of 128 bytes: chunk 2j gets values 1 and 3 of each four at
 * word j, chunk 2j + 1 values 0 and 2; of rotated ones, words j of the low and of the high half. rows: shared addresses
 * of the lane's 16 bytes (store_matrix4) in the first four chunks and in the others.
 */
template <bool IS_ROTATED>
__device__ __forceinline__ void store_piece(const query_piece &piece, const uint32_t (&rows)[2],
                                            int n_bytes)
{
    const uint32_t words[8] = {piece.low.x,  piece.low.y,  piece.low.z,  piece.low.w,
                               piece.high.x, piece.high.y, piece.high.z, piece.high.w};
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
        uint32_t chunks[4];
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            const uint32_t x = words[2 * j + i], y = words[2 * j + i + 1];
            chunks[i] = IS_ROTATED ? words[j + i / 2] : __byte_perm(x, y, 0x7632);
            chunks[i + 1] = IS_ROTATED ? words[4 + j + i / 2] : __byte_perm(x, y, 0x5410);
        }
        store_matrix4(rows[j / 2] + n_bytes, chunks[0], chunks[1], chunks[2], chunks[3]);
    }
}

/*
 * A warp's group of the queries of a part's heads in the keys' order of dimensions; behind the last head, that one
 * again: what comes of it is not written. No branch among the reads: what meets behind it would wait for each of them.
 * Short, as all that is run once a part: its instructions come from memory.
 */
template <int HEADS, bool IS_ALIGNED, bool IS_ROTATED, class PART>
__device__ __forceinline__ void copy_group(const attn_args &a, const PART &p, const char *q,
                                           uint32_t rows)
{
    enum { N_PIECES = HEADS * 32 / N_KEY_THREADS, HIGH_BYTES = IS_ROTATED ? 64 : 16 };
    const int lane = threadIdx.x % 32, row = lane % 8, chunk = lane / 8;
    const uint32_t chunks[2] = {rows + row * 128 + ((chunk ^ row) << 4),
                                rows + row * 128 + (((4 + chunk) ^ row) << 4)};
    query_piece pieces[N_PIECES];
    q += lane % 4 * (IS_ROTATED ? 16 : 32);
#pragma unroll
    for (int i = 0; i < N_PIECES; i++) {
        const int head = min(part_first_head(p, HEADS) + 8 * i + lane / 4, count_heads(a, p) - 1);
        const char *from = q + query_bytes(a, p, head);
        pieces[i].low = IS_ALIGNED ? __ldg((const uint4 *)from) : load_unaligned16(from);
        pieces[i].high = IS_ALIGNED ? __ldg((const uint4 *)(from + HIGH_BYTES))
                                    : load_unaligned16(from + HIGH_BYTES);
    }
#pragma unroll
    for (int i = 0; i < N_PIECES; i++) store_piece<IS_ROTATED>(pieces[i], chunks, 8 * i * 128);
}

/* Queries of a part's heads; by all key warps, which take a group of dimensions each. */
template <int HEADS, bool IS_ALIGNED, class PART>
__device__ __forceinline__ void copy_query(const attn_args &a, const PART &p, uint32_t q_memory)
{
    const int warp = threadIdx.x / 32;
    const char *q = a.q + p.request * a.q_request_stride_bytes +
                    part_query(p) * a.q_query_stride_bytes + warp * 128;
    const uint32_t rows = q_memory + warp * HEADS * 128;
    if (warp == N_DIM_GROUPS - 1) {
        copy_group<HEADS, IS_ALIGNED, true>(a, p, q, rows);
    } else {
        copy_group<HEADS, IS_ALIGNED, false>(a, p, q, rows);
    }
}

template <int HEADS, class PART>
__device__ static void load_query(const attn_args &a, const PART &p, unsigned char *q_memory)
{
    if (a.q_is_aligned) {
        copy_query<HEADS, true>(a, p, shared_address(q_memory));
    } else {
        copy_query<HEADS, false>(a, p, shared_address(q_memory));
    }
    fence_async_shared();
    named_barrier(BARRIER_KEYS, N_KEY_THREADS);
}

/* ---- conversion ---- */

/* This thread's two rows of a block. */
struct key_pair {
    uint32_t is_valid;   /* bits */
    uint64_t scales[2];  /* bytes of the groups */
    uint32_t largest[2]; /* magnitudes of codes */
    bool has_big;        /* any row of the warp has a scale above BIG_SCALE */
};

/*
 * Two words of both rows' codes as the matrix operand of two steps: a[4 * step + row] and [... + 2]. All warps take the
 * same way through matrix instructions, so that only this may depend on a warp's scales.
 */
__device__ __forceinline__ void convert_words(key_pair &keys, int group,
                                              const uint32_t (&words)[2][2], uint32_t (&a)[8])
{
    uint32_t bytes[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        bytes[r] = (uint32_t)(keys.scales[r] >> 8 * group) & 0xff;
        const uint32_t factor = scale_factor(min(bytes[r], (uint32_t)BIG_SCALE));
#pragma unroll
        for (int j = 0; j < 2; j++)
            convert_codes(words[r][j], factor, a[4 * j + r], a[4 * j + r + 2], keys.largest[r]);
    }
    if (!keys.has_big) return;
#pragma unroll
    for (int i = 0; i < 8; i++) a[i] = multiply_bf16x2(a[i], second_factor(bytes[i % 2]));
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

/* This thread's rows of the stream's block `number`, which have been asked for. */
template <class PART, int HEADS>
__device__ __forceinline__ key_pair begin_block(const row_queue<PART, HEADS> &rows, int stream,
                                                uint32_t number, const shared_memory<HEADS> &s)
{
    key_pair keys;
    uint32_t over = 0;
    keys.is_valid = rows.is_valid;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint2 scales =
            *(const uint2 *)&s
                 .scales[stream][number % N_ROW_PLACES][(first_row() + 8 * r) * SCALE_BYTES];
        keys.scales[r] = (uint64_t)scales.y << 32 | scales.x;
        keys.largest[r] = 0;
        over |= __vcmpgtu4(scales.x, 0x01010101u * BIG_SCALE) |
                (__vcmpgtu4(scales.y, 0x01010101u * BIG_SCALE) & 0x00ffffffu);
    }
    keys.has_big = __any_sync(0xffffffffu, over != 0);
    return keys;
}

/* Half of a group, at 0 or 64 of its rows' bytes, as values; address: of the lane's first 16 bytes of group 0. */
__device__ __forceinline__ void store_half(uint32_t address, int group, int half_bytes,
                                           const uint32_t (&a)[8])
{
    store_matrix4((address ^ half_bytes) + group * GROUP_BYTES, a[0], a[1], a[2], a[3]);
    store_matrix4((address ^ half_bytes ^ 32) + group * GROUP_BYTES, a[4], a[5], a[6], a[7]);
}

/* Where a block goes. */
struct block_target {
    int stream;
    uint32_t number;  /* in the stream */
    uint32_t values;  /* shared address of the lane's 16 bytes of a group (store_matrix4) */
    uint64_t queries; /* of the first group */
};

/*
 * A group of codes: its share of the scores, and values. words: its chunk; becomes the next one. Half of the group is
 * multiplied while the other half is converted.
 */
template <int GROUP, class PART, int HEADS>
__device__ __forceinline__ void multiply_group(key_pair &keys, row_queue<PART, HEADS> &rows,
                                               const block_target &to, uint4 (&words)[2],
                                               float (&scores)[HEADS / 2], shared_memory<HEADS> &s)
{
    const uint32_t low[2][2] = {{words[0].x, words[0].y}, {words[1].x, words[1].y}};
    const uint32_t high[2][2] = {{words[0].z, words[0].w}, {words[1].z, words[1].w}};
    const uint64_t queries = wgmma_move(to.queries, GROUP * HEADS * 128);
    uint32_t first[8], second[8];
    convert_words(keys, GROUP, low, first);
    if (GROUP % 4 == 0)
        barrier_wait(shared_address(&s.empty[to.stream][GROUP / 4]), (to.number & 1) ^ 1);
    store_half(to.values, GROUP, 0, first);
    multiply_keys<HEADS>(scores, first, queries);
    wgmma_wait<1>(); /* the operands before may change */
    convert_words(keys, GROUP, high, second);
    read_chunk(rows, GROUP + 1, words);
    store_half(to.values, GROUP, 64, second);
    multiply_keys<HEADS>(scores, second, wgmma_move(queries, 64));
    wgmma_wait<1>();
    replace_chunk<GROUP + 1>(rows, to.stream, to.number, s);
}

/* The rotated group, which needs no conversion. words: its first chunk. */
template <class PART, int HEADS>
__device__ __forceinline__ void
multiply_rotated(row_queue<PART, HEADS> &rows, const block_target &to, const uint4 (&words)[2],
                 float (&scores)[HEADS / 2], shared_memory<HEADS> &s)
{
    constexpr int GROUP = N_DIM_GROUPS - 1;
    const uint64_t queries = wgmma_move(to.queries, GROUP * HEADS * 128);
    uint4 others[2];
    read_chunk(rows, GROUP + 1, others);
    const uint32_t low[8] = {words[0].x, words[1].x, others[0].x, others[1].x,
                             words[0].y, words[1].y, others[0].y, others[1].y};
    store_half(to.values, GROUP, 0, low);
    multiply_keys<HEADS>(scores, low, queries);
    const uint32_t high[8] = {words[0].z, words[1].z, others[0].z, others[1].z,
                              words[0].w, words[1].w, others[0].w, others[1].w};
    store_half(to.values, GROUP, 64, high);
    multiply_keys<HEADS>(scores, high, wgmma_move(queries, 64));
    replace_chunk<GROUP + 1>(rows, to.stream, to.number, s);
}

/* All dimensions of a block. Not a loop: places and addresses are constants. */
template <class PART, int HEADS>
__device__ __forceinline__ void multiply_block(key_pair &keys, row_queue<PART, HEADS> &rows,
                                               const block_target &to, float (&scores)[HEADS / 2],
                                               shared_memory<HEADS> &s)
{
    uint4 words[2];
    read_chunk(rows, 0, words);
    replace_chunk<0>(rows, to.stream, to.number, s);
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++) scores[i] = 0.0f;
    wgmma_settle(scores);
    multiply_group<0>(keys, rows, to, words, scores, s);
    multiply_group<1>(keys, rows, to, words, scores, s);
    multiply_group<2>(keys, rows, to, words, scores, s);
    multiply_group<3>(keys, rows, to, words, scores, s);
    multiply_group<4>(keys, rows, to, words, scores, s);
    multiply_group<5>(keys, rows, to, words, scores, s);
    multiply_group<6>(keys, rows, to, words, scores, s);
    multiply_rotated(rows, to, words, scores, s);
    turn_places(rows);
    wgmma_wait<0>();
    wgmma_settle(scores);
}

/* Scores of rows with NaN codes become NaN, those of rows that no list names -inf. */
template <int HEADS>
__device__ __forceinline__ void mark_rows(const key_pair &keys, float (&scores)[HEADS / 2])
{
    const bool is_nan[2] = {is_nan_row(keys.largest[0]), is_nan_row(keys.largest[1])};
    const bool is_valid[2] = {(keys.is_valid & 1) != 0, (keys.is_valid & 2) != 0};
    if (!__any_sync(0xffffffffu, is_nan[0] || is_nan[1] || !is_valid[0] || !is_valid[1])) return;
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++) {
        const int r = i / 2 % 2;
        scores[i] = is_nan[r] ? NAN : (is_valid[r] ? scores[i] : -INFINITY);
    }
}

/* The same of joined lists, whose rows have bits of queries: -inf for the heads of those that do not name them. */
template <int HEADS>
__device__ __forceinline__ void mark_joined(const key_pair &keys, int query_shift,
                                            float (&scores)[HEADS / 2])
{
    const bool is_nan[2] = {is_nan_row(keys.largest[0]), is_nan_row(keys.largest[1])};
    const bool are_all = keys.is_valid == (ATTN_JOIN_ALL << ATTN_JOIN_MAX_QUERIES | ATTN_JOIN_ALL);
    if (!__any_sync(0xffffffffu, is_nan[0] || is_nan[1] || !are_all)) return;
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++) {
        /* behind the last query, bits of the other row: nobody writes what comes of those heads */
        const int r = i / 2 % 2, query = 8 * (i / 4) >> query_shift;
        const bool is_named = (keys.is_valid >> (r * ATTN_JOIN_MAX_QUERIES + query) & 1) != 0;
        scores[i] = !is_named ? -INFINITY : (is_nan[r] ? NAN : scores[i]);
    }
}

/* ---- probabilities ---- */

/* Sums of a thread's two heads over a warp's keys of all its stream's blocks. */
struct head_sums {
    float first, second;
};

/* The first of them; of fewer than 64 heads several threads have the same. */
template <int HEADS> __device__ __forceinline__ int first_sum_head(void)
{
    const int lane = threadIdx.x % 32;
    int tile = 0;
    for (int n = HEADS / 8, bit = 4; n > 1; n /= 2, bit *= 2) tile = 2 * tile + ((lane & bit) != 0);
    return 8 * tile + 2 * (lane % 4);
}

/* Of two values that two lanes have both, the sum of one: the second for the lane that has the bit. */
__device__ __forceinline__ float trade_sums(float first, float second, int bit)
{
    const bool is_upper = (threadIdx.x & bit) != 0;
    const float other = __shfl_xor_sync(0xffffffffu, is_upper ? first : second, bit);
    return (is_upper ? second : first) + other;
}

/* Sums over the threads that have the same heads; each keeps two of them. make_probs has added neighbours. */
template <int HEADS> __device__ __forceinline__ head_sums add_threads(float (&v)[HEADS / 8])
{
#pragma unroll
    for (int bit = 8, n = HEADS / 8; bit < 32; bit *= 2) {
        if (n == 2) {
            v[0] += __shfl_xor_sync(0xffffffffu, v[0], bit);
            v[1] += __shfl_xor_sync(0xffffffffu, v[1], bit);
            continue;
        }
        n /= 2;
#pragma unroll
        for (int i = 0; i < n; i++) v[i] = trade_sums(v[i], v[i + n], bit);
    }
    return {v[0], v[1]};
}

template <int HEADS>
__device__ __forceinline__ void scale_key_sums(head_sums &sums, const float *factors)
{
    const float2 f = *(const float2 *)&factors[first_sum_head<HEADS>()];
    sums.first *= f.x;
    sums.second *= f.y;
}

/*
 * The largest over the lanes that have the same heads, v[i] of head 8 * (i / 2) + 2 * (lane % 4) + i % 2. In each step
 * a lane keeps half of the N heads that it has, so that two are left: those from first_sum_head on.
 */
template <int N, int BIT, int N_HEADS>
__device__ __forceinline__ void reduce_largest(float (&v)[N_HEADS])
{
    constexpr bool HALVES = N > 2;
    constexpr int N_KEPT = HALVES ? N / 2 : N;
    const bool is_upper = (threadIdx.x & BIT) != 0;
#pragma unroll
    for (int i = 0; i < N_KEPT; i++) {
        const float kept = HALVES && is_upper ? v[i + N_KEPT % N] : v[i];
        const float given = HALVES && !is_upper ? v[i + N_KEPT % N] : v[i];
        v[i] = fmaxf(kept, __shfl_xor_sync(0xffffffffu, given, BIT));
    }
    if constexpr (BIT < 16) reduce_largest<N_KEPT, 2 * BIT>(v);
}

/*
 * A new reference for every head from this block's scores, and by what the part's values, this stream's sums
 * and the other stream's have to be multiplied.
 */
template <int HEADS>
__device__ static void set_reference(const float (&scores)[HEADS / 2], float scale_log2, int stream,
                                     uint32_t part, head_sums &sums, shared_memory<HEADS> &s)
{
    const int thread = threadIdx.x % WARPGROUP;
    float largest[HEADS / 4];
#pragma unroll
    for (int i = 0; i < HEADS / 4; i++)
        largest[i] = fmaxf(scores[i / 2 * 4 + i % 2], scores[i / 2 * 4 + i % 2 + 2]);
    reduce_largest<HEADS / 4, 4>(largest);
    *(float2 *)&s.block_max[thread / 32][first_sum_head<HEADS>()] =
        make_float2(largest[0], largest[1]);
    named_barrier(BARRIER_STREAM + stream, WARPGROUP);
    if (thread < HEADS) {
        const float *m = &s.block_max[0][thread];
        const float all = fmaxf(fmaxf(m[0], m[HEADS]), fmaxf(m[2 * HEADS], m[3 * HEADS]));
        const float old = s.ref[thread], now = fmaxf(old, all * scale_log2);
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

/* Probabilities, sums of four keys for half of the thread's heads, and the sum of all. */
template <int HEADS>
__device__ __forceinline__ float make_probs(const float (&scores)[HEADS / 2], float scale_log2,
                                            const float *ref, uint32_t (&probs)[HEADS / 4],
                                            float (&block_sums)[HEADS / 8])
{
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < HEADS / 16; i++) {
        float sums[2][2];
#pragma unroll
        for (int upper = 0; upper < 2; upper++) {
            const int t = i + upper * (HEADS / 16);
            const float2 r = *(const float2 *)&ref[8 * t + 2 * (threadIdx.x % 4)];
            const float p0 = exp2_fast(fmaf(scores[4 * t], scale_log2, -r.x));
            const float p1 = exp2_fast(fmaf(scores[4 * t + 1], scale_log2, -r.y));
            const float p2 = exp2_fast(fmaf(scores[4 * t + 2], scale_log2, -r.x));
            const float p3 = exp2_fast(fmaf(scores[4 * t + 3], scale_log2, -r.y));
            probs[2 * t] = to_bf16_pair(p0, p1);
            probs[2 * t + 1] = to_bf16_pair(p2, p3);
            sums[upper][0] = p0 + p2;
            sums[upper][1] = p1 + p3;
            total += sums[upper][0] + sums[upper][1];
        }
        block_sums[2 * i] = trade_sums(sums[0][0], sums[1][0], 4);
        block_sums[2 * i + 1] = trade_sums(sums[0][1], sums[1][1], 4);
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
__device__ __forceinline__ void follow_reference(int stream, uint32_t part, head_sums &sums,
                                                 const shared_memory<HEADS> &s)
{
    if (s.needs_sum_rescale[stream] == part) scale_key_sums<HEADS>(sums, s.sum_rescale[stream]);
}

/* From complete scores to probabilities of block b for the value warps. */
template <int HEADS>
__device__ __forceinline__ void weigh_keys(int stream, uint32_t b, uint32_t part, bool is_first,
                                           float scale_log2, const float (&scores)[HEADS / 2],
                                           head_sums &sums, shared_memory<HEADS> &s)
{
    const int thread = threadIdx.x % WARPGROUP;
    uint32_t probs[HEADS / 4];
    float block_sums[HEADS / 8];
    if (b > 0) barrier_wait(shared_address(&s.weighed[1 - stream]), (b - 1) / 2 & 1);
    if (thread == 0) s.needs_rescale[stream] = 0;
#pragma unroll 1
    for (bool moves = is_first;; moves = true) {
        /* a part's first block sets references whatever its scores are; one piece of code for both ways */
        if (moves) set_reference<HEADS>(scores, scale_log2, stream, part, sums, s);
        const float total = make_probs<HEADS>(scores, scale_log2, s.ref, probs, block_sums);
        if (moves) break;
        follow_reference<HEADS>(stream, part, sums, s);
        const bool is_large =
            named_barrier_any(BARRIER_STREAM + stream, WARPGROUP, !(total < LARGEST_SUM));
        if (thread == 0) s.needs_sum_rescale[stream] = 0;
        if (!is_large) break;
    }
    barrier_arrive(shared_address(&s.weighed[stream]));
    if (shared_memory<HEADS>::n_probs == 1)
        barrier_wait(shared_address(&s.probs_empty), (b & 1) ^ 1);
    store_probs<HEADS>(probs, shared_address(s.probs[stream % shared_memory<HEADS>::n_probs]));
    fence_async_shared();
    barrier_arrive(shared_address(&s.full[stream]));
    const head_sums added = add_threads<HEADS>(block_sums);
    sums.first += added.first;
    sums.second += added.second;
}

/* Leaves the references and sums of a part for the value warps. Parts are counted from 1. */
template <int HEADS>
__device__ static void finish_keys(int stream, uint32_t part, head_sums &sums,
                                   shared_memory<HEADS> &s)
{
    const int warp = threadIdx.x / 32;
    named_barrier(BARRIER_KEYS, N_KEY_THREADS);
    follow_reference<HEADS>(stream, part, sums, s);
    barrier_wait(shared_address(&s.part_empty), part & 1);
    *(float2 *)&s.part_sum[warp][first_sum_head<HEADS>()] = make_float2(sums.first, sums.second);
    if (threadIdx.x < HEADS) s.part_ref[threadIdx.x] = s.ref[threadIdx.x];
    barrier_arrive(shared_address(&s.part_full));
}

template <class PART, int HEADS>
__device__ static void run_keys(const attn_args &a, shared_memory<HEADS> &s)
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
    row_queue<PART, HEADS> rows;
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const PART p = read_part<PART>(a, rank);
        const uint32_t end = n_blocks_done + (p.end_block - p.first_block);
        head_sums sums = {};
        if (threadIdx.x == 0) s.part[part % 2] = p;
        if (threadIdx.x < HEADS) s.ref[threadIdx.x] = FIRST_REF;
        load_query<HEADS>(a, p, s.q);
        if (round == 0) rows = begin_rows<PART, HEADS>(stream, s);
#pragma unroll 1
        for (uint32_t b = n_blocks_done + ((n_blocks_done ^ stream) & 1); b < end; b += 2) {
            float scores[HEADS / 2];
            key_pair keys = begin_block(rows, stream, b / N_STREAMS, s);
            multiply_block(keys, rows, {stream, b / N_STREAMS, values, queries}, scores, s);
            if constexpr (is_joined<PART>) {
                mark_joined<HEADS>(keys, a.joined.query_shift, scores);
            } else {
                mark_rows<HEADS>(keys, scores);
            }
            weigh_keys<HEADS>(stream, b, part, b == n_blocks_done, a.scale_log2, scores, sums, s);
        }
        n_blocks_done = end;
        finish_keys<HEADS>(stream, part++, sums, s);
    }
    copy_async_wait<0>();
}

#endif
