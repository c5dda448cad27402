/*
 * test_ref.h - what the tests of the reference operations share: random numbers, comparison against
 * double, and rounding to bf16 by its definition. Include after cmocka.h.
 */
#ifndef DSV4_TESTS_TEST_REF_H
#define DSV4_TESTS_TEST_REF_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "test_bits.h"

#define F32_ROUNDING 0x1p-24 /* relative error of one correctly rounded f32 operation */

/* In [-1, 1), 24 bits. */
static inline float random_unit(uint64_t *state)
{
    return (float)((int32_t)(random_next(state) >> 8) - (1 << 23)) * 0x1p-23f;
}

static inline void random_fill(uint64_t *state, float scale, float *values, int64_t n)
{
    for (int64_t i = 0; i < n; i++) values[i] = scale * random_unit(state);
}

/* Nearest bf16, ties to even: 8 significant bits. Finite normal values only. */
static inline double round_to_bf16(double value)
{
    if (value == 0.0) return value;
    int exponent;
    double fraction = frexp(value, &exponent);
    return ldexp(nearbyint(ldexp(fraction, 8)), exponent - 8);
}

static inline float *new_floats(int64_t n)
{
    float *values = malloc((size_t)n * sizeof *values);
    assert_non_null(values);
    return values;
}

static inline void assert_near(double actual, double expected, double tolerance)
{
    if (!(fabs(actual - expected) <= tolerance)) {
        fail_msg("%.9g is not within %.3g of %.9g", actual, tolerance, expected);
    }
}

#endif
