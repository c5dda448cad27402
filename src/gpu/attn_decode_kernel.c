/*
 * attn_decode_kernel.c - decode attention for gfx950 and gfx942, 16, 32 or 64 heads together.
 *
 * Place: gpu; kernels (gpu.h). One thread block of eight waves on a compute unit stays for all its parts
 * (attn_device.h) and goes through their keys in steps of 32. Rows wait in shared memory (decode_rows.h), five steps
 * ahead. A step t, behind one barrier:
 *
 *   scores   wave u has 16 heads, u / 2, and 16 of the step's keys, u % 2: multiplies them with its heads'
 *            queries, which stay in registers (decode_scores.h), in bf16 or FP8; leaves probabilities in shared memory.
 *            Fewer than 64 heads leave the other waves without scores.
 *   values   meanwhile every wave adds step t - 1: all heads' probabilities times the 64 dimensions that are its own,
 *            converted once more, this time eight keys of four dimensions a lane.
 *
 * Values are bf16 in either case. In a product keys (or dimensions) are the rows and heads the columns, so that a lane has one head all the time.
 *
 * Softmax: probabilities are relative to a reference per head, 2^(score - ref): any number within 2^+-40 of the
 * largest score does, since bf16 and f32 have the exponents for it. So there is no running maximum: a step whose sums
 * pass 2^40 (the first one always does) sets a new reference before its values are added.
 *
 * A NaN code or scale makes its row's score NaN for every head. Rows that no list names are never used.
 */
#include "code_objects.h"
#include "decode_output.h"
#include "decode_refuse.h"
#include "decode_rows.h"
#include "decode_scores.h"
#include "gpu_matrix.h"

#define LARGEST_SUM 1099511627776.0f /* 2^40 */

enum {
    PROBS_PITCH = DECODE_KEYS + 8, /* bf16 of a head: heads fall into different banks */
    QUARTER_KEYS = 4,              /* in a row, that 16 lanes have of a product's keys */
    QUARTER_WORDS = 16,            /* that they read of a row */
    BANKS = 64,                    /* of gfx950's shared memory, of a word */
    N_FLAGS = 3,
};

_Static_assert((int)DECODE_THREADS == (int)DECODE_BLOCK_THREADS, "what a host launches");
_Static_assert(QUARTER_KEYS *ROW_PITCH / 4 % BANKS == QUARTER_WORDS,
               "a wave reads values of all banks");

typedef struct decode_memory {
    row_memory rows;
    union {
        uint16_t probs[2][DECODE_MAX_HEADS][PROBS_PITCH] __attribute__((aligned(16)));
        part_memory part; /* at the end of a part */
    };
    float wave_values[DECODE_WAVES][16]; /* largest scores, or sums at the end of a part */
    float rescale[DECODE_MAX_HEADS], ref[DECODE_MAX_HEADS];
    int32_t is_large[N_FLAGS]; /* of a step: some wave's sums passed LARGEST_SUM */
} decode_memory;

/* Probabilities of the lane's four keys to shared memory; true unless their sum is small enough for this reference. */
GPU_DEVICE bool make_probs(score_lane *w, int buffer, GPU_SHARED decode_memory *m)
{
    float probs[4];
    for (int r = 0; r < 4; r++) {
        probs[r] = gpu_exp2(gpu_fma(w->scores[r], w->scale_log2, -w->ref));
    }
    w->last_sum = probs[0] + probs[1] + (probs[2] + probs[3]);
    const gpu_u32x2 words = {gpu_to_bf16_pair(probs[0], probs[1]),
                             gpu_to_bf16_pair(probs[2], probs[3])};
    const int lane = gpu_lane();
    *(GPU_SHARED gpu_u32x2 *)&m->probs[buffer][TILE_HEADS * w->column + lane % 16]
                                      [2 * QUARTER_KEYS * (lane / 16) + QUARTER_KEYS * w->tile] =
        words;
    return !(w->last_sum < LARGEST_SUM);
}

GPU_DEVICE float reduce_quarters(float value, bool adds)
{
    for (int other = 16; other < 64; other *= 2) {
        const float theirs = gpu_shuffle_xor_f32(value, other);
        value = adds ? value + theirs : gpu_max(value, theirs);
    }
    return value;
}

/* A new reference for every head from the last step's scores, and everything so far relative to it. */
GPU_DEVICE void set_reference(score_lane *w, int buffer, int n_tiles, lane_sums *sums,
                              GPU_SHARED decode_memory *m)
{
    const int lane = gpu_lane(), wave = gpu_wave();
    if (w->is_active) {
        const gpu_f32x4 s = w->scores;
        const float largest =
            reduce_quarters(gpu_max(gpu_max(s[0], s[1]), gpu_max(s[2], s[3])), false);
        if (lane < 16) m->wave_values[wave][lane] = largest;
    }
    gpu_barrier_shared();
    if (w->is_active) {
        const float largest = gpu_max(m->wave_values[2 * w->column][lane % 16],
                                      m->wave_values[2 * w->column + 1][lane % 16]);
        const float now = gpu_max(w->ref, largest * w->scale_log2);
        const float factor = gpu_exp2(w->ref - now);
        w->ref = now;
        w->sum *= factor;
        if (w->tile == 0 && lane < 16) m->rescale[TILE_HEADS * w->column + lane] = factor;
        (void)make_probs(w, buffer, m);
    }
    gpu_barrier_shared();
    GPU_UNROLL
    for (int c = 0; c < n_tiles; c++) {
        const float factor = m->rescale[TILE_HEADS * c + lane % 16];
        for (int i = 0; i < 4; i++) sums->v[c][i] *= factor;
    }
}

/* ---- values ---- */

/* Of a lane's eight keys, behind the first: its quarter's of both products' rows that scores come from. */
GPU_DEVICE int value_key(int e)
{
    return e % QUARTER_KEYS + DECODE_KEYS / 2 * (e / QUARTER_KEYS);
}

/* Four dimensions, 4 (lane % 16) ... of the wave's 64, of the lane's eight keys, as pairs of bf16. */
GPU_DEVICE void load_values(int slot, uint32_t low[8], uint32_t high[8],
                            GPU_SHARED decode_memory *m)
{
    const int lane = gpu_lane(), wave = gpu_wave(), first = QUARTER_KEYS * (lane / 16);
    GPU_SHARED const unsigned char *rows = m->rows.rows[slot] + first * ROW_PITCH;
    if (wave == CODE_GROUPS) {
        for (int e = 0; e < 8; e++) {
            const gpu_u32x2 pairs =
                shared8(rows + value_key(e) * ROW_PITCH + ROTATED_PLACE + 8 * (lane % 16));
            low[e] = pairs[0];
            high[e] = pairs[1];
        }
        return;
    }
    for (int e = 0; e < 8; e++) {
        GPU_SHARED const unsigned char *row = rows + value_key(e) * ROW_PITCH;
        const uint32_t codes = *(GPU_SHARED const uint32_t *)(row + 64 * wave + 4 * (lane % 16));
        const uint32_t scale = gpu_scale_bits(m->rows.scales[slot][first + value_key(e)][wave]);
        low[e] = gpu_codes_to_bf16_low(codes, scale);
        high[e] = gpu_codes_to_bf16_high(codes, scale);
    }
}

/* sums += values * probabilities; row i of operand j is dimension 4i + j, so that a lane's sums are 16 in a row. */
GPU_DEVICE void add_values(int slot, int buffer, int n_tiles, lane_sums *sums,
                           GPU_SHARED decode_memory *m)
{
    const int lane = gpu_lane();
    uint32_t low[8], high[8];
    load_values(slot, low, high, m);
    gpu_u32x4 values[4];
    for (int i = 0; i < 4; i++) {
        values[0][i] = gpu_low_halves(low[2 * i], low[2 * i + 1]);
        values[1][i] = gpu_high_halves(low[2 * i], low[2 * i + 1]);
        values[2][i] = gpu_low_halves(high[2 * i], high[2 * i + 1]);
        values[3][i] = gpu_high_halves(high[2 * i], high[2 * i + 1]);
    }
    GPU_UNROLL
    for (int c = 0; c < n_tiles; c++) {
        const gpu_u32x4 probs = *(GPU_SHARED const gpu_u32x4 *)&m
                                     ->probs[buffer][TILE_HEADS * c + lane % 16][8 * (lane / 16)];
        for (int j = 0; j < 4; j++) {
            sums->v[c][j] = gpu_multiply_bf16(values[j], probs, sums->v[c][j]);
        }
    }
}

/* From a value of each operand in a piece to the dimensions in order. */
GPU_DEVICE void order_sums(int n_tiles, lane_sums *sums)
{
    GPU_UNROLL
    for (int c = 0; c < n_tiles; c++) {
        gpu_f32x4 v[4];
        for (int i = 0; i < 4; i++) v[i] = sums->v[c][i];
        for (int i = 0; i < 4; i++) {
            sums->v[c][i] = (gpu_f32x4){v[0][i], v[1][i], v[2][i], v[3][i]};
        }
    }
}

/* ---- the whole ---- */

/* References and sums of the part, for every lane. */
GPU_DEVICE void share_heads(const score_lane *w, int n_tiles, lane_heads *heads,
                            GPU_SHARED decode_memory *m)
{
    const int lane = gpu_lane_again();
    if (w->is_active) {
        const float sum = reduce_quarters(w->sum + w->last_sum, true);
        if (lane < 16) m->wave_values[gpu_wave()][lane] = sum;
        if (lane < 16 && w->tile == 0) m->ref[TILE_HEADS * w->column + lane] = w->ref;
    }
    gpu_barrier_shared();
    GPU_UNROLL
    for (int c = 0; c < n_tiles; c++) {
        heads->ref[c] = m->ref[TILE_HEADS * c + lane % 16];
        heads->sum[c] = m->wave_values[2 * c][lane % 16] + m->wave_values[2 * c + 1][lane % 16];
    }
}

/* Behind the barrier of step t: scores of t, values of t - 1; first_step is the part's first one's number. */
GPU_DEVICE void run_step(decode_args a, int32_t first_step, int32_t t, int32_t n_steps, int n_tiles,
                         score_kind kind, score_lane *w, lane_sums *sums, row_queue *queue,
                         GPU_SHARED decode_memory *m)
{
    const int32_t step = first_step + t;
    if (t > 0 && gpu_uniform(m->is_large[(t - 1) % N_FLAGS]) != 0) {
        set_reference(w, (t - 1) % 2, n_tiles, sums, m);
    }
    if (gpu_thread() == 0) m->is_large[(t + 1) % N_FLAGS] = 0;
    if (t > 0) issue_step(a, queue, &m->rows);
    if (t < n_steps && w->is_active) {
        w->sum += w->last_sum;
        if (kind == SCORES_FP8) {
            multiply_scores_codes(w, step % DECODE_SLOTS, &m->rows);
        } else {
            multiply_scores(w, step % DECODE_SLOTS, &m->rows);
        }
        const bool is_large = make_probs(w, t % 2, m);
        if (gpu_any(is_large) && gpu_lane() == 0) m->is_large[t % N_FLAGS] = 1;
    }
    if (t > 0) add_values((step - 1) % DECODE_SLOTS, (t - 1) % 2, n_tiles, sums, m);
}

GPU_DEVICE void run_part(decode_args a, const attn_part *p, int32_t first_step, int n_tiles,
                         score_kind kind, row_queue *queue, GPU_SHARED decode_memory *m)
{
    const int32_t n_steps = part_n_steps(p);
    score_lane w;
    w.column = gpu_wave() / 2;
    w.tile = gpu_wave() % 2;
    w.is_active = w.column < n_tiles;
    w.scores = (gpu_f32x4){0.0f, 0.0f, 0.0f, 0.0f};
    w.scale_log2 = gpu_in_lanes(a->scale_log2);
    w.ref = FIRST_REF;
    w.sum = 0.0f;
    w.last_sum = 0.0f;
    lane_sums sums;
    GPU_UNROLL
    for (int c = 0; c < n_tiles; c++) {
        for (int i = 0; i < 4; i++) sums.v[c][i] = (gpu_f32x4){0.0f, 0.0f, 0.0f, 0.0f};
    }
    load_query(a, p, TILE_HEADS * n_tiles, &w);
    wait_query(&w);
    if (kind == SCORES_FP8) make_query_codes(&w);
    if (gpu_thread() < N_FLAGS) m->is_large[gpu_thread()] = 0;
    if (n_steps > 0) {
        for (int32_t t = 0; t <= n_steps; t++) {
            if (t < n_steps) wait_rows(queue, first_step + t);
            gpu_barrier_shared();
            a = gpu_arguments_again(a);
            run_step(a, first_step, t, n_steps, n_tiles, kind, &w, &sums, queue, m);
        }
    }
    lane_heads heads;
    a = gpu_arguments_again(a);
    gpu_barrier_shared(); /* probabilities have been read: their memory is free */
    share_heads(&w, n_tiles, &heads, m);
    order_sums(n_tiles, &sums);
    finish_part(a, p, n_tiles, &sums, &heads, FIRST_REF, &m->part);
}

GPU_DEVICE void run_decode(decode_args a, int n_tiles, score_kind kind, GPU_SHARED decode_memory *m)
{
    if (!is_own_plan(a)) {
        refuse_plan(a);
        return;
    }
    row_queue queue = begin_rows(a, &m->rows);
    int32_t first_step = 0;
    for (int32_t round = 0, rank; (rank = rank_of_round(round)) < queue.n_ranks; round++) {
        const attn_part p = read_part(a, rank);
        run_part(a, &p, first_step, n_tiles, kind, &queue, m);
        first_step += part_n_steps(&p);
    }
}

GPU_KERNEL(dsv4_attn_bf16_h16, DECODE_THREADS)(const attn_args a)
{
    GPU_SHARED_VARIABLE decode_memory memory;
    run_decode(gpu_arguments(&a), 1, SCORES_BF16, &memory);
}

GPU_KERNEL(dsv4_attn_bf16_h32, DECODE_THREADS)(const attn_args a)
{
    GPU_SHARED_VARIABLE decode_memory memory;
    run_decode(gpu_arguments(&a), 2, SCORES_BF16, &memory);
}

#if !defined(__AMDGCN__) ||                                                                        \
    defined(__gfx950__) /* gfx942: too little shared memory, no such products */
GPU_KERNEL(dsv4_attn_bf16_h64, DECODE_THREADS)(const attn_args a)
{
    GPU_SHARED_VARIABLE decode_memory memory;
    run_decode(gpu_arguments(&a), 4, SCORES_BF16, &memory);
}

GPU_KERNEL(dsv4_attn_fp8_h16, DECODE_THREADS)(const attn_args a)
{
    GPU_SHARED_VARIABLE decode_memory memory;
    run_decode(gpu_arguments(&a), 1, SCORES_FP8, &memory);
}

GPU_KERNEL(dsv4_attn_fp8_h32, DECODE_THREADS)(const attn_args a)
{
    GPU_SHARED_VARIABLE decode_memory memory;
    run_decode(gpu_arguments(&a), 2, SCORES_FP8, &memory);
}

GPU_KERNEL(dsv4_attn_fp8_h64, DECODE_THREADS)(const attn_args a)
{
    GPU_SHARED_VARIABLE decode_memory memory;
    run_decode(gpu_arguments(&a), 4, SCORES_FP8, &memory);
}
#endif
