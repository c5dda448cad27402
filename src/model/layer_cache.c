/*
 * layer_cache.c - addresses and row formats of the model's caches.
 *
 * Place: model. Pure address arithmetic in 64 bits, and the packing of rows.
 */
#include "layer_cache.h"

#include <string.h>

#include "dsv4/cache.h"
#include "num/e2m1.h"
#include "num/ue8m0.h"

enum { FP4_GROUP = 32, FP4_BYTES = DSV4_INDEX_DIM / 2, FP4_SCALES = DSV4_INDEX_DIM / FP4_GROUP };

int dsv4_cache_compressed_kind(int32_t ratio)
{
    return ratio == 4 ? DSV4_CACHE_C4 : ratio == 128 ? DSV4_CACHE_C128 : -1;
}

int dsv4_cache_state_kind(int32_t ratio)
{
    return ratio == 4 ? DSV4_CACHE_S4 : ratio == 128 ? DSV4_CACHE_S128 : -1;
}

int64_t dsv4_cache_key_bytes(int32_t numerics)
{
    if (numerics == DSV4_NUMERICS_EXACT) return DSV4_HEAD_DIM * (int64_t)sizeof(float);
    return DSV4_CACHE_RECORD_BYTES;
}

int64_t dsv4_cache_index_key_bytes(int32_t numerics)
{
    if (numerics == DSV4_NUMERICS_EXACT) return DSV4_INDEX_DIM * (int64_t)sizeof(float);
    return FP4_BYTES + FP4_SCALES;
}

/* K and G, with two halves where groups overlap. */
static int64_t raw_row_bytes(int32_t ratio, int64_t dim)
{
    if (ratio == 0) return 0;
    return 2 * (ratio == 4 ? 2 : 1) * dim * (int64_t)sizeof(float);
}

int64_t dsv4_cache_state_bytes(int32_t ratio)
{
    return raw_row_bytes(ratio, DSV4_HEAD_DIM);
}

int64_t dsv4_cache_index_state_bytes(int32_t ratio)
{
    return ratio == 4 ? raw_row_bytes(ratio, DSV4_INDEX_DIM) : 0;
}

int32_t dsv4_cache_slot(const dsv4_cache *cache, const dsv4_cache_view *view, int kind, int64_t row)
{
    int64_t page_rows = cache->page_rows[kind];
    if (row < 0 || row / page_rows >= view->n_pages[kind]) return -1;
    int32_t page = view->pages[kind][row / page_rows];
    return page < 0 ? -1 : (int32_t)(page * page_rows + row % page_rows);
}

unsigned char *dsv4_cache_row(const dsv4_cache *cache, const dsv4_cache_tensor *tensor, int kind,
                              int64_t row_bytes, int32_t slot)
{
    int64_t page_rows = cache->page_rows[kind];
    return tensor->base + slot / page_rows * tensor->page_stride_bytes +
           slot % page_rows * row_bytes;
}

void dsv4_cache_write_key(const dsv4_cache *cache, const dsv4_cache_tensor *tensor, int kind,
                          int32_t slot, const float *values)
{
    int64_t page_rows = cache->page_rows[kind];
    if (cache->numerics == DSV4_NUMERICS_EXACT) {
        int64_t row_bytes = dsv4_cache_key_bytes(cache->numerics);
        memcpy(dsv4_cache_row(cache, tensor, kind, row_bytes, slot), values, (size_t)row_bytes);
        return;
    }
    dsv4_cache_row_write(tensor->base + slot / page_rows * tensor->page_stride_bytes, page_rows,
                         slot % page_rows, values);
}

void dsv4_cache_write_index_key(const dsv4_cache *cache, const dsv4_cache_tensor *tensor,
                                int32_t slot, const float *values)
{
    int64_t row_bytes = dsv4_cache_index_key_bytes(cache->numerics);
    unsigned char *row = dsv4_cache_row(cache, tensor, DSV4_CACHE_C4, row_bytes, slot);
    if (cache->numerics == DSV4_NUMERICS_EXACT) {
        memcpy(row, values, (size_t)row_bytes);
        return;
    }
    for (int g = 0; g < FP4_SCALES; g++) {
        const float *group = values + g * FP4_GROUP;
        float amax = 0.0f;
        for (int i = 0; i < FP4_GROUP; i++) {
            float magnitude = group[i] < 0.0f ? -group[i] : group[i];
            if (magnitude > amax) amax = magnitude;
        }
        uint8_t scale = dsv4_ue8m0_group_scale(amax, DSV4_E2M1_MAX, DSV4_E2M1_MAX * 0x1p-126f);
        float factor = dsv4_ue8m0_to_f32(scale);
        for (int i = 0; i < FP4_GROUP; i += 2) {
            unsigned low = dsv4_e2m1_from_f32(group[i] / factor);
            unsigned high = dsv4_e2m1_from_f32(group[i + 1] / factor);
            row[(g * FP4_GROUP + i) / 2] = (unsigned char)(low | high << 4);
        }
        row[FP4_BYTES + g] = scale;
    }
}
