/*
 * keys_compress_kernel.c - dsv4_keys_compress on the device: raw rows into the state, and the key of each group that ends.
 *
 * Place: gpu; kernels (gpu.h), one for each ratio. A thread block for each token. A thread has four channels (a lane)
 * and, with ratio 128, four of the group's sixteen runs of eight rows, whose sums it keeps: a part. Most tokens only
 * store their raw row. For one that ends a group, parts agree on the largest maximum and then add their runs one part
 * after the other, so that sums go over runs in ascending order. Rows of the same launch come from the inputs: no block
 * waits for another's stores.
 */
#include "code_objects.h"
#include "keys_lanes.h"
#include "num/exp.h"

enum {
    RUN_ROWS = 8,
    N_LANES = ROW_DIM / LANE_VALUES, /* threads of a part */
    LANE_WAVES = N_LANES / GPU_WAVE,
    OVERLAP_RATIO = 4,
    LONG_RATIO = 128,
    PART_RUNS = 4, /* of the long ratio */
    N_PARTS = LONG_RATIO / RUN_ROWS / PART_RUNS
};

_Static_assert((int)KEYS_COMPRESS_4_THREADS == (int)N_LANES, "one run of eight rows");
_Static_assert((int)KEYS_COMPRESS_128_THREADS == N_LANES * N_PARTS, "parts");

typedef const GPU_ARGUMENTS keys_compress_args *compress_args;

/* What a kernel is made for. */
typedef struct group_shape {
    int ratio, width; /* of K, and of G, in a raw row */
    int n_rows, n_parts, part_runs;
} group_shape;

/* A row of a group: K, and G with its bias or, where there is one, without. */
typedef struct raw_row {
    const float *k, *g;
    int32_t bias; /* offset in ape, or one of the following */
} raw_row;

enum { HAS_ITS_BIAS = -1, COUNTS_NOT = -2 };

/* Softmax of a run relative to `max`: sum of weights, and of weighted K. */
typedef struct run_sums {
    gpu_f32x4 max, weights, keys;
} run_sums;

/* Shared memory of the parts. */
typedef struct parts_memory {
    gpu_f32x4 max[N_PARTS][N_LANES];
    gpu_f32x4 weights[N_LANES], keys[N_LANES];
} parts_memory;

typedef struct group_memory {
    GPU_SHARED raw_row *rows;       /* [n_rows] */
    GPU_SHARED double *squares;     /* [LANE_WAVES] */
    GPU_SHARED parts_memory *parts; /* with one part there is none */
} group_memory;

/* ---- raw rows ---- */

GPU_DEVICE gpu_f32x4 load_four(const float *from, bool is_aligned)
{
    return load_values((const char *)from, 0, true, is_aligned);
}

/* Where the raw row of a position lies; NULL: nowhere. */
GPU_DEVICE float *state_row(compress_args a, group_shape s, int32_t request, uint32_t position)
{
    const char *table = a->tables + request * a->table_stride_bytes;
    const uint32_t entry = position / a->state_page_rows % a->n_table_pages;
    const int32_t page = (int32_t)gpu_load4(table + 4 * (int64_t)entry);
    if (page < 0 || page >= a->n_state_pages) return NULL;
    return (float *)(a->state + page * a->state_page_stride_bytes) +
           (int64_t)(position % a->state_page_rows) * (2 * s.width);
}

GPU_DEVICE raw_row batch_row(compress_args a, group_shape s, int64_t token, int32_t position)
{
    const raw_row row = {(const float *)(a->k + token * a->k_token_stride_bytes),
                         (const float *)(a->g + token * a->g_token_stride_bytes),
                         position % s.ratio * s.width};
    return row;
}

/* The raw row `back` positions before that of `token`: of this launch, or of an earlier one. */
GPU_DEVICE raw_row find_row(compress_args a, group_shape s, int64_t token, int32_t request,
                            int32_t position, int back)
{
    const raw_row none = {NULL, NULL, COUNTS_NOT};
    const int64_t other = token - back;
    position -= back;
    if (position < 0) return none;
    if (other >= 0 && (int32_t)gpu_load4(a->requests + other) == request &&
        (int32_t)gpu_load4(a->positions + other) == position) {
        return batch_row(a, s, other, position);
    }
    const float *stored = state_row(a, s, request, (uint32_t)position);
    if (stored == NULL) return none;
    const raw_row row = {stored, stored + s.width, HAS_ITS_BIAS};
    return row;
}

GPU_DEVICE void store_raw_row(compress_args a, group_shape s, raw_row own, float *row, int channel)
{
    const bool is_aligned = a->raw_is_aligned != 0;
    for (int at = channel; at < s.width; at += ROW_DIM) {
        gpu_store_f32x4(row + at, load_four(own.k + at, is_aligned));
        gpu_store_f32x4(row + s.width + at, load_four(own.g + at, is_aligned) +
                                                load_four(a->ape + own.bias + at, is_aligned));
    }
}

/* ---- softmax ---- */

/* Eight rows from `first` on; of the overlapping ratio the last four use the second half of their channels. */
GPU_DEVICE run_sums sum_run(compress_args a, group_shape s, GPU_SHARED const raw_row *rows,
                            int first, int channel)
{
    gpu_f32x4 k[RUN_ROWS] = {}, g[RUN_ROWS] = {};
    bool counts[RUN_ROWS];
    GPU_UNROLL
    for (int r = 0; r < RUN_ROWS; r++) {
        const int32_t bias = gpu_uniform(rows[first + r].bias);
        const int at = channel + (s.ratio == OVERLAP_RATIO && r >= OVERLAP_RATIO ? ROW_DIM : 0);
        const bool is_aligned = a->raw_is_aligned != 0 || bias == HAS_ITS_BIAS;
        counts[r] = bias != COUNTS_NOT;
        if (!counts[r]) continue;
        k[r] = load_four(rows[first + r].k + at, is_aligned);
        g[r] = load_four(rows[first + r].g + at, is_aligned);
        if (bias >= 0) g[r] = g[r] + load_four(a->ape + bias + at, is_aligned);
    }
    run_sums sums;
    for (int i = 0; i < LANE_VALUES; i++) {
        float max = -GPU_INFINITY, weights = 0.0f, keys = 0.0f;
        GPU_UNROLL
        for (int r = 0; r < RUN_ROWS; r++) {
            if (counts[r] && g[r][i] > max) max = g[r][i];
        }
        GPU_UNROLL
        for (int r = 0; r < RUN_ROWS; r++) {
            if (!counts[r]) continue;
            const float weight = dsv4_exp_f32(g[r][i] - max);
            weights = weights + weight;
            keys = keys + weight * k[r][i];
        }
        sums.max[i] = max;
        sums.weights[i] = weights;
        sums.keys[i] = keys;
    }
    return sums;
}

GPU_DEVICE gpu_f32x4 larger(gpu_f32x4 a, gpu_f32x4 b)
{
    for (int i = 0; i < LANE_VALUES; i++) a[i] = b[i] > a[i] ? b[i] : a[i];
    return a;
}

/* Runs of a part, the last one at the end: all move up for another, so that loops over them need not be unrolled. */
typedef struct part_sums {
    run_sums runs[PART_RUNS];
} part_sums;

GPU_DEVICE void move_up(part_sums *sums)
{
    GPU_UNROLL
    for (int r = 0; r < PART_RUNS - 1; r++) sums->runs[r] = sums->runs[r + 1];
}

/* Runs of this thread's part on top of `weights` and `keys`, relative to `max`; uses them up. */
GPU_DEVICE void add_runs(group_shape s, part_sums *sums, gpu_f32x4 max, gpu_f32x4 *weights,
                         gpu_f32x4 *keys)
{
    for (int r = 0; r < s.part_runs; r++) {
        const run_sums *run = &sums->runs[PART_RUNS - s.part_runs];
        for (int i = 0; i < LANE_VALUES; i++) {
            const float weight = dsv4_exp_f32(run->max[i] - max[i]);
            (*weights)[i] = (*weights)[i] + weight * run->weights[i];
            (*keys)[i] = (*keys)[i] + weight * run->keys[i];
        }
        move_up(sums);
    }
}

/* The pooled channels of this lane, in the last part; every thread of the block calls it. */
GPU_DEVICE gpu_f32x4 pool_group(compress_args a, group_shape s, group_memory m, int part, int lane)
{
    part_sums sums = {};
    gpu_f32x4 weights = {}, keys = {};
    gpu_f32x4 max = {-GPU_INFINITY, -GPU_INFINITY, -GPU_INFINITY, -GPU_INFINITY};
    for (int r = 0; r < s.part_runs; r++) {
        const int first = (part * s.part_runs + r) * RUN_ROWS;
        move_up(&sums);
        sums.runs[PART_RUNS - 1] = sum_run(a, s, m.rows, first, LANE_VALUES * lane);
        max = larger(max, sums.runs[PART_RUNS - 1].max);
    }
    if (s.n_parts > 1) {
        m.parts->max[part][lane] = max;
        gpu_barrier_shared();
        for (int other = 0; other < s.n_parts; other++)
            max = larger(max, m.parts->max[other][lane]);
    }
    for (int turn = 0; turn < s.n_parts; turn++) {
        if (turn > 0) gpu_barrier_shared();
        if (turn != part) continue;
        if (turn > 0) {
            weights = m.parts->weights[lane];
            keys = m.parts->keys[lane];
        }
        add_runs(s, &sums, max, &weights, &keys);
        if (turn == s.n_parts - 1) continue;
        m.parts->weights[lane] = weights;
        m.parts->keys[lane] = keys;
    }
    return keys / weights;
}

/* ---- tokens ---- */

/* Everything behind the norm's factor, of one lane: as dsv4_compress_finish, then the cache. */
GPU_DEVICE void finish_key(compress_args a, int32_t rope_row, unsigned char *page, uint32_t row,
                           int channel, gpu_f32x4 key)
{
    key = multiply_weight(a->norm, channel, key);
    if (a->is_official) key = round_values(key);
    if (channel >= NOPE_DIM) {
        key = rotate_values(&a->rope, rope_row, channel, key);
        if (a->is_official) key = round_values(key);
    }
    store_key(&a->compressed, page, row, channel, key);
}

/* The key of the group that the token ends. */
GPU_DEVICE void emit_key(compress_args a, group_shape s, group_memory m, int64_t token,
                         int32_t request, int32_t position, unsigned char *page, uint32_t row)
{
    const int thread = gpu_thread(), part = gpu_uniform(thread / N_LANES), lane = thread % N_LANES;
    const bool is_last_part = part == s.n_parts - 1;
    if (thread < s.n_rows) {
        const raw_row found = find_row(a, s, token, request, position, s.n_rows - 1 - thread);
        m.rows[thread].k = found.k;
        m.rows[thread].g = found.g;
        m.rows[thread].bias = found.bias;
    }
    gpu_barrier_shared();
    gpu_f32x4 key = pool_group(a, s, m, part, lane);
    if (a->is_official) key = round_values(key);
    if (is_last_part) {
        const double sum = sum_wave(add_squares(0.0, key));
        if (gpu_lane() == 0) m.squares[gpu_wave() % LANE_WAVES] = sum;
    }
    gpu_barrier_shared();
    if (!is_last_part) return;
    double sum = 0.0;
    for (int i = 0; i < LANE_WAVES; i++) sum += m.squares[i];
    const float factor = norm_factor(sum, a->norm_eps);
    for (int i = 0; i < LANE_VALUES; i++) key[i] = key[i] * factor;
    const int32_t rope_row =
        a->rope.rows != NULL ? (int32_t)gpu_load4(a->rope.rows + token) : position - s.ratio + 1;
    finish_key(a, rope_row, page, row, LANE_VALUES * lane, key);
}

GPU_DEVICE void compress_token(compress_args a, group_shape s, group_memory m)
{
    const int64_t token = gpu_block();
    const int32_t position = gpu_uniform((int)gpu_load4(a->positions + token)),
                  request = gpu_uniform((int)gpu_load4(a->requests + token));
    if (position < 0 || request < 0 || request >= a->n_requests) return;
    float *own = state_row(a, s, request, (uint32_t)position);
    if (own != NULL && gpu_thread() < N_LANES) {
        store_raw_row(a, s, batch_row(a, s, token, position), own, LANE_VALUES * gpu_thread());
    }
    if (position % s.ratio != s.ratio - 1) return;
    uint32_t row = 0;
    unsigned char *page =
        find_page(&a->compressed, gpu_uniform((int)gpu_load4(a->slots + token)), &row);
    if (page != NULL) emit_key(a, s, m, token, request, position, page, row);
}

GPU_KERNEL(dsv4_keys_compress_4, KEYS_COMPRESS_4_THREADS)(const keys_compress_args args)
{
    GPU_SHARED_VARIABLE raw_row rows[2 * OVERLAP_RATIO];
    GPU_SHARED_VARIABLE double squares[LANE_WAVES];
    const group_shape s = {.ratio = OVERLAP_RATIO,
                           .width = 2 * ROW_DIM,
                           .n_rows = 2 * OVERLAP_RATIO,
                           .n_parts = 1,
                           .part_runs = 1};
    const group_memory m = {rows, squares, NULL};
    compress_token(gpu_arguments(&args), s, m);
}

GPU_KERNEL(dsv4_keys_compress_128, KEYS_COMPRESS_128_THREADS)(const keys_compress_args args)
{
    GPU_SHARED_VARIABLE raw_row rows[LONG_RATIO];
    GPU_SHARED_VARIABLE double squares[LANE_WAVES];
    GPU_SHARED_VARIABLE parts_memory parts;
    const group_shape s = {.ratio = LONG_RATIO,
                           .width = ROW_DIM,
                           .n_rows = LONG_RATIO,
                           .n_parts = N_PARTS,
                           .part_runs = PART_RUNS};
    const group_memory m = {rows, squares, &parts};
    compress_token(gpu_arguments(&args), s, m);
}
