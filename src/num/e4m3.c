/*
 * e4m3.c - E4M3 value table and rounding.
 *
 * Place: num. Rounding works on the bits alone, so it does not depend on the caller's floating-point
 * environment (rounding mode, flush to zero).
 */
#include "num/e4m3.h"

#include <math.h>
#include <string.h>

#define CODE_NAN 0x7fu
#define CODE_MAX 0x7eu

#define F32_INFINITY   0x7f800000u
#define F32_MAX_CODE   0x43e00000u /* 448 */
#define F32_MIN_NORMAL 0x3c800000u /* 2^-6 */

#define MANTISSA_SHIFT 20          /* f32 has 23 mantissa bits, e4m3 has 3 */
#define REBIAS         (120u << 3) /* 127 - 7, above the 3 mantissa bits */

/* The eight values of one exponent; unit is the distance between them. */
#define SUBNORMALS(unit)                                                                           \
    0.0f * (unit), 1.0f * (unit), 2.0f * (unit), 3.0f * (unit), 4.0f * (unit), 5.0f * (unit),      \
        6.0f * (unit), 7.0f * (unit)
#define TOP_NORMALS(unit)                                                                          \
    8.0f * (unit), 9.0f * (unit), 10.0f * (unit), 11.0f * (unit), 12.0f * (unit), 13.0f * (unit),  \
        14.0f * (unit)
#define NORMALS(unit) TOP_NORMALS(unit), 15.0f * (unit)

#define HALF_TABLE(sign)                                                                           \
    SUBNORMALS(sign 0x1p-9f), NORMALS(sign 0x1p-9f), NORMALS(sign 0x1p-8f), NORMALS(sign 0x1p-7f), \
        NORMALS(sign 0x1p-6f), NORMALS(sign 0x1p-5f), NORMALS(sign 0x1p-4f),                       \
        NORMALS(sign 0x1p-3f), NORMALS(sign 0x1p-2f), NORMALS(sign 0x1p-1f), NORMALS(sign 0x1p0f), \
        NORMALS(sign 0x1p1f), NORMALS(sign 0x1p2f), NORMALS(sign 0x1p3f), NORMALS(sign 0x1p4f),    \
        TOP_NORMALS(sign 0x1p5f), sign NAN

const float dsv4_e4m3_table[256] = {HALF_TABLE(+), HALF_TABLE(-)};

/* magnitude: bits of a non-negative f32 below 2^-6. Returns it in units of 2^-9, 0 .. 8. */
static uint32_t subnormal_round(uint32_t magnitude)
{
    uint32_t exponent = magnitude >> 23;
    /* An f32 is significand * 2^(exponent - 150). From shift 25 on, below half a unit. */
    uint32_t shift = 141u - exponent;
    if (shift > 24u) return 0;
    uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
    uint32_t odd = (significand >> shift) & 1u;
    return (significand + (1u << (shift - 1u)) - 1u + odd) >> shift;
}

uint8_t dsv4_e4m3_from_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = (bits >> 31) << 7;
    uint32_t magnitude = bits & 0x7fffffffu;

    if (magnitude > F32_INFINITY) return (uint8_t)(sign | CODE_NAN);
    if (magnitude >= F32_MAX_CODE) return (uint8_t)(sign | CODE_MAX);
    /* Rounding up may carry into the next exponent; the codes are in order, so that is right. */
    if (magnitude < F32_MIN_NORMAL) return (uint8_t)(sign | subnormal_round(magnitude));
    uint32_t odd = (magnitude >> MANTISSA_SHIFT) & 1u;
    uint32_t rounded = (magnitude + (1u << (MANTISSA_SHIFT - 1)) - 1u + odd) >> MANTISSA_SHIFT;
    return (uint8_t)(sign | (rounded - REBIAS));
}
