/*
 * attn_sm90_few.cu - decode attention for Hopper with 8 or 16 heads together: two streams of blocks.
 *
 * Place: cuda, sm_90a only. As attn_sm90.cu, but the warps form two streams, each of a warpgroup of key warps and one
 * of value warps with all 512 dimensions of its sums; the streams take turns with a part's blocks of 64 keys and know
 * nothing of each other until the part ends. So one converts while the other waits: for a product, for a barrier,
 * for its values to be used up. At the end each gives the other half of its dimensions, brought to
 * a common reference, and finishes the other half.
 *
 * A key warp loads the rows that it converts itself, so that rows need no barrier between warps. Values are released
 * by chunks of 128 dimensions.
 */
#include "attn_launch.h"
#include "attn_sm90_keys.cuh"
#include "attn_sm90_values.cuh"

enum {
    N_STREAMS = 2,
    N_CHUNKS = 4, /* of two groups of dimensions: what is released together */
    GROUP_BYTES = KEYS * 128,
    STREAM_VALUES_BYTES = N_DIM_GROUPS * GROUP_BYTES,
    BARRIER_STREAM = 5, /* and the next: the key warps of a stream */
};

template <int HEADS> struct few_memory {
    alignas(1024) unsigned char q[N_DIM_GROUPS * HEADS * 128];
    alignas(1024) unsigned char values[N_STREAMS][STREAM_VALUES_BYTES];
    alignas(1024) unsigned char probs[N_STREAMS][HEADS * 128];
    alignas(16) unsigned char raw[N_STREAMS][KEYS * ROW_BYTES];
    alignas(16) unsigned char scales[N_STREAMS][KEYS * SCALE_BYTES];
    alignas(16) float ref[N_STREAMS][HEADS];
    float block_max[N_STREAMS][4][HEADS];
    float rescale[N_STREAMS][HEADS];
    float stream_ref[N_STREAMS][HEADS]; /* of the part that ended */
    float stream_sum[N_STREAMS][4][HEADS];
    float part_ref[HEADS]; /* of both streams */
    float part_sum[4][HEADS];
    int needs_rescale[N_STREAMS];
    int is_last_arriver;
    uint64_t raw_full[N_KEY_WARPS];
    uint64_t values_empty[N_STREAMS][N_CHUNKS];
    uint64_t full[N_STREAMS], part_full, part_empty;
};

/* ---- key warps ---- */

/* What a thread of a stream loads: pieces of two rows, 8 apart. */
struct pair_loader {
    index_cursor cursor; /* its block steps by the number of streams */
    key_index next[2];   /* of the next block of the stream */
    bool is_valid[2];    /* of the block that was loaded last */
};

/* The part's blocks of a stream are first + stream, then every second. */
__device__ __forceinline__ void seek_stream(const attn_args &a, index_cursor &c, int stream)
{
    while (c.block >= c.end_block) {
        const int32_t rank = rank_of_round(c.round);
        if (rank >= c.n_ranks) return;
        c.round++;
        const attn_part p = read_part(a, rank);
        c.block = p.first_block + stream;
        c.end_block = p.end_block;
        c.window_len = p.window_len;
        c.total_len = p.total_len;
        c.window_list =
            (const int32_t *)(a.window.indices + p.request * a.window.indices_request_stride_bytes +
                              part_query(p) * a.window.indices_query_stride_bytes);
        c.extra_list =
            (const int32_t *)(a.extra.indices + p.request * a.extra.indices_request_stride_bytes +
                              part_query(p) * a.extra.indices_query_stride_bytes) -
            p.window_len;
    }
}

__device__ __forceinline__ void next_pair(const attn_args &a, pair_loader &l, int stream, int row)
{
    index_cursor &c = l.cursor;
    seek_stream(a, c, stream);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        key_index &k = l.next[r];
        k.has_block = c.block < c.end_block;
        const int32_t entry = c.block * KEYS + row + 8 * r;
        k.is_listed = k.has_block && entry < c.total_len;
        k.is_extra = entry >= c.window_len;
        const int32_t *source = (k.is_extra ? c.extra_list : c.window_list) + entry;
        k.slot = __ldg(k.is_listed ? source : (const int32_t *)zero_row);
    }
    if (c.block < c.end_block) c.block += N_STREAMS;
}

/* Begins to bring the stream's next block: each warp its own 16 rows. */
template <int HEADS>
__device__ __forceinline__ void load_pair(const attn_args &a, pair_loader &l, int stream, int row,
                                          few_memory<HEADS> &s)
{
    if (!l.next[0].has_block) return;
    const int quarter = threadIdx.x % 4;
    __syncwarp(); /* all lanes have read what lies there */
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const key_row from = locate_row(a, l.next[r]);
        const uint32_t to =
            shared_address(s.raw[stream]) + (row + 8 * r) * ROW_BYTES + quarter * 16;
        l.is_valid[r] = from.is_valid;
#pragma unroll
        for (int i = 0; i < ROW_BYTES / 64; i++)
            copy_async16(to + 64 * i, from.codes + quarter * 16 + 64 * i);
        if (quarter == 0) {
            copy_async8(shared_address(s.scales[stream]) + (row + 8 * r) * SCALE_BYTES,
                        from.scales);
        }
    }
    copy_async_arrive(shared_address(&s.raw_full[threadIdx.x / 32]));
    next_pair(a, l, stream, row);
}

/* A group's scale bytes of this thread's two rows; scales: shared address of the first row's first. */
__device__ __forceinline__ void take_scales(key_pair &keys, uint32_t scales, int group)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        keys.all[r] = load_shared1(scales + 8 * r * SCALE_BYTES + group);
        keys.scales[r] = keys.has_big ? min(keys.all[r], (uint32_t)BIG_SCALE) : keys.all[r];
    }
}

/* Conversion, scores and values of a block of the stream; parity: of the chunks' release. */
template <int HEADS>
__device__ __forceinline__ void multiply_stream_block(key_pair &keys, int stream, uint32_t scales,
                                                      uint64_t queries, uint32_t values,
                                                      uint32_t parity, float (&scores)[HEADS / 2],
                                                      few_memory<HEADS> &s)
{
    uint32_t first[8], second[8];
    uint4 words[2] = {load_shared16(keys.codes[0]), load_shared16(keys.codes[1])};
#pragma unroll 1
    for (int g = 0; g < N_DIM_GROUPS - 1; g++) {
        if (g % 2 == 0) barrier_wait(shared_address(&s.values_empty[stream][g / 2]), parity);
        take_scales(keys, scales, g);
        const uint32_t low[2][2] = {{words[0].x, words[0].y}, {words[1].x, words[1].y}};
        convert_half(keys, low, first);
        multiply_keys<HEADS>(scores, first, queries, values, g > 0);
        const uint32_t high[2][2] = {{words[0].z, words[0].w}, {words[1].z, words[1].w}};
        convert_half(keys, high, second);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            keys.codes[r] += 64;
            words[r] = load_shared16(keys.codes[r]); /* behind the last group: not used */
        }
        multiply_keys<HEADS>(scores, second, wgmma_move(queries, 64), values ^ 64, true);
        queries = wgmma_move(queries, HEADS * 128);
        values += GROUP_BYTES;
        wgmma_wait<0>(); /* meanwhile the other stream converts */
        wgmma_settle(scores);
    }
    const uint32_t offset = threadIdx.x % 4 * 16; /* 32 bytes a thread instead of 16 */
    const uint4 low[2] = {load_shared16(keys.codes[0] + offset),
                          load_shared16(keys.codes[1] + offset)};
    const uint4 high[2] = {load_shared16(keys.codes[0] + offset + 16),
                           load_shared16(keys.codes[1] + offset + 16)};
    take_half(low, first);
    multiply_keys<HEADS>(scores, first, queries, values, true);
    take_half(high, second);
    multiply_keys<HEADS>(scores, second, wgmma_move(queries, 64), values ^ 64, true);
    wgmma_wait<0>();
    wgmma_settle(scores);
}

/* As set_reference, for a stream and all of its heads. */
template <int HEADS>
__device__ static void set_stream_reference(const float (&scores)[HEADS / 2], float scale_log2,
                                            int stream, float (&sums)[HEADS / 4],
                                            few_memory<HEADS> &s)
{
    const int thread = threadIdx.x % WARPGROUP, lane = thread % 32, warp = thread / 32;
#pragma unroll
    for (int i = 0; i < HEADS / 4; i++) {
        float m = fmaxf(scores[i / 2 * 4 + i % 2], scores[i / 2 * 4 + i % 2 + 2]);
        for (int other = 4; other < 32; other *= 2)
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, other));
        if (lane < 4) s.block_max[stream][warp][8 * (i / 2) + 2 * lane + i % 2] = m;
    }
    named_barrier(BARRIER_STREAM + stream, WARPGROUP);
    if (thread < HEADS) {
        const float *m = &s.block_max[stream][0][thread];
        const float largest = fmaxf(fmaxf(m[0], m[HEADS]), fmaxf(m[2 * HEADS], m[3 * HEADS]));
        const float old = s.ref[stream][thread], now = fmaxf(old, largest * scale_log2);
        s.ref[stream][thread] = now;
        s.rescale[stream][thread] = exp2_fast(old - now);
    }
    if (thread == 0) s.needs_rescale[stream] = 1;
    named_barrier(BARRIER_STREAM + stream, WARPGROUP);
#pragma unroll
    for (int i = 0; i < HEADS / 4; i++)
        sums[i] *= s.rescale[stream][8 * (i / 2) + 2 * (lane % 4) + i % 2];
}

template <int HEADS>
__device__ __forceinline__ float
make_stream_probs(const float (&scores)[HEADS / 2], float scale_log2, const float *ref,
                  uint32_t (&probs)[HEADS / 4], float (&block_sums)[HEADS / 4])
{
    float total = 0.0f;
#pragma unroll
    for (int t = 0; t < HEADS / 8; t++) {
        const float2 r = *(const float2 *)&ref[8 * t + 2 * (threadIdx.x % 4)];
        const float p0 = exp2_fast(fmaf(scores[4 * t], scale_log2, -r.x));
        const float p1 = exp2_fast(fmaf(scores[4 * t + 1], scale_log2, -r.y));
        const float p2 = exp2_fast(fmaf(scores[4 * t + 2], scale_log2, -r.x));
        const float p3 = exp2_fast(fmaf(scores[4 * t + 3], scale_log2, -r.y));
        probs[2 * t] = pack_bf16(p0, p1);
        probs[2 * t + 1] = pack_bf16(p2, p3);
        block_sums[2 * t] = p0 + p2;
        block_sums[2 * t + 1] = p1 + p3;
        total += block_sums[2 * t] + block_sums[2 * t + 1];
    }
    return total;
}

/* From scores to probabilities for the stream's value warps. */
template <int HEADS>
__device__ __forceinline__ void weigh_stream(int stream, float scale_log2,
                                             float (&scores)[HEADS / 2], float (&sums)[HEADS / 4],
                                             few_memory<HEADS> &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    uint32_t probs[HEADS / 4];
    float block_sums[HEADS / 4];
    if (threadIdx.x % WARPGROUP == 0)
        s.needs_rescale[stream] = 0; /* the last block was used up: values_empty */
    const float total =
        make_stream_probs<HEADS>(scores, scale_log2, s.ref[stream], probs, block_sums);
    if (named_barrier_any(BARRIER_STREAM + stream, WARPGROUP, !(total < LARGEST_SUM))) {
        set_stream_reference<HEADS>(scores, scale_log2, stream, sums, s);
        make_stream_probs<HEADS>(scores, scale_log2, s.ref[stream], probs, block_sums);
    }
#pragma unroll
    for (int i = 0; i < HEADS / 4; i++) sums[i] += block_sums[i];
    const int row = lane % 8, chunk = (2 * warp + (lane / 8) % 2) ^ row;
    const uint32_t address = shared_address(s.probs[stream]) + row * 128 + (chunk << 4);
    if constexpr (HEADS == 8) {
        store_matrix2_transposed(address, probs[0], probs[1]);
    } else {
        store_matrix4_transposed(address + lane / 16 * 8 * 128, probs[0], probs[1], probs[2],
                                 probs[3]);
    }
    fence_async_shared();
    barrier_arrive(shared_address(&s.full[stream]));
}

template <int HEADS>
__device__ static void finish_stream(int stream, const float (&sums)[HEADS / 4],
                                     few_memory<HEADS> &s, uint32_t n_done)
{
    const int thread = threadIdx.x % WARPGROUP, lane = thread % 32, warp = thread / 32;
    barrier_wait(shared_address(&s.part_empty), (n_done & 1) ^ 1);
#pragma unroll
    for (int i = 0; i < HEADS / 4; i++) {
        float sum = sums[i];
        for (int other = 4; other < 32; other *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
        if (lane < 4) s.stream_sum[stream][warp][8 * (i / 2) + 2 * lane + i % 2] = sum;
    }
    named_barrier(BARRIER_STREAM + stream,
                  WARPGROUP); /* all have used ref, which the next part resets */
    if (thread < HEADS) s.stream_ref[stream][thread] = s.ref[stream][thread];
    barrier_arrive(shared_address(&s.part_full));
}

__device__ __forceinline__ int32_t stream_blocks(const attn_part &p, int stream)
{
    return (p.end_block - p.first_block + N_STREAMS - 1 - stream) / N_STREAMS;
}

template <int HEADS>
__device__ static void run_stream_keys(const attn_args &a, few_memory<HEADS> &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int stream = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP, 0);
    const int row = 16 * warp + lane / 4; /* the other is 8 on */
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    const uint32_t store = shared_address(s.values[stream]) + (16 * warp + lane % 16) * 128 +
                           (((lane / 16) ^ (lane % 8)) << 4);
    const uint32_t codes = shared_address(s.raw[stream]) + row * ROW_BYTES + lane % 4 * 16;
    const uint32_t scales = shared_address(s.scales[stream]) + row * SCALE_BYTES;
    const uint64_t queries = wgmma_matrix(shared_address(s.q), 16);
    uint32_t n_blocks_done = 0, n_parts_done = 0;
    pair_loader l = {};
    l.cursor.n_ranks = n_ranks;
    next_pair(a, l, stream, row);
    load_pair<HEADS>(a, l, stream, row, s);
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const attn_part p = read_part(a, rank);
        float sums[HEADS / 4] = {};
        if (threadIdx.x % WARPGROUP < HEADS) s.ref[stream][threadIdx.x % WARPGROUP] = FIRST_REF;
        named_barrier(BARRIER_KEYS, N_KEY_THREADS); /* both streams are done with the queries */
        load_query<HEADS>(a, p, s.q, 0);
#pragma unroll 1
        for (int32_t n_left = stream_blocks(p, stream); n_left > 0; n_left--) {
            float scores[HEADS / 2];
            key_pair keys;
            uint32_t over = 0;
            barrier_wait(shared_address(&s.raw_full[threadIdx.x / 32]), n_blocks_done & 1);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const uint2 all = *(const uint2 *)&s.scales[stream][(row + 8 * r) * SCALE_BYTES];
                keys.codes[r] = codes + 8 * r * ROW_BYTES;
                keys.largest[r] = 0;
                over |= __vcmpgtu4(all.x, 0x01010101u * BIG_SCALE) |
                        (__vcmpgtu4(all.y, 0x01010101u * BIG_SCALE) & 0x00ffffffu);
            }
            keys.has_big = __any_sync(0xffffffffu, over != 0);
            const bool is_valid[2] = {l.is_valid[0], l.is_valid[1]};
            multiply_stream_block<HEADS>(keys, stream, scales, queries, store,
                                         (n_blocks_done & 1) ^ 1, scores, s);
            load_pair<HEADS>(a, l, stream, row, s);
            const bool is_nan[2] = {is_nan_row(keys.largest[0]), is_nan_row(keys.largest[1])};
            if (__any_sync(0xffffffffu, is_nan[0] || is_nan[1] || !is_valid[0] || !is_valid[1])) {
#pragma unroll
                for (int i = 0; i < HEADS / 2; i++) {
                    const int r = i / 2 % 2;
                    scores[i] = is_nan[r] ? NAN : (is_valid[r] ? scores[i] : -INFINITY);
                }
            }
            weigh_stream<HEADS>(stream, a.scale_log2, scores, sums, s);
            n_blocks_done++;
        }
        finish_stream<HEADS>(stream, sums, s, n_parts_done++);
        /* a stream without blocks in this part: its values' place is used at the part's end all the same */
        if (stream_blocks(p, stream) == 0) {
            barrier_wait(shared_address(&s.part_empty), (n_parts_done & 1) ^ 1);
        }
    }
}

/* ---- value warps ---- */

/* All dimensions of a stream: group g in v[g * HEADS / 2 ...]. */
template <int HEADS> struct stream_sums {
    float v[4 * HEADS];
};

template <int HEADS>
__device__ __forceinline__ void scale_stream(stream_sums<HEADS> &sums, const float *factors)
{
    typedef own_heads<HEADS> own;
    float own_factors[own::n];
#pragma unroll
    for (int i = 0; i < own::n; i++) own_factors[i] = factors[head_of<HEADS>(own::value(i))];
#pragma unroll
    for (int i = 0; i < 4 * HEADS; i++) sums.v[i] *= own_factors[own::of(i)];
}

/* Adds a block; releases its chunks, but not those of the part's last block. */
template <int HEADS>
__device__ __forceinline__ void add_stream_block(stream_sums<HEADS> &sums, int stream, bool adds,
                                                 bool releases, few_memory<HEADS> &s)
{
    const uint64_t p = wgmma_matrix(shared_address(s.probs[stream]), 16);
    const uint64_t v = wgmma_matrix(shared_address(s.values[stream]), 16);
    const bool arrives = releases && threadIdx.x % 32 == 0;
    const uint32_t empty = shared_address(&s.values_empty[stream][0]);
    wgmma_fence();
#pragma unroll
    for (int g = 0; g < N_DIM_GROUPS; g++) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            wgmma_ss_ta(*(float(*)[HEADS / 2]) & sums.v[g * (HEADS / 2)],
                        wgmma_move(v, g * GROUP_BYTES + k * 2048), wgmma_move(p, k * 32),
                        adds || k > 0);
        }
        if (g % 2 == 1) wgmma_commit();
    }
    wgmma_wait<3>();
    if (arrives) barrier_arrive(empty);
    wgmma_wait<2>();
    if (arrives) barrier_arrive(empty + 8);
    wgmma_wait<1>();
    if (arrives) barrier_arrive(empty + 16);
    wgmma_wait<0>();
    if (arrives) barrier_arrive(empty + 24);
}

/*
 * Brings both streams to the larger reference, leaves this part's reference and sums in part_ref and part_sum, and
 * leaves in `own` the sum of both of this warpgroup's half of the dimensions. Uses the streams' values.
 */
template <int HEADS>
__device__ static void join_streams(stream_sums<HEADS> &sums, value_sums<HEADS> &own_half, int half,
                                    few_memory<HEADS> &s)
{
    typedef own_heads<HEADS> own;
    const int thread = threadIdx.x % WARPGROUP;
    float factors[own::n];
#pragma unroll
    for (int i = 0; i < own::n; i++) {
        const int h = head_of<HEADS>(own::value(i));
        factors[i] = exp2f(s.stream_ref[half][h] - fmaxf(s.stream_ref[0][h], s.stream_ref[1][h]));
    }
#pragma unroll
    for (int i = 0; i < 4 * HEADS; i++) sums.v[i] *= factors[own::of(i)];
    if (half == 0 && thread < HEADS) {
        const float ref = fmaxf(s.stream_ref[0][thread], s.stream_ref[1][thread]);
        for (int w = 0; w < 4; w++) {
            s.part_sum[w][thread] =
                s.stream_sum[0][w][thread] * exp2f(s.stream_ref[0][thread] - ref) +
                s.stream_sum[1][w][thread] * exp2f(s.stream_ref[1][thread] - ref);
        }
        s.part_ref[thread] = ref;
    }
    named_barrier(BARRIER_VALUES + 1 + half,
                  WARPGROUP); /* the place's values have been multiplied */
    float4 *given = (float4 *)s.values[half];
    const float4 *taken = (const float4 *)s.values[1 - half];
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++) {
        const int at = 4 * i; /* of the other's half */
        const float *low = &sums.v[2 * HEADS + at], *high = &sums.v[at];
        given[i * WARPGROUP + thread] = half == 0 ? make_float4(low[0], low[1], low[2], low[3])
                                                  : make_float4(high[0], high[1], high[2], high[3]);
    }
    named_barrier(BARRIER_VALUES, N_VALUE_THREADS);
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++) {
        const float4 other = taken[i * WARPGROUP + thread];
        const float values[4] = {other.x, other.y, other.z, other.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            own_half.v[4 * i + j] =
                (half == 0 ? sums.v[4 * i + j] : sums.v[2 * HEADS + 4 * i + j]) + values[j];
        }
    }
    named_barrier(BARRIER_VALUES, N_VALUE_THREADS); /* the places are free for the output */
}

template <int HEADS>
__device__ static void run_stream_values(const attn_args &a, few_memory<HEADS> &s)
{
    const int stream = threadIdx.x / WARPGROUP - 2, lane = threadIdx.x % 32;
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    uint32_t n_blocks_done = 0, n_parts_done = 0;
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const attn_part p = read_part(a, rank);
        const int32_t n_blocks = stream_blocks(p, stream);
        stream_sums<HEADS> sums;
        prefetch_query<HEADS>(a, rank_of_round(round + 1), n_ranks);
#pragma unroll
        for (int i = 0; i < 4 * HEADS; i++) sums.v[i] = 0.0f;
#pragma unroll 1
        for (int32_t block = 0; block < n_blocks; block++) {
            barrier_wait(shared_address(&s.full[stream]), n_blocks_done & 1);
            if (block > 0 && s.needs_rescale[stream]) scale_stream<HEADS>(sums, s.rescale[stream]);
            add_stream_block<HEADS>(sums, stream, block > 0, block + 1 < n_blocks, s);
            n_blocks_done++;
        }
        barrier_wait(shared_address(&s.part_full), n_parts_done & 1);
        value_sums<HEADS> own_half;
        join_streams<HEADS>(sums, own_half, stream, s);
        bool is_complete = true;
        if (p.first_slot >= 0) {
            is_complete = leave_state<HEADS>(a, p, own_half, s);
            if (is_complete) merge_states<HEADS>(a, p, own_half, s);
        }
        const uint32_t place = shared_address(s.values[stream]);
        const out_stage stage = {place, place + 16384};
        if (is_complete) finish_values<HEADS, false>(a, p, own_half, stream, stage, s);
        __syncwarp();
        if (lane == 0 && n_blocks > 0) {
            for (int i = 0; i < N_CHUNKS; i++)
                barrier_arrive(shared_address(&s.values_empty[stream][i]));
        }
        barrier_arrive(shared_address(&s.part_empty));
        n_parts_done++;
    }
}

template <int HEADS>
__global__ void __launch_bounds__(N_THREADS, 1) attn_few_kernel(const __grid_constant__ attn_args a)
{
    extern __shared__ unsigned char memory[];
    few_memory<HEADS> &s = *(few_memory<HEADS> *)(((uintptr_t)memory + 1023) & ~(uintptr_t)1023);
    if (threadIdx.x == 0) {
        for (int i = 0; i < N_KEY_WARPS; i++) barrier_init(shared_address(&s.raw_full[i]), 32);
        for (int i = 0; i < N_STREAMS; i++) {
            for (int c = 0; c < N_CHUNKS; c++)
                barrier_init(shared_address(&s.values_empty[i][c]), WARPGROUP / 32);
            barrier_init(shared_address(&s.full[i]), WARPGROUP);
        }
        barrier_init(shared_address(&s.part_full), N_KEY_THREADS);
        barrier_init(shared_address(&s.part_empty), N_VALUE_THREADS);
        barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < N_KEY_THREADS) {
        run_stream_keys<HEADS>(a, s);
    } else {
        run_stream_values<HEADS>(a, s);
    }
}

template <int HEADS>
static cudaError_t launch_few(const attn_args *args, int n_thread_blocks, cudaStream_t stream)
{
    const size_t n_bytes = sizeof(few_memory<HEADS>) + 1024;
    cudaError_t status = cudaFuncSetAttribute(
        attn_few_kernel<HEADS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes);
    if (status != cudaSuccess) return status;
    attn_few_kernel<HEADS><<<n_thread_blocks, N_THREADS, n_bytes, stream>>>(*args);
    return cudaGetLastError();
}

cudaError_t dsv4_attn_few_launch(const attn_args *args, int group_heads, int n_thread_blocks,
                                 cudaStream_t stream)
{
    switch (group_heads) {
    case 8: return launch_few<8>(args, n_thread_blocks, stream);
    case 16: return launch_few<16>(args, n_thread_blocks, stream);
    default: return cudaErrorInvalidValue;
    }
}
