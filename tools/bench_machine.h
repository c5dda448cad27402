/*
 * bench_machine.h - what the reports of all benchmarks have in common: the machine, lines of JSON.
 *
 * Place: program, bench.
 */
#ifndef DSV4_TOOLS_BENCH_MACHINE_H
#define DSV4_TOOLS_BENCH_MACHINE_H

#include "dsv4/base.h"

#include <jansson.h>

/* The line that says which machine this is. */
void dsv4_bench_print_machine(void);

/* Warns when the threads had less than their share of processor time (bench_ceiling.h). */
void dsv4_bench_print_caution(double cpu_share);

/* An object that describes the machine; the caller's; NULL without memory. */
json_t *dsv4_bench_machine_json(void);

/* Prints a line, which is released. Errors: OUT_OF_MEMORY when it is NULL. */
dsv4_status dsv4_bench_print_json_line(json_t *line, dsv4_error *error);

#endif
