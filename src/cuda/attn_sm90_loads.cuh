/*
 * attn_sm90_loads.cuh - bringing rows of the cache to shared memory.
 *
 * Place: cuda, sm_90a only; part of attn_sm90.cu, which describes the kernel. The value warps load, because they know
 * first when a place is free and have little else to do: each warpgroup its half of the dimensions, four threads a
 * row, two rows a thread.
 *
 * Indices come by asynchronous copies too, a block before they are used: a register that waits for memory would make
 * its warp wait with everything that happens to share its scoreboard.
 */
#ifndef DSV4_CUDA_ATTN_SM90_LOADS_CUH
#define DSV4_CUDA_ATTN_SM90_LOADS_CUH

#include "attn_sm90_shared.cuh"

struct row_loader {
    list_cursor lists;
    uint32_t n_blocks; /* prepared so far */
    bool has_next, is_listed[2], is_extra[2];
    bool has_rows; /* of a block that was prepared and not loaded yet: */
    const unsigned char *codes[2];
    int32_t scales[2]; /* bytes behind them */
    bool is_valid[2];
};

/* Where 16 codes of a row wait for their conversion: in the row's 128 bytes, so that two rows fill all banks. */
__device__ __forceinline__ uint32_t code_offset(int row, int quarter)
{
    return row * 128 + quarter * 16 + row % 2 * 64;
}

/* Begins to read the indices of the next block. */
template <int HEADS>
__device__ __forceinline__ void next_rows(const attn_args &a, row_loader &l, int half,
                                          shared_memory<HEADS> &s)
{
    const int thread = threadIdx.x % WARPGROUP;
    l.has_next = seek_entries(a, l.lists);
    if (l.has_next) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = thread / 4 + 32 * r;
            const int32_t *source = find_entry(l.lists, row, l.is_extra[r]);
            l.is_listed[r] = source != NULL;
            if (thread % 4 == r && source != NULL)
                copy_async4(shared_address(&s.slots[half][l.n_blocks % 2][row]), source);
        }
        l.lists.entry += KEYS;
    }
    copy_async_commit();
}

/* Finds the rows of the next block, if there is one, and brings them to the second-level cache. */
template <int HEADS>
__device__ __forceinline__ void prepare_block(const attn_args &a, row_loader &l, int half,
                                              shared_memory<HEADS> &s)
{
    const int thread = threadIdx.x % WARPGROUP, quarter = thread % 4, place = l.n_blocks % 2;
    l.has_rows = l.has_next;
    if (!l.has_next) return;
    /* the last block's rows may still be on their way, not the indices before them */
    copy_async_wait<1>();
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const key_row row =
            locate_row(a, s.slots[half][place][thread / 4 + 32 * r], l.is_extra[r], l.is_listed[r]);
        l.codes[r] = row.codes + half * N_HALF_GROUPS * 64;
        l.scales[r] = (int32_t)(row.scales - l.codes[r]);
        l.is_valid[r] = row.is_valid;
        prefetch_l2(l.codes[r] + quarter * 64);
        if (half == 1 && quarter == 0) prefetch_l2(l.codes[r] + 4 * 64);
    }
    l.n_blocks++;
    next_rows<HEADS>(a, l, half, s);
}

/* Begins to bring groups FIRST and FIRST + 1 of the half of the block that was prepared; their place must be free. */
template <int HEADS, int FIRST>
__device__ __forceinline__ void load_groups(const row_loader &l, int half, shared_memory<HEADS> &s)
{
    if (!l.has_rows) return;
    const int thread = threadIdx.x % WARPGROUP, quarter = thread % 4, place = (l.n_blocks - 1) % 2;
    const uint32_t values =
        shared_address(s.values[place]) + (half * N_HALF_GROUPS + FIRST) * GROUP_BYTES;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = thread / 4 + 32 * r;
        const unsigned char *codes = l.codes[r] + FIRST * 64 + quarter * 16;
        const uint32_t to = values + code_offset(row, quarter);
        copy_async16(to, codes);
        if (FIRST == 0 || half == 0) {
            copy_async16(to + GROUP_BYTES, codes + 64);
        } else { /* rotated values need no conversion */
            const uint32_t rotated = values + GROUP_BYTES + row * 128;
            copy_async16(rotated + ((quarter ^ row % 8) << 4), codes + 64);
            copy_async16(rotated + (((quarter + 4) ^ row % 8) << 4), codes + 2 * 64);
        }
    }
}

/* The rest of a block: scales, and the word that the rows are complete. */
template <int HEADS>
__device__ __forceinline__ void finish_block(const row_loader &l, int half, shared_memory<HEADS> &s)
{
    if (!l.has_rows) return;
    const int thread = threadIdx.x % WARPGROUP, place = (l.n_blocks - 1) % 2;
    const uint32_t full = shared_address(&s.rows_full[place]);
    if (half == 0) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint32_t valid = __ballot_sync(0xffffffffu, l.is_valid[r]);
            if (thread % 32 == 0) s.valid[place][4 * r + thread / 32] = valid;
            if (thread % 4 == 0) {
                copy_async8(shared_address(&s.scales[place][(thread / 4 + 32 * r) * SCALE_BYTES]),
                            l.codes[r] + l.scales[r]);
            }
        }
        if (thread % 32 == 0) barrier_arrive(full);
    }
    copy_async_arrive(full);
    copy_async_commit();
}

/* The first blocks, and where the one behind them is. */
template <int HEADS>
__device__ __forceinline__ row_loader begin_loading(const attn_args &a, int half,
                                                    shared_memory<HEADS> &s)
{
    row_loader l = {};
    l.lists = begin_lists(a);
    next_rows<HEADS>(a, l, half, s);
    copy_async_commit(); /* in the place of rows, for prepare_block's count */
#pragma unroll 1
    for (int i = 0; i < N_STREAMS; i++) {
        prepare_block<HEADS>(a, l, half, s);
        load_groups<HEADS, 0>(l, half, s);
        load_groups<HEADS, 2>(l, half, s);
        finish_block<HEADS>(l, half, s);
    }
    prepare_block<HEADS>(a, l, half, s);
    return l;
}

#endif
