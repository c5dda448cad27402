/*
 * model_size.h - parameters of tensors and of checkpoints.
 *
 * Place: program.
 */
#ifndef DSV4_TOOLS_MODEL_SIZE_H
#define DSV4_TOOLS_MODEL_SIZE_H

#include "io/model_dir.h"

/* Parameters in a tensor: none in scales and in tables of token ids. */
int64_t dsv4_tensor_parameters(const dsv4_tensor_view *view);

/* Sums over all tensors of a directory. Errors: those of opening it. */
dsv4_status dsv4_model_size_read(const char *dir, int64_t *n_bytes, int64_t *n_parameters,
                                 dsv4_error *error);

#endif
