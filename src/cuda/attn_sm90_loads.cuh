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
    uint32_t n_blocks; /* loaded so far */
    bool has_next, is_listed[2], is_extra[2];
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

/* Begins to bring the warpgroup's half of the next block, if there is one; the place must be free. */
template <int HEADS>
__device__ __forceinline__ void load_block(const attn_args &a, row_loader &l, int half,
                                           shared_memory<HEADS> &s)
{
    if (!l.has_next) return;
    const int thread = threadIdx.x % WARPGROUP, quarter = thread % 4, place = l.n_blocks % 2;
    const uint32_t full = shared_address(&s.rows_full[place]);
    const uint32_t values = shared_address(s.values[place]) + half * N_HALF_GROUPS * GROUP_BYTES;
    key_row from[2];
    copy_async_wait<1>(); /* the last block's rows may still be on their way, not the indices before them */
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        from[r] = locate_row(a, s.slots[half][place][thread / 4 + 32 * r], l.is_extra[r],
                             l.is_listed[r]);
    }
    l.n_blocks++;
    next_rows<HEADS>(a, l, half, s);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = thread / 4 + 32 * r;
        const unsigned char *codes = from[r].codes + half * N_HALF_GROUPS * 64 + quarter * 16;
        const uint32_t to = values + code_offset(row, quarter);
#pragma unroll
        for (int g = 0; g < N_HALF_GROUPS - 1; g++)
            copy_async16(to + g * GROUP_BYTES, codes + g * 64);
        if (half == 0) {
            copy_async16(to + 3 * GROUP_BYTES, codes + 3 * 64);
            const uint32_t valid = __ballot_sync(0xffffffffu, from[r].is_valid);
            if (thread % 32 == 0) s.valid[place][4 * r + thread / 32] = valid;
            if (quarter == 0)
                copy_async8(shared_address(&s.scales[place][row * SCALE_BYTES]), from[r].scales);
        } else { /* rotated values need no conversion */
            const uint32_t rotated = values + 3 * GROUP_BYTES + row * 128;
            copy_async16(rotated + ((quarter ^ row % 8) << 4), codes + 3 * 64);
            copy_async16(rotated + (((quarter + 4) ^ row % 8) << 4), codes + 4 * 64);
        }
    }
    copy_async_arrive(full);
    if (half == 0 && thread % 32 == 0) barrier_arrive(full); /* for `valid` */
    copy_async_commit();
}

/* The first blocks. */
template <int HEADS>
__device__ __forceinline__ row_loader begin_loading(const attn_args &a, int half,
                                                    shared_memory<HEADS> &s)
{
    row_loader l = {};
    l.lists = begin_lists(a);
    next_rows<HEADS>(a, l, half, s);
    copy_async_commit(); /* in the place of rows, for load_block's count */
#pragma unroll 1
    for (int i = 0; i < N_STREAMS; i++) load_block<HEADS>(a, l, half, s);
    return l;
}

#endif
