/*
 * keys_finish_kernel.c - dsv4_keys_finish on the device: query norm and rotation; window key norm, rotation, quantization
 * and insertion.
 *
 * Place: gpu; a kernel (gpu.h). A wave for each row, which it reads once, before it writes: the heads of a token and then
 * its key.
 */
#include "code_objects.h"
#include "keys_lanes.h"

/* A row of a wave: of a lane, its fours. */
typedef struct lane_row {
    gpu_f32x4 v[ROW_FOURS];
} lane_row;

GPU_DEVICE lane_row load_row(const GPU_ARGUMENTS keys_tensor_args *tensor, int64_t token,
                             uint32_t head, bool rounds)
{
    const char *row = tensor->base + token * tensor->token_stride_bytes +
                      (int64_t)head * tensor->head_stride_bytes;
    lane_row x;
    GPU_UNROLL
    for (int p = 0; p < ROW_FOURS; p++)
        x.v[p] = load_values(row, lane_dim(p), tensor->is_f32 != 0, tensor->is_aligned != 0);
    for (int p = 0; p < ROW_FOURS; p++) {
        if (rounds) x.v[p] = round_values(x.v[p]);
    }
    return x;
}

/* Squares and factor rounded to bf16 as DeepSeek's code does. */
GPU_DEVICE void normalize_official(lane_row *x, float eps)
{
    double sum = 0.0;
    for (int p = 0; p < ROW_FOURS; p++) {
        for (int i = 0; i < LANE_VALUES; i++) sum += (double)round_to_bf16(x->v[p][i] * x->v[p][i]);
    }
    sum = sum_wave(sum);
    const float mean = round_to_bf16(round_to_bf16((float)sum / (float)ROW_DIM) + eps);
    const float factor = round_to_bf16(1.0f / gpu_sqrt(mean));
    for (int p = 0; p < ROW_FOURS; p++) {
        for (int i = 0; i < LANE_VALUES; i++) x->v[p][i] = round_to_bf16(x->v[p][i] * factor);
    }
}

GPU_DEVICE void normalize(lane_row *x, float eps)
{
    double sum = 0.0;
    for (int p = 0; p < ROW_FOURS; p++) sum = add_squares(sum, x->v[p]);
    const float factor = norm_factor(sum_wave(sum), eps);
    for (int p = 0; p < ROW_FOURS; p++) {
        for (int i = 0; i < LANE_VALUES; i++) x->v[p][i] = x->v[p][i] * factor;
    }
}

GPU_DEVICE void finish_query(const GPU_ARGUMENTS keys_finish_args *a, int64_t token, uint32_t head)
{
    const int32_t rope_row = (int32_t)gpu_load4(a->rope.rows + token);
    lane_row x = load_row(&a->q, token, head, a->is_official != 0);
    if (a->is_official) {
        normalize_official(&x, a->norm_eps);
    } else {
        normalize(&x, a->norm_eps);
    }
    char *out =
        a->out.base + token * a->out.token_stride_bytes + (int64_t)head * a->out.head_stride_bytes;
    GPU_UNROLL
    for (int p = 0; p < ROW_FOURS; p++) {
        const int dim = lane_dim(p);
        if (dim >= NOPE_DIM) {
            x.v[p] = rotate_values(&a->rope, rope_row, dim, x.v[p]);
            if (a->is_official) x.v[p] = round_values(x.v[p]);
        }
        store_values(out, dim, a->out.is_f32 != 0, a->out.is_aligned != 0, x.v[p]);
    }
}

GPU_DEVICE void finish_key(const GPU_ARGUMENTS keys_finish_args *a, int64_t token)
{
    uint32_t row = 0;
    unsigned char *page =
        find_page(&a->window, gpu_uniform((int)gpu_load4(a->slots + token)), &row);
    if (page == NULL) return;
    const int32_t rope_row = (int32_t)gpu_load4(a->rope.rows + token);
    lane_row x = load_row(&a->kv, token, 0, a->is_official != 0);
    normalize(&x, a->norm_eps);
    GPU_UNROLL
    for (int p = 0; p < ROW_FOURS; p++) {
        const int dim = lane_dim(p);
        x.v[p] = multiply_weight(a->kv_norm, dim, x.v[p]);
        if (a->is_official) x.v[p] = round_values(x.v[p]);
        if (dim >= NOPE_DIM) {
            x.v[p] = rotate_values(&a->rope, rope_row, dim, x.v[p]);
            if (a->is_official) x.v[p] = round_values(x.v[p]);
        }
        store_key(&a->window, page, row, dim, x.v[p]);
    }
}

GPU_KERNEL(dsv4_keys_finish, KEYS_ROW_THREADS)(const keys_finish_args args)
{
    const GPU_ARGUMENTS keys_finish_args *a = gpu_arguments(&args);
    const int waves = KEYS_ROW_THREADS / GPU_WAVE;
    const int64_t step = (int64_t)gpu_n_blocks(KEYS_ROW_THREADS) * waves;
    for (int64_t i = (int64_t)gpu_block() * waves + gpu_wave(); i < a->n_rows; i += step) {
        const uint32_t token = (uint32_t)i / a->rows_per_token,
                       head = (uint32_t)i % a->rows_per_token;
        a = gpu_arguments_again(
            a); /* read for each row: there are more than registers of the wave */
        if (head < a->n_heads) {
            finish_query(a, token, head);
        } else {
            finish_key(a, token);
        }
    }
}
