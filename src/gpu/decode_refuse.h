/*
 * decode_refuse.h - what a kernel does with a plan that was not built for its call: NaN everywhere.
 *
 * Place: gpu; for the decode kernels. Parts of such a plan may name requests, heads and slots that the call's memory
 * does not have, and the host does not wait to look at it. So nothing of it is followed: the call's outputs become NaN,
 * the workspace stays as it is, and nothing else is touched.
 */
#ifndef DSV4_GPU_DECODE_REFUSE_H
#define DSV4_GPU_DECODE_REFUSE_H

#include "decode_rows.h"

enum { REFUSED_BF16 = 0x7fc0, REFUSED_CODE = 0x7f, REFUSED_SCALE = 0xff, N_OUT_SCALES = 4 };

/* The same answer for all threads of all blocks. */
GPU_DEVICE bool is_own_plan(decode_args a)
{
    const unsigned char *place = a->plan + offsetof(attn_plan_head, fingerprint);
    return (uint32_t)gpu_load_uniform(place) == (uint32_t)a->fingerprint &&
           (uint32_t)gpu_load_uniform(place + 4) == (uint32_t)(a->fingerprint >> 32);
}

/* One head, by a wave; element by element, so that any alignment will do. */
GPU_DEVICE void refuse_head(decode_args a, int64_t request, int64_t query, int64_t head)
{
    const int lane = gpu_lane();
    char *out = a->out + request * a->out_request_stride_bytes + query * a->out_query_stride_bytes +
                head * a->out_head_stride_bytes;
    for (int dim = lane; dim < 512; dim += 64) {
        if (a->out_is_fp8) {
            gpu_store1(out + dim, REFUSED_CODE);
        } else if (a->out_is_f32) {
            gpu_store4(out + 4 * dim, gpu_as_u32(GPU_NAN));
        } else {
            gpu_store2(out + 2 * dim, REFUSED_BF16);
        }
    }
    if (a->out_is_fp8 && lane < N_OUT_SCALES) {
        gpu_store1(a->out_scales + request * a->out_scales_request_stride_bytes +
                       query * a->out_scales_query_stride_bytes +
                       head * a->out_scales_head_stride_bytes + lane,
                   REFUSED_SCALE);
    }
    if (a->lse != NULL && lane == 0) {
        gpu_store4(a->lse + request * a->lse_request_stride_bytes +
                       query * a->lse_query_stride_bytes + head * a->lse_head_stride_bytes,
                   gpu_as_u32(GPU_NAN));
    }
}

/* Every thread of the grid calls it and then ends. */
GPU_DEVICE void refuse_plan(decode_args a)
{
    const int64_t n_waves = (int64_t)gpu_n_blocks(DECODE_THREADS) * DECODE_WAVES;
    const int64_t n_all = (int64_t)a->n_requests * a->n_queries * a->n_heads;
    for (int64_t i = (int64_t)gpu_block() * DECODE_WAVES + gpu_wave(); i < n_all; i += n_waves) {
        const int64_t row = i / a->n_heads;
        refuse_head(a, row / a->n_queries, row % a->n_queries, i % a->n_heads);
    }
}

#endif
