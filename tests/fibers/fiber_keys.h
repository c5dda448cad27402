/*
 * fiber_keys.h - the operations of dsv4/keys.h by src/gpu's kernels on fibers, against the reference.
 *
 * Place: tests. Cases are those of check_keys (keys_case.h); whole images are compared byte by byte.
 */
#ifndef DSV4_TESTS_FIBER_KEYS_H
#define DSV4_TESTS_FIBER_KEYS_H

#include <stdint.h>

/*
 * Runs n_cases cases of an operation (KEYS_* of keys_case.h), up to the last of most_failed that fail, which are printed;
 * returns how many ran.
 */
int64_t fiber_keys_check(int op, int64_t n_cases, int64_t most_failed, int64_t *n_failed);

/* Conversions of keys_lanes.h against src/num: codes of values, values of codes, scales of groups. Returns 3. */
int64_t fiber_keys_formats_check(int64_t *n_failed);

#endif
