/*
 * keys_rows.cuh - rows of 512 values in a warp's registers: loads, stores, rotation, the cache's record.
 *
 * Place: cuda, for keys_*.cu. A lane holds pieces of V neighbouring values, V being 8 or 4: piece p of lane l
 * begins at dimension V * l + 32 * V * p, so that a warp's access to a piece is one run of memory. A group of
 * 64 values that share a scale lies in 64 / V neighbouring lanes. Every operation rounds as the functions of
 * src/num and src/ref do: these files are compiled without contraction (CMakeLists.txt), so that a * b + c
 * is two roundings; division and square root round correctly by nvcc's default.
 */
#ifndef DSV4_CUDA_KEYS_ROWS_CUH
#define DSV4_CUDA_KEYS_ROWS_CUH

#include "formats.cuh"
#include "keys_launch.h"

enum {
    DIM = 512,
    ROPE_DIM = 64,
    NOPE_DIM = DIM - ROPE_DIM,
    GROUP_DIM = 64,
    DATA_BYTES = 576,
    SCALE_BYTES = 8
};

#define ALL_LANES 0xffffffffu

/* ---- tensors ---- */

/* One, two or four words, at an address that is a multiple of their size. */
template <int N> __device__ __forceinline__ void load_words(const void *at, uint32_t *words)
{
    if constexpr (N == 4) {
        const uint4 four = *(const uint4 *)at;
        words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
    } else if constexpr (N == 2) {
        const uint2 two = *(const uint2 *)at;
        words[0] = two.x, words[1] = two.y;
    } else {
        words[0] = *(const uint32_t *)at;
    }
}

template <int N> __device__ __forceinline__ void store_words(void *at, const uint32_t *words)
{
    if constexpr (N == 4) {
        *(uint4 *)at = make_uint4(words[0], words[1], words[2], words[3]);
    } else if constexpr (N == 2) {
        *(uint2 *)at = make_uint2(words[0], words[1]);
    } else {
        *(uint32_t *)at = words[0];
    }
}

/* V values of a row from `dim` on, which is a multiple of V. */
template <int V>
__device__ __forceinline__ void load_values(const char *row, int dim, int is_f32, int is_aligned,
                                            float (&x)[V])
{
    if (is_f32 && is_aligned) {
        for (int i = 0; i < V; i += 4) {
            const float4 four = *(const float4 *)((const float *)row + dim + i);
            x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
        }
    } else if (is_f32) {
        for (int i = 0; i < V; i++) x[i] = ((const float *)row)[dim + i];
    } else if (is_aligned) {
        uint32_t pairs[V / 2];
        load_words<V / 2>((const uint16_t *)row + dim, pairs);
        for (int i = 0; i < V; i += 2) {
            x[i] = low_to_f32(pairs[i / 2]);
            x[i + 1] = high_to_f32(pairs[i / 2]);
        }
    } else {
        for (int i = 0; i < V; i++) {
            x[i] = __uint_as_float((uint32_t)((const uint16_t *)row)[dim + i] << 16);
        }
    }
}

/* V values as bf16 at an address that is a multiple of 2 * V. */
template <int V> __device__ __forceinline__ void store_pairs(void *at, const float (&x)[V])
{
    uint32_t pairs[V / 2];
    for (int i = 0; i < V; i += 2) pairs[i / 2] = to_bf16_pair(x[i], x[i + 1]);
    store_words<V / 2>(at, pairs);
}

template <int V>
__device__ __forceinline__ void store_values(char *row, int dim, int is_f32, int is_aligned,
                                             const float (&x)[V])
{
    if (is_f32 && is_aligned) {
        for (int i = 0; i < V; i += 4) {
            *(float4 *)((float *)row + dim + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
        }
    } else if (is_f32) {
        for (int i = 0; i < V; i++) ((float *)row)[dim + i] = x[i];
    } else if (is_aligned) {
        store_pairs<V>((uint16_t *)row + dim, x);
    } else {
        for (int i = 0; i < V; i++) {
            ((uint16_t *)row)[dim + i] = (uint16_t)to_bf16_pair(x[i], 0.0f);
        }
    }
}

/* weight [512] bf16, aligned to 2 bytes; NULL: ones, which change nothing. */
template <int V>
__device__ __forceinline__ void multiply_weight(const uint16_t *weight, int dim, float (&x)[V])
{
    if (weight == NULL) return;
    for (int i = 0; i < V; i++) x[i] = __uint_as_float((uint32_t)weight[dim + i] << 16) * x[i];
}

template <int V> __device__ __forceinline__ void round_values(float (&x)[V])
{
    for (int i = 0; i < V; i++) x[i] = round_to_bf16(x[i]);
}

/* Values from `dim` >= 448 on, in pairs. row: of the table, any number. */
template <int V>
__device__ __forceinline__ void rotate_values(const keys_rope_args &rope, int32_t row, int dim,
                                              float (&x)[V])
{
    const bool is_there = row >= 0 && (uint32_t)row < rope.n_rows;
    const float *table = rope.table + (is_there ? (int64_t)row * ROPE_DIM : 0);
    for (int i = 0; i < V; i += 2) {
        const int pair = (dim - NOPE_DIM + i) / 2;
        const float cosine = is_there ? table[pair] : __uint_as_float(0x7fc00000u);
        const float sine = is_there ? table[ROPE_DIM / 2 + pair] : 0.0f;
        const float even = x[i], odd = x[i + 1];
        x[i] = even * cosine - odd * sine;
        x[i + 1] = odd * cosine + even * sine;
    }
}

/* ---- sums ---- */

/* Over n_lanes neighbouring lanes, a power of two; every lane gets it. */
__device__ __forceinline__ double sum_lanes(double sum, int n_lanes)
{
    for (int other = n_lanes / 2; other > 0; other /= 2) {
        sum += __shfl_xor_sync(ALL_LANES, sum, other);
    }
    return sum;
}

/* rsqrt(mean + eps) of a row from its sum of squares, as dsv4_norm_rms. */
__device__ __forceinline__ float norm_factor(double sum, float eps)
{
    return 1.0f / sqrtf((float)sum / (float)DIM + eps);
}

/* ---- caches ---- */

/* Where a row lies; NULL: nowhere. Sets its place in the page. */
__device__ __forceinline__ unsigned char *find_page(const keys_cache_args &cache, int32_t slot,
                                                    uint32_t *row)
{
    if ((uint32_t)slot >= cache.n_slots) return NULL;
    *row = (uint32_t)slot % cache.page_rows;
    return cache.pages + (int64_t)((uint32_t)slot / cache.page_rows) * cache.page_stride_bytes;
}

/* A piece of a key into its place. Whole warps call it, lanes that do not store too: a group's scale is found together. */
template <int V>
__device__ __forceinline__ void store_key(const keys_cache_args &cache, unsigned char *page,
                                          uint32_t row, int dim, bool stores, const float (&x)[V])
{
    float amax = 0.0f;
    for (int i = 0; i < V; i++) amax = fmaxf(amax, fabsf(x[i])); /* NaN does not count */
    for (int other = GROUP_DIM / V / 2; other > 0; other /= 2) {
        amax = fmaxf(amax, __shfl_xor_sync(ALL_LANES, amax, other));
    }
    if (!stores) return;
    if (cache.is_f32) {
        store_values<V>((char *)page + (int64_t)row * (DIM * 4), dim, 1, 1, x);
        return;
    }
    unsigned char *data = page + (int64_t)row * DATA_BYTES;
    unsigned char *scales = page + cache.scale_plane_bytes + (int64_t)row * SCALE_BYTES;
    if (dim >= NOPE_DIM) {
        store_pairs<V>(data + NOPE_DIM + 2 * (dim - NOPE_DIM), x);
        if (dim == NOPE_DIM) scales[SCALE_BYTES - 1] = 0;
        return;
    }
    const uint32_t code = group_scale(amax);
    const float inverse = inverse_scale(code);
    uint32_t codes[V / 4];
    for (int i = 0; i < V; i += 4) {
        codes[i / 4] = to_e4m3_four(x[i] * inverse, x[i + 1] * inverse, x[i + 2] * inverse,
                                    x[i + 3] * inverse);
    }
    store_words<V / 4>(data + dim, codes);
    if (dim % GROUP_DIM == 0) scales[dim / GROUP_DIM] = (unsigned char)code;
}

#endif
