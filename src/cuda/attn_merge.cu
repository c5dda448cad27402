/*
 * attn_merge.cu - dsv4_attn_merge on the device: partial results of disjoint key sets become one.
 *
 * Place: cuda. A warp for each head of each row; a lane holds 16 of its dimensions in four pieces of four.
 */
#include <math.h>

#include "attn_launch.h"
#include "formats.cuh"
#include "launch.cuh"

enum { DIM = 512, WARPS = 8, PIECES = DIM / 128 };
static const int64_t MAX_BLOCKS = 1 << 30;

/* Four values of a part or of the result, f32 or bf16. */
__device__ __forceinline__ float4 load_four(const void *values, int64_t index, int is_f32)
{
    if (is_f32) return __ldcs((const float4 *)((const float *)values + index));
    const uint2 pairs = __ldcs((const uint2 *)((const uint16_t *)values + index));
    return make_float4(low_to_f32(pairs.x), high_to_f32(pairs.x), low_to_f32(pairs.y),
                       high_to_f32(pairs.y));
}

__device__ __forceinline__ void store_four(void *values, int64_t index, int is_f32, float4 v)
{
    if (is_f32) {
        *(float4 *)((float *)values + index) = v;
    } else {
        *(uint2 *)((uint16_t *)values + index) =
            make_uint2(to_bf16_pair(v.x, v.y), to_bf16_pair(v.z, v.w));
    }
}

/* The largest lse of the parts that have keys, or +inf when none has. */
__device__ __forceinline__ float largest_lse(const attn_merge_args &a, int64_t row, int64_t n_rows)
{
    float largest = INFINITY;
    for (int64_t part = 0; part < a.n_parts; part++) {
        const float lse = a.lse_parts[part * n_rows + row];
        if (lse == INFINITY) continue;
        /* A NaN stays. */
        if (largest == INFINITY || lse > largest || lse != lse) largest = lse;
    }
    return largest;
}

/* As src/ref/attn_ref.c, parts in order; what a part without keys holds is not read. */
__device__ __forceinline__ void merge_row(const attn_merge_args &a, int64_t row, int64_t n_rows,
                                          int lane)
{
    const float largest = largest_lse(a, row, n_rows);
    const bool is_empty = largest == INFINITY;
    float sum = 0.0f;
    float4 total[PIECES] = {};
    for (int64_t part = 0; part < a.n_parts; part++) {
        const float lse = a.lse_parts[part * n_rows + row];
        if (lse == INFINITY) continue;
        const float weight = expf(lse - largest);
        sum += weight;
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const int64_t at = (part * n_rows + row) * DIM + 128 * i + 4 * lane;
            const float4 v = load_four(a.out_parts, at, a.part_is_f32);
            total[i].x += weight * v.x;
            total[i].y += weight * v.y;
            total[i].z += weight * v.z;
            total[i].w += weight * v.w;
        }
    }
    const float sink = a.sink == NULL ? 0.0f : expf(a.sink[row % a.n_heads] - largest);
    const float inverse = is_empty ? 0.0f : 1.0f / (sum + sink);
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        store_four(a.out, row * DIM + 128 * i + 4 * lane, a.out_is_f32,
                   make_float4(total[i].x * inverse, total[i].y * inverse, total[i].z * inverse,
                               total[i].w * inverse));
    }
    if (a.lse != NULL && lane == 0) a.lse[row] = is_empty ? INFINITY : largest + logf(sum);
}

__global__ static void __launch_bounds__(WARPS * 32)
    attn_merge_kernel(const __grid_constant__ attn_merge_args a)
{
    const int64_t n_rows = a.n_rows * a.n_heads, step = (int64_t)gridDim.x * WARPS;
    for (int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; row < n_rows; row += step) {
        merge_row(a, row, n_rows, threadIdx.x % 32);
    }
}

cudaError_t dsv4_attn_merge_launch(const attn_merge_args *args, cudaStream_t stream)
{
    const int64_t n_wanted = (args->n_rows * args->n_heads + WARPS - 1) / WARPS;
    const unsigned n_blocks = (unsigned)(n_wanted < MAX_BLOCKS ? n_wanted : MAX_BLOCKS);
    return launch_kernel(attn_merge_kernel, n_blocks, WARPS * 32, 0, stream, *args);
}
