/*
 * attn_check.h - every rule of dsv4/attn.h on parameters.
 *
 * Place: attn. Algorithms behind these checks assume them: nothing else in the tree validates params.
 */
#ifndef DSV4_ATTN_ATTN_CHECK_H
#define DSV4_ATTN_ATTN_CHECK_H

#include <stdbool.h>

#include "dsv4/attn.h"

/* Shapes, options and strides; with need_tensors also the presence and alignment of tensors. */
dsv4_status dsv4_attn_check_params(const dsv4_attn_params *params, bool need_tensors,
                                   dsv4_error *error);

/* What dsv4_attn_choose reads. */
dsv4_status dsv4_attn_check_choice(const dsv4_attn_params *params, const void *result,
                                   dsv4_error *error);

dsv4_status dsv4_attn_check_merge(const dsv4_attn_merge_params *params, dsv4_error *error);

/* Whether tensors, plan and workspace are a device's memory. */
bool dsv4_attn_on_gpu(int32_t backend);

/* Bytes of an element of DSV4_DTYPE_*. */
int64_t dsv4_attn_dtype_bytes(int32_t dtype);

/* `stream` must be NULL where no device is used. */
dsv4_status dsv4_attn_check_stream(const void *stream, int32_t backend, dsv4_error *error);

/* `memory` of len_bytes serves as `name` when it is aligned to 64 and holds need_bytes. */
dsv4_status dsv4_attn_check_memory(const char *name, const void *memory, size_t len_bytes,
                                   size_t need_bytes, dsv4_error *error);

#endif
