/*
 * fiber_plan_check.h - the plan kernel against the same plan made one step after the other.
 *
 * Place: tests.
 */
#ifndef DSV4_TESTS_FIBER_PLAN_CHECK_H
#define DSV4_TESTS_FIBER_PLAN_CHECK_H

#include <stdint.h>

/* Returns the number of checks and sets that of failures, each with a line on stdout. */
int64_t fiber_plan_check(int64_t *n_failed);

#endif
