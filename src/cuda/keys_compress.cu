/*
 * keys_compress.cu - a compressor's step in one launch: raw rows into the state, and the key of each group that ends.
 *
 * Place: cuda. PARTS thread blocks for each token, each for 512 / PARTS channels, a thread for 4 of them (a lane)
 * and some of the group's runs of eight rows. Most tokens only store their raw row. For a token that
 * ends a group a thread loads all of a run before it weighs it; the lanes then add the runs in ascending
 * order. Rows of the same launch come from the inputs, so no block waits for another's stores. With PARTS 8
 * the blocks of a token are a cluster and share nothing but their parts of the sum of squares, which are added
 * in the same order as within one block.
 */
#include <cooperative_groups.h>
#include <math.h>

#include "keys_rows.cuh"
#include "num/exp.h"

namespace cg = cooperative_groups;

enum {
    RUN_ROWS = 8,
    LANE_VALUES = 4,
    SEGMENT_LANES =
        GROUP_DIM / LANE_VALUES, /* the sum of squares goes over these, then over segments */
    N_SEGMENTS = DIM / GROUP_DIM,
    MAX_CLUSTER_TOKENS = 1024 /* with more there is work enough for one block each */
};

/* A row of a group: K, and G with its bias or, where bias is not NULL, without. k NULL: it does not count. */
typedef struct raw_row {
    const float *k, *g, *bias;
} raw_row;

/* The rows of a group in shared memory; bias as an offset in ape, -1: none. */
template <int N> struct group_rows {
    const float *k[N], *g[N];
    int32_t bias[N];
};

typedef struct alignas(16) run_sums {
    float max[LANE_VALUES], weights[LANE_VALUES], keys[LANE_VALUES];
} run_sums;

template <int RATIO, int PARTS> struct shape {
    static constexpr int n_halves = RATIO == 4 ? 2 : 1;
    static constexpr int width = n_halves * DIM;
    static constexpr int n_rows = n_halves * RATIO;
    static constexpr int n_runs = n_rows / RUN_ROWS;
    static constexpr int n_lanes = DIM / LANE_VALUES / PARTS;
    static constexpr int n_run_lanes = n_runs == 1 ? 1 : (PARTS == 1 ? 4 : n_runs);
    static constexpr int n_threads = n_lanes * n_run_lanes;
    static constexpr int n_adders = n_lanes < 32 ? 32 : n_lanes; /* whole warps */
    static constexpr int memory_bytes = n_runs == 1 ? 0 : n_runs * n_lanes * (int)sizeof(run_sums);
};

__device__ __forceinline__ void load_four(const float *at, bool is_aligned, float (&x)[LANE_VALUES])
{
    if (is_aligned) {
        const float4 four = *(const float4 *)at;
        x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
    } else {
        for (int i = 0; i < LANE_VALUES; i++) x[i] = at[i];
    }
}

/* Where the raw row of a position lies; NULL: nowhere. */
__device__ __forceinline__ float *state_row(const keys_compress_args &a, int width, int32_t request,
                                            uint32_t position)
{
    const int32_t *table = (const int32_t *)(a.tables + request * a.table_stride_bytes);
    const int32_t page = table[position / a.state_page_rows % a.n_table_pages];
    if (page < 0 || page >= a.n_state_pages) return NULL;
    return (float *)(a.state + page * a.state_page_stride_bytes) +
           (int64_t)(position % a.state_page_rows) * (2 * width);
}

__device__ __forceinline__ raw_row batch_row(const keys_compress_args &a, int width, int ratio,
                                             int64_t token, int32_t position)
{
    raw_row row;
    row.k = (const float *)(a.k + token * a.k_token_stride_bytes);
    row.g = (const float *)(a.g + token * a.g_token_stride_bytes);
    row.bias = a.ape + (int64_t)(position % ratio) * width;
    return row;
}

/* The raw row `back` positions before that of `token`: of this launch, or of an earlier one. */
__device__ __forceinline__ raw_row find_row(const keys_compress_args &a, int width, int ratio,
                                            int64_t token, int32_t request, int32_t position,
                                            int back)
{
    const int64_t other = token - back;
    raw_row row = {NULL, NULL, NULL};
    position -= back;
    if (position < 0) return row;
    if (other >= 0 && a.requests[other] == request && a.positions[other] == position) {
        return batch_row(a, width, ratio, other, position);
    }
    const float *stored = state_row(a, width, request, (uint32_t)position);
    if (stored == NULL) return row;
    row.k = stored;
    row.g = stored + width;
    return row;
}

template <int WIDTH>
__device__ __forceinline__ void store_raw_row(const keys_compress_args &a, const raw_row &own,
                                              float *row, int channel)
{
    for (int at = channel; at < WIDTH; at += DIM) {
        float k[LANE_VALUES], g[LANE_VALUES], bias[LANE_VALUES];
        load_four(own.k + at, a.raw_is_aligned, k);
        load_four(own.g + at, a.raw_is_aligned, g);
        load_four(own.bias + at, a.raw_is_aligned, bias);
        *(float4 *)(row + at) = make_float4(k[0], k[1], k[2], k[3]);
        *(float4 *)(row + WIDTH + at) =
            make_float4(g[0] + bias[0], g[1] + bias[1], g[2] + bias[2], g[3] + bias[3]);
    }
}

/* Eight rows from `first` on; with n_halves 2 the last four use the second half of their channels. */
template <int N>
__device__ __forceinline__ run_sums sum_run(const keys_compress_args &a, const group_rows<N> &rows,
                                            int first, int channel, int n_halves)
{
    float k[RUN_ROWS][LANE_VALUES], g[RUN_ROWS][LANE_VALUES];
    bool is_there[RUN_ROWS];
#pragma unroll
    for (int s = 0; s < RUN_ROWS; s++) {
        const float *row_k = rows.k[first + s], *row_g = rows.g[first + s];
        const int32_t bias_at = rows.bias[first + s];
        const int at = channel + (n_halves == 2 && s >= RUN_ROWS / 2 ? DIM : 0);
        const bool is_aligned = a.raw_is_aligned || bias_at < 0;
        is_there[s] = row_k != NULL;
        if (!is_there[s]) continue;
        load_four(row_k + at, is_aligned, k[s]);
        load_four(row_g + at, is_aligned, g[s]);
        if (bias_at < 0) continue;
        float bias[LANE_VALUES];
        load_four(a.ape + bias_at + at, is_aligned, bias);
        for (int i = 0; i < LANE_VALUES; i++) g[s][i] = g[s][i] + bias[i];
    }
    run_sums sums;
    for (int i = 0; i < LANE_VALUES; i++) {
        sums.max[i] = -INFINITY;
        sums.weights[i] = sums.keys[i] = 0.0f;
#pragma unroll
        for (int s = 0; s < RUN_ROWS; s++) {
            if (is_there[s] && g[s][i] > sums.max[i]) sums.max[i] = g[s][i];
        }
#pragma unroll
        for (int s = 0; s < RUN_ROWS; s++) {
            if (!is_there[s]) continue;
            const float weight = dsv4_exp_f32(g[s][i] - sums.max[i]);
            sums.weights[i] = sums.weights[i] + weight;
            sums.keys[i] = sums.keys[i] + weight * k[s][i];
        }
    }
    return sums;
}

/* runs [n_runs, n_lanes], in shared memory: the lane's largest maximum of each channel. */
__device__ __forceinline__ void find_max(const run_sums *runs, int n_runs, int n_lanes, int lane,
                                         float (&max)[LANE_VALUES])
{
    for (int i = 0; i < LANE_VALUES; i++) max[i] = -INFINITY;
    for (int run = 0; run < n_runs; run++) {
        for (int i = 0; i < LANE_VALUES; i++) {
            const float of_run = runs[run * n_lanes + lane].max[i];
            if (of_run > max[i]) max[i] = of_run;
        }
    }
}

/* Makes a run's sums relative to `max`. */
__device__ __forceinline__ void scale_run(run_sums &sums, const float (&max)[LANE_VALUES])
{
    for (int i = 0; i < LANE_VALUES; i++) {
        const float weight = dsv4_exp_f32(sums.max[i] - max[i]);
        sums.weights[i] = weight * sums.weights[i];
        sums.keys[i] = weight * sums.keys[i];
    }
}

/* The lane's four channels of the pooled key, of scaled runs. */
__device__ __forceinline__ void add_runs(const run_sums *runs, int n_runs, int n_lanes, int lane,
                                         float (&key)[LANE_VALUES])
{
    for (int i = 0; i < LANE_VALUES; i++) {
        float weights = 0.0f, keys = 0.0f;
        for (int run = 0; run < n_runs; run++) {
            weights = weights + runs[run * n_lanes + lane].weights[i];
            keys = keys + runs[run * n_lanes + lane].keys[i];
        }
        key[i] = keys / weights;
    }
}

/* Everything after the norm's factor: as dsv4_compress_finish, then the cache. */
__device__ __forceinline__ void finish_key(const keys_compress_args &a, int32_t rope_row,
                                           unsigned char *page, uint32_t row, int channel,
                                           bool stores, float factor, float (&key)[LANE_VALUES])
{
    for (int i = 0; i < LANE_VALUES; i++) key[i] = key[i] * factor;
    multiply_weight<LANE_VALUES>(a.norm, channel, key);
    if (a.is_official) round_values<LANE_VALUES>(key);
    if (channel >= NOPE_DIM) {
        rotate_values<LANE_VALUES>(a.rope, rope_row, channel, key);
        if (a.is_official) round_values<LANE_VALUES>(key);
    }
    store_key<LANE_VALUES>(a.compressed, page, row, channel, stores, key);
}

/* All blocks of the token. */
template <int PARTS> __device__ __forceinline__ void wait_for_parts()
{
    if constexpr (PARTS == 1) {
        __syncthreads();
    } else {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        cg::this_cluster().sync();
#endif
    }
}

/* The row's sum of squares from those of segments, in ascending order. */
template <int PARTS> __device__ __forceinline__ double add_segments(double *segments)
{
    double sum = 0.0;
    for (int i = 0; i < N_SEGMENTS; i++) {
        if constexpr (PARTS == 1) {
            sum += segments[i];
        } else {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
            sum += *cg::this_cluster().map_shared_rank(segments, i);
#endif
        }
    }
    return sum;
}

/* The pooled channels of this thread's lane; every thread of the block takes part. */
template <typename S>
__device__ __forceinline__ void pool_group(const keys_compress_args &a,
                                           const group_rows<S::n_rows> &rows, int channel,
                                           float (&key)[LANE_VALUES])
{
    extern __shared__ run_sums runs[]; /* [n_runs, n_lanes] */
    const int lane = threadIdx.x % S::n_lanes;
    if constexpr (S::n_runs == 1) {
        const run_sums sums = sum_run(a, rows, 0, channel, S::n_halves);
        for (int i = 0; i < LANE_VALUES; i++) key[i] = sums.keys[i] / sums.weights[i];
    } else {
        const int first_run = threadIdx.x / S::n_lanes;
        for (int run = first_run; run < S::n_runs; run += S::n_run_lanes) {
            runs[run * S::n_lanes + lane] = sum_run(a, rows, run * RUN_ROWS, channel, S::n_halves);
        }
        __syncthreads();
        float max[LANE_VALUES];
        find_max(runs, S::n_runs, S::n_lanes, lane, max);
        for (int run = first_run; run < S::n_runs; run += S::n_run_lanes) {
            scale_run(runs[run * S::n_lanes + lane], max);
        }
        __syncthreads();
        if (threadIdx.x < S::n_adders) add_runs(runs, S::n_runs, S::n_lanes, lane, key);
    }
}

template <int RATIO, int PARTS>
__global__ static void __launch_bounds__(shape<RATIO, PARTS>::n_threads)
    keys_compress_kernel(const __grid_constant__ keys_compress_args a)
{
    typedef shape<RATIO, PARTS> S;
    __shared__ group_rows<S::n_rows> rows;
    __shared__ double segments[PARTS == 1 ? N_SEGMENTS : 1];
    const int64_t token = blockIdx.x / PARTS;
    const int thread = threadIdx.x, lane = thread % S::n_lanes;
    const int channel = LANE_VALUES * (lane + (int)(blockIdx.x % PARTS) * S::n_lanes);
    const int32_t position = a.positions[token], request = a.requests[token];
    if (position < 0 || request < 0 || request >= a.n_requests) return;
    float *own = state_row(a, S::width, request, (uint32_t)position);
    if (own != NULL && thread < S::n_lanes) {
        store_raw_row<S::width>(a, batch_row(a, S::width, RATIO, token, position), own, channel);
    }
    if (position % RATIO != RATIO - 1) return;
    uint32_t row = 0;
    unsigned char *page = find_page(a.compressed, a.slots[token], &row);
    if (page == NULL) return;
    if (thread < S::n_rows) {
        const raw_row found =
            find_row(a, S::width, RATIO, token, request, position, S::n_rows - 1 - thread);
        rows.k[thread] = found.k;
        rows.g[thread] = found.g;
        rows.bias[thread] = found.bias == NULL ? -1 : (int32_t)(found.bias - a.ape);
    }
    __syncthreads();

    float key[LANE_VALUES] = {};
    pool_group<S>(a, rows, channel, key);
    if (thread < S::n_adders) {
        if (a.is_official) round_values<LANE_VALUES>(key);
        double sum = 0.0;
        for (int i = 0; i < LANE_VALUES; i++) sum = __fma_rn((double)key[i], (double)key[i], sum);
        sum = sum_lanes(sum, SEGMENT_LANES);
        if (thread < S::n_lanes && thread % SEGMENT_LANES == 0)
            segments[thread / SEGMENT_LANES] = sum;
    }
    wait_for_parts<PARTS>();
    if (thread < S::n_adders) {
        const float factor = norm_factor(add_segments<PARTS>(segments), a.norm_eps);
        const int32_t rope_row = a.rope.rows != NULL ? a.rope.rows[token] : position - RATIO + 1;
        finish_key(a, rope_row, page, row, channel, thread < S::n_lanes, factor, key);
    }
    if constexpr (PARTS > 1) wait_for_parts<PARTS>(); /* others may still read this block's sum */
}

template <int RATIO, int PARTS>
static cudaError_t launch(const keys_compress_args *args, cudaStream_t stream)
{
    typedef shape<RATIO, PARTS> S;
    if (S::memory_bytes > 48 * 1024) {
        const cudaError_t status =
            cudaFuncSetAttribute(keys_compress_kernel<RATIO, PARTS>,
                                 cudaFuncAttributeMaxDynamicSharedMemorySize, S::memory_bytes);
        if (status != cudaSuccess) return status;
    }
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = PARTS;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(args->n_tokens * PARTS));
    config.blockDim = dim3(S::n_threads);
    config.dynamicSmemBytes = S::memory_bytes;
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = PARTS > 1 ? 1 : 0;
    return cudaLaunchKernelEx(&config, keys_compress_kernel<RATIO, PARTS>, *args);
}

cudaError_t dsv4_keys_compress_launch(const keys_compress_args *args, int ratio, int has_clusters,
                                      cudaStream_t stream)
{
    if (ratio == 4) return launch<4, 1>(args, stream);
    if (has_clusters && args->n_tokens <= MAX_CLUSTER_TOKENS) return launch<128, 8>(args, stream);
    return launch<128, 1>(args, stream);
}
