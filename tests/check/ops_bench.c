/*
 * ops_bench.c - times what a decode step does to one token besides matrix products, at the shapes of V4
 * Flash and Pro.
 *
 * Place: tests. The best of many calls is kept, since others on the machine only ever slow a call down. Index
 * scores run on all threads and are shown against the multiply ceiling, row operations on one thread against
 * the read ceiling of one thread: their rows stay in a cache, so that more than 100 % is possible.
 */
#include "ops_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/parallel.h"
#include "bench_ceiling.h"
#include "bench_clock.h"
#include "cpu/indexer_cpu.h"
#include "cpu/rows_cpu.h"
#include "num/bf16.h"
#include "ref/indexer.h"

enum { DIM = 128, N_HEADS = 64, PAGE_ROWS = 64, MAX_KEYS = 16384, TOP_K = 512, MAX_HIDDEN = 7168 };

#define CEILING_BUDGET_S 0.5
#define CALL_BUDGET_S    0.1

typedef struct bench_data {
    const dsv4_rows_kernels *rows;
    dsv4_compute compute;
    unsigned char *keys;
    int32_t *pages;
    float *q, *scores, *streams, *x, *y;
    uint16_t *norm;
    dsv4_hyper_mix mix;
    dsv4_index_keys index_keys;
    int64_t hidden, n_keys;
} bench_data;

typedef void bench_call(const bench_data *data);

static double best_call_s(const bench_data *data, bench_call *call)
{
    double best_s = 1e30, start_s = dsv4_bench_now_s();
    for (int64_t i = 0; i < 5 || dsv4_bench_now_s() - start_s < CALL_BUDGET_S; i++) {
        double call_s = dsv4_bench_now_s();
        call(data);
        call_s = dsv4_bench_now_s() - call_s;
        if (call_s < best_s) best_s = call_s;
    }
    return best_s;
}

/* ---- calls ---- */

static void call_scores(const bench_data *data)
{
    dsv4_indexer_cpu(&data->compute, data->q, data->x, N_HEADS, &data->index_keys, data->n_keys,
                     data->scores);
}

static void call_topk(const bench_data *data)
{
    int32_t *scratch = (int32_t *)(void *)data->streams, *chosen = (int32_t *)(void *)data->y;
    (void)dsv4_indexer_topk(data->scores, data->n_keys, TOP_K, scratch, chosen);
}

static void call_sum(const bench_data *data)
{
    data->y[0] = data->rows->sum_squares(data->streams, 4 * data->hidden);
}

static void call_collapse(const bench_data *data)
{
    data->rows->collapse(data->mix.pre, data->streams, data->hidden, 1, data->y);
}

static void call_expand(const bench_data *data)
{
    data->rows->expand(&data->mix, data->x, data->hidden, 1, data->streams);
}

static void call_normalize(const bench_data *data)
{
    data->rows->normalize(data->x, data->norm, data->hidden, 1e-6f, data->y);
}

static void call_round(const bench_data *data)
{
    data->rows->round(data->y, data->hidden);
}

static void call_fp8(const bench_data *data)
{
    data->rows->quantize_fp8(data->x, data->hidden, data->y);
}

static void call_heads(const bench_data *data)
{
    for (int h = 0; h < 64; h++) data->rows->normalize_bf16(data->streams + 512 * h, 512, 1e-6f);
}

static void call_index_query(const bench_data *data)
{
    for (int h = 0; h < N_HEADS; h++) {
        float *q = data->streams + DIM * h;
        data->rows->hadamard(q);
        data->rows->round(q, DIM);
        data->rows->quantize_fp4(q, DIM);
    }
}

static void call_pool(const bench_data *data)
{
    const float *rows[8];
    for (int s = 0; s < 8; s++) rows[s] = data->streams + 2048 * s;
    data->rows->pool(rows, 4, 512, data->y);
}

static void call_swiglu(const bench_data *data)
{
    data->rows->swiglu(data->x, data->x + 2048, 2048, 7.0f, 0.5f, 1, data->y);
}

/* ---- tables ---- */

static void *alloc_bytes(int64_t n_bytes)
{
    void *memory = malloc((size_t)n_bytes);
    if (!memory) {
        fprintf(stderr, "out of memory: %lld bytes\n", (long long)n_bytes);
        exit(2);
    }
    return memory;
}

static float *alloc_floats(attn_rng *rng, int64_t n)
{
    float *values = alloc_bytes(n * (int64_t)sizeof *values);
    for (int64_t i = 0; i < n; i++) {
        values[i] = dsv4_bf16_to_f32(dsv4_bf16_from_f32(attn_rng_normal(rng)));
    }
    return values;
}

static void data_make(bench_data *data)
{
    attn_rng rng = {.state = 7};
    memset(data, 0, sizeof *data);
    int64_t key_floats = (int64_t)MAX_KEYS * DIM;
    data->keys = (unsigned char *)alloc_floats(&rng, key_floats);
    data->pages = alloc_bytes(MAX_KEYS / PAGE_ROWS * (int64_t)sizeof *data->pages);
    for (int i = 0; i < MAX_KEYS / PAGE_ROWS; i++) data->pages[i] = i;
    data->q = alloc_floats(&rng, N_HEADS * DIM);
    data->scores = alloc_floats(&rng, MAX_KEYS);
    data->streams = alloc_floats(&rng, 8 * MAX_HIDDEN);
    data->x = alloc_floats(&rng, MAX_HIDDEN);
    data->y = alloc_floats(&rng, MAX_HIDDEN);
    data->norm = alloc_bytes(MAX_HIDDEN * (int64_t)sizeof *data->norm);
    for (int i = 0; i < MAX_HIDDEN; i++) data->norm[i] = 0x3f80;
    for (int j = 0; j < 4; j++) {
        data->mix.pre[j] = 0.25f;
        data->mix.post[j] = 0.5f;
        for (int k = 0; k < 4; k++) data->mix.comb[j][k] = 0.25f;
    }
}

static void data_free(bench_data *data)
{
    free(data->keys);
    free(data->pages);
    free(data->q);
    free(data->scores);
    free(data->streams);
    free(data->x);
    free(data->y);
    free(data->norm);
}

static void set_keys(bench_data *data, bool is_fp4)
{
    int64_t row_bytes = is_fp4 ? 68 : 4 * DIM;
    attn_rng rng = {.state = 9};
    data->index_keys = (dsv4_index_keys){.base = data->keys,
                                         .page_stride_bytes = PAGE_ROWS * row_bytes,
                                         .page_rows = PAGE_ROWS,
                                         .pages = data->pages,
                                         .is_fp4 = is_fp4};
    for (int64_t i = 0; i < MAX_KEYS * row_bytes && is_fp4; i++) {
        bool is_scale = i % row_bytes >= 64;
        data->keys[i] = (unsigned char)(is_scale ? 127 : attn_rng_range(&rng, 0, 255));
    }
    for (int64_t i = 0; i < MAX_KEYS * DIM && !is_fp4; i++) {
        float value = attn_rng_normal(&rng);
        memcpy(data->keys + 4 * i, &value, sizeof value);
    }
}

static void bench_scores(bench_data *data, const dsv4_bench_ceilings *ceilings)
{
    static const int64_t counts[] = {1024, 4096, MAX_KEYS};
    const dsv4_compute level = data->compute;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        data->n_keys = counts[i];
        data->compute.cpu_level = 0;
        double reference_s = best_call_s(data, call_scores);
        data->compute = level;
        double call_s = best_call_s(data, call_scores), topk_s = best_call_s(data, call_topk);
        double flop_per_s = 2.0 * DIM * N_HEADS * (double)counts[i] / call_s;
        printf("  index scores %s %6lld keys %8.1f us %7.1f GFLOP/s %3.0f %%  reference %9.1f us  "
               "top %d %6.1f us\n",
               data->index_keys.is_fp4 ? "FP4" : "F32", (long long)counts[i], 1e6 * call_s,
               1e-9 * flop_per_s, 100 * flop_per_s / ceilings->flop_per_s, 1e6 * reference_s, TOP_K,
               1e6 * topk_s);
        fflush(stdout);
    }
}

static void bench_rows(bench_data *data, double read_bytes_per_s)
{
    static const struct {
        const char *name;
        bench_call *call;
        int64_t n_fixed, n_per_hidden; /* f32 read and written */
    } ops[] = {{"sum of squares", call_sum, 0, 4},
               {"collapse", call_collapse, 0, 5},
               {"expand", call_expand, 0, 9},
               {"normalize", call_normalize, 0, 2},
               {"round", call_round, 0, 2},
               {"quantize fp8", call_fp8, 0, 2},
               {"64 head norms", call_heads, 65536, 0},
               {"64 index queries", call_index_query, 16384, 0},
               {"pool ratio 4", call_pool, 8704, 0},
               {"swiglu 2048", call_swiglu, 6144, 0}};
    const dsv4_rows_kernels *level = data->rows, *reference = dsv4_rows_kernels_of(0);
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        data->rows = reference;
        double reference_s = best_call_s(data, ops[i].call);
        data->rows = level;
        double call_s = best_call_s(data, ops[i].call);
        double bytes = 4.0 * (double)(ops[i].n_fixed + ops[i].n_per_hidden * data->hidden);
        printf("  hidden %4lld %-16s %8.2f us %7.2f GB/s %4.0f %%   reference %8.2f us\n",
               (long long)data->hidden, ops[i].name, 1e6 * call_s, 1e-9 * bytes / call_s,
               100 * bytes / call_s / read_bytes_per_s, 1e6 * reference_s);
    }
    fflush(stdout);
}

static int bench_level(bench_data *data, int32_t level)
{
    dsv4_error error;
    dsv4_bench_ceilings f32, bf16, one;
    bool has_bf16 = level == DSV4_CPU_LEVEL_AVX512BF16;
    int32_t n_threads = dsv4_parallel_default_threads();
    if (dsv4_bench_ceilings_measure(level, false, n_threads, CEILING_BUDGET_S, &f32, &error) ||
        dsv4_bench_ceilings_measure(level, has_bf16, n_threads, CEILING_BUDGET_S, &bf16, &error) ||
        dsv4_bench_ceilings_measure(level, false, 1, CEILING_BUDGET_S, &one, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 2;
    }
    printf("%s, %d threads: ceilings %.1f GFLOP/s %s, %.1f %s; %.2f GB/s read by one\n",
           dsv4_cpu_level_name(level), n_threads, 1e-9 * f32.flop_per_s, f32.flop_loop,
           1e-9 * bf16.flop_per_s, bf16.flop_loop, 1e-9 * one.read_bytes_per_s);
    data->compute = (dsv4_compute){.cpu_level = level, .n_threads = n_threads};
    data->rows = dsv4_rows_kernels_of(level);
    set_keys(data, true);
    bench_scores(data, &bf16);
    set_keys(data, false);
    bench_scores(data, &f32);
    for (data->hidden = 4096; data->hidden <= MAX_HIDDEN; data->hidden += MAX_HIDDEN - 4096) {
        bench_rows(data, one.read_bytes_per_s);
    }
    return 0;
}

int ops_bench_run(int32_t only_level)
{
    bench_data data;
    int status = 0;
    data_make(&data);
    for (int32_t level = dsv4_cpu_level(); level >= DSV4_CPU_LEVEL_V2 && status == 0; level--) {
        if (only_level > 0 && level != only_level) continue;
        status = bench_level(&data, level);
    }
    data_free(&data);
    return status;
}
