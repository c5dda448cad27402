/*
 * bench_clock.h - the clocks of all measurements.
 *
 * Place: program, bench.
 */
#ifndef DSV4_TOOLS_BENCH_CLOCK_H
#define DSV4_TOOLS_BENCH_CLOCK_H

#include <time.h>

/* Seconds since an arbitrary start; never goes back. */
static inline double dsv4_bench_now_s(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Seconds of processor time that all threads of this process have used. */
static inline double dsv4_bench_cpu_s(void)
{
    struct timespec used;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (double)used.tv_sec + 1e-9 * (double)used.tv_nsec;
}

#endif
