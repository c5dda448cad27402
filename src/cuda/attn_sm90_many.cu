/*
 * attn_sm90_many.cu - decode attention for Hopper with 64 heads together.
 *
 * Place: cuda, sm_90a only. Here the matrix units are what binds, so that everything else has to stay out of their way:
 *
 *   convert warps  two warpgroups: load rows into registers a block ahead, convert them to bf16 and store them; the
 *                  stored rows are keys and values
 *   score warps    one warpgroup: scores (heads on rows, queries from shared memory), probabilities, and the sums of
 *                  dimensions 0..255, probabilities from registers. The product of the next block's scores is issued
 *                  before the sums of this one are waited for
 *   value warps    one warpgroup: the sums of dimensions 256..511
 *
 * Two blocks of 64 keys are in shared memory. A warp has whole rows of scores: references and sums are its own.
 *
 * Order of dimensions: inside every four of the FP8 part position p holds dimension (1, 3, 0, 2)[p], as conversion
 * leaves them; queries are stored alike and the output is put in order by an exchange between neighbouring threads.
 */
#include "attn_launch.h"
#include "attn_sm90_keys.cuh"
#include "attn_sm90_values.cuh"

enum {
    HEADS_MANY = 64,
    N_BUFFERS = 2,
    KEY_GROUP_BYTES = KEYS * 128,
    BUFFER_BYTES = N_DIM_GROUPS * KEY_GROUP_BYTES,
    BARRIER_SCORE = 5,
};

struct many_memory {
    alignas(1024) unsigned char q[N_DIM_GROUPS * HEADS_MANY * 128];
    alignas(1024) unsigned char keys[N_BUFFERS][BUFFER_BYTES];
    alignas(1024) unsigned char probs[HEADS_MANY * 128];
    alignas(16) float bias[N_BUFFERS][KEYS]; /* 0, -inf where there is no key, NaN for NaN codes */
    int has_bias[N_BUFFERS][N_KEY_WARPS];    /* by convert warp */
    float rescale[HEADS_MANY];
    int needs_rescale[4]; /* by score warp */
    float part_ref[HEADS_MANY];
    float part_sum[4][HEADS_MANY];
    int is_last_arriver;
    uint64_t keys_full[N_BUFFERS], keys_empty[N_BUFFERS];
    uint64_t probs_full, probs_empty, part_full, part_empty;
};

/* ---- convert warps ---- */

/* A quarter of a row on its way: 16 codes of each group, 32 bytes of the rotated one. */
struct row_quarter {
    uint4 codes[N_DIM_GROUPS + 1];
    uint2 scales;
    bool is_valid;
};

__device__ __forceinline__ void load_quarter(const attn_args &a, key_index k, row_quarter &data)
{
    const int quarter = threadIdx.x % 4;
    const key_row from = locate_row(a, k);
    data.is_valid = from.is_valid;
    data.scales = load_once8(from.scales);
#pragma unroll
    for (int i = 0; i < N_DIM_GROUPS - 1; i++)
        data.codes[i] = load_once16(from.codes + 64 * i + 16 * quarter);
    data.codes[7] = load_once16(from.codes + 448 + 32 * quarter);
    data.codes[8] = load_once16(from.codes + 464 + 32 * quarter);
}

/* row: shared address of the row in group 0, at this thread's quarter; the thread's two chunks are swizzled. */
__device__ __forceinline__ void convert_quarter(const row_quarter &data, uint32_t row,
                                                uint32_t first_chunk, uint32_t second_chunk,
                                                uint32_t &largest)
{
    const bool is_big = (__vcmpgtu4(data.scales.x, 0x01010101u * BIG_SCALE) |
                         (__vcmpgtu4(data.scales.y, 0x01010101u * BIG_SCALE) & 0x00ffffffu)) != 0;
#pragma unroll
    for (int g = 0; g < N_DIM_GROUPS - 1; g++) {
        const uint32_t words[4] = {data.codes[g].x, data.codes[g].y, data.codes[g].z,
                                   data.codes[g].w};
        const uint32_t byte = ((g < 4 ? data.scales.x : data.scales.y) >> (8 * (g % 4))) & 0xff;
        const uint32_t factor =
            (is_big ? min(byte, (uint32_t)BIG_SCALE) : byte) * 0x800080u + 120 * 0x800080u;
        uint32_t out[8];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint32_t odd = (words[j] >> 4) & 0x07f007f0u,
                           even = (words[j] << 4) & 0x07f007f0u;
            largest = __vimax3_u16x2(largest, odd, even);
            out[2 * j] = multiply_bf16x2(odd | (words[j] & 0x80008000u), factor);
            out[2 * j + 1] = multiply_bf16x2(even | ((words[j] << 8) & 0x80008000u), factor);
        }
        if (is_big) {
#pragma unroll
            for (int j = 0; j < 8; j++) out[j] = multiply_bf16x2(out[j], second_factor(byte));
        }
        store_shared16(row + g * KEY_GROUP_BYTES + first_chunk,
                       make_uint4(out[0], out[1], out[2], out[3]));
        store_shared16(row + g * KEY_GROUP_BYTES + second_chunk,
                       make_uint4(out[4], out[5], out[6], out[7]));
    }
    store_shared16(row + 7 * KEY_GROUP_BYTES + first_chunk, data.codes[7]);
    store_shared16(row + 7 * KEY_GROUP_BYTES + second_chunk, data.codes[8]);
}

__device__ static void run_convert(const attn_args &a, many_memory &s)
{
    const int row = threadIdx.x / 4, quarter = threadIdx.x % 4, warp = threadIdx.x / 32;
    const uint32_t first_chunk = (uint32_t)((2 * quarter) ^ (row % 8)) << 4;
    const uint32_t second_chunk = (uint32_t)((2 * quarter + 1) ^ (row % 8)) << 4;
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    index_cursor cursor = {};
    row_quarter data;
    ring_place<N_BUFFERS> place = {};
    cursor.n_ranks = n_ranks;
    key_index next = next_index(a, cursor, row);
    load_quarter(a, next, data);
    next = next_index(a, cursor, row);
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const attn_part p = read_part(a, rank);
#pragma unroll 1
        for (int32_t block = p.first_block; block < p.end_block; block++) {
            const int buffer = place.slot;
            uint32_t largest = 0;
            barrier_wait(shared_address(&s.keys_empty[buffer]), (place.pass & 1) ^ 1);
            convert_quarter(data, shared_address(s.keys[buffer]) + row * 128, first_chunk,
                            second_chunk, largest);
            const bool is_nan = is_nan_row(largest), is_valid = data.is_valid;
            if (quarter == 0) s.bias[buffer][row] = is_nan ? NAN : (is_valid ? 0.0f : -INFINITY);
            const bool has_bias = __any_sync(0xffffffffu, is_nan || !is_valid);
            if (threadIdx.x % 32 == 0) s.has_bias[buffer][warp] = has_bias;
            fence_async_shared();
            barrier_arrive(shared_address(&s.keys_full[buffer]));
            load_quarter(a, next, data);
            next = next_index(a, cursor, row);
            place.advance(1);
        }
    }
}

/* ---- score warps ---- */

struct score_state {
    float ref[2], sums[2]; /* of rows lane / 4 and 8 on */
};

/* Queries in the order of dimensions of the keys, zeros behind the last head; the score warps, who alone read them. */
__device__ static void load_many_query(const attn_args &a, const attn_part &p, many_memory &s)
{
    const int thread = threadIdx.x % WARPGROUP, quarter = thread % 4;
    const char *q = a.q + p.request * a.q_request_stride_bytes +
                    part_query(p) * a.q_query_stride_bytes + quarter * 32;
    named_barrier(BARRIER_SCORE, WARPGROUP); /* all are done with those of the part before */
#pragma unroll 1
    for (int head = thread / 4; head < HEADS_MANY; head += WARPGROUP / 4) {
        const char *source = q + (part_first_head(p, HEADS_MANY) + head) * a.q_head_stride_bytes;
        const bool is_real = part_first_head(p, HEADS_MANY) + head < a.n_heads;
        query_piece pieces[N_DIM_GROUPS];
#pragma unroll
        for (int g = 0; g < N_DIM_GROUPS; g++) {
            pieces[g].low = pieces[g].high = make_uint4(0, 0, 0, 0);
            if (is_real && a.q_is_aligned) {
                pieces[g].low = __ldg((const uint4 *)(source + g * 128));
                pieces[g].high = __ldg((const uint4 *)(source + g * 128) + 1);
            } else if (is_real) {
                pieces[g] = load_unaligned_piece(source + g * 128);
            }
        }
#pragma unroll
        for (int g = 0; g < N_DIM_GROUPS; g++) {
            const uint4 halves[2] = {pieces[g].low, pieces[g].high};
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint4 h = halves[i];
                uint4 w = h;
                if (g < N_DIM_GROUPS - 1) {
                    w = make_uint4(__byte_perm(h.x, h.y, 0x7632), __byte_perm(h.x, h.y, 0x5410),
                                   __byte_perm(h.z, h.w, 0x7632), __byte_perm(h.z, h.w, 0x5410));
                }
                store_shared16(shared_address(s.q) + (g * HEADS_MANY + head) * 128 +
                                   (((2 * quarter + i) ^ (head % 8)) << 4),
                               w);
            }
        }
    }
    fence_async_shared();
    named_barrier(BARRIER_SCORE, WARPGROUP);
}

/* Issues scores = queries * keys of a buffer. */
__device__ __forceinline__ void issue_scores(float (&scores)[32], uint64_t queries, uint32_t keys)
{
    const uint64_t k = wgmma_matrix(keys, 16);
    wgmma_fence();
#pragma unroll
    for (int g = 0; g < N_DIM_GROUPS; g++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            wgmma_ss(scores, wgmma_move(queries, g * HEADS_MANY * 128 + j * 32),
                     wgmma_move(k, g * KEY_GROUP_BYTES + j * 32), g + j > 0);
        }
    }
    wgmma_commit();
}

__device__ __forceinline__ float weigh_rows(const float (&scores)[32], float scale_log2,
                                            const float (&ref)[2], uint32_t (&probs)[16],
                                            float (&block_sums)[2])
{
    block_sums[0] = block_sums[1] = 0.0f;
#pragma unroll
    for (int t = 0; t < 8; t++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float x = exp2_fast(fmaf(scores[4 * t + 2 * r], scale_log2, -ref[r]));
            const float y = exp2_fast(fmaf(scores[4 * t + 2 * r + 1], scale_log2, -ref[r]));
            block_sums[r] += x + y;
            probs[2 * t + r] = pack_bf16(x, y);
        }
    }
    return block_sums[0] + block_sums[1];
}

/* New references for this warp's rows; the sums of values so far are multiplied by what it says to the value warps too. */
__device__ static void move_references(const float (&scores)[32], float scale_log2,
                                       score_state &state, value_sums<64> &sums, many_memory &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    float factors[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float m = -INFINITY;
#pragma unroll
        for (int t = 0; t < 8; t++)
            m = fmaxf(m, fmaxf(scores[4 * t + 2 * r], scores[4 * t + 2 * r + 1]));
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
        const float now = fmaxf(state.ref[r], m * scale_log2);
        factors[r] = exp2_fast(state.ref[r] - now);
        state.ref[r] = now;
        state.sums[r] *= factors[r];
        if (lane % 4 == 0) s.rescale[16 * warp + lane / 4 + 8 * r] = factors[r];
    }
    if (lane == 0) s.needs_rescale[warp] = 1;
    scale_values<64>(sums, factors);
}

__device__ __forceinline__ void store_rows(const uint32_t (&probs)[16], many_memory &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, row = 16 * warp + lane % 16;
#pragma unroll
    for (int t = 0; t < 8; t += 2) {
        const uint32_t chunk = (uint32_t)((t + lane / 16) ^ (row % 8));
        store_matrix4(shared_address(s.probs) + row * 128 + (chunk << 4), probs[2 * t],
                      probs[2 * t + 1], probs[2 * t + 2], probs[2 * t + 3]);
    }
}

/* Probabilities of a block for both halves of the dimensions; sums of values are those of the blocks before. */
__device__ __forceinline__ void weigh_block(const attn_args &a, float (&scores)[32], int buffer,
                                            uint32_t n_done, score_state &state,
                                            value_sums<64> &sums, uint32_t (&probs)[16],
                                            many_memory &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int4 *flags = (const int4 *)s.has_bias[buffer];
    const int4 low = flags[0], high = flags[1];
    if ((low.x | low.y | low.z | low.w | high.x | high.y | high.z | high.w) != 0) {
#pragma unroll
        for (int t = 0; t < 8; t++) {
            const float2 bias = *(const float2 *)&s.bias[buffer][8 * t + 2 * (lane % 4)];
#pragma unroll
            for (int i = 0; i < 4; i++) { /* NaN compares unequal to 0, too */
                const float b = i % 2 == 0 ? bias.x : bias.y;
                scores[4 * t + i] = b == 0.0f ? scores[4 * t + i] : b;
            }
        }
    }
    float block_sums[2];
    const float total = weigh_rows(scores, a.scale_log2, state.ref, probs, block_sums);
    const bool moves = __any_sync(0xffffffffu, !(total < LARGEST_SUM));
    barrier_wait(shared_address(&s.probs_empty), (n_done & 1) ^ 1);
    if (lane == 0) s.needs_rescale[warp] = 0;
    __syncwarp();
    if (moves) {
        move_references(scores, a.scale_log2, state, sums, s);
        weigh_rows(scores, a.scale_log2, state.ref, probs, block_sums);
    }
    state.sums[0] += block_sums[0];
    state.sums[1] += block_sums[1];
    store_rows(probs, s);
    fence_async_shared();
    barrier_arrive(shared_address(&s.probs_full));
}

/* Sums of dimensions 0..255 (+)= probs * values; probs in registers. */
__device__ __forceinline__ void issue_first_sums(value_sums<64> &sums, const uint32_t (&probs)[16],
                                                 uint32_t values, bool adds)
{
    const uint64_t v = wgmma_matrix(values, KEY_GROUP_BYTES);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const uint32_t operand[4] = {probs[4 * k], probs[4 * k + 1], probs[4 * k + 2],
                                     probs[4 * k + 3]};
#pragma unroll
        for (int g = 0; g < 4; g += 2) {
            wgmma_rs_tb(*(float(*)[64]) & sums.v[g * 32], operand,
                        wgmma_move(v, g * KEY_GROUP_BYTES + k * 2048), adds || k > 0);
        }
    }
    wgmma_commit();
}

/* Leaves references and sums for both warpgroups that hold values. */
__device__ static void leave_sums(const score_state &state, many_memory &s, uint32_t n_done)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    barrier_wait(shared_address(&s.part_empty), (n_done & 1) ^ 1);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = state.sums[r];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const int head = 16 * warp + lane / 4 + 8 * r;
        if (lane % 4 == 0) {
            s.part_ref[head] = state.ref[r];
            s.part_sum[0][head] = sum;
            s.part_sum[1][head] = s.part_sum[2][head] = s.part_sum[3][head] = 0.0f;
        }
    }
    barrier_arrive(shared_address(&s.part_full));
}

/* ---- both that hold values ---- */

/* Sums of dimensions 256..511 (+)= probs * values; both in shared memory, values: address of group 4. */
__device__ __forceinline__ void add_block(value_sums<64> &sums, uint32_t probs, uint32_t values,
                                          bool adds)
{
    const uint64_t p = wgmma_matrix(probs, 16), v = wgmma_matrix(values, KEY_GROUP_BYTES);
#pragma unroll
    for (int k = 0; k < 4; k++) {
#pragma unroll
        for (int g = 0; g < 4; g += 2) {
            wgmma_ss_tb(*(float(*)[64]) & sums.v[g * 32], wgmma_move(p, k * 32),
                        wgmma_move(v, g * KEY_GROUP_BYTES + k * 2048), adds || k > 0);
        }
    }
    wgmma_commit();
}

/* The end of a part: merge, out, lse; then the last block's place is free. */
__device__ static void end_part(const attn_args &a, const attn_part &p, value_sums<64> &sums,
                                int half, int buffer, many_memory &s)
{
    bool is_complete = true;
    if (p.first_slot >= 0) {
        is_complete = leave_state<64>(a, p, sums, s);
        if (is_complete) merge_states<64>(a, p, sums, s);
    }
    const uint32_t place = shared_address(s.keys[buffer]) + half * (BUFFER_BYTES / 2);
    const out_stage stage = {place, place + 16384};
    if (is_complete) finish_values<64, true>(a, p, sums, half, stage, s);
    __syncwarp();
    if (threadIdx.x % 32 == 0 && p.first_block < p.end_block)
        barrier_arrive(shared_address(&s.keys_empty[buffer]));
}

__device__ static void run_scores(const attn_args &a, many_memory &s)
{
    const int lane = threadIdx.x % 32;
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    const uint64_t queries = wgmma_matrix(shared_address(s.q), 16);
    ring_place<N_BUFFERS> place = {};
    uint32_t n_blocks_done = 0, n_parts_done = 0;
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const attn_part p = read_part(a, rank);
        score_state state = {{FIRST_REF, FIRST_REF}, {0.0f, 0.0f}};
        value_sums<64> sums;
        uint32_t probs[16];
        int buffer = 0;
        prefetch_query<64>(a, rank_of_round(round + 1), n_ranks);
        if (p.first_block < p.end_block) load_many_query(a, p, s);
#pragma unroll
        for (int i = 0; i < 128; i++) sums.v[i] = 0.0f;
        float scores[32];
        if (p.first_block < p.end_block) {
            buffer = place.slot;
            barrier_wait(shared_address(&s.keys_full[buffer]), place.pass & 1);
            issue_scores(scores, queries, shared_address(s.keys[buffer]));
            wgmma_wait<0>();
            wgmma_settle(scores);
        }
#pragma unroll 1
        for (int32_t block = p.first_block; block < p.end_block; block++) {
            const bool has_next = block + 1 < p.end_block;
            weigh_block(a, scores, buffer, n_blocks_done, state, sums, probs, s);
            wgmma_settle(scores);
            wgmma_settle(sums.v);
            place.advance(1);
            n_blocks_done++;
            if (!has_next) {
                issue_first_sums(sums, probs, shared_address(s.keys[buffer]),
                                 block > p.first_block);
                wgmma_wait<0>();
                wgmma_settle(sums.v);
                break;
            }
            const uint32_t next = shared_address(s.keys[place.slot]);
            barrier_wait(shared_address(&s.keys_full[place.slot]), place.pass & 1);
            issue_first_sums(sums, probs, shared_address(s.keys[buffer]), block > p.first_block);
            issue_scores(scores, queries, next); /* without a gap */
            wgmma_wait<1>();
            if (lane == 0) barrier_arrive(shared_address(&s.keys_empty[buffer]));
            wgmma_wait<0>();
            wgmma_settle(scores);
            wgmma_settle(sums.v);
            buffer = place.slot;
        }
        leave_sums(state, s, n_parts_done);
        barrier_wait(shared_address(&s.part_full), n_parts_done & 1);
        end_part(a, p, sums, 0, buffer, s);
        n_parts_done++;
    }
}

__device__ static void run_second_sums(const attn_args &a, many_memory &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    ring_place<N_BUFFERS> place = {};
    uint32_t n_blocks_done = 0, n_parts_done = 0;
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const attn_part p = read_part(a, rank);
        value_sums<64> sums;
        int buffer = 0;
        prefetch_query<64>(a, rank_of_round(round + 1), n_ranks);
#pragma unroll
        for (int i = 0; i < 128; i++) sums.v[i] = 0.0f;
#pragma unroll 1
        for (int32_t block = p.first_block; block < p.end_block; block++) {
            buffer = place.slot;
            barrier_wait(shared_address(&s.keys_full[buffer]), place.pass & 1);
            barrier_wait(shared_address(&s.probs_full), n_blocks_done & 1);
            if (block > p.first_block && s.needs_rescale[warp]) rescale_values<64>(sums, s);
            wgmma_fence();
            add_block(sums, shared_address(s.probs),
                      shared_address(s.keys[buffer]) + BUFFER_BYTES / 2, block > p.first_block);
            wgmma_wait<0>();
            wgmma_settle(sums.v);
            if (lane == 0) barrier_arrive(shared_address(&s.probs_empty));
            if (lane == 0 && block + 1 < p.end_block)
                barrier_arrive(shared_address(&s.keys_empty[buffer]));
            place.advance(1);
            n_blocks_done++;
        }
        barrier_wait(shared_address(&s.part_full), n_parts_done & 1);
        end_part(a, p, sums, 1, buffer, s);
        barrier_arrive(shared_address(&s.part_empty));
        n_parts_done++;
    }
}

__global__ void __launch_bounds__(N_THREADS, 1)
    attn_many_kernel(const __grid_constant__ attn_args a)
{
    extern __shared__ unsigned char memory[];
    many_memory &s = *(many_memory *)(((uintptr_t)memory + 1023) & ~(uintptr_t)1023);
    if (threadIdx.x == 0) {
        for (int i = 0; i < N_BUFFERS; i++) {
            barrier_init(shared_address(&s.keys_full[i]), N_KEY_THREADS);
            barrier_init(shared_address(&s.keys_empty[i]), N_VALUE_THREADS / 32);
        }
        barrier_init(shared_address(&s.probs_full), WARPGROUP);
        barrier_init(shared_address(&s.probs_empty), WARPGROUP / 32);
        barrier_init(shared_address(&s.part_full), WARPGROUP);
        barrier_init(shared_address(&s.part_empty), WARPGROUP);
        barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < N_KEY_THREADS) {
        registers_lower<72>();
        run_convert(a, s);
    } else if (threadIdx.x < N_KEY_THREADS + WARPGROUP) {
        registers_raise<208>(); /* 128 sums, 32 scores, 16 pairs of probabilities */
        run_scores(a, s);
    } else {
        registers_raise<160>();
        run_second_sums(a, s);
    }
}

cudaError_t dsv4_attn_many_launch(const attn_args *args, int n_thread_blocks, cudaStream_t stream)
{
    const size_t n_bytes = sizeof(many_memory) + 1024;
    cudaError_t status = cudaFuncSetAttribute(
        attn_many_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes);
    if (status != cudaSuccess) return status;
    attn_many_kernel<<<n_thread_blocks, N_THREADS, n_bytes, stream>>>(*args);
    return cudaGetLastError();
}
