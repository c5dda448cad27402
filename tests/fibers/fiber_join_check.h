/*
 * fiber_join_check.h - joined lists against the lists that they were made of.
 *
 * Place: tests.
 */
#ifndef DSV4_TESTS_FIBER_JOIN_CHECK_H
#define DSV4_TESTS_FIBER_JOIN_CHECK_H

#include <stdint.h>

/* Returns the number of checks and sets that of failures, each with a line on stdout. */
int64_t fiber_join_check(int64_t *n_failed);

#endif
