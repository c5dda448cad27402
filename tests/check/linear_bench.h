/*
 * linear_bench.h - speed of the CPU linear products against this machine's ceilings.
 *
 * Place: tests.
 */
#ifndef DSV4_TESTS_LINEAR_BENCH_H
#define DSV4_TESTS_LINEAR_BENCH_H

#include <stdint.h>

/* Prints a table for every level that this machine has, or for one (> 0). Returns an exit code. */
int linear_bench_run(int32_t only_level);

#endif
