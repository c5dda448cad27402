/*
 * layer_report.h - prints what the layer benchmark measured, as tables or as JSON lines.
 *
 * Place: program, bench. Each JSON line holds everything about its measurement, so that lines of several
 * runs and machines can be kept in one file.
 */
#ifndef DSV4_TOOLS_LAYER_REPORT_H
#define DSV4_TOOLS_LAYER_REPORT_H

#include "bench_ceiling.h"
#include "layer_model.h"

#include "cpu/linear_cpu.h"

typedef struct dsv4_layer_setup {
    bool is_json;
    int32_t numerics;
    dsv4_compute compute;
    dsv4_bench_ceilings ceilings; /* reading: the median beside the last measurement */
} dsv4_layer_setup;

/* time_s: the median of n_samples; best_s: the shortest, which other programs disturbed least;
 * read_fraction: the median of ratios to the ceilings just before and after. */
typedef struct dsv4_linear_result {
    const char *shape;
    dsv4_layer_linear linear;
    int64_t n_rows;
    double time_s, best_s, bytes, read_fraction;
    int32_t n_samples;
} dsv4_linear_result;

typedef struct dsv4_layer_result {
    const char *shape;
    const dsv4_layer_kind *kind;
    int64_t n_sequences, context;
    double time_s, best_s, read_fraction;
    double bytes, n_experts; /* bytes and different experts: means */
    int32_t n_samples;
} dsv4_layer_result;

void dsv4_layer_print_setup(const dsv4_layer_setup *setup);
void dsv4_layer_print_linear_head(const dsv4_layer_shape *shape);
void dsv4_layer_print_layer_head(const dsv4_layer_shape *shape, const dsv4_layer_model *model);

/* A row of the table, or a line of JSON. Errors: OUT_OF_MEMORY. */
dsv4_status dsv4_layer_print_linear(const dsv4_layer_setup *setup, const dsv4_linear_result *result,
                                    dsv4_error *error);
dsv4_status dsv4_layer_print_layer(const dsv4_layer_setup *setup, const dsv4_layer_model *model,
                                   const dsv4_layer_result *result, dsv4_error *error);

/* What all layers of the model take together, by their number. */
void dsv4_layer_print_sum(const dsv4_layer_result *last, int64_t n_layers, double time_s);

#endif
