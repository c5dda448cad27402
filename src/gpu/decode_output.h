/*
 * decode_output.h - the end of a part: partial states and their merge, division, inverse rotation, out and lse.
 *
 * Place: gpu; for the decode kernels. Wave w has the sums of dimensions 64w .. 64w + 63. For each tile of 16 heads a
 * lane has one head, lane % 16, and the 16 dimensions behind 64w + 16 (lane / 16): everything here is done where sums
 * are, in registers. Merging reads parts in their order, so that it does not matter who came last.
 */
#ifndef DSV4_GPU_DECODE_OUTPUT_H
#define DSV4_GPU_DECODE_OUTPUT_H

#include "decode_rows.h"
#include "gpu_e4m3.h"

#define LOG2_E 1.4426950408889634f
#define LN_2   0.6931471805599453f

enum {
    TILE_HEADS = 16,
    MAX_TILES = DECODE_MAX_HEADS / TILE_HEADS,
    LANE_DIMS = 16,            /* of a lane, for each head that it has */
    WAVE_PAIRS_BYTES = 64 * 8, /* two values of each lane of a wave */
    SCALED_DIMS = 128,
};

/* Sums of a lane: of each tile, its dimensions in four pieces of four. */
typedef struct lane_sums {
    gpu_f32x4 v[MAX_TILES][4];
} lane_sums;

/* A part that ended, in shared memory. */
typedef struct part_memory {
    float ref[DECODE_MAX_HEADS], sum[DECODE_MAX_HEADS]; /* probabilities are 2^(score - ref) */
    float largest[DECODE_MAX_HEADS][DECODE_WAVES];      /* of 64 values, for FP8 output */
    int32_t is_last_arriver;
} part_memory;

/* What a lane knows of its heads. */
typedef struct lane_heads {
    float ref[MAX_TILES], sum[MAX_TILES], inverse[MAX_TILES];
} lane_heads;

GPU_DEVICE int lane_first_dim(void)
{
    return 64 * gpu_wave() + LANE_DIMS * (gpu_lane_again() / 16);
}

/* Of part number k of the task. */
GPU_DEVICE unsigned char *find_state(decode_args a, const attn_part *p, int k)
{
    return a->states + (int64_t)(p->first_slot + k) * a->state_bytes;
}

/*
 * Of a tile's values in a state, the first two of this lane; the next ones are WAVE_PAIRS_BYTES on. Whoever merges has them
 * in the same lane, so that they lie as they are stored: what a wave stores at once has no gaps.
 */
GPU_DEVICE unsigned char *lane_pairs(unsigned char *state, int tile)
{
    const int first = (tile * DECODE_WAVES + gpu_wave()) * (LANE_DIMS / 2) * WAVE_PAIRS_BYTES;
    return state + ATTN_STATE_BYTES + first + 8 * gpu_lane_again();
}

/* Leaves this part's state in its slot; true for every thread when all parts of the task have arrived. */
GPU_DEVICE bool leave_state(decode_args a, const attn_part *p, int n_tiles, const lane_sums *sums,
                            const lane_heads *heads, GPU_SHARED part_memory *m)
{
    unsigned char *state = find_state(a, p, p->part_of >> 16);
    GPU_UNROLL
    for (int c = 0; c < n_tiles; c++) {
        if (gpu_thread() < 16) {
            const int head = TILE_HEADS * c + gpu_thread();
            gpu_store4_device(state + 4 * head, gpu_as_u32(heads->ref[c]));
            gpu_store4_device(state + 4 * (ATTN_MAX_GROUP + head), gpu_as_u32(heads->sum[c]));
        }
        unsigned char *to = lane_pairs(state, c);
        for (int i = 0; i < LANE_DIMS / 2; i++) {
            gpu_store8_device(to + i * WAVE_PAIRS_BYTES, gpu_as_u32(sums->v[c][i / 2][i % 2 * 2]),
                              gpu_as_u32(sums->v[c][i / 2][i % 2 * 2 + 1]));
        }
    }
    gpu_wait_stores(); /* every wave its own: no barrier does */
    gpu_barrier();
    if (gpu_thread() == 0) {
        const int n_parts = p->part_of & 0xffff;
        int32_t *arrived = &a->arrivals[p->first_slot].arrived;
        const bool is_last = gpu_add_device(arrived, 1) == n_parts - 1;
        if (is_last) gpu_store4_device(arrived, 0);
        m->is_last_arriver = is_last;
    }
    gpu_barrier();
    return gpu_uniform(m->is_last_arriver) != 0;
}

/* A reference or a sum of a state. */
GPU_DEVICE float load_head(const unsigned char *from)
{
    return gpu_as_f32(gpu_load4_device(from));
}

/* All parts together, of this lane's heads and dimensions. */
GPU_DEVICE void merge_parts(decode_args a, const attn_part *p, int n_tiles, lane_sums *sums,
                            lane_heads *heads, float first_ref)
{
    const int n_parts = p->part_of & 0xffff;
    GPU_UNROLL
    for (int c = 0; c < n_tiles; c++) {
        const int head = TILE_HEADS * c + gpu_lane_again() % 16;
        float ref = first_ref, sum = 0.0f;
        for (int k = 0; k < n_parts; k++) {
            ref = gpu_max(ref, load_head(find_state(a, p, k) + 4 * head));
        }
        for (int i = 0; i < 4; i++) sums->v[c][i] = (gpu_f32x4){0.0f, 0.0f, 0.0f, 0.0f};
        for (int k = 0; k < n_parts; k++) {
            unsigned char *state = find_state(a, p, k);
            const float weight = gpu_exp2(load_head(state + 4 * head) - ref);
            sum += load_head(state + 4 * (ATTN_MAX_GROUP + head)) * weight;
            const unsigned char *from = lane_pairs(state, c);
            for (int i = 0; i < LANE_DIMS / 2; i++) {
                const gpu_u32x2 two = gpu_load8_device(from + i * WAVE_PAIRS_BYTES);
                for (int n = 0; n < 2; n++)
                    sums->v[c][i / 2][i % 2 * 2 + n] += weight * gpu_as_f32(two[n]);
            }
        }
        heads->ref[c] = ref;
        heads->sum[c] = sum;
    }
}

/* What to multiply the sums with, and lse. */
GPU_DEVICE void finish_heads(decode_args a, const attn_part *p, int n_tiles, lane_heads *heads)
{
    GPU_UNROLL
    for (int c = 0; c < n_tiles; c++) {
        const int head =
            part_first_head(p, TILE_HEADS * n_tiles) + TILE_HEADS * c + gpu_lane_again() % 16;
        const float sum = heads->sum[c], ref = heads->ref[c];
        heads->inverse[c] = 0.0f;
        if (head >= a->n_heads) continue;
        const float sink =
            a->sink == NULL ? 0.0f : gpu_exp2(gpu_load_f32(a->sink + head) * LOG2_E - ref);
        if (sum != 0.0f) heads->inverse[c] = 1.0f / (sum + sink);
        if (a->lse != NULL && gpu_thread() < 16) {
            gpu_store4(a->lse + p->request * a->lse_request_stride_bytes +
                           part_query(p) * a->lse_query_stride_bytes +
                           head * a->lse_head_stride_bytes,
                       gpu_as_u32(sum == 0.0f ? GPU_INFINITY : (ref + gpu_log2(sum)) * LN_2));
        }
    }
}

/* Turns the rotated dimensions back; called by the last wave. */
GPU_DEVICE void turn_back(decode_args a, const attn_part *p, gpu_f32x4 v[4])
{
    const int64_t at = (int64_t)p->request * a->n_queries + part_query(p);
    const int32_t row = (int32_t)gpu_load4(a->rope_rows + at);
    if (row < 0 || row >= a->n_rope_rows) {
        for (int i = 0; i < 4; i++) v[i] = (gpu_f32x4){GPU_NAN, GPU_NAN, GPU_NAN, GPU_NAN};
        return;
    }
    const float *table =
        a->rope_table + (int64_t)row * 64 + LANE_DIMS / 2 * (gpu_lane_again() / 16);
    for (int i = 0; i < 4; i++) {
        const float c0 = gpu_load_f32(table + 2 * i), c1 = gpu_load_f32(table + 2 * i + 1),
                    s0 = gpu_load_f32(table + 32 + 2 * i), s1 = gpu_load_f32(table + 33 + 2 * i);
        const gpu_f32x4 x = v[i];
        v[i] = (gpu_f32x4){x[0] * c0 + x[1] * s0, x[1] * c0 - x[0] * s0, x[2] * c1 + x[3] * s1,
                           x[3] * c1 - x[2] * s1};
    }
}

/* 16 values of a head as f32 or bf16, any alignment. */
GPU_DEVICE void write_values(decode_args a, char *out, const gpu_f32x4 v[4])
{
    if (a->out_is_f32) {
        for (int i = 0; i < 4; i++) {
            if (a->out_is_aligned) {
                gpu_store_f32x4(out + 16 * i, v[i]);
            } else {
                for (int k = 0; k < 4; k++) gpu_store4(out + 16 * i + 4 * k, gpu_as_u32(v[i][k]));
            }
        }
        return;
    }
    for (int i = 0; i < 4; i += 2) {
        const gpu_u32x4 words = {
            gpu_to_bf16_pair(v[i][0], v[i][1]), gpu_to_bf16_pair(v[i][2], v[i][3]),
            gpu_to_bf16_pair(v[i + 1][0], v[i + 1][1]), gpu_to_bf16_pair(v[i + 1][2], v[i + 1][3])};
        if (a->out_is_aligned) {
            gpu_store16(out + 8 * i, words);
        } else {
            for (int k = 0; k < 4; k++) {
                gpu_store2(out + 8 * i + 4 * k, words[k] & 0xffffu);
                gpu_store2(out + 8 * i + 4 * k + 2, words[k] >> 16);
            }
        }
    }
}

/* ---- FP8 output ---- */

/* Largest magnitude, NaN not counted, of each head's 64 values of this wave, to shared memory. */
GPU_DEVICE void leave_largest(int n_tiles, const lane_sums *sums, GPU_SHARED part_memory *m)
{
    GPU_UNROLL
    for (int c = 0; c < n_tiles; c++) {
        float largest = 0.0f;
        for (int i = 0; i < 4; i++) {
            for (int k = 0; k < 4; k++) largest = gpu_max(largest, gpu_abs(sums->v[c][i][k]));
        }
        largest = gpu_max(largest, gpu_shuffle_xor_f32(largest, 16));
        largest = gpu_max(largest, gpu_shuffle_xor_f32(largest, 32));
        if (gpu_lane_again() < 16)
            m->largest[TILE_HEADS * c + gpu_lane_again()][gpu_wave()] = largest;
    }
}

/* The ue8m0 code of dsv4_ue8m0_group_scale(largest, 448, least). */
GPU_DEVICE uint32_t group_scale(float largest, float least)
{
    const uint32_t bits = gpu_as_u32(gpu_max(largest, least) * (1.0f / 448.0f));
    const uint32_t code = (bits >> 23) + ((bits & 0x7fffffu) != 0u);
    return code > 254u ? 254u : code;
}

/* Codes of a lane's values of one head, and by one lane of 128 dimensions their scale. */
GPU_DEVICE void write_codes(decode_args a, const attn_part *p, int head, int in_group,
                            const gpu_f32x4 v[4], GPU_SHARED part_memory *m)
{
    const int wave = gpu_wave(), pair = wave / 2 * 2, dim = lane_first_dim();
    const uint32_t scale =
        group_scale(gpu_max(m->largest[in_group][pair], m->largest[in_group][pair + 1]), 1e-4f);
    const float inverse = scale == 254u ? 0x1p-127f : gpu_as_f32((254u - scale) << 23);
    char *out = a->out + p->request * a->out_request_stride_bytes +
                part_query(p) * a->out_query_stride_bytes + head * a->out_head_stride_bytes + dim;
    for (int i = 0; i < 4; i++) {
        uint32_t codes = 0;
        for (int k = 0; k < 4; k++) codes |= to_e4m3(v[i][k] * inverse) << (8 * k);
        if (a->out_is_aligned) {
            gpu_store4(out + 4 * i, codes);
        } else {
            for (int k = 0; k < 4; k++) gpu_store1(out + 4 * i + k, codes >> (8 * k) & 0xffu);
        }
    }
    if (dim % SCALED_DIMS == 0) {
        gpu_store1(a->out_scales + p->request * a->out_scales_request_stride_bytes +
                       part_query(p) * a->out_scales_query_stride_bytes +
                       head * a->out_scales_head_stride_bytes + dim / SCALED_DIMS,
                   scale);
    }
}

/* ---- the whole ---- */

/*
 * All threads call it; heads has ref and sum of the part. Behind it no thread reads m any more but by the next call,
 * which a barrier has to precede.
 */
GPU_DEVICE void finish_part(decode_args a, const attn_part *p, int n_tiles, lane_sums *sums,
                            lane_heads *heads, float first_ref, GPU_SHARED part_memory *m)
{
    if (p->first_slot >= 0) {
        if (!leave_state(a, p, n_tiles, sums, heads, m)) return;
        merge_parts(a, p, n_tiles, sums, heads, first_ref);
    }
    finish_heads(a, p, n_tiles, heads);
    GPU_UNROLL
    for (int c = 0; c < n_tiles; c++) {
        for (int i = 0; i < 4; i++) sums->v[c][i] *= heads->inverse[c];
        if (a->rope_table != NULL && gpu_wave() == DECODE_WAVES - 1) turn_back(a, p, sums->v[c]);
    }
    if (a->out_is_fp8) {
        leave_largest(n_tiles, sums, m);
        gpu_barrier_shared();
    }
    char *out = a->out + p->request * a->out_request_stride_bytes +
                part_query(p) * a->out_query_stride_bytes;
    GPU_UNROLL
    for (int c = 0; c < n_tiles; c++) {
        const int in_group = TILE_HEADS * c + gpu_lane_again() % 16;
        const int head = part_first_head(p, TILE_HEADS * n_tiles) + in_group;
        if (head >= a->n_heads) continue;
        if (a->out_is_fp8) {
            write_codes(a, p, head, in_group, sums->v[c], m);
        } else {
            write_values(a,
                         out + head * a->out_head_stride_bytes +
                             lane_first_dim() * (a->out_is_f32 ? 4 : 2),
                         sums->v[c]);
        }
    }
}

#endif
