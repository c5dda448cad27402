/*
 * keys_read_kernel.c - dsv4_keys_read on the device: rows of a paged cache as bf16 or f32, whole pages or single slots.
 *
 * Place: gpu; kernels (gpu.h): one for any output, and one for bf16, which takes eight values of a lane at once. A wave
 * reads KEYS_READ_ROWS rows, all loads first. A record is 584 bytes, a bf16 row 1,024.
 */
#include "keys_lanes.h"

/* What a lane reads of a record: a piece, and its group's scale. */
typedef struct raw_piece {
    uint32_t words[2 * MAX_PIECE_FOURS];
    uint32_t scale;
} raw_piece;

GPU_DEVICE int32_t read_slot(const GPU_ARGUMENTS keys_read_args *a, int64_t i)
{
    if (a->slots != NULL) return (int32_t)gpu_load4(a->slots + i);
    const uint32_t in_list = (uint32_t)i / a->cache.page_rows,
                   row = (uint32_t)i % a->cache.page_rows;
    const int64_t page = (int32_t)gpu_load4(a->pages + in_list);
    const int64_t slot = page * a->cache.page_rows + row;
    return slot >= 0 && slot < a->cache.n_slots ? (int32_t)slot : -1;
}

/* v codes with their scale, or v bf16. */
GPU_DEVICE void load_piece(const GPU_ARGUMENTS keys_cache_args *cache, const unsigned char *page,
                           uint32_t row, int dim, int v, raw_piece *piece)
{
    const unsigned char *data = page + (int64_t)row * DATA_BYTES;
    if (dim >= NOPE_DIM) {
        load_pairs(data + NOPE_DIM + 2 * (dim - NOPE_DIM), v, piece->words);
        piece->scale = 0;
        return;
    }
    if (v == 8) {
        const gpu_u32x2 codes = gpu_load8(data + dim);
        piece->words[0] = codes[0];
        piece->words[1] = codes[1];
    } else {
        piece->words[0] = gpu_load4(data + dim);
    }
    piece->scale =
        gpu_load1(page + cache->scale_plane_bytes + (int64_t)row * SCALE_BYTES + dim / SCALED_DIM);
}

GPU_DEVICE void convert_piece(const raw_piece *piece, int dim, int v, gpu_f32x4 *x)
{
    if (dim >= NOPE_DIM) {
        convert_pairs(piece->words, v, x);
        return;
    }
    const float scale = scale_to_f32(piece->scale);
    GPU_UNROLL
    for (int i = 0; i < v; i++) {
        x[i / FOUR][i % FOUR] =
            e4m3_to_f32(piece->words[i / FOUR] >> 8 * (i % FOUR) & 0xffu) * scale;
    }
}

GPU_DEVICE void read_records(const GPU_ARGUMENTS keys_read_args *a, int64_t first, int v)
{
    raw_piece pieces[KEYS_READ_ROWS][ROW_FOURS]; /* of fours that begin a piece */
    bool is_there[KEYS_READ_ROWS];
    GPU_UNROLL
    for (int r = 0; r < KEYS_READ_ROWS; r++) {
        uint32_t row = 0;
        const unsigned char *page =
            first + r < a->n_rows ? find_page(&a->cache, read_slot(a, first + r), &row) : NULL;
        is_there[r] = page != NULL;
        if (!is_there[r]) continue;
        GPU_UNROLL
        for (int f = 0; f < ROW_FOURS; f += v / FOUR)
            load_piece(&a->cache, page, row, lane_dim(v, f), v, &pieces[r][f]);
    }
    GPU_UNROLL
    for (int r = 0; r < KEYS_READ_ROWS; r++) {
        if (first + r >= a->n_rows) continue;
        GPU_UNROLL
        for (int f = 0; f < ROW_FOURS; f += v / FOUR) {
            gpu_f32x4 x[MAX_PIECE_FOURS] = {};
            if (is_there[r]) convert_piece(&pieces[r][f], lane_dim(v, f), v, x);
            store_values(a->out.base + (first + r) * a->out.token_stride_bytes, lane_dim(v, f), v,
                         a->out.is_f32 != 0, a->out.is_aligned != 0, x);
        }
    }
}

/* A row of f32. */
GPU_DEVICE void read_f32(const GPU_ARGUMENTS keys_read_args *a, int64_t i)
{
    uint32_t row = 0;
    const unsigned char *page = find_page(&a->cache, read_slot(a, i), &row);
    for (int dim = lane_dim(FOUR, 0); dim < ROW_DIM; dim += FOUR * GPU_WAVE) {
        gpu_f32x4 x = {};
        if (page != NULL)
            load_values((const char *)page + (int64_t)row * (ROW_DIM * 4), dim, FOUR, true, true,
                        &x);
        store_values(a->out.base + i * a->out.token_stride_bytes, dim, FOUR, a->out.is_f32 != 0,
                     a->out.is_aligned != 0, &x);
    }
}

/* v as in keys_finish_kernel.c. */
GPU_DEVICE void read_rows(const GPU_ARGUMENTS keys_read_args *a, int v)
{
    const int waves = KEYS_ROW_THREADS / GPU_WAVE;
    GPU_EACH (first, ((int64_t)gpu_block() * waves + gpu_wave()) * KEYS_READ_ROWS, a->n_rows,
              (int64_t)gpu_n_blocks(KEYS_ROW_THREADS) * waves * KEYS_READ_ROWS) {
        if (a->cache.is_f32) {
            for (int r = 0; r < KEYS_READ_ROWS && first + r < a->n_rows; r++)
                read_f32(a, first + r);
        } else {
            read_records(a, first, v);
        }
    }
}

GPU_KERNEL(dsv4_keys_read, KEYS_ROW_THREADS)(GPU_BY_VALUE keys_read_args args)
{
    read_rows(gpu_arguments(&args), 4);
}

GPU_KERNEL(dsv4_keys_read_bf16, KEYS_ROW_THREADS)(GPU_BY_VALUE keys_read_args args)
{
    read_rows(gpu_arguments(&args), 8);
}
