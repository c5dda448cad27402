/*
 * attn_fp8_loads.cuh - rows of the cache to shared memory, by the value warps of the FP8 attention kernel.
 *
 * Place: cuda, sm_90a only; part of attn_fp8.cu, which describes the kernel.
 *
 * Four threads bring a row. Rows are found four blocks at a time, one by each of these threads, whose indices have been
 * asked for four blocks before.
 */
#ifndef DSV4_CUDA_ATTN_FP8_LOADS_CUH
#define DSV4_CUDA_ATTN_FP8_LOADS_CUH

#include "attn_fp8_shared.cuh"

/* How far the thread is: the row of which it has asked for the index, and the blocks that it has asked for. */
struct code_loader {
    list_cursor lists;
    bool is_listed, is_extra; /* the row */
    uint32_t n_loaded;        /* blocks */
    int slot;                 /* of the next block */
    uint32_t parity;          /* of its barrier */
};

/*
 * Asks for the thread's index of one of the next N_FOUND blocks. Not by find_entry: where its pointer was kept across
 * the loop, the kernel (nvcc 13.0) read at the pointer's upper half.
 */
template <int HEADS>
__device__ __forceinline__ void read_code_indices(const attn_args &a, code_loader &l,
                                                  fp8_memory<HEADS> &s)
{
    const uint32_t thread = read_thread() - N_KEY_THREADS, own = thread % 4;
    const int32_t *list = NULL;
    int32_t entry = 0;
    l.is_listed = false;
#pragma unroll 1
    for (uint32_t i = 0; i < N_FOUND && seek_entries(a, l.lists); i++) {
        if (i == own) {
            entry = l.lists.entry + (int32_t)(thread / 4);
            l.is_listed = entry < l.lists.end_entry;
            l.is_extra = entry >= l.lists.window_len;
            list = l.is_extra ? l.lists.extra_list : l.lists.window_list;
        }
        l.lists.entry += KEYS;
    }
    if (l.is_listed) copy_async4(shared_address(&s.slots[thread]), list + entry);
    copy_async_commit();
}

/* Finds the rows of the next N_FOUND blocks. */
template <int HEADS>
__device__ __forceinline__ void find_code_rows(const attn_args &a, code_loader &l,
                                               fp8_memory<HEADS> &s)
{
    const uint32_t thread = read_thread() - N_KEY_THREADS, row = thread / 4, own = thread % 4;
    const key_row found = locate_row(a, s.slots[thread], l.is_extra, l.is_listed);
    s.found[own][row] = (uint64_t)found.codes | found.is_valid;
    s.scale_offsets[own][row] = (int32_t)(found.scales - found.codes);
    read_code_indices<HEADS>(a, l, s);
}

/* Begins to bring the next block, as soon as its slot is free. */
template <int HEADS>
__device__ __forceinline__ void load_code_rows(const attn_args &a, code_loader &l,
                                               fp8_memory<HEADS> &s)
{
    const uint32_t place = l.n_loaded++ % N_FOUND;
    if (place == 0) {
        copy_async_wait<N_FOUND>(); /* the indices; not the rows of the blocks since */
        __syncwarp();               /* what was found before has been read */
        find_code_rows<HEADS>(a, l, s);
        __syncwarp();
    }
    const uint32_t thread = read_thread() - N_KEY_THREADS, row = thread / 4, quarter = thread % 4;
    const uint64_t found = s.found[place][row];
    const unsigned char *codes = (const unsigned char *)(found - (found & 1));
    const unsigned char *from = codes + quarter * 16;
    const uint32_t rows = shared_address(s.rows[l.slot]),
                   loaded = shared_address(&s.loaded[l.slot]);
    const uint32_t to = rows + row * 64 + ((quarter ^ (row / 2 % 4)) << 4);
    const uint32_t rotated = rows + CODE_BYTES + row * 128 + ((quarter ^ (row % 8)) << 4);
    barrier_wait(shared_address(&s.empty[l.slot]), l.parity);
#pragma unroll
    for (int g = 0; g < N_CODE_GROUPS; g++) copy_async16(to + g * CODE_GROUP_BYTES, from + g * 64);
    copy_async16(rotated, from + 448);
    copy_async16(rotated ^ 64, from + 512);
    if (quarter == 0) {
        copy_async8(shared_address(&s.scales[l.slot][row * SCALE_BYTES]),
                    codes + s.scale_offsets[place][row]);
        s.is_valid[l.slot][row] = found & 1;
    }
    copy_async_arrive(loaded);
    copy_async_commit();
    barrier_arrive_warp(loaded);
    l.slot = next_place(l.slot, fp8_memory<HEADS>::n_slots);
    if (l.slot == 0) l.parity ^= 1;
}

/* Begins with the first blocks. */
template <int HEADS>
__device__ __forceinline__ code_loader begin_code_rows(const attn_args &a, fp8_memory<HEADS> &s)
{
    code_loader l = {};
    l.lists = begin_lists(a);
    l.parity = 1; /* of a fresh barrier */
    read_code_indices<HEADS>(a, l, s);
    copy_async_wait<0>();
#pragma unroll 1
    for (int i = 0; i < fp8_memory<HEADS>::n_slots; i++) load_code_rows<HEADS>(a, l, s);
    return l;
}

#endif
