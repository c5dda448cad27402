/*
 * keys_read_kernel.c - dsv4_keys_read on the device: rows of a paged cache as bf16 or f32, whole pages or single slots.
 *
 * Place: gpu; a kernel (gpu.h). A wave for each row.
 */
#include "code_objects.h"
#include "keys_lanes.h"

GPU_DEVICE int32_t read_slot(const GPU_ARGUMENTS keys_read_args *a, int64_t i)
{
    if (a->slots != NULL) return (int32_t)gpu_load4(a->slots + i);
    const uint32_t in_list = (uint32_t)i / a->cache.page_rows,
                   row = (uint32_t)i % a->cache.page_rows;
    const int64_t page = (int32_t)gpu_load4(a->pages + in_list);
    const int64_t slot = page * a->cache.page_rows + row;
    return slot >= 0 && slot < a->cache.n_slots ? (int32_t)slot : -1;
}

GPU_DEVICE void read_row(const GPU_ARGUMENTS keys_read_args *a, int64_t i)
{
    uint32_t row = 0;
    const unsigned char *page = find_page(&a->cache, read_slot(a, i), &row);
    char *out = a->out.base + i * a->out.token_stride_bytes;
    gpu_f32x4 x[ROW_FOURS] = {};
    GPU_UNROLL
    for (int p = 0; p < ROW_FOURS; p++) {
        if (page == NULL) continue;
        x[p] = a->cache.is_f32 ? load_values((const char *)page + (int64_t)row * (ROW_DIM * 4),
                                             lane_dim(p), true, true)
                               : load_record(&a->cache, page, row, lane_dim(p));
    }
    GPU_UNROLL
    for (int p = 0; p < ROW_FOURS; p++) {
        store_values(out, lane_dim(p), a->out.is_f32 != 0, a->out.is_aligned != 0, x[p]);
    }
}

GPU_KERNEL(dsv4_keys_read, KEYS_ROW_THREADS)(const keys_read_args args)
{
    const GPU_ARGUMENTS keys_read_args *a = gpu_arguments(&args);
    const int waves = KEYS_ROW_THREADS / GPU_WAVE;
    const int64_t step = (int64_t)gpu_n_blocks(KEYS_ROW_THREADS) * waves;
    for (int64_t i = (int64_t)gpu_block() * waves + gpu_wave(); i < a->n_rows; i += step) {
        read_row(a, i);
    }
}
