/*
 * fiber_plan_check.h - the plan kernel against the same plan made one step after the other.
 *
 * Place: tests.
 */
#ifndef DSV4_TESTS_FIBER_PLAN_CHECK_H
#define DSV4_TESTS_FIBER_PLAN_CHECK_H

#include <stdbool.h>
#include <stdint.h>

/* Returns the number of checks and sets that of failures, each with a line on stdout; fails_fast: up to the first one. */
int64_t fiber_plan_check(bool fails_fast, int64_t *n_failed);

#endif
