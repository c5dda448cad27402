/*
 * linear.h - weight matrices as checkpoints store them, and y = W x.
 *
 * Place: ref. A matrix is [n_out, n_in] row-major. FP8: e4m3 codes with one ue8m0 scale per 128 x 128
 * block, scales [ceil(n_out / 128), ceil(n_in / 128)]. FP4: two e2m1 codes per byte (even column in the
 * low nibble) with one ue8m0 scale per row and 32 columns, scales [n_out, n_in / 32]. BF16 and F32 plain.
 * Source: specification 5.3.
 *
 * Quantized activations are a separate step (quant.h): because scales are powers of two, W times the
 * dequantized activation is the same sum. Each output element is one dot product whose order depends on
 * n_in alone, so a row's result does not depend on the other rows of a batch.
 */
#ifndef DSV4_REF_LINEAR_H
#define DSV4_REF_LINEAR_H

#include <stdint.h>

enum { DSV4_LINEAR_FP8 = 1, DSV4_LINEAR_FP4 = 2, DSV4_LINEAR_BF16 = 3, DSV4_LINEAR_F32 = 4 };

/* Borrows its memory (usually the mapped checkpoint); any alignment. */
typedef struct dsv4_linear {
    const void *weight;
    const uint8_t *scales; /* FP8, FP4; else NULL */
    int64_t n_out, n_in;
    int32_t kind; /* DSV4_LINEAR_* */
} dsv4_linear;

/* Bytes of weight and scales: what a matrix-vector product must read. */
int64_t dsv4_linear_bytes(const dsv4_linear *linear);

/* Row i of the matrix, dequantized: values [n_in] f32. */
void dsv4_linear_row(const dsv4_linear *linear, int64_t i, float *values);

/*
 * y = x W^T, f32.
 *   x [n_rows, n_in] f32, rows x_stride apart (elements)
 *   y [n_rows, n_out] f32, rows y_stride apart
 */
void dsv4_linear_ref(const dsv4_linear *linear, const float *x, int64_t x_stride, int64_t n_rows,
                     float *y, int64_t y_stride);

#endif
