/*
 * attn_flashmla.h - the shapes of FlashMLA's own test of sparse decoding, and its tolerances.
 *
 * Place: tests. Shapes and tolerances are those of tests/test_flash_mla_sparse_decoding.py there, for keys of 512: a
 * sweep and corner cases, ATTN_FLASHMLA_CASES in all. What differs: requests share one pool of rows instead of having
 * one each, lengths of sequences are uniform instead of normal, sinks are three times as wide.
 */
#ifndef DSV4_TESTS_ATTN_FLASHMLA_H
#define DSV4_TESTS_ATTN_FLASHMLA_H

#include "attn_run.h"

enum { ATTN_FLASHMLA_CASES = 4476 };

/*
 * Case index modulo ATTN_FLASHMLA_CASES, in an order in which any run of cases is a sample of all. spec is a drawn
 * one: what FlashMLA's test does not vary keeps it (layout, alignment).
 */
void attn_flashmla_draw(attn_rng *rng, int64_t index, attn_spec *spec);

/*
 * Compares a result on the case's out_dtype with one in f32:
 *   out  each element |error| < 1e-3 or |error| / (|expected| + 1e-6) < 2.01 / 128
 *        cosine distance of the whole, 1 - 2 x.y / (x.x + y.y), at most 5e-6
 *   lse  each element |error| < 1e-6 or the same quotient < 8.01 / 65536; cosine distance at most 1e-7
 *   infinities and NaN at the same places
 * worst->out gets the cosine distance of out, worst->lse the largest quotient of lse.
 */
bool attn_flashmla_compare(const attn_case *c, const attn_result *got, const attn_result *want,
                           attn_worst *worst, char *text);

#endif
