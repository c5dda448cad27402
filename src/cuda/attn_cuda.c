/*
 * attn_cuda.c - the decode attention on NVIDIA GPUs, host side: choice of the head group, arguments of the
 * kernels.
 *
 * Place: cuda. Nothing here waits for the device or allocates. Everything that a plan depends on, but lengths, follows
 * from shapes and options, so that plan and decode agree without a look at device memory; where they do not, because
 * the plan was built for others, the kernel sees it by the plan's fingerprint.
 */
#include "attn_cuda.h"

#include <cuda_runtime_api.h>
#include <inttypes.h>
#include <math.h>

#include "attn_device.h"
#include "attn_launch.h"
#include "base/checked.h"
#include "base/error.h"
#include "dsv4/cache.h"

_Static_assert(sizeof(attn_plan_head) == sizeof(attn_part), "parts are read in pieces of 16 bytes");

enum { WORKSPACE_ALIGN_BYTES = 64, ALIGNED_BYTES = 16, RESERVED_SHARED_BYTES = 1024 };

/*
 * A way to compute a group of heads, and its cost on an H200 in microseconds: docs/kernels-sm90.md says how it was
 * measured. On other devices only the order of the costs counts.
 */
typedef struct dsv4_attn_cuda_way {
    int32_t kernel; /* DSV4_CUDA_KERNEL_* */
    int32_t heads;
    int32_t step_keys;
    float part;               /* fixed for each part */
    float block;              /* of 64 keys, all thread blocks busy */
    float split_fixed, split; /* of cutting a task into parts, and for each of them */
    int32_t n_streams;        /* blocks that a part computes at once */
    int32_t math;             /* DSV4_ATTN_MATH_BF16 or _FP8 */
    bool is_default; /* else only when its kernel is asked for, or no other runs on the device */
} way;

enum { BF16 = DSV4_ATTN_MATH_BF16, FP8 = DSV4_ATTN_MATH_FP8 };

static const way ways[] = {
    {DSV4_CUDA_KERNEL_MMA, 8, 64, 3.8f, 3.4f, 3.4f, 0.35f, 1, BF16, true},
    {DSV4_CUDA_KERNEL_MMA, 8, 32, 3.8f, 3.6f, 3.4f, 0.35f, 1, BF16, false},
    {DSV4_CUDA_KERNEL_MMA, 16, 32, 5.3f, 4.9f, 4.5f, 0.5f, 1, BF16, false},
    {DSV4_CUDA_KERNEL_SM90, 16, 64, 6.5f, 1.85f, 2.6f, 0.26f, 2, BF16, true},
    {DSV4_CUDA_KERNEL_SM90, 32, 64, 8.0f, 2.13f, 3.5f, 0.4f, 2, BF16, true},
    {DSV4_CUDA_KERNEL_SM90, 64, 64, 9.7f, 2.71f, 5.0f, 0.8f, 2, BF16, true},
    {DSV4_CUDA_KERNEL_SM90, 32, 64, 9.5f, 1.75f, 3.5f, 0.4f, 1, FP8, true},
    {DSV4_CUDA_KERNEL_SM90, 64, 64, 11.8f, 2.02f, 5.0f, 0.8f, 1, FP8, true},
};

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

static int64_t used_indices(const dsv4_attn_scope *scope)
{
    return scope->n_pages > 0 ? scope->n_indices : 0;
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
        n = n > 2 ? 2 : (n < 1 ? 1 : n); /* two by its registers */
    }
    n *= d->n_multiprocessors;
    return n < ATTN_PLAN_THREADS ? n : ATTN_PLAN_THREADS;
}

/* Microseconds of a part of so many blocks. */
static float part_time(const way *w, int64_t n_blocks)
{
    return w->part + (float)(n_blocks < w->n_streams ? w->n_streams : n_blocks) * w->block;
}

/* Microseconds of a step whose lists are full. */
static float estimate_time(const way *w, int64_t n_tasks, int64_t n_blocks, int64_t n_thread_blocks,
                           bool may_split)
{
    int64_t n_whole = n_tasks / n_thread_blocks, n_tail = n_tasks % n_thread_blocks;
    float task = part_time(w, n_blocks), best = task;
    if (n_tail == 0) return (float)n_whole * task;
    int64_t most_parts = n_thread_blocks / n_tail;
    if (most_parts > n_blocks) most_parts = n_blocks;
    for (int64_t n = 2; may_split && n <= most_parts; n++) {
        float split = part_time(w, ceil_div(n_blocks, n)) + w->split_fixed + w->split * (float)n;
        if (split < best) best = split;
    }
    return (float)n_whole * task + best;
}

/* Of the ways to take 8, 16, ... heads the one that ends soonest, or has as many heads as params ask for, if there is one. */
static const way *choose_way(const dsv4_attn_params *params, const device *d)
{
    int64_t n_blocks =
        ceil_div(used_indices(&params->window) + used_indices(&params->extra), ATTN_BLOCK_KEYS);
    int32_t kernel = choose_kernel(params, d);
    const way *best = NULL;
    float best_time = 0.0f;
    for (int i = 0; i < N_WAYS; i++) {
        const way *w = &ways[i];
        bool is_open =
            kernel == DSV4_CUDA_KERNEL_AUTO
                ? w->is_default
                : w->kernel == kernel && (kernel != DSV4_CUDA_KERNEL_MMA || w->step_keys == 32);
        if (!is_open || (w->math == FP8) != (params->math == FP8)) continue;
        if (params->group_heads != 0) {
            if (best == NULL || w->heads <= params->group_heads) best = w;
            continue;
        }
        int64_t n_thread_blocks = count_thread_blocks(w, d);
        int64_t n_tasks = ceil_div(params->n_heads, w->heads) * params->n_queries;
        n_tasks *= params->fixed_split ? n_thread_blocks : params->n_requests;
        float time = estimate_time(w, n_tasks, n_blocks, n_thread_blocks, !params->fixed_split);
        if (best == NULL || time < best_time) {
            best = w;
            best_time = time;
        }
    }
    return best;
}

/* Of the values in their order; never 0, which plans that were not built may have. */
static uint64_t fingerprint_values(const int64_t *values, int n_values)
{
    uint64_t mixed = 0;
    for (int i = 0; i < n_values; i++) { /* splitmix64's steps */
        mixed = (mixed ^ (uint64_t)values[i]) + UINT64_C(0x9e3779b97f4a7c15);
        mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
        mixed ^= mixed >> 31;
    }
    return mixed == 0 ? 1 : mixed;
}

/* n_heads too, although a plan knows groups only: the caller's other shapes are a mistake all the same. */
static uint64_t fingerprint_shape(const dsv4_attn_params *params, const shape *s)
{
    const int64_t values[] = {params->n_requests,
                              params->n_queries,
                              params->n_heads,
                              used_indices(&params->window),
                              used_indices(&params->extra),
                              params->fixed_split,
                              s->way->kernel,
                              s->way->math,
                              s->way->heads,
                              s->way->step_keys,
                              s->n_thread_blocks};
    return fingerprint_values(values, (int)(sizeof values / sizeof values[0]));
}

dsv4_status dsv4_attn_cuda_describe(const dsv4_attn_params *params, const device *d, shape *s,
                                    dsv4_error *error)
{
    s->way = choose_way(params, d);
    s->n_groups = (int32_t)ceil_div(params->n_heads, s->way->heads);
    s->n_thread_blocks = (int32_t)count_thread_blocks(s->way, d);
    const int64_t n_tasks = params->n_requests * params->n_queries * s->n_groups;
    if (n_tasks > INT32_MAX - ATTN_PLAN_THREADS) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "n_requests: %" PRId64 " times n_queries %" PRId64
                              ", expected fewer than 2^31 tasks of %" PRId32 " heads",
                              params->n_requests, params->n_queries, s->way->heads);
    }
    s->state_bytes =
        ATTN_STATE_BYTES + (int64_t)s->way->heads * DSV4_ATTN_DIM * (int64_t)sizeof(float);
    s->fingerprint = fingerprint_shape(params, s);
    s->plan_bytes = sizeof(attn_plan_head) +
                    ((size_t)n_tasks + (size_t)s->n_thread_blocks) * sizeof(attn_part) +
                    (size_t)params->n_requests * sizeof(int32_t);
    s->workspace_bytes =
        (size_t)s->n_thread_blocks * ((size_t)s->state_bytes + WORKSPACE_ALIGN_BYTES);
    return DSV4_OK;
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
    attn_plan_args args = {
        .plan = plan,
        .fingerprint = s->fingerprint,
        .window_lengths = params->window.n_pages > 0 ? params->window.lengths : NULL,
        .extra_lengths = params->extra.n_pages > 0 ? params->extra.lengths : NULL,
        .window_n_indices = (int32_t)used_indices(&params->window),
        .extra_n_indices = (int32_t)used_indices(&params->extra),
        .n_requests = (int32_t)params->n_requests,
        .n_queries = (int32_t)params->n_queries,
        .n_groups = s->n_groups,
        .n_thread_blocks = s->n_thread_blocks,
        .may_split = !params->fixed_split,
        .n_streams = s->way->n_streams,
        .split_fixed = s->way->split_fixed / s->way->block,
        .split = s->way->split / s->way->block,
    };
    return check_cuda(dsv4_attn_plan_launch(&args, stream), "plan kernel", error);
}

/* page = umulhi(2 * slot, factor) >> shift for slot < 2^31 (division by an invariant; Granlund, Montgomery). */
static void set_division(attn_scope_args *args, uint32_t divisor)
{
    uint32_t shift = 0;
    while (((uint64_t)1 << shift) < divisor) shift++;
    args->divide_factor = (uint32_t)((((uint64_t)1 << (31 + shift)) + divisor - 1) / divisor);
    args->divide_shift = shift;
}

static void set_scope(attn_scope_args *args, const dsv4_attn_scope *scope)
{
    *args = (attn_scope_args){0};
    set_division(args, 1);
    args->page_rows = 1;
    if (scope->n_pages == 0) return;
    int64_t n_slots = scope->n_pages > INT64_C(0x80000000) / scope->page_rows
                          ? INT64_C(0x80000000)
                          : scope->n_pages * scope->page_rows;
    args->cache = scope->cache;
    args->page_stride_bytes = scope->page_stride_bytes;
    args->scale_plane_bytes = scope->page_rows * DSV4_CACHE_DATA_BYTES;
    args->indices = (const char *)scope->indices;
    args->indices_request_stride_bytes = scope->indices_request_stride_bytes;
    args->indices_query_stride_bytes = scope->indices_query_stride_bytes;
    args->n_slots = (uint32_t)(n_slots < INT64_C(0x80000000) ? n_slots : INT64_C(0x80000000));
    args->page_rows = (uint32_t)scope->page_rows;
    set_division(args, args->page_rows);
}

static bool is_aligned(const void *pointer, int64_t a, int64_t b, int64_t c)
{
    return ((uintptr_t)pointer | (uint64_t)a | (uint64_t)b | (uint64_t)c) % ALIGNED_BYTES == 0;
}

dsv4_status dsv4_attn_cuda_decode(void *stream, const dsv4_attn_params *params, const shape *s,
                                  const void *plan, void *workspace, dsv4_error *error)
{
    unsigned char *memory = workspace;
    attn_args args = {
        .plan = plan,
        .fingerprint = s->fingerprint,
        .states = memory + (size_t)s->n_thread_blocks * WORKSPACE_ALIGN_BYTES,
        .counters = (int32_t *)memory,
        .state_bytes = s->state_bytes,
        .n_requests = (int32_t)params->n_requests,
        .n_queries = (int32_t)params->n_queries,
        .n_heads = (int32_t)params->n_heads,
        .scale_log2 = (float)((double)params->softmax_scale * 1.4426950408889634),
        .out_is_f32 = params->out_dtype == DSV4_DTYPE_F32,
        .out_is_fp8 = params->out_dtype == DSV4_DTYPE_FP8,
        .out_scales = params->out_scales,
        .out_scales_request_stride_bytes = params->out_scales_request_stride_bytes,
        .out_scales_query_stride_bytes = params->out_scales_query_stride_bytes,
        .out_scales_head_stride_bytes = params->out_scales_head_stride_bytes,
        .q = params->q,
        .q_request_stride_bytes = params->q_request_stride_bytes,
        .q_query_stride_bytes = params->q_query_stride_bytes,
        .q_head_stride_bytes = params->q_head_stride_bytes,
        .sink = params->sink,
        .out = params->out,
        .out_request_stride_bytes = params->out_request_stride_bytes,
        .out_query_stride_bytes = params->out_query_stride_bytes,
        .out_head_stride_bytes = params->out_head_stride_bytes,
        .lse = (char *)params->lse,
        .lse_request_stride_bytes = params->lse_request_stride_bytes,
        .lse_query_stride_bytes = params->lse_query_stride_bytes,
        .lse_head_stride_bytes = params->lse_head_stride_bytes,
        .rope_table = params->rope_table,
        .n_rope_rows = params->n_rope_rows,
        .rope_rows = params->rope_rows,
        .q_is_aligned = is_aligned(params->q, params->q_request_stride_bytes,
                                   params->q_query_stride_bytes, params->q_head_stride_bytes),
        .out_is_aligned = is_aligned(params->out, params->out_request_stride_bytes,
                                     params->out_query_stride_bytes, params->out_head_stride_bytes),
    };
    set_scope(&args.window, &params->window);
    set_scope(&args.extra, &params->extra);
    cudaError_t launched =
        s->way->kernel == DSV4_CUDA_KERNEL_MMA
            ? dsv4_attn_mma_launch(&args, s->way->heads, s->way->step_keys, s->n_thread_blocks,
                                   stream)
        : s->way->math == FP8
            ? dsv4_attn_fp8_launch(&args, s->way->heads, s->n_thread_blocks, stream)
            : dsv4_attn_sm90_launch(&args, s->way->heads, s->n_thread_blocks, stream);
    return check_cuda(launched, "attention kernel", error);
}

dsv4_status dsv4_attn_cuda_merge(void *stream, const dsv4_attn_merge_params *params,
                                 dsv4_error *error)
{
    const attn_merge_args args = {
        .n_parts = params->n_parts,
        .n_rows = params->n_rows,
        .n_heads = (int32_t)params->n_heads,
        .part_is_f32 = params->part_dtype == DSV4_DTYPE_F32,
        .out_is_f32 = params->out_dtype == DSV4_DTYPE_F32,
        .out_parts = params->out_parts,
        .lse_parts = params->lse_parts,
        .sink = params->sink,
        .out = params->out,
        .lse = params->lse,
    };
    return check_cuda(dsv4_attn_merge_launch(&args, stream), "merge kernel", error);
}
