/*
 * attn_oracle.h - the equations of dsv4/attn.h in double precision.
 *
 * Place: tests. Written from the header alone and sharing no code with the library but
 * dsv4_cache_row_read (tested against all codes elsewhere): what the reference is checked against.
 */
#ifndef DSV4_TESTS_ATTN_ORACLE_H
#define DSV4_TESTS_ATTN_ORACLE_H

#include "dsv4/attn.h"

/*
 * params may have any layout; its out, lse, backend and dtype are ignored.
 *   out  [n_requests, n_queries, n_heads, 512], dense
 *   lse  [n_requests, n_queries, n_heads], dense
 */
void attn_oracle_decode(const dsv4_attn_params *params, double *out, double *lse);

/*
 * The same with the one rounding of DSV4_ATTN_MATH_OFFICIAL: exp(s_i - m) becomes bf16 where it
 * multiplies k_i, and only there. Where it lies next to the middle between two bf16, f32 noise may
 * round it the other way.
 *   noise  [n_requests, n_queries, n_heads] largest relative error of a probability before rounding
 *   slack  [n_requests, n_queries, n_heads] by how much, in norm, out may differ for that reason
 */
void attn_oracle_decode_official(const dsv4_attn_params *params, const double *noise, double *out,
                                 double *lse, double *slack);

/* The merge of dsv4_attn_merge; part_out and part_lse as its out_parts and lse_parts.
 *   out  [n_rows, n_heads, 512]      lse  [n_rows, n_heads]
 */
void attn_oracle_merge(const dsv4_attn_merge_params *params, double *out, double *lse);

/* Turns the tail of values [512] back by a row of the rope table; NaN for a row outside it. */
void attn_oracle_rotate(const dsv4_attn_params *params, int32_t row, double *values);

#endif
