/*
 * keys_check.h - every rule of dsv4/keys.h on parameters.
 *
 * Place: attn. Algorithms behind these checks assume them.
 */
#ifndef DSV4_ATTN_KEYS_CHECK_H
#define DSV4_ATTN_KEYS_CHECK_H

#include "dsv4/keys.h"

/* Errors: INVALID_ARGUMENT. Tensors are looked at only where the shapes need them. */
dsv4_status dsv4_keys_check_finish(const dsv4_keys_finish_params *params, dsv4_error *error);
dsv4_status dsv4_keys_check_compress(const dsv4_keys_compress_params *params, dsv4_error *error);
dsv4_status dsv4_keys_check_read(const dsv4_keys_read_params *params, dsv4_error *error);

#endif
