/*
 * layer_report.c - the tables and the JSON lines of the layer benchmark.
 *
 * Place: program, bench.
 */
#include "layer_report.h"

#include "bench_machine.h"

#include "model/layer_cache.h"

#include <inttypes.h>
#include <stdio.h>

static const char *numerics_name(int32_t numerics)
{
    return numerics == DSV4_NUMERICS_EXACT ? "exact" : "official";
}

static const char *kind_name(int32_t kind)
{
    switch (kind) {
    case DSV4_LINEAR_FP8: return "FP8";
    case DSV4_LINEAR_FP4: return "FP4";
    case DSV4_LINEAR_BF16: return "BF16";
    default: return "F32";
    }
}

/* ---- tables ---- */

void dsv4_layer_print_setup(const dsv4_layer_setup *setup)
{
    const dsv4_bench_ceilings *ceilings = &setup->ceilings;
    dsv4_bench_print_machine();
    printf("measured  level %s, numerics %s, %" PRId32 " threads\n",
           dsv4_cpu_level_name(setup->compute.cpu_level), numerics_name(setup->numerics),
           setup->compute.n_threads);
    printf("ceiling   reading %.1f GB/s (%zu MiB)\n", ceilings->read_bytes_per_s * 1e-9,
           ceilings->read_bytes >> 20);
    dsv4_bench_print_caution(ceilings->cpu_share);
}

void dsv4_layer_print_linear_head(const dsv4_layer_shape *shape)
{
    printf("\n%s: matrices, each call on another copy of more than %" PRId64 " MiB together\n",
           shape->name, shape->cold_bytes >> 20);
    printf("%-16s %-4s %15s %6s %11s %11s %9s %8s %8s %8s\n", "matrix", "type", "outputs x in",
           "batch", "best", "time", "MB", "GB/s", "ceiling", "of read");
}

void dsv4_layer_print_layer_head(const dsv4_layer_shape *shape, const dsv4_layer_model *model)
{
    printf("\n%s: layers; %" PRId64 " copies in turn, %" PRId64 " of %" PRId64
           " experts in memory%s, %zu MiB\n",
           shape->name, model->n_copies, model->n_held_experts, shape->config.n_experts,
           model->n_held_experts < shape->config.n_experts ? " (the others share theirs)" : "",
           model->memory_bytes >> 20);
    printf("%-12s %6s %8s %11s %11s %9s %8s %8s %8s %8s\n", "layer", "batch", "context", "best",
           "time", "MB", "experts", "GB/s", "ceiling", "of read");
}

static void print_numbers(const dsv4_layer_setup *setup, double bytes_per_s, double read_fraction)
{
    printf(" %8.2f %8.1f %6.1f %%\n", bytes_per_s * 1e-9, setup->ceilings.read_bytes_per_s * 1e-9,
           100 * read_fraction);
    (void)fflush(stdout);
}

static void print_linear_row(const dsv4_layer_setup *setup, const dsv4_linear_result *result)
{
    const dsv4_linear *linear = &result->linear.linear;
    printf("%-16s %-4s %7" PRId64 " x %5" PRId64 " %6" PRId64 " %8.3f ms %8.3f ms %9.2f",
           result->linear.name, kind_name(linear->kind), linear->n_out, linear->n_in,
           result->n_rows, result->best_s * 1e3, result->time_s * 1e3, result->bytes * 1e-6);
    print_numbers(setup, result->bytes / result->time_s, result->read_fraction);
}

static void print_layer_row(const dsv4_layer_setup *setup, const dsv4_layer_result *result)
{
    printf("%-12s %6" PRId64 " %8" PRId64 " %8.3f ms %8.3f ms %9.2f %8.1f", result->kind->name,
           result->n_sequences, result->context, result->best_s * 1e3, result->time_s * 1e3,
           result->bytes * 1e-6, result->n_experts);
    print_numbers(setup, result->bytes / result->time_s, result->read_fraction);
}

void dsv4_layer_print_sum(const dsv4_layer_result *last, int64_t n_layers, double time_s)
{
    printf("%s, batch %" PRId64 ", context %" PRId64 ": %" PRId64
           " layers %.1f ms, %.2f tokens/s without the head\n",
           last->shape, last->n_sequences, last->context, n_layers, time_s * 1e3,
           (double)last->n_sequences / time_s);
}

/* ---- JSON ---- */

static json_t *setup_json(const dsv4_layer_setup *setup, const char *bench, const char *shape)
{
    const dsv4_bench_ceilings *ceilings = &setup->ceilings;
    return json_pack("{s:s, s:s, s:o, s:s, s:s, s:I, s:{s:f, s:I, s:f}, s:s}", "bench", bench,
                     "version", dsv4_version(), "machine", dsv4_bench_machine_json(), "cpu_level",
                     dsv4_cpu_level_name(setup->compute.cpu_level), "numerics",
                     numerics_name(setup->numerics), "n_threads",
                     (json_int_t)setup->compute.n_threads, "ceilings", "read_bytes_per_s",
                     ceilings->read_bytes_per_s, "read_bytes", (json_int_t)ceilings->read_bytes,
                     "cpu_share", ceilings->cpu_share, "shape", shape);
}

static json_t *result_json(double bytes, double best_s, double time_s, double read_fraction,
                           int32_t n_samples)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:I}", "best_s", best_s, "time_s", time_s, "bytes",
                     bytes, "bytes_per_s", bytes / time_s, "read_fraction", read_fraction,
                     "n_samples", (json_int_t)n_samples);
}

/* Prints setup with the parts added, which are released. */
static dsv4_status print_json(json_t *line, json_t *parts, dsv4_error *error)
{
    if (line != NULL && (parts == NULL || json_object_update(line, parts) != 0)) {
        json_decref(line);
        line = NULL;
    }
    json_decref(parts);
    return dsv4_bench_print_json_line(line, error);
}

dsv4_status dsv4_layer_print_linear(const dsv4_layer_setup *setup, const dsv4_linear_result *result,
                                    dsv4_error *error)
{
    if (!setup->is_json) {
        print_linear_row(setup, result);
        return DSV4_OK;
    }
    const dsv4_linear *linear = &result->linear.linear;
    json_t *parts =
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:o}", "linear", result->linear.name, "type",
                  kind_name(linear->kind), "n_out", (json_int_t)linear->n_out, "n_in",
                  (json_int_t)linear->n_in, "n_groups", (json_int_t)result->linear.n_groups,
                  "batch", (json_int_t)result->n_rows, "result",
                  result_json(result->bytes, result->best_s, result->time_s, result->read_fraction,
                              result->n_samples));
    return print_json(setup_json(setup, "linear", result->shape), parts, error);
}

dsv4_status dsv4_layer_print_layer(const dsv4_layer_setup *setup, const dsv4_layer_model *model,
                                   const dsv4_layer_result *result, dsv4_error *error)
{
    if (!setup->is_json) {
        print_layer_row(setup, result);
        return DSV4_OK;
    }
    json_t *parts = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:{s:I, s:I, s:f}, s:o}", "layer", result->kind->name,
        "n_layers", (json_int_t)result->kind->n_layers, "batch", (json_int_t)result->n_sequences,
        "context", (json_int_t)result->context, "n_copies", (json_int_t)model->n_copies, "experts",
        "number", (json_int_t)model->weights.config.n_experts, "held",
        (json_int_t)model->n_held_experts, "read", result->n_experts, "result",
        result_json(result->bytes, result->best_s, result->time_s, result->read_fraction,
                    result->n_samples));
    return print_json(setup_json(setup, "layer", result->shape), parts, error);
}
