/*
 * checked.h - size arithmetic that cannot wrap.
 *
 * Place: base. Every product or sum of sizes that come from outside goes through these. Each
 * returns false, leaving *result unspecified, when the true value does not fit.
 */
#ifndef DSV4_BASE_CHECKED_H
#define DSV4_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool dsv4_checked_mul(size_t a, size_t b, size_t *result)
{
    return !__builtin_mul_overflow(a, b, result);
}

static inline bool dsv4_checked_add(size_t a, size_t b, size_t *result)
{
    return !__builtin_add_overflow(a, b, result);
}

static inline bool dsv4_checked_mul_i64(int64_t a, int64_t b, int64_t *result)
{
    return !__builtin_mul_overflow(a, b, result);
}

static inline bool dsv4_checked_add_i64(int64_t a, int64_t b, int64_t *result)
{
    return !__builtin_add_overflow(a, b, result);
}

#endif
