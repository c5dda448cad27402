/*
 * e2m1.h - OCP FP4 E2M1: sign, 2 exponent bits (bias 1), 1 mantissa bit.
 *
 * Place: num. Values 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; no infinity, no NaN. Two codes
 * share a byte, the even element in the low nibble. Source: OCP microscaling specification 1.0;
 * specification of the model, 3.8 and 5.3.
 */
#ifndef DSV4_NUM_E2M1_H
#define DSV4_NUM_E2M1_H

#include <stdint.h>

#define DSV4_E2M1_MAX 6.0f

/* Value of each code 0 .. 15. */
extern const float dsv4_e2m1_table[16];

/* Exact; code is 0 .. 15. */
static inline float dsv4_e2m1_to_f32(uint8_t code)
{
    return dsv4_e2m1_table[code & 15u];
}

/*
 * Nearest, ties to even mantissa (0.25 -> 0, 0.75 -> 1, 1.25 -> 1, 1.75 -> 2, 2.5 -> 2, 3.5 -> 4, 5
 * -> 4); past 6 and infinities saturate; NaN, which the format lacks, gives +-6 by its sign bit, as
 * the OCP specification leaves it to the implementation; -0 keeps its sign. Returns 0 .. 15.
 */
uint8_t dsv4_e2m1_from_f32(float value);

#endif
