/*
 * test_bits.h - floats as bits, and random numbers that a seed gives again.
 *
 * Place: tests.
 */
#ifndef DSV4_TESTS_TEST_BITS_H
#define DSV4_TESTS_TEST_BITS_H

#include <stdint.h>
#include <string.h>

#include "random_bits.h"

static inline uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t random_next(uint64_t *state)
{
    return (uint32_t)(dsv4_random_bits(state) >> 32);
}

#endif
