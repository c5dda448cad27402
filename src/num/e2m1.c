/*
 * e2m1.c - E2M1 value table and rounding.
 *
 * Place: num. Each comparison below is against the midpoint of two neighbours; it is strict where
 * the lower neighbour has the odd mantissa, so that the tie goes up.
 */
#include "num/e2m1.h"

#include <math.h>

const float dsv4_e2m1_table[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                   -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

/* magnitude is not negative. NaN fails every comparison and so gives the largest code. */
static uint8_t magnitude_round(float magnitude)
{
    if (magnitude <= 0.25f) return 0;
    if (magnitude < 0.75f) return 1;
    if (magnitude <= 1.25f) return 2;
    if (magnitude < 1.75f) return 3;
    if (magnitude <= 2.5f) return 4;
    if (magnitude < 3.5f) return 5;
    if (magnitude <= 5.0f) return 6;
    return 7;
}

uint8_t dsv4_e2m1_from_f32(float value)
{
    uint8_t sign = signbit(value) ? 8u : 0u;
    return (uint8_t)(sign | magnitude_round(fabsf(value)));
}
