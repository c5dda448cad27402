/*
 * attn_rows.cuh - from a plan's parts and index lists to the rows of the cache, and from e4m3 to bf16.
 *
 * Place: cuda, any device from sm_80 on; used by the attention's kernels.
 *
 * Where lists are joined (gpu/attn_join_kernel.c) a part is a joined_part, and what differs is chosen by its type: the
 * kernels of other lists have none of it in their machine code. Its heads are those of all queries of the request, one
 * query's behind the other's: what is called a head is one of these until query_of and head_of take it apart.
 *
 * Conversion of e4m3 to bf16: sign, exponent and mantissa of a code are put at their places in a bf16, which is then
 * the code's number times 2^-120, subnormals included; one multiplication by 2^(scale byte - 127 + 120) makes it right.
 * A word of four codes gives two pairs: bytes 1 and 3, then bytes 0 and 2.
 */
#ifndef DSV4_CUDA_ATTN_ROWS_CUH
#define DSV4_CUDA_ATTN_ROWS_CUH

#include <math.h>

#include "gpu/attn_device.h"
#include "sm80.cuh"

enum {
    DIM = 512,
    GROUP_DIMS = 64,  /* of one scale */
    N_DIM_GROUPS = 8, /* the last is the rotated bf16 part */
    ROW_BYTES = 576,  /* of codes and rotated values */
    SCALE_BYTES = 8,
    NAN_MAGNITUDE = 0x7f0, /* of code 0x7f at its place in a bf16 */
    BIG_SCALE = 134,       /* scale bytes above it need two multiplications */
};

#define FIRST_REF   (-1e30f)         /* below every score: the first block sets a reference */
#define LARGEST_SUM 1099511627776.0f /* 2^40 */
#define LOG2_E      1.4426950408889634f
#define LN_2        0.6931471805599453f

/* What keys that lists do not name are read from. Not one row for all: all would wait for one place in the cache. */
enum { N_ZERO_ROWS = 64 };
__device__ static const uint4 zero_rows[N_ZERO_ROWS][ROW_BYTES / 16] = {};

__device__ __forceinline__ const unsigned char *zero_row(void)
{
    return (const unsigned char *)zero_rows[blockIdx.x % N_ZERO_ROWS];
}

/* What ATTN_JOIN_NAN_SLOT is read from: its first code is NaN, and that makes the row NaN. */
__device__ static const uint4 nan_row[ROW_BYTES / 16] = {{0x7f, 0, 0, 0}};

struct joined_part : attn_part {
};

/* A part that was kept, as what it was. */
template <class PART> __device__ __forceinline__ PART kept_part(const attn_part &part)
{
    return PART{part};
}

template <class PART> inline constexpr bool is_joined = false;
template <> inline constexpr bool is_joined<joined_part> = true;

__device__ __forceinline__ int32_t rank_of_round(int32_t round)
{
    const int32_t n = gridDim.x, i = blockIdx.x;
    return round * n + (round % 2 == 0 ? i : n - 1 - i);
}

/* The request's joined lists, with their head. */
__device__ __forceinline__ const uint32_t *find_joined(const attn_args &a, int32_t request)
{
    return a.joined.lists + request * a.joined.request_pitch;
}

/* A plan does not know how long joined lists are: its cut is made again of what they have. Some parts may be empty. */
__device__ __forceinline__ joined_part cut_joined(const attn_args &a, const attn_part &planned)
{
    joined_part p = {planned};
    const int2 n = __ldg((const int2 *)find_joined(a, p.request)); /* attn_joined_head */
    const uint32_t number = (uint32_t)p.part_of >> 16, n_parts = p.part_of & 0xffff;
    p.window_len = n.x;
    p.total_len = n.x + n.y;
    const uint32_t n_blocks = ((uint32_t)p.total_len + ATTN_BLOCK_KEYS - 1) / ATTN_BLOCK_KEYS;
    p.first_block = n_blocks * number / n_parts;
    p.end_block = n_blocks * (number + 1) / n_parts;
    return p;
}

template <class PART = attn_part>
__device__ __forceinline__ PART read_part(const attn_args &a, int32_t rank)
{
    const int4 *source = (const int4 *)(a.plan + sizeof(attn_plan_head)) + 2 * (int64_t)rank;
    const int4 low = __ldg(source), high = __ldg(source + 1);
    const attn_part p = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    if constexpr (is_joined<PART>) {
        return cut_joined(a, p);
    } else {
        return p;
    }
}

/* Asks for the thread block's first part, while the plan's head is on its way. */
__device__ __forceinline__ void prefetch_part(const attn_args &a)
{
    prefetch_l2((const attn_part *)(a.plan + sizeof(attn_plan_head)) + blockIdx.x);
}

__device__ __forceinline__ int32_t part_query(const attn_part &p)
{
    return p.query_group >> 8;
}

/*
 * 0 of joined lists, which have one group for all heads. It is read from the plan all the same: the addresses of all heads
 * would not depend on the part else, and the compiler would keep them from part to part, in memory.
 */
__device__ __forceinline__ int32_t part_first_head(const attn_part &p, int group_heads)
{
    return (p.query_group & 0xff) * group_heads;
}

/* Heads that parts share. */
__device__ __forceinline__ int32_t count_heads(const attn_args &a, const attn_part &)
{
    return a.n_heads;
}

__device__ __forceinline__ int32_t count_heads(const attn_args &a, const joined_part &)
{
    return a.n_queries << a.joined.query_shift;
}

/* A head's query, and its number there. */
__device__ __forceinline__ int32_t query_of(const attn_args &, const attn_part &p, int)
{
    return part_query(p);
}

__device__ __forceinline__ int32_t query_of(const attn_args &a, const joined_part &, int head)
{
    return head >> a.joined.query_shift;
}

__device__ __forceinline__ int head_of(const attn_args &, const attn_part &, int head)
{
    return head;
}

__device__ __forceinline__ int head_of(const attn_args &a, const joined_part &, int head)
{
    return head & ((1 << a.joined.query_shift) - 1);
}

/* From a part's first query to a head's. */
__device__ __forceinline__ int64_t query_bytes(const attn_args &a, const attn_part &, int head)
{
    return head * a.q_head_stride_bytes;
}

__device__ __forceinline__ int64_t query_bytes(const attn_args &a, const joined_part &p, int head)
{
    return query_of(a, p, head) * a.q_query_stride_bytes +
           head_of(a, p, head) * a.q_head_stride_bytes;
}

/* Eight bf16 of a query; any alignment that they can have. */
__device__ static __noinline__ uint4 load_unaligned16(const char *source)
{
    const uint16_t *s = (const uint16_t *)source;
    return make_uint4(s[0] | (uint32_t)s[1] << 16, s[2] | (uint32_t)s[3] << 16,
                      s[4] | (uint32_t)s[5] << 16, s[6] | (uint32_t)s[7] << 16);
}

/* ---- lists ---- */

/* The part whose entries are read, and its next entry. */
struct list_cursor {
    int32_t round, n_ranks;
    int32_t entry, end_entry; /* of the lists one behind the other */
    int32_t window_len;
    const int32_t *window_list, *extra_list; /* entry 0 of the extra list is window_len */
};

struct key_row {
    const unsigned char *codes, *scales;
    bool is_valid;
};

__device__ __forceinline__ list_cursor begin_lists(const attn_args &a)
{
    list_cursor c = {};
    c.n_ranks = __ldg(&((const attn_plan_head *)a.plan)->n_parts);
    return c;
}

/* Goes on to a part with entries, if this one has no more; false behind the last. */
template <class PART = attn_part>
__device__ __forceinline__ bool seek_entries(const attn_args &a, list_cursor &c)
{
    while (c.entry >= c.end_entry) {
        const int32_t rank = rank_of_round(c.round);
        if (rank >= c.n_ranks) return false;
        c.round++;
        const PART p = read_part<PART>(a, rank);
        c.entry = p.first_block * ATTN_BLOCK_KEYS;
        c.end_entry = min(p.end_block * ATTN_BLOCK_KEYS, p.total_len);
        c.window_len = p.window_len;
        if constexpr (is_joined<PART>) {
            const int32_t *joined = (const int32_t *)find_joined(a, p.request);
            c.window_list = joined + sizeof(attn_joined_head) / sizeof *joined;
            c.extra_list = joined + a.joined.first_extra - p.window_len;
            continue;
        }
        c.window_list =
            (const int32_t *)(a.window.indices + p.request * a.window.indices_request_stride_bytes +
                              part_query(p) * a.window.indices_query_stride_bytes);
        c.extra_list =
            (const int32_t *)(a.extra.indices + p.request * a.extra.indices_request_stride_bytes +
                              part_query(p) * a.extra.indices_query_stride_bytes) -
            p.window_len;
    }
    return true;
}

/* Where the entry that is `row` behind the next stands; NULL behind the part's last one. */
__device__ __forceinline__ const int32_t *find_entry(const list_cursor &c, int row, bool &is_extra)
{
    const int32_t entry = c.entry + row;
    is_extra = entry >= c.window_len;
    return entry < c.end_entry ? (is_extra ? c.extra_list : c.window_list) + entry : NULL;
}

__device__ __forceinline__ key_row locate_row(const attn_args &a, uint32_t slot, bool x,
                                              bool is_listed)
{
    key_row row; /* negative slots are large */
    row.is_valid = is_listed && slot < (x ? a.extra.n_slots : a.window.n_slots);
    const uint32_t page = __umulhi(2 * slot, x ? a.extra.divide_factor : a.window.divide_factor) >>
                          (x ? a.extra.divide_shift : a.window.divide_shift);
    const uint32_t in_page = slot - page * (x ? a.extra.page_rows : a.window.page_rows);
    const unsigned char *base = (x ? a.extra.cache : a.window.cache) +
                                page * (x ? a.extra.page_stride_bytes : a.window.page_stride_bytes);
    const unsigned char *scales =
        base + (x ? a.extra.scale_plane_bytes : a.window.scale_plane_bytes);
    row.codes = row.is_valid ? base + in_page * ROW_BYTES : zero_row();
    row.scales = row.is_valid ? scales + in_page * SCALE_BYTES : zero_row();
    return row;
}

/* The row of a joined list's entry; queries: bits of those that name it. */
__device__ __forceinline__ key_row locate_joined(const attn_args &a, uint32_t entry, bool is_extra,
                                                 bool is_listed, uint32_t &queries)
{
    const uint32_t slot = entry & ATTN_JOIN_NAN_SLOT;
    key_row row = locate_row(a, slot, is_extra, is_listed);
    queries = is_listed ? entry >> ATTN_JOIN_SLOT_BITS : 0;
    if (is_listed && slot == ATTN_JOIN_NAN_SLOT) row.codes = (const unsigned char *)nan_row;
    return row;
}

/* ---- conversion ---- */

/* 2^(byte - 127 + 120) twice; bytes up to BIG_SCALE. */
__device__ __forceinline__ uint32_t scale_factor(uint32_t byte)
{
    return byte * 0x800080u + 120 * 0x800080u;
}

/* What scale_factor left out of a larger byte: 2^(byte - BIG_SCALE), 1 or NaN, twice. */
__device__ __forceinline__ uint32_t second_factor(uint32_t byte)
{
    return byte == 255 ? 0x7fff7fffu : (127 + byte - min(byte, (uint32_t)BIG_SCALE)) * 0x800080u;
}

/* Four codes as two pairs of bf16; `largest` becomes the largest magnitude seen, by halves. */
__device__ __forceinline__ void convert_codes(uint32_t codes, uint32_t factor, uint32_t &odd_pair,
                                              uint32_t &even_pair, uint32_t &largest)
{
    const uint32_t odd = (codes >> 4) & 0x07f007f0u, even = (codes << 4) & 0x07f007f0u;
    largest = largest_u16x2(largest, odd, even);
    odd_pair = multiply_bf16x2(odd | (codes & 0x80008000u), factor);
    even_pair = multiply_bf16x2(even | ((codes << 8) & 0x80008000u), factor);
}

/* True for a row of which any code, in any of its four threads, is NaN. */
__device__ __forceinline__ bool is_nan_row(uint32_t largest)
{
    const bool is_nan = (largest & 0xffff) >= NAN_MAGNITUDE || (largest >> 16) >= NAN_MAGNITUDE;
    return ((__ballot_sync(0xffffffffu, is_nan) >> (threadIdx.x & 28)) & 15) != 0;
}

/*
 * Positions of a converted row: column 16 * j + c of a group is, in the operand of step j, of thread c % 8 / 2 of
 * four, and that thread had the codes of 16 dimensions in a row: columns 0..7 are bytes 1 and 3 of its word j, columns
 * 8..15 bytes 0 and 2. Of the rotated group it had two times eight dimensions, 32 apart.
 */
__device__ __forceinline__ int dim_of_position(int position)
{
    const int group = position / GROUP_DIMS, step = position / 16 % 4, column = position % 16;
    const int thread = column % 8 / 2, odd = column % 2;
    if (group == N_DIM_GROUPS - 1)
        return group * GROUP_DIMS + column / 8 * 32 + 8 * thread + 2 * step + odd;
    return group * GROUP_DIMS + 16 * thread + 4 * step + 2 * odd + 1 - column / 8;
}

#endif
