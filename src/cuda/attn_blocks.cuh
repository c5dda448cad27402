/*
 * attn_blocks.cuh - from index lists to blocks of bf16 values in shared memory, and queries: what row warps do.
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
#include "wgmma.cuh"

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

/* Of a block's rows, by the ballots of the row warps: bits 4 * i .. 4 * i + 3 of word w are of row 8 * w + i. */
struct row_marks {
    uint32_t unusual[KEYS / 8]; /* does not count for all, or has a NaN code */
    uint32_t nan[KEYS / 8];
    uint32_t named[KEYS / 8]; /* of joined lists: the queries that name the row */
};

/* ---- finding: a lane has a row ---- */

struct row_finder {
    list_cursor lists;
    int32_t slot; /* of the next block's row, if it is listed; on its way */
    bool is_listed, is_extra;
};

struct found_row {
    uint64_t
        address; /* bit 0: a list names the row; of joined lists, NAMED bits: which queries do */
    uint2 scales;
};

enum { NAMED = ATTN_JOIN_ALL };

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
    const int32_t *source = find_entry(f.lists, row, f.is_extra);
    f.is_listed = source != NULL;
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
    return {(uint64_t)row.codes | named, __ldg((const uint2 *)row.scales)};
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
        l.from[r] = (const unsigned char *)(row & ~(uint64_t)NAMED) + threadIdx.x % 4 * 16;
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
    uint32_t first_place, ask_place, read_place; /* shared addresses of this thread's 16 bytes */
};

template <int N_CHUNKS>
__device__ __forceinline__ uint32_t next_place(const chunk_queue<N_CHUNKS> &q, uint32_t place)
{
    const uint32_t last = q.first_place + (N_CHUNKS - 1) * CHUNK_BYTES;
    return place == last ? q.first_place : place + CHUNK_BYTES;
}

/* The next chunk of the rows that are asked for. */
template <int N_CHUNKS>
__device__ __forceinline__ void ask_for_chunk(row_stream &l, chunk_queue<N_CHUNKS> &q)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        copy_async16(q.ask_place + r * (CHUNK_BYTES / 2), l.from[r]);
        l.from[r] += CHUNK_ROW_BYTES;
    }
    copy_async_commit();
    q.ask_place = next_place(q, q.ask_place);
}

/* This thread's 16 bytes of both rows of the next chunk. */
template <int N_CHUNKS>
__device__ __forceinline__ void read_chunk(chunk_queue<N_CHUNKS> &q, uint4 (&words)[2])
{
    copy_async_wait<N_CHUNKS - 1>();
    words[0] = load_shared16(q.read_place);
    words[1] = load_shared16(q.read_place + CHUNK_BYTES / 2);
    q.read_place = next_place(q, q.read_place);
}

/*
 * `words` have been read: asks for what their place has to hold next, and reads the chunk behind them. A thread's reads
 * and copies meet shared memory in their order.
 */
template <int N_CHUNKS>
__device__ __forceinline__ void next_chunk(row_stream &l, chunk_queue<N_CHUNKS> &q,
                                           uint4 (&words)[2])
{
    ask_for_chunk(l, q);
    read_chunk(q, words);
}

/* The first block's first chunks are asked for; find_ahead and read_chunk follow. memory: CHUNK_BYTES for each of N_CHUNKS. */
template <int N_CHUNKS>
__device__ __forceinline__ chunk_queue<N_CHUNKS> begin_queue(row_stream &l, unsigned char *memory)
{
    chunk_queue<N_CHUNKS> q;
    q.first_place = shared_address(memory) + threadIdx.x % WARPGROUP * 16;
    q.ask_place = q.first_place;
    q.read_place = q.first_place;
#pragma unroll 1
    for (int i = 0; i < N_CHUNKS; i++) ask_for_chunk(l, q);
    return q;
}

/* ---- conversion ---- */

/* This thread's two rows of a block. */
struct key_pair {
    uint64_t scales[2];  /* bytes of the groups, this one's first */
    uint32_t largest[2]; /* magnitudes of codes */
    uint32_t named[2];   /* bit 0, or of joined lists bits: counts for a query */
    bool has_big;        /* any row of the warp has a scale above BIG_SCALE */
};

/* Of the block that is asked for. */
__device__ __forceinline__ key_pair begin_keys(const row_stream &l)
{
    key_pair keys;
    uint32_t over = 0;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint32_t low = __shfl_sync(0xffffffffu, l.asked.scales.x, finder_lane(r));
        const uint32_t high = __shfl_sync(0xffffffffu, l.asked.scales.y, finder_lane(r));
        keys.scales[r] = (uint64_t)high << 32 | low;
        keys.named[r] = __shfl_sync(0xffffffffu, (uint32_t)l.asked.address, finder_lane(r)) & NAMED;
        keys.largest[r] = 0;
        over |= __vcmpgtu4(low, 0x01010101u * BIG_SCALE) |
                (__vcmpgtu4(high, 0x01010101u * BIG_SCALE) & 0x00ffffffu);
    }
    keys.has_big = __any_sync(0xffffffffu, over != 0);
    return keys;
}

/* Where a thread stores 16 bytes of row r of two: chunk `chunk` of a group. values: of its first row in the group. */
__device__ __forceinline__ uint32_t value_chunk(uint32_t values, int r, int chunk)
{
    return values + r * 8 * 128 + ((chunk ^ (threadIdx.x % 32 / 4)) << 4);
}

/* Sixteen codes of each row, in their order, as values. */
__device__ __forceinline__ void store_codes(key_pair &keys, const uint4 (&words)[2],
                                            uint32_t values)
{
    const int quarter = threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint32_t byte = (uint32_t)keys.scales[r] & 0xff;
        const uint32_t factor = scale_factor(min(byte, (uint32_t)BIG_SCALE));
        uint32_t pairs[8];
        convert_ordered(words[r].x, factor, pairs[0], pairs[1], keys.largest[r]);
        convert_ordered(words[r].y, factor, pairs[2], pairs[3], keys.largest[r]);
        convert_ordered(words[r].z, factor, pairs[4], pairs[5], keys.largest[r]);
        convert_ordered(words[r].w, factor, pairs[6], pairs[7], keys.largest[r]);
        if (keys.has_big) {
#pragma unroll
            for (int i = 0; i < 8; i++) pairs[i] = multiply_bf16x2(pairs[i], second_factor(byte));
        }
        keys.scales[r] >>= 8;
        store_shared16(value_chunk(values, r, 2 * quarter),
                       make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
        store_shared16(value_chunk(values, r, 2 * quarter + 1),
                       make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]));
    }
}

/* Eight rotated dimensions of each row, which need no conversion; half: of the group. */
__device__ __forceinline__ void store_rotated(const uint4 (&words)[2], uint32_t values, int half)
{
#pragma unroll
    for (int r = 0; r < 2; r++)
        store_shared16(value_chunk(values, r, 4 * half + threadIdx.x % 4), words[r]);
}

/* For the head warps. */
template <class PART>
__device__ __forceinline__ void mark_rows(const key_pair &keys, row_marks &marks)
{
    const int warp = threadIdx.x % WARPGROUP / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const bool is_nan = is_nan_row(keys.largest[r]);
        const uint32_t all = is_joined<PART> ? (uint32_t)NAMED : 1;
        const uint32_t nan = __ballot_sync(0xffffffffu, is_nan);
        const uint32_t unusual = __ballot_sync(0xffffffffu, is_nan || keys.named[r] != all);
        if (lane == 0) {
            marks.unusual[2 * warp + r] = unusual;
            marks.nan[2 * warp + r] = nan;
        }
        if constexpr (is_joined<PART>) { /* four lanes have a row, and four queries a bit each */
            const uint32_t named = __ballot_sync(0xffffffffu, (keys.named[r] >> lane % 4 & 1) != 0);
            if (lane == 0) marks.named[2 * warp + r] = named;
        }
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
 * Begins to copy a part's queries, zeros behind the last head, by a warpgroup: 64 threads have a head at a time.
 * q_memory: N_DIM_GROUPS groups of [HEADS] rows.
 */
template <int HEADS, class PART>
__device__ __forceinline__ void ask_for_queries(const attn_args &a, const PART &p,
                                                unsigned char *q_memory)
{
    const int thread = threadIdx.x % WARPGROUP, column = thread % 64;
    const char *q = a.q + p.request * a.q_request_stride_bytes +
                    part_query(p) * a.q_query_stride_bytes + column * 16;
    const uint32_t to = shared_address(q_memory) + column / 8 * (HEADS * 128);
#pragma unroll 4
    for (int h = thread / 64; h < HEADS; h += WARPGROUP / 64) {
        const int head = part_first_head(p, HEADS) + h;
        const char *from =
            head < count_heads(a, p) ? q + query_bytes(a, p, head) : (const char *)zero_row();
        const uint32_t place = to + h * 128 + ((column % 8 ^ h % 8) << 4);
        if (a.q_is_aligned) {
            copy_async16(place, from);
        } else {
            store_shared16(place, load_unaligned16(from));
        }
    }
    copy_async_commit();
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
