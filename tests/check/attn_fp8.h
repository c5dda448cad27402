/*
 * attn_fp8.h - what FP8 math makes of queries, and how far its results may be from those of the queries as they are.
 *
 * Place: tests. Rounding a query to e4m3 moves all scores of a head, by as much as scores are large; rounding
 * probabilities moves the output by a fixed part of its norm. Only the second can be told from a fault by a tolerance.
 * So results are compared (attn_compare) with the answer for the rounded queries, and against the answer for the
 * queries as they are only by one cosine.
 */
#ifndef DSV4_TESTS_ATTN_FP8_H
#define DSV4_TESTS_ATTN_FP8_H

#include "attn_run.h"

/* Queries of a case before they were replaced. */
typedef struct attn_fp8_kept {
    uint16_t *rounded; /* [n_requests, n_queries, n_heads, 512] bf16 */
    dsv4_attn_params params;
} attn_fp8_kept;

/* One head: dims 0..447 as e4m3 codes times the head's power of two, which bf16 can hold. */
void attn_fp8_round_head(const uint16_t q[DSV4_ATTN_DIM], uint16_t rounded[DSV4_ATTN_DIM]);

/* Between these two a case, of bf16 queries, has the rounded ones. */
void attn_fp8_queries_round(attn_case *c, attn_fp8_kept *kept);
void attn_fp8_queries_restore(attn_case *c, attn_fp8_kept *kept);

/*
 * The cosine between all of a result and the answer for the queries as they are; enters worst. Fails below 0.999 where
 * the case's scores are ordinary. Cases without a cosine, or of extreme values, pass.
 */
bool attn_fp8_cosine_check(const attn_case *c, const attn_result *got, const attn_answer *want,
                           attn_worst *worst, char *text);

#endif
