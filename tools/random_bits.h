/*
 * random_bits.h - splitmix64: numbers that a seed gives again on every machine.
 *
 * Place: program; tests use it too.
 */
#ifndef DSV4_TOOLS_RANDOM_BITS_H
#define DSV4_TOOLS_RANDOM_BITS_H

#include <stdint.h>

/* The next 64 bits; every state is a good one. */
static inline uint64_t dsv4_random_bits(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

#endif
