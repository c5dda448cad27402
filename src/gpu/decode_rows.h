/*
 * decode_rows.h - from a plan's parts and index lists to rows of the cache in shared memory.
 *
 * Place: gpu; for the decode kernels (attn_decode_kernel.c). The block goes through its parts as one run of steps of
 * DECODE_KEYS keys. A wave brings the same four rows of every step, all by copies to shared memory, the same number for
 * each step, so that a count of copies says which rows have arrived. Rows are found for a chunk of steps of one part at
 * once, by a lane each: asking for a step is then little more than its copies.
 *
 *   ask_chunk    copies the indices of the next chunk
 *   take_chunk   makes their rows' addresses, when the chunk before is used up, and asks for the chunk behind
 *   issue_step   copies the rows of the next step
 *
 * A row of ROW_PITCH bytes in shared memory: 576 of codes and rotated values, and the last 16 of these again, so that
 * rows are apart by a number of banks. Its 8 bytes of scales, which in the cache have no better alignment, are two words
 * of a copy of their own. Entries that name no key are rows of zeros, read from memory of the kernel's own; nothing that
 * no list names is used.
 */
#ifndef DSV4_GPU_DECODE_ROWS_H
#define DSV4_GPU_DECODE_ROWS_H

#include "attn_device.h"
#include "gpu_matrix.h"

enum {
    DECODE_WAVES = 8,
    DECODE_THREADS = DECODE_WAVES * 64,
    DECODE_KEYS = 32,                       /* of a step */
    WAVE_KEYS = DECODE_KEYS / DECODE_WAVES, /* rows of a step that a wave brings */
    ROW_BYTES = 576,                        /* in the cache */
    SCALE_BYTES = 8,                        /* of a row, behind the rows of its page */
    ROW_PIECES = 37,                        /* of 16 bytes in shared memory */
    ROW_PITCH = 16 * ROW_PIECES,            /* bytes; eight rows start in different banks */
    ROTATED_PLACE = 448,                    /* of the rotated dimensions */
    PIECE_COPIES =
        (WAVE_KEYS * ROW_PIECES + 63) / 64, /* instructions of a wave for its rows of a step */
    ROW_COPIES = PIECE_COPIES + 1,          /* and for their scales */
#if defined(GPU_SMALL)
    DECODE_SLOTS = 3, /* steps in shared memory: one is used twice, the others are on their way */
    DECODE_MAX_HEADS = 32,
    CHUNK_STEPS = 2,
#else
    DECODE_SLOTS = 6,
    DECODE_MAX_HEADS = 64,
    CHUNK_STEPS = 16,
#endif
    CHUNK_ROWS = CHUNK_STEPS * WAVE_KEYS, /* of a wave */
    N_CHIPLETS = 8,
    N_ZERO_ROWS = 16,
};

enum { KIND_NONE = 0, KIND_WINDOW = 1, KIND_EXTRA = 2 };

/* What keys that lists do not name are read from. Not one row for all: all would wait for one place in a cache. */
static const GPU_CONSTANT gpu_u32x4 zero_rows[N_ZERO_ROWS][ROW_PIECES] = {0};

/* Rows and what belongs to them; of chunks, this one and the next. */
typedef struct row_memory {
    unsigned char rows[DECODE_SLOTS][DECODE_KEYS * ROW_PITCH] __attribute__((aligned(16)));
    unsigned char scales[DECODE_SLOTS][DECODE_KEYS][SCALE_BYTES] __attribute__((aligned(16)));
    uint64_t codes[2][DECODE_WAVES][CHUNK_ROWS]; /* addresses */
    int32_t entries[2][DECODE_WAVES]
                   [CHUNK_ROWS]; /* indices; then bytes from there to the scales, 0: no key */
    float masks[DECODE_SLOTS][DECODE_KEYS] __attribute__((aligned(16))); /* 0, or -inf: no key */
} row_memory;

/* The block's way through its parts; the same in all threads, but next_kind. */
typedef struct row_queue {
    int32_t round, n_ranks;
    int32_t entry, end_entry; /* of the lists one behind the other */
    int32_t window_len;
    int64_t window_list, extra_list;     /* addresses; entry 0 of the extra list is window_len */
    int32_t n_issued;                    /* steps whose rows were asked for */
    int32_t chunk, first_step, end_step; /* the one that is used: its number, its steps' numbers */
    int32_t next_steps;                  /* of the chunk that was asked for; 0: there is none */
    int32_t next_asked;                  /* n_issued when it was */
    int32_t next_kind;                   /* KIND_* of this lane's entry in it */
} row_queue;

/* A kernel's argument where the machine has put it: fields are loaded when they are used and not kept in registers. */
typedef const GPU_ARGUMENTS attn_args *decode_args;

/* Blocks go round the chiplets: this number has neighbours on one chiplet, so that groups of a query share its cache. */
GPU_DEVICE int32_t block_number(void)
{
    const int32_t n = gpu_n_blocks(DECODE_THREADS), i = gpu_block();
    return n % N_CHIPLETS == 0 ? i % N_CHIPLETS * (n / N_CHIPLETS) + i / N_CHIPLETS : i;
}

GPU_DEVICE int32_t rank_of_round(int32_t round)
{
    const int32_t n = gpu_n_blocks(DECODE_THREADS), i = block_number();
    return round * n + (round % 2 == 0 ? i : n - 1 - i);
}

GPU_DEVICE attn_part read_part(decode_args a, int32_t rank)
{
    const int32_t *words = (const int32_t *)(a->plan + sizeof(attn_plan_head) +
                                             (int64_t)rank * (int)sizeof(attn_part));
    attn_part p;
    p.request = gpu_load_uniform(words);
    p.query_group = gpu_load_uniform(words + 1);
    p.first_block = gpu_load_uniform(words + 2);
    p.end_block = gpu_load_uniform(words + 3);
    p.part_of = gpu_load_uniform(words + 4);
    p.first_slot = gpu_load_uniform(words + 5);
    p.window_len = gpu_load_uniform(words + 6);
    p.total_len = gpu_load_uniform(words + 7);
    return p;
}

GPU_DEVICE int32_t read_n_ranks(decode_args a)
{
    return gpu_load_uniform(a->plan + offsetof(attn_plan_head, n_parts));
}

GPU_DEVICE int32_t part_query(const attn_part *p)
{
    return p->query_group >> 8;
}

GPU_DEVICE int32_t part_first_head(const attn_part *p, int group_heads)
{
    return (p->query_group & 0xff) * group_heads;
}

GPU_DEVICE int32_t part_n_steps(const attn_part *p)
{
    const int32_t end = gpu_min_i32(p->end_block * ATTN_BLOCK_KEYS, p->total_len);
    const int32_t n_keys = end - p->first_block * ATTN_BLOCK_KEYS;
    return n_keys > 0 ? (n_keys + DECODE_KEYS - 1) / DECODE_KEYS : 0;
}

/* Goes on to a part with entries, if this one has no more; false behind the last. */
GPU_DEVICE bool seek_entries(decode_args a, row_queue *c)
{
    while (c->entry >= c->end_entry) {
        const int32_t rank = rank_of_round(c->round);
        if (rank >= c->n_ranks) return false;
        c->round++;
        const attn_part p = read_part(a, rank);
        c->entry = p.first_block * ATTN_BLOCK_KEYS;
        c->end_entry = gpu_min_i32(p.end_block * ATTN_BLOCK_KEYS, p.total_len);
        c->window_len = p.window_len;
        c->window_list = (int64_t)(uintptr_t)a->window.indices +
                         p.request * a->window.indices_request_stride_bytes +
                         part_query(&p) * a->window.indices_query_stride_bytes;
        c->extra_list = (int64_t)(uintptr_t)a->extra.indices +
                        p.request * a->extra.indices_request_stride_bytes +
                        part_query(&p) * a->extra.indices_query_stride_bytes -
                        p.window_len * (int64_t)sizeof(int32_t);
    }
    return true;
}

GPU_DEVICE const unsigned char *zero_row(void)
{
    return (const unsigned char *)zero_rows[gpu_block() % N_ZERO_ROWS];
}

/* Asks for the wave's indices of the next chunk, if there is one: lane l has key l % WAVE_KEYS of step l / WAVE_KEYS. */
GPU_DEVICE void ask_chunk(decode_args a, row_queue *c, GPU_SHARED row_memory *m)
{
    const int lane = gpu_lane_again(), wave = gpu_wave();
    c->next_steps = 0;
    if (!seek_entries(a, c)) return;
    const int32_t n_steps = (c->end_entry - c->entry + DECODE_KEYS - 1) / DECODE_KEYS;
    const int32_t entry =
        c->entry + DECODE_KEYS * (lane / WAVE_KEYS) + WAVE_KEYS * wave + lane % WAVE_KEYS;
    const bool is_listed = entry < c->end_entry, is_extra = entry >= c->window_len;
    const int64_t address =
        (is_extra ? c->extra_list : c->window_list) + entry * (int64_t)sizeof(int32_t);
    const void *from = is_listed ? (const void *)(uintptr_t)address : (const void *)zero_row();
    gpu_copy4_to_shared(m->entries[(c->chunk + 1) % 2][wave], from, lane < CHUNK_ROWS);
    c->next_kind = !is_listed ? KIND_NONE : (is_extra ? KIND_EXTRA : KIND_WINDOW);
    c->next_steps = gpu_min_i32(n_steps, CHUNK_STEPS);
    c->next_asked = c->n_issued;
    c->entry += DECODE_KEYS * CHUNK_STEPS;
}

/* Where a row lies. */
typedef struct row_place {
    const unsigned char *codes;
    int32_t to_scales;
} row_place;

/* Of 32-bit and of 64-bit fields of the two scopes, this lane's. */
GPU_DEVICE uint32_t choose(bool is_extra, uint32_t window, uint32_t extra)
{
    window = gpu_scalar(window);
    extra = gpu_scalar(extra);
    return is_extra ? extra : window;
}

GPU_DEVICE int64_t choose64(bool is_extra, int64_t window, int64_t extra)
{
    const uint64_t w = gpu_scalar64((uint64_t)window), e = gpu_scalar64((uint64_t)extra);
    return (int64_t)(is_extra ? e : w);
}

GPU_DEVICE row_place locate_row(decode_args a, uint32_t slot, int kind)
{
    row_place row;
    const bool x = kind == KIND_EXTRA; /* negative slots are large */
    const bool is_valid =
        kind != KIND_NONE && slot < choose(x, a->window.n_slots, a->extra.n_slots);
    const uint32_t page =
        gpu_multiply_high(2 * slot, choose(x, a->window.divide_factor, a->extra.divide_factor)) >>
        choose(x, a->window.divide_shift, a->extra.divide_shift);
    const uint32_t in_page = slot - page * choose(x, a->window.page_rows, a->extra.page_rows);
    const int64_t cache =
        choose64(x, (int64_t)(uintptr_t)a->window.cache, (int64_t)(uintptr_t)a->extra.cache);
    const int64_t base =
        cache + page * choose64(x, a->window.page_stride_bytes, a->extra.page_stride_bytes);
    const int64_t plane = choose64(x, a->window.scale_plane_bytes, a->extra.scale_plane_bytes);
    row.codes = is_valid ? (const unsigned char *)(uintptr_t)(base + (int64_t)in_page * ROW_BYTES)
                         : zero_row();
    row.to_scales = is_valid ? (int32_t)plane - (int32_t)in_page * (ROW_BYTES - SCALE_BYTES) : 0;
    return row;
}

/* Goes on to the next chunk; false when there is none. */
GPU_DEVICE bool take_chunk(decode_args a, row_queue *c, GPU_SHARED row_memory *m)
{
    const int lane = gpu_lane_again(), wave = gpu_wave();
    if (c->next_steps == 0) return false;
    /* wait_rows has waited for whatever was asked for so many steps ago */
    if (c->n_issued - c->next_asked < DECODE_SLOTS - 1) gpu_wait_copies(0);
    c->chunk++;
    c->first_step = c->n_issued;
    c->end_step = c->n_issued + c->next_steps;
    if (lane < CHUNK_ROWS) {
        GPU_SHARED int32_t *entry =
            &m->entries[c->chunk % 2][wave][lane]; /* this lane's own copy */
        const row_place row = locate_row(a, (uint32_t)*entry, c->next_kind);
        m->codes[c->chunk % 2][wave][lane] = (uint64_t)(uintptr_t)row.codes;
        *entry = row.to_scales;
    }
    gpu_wave_sync();
    ask_chunk(a, c, m);
    return true;
}

/* Asks for the rows of the next step, if there is one: ROW_COPIES copies. */
GPU_DEVICE void issue_step(decode_args a, row_queue *c, GPU_SHARED row_memory *m)
{
    const int lane = gpu_lane(), wave = gpu_wave();
    if (c->n_issued == c->end_step && !take_chunk(a, c, m)) return;
    const int32_t slot = c->n_issued % DECODE_SLOTS;
    const int32_t first_row = WAVE_KEYS * (c->n_issued - c->first_step);
    GPU_SHARED const uint64_t *codes = &m->codes[c->chunk % 2][wave][first_row];
    GPU_SHARED const int32_t *to_scales = &m->entries[c->chunk % 2][wave][first_row];
    GPU_SHARED unsigned char *to = m->rows[slot] + WAVE_KEYS * wave * ROW_PITCH;
    c->n_issued++;
    /* All addresses first: no read of shared memory is moved across a copy. */
    const unsigned char *from[PIECE_COPIES];
    for (int i = 0; i < PIECE_COPIES; i++) {
        const int piece = 64 * i + lane;
        from[i] = (const unsigned char *)(uintptr_t)codes[piece / ROW_PIECES % WAVE_KEYS] +
                  16 * gpu_min_i32(piece % ROW_PIECES, ROW_PIECES - 2);
    }
    const int key = lane / 2 % WAVE_KEYS;
    const int32_t to_scale = to_scales[key];
    const unsigned char *scales =
        (const unsigned char *)(uintptr_t)codes[key] + to_scale + 4 * (lane % 2);
    for (int i = 0; i < PIECE_COPIES; i++) {
        gpu_copy16_to_shared(to + 64 * 16 * i, from[i], 64 * i + lane < WAVE_KEYS * ROW_PIECES);
    }
    gpu_copy4_to_shared(m->scales[slot][WAVE_KEYS * wave], scales, lane < 2 * WAVE_KEYS);
    if (lane < 2 * WAVE_KEYS) /* both lanes of a row */
        m->masks[slot][WAVE_KEYS * wave + key] = to_scale == 0 ? -GPU_INFINITY : 0.0f;
}

/* Before the first part: as many steps as there are places for. */
GPU_DEVICE row_queue begin_rows(decode_args a, GPU_SHARED row_memory *m)
{
    row_queue c = {0};
    c.n_ranks = read_n_ranks(a);
    ask_chunk(a, &c, m);
    for (int32_t step = 0; step < DECODE_SLOTS - 1; step++) issue_step(a, &c, m);
    return c;
}

/* This wave's rows of a step have arrived, and whatever was asked for before them. */
GPU_DEVICE void wait_rows(const row_queue *c, int32_t step)
{
    if (c->n_issued - step >= DECODE_SLOTS - 2) {
        gpu_wait_copies((DECODE_SLOTS - 3) * ROW_COPIES);
    } else {
        gpu_wait_copies(0);
    }
}

#endif
