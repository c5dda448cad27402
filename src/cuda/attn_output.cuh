/*
 * attn_output.cuh - the end of a part: partial states and their merge, division, inverse rotation, out and lse.
 *
 * Place: cuda, any device from sm_80 on; used by the attention's kernels. Sums of values come staged in shared memory,
 * in the natural order of dimensions, so that nothing here knows how a kernel holds them.
 */
#ifndef DSV4_CUDA_ATTN_OUTPUT_CUH
#define DSV4_CUDA_ATTN_OUTPUT_CUH

#include "attn_rows.cuh"
#include "formats.cuh"

enum {
    STAGE_PITCH = DIM + 4, /* floats of a staged head: heads fall into different banks */
    HEAD_PIECES = DIM / 4,
};

/* A part that ended, in shared memory. */
template <int HEADS> struct part_result {
    float ref[HEADS], sum[HEADS]; /* probabilities are 2^(score - ref) */
    float inverse[HEADS];
    int is_last_arriver;
};

/* Leaves this part's state in its slot; true for every thread when all parts of the task have arrived. */
template <int HEADS, int THREADS>
__device__ static bool leave_state(const attn_args &a, const attn_part &p, const float *staged,
                                   part_result<HEADS> &r)
{
    unsigned char *state = a.states + (int64_t)(p.first_slot + (p.part_of >> 16)) * a.state_bytes;
    float *heads = (float *)state;
    float4 *values = (float4 *)(state + ATTN_STATE_BYTES);
    if (threadIdx.x < HEADS) {
        heads[threadIdx.x] = r.ref[threadIdx.x];
        heads[ATTN_MAX_GROUP + threadIdx.x] = r.sum[threadIdx.x];
    }
#pragma unroll 4
    for (int i = threadIdx.x; i < HEADS * HEAD_PIECES; i += THREADS) {
        values[i] = *(const float4 *)&staged[i / HEAD_PIECES * STAGE_PITCH + i % HEAD_PIECES * 4];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        const int n_parts = p.part_of & 0xffff;
        const bool is_last = add_acquire_release(&a.counters[p.first_slot], 1) == n_parts - 1;
        if (is_last) a.counters[p.first_slot] = 0;
        r.is_last_arriver = is_last;
    }
    __syncthreads();
    return r.is_last_arriver != 0;
}

/* Reference and sum of all parts together, in their order, so that it does not matter who came last. */
template <int HEADS>
__device__ static void merge_heads(const attn_args &a, const attn_part &p, part_result<HEADS> &r)
{
    const int n_parts = p.part_of & 0xffff;
    const unsigned char *states = a.states + (int64_t)p.first_slot * a.state_bytes;
    if (threadIdx.x < HEADS) {
        float ref = FIRST_REF, sum = 0.0f;
#pragma unroll 8
        for (int k = 0; k < n_parts; k++)
            ref = fmaxf(ref, __ldcg((const float *)(states + k * a.state_bytes) + threadIdx.x));
#pragma unroll 8
        for (int k = 0; k < n_parts; k++) {
            const float *heads = (const float *)(states + k * a.state_bytes) + threadIdx.x;
            sum += __ldcg(&heads[ATTN_MAX_GROUP]) * exp2f(__ldcg(heads) - ref);
        }
        r.ref[threadIdx.x] = ref;
        r.sum[threadIdx.x] = sum;
    }
    __syncthreads();
}

/* Four values of all parts together; i counts pieces of four. */
template <int HEADS>
__device__ __forceinline__ float4 merge_piece(const attn_args &a, const attn_part &p, int i,
                                              float ref)
{
    const int n_parts = p.part_of & 0xffff, head = i / HEAD_PIECES;
    const unsigned char *states = a.states + (int64_t)p.first_slot * a.state_bytes;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
    for (int k = 0; k < n_parts; k++) {
        const unsigned char *state = states + k * a.state_bytes;
        const float weight = exp2f(__ldcg((const float *)state + head) - ref);
        const float4 v = __ldcg((const float4 *)(state + ATTN_STATE_BYTES) + i);
        sum.x += weight * v.x;
        sum.y += weight * v.y;
        sum.z += weight * v.z;
        sum.w += weight * v.w;
    }
    return sum;
}

/* What to multiply the sums with, and lse. */
template <int HEADS>
__device__ static void finish_heads(const attn_args &a, const attn_part &p, part_result<HEADS> &r)
{
    const int h = threadIdx.x, head = part_first_head(p, HEADS) + h;
    if (h < HEADS && head < a.n_heads) {
        const float sum = r.sum[h], ref = r.ref[h];
        const float sink = a.sink == NULL ? 0.0f : exp2f(a.sink[head] * LOG2_E - ref);
        r.inverse[h] = sum == 0.0f ? 0.0f : 1.0f / (sum + sink);
        if (a.lse != NULL) {
            *(float *)(a.lse + p.request * a.lse_request_stride_bytes +
                       part_query(p) * a.lse_query_stride_bytes + head * a.lse_head_stride_bytes) =
                sum == 0.0f ? INFINITY : (ref + log2f(sum)) * LN_2;
        }
    }
    __syncthreads();
}

/* Turns two pairs of the rotated dimensions back; pair: number of the first. */
__device__ static float4 turn_back(const attn_args &a, const attn_part &p, float4 v, int pair)
{
    const int32_t row = a.rope_rows[(int64_t)p.request * a.n_queries + part_query(p)];
    if (row < 0 || row >= a.n_rope_rows) return make_float4(NAN, NAN, NAN, NAN);
    const float *table = a.rope_table + (int64_t)row * 64 + pair;
    const float c0 = table[0], c1 = table[1], s0 = table[32], s1 = table[33];
    return make_float4(v.x * c0 + v.y * s0, v.y * c0 - v.x * s0, v.z * c1 + v.w * s1,
                       v.w * c1 - v.z * s1);
}

/* Any dtype and alignment. */
__device__ __forceinline__ void write_piece(const attn_args &a, char *head_out, int dim, float4 v)
{
    const uint32_t low = to_bf16_pair(v.x, v.y), high = to_bf16_pair(v.z, v.w);
    if (a.out_is_f32) {
        float *out = (float *)head_out + dim;
        if (a.out_is_aligned) {
            *(float4 *)out = v;
        } else {
            out[0] = v.x;
            out[1] = v.y;
            out[2] = v.z;
            out[3] = v.w;
        }
    } else {
        uint16_t *out = (uint16_t *)head_out + dim;
        if (a.out_is_aligned) {
            *(uint2 *)out = make_uint2(low, high);
        } else {
            out[0] = (uint16_t)low;
            out[1] = (uint16_t)(low >> 16);
            out[2] = (uint16_t)high;
            out[3] = (uint16_t)(high >> 16);
        }
    }
}

/* e4m3 codes of four values and, by the first of 32 lanes that have 128 dimensions together, their scale. */
__device__ __forceinline__ void write_codes(const attn_args &a, const attn_part &p, int head,
                                            int dim, float4 v)
{
    float largest = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
#pragma unroll
    for (int other = 1; other < 32; other *= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, other));
    const uint32_t scale = group_scale(largest);
    const float inverse = inverse_scale(scale);
    const uint32_t codes = to_e4m3_four(v.x * inverse, v.y * inverse, v.z * inverse, v.w * inverse);
    uint8_t *out = (uint8_t *)a.out + p.request * a.out_request_stride_bytes +
                   part_query(p) * a.out_query_stride_bytes + head * a.out_head_stride_bytes + dim;
    if (a.out_is_aligned) {
        *(uint32_t *)out = codes;
    } else {
        for (int i = 0; i < 4; i++) out[i] = (uint8_t)(codes >> (8 * i));
    }
    if (threadIdx.x % 32 == 0) {
        a.out_scales[p.request * a.out_scales_request_stride_bytes +
                     part_query(p) * a.out_scales_query_stride_bytes +
                     head * a.out_scales_head_stride_bytes + dim / 128] = (uint8_t)scale;
    }
}

/* All threads of the block call it, behind a barrier; staged and r may be overwritten behind another one. */
template <int HEADS, int THREADS>
__device__ static void finish_part(const attn_args &a, const attn_part &p, const float *staged,
                                   part_result<HEADS> &r)
{
    const bool is_split = p.first_slot >= 0;
    if (is_split) {
        if (!leave_state<HEADS, THREADS>(a, p, staged, r)) return;
        merge_heads<HEADS>(a, p, r);
    }
    finish_heads<HEADS>(a, p, r);
    char *out =
        a.out + p.request * a.out_request_stride_bytes + part_query(p) * a.out_query_stride_bytes;
#pragma unroll 2
    for (int i = threadIdx.x; i < HEADS * HEAD_PIECES; i += THREADS) {
        const int h = i / HEAD_PIECES, head = part_first_head(p, HEADS) + h,
                  dim = i % HEAD_PIECES * 4;
        if (head >= a.n_heads) break;
        float4 v = is_split ? merge_piece<HEADS>(a, p, i, r.ref[h])
                            : *(const float4 *)&staged[h * STAGE_PITCH + dim];
        const float inverse = r.inverse[h];
        v = make_float4(v.x * inverse, v.y * inverse, v.z * inverse, v.w * inverse);
        if (dim >= DIM - GROUP_DIMS && a.rope_table != NULL)
            v = turn_back(a, p, v, (dim - (DIM - GROUP_DIMS)) / 2);
        if (a.out_is_fp8) {
            write_codes(a, p, head, dim, v);
        } else {
            write_piece(a, out + head * a.out_head_stride_bytes, dim, v);
        }
    }
}

#endif
