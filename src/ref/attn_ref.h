/*
 * attn_ref.h - the decode attention and the merge of partial results as plain scalar C.
 *
 * Place: ref; oracle, fallback and textbook. Params must have passed the checks of src/attn. No
 * allocation, no threads, f32 throughout. Source: specification of the model, 3.4 (core attention).
 */
#ifndef DSV4_REF_ATTN_REF_H
#define DSV4_REF_ATTN_REF_H

#include "dsv4/attn.h"

/* Bytes of scratch that dsv4_attn_ref_decode needs for these params. */
size_t dsv4_attn_ref_workspace_bytes(const dsv4_attn_params *params);

/* workspace is 64-byte aligned, dsv4_attn_ref_workspace_bytes long. */
void dsv4_attn_ref_decode(const dsv4_attn_params *params, void *workspace);

/* Merges rows row_begin .. row_end - 1. */
void dsv4_attn_ref_merge(const dsv4_attn_merge_params *params, int64_t row_begin, int64_t row_end);

/*
 * Turns pairs (values[2i], values[2i + 1]) by minus the angle of cosine table[i], sine table[32 + i].
 *   values  [64] f32, in place      table  [64] f32
 */
void dsv4_attn_ref_rotate_back(float *values, const float *table);

#endif
