/*
 * cache.c - writing and reading one row of the paged FP8 cache record.
 *
 * Place: num; implements dsv4/cache.h, which has the layout. Everything goes through bytes, so a
 * page may start at any address. Source: specification of the model, 3.8 and 4.1.
 *
 * Two properties of the format, not faults of this file. Writing back what was read keeps every
 * finite value but not always the bytes: a group whose largest magnitude rounded down to 224 comes
 * back with half the scale and twice the codes. And f32 magnitudes of 248 * 2^120 and more round to
 * 2^128, which f32 lacks, so they read back as infinity.
 */
#include "dsv4/cache.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "num/bf16.h"
#include "num/e4m3.h"
#include "num/ue8m0.h"

#define AMAX_FLOOR 1e-4f
#define CODE_NAN   0x7fu

int64_t dsv4_cache_page_stride_bytes(int64_t page_rows)
{
    int64_t stride_bytes;
    if (page_rows < 1) return 0;
    if (!dsv4_checked_mul_i64(page_rows, DSV4_CACHE_RECORD_BYTES, &stride_bytes)) return 0;
    int64_t excess_bytes = stride_bytes % DSV4_CACHE_PAGE_ALIGN_BYTES;
    if (excess_bytes == 0) return stride_bytes;
    int64_t pad_bytes = DSV4_CACHE_PAGE_ALIGN_BYTES - excess_bytes;
    if (!dsv4_checked_add_i64(stride_bytes, pad_bytes, &stride_bytes)) return 0;
    return stride_bytes;
}

static int64_t data_offset_bytes(int64_t row)
{
    return row * DSV4_CACHE_DATA_BYTES;
}

static int64_t scale_offset_bytes(int64_t page_rows, int64_t row)
{
    return page_rows * DSV4_CACHE_DATA_BYTES + row * DSV4_CACHE_SCALE_BYTES;
}

/*
 * Writes the codes of one group and returns its scale byte.
 *   codes   [64] e4m3, written
 *   values  [64] f32
 */
static uint8_t group_write(uint8_t *codes, const float *values)
{
    float amax = 0.0f;
    for (int32_t i = 0; i < DSV4_CACHE_GROUP_DIM; i++) {
        float magnitude = fabsf(values[i]);
        if (magnitude > amax) amax = magnitude; /* never true for NaN */
    }
    uint8_t scale_code = dsv4_ue8m0_group_scale(amax, DSV4_E4M3_MAX, AMAX_FLOOR);

    /*
     * In double the inverse (2^-127 at the least) is normal and the product exact; the f32 that it
     * becomes is inexact only below 2^-126, where every code is 0. The clamp is the conversion's.
     */
    double inverse = 1.0 / (double)dsv4_ue8m0_to_f32(scale_code);
    for (int32_t i = 0; i < DSV4_CACHE_GROUP_DIM; i++) {
        float scaled = (float)((double)values[i] * inverse);
        codes[i] = isnan(scaled) ? CODE_NAN : dsv4_e4m3_from_f32(scaled);
    }
    return scale_code;
}

void dsv4_cache_row_write(void *page, int64_t page_rows, int64_t row, const float *values)
{
    uint8_t *data = (uint8_t *)page + data_offset_bytes(row);
    uint8_t *scales = (uint8_t *)page + scale_offset_bytes(page_rows, row);

    for (int32_t group = 0; group < DSV4_CACHE_N_GROUPS; group++) {
        int32_t dim = group * DSV4_CACHE_GROUP_DIM;
        scales[group] = group_write(data + dim, values + dim);
    }
    memset(scales + DSV4_CACHE_N_GROUPS, 0, DSV4_CACHE_SCALE_BYTES - DSV4_CACHE_N_GROUPS);

    uint8_t *rope = data + DSV4_CACHE_FP8_DIM;
    for (int32_t i = 0; i < DSV4_CACHE_ROPE_DIM; i++) {
        uint16_t bits = dsv4_bf16_from_f32(values[DSV4_CACHE_FP8_DIM + i]);
        rope[2 * i] = (uint8_t)(bits & 0xffu);
        rope[2 * i + 1] = (uint8_t)(bits >> 8);
    }
}

void dsv4_cache_row_read(const void *page, int64_t page_rows, int64_t row, float *values)
{
    const uint8_t *data = (const uint8_t *)page + data_offset_bytes(row);
    const uint8_t *scales = (const uint8_t *)page + scale_offset_bytes(page_rows, row);

    for (int32_t group = 0; group < DSV4_CACHE_N_GROUPS; group++) {
        float scale = dsv4_ue8m0_to_f32(scales[group]);
        int32_t first = group * DSV4_CACHE_GROUP_DIM;
        for (int32_t dim = first; dim < first + DSV4_CACHE_GROUP_DIM; dim++)
            values[dim] = dsv4_e4m3_to_f32(data[dim]) * scale;
    }

    const uint8_t *rope = data + DSV4_CACHE_FP8_DIM;
    for (int32_t i = 0; i < DSV4_CACHE_ROPE_DIM; i++) {
        uint16_t bits = (uint16_t)(rope[2 * i] | (rope[2 * i + 1] << 8));
        values[DSV4_CACHE_FP8_DIM + i] = dsv4_bf16_to_f32(bits);
    }
}
