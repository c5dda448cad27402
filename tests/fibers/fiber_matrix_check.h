/*
 * fiber_matrix_check.h - the matrix products and conversions of gpu_matrix.h against plain loops.
 *
 * Place: tests.
 */
#ifndef DSV4_TESTS_FIBER_MATRIX_CHECK_H
#define DSV4_TESTS_FIBER_MATRIX_CHECK_H

#include <stdint.h>

/* Returns the number of checks and sets that of failures, each with a line on stdout. */
int64_t fiber_matrix_check(int64_t *n_failed);

#endif
