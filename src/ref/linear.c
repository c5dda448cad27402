/*
 * linear.c - dequantized rows of weight matrices and y = W x (specification 5.3).
 *
 * Place: ref. Row i, column c:
 *   FP8  W = e4m3 * 2^(s[i / 128][c / 128] - 127)
 *   FP4  W = e2m1 * 2^(s[i][c / 32] - 127), column 2j in the low nibble of byte j
 * Products of a code and a scale are exact in f32 unless they leave its range.
 *
 * A row is walked in blocks of 128 columns, each dequantized once for all rows of x; y itself holds
 * the running sums. Order of sums: dot.h.
 */
#include "ref/linear.h"

#include <string.h>

#include "num/bf16.h"
#include "num/e2m1.h"
#include "num/e4m3.h"
#include "num/ue8m0.h"
#include "ref/dot.h"

enum { FP8_BLOCK = 128, FP4_GROUP = 32 };

_Static_assert((int)DSV4_DOT_BLOCK == (int)FP8_BLOCK, "a block of columns has one FP8 scale");

static int64_t ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

/* No product can wrap: the caller holds that much memory. */
int64_t dsv4_linear_bytes(const dsv4_linear *linear)
{
    int64_t n_out = linear->n_out, n_in = linear->n_in;
    switch (linear->kind) {
    case DSV4_LINEAR_FP8:
        return n_out * n_in + ceil_div(n_out, FP8_BLOCK) * ceil_div(n_in, FP8_BLOCK);
    case DSV4_LINEAR_FP4: return n_out * (n_in / 2) + n_out * (n_in / FP4_GROUP);
    case DSV4_LINEAR_BF16: return n_out * n_in * 2;
    default: return n_out * n_in * 4;
    }
}

/*
 * The readers below: columns begin .. begin + n - 1 of row i; begin is a multiple of 128, n at most
 * 128.
 */

static void fp8_read(const dsv4_linear *linear, int64_t i, int64_t begin, int64_t n, float *values)
{
    const uint8_t *codes = (const uint8_t *)linear->weight + i * linear->n_in + begin;
    int64_t scale_row = i / FP8_BLOCK * ceil_div(linear->n_in, FP8_BLOCK);
    float scale = dsv4_ue8m0_to_f32(linear->scales[scale_row + begin / FP8_BLOCK]);
    for (int64_t c = 0; c < n; c++) values[c] = dsv4_e4m3_to_f32(codes[c]) * scale;
}

static void fp4_read(const dsv4_linear *linear, int64_t i, int64_t begin, int64_t n, float *values)
{
    const uint8_t *pairs = (const uint8_t *)linear->weight + (i * linear->n_in + begin) / 2;
    const uint8_t *scales = linear->scales + (i * linear->n_in + begin) / FP4_GROUP;
    for (int64_t c = 0; c < n; c += 2) {
        float scale = dsv4_ue8m0_to_f32(scales[c / FP4_GROUP]);
        values[c] = dsv4_e2m1_to_f32(pairs[c / 2] & 15u) * scale;
        values[c + 1] = dsv4_e2m1_to_f32(pairs[c / 2] >> 4) * scale;
    }
}

static void bf16_read(const dsv4_linear *linear, int64_t i, int64_t begin, int64_t n, float *values)
{
    const unsigned char *bytes =
        (const unsigned char *)linear->weight + (i * linear->n_in + begin) * 2;
    for (int64_t c = 0; c < n; c++) {
        uint16_t bits;
        memcpy(&bits, bytes + 2 * c, sizeof bits);
        values[c] = dsv4_bf16_to_f32(bits);
    }
}

static void f32_read(const dsv4_linear *linear, int64_t i, int64_t begin, int64_t n, float *values)
{
    const unsigned char *bytes =
        (const unsigned char *)linear->weight + (i * linear->n_in + begin) * 4;
    memcpy(values, bytes, (size_t)n * sizeof *values);
}

static void block_read(const dsv4_linear *linear, int64_t i, int64_t begin, int64_t n,
                       float *values)
{
    switch (linear->kind) {
    case DSV4_LINEAR_FP8: fp8_read(linear, i, begin, n, values); break;
    case DSV4_LINEAR_FP4: fp4_read(linear, i, begin, n, values); break;
    case DSV4_LINEAR_BF16: bf16_read(linear, i, begin, n, values); break;
    default: f32_read(linear, i, begin, n, values); break;
    }
}

static int64_t block_columns(const dsv4_linear *linear, int64_t begin)
{
    int64_t n_left = linear->n_in - begin;
    return n_left < DSV4_DOT_BLOCK ? n_left : DSV4_DOT_BLOCK;
}

void dsv4_linear_row(const dsv4_linear *linear, int64_t i, float *values)
{
    for (int64_t begin = 0; begin < linear->n_in; begin += DSV4_DOT_BLOCK) {
        block_read(linear, i, begin, block_columns(linear, begin), values + begin);
    }
}

void dsv4_linear_ref(const dsv4_linear *linear, const float *x, int64_t x_stride, int64_t n_rows,
                     float *y, int64_t y_stride)
{
    for (int64_t i = 0; i < linear->n_out; i++) {
        for (int64_t row = 0; row < n_rows; row++) y[row * y_stride + i] = 0.0f;
        for (int64_t begin = 0; begin < linear->n_in; begin += DSV4_DOT_BLOCK) {
            float values[DSV4_DOT_BLOCK];
            int64_t n = block_columns(linear, begin);
            block_read(linear, i, begin, n, values);
            for (int64_t row = 0; row < n_rows; row++) {
                y[row * y_stride + i] += dsv4_dot_block(x + row * x_stride + begin, values, n);
            }
        }
    }
}
