/*
 * attn_rng.h - the random numbers of the attention checks.
 *
 * Place: tests. The same seed gives the same case on every machine and compiler, which is what makes a printed case
 * number worth something.
 */
#ifndef DSV4_TESTS_ATTN_RNG_H
#define DSV4_TESTS_ATTN_RNG_H

#include <stdbool.h>
#include <stdint.h>

#include "random_bits.h"

typedef struct attn_rng {
    uint64_t state;
} attn_rng;

static inline uint64_t attn_rng_next(attn_rng *rng)
{
    return dsv4_random_bits(&rng->state);
}

/* A number of low .. high, both included. */
static inline int64_t attn_rng_range(attn_rng *rng, int64_t low, int64_t high)
{
    return low + (int64_t)(attn_rng_next(rng) % (uint64_t)(high - low + 1));
}

static inline bool attn_rng_chance(attn_rng *rng, int percent)
{
    return attn_rng_next(rng) % 100 < (uint64_t)percent;
}

/* [0, 1) */
static inline double attn_rng_uniform(attn_rng *rng)
{
    return (double)(attn_rng_next(rng) >> 11) * 0x1p-53;
}

/* Mean 0, variance 1, within +-3.5: the sum of four 16-bit uniforms. */
static inline float attn_rng_normal(attn_rng *rng)
{
    uint64_t bits = attn_rng_next(rng);
    uint32_t sum = 0;
    for (int i = 0; i < 4; i++) sum += (uint32_t)(bits >> (16 * i) & 0xffff);
    return (float)(((double)sum * 0x1p-16 - 2.0) * 1.7320508075688772);
}

#endif
