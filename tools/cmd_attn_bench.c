/*
 * cmd_attn_bench.c - `dsv4 attn bench`: the attention's speed against this machine's ceilings, or on a GPU.
 *
 * Place: program, bench. The ceiling that binds a shape is the longer of two times: its FLOP at the
 * measured multiply-add rate, its bytes at the measured read rate. FLOP: two products of 512 per
 * head and key. Bytes: each named row once, queries, output, index lists. Calls, calls on one thread
 * and the binding ceiling take turns, round by round; ratios are made within a round and the median
 * round counts, since a shared machine is not the same from one second to the next.
 */
#include "attn_bench_gpu.h"
#include "attn_call.h"
#include "bench_ceiling.h"
#include "bench_clock.h"
#include "bench_data.h"
#include "bench_report.h"
#include "commands.h"

#include "dsv4/cache.h"

#include "attn/attn_check.h"
#include "base/error.h"
#include "base/parallel.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_HEADS_CHOICES = 5,
    N_KEYS_CHOICES = 4,
    N_REQUESTS_CHOICES = 6,
    N_SHAPES = N_HEADS_CHOICES * N_KEYS_CHOICES * N_REQUESTS_CHOICES,
    MAX_HEADS = 128,
    MAX_REQUESTS = 64,
    MAX_GPU_REQUESTS = 256,
    POOL_SLOTS = 128 << 10,
    MAX_SAMPLES = 4096,
    N_ROUNDS = 9,
};

/* A size of a shape; those for GPUs would take the CPU hours. */
typedef struct size_choice {
    int64_t n;
    bool is_for_gpus;
} size_choice;

static const size_choice heads_choices[N_HEADS_CHOICES] = {
    {8, false}, {16, false}, {32, true}, {64, false}, {128, false}};
static const size_choice extra_choices[N_KEYS_CHOICES] = {
    {0, false}, {512, false}, {1024, false}, {8192, true}};
static const size_choice requests_choices[N_REQUESTS_CHOICES] = {
    {1, false}, {8, false}, {32, true}, {64, false}, {128, true}, {256, true}};

static const char *const quick_names[] = {
    "h8-k128-b1",      "h16-k128+1024-b8", "h64-k128+512-b1",
    "h64-k128+512-b8", "h128-k128-b8",     "h128-k128+1024-b1",
};

typedef struct bench {
    dsv4_attn_params params; /* the options, scale, queries and sink */
    dsv4_bench_setup setup;
    dsv4_bench_gauge gauge; /* of the CPU */
    dsv4_bench_gpu gpu;     /* with a backend that is one */
    double budget_s;
    dsv4_bench_pool window, extra;
    uint16_t *q;                                   /* [most requests, 1, MAX_HEADS, 512] bf16 */
    float *sink;                                   /* [MAX_HEADS] */
    double ref_s[N_HEADS_CHOICES][N_KEYS_CHOICES]; /* 0: not measured yet */
    double *samples_s;                             /* [MAX_SAMPLES] */
} bench;

static size_choice heads_choice(int32_t i)
{
    return heads_choices[i / (N_KEYS_CHOICES * N_REQUESTS_CHOICES)];
}

static size_choice extra_choice(int32_t i)
{
    return extra_choices[i / N_REQUESTS_CHOICES % N_KEYS_CHOICES];
}

static size_choice requests_choice(int32_t i)
{
    return requests_choices[i % N_REQUESTS_CHOICES];
}

/* i: 0 .. N_SHAPES - 1 */
static dsv4_bench_shape make_shape(int32_t i)
{
    dsv4_bench_shape shape = {
        .n_heads = heads_choice(i).n,
        .n_window = 128,
        .n_extra = extra_choice(i).n,
        .n_requests = requests_choice(i).n,
    };
    char extra[24] = "";
    if (shape.n_extra > 0) (void)snprintf(extra, sizeof extra, "+%" PRId64, shape.n_extra);
    (void)snprintf(shape.name, sizeof shape.name, "h%" PRId64 "-k%" PRId64 "%s-b%" PRId64,
                   shape.n_heads, shape.n_window, extra, shape.n_requests);
    return shape;
}

/* Whether the backend measures it: quick ones of a GPU are those that name no row of one pool twice. */
static bool is_for_backend(int32_t i, const dsv4_options *options)
{
    const dsv4_bench_shape shape = make_shape(i);
    if (!dsv4_attn_on_gpu((int32_t)options->values[DSV4_OPTION_BACKEND])) {
        return !heads_choice(i).is_for_gpus && !extra_choice(i).is_for_gpus &&
               !requests_choice(i).is_for_gpus;
    }
    return !options->given[DSV4_OPTION_QUICK] || shape.n_requests * shape.n_extra <= POOL_SLOTS;
}

static bool is_shape_name(const char *name)
{
    for (int32_t i = 0; i < N_SHAPES; i++) {
        if (strcmp(make_shape(i).name, name) == 0) return true;
    }
    return false;
}

/* A pattern is a name, how names begin, or one for fnmatch. */
static bool is_selected(int32_t i, const dsv4_options *options)
{
    const dsv4_bench_shape shape = make_shape(i);
    const char *pattern = options->texts[DSV4_OPTION_SHAPE];
    if (!is_for_backend(i, options)) return false;
    if (pattern != NULL) {
        return fnmatch(pattern, shape.name, 0) == 0 ||
               (!is_shape_name(pattern) && strncmp(shape.name, pattern, strlen(pattern)) == 0);
    }
    if (!options->given[DSV4_OPTION_QUICK]) return true;
    for (size_t k = 0; k < sizeof quick_names / sizeof *quick_names; k++) {
        if (strcmp(shape.name, quick_names[k]) == 0) return true;
    }
    return false;
}

static int32_t count_selected(const dsv4_options *options)
{
    int32_t n_selected = 0;
    for (int32_t i = 0; i < N_SHAPES; i++) n_selected += is_selected(i, options);
    return n_selected;
}

/* One timed decode over the next lists of the pools. */
static dsv4_status time_decode(bench *b, dsv4_attn_call *call, double *time_s, dsv4_error *error)
{
    dsv4_attn_params *params = &call->params;
    int64_t n_requests = params->n_requests;
    params->window.indices =
        dsv4_bench_pool_next(&b->window, n_requests * params->window.n_indices);
    if (params->extra.cache != NULL) {
        params->extra.indices =
            dsv4_bench_pool_next(&b->extra, n_requests * params->extra.n_indices);
    }
    double start_s = dsv4_bench_now_s();
    dsv4_status status = dsv4_attn_call_decode(call, error);
    *time_s = dsv4_bench_now_s() - start_s;
    return status;
}

/* Median of as many calls as fit, at least one. */
static dsv4_status time_calls(bench *b, dsv4_attn_call *call, double budget_s, double *median_s,
                              dsv4_error *error)
{
    double end_s = dsv4_bench_now_s() + budget_s;
    int32_t n_samples = 0;
    do {
        DSV4_TRY(time_decode(b, call, &b->samples_s[n_samples], error));
        n_samples++;
    } while (n_samples < MAX_SAMPLES && dsv4_bench_now_s() < end_s);
    *median_s = dsv4_bench_median(b->samples_s, n_samples);
    return DSV4_OK;
}

static dsv4_status open_call(bench *b, const dsv4_bench_shape *shape, dsv4_attn_params params,
                             dsv4_attn_call *call, dsv4_error *error)
{
    params.n_requests = shape->n_requests;
    params.n_heads = shape->n_heads;
    dsv4_bench_pool_scope(&b->window, shape->n_window, &params.window);
    if (shape->n_extra > 0) dsv4_bench_pool_scope(&b->extra, shape->n_extra, &params.extra);
    dsv4_attn_params_set_dense(&params);
    return dsv4_attn_call_open(call, &params, error);
}

/* Time of the reference for shape i: measured for one request on one thread, times requests. */
static dsv4_status ref_time(bench *b, int32_t i, double *time_s, dsv4_error *error)
{
    dsv4_bench_shape shape = make_shape(i);
    double n_requests = (double)shape.n_requests;
    int32_t row = i / (N_KEYS_CHOICES * N_REQUESTS_CHOICES);
    double *measured_s = &b->ref_s[row][i / N_REQUESTS_CHOICES % N_KEYS_CHOICES];
    if (*measured_s == 0) {
        dsv4_attn_params params = b->params;
        params.backend = DSV4_BACKEND_REF;
        params.math = DSV4_ATTN_MATH_AUTO;
        params.cpu_level = DSV4_CPU_LEVEL_AUTO;
        params.n_threads = 1;
        shape.n_requests = 1;
        dsv4_attn_call call;
        dsv4_status status = open_call(b, &shape, params, &call, error);
        if (status == DSV4_OK) status = time_calls(b, &call, b->budget_s, measured_s, error);
        dsv4_attn_call_close(&call);
        DSV4_TRY(status);
    }
    *time_s = *measured_s * n_requests;
    return DSV4_OK;
}

static void count_work(const dsv4_bench_setup *setup, dsv4_bench_result *result)
{
    const dsv4_bench_shape *shape = &result->shape;
    double n_keys = (double)(shape->n_window + shape->n_extra), n_rows = (double)shape->n_requests;
    double n_values = n_rows * (double)shape->n_heads * DSV4_ATTN_DIM;
    result->flop = 2 * n_rows * (double)shape->n_heads * n_keys * 2 * DSV4_ATTN_DIM;
    result->bytes =
        n_rows * n_keys * (DSV4_CACHE_RECORD_BYTES + sizeof(int32_t)) + /* rows, lists */
        n_values * 2 * sizeof(uint16_t);                                /* q, out */
    if (setup->ceilings.flop_per_s == 0) return; /* a GPU: they are not measured */
    result->flop_binds = result->flop / setup->ceilings.flop_per_s >=
                         result->bytes / setup->ceilings.read_bytes_per_s;
}

static double ceiling_time(bench *b, const dsv4_bench_result *result)
{
    return result->flop_binds ? result->flop / dsv4_bench_gauge_flop(&b->gauge)
                              : result->bytes / dsv4_bench_gauge_read(&b->gauge);
}

/* alone: the same call on one thread, or NULL. */
static dsv4_status run_rounds(bench *b, dsv4_attn_call *call, dsv4_attn_call *alone,
                              dsv4_bench_result *result, dsv4_error *error)
{
    double times_s[N_ROUNDS], alone_s[N_ROUNDS], fractions[N_ROUNDS], ratios[N_ROUNDS];
    double slice_s = b->budget_s / N_ROUNDS;
    for (int32_t i = 0; i < N_ROUNDS; i++) {
        double ceiling_s = ceiling_time(b, result);
        DSV4_TRY(time_calls(b, call, slice_s, &times_s[i], error));
        ceiling_s = (ceiling_s + ceiling_time(b, result)) / 2;
        fractions[i] = ceiling_s / times_s[i];
        alone_s[i] = times_s[i];
        if (alone != NULL) DSV4_TRY(time_calls(b, alone, slice_s, &alone_s[i], error));
        ratios[i] = alone_s[i] / times_s[i];
    }
    result->time_s = dsv4_bench_median(times_s, N_ROUNDS);
    result->one_thread_time_s = dsv4_bench_median(alone_s, N_ROUNDS);
    result->scaling = dsv4_bench_median(ratios, N_ROUNDS);
    result->ceiling_fraction = dsv4_bench_median(fractions, N_ROUNDS);
    return DSV4_OK;
}

static dsv4_status measure(bench *b, int32_t i, dsv4_bench_result *result, dsv4_error *error)
{
    *result = (dsv4_bench_result){.shape = make_shape(i)};
    count_work(&b->setup, result);
    bool has_alone = b->setup.n_threads > 1;
    dsv4_attn_params params = b->params;
    dsv4_attn_call call = {0}, alone = {0};
    double warm_s;
    dsv4_status status = open_call(b, &result->shape, params, &call, error);
    if (status == DSV4_OK) status = time_decode(b, &call, &warm_s, error);
    params.n_threads = 1;
    if (status == DSV4_OK && has_alone) {
        status = open_call(b, &result->shape, params, &alone, error);
        if (status == DSV4_OK) status = time_decode(b, &alone, &warm_s, error);
    }
    if (status == DSV4_OK) {
        status = run_rounds(b, &call, has_alone ? &alone : NULL, result, error);
    }
    dsv4_attn_call_close(&call);
    dsv4_attn_call_close(&alone);
    DSV4_TRY(status);
    return ref_time(b, i, &result->ref_time_s, error);
}

/* The level whose ceiling bounds a kernel: "scalar" is bounded by the lowest. */
static int32_t kernel_level(const char *kernel)
{
    for (int32_t level = DSV4_CPU_LEVEL_AVX512BF16; level > DSV4_CPU_LEVEL_V2; level--) {
        if (strcmp(kernel, dsv4_cpu_level_name(level)) == 0) return level;
    }
    return DSV4_CPU_LEVEL_V2;
}

static dsv4_status bench_open(bench *b, const dsv4_options *options, dsv4_error *error)
{
    *b = (bench){.budget_s = options->given[DSV4_OPTION_QUICK] ? 0.1 : 0.3};
    dsv4_bench_setup *setup = &b->setup;
    DSV4_TRY(dsv4_attn_call_choose(options, &b->params, &setup->choice, error));
    setup->n_threads =
        b->params.n_threads > 0 ? b->params.n_threads : dsv4_parallel_default_threads();
    b->params.n_threads = setup->n_threads;
    setup->n_pool_rows = POOL_SLOTS;
    const int64_t n_requests =
        dsv4_attn_on_gpu(b->params.backend) ? MAX_GPU_REQUESTS : MAX_REQUESTS;
    int64_t n_queries = n_requests * MAX_HEADS * DSV4_ATTN_DIM;
    b->q = malloc((size_t)n_queries * sizeof *b->q);
    b->sink = malloc(MAX_HEADS * sizeof *b->sink);
    b->samples_s = malloc(MAX_SAMPLES * sizeof *b->samples_s);
    if (b->q == NULL || b->sink == NULL || b->samples_s == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory for the queries");
    }
    dsv4_bench_fill_normal_bf16(b->q, n_queries, 1);
    dsv4_bench_fill_normal(b->sink, MAX_HEADS, 2);
    b->params.q = b->q;
    b->params.sink = b->sink;
    DSV4_TRY(dsv4_bench_pool_open(&b->window, POOL_SLOTS, 3, error));
    DSV4_TRY(dsv4_bench_pool_open(&b->extra, POOL_SLOTS, 4, error));
    if (dsv4_attn_on_gpu(b->params.backend)) {
        return dsv4_bench_gpu_open(&b->gpu, b->params.backend, options->given[DSV4_OPTION_QUICK],
                                   &b->window, &b->extra, b->q, n_queries, b->sink, MAX_HEADS,
                                   error);
    }
    int32_t level = kernel_level(setup->choice.kernel);
    bool uses_bf16 = level == DSV4_CPU_LEVEL_AVX512BF16; /* with bf16 and with official math */
    DSV4_TRY(
        dsv4_bench_gauge_open(level, uses_bf16, setup->n_threads, b->budget_s, &b->gauge, error));
    setup->ceilings = b->gauge.ceilings;
    return DSV4_OK;
}

static void bench_close(bench *b)
{
    dsv4_bench_gpu_close(&b->gpu);
    dsv4_bench_gauge_close(&b->gauge);
    dsv4_bench_pool_close(&b->window);
    dsv4_bench_pool_close(&b->extra);
    free(b->q);
    free(b->sink);
    free(b->samples_s);
}

static dsv4_status measure_gpu(bench *b, int32_t i, bool is_json, dsv4_error *error)
{
    dsv4_bench_result result = {.shape = make_shape(i)};
    const dsv4_bench_shape *shape = &result.shape;
    dsv4_attn_params params = b->params;
    dsv4_bench_gpu_time time;
    count_work(&b->setup, &result);
    params.n_requests = shape->n_requests;
    params.n_heads = shape->n_heads;
    dsv4_bench_pool_scope(&b->window, shape->n_window, &params.window);
    if (shape->n_extra > 0) dsv4_bench_pool_scope(&b->extra, shape->n_extra, &params.extra);
    DSV4_TRY(dsv4_bench_gpu_measure(&b->gpu, &params, &time, error));
    if (is_json) return dsv4_bench_print_gpu_json(&b->setup, &b->gpu, &result, &time, error);
    dsv4_bench_print_gpu_row(&result, &time);
    return DSV4_OK;
}

static dsv4_status run_gpu(bench *b, const dsv4_options *options, dsv4_error *error)
{
    bool is_json = options->given[DSV4_OPTION_JSON];
    if (!is_json) dsv4_bench_print_gpu_header(&b->setup, &b->gpu);
    for (int32_t i = 0; i < N_SHAPES; i++) {
        if (is_selected(i, options)) DSV4_TRY(measure_gpu(b, i, is_json, error));
    }
    return DSV4_OK;
}

static dsv4_status run(bench *b, const dsv4_options *options, dsv4_error *error)
{
    bool is_json = options->given[DSV4_OPTION_JSON];
    DSV4_TRY(bench_open(b, options, error));
    if (dsv4_attn_on_gpu(b->params.backend)) return run_gpu(b, options, error);
    if (!is_json) dsv4_bench_print_header(&b->setup);
    for (int32_t i = 0; i < N_SHAPES; i++) {
        if (!is_selected(i, options)) continue;
        dsv4_bench_result result;
        DSV4_TRY(measure(b, i, &result, error));
        if (is_json) {
            DSV4_TRY(dsv4_bench_print_json(&b->setup, &result, error));
        } else {
            dsv4_bench_print_row(&b->setup, &result);
        }
    }
    return DSV4_OK;
}

int dsv4_cmd_attn_bench(const dsv4_options *options)
{
    dsv4_error error;
    if (count_selected(options) == 0) {
        (void)dsv4_error_set(&error, DSV4_ERROR_INVALID_ARGUMENT,
                             "option --shape: '%.80s' names no shape; expected a name or pattern "
                             "such as %s or h64-*",
                             options->texts[DSV4_OPTION_SHAPE], make_shape(0).name);
        return dsv4_command_fail(options, &error);
    }
    bench b;
    dsv4_status status = run(&b, options, &error);
    bench_close(&b);
    return status == DSV4_OK ? DSV4_EXIT_OK : dsv4_command_fail(options, &error);
}
