/*
 * keys_check.c - every rule of dsv4/keys.h on parameters.
 *
 * Place: attn. A text names the field, its value and the rule. The first broken rule is reported.
 */
#include "keys_check.h"

#include <math.h>

#include "attn_check.h"
#include "dsv4/cache.h"
#include "param_check.h"

enum {
    MAX_TOKENS = 1 << 20,
    MAX_REQUESTS = 1 << 20,
    MAX_PAGE_ROWS = 1 << 20,
    MAX_TABLE_PAGES = 1 << 24,
    MAX_READ_ROWS = 1 << 30,
    MAX_THREADS = 1024,
    GPU_ALIGN_BYTES = 16
};

static dsv4_status check_start(const void *params, uint64_t size, size_t need_bytes,
                               const char *type, dsv4_error *error)
{
    if (params == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT, "params: NULL");
    }
    return check_struct_size(size, need_bytes, type, error);
}

static dsv4_status check_backend(int32_t backend, int32_t n_threads, int32_t reserved,
                                 dsv4_error *error)
{
    DSV4_TRY(check_range("backend", backend, DSV4_BACKEND_AUTO, DSV4_BACKEND_HIP, error));
    DSV4_TRY(check_range("n_threads", n_threads, 0, MAX_THREADS, error));
    return check_range("reserved", reserved, 0, 0, error);
}

static dsv4_status check_math(int32_t math, float norm_eps, dsv4_error *error)
{
    if (math != DSV4_ATTN_MATH_AUTO && math != DSV4_ATTN_MATH_EXACT &&
        math != DSV4_ATTN_MATH_OFFICIAL) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "math: %" PRId32 ", expected auto (0), exact (1) or official (3)",
                              math);
    }
    if (isfinite(norm_eps) && norm_eps >= 0.0f) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "norm_eps: %g, expected a finite number >= 0", (double)norm_eps);
}

/* Pages of n_pages * stride bytes that hold page_rows rows of row_bytes each. */
static dsv4_status check_pages(const char *name, int64_t n_pages, int64_t page_rows,
                               int64_t stride_bytes, int64_t row_bytes, int32_t backend,
                               dsv4_error *error)
{
    char field[FIELD_BYTES];
    int64_t pool_bytes;
    (void)snprintf(field, sizeof field, "%sn_pages", name);
    DSV4_TRY(check_range(field, n_pages, 0, INT64_MAX, error));
    (void)snprintf(field, sizeof field, "%spage_rows", name);
    DSV4_TRY(check_range(field, page_rows, 1, MAX_PAGE_ROWS, error));
    (void)snprintf(field, sizeof field, "%spage_stride_bytes", name);
    DSV4_TRY(check_range(field, stride_bytes, page_rows * row_bytes, INT64_MAX, error));
    if (dsv4_attn_on_gpu(backend) && stride_bytes % GPU_ALIGN_BYTES != 0) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "%s: %" PRId64 ", expected a multiple of %d on CUDA and HIP", field,
                              stride_bytes, GPU_ALIGN_BYTES);
    }
    if (dsv4_checked_mul_i64(n_pages, stride_bytes, &pool_bytes)) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "%s: %" PRId64 " times %" PRId64
                          " pages, expected a pool of less than 2^63 bytes",
                          field, stride_bytes, n_pages);
}

static dsv4_status check_cache(const char *name, const dsv4_keys_cache *cache, int32_t backend,
                               dsv4_error *error)
{
    char field[FIELD_BYTES];
    (void)snprintf(field, sizeof field, "%s.row_format", name);
    DSV4_TRY(check_range(field, cache->row_format, DSV4_ATTN_ROWS_FP8, DSV4_ATTN_ROWS_F32, error));
    (void)snprintf(field, sizeof field, "%s.reserved", name);
    DSV4_TRY(check_range(field, cache->reserved, 0, 0, error));
    if (cache->n_pages == 0) return DSV4_OK;
    (void)snprintf(field, sizeof field, "%s.", name);
    int64_t row_bytes = DSV4_CACHE_RECORD_BYTES;
    if (cache->row_format == DSV4_ATTN_ROWS_F32) row_bytes = DSV4_ATTN_DIM * sizeof(float);
    DSV4_TRY(check_pages(field, cache->n_pages, cache->page_rows, cache->page_stride_bytes,
                         row_bytes, backend, error));
    (void)snprintf(field, sizeof field, "%s.pages", name);
    size_t align_bytes = dsv4_attn_on_gpu(backend) ? GPU_ALIGN_BYTES : 1;
    return check_pointer(field, cache->pages, align_bytes, error);
}

static dsv4_status check_list(const char *field, const int32_t *list, dsv4_error *error)
{
    return check_pointer(field, list, sizeof *list, error);
}

static dsv4_status check_weight(const char *field, const uint16_t *weight, dsv4_error *error)
{
    return weight == NULL ? DSV4_OK : check_pointer(field, weight, sizeof *weight, error);
}

static dsv4_status check_rope(const float *table, int64_t n_rows, dsv4_error *error)
{
    DSV4_TRY(check_range("n_rope_rows", n_rows, 1, INT32_MAX, error));
    return check_pointer("rope_table", table, sizeof *table, error);
}

/* ---- finish ---- */

/* q or out: [n_tokens, n_heads, 512]. */
static dsv4_status check_heads(const char *name, const dsv4_keys_finish_params *p,
                               const void *tensor, int32_t dtype, int64_t token_stride_bytes,
                               int64_t head_stride_bytes, bool is_written, dsv4_error *error)
{
    dims d = {.tensor = name,
              .n_dims = 2,
              .names = {"token", "head"},
              .counts = {p->n_tokens, p->n_heads},
              .strides_bytes = {token_stride_bytes, head_stride_bytes},
              .element_bytes = dtype_bytes(dtype),
              .inner_bytes = DSV4_ATTN_DIM * dtype_bytes(dtype)};
    DSV4_TRY(check_strides(&d, error));
    if (is_written) DSV4_TRY(check_no_overlap(&d, error));
    return check_pointer(name, tensor, (size_t)dtype_bytes(dtype), error);
}

static dsv4_status check_queries(const dsv4_keys_finish_params *p, dsv4_error *error)
{
    if (p->n_heads == 0) return DSV4_OK;
    DSV4_TRY(check_heads("q", p, p->q, p->q_dtype, p->q_token_stride_bytes, p->q_head_stride_bytes,
                         false, error));
    DSV4_TRY(check_heads("out", p, p->out, p->out_dtype, p->out_token_stride_bytes,
                         p->out_head_stride_bytes, true, error));
    bool is_same = p->q_dtype == p->out_dtype &&
                   p->q_token_stride_bytes == p->out_token_stride_bytes &&
                   p->q_head_stride_bytes == p->out_head_stride_bytes;
    if (p->out != p->q || is_same) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "out: address %p is q's, expected the same dtype and strides then",
                          p->out);
}

dsv4_status dsv4_keys_check_finish(const dsv4_keys_finish_params *p, dsv4_error *error)
{
    DSV4_TRY(check_start(p, p == NULL ? 0 : p->size, sizeof *p, "dsv4_keys_finish_params", error));
    DSV4_TRY(check_range("n_tokens", p->n_tokens, 0, MAX_TOKENS, error));
    DSV4_TRY(check_range("n_heads", p->n_heads, 0, DSV4_ATTN_MAX_HEADS, error));
    DSV4_TRY(check_backend(p->backend, p->n_threads, p->reserved, error));
    DSV4_TRY(check_math(p->math, p->norm_eps, error));
    DSV4_TRY(check_dtype("q_dtype", p->q_dtype, error));
    DSV4_TRY(check_dtype("out_dtype", p->out_dtype, error));
    DSV4_TRY(check_dtype("kv_dtype", p->kv_dtype, error));
    if (p->n_tokens == 0) return DSV4_OK;
    DSV4_TRY(check_queries(p, error));
    DSV4_TRY(check_rope(p->rope_table, p->n_rope_rows, error));
    DSV4_TRY(check_list("rope_rows", p->rope_rows, error));
    if (p->kv == NULL) return DSV4_OK;
    dims kv = {.tensor = "kv",
               .n_dims = 1,
               .names = {"token"},
               .counts = {p->n_tokens},
               .strides_bytes = {p->kv_token_stride_bytes},
               .element_bytes = dtype_bytes(p->kv_dtype),
               .inner_bytes = DSV4_ATTN_DIM * dtype_bytes(p->kv_dtype)};
    DSV4_TRY(check_strides(&kv, error));
    DSV4_TRY(check_pointer("kv", p->kv, (size_t)dtype_bytes(p->kv_dtype), error));
    DSV4_TRY(check_weight("kv_norm", p->kv_norm, error));
    DSV4_TRY(check_cache("window", &p->window, p->backend, error));
    return check_list("slots", p->slots, error);
}

/* ---- compress ---- */

/* k or g: [n_tokens, width] f32. */
static dsv4_status check_raw(const char *name, const dsv4_keys_compress_params *p,
                             const float *tensor, int64_t stride_bytes, int64_t width,
                             dsv4_error *error)
{
    dims d = {.tensor = name,
              .n_dims = 1,
              .names = {"token"},
              .counts = {p->n_tokens},
              .strides_bytes = {stride_bytes},
              .element_bytes = sizeof(float),
              .inner_bytes = width * (int64_t)sizeof(float)};
    DSV4_TRY(check_strides(&d, error));
    return check_pointer(name, tensor, sizeof *tensor, error);
}

static dsv4_status check_state(const dsv4_keys_compress_params *p, int64_t width, dsv4_error *error)
{
    int64_t row_bytes = 2 * width * (int64_t)sizeof(float);
    DSV4_TRY(check_pages("state_", p->n_state_pages, p->state_page_rows, p->state_page_stride_bytes,
                         row_bytes, p->backend, error));
    bool on_gpu = dsv4_attn_on_gpu(p->backend);
    if (p->state_page_stride_bytes % (int64_t)sizeof(float) != 0) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "state_page_stride_bytes: %" PRId64 ", expected a multiple of 4",
                              p->state_page_stride_bytes);
    }
    if (p->n_state_pages > 0) {
        DSV4_TRY(check_pointer("state", p->state, on_gpu ? GPU_ALIGN_BYTES : sizeof(float), error));
    }
    DSV4_TRY(check_range("n_table_pages", p->n_table_pages, 1, MAX_TABLE_PAGES, error));
    dims tables = {.tensor = "table",
                   .n_dims = 1,
                   .names = {"request"},
                   .counts = {p->n_requests},
                   .strides_bytes = {p->table_stride_bytes},
                   .element_bytes = sizeof(int32_t),
                   .inner_bytes = p->n_table_pages * (int64_t)sizeof(int32_t)};
    DSV4_TRY(check_strides(&tables, error));
    return check_list("tables", p->tables, error);
}

dsv4_status dsv4_keys_check_compress(const dsv4_keys_compress_params *p, dsv4_error *error)
{
    DSV4_TRY(
        check_start(p, p == NULL ? 0 : p->size, sizeof *p, "dsv4_keys_compress_params", error));
    DSV4_TRY(check_range("n_tokens", p->n_tokens, 0, MAX_TOKENS, error));
    DSV4_TRY(check_range("n_requests", p->n_requests, 1, MAX_REQUESTS, error));
    if (p->ratio != 4 && p->ratio != 128) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "ratio: %" PRId32 ", expected 4 or 128", p->ratio);
    }
    DSV4_TRY(check_backend(p->backend, p->n_threads, p->reserved, error));
    DSV4_TRY(check_math(p->math, p->norm_eps, error));
    if (p->n_tokens == 0) return DSV4_OK;
    int64_t width = p->ratio == 4 ? 2 * DSV4_ATTN_DIM : DSV4_ATTN_DIM;
    DSV4_TRY(check_list("requests", p->requests, error));
    DSV4_TRY(check_list("positions", p->positions, error));
    DSV4_TRY(check_raw("k", p, p->k, p->k_token_stride_bytes, width, error));
    DSV4_TRY(check_raw("g", p, p->g, p->g_token_stride_bytes, width, error));
    DSV4_TRY(check_pointer("ape", p->ape, sizeof(float), error));
    DSV4_TRY(check_weight("norm", p->norm, error));
    DSV4_TRY(check_state(p, width, error));
    DSV4_TRY(check_cache("compressed", &p->compressed, p->backend, error));
    DSV4_TRY(check_list("slots", p->slots, error));
    DSV4_TRY(check_rope(p->rope_table, p->n_rope_rows, error));
    return p->rope_rows == NULL ? DSV4_OK : check_list("rope_rows", p->rope_rows, error);
}

/* ---- read ---- */

dsv4_status dsv4_keys_check_read(const dsv4_keys_read_params *p, dsv4_error *error)
{
    DSV4_TRY(check_start(p, p == NULL ? 0 : p->size, sizeof *p, "dsv4_keys_read_params", error));
    DSV4_TRY(check_range("n_rows", p->n_rows, 0, MAX_READ_ROWS, error));
    DSV4_TRY(check_backend(p->backend, p->n_threads, p->reserved, error));
    DSV4_TRY(check_dtype("out_dtype", p->out_dtype, error));
    if (p->n_rows == 0) return DSV4_OK;
    DSV4_TRY(check_cache("cache", &p->cache, p->backend, error));
    DSV4_TRY(check_range("cache.page_rows", p->cache.page_rows, 1, MAX_PAGE_ROWS, error));
    if ((p->slots == NULL) == (p->pages == NULL)) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "slots: %s, expected exactly one of slots and pages",
                              p->slots == NULL ? "NULL, as pages" : "given, as pages");
    }
    if (p->slots != NULL) {
        DSV4_TRY(check_list("slots", p->slots, error));
    } else {
        DSV4_TRY(check_list("pages", p->pages, error));
    }
    int64_t value_bytes = dtype_bytes(p->out_dtype);
    dims out = {.tensor = "out",
                .n_dims = 1,
                .names = {"row"},
                .counts = {p->n_rows},
                .strides_bytes = {p->out_row_stride_bytes},
                .element_bytes = value_bytes,
                .inner_bytes = DSV4_ATTN_DIM * value_bytes};
    DSV4_TRY(check_strides(&out, error));
    DSV4_TRY(check_no_overlap(&out, error));
    return check_pointer("out", p->out, (size_t)value_bytes, error);
}
