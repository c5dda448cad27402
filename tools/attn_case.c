/*
 * attn_case.c - reads and checks a case file.
 *
 * Place: program. Not here: what the library checks itself (strides, pointers), and any look at the
 * numbers in the tensors.
 */
#include "attn_case.h"

#include "dsv4/cache.h"

#include "base/error.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_REQUESTS  (INT64_C(1) << 20)
#define MAX_QUERIES   (INT64_C(1) << 10)
#define MAX_PAGE_ROWS (INT64_C(1) << 20)
#define MAX_INDICES   (INT64_C(1) << 24)

enum { ANY = -1, SHAPE_TEXT_BYTES = 160 };

static const char *const known_tensors[] = {
    "q",         "kv",  "indices", "topk_length", "extra_kv", "extra_indices", "extra_topk_length",
    "attn_sink", "out", "lse",
};

/* "[4][1][64][512]"; ANY prints as "*". */
static void format_shape(const int64_t *shape, int32_t rank, char *text, size_t text_bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (int32_t i = 0; i < rank && used < text_bytes; i++) {
        int n = shape[i] == ANY
                    ? snprintf(text + used, text_bytes - used, "[*]")
                    : snprintf(text + used, text_bytes - used, "[%" PRId64 "]", shape[i]);
        used += n > 0 ? (size_t)n : 0;
    }
}

/* Points *data at the tensor's bytes, or at a copy of them when they are misaligned. */
static dsv4_status align_tensor(dsv4_attn_case *attn_case, const dsv4_tensor_view *view,
                                const void **data, dsv4_error *error)
{
    uintptr_t element_bytes = (uintptr_t)dsv4_safetensors_dtype_bytes(view->dtype);
    *data = view->data;
    if ((uintptr_t)view->data % element_bytes == 0) return DSV4_OK;
    void *copy = malloc(view->len_bytes > 0 ? (size_t)view->len_bytes : 1);
    if (copy == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "tensor %s: no memory for %" PRId64 " bytes", view->name,
                              view->len_bytes);
    }
    if (view->len_bytes > 0) memcpy(copy, view->data, (size_t)view->len_bytes);
    attn_case->copies[attn_case->n_copies++] = copy;
    *data = copy;
    return DSV4_OK;
}

typedef struct tensor_rule {
    const char *name;
    int32_t dtype;
    int32_t rank;
    int64_t shape[4]; /* ANY: not fixed */
    bool required;
} tensor_rule;

/* Finds and checks a tensor. *view and *data are NULL when an optional one is absent. */
static dsv4_status take_tensor(dsv4_attn_case *attn_case, const char *path, const tensor_rule *rule,
                               const dsv4_tensor_view **view, const void **data, dsv4_error *error)
{
    *data = NULL;
    *view = dsv4_safetensors_find(attn_case->file, rule->name);
    if (*view == NULL) {
        if (!rule->required) return DSV4_OK;
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                              "%s: tensor %s is missing; expected one of dtype %s and rank %d",
                              path, rule->name, dsv4_safetensors_dtype_name(rule->dtype),
                              rule->rank);
    }
    if ((*view)->dtype != rule->dtype) {
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE, "%s: tensor %s has dtype %s; expected %s",
                              path, rule->name, dsv4_safetensors_dtype_name((*view)->dtype),
                              dsv4_safetensors_dtype_name(rule->dtype));
    }
    bool fits = (*view)->rank == rule->rank;
    for (int32_t i = 0; fits && i < rule->rank; i++) {
        fits = rule->shape[i] == ANY || rule->shape[i] == (*view)->shape[i];
    }
    if (!fits) {
        char found[SHAPE_TEXT_BYTES], expected[SHAPE_TEXT_BYTES];
        format_shape((*view)->shape, (*view)->rank, found, sizeof found);
        format_shape(rule->shape, rule->rank, expected, sizeof expected);
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE, "%s: tensor %s has shape %s; expected %s",
                              path, rule->name, found, expected);
    }
    return align_tensor(attn_case, *view, data, error);
}

static dsv4_status check_range(const char *path, const char *what, int64_t value, int64_t min,
                               int64_t max, dsv4_error *error)
{
    if (value >= min && value <= max) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                          "%s: %s is %" PRId64 "; expected %" PRId64 " to %" PRId64, path, what,
                          value, min, max);
}

static dsv4_status find_metadata(const dsv4_attn_case *attn_case, const char *path, const char *key,
                                 const char **text, dsv4_error *error)
{
    *text = dsv4_safetensors_metadata(attn_case->file, key);
    if (*text != NULL) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_BAD_FILE, "%s: metadata %s is missing", path, key);
}

static dsv4_status take_page_rows(const dsv4_attn_case *attn_case, const char *path,
                                  const char *key, int64_t *page_rows, dsv4_error *error)
{
    const char *text;
    DSV4_TRY(find_metadata(attn_case, path, key, &text, error));
    errno = 0;
    long long value = strtoll(text, NULL, 10);
    bool is_number = text[0] != '\0' && strspn(text, "0123456789") == strlen(text) && errno == 0;
    if (!is_number || value < 1 || value > MAX_PAGE_ROWS) {
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                              "%s: metadata %s is '%.40s'; expected a whole number from 1 to "
                              "%" PRId64,
                              path, key, text, MAX_PAGE_ROWS);
    }
    *page_rows = value;
    return DSV4_OK;
}

static dsv4_status take_scale(dsv4_attn_case *attn_case, const char *path, dsv4_error *error)
{
    const char *text;
    DSV4_TRY(find_metadata(attn_case, path, "softmax_scale", &text, error));
    char *end;
    float scale = strtof(text, &end);
    if (end == text || *end != '\0' || !isfinite(scale) || scale <= 0) {
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                              "%s: metadata softmax_scale is '%.40s'; expected a finite number "
                              "above 0",
                              path, text);
    }
    attn_case->params.softmax_scale = scale;
    return DSV4_OK;
}

static dsv4_status take_query(dsv4_attn_case *attn_case, const char *path, dsv4_error *error)
{
    const tensor_rule rule = {"q", DSV4_SAFETENSORS_BF16, 4, {ANY, ANY, ANY, DSV4_ATTN_DIM}, true};
    const dsv4_tensor_view *view;
    dsv4_attn_params *params = &attn_case->params;
    DSV4_TRY(take_tensor(attn_case, path, &rule, &view, &params->q, error));
    params->n_requests = view->shape[0];
    params->n_queries = view->shape[1];
    params->n_heads = view->shape[2];
    DSV4_TRY(check_range(path, "tensor q dimension 0 (requests)", params->n_requests, 0,
                         MAX_REQUESTS, error));
    DSV4_TRY(check_range(path, "tensor q dimension 1 (queries)", params->n_queries, 1, MAX_QUERIES,
                         error));
    return check_range(path, "tensor q dimension 2 (heads)", params->n_heads, 1,
                       DSV4_ATTN_MAX_HEADS, error);
}

/* The names that one scope has in a file. */
typedef struct scope_names {
    const char *cache, *indices, *lengths, *page_rows;
} scope_names;

static const scope_names window_names = {"kv", "indices", "topk_length", "block_size"};
static const scope_names extra_names = {"extra_kv", "extra_indices", "extra_topk_length",
                                        "extra_block_size"};

/* A part of the second scope without its cache would silently not count. */
static dsv4_status refuse_parts(const dsv4_attn_case *attn_case, const char *path,
                                const scope_names *names, dsv4_error *error)
{
    const char *part = NULL;
    if (dsv4_safetensors_metadata(attn_case->file, names->page_rows) != NULL) {
        part = names->page_rows;
    }
    if (dsv4_safetensors_find(attn_case->file, names->lengths) != NULL) part = names->lengths;
    if (dsv4_safetensors_find(attn_case->file, names->indices) != NULL) part = names->indices;
    if (part == NULL) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                          "%s: %s is present but tensor %s is missing; expected both or none", path,
                          part, names->cache);
}

static dsv4_status take_scope(dsv4_attn_case *attn_case, const char *path, const scope_names *names,
                              bool required, dsv4_attn_scope *scope, dsv4_error *error)
{
    const dsv4_attn_params *params = &attn_case->params;
    const tensor_rule cache = {names->cache, DSV4_SAFETENSORS_U8, 2, {ANY, ANY}, required};
    const tensor_rule lists = {names->indices,
                               DSV4_SAFETENSORS_I32,
                               3,
                               {params->n_requests, params->n_queries, ANY},
                               true};
    const tensor_rule lengths = {
        names->lengths, DSV4_SAFETENSORS_I32, 1, {params->n_requests}, false};
    const dsv4_tensor_view *view;
    const void *data;
    DSV4_TRY(take_tensor(attn_case, path, &cache, &view, &scope->cache, error));
    if (view == NULL) return refuse_parts(attn_case, path, names, error);
    DSV4_TRY(take_page_rows(attn_case, path, names->page_rows, &scope->page_rows, error));
    scope->n_pages = view->shape[0];
    scope->page_stride_bytes = view->shape[1];
    if (scope->n_pages < 1 ||
        scope->page_stride_bytes < scope->page_rows * DSV4_CACHE_RECORD_BYTES) {
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                              "%s: tensor %s has shape [%" PRId64 "][%" PRId64
                              "]; expected at least [1][%" PRId64 "] (%s %" PRId64
                              " times %d bytes)",
                              path, names->cache, scope->n_pages, scope->page_stride_bytes,
                              scope->page_rows * DSV4_CACHE_RECORD_BYTES, names->page_rows,
                              scope->page_rows, DSV4_CACHE_RECORD_BYTES);
    }
    DSV4_TRY(take_tensor(attn_case, path, &lists, &view, &data, error));
    scope->indices = data;
    scope->n_indices = view->shape[2];
    char what[64];
    (void)snprintf(what, sizeof what, "tensor %s dimension 2 (list length)", names->indices);
    DSV4_TRY(check_range(path, what, scope->n_indices, 0, MAX_INDICES, error));
    DSV4_TRY(take_tensor(attn_case, path, &lengths, &view, &data, error));
    scope->lengths = data;
    return DSV4_OK;
}

static dsv4_status take_answer(dsv4_attn_case *attn_case, const char *path, dsv4_error *error)
{
    const dsv4_attn_params *params = &attn_case->params;
    const int64_t b = params->n_requests, s_q = params->n_queries, h = params->n_heads;
    const tensor_rule sink = {"attn_sink", DSV4_SAFETENSORS_F32, 1, {h}, false};
    const tensor_rule out = {"out", DSV4_SAFETENSORS_F32, 4, {b, s_q, h, DSV4_ATTN_DIM}, false};
    const tensor_rule lse = {"lse", DSV4_SAFETENSORS_F32, 3, {b, s_q, h}, false};
    const dsv4_tensor_view *view;
    const void *data;
    DSV4_TRY(take_tensor(attn_case, path, &sink, &view, &data, error));
    attn_case->params.sink = data;
    DSV4_TRY(take_tensor(attn_case, path, &out, &view, &data, error));
    attn_case->out = data;
    DSV4_TRY(take_tensor(attn_case, path, &lse, &view, &data, error));
    attn_case->lse = data;
    return DSV4_OK;
}

static dsv4_status refuse_unknown(const dsv4_attn_case *attn_case, const char *path,
                                  dsv4_error *error)
{
    for (int64_t i = 0; i < dsv4_safetensors_n_tensors(attn_case->file); i++) {
        const char *name = dsv4_safetensors_tensor(attn_case->file, i)->name;
        bool is_known = false;
        for (size_t k = 0; k < sizeof known_tensors / sizeof *known_tensors; k++) {
            is_known = is_known || strcmp(name, known_tensors[k]) == 0;
        }
        if (is_known) continue;
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                              "%s: tensor %.80s is no part of a case; expected q, kv, indices, "
                              "topk_length, extra_kv, extra_indices, extra_topk_length, attn_sink, "
                              "out or lse",
                              path, name);
    }
    return DSV4_OK;
}

dsv4_status dsv4_attn_case_open(const char *path, dsv4_attn_case *attn_case, dsv4_error *error)
{
    *attn_case = (dsv4_attn_case){0};
    dsv4_attn_params *params = &attn_case->params;
    dsv4_attn_params_default(params);
    DSV4_TRY(dsv4_safetensors_open(path, &attn_case->file, error));
    DSV4_TRY(refuse_unknown(attn_case, path, error));
    DSV4_TRY(take_query(attn_case, path, error));
    DSV4_TRY(take_scale(attn_case, path, error));
    DSV4_TRY(take_scope(attn_case, path, &window_names, true, &params->window, error));
    DSV4_TRY(take_scope(attn_case, path, &extra_names, false, &params->extra, error));
    DSV4_TRY(take_answer(attn_case, path, error));

    /* Everything is dense but the pages, whose distance is the file's own. */
    int64_t window_stride_bytes = params->window.page_stride_bytes;
    int64_t extra_stride_bytes = params->extra.page_stride_bytes;
    dsv4_attn_params_set_dense(params);
    params->window.page_stride_bytes = window_stride_bytes;
    params->extra.page_stride_bytes = extra_stride_bytes;
    return DSV4_OK;
}

void dsv4_attn_case_close(dsv4_attn_case *attn_case)
{
    for (int32_t i = 0; i < attn_case->n_copies; i++) free(attn_case->copies[i]);
    dsv4_safetensors_close(attn_case->file);
    *attn_case = (dsv4_attn_case){0};
}

int64_t dsv4_attn_case_n_rows(const dsv4_attn_case *attn_case)
{
    const dsv4_attn_params *params = &attn_case->params;
    return params->n_requests * params->n_queries * params->n_heads;
}
