/*
 * attn_cuda.c - the decode attention on NVIDIA GPUs, host side: choice of the kernel and its head group, launches.
 *
 * Place: cuda; what kernels are told is in gpu/attn_host.h. Nothing here waits for the device or allocates.
 */
#include "attn_cuda.h"

#include <cuda_runtime_api.h>
#include <stdbool.h>

#include "attn_launch.h"
#include "base/error.h"
#include "gpu/attn_host.h"

enum {
    RESERVED_SHARED_BYTES = 1024,
    MOST_THREAD_BLOCKS = 2, /* of a multiprocessor: by the registers of mma */
};

/*
 * A way to compute a group of heads, and its cost on an H200 in microseconds: docs/kernels-sm90.md says how it was
 * measured. On other devices only the order of the costs counts.
 */
typedef struct dsv4_attn_cuda_way {
    int32_t kernel; /* DSV4_CUDA_KERNEL_* */
    int32_t heads;
    int32_t step_keys;
    float part;  /* fixed for each part */
    float block; /* of 64 keys, all thread blocks busy */
    float part_alone,
        block_alone; /* the same, where a multiprocessor has one thread block at most */
    float split_fixed, split_share,
        split;         /* of cutting a task into n parts: and 1/n, and n times */
    int32_t n_streams; /* blocks that a part computes at once */
    int32_t math;      /* DSV4_ATTN_MATH_BF16 or _FP8 */
    bool is_default;   /* else only when its kernel is asked for, or no other runs on the device */
} way;

enum { BF16 = DSV4_ATTN_MATH_BF16, FP8 = DSV4_ATTN_MATH_FP8 };

static const way ways[] = {
    {DSV4_CUDA_KERNEL_MMA, 8, 64, 5.4f, 3.4f, 2.9f, 2.7f, 3.2f, 0, 0.05f, 1, BF16, true},
    {DSV4_CUDA_KERNEL_MMA, 8, 32, 5.4f, 3.6f, 1.1f, 4.1f, 4.2f, 0, 0.05f, 1, BF16, false},
    {DSV4_CUDA_KERNEL_MMA, 16, 32, 6.5f, 4.9f, 2.0f, 5.5f, 4.5f, 0, 0.07f, 1, BF16, false},
    {DSV4_CUDA_KERNEL_SM90, 16, 64, 6.1f, 1.7f, 6.1f, 1.7f, 3.2f, 1.6f, 0.06f, 2, BF16, true},
    {DSV4_CUDA_KERNEL_SM90, 32, 64, 9.0f, 1.86f, 9.0f, 1.86f, 3.5f, 8.0f, 0.06f, 2, BF16, true},
    {DSV4_CUDA_KERNEL_SM90, 64, 64, 13.0f, 2.6f, 13.0f, 2.6f, 3.0f, 15.0f, 0.1f, 2, BF16, true},
    {DSV4_CUDA_KERNEL_SM90, 32, 64, 9.5f, 1.75f, 9.5f, 1.75f, 3.5f, 0, 0.4f, 1, FP8, true},
    {DSV4_CUDA_KERNEL_SM90, 64, 64, 11.8f, 2.02f, 11.8f, 2.02f, 5.0f, 0, 0.8f, 1, FP8, true},
};

/*
 * Joined lists (gpu/attn_join_kernel.c). Lists are on the device, so that AUTO has to guess what queries share: what
 * neighbouring tokens do. With less it loses, up to a third; so it joins for a clear gain only, which two queries
 * (at most 5 %) and windows alone never had. Microseconds of joining on an H200: with all that a second kernel costs the decode,
 * and of an entry of the longest list, or of what a thread block has to do of all.
 */
enum {
    JOINED_SHARE_PERCENT = 80,
    JOIN_THREAD_BLOCKS = 3, /* of a multiprocessor, at once */
    JOIN_LEAST_QUERIES = 3,
    JOIN_LEAST_KEYS = 256, /* of a query */
};
#define JOIN_FIXED      17.0f
#define JOIN_ENTRY      0.0075f
#define JOIN_LEAST_GAIN 1.1f

enum { N_WAYS = sizeof ways / sizeof ways[0] };

typedef dsv4_attn_cuda_device device;
typedef dsv4_attn_cuda_shape shape;

static dsv4_status check_cuda(cudaError_t status, const char *call, dsv4_error *error)
{
    if (status == cudaSuccess) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_DEVICE, "%s: %s", call, cudaGetErrorString(status));
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static dsv4_status read_device(device *d, dsv4_error *error)
{
    const struct {
        enum cudaDeviceAttr attribute;
        const char *name;
        int *value;
    } wanted[] = {
        {cudaDevAttrComputeCapabilityMajor, "cudaDevAttrComputeCapabilityMajor", &d->major},
        {cudaDevAttrComputeCapabilityMinor, "cudaDevAttrComputeCapabilityMinor", &d->minor},
        {cudaDevAttrMultiProcessorCount, "cudaDevAttrMultiProcessorCount", &d->n_multiprocessors},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor, "cudaDevAttrMaxSharedMemoryPerMultiprocessor",
         &d->shared_bytes}};
    int ordinal;
    DSV4_TRY(check_cuda(cudaGetDevice(&ordinal), "cudaGetDevice", error));
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        DSV4_TRY(check_cuda(cudaDeviceGetAttribute(wanted[i].value, wanted[i].attribute, ordinal),
                            wanted[i].name, error));
    }
    return DSV4_OK;
}

/* The kernel for these params on this device. */
static int32_t choose_kernel(const dsv4_attn_params *params, const device *d)
{
    bool has_sm90 = d->major == 9 && d->minor == 0;
    if (params->math == DSV4_ATTN_MATH_FP8) return DSV4_CUDA_KERNEL_SM90;
    if (params->out_dtype == DSV4_DTYPE_FP8 || !has_sm90) return DSV4_CUDA_KERNEL_MMA;
    return params->cuda_kernel;
}

/* Thread blocks that run at once. */
static int64_t count_thread_blocks(const way *w, const device *d)
{
    int64_t n = 1;
    if (w->kernel == DSV4_CUDA_KERNEL_MMA) {
        n = d->shared_bytes /
            (int64_t)(dsv4_attn_mma_shared_bytes(w->heads, w->step_keys) + RESERVED_SHARED_BYTES);
        n = n > MOST_THREAD_BLOCKS ? MOST_THREAD_BLOCKS : (n < 1 ? 1 : n);
    }
    n *= d->n_multiprocessors;
    return n < ATTN_PLAN_THREADS ? n : ATTN_PLAN_THREADS;
}

/* Thread blocks, the first of a launch, that do not share multiprocessors, as far as it was seen. */
static int64_t count_alone(const device *d)
{
    return d->n_multiprocessors * 2 / 3;
}

/* Microseconds of a part of so many blocks, of n_parts on the device at once. */
static float part_time(const way *w, int64_t n_blocks, int64_t n_parts, const device *d)
{
    float n = (float)(n_blocks < w->n_streams ? w->n_streams : n_blocks);
    return n_parts <= count_alone(d) ? w->part_alone + n * w->block_alone : w->part + n * w->block;
}

/* Microseconds of a step whose lists are full. */
static float estimate_time(const way *w, int64_t n_tasks, int64_t n_blocks, const device *d,
                           bool may_split)
{
    int64_t n_thread_blocks = count_thread_blocks(w, d);
    int64_t n_whole = n_tasks / n_thread_blocks, n_tail = n_tasks % n_thread_blocks;
    float task = part_time(w, n_blocks, n_thread_blocks, d);
    float best = part_time(w, n_blocks, n_tail, d);
    if (n_tail == 0) return (float)n_whole * task;
    int64_t most_parts = n_thread_blocks / n_tail;
    if (most_parts > n_blocks) most_parts = n_blocks;
    for (int64_t n = 2; may_split && n <= most_parts; n++) {
        float split = part_time(w, ceil_div(n_blocks, n), n * n_tail, d) + w->split_fixed +
                      w->split_share / (float)n + w->split * (float)n;
        if (split < best) best = split;
    }
    return (float)n_whole * task + best;
}

static bool is_open(const dsv4_attn_params *params, int32_t kernel, const way *w)
{
    if ((w->math == FP8) != (params->math == FP8)) return false;
    if (kernel == DSV4_CUDA_KERNEL_AUTO) return w->is_default;
    return w->kernel == kernel && (kernel != DSV4_CUDA_KERNEL_MMA || w->step_keys == 32);
}

/* Of a query whose lists are full. */
static int64_t count_keys(const dsv4_attn_params *params)
{
    return dsv4_attn_gpu_used_indices(&params->window) + dsv4_attn_gpu_used_indices(&params->extra);
}

/* Rows that a list names, for each that a joined list is expected to have, in hundredths. */
static int64_t joined_percent(const dsv4_attn_params *params)
{
    return 100 + (params->n_queries - 1) * (100 - JOINED_SHARE_PERCENT);
}

/* Microseconds of the kernel that joins lists, a thread block each. */
static float join_time(const dsv4_attn_params *params, int64_t n_requests, const device *d)
{
    const int64_t window = params->n_queries * dsv4_attn_gpu_used_indices(&params->window),
                  extra = params->n_queries * dsv4_attn_gpu_used_indices(&params->extra);
    const int64_t at_once = (int64_t)JOIN_THREAD_BLOCKS * d->n_multiprocessors;
    int64_t n_entries = ceil_div(n_requests * (window + extra), at_once);
    if (n_entries < window) n_entries = window;
    if (n_entries < extra) n_entries = extra;
    return JOIN_FIXED + JOIN_ENTRY * (float)n_entries;
}

/* Microseconds of a step whose lists are full; with fixed_split of one that fills the device, the same for all ways. */
static float step_time(const dsv4_attn_params *params, const device *d, const way *w,
                       bool is_joined)
{
    const int64_t n_keys = count_keys(params);
    const int64_t n_requests =
        params->fixed_split ? MOST_THREAD_BLOCKS * d->n_multiprocessors : params->n_requests;
    if (is_joined) {
        const int64_t n_joined = ceil_div(n_keys * joined_percent(params), 100);
        return estimate_time(w, n_requests, ceil_div(n_joined, ATTN_BLOCK_KEYS), d,
                             !params->fixed_split) +
               join_time(params, n_requests, d);
    }
    const int64_t n_tasks = ceil_div(params->n_heads, w->heads) * params->n_queries * n_requests;
    return estimate_time(w, n_tasks, ceil_div(n_keys, ATTN_BLOCK_KEYS), d, !params->fixed_split);
}

/*
 * Of the ways to take 8, 16, ... heads the one that ends soonest, or has as many heads as params ask for, if there is
 * one; NULL: none takes joined lists of these params.
 */
static const way *find_way(const dsv4_attn_params *params, const device *d, bool is_joined,
                           float *best_time)
{
    const int32_t kernel = choose_kernel(params, d);
    const way *best = NULL;
    int32_t least_heads = 0;
    if (is_joined && !dsv4_attn_gpu_can_join(params, &least_heads)) return NULL;
    for (int i = 0; i < N_WAYS; i++) {
        const way *w = &ways[i];
        if (!is_open(params, kernel, w)) continue;
        if (params->group_heads != 0) {
            if (best == NULL || w->heads <= params->group_heads) best = w;
            continue;
        }
        if (w->heads < least_heads) continue;
        const float time = step_time(params, d, w, is_joined);
        if (best == NULL || time < *best_time) {
            best = w;
            *best_time = time;
        }
    }
    if (params->group_heads == 0) return best;
    if (best->heads < least_heads) return NULL;
    *best_time = step_time(params, d, best, is_joined);
    return best;
}

static bool may_join(const dsv4_attn_params *params)
{
    /* longer lists are not matched as a whole; with fixed_split, a query's bits are to depend on no other query */
    const int64_t most = ATTN_JOIN_ENTRIES / params->n_queries;
    if (params->join_queries != DSV4_JOIN_AUTO) return params->join_queries == DSV4_JOIN_ALWAYS;
    return !params->fixed_split && params->n_queries >= JOIN_LEAST_QUERIES &&
           count_keys(params) >= JOIN_LEAST_KEYS &&
           dsv4_attn_gpu_used_indices(&params->window) <= most &&
           dsv4_attn_gpu_used_indices(&params->extra) <= most;
}

static const way *choose_way(const dsv4_attn_params *params, const device *d, bool *is_joined)
{
    float time = 0.0f, joined_time = 0.0f;
    const way *w = find_way(params, d, false, &time);
    const way *joined = may_join(params) ? find_way(params, d, true, &joined_time) : NULL;
    *is_joined = joined != NULL &&
                 (params->join_queries == DSV4_JOIN_ALWAYS || joined_time * JOIN_LEAST_GAIN < time);
    return *is_joined ? joined : w;
}

dsv4_status dsv4_attn_cuda_describe(const dsv4_attn_params *params, const device *d, shape *s,
                                    dsv4_error *error)
{
    bool is_joined;
    s->way = choose_way(params, d, &is_joined);
    s->n_alone = (int32_t)count_alone(d);
    return dsv4_attn_gpu_describe(params, s->way->heads, count_thread_blocks(s->way, d),
                                  s->way - ways, is_joined, &s->gpu, error);
}

/* FP8 products have one kernel, for one kind of device, and that does not quantize its output. */
static dsv4_status check_fp8(const dsv4_attn_params *params, const device *d, dsv4_error *error)
{
    if (d->major != 9 || d->minor != 0) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "math: fp8, but the device is sm_%d%d: expected sm_90", d->major,
                              d->minor);
    }
    if (params->cuda_kernel == DSV4_CUDA_KERNEL_MMA) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "math: fp8, but cuda_kernel is mma: expected auto or sm90");
    }
    if (params->out_dtype == DSV4_DTYPE_FP8) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "math: fp8, but out_dtype is FP8: expected bf16 or f32");
    }
    return DSV4_OK;
}

dsv4_status dsv4_attn_cuda_choose(const dsv4_attn_params *params, device *d, const char **kernel,
                                  dsv4_error *error)
{
    int n_devices;
    cudaError_t status = cudaGetDeviceCount(&n_devices);
    if (status != cudaSuccess || n_devices == 0) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "backend: cuda, but no device can be used: %s",
                              status == cudaSuccess ? "none is there" : cudaGetErrorString(status));
    }
    DSV4_TRY(read_device(d, error));
    if (d->major < 8) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "backend: cuda, but the device is sm_%d%d: expected sm_80 or later",
                              d->major, d->minor);
    }
    if (params->math == DSV4_ATTN_MATH_FP8) DSV4_TRY(check_fp8(params, d, error));
    int32_t chosen = choose_kernel(params, d);
    if (params->cuda_kernel == DSV4_CUDA_KERNEL_SM90 && chosen != DSV4_CUDA_KERNEL_SM90) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "cuda_kernel: sm90, but the device is sm_%d%d%s", d->major, d->minor,
                              params->out_dtype == DSV4_DTYPE_FP8 ? " and the output FP8" : "");
    }
    *kernel = chosen == DSV4_CUDA_KERNEL_MMA ? "mma" : "sm90";
    return DSV4_OK;
}

dsv4_status dsv4_attn_cuda_plan_build(void *stream, const dsv4_attn_params *params, const shape *s,
                                      void *plan, dsv4_error *error)
{
    const way *w = s->way;
    /* a plan counts blocks of one query's lists: a joined list has more, and all else costs less of them */
    const float block =
        w->block_alone * (s->gpu.is_joined ? 0.01f * (float)joined_percent(params) : 1.0f);
    const dsv4_attn_gpu_costs costs = {.n_streams = w->n_streams,
                                       .n_alone = s->n_alone,
                                       .busy_part = (w->part - w->part_alone) / block,
                                       .busy_block = w->block / w->block_alone,
                                       .split_fixed = w->split_fixed / block,
                                       .split_share = w->split_share / block,
                                       .split = w->split / block};
    attn_plan_args args;
    dsv4_attn_gpu_plan_args(params, &s->gpu, &costs, plan, &args);
    return check_cuda(dsv4_attn_plan_launch(&args, stream), "plan kernel", error);
}

dsv4_status dsv4_attn_cuda_decode(void *stream, const dsv4_attn_params *params, const shape *s,
                                  const void *plan, void *workspace, dsv4_error *error)
{
    const way *w = s->way;
    const int32_t n_thread_blocks = s->gpu.n_thread_blocks;
    attn_args args;
    if (s->gpu.is_joined) {
        attn_join_args join;
        dsv4_attn_gpu_join_args(params, &s->gpu, plan, workspace, &join);
        DSV4_TRY(check_cuda(dsv4_attn_join_launch(&join, stream), "join kernel", error));
    }
    dsv4_attn_gpu_args(params, &s->gpu, plan, workspace, &args);
    cudaError_t launched =
        w->kernel == DSV4_CUDA_KERNEL_MMA
            ? dsv4_attn_mma_launch(&args, w->heads, w->step_keys, n_thread_blocks, stream)
        : w->math == FP8   ? dsv4_attn_fp8_launch(&args, w->heads, n_thread_blocks, stream)
        : s->gpu.is_joined ? dsv4_attn_sm90_joined_launch(&args, w->heads, n_thread_blocks, stream)
                           : dsv4_attn_sm90_launch(&args, w->heads, n_thread_blocks, stream);
    return check_cuda(launched, "attention kernel", error);
}

dsv4_status dsv4_attn_cuda_merge(void *stream, const dsv4_attn_merge_params *params,
                                 dsv4_error *error)
{
    attn_merge_args args;
    dsv4_attn_gpu_merge_args(params, &args);
    return check_cuda(dsv4_attn_merge_launch(&args, stream), "merge kernel", error);
}
