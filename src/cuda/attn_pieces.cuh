/*
 * attn_pieces.cuh - out and lse of the attention, four dimensions of a head at a time.
 *
 * Place: cuda, any device from sm_80 on; used by the attention's kernels.
 */
#ifndef DSV4_CUDA_ATTN_PIECES_CUH
#define DSV4_CUDA_ATTN_PIECES_CUH

#include "attn_rows.cuh"
#include "formats.cuh"

enum { HEAD_PIECES = DIM / 4 };

/* Of a head's query: head_of follows. */
template <class PART>
__device__ __forceinline__ char *part_out(const attn_args &a, const PART &p, int head)
{
    return a.out + p.request * a.out_request_stride_bytes +
           query_of(a, p, head) * a.out_query_stride_bytes;
}

/* What a head's sums are multiplied with: probabilities were 2^(score - ref), `sum` their sum; sink -inf: none. */
__device__ __forceinline__ float inverse_sum(float sink, float ref, float sum)
{
    return sum == 0.0f ? 0.0f : 1.0f / (sum + exp2f(sink * LOG2_E - ref));
}

template <class PART>
__device__ __forceinline__ float read_sink(const attn_args &a, const PART &p, int head)
{
    return a.sink == NULL ? -INFINITY : a.sink[head_of(a, p, head)];
}

template <class PART>
__device__ __forceinline__ void write_lse(const attn_args &a, const PART &p, int head, float ref,
                                          float sum)
{
    if (a.lse == NULL) return;
    *(float *)(a.lse + p.request * a.lse_request_stride_bytes +
               query_of(a, p, head) * a.lse_query_stride_bytes +
               head_of(a, p, head) * a.lse_head_stride_bytes) =
        sum == 0.0f ? INFINITY : (ref + log2f(sum)) * LN_2;
}

/* Turns two pairs of the rotated dimensions back; pair: number of the first. */
template <class PART>
__device__ static float4 turn_piece_back(const attn_args &a, const PART &p, int head, float4 v,
                                         int pair)
{
    const int32_t row = a.rope_rows[(int64_t)p.request * a.n_queries + query_of(a, p, head)];
    if (row < 0 || row >= a.n_rope_rows) return make_float4(NAN, NAN, NAN, NAN);
    const float *table = a.rope_table + (int64_t)row * 64 + pair;
    const float c0 = table[0], c1 = table[1], s0 = table[32], s1 = table[33];
    return make_float4(v.x * c0 + v.y * s0, v.y * c0 - v.x * s0, v.z * c1 + v.w * s1,
                       v.w * c1 - v.z * s1);
}

/* e4m3 codes of four values and, by the first of 32 lanes that have 128 dimensions together, their scale. */
template <class PART>
__device__ __forceinline__ void write_codes(const attn_args &a, const PART &p, int head, int dim,
                                            float4 v)
{
    float largest = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
#pragma unroll
    for (int other = 1; other < 32; other *= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, other));
    const uint32_t scale = group_scale(largest);
    const float inverse = inverse_scale(scale);
    const uint32_t codes = to_e4m3_four(v.x * inverse, v.y * inverse, v.z * inverse, v.w * inverse);
    uint8_t *out = (uint8_t *)a.out + p.request * a.out_request_stride_bytes +
                   query_of(a, p, head) * a.out_query_stride_bytes +
                   head_of(a, p, head) * a.out_head_stride_bytes + dim;
    if (a.out_is_aligned) {
        *(uint32_t *)out = codes;
    } else {
        for (int i = 0; i < 4; i++) out[i] = (uint8_t)(codes >> (8 * i));
    }
    if (threadIdx.x % 32 == 0) {
        a.out_scales[p.request * a.out_scales_request_stride_bytes +
                     query_of(a, p, head) * a.out_scales_query_stride_bytes +
                     head_of(a, p, head) * a.out_scales_head_stride_bytes + dim / 128] =
            (uint8_t)scale;
    }
}

/* Any rotation, dtype and alignment; not inlined, since what runs once waits for its instructions. */
template <class PART>
__device__ static __noinline__ void finish_any_piece(const attn_args &a, const PART &p, int head,
                                                     int dim, float4 v)
{
    char *out = part_out(a, p, head) + head_of(a, p, head) * a.out_head_stride_bytes;
    if (dim >= DIM - GROUP_DIMS && a.rope_table != NULL)
        v = turn_piece_back(a, p, head, v, (dim - (DIM - GROUP_DIMS)) / 2);
    const uint32_t low = to_bf16_pair(v.x, v.y), high = to_bf16_pair(v.z, v.w);
    if (a.out_is_fp8) {
        write_codes(a, p, head, dim, v);
    } else if (a.out_is_f32) {
        float *to = (float *)out + dim;
        to[0] = v.x;
        to[1] = v.y;
        to[2] = v.z;
        to[3] = v.w;
    } else if (a.out_is_aligned) {
        *(uint2 *)(out + 2 * dim) = make_uint2(low, high);
    } else {
        uint16_t *to = (uint16_t *)out + dim;
        to[0] = (uint16_t)low;
        to[1] = (uint16_t)(low >> 16);
        to[2] = (uint16_t)high;
        to[3] = (uint16_t)(high >> 16);
    }
}

__device__ __forceinline__ bool is_plain_piece(const attn_args &a, int dim)
{
    return !a.out_is_f32 && !a.out_is_fp8 && a.out_is_aligned &&
           (dim < DIM - GROUP_DIMS || a.rope_table == NULL);
}

/* Turns four values back, writes them; FP8 output: a warp has 128 dimensions of a head. */
template <class PART>
__device__ __forceinline__ void finish_piece(const attn_args &a, const PART &p, int head, int dim,
                                             float4 v)
{
    if (!is_plain_piece(a, dim)) {
        finish_any_piece(a, p, head, dim, v);
    } else {
        *(uint2 *)(part_out(a, p, head) + head_of(a, p, head) * a.out_head_stride_bytes + 2 * dim) =
            make_uint2(to_bf16_pair(v.x, v.y), to_bf16_pair(v.z, v.w));
    }
}

/* The same for eight neighbouring dimensions; no FP8 output. */
template <class PART>
__device__ __forceinline__ void finish_two_pieces(const attn_args &a, const PART &p, int head,
                                                  int dim, float4 v, float4 w)
{
    if (!is_plain_piece(a, dim)) {
        finish_any_piece(a, p, head, dim, v);
        finish_any_piece(a, p, head, dim + 4, w);
    } else {
        *(uint4 *)(part_out(a, p, head) + head_of(a, p, head) * a.out_head_stride_bytes + 2 * dim) =
            make_uint4(to_bf16_pair(v.x, v.y), to_bf16_pair(v.z, v.w), to_bf16_pair(w.x, w.y),
                       to_bf16_pair(w.z, w.w));
    }
}

__device__ __forceinline__ float4 multiply_four(float4 v, float by)
{
    return make_float4(v.x * by, v.y * by, v.z * by, v.w * by);
}

#endif
