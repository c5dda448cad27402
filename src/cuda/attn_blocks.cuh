/*
 * attn_blocks.cuh - from index lists to blocks of f16 values in shared memory, and queries: what row warps do.
 *
 * Place: cuda, sm_90a only; used by the kernels whose rows are converted by warps of their own (attn_wide.cu,
 * attn_narrow.cu). What matrix units read has rows of 128 bytes, swizzled (wgmma.cuh), dimensions in their natural order.
 *
 * Every warp of a warpgroup finds, brings and converts its own 16 rows of a block, and needs no barrier with other warps
 * for it. Lanes 0..15, and 16..31 once more, walk through the lists, a row each, a block ahead of what is asked for, and
 * an index further ahead: an address is used long after it was asked for. Warps that have time walk through the same lists
 * still further ahead and ask the second-level cache for the rows. Four threads then have two rows together: a thread
 * brings the 16 of each 64 bytes (a chunk) that it alone will convert, to its registers, or by asynchronous copies into its
 * own places of a short queue in shared memory. A place is asked for again when it has been read, across blocks and parts.
 */
#ifndef DSV4_CUDA_ATTN_BLOCKS_CUH
#define DSV4_CUDA_ATTN_BLOCKS_CUH

#include "attn_split.cuh"
#include "sm90.cuh"
#include "wgmma_f16.cuh"

enum {
    KEYS = ATTN_BLOCK_KEYS,
    WARPGROUP = 128,
    N_WARPGROUP_WARPS = WARPGROUP / 32,
    HALF_DIMS = DIM / 2,
    N_HALF_GROUPS = N_DIM_GROUPS / 2,
    GROUP_BYTES = KEYS * 128, /* 64 dimensions of a block of values */
    BLOCK_BYTES = N_DIM_GROUPS * GROUP_BYTES,
    CHUNK_ROW_BYTES = 64, /* of a row in the cache */
    CHUNK_BYTES = KEYS * CHUNK_ROW_BYTES,
    N_ROW_CHUNKS = ROW_BYTES / CHUNK_ROW_BYTES,
    N_PLACES = 2,     /* for blocks: block b has place b % N_PLACES */
    BLOCKS_AHEAD = 5, /* of the one that is multiplied, in the second-level cache */
};

/* By what a row's values are divided in f16, for its score and its probability. */
struct alignas(8) row_exponent {
    float power, log2; /* 2^m and m; of a row with NaN codes of a joined list, log2 is NaN */
};

/* Of a block's rows; words are of a row warp each, bit i is of its row i. */
struct row_marks {
    alignas(16) row_exponent exponents[KEYS];
    uint32_t
        unusual[N_WARPGROUP_WARPS]; /* does not count for all; IS_ODD: f16 has no room for one */
    uint32_t named[ATTN_JOIN_MAX_QUERIES][N_WARPGROUP_WARPS]; /* of joined lists, by a query */
};

enum { IS_ODD = 1 << 16 };

/* ---- finding: a lane has a row ---- */

struct row_finder {
    list_cursor lists;
    int32_t slot; /* of the next block's row, if it is listed; on its way */
    bool is_listed, is_extra;
};

struct found_row {
    uint64_t address; /* and, where addresses have no bits: who names it, and whether it is one */
    uint2 scales;
};

enum { NAMED = ATTN_JOIN_ALL }; /* bit 0, or of joined lists the queries that do */
#define IS_ROW       ((uint64_t)1 << 63)
#define ADDRESS_BITS (((uint64_t)1 << 56) - 1 - NAMED)

template <class PART>
__device__ __forceinline__ key_row locate(const attn_args &a, const row_finder &f, uint32_t &named)
{
    if constexpr (is_joined<PART>) {
        return locate_joined(a, (uint32_t)f.slot, f.is_extra, f.is_listed, named);
    } else {
        const key_row row = locate_row(a, (uint32_t)f.slot, f.is_extra, f.is_listed);
        named = row.is_valid;
        return row;
    }
}

/* Begins to read the next block's index. */
template <class PART> __device__ __forceinline__ void read_index(const attn_args &a, row_finder &f)
{
    f.is_listed = false;
    if (!seek_entries<PART>(a, f.lists)) return;
    const int row = threadIdx.x % WARPGROUP / 32 * 16 + threadIdx.x % 16;
    const int32_t *source;
    f.is_listed = find_listed(f.lists, row, source, f.is_extra);
    if (f.is_listed) f.slot = __ldg(source);
    f.lists.entry += KEYS;
}

/* The next block's row, of zeros behind the last block. */
template <class PART>
__device__ __forceinline__ found_row find_row(const attn_args &a, row_finder &f)
{
    uint32_t named;
    const key_row row = locate<PART>(a, f, named);
    read_index<PART>(a, f);
    return {(uint64_t)row.codes | named | (row.is_valid ? IS_ROW : 0),
            __ldg((const uint2 *)row.scales)};
}

/* By a warpgroup: asks the second-level cache for the next block's rows. */
template <class PART>
__device__ __forceinline__ void prefetch_rows(const attn_args &a, row_finder &f)
{
    uint32_t named;
    const key_row row = locate<PART>(a, f, named);
    if (row.is_valid && threadIdx.x % 32 < 16) {
        prefetch_bytes_l2(row.codes, ROW_BYTES);
        prefetch_l2(row.scales);
    }
    read_index<PART>(a, f);
}

/* Of the blocks that the row warps will have begun before the first one has been multiplied, and of two more. */
template <class PART> __device__ __forceinline__ row_finder begin_prefetch(const attn_args &a)
{
    row_finder f = {};
    f.lists = begin_lists(a);
    read_index<PART>(a, f);
#pragma unroll 1
    for (int i = 0; i < BLOCKS_AHEAD; i++) prefetch_rows<PART>(a, f);
    return f;
}

/* ---- bringing: a thread has a quarter of two rows, 8 apart ---- */

struct row_stream {
    row_finder finder;
    found_row asked, next; /* the lane's row of the block that is asked for, and of the next */
    const unsigned char
        *from[2]; /* this thread's 16 bytes of chunk 0 of the rows that are asked for */
};

/* The lane that has found this thread's row r of two. */
__device__ __forceinline__ int finder_lane(int r)
{
    return threadIdx.x % 32 / 4 + 8 * r;
}

__device__ __forceinline__ void begin_asking(row_stream &l)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint64_t row = __shfl_sync(0xffffffffu, l.asked.address, finder_lane(r));
        l.from[r] = (const unsigned char *)(row & ADDRESS_BITS) + threadIdx.x % 4 * 16;
    }
}

/* The first block's rows; find_ahead comes when they have been asked for. */
template <class PART> __device__ __forceinline__ row_stream begin_stream(const attn_args &a)
{
    row_stream l = {};
    l.finder.lists = begin_lists(a);
    read_index<PART>(a, l.finder);
    l.asked = find_row<PART>(a, l.finder);
    begin_asking(l);
    return l;
}

template <class PART> __device__ __forceinline__ void find_ahead(const attn_args &a, row_stream &l)
{
    l.next = find_row<PART>(a, l.finder);
}

/* Goes on to the next block. */
template <class PART> __device__ __forceinline__ void next_rows(const attn_args &a, row_stream &l)
{
    l.asked = l.next;
    l.next = find_row<PART>(a, l.finder);
    begin_asking(l);
}

/* Chunks on their way through shared memory, in places of this thread. */
template <int N_CHUNKS> struct chunk_queue {
    uint32_t first_place, place; /* shared addresses of this thread's 16 bytes; of what was read */
};

template <int N_CHUNKS>
__device__ __forceinline__ uint32_t next_place(const chunk_queue<N_CHUNKS> &q)
{
    const uint32_t last = q.first_place + (N_CHUNKS - 1) * CHUNK_BYTES;
    return q.place == last ? q.first_place : q.place + CHUNK_BYTES;
}

/* A chunk of the rows that are asked for. */
template <int N_CHUNKS>
__device__ __forceinline__ void ask_for_chunk(const row_stream &l, const chunk_queue<N_CHUNKS> &q,
                                              int chunk)
{
#pragma unroll
    for (int r = 0; r < 2; r++)
        copy_async16(q.place + r * (CHUNK_BYTES / 2), l.from[r] + chunk * CHUNK_ROW_BYTES);
    copy_async_commit();
}

/* This thread's 16 bytes of both rows of the next chunk. */
template <int N_CHUNKS>
__device__ __forceinline__ void read_chunk(const chunk_queue<N_CHUNKS> &q, uint4 (&words)[2])
{
    copy_async_wait<N_CHUNKS - 1>();
    words[0] = load_shared16(q.place);
    words[1] = load_shared16(q.place + CHUNK_BYTES / 2);
}

/*
 * `words` have been read: asks for the chunk that their place has to hold next, and reads the chunk behind them. A
 * thread's reads and copies meet shared memory in their order.
 */
template <int N_CHUNKS>
__device__ __forceinline__ void next_chunk(const row_stream &l, chunk_queue<N_CHUNKS> &q, int chunk,
                                           uint4 (&words)[2])
{
    ask_for_chunk(l, q, chunk);
    q.place = next_place(q);
    read_chunk(q, words);
}

/* The first block's first chunks are asked for; find_ahead and read_chunk follow. memory: CHUNK_BYTES for each of N_CHUNKS. */
template <int N_CHUNKS>
__device__ __forceinline__ chunk_queue<N_CHUNKS> begin_queue(const row_stream &l,
                                                             unsigned char *memory)
{
    chunk_queue<N_CHUNKS> q;
    q.first_place = shared_address(memory) + threadIdx.x % WARPGROUP * 16;
    q.place = q.first_place;
#pragma unroll 1
    for (int i = 0; i < N_CHUNKS; i++) {
        ask_for_chunk(l, q, i);
        q.place = next_place(q);
    }
    return q;
}

/* ---- conversion ---- */

/*
 * A row lies in f16 as its values times 2^-m. m follows from the largest of its seven scales, in such a way that codes end
 * at 448 * 2^EXPONENT_ROOM, and that rotated values may be 18 times as large. Codes are exact where their group's scale is
 * at least 2^-18 of the largest, and within 2^-13 of the largest code of a group at 2^-23; rotated values are exact down
 * to 2^-17 * 2^m. A row whose scales or rotated values go further is odd, and so is one whose m leaves the range in which
 * probabilities times 2^-m are f32 numbers: the part is then computed again (attn_plain.cuh). In biased numbers:
 */
enum {
    BIAS = 127,
    EXPONENT_ROOM = 3,          /* powers of two that codes are raised by */
    LEAST_EXPONENT = BIAS - 50, /* of m */
    MOST_EXPONENT = BIAS + 20,
    LEAST_SCALE = -20,   /* of a group's, over m */
    MOST_ROTATED = 15,   /* exponent of a rotated value, over m: f16 ends at 2^16 */
    LEAST_ROTATED = -12, /* the same of the largest of a thread's, if they are not all 0 */
    SCALE_OF_NONE = 0x01010101 * BIAS, /* four scales of no row */
    FACTOR_BIAS = 23,                  /* of factor bytes, 15 of f16 and FACTOR_SHIFT */
    FACTOR_SHIFT = 8,
    TWO_TO_MINUS_SHIFT = 0x1c001c00, /* 2^-FACTOR_SHIFT twice, in f16 */
};

/*
 * Probabilities with m are 2^FIRST_PASS at most where a reference has just been set, and 2^MOST_PASS at most later. What
 * is below 2^-24 of 1 is none in f16; below 2^-126 it is not in the sum either, where it counts 2^-m: no more than
 * 2^(50 - 126), while the largest counts 2^(FIRST_PASS - 20) or more.
 */
#define FIRST_PASS 8.0f
#define MOST_PASS  15.0f
#define MOST_PROBS 32768.0f /* 2^MOST_PASS, of some together */

/* 1 / power, of a row_exponent. */
__device__ __forceinline__ float inverse_power(float power)
{
    return __uint_as_float((2 * BIAS << 23) - __float_as_uint(power));
}

/* This thread's two rows of a block. */
struct key_pair {
    uint2 factors[2];    /* a byte for each group: 2^(its scale - m), in the upper half of an f16 */
    uint32_t info[2];    /* a row_info */
    uint32_t rotated[2]; /* largest magnitudes, by halves */
    uint32_t nan[2];     /* of joined lists: bits where a code is NaN */
    uint32_t unusual;    /* of the warp's rows, as row_marks has it */
};

/* m as a biased number; from bit 8 on who names the row; whether its scales are odd. */
enum { INFO_NAMED = 8, INFO_ODD = 1 << 12 };

/* Of the lane's own row. scales: become its factors. */
__device__ __forceinline__ uint32_t summarize_row(const found_row &row, uint2 &scales)
{
    const bool is_row = (row.address & IS_ROW) != 0;
    const uint32_t x = is_row ? row.scales.x : (uint32_t)SCALE_OF_NONE;
    const uint32_t y = is_row ? row.scales.y : (uint32_t)SCALE_OF_NONE;
    const uint32_t x_even = x & 0x00ff00ffu, x_odd = (x >> 8) & 0x00ff00ffu;
    const uint32_t y_even = y & 0x00ff00ffu, y_odd = (y >> 8) & 0x000000ffu; /* the last is none */
    const uint32_t most = largest_u16x2(largest_u16x2(x_even, x_odd, y_even), y_odd, 0);
    const uint32_t least =
        smallest_u16x2(smallest_u16x2(x_even, x_odd, y_even), y_odd | 0x00ff0000u, 0x00ff00ffu);
    const int largest = (int)max(most & 0xffff, most >> 16) - EXPONENT_ROOM;
    const int smallest = (int)min(least & 0xffff, least >> 16);
    const int m = max(largest, (int)LEAST_EXPONENT);
    const bool is_odd = is_row && (smallest < m + LEAST_SCALE || m > MOST_EXPONENT);
    const uint32_t less = (uint32_t)(m - FACTOR_BIAS) * 0x01010101u;
    scales = make_uint2((x - less) << 2, (y - less) << 2);
    return (uint32_t)m | ((uint32_t)row.address & NAMED) << INFO_NAMED | (is_odd ? INFO_ODD : 0);
}

__device__ __forceinline__ uint32_t biased_exponent(uint32_t info)
{
    return info & 0xff;
}

/* Tells the head warps what is known of the lane's own row. -> the warp's word of marks.unusual */
template <class PART>
__device__ __forceinline__ uint32_t mark_own_row(uint32_t info, row_marks &marks)
{
    const int warp = threadIdx.x % WARPGROUP / 32, lane = threadIdx.x % 32;
    const uint32_t m = biased_exponent(info), named = info >> INFO_NAMED & NAMED;
    if (lane < 16)
        marks.exponents[16 * warp + lane] = {__uint_as_float(m << 23), (float)((int)m - BIAS)};
    if constexpr (is_joined<PART>) {
#pragma unroll
        for (int query = 0; query < ATTN_JOIN_MAX_QUERIES; query++) {
            const uint32_t bits = __ballot_sync(0xffffffffu, (named >> query & 1) != 0);
            if (lane == 0) marks.named[query][warp] = bits;
        }
    }
    const uint32_t all = is_joined<PART> ? (uint32_t)NAMED : 1;
    return __ballot_sync(0xffffffffu, named != all) & 0xffffu;
}

/* Of the block that is asked for, whose marks may be written. */
template <class PART>
__device__ __forceinline__ key_pair begin_keys(const row_stream &l, row_marks &marks)
{
    key_pair keys;
    uint2 own;
    const uint32_t info = summarize_row(l.asked, own);
    keys.unusual = mark_own_row<PART>(info, marks);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        keys.factors[r].x = __shfl_sync(0xffffffffu, own.x, finder_lane(r));
        keys.factors[r].y = __shfl_sync(0xffffffffu, own.y, finder_lane(r));
        keys.info[r] = __shfl_sync(0xffffffffu, info, finder_lane(r));
        keys.rotated[r] = 0;
        keys.nan[r] = 0;
    }
    return keys;
}

/* 2^(scale - m) of a group, twice. */
__device__ __forceinline__ uint32_t group_factor(const key_pair &keys, int r, int group)
{
    const uint32_t bytes = group < 4 ? keys.factors[r].x : keys.factors[r].y;
    return multiply_f16x2(__byte_perm(bytes, 0, 0x0404 + group % 4 * 0x1010), TWO_TO_MINUS_SHIFT);
}

/* Where a thread stores 16 bytes of row r of two: chunk `chunk` of a group. values: of its first row in the group. */
__device__ __forceinline__ uint32_t value_chunk(uint32_t values, int r, int chunk)
{
    return values + r * 8 * 128 + ((chunk ^ (threadIdx.x % 32 / 4)) << 4);
}

/* NaN codes become 0, since a value that does not count for all must be finite; marks them in nan. */
__device__ __forceinline__ void drop_nan_codes(uint4 &words, uint32_t &nan)
{
    uint32_t *const all[4] = {&words.x, &words.y, &words.z, &words.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t bits = ((*all[i] & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u;
        nan |= bits;
        *all[i] &= ~((bits >> 7) * 0xffu);
    }
}

/* Sixteen codes of each row, in their order, as values of a group; values: of the thread's first row there. */
template <class PART>
__device__ __forceinline__ void store_codes(key_pair &keys, const uint4 (&words)[2],
                                            uint32_t values, int group)
{
    const int quarter = threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint32_t factor = group_factor(keys, r, group);
        uint4 codes = words[r];
        uint32_t pairs[8];
        if constexpr (is_joined<PART>) drop_nan_codes(codes, keys.nan[r]);
        codes_to_f16(codes.x, pairs[0], pairs[1]);
        codes_to_f16(codes.y, pairs[2], pairs[3]);
        codes_to_f16(codes.z, pairs[4], pairs[5]);
        codes_to_f16(codes.w, pairs[6], pairs[7]);
#pragma unroll
        for (int i = 0; i < 8; i++) pairs[i] = multiply_f16x2(pairs[i], factor);
        store_shared16(value_chunk(values, r, 2 * quarter),
                       make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
        store_shared16(value_chunk(values, r, 2 * quarter + 1),
                       make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]));
    }
}

/* A pair of bf16 times a power of two, which is there twice, as f16. */
__device__ __forceinline__ uint32_t scale_pair(uint32_t pair, uint32_t factor)
{
    const uint32_t product = multiply_bf16x2(pair, factor);
    return to_f16_pair(low_to_f32(product), high_to_f32(product));
}

__device__ __forceinline__ uint4 scale_eight(const uint4 &w, uint32_t factor)
{
    return make_uint4(scale_pair(w.x, factor), scale_pair(w.y, factor), scale_pair(w.z, factor),
                      scale_pair(w.w, factor));
}

/* The power of two with this biased exponent, twice. */
__device__ __forceinline__ uint32_t bf16_power(uint32_t exponent)
{
    return exponent * 0x00800080u;
}

/* The largest magnitudes of eight bf16 and `largest`, by halves. */
__device__ __forceinline__ uint32_t largest_of_eight(const uint4 &words, uint32_t largest)
{
    largest = largest_u16x2(largest, words.x & 0x7fff7fffu, words.y & 0x7fff7fffu);
    return largest_u16x2(largest, words.z & 0x7fff7fffu, words.w & 0x7fff7fffu);
}

/* Eight rotated dimensions of each row; half: of the group. */
__device__ __forceinline__ void store_rotated(key_pair &keys, const uint4 (&words)[2],
                                              uint32_t values, int half)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint32_t factor = bf16_power(2 * BIAS - biased_exponent(keys.info[r]));
        keys.rotated[r] = largest_of_eight(words[r], keys.rotated[r]);
        store_shared16(value_chunk(values, r, 4 * half + threadIdx.x % 4),
                       scale_eight(words[r], factor));
    }
}

/* Whether f16 has no room for row r of two. */
__device__ __forceinline__ bool is_odd_row(const key_pair &keys, int r)
{
    const uint32_t largest = max(keys.rotated[r] & 0xffff, keys.rotated[r] >> 16);
    const uint32_t m = biased_exponent(keys.info[r]);
    const uint32_t least = (uint32_t)((int)m + LEAST_ROTATED) << 7;
    const uint32_t end = (m + MOST_ROTATED + 1) << 7;
    return ((keys.info[r] & INFO_ODD) != 0) |
           ((largest != 0) & ((largest < least) | (largest >= end)));
}

/* What only the conversion has shown, for the head warps. */
template <class PART>
__device__ __forceinline__ void mark_rows(const key_pair &keys, row_marks &marks)
{
    const int warp = threadIdx.x % WARPGROUP / 32, lane = threadIdx.x % 32;
    const bool is_odd = __any_sync(0xffffffffu, is_odd_row(keys, 0) || is_odd_row(keys, 1));
    if (lane == 0) marks.unusual[warp] = keys.unusual | (is_odd ? IS_ODD : 0);
    if constexpr (is_joined<PART>) {
        __syncwarp(); /* begin_keys has stored its numbers */
#pragma unroll
        for (int r = 0; r < 2; r++)
            if (keys.nan[r] != 0) marks.exponents[16 * warp + lane / 4 + 8 * r].log2 = NAN;
    }
}

/* Makes what this thread has stored a matrix operand, with what the others store. */
__device__ __forceinline__ void pass_on(uint64_t &barrier)
{
    fence_async_shared();
    barrier_arrive(shared_address(&barrier));
}

/* Of the thread's first row in a block of values. */
__device__ __forceinline__ uint32_t value_row(unsigned char *block)
{
    return shared_address(block) + (threadIdx.x % WARPGROUP / 32 * 16 + threadIdx.x % 32 / 4) * 128;
}

/* ---- queries ---- */

/*
 * A warp has a query at a time: a lane 16 bytes of each half of the dimensions. Where the first are; q_memory: N_DIM_GROUPS
 * groups of [HEADS] rows.
 */
template <int HEADS> __device__ __forceinline__ uint32_t query_place(unsigned char *q_memory, int h)
{
    const int lane = threadIdx.x % 32;
    return shared_address(q_memory) + lane / 8 * (HEADS * 128) + h * 128 +
           ((lane % 8 ^ h % 8) << 4);
}

/* Begins to copy a part's queries, zeros behind the last head, by a warpgroup. */
template <int HEADS, class PART>
__device__ __forceinline__ void ask_for_queries(const attn_args &a, const PART &p,
                                                unsigned char *q_memory)
{
    const int warp = threadIdx.x % WARPGROUP / 32, lane = threadIdx.x % 32;
    const char *q = a.q + p.request * a.q_request_stride_bytes +
                    part_query(p) * a.q_query_stride_bytes + lane * 16;
#pragma unroll 2
    for (int h = warp; h < HEADS; h += N_WARPGROUP_WARPS) {
        const int head = part_first_head(p, HEADS) + h;
        const bool is_real = head < count_heads(a, p);
        const char *from = is_real ? q + query_bytes(a, p, head) : (const char *)zero_row();
        const char *from_high = is_real ? from + HALF_DIMS * sizeof(uint16_t) : from;
        const uint32_t place = query_place<HEADS>(q_memory, h);
        const uint32_t high = place + N_HALF_GROUPS * HEADS * 128;
        if (a.q_is_aligned) {
            copy_async16(place, from);
            copy_async16(high, from_high);
        } else {
            store_shared16(place, load_unaligned16(from));
            store_shared16(high, load_unaligned16(from_high));
        }
    }
    copy_async_commit();
}

/*
 * Makes f16 of queries that have come, in their places: a head times 2^-e, so that its largest value has the exponent
 * QUERY_EXPONENT. What is below 2^-32 of that loses bits, and counts as 0 below 2^-40. By n_warps warps, this is one of
 * them; a barrier follows. factors [HEADS]: softmax_scale * log2(e) * 2^e; NaN where a query is not finite, which every
 * score then is.
 */
enum { QUERY_EXPONENT = 14, LEAST_QUERY = QUERY_EXPONENT + 1 /* that 2^e is a normal number */ };

template <int HEADS>
__device__ __forceinline__ void convert_queries(const attn_args &a, unsigned char *q_memory,
                                                float *factors, int warp, int n_warps)
{
    const int lane = threadIdx.x % 32;
#pragma unroll 2
    for (int h = warp; h < HEADS; h += n_warps) {
        const uint32_t place = query_place<HEADS>(q_memory, h);
        const uint32_t half = N_HALF_GROUPS * HEADS * 128;
        const uint4 low = load_shared16(place), high = load_shared16(place + half);
        const uint32_t pair = largest_of_eight(high, largest_of_eight(low, 0));
        const uint32_t largest = largest_of_warp(max(pair & 0xffff, pair >> 16)) >> 7;
        const uint32_t exponent = max(largest, (uint32_t)LEAST_QUERY);
        const uint32_t factor = bf16_power(2 * BIAS + QUERY_EXPONENT - exponent);
        store_shared16(place, scale_eight(low, factor));
        store_shared16(place + half, scale_eight(high, factor));
        if (lane == 0)
            factors[h] = largest == 255
                             ? NAN
                             : a.scale_log2 * __uint_as_float((exponent - QUERY_EXPONENT) << 23);
    }
}

/* Brings the queries of a part to the second-level cache; by a warpgroup. */
template <class PART, int HEADS>
__device__ __forceinline__ void prefetch_queries(const attn_args &a, int32_t rank, int32_t n_ranks)
{
    if (rank >= n_ranks || !a.q_is_aligned) return;
    const PART p = read_part<PART>(a, rank);
    const int h = threadIdx.x % WARPGROUP, head = part_first_head(p, HEADS) + h;
    if (h < HEADS && head < count_heads(a, p)) {
        prefetch_bytes_l2(a.q + p.request * a.q_request_stride_bytes +
                              part_query(p) * a.q_query_stride_bytes + query_bytes(a, p, head),
                          DIM * (uint32_t)sizeof(uint16_t));
    }
}

__device__ __forceinline__ uint32_t count_blocks(const attn_part &p)
{
    return (uint32_t)(p.end_block - p.first_block);
}

#endif
