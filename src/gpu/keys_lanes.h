/*
 * keys_lanes.h - rows of 512 values in a wave's registers: loads, stores, rotation, norm, the cache's record.
 *
 * Place: gpu; for the kernels of dsv4/keys.h. A lane holds fours of neighbouring values: four p of lane l begins at
 * dimension 4 l + 4 GPU_WAVE p, so that a wave's access is one run of memory, and the 64 values that share a scale lie in
 * 16 neighbouring lanes. Every operation rounds as the functions of src/num and src/ref do: nothing is contracted
 * (CMakeLists.txt), division and square root round correctly, and subnormals are kept.
 */
#ifndef DSV4_GPU_KEYS_LANES_H
#define DSV4_GPU_KEYS_LANES_H

#include "gpu.h"
#include "gpu_e4m3.h"
#include "keys_device.h"

enum {
    ROW_DIM = 512,
    ROPE_DIM = 64,
    NOPE_DIM = ROW_DIM - ROPE_DIM,
    LANE_VALUES = 4,
    ROW_FOURS = ROW_DIM / (LANE_VALUES * GPU_WAVE), /* of a lane that has its part of a whole row */
    SCALED_DIM = 64,
    SCALED_LANES = SCALED_DIM / LANE_VALUES,
    DATA_BYTES = 576,
    SCALE_BYTES = 8
};

/* Where a lane's four number p begins. */
GPU_DEVICE int lane_dim(int p)
{
    return LANE_VALUES * (gpu_lane() + GPU_WAVE * p);
}

/* ---- tensors ---- */

GPU_DEVICE gpu_f32x4 pairs_to_f32(gpu_u32x2 pairs)
{
    const gpu_f32x4 x = {gpu_as_f32(pairs[0] << 16), gpu_as_f32(pairs[0] & 0xffff0000u),
                         gpu_as_f32(pairs[1] << 16), gpu_as_f32(pairs[1] & 0xffff0000u)};
    return x;
}

/* Four values of a row from `dim` on, which is a multiple of 4. */
GPU_DEVICE gpu_f32x4 load_values(const char *row, int dim, bool is_f32, bool is_aligned)
{
    gpu_f32x4 x;
    if (is_f32 && is_aligned) return gpu_load_f32x4((const float *)row + dim);
    if (is_aligned) return pairs_to_f32(gpu_load8((const uint16_t *)row + dim));
    for (int i = 0; i < LANE_VALUES; i++) {
        x[i] = is_f32 ? gpu_load_f32((const float *)row + dim + i)
                      : gpu_as_f32(gpu_load2((const uint16_t *)row + dim + i) << 16);
    }
    return x;
}

/* As bf16, at an address that is a multiple of 8. */
GPU_DEVICE void store_pairs(void *to, gpu_f32x4 x)
{
    gpu_store8(to, gpu_to_bf16_pair(x[0], x[1]), gpu_to_bf16_pair(x[2], x[3]));
}

GPU_DEVICE void store_values(char *row, int dim, bool is_f32, bool is_aligned, gpu_f32x4 x)
{
    if (is_f32 && is_aligned) {
        gpu_store_f32x4((float *)row + dim, x);
    } else if (is_aligned) {
        store_pairs((uint16_t *)row + dim, x);
    } else if (is_f32) {
        for (int i = 0; i < LANE_VALUES; i++) gpu_store4((float *)row + dim + i, gpu_as_u32(x[i]));
    } else {
        for (int i = 0; i < LANE_VALUES; i++) {
            gpu_store2((uint16_t *)row + dim + i, gpu_to_bf16_pair(x[i], 0.0f) & 0xffffu);
        }
    }
}

/* ---- caches ---- */

/* Where a row lies; NULL: nowhere. Sets its place in the page. */
GPU_DEVICE unsigned char *find_page(const GPU_ARGUMENTS keys_cache_args *cache, int32_t slot,
                                    uint32_t *row)
{
    if ((uint32_t)slot >= cache->n_slots) return NULL;
    *row = (uint32_t)slot % cache->page_rows;
    return cache->pages + (int64_t)((uint32_t)slot / cache->page_rows) * cache->page_stride_bytes;
}

/* The exponent bits of an f32 moved by 120, times 2^120; a NaN code is the only one that is no number. */
GPU_DEVICE float e4m3_to_f32(uint32_t code)
{
    if ((code & 0x7fu) == 0x7fu) return GPU_NAN;
    return gpu_as_f32((code & 0x80u) << 24 | (code & 0x7fu) << 20) * 0x1p120f;
}

GPU_DEVICE float scale_to_f32(uint32_t code)
{
    if (code == 0u) return 0x1p-127f;
    return code == 255u ? GPU_NAN : gpu_as_f32(code << 23);
}

/* Four values of a record. */
GPU_DEVICE gpu_f32x4 load_record(const GPU_ARGUMENTS keys_cache_args *cache,
                                 const unsigned char *page, uint32_t row, int dim)
{
    const unsigned char *data = page + (int64_t)row * DATA_BYTES;
    if (dim >= NOPE_DIM) return pairs_to_f32(gpu_load8(data + NOPE_DIM + 2 * (dim - NOPE_DIM)));
    const uint32_t codes = gpu_load4(data + dim);
    const float scale = scale_to_f32(
        gpu_load1(page + cache->scale_plane_bytes + (int64_t)row * SCALE_BYTES + dim / SCALED_DIM));
    gpu_f32x4 x;
    for (int i = 0; i < LANE_VALUES; i++) x[i] = e4m3_to_f32(codes >> 8 * i & 0xffu) * scale;
    return x;
}

/* ---- arithmetic ---- */

/* weight [512] bf16, aligned to 2 bytes; NULL: ones, which change nothing. */
GPU_DEVICE gpu_f32x4 multiply_weight(const uint16_t *weight, int dim, gpu_f32x4 x)
{
    if (weight == NULL) return x;
    for (int i = 0; i < LANE_VALUES; i++)
        x[i] = gpu_as_f32(gpu_load2(weight + dim + i) << 16) * x[i];
    return x;
}

GPU_DEVICE float round_to_bf16(float x)
{
    return gpu_as_f32(gpu_to_bf16_pair(x, 0.0f) << 16);
}

GPU_DEVICE gpu_f32x4 round_values(gpu_f32x4 x)
{
    for (int i = 0; i < LANE_VALUES; i++) x[i] = round_to_bf16(x[i]);
    return x;
}

/* Values from `dim` >= 448 on, in pairs. row: of the table, any number. */
GPU_DEVICE gpu_f32x4 rotate_values(const GPU_ARGUMENTS keys_rope_args *rope, int32_t row, int dim,
                                   gpu_f32x4 x)
{
    const bool is_there = row >= 0 && (uint32_t)row < rope->n_rows;
    const float *table =
        rope->table + (is_there ? (int64_t)row * ROPE_DIM : 0) + (dim - NOPE_DIM) / 2;
    for (int i = 0; i < LANE_VALUES; i += 2) {
        const float cosine = is_there ? gpu_load_f32(table + i / 2) : GPU_NAN;
        const float sine = is_there ? gpu_load_f32(table + ROPE_DIM / 2 + i / 2) : 0.0f;
        const float even = x[i], odd = x[i + 1];
        x[i] = even * cosine - odd * sine;
        x[i + 1] = odd * cosine + even * sine;
    }
    return x;
}

/* Squares of four values on top of `sum`; exact products, so that it is all the same whether they are contracted. */
GPU_DEVICE double add_squares(double sum, gpu_f32x4 x)
{
    for (int i = 0; i < LANE_VALUES; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

/* Over the wave; every lane gets it. */
GPU_DEVICE double sum_wave(double sum)
{
    for (int other = GPU_WAVE / 2; other > 0; other /= 2) {
        union {
            double value;
            uint32_t words[2];
        } own, theirs;
        own.value = sum;
        theirs.words[0] = gpu_shuffle_xor(own.words[0], other);
        theirs.words[1] = gpu_shuffle_xor(own.words[1], other);
        sum += theirs.value;
    }
    return sum;
}

/* rsqrt(mean + eps) of a row from its sum of squares, as dsv4_norm_rms. */
GPU_DEVICE float norm_factor(double sum, float eps)
{
    return 1.0f / gpu_sqrt((float)sum / (float)ROW_DIM + eps);
}

/* ---- keys into caches ---- */

/* The ue8m0 code of a group, as dsv4_ue8m0_group_scale(amax, 448, 1e-4); amax is no NaN. */
GPU_DEVICE uint32_t group_scale(float amax)
{
    const uint32_t bits = gpu_as_u32((amax < 1e-4f ? 1e-4f : amax) * (1.0f / 448.0f));
    const uint32_t code = (bits >> 23) + ((bits & 0x7fffffu) != 0u);
    return code > 254u ? 254u : code;
}

/* 1 / 2^(code - 127), code of group_scale; exact. */
GPU_DEVICE float inverse_scale(uint32_t code)
{
    return code == 254u ? 0x1p-127f : gpu_as_f32((254u - code) << 23);
}

/* The largest magnitude of a group's values, NaN not counted; called by all lanes of the wave. */
GPU_DEVICE float largest_of_group(gpu_f32x4 x)
{
    float largest = 0.0f;
    for (int i = 0; i < LANE_VALUES; i++) {
        const float magnitude = gpu_abs(x[i]);
        if (magnitude > largest) largest = magnitude;
    }
    for (int other = SCALED_LANES / 2; other > 0; other /= 2) {
        const float theirs = gpu_shuffle_xor_f32(largest, other);
        if (theirs > largest) largest = theirs;
    }
    return largest;
}

/* Four values of a key into their place; called by all lanes of the wave, since a group's scale is found together. */
GPU_DEVICE void store_key(const GPU_ARGUMENTS keys_cache_args *cache, unsigned char *page,
                          uint32_t row, int dim, gpu_f32x4 x)
{
    const uint32_t code = group_scale(largest_of_group(x));
    if (cache->is_f32) {
        store_values((char *)page + (int64_t)row * (ROW_DIM * 4), dim, true, true, x);
        return;
    }
    unsigned char *data = page + (int64_t)row * DATA_BYTES;
    unsigned char *scales = page + cache->scale_plane_bytes + (int64_t)row * SCALE_BYTES;
    if (dim >= NOPE_DIM) {
        store_pairs(data + NOPE_DIM + 2 * (dim - NOPE_DIM), x);
        if (dim == NOPE_DIM) gpu_store1(scales + SCALE_BYTES - 1, 0);
        return;
    }
    const float inverse = inverse_scale(code);
    uint32_t codes = 0;
    for (int i = 0; i < LANE_VALUES; i++) codes |= to_e4m3(x[i] * inverse) << 8 * i;
    gpu_store4(data + dim, codes);
    if (dim % SCALED_DIM == 0) gpu_store1(scales + dim / SCALED_DIM, code);
}

#endif
