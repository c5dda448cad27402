/*
 * rows_cpu.h - what the model does to a row of activations between its matrix products.
 *
 * Place: cpu. A table of functions per level; the caller picks it once and spreads rows over threads.
 * Nothing here starts a thread or allocates. Tensors are f32 of any alignment (bf16 where it says so).
 *
 * Two kinds of functions. Those marked EXACT give the bits of the function in ref that they name, at every
 * level (of a NaN: that it is one). The others differ from it by their order of sums, which depends on the
 * row's length and the level alone: sum_squares and the norms add squares in f64, vector i of a row to
 * accumulator i % 4, so that levels hardly ever differ; pool and swiglu take vf_exp for expf.
 */
#ifndef DSV4_CPU_ROWS_CPU_H
#define DSV4_CPU_ROWS_CPU_H

#include <stdint.h>

#include "ref/hyper.h"

typedef struct dsv4_rows_kernels {
    /* values [n] rounded to bf16, in place. EXACT: dsv4_quant_bf16. */
    void (*round)(float *values, int64_t n);

    /* bits [n] = the nearest bf16 of values [n]. EXACT: dsv4_bf16_from_f32. */
    void (*to_bf16)(const float *values, int64_t n, uint16_t *bits);

    /* out [n] = x [n] (may be the same) through e4m3 in groups of 128, the last one maybe short. EXACT:
     * dsv4_quant_fp8. */
    void (*quantize_fp8)(const float *x, int64_t n, float *out);

    /* values [n], in place, through e2m1 in groups of 32; n is a multiple of 32. EXACT: dsv4_quant_fp4. */
    void (*quantize_fp4)(float *values, int64_t n);

    /* EXACT: dsv4_quant_hadamard. */
    void (*hadamard)(float values[128]);

    /* Sum of x[i]^2, x [n]. */
    float (*sum_squares)(const float *x, int64_t n);

    /* As dsv4_norm_rms: x [n], weight [n] bf16 or NULL, y [n] (may be x). */
    void (*normalize)(const float *x, const uint16_t *weight, int64_t n, float eps, float *y);

    /* q [n] in place, without weight, rounded to bf16 where DeepSeek's code rounds (specification 3.2):
     * squares, mean, mean + eps, its inverse root, results. */
    void (*normalize_bf16)(float *q, int64_t n, float eps);

    /* out [dim] from streams [4, dim]. EXACT: dsv4_hyper_collapse. */
    void (*collapse)(const float pre[4], const float *streams, int64_t dim, int round, float *out);

    /* streams [4, dim] in place, sublayer [dim]. EXACT: dsv4_hyper_expand. */
    void (*expand)(const dsv4_hyper_mix *mix, const float *sublayer, int64_t dim, int round,
                   float *streams);

    /* As dsv4_compress_pool. */
    void (*pool)(const float *const *rows, int ratio, int64_t dim, float *pooled);

    /* As dsv4_gate_swiglu: hidden [n] (may be gate) from gate, up [n]. */
    void (*swiglu)(const float *gate, const float *up, int64_t n, float limit, float weight,
                   int round, float *hidden);
} dsv4_rows_kernels;

/* level: DSV4_CPU_LEVEL_*, resolved; 0: the functions of ref. */
const dsv4_rows_kernels *dsv4_rows_kernels_of(int32_t level);

/* The levels' tables, for dsv4_rows_kernels_of. */
extern const dsv4_rows_kernels dsv4_rows_v2, dsv4_rows_avx2, dsv4_rows_avx512;

/* The scalar middle of normalize_bf16: the factor for a sum of n squares. */
float dsv4_rows_inverse_bf16(float sum, int64_t n, float eps);

#endif
