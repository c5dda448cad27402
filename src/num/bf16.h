/*
 * bf16.h - bfloat16: the upper half of an IEEE binary32.
 *
 * Place: num. Conversions round to nearest, ties to even; NaN stays NaN (quiet), infinity stays
 * infinity, and a finite f32 past the largest finite bf16 rounds to infinity as IEEE 754 has it.
 */
#ifndef DSV4_NUM_BF16_H
#define DSV4_NUM_BF16_H

#include <stdint.h>
#include <string.h>

/* Exact. */
static inline float dsv4_bf16_to_f32(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static inline uint16_t dsv4_bf16_from_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#endif
