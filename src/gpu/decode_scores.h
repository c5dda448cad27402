/*
 * decode_scores.h - queries in registers, and their products with the keys of a step.
 *
 * Place: gpu; for the decode kernels. A lane of a wave of scores has one head, lane % 16 of the wave's, and of a product
 * the keys 4 (lane / 16) ... 4 (lane / 16) + 3 of the wave's 16. With bf16 products codes are converted in registers,
 * two an instruction. With FP8 products (gfx950) codes and scales are operands as the cache has them: nothing is
 * converted but the queries, once for each part, each head by a power of two that brings its first 448 dimensions to
 * e4m3; the rotated ones stay bf16 on both sides.
 */
#ifndef DSV4_GPU_DECODE_SCORES_H
#define DSV4_GPU_DECODE_SCORES_H

#include "decode_output.h"
#include "decode_rows.h"
#include "gpu_matrix.h"

#define FIRST_REF (-1e30f) /* below every score: the first step sets a reference */

enum {
    QUERY_STEPS = 16, /* of 32 dimensions */
    CODE_GROUPS = 7,  /* of 64 dimensions, with a scale each */
};

/* Products of queries and keys. */
typedef enum score_kind { SCORES_BF16, SCORES_FP8 } score_kind;

/* What a wave of scores keeps; a lane has one head and four keys. */
typedef struct score_lane {
    bool is_active;
    int column, tile; /* heads 16 * column ..., keys 16 * tile ... of a step */
    /* bf16: each step's dimensions; FP8: each group's codes, behind them nothing up to the rotated steps */
    gpu_u32x4 q[QUERY_STEPS];
    uint32_t q_scale; /* FP8: ue8m0 of the head's codes */
    float
        scale_log2; /* of the call, kept here: scalar registers are short, and a load is waited for in every step */
    gpu_f32x4 scores; /* of the last step */
    float ref, sum;   /* of all steps but the last */
    float last_sum;   /* of the last step */
} score_lane;

/* ---- queries ---- */

/* Dimensions of operand `step`, as key operands have them: 16 in a row of a lane make two steps. */
GPU_DEVICE int query_dim(int step)
{
    const int quarter = gpu_lane_again() / 16;
    return step < 2 * CODE_GROUPS ? 64 * (step / 2) + 16 * quarter + 8 * (step % 2)
                                  : ROTATED_PLACE + 32 * (step - 2 * CODE_GROUPS) + 8 * quarter;
}

/* Eight bf16 of any alignment that they can have. */
GPU_DEVICE gpu_u32x4 load_unaligned16(const char *from)
{
    gpu_u32x4 words = {0, 0, 0, 0};
    for (int i = 0; i < 4; i++) {
        words[i] = gpu_load2(from + 4 * i) | gpu_load2(from + 4 * i + 2) << 16;
    }
    return words;
}

/* Zeros behind the last head. */
GPU_DEVICE void load_query(decode_args a, const attn_part *p, int group_heads, score_lane *w)
{
    const int head =
        part_first_head(p, group_heads) + TILE_HEADS * w->column + gpu_lane_again() % 16;
    const char *from = a->q + p->request * a->q_request_stride_bytes +
                       part_query(p) * a->q_query_stride_bytes + head * a->q_head_stride_bytes;
    for (int step = 0; step < QUERY_STEPS; step++) w->q[step] = (gpu_u32x4){0, 0, 0, 0};
    if (!w->is_active || head >= a->n_heads) return;
    if (a->q_is_aligned) {
        for (int step = 0; step < QUERY_STEPS; step++)
            w->q[step] = gpu_load16(from + 2 * query_dim(step));
    } else {
        for (int step = 0; step < QUERY_STEPS; step++)
            w->q[step] = load_unaligned16(from + 2 * query_dim(step));
    }
}

/* Behind it no step waits for them, and so for the rows that are on their way behind them. */
GPU_DEVICE void wait_query(score_lane *w)
{
    for (int step = 0; step < QUERY_STEPS; step++) gpu_arrive(&w->q[step]);
}

/* ---- scores ---- */

GPU_DEVICE gpu_u32x4 shared16(GPU_SHARED const unsigned char *from)
{
    return *(GPU_SHARED const gpu_u32x4 *)from;
}

GPU_DEVICE gpu_u32x2 shared8(GPU_SHARED const unsigned char *from)
{
    return *(GPU_SHARED const gpu_u32x2 *)from;
}

/* The rotated dimensions' products. */
GPU_DEVICE void add_rotated(const score_lane *w, GPU_SHARED const unsigned char *row,
                            gpu_f32x4 turns[2])
{
    for (int i = 0; i < 2; i++) {
        const gpu_u32x4 keys = shared16(row + ROTATED_PLACE + 64 * i + 16 * (gpu_lane() / 16));
        turns[i] = gpu_multiply_bf16(keys, w->q[2 * CODE_GROUPS + i], turns[i]);
    }
}

/* -inf for what is no key. */
GPU_DEVICE void leave_scores(score_lane *w, const gpu_f32x4 turns[2], GPU_SHARED const float *masks)
{
    for (int r = 0; r < 4; r++) w->scores[r] = turns[0][r] + turns[1][r] + masks[r];
}

/* Keys 4 (lane / 16) ... of the wave's 16, times the queries of its lane's head. */
GPU_DEVICE void multiply_scores(score_lane *w, int slot, GPU_SHARED row_memory *m)
{
    const int lane = gpu_lane(), quarter = lane / 16;
    GPU_SHARED const unsigned char *row = m->rows[slot] + (16 * w->tile + lane % 16) * ROW_PITCH;
    const gpu_u32x2 scales = shared8(m->scales[slot][16 * w->tile + lane % 16]);
    gpu_f32x4 turns[2] = {{0.0f, 0.0f, 0.0f, 0.0f}, {0.0f, 0.0f, 0.0f, 0.0f}};
    for (int s = 0; s < CODE_GROUPS; s++) {
        const gpu_u32x4 codes = shared16(row + 64 * s + 16 * quarter);
        const uint32_t scale = gpu_scale_bits(scales[s / 4] >> (8 * (s % 4)) & 0xffu);
        for (int i = 0; i < 2; i++) {
            const gpu_u32x4 keys = {gpu_codes_to_bf16_low(codes[2 * i], scale),
                                    gpu_codes_to_bf16_high(codes[2 * i], scale),
                                    gpu_codes_to_bf16_low(codes[2 * i + 1], scale),
                                    gpu_codes_to_bf16_high(codes[2 * i + 1], scale)};
            turns[i] = gpu_multiply_bf16(keys, w->q[2 * s + i], turns[i]);
        }
    }
    add_rotated(w, row, turns);
    leave_scores(w, turns, &m->masks[slot][16 * w->tile + 4 * quarter]);
}

/* ---- FP8 products ---- */

/* The 16 dimensions of a group that are this lane's: bf16 words to codes, times inverse. */
GPU_DEVICE gpu_u32x4 query_codes(gpu_u32x4 low, gpu_u32x4 high, float inverse)
{
    gpu_u32x4 codes = {0, 0, 0, 0};
    for (int i = 0; i < 4; i++) {
        const uint32_t x = i < 2 ? low[2 * i] : high[2 * i - 4],
                       y = i < 2 ? low[2 * i + 1] : high[2 * i - 3];
        codes[i] =
            gpu_to_codes(gpu_as_f32(x << 16) * inverse, gpu_as_f32(x & 0xffff0000u) * inverse,
                         gpu_as_f32(y << 16) * inverse, gpu_as_f32(y & 0xffff0000u) * inverse);
    }
    return codes;
}

/* A loaded query's codes and scale; an infinite one has NaN for both. All lanes of the wave call it. */
GPU_DEVICE void make_query_codes(score_lane *w)
{
    float largest = 0x1p-90f;
    for (int step = 0; step < 2 * CODE_GROUPS; step++) {
        for (int i = 0; i < 4; i++) {
            largest = gpu_max(largest, gpu_abs(gpu_as_f32(w->q[step][i] << 16)));
            largest = gpu_max(largest, gpu_abs(gpu_as_f32(w->q[step][i] & 0xffff0000u)));
        }
    }
    largest = gpu_max(largest, gpu_shuffle_xor_f32(largest, 16));
    largest = gpu_max(largest, gpu_shuffle_xor_f32(largest, 32));
    const bool is_infinite = largest == GPU_INFINITY;
    const uint32_t scale = group_scale(largest, 0x1p-90f);
    const float inverse = is_infinite ? GPU_NAN : gpu_as_f32((254u - scale) << 23);
    w->q_scale = is_infinite ? 255u : scale;
    for (int s = 0; s < CODE_GROUPS; s++) {
        w->q[s] = query_codes(w->q[2 * s], w->q[2 * s + 1], inverse);
    }
}

/* Of two groups, the second one absent: zeros. */
GPU_DEVICE gpu_u32x8 join_codes(gpu_u32x4 first, gpu_u32x4 second)
{
    const gpu_u32x8 both = {first[0],  first[1],  first[2],  first[3],
                            second[0], second[1], second[2], second[3]};
    return both;
}

/* As multiply_scores, of codes; each two groups are one product, whose scales go by 32 dimensions, so by half waves. */
GPU_DEVICE void multiply_scores_codes(score_lane *w, int slot, GPU_SHARED row_memory *m)
{
    const int lane = gpu_lane(), quarter = lane / 16;
    GPU_SHARED const unsigned char *row = m->rows[slot] + (16 * w->tile + lane % 16) * ROW_PITCH;
    const gpu_u32x2 scales = shared8(m->scales[slot][16 * w->tile + lane % 16]);
    const gpu_u32x4 zeros = {0, 0, 0, 0};
    gpu_f32x4 turns[2] = {{0.0f, 0.0f, 0.0f, 0.0f}, {0.0f, 0.0f, 0.0f, 0.0f}};
    for (int pair = 0; pair < 4; pair++) {
        const bool is_last = pair == 3; /* one group; the byte behind its scale is nobody's */
        const int shift = 16 * (pair % 2) + (is_last ? 0 : 8 * (quarter / 2));
        const gpu_u32x4 first = shared16(row + 128 * pair + 16 * quarter),
                        second = is_last ? zeros : shared16(row + 128 * pair + 64 + 16 * quarter);
        turns[pair % 2] =
            gpu_multiply_codes(join_codes(first, second),
                               join_codes(w->q[2 * pair], is_last ? zeros : w->q[2 * pair + 1]),
                               turns[pair % 2], scales[pair / 2] >> shift & 0xffu, w->q_scale);
    }
    add_rotated(w, row, turns);
    leave_scores(w, turns, &m->masks[slot][16 * w->tile + 4 * quarter]);
}

#endif
