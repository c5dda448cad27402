/*
 * attn_merge_kernel.c - dsv4_attn_merge on the device: partial results of disjoint key sets become one.
 *
 * Place: gpu; a kernel (gpu.h). A wave for each head of each row; a lane holds pieces of four of its dimensions.
 */
#include "attn_device.h"
#include "gpu.h"

enum { MERGE_DIM = 512, MERGE_PIECES = MERGE_DIM / (4 * GPU_WAVE) };

/* Four values of a part, f32 or bf16. */
GPU_DEVICE gpu_f32x4 load_part(const void *values, int64_t index, bool is_f32)
{
    if (is_f32) return gpu_load_f32x4_once((const float *)values + index);
    const gpu_u32x2 pairs = gpu_load8_once((const uint16_t *)values + index);
    const gpu_f32x4 four = {gpu_as_f32(pairs[0] << 16), gpu_as_f32(pairs[0] & 0xffff0000u),
                            gpu_as_f32(pairs[1] << 16), gpu_as_f32(pairs[1] & 0xffff0000u)};
    return four;
}

/* A lane's fours of a row whose first is `to`, at constant distances: nvcc makes one instruction of each then. */
GPU_DEVICE void store_result(char *to, bool is_f32, const gpu_f32x4 *v)
{
    if (is_f32) {
        GPU_UNROLL
        for (int i = 0; i < MERGE_PIECES; i++) gpu_store_f32x4(to + 16 * GPU_WAVE * i, v[i]);
    } else {
        GPU_UNROLL
        for (int i = 0; i < MERGE_PIECES; i++) {
            gpu_store8(to + 8 * GPU_WAVE * i, gpu_to_bf16_pair(v[i][0], v[i][1]),
                       gpu_to_bf16_pair(v[i][2], v[i][3]));
        }
    }
}

/* The largest lse of the parts that have keys, or +inf when none has. */
GPU_DEVICE float largest_lse(const attn_merge_args *a, int64_t row, int64_t n_rows)
{
    float largest = GPU_INFINITY;
    for (int64_t part = 0; part < a->n_parts; part++) {
        const float lse = gpu_load_f32(a->lse_parts + part * n_rows + row);
        if (lse == GPU_INFINITY) continue;
        /* A NaN stays. */
        if (largest == GPU_INFINITY || lse > largest || lse != lse) largest = lse;
    }
    return largest;
}

/* As src/ref/attn_ref.c, parts in order; what a part without keys holds is not read. */
GPU_DEVICE void merge_row(const attn_merge_args *a, int64_t row, int64_t n_rows, int lane)
{
    const float largest = largest_lse(a, row, n_rows);
    const bool is_empty = largest == GPU_INFINITY;
    float sum = 0.0f;
    gpu_f32x4 total[MERGE_PIECES] = {};
    for (int64_t part = 0; part < a->n_parts; part++) {
        const float lse = gpu_load_f32(a->lse_parts + part * n_rows + row);
        if (lse == GPU_INFINITY) continue;
        const float weight = gpu_exp(lse - largest);
        sum += weight;
        GPU_UNROLL
        for (int i = 0; i < MERGE_PIECES; i++) {
            const int64_t at = (part * n_rows + row) * MERGE_DIM + 4 * (GPU_WAVE * i + lane);
            const gpu_f32x4 v = load_part(a->out_parts, at, a->part_is_f32 != 0);
            for (int k = 0; k < 4; k++) total[i][k] += weight * v[k];
        }
    }
    const float sink =
        a->sink == NULL ? 0.0f : gpu_exp(gpu_load_f32(a->sink + row % a->n_heads) - largest);
    const float inverse = is_empty ? 0.0f : 1.0f / (sum + sink);
    GPU_UNROLL
    for (int i = 0; i < MERGE_PIECES; i++) {
        for (int k = 0; k < 4; k++) total[i][k] *= inverse;
    }
    store_result((char *)a->out + (row * MERGE_DIM + 4 * lane) * (a->out_is_f32 ? 4 : 2),
                 a->out_is_f32 != 0, total);
    if (a->lse != NULL && lane == 0) {
        gpu_store4(a->lse + row, gpu_as_u32(is_empty ? GPU_INFINITY : largest + gpu_log(sum)));
    }
}

GPU_KERNEL(dsv4_attn_merge, ATTN_MERGE_WAVES *GPU_WAVE)(GPU_BY_VALUE attn_merge_args a)
{
    const int64_t n_rows = a.n_rows * a.n_heads;
    const int64_t step = (int64_t)gpu_n_blocks(ATTN_MERGE_WAVES * GPU_WAVE) * ATTN_MERGE_WAVES;
    for (int64_t row = (int64_t)gpu_block() * ATTN_MERGE_WAVES + gpu_wave(); row < n_rows;
         row += step) {
        merge_row(&a, row, n_rows, gpu_lane());
    }
}
