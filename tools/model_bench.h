/*
 * model_bench.h - measures prompt processing and generation of a model, as llama-bench does.
 *
 * Place: program, bench.
 */
#ifndef DSV4_TOOLS_MODEL_BENCH_H
#define DSV4_TOOLS_MODEL_BENCH_H

#include "options.h"

/* Runs what the options of `dsv4 bench --model` ask for. Errors: those of opening and running a model. */
dsv4_status dsv4_model_bench_run(const dsv4_options *options, dsv4_error *error);

#endif
