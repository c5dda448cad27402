/*
 * bench_ceiling.h - measures what bounds a kernel on this machine.
 *
 * Place: program, bench. Both ceilings are measured on the threads and with the instruction set of
 * the kernel that they bound, in the process that measures the kernel. On a machine shared with
 * others they move within seconds, so the loops stay ready to run between a kernel's own runs: the
 * median of ratios of neighbours in time is what a benchmark reports.
 */
#ifndef DSV4_TOOLS_BENCH_CEILING_H
#define DSV4_TOOLS_BENCH_CEILING_H

#include "dsv4/base.h"

#include <stdbool.h>

struct dsv4_bench_loops;

typedef struct dsv4_bench_ceilings {
    const char *flop_loop;   /* which loop gave flop_per_s */
    double flop_per_s;       /* all threads together, best of several runs */
    double read_bytes_per_s; /* likewise */
    double cpu_share;  /* processor time over elapsed time times threads: below 1, others ran */
    size_t read_bytes; /* how much memory was read: more than the last-level cache */
} dsv4_bench_ceilings;

/* One owner, one thread. Zeroed memory may be closed. */
typedef struct dsv4_bench_gauge {
    const struct dsv4_bench_loops *loops;
    int32_t n_threads, next_piece;
    int64_t n_rounds;     /* of the multiply-add loop, in one piece */
    unsigned char *bytes; /* [N_PIECES, n_threads, part_bytes], owned */
    size_t part_bytes;
    dsv4_bench_ceilings ceilings; /* as open found them */
} dsv4_bench_gauge;

/*
 * Measures for about budget_s each. level: DSV4_CPU_LEVEL_V2 .. what this machine has; uses_bf16:
 * take the bf16 loop where the level has one. Errors: OUT_OF_MEMORY, with nothing to close.
 */
dsv4_status dsv4_bench_gauge_open(int32_t level, bool uses_bf16, int32_t n_threads, double budget_s,
                                  dsv4_bench_gauge *gauge, dsv4_error *error);
void dsv4_bench_gauge_close(dsv4_bench_gauge *gauge);

/* A few milliseconds of one loop: bytes per second from the part of memory that was read longest
 * ago, or FLOP per second; all threads together. */
double dsv4_bench_gauge_read(dsv4_bench_gauge *gauge);
double dsv4_bench_gauge_flop(dsv4_bench_gauge *gauge);

/* Only the ceilings, with a gauge of its own. Errors: as of open. */
dsv4_status dsv4_bench_ceilings_measure(int32_t level, bool uses_bf16, int32_t n_threads,
                                        double budget_s, dsv4_bench_ceilings *ceilings,
                                        dsv4_error *error);

/* Sorts samples[0 .. n - 1], n at least 1. */
double dsv4_bench_median(double *samples, int32_t n);

#endif
