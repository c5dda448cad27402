/*
 * keys_lanes.h - rows of 512 values in a wave's registers: loads, stores, rotation, norm, the cache's record.
 *
 * Place: gpu; for the kernels of dsv4/keys.h. A lane holds fours of values, ROW_FOURS of a row. Those that lie together in
 * the row are a piece: of V = 4 values or of 8, a constant wherever it is passed on. Piece p of lane l begins at dimension
 * V l + V GPU_WAVE p, so that a wave's access to a piece is one run of memory, and the 64 values that share a scale lie in
 * 64 / V neighbouring lanes. Every operation rounds as the functions of src/num and src/ref do: nothing is contracted
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
    FOUR = 4,
    MAX_PIECE_FOURS = 2,
    ROW_FOURS = ROW_DIM / (FOUR * GPU_WAVE), /* of a lane that has its part of a whole row */
    SCALED_DIM = 64,
    DATA_BYTES = 576,
    SCALE_BYTES = 8
};

/* Where a lane's four number f begins, f a multiple of v / 4: the piece does. */
GPU_DEVICE int lane_dim(int v, int f)
{
    return v * gpu_lane() + FOUR * GPU_WAVE * f;
}

/* ---- tensors ---- */

/* A piece of bf16, v / 2 words, at an address that is a multiple of 2 v. */
GPU_DEVICE void load_pairs(const void *from, int v, uint32_t *words)
{
    if (v == 8) {
        const gpu_u32x4 four = gpu_load16(from);
        words[0] = four[0];
        words[1] = four[1];
        words[2] = four[2];
        words[3] = four[3];
    } else {
        const gpu_u32x2 two = gpu_load8(from);
        words[0] = two[0];
        words[1] = two[1];
    }
}

GPU_DEVICE void convert_pairs(const uint32_t *words, int v, gpu_f32x4 *x)
{
    GPU_UNROLL
    for (int i = 0; i < v; i += 2) {
        x[i / FOUR][i % FOUR] = gpu_as_f32(words[i / 2] << 16);
        x[i / FOUR][i % FOUR + 1] = gpu_as_f32(words[i / 2] & 0xffff0000u);
    }
}

/* A piece of a row from `dim` on. */
GPU_DEVICE void load_values(const char *row, int dim, int v, bool is_f32, bool is_aligned,
                            gpu_f32x4 *x)
{
    if (is_f32 && is_aligned) {
        GPU_UNROLL
        for (int i = 0; i < v; i += FOUR)
            x[i / FOUR] = gpu_load_f32x4((const float *)row + dim + i);
    } else if (is_f32) {
        GPU_UNROLL
        for (int i = 0; i < v; i++)
            x[i / FOUR][i % FOUR] = gpu_load_f32((const float *)row + dim + i);
    } else if (is_aligned) {
        uint32_t words[2 * MAX_PIECE_FOURS];
        load_pairs((const uint16_t *)row + dim, v, words);
        convert_pairs(words, v, x);
    } else {
        GPU_UNROLL
        for (int i = 0; i < v; i++)
            x[i / FOUR][i % FOUR] = gpu_as_f32(gpu_load2((const uint16_t *)row + dim + i) << 16);
    }
}

/* A piece as bf16, at an address that is a multiple of 2 v. */
GPU_DEVICE void store_pairs(void *to, int v, const gpu_f32x4 *x)
{
    const uint32_t w0 = gpu_to_bf16_pair(x[0][0], x[0][1]), w1 = gpu_to_bf16_pair(x[0][2], x[0][3]);
    if (v == 8) {
        const gpu_u32x4 words = {w0, w1, gpu_to_bf16_pair(x[1][0], x[1][1]),
                                 gpu_to_bf16_pair(x[1][2], x[1][3])};
        gpu_store16(to, words);
    } else {
        gpu_store8(to, w0, w1);
    }
}

GPU_DEVICE void store_values(char *row, int dim, int v, bool is_f32, bool is_aligned,
                             const gpu_f32x4 *x)
{
    if (is_f32 && is_aligned) {
        GPU_UNROLL
        for (int i = 0; i < v; i += FOUR) gpu_store_f32x4((float *)row + dim + i, x[i / FOUR]);
    } else if (is_f32) {
        GPU_UNROLL
        for (int i = 0; i < v; i++)
            gpu_store4((float *)row + dim + i, gpu_as_u32(x[i / FOUR][i % FOUR]));
    } else if (is_aligned) {
        store_pairs((uint16_t *)row + dim, v, x);
    } else {
        GPU_UNROLL
        for (int i = 0; i < v; i++) {
            gpu_store2((uint16_t *)row + dim + i,
                       gpu_to_bf16_pair(x[i / FOUR][i % FOUR], 0.0f) & 0xffffu);
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

/* ---- arithmetic of fours ---- */

/* weight [512] bf16, aligned to 2 bytes; NULL: ones, which change nothing. */
GPU_DEVICE gpu_f32x4 multiply_weight(const uint16_t *weight, int dim, gpu_f32x4 x)
{
    if (weight == NULL) return x;
    GPU_UNROLL
    for (int i = 0; i < FOUR; i++) x[i] = gpu_as_f32(gpu_load2(weight + dim + i) << 16) * x[i];
    return x;
}

GPU_DEVICE float round_to_bf16(float x)
{
    return gpu_as_f32(gpu_to_bf16_pair(x, 0.0f) << 16);
}

GPU_DEVICE gpu_f32x4 round_values(gpu_f32x4 x)
{
    GPU_UNROLL
    for (int i = 0; i < FOUR; i++) x[i] = round_to_bf16(x[i]);
    return x;
}

/* Values from `dim` >= 448 on, in pairs. row: of the table, any number. */
GPU_DEVICE gpu_f32x4 rotate_values(const GPU_ARGUMENTS keys_rope_args *rope, int32_t row, int dim,
                                   gpu_f32x4 x)
{
    const bool is_there = row >= 0 && (uint32_t)row < rope->n_rows;
    const float *table =
        rope->table + (is_there ? (int64_t)row * ROPE_DIM : 0) + (dim - NOPE_DIM) / 2;
    GPU_UNROLL
    for (int i = 0; i < FOUR; i += 2) {
        const float cosine = is_there ? gpu_load_f32(table + i / 2) : GPU_NAN;
        const float sine = is_there ? gpu_load_f32(table + ROPE_DIM / 2 + i / 2) : 0.0f;
        const float even = x[i], odd = x[i + 1];
        x[i] = even * cosine - odd * sine;
        x[i + 1] = odd * cosine + even * sine;
    }
    return x;
}

/* Squares of four values on top of `sum`; products are exact, so that this rounds as the reference does. */
GPU_DEVICE double add_squares(double sum, gpu_f32x4 x)
{
    GPU_UNROLL
    for (int i = 0; i < FOUR; i++) sum = gpu_fma_f64((double)x[i], (double)x[i], sum);
    return sum;
}

/* Over n_lanes neighbouring lanes, a power of two; every lane gets it. */
GPU_DEVICE double sum_lanes(double sum, int n_lanes)
{
    GPU_UNROLL
    for (int other = n_lanes / 2; other > 0; other /= 2) {
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
    const uint32_t bits = gpu_as_u32(gpu_max(amax, 1e-4f) * (1.0f / 448.0f));
    const uint32_t code = (bits >> 23) + ((bits & 0x7fffffu) != 0u);
    return code > 254u ? 254u : code;
}

/* 1 / 2^(code - 127), code of group_scale; exact. */
GPU_DEVICE float inverse_scale(uint32_t code)
{
    return code == 254u ? 0x1p-127f : gpu_as_f32((254u - code) << 23);
}

/* The largest magnitude of a group's values, NaN not counted; called by all lanes of the wave, with a piece each. */
GPU_DEVICE float largest_of_group(int v, const gpu_f32x4 *x)
{
    float largest = 0.0f;
    GPU_UNROLL
    for (int i = 0; i < v; i++) largest = gpu_max(largest, gpu_abs(x[i / FOUR][i % FOUR]));
    GPU_UNROLL
    for (int other = SCALED_DIM / v / 2; other > 0; other /= 2) {
        largest = gpu_max(largest, gpu_shuffle_xor_f32(largest, other));
    }
    return largest;
}

/* A piece of a key into its place. Whole waves call it, lanes that do not store too: a group's scale is found together. */
GPU_DEVICE void store_key(const GPU_ARGUMENTS keys_cache_args *cache, unsigned char *page,
                          uint32_t row, int dim, int v, bool stores, const gpu_f32x4 *x)
{
    const float largest = largest_of_group(v, x);
    if (!stores) return;
    if (cache->is_f32) {
        store_values((char *)page + (int64_t)row * (ROW_DIM * 4), dim, v, true, true, x);
        return;
    }
    unsigned char *data = page + (int64_t)row * DATA_BYTES;
    unsigned char *scales = page + cache->scale_plane_bytes + (int64_t)row * SCALE_BYTES;
    if (dim >= NOPE_DIM) {
        store_pairs(data + NOPE_DIM + 2 * (dim - NOPE_DIM), v, x);
        if (dim == NOPE_DIM) gpu_store1(scales + SCALE_BYTES - 1, 0);
        return;
    }
    const uint32_t code = group_scale(largest);
    const float inverse = inverse_scale(code);
    uint32_t codes[MAX_PIECE_FOURS];
    GPU_UNROLL
    for (int f = 0; f < v / FOUR; f++) {
        const gpu_f32x4 scaled = {x[f][0] * inverse, x[f][1] * inverse, x[f][2] * inverse,
                                  x[f][3] * inverse};
        codes[f] = to_e4m3_four(scaled);
    }
    if (v == 8) {
        gpu_store8(data + dim, codes[0], codes[1]);
    } else {
        gpu_store4(data + dim, codes[0]);
    }
    if (dim % SCALED_DIM == 0) gpu_store1(scales + dim / SCALED_DIM, code);
}

#endif
