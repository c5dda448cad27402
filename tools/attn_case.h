/*
 * attn_case.h - one attention call read from a safetensors file.
 *
 * Place: program. The format is that of the man page, section CASE FILES. Opening checks every
 * tensor's dtype, rank and shape and the metadata against each other, so that what remains for the
 * library to refuse is nothing that a file can cause. Invariant: an open case is not changed.
 */
#ifndef DSV4_TOOLS_ATTN_CASE_H
#define DSV4_TOOLS_ATTN_CASE_H

#include "dsv4/attn.h"
#include "io/safetensors.h"

enum { DSV4_ATTN_CASE_MAX_COPIES = 8 };

typedef struct dsv4_attn_case {
    dsv4_safetensors *file;
    void *copies[DSV4_ATTN_CASE_MAX_COPIES]; /* tensors that the file holds misaligned */
    int32_t n_copies;
    /* Shapes, scale, q, both scopes and sink with their strides; outputs and choices are defaults.
     */
    dsv4_attn_params params;
    const float *out; /* [n_requests, n_queries, n_heads, 512] f32, or NULL: the file has none */
    const float *lse; /* [n_requests, n_queries, n_heads] f32, or NULL */
} dsv4_attn_case;

/*
 * Opens a case; close it with dsv4_attn_case_close, also after a failure. Errors: IO, BAD_FILE (the
 * text names file, tensor, value and expectation), OUT_OF_MEMORY.
 */
dsv4_status dsv4_attn_case_open(const char *path, dsv4_attn_case *attn_case, dsv4_error *error);

/* Accepts a case that was never or not completely opened, if it was zeroed before. */
void dsv4_attn_case_close(dsv4_attn_case *attn_case);

/* How many rows of 512 the output has: requests times queries times heads. */
int64_t dsv4_attn_case_n_rows(const dsv4_attn_case *attn_case);

#endif
