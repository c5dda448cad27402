/*
 * keys_finish_kernel.c - dsv4_keys_finish on the device: query norm and rotation; window key norm, rotation, quantization
 * and insertion.
 *
 * Place: gpu; kernels (gpu.h): one for any tensors, and one for bf16 alone, which takes eight values of a lane at once. A
 * wave for each row, which it reads once, before it writes: the heads of a token and then its key. Bound by memory: 1 KB
 * in and 1 KB out for a bf16 head.
 */
#include "keys_lanes.h"

/* A row of a wave: of a lane, its fours. */
typedef struct lane_row {
    gpu_f32x4 v[ROW_FOURS];
} lane_row;

GPU_DEVICE lane_row load_row(const GPU_ARGUMENTS keys_tensor_args *tensor, int64_t token,
                             uint32_t head, int v, bool rounds)
{
    const char *row = tensor->base + token * tensor->token_stride_bytes +
                      (int64_t)head * tensor->head_stride_bytes;
    lane_row x;
    GPU_UNROLL
    for (int f = 0; f < ROW_FOURS; f += v / FOUR)
        load_values(row, lane_dim(v, f), v, tensor->is_f32 != 0, tensor->is_aligned != 0, &x.v[f]);
    GPU_UNROLL
    for (int f = 0; f < ROW_FOURS; f++) {
        if (rounds) x.v[f] = round_values(x.v[f]);
    }
    return x;
}

/* Squares and factor rounded to bf16 as DeepSeek's code does. */
GPU_DEVICE void normalize_official(lane_row *x, float eps)
{
    double sum = 0.0;
    GPU_UNROLL
    for (int f = 0; f < ROW_FOURS; f++) {
        GPU_UNROLL
        for (int i = 0; i < FOUR; i++) sum += (double)round_to_bf16(x->v[f][i] * x->v[f][i]);
    }
    sum = sum_lanes(sum, GPU_WAVE);
    const float mean = round_to_bf16(round_to_bf16((float)sum / (float)ROW_DIM) + eps);
    const float factor = round_to_bf16(1.0f / gpu_sqrt(mean));
    GPU_UNROLL
    for (int f = 0; f < ROW_FOURS; f++) {
        GPU_UNROLL
        for (int i = 0; i < FOUR; i++) x->v[f][i] = round_to_bf16(x->v[f][i] * factor);
    }
}

GPU_DEVICE void normalize(lane_row *x, float eps)
{
    double sum = 0.0;
    GPU_UNROLL
    for (int f = 0; f < ROW_FOURS; f++) sum = add_squares(sum, x->v[f]);
    const float factor = norm_factor(sum_lanes(sum, GPU_WAVE), eps);
    GPU_UNROLL
    for (int f = 0; f < ROW_FOURS; f++) {
        GPU_UNROLL
        for (int i = 0; i < FOUR; i++) x->v[f][i] = x->v[f][i] * factor;
    }
}

GPU_DEVICE void rotate_piece(const GPU_ARGUMENTS keys_finish_args *a, int32_t rope_row, int dim,
                             int v, gpu_f32x4 *x)
{
    GPU_UNROLL
    for (int f = 0; f < v / FOUR; f++) {
        x[f] = rotate_values(&a->rope, rope_row, dim + FOUR * f, x[f]);
        if (a->is_official) x[f] = round_values(x[f]);
    }
}

GPU_DEVICE void finish_query(const GPU_ARGUMENTS keys_finish_args *a, int64_t token, uint32_t head,
                             int v)
{
    const int32_t rope_row = (int32_t)gpu_load4(a->rope.rows + token);
    lane_row x = load_row(&a->q, token, head, v, a->is_official != 0);
    if (a->is_official) {
        normalize_official(&x, a->norm_eps);
    } else {
        normalize(&x, a->norm_eps);
    }
    char *out =
        a->out.base + token * a->out.token_stride_bytes + (int64_t)head * a->out.head_stride_bytes;
    GPU_UNROLL
    for (int f = 0; f < ROW_FOURS; f += v / FOUR) {
        const int dim = lane_dim(v, f);
        if (dim >= NOPE_DIM) rotate_piece(a, rope_row, dim, v, &x.v[f]);
        store_values(out, dim, v, a->out.is_f32 != 0, a->out.is_aligned != 0, &x.v[f]);
    }
}

GPU_DEVICE void finish_key(const GPU_ARGUMENTS keys_finish_args *a, int64_t token, int v)
{
    uint32_t row = 0;
    unsigned char *page =
        find_page(&a->window, gpu_uniform((int)gpu_load4(a->slots + token)), &row);
    if (page == NULL) return;
    const int32_t rope_row = (int32_t)gpu_load4(a->rope.rows + token);
    lane_row x = load_row(&a->kv, token, 0, v, a->is_official != 0);
    normalize(&x, a->norm_eps);
    GPU_UNROLL
    for (int f = 0; f < ROW_FOURS; f += v / FOUR) {
        const int dim = lane_dim(v, f);
        GPU_UNROLL
        for (int i = 0; i < v; i += FOUR)
            x.v[f + i / FOUR] = multiply_weight(a->kv_norm, dim + i, x.v[f + i / FOUR]);
        GPU_UNROLL
        for (int i = 0; i < v && a->is_official; i += FOUR)
            x.v[f + i / FOUR] = round_values(x.v[f + i / FOUR]);
        if (dim >= NOPE_DIM) rotate_piece(a, rope_row, dim, v, &x.v[f]);
        store_key(&a->window, page, row, dim, v, true, &x.v[f]);
    }
}

/* v: values of a piece; 8 only where every tensor is bf16, so that no access of 16 bytes leaves gaps. */
GPU_DEVICE void finish_rows(const GPU_ARGUMENTS keys_finish_args *a, int v)
{
    const int waves = KEYS_ROW_THREADS / GPU_WAVE;
    GPU_EACH (i, (int64_t)gpu_block() * waves + gpu_wave(), a->n_rows,
              (int64_t)gpu_n_blocks(KEYS_ROW_THREADS) * waves) {
        const uint32_t token = (uint32_t)i / a->rows_per_token,
                       head = (uint32_t)i % a->rows_per_token;
        a = gpu_arguments_again(
            a); /* read for each row: there are more than registers of the wave */
        if (head < a->n_heads) {
            finish_query(a, token, head, v);
        } else {
            finish_key(a, token, v);
        }
    }
}

GPU_KERNEL(dsv4_keys_finish, KEYS_ROW_THREADS)(GPU_BY_VALUE keys_finish_args args)
{
    finish_rows(gpu_arguments(&args), 4);
}

GPU_KERNEL(dsv4_keys_finish_bf16, KEYS_ROW_THREADS)(GPU_BY_VALUE keys_finish_args args)
{
    finish_rows(gpu_arguments(&args), 8);
}
