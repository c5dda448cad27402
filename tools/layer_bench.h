/*
 * layer_bench.h - measures the matrices and layers of the published models on random weights.
 *
 * Place: program, bench.
 */
#ifndef DSV4_TOOLS_LAYER_BENCH_H
#define DSV4_TOOLS_LAYER_BENCH_H

#include "options.h"

/* Runs what the options of `dsv4 bench` without --model ask for. Errors: see layer_model.h. */
dsv4_status dsv4_layer_bench_run(const dsv4_options *options, dsv4_error *error);

#endif
