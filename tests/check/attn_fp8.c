/*
 * attn_fp8.c - queries rounded as FP8 math rounds them, and the cosine to the answer without it.
 *
 * Place: tests.
 */
#include "attn_fp8.h"

#include "num/bf16.h"
#include "num/e4m3.h"
#include "num/ue8m0.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { CODE_DIMS = DSV4_ATTN_DIM - DSV4_ATTN_ROPE_DIM };

void attn_fp8_round_head(const uint16_t q[DSV4_ATTN_DIM], uint16_t rounded[DSV4_ATTN_DIM])
{
    float amax = 0;
    for (int d = 0; d < CODE_DIMS; d++) amax = fmaxf(amax, fabsf(dsv4_bf16_to_f32(q[d])));
    const int exponent = dsv4_ue8m0_group_scale(amax, DSV4_E4M3_MAX, 0x1p-90f) - 127;
    for (int d = 0; d < CODE_DIMS; d++) {
        const uint8_t code = dsv4_e4m3_from_f32(ldexpf(dsv4_bf16_to_f32(q[d]), -exponent));
        rounded[d] = dsv4_bf16_from_f32(ldexpf(dsv4_e4m3_to_f32(code), exponent));
    }
    memcpy(rounded + CODE_DIMS, q + CODE_DIMS, DSV4_ATTN_ROPE_DIM * sizeof *q);
}

static const uint8_t *head_of(const dsv4_attn_params *params, int64_t i)
{
    const int64_t row = i / params->n_heads;
    return (const uint8_t *)params->q + row / params->n_queries * params->q_request_stride_bytes +
           row % params->n_queries * params->q_query_stride_bytes +
           i % params->n_heads * params->q_head_stride_bytes;
}

static int64_t count_heads(const dsv4_attn_params *params)
{
    return params->n_requests * params->n_queries * params->n_heads;
}

void attn_fp8_queries_round(attn_case *c, attn_fp8_kept *kept)
{
    dsv4_attn_params *params = &c->params;
    const int64_t head_bytes = DSV4_ATTN_DIM * 2, n_heads = count_heads(params);
    kept->params = *params;
    kept->rounded = attn_alloc(n_heads * head_bytes);
    for (int64_t i = 0; i < n_heads; i++) {
        uint16_t q[DSV4_ATTN_DIM];
        memcpy(q, head_of(params, i), sizeof q);
        attn_fp8_round_head(q, kept->rounded + i * DSV4_ATTN_DIM);
    }
    params->q = kept->rounded;
    params->q_head_stride_bytes = head_bytes;
    params->q_query_stride_bytes = params->n_heads * head_bytes;
    params->q_request_stride_bytes = params->n_queries * params->q_query_stride_bytes;
}

void attn_fp8_queries_restore(attn_case *c, attn_fp8_kept *kept)
{
    free(kept->rounded);
    c->params.q = kept->params.q;
    c->params.q_head_stride_bytes = kept->params.q_head_stride_bytes;
    c->params.q_query_stride_bytes = kept->params.q_query_stride_bytes;
    c->params.q_request_stride_bytes = kept->params.q_request_stride_bytes;
}

/*
 * The standard deviation of a case's scores over random directions: each group of 64 dims adds |q|^2 |k|^2 / 64, in
 * the mean over heads and over named rows.
 */
static double score_deviation(const attn_case *c)
{
    const dsv4_attn_params *params = &c->params;
    const int64_t n_heads = count_heads(params);
    double variance = 0;
    for (int64_t i = 0; i < n_heads; i++) {
        for (int d = 0; d < DSV4_ATTN_DIM; d++) {
            double value = attn_out_value(head_of(params, i), DSV4_DTYPE_BF16, d);
            variance += value * value * c->key_square[d / 64];
        }
    }
    if (c->n_rows_named > 0) variance /= 64 * (double)n_heads * (double)c->n_rows_named;
    return (double)params->softmax_scale * sqrt(variance);
}

/*
 * Both errors are chance: of a query's rounding 0.024 times the scores' deviation, of the probabilities' 0.02, so that
 * a deviation of 1 gives a cosine of 1 - (0.024^2 + 0.02^2) / 2 = 0.9995, one of 2 would give 0.9987. Few heads may
 * by chance have errors that all are near the largest, 2^-4.
 */
static bool is_ordinary(const attn_case *c)
{
    enum { MIN_HEADS = 8 };
    return count_heads(&c->params) >= MIN_HEADS && score_deviation(c) <= 1.1;
}

bool attn_fp8_cosine_check(const attn_case *c, const attn_result *got, const attn_answer *want,
                           attn_worst *worst, char *text)
{
    double products = 0, got_square = 0, want_square = 0;
    if (c->spec.values == ATTN_VALUES_EXTREME) return true;
    for (int64_t i = 0; i < got->n_lse * DSV4_ATTN_DIM; i++) {
        const double x = attn_out_value(got->out, c->spec.out_dtype, i), y = want->out[i];
        if (isnan(x) || isnan(y)) continue;
        products += x * y;
        got_square += x * x;
        want_square += y * y;
    }
    if (!(got_square > 0 && want_square > 0) || !is_ordinary(c)) return true;
    const double cosine = products / sqrt(got_square * want_square);
    if (1 - cosine > worst->cosine_distance) worst->cosine_distance = 1 - cosine;
    if (cosine >= 0.999) return true;
    snprintf(
        text, ATTN_TEXT_BYTES,
        "cosine %.6f to the answer for unrounded queries, expected 0.999: scores deviate by %g",
        cosine, score_deviation(c));
    return false;
}
