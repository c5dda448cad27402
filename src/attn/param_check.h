/*
 * param_check.h - rules that parameters of several operations share.
 *
 * Place: attn. Small static functions, for the files that validate params: a text names the field, its
 * value and the rule. `error` may be NULL everywhere.
 */
#ifndef DSV4_ATTN_PARAM_CHECK_H
#define DSV4_ATTN_PARAM_CHECK_H

#include <inttypes.h>
#include <stdio.h>

#include "base/checked.h"
#include "base/error.h"
#include "dsv4/attn.h"

enum { FIELD_BYTES = 64, STRIDE_FIELD_BYTES = 2 * FIELD_BYTES };

static inline dsv4_status check_range(const char *field, int64_t value, int64_t low, int64_t high,
                                      dsv4_error *error)
{
    if (value >= low && value <= high) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "%s: %" PRId64 ", expected %" PRId64 " .. %" PRId64, field, value, low,
                          high);
}

static inline dsv4_status check_struct_size(uint64_t value, size_t need, const char *type,
                                            dsv4_error *error)
{
    if (value >= need) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "size: %" PRIu64 ", expected at least %zu (sizeof(%s))", value, need,
                          type);
}

static inline dsv4_status check_pointer(const char *field, const void *pointer, size_t align_bytes,
                                        dsv4_error *error)
{
    if (pointer == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT, "%s: NULL, expected a tensor",
                              field);
    }
    if ((uintptr_t)pointer % align_bytes == 0) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "%s: address %p, expected a multiple of %zu bytes", field, pointer,
                          align_bytes);
}

/* A tensor's outer dimensions, outermost first. */
typedef struct dims {
    const char *tensor;
    int n_dims;
    const char *names[3];
    int64_t counts[3];
    int64_t strides_bytes[3];
    int64_t element_bytes; /* strides are multiples of it */
    int64_t inner_bytes;   /* extent of one innermost run */
} dims;

static inline void stride_field(const dims *d, int i, char field[STRIDE_FIELD_BYTES])
{
    (void)snprintf(field, STRIDE_FIELD_BYTES, "%s_%s_stride_bytes", d->tensor, d->names[i]);
}

/* Strides are non-negative multiples of the element, and the whole extent fits in 63 bits. */
static inline dsv4_status check_strides(const dims *d, dsv4_error *error)
{
    int64_t extent = d->inner_bytes;
    for (int i = 0; i < d->n_dims; i++) {
        char field[STRIDE_FIELD_BYTES];
        stride_field(d, i, field);
        int64_t stride = d->strides_bytes[i], reach;
        if (stride < 0 || stride % d->element_bytes != 0) {
            return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                                  "%s: %" PRId64 ", expected a non-negative multiple of %" PRId64,
                                  field, stride, d->element_bytes);
        }
        if (d->counts[i] == 0) continue;
        if (!dsv4_checked_mul_i64(d->counts[i] - 1, stride, &reach) ||
            !dsv4_checked_add_i64(extent, reach, &extent)) {
            return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                                  "%s: %" PRId64 " times %" PRId64
                                  ", expected an extent of less than 2^63 bytes",
                                  field, stride, d->counts[i]);
        }
    }
    return DSV4_OK;
}

/* No two elements share a byte: from the smallest stride up, each must clear what lies inside it. */
static inline dsv4_status check_no_overlap(const dims *d, dsv4_error *error)
{
    int order[3], n_order = 0;
    for (int i = 0; i < d->n_dims; i++) {
        if (d->counts[i] <= 1) continue;
        int at = n_order++;
        while (at > 0 && d->strides_bytes[order[at - 1]] > d->strides_bytes[i]) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
    int64_t extent = d->inner_bytes;
    for (int i = 0; i < n_order; i++) {
        int dim = order[i];
        if (d->strides_bytes[dim] < extent) {
            char field[STRIDE_FIELD_BYTES];
            stride_field(d, dim, field);
            return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                                  "%s: %" PRId64 ", expected at least %" PRId64
                                  " so that outputs do not overlap",
                                  field, d->strides_bytes[dim], extent);
        }
        extent += (d->counts[dim] - 1) * d->strides_bytes[dim];
    }
    return DSV4_OK;
}

static inline int64_t dtype_bytes(int32_t dtype)
{
    return dtype == DSV4_DTYPE_F32 ? 4 : 2;
}

static inline dsv4_status check_dtype(const char *field, int32_t dtype, dsv4_error *error)
{
    if (dtype == DSV4_DTYPE_BF16 || dtype == DSV4_DTYPE_F32) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "%s: %" PRId32 ", expected DSV4_DTYPE_BF16 (1) or DSV4_DTYPE_F32 (2)",
                          field, dtype);
}

#endif
