/*
 * attn_sm90_loads.cuh - bringing rows of the cache to shared memory, two blocks ahead.
 *
 * Place: cuda, sm_90a only; part of attn_sm90.cu, which describes the kernel. The value warps load, because they have
 * nothing to do while their products run: a thread has a quarter of one row of each block.
 *
 * Indices come by asynchronous copies too, a block before they are used: a register that waits for memory would make
 * its warp wait with everything that happens to share its scoreboard.
 */
#ifndef DSV4_CUDA_ATTN_SM90_LOADS_CUH
#define DSV4_CUDA_ATTN_SM90_LOADS_CUH

#include "attn_sm90_shared.cuh"

struct row_loader {
    list_cursor lists;
    ring_place<N_RAW> place;
    uint32_t parity; /* which slots are those of the next block */
    bool has_next, is_listed, is_extra;
};

/* Begins to read the indices of the next block. */
template <int HEADS>
__device__ __forceinline__ void next_rows(const attn_args &a, row_loader &l,
                                          shared_memory<HEADS> &s)
{
    const int row = threadIdx.x % N_VALUE_THREADS / 4;
    l.has_next = seek_entries(a, l.lists);
    l.parity ^= 1;
    if (l.has_next) {
        const int32_t *source = find_entry(l.lists, row, l.is_extra);
        l.is_listed = source != NULL;
        if (threadIdx.x % 4 == 0 && source != NULL)
            copy_async4(shared_address(&s.slots[l.parity][row]), source);
        l.lists.entry += KEYS;
    }
    copy_async_commit();
}

/* Begins to bring the next block, if there is one; all value warps call it. */
template <int HEADS>
__device__ __forceinline__ void load_block(const attn_args &a, row_loader &l,
                                           shared_memory<HEADS> &s)
{
    if (!l.has_next) return;
    const int thread = threadIdx.x % N_VALUE_THREADS, lane = thread % 32, row = thread / 4,
              quarter = thread % 4, slot = l.place.slot;
    const uint32_t full = shared_address(&s.raw_full[slot]);
    copy_async_wait<1>(); /* the last block's rows may still be on their way, not the indices before them */
    __syncwarp();
    const key_row from = locate_row(a, s.slots[l.parity][row], l.is_extra, l.is_listed);
    next_rows<HEADS>(a, l, s);
    const uint32_t valid = __ballot_sync(0xffffffffu, from.is_valid);
    barrier_wait(shared_address(&s.raw_empty[slot]), (l.place.pass & 1) ^ 1);
    if (lane == 0) {
        s.valid[slot][thread / 32] = valid;
        barrier_arrive(full);
    }
    const uint32_t to = shared_address(&s.raw[slot][row * ROW_BYTES + quarter * 16]);
#pragma unroll
    for (int i = 0; i < ROW_BYTES / 64; i++)
        copy_async16(to + 64 * i, from.codes + quarter * 16 + 64 * i);
    if (quarter == 0)
        copy_async8(shared_address(&s.scales[slot][row * SCALE_BYTES]), from.scales);
    copy_async_arrive(full);
    copy_async_commit();
    l.place.advance(1);
}

/* The first blocks. */
template <int HEADS>
__device__ __forceinline__ row_loader begin_loading(const attn_args &a, shared_memory<HEADS> &s)
{
    row_loader l = {};
    l.lists = begin_lists(a);
    next_rows<HEADS>(a, l, s);
    copy_async_commit(); /* in the place of rows, for load_block's count */
#pragma unroll 1
    for (int i = 0; i < N_RAW; i++) load_block<HEADS>(a, l, s);
    return l;
}

#endif
