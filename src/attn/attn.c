/*
 * attn.c - the decode attention as callers see it: choice of kernel, plan, decode, merge.
 *
 * Place: attn; checks are in attn_check.c, arithmetic in src/ref and src/cpu. A plan starts with a header
 * that records what it was built for, so that a plan of other shapes is refused; on GPUs the kernels see to it.
 */
#include "dsv4/attn.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "attn_check.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "cpu/attn_cpu.h"
#include "cuda/attn_cuda.h"
#include "dsv4/cache.h"
#include "hip/attn_hip.h"
#include "ref/attn_ref.h"

#define PLAN_MAGIC UINT64_C(0x6e616c7034767364) /* "dsv4plan" */

enum { PLAN_HEADER_BYTES = 128 };

/* What a plan was built for. All int64_t, so that fields can be compared by a table. */
typedef struct plan_header {
    uint64_t magic;
    int64_t backend, cpu_level, math, asked_threads;
    int64_t n_requests, n_queries, n_heads, window_n_indices, extra_n_indices;
    int64_t n_threads;
    size_t plan_bytes, workspace_bytes;
} plan_header;

_Static_assert(sizeof(plan_header) <= PLAN_HEADER_BYTES, "the header must fit");

/* A resolved choice. */
typedef struct choice {
    int32_t backend;                  /* DSV4_BACKEND_*, never AUTO */
    int32_t math;                     /* DSV4_ATTN_MATH_*, never AUTO */
    const dsv4_attn_kernels *kernels; /* the CPU's, else NULL */
    const char *kernel;               /* for a person */
    const char *reason;
    dsv4_attn_cuda_device cuda;      /* with backend CUDA, else zeros */
    dsv4_attn_cuda_shape cuda_shape; /* the same, once described */
    dsv4_attn_hip_device hip;        /* with backend HIP, else zeros */
    dsv4_attn_hip_shape hip_shape;
} choice;

void dsv4_attn_params_default(dsv4_attn_params *params)
{
    memset(params, 0, sizeof *params);
    params->size = sizeof *params;
    params->n_queries = 1;
    params->softmax_scale = (float)(1.0 / sqrt((double)DSV4_ATTN_DIM));
    params->q_dtype = DSV4_DTYPE_BF16;
    params->out_dtype = DSV4_DTYPE_BF16;
    params->window.page_rows = 64;
    params->extra.page_rows = 64;
}

/* Bytes of `count` pieces; -1, which every check refuses, when they do not fit. */
static int64_t dense_bytes(int64_t count, int64_t piece_bytes)
{
    int64_t bytes;
    if (piece_bytes < 0 || !dsv4_checked_mul_i64(count, piece_bytes, &bytes)) return -1;
    return bytes;
}

static void set_scope_dense(dsv4_attn_scope *scope, int64_t n_queries)
{
    scope->page_stride_bytes = scope->row_format == DSV4_ATTN_ROWS_F32
                                   ? dense_bytes(scope->page_rows, DSV4_ATTN_DIM * sizeof(float))
                                   : dsv4_cache_page_stride_bytes(scope->page_rows);
    scope->indices_query_stride_bytes = dense_bytes(scope->n_indices, sizeof(int32_t));
    scope->indices_request_stride_bytes = dense_bytes(n_queries, scope->indices_query_stride_bytes);
}

void dsv4_attn_params_set_dense(dsv4_attn_params *params)
{
    int64_t n_heads = params->n_heads, n_queries = params->n_queries;
    params->q_head_stride_bytes = DSV4_ATTN_DIM * dsv4_attn_dtype_bytes(params->q_dtype);
    params->q_query_stride_bytes = dense_bytes(n_heads, params->q_head_stride_bytes);
    params->q_request_stride_bytes = dense_bytes(n_queries, params->q_query_stride_bytes);
    params->out_head_stride_bytes = DSV4_ATTN_DIM * dsv4_attn_dtype_bytes(params->out_dtype);
    params->out_query_stride_bytes = dense_bytes(n_heads, params->out_head_stride_bytes);
    params->out_request_stride_bytes = dense_bytes(n_queries, params->out_query_stride_bytes);
    params->lse_head_stride_bytes = sizeof(float);
    params->lse_query_stride_bytes = dense_bytes(n_heads, params->lse_head_stride_bytes);
    params->lse_request_stride_bytes = dense_bytes(n_queries, params->lse_query_stride_bytes);
    params->out_scales_head_stride_bytes = DSV4_ATTN_DIM / DSV4_ATTN_OUT_GROUP;
    params->out_scales_query_stride_bytes =
        dense_bytes(n_heads, params->out_scales_head_stride_bytes);
    params->out_scales_request_stride_bytes =
        dense_bytes(n_queries, params->out_scales_query_stride_bytes);
    set_scope_dense(&params->window, n_queries);
    set_scope_dense(&params->extra, n_queries);
}

/* ---- choice ---- */

static bool has_f32_input(const dsv4_attn_params *params)
{
    return params->q_dtype == DSV4_DTYPE_F32 ||
           (params->window.n_pages > 0 && params->window.row_format == DSV4_ATTN_ROWS_F32) ||
           (params->extra.n_pages > 0 && params->extra.row_format == DSV4_ATTN_ROWS_F32);
}

static const char *math_name(int32_t math)
{
    switch (math) {
    case DSV4_ATTN_MATH_BF16: return "bf16";
    case DSV4_ATTN_MATH_OFFICIAL: return "official";
    case DSV4_ATTN_MATH_FP8: return "fp8";
    default: return "exact";
    }
}

static dsv4_status refuse_fp8(const char *backend, dsv4_error *error)
{
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                          "math: fp8, but the backend %s has no FP8 products: expected the backend "
                          "cuda or hip",
                          backend);
}

static dsv4_status choose_cpu(const dsv4_attn_params *params, choice *chosen, dsv4_error *error)
{
    int32_t best = dsv4_cpu_level(), level = params->cpu_level;
    if (level > best) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "cpu_level: %s, but this CPU has no more than %s",
                              dsv4_cpu_level_name(level), dsv4_cpu_level_name(best));
    }
    if (params->math == DSV4_ATTN_MATH_FP8) return refuse_fp8("cpu", error);
    bool level_asked = level != DSV4_CPU_LEVEL_AUTO;
    if (!level_asked) level = best;
    if (params->math == DSV4_ATTN_MATH_BF16 && level < DSV4_CPU_LEVEL_AVX512BF16) {
        return dsv4_error_set(
            error, DSV4_ERROR_UNSUPPORTED, "math: bf16 needs the CPU level avx512bf16, %s is %s",
            level_asked ? "the level asked for" : "the best here", dsv4_cpu_level_name(level));
    }
    if (params->math >= DSV4_ATTN_MATH_BF16 && has_f32_input(params)) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "math: %s, but the query or the cache is f32: expected exact",
                              math_name(params->math));
    }
    chosen->reason = level_asked ? "the CPU level asked for" : "the best level of this CPU";
    bool needs_exact = params->math == DSV4_ATTN_MATH_EXACT || has_f32_input(params);
    if (needs_exact && level == DSV4_CPU_LEVEL_AVX512BF16) {
        level = DSV4_CPU_LEVEL_AVX512;
        chosen->reason = "exact math is needed: the best level with f32 products";
    }
    chosen->backend = DSV4_BACKEND_CPU;
    chosen->kernels = dsv4_attn_cpu_kernels(level);
    chosen->kernel = dsv4_cpu_level_name(chosen->kernels->level);
    chosen->math = params->math == DSV4_ATTN_MATH_OFFICIAL ? params->math : chosen->kernels->math;
    return DSV4_OK;
}

/* The rules that all GPUs have. */
static dsv4_status check_gpu_inputs(const dsv4_attn_params *params, const char *backend,
                                    dsv4_error *error)
{
    if (has_f32_input(params)) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "backend: %s, but the query or the cache is f32: expected bf16 "
                              "queries and FP8 rows",
                              backend);
    }
    if (params->math == DSV4_ATTN_MATH_EXACT || params->math == DSV4_ATTN_MATH_OFFICIAL) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "math: %s, but the backend %s computes bf16 or fp8",
                              math_name(params->math), backend);
    }
    return DSV4_OK;
}

static dsv4_status choose_gpu(const dsv4_attn_params *params, choice *chosen, dsv4_error *error)
{
    if (params->backend == DSV4_BACKEND_HIP) {
        DSV4_TRY(check_gpu_inputs(params, "hip", error));
        DSV4_TRY(dsv4_attn_hip_choose(params, &chosen->hip, &chosen->kernel, error));
    } else {
        DSV4_TRY(check_gpu_inputs(params, "cuda", error));
        DSV4_TRY(dsv4_attn_cuda_choose(params, &chosen->cuda, &chosen->kernel, error));
    }
    chosen->backend = params->backend;
    chosen->math = params->math == DSV4_ATTN_MATH_FP8 ? DSV4_ATTN_MATH_FP8 : DSV4_ATTN_MATH_BF16;
    chosen->reason = params->backend == DSV4_BACKEND_HIP
                         ? "this device's kernels, which have never run on one"
                         : "the best kernel of this device";
    return DSV4_OK;
}

static dsv4_status resolve_choice(const dsv4_attn_params *params, choice *chosen, dsv4_error *error)
{
    if (dsv4_attn_on_gpu(params->backend)) return choose_gpu(params, chosen, error);
    if (params->backend != DSV4_BACKEND_REF) return choose_cpu(params, chosen, error);
    if (params->math == DSV4_ATTN_MATH_FP8) return refuse_fp8("ref", error);
    if (params->math == DSV4_ATTN_MATH_BF16) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "math: bf16, but the backend ref computes exact or official");
    }
    if (params->math == DSV4_ATTN_MATH_OFFICIAL && has_f32_input(params)) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "math: official, but the query or the cache is f32: expected exact");
    }
    chosen->math = params->math == DSV4_ATTN_MATH_AUTO ? DSV4_ATTN_MATH_EXACT : params->math;
    chosen->backend = DSV4_BACKEND_REF;
    chosen->kernel = "scalar";
    chosen->reason = "the reference was asked for";
    return DSV4_OK;
}

dsv4_status dsv4_attn_choose(const dsv4_attn_params *params, dsv4_attn_choice *result,
                             dsv4_error *error)
{
    DSV4_TRY(dsv4_attn_check_choice(params, result, error));
    choice chosen = {0};
    DSV4_TRY(resolve_choice(params, &chosen, error));
    static const char *const names[] = {[DSV4_BACKEND_REF] = "ref",
                                        [DSV4_BACKEND_CPU] = "cpu",
                                        [DSV4_BACKEND_CUDA] = "cuda",
                                        [DSV4_BACKEND_HIP] = "hip"};
    result->backend = names[chosen.backend];
    result->kernel = chosen.kernel;
    result->math = math_name(chosen.math);
    result->reason = chosen.reason;
    return DSV4_OK;
}

/* ---- plan ---- */

static int64_t used_indices(const dsv4_attn_scope *scope)
{
    return scope->n_pages > 0 ? scope->n_indices : 0;
}

static dsv4_status describe_gpu(const dsv4_attn_params *params, choice *chosen, plan_header *header,
                                dsv4_error *error)
{
    const dsv4_attn_gpu_shape *shape = &chosen->cuda_shape.gpu;
    if (chosen->backend == DSV4_BACKEND_HIP) {
        shape = &chosen->hip_shape.gpu;
        DSV4_TRY(dsv4_attn_hip_describe(params, &chosen->hip, &chosen->hip_shape, error));
    } else {
        DSV4_TRY(dsv4_attn_cuda_describe(params, &chosen->cuda, &chosen->cuda_shape, error));
    }
    *header =
        (plan_header){.plan_bytes = shape->plan_bytes, .workspace_bytes = shape->workspace_bytes};
    return DSV4_OK;
}

/*
 * Fills everything that decides a plan; n_threads is the number that a call would use now. On a GPU that is in the
 * device's shape, and the header has sizes only.
 */
static dsv4_status describe_plan(const dsv4_attn_params *params, choice *chosen,
                                 plan_header *header, dsv4_error *error)
{
    if (dsv4_attn_on_gpu(chosen->backend)) return describe_gpu(params, chosen, header, error);
    int32_t n_threads = params->n_threads;
    if (n_threads == 0) n_threads = dsv4_parallel_default_threads();
    *header = (plan_header){
        .magic = PLAN_MAGIC,
        .backend = chosen->backend,
        .cpu_level = chosen->kernels == NULL ? 0 : chosen->kernels->level,
        .math = chosen->math,
        .asked_threads = params->n_threads,
        .n_requests = params->n_requests,
        .n_queries = params->n_queries,
        .n_heads = params->n_heads,
        .window_n_indices = used_indices(&params->window),
        .extra_n_indices = used_indices(&params->extra),
        .n_threads = n_threads,
        .plan_bytes = PLAN_HEADER_BYTES,
    };
    if (chosen->kernels == NULL) {
        header->workspace_bytes = dsv4_attn_ref_workspace_bytes(params);
        return DSV4_OK;
    }
    size_t plan_bytes, workspace_bytes;
    if (!dsv4_attn_cpu_plan_size(params, chosen->kernels, n_threads, &plan_bytes,
                                 &workspace_bytes)) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "n_requests: %" PRId64 ", the workspace would not fit in memory",
                              params->n_requests);
    }
    header->plan_bytes += plan_bytes;
    header->workspace_bytes = workspace_bytes;
    return DSV4_OK;
}

dsv4_status dsv4_attn_plan_size(const dsv4_attn_params *params, size_t *plan_bytes,
                                size_t *workspace_bytes, dsv4_error *error)
{
    DSV4_TRY(dsv4_attn_check_params(params, false, error));
    if (plan_bytes == NULL || workspace_bytes == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT, "%s: NULL",
                              plan_bytes == NULL ? "plan_bytes" : "workspace_bytes");
    }
    choice chosen = {0};
    plan_header header;
    DSV4_TRY(resolve_choice(params, &chosen, error));
    DSV4_TRY(describe_plan(params, &chosen, &header, error));
    *plan_bytes = header.plan_bytes;
    *workspace_bytes = header.workspace_bytes;
    return DSV4_OK;
}

static dsv4_status build_gpu(void *stream, const dsv4_attn_params *params, const choice *chosen,
                             void *plan, dsv4_error *error)
{
    if (chosen->backend == DSV4_BACKEND_HIP) {
        return dsv4_attn_hip_plan_build(stream, params, &chosen->hip, &chosen->hip_shape, plan,
                                        error);
    }
    return dsv4_attn_cuda_plan_build(stream, params, &chosen->cuda_shape, plan, error);
}

dsv4_status dsv4_attn_plan_build(void *stream, const dsv4_attn_params *params, void *plan,
                                 size_t plan_bytes, dsv4_error *error)
{
    DSV4_TRY(dsv4_attn_check_params(params, false, error));
    DSV4_TRY(dsv4_attn_check_stream(stream, params->backend, error));
    choice chosen = {0};
    plan_header header;
    DSV4_TRY(resolve_choice(params, &chosen, error));
    DSV4_TRY(describe_plan(params, &chosen, &header, error));
    DSV4_TRY(dsv4_attn_check_memory("plan", plan, plan_bytes, header.plan_bytes, error));
    if (dsv4_attn_on_gpu(chosen.backend)) {
        if (params->n_requests == 0) return DSV4_OK;
        return build_gpu(stream, params, &chosen, plan, error);
    }
    memcpy(plan, &header, sizeof header);
    if (chosen.kernels != NULL) {
        dsv4_attn_cpu_plan_build(params, (int32_t)header.n_threads,
                                 (unsigned char *)plan + PLAN_HEADER_BYTES);
    }
    return DSV4_OK;
}

/* ---- decode ---- */

static const struct {
    const char *name;
    size_t offset;
} plan_fields[] = {
    {"backend", offsetof(plan_header, backend)},
    {"cpu_level", offsetof(plan_header, cpu_level)},
    {"math", offsetof(plan_header, math)},
    {"n_threads", offsetof(plan_header, asked_threads)},
    {"n_requests", offsetof(plan_header, n_requests)},
    {"n_queries", offsetof(plan_header, n_queries)},
    {"n_heads", offsetof(plan_header, n_heads)},
    {"window.n_indices", offsetof(plan_header, window_n_indices)},
    {"extra.n_indices", offsetof(plan_header, extra_n_indices)},
};

static int64_t plan_field(const plan_header *header, size_t offset)
{
    int64_t value;
    memcpy(&value, (const unsigned char *)header + offset, sizeof value);
    return value;
}

static dsv4_status check_plan(const plan_header *built, const plan_header *needed,
                              dsv4_error *error)
{
    if (built->magic != PLAN_MAGIC) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "plan: not built, expected one from dsv4_attn_plan_build");
    }
    for (size_t i = 0; i < sizeof plan_fields / sizeof plan_fields[0]; i++) {
        int64_t was = plan_field(built, plan_fields[i].offset);
        int64_t is = plan_field(needed, plan_fields[i].offset);
        if (was != is) {
            return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                                  "plan: built for %s %" PRId64 ", expected %" PRId64
                                  " as in these params",
                                  plan_fields[i].name, was, is);
        }
    }
    return DSV4_OK;
}

static dsv4_status decode_gpu(void *stream, const dsv4_attn_params *params, const choice *chosen,
                              const void *plan, void *workspace, dsv4_error *error)
{
    if (chosen->backend == DSV4_BACKEND_HIP) {
        return dsv4_attn_hip_decode(stream, params, &chosen->hip, &chosen->hip_shape, plan,
                                    workspace, error);
    }
    return dsv4_attn_cuda_decode(stream, params, &chosen->cuda_shape, plan, workspace, error);
}

dsv4_status dsv4_attn_decode(void *stream, const dsv4_attn_params *params, const void *plan,
                             size_t plan_bytes, void *workspace, size_t workspace_bytes,
                             dsv4_error *error)
{
    DSV4_TRY(dsv4_attn_check_params(params, true, error));
    DSV4_TRY(dsv4_attn_check_stream(stream, params->backend, error));
    choice chosen = {0};
    plan_header needed, built;
    DSV4_TRY(resolve_choice(params, &chosen, error));
    DSV4_TRY(describe_plan(params, &chosen, &needed, error));
    built = needed;
    if (!dsv4_attn_on_gpu(chosen.backend)) {
        DSV4_TRY(dsv4_attn_check_memory("plan", plan, plan_bytes, PLAN_HEADER_BYTES, error));
        memcpy(&built, plan, sizeof built);
        DSV4_TRY(check_plan(&built, &needed, error));
    }
    DSV4_TRY(dsv4_attn_check_memory("plan", plan, plan_bytes, built.plan_bytes, error));
    DSV4_TRY(dsv4_attn_check_memory("workspace", workspace, workspace_bytes, built.workspace_bytes,
                                    error));
    if (params->n_requests == 0) return DSV4_OK;
    if (dsv4_attn_on_gpu(chosen.backend)) {
        return decode_gpu(stream, params, &chosen, plan, workspace, error);
    }
    if (chosen.kernels == NULL) {
        dsv4_attn_ref_decode(params, workspace);
    } else {
        dsv4_attn_cpu_decode(params, chosen.kernels,
                             (const unsigned char *)plan + PLAN_HEADER_BYTES, workspace);
    }
    return DSV4_OK;
}

/* ---- merge ---- */

enum { MERGE_TASK_ROWS = 4 };

static void merge_rows(void *shared, int64_t task, int32_t worker)
{
    (void)worker;
    const dsv4_attn_merge_params *params = shared;
    int64_t begin = task * MERGE_TASK_ROWS, end = begin + MERGE_TASK_ROWS;
    dsv4_attn_ref_merge(params, begin, end < params->n_rows ? end : params->n_rows);
}

static dsv4_status merge_cuda(void *stream, const dsv4_attn_merge_params *params, dsv4_error *error)
{
    dsv4_attn_params any;
    dsv4_attn_cuda_device device;
    const char *kernel;
    dsv4_attn_params_default(&any);
    any.backend = DSV4_BACKEND_CUDA;
    DSV4_TRY(dsv4_attn_cuda_choose(&any, &device, &kernel, error));
    if (params->n_rows == 0) return DSV4_OK;
    return dsv4_attn_cuda_merge(stream, params, error);
}

dsv4_status dsv4_attn_merge(void *stream, const dsv4_attn_merge_params *params, dsv4_error *error)
{
    DSV4_TRY(dsv4_attn_check_merge(params, error));
    DSV4_TRY(dsv4_attn_check_stream(stream, params->backend, error));
    if (params->backend == DSV4_BACKEND_CUDA) return merge_cuda(stream, params, error);
    if (params->backend == DSV4_BACKEND_HIP) return dsv4_attn_hip_merge(stream, params, error);
    dsv4_attn_merge_params copy = *params;
    int32_t n_threads = params->n_threads;
    if (n_threads == 0) n_threads = dsv4_parallel_default_threads();
    int64_t n_tasks = (params->n_rows + MERGE_TASK_ROWS - 1) / MERGE_TASK_ROWS;
    dsv4_parallel_for(n_threads, n_tasks, merge_rows, &copy);
    return DSV4_OK;
}
