/*
 * keys_compress_kernel.c - dsv4_keys_compress on the device: raw rows into the state, and the key of each group that ends.
 *
 * Place: gpu; kernels (gpu.h): one for each ratio, and one for the long ratio in clusters. A block, or a cluster whose
 * blocks have an equal part of the channels each, for each token. A thread has four channels (a lane) and some of the
 * group's runs of eight rows. Most tokens only store their raw row. For one that ends a group a thread loads all of a run
 * before it weighs it; lanes then add runs in ascending order. Rows of the same launch come from the inputs: no block
 * waits for another's stores. Blocks of a cluster share nothing but their parts of the sum of squares, which are added in
 * the same order as within one block.
 */
#if !defined(GPU_CLUSTERS)
#define GPU_CLUSTERS
#endif

#include "keys_lanes.h"
#include "num/exp.h"

enum {
    RUN_ROWS = 8,
    N_LANES = ROW_DIM / FOUR,
    SEGMENT_LANES = SCALED_DIM / FOUR, /* the sum of squares goes over these, then over segments */
    N_SEGMENTS = ROW_DIM / SCALED_DIM,
    OVERLAP_RATIO = 4,
    LONG_RATIO = 128,
    LONG_RUNS = LONG_RATIO / RUN_ROWS,
    /* Without a cluster, of the long ratio: all channels at once, or slices of them, so that sums of runs are 24 KB, of
     * which gfx942 has room for two blocks'. */
    LONG_LANES = GPU_WAVE == 32 ? N_LANES : 32,
    CLUSTER_LANES = N_LANES / KEYS_CLUSTER_BLOCKS
};

_Static_assert((int)KEYS_COMPRESS_4_THREADS == (int)N_LANES, "one run of eight rows");
_Static_assert((int)KEYS_COMPRESS_128_THREADS % LONG_LANES == 0, "runs at once");
_Static_assert((int)KEYS_CLUSTER_THREADS == CLUSTER_LANES * LONG_RUNS, "all runs at once");
_Static_assert(CLUSTER_LANES == SEGMENT_LANES, "a segment of each block");

typedef const GPU_ARGUMENTS keys_compress_args *compress_args;

/* What a kernel is made for. */
typedef struct group_shape {
    int ratio, width; /* of K, and of G, in a raw row */
    int n_rows;
    int n_blocks;    /* of a token */
    int n_lanes;     /* at once */
    int n_run_lanes; /* of each of them */
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

/* The same in shared memory, bias apart: 20 bytes, since NVIDIA's smaller devices give a block no more than 99 KB. */
typedef struct row_place {
    const float *k, *g;
} row_place;

_Static_assert(LONG_RUNS *LONG_LANES * sizeof(run_sums) +
                       LONG_RATIO * (sizeof(row_place) + sizeof(int32_t)) +
                       N_SEGMENTS * sizeof(double) <=
                   99 * 1024,
               "shared memory");

typedef struct group_memory {
    GPU_SHARED row_place *rows;  /* [n_rows] */
    GPU_SHARED int32_t *biases;  /* [n_rows] */
    GPU_SHARED double *segments; /* [N_SEGMENTS], in a cluster [1] */
    GPU_SHARED run_sums *runs;   /* [runs, n_lanes]; of one run there is none */
} group_memory;

/* Lanes of a block, and those of its threads that add runs: whole waves. */
GPU_DEVICE int block_lanes(group_shape s)
{
    return N_LANES / s.n_blocks;
}

GPU_DEVICE int n_adders(group_shape s)
{
    return gpu_max_i32(block_lanes(s), GPU_WAVE);
}

/* ---- raw rows ---- */

GPU_DEVICE gpu_f32x4 load_channels(const float *from, bool is_aligned)
{
    gpu_f32x4 x;
    load_values((const char *)from, 0, FOUR, true, is_aligned, &x);
    return x;
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
        const gpu_f32x4 k = load_channels(own.k + at, is_aligned),
                        g = load_channels(own.g + at, is_aligned),
                        bias = load_channels(a->ape + own.bias + at, is_aligned);
        gpu_store_f32x4(row + at, k);
        gpu_store_f32x4(row + s.width + at, g + bias);
    }
}

/* ---- softmax ---- */

/* Eight rows from `first` on; of the overlapping ratio the last four use the second half of their channels. */
GPU_DEVICE run_sums sum_run(compress_args a, group_shape s, group_memory m, int first, int channel)
{
    gpu_f32x4 k[RUN_ROWS] = {}, g[RUN_ROWS] = {};
    bool counts[RUN_ROWS];
    GPU_UNROLL
    for (int r = 0; r < RUN_ROWS; r++) {
        const int32_t bias = m.biases[first + r];
        const int at = channel + (s.ratio == OVERLAP_RATIO && r >= OVERLAP_RATIO ? ROW_DIM : 0);
        const bool is_aligned = a->raw_is_aligned != 0 || bias == HAS_ITS_BIAS;
        counts[r] = bias != COUNTS_NOT;
        if (!counts[r]) continue;
        k[r] = load_channels(m.rows[first + r].k + at, is_aligned);
        g[r] = load_channels(m.rows[first + r].g + at, is_aligned);
        if (bias >= 0) g[r] = g[r] + load_channels(a->ape + bias + at, is_aligned);
    }
    run_sums sums;
    GPU_UNROLL
    for (int i = 0; i < FOUR; i++) {
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

/* runs: of one lane, n_lanes apart, as below. The largest maximum of each channel; none is NaN. */
GPU_DEVICE gpu_f32x4 find_max(GPU_SHARED const run_sums *runs, int n_runs, int n_lanes)
{
    gpu_f32x4 max = {-GPU_INFINITY, -GPU_INFINITY, -GPU_INFINITY, -GPU_INFINITY};
    for (int run = 0; run < n_runs; run++) {
        const gpu_f32x4 of_run = runs[run * n_lanes].max;
        GPU_UNROLL
        for (int i = 0; i < FOUR; i++) max[i] = gpu_max(max[i], of_run[i]);
    }
    return max;
}

/* Makes a run's sums relative to `max`. */
GPU_DEVICE void scale_run(GPU_SHARED run_sums *sums, gpu_f32x4 max)
{
    const gpu_f32x4 own_max = sums->max;
    gpu_f32x4 weights = sums->weights, keys = sums->keys;
    GPU_UNROLL
    for (int i = 0; i < FOUR; i++) {
        const float weight = dsv4_exp_f32(own_max[i] - max[i]);
        weights[i] = weight * weights[i];
        keys[i] = weight * keys[i];
    }
    sums->weights = weights;
    sums->keys = keys;
}

/* The pooled key, of scaled runs. */
GPU_DEVICE gpu_f32x4 add_runs(GPU_SHARED const run_sums *runs, int n_runs, int n_lanes)
{
    gpu_f32x4 weights = {}, keys = {};
    for (int run = 0; run < n_runs; run++) {
        weights = weights + runs[run * n_lanes].weights;
        keys = keys + runs[run * n_lanes].keys;
    }
    return keys / weights;
}

/* The pooled key's four channels of each adder, the first of a block being `first_channel`; every thread calls it. */
GPU_DEVICE gpu_f32x4 pool_group(compress_args a, group_shape s, group_memory m, int first_channel)
{
    const int thread = gpu_thread(), lane = thread % s.n_lanes, n_runs = s.n_rows / RUN_ROWS;
    if (n_runs == 1) {
        const run_sums sums = sum_run(a, s, m, 0, FOUR * lane);
        return sums.keys / sums.weights;
    }
    GPU_SHARED run_sums *const own = m.runs + lane;
    gpu_f32x4 key = {};
    for (int begin = 0; begin < block_lanes(s); begin += s.n_lanes) { /* a slice */
        const int channel = first_channel + FOUR * (begin + lane);
        for (int run = thread / s.n_lanes; run < n_runs; run += s.n_run_lanes) {
            const run_sums sums = sum_run(a, s, m, run * RUN_ROWS, channel);
            if (begin > 0) gpu_barrier_shared(); /* the slice before has been added */
            own[run * s.n_lanes] = sums;
        }
        gpu_barrier_shared();
        const gpu_f32x4 max = find_max(own, n_runs, s.n_lanes);
        for (int run = thread / s.n_lanes; run < n_runs; run += s.n_run_lanes)
            scale_run(&own[run * s.n_lanes], max);
        gpu_barrier_shared();
        const bool adds =
            thread < n_adders(s) && thread % block_lanes(s) / s.n_lanes * s.n_lanes == begin;
        if (adds) key = add_runs(own, n_runs, s.n_lanes);
    }
    return key;
}

/* ---- tokens ---- */

/* All blocks of the token. */
GPU_DEVICE void wait_for_blocks(group_shape s)
{
    if (s.n_blocks == 1) {
        gpu_barrier_shared();
    } else {
        gpu_cluster_barrier();
    }
}

/* The row's sum of squares from those of segments, in ascending order. */
GPU_DEVICE double add_segments(group_shape s, group_memory m)
{
    double sum = 0.0;
    GPU_UNROLL
    for (int i = 0; i < N_SEGMENTS; i++)
        sum += s.n_blocks == 1 ? m.segments[i] : gpu_cluster_load_f64(m.segments, i);
    return sum;
}

/* Everything behind the norm's factor, of one lane: as dsv4_compress_finish, then the cache. */
GPU_DEVICE void store_group_key(compress_args a, int32_t rope_row, unsigned char *page,
                                uint32_t row, int channel, bool stores, gpu_f32x4 key)
{
    key = multiply_weight(a->norm, channel, key);
    if (a->is_official) key = round_values(key);
    if (channel >= NOPE_DIM) {
        key = rotate_values(&a->rope, rope_row, channel, key);
        if (a->is_official) key = round_values(key);
    }
    store_key(&a->compressed, page, row, channel, FOUR, stores, &key);
}

/* The key of the group that the token ends, `block` of its blocks. */
GPU_DEVICE void emit_key(compress_args a, group_shape s, group_memory m, int64_t token,
                         int32_t request, int32_t position, int block, unsigned char *page,
                         uint32_t row)
{
    const int thread = gpu_thread(), lane = thread % block_lanes(s);
    const int first_channel = FOUR * block * block_lanes(s);
    if (thread < s.n_rows) {
        const raw_row found = find_row(a, s, token, request, position, s.n_rows - 1 - thread);
        m.rows[thread].k = found.k;
        m.rows[thread].g = found.g;
        m.biases[thread] = found.bias;
    }
    gpu_barrier_shared();
    gpu_f32x4 key = pool_group(a, s, m, first_channel);
    if (thread < n_adders(s)) {
        if (a->is_official) key = round_values(key);
        const double sum = sum_lanes(add_squares(0.0, key), SEGMENT_LANES);
        if (thread < block_lanes(s) && thread % SEGMENT_LANES == 0)
            m.segments[thread / SEGMENT_LANES] = sum;
    }
    wait_for_blocks(s);
    if (thread < n_adders(s)) {
        const float factor = norm_factor(add_segments(s, m), a->norm_eps);
        const int32_t rope_row = a->rope.rows != NULL ? (int32_t)gpu_load4(a->rope.rows + token)
                                                      : position - s.ratio + 1;
        GPU_UNROLL
        for (int i = 0; i < FOUR; i++) key[i] = key[i] * factor;
        store_group_key(a, rope_row, page, row, first_channel + FOUR * lane,
                        thread < block_lanes(s), key);
    }
    if (s.n_blocks > 1) gpu_cluster_end(); /* others may still read this block's sum */
}

GPU_DEVICE void compress_token(compress_args a, group_shape s, group_memory m)
{
    const int64_t token = gpu_block() / s.n_blocks;
    const int block = gpu_block() % s.n_blocks, lane = gpu_thread();
    const int32_t position = gpu_uniform((int)gpu_load4(a->positions + token)),
                  request = gpu_uniform((int)gpu_load4(a->requests + token));
    if (position < 0 || request < 0 || request >= a->n_requests) return;
    float *own = state_row(a, s, request, (uint32_t)position);
    if (own != NULL && lane < block_lanes(s)) {
        store_raw_row(a, s, batch_row(a, s, token, position), own,
                      FOUR * (block * block_lanes(s) + lane));
    }
    if (position % s.ratio != s.ratio - 1) return;
    uint32_t row = 0;
    unsigned char *page =
        find_page(&a->compressed, gpu_uniform((int)gpu_load4(a->slots + token)), &row);
    if (page != NULL) emit_key(a, s, m, token, request, position, block, page, row);
}

GPU_KERNEL(dsv4_keys_compress_4, KEYS_COMPRESS_4_THREADS)(GPU_BY_VALUE keys_compress_args args)
{
    GPU_SHARED_VARIABLE row_place rows[2 * OVERLAP_RATIO];
    GPU_SHARED_VARIABLE int32_t biases[2 * OVERLAP_RATIO];
    GPU_SHARED_VARIABLE double segments[N_SEGMENTS];
    const group_shape s = {.ratio = OVERLAP_RATIO,
                           .width = 2 * ROW_DIM,
                           .n_rows = 2 * OVERLAP_RATIO,
                           .n_blocks = 1,
                           .n_lanes = N_LANES,
                           .n_run_lanes = 1};
    const group_memory m = {rows, biases, segments, NULL};
    compress_token(gpu_arguments(&args), s, m);
}

GPU_KERNEL(dsv4_keys_compress_128, KEYS_COMPRESS_128_THREADS)(GPU_BY_VALUE keys_compress_args args)
{
    GPU_SHARED_VARIABLE row_place rows[LONG_RATIO];
    GPU_SHARED_VARIABLE int32_t biases[LONG_RATIO];
    GPU_SHARED_VARIABLE double segments[N_SEGMENTS];
    GPU_SHARED_ARRAY(run_sums, long_runs, LONG_RUNS * LONG_LANES);
    const group_shape s = {.ratio = LONG_RATIO,
                           .width = ROW_DIM,
                           .n_rows = LONG_RATIO,
                           .n_blocks = 1,
                           .n_lanes = LONG_LANES,
                           .n_run_lanes = KEYS_COMPRESS_128_THREADS / LONG_LANES};
    const group_memory m = {rows, biases, segments, long_runs};
    compress_token(gpu_arguments(&args), s, m);
}

#if defined(GPU_HAS_CLUSTERS)
/* In clusters of KEYS_CLUSTER_BLOCKS blocks: a group is half a megabyte, more than one multiprocessor should fetch. */
GPU_KERNEL(dsv4_keys_compress_128_cluster, KEYS_CLUSTER_THREADS)
(GPU_BY_VALUE keys_compress_args args)
{
    GPU_SHARED_VARIABLE row_place rows[LONG_RATIO];
    GPU_SHARED_VARIABLE int32_t biases[LONG_RATIO];
    GPU_SHARED_VARIABLE double segment;
    GPU_SHARED_VARIABLE run_sums runs[LONG_RUNS * CLUSTER_LANES];
    const group_shape s = {.ratio = LONG_RATIO,
                           .width = ROW_DIM,
                           .n_rows = LONG_RATIO,
                           .n_blocks = KEYS_CLUSTER_BLOCKS,
                           .n_lanes = CLUSTER_LANES,
                           .n_run_lanes = LONG_RUNS};
    const group_memory m = {rows, biases, &segment, runs};
    compress_token(gpu_arguments(&args), s, m);
}
#endif
