/*
 * e4m3.h - OCP FP8 E4M3 (the "fn" kind): sign, 4 exponent bits (bias 7), 3 mantissa bits.
 *
 * Place: num. No infinity; codes 0x7f and 0xff are NaN; largest finite value 448; subnormals are
 * multiples of 2^-9. Source: OCP 8-bit floating point specification 1.0; specification of the
 * model, 3.8.
 */
#ifndef DSV4_NUM_E4M3_H
#define DSV4_NUM_E4M3_H

#include <stdint.h>

#define DSV4_E4M3_MAX 448.0f

/* Value of each code. */
extern const float dsv4_e4m3_table[256];

/* Exact. */
static inline float dsv4_e4m3_to_f32(uint8_t code)
{
    return dsv4_e4m3_table[code];
}

/*
 * Nearest, ties to even mantissa; finite values and infinities past 448 saturate to +-448; NaN
 * gives the NaN code with the input's sign; -0 keeps its sign.
 */
uint8_t dsv4_e4m3_from_f32(float value);

#endif
