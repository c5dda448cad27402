/*
 * attn_mma.cu - decode attention for every NVIDIA GPU from sm_80 on, with 8 or 16 heads together.
 *
 * Place: cuda. A thread block of eight warps stays for all its parts (attn_device.h); several of them share a
 * multiprocessor, so that one computes while another waits. A step is KEYS keys:
 *
 *   1. Each warp takes 16 keys and a share of the dimensions: their codes arrive by asynchronous copies a step ahead,
 *      each thread's own; it converts them to bf16 in the registers of a matrix operand, multiplies them with the
 *      queries (keys on rows, heads on columns; queries stay in registers) and stores them as values.
 *   2. The warps of the same keys trade scores; those that own some make probabilities.
 *   3. Each warp adds the products of all keys' probabilities with 64 dimensions of their values.
 *
 * Softmax: probabilities are relative to a reference per head, 2^(score - ref): any number within 2^+-40 of the
 * largest score does, since bf16 and f32 have the exponents for it. So there is no running maximum: a step whose sums
 * pass 2^40 (the first one always does) sets a new reference.
 *
 * Joined lists: heads are those of all queries of the request, and a row's scores are -inf to those of queries that do
 * not name it. That is all: a step costs the same however many queries name its rows.
 *
 * A NaN code is found by the largest magnitude of a row; the row then counts as NaN for every head. Rows that no list
 * names are never read.
 */
#include "attn_launch.h"
#include "attn_output.cuh"
#include "attn_refuse.cuh"
#include "attn_rows.cuh"
#include "launch.cuh"

enum {
    N_WARPS = 8,
    N_THREADS = N_WARPS * 32,
};
static_assert((int)N_THREADS == (int)N_TEAM_THREADS, "all threads finish a part");

/* How the warps share a step. */
template <int HEADS, int KEYS> struct division {
    static constexpr int n_tiles = KEYS / 16;
    static constexpr int n_shares = N_WARPS / n_tiles; /* of the dimensions */
    static constexpr int n_groups = N_DIM_GROUPS / n_shares;
    static constexpr int n_columns = HEADS / 8;
    static constexpr int n_owners =
        2 * n_columns; /* warps that own scores: of eight heads, of eight keys */
    static constexpr int n_buffers = KEYS == 32 ? 2 : 1;
    static_assert(n_owners <= n_shares, "every warp of a tile owns at most two scores a thread");
};

template <int HEADS, int KEYS> struct mma_memory {
    typedef division<HEADS, KEYS> d;
    alignas(16) unsigned char values[d::n_buffers][N_DIM_GROUPS * KEYS * 128];
    /* what each thread loads for itself: pieces of 16 bytes of its two rows; of the last group, a second one */
    alignas(16) uint4 raw[2 * d::n_groups][N_THREADS];
    alignas(16) uint4 raw_rotated[2][d::n_tiles * 32];
    alignas(16) uint32_t slots[N_WARPS][16], scales[N_WARPS][16]; /* of a warp's rows */
    float2 traded[d::n_tiles][d::n_owners][d::n_shares][32];
    alignas(16) uint16_t probs[HEADS][KEYS + 8];
    float warp_max[N_WARPS][8], warp_sum[N_WARPS][8]; /* of the warp's own eight heads */
    float ref[HEADS], rescale[HEADS];
    part_result<HEADS> result;
    static_assert(sizeof raw >= sizeof(split_sums), "a merge uses the memory of rows");
};

/* What a thread is, and what it keeps from step to step. */
struct mma_thread {
    int tile, share;  /* the warp's */
    int column, half; /* the scores that it owns, if any: heads 8 * column ..., rows + 8 * half */
    bool is_owner;
    list_cursor lists;
    bool has_next;                  /* is there a step to load */
    bool is_listed[2], is_extra[2]; /* its entries of this thread's rows: lane / 4, and 8 on */
    bool is_valid[2];               /* rows of the step that was loaded last */
};

/* Begins to read the indices of the next step; two lanes of four do nothing but say who is listed. */
template <class PART, int HEADS, int KEYS>
__device__ __forceinline__ void next_rows(const attn_args &a, mma_thread &t,
                                          mma_memory<HEADS, KEYS> &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    t.has_next = seek_entries<PART>(a, t.lists);
    if (t.has_next) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int32_t *source =
                find_entry(t.lists, 16 * t.tile + lane / 4 + 8 * r, t.is_extra[r]);
            t.is_listed[r] = source != NULL;
            if (lane % 4 == r && source != NULL)
                copy_async4(shared_address(&s.slots[warp][lane / 4 + 8 * r]), source);
        }
        t.lists.entry += KEYS;
    }
    copy_async_commit();
}

/* The row of an entry, and whether the query of the scores that this thread owns names it. */
template <class PART>
__device__ __forceinline__ key_row locate_entry(const attn_args &a, const mma_thread &t,
                                                uint32_t entry, int r, bool &is_valid)
{
    if constexpr (is_joined<PART>) {
        uint32_t queries;
        const key_row from = locate_joined(a, entry, t.is_extra[r], t.is_listed[r], queries);
        is_valid = (queries >> (8 * t.column >> a.joined.query_shift) & 1) != 0;
        return from;
    } else {
        const key_row from = locate_row(a, entry, t.is_extra[r], t.is_listed[r]);
        is_valid = from.is_valid;
        return from;
    }
}

/* Begins to bring this warp's share of the next step's rows, and the indices of the step behind it. */
template <class PART, int HEADS, int KEYS>
__device__ __forceinline__ void load_rows(const attn_args &a, mma_thread &t,
                                          mma_memory<HEADS, KEYS> &s)
{
    typedef division<HEADS, KEYS> d;
    if (!t.has_next) return;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, quarter = lane % 4;
    const bool is_last_share = t.share == d::n_shares - 1;
    const uint32_t slots[2] = {s.slots[warp][lane / 4], s.slots[warp][lane / 4 + 8]};
    __syncwarp(); /* all lanes have read slots and scales */
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const key_row from = locate_entry<PART>(a, t, slots[r], r, t.is_valid[r]);
        const unsigned char *codes = from.codes + t.share * d::n_groups * GROUP_DIMS + quarter * 16;
#pragma unroll
        for (int i = 0; i < d::n_groups; i++) {
            copy_async16(shared_address(&s.raw[r * d::n_groups + i][threadIdx.x]),
                         codes + GROUP_DIMS * i);
        }
        if (is_last_share) { /* the last group is twice as long */
            copy_async16(shared_address(&s.raw_rotated[r][t.tile * 32 + lane]),
                         codes + GROUP_DIMS * d::n_groups);
        }
        if (quarter == r) {
            copy_async4(shared_address(&s.scales[warp][lane / 4 + 8 * r]),
                        from.scales + (t.share * d::n_groups & 4));
        }
    }
    next_rows<PART, HEADS, KEYS>(a, t, s);
}

/* ---- queries ---- */

/* Operands of the products of a warp's share of the dimensions: step, then low and high half of it. */
template <int HEADS, int KEYS> struct query_operands {
    uint32_t w[HEADS / 8][division<HEADS, KEYS>::n_groups * 4][2];
};

/* As they lie in memory, zeros behind the last head; order_query puts them in the keys' order. */
template <int HEADS, int KEYS, class PART>
__device__ __forceinline__ void load_query(const attn_args &a, const PART &p, const mma_thread &t,
                                           query_operands<HEADS, KEYS> &q)
{
    typedef division<HEADS, KEYS> d;
    const int lane = threadIdx.x % 32, quarter = lane % 4;
#pragma unroll
    for (int c = 0; c < HEADS / 8; c++) {
        const int head = part_first_head(p, HEADS) + 8 * c + lane / 4;
        const char *source = a.q + p.request * a.q_request_stride_bytes +
                             query_of(a, p, head) * a.q_query_stride_bytes +
                             head_of(a, p, head) * a.q_head_stride_bytes +
                             t.share * d::n_groups * 128;
#pragma unroll
        for (int g = 0; g < d::n_groups; g++) {
            const bool is_rotated = t.share * d::n_groups + g == N_DIM_GROUPS - 1;
            const char *low = source + g * 128 + quarter * (is_rotated ? 16 : 32),
                       *high = low + (is_rotated ? 64 : 16);
            uint4 x = make_uint4(0, 0, 0, 0), y = x;
            if (head < count_heads(a, p)) {
                x = a.q_is_aligned ? __ldg((const uint4 *)low) : load_unaligned16(low);
                y = a.q_is_aligned ? __ldg((const uint4 *)high) : load_unaligned16(high);
            }
            const uint32_t from[8] = {x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w};
#pragma unroll
            for (int i = 0; i < 8; i++) q.w[c][4 * g + i / 2][i % 2] = from[i];
        }
    }
}

template <int HEADS, int KEYS>
__device__ __forceinline__ void order_query(const mma_thread &t, query_operands<HEADS, KEYS> &q)
{
    typedef division<HEADS, KEYS> d;
#pragma unroll
    for (int c = 0; c < HEADS / 8; c++) {
#pragma unroll
        for (int g = 0; g < d::n_groups; g++) {
            uint32_t(&w)[4][2] = *(uint32_t(*)[4][2]) & q.w[c][4 * g];
            if (t.share * d::n_groups + g == N_DIM_GROUPS - 1) { /* step j: words j and 4 + j */
                const uint32_t words[8] = {w[0][0], w[0][1], w[1][0], w[1][1],
                                           w[2][0], w[2][1], w[3][0], w[3][1]};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    w[j][0] = words[j];
                    w[j][1] = words[4 + j];
                }
            } else { /* values 1 and 3 of four, then 0 and 2 */
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const uint32_t x = w[j][0], y = w[j][1];
                    w[j][0] = __byte_perm(x, y, 0x7632);
                    w[j][1] = __byte_perm(x, y, 0x5410);
                }
            }
        }
    }
}

/* ---- scores ---- */

/* The operands of a group's four steps: rows lane / 4 and 8 on, first half of the columns, then second half. */
struct group_operands {
    uint32_t a[4][4];
};

__device__ __forceinline__ void convert_group(const uint4 (&codes)[2], const uint32_t (&scales)[2],
                                              bool has_big, uint32_t (&largest)[2],
                                              group_operands &to)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint32_t words[4] = {codes[r].x, codes[r].y, codes[r].z, codes[r].w};
        const uint32_t byte = scales[r] & 0xff;
        const uint32_t factor = scale_factor(has_big ? min(byte, (uint32_t)BIG_SCALE) : byte);
#pragma unroll
        for (int j = 0; j < 4; j++)
            convert_codes(words[j], factor, to.a[j][r], to.a[j][r + 2], largest[r]);
        if (has_big) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                to.a[j][r] = multiply_bf16x2(to.a[j][r], second_factor(byte));
                to.a[j][r + 2] = multiply_bf16x2(to.a[j][r + 2], second_factor(byte));
            }
        }
    }
}

__device__ __forceinline__ void take_group(const uint4 (&low)[2], const uint4 (&high)[2],
                                           group_operands &to)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint32_t words[2][4] = {{low[r].x, low[r].y, low[r].z, low[r].w},
                                      {high[r].x, high[r].y, high[r].z, high[r].w}};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            to.a[j][r] = words[0][j];
            to.a[j][r + 2] = words[1][j];
        }
    }
}

/* One group of the warp's share and those behind it: scores += keys * queries, in turns; the keys become values. */
template <int HEADS, int KEYS, int GROUP>
__device__ __forceinline__ void
multiply_groups(const mma_thread &t, const uint32_t (&scales)[2], bool has_big,
                const query_operands<HEADS, KEYS> &q, uint32_t values, uint32_t (&largest)[2],
                float (&scores)[2][HEADS / 8][4], const mma_memory<HEADS, KEYS> &s)
{
    typedef division<HEADS, KEYS> d;
    if constexpr (GROUP < d::n_groups) {
        const int lane = threadIdx.x % 32;
        const uint4 codes[2] = {s.raw[GROUP][threadIdx.x], s.raw[d::n_groups + GROUP][threadIdx.x]};
        group_operands keys;
        if (GROUP == d::n_groups - 1 && t.share == d::n_shares - 1) {
            const uint4 high[2] = {s.raw_rotated[0][t.tile * 32 + lane],
                                   s.raw_rotated[1][t.tile * 32 + lane]};
            take_group(codes, high, keys);
        } else {
            const uint32_t bytes[2] = {scales[0] >> (8 * GROUP), scales[1] >> (8 * GROUP)};
            convert_group(codes, bytes, has_big, largest, keys);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) { /* the lane's row and half of the columns, swizzled */
            store_matrix4(values + ((2 * j + lane / 16) ^ (lane % 8)) * 16, keys.a[j][0],
                          keys.a[j][1], keys.a[j][2], keys.a[j][3]);
#pragma unroll
            for (int c = 0; c < HEADS / 8; c++) {
                mma_bf16(scores[j % 2][c], keys.a[j][0], keys.a[j][1], keys.a[j][2], keys.a[j][3],
                         q.w[c][4 * GROUP + j][0], q.w[c][4 * GROUP + j][1]);
            }
        }
        multiply_groups<HEADS, KEYS, GROUP + 1>(t, scales, has_big, q, values + KEYS * 128, largest,
                                                scores, s);
    }
}

/* This warp's share of the scores of its keys; NaN for rows with NaN codes. */
template <int HEADS, int KEYS>
__device__ __forceinline__ void
multiply_share(const mma_thread &t, const query_operands<HEADS, KEYS> &q, int buffer,
               float (&scores)[HEADS / 8][4], mma_memory<HEADS, KEYS> &s)
{
    typedef division<HEADS, KEYS> d;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t values = shared_address(s.values[buffer]) +
                            (t.share * d::n_groups * KEYS + 16 * t.tile + lane % 16) * 128;
    const int shift = d::n_groups == 4 ? 0 : t.share % 2 * 16;
    const uint32_t scales[2] = {s.scales[warp][lane / 4] >> shift,
                                s.scales[warp][lane / 4 + 8] >> shift};
    uint32_t largest[2] = {0, 0};
    uint32_t over = __vcmpgtu4(scales[0], 0x01010101u * BIG_SCALE) |
                    __vcmpgtu4(scales[1], 0x01010101u * BIG_SCALE);
    over &=
        0xffffffffu >> (t.share == d::n_shares - 1 ? 40 - 8 * d::n_groups : 32 - 8 * d::n_groups);
    float turns[2][HEADS / 8][4] = {};
    multiply_groups<HEADS, KEYS, 0>(t, scales, __any_sync(0xffffffffu, over != 0), q, values,
                                    largest, turns, s);
    const bool is_nan[2] = {is_nan_row(largest[0]), is_nan_row(largest[1])};
#pragma unroll
    for (int c = 0; c < HEADS / 8; c++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            scores[c][i] = is_nan[i / 2] ? NAN : turns[0][c][i] + turns[1][c][i];
    }
}

/* Leaves what other warps own; behind the barrier, what this warp owns is complete. */
template <int HEADS, int KEYS>
__device__ __forceinline__ float2 trade_scores(const mma_thread &t,
                                               const float (&scores)[HEADS / 8][4],
                                               const bool (&is_valid)[2],
                                               mma_memory<HEADS, KEYS> &s)
{
    typedef division<HEADS, KEYS> d;
    const int lane = threadIdx.x % 32;
    float2 own = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int owner = 0; owner < d::n_owners; owner++) {
        const float *two = &scores[owner / 2][2 * (owner % 2)];
        if (owner == t.share) {
            own = make_float2(two[0], two[1]);
        } else {
            s.traded[t.tile][owner][t.share][lane] = make_float2(two[0], two[1]);
        }
    }
    __syncthreads();
    if (t.is_owner) {
#pragma unroll
        for (int share = 0; share < d::n_shares; share++) {
            if (share == t.share) continue;
            const float2 part = s.traded[t.tile][t.share][share][lane];
            own.x += part.x;
            own.y += part.y;
        }
        if (!(t.half == 0 ? is_valid[0] : is_valid[1])) own = make_float2(-INFINITY, -INFINITY);
    }
    return own;
}

/* ---- probabilities ---- */

/* Probabilities of two heads for one key; true unless they are small enough to go on with this reference. */
template <int HEADS, int KEYS>
__device__ __forceinline__ bool make_probs(const mma_thread &t, float2 scores, float scale_log2,
                                           float2 &probs, mma_memory<HEADS, KEYS> &s)
{
    const int lane = threadIdx.x % 32, head = 8 * t.column + 2 * (lane % 4),
              key = 16 * t.tile + lane / 4 + 8 * t.half;
    const float2 ref = *(const float2 *)&s.ref[head];
    probs.x = exp2_fast(fmaf(scores.x, scale_log2, -ref.x));
    probs.y = exp2_fast(fmaf(scores.y, scale_log2, -ref.y));
    const uint32_t pair = to_bf16_pair(probs.x, probs.y);
    s.probs[head][key] = (uint16_t)pair;
    s.probs[head + 1][key] = (uint16_t)(pair >> 16);
    return !(probs.x + probs.y < LARGEST_SUM);
}

/* Over the lanes that have the same heads. */
__device__ __forceinline__ float2 reduce_heads(float2 v, bool adds)
{
#pragma unroll
    for (int other = 4; other < 32; other *= 2) {
        const float x = __shfl_xor_sync(0xffffffffu, v.x, other),
                    y = __shfl_xor_sync(0xffffffffu, v.y, other);
        v = adds ? make_float2(v.x + x, v.y + y) : make_float2(fmaxf(v.x, x), fmaxf(v.y, y));
    }
    return v;
}

/* A new reference for every head from this step's scores, and by what sums so far have to be multiplied. */
template <int HEADS, int KEYS>
__device__ static void set_reference(const mma_thread &t, float2 scores, float scale_log2,
                                     mma_memory<HEADS, KEYS> &s)
{
    typedef division<HEADS, KEYS> d;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float2 largest = reduce_heads(scores, false);
    if (lane < 4) *(float2 *)&s.warp_max[warp][2 * lane] = largest;
    __syncthreads();
    if (threadIdx.x < HEADS) {
        const int h = threadIdx.x;
        float m = -INFINITY;
#pragma unroll
        for (int i = 0; i < 2 * d::n_tiles; i++) {
            const int share = h / 8 * 2 + i % 2;
            m = fmaxf(m, s.warp_max[share * d::n_tiles + i / 2][h % 8]);
        }
        const float old = s.ref[h], now = fmaxf(old, m * scale_log2);
        s.ref[h] = now;
        s.rescale[h] = exp2_fast(old - now);
    }
    __syncthreads();
}

/* ---- values ---- */

/* 64 dimensions of all heads: rows of 16 dimensions, columns of 8 heads. */
template <int HEADS> struct warp_sums {
    float v[4][HEADS / 8][4];
};

template <int HEADS, int KEYS>
__device__ __forceinline__ void scale_sums(warp_sums<HEADS> &sums, const mma_memory<HEADS, KEYS> &s)
{
#pragma unroll
    for (int c = 0; c < HEADS / 8; c++) {
        const float2 factor = *(const float2 *)&s.rescale[8 * c + 2 * (threadIdx.x % 4)];
#pragma unroll
        for (int m = 0; m < 4; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums.v[m][c][i] *= i % 2 == 0 ? factor.x : factor.y;
        }
    }
}

template <int HEADS, int KEYS>
__device__ __forceinline__ void add_values(int buffer, warp_sums<HEADS> &sums,
                                           const mma_memory<HEADS, KEYS> &s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t probs = shared_address(&s.probs[lane % 8][lane / 8 * 8]);
    const uint32_t values =
        shared_address(s.values[buffer]) + warp * KEYS * 128 + (lane / 16 * 8 + lane % 8) * 128;
    const int odd = lane / 8 % 2, swizzle = lane % 8;
#pragma unroll
    for (int k = 0; k < KEYS / 16; k += 2) {
        uint32_t p[HEADS / 8][4];
#pragma unroll
        for (int c = 0; c < HEADS / 8; c++)
            load_matrix4(p[c], probs + 8 * c * (KEYS + 8) * 2 + k * 32);
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int m = 0; m < 4; m++) {
                uint32_t v[4];
                load_matrix4_transposed(v, values + (k + i) * 16 * 128 +
                                               (((2 * m + odd) ^ swizzle) << 4));
#pragma unroll
                for (int c = 0; c < HEADS / 8; c++)
                    mma_bf16(sums.v[m][c], v[0], v[1], v[2], v[3], p[c][2 * i], p[c][2 * i + 1]);
            }
        }
    }
}

/* ---- the whole ---- */

/* The sums of a part, in the natural order of dimensions, and what belongs to them. */
template <int HEADS, int KEYS>
__device__ static void stage_sums(const mma_thread &t, const warp_sums<HEADS> &sums,
                                  float2 own_sums, mma_memory<HEADS, KEYS> &s)
{
    typedef division<HEADS, KEYS> d;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float *staged = (float *)s.values;
    own_sums = reduce_heads(own_sums, true);
    if (lane < 4) *(float2 *)&s.warp_sum[warp][2 * lane] = own_sums;
    __syncthreads(); /* all have multiplied what lies where sums are staged */
    if (threadIdx.x < HEADS) {
        const int h = threadIdx.x;
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < 2 * d::n_tiles; i++)
            sum += s.warp_sum[(h / 8 * 2 + i % 2) * d::n_tiles + i / 2][h % 8];
        s.result.sum[h] = sum;
        s.result.ref[h] = s.ref[h];
    }
#pragma unroll
    for (int m = 0; m < 4; m++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int dim = dim_of_position(64 * warp + 16 * m + lane / 4 + i / 2 * 8);
#pragma unroll
            for (int c = 0; c < HEADS / 8; c++)
                staged[(8 * c + 2 * (lane % 4) + i % 2) * STAGE_PITCH + dim] = sums.v[m][c][i];
        }
    }
    __syncthreads();
}

template <int HEADS, int KEYS>
__device__ __forceinline__ mma_thread begin_thread(const attn_args &a)
{
    typedef division<HEADS, KEYS> d;
    mma_thread t = {};
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0); /* said to be a warp's */
    t.tile = warp % d::n_tiles;
    t.share = warp / d::n_tiles;
    t.column = t.share / 2;
    t.half = t.share % 2;
    t.is_owner = t.share < d::n_owners;
    t.lists = begin_lists(a);
    return t;
}

/* One step: from rows on their way to sums. */
template <class PART, int HEADS, int KEYS>
__device__ __forceinline__ void
run_step(const attn_args &a, mma_thread &t, const query_operands<HEADS, KEYS> &q, int buffer,
         float2 &own_sums, warp_sums<HEADS> &sums, mma_memory<HEADS, KEYS> &s)
{
    float scores[HEADS / 8][4];
    float2 probs = make_float2(0.0f, 0.0f);
    copy_async_wait<0>();
    __syncwarp();
    multiply_share<HEADS, KEYS>(t, q, buffer, scores, s);
    const bool is_valid[2] = {t.is_valid[0], t.is_valid[1]};
    load_rows<PART, HEADS, KEYS>(a, t, s);
    const float2 own = trade_scores<HEADS, KEYS>(t, scores, is_valid, s);
    bool is_large = false;
    if (t.is_owner) is_large = make_probs<HEADS, KEYS>(t, own, a.scale_log2, probs, s);
    if (__syncthreads_or(is_large)) {
        set_reference<HEADS, KEYS>(t, own, a.scale_log2, s);
        if (t.is_owner) {
            const float2 factor = *(const float2 *)&s.rescale[8 * t.column + 2 * (threadIdx.x % 4)];
            own_sums = make_float2(own_sums.x * factor.x, own_sums.y * factor.y);
            make_probs<HEADS, KEYS>(t, own, a.scale_log2, probs, s);
        }
        scale_sums<HEADS, KEYS>(sums, s);
        __syncthreads();
    }
    own_sums = make_float2(own_sums.x + probs.x, own_sums.y + probs.y);
    add_values<HEADS, KEYS>(buffer, sums, s);
    if (division<HEADS, KEYS>::n_buffers == 1) __syncthreads();
}

template <class PART, int HEADS, int KEYS>
__global__ void __launch_bounds__(N_THREADS, 2) attn_mma_kernel(const __grid_constant__ attn_args a)
{
    mma_memory<HEADS, KEYS> &s = *(mma_memory<HEADS, KEYS> *)dynamic_memory();
    if (threadIdx.x == 0) prefetch_part(a);
    if (!is_own_plan(a)) {
        refuse_plan(a);
        return;
    }
    mma_thread t = begin_thread<HEADS, KEYS>(a);
    const int32_t n_ranks = t.lists.n_ranks;
    next_rows<PART, HEADS, KEYS>(a, t, s);
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < n_ranks; round++) {
        const PART p = read_part<PART>(a, rank);
        const int32_t n_keys =
            min(p.end_block * ATTN_BLOCK_KEYS, p.total_len) - p.first_block * ATTN_BLOCK_KEYS;
        query_operands<HEADS, KEYS> q;
        warp_sums<HEADS> sums = {};
        float2 own_sums = make_float2(0.0f, 0.0f);
        int buffer = 0;
        load_query<HEADS, KEYS>(a, p, t, q);
        float sink = 0.0f;
        if (threadIdx.x < HEADS) {
            const int head = part_first_head(p, HEADS) + (int)threadIdx.x;
            sink = read_sink(a, p, min(head, count_heads(a, p) - 1));
        }
        if (threadIdx.x == 0 && p.first_slot >= 0) prefetch_l2(&a.arrivals[p.first_slot]);
        if (round == 0) {
            copy_async_wait<0>();
            __syncwarp();
            load_rows<PART, HEADS, KEYS>(a, t, s);
        }
        order_query<HEADS, KEYS>(t, q);
        if (threadIdx.x < HEADS) s.ref[threadIdx.x] = FIRST_REF;
#pragma unroll 1
        for (int32_t n_left = n_keys; n_left > 0; n_left -= KEYS) {
            run_step<PART, HEADS, KEYS>(a, t, q, buffer, own_sums, sums, s);
            if (division<HEADS, KEYS>::n_buffers == 2) buffer ^= 1;
        }
        if (threadIdx.x < HEADS) s.result.sink[threadIdx.x] = sink;
        stage_sums<HEADS, KEYS>(t, sums, own_sums, s);
        const float *staged = (const float *)s.values;
        if (p.first_slot >= 0) {
            leave_part<HEADS>(a, p, staged, s.result);
            finish_split<unit_merge<HEADS, block_team>, block_team>(
                a, p, s.result.arrival, s.result.sink, *(split_sums *)s.raw);
            break; /* no part comes behind a split task's */
        }
        finish_part<HEADS>(a, p, staged, s.result);
        __syncthreads();
    }
}

template <class PART, int HEADS, int KEYS>
static cudaError_t launch(const attn_args *args, int n_thread_blocks, cudaStream_t stream)
{
    const size_t n_bytes = sizeof(mma_memory<HEADS, KEYS>);
    cudaError_t status =
        cudaFuncSetAttribute(attn_mma_kernel<PART, HEADS, KEYS>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes);
    if (status != cudaSuccess) return status;
    return launch_kernel(attn_mma_kernel<PART, HEADS, KEYS>, (unsigned)n_thread_blocks, N_THREADS,
                         n_bytes, stream, *args);
}

cudaError_t dsv4_attn_mma_launch(const attn_args *args, int group_heads, int step_keys,
                                 int n_thread_blocks, cudaStream_t stream)
{
    if (args->joined.lists != NULL) {
        if (group_heads != 16) return cudaErrorInvalidValue;
        return launch<joined_part, 16, 32>(args, n_thread_blocks, stream);
    }
    if (group_heads == 8 && step_keys == 64)
        return launch<attn_part, 8, 64>(args, n_thread_blocks, stream);
    if (group_heads == 8) return launch<attn_part, 8, 32>(args, n_thread_blocks, stream);
    return launch<attn_part, 16, 32>(args, n_thread_blocks, stream);
}

size_t dsv4_attn_mma_shared_bytes(int group_heads, int step_keys)
{
    if (group_heads == 8 && step_keys == 64) return sizeof(mma_memory<8, 64>);
    return group_heads == 8 ? sizeof(mma_memory<8, 32>) : sizeof(mma_memory<16, 32>);
}
