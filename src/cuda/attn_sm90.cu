/*
 * attn_sm90.cu - decode attention for Hopper: bf16 products on wgmma, f32 sums, keys straight from the
 * paged FP8 cache.
 *
 * Place: cuda, sm_90a only. A thread block is three warpgroups and stays for all its parts (attn_device.h).
 * Warpgroup 0, the key warps, per block of 64 keys: takes the rows from registers, where it loaded them a
 * block earlier, converts e4m3 to bf16 in the layout of a matrix operand, multiplies them with the
 * queries (keys on M, heads on N), stores the converted rows as values, makes probabilities and stores
 * those. Warpgroups 1 and 2, the value warps, each hold half of the output's dimensions in registers and add
 * probabilities times values. Two buffers of values and probabilities lie between them.
 *
 * Order of dimensions: one 16-byte load brings 16 codes, of which bytes 1 and 3, and 0 and 2, of a word
 * become pairs. So inside every four dimensions of the FP8 part, position p holds dimension (1, 3, 0, 2)[p];
 * queries are stored in the matching order and the output is put in order when it is written.
 *
 * Softmax: probabilities are relative to a reference per head, 2^(score - ref): any number
 * within 2^+-40 of the largest score does, since bf16 and f32 have the exponents for it. So there is no
 * running maximum: a block whose sums pass 2^40 (the first one always does) sets a new reference and makes
 * the value warps rescale.
 *
 * A NaN code is found on the way by the largest magnitude of a row; the row then counts as NaN for
 * every head. Rows that no list names are never read: such keys are read from zeros.
 */
#include <math.h>

#include "attn_launch.h"
#include "sm90.cuh"
#include "wgmma.cuh"

enum {
    DIM = 512,
    N_GROUPS = 8, /* of 64 dimensions; the last is the rotated bf16 part */
    ROW_BYTES = 576,
    KEYS = ATTN_BLOCK_KEYS,
    N_THREADS = 384,
    WARPGROUP = 128,
    N_VALUE_THREADS = 256,
    VALUE_BYTES = KEYS * DIM * 2, /* a buffer of converted rows */
    GROUP_BYTES = KEYS * 128,     /* 64 dimensions of it */
    BARRIER_KEYS = 1,             /* ids of named barriers */
    BARRIER_VALUES = 2,
    NAN_MAGNITUDE = 0x7f0, /* of code 0x7f at its place in a bf16 */
    BIG_SCALE = 134,       /* scale bytes above it need two multiplications */
};

#define FIRST_REF   (-1e30f)        /* below every score: the first block sets a reference */
#define LARGEST_SUM 1099511627776.f /* 2^40 */
#define LOG2_E      1.4426950408889634f
#define LN_2        0.6931471805599453f

/* What invalid keys are read from. */
__device__ static const uint4 zero_row[ROW_BYTES / 16] = {};

template <int HEADS> struct shared_memory {
    alignas(1024) unsigned char q[N_GROUPS * HEADS * 128];
    alignas(1024) unsigned char values[2][VALUE_BYTES];
    alignas(1024) unsigned char probs[2][(HEADS < 8 ? 8 : HEADS) * 128];
    alignas(16) unsigned char out[HEADS == 64 ? 16 : HEADS * (DIM * 2 + 16)];
    float ref[HEADS];
    float block_max[4][HEADS];
    float rescale[2][HEADS];   /* of the buffer's block, when needs_rescale */
    float part_ref[HEADS];     /* of the part that ended */
    float part_sum[4][HEADS];  /* by warp */
    int needs_rescale[2];
    int is_last_arriver;
    uint64_t full[2], empty[2], part_full, part_empty;
};

/* ---- parts, as every warp reads them ---- */

__device__ static int32_t rank_of_round(int32_t round)
{
    int32_t n = gridDim.x, i = blockIdx.x;
    return round * n + (round % 2 == 0 ? i : n - 1 - i);
}

__device__ __forceinline__ attn_part read_part(const attn_args &a, int32_t rank)
{
    const int4 *source = (const int4 *)(a.plan + sizeof(attn_plan_head)) + 2 * (int64_t)rank;
    int4 low = __ldg(source), high = __ldg(source + 1);
    attn_part p = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    return p;
}

/* ---- key warps ---- */

/* Where the key warps' loads have got to: two blocks ahead of the arithmetic for indices, one for rows. */
struct index_cursor {
    int32_t round, n_ranks;
    int32_t block, end_block;
    int32_t window_len, total_len;
    const char *window_list, *extra_list;
};

__device__ __forceinline__ void seek_part(const attn_args &a, index_cursor &c)
{
    while (c.block >= c.end_block) {
        int32_t rank = rank_of_round(c.round);
        if (rank >= c.n_ranks) return;
        c.round++;
        attn_part p = read_part(a, rank);
        int64_t query = p.query_group >> 8;
        c.block = p.first_block;
        c.end_block = p.end_block;
        c.window_len = p.window_len;
        c.total_len = p.total_len;
        c.window_list = a.window.indices + p.request * a.window.indices_request_stride_bytes +
                        query * a.window.indices_query_stride_bytes;
        c.extra_list = a.extra.indices + p.request * a.extra.indices_request_stride_bytes +
                       query * a.extra.indices_query_stride_bytes - 4 * (int64_t)p.window_len;
    }
}

/* An index that is on its way, and whose it is: 0 the window's, 1 the extra scope's. */
struct key_index {
    int32_t slot;
    int32_t scope;
};

__device__ __forceinline__ key_index load_index(const index_cursor &c, int32_t row)
{
    int32_t entry = c.block * KEYS + row;
    key_index k = {-1, 0};
    if (c.block >= c.end_block || entry >= c.total_len) return k;
    k.scope = entry >= c.window_len;
    const char *list = k.scope ? c.extra_list : c.window_list;
    k.slot = __ldg((const int32_t *)(list + 4 * (int64_t)entry));
    return k;
}

struct key_row {
    const unsigned char *codes;
    const unsigned char *scales;
    bool is_valid;
};

__device__ __forceinline__ key_row locate_row(const attn_args &a, key_index k)
{
    key_row row;
    bool x = k.scope != 0;
    uint32_t slot = (uint32_t)k.slot; /* negative ones are large */
    row.is_valid = slot < (x ? a.extra.n_slots : a.window.n_slots);
    uint32_t page = __umulhi(2 * slot, x ? a.extra.divide_factor : a.window.divide_factor) >>
                    (x ? a.extra.divide_shift : a.window.divide_shift);
    uint32_t in_page = slot - page * (x ? a.extra.page_rows : a.window.page_rows);
    const unsigned char *base = (x ? a.extra.cache : a.window.cache) +
                                page * (x ? a.extra.page_stride_bytes : a.window.page_stride_bytes);
    const unsigned char *scales = base + (x ? a.extra.scale_plane_bytes : a.window.scale_plane_bytes);
    row.codes = row.is_valid ? base + in_page * ROW_BYTES : (const unsigned char *)zero_row;
    row.scales = row.is_valid ? scales + in_page * 8 : (const unsigned char *)zero_row;
    return row;
}

/* This thread's part of two rows of a block: 16 codes of each group, 16 of the last one's values. */
struct key_data {
    uint4 codes[N_GROUPS + 1][2]; /* the last two entries are the rotated part */
    uint2 scales[2];
    bool is_valid[2];
};

/* Bytes from a row's start to this thread's piece of a load. */
__device__ __forceinline__ int piece_offset(int load, int quarter)
{
    return load < 7 ? load * 64 + quarter * 16 : 448 + quarter * 32 + (load - 7) * 16;
}

/* Two bf16 factors 2^(byte - 127 + 120) of a group's scale byte; what is beyond bf16 is left out. */
__device__ __forceinline__ uint32_t scale_factor(uint2 scales, int group)
{
    uint32_t twice = __byte_perm(group < 4 ? scales.x : scales.y, 0, 0x4040 | (group % 4) * 0x0101);
    return twice * 128 + 120 * 128 * 0x10001u;
}

__device__ __forceinline__ bool has_big_scale(uint2 scales)
{
    /* bytes above BIG_SCALE: the sum with 255 - BIG_SCALE carries out of the byte */
    uint32_t over = __vcmpgtu4(scales.x, 0x01010101u * BIG_SCALE) |
                    (__vcmpgtu4(scales.y, 0x01010101u * BIG_SCALE) & 0x00ffffffu);
    return over != 0;
}

/* Of a scale byte above BIG_SCALE: the first factor is that of BIG_SCALE, the second 2^(byte - BIG_SCALE). */
__device__ __forceinline__ uint2 big_scale_factors(uint2 scales, int group)
{
    uint32_t word = group < 4 ? scales.x : scales.y;
    uint32_t byte = (word >> (8 * (group % 4))) & 0xff;
    uint32_t low = byte < BIG_SCALE ? byte : BIG_SCALE;
    uint32_t second = byte == 255 ? 0x7fffu : (127 + byte - low) * 128;
    return make_uint2((low + 120) * 128 * 0x10001u, second * 0x10001u);
}

/* bf16 pairs of a word of four codes, times 2^-120: bytes 1 and 3, bytes 0 and 2; largest: of magnitudes. */
__device__ __forceinline__ void place_codes(uint32_t word, uint32_t &odd, uint32_t &even, uint32_t &largest)
{
    uint32_t odd_magnitude = (word >> 4) & 0x07f007f0u, even_magnitude = (word << 4) & 0x07f007f0u;
    largest = __vimax3_u16x2(largest, odd_magnitude, even_magnitude);
    odd = odd_magnitude | (word & 0x80008000u);
    even = even_magnitude | ((word << 8) & 0x80008000u);
}

/*
 * One row's 16 codes of a group, in a[4 * step + which] and [.. + 2] (wgmma.cuh), and to the values' buffer:
 * address is that of the thread's row and group, chunk the first of its two swizzled chunks.
 */
__device__ __forceinline__ void convert_codes(uint4 codes, uint32_t factor, bool is_big, uint32_t second,
                                              int which, uint32_t (&a)[16], uint32_t &largest)
{
    uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t odd, even;
        place_codes(words[j], odd, even, largest);
        odd = multiply_bf16x2(odd, factor);
        even = multiply_bf16x2(even, factor);
        if (is_big) {
            odd = multiply_bf16x2(odd, second);
            even = multiply_bf16x2(even, second);
        }
        a[4 * j + which] = odd;
        a[4 * j + which + 2] = even;
    }
}

__device__ __forceinline__ void store_values(const uint32_t (&a)[16], int which, uint32_t row_address,
                                             uint32_t swizzle, int quarter)
{
    uint32_t chunk = (uint32_t)(2 * quarter);
    store_shared16(row_address + ((chunk ^ swizzle) << 4),
                   make_uint4(a[which], a[which + 2], a[4 + which], a[4 + which + 2]));
    store_shared16(row_address + (((chunk + 1) ^ swizzle) << 4),
                   make_uint4(a[8 + which], a[8 + which + 2], a[12 + which], a[12 + which + 2]));
}

/* Group `group` of this thread's two rows. */
__device__ __forceinline__ void convert_group(const key_data &data, int group, bool is_big,
                                              uint32_t (&a)[16], uint32_t (&largest)[2])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (group == N_GROUPS - 1) {
            uint4 low = data.codes[7][r], high = data.codes[8][r];
            uint32_t words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                a[4 * j + r] = words[2 * j];
                a[4 * j + r + 2] = words[2 * j + 1];
            }
        } else if (is_big) {
            uint2 factors = big_scale_factors(data.scales[r], group);
            convert_codes(data.codes[group][r], factors.x, true, factors.y, r, a, largest[r]);
        } else {
            convert_codes(data.codes[group][r], scale_factor(data.scales[r], group), false, 0, r, a,
                          largest[r]);
        }
    }
}

/* Queries of a part's heads, permuted as the keys are, zeros behind the last head. */
template <int HEADS>
__device__ static void load_query(const attn_args &a, const attn_part &p, shared_memory<HEADS> &s)
{
    const int first_head = (p.query_group & 0xff) * HEADS, thread = threadIdx.x;
    const char *q = a.q + p.request * a.q_request_stride_bytes +
                    (int64_t)(p.query_group >> 8) * a.q_query_stride_bytes;
    enum { PIECES = HEADS * 32 / WARPGROUP, BATCH = PIECES < 8 ? PIECES : 8 };
#pragma unroll 1
    for (int begin = 0; begin < PIECES; begin += BATCH) {
        uint4 low[BATCH], high[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            /* four neighbouring threads take the quarters of 64 dimensions, eight heads a warp */
            int index = (begin + i) * WARPGROUP + thread;
            int head = (index / 32 / N_GROUPS) * 8 + (index / 4) % 8, group = (index / 32) % N_GROUPS;
            low[i] = high[i] = make_uint4(0, 0, 0, 0);
            if (first_head + head >= a.n_heads) continue;
            const char *source = q + (first_head + head) * a.q_head_stride_bytes + group * 128 +
                                 (index % 4) * 32;
            if (a.q_is_aligned) {
                low[i] = __ldg((const uint4 *)source);
                high[i] = __ldg((const uint4 *)source + 1);
            } else {
                const uint16_t *values = (const uint16_t *)source;
                uint32_t w[8];
                for (int k = 0; k < 8; k++) w[k] = values[2 * k] | (uint32_t)values[2 * k + 1] << 16;
                low[i] = make_uint4(w[0], w[1], w[2], w[3]);
                high[i] = make_uint4(w[4], w[5], w[6], w[7]);
            }
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int index = (begin + i) * WARPGROUP + thread;
            int head = (index / 32 / N_GROUPS) * 8 + (index / 4) % 8, group = (index / 32) % N_GROUPS;
            uint32_t words[8] = {low[i].x,  low[i].y,  low[i].z,  low[i].w,
                                 high[i].x, high[i].y, high[i].z, high[i].w};
            uint32_t row = shared_address(s.q) + group * HEADS * 128 + head * 128;
            bool is_rotated = group == N_GROUPS - 1;
#pragma unroll
            for (int j = 0; j < 4; j++) { /* dimensions 4j .. 4j + 3 of 16: columns of step j */
                uint32_t first = is_rotated ? words[2 * j] : __byte_perm(words[2 * j], words[2 * j + 1], 0x7632);
                uint32_t second =
                    is_rotated ? words[2 * j + 1] : __byte_perm(words[2 * j], words[2 * j + 1], 0x5410);
                uint32_t at = (index % 4) * 4;
                store_shared4(row + (((2 * j) ^ (head % 8)) << 4) + at, first);
                store_shared4(row + (((2 * j + 1) ^ (head % 8)) << 4) + at, second);
            }
        }
    }
    fence_async_shared();
    named_barrier(BARRIER_KEYS, WARPGROUP);
}

/*
 * A new reference for every head from this block's scores, and by what the part's sums and values have to
 * be multiplied. Scores [HEADS / 8][4], see wgmma.cuh.
 */
template <int HEADS>
__device__ static void set_reference(const float (&scores)[HEADS / 2], float scale_log2, int buffer,
                                     float (&sums)[HEADS / 4], shared_memory<HEADS> &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < HEADS / 4; i++) {
        const float *pair = &scores[i / 2 * 4 + i % 2];
        float m = fmaxf(pair[0], pair[2]);
        for (int other = 4; other < 32; other *= 2) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, other));
        if (lane < 4) s.block_max[warp][8 * (i / 2) + 2 * lane + i % 2] = m;
    }
    named_barrier(BARRIER_KEYS, WARPGROUP);
    if (threadIdx.x < HEADS) {
        int h = threadIdx.x;
        float m = fmaxf(fmaxf(s.block_max[0][h], s.block_max[1][h]),
                        fmaxf(s.block_max[2][h], s.block_max[3][h]));
        float old = s.ref[h], now = fmaxf(old, m * scale_log2);
        s.ref[h] = now;
        s.rescale[buffer][h] = exp2_fast(old - now);
    }
    if (threadIdx.x == 0) s.needs_rescale[buffer] = 1;
    named_barrier(BARRIER_KEYS, WARPGROUP);
#pragma unroll
    for (int i = 0; i < HEADS / 4; i++) {
        sums[i] *= s.rescale[buffer][8 * (i / 2) + 2 * (lane % 4) + i % 2];
    }
}

/* Probabilities of a block from its scores, and each head's sum of this thread's two keys. */
template <int HEADS>
__device__ __forceinline__ float make_probs(const float (&scores)[HEADS / 2], float scale_log2,
                                            const shared_memory<HEADS> &s, uint32_t (&probs)[HEADS / 4],
                                            float (&block_sums)[HEADS / 4])
{
    const int lane = threadIdx.x % 32;
    float total = 0.0f;
#pragma unroll
    for (int t = 0; t < HEADS / 8; t++) {
        float2 ref = *(const float2 *)&s.ref[8 * t + 2 * (lane % 4)];
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
            store_matrix4_transposed(address + (8 * (t + lane / 16) + row) * 128 + (chunk << 4),
                                     probs[2 * t], probs[2 * t + 1], probs[2 * t + 2], probs[2 * t + 3]);
        }
    }
}

template <int HEADS>
__device__ static void finish_keys(float (&sums)[HEADS / 4], shared_memory<HEADS> &s, uint32_t n_done)
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

template <int HEADS> __device__ static void run_keys(const attn_args &a, shared_memory<HEADS> &s)
{
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, quarter = lane % 4;
    const int rows[2] = {16 * warp + lane / 4, 16 * warp + lane / 4 + 8};
    const uint32_t swizzle = (uint32_t)(lane / 4); /* both rows are that modulo 8 */
    index_cursor cursor = {};
    key_index next[2];
    key_data data;
    uint32_t n_blocks_done = 0, n_parts_done = 0;

    cursor.n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    seek_part(a, cursor);
    for (int r = 0; r < 2; r++) next[r] = load_index(cursor, rows[r]);
    cursor.block++;
    for (int r = 0; r < 2; r++) {
        key_row row = locate_row(a, next[r]);
        data.is_valid[r] = row.is_valid;
        data.scales[r] = load_once8(row.scales);
#pragma unroll
        for (int i = 0; i <= N_GROUPS; i++) data.codes[i][r] = load_once(row.codes + piece_offset(i, quarter));
    }
    seek_part(a, cursor);
    for (int r = 0; r < 2; r++) next[r] = load_index(cursor, rows[r]);
    cursor.block++;

    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < cursor.n_ranks; round++) {
        attn_part p = read_part(a, rank);
        float sums[HEADS / 4] = {};
        if (thread < HEADS) s.ref[thread] = FIRST_REF;
        load_query<HEADS>(a, p, s);

#pragma unroll 1
        for (int32_t block = p.first_block; block < p.end_block; block++) {
            const int buffer = n_blocks_done & 1;
            const uint32_t values = shared_address(s.values[buffer]);
            float scores[HEADS / 2];
            uint32_t a_regs[2][16], largest[2] = {0, 0};
            key_row row[2] = {locate_row(a, next[0]), locate_row(a, next[1])};
            bool is_valid[2] = {data.is_valid[0], data.is_valid[1]};
            bool is_big = __any_sync(0xffffffffu, has_big_scale(data.scales[0]) || has_big_scale(data.scales[1]));
            uint2 next_scales[2] = {load_once8(row[0].scales), load_once8(row[1].scales)};
            seek_part(a, cursor);
            for (int r = 0; r < 2; r++) next[r] = load_index(cursor, rows[r]);
            cursor.block++;

            barrier_wait(shared_address(&s.empty[buffer]), ((n_blocks_done >> 1) & 1) ^ 1);
#pragma unroll
            for (int g = 0; g < N_GROUPS; g++) {
                uint32_t(&regs)[16] = a_regs[g % 2];
                if (g >= 2) wgmma_wait<1>();
                convert_group(data, g, is_big, regs, largest);
                for (int r = 0; r < 2; r++) {
                    store_values(regs, r, values + g * GROUP_BYTES + rows[r] * 128, swizzle, quarter);
                }
                for (int r = 0; r < 2; r++) {
                    data.codes[g][r] = load_once(row[r].codes + piece_offset(g, quarter));
                    if (g == N_GROUPS - 1) {
                        data.codes[g + 1][r] = load_once(row[r].codes + piece_offset(g + 1, quarter));
                    }
                }
                wgmma_fence();
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    uint32_t operand[4] = {regs[4 * j], regs[4 * j + 1], regs[4 * j + 2], regs[4 * j + 3]};
                    wgmma_rs(scores, operand,
                             wgmma_matrix(shared_address(s.q) + g * HEADS * 128 + j * 32, 16), g + j > 0);
                }
                wgmma_commit();
            }
            for (int r = 0; r < 2; r++) {
                data.is_valid[r] = row[r].is_valid;
                data.scales[r] = next_scales[r];
            }
            /* a row is NaN for every head when any of its codes is, in any of its four threads */
            float bias[2];
            bool is_plain = true;
            for (int r = 0; r < 2; r++) {
                bool is_nan = (largest[r] & 0xffff) >= NAN_MAGNITUDE || (largest[r] >> 16) >= NAN_MAGNITUDE;
                uint32_t said = __ballot_sync(0xffffffffu, is_nan);
                is_nan = (said >> (lane & 28)) & 15;
                bias[r] = is_nan ? NAN : (is_valid[r] ? 0.0f : -INFINITY);
                is_plain = is_plain && is_valid[r] && !is_nan;
            }
            is_plain = __all_sync(0xffffffffu, is_plain);
            if (thread == 0) s.needs_rescale[buffer] = 0;
            wgmma_wait<0>();
            if (!is_plain) {
#pragma unroll
                for (int i = 0; i < HEADS / 2; i++) scores[i] += bias[(i / 2) % 2];
            }
            uint32_t probs[HEADS / 4];
            float block_sums[HEADS / 4];
            float total = make_probs<HEADS>(scores, a.scale_log2, s, probs, block_sums);
            if (named_barrier_any(BARRIER_KEYS, WARPGROUP, !(total < LARGEST_SUM))) {
                set_reference<HEADS>(scores, a.scale_log2, buffer, sums, s);
                make_probs<HEADS>(scores, a.scale_log2, s, probs, block_sums);
            }
#pragma unroll
            for (int i = 0; i < HEADS / 4; i++) sums[i] += block_sums[i];
            store_probs<HEADS>(probs, shared_address(s.probs[buffer]));
            fence_async_shared();
            barrier_arrive(shared_address(&s.full[buffer]));
            n_blocks_done++;
        }
        finish_keys<HEADS>(sums, s, n_parts_done++);
    }
}

/* ---- value warps ---- */

/* A thread's share of the output: HEADS == 64: rows are heads; else rows are dimensions, columns heads. */
template <int HEADS> struct value_sums {
    float v[2 * HEADS];
};

template <int HEADS>
__device__ __forceinline__ void add_values(value_sums<HEADS> &sums, uint32_t probs, uint32_t values, bool adds)
{
    wgmma_fence();
    if constexpr (HEADS == 64) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            wgmma_ss_tb(sums.v, wgmma_matrix(probs + k * 32, 16),
                        wgmma_matrix(values + k * 2048, GROUP_BYTES), adds || k > 0);
        }
    } else {
#pragma unroll
        for (int g = 0; g < 4; g++) {
            float(&group)[HEADS / 2] = *(float(*)[HEADS / 2]) & sums.v[g * (HEADS / 2)];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                wgmma_ss_ta(group, wgmma_matrix(values + g * GROUP_BYTES + k * 2048, 16),
                            wgmma_matrix(probs + k * 32, 16), adds || k > 0);
            }
        }
    }
    wgmma_commit();
    wgmma_wait<0>();
}

/* The head, counted from the group's first, of this thread's value i. */
template <int HEADS> __device__ __forceinline__ int head_of(int i)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    if (HEADS == 64) return 16 * warp + lane / 4 + 8 * (i / 2 % 2);
    return 8 * (i / 4 % (HEADS / 8)) + 2 * (lane % 4) + i % 2;
}

template <int HEADS> __device__ __forceinline__ void scale_values(value_sums<HEADS> &sums, const float *factors)
{
#pragma unroll
    for (int i = 0; i < 2 * HEADS; i++) sums.v[i] *= factors[head_of<HEADS>(i)];
}

/* What a head's values are multiplied with at the end, and its lse. */
__device__ static float finish_head(const attn_args &a, int head, float ref, float sum, float *lse)
{
    *lse = sum == 0.0f ? INFINITY : (ref + log2f(sum)) * LN_2;
    if (sum == 0.0f) return 0.0f;
    float sink = a.sink == NULL ? 0.0f : exp2f(a.sink[head] * LOG2_E - ref);
    return 1.0f / (sum + sink);
}

/* Leaves this part's state in its slot; true for every thread when all parts of the task have arrived. */
template <int HEADS>
__device__ static bool leave_state(const attn_args &a, const attn_part &p, const value_sums<HEADS> &sums,
                                   shared_memory<HEADS> &s)
{
    const int thread = threadIdx.x - WARPGROUP, n_parts = p.part_of & 0xffff;
    unsigned char *state = a.states + (int64_t)(p.first_slot + (p.part_of >> 16)) * a.state_bytes;
    float *heads = (float *)state;
    float4 *values = (float4 *)(state + ATTN_STATE_BYTES);
    if (thread < HEADS) {
        heads[thread] = s.part_ref[thread];
        heads[ATTN_MAX_GROUP + thread] = (s.part_sum[0][thread] + s.part_sum[1][thread]) +
                                         (s.part_sum[2][thread] + s.part_sum[3][thread]);
    }
#pragma unroll
    for (int i = 0; i < HEADS / 2; i++) {
        values[i * N_VALUE_THREADS + thread] =
            make_float4(sums.v[4 * i], sums.v[4 * i + 1], sums.v[4 * i + 2], sums.v[4 * i + 3]);
    }
    __threadfence();
    named_barrier(BARRIER_VALUES, N_VALUE_THREADS);
    if (thread == 0) {
        int32_t before = atomicAdd(&a.counters[p.first_slot], 1);
        s.is_last_arriver = before == n_parts - 1;
        if (s.is_last_arriver) a.counters[p.first_slot] = 0;
        __threadfence();
    }
    named_barrier(BARRIER_VALUES, N_VALUE_THREADS);
    return s.is_last_arriver != 0;
}

/* The sum of all parts in their order, so that it does not depend on who came last. */
template <int HEADS>
__device__ static void merge_states(const attn_args &a, const attn_part &p, value_sums<HEADS> &sums,
                                    shared_memory<HEADS> &s)
{
    const int thread = threadIdx.x - WARPGROUP, n_parts = p.part_of & 0xffff;
    const unsigned char *states = a.states + (int64_t)p.first_slot * a.state_bytes;
    if (thread < HEADS) {
        float ref = FIRST_REF, sum = 0.0f;
        for (int i = 0; i < n_parts; i++) ref = fmaxf(ref, __ldcg((const float *)(states + i * a.state_bytes) + thread));
        for (int i = 0; i < n_parts; i++) {
            const float *heads = (const float *)(states + i * a.state_bytes);
            sum += __ldcg(&heads[ATTN_MAX_GROUP + thread]) * exp2f(__ldcg(&heads[thread]) - ref);
        }
        s.part_ref[thread] = ref;
        s.part_sum[0][thread] = sum;
        s.part_sum[1][thread] = s.part_sum[2][thread] = s.part_sum[3][thread] = 0.0f;
    }
    named_barrier(BARRIER_VALUES, N_VALUE_THREADS);
#pragma unroll
    for (int i = 0; i < 2 * HEADS; i++) sums.v[i] = 0.0f;
    for (int k = 0; k < n_parts; k++) {
        const float *heads = (const float *)(states + k * a.state_bytes);
        const float4 *values = (const float4 *)(states + k * a.state_bytes + ATTN_STATE_BYTES);
        float weights[HEADS == 64 ? 2 : HEADS / 4];
#pragma unroll
        for (int i = 0; i < (int)(sizeof weights / sizeof *weights); i++) {
            int h = head_of<HEADS>(HEADS == 64 ? 2 * i : 4 * (i / 2) + i % 2);
            weights[i] = exp2f(__ldcg(&heads[h]) - s.part_ref[h]);
        }
#pragma unroll
        for (int i = 0; i < HEADS / 2; i++) {
            float4 v = __ldcg(&values[i * N_VALUE_THREADS + thread]);
            float w[4];
#pragma unroll
            for (int j = 0; j < 4; j++) w[j] = HEADS == 64 ? weights[j / 2] : weights[i % (HEADS / 8) * 2 + j % 2];
            sums.v[4 * i] += w[0] * v.x;
            sums.v[4 * i + 1] += w[1] * v.y;
            sums.v[4 * i + 2] += w[2] * v.z;
            sums.v[4 * i + 3] += w[3] * v.w;
        }
    }
}

/* The dimension that lies at a position of the output's rows or columns. */
__device__ __forceinline__ int dim_of_position(int position)
{
    return position >= DIM - 64 ? position : (position & ~3) | ((0x2031 >> (4 * (position & 3))) & 3);
}

/* cos and sin of this part's query for pair i, NaN outside the table. */
__device__ __forceinline__ float2 rope_pair(const attn_args &a, const attn_part &p, int i)
{
    int32_t row = a.rope_rows[(int64_t)p.request * a.n_queries + (p.query_group >> 8)];
    if (row < 0 || row >= a.n_rope_rows) return make_float2(NAN, NAN);
    const float *table = a.rope_table + (int64_t)row * 64;
    return make_float2(table[i], table[32 + i]);
}

/* ---- output with heads on rows ---- */

__device__ __forceinline__ void swap_lanes(uint32_t &x, uint32_t &y, int lane_bit, bool is_upper)
{
    uint32_t sent = is_upper ? x : y;
    uint32_t got = __shfl_xor_sync(0xffffffffu, sent, lane_bit);
    if (is_upper) x = got; else y = got;
}

/*
 * Four tiles of eight columns, a pair a thread: afterwards thread c of four holds all columns of tile c, in
 * order of dimensions.
 */
__device__ __forceinline__ uint4 gather_tiles(uint32_t (&t)[4], bool is_rotated)
{
    int c = threadIdx.x % 4;
    if (!is_rotated) { /* even threads hold dimensions 1 and 3, odd ones 0 and 2 of four */
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t other = __shfl_xor_sync(0xffffffffu, t[i], 1);
            t[i] = c % 2 == 0 ? __byte_perm(other, t[i], 0x5410) : __byte_perm(t[i], other, 0x7632);
        }
    }
    swap_lanes(t[0], t[1], 1, c & 1);
    swap_lanes(t[2], t[3], 1, c & 1);
    swap_lanes(t[0], t[2], 2, c & 2);
    swap_lanes(t[1], t[3], 2, c & 2);
    return make_uint4(t[0], t[1], t[2], t[3]);
}

__device__ static void write_heads(const attn_args &a, const attn_part &p, value_sums<64> &sums, int half)
{
    const int c = threadIdx.x % 4, first_head = (p.query_group & 0xff) * 64;
    char *out = a.out + p.request * a.out_request_stride_bytes +
                (int64_t)(p.query_group >> 8) * a.out_query_stride_bytes;
    if (a.rope_table != NULL && half == 1) {
#pragma unroll
        for (int t = 24; t < 32; t++) {
            float2 turn = rope_pair(a, p, 4 * (t - 24) + c);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float x = sums.v[4 * t + 2 * r], y = sums.v[4 * t + 2 * r + 1];
                sums.v[4 * t + 2 * r] = x * turn.x + y * turn.y;
                sums.v[4 * t + 2 * r + 1] = y * turn.x - x * turn.y;
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int head = first_head + head_of<64>(2 * r);
        bool is_real = head < a.n_heads;
        char *head_out = out + head * a.out_head_stride_bytes;
        if (a.out_is_f32) {
            if (!is_real) continue;
#pragma unroll
            for (int t = 0; t < 32; t++) {
                for (int i = 0; i < 2; i++) {
                    ((float *)head_out)[dim_of_position(256 * half + 8 * t + 2 * c + i)] = sums.v[4 * t + 2 * r + i];
                }
            }
            continue;
        }
#pragma unroll
        for (int t = 0; t < 32; t += 4) {
            uint32_t pairs[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                pairs[i] = pack_bf16(sums.v[4 * (t + i) + 2 * r], sums.v[4 * (t + i) + 2 * r + 1]);
            }
            uint4 eight = gather_tiles(pairs, half == 1 && t >= 24);
            char *target = head_out + (256 * half + 8 * (t + c)) * 2;
            if (!is_real) continue;
            if (a.out_is_aligned) {
                *(uint4 *)target = eight;
            } else {
                uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
                for (int i = 0; i < 8; i++) ((uint16_t *)target)[i] = (uint16_t)(words[i / 2] >> (16 * (i % 2)));
            }
        }
    }
}

/* ---- output with dimensions on rows ---- */

template <int HEADS>
__device__ static void write_dims(const attn_args &a, const attn_part &p, value_sums<HEADS> &sums, int half,
                                  shared_memory<HEADS> &s)
{
    enum { ROW = DIM * 2 + 16 };
    const int thread = threadIdx.x % WARPGROUP, lane = thread % 32, warp = thread / 32;
    const int first_head = (p.query_group & 0xff) * HEADS;
    char *out = a.out + p.request * a.out_request_stride_bytes +
                (int64_t)(p.query_group >> 8) * a.out_query_stride_bytes;
    if (a.rope_table != NULL && half == 1) { /* pairs of dimensions are neighbouring rows */
#pragma unroll
        for (int i = 0; i < HEADS / 2; i++) {
            int row = 16 * warp + lane / 4 + 8 * (i / 2 % 2);
            float2 turn = rope_pair(a, p, row / 2);
            float &v = sums.v[3 * (HEADS / 2) + i];
            float other = __shfl_xor_sync(0xffffffffu, v, 4);
            v = row % 2 == 0 ? v * turn.x + other * turn.y : v * turn.x - other * turn.y;
        }
    }
    if (a.out_is_f32) {
#pragma unroll
        for (int i = 0; i < 2 * HEADS; i++) {
            int position = 256 * half + 64 * (i / (HEADS / 2)) + 16 * warp + lane / 4 + 8 * (i / 2 % 2);
            int head = first_head + head_of<HEADS>(i);
            if (head < a.n_heads) ((float *)(out + head * a.out_head_stride_bytes))[dim_of_position(position)] = sums.v[i];
        }
        return;
    }
    const uint32_t stage = shared_address(s.out);
#pragma unroll
    for (int g = 0; g < 4; g++) {
        const float *v = &sums.v[g * (HEADS / 2)];
        uint32_t column = (uint32_t)(256 * half + 64 * g + 16 * warp + 8 * (lane / 8 % 2)) * 2;
        uint32_t pairs[HEADS / 4];
#pragma unroll
        for (int i = 0; i < HEADS / 4; i++) pairs[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
        if constexpr (HEADS == 8) {
            store_matrix2_transposed(stage + (lane % 8) * ROW + column, pairs[0], pairs[1]);
        } else {
#pragma unroll
            for (int t = 0; t < HEADS / 8; t += 2) {
                store_matrix4_transposed(stage + (8 * (t + lane / 16) + lane % 8) * ROW + column, pairs[2 * t],
                                         pairs[2 * t + 1], pairs[2 * t + 2], pairs[2 * t + 3]);
            }
        }
    }
    named_barrier(BARRIER_VALUES + 1 + half, WARPGROUP);
    for (int i = thread; i < HEADS * 32; i += WARPGROUP) {
        int row = i / 32, position = 256 * half + i % 32 * 8, head = first_head + row;
        uint4 w = load_shared16(stage + row * ROW + position * 2);
        if (position < DIM - 64) {
            w = make_uint4(__byte_perm(w.x, w.y, 0x1054), __byte_perm(w.x, w.y, 0x3276),
                           __byte_perm(w.z, w.w, 0x1054), __byte_perm(w.z, w.w, 0x3276));
        }
        if (head >= a.n_heads) continue;
        char *target = out + head * a.out_head_stride_bytes + position * 2;
        if (a.out_is_aligned) {
            *(uint4 *)target = w;
        } else {
            uint32_t words[4] = {w.x, w.y, w.z, w.w};
            for (int k = 0; k < 8; k++) ((uint16_t *)target)[k] = (uint16_t)(words[k / 2] >> (16 * (k % 2)));
        }
    }
    named_barrier(BARRIER_VALUES + 1 + half, WARPGROUP);
}

/* Divides by the sums, writes out and lse. */
template <int HEADS>
__device__ static void finish_values(const attn_args &a, const attn_part &p, value_sums<HEADS> &sums, int half,
                                     shared_memory<HEADS> &s)
{
    const int first_head = (p.query_group & 0xff) * HEADS;
    enum { N_OWN = HEADS == 64 ? 2 : HEADS / 4 }; /* heads of a thread */
    float inverse[N_OWN];
#pragma unroll
    for (int i = 0; i < N_OWN; i++) {
        int h = head_of<HEADS>(HEADS == 64 ? 2 * i : 4 * (i / 2) + i % 2), head = first_head + h;
        float sum = (s.part_sum[0][h] + s.part_sum[1][h]) + (s.part_sum[2][h] + s.part_sum[3][h]);
        float lse;
        inverse[i] = finish_head(a, head < a.n_heads ? head : 0, s.part_ref[h], sum, &lse);
        bool is_owner = HEADS == 64 ? threadIdx.x % 4 == 0 : threadIdx.x % WARPGROUP < 4;
        if (a.lse != NULL && half == 0 && is_owner && head < a.n_heads) {
            *(float *)(a.lse + p.request * a.lse_request_stride_bytes +
                       (int64_t)(p.query_group >> 8) * a.lse_query_stride_bytes +
                       head * a.lse_head_stride_bytes) = lse;
        }
    }
#pragma unroll
    for (int i = 0; i < 2 * HEADS; i++) {
        sums.v[i] *= HEADS == 64 ? inverse[i / 2 % 2] : inverse[i / 4 % (HEADS / 8) * 2 + i % 2];
    }
    if constexpr (HEADS == 64) {
        write_heads(a, p, sums, half);
    } else {
        write_dims<HEADS>(a, p, sums, half, s);
    }
}

/* Brings the next part's queries to the second-level cache. */
template <int HEADS> __device__ static void prefetch_query(const attn_args &a, int32_t rank, int32_t n_ranks)
{
    if (rank >= n_ranks) return;
    attn_part p = read_part(a, rank);
    const char *q = a.q + p.request * a.q_request_stride_bytes +
                    (int64_t)(p.query_group >> 8) * a.q_query_stride_bytes;
    for (int i = threadIdx.x - WARPGROUP; i < HEADS * 8; i += N_VALUE_THREADS) {
        int head = (p.query_group & 0xff) * HEADS + i / 8;
        if (head < a.n_heads) prefetch_l2(q + head * a.q_head_stride_bytes + i % 8 * 128);
    }
}

template <int HEADS> __device__ static void run_values(const attn_args &a, shared_memory<HEADS> &s)
{
    const int half = threadIdx.x / WARPGROUP - 1;
    const int32_t n_ranks = ((const attn_plan_head *)a.plan)->n_parts;
    uint32_t n_blocks_done = 0, n_parts_done = 0;
    value_sums<HEADS> sums;
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        attn_part p = read_part(a, rank);
        prefetch_query<HEADS>(a, rank_of_round(round + 1), n_ranks);
        if (p.first_block == p.end_block) {
#pragma unroll
            for (int i = 0; i < 2 * HEADS; i++) sums.v[i] = 0.0f;
        }
#pragma unroll 1
        for (int32_t block = p.first_block; block < p.end_block; block++) {
            const int buffer = n_blocks_done & 1;
            const bool adds = block > p.first_block;
            barrier_wait(shared_address(&s.full[buffer]), (n_blocks_done >> 1) & 1);
            if (adds && s.needs_rescale[buffer]) scale_values<HEADS>(sums, s.rescale[buffer]);
            add_values<HEADS>(sums, shared_address(s.probs[buffer]),
                              shared_address(s.values[buffer]) + half * 4 * GROUP_BYTES, adds);
            if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(&s.empty[buffer]));
            n_blocks_done++;
        }
        barrier_wait(shared_address(&s.part_full), n_parts_done & 1);
        bool is_complete = true;
        if (p.first_slot >= 0) {
            is_complete = leave_state<HEADS>(a, p, sums, s);
            if (is_complete) merge_states<HEADS>(a, p, sums, s);
        }
        if (is_complete) finish_values<HEADS>(a, p, sums, half, s);
        barrier_arrive(shared_address(&s.part_empty));
        n_parts_done++;
    }
}

template <int HEADS>
__global__ void __launch_bounds__(N_THREADS, 1) attn_sm90_kernel(const __grid_constant__ attn_args a)
{
    extern __shared__ unsigned char memory[];
    shared_memory<HEADS> &s = *(shared_memory<HEADS> *)(((uintptr_t)memory + 1023) & ~(uintptr_t)1023);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            barrier_init(shared_address(&s.full[i]), WARPGROUP);
            barrier_init(shared_address(&s.empty[i]), N_VALUE_THREADS / 32);
        }
        barrier_init(shared_address(&s.part_full), WARPGROUP);
        barrier_init(shared_address(&s.part_empty), N_VALUE_THREADS);
        asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x < WARPGROUP) {
        registers_raise<HEADS == 64 ? 192 : 216>();
        run_keys<HEADS>(a, s);
    } else {
        registers_lower<HEADS == 64 ? 160 : 144>();
        run_values<HEADS>(a, s);
    }
}

template <int HEADS> static size_t shared_bytes(void)
{
    return sizeof(shared_memory<HEADS>) + 1024;
}

cudaError_t dsv4_attn_sm90_launch(const attn_args *args, int group_heads, int n_thread_blocks,
                                  cudaStream_t stream)
{
    switch (group_heads) {
#define LAUNCH(HEADS)                                                                                      \
    case HEADS: {                                                                                          \
        cudaError_t status = cudaFuncSetAttribute(attn_sm90_kernel<HEADS>,                                 \
                                                  cudaFuncAttributeMaxDynamicSharedMemorySize,             \
                                                  (int)shared_bytes<HEADS>());                             \
        if (status != cudaSuccess) return status;                                                          \
        attn_sm90_kernel<HEADS><<<n_thread_blocks, N_THREADS, shared_bytes<HEADS>(), stream>>>(*args);     \
        return cudaGetLastError();                                                                         \
    }
        LAUNCH(8)
        LAUNCH(16)
        LAUNCH(32)
        LAUNCH(64)
#undef LAUNCH
    default: return cudaErrorInvalidValue;
    }
}
