/*
 * attn_cuda.c - the decode attention on NVIDIA GPUs, host side: choice of the head group, arguments of the
 * kernels.
 *
 * Place: cuda. Nothing here waits for the device or allocates. Everything that a plan depends on, but lengths, follows
 * from shapes and options, so that plan and decode agree without a look at device memory.
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

enum { N_GROUP_SIZES = 4, WORKSPACE_ALIGN_BYTES = 64, ALIGNED_BYTES = 16 };

/* The kernels' costs on an H200, in cycles: docs/kernels-sm90.md says how they were measured. */
static const struct group_cost {
    int32_t heads;
    float block; /* of 64 keys */
    float part;  /* fixed for each part */
    float split; /* of leaving or merging one partial state, in blocks */
    int32_t residents; /* thread blocks that share a multiprocessor */
} group_costs[N_GROUP_SIZES] = {
    {8, 1250.0f, 2500.0f, 0.3f, 2},
    {16, 1300.0f, 2600.0f, 0.5f, 2},
    {32, 1500.0f, 3000.0f, 0.8f, 1},
    {64, 2300.0f, 4000.0f, 1.2f, 1},
};

/* What decides a launch. */
typedef struct shape {
    const struct group_cost *group;
    int32_t n_groups;
    int32_t n_thread_blocks;
    int64_t n_tasks;
    int64_t state_bytes;
} shape;

static dsv4_status check_cuda(cudaError_t status, const char *call, dsv4_error *error)
{
    if (status == cudaSuccess) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_DEVICE, "%s: %s", call, cudaGetErrorString(status));
}

static dsv4_status device_attribute(enum cudaDeviceAttr attribute, const char *name, int *value,
                                    dsv4_error *error)
{
    int device;
    DSV4_TRY(check_cuda(cudaGetDevice(&device), "cudaGetDevice", error));
    return check_cuda(cudaDeviceGetAttribute(value, attribute, device), name, error);
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t used_indices(const dsv4_attn_scope *scope)
{
    return scope->n_pages > 0 ? scope->n_indices : 0;
}

/* Cycles of a step whose lists are full, thread blocks all busy. */
static float estimate_cycles(const struct group_cost *group, int64_t n_tasks, int64_t n_blocks,
                             int64_t n_thread_blocks, bool may_split)
{
    int64_t n_whole = n_tasks / n_thread_blocks, n_tail = n_tasks % n_thread_blocks;
    float task = (float)n_blocks * group->block + group->part;
    float cycles = (float)n_whole * task;
    if (n_tail == 0) return cycles;
    int64_t n_parts = n_thread_blocks / n_tail;
    if (n_parts > n_blocks) n_parts = n_blocks;
    if (!may_split || n_parts < 2) return cycles + task;
    float split =
        ((float)ceil_div(n_blocks, n_parts) + group->split * (float)(1 + n_parts)) * group->block +
        group->part;
    return cycles + (split < task ? split : task);
}

/* The group of heads that ends soonest; alone the heads decide when results may not depend on the batch. */
static const struct group_cost *choose_group(const dsv4_attn_params *params,
                                             int64_t n_thread_blocks)
{
    int64_t n_blocks =
        ceil_div(used_indices(&params->window) + used_indices(&params->extra), ATTN_BLOCK_KEYS);
    const struct group_cost *best = NULL;
    float best_cycles = 0.0f;
    for (int i = 0; i < N_GROUP_SIZES; i++) {
        const struct group_cost *group = &group_costs[i];
        if (params->group_heads != 0) {
            if (params->group_heads == group->heads) return group;
            continue;
        }
        int64_t n_tasks = ceil_div(params->n_heads, group->heads) * params->n_queries;
        n_tasks *= params->fixed_split ? n_thread_blocks : params->n_requests;
        float cycles =
            estimate_cycles(group, n_tasks, n_blocks, n_thread_blocks, !params->fixed_split);
        if (best == NULL || cycles < best_cycles) {
            best = group;
            best_cycles = cycles;
        }
    }
    return best;
}

static dsv4_status describe_shape(const dsv4_attn_params *params, shape *s, dsv4_error *error)
{
    int n_multiprocessors;
    DSV4_TRY(device_attribute(cudaDevAttrMultiProcessorCount, "cudaDevAttrMultiProcessorCount",
                              &n_multiprocessors, error));
    s->group = choose_group(params, n_multiprocessors);
    s->n_groups = (int32_t)ceil_div(params->n_heads, s->group->heads);
    s->n_tasks = params->n_requests * params->n_queries * s->n_groups;
    s->n_thread_blocks = n_multiprocessors * s->group->residents;
    if (s->n_thread_blocks > ATTN_PLAN_THREADS) s->n_thread_blocks = ATTN_PLAN_THREADS;
    if (s->n_tasks > INT32_MAX - ATTN_PLAN_THREADS) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "n_requests: %" PRId64 " times n_queries %" PRId64
                              ", expected fewer than 2^31 tasks of %" PRId32 " heads",
                              params->n_requests, params->n_queries, s->group->heads);
    }
    s->state_bytes =
        ATTN_STATE_BYTES + (int64_t)s->group->heads * DSV4_ATTN_DIM * (int64_t)sizeof(float);
    return DSV4_OK;
}

dsv4_status dsv4_attn_cuda_choose(const dsv4_attn_params *params, const char **kernel,
                                  dsv4_error *error)
{
    (void)params;
    int n_devices, major, minor;
    cudaError_t status = cudaGetDeviceCount(&n_devices);
    if (status != cudaSuccess || n_devices == 0) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "backend: cuda, but no device can be used: %s",
                              status == cudaSuccess ? "none is there" : cudaGetErrorString(status));
    }
    DSV4_TRY(device_attribute(cudaDevAttrComputeCapabilityMajor,
                              "cudaDevAttrComputeCapabilityMajor", &major, error));
    DSV4_TRY(device_attribute(cudaDevAttrComputeCapabilityMinor,
                              "cudaDevAttrComputeCapabilityMinor", &minor, error));
    if (major != 9 || minor != 0) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "backend: cuda, but the device is sm_%d%d: expected sm_90", major,
                              minor);
    }
    *kernel = "sm90";
    return DSV4_OK;
}

dsv4_status dsv4_attn_cuda_plan_size(const dsv4_attn_params *params, size_t *plan_bytes,
                                     size_t *workspace_bytes, dsv4_error *error)
{
    shape s;
    DSV4_TRY(describe_shape(params, &s, error));
    *plan_bytes = sizeof(attn_plan_head) +
                  ((size_t)s.n_tasks + (size_t)s.n_thread_blocks) * sizeof(attn_part) +
                  (size_t)params->n_requests * sizeof(int32_t);
    *workspace_bytes = (size_t)s.n_thread_blocks * ((size_t)s.state_bytes + WORKSPACE_ALIGN_BYTES);
    return DSV4_OK;
}

dsv4_status dsv4_attn_cuda_plan_build(void *stream, const dsv4_attn_params *params, void *plan,
                                      dsv4_error *error)
{
    shape s;
    DSV4_TRY(describe_shape(params, &s, error));
    attn_plan_args args = {
        .plan = plan,
        .window_lengths = params->window.n_pages > 0 ? params->window.lengths : NULL,
        .extra_lengths = params->extra.n_pages > 0 ? params->extra.lengths : NULL,
        .window_n_indices = (int32_t)used_indices(&params->window),
        .extra_n_indices = (int32_t)used_indices(&params->extra),
        .n_requests = (int32_t)params->n_requests,
        .n_queries = (int32_t)params->n_queries,
        .n_groups = s.n_groups,
        .n_thread_blocks = s.n_thread_blocks,
        .split_cost = params->fixed_split ? -1.0f : s.group->split,
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

dsv4_status dsv4_attn_cuda_decode(void *stream, const dsv4_attn_params *params, const void *plan,
                                  void *workspace, dsv4_error *error)
{
    shape s;
    DSV4_TRY(describe_shape(params, &s, error));
    unsigned char *memory = workspace;
    attn_args args = {
        .plan = plan,
        .states = memory + (size_t)s.n_thread_blocks * WORKSPACE_ALIGN_BYTES,
        .counters = (int32_t *)memory,
        .state_bytes = s.state_bytes,
        .n_queries = (int32_t)params->n_queries,
        .n_heads = (int32_t)params->n_heads,
        .scale_log2 = (float)((double)params->softmax_scale * 1.4426950408889634),
        .out_is_f32 = params->out_dtype == DSV4_DTYPE_F32,
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
    cudaError_t launched;
    if (s.group->heads <= 16) {
        launched = dsv4_attn_mma_launch(&args, s.group->heads, s.n_thread_blocks, stream);
    } else {
        launched = dsv4_attn_sm90_launch(&args, s.group->heads, s.n_thread_blocks, stream);
    }
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
