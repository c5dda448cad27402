/*
 * indexer.h - which compressed keys a query of a ratio-4 layer attends to (specification 3.7).
 *
 * Place: ref.
 */
#ifndef DSV4_REF_INDEXER_H
#define DSV4_REF_INDEXER_H

#include <stdint.h>

/*
 * score = sum_h weights[h] * relu(q_h . key), q [n_heads, 128], key [128], weights [n_heads], all f32.
 * round: 1: dots, weighted dots and score become bf16.
 */
float dsv4_indexer_score(const float *q, const float *weights, int64_t n_heads, const float *key,
                         int round);

/* key [128] f32 from a row of 64 bytes of e2m1 codes, the even one low, and 4 ue8m0 scales; exact. */
void dsv4_indexer_read_fp4(const unsigned char *row, float *key);

/*
 * The min(k, n) largest of scores [n]; ties go to the smaller index; a NaN counts as the smallest.
 * chosen [min(k, n)] i32 ascending. Returns how many. scratch [n] i32.
 */
int64_t dsv4_indexer_topk(const float *scores, int64_t n, int64_t k, int32_t *scratch,
                          int32_t *chosen);

#endif
