/*
 * attn_sm90_loads.cuh - rows of the cache: found by the value warps, brought by the key warps.
 *
 * Place: cuda, sm_90a only; part of attn_sm90.cu, which describes the kernel.
 *
 * The value warps, which have time, walk through the lists four blocks ahead: they find the rows, bring them to the
 * second-level cache and leave their addresses for the streams. Indices come by asynchronous copies, a block ahead: a
 * register that waits for memory would make its warp wait with everything that shares its scoreboard.
 *
 * Every thread of a stream brings what it alone will convert: of two rows of a block, 16 bytes of each 64 (a chunk), by
 * asynchronous copies into its own places of a short queue in shared memory. So rows need neither barriers nor
 * registers on their way. A place is asked for again when it has been read, across blocks and parts.
 */
#ifndef DSV4_CUDA_ATTN_SM90_LOADS_CUH
#define DSV4_CUDA_ATTN_SM90_LOADS_CUH

#include "attn_sm90_shared.cuh"

/* ---- finding, by the value warps: four threads a row ---- */

enum { BLOCKS_AHEAD = N_STREAMS * N_ROW_PLACES };

/* One row of the next block of which the indices are on their way. */
struct row_finder {
    list_cursor lists;
    uint32_t n_found; /* blocks */
    bool is_listed, is_extra;
};

__device__ __forceinline__ int found_row(void)
{
    return (threadIdx.x - N_KEY_THREADS) / 4;
}

/* Begins to read the indices of block `number`. */
template <class PART, int HEADS>
__device__ __forceinline__ void read_indices(const attn_args &a, row_finder &f, uint32_t number,
                                             shared_memory<HEADS> &s)
{
    f.is_listed = false;
    if (seek_entries<PART>(a, f.lists)) {
        const int32_t *source = find_entry(f.lists, found_row(), f.is_extra);
        f.is_listed = source != NULL;
        if (threadIdx.x % 4 == 0 && f.is_listed)
            copy_async4(shared_address(&s.slots[number % 2][found_row()]), source);
        f.lists.entry += KEYS;
    }
    copy_async_commit();
}

/* A row as the key warps get it: its address, and the queries that name it in bits that are 0 there. */
template <class PART>
__device__ __forceinline__ uint64_t pack_row(const attn_args &a, uint32_t entry, bool is_extra,
                                             bool is_listed, key_row &row)
{
    if constexpr (is_joined<PART>) {
        uint32_t queries;
        row = locate_joined(a, entry, is_extra, is_listed, queries);
        return (uint64_t)row.codes | queries;
    } else {
        row = locate_row(a, entry, is_extra, is_listed);
        return (uint64_t)row.codes | row.is_valid;
    }
}

/* The next block's rows, of zeros behind the last block; its place must be free. */
template <class PART, int HEADS>
__device__ __forceinline__ void find_rows(const attn_args &a, row_finder &f,
                                          shared_memory<HEADS> &s)
{
    const int quarter = threadIdx.x % 4, row = found_row();
    const uint32_t number = f.n_found++, stream = number % 2,
                   place = number / N_STREAMS % N_ROW_PLACES;
    const bool is_listed = f.is_listed, is_extra = f.is_extra;
    read_indices<PART, HEADS>(a, f, number + 1, s);
    /* this block's indices; not the scales before and the indices behind, unless sinks were asked for since */
    copy_async_wait<2>();
    __syncwarp();
    key_row found;
    const uint64_t packed = pack_row<PART>(a, s.slots[number % 2][row], is_extra, is_listed, found);
    const uint32_t barrier = shared_address(&s.found[stream][place]);
    if (quarter == 0) {
        if (found.is_valid) prefetch_bytes_l2(found.codes, ROW_BYTES);
        s.rows[stream][place][row] = packed;
        copy_async8(shared_address(&s.scales[stream][place][row * SCALE_BYTES]), found.scales);
        copy_async_arrive(barrier);
    }
    copy_async_commit();
    barrier_arrive_warp(barrier);
}

template <class PART, int HEADS>
__device__ __forceinline__ row_finder begin_finding(const attn_args &a, shared_memory<HEADS> &s)
{
    row_finder f = {};
    f.lists = begin_lists(a);
    read_indices<PART, HEADS>(a, f, 0, s);
    copy_async_commit(); /* in the place of scales, for find_rows' count */
#pragma unroll 1
    for (int i = 0; i < BLOCKS_AHEAD; i++) find_rows<PART, HEADS>(a, f, s);
    return f;
}

/* ---- bringing, by the key warps: four threads a row, two rows a thread ---- */

template <class PART, int HEADS> struct row_queue {
    static constexpr int n_places = shared_memory<HEADS>::n_chunks;
    static constexpr int n_bits = is_joined<PART> ? ATTN_JOIN_MAX_QUERIES : 1;
    const unsigned char *from[2]; /* chunk 0 of the rows that are asked for */
    uint32_t is_valid; /* bits r * n_bits on: that lists name row r of them, or which queries */
    uint32_t places[n_places]; /* shared addresses: chunk k of this block has place k % n_places */
};

/* The row of a block that is this thread's first; the other is 8 rows on. */
__device__ __forceinline__ int first_row(void)
{
    return threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
}

/* Goes on to the rows of a stream's block `number`, counted in the stream. */
template <class PART, int HEADS>
__device__ __forceinline__ void next_rows(row_queue<PART, HEADS> &l, int stream, uint32_t number,
                                          shared_memory<HEADS> &s)
{
    const uint32_t place = number % N_ROW_PLACES;
    barrier_wait(shared_address(&s.found[stream][place]), number / N_ROW_PLACES & 1);
    l.is_valid = 0;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint64_t row = s.rows[stream][place][first_row() + 8 * r];
        constexpr int bits = (1 << row_queue<PART, HEADS>::n_bits) - 1;
        l.is_valid |= (uint32_t)(row & bits) << r * l.n_bits;
        l.from[r] = (const unsigned char *)(row - (row & bits)) + threadIdx.x % 4 * 16;
    }
}

/* Asks for chunk k of a block; the rows are those of the block that it belongs to. */
template <class PART, int HEADS>
__device__ __forceinline__ void ask_for_chunk(const row_queue<PART, HEADS> &l, int k)
{
    const uint32_t place = l.places[k % l.n_places];
    const int chunk = k % N_ROW_CHUNKS;
#pragma unroll
    for (int r = 0; r < 2; r++)
        copy_async16(place + r * (CHUNK_BYTES / 2), l.from[r] + chunk * CHUNK_ROW_BYTES);
    copy_async_commit();
}

/* This thread's 16 bytes of both rows of chunk k of a block. */
template <class PART, int HEADS>
__device__ __forceinline__ void read_chunk(const row_queue<PART, HEADS> &l, int k,
                                           uint4 (&words)[2])
{
    copy_async_wait<shared_memory<HEADS>::n_chunks - 1>();
    words[0] = load_shared16(l.places[k % l.n_places]);
    words[1] = load_shared16(l.places[k % l.n_places] + CHUNK_BYTES / 2);
}

/*
 * The place of chunk K of a block has been read: asks for what it has to hold next. A thread's reads and copies meet
 * shared memory in their order.
 */
template <int K, class PART, int HEADS>
__device__ __forceinline__ void replace_chunk(row_queue<PART, HEADS> &l, int stream,
                                              uint32_t number, shared_memory<HEADS> &s)
{
    if (K + l.n_places == N_ROW_CHUNKS) next_rows(l, stream, number + 1, s);
    ask_for_chunk(l, K + l.n_places);
}

/* The next block's chunks begin where this one's have ended. */
template <class PART, int HEADS>
__device__ __forceinline__ void turn_places(row_queue<PART, HEADS> &l)
{
    static_assert(N_ROW_CHUNKS % row_queue<PART, HEADS>::n_places == 1, "one place on");
    const uint32_t first = l.places[0];
#pragma unroll
    for (int i = 0; i + 1 < l.n_places; i++) l.places[i] = l.places[i + 1];
    l.places[l.n_places - 1] = first;
}

/* The first block's rows. */
template <class PART, int HEADS>
__device__ __forceinline__ row_queue<PART, HEADS> begin_rows(int stream, shared_memory<HEADS> &s)
{
    row_queue<PART, HEADS> l;
    next_rows(l, stream, 0, s);
#pragma unroll
    for (int i = 0; i < l.n_places; i++) {
        l.places[i] = shared_address(s.chunks[stream][i]) + threadIdx.x % WARPGROUP * 16;
        ask_for_chunk(l, i);
    }
    return l;
}

#endif
