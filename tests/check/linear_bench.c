/*
 * linear_bench.c - times the matrices of V4 at 1 to 512 rows of x.
 *
 * Place: tests. W lies in several copies that together exceed any cache, and calls take them in
 * turn: a decode step reads every matrix once. The best of many calls is kept, since others on the
 * machine only ever slow a call down. Both ceilings are measured in the same process just before.
 */
#include "linear_bench.h"

#include "attn_rng.h"
#include "base/parallel.h"
#include "bench_ceiling.h"
#include "bench_clock.h"
#include "cpu/linear_cpu.h"
#include "num/bf16.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BENCH_ROWS = 512, MIN_CALLS = 5, CACHE_BYTES = 128 << 20 };

#define CEILING_BUDGET_S 1.0
#define CALL_BUDGET_S    0.4

typedef struct bench_shape {
    const char *name;
    int64_t n_out, n_in;
    int32_t kind;
} bench_shape;

static const bench_shape shapes[] = {
    {"FP8", 4096, 4096, DSV4_LINEAR_FP8},    {"FP8", 32768, 1024, DSV4_LINEAR_FP8},
    {"FP4", 2048, 4096, DSV4_LINEAR_FP4},    {"FP4", 4096, 2048, DSV4_LINEAR_FP4},
    {"BF16", 16384, 4096, DSV4_LINEAR_BF16},
};

/* One matrix in memory, n_copies times. */
typedef struct bench_data {
    uint8_t *bytes; /* [n_copies] of a matrix and its scales */
    int64_t copy_bytes;
    int64_t scales_begin;
    int64_t n_copies;
    float *x, *y;
} bench_data;

static void *alloc_bytes(int64_t n_bytes)
{
    void *memory = malloc((size_t)n_bytes);
    if (!memory) {
        fprintf(stderr, "out of memory: %lld bytes\n", (long long)n_bytes);
        exit(2);
    }
    return memory;
}

static void fill_matrix(const bench_shape *shape, attn_rng *rng, const bench_data *data)
{
    for (int64_t i = 0; i + 8 <= data->scales_begin; i += 8) {
        uint64_t word = attn_rng_next(rng);
        /* No NaN: FP8 magnitudes below 0x70, BF16 exponents below 64. */
        if (shape->kind == DSV4_LINEAR_FP8) word &= 0xefefefefefefefefu;
        if (shape->kind == DSV4_LINEAR_BF16) word &= 0xbfffbfffbfffbfffu;
        memcpy(data->bytes + i, &word, sizeof word);
    }
    for (int64_t i = data->scales_begin; i < data->copy_bytes; i++) {
        data->bytes[i] = (uint8_t)attn_rng_range(rng, 118, 124);
    }
    for (int64_t i = 1; i < data->n_copies; i++) {
        memcpy(data->bytes + i * data->copy_bytes, data->bytes, (size_t)data->copy_bytes);
    }
}

static void data_make(const bench_shape *shape, bench_data *data)
{
    attn_rng rng = {.state = 7};
    dsv4_linear linear = {.n_out = shape->n_out, .n_in = shape->n_in, .kind = shape->kind};
    int64_t n_weights = shape->n_out * shape->n_in;
    data->copy_bytes = dsv4_linear_bytes(&linear);
    data->scales_begin = shape->kind == DSV4_LINEAR_FP8   ? n_weights
                         : shape->kind == DSV4_LINEAR_FP4 ? n_weights / 2
                                                          : data->copy_bytes;
    data->n_copies = CACHE_BYTES / data->copy_bytes + 2;
    data->bytes = alloc_bytes(data->n_copies * data->copy_bytes);
    data->x = alloc_bytes(MAX_BENCH_ROWS * shape->n_in * (int64_t)sizeof *data->x);
    data->y = alloc_bytes(MAX_BENCH_ROWS * shape->n_out * (int64_t)sizeof *data->y);
    fill_matrix(shape, &rng, data);
    for (int64_t i = 0; i < MAX_BENCH_ROWS * shape->n_in; i++) {
        data->x[i] = dsv4_bf16_to_f32(dsv4_bf16_from_f32(attn_rng_normal(&rng)));
    }
}

static void data_free(bench_data *data)
{
    free(data->bytes);
    free(data->x);
    free(data->y);
}

static double best_call_s(const dsv4_compute *compute, bool x_is_bf16, const bench_shape *shape,
                          const bench_data *data, int64_t n_rows)
{
    double best_s = 1e30, start_s = dsv4_bench_now_s();
    for (int64_t i = 0; i < MIN_CALLS || dsv4_bench_now_s() - start_s < CALL_BUDGET_S; i++) {
        const uint8_t *copy = data->bytes + i % data->n_copies * data->copy_bytes;
        dsv4_linear linear = {.weight = copy,
                              .scales = copy + data->scales_begin,
                              .n_out = shape->n_out,
                              .n_in = shape->n_in,
                              .kind = shape->kind};
        double call_s = dsv4_bench_now_s();
        dsv4_linear_cpu(compute, &linear, data->x, shape->n_in, n_rows, x_is_bf16, data->y,
                        shape->n_out);
        call_s = dsv4_bench_now_s() - call_s;
        if (call_s < best_s) best_s = call_s;
    }
    return best_s;
}

static void bench_shape_run(const dsv4_compute *compute, bool x_is_bf16, const bench_shape *shape,
                            const dsv4_bench_ceilings *ceilings)
{
    static const int64_t all_rows[] = {1, 2, 4, 8, 64, 512};
    bench_data data;
    data_make(shape, &data);
    for (size_t i = 0; i < sizeof all_rows / sizeof *all_rows; i++) {
        double call_s = best_call_s(compute, x_is_bf16, shape, &data, all_rows[i]);
        double bytes_per_s = (double)data.copy_bytes / call_s;
        double flop = 2.0 * (double)shape->n_out * (double)shape->n_in * (double)all_rows[i];
        printf(
            "  %-4s %6lld x %4lld %4lld rows %9.3f ms %7.2f GB/s %3.0f %% %9.1f GFLOP/s %3.0f %%\n",
            shape->name, (long long)shape->n_out, (long long)shape->n_in, (long long)all_rows[i],
            1e3 * call_s, 1e-9 * bytes_per_s, 100.0 * bytes_per_s / ceilings->read_bytes_per_s,
            1e-9 * flop / call_s, 100.0 * flop / call_s / ceilings->flop_per_s);
        fflush(stdout);
    }
    data_free(&data);
}

static int bench_level(int32_t level, bool x_is_bf16)
{
    dsv4_error error;
    dsv4_bench_ceilings ceilings;
    dsv4_compute compute = {.cpu_level = level, .n_threads = dsv4_parallel_default_threads()};
    if (dsv4_bench_ceilings_measure(level, x_is_bf16, compute.n_threads, CEILING_BUDGET_S,
                                    &ceilings, &error) != DSV4_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 2;
    }
    printf("%s, %s, %d threads: ceilings %.2f GB/s read, %.1f GFLOP/s %s\n",
           dsv4_cpu_level_name(level), x_is_bf16 ? "x in bf16" : "x in f32", compute.n_threads,
           1e-9 * ceilings.read_bytes_per_s, 1e-9 * ceilings.flop_per_s, ceilings.flop_loop);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        bench_shape_run(&compute, x_is_bf16, &shapes[i], &ceilings);
    }
    return 0;
}

int linear_bench_run(int32_t only_level)
{
    int status = 0;
    for (int32_t level = dsv4_cpu_level(); level >= DSV4_CPU_LEVEL_V2 && status == 0; level--) {
        if (only_level > 0 && level != only_level) continue;
        status = bench_level(level, level == DSV4_CPU_LEVEL_AVX512BF16);
    }
    return status;
}
