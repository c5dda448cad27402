/*
 * attn_host.c - arguments of the attention's kernels, sizes of plan and workspace.
 *
 * Place: gpu, host code. Everything that a plan depends on, but lengths, follows from shapes and options, so that plan
 * and decode agree without a look at device memory; where they do not, because the plan was built for others, the kernel
 * sees it by the plan's fingerprint.
 */
#include "attn_host.h"

#include <inttypes.h>
#include <stdbool.h>

#include "base/checked.h"
#include "base/error.h"
#include "dsv4/cache.h"

_Static_assert(sizeof(attn_plan_head) == sizeof(attn_part), "parts are read in pieces of 16 bytes");

/*
 * Of the workspace's front, for each thread block. Launches of kernels with one thread block a multiprocessor and with two
 * may follow on one workspace: the arrivals of one must not lie where another has left states.
 */
enum { ARRIVAL_PITCH_BYTES = 64, ALIGNED_BYTES = 16 };
_Static_assert(2 * sizeof(attn_arrivals) <= ARRIVAL_PITCH_BYTES,
               "at most two of a kernel share a multiprocessor");

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

int64_t dsv4_attn_gpu_used_indices(const dsv4_attn_scope *scope)
{
    return scope->n_pages > 0 ? scope->n_indices : 0;
}

/* The most entries of a request, of all queries and both scopes: a choice; kernels cut them in 32 bits, with room to spare. */
enum { MAX_JOINED_ENTRIES = 1 << 18 };

static bool can_join_scope(const dsv4_attn_scope *scope)
{
    return scope->n_pages == 0 || scope->n_pages <= (ATTN_JOIN_NAN_SLOT - 1) / scope->page_rows;
}

bool dsv4_attn_gpu_can_join(const dsv4_attn_params *params, int32_t *group_heads)
{
    const int64_t n_heads = params->n_heads, n_queries = params->n_queries;
    if (n_heads != 8 && n_heads != 16 && n_heads != 32) return false;
    if (n_queries < 2 || n_queries > ATTN_JOIN_MAX_QUERIES) return false;
    if (n_queries * n_heads > ATTN_MAX_GROUP) return false;
    if (params->math == DSV4_ATTN_MATH_FP8) return false;
    if (!can_join_scope(&params->window) || !can_join_scope(&params->extra)) return false;
    *group_heads = (int32_t)(n_queries * n_heads);
    return n_queries * (dsv4_attn_gpu_used_indices(&params->window) +
                        dsv4_attn_gpu_used_indices(&params->extra)) <=
           MAX_JOINED_ENTRIES;
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
static uint64_t fingerprint_shape(const dsv4_attn_params *params, int32_t group_heads,
                                  int64_t n_thread_blocks, int64_t kernel, bool is_joined)
{
    const int64_t values[] = {params->n_requests,
                              params->n_queries,
                              params->n_heads,
                              dsv4_attn_gpu_used_indices(&params->window),
                              dsv4_attn_gpu_used_indices(&params->extra),
                              params->fixed_split,
                              is_joined,
                              kernel,
                              group_heads,
                              n_thread_blocks};
    return fingerprint_values(values, (int)(sizeof values / sizeof values[0]));
}

/* Entries in front of the extra scope's joined list. */
static int64_t find_first_extra(const dsv4_attn_params *params)
{
    return (int64_t)(sizeof(attn_joined_head) / sizeof(uint32_t)) +
           params->n_queries * dsv4_attn_gpu_used_indices(&params->window);
}

/* Workspace in front of joined lists: counters and partial states. */
static size_t count_state_bytes(const dsv4_attn_gpu_shape *s)
{
    return (size_t)s->n_thread_blocks * ((size_t)s->state_bytes + ARRIVAL_PITCH_BYTES);
}

static dsv4_status add_joined(const dsv4_attn_params *params, dsv4_attn_gpu_shape *s,
                              dsv4_error *error)
{
    const int64_t n =
        find_first_extra(params) + params->n_queries * dsv4_attn_gpu_used_indices(&params->extra);
    size_t n_bytes;
    s->joined_pitch = ceil_div(n, ALIGNED_BYTES / (int64_t)sizeof(uint32_t)) *
                      (ALIGNED_BYTES / (int64_t)sizeof(uint32_t));
    if (!dsv4_checked_mul((size_t)params->n_requests, (size_t)s->joined_pitch * sizeof(uint32_t),
                          &n_bytes) ||
        !dsv4_checked_add(s->workspace_bytes, n_bytes, &s->workspace_bytes)) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "n_requests: %" PRId64 " joined lists of %" PRId64
                              " entries are too large",
                              params->n_requests, s->joined_pitch);
    }
    return DSV4_OK;
}

dsv4_status dsv4_attn_gpu_describe(const dsv4_attn_params *params, int32_t group_heads,
                                   int64_t n_thread_blocks, int64_t kernel, bool is_joined,
                                   dsv4_attn_gpu_shape *s, dsv4_error *error)
{
    s->is_joined = is_joined;
    s->n_groups = is_joined ? 1 : (int32_t)ceil_div(params->n_heads, group_heads);
    s->n_thread_blocks = (int32_t)n_thread_blocks;
    const int64_t n_tasks = params->n_requests * (is_joined ? 1 : params->n_queries) * s->n_groups;
    if (n_tasks > INT32_MAX - ATTN_PLAN_THREADS) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "n_requests: %" PRId64 " times n_queries %" PRId64
                              ", expected fewer than 2^31 tasks of %" PRId32 " heads",
                              params->n_requests, params->n_queries, group_heads);
    }
    s->state_bytes =
        ATTN_STATE_BYTES + (int64_t)group_heads * DSV4_ATTN_DIM * (int64_t)sizeof(float);
    s->fingerprint = fingerprint_shape(params, group_heads, n_thread_blocks, kernel, is_joined);
    s->plan_bytes = sizeof(attn_plan_head) +
                    ((size_t)n_tasks + (size_t)s->n_thread_blocks) * sizeof(attn_part) +
                    (size_t)params->n_requests * sizeof(int32_t);
    s->workspace_bytes = count_state_bytes(s);
    s->joined_pitch = 0;
    return is_joined ? add_joined(params, s, error) : DSV4_OK;
}

void dsv4_attn_gpu_plan_args(const dsv4_attn_params *params, const dsv4_attn_gpu_shape *s,
                             const dsv4_attn_gpu_costs *costs, void *plan, attn_plan_args *args)
{
    *args = (attn_plan_args){
        .plan = plan,
        .fingerprint = s->fingerprint,
        .window_lengths = params->window.n_pages > 0 ? params->window.lengths : NULL,
        .extra_lengths = params->extra.n_pages > 0 ? params->extra.lengths : NULL,
        .window_n_indices = (int32_t)dsv4_attn_gpu_used_indices(&params->window),
        .extra_n_indices = (int32_t)dsv4_attn_gpu_used_indices(&params->extra),
        .n_requests = (int32_t)params->n_requests,
        .n_queries = s->is_joined ? 1 : (int32_t)params->n_queries,
        .n_groups = s->n_groups,
        .n_thread_blocks = s->n_thread_blocks,
        .may_split = !params->fixed_split,
        .n_streams = costs->n_streams,
        .n_alone = costs->n_alone,
        .busy_part = costs->busy_part,
        .busy_block = costs->busy_block,
        .split_fixed = costs->split_fixed,
        .split = costs->split,
        .split_share = costs->split_share,
    };
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

/* Zeros where lists are not joined. */
static attn_joined_lists find_joined(const dsv4_attn_params *params, const dsv4_attn_gpu_shape *s,
                                     void *workspace)
{
    attn_joined_lists joined = {0};
    if (!s->is_joined) return joined;
    joined.lists = (uint32_t *)(void *)((unsigned char *)workspace + count_state_bytes(s));
    joined.request_pitch = s->joined_pitch;
    joined.first_extra = (int32_t)find_first_extra(params);
    while (params->n_heads >> joined.query_shift > 1) joined.query_shift++;
    return joined;
}

void dsv4_attn_gpu_args(const dsv4_attn_params *params, const dsv4_attn_gpu_shape *s,
                        const void *plan, void *workspace, attn_args *args)
{
    unsigned char *memory = workspace;
    *args = (attn_args){
        .plan = plan,
        .fingerprint = s->fingerprint,
        .states = memory + (size_t)s->n_thread_blocks * ARRIVAL_PITCH_BYTES,
        .arrivals = (attn_arrivals *)memory,
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
        .joined = find_joined(params, s, workspace),
    };
    set_scope(&args->window, &params->window);
    set_scope(&args->extra, &params->extra);
}

void dsv4_attn_gpu_join_args(const dsv4_attn_params *params, const dsv4_attn_gpu_shape *s,
                             const void *plan, void *workspace, attn_join_args *args)
{
    const dsv4_attn_scope *scopes[] = {&params->window, &params->extra};
    *args = (attn_join_args){.plan = plan,
                             .fingerprint = s->fingerprint,
                             .joined = find_joined(params, s, workspace),
                             .n_requests = (int32_t)params->n_requests,
                             .n_queries = (int32_t)params->n_queries};
    for (int i = 0; i < 2; i++) {
        set_scope(&args->scopes[i], scopes[i]);
        args->lengths[i] = scopes[i]->n_pages > 0 ? scopes[i]->lengths : NULL;
        args->n_indices[i] = (int32_t)dsv4_attn_gpu_used_indices(scopes[i]);
    }
}

void dsv4_attn_gpu_merge_args(const dsv4_attn_merge_params *params, attn_merge_args *args)
{
    *args = (attn_merge_args){
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
}
