/*
 * bench_ceiling.h - measures what bounds a kernel on this machine.
 *
 * Place: program, bench. Both ceilings are measured on the threads and with the instruction set of
 * the kernel that they bound, in the process that measures the kernel.
 */
#ifndef DSV4_TOOLS_BENCH_CEILING_H
#define DSV4_TOOLS_BENCH_CEILING_H

#include "dsv4/base.h"

#include <stdbool.h>

typedef struct dsv4_bench_ceilings {
    const char *flop_loop;   /* which loop gave flop_per_s */
    double flop_per_s;       /* all threads together, best of several runs */
    double read_bytes_per_s; /* likewise */
    double cpu_share;  /* processor time over elapsed time times threads: below 1, others ran */
    size_t read_bytes; /* how much memory was read: more than the last-level cache */
} dsv4_bench_ceilings;

/*
 * Measures for about budget_s each. level: DSV4_CPU_LEVEL_V2 .. what this machine has; uses_bf16:
 * take the bf16 loop where the level has one. Errors: OUT_OF_MEMORY.
 */
dsv4_status dsv4_bench_ceilings_measure(int32_t level, bool uses_bf16, int32_t n_threads,
                                        double budget_s, dsv4_bench_ceilings *ceilings,
                                        dsv4_error *error);

#endif
