/*
 * bench_report.c - the table and the JSON lines of the attention benchmark.
 *
 * Place: program, bench.
 */
#include "bench_report.h"

#include "bench_machine.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

void dsv4_bench_print_header(const dsv4_bench_setup *setup)
{
    const dsv4_bench_ceilings *ceilings = &setup->ceilings;
    dsv4_bench_print_machine();
    printf("measured  backend %s, kernel %s, math %s, %" PRId32 " threads\n", setup->choice.backend,
           setup->choice.kernel, setup->choice.math, setup->n_threads);
    printf("ceilings  %.1f GFLOP/s (%s), reading %.1f GB/s (%zu MiB)\n",
           ceilings->flop_per_s * 1e-9, ceilings->flop_loop, ceilings->read_bytes_per_s * 1e-9,
           ceilings->read_bytes >> 20);
    dsv4_bench_print_caution(ceilings->cpu_share);
    printf("cache     two pools of %" PRId64 " rows; each call names other rows\n",
           setup->n_pool_rows);
    printf("ref       the reference on one thread; measured for b1, times b for more requests\n\n");
    printf("%-20s %12s %9s %8s %8s %-6s %9s", "shape", "time", "GFLOP/s", "GB/s", "ceiling",
           "binds", "ref/time");
    if (setup->n_threads > 1) printf("  1->%" PRId32, setup->n_threads);
    printf("\n");
}

static void print_time(double time_s)
{
    if (time_s < 1e-3) {
        printf(" %9.1f us", time_s * 1e6);
    } else {
        printf(" %9.3f ms", time_s * 1e3);
    }
}

void dsv4_bench_print_row(const dsv4_bench_setup *setup, const dsv4_bench_result *result)
{
    printf("%-20s", result->shape.name);
    print_time(result->time_s);
    printf(" %9.1f %8.2f %6.1f %% %-6s %9.1f", result->flop / result->time_s * 1e-9,
           result->bytes / result->time_s * 1e-9, result->ceiling_fraction * 100,
           result->flop_binds ? "flop" : "read", result->ref_time_s / result->time_s);
    if (setup->n_threads > 1) printf(" %5.2f", result->scaling);
    printf("\n");
    (void)fflush(stdout);
}

static json_t *result_json(const dsv4_bench_result *result)
{
    return json_pack(
        "{s:f, s:f, s:f, s:I, s:I, s:f, s:f, s:f, s:s, s:f, s:f}", "time_s", result->time_s,
        "one_thread_time_s", result->one_thread_time_s, "scaling", result->scaling, "flop",
        (json_int_t)result->flop, "bytes", (json_int_t)result->bytes, "flop_per_s",
        result->flop / result->time_s, "bytes_per_s", result->bytes / result->time_s,
        "ceiling_fraction", result->ceiling_fraction, "binds", result->flop_binds ? "flop" : "read",
        "ref_time_s", result->ref_time_s, "ref_ratio", result->ref_time_s / result->time_s);
}

dsv4_status dsv4_bench_print_json(const dsv4_bench_setup *setup, const dsv4_bench_result *result,
                                  dsv4_error *error)
{
    const dsv4_bench_shape *shape = &result->shape;
    const dsv4_bench_ceilings *ceilings = &setup->ceilings;
    json_t *line = json_pack(
        "{s:s, s:s, s:o, s:s, s:s, s:s, s:s, s:I, s:I, s:{s:s, s:f, s:f, s:I, s:f}, s:s, "
        "s:{s:I, s:I, s:I, s:I}, s:o}",
        "bench", "attn", "version", dsv4_version(), "machine", dsv4_bench_machine_json(),
        "cpu_level", dsv4_cpu_level_name(dsv4_cpu_level()), "backend", setup->choice.backend,
        "kernel", setup->choice.kernel, "math", setup->choice.math, "n_threads",
        (json_int_t)setup->n_threads, "n_pool_rows", (json_int_t)setup->n_pool_rows, "ceilings",
        "flop_loop", ceilings->flop_loop, "flop_per_s", ceilings->flop_per_s, "read_bytes_per_s",
        ceilings->read_bytes_per_s, "read_bytes", (json_int_t)ceilings->read_bytes, "cpu_share",
        ceilings->cpu_share, "shape", shape->name, "sizes", "n_heads", (json_int_t)shape->n_heads,
        "n_window", (json_int_t)shape->n_window, "n_extra", (json_int_t)shape->n_extra,
        "n_requests", (json_int_t)shape->n_requests, "result", result_json(result));
    return dsv4_bench_print_json_line(line, error);
}

/* ---- on a GPU ---- */

void dsv4_bench_print_gpu_header(const dsv4_bench_setup *setup, const dsv4_bench_gpu *gpu)
{
    dsv4_bench_print_machine();
    printf("device    %s\n", gpu->device);
    printf(
        "measured  backend %s, kernel %s, math %s; graphs of one plan and %d decodes, time of one "
        "decode, median of %d\n",
        setup->choice.backend, setup->choice.kernel, setup->choice.math, DSV4_BENCH_GPU_DECODES,
        DSV4_BENCH_GPU_ROUNDS);
    printf("cache     two pools of %" PRId64 " rows; %s\n\n", setup->n_pool_rows * gpu->n_copies,
           gpu->flush_bytes > 0 ? "rows come from memory"
                                : "small ones, which caches may hold (--quick)");
    printf("%-20s %12s %12s %12s %9s %8s\n", "shape", "time", "least", "most", "GFLOP/s", "GB/s");
    (void)fflush(stdout);
}

void dsv4_bench_print_gpu_row(const dsv4_bench_result *result, const dsv4_bench_gpu_time *time)
{
    printf("%-20s", result->shape.name);
    print_time(time->median_s);
    print_time(time->least_s);
    print_time(time->most_s);
    printf(" %9.1f %8.2f\n", result->flop / time->median_s * 1e-9,
           result->bytes / time->median_s * 1e-9);
    (void)fflush(stdout);
}

dsv4_status dsv4_bench_print_gpu_json(const dsv4_bench_setup *setup, const dsv4_bench_gpu *gpu,
                                      const dsv4_bench_result *result,
                                      const dsv4_bench_gpu_time *time, dsv4_error *error)
{
    const dsv4_bench_shape *shape = &result->shape;
    json_t *line = json_pack(
        "{s:s, s:s, s:o, s:s, s:s, s:s, s:s, s:I, s:b, s:s, s:{s:I, s:I, s:I, s:I}, "
        "s:{s:f, s:f, s:f, s:I, s:I}}",
        "bench", "attn-gpu", "version", dsv4_version(), "machine", dsv4_bench_machine_json(),
        "device", gpu->device, "backend", setup->choice.backend, "kernel", setup->choice.kernel,
        "math", setup->choice.math, "n_pool_rows", (json_int_t)(setup->n_pool_rows * gpu->n_copies),
        "rows_from_memory", (int)(gpu->flush_bytes > 0), "shape", shape->name, "sizes", "n_heads",
        (json_int_t)shape->n_heads, "n_window", (json_int_t)shape->n_window, "n_extra",
        (json_int_t)shape->n_extra, "n_requests", (json_int_t)shape->n_requests, "result", "time_s",
        time->median_s, "least_s", time->least_s, "most_s", time->most_s, "flop",
        (json_int_t)result->flop, "bytes", (json_int_t)result->bytes);
    return dsv4_bench_print_json_line(line, error);
}
