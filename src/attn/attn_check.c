/*
 * attn_check.c - every rule of dsv4/attn.h on parameters.
 *
 * Place: attn. A text names the field, its value and the rule. The first broken rule is reported.
 */
#include "attn_check.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/checked.h"
#include "base/error.h"
#include "dsv4/cache.h"
#include "param_check.h"

enum {
    MAX_REQUESTS = 1 << 20,
    MAX_QUERIES = 1 << 10,
    MAX_INDICES = 1 << 24,
    MAX_PAGE_ROWS = 1 << 20,
    MAX_THREADS = 1024,
    MAX_PARTS = 4096,
    MAX_MERGE_ROWS = 1 << 30,
    MEMORY_ALIGN_BYTES = 64,
    GPU_ROW_ALIGN_BYTES = 16,  /* of the copy engine, and of a lane's loads */
    GPU_VALUE_ALIGN_BYTES = 16 /* of the merge: four f32 at a time */
};

bool dsv4_attn_on_gpu(int32_t backend)
{
    return backend == DSV4_BACKEND_CUDA || backend == DSV4_BACKEND_HIP;
}

static dsv4_status check_pages(const char *name, int32_t backend, const dsv4_attn_scope *scope,
                               dsv4_error *error)
{
    char field[FIELD_BYTES];
    (void)snprintf(field, sizeof field, "%s.page_rows", name);
    DSV4_TRY(check_range(field, scope->page_rows, 1, MAX_PAGE_ROWS, error));
    (void)snprintf(field, sizeof field, "%s.page_stride_bytes", name);
    int64_t row_bytes = DSV4_CACHE_RECORD_BYTES, pool_bytes;
    if (scope->row_format == DSV4_ATTN_ROWS_F32) row_bytes = DSV4_ATTN_DIM * sizeof(float);
    if (scope->page_stride_bytes < scope->page_rows * row_bytes) {
        return dsv4_error_set(
            error, DSV4_ERROR_INVALID_ARGUMENT,
            "%s: %" PRId64 ", expected at least page_rows * %" PRId64 " = %" PRId64, field,
            scope->page_stride_bytes, row_bytes, scope->page_rows * row_bytes);
    }
    if (dsv4_attn_on_gpu(backend) && scope->page_stride_bytes % GPU_ROW_ALIGN_BYTES != 0) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "%s: %" PRId64 ", expected a multiple of %d on %s", field,
                              scope->page_stride_bytes, GPU_ROW_ALIGN_BYTES,
                              backend == DSV4_BACKEND_CUDA ? "CUDA" : "HIP");
    }
    if (!dsv4_checked_mul_i64(scope->n_pages, scope->page_stride_bytes, &pool_bytes)) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "%s: %" PRId64 " times %" PRId64
                              " pages, expected a pool of less than 2^63 bytes",
                              field, scope->page_stride_bytes, scope->n_pages);
    }
    return DSV4_OK;
}

static dsv4_status check_scope(const char *name, const dsv4_attn_params *params,
                               const dsv4_attn_scope *scope, bool need_tensors, dsv4_error *error)
{
    char field[FIELD_BYTES];
    (void)snprintf(field, sizeof field, "%s.n_pages", name);
    DSV4_TRY(check_range(field, scope->n_pages, 0, INT64_MAX, error));
    if (scope->n_pages == 0) return DSV4_OK;
    (void)snprintf(field, sizeof field, "%s.row_format", name);
    DSV4_TRY(check_range(field, scope->row_format, DSV4_ATTN_ROWS_FP8, DSV4_ATTN_ROWS_F32, error));
    (void)snprintf(field, sizeof field, "%s.reserved", name);
    DSV4_TRY(check_range(field, scope->reserved, 0, 0, error));
    DSV4_TRY(check_pages(name, params->backend, scope, error));
    (void)snprintf(field, sizeof field, "%s.n_indices", name);
    DSV4_TRY(check_range(field, scope->n_indices, 0, MAX_INDICES, error));

    char tensor[FIELD_BYTES];
    (void)snprintf(tensor, sizeof tensor, "%s.indices", name);
    dims lists = {
        .tensor = tensor,
        .n_dims = 2,
        .names = {"request", "query"},
        .counts = {params->n_requests, params->n_queries},
        .strides_bytes = {scope->indices_request_stride_bytes, scope->indices_query_stride_bytes},
        .element_bytes = sizeof(int32_t),
        .inner_bytes = scope->n_indices * (int64_t)sizeof(int32_t)};
    DSV4_TRY(check_strides(&lists, error));
    if (scope->lengths != NULL) {
        (void)snprintf(field, sizeof field, "%s.lengths", name);
        DSV4_TRY(check_pointer(field, scope->lengths, sizeof(int32_t), error));
    }
    if (!need_tensors) return DSV4_OK;
    (void)snprintf(field, sizeof field, "%s.cache", name);
    size_t align_bytes = dsv4_attn_on_gpu(params->backend) ? GPU_ROW_ALIGN_BYTES : 1;
    DSV4_TRY(check_pointer(field, scope->cache, align_bytes, error));
    if (scope->n_indices == 0) return DSV4_OK;
    return check_pointer(tensor, scope->indices, sizeof(int32_t), error);
}

int64_t dsv4_attn_dtype_bytes(int32_t dtype)
{
    if (dtype == DSV4_DTYPE_FP8) return 1;
    return dtype == DSV4_DTYPE_F32 ? 4 : 2;
}

static dsv4_status check_out_dtype(int32_t dtype, dsv4_error *error)
{
    if (dtype >= DSV4_DTYPE_BF16 && dtype <= DSV4_DTYPE_FP8) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "out_dtype: %" PRId32 ", expected DSV4_DTYPE_BF16 (1), DSV4_DTYPE_F32 "
                          "(2) or DSV4_DTYPE_FP8 (3)",
                          dtype);
}

static dsv4_status check_kernel_options(const dsv4_attn_params *params, dsv4_error *error)
{
    DSV4_TRY(check_range("backend", params->backend, DSV4_BACKEND_AUTO, DSV4_BACKEND_HIP, error));
    DSV4_TRY(check_range("math", params->math, DSV4_ATTN_MATH_AUTO, DSV4_ATTN_MATH_FP8, error));
    return check_range("cpu_level", params->cpu_level, DSV4_CPU_LEVEL_AUTO,
                       DSV4_CPU_LEVEL_AVX512BF16, error);
}

static dsv4_status check_options(const dsv4_attn_params *params, dsv4_error *error)
{
    DSV4_TRY(check_range("n_requests", params->n_requests, 0, MAX_REQUESTS, error));
    DSV4_TRY(check_range("n_queries", params->n_queries, 1, MAX_QUERIES, error));
    DSV4_TRY(check_range("n_heads", params->n_heads, 1, DSV4_ATTN_MAX_HEADS, error));
    if (!isfinite(params->softmax_scale) || params->softmax_scale <= 0.0f) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "softmax_scale: %g, expected a finite number > 0",
                              (double)params->softmax_scale);
    }
    DSV4_TRY(check_kernel_options(params, error));
    DSV4_TRY(check_range("n_threads", params->n_threads, 0, MAX_THREADS, error));
    DSV4_TRY(check_out_dtype(params->out_dtype, error));
    DSV4_TRY(check_dtype("q_dtype", params->q_dtype, error));
    DSV4_TRY(check_range("fixed_split", params->fixed_split, 0, 1, error));
    int32_t group = params->group_heads;
    if (group != 0 && group != 8 && group != 16 && group != 32 && group != 64) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "group_heads: %" PRId32 ", expected 0, 8, 16, 32 or 64", group);
    }
    DSV4_TRY(check_range("cuda_kernel", params->cuda_kernel, DSV4_CUDA_KERNEL_AUTO,
                         DSV4_CUDA_KERNEL_SM90, error));
    DSV4_TRY(
        check_range("join_queries", params->join_queries, DSV4_JOIN_AUTO, DSV4_JOIN_ALWAYS, error));
    return check_range("reserved", params->reserved, 0, 0, error);
}

static dsv4_status check_query(const dsv4_attn_params *params, bool need_tensors, dsv4_error *error)
{
    dims q = {.tensor = "q",
              .n_dims = 3,
              .names = {"request", "query", "head"},
              .counts = {params->n_requests, params->n_queries, params->n_heads},
              .strides_bytes = {params->q_request_stride_bytes, params->q_query_stride_bytes,
                                params->q_head_stride_bytes},
              .element_bytes = dsv4_attn_dtype_bytes(params->q_dtype),
              .inner_bytes = DSV4_ATTN_DIM * dsv4_attn_dtype_bytes(params->q_dtype)};
    DSV4_TRY(check_strides(&q, error));
    if (!need_tensors) return DSV4_OK;
    DSV4_TRY(check_pointer("q", params->q, (size_t)dsv4_attn_dtype_bytes(params->q_dtype), error));
    if (params->sink == NULL) return DSV4_OK;
    return check_pointer("sink", params->sink, sizeof(float), error);
}

static dsv4_status check_outputs(const dsv4_attn_params *params, bool need_tensors,
                                 dsv4_error *error)
{
    int64_t value_bytes = dsv4_attn_dtype_bytes(params->out_dtype);
    dims out = {.tensor = "out",
                .n_dims = 3,
                .names = {"request", "query", "head"},
                .counts = {params->n_requests, params->n_queries, params->n_heads},
                .strides_bytes = {params->out_request_stride_bytes, params->out_query_stride_bytes,
                                  params->out_head_stride_bytes},
                .element_bytes = value_bytes,
                .inner_bytes = DSV4_ATTN_DIM * value_bytes};
    DSV4_TRY(check_strides(&out, error));
    DSV4_TRY(check_no_overlap(&out, error));
    if (need_tensors) DSV4_TRY(check_pointer("out", params->out, (size_t)value_bytes, error));
    if (params->out_dtype == DSV4_DTYPE_FP8) {
        dims scales = out;
        scales.tensor = "out_scales";
        scales.strides_bytes[0] = params->out_scales_request_stride_bytes;
        scales.strides_bytes[1] = params->out_scales_query_stride_bytes;
        scales.strides_bytes[2] = params->out_scales_head_stride_bytes;
        scales.element_bytes = 1;
        scales.inner_bytes = DSV4_ATTN_DIM / DSV4_ATTN_OUT_GROUP;
        DSV4_TRY(check_strides(&scales, error));
        DSV4_TRY(check_no_overlap(&scales, error));
        if (need_tensors) DSV4_TRY(check_pointer("out_scales", params->out_scales, 1, error));
    }
    if (params->lse == NULL) return DSV4_OK;
    dims lse = out;
    lse.tensor = "lse";
    lse.strides_bytes[0] = params->lse_request_stride_bytes;
    lse.strides_bytes[1] = params->lse_query_stride_bytes;
    lse.strides_bytes[2] = params->lse_head_stride_bytes;
    lse.element_bytes = lse.inner_bytes = sizeof(float);
    DSV4_TRY(check_strides(&lse, error));
    DSV4_TRY(check_no_overlap(&lse, error));
    return check_pointer("lse", params->lse, sizeof(float), error);
}

static dsv4_status check_rope(const dsv4_attn_params *params, bool need_tensors, dsv4_error *error)
{
    if (params->rope_table == NULL) return DSV4_OK;
    DSV4_TRY(check_range("n_rope_rows", params->n_rope_rows, 1, INT32_MAX, error));
    DSV4_TRY(check_pointer("rope_table", params->rope_table, sizeof(float), error));
    if (!need_tensors) return DSV4_OK;
    return check_pointer("rope_rows", params->rope_rows, sizeof(int32_t), error);
}

static dsv4_status check_struct(const dsv4_attn_params *params, dsv4_error *error)
{
    if (params == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT, "params: NULL");
    }
    return check_struct_size(params->size, sizeof *params, "dsv4_attn_params", error);
}

dsv4_status dsv4_attn_check_choice(const dsv4_attn_params *params, const void *result,
                                   dsv4_error *error)
{
    DSV4_TRY(check_struct(params, error));
    if (result == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT, "choice: NULL");
    }
    return check_kernel_options(params, error);
}

dsv4_status dsv4_attn_check_params(const dsv4_attn_params *params, bool need_tensors,
                                   dsv4_error *error)
{
    DSV4_TRY(check_struct(params, error));
    DSV4_TRY(check_options(params, error));
    bool tensors_used = need_tensors && params->n_requests > 0;
    DSV4_TRY(check_query(params, tensors_used, error));
    DSV4_TRY(check_scope("window", params, &params->window, tensors_used, error));
    DSV4_TRY(check_scope("extra", params, &params->extra, tensors_used, error));
    DSV4_TRY(check_outputs(params, tensors_used, error));
    return check_rope(params, tensors_used, error);
}

static bool ranges_overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
    uintptr_t a_begin = (uintptr_t)a, b_begin = (uintptr_t)b;
    return a_begin < b_begin + b_bytes && b_begin < a_begin + a_bytes;
}

dsv4_status dsv4_attn_check_merge(const dsv4_attn_merge_params *params, dsv4_error *error)
{
    if (params == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT, "params: NULL");
    }
    DSV4_TRY(check_struct_size(params->size, sizeof *params, "dsv4_attn_merge_params", error));
    DSV4_TRY(check_range("n_parts", params->n_parts, 1, MAX_PARTS, error));
    DSV4_TRY(check_range("n_rows", params->n_rows, 0, MAX_MERGE_ROWS, error));
    DSV4_TRY(check_range("n_heads", params->n_heads, 1, DSV4_ATTN_MAX_HEADS, error));
    DSV4_TRY(check_dtype("part_dtype", params->part_dtype, error));
    DSV4_TRY(check_dtype("out_dtype", params->out_dtype, error));
    DSV4_TRY(check_range("n_threads", params->n_threads, 0, MAX_THREADS, error));
    DSV4_TRY(check_range("backend", params->backend, DSV4_BACKEND_AUTO, DSV4_BACKEND_HIP, error));
    if (params->n_rows == 0) return DSV4_OK;

    size_t part_bytes = (size_t)dsv4_attn_dtype_bytes(params->part_dtype);
    size_t out_bytes = (size_t)dsv4_attn_dtype_bytes(params->out_dtype);
    bool on_gpu = dsv4_attn_on_gpu(params->backend);
    size_t part_align = on_gpu ? GPU_VALUE_ALIGN_BYTES : part_bytes;
    size_t out_align = on_gpu ? GPU_VALUE_ALIGN_BYTES : out_bytes;
    DSV4_TRY(check_pointer("out_parts", params->out_parts, part_align, error));
    DSV4_TRY(check_pointer("lse_parts", params->lse_parts, sizeof(float), error));
    DSV4_TRY(check_pointer("out", params->out, out_align, error));
    if (params->sink != NULL) DSV4_TRY(check_pointer("sink", params->sink, sizeof(float), error));
    if (params->lse != NULL) DSV4_TRY(check_pointer("lse", params->lse, sizeof(float), error));
    size_t n_values = (size_t)params->n_rows * (size_t)params->n_heads * DSV4_ATTN_DIM;
    if (ranges_overlap(params->out, n_values * out_bytes, params->out_parts,
                       n_values * part_bytes * (size_t)params->n_parts)) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "out: address %p, expected no overlap with out_parts at %p",
                              params->out, params->out_parts);
    }
    return DSV4_OK;
}

dsv4_status dsv4_attn_check_stream(const void *stream, int32_t backend, dsv4_error *error)
{
    if (stream == NULL || dsv4_attn_on_gpu(backend)) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "stream: %p, expected NULL on the CPU", stream);
}

dsv4_status dsv4_attn_check_memory(const char *name, const void *memory, size_t len_bytes,
                                   size_t need_bytes, dsv4_error *error)
{
    if (len_bytes < need_bytes) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "%s_bytes: %zu, expected at least %zu (dsv4_attn_plan_size)", name,
                              len_bytes, need_bytes);
    }
    if (need_bytes == 0) return DSV4_OK;
    return check_pointer(name, memory, MEMORY_ALIGN_BYTES, error);
}
