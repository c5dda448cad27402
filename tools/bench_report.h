/*
 * bench_report.h - prints what the attention benchmark measured, as a table or as JSON lines.
 *
 * Place: program, bench. Each JSON line holds everything about its measurement, so that lines of
 * several runs and machines can be kept in one file.
 */
#ifndef DSV4_TOOLS_BENCH_REPORT_H
#define DSV4_TOOLS_BENCH_REPORT_H

#include "attn_bench_gpu.h"
#include "bench_ceiling.h"

#include "dsv4/attn.h"

typedef struct dsv4_bench_shape {
    int64_t n_heads, n_window, n_extra, n_requests;
    char name[64];
} dsv4_bench_shape;

/* What is the same for all shapes of a run. */
typedef struct dsv4_bench_setup {
    dsv4_attn_choice choice;
    dsv4_bench_ceilings ceilings;
    int32_t n_threads;
    int64_t n_pool_rows; /* of each of the two caches */
} dsv4_bench_setup;

typedef struct dsv4_bench_result {
    dsv4_bench_shape shape;
    double time_s, one_thread_time_s; /* medians; the same when the run has one thread */
    double scaling;                   /* median of their ratios, side by side */
    double ref_time_s;                /* reference, one thread, scaled from one request */
    double flop, bytes;
    double ceiling_fraction; /* time that the binding ceiling allows over time, side by side */
    bool flop_binds;         /* else reading does */
} dsv4_bench_result;

void dsv4_bench_print_header(const dsv4_bench_setup *setup);
void dsv4_bench_print_row(const dsv4_bench_setup *setup, const dsv4_bench_result *result);

/* On a GPU: of a result shape, flop and bytes. */
void dsv4_bench_print_gpu_header(const dsv4_bench_setup *setup, const dsv4_bench_gpu *gpu);
void dsv4_bench_print_gpu_row(const dsv4_bench_result *result, const dsv4_bench_gpu_time *time);
/* Errors: OUT_OF_MEMORY. */
dsv4_status dsv4_bench_print_gpu_json(const dsv4_bench_setup *setup, const dsv4_bench_gpu *gpu,
                                      const dsv4_bench_result *result,
                                      const dsv4_bench_gpu_time *time, dsv4_error *error);

/* Errors: OUT_OF_MEMORY. */
dsv4_status dsv4_bench_print_json(const dsv4_bench_setup *setup, const dsv4_bench_result *result,
                                  dsv4_error *error);

#endif
