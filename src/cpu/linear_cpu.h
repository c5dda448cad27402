/*
 * linear_cpu.h - y = x W^T on the CPU, for the matrices of ref/linear.h.
 *
 * Place: cpu. One instruction set per file, chosen by level. Weights are dequantized in registers (or, for
 * many rows of x, in small tiles that all rows share) and never stored whole. Every output element is one
 * dot product summed in an order that depends on n_in and the level alone: a row of x gives the same bits
 * alone and in any batch, on any number of threads.
 *
 * The BF16 path (level avx512bf16, `x_is_bf16`) multiplies in bf16 with f32 sums: exact products, since
 * e4m3 and e2m1 weights with power-of-two scales are exact in bf16 (outside extreme scales, which take a
 * slower exact path) and the caller promises that every x is. Otherwise products are f32.
 */
#ifndef DSV4_CPU_LINEAR_CPU_H
#define DSV4_CPU_LINEAR_CPU_H

#include <stdbool.h>

#include "ref/linear.h"

/* How to compute: fixed for the life of a model. */
typedef struct dsv4_compute {
    int32_t cpu_level; /* DSV4_CPU_LEVEL_*, resolved; 0: the scalar reference */
    int32_t n_threads; /* resolved, >= 1 */
} dsv4_compute;

/*
 *   x [n_rows, n_in] f32, rows x_stride apart (elements)
 *   y [n_rows, n_out] f32, rows y_stride apart, written
 */
void dsv4_linear_cpu(const dsv4_compute *compute, const dsv4_linear *linear, const float *x,
                     int64_t x_stride, int64_t n_rows, bool x_is_bf16, float *y, int64_t y_stride);

/* One of several products, as the arguments above. */
typedef struct dsv4_linear_product {
    const dsv4_linear *linear;
    const float *x;
    float *y;
    int64_t x_stride, y_stride, n_rows;
} dsv4_linear_product;

/* Products that do not need each other, in any order: threads go from one to the next without waiting. */
void dsv4_linear_cpu_all(const dsv4_compute *compute, const dsv4_linear_product *products,
                         int64_t n_products, bool x_is_bf16);

#endif
