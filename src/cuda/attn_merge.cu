/*
 * attn_merge.cu - dsv4_attn_merge on the device: partial results of disjoint key sets become one.
 *
 * Place: cuda. A warp for each head of each row; a lane holds 16 of its dimensions in four pieces of four.
 */
#include <math.h>

#include "attn_launch.h"

enum { DIM = 512, WARPS = 8, PIECES = DIM / 128 };

/* Four values of a part or of the result, f32 or bf16. */
__device__ __forceinline__ float4 load_four(const void *values, int64_t index, int is_f32)
{
    if (is_f32) return __ldcs((const float4 *)((const float *)values + index));
    const uint2 pairs = __ldcs((const uint2 *)((const uint16_t *)values + index));
    return make_float4(__uint_as_float(pairs.x << 16), __uint_as_float(pairs.x & 0xffff0000u),
                       __uint_as_float(pairs.y << 16), __uint_as_float(pairs.y & 0xffff0000u));
}

__device__ __forceinline__ uint32_t to_bf16_pair(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
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

__global__ static void __launch_bounds__(WARPS * 32)
    attn_merge_kernel(const __grid_constant__ attn_merge_args a)
{
    const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32,
                  n_rows = a.n_rows * a.n_heads;
    const int lane = threadIdx.x % 32;
    if (row >= n_rows) return;
    float largest = -INFINITY;
    for (int64_t k = 0; k < a.n_parts; k++) {
        const float lse = a.lse_parts[k * n_rows + row];
        if (lse != INFINITY) largest = lse > largest || lse != lse ? lse : largest;
    }
    const bool is_empty = largest == -INFINITY; /* no part had keys */
    float sum = 0.0f;
    float4 total[PIECES] = {};
    for (int64_t k = 0; k < a.n_parts && !is_empty; k++) {
        const float lse = a.lse_parts[k * n_rows + row];
        if (lse == INFINITY) continue;
        const float weight = expf(lse - largest);
        sum += weight;
        for (int i = 0; i < PIECES; i++) {
            const float4 v = load_four(a.out_parts, (k * n_rows + row) * DIM + 128 * i + 4 * lane,
                                       a.part_is_f32);
            total[i].x += weight * v.x;
            total[i].y += weight * v.y;
            total[i].z += weight * v.z;
            total[i].w += weight * v.w;
        }
    }
    const float sink = a.sink == NULL ? 0.0f : expf(a.sink[row % a.n_heads] - largest);
    const float inverse = is_empty ? 0.0f : 1.0f / (sum + sink);
    for (int i = 0; i < PIECES; i++) {
        store_four(a.out, row * DIM + 128 * i + 4 * lane, a.out_is_f32,
                   make_float4(total[i].x * inverse, total[i].y * inverse, total[i].z * inverse,
                               total[i].w * inverse));
    }
    if (a.lse != NULL && lane == 0) a.lse[row] = is_empty ? INFINITY : largest + logf(sum);
}

cudaError_t dsv4_attn_merge_launch(const attn_merge_args *args, cudaStream_t stream)
{
    const int64_t n_blocks = (args->n_rows * args->n_heads + WARPS - 1) / WARPS;
    attn_merge_kernel<<<(unsigned)n_blocks, WARPS * 32, 0, stream>>>(*args);
    return cudaGetLastError();
}
