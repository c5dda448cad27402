/*
 * linear_case.h - a random product y = x W^T, its exact answer, and watched runs of it.
 *
 * Place: tests. W, its scales and x lie at the very end of their allocations, so that an address
 * checker sees a read past them; y lies between guards, and the gaps between its rows are guards
 * too.
 */
#ifndef DSV4_TESTS_LINEAR_CASE_H
#define DSV4_TESTS_LINEAR_CASE_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/linear_cpu.h"

enum { LINEAR_TEXT_BYTES = 400, LINEAR_MAX_CONFIGS = 6, LINEAR_MAX_BATCH = 120 };

typedef enum linear_scales {
    LINEAR_SCALES_USUAL,   /* 2^-12 .. 2^-1 */
    LINEAR_SCALES_EXTREME, /* 0 .. 254, with x that keeps most sums in range */
    /* Around the least ones that keep every weight a normal bf16, with the least codes and large x;
     * around the greatest ones that keep it finite, with small x. */
    LINEAR_SCALES_LOW,
    LINEAR_SCALES_HIGH,
    LINEAR_SCALES_LIMIT, /* in and just outside what FP4 with few rows of x takes another way */
    LINEAR_SCALES_NAN    /* usual, some 255 */
} linear_scales;

typedef struct linear_spec {
    uint64_t id;
    int32_t kind;
    int64_t n_out, n_in, n_rows;
    int64_t x_pad, y_pad; /* x_stride - n_in, y_stride - n_out */
    int64_t misalign;     /* bytes */
    linear_scales scales;
    bool has_nan_codes;
    bool has_small_codes; /* magnitudes below 2 */
    bool is_positive;     /* no negative or zero codes, no negative x */
    bool x_is_bf16;
    bool x_has_specials; /* some infinities and NaN */
    int32_t n_threads;
} linear_spec;

/* Element (row, i) in double, from the formats' definitions alone. */
typedef struct linear_answer {
    double sum;       /* of the products, infinite or NaN as they have it */
    double magnitude; /* sum of the finite ones' magnitudes */
    double dropped;   /* the part of magnitude that has a subnormal factor */
    bool has_special; /* an infinite or NaN operand, after W is rounded to f32 */
} linear_answer;

typedef struct linear_case {
    linear_spec spec;
    dsv4_linear linear;
    const float *x;
    int64_t x_stride;
    void *blocks[3]; /* weight, scales, x */
    /* [n_out, n_rows], for all ways to compute; NULL before they are asked for */
    linear_answer *answers;
} linear_case;

/* One way to compute. Where promises_bf16, only cases with x_is_bf16 take part. */
typedef struct linear_config {
    const char *name;
    int32_t level;
    bool promises_bf16;
} linear_config;

/* Reference first, then every level of this machine; returns how many. */
int32_t linear_config_list(linear_config configs[LINEAR_MAX_CONFIGS]);

void *linear_alloc(int64_t n_bytes);
void linear_spec_print(const linear_spec *spec);
void linear_case_make(linear_case *c, const linear_spec *spec);
void linear_case_free(linear_case *c);

/*
 * Rows first .. first + n_rows - 1 of x; y [n_rows, n_out] dense. False, with the reason in text,
 * when an element stayed unwritten or anything else was written.
 */
bool linear_run(const linear_case *c, const linear_config *config, int32_t n_threads, int64_t first,
                int64_t n_rows, float *y, char *text);

/* values [n_in]: row i of W, dequantized to f32. */
void linear_oracle_row(const linear_case *c, int64_t i, float *values);
linear_answer linear_oracle(const linear_case *c, int64_t row, const float *values);

#endif
