/*
 * layer_bench.c - times matrices and layers whose weights come from memory.
 *
 * Place: program, bench. A layer runs as in a model: dsv4_forward_step on one new token of each sequence,
 * always at the same position, which is not advanced over, so that every repetition does the same work
 * on other weights. Nothing is subtracted: embedding, lists and the mixing before the head are in it.
 */
#include "layer_bench.h"

#include "bench_clock.h"
#include "layer_caches.h"
#include "layer_report.h"
#include "number_list.h"

#include "base/error.h"
#include "base/parallel.h"
#include "bench_data.h"
#include "model/forward.h"
#include "num/bf16.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_SAMPLES = 2000,
    MIN_SAMPLES = 5,
    N_ROUNDS = 9, /* of a matrix; a layer has one a step */
    DEFAULT_LIMIT_MIB = 3072,
    MAX_BATCH = 1024,
    MAX_CONTEXT = 1 << 20,
};

typedef struct bench {
    const dsv4_options *options;
    dsv4_layer_setup setup;
    dsv4_number_list batches, contexts;
    int64_t limit_bytes;
    double budget_s; /* of a layer and a ceiling; matrices take a fifth */
    uint64_t random;
    dsv4_bench_gauge gauge;
    double ceiling; /* when it was last read */
    int32_t n_samples, n_ratios;
    double samples_s[MAX_SAMPLES], ratios[MAX_SAMPLES], ceilings[MAX_SAMPLES];
    dsv4_layer_model model;
    dsv4_forward *forward;
} bench;

/* ---- samples ---- */

static void begin_samples(bench *b)
{
    b->n_samples = 0;
    b->n_ratios = 0;
    b->ceiling = dsv4_bench_gauge_read(&b->gauge);
}

/* What ran at bytes_per_s since the ceiling was last read is compared with that and with now. */
static void add_ratio(bench *b, double bytes_per_s)
{
    double before = b->ceiling;
    b->ceiling = dsv4_bench_gauge_read(&b->gauge);
    b->ceilings[b->n_ratios] = (before + b->ceiling) / 2;
    b->ratios[b->n_ratios] = bytes_per_s / b->ceilings[b->n_ratios];
    b->n_ratios++;
}

/* Sorts them: the first is the shortest then. */
static void end_samples(bench *b, double *time_s, double *best_s, double *read_fraction)
{
    *time_s = dsv4_bench_median(b->samples_s, b->n_samples);
    *best_s = b->samples_s[0];
    *read_fraction = dsv4_bench_median(b->ratios, b->n_ratios);
    b->setup.ceilings.read_bytes_per_s = dsv4_bench_median(b->ceilings, b->n_ratios);
}

static uint64_t draw(bench *b)
{
    b->random = b->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return b->random >> 33;
}

/* ---- matrices ---- */

/* Copies of one matrix, and rows to multiply it with. */
typedef struct linear_data {
    unsigned char *memory; /* [n_copies, copy_bytes] */
    int64_t n_copies, copy_bytes, scales_begin;
    float *x, *y;
} linear_data;

static int64_t plain_bytes(const dsv4_linear *linear)
{
    dsv4_linear plain = *linear;
    if (linear->kind == DSV4_LINEAR_FP8) return plain.n_out * plain.n_in;
    if (linear->kind == DSV4_LINEAR_FP4) return plain.n_out * plain.n_in / 2;
    return dsv4_linear_bytes(&plain);
}

static dsv4_status make_linear(bench *b, const dsv4_layer_linear *what, int64_t cold_bytes,
                               int64_t max_rows, linear_data *data, dsv4_error *error)
{
    const dsv4_linear *linear = &what->linear;
    data->copy_bytes = (dsv4_linear_bytes(linear) + 7) / 8 * 8;
    data->scales_begin = plain_bytes(linear);
    data->n_copies = cold_bytes / data->copy_bytes + 2;
    int64_t n_x = max_rows * linear->n_in * what->n_groups;
    data->memory = malloc((size_t)(data->n_copies * data->copy_bytes));
    data->x = malloc((size_t)n_x * sizeof *data->x);
    data->y = malloc((size_t)(max_rows * linear->n_out) * sizeof *data->y);
    if (data->memory == NULL || data->x == NULL || data->y == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "no memory for %" PRId64 " copies of %s", data->n_copies, what->name);
    }
    for (int64_t i = 0; i < data->n_copies; i++) {
        unsigned char *copy = data->memory + i * data->copy_bytes;
        dsv4_layer_fill_linear(linear, copy, copy + data->scales_begin, &b->random);
    }
    dsv4_bench_fill_normal(data->x, n_x, 5);
    for (int64_t i = 0; i < n_x; i++) {
        data->x[i] = dsv4_bf16_to_f32(dsv4_bf16_from_f32(data->x[i]));
    }
    return DSV4_OK;
}

/* One product, in blocks of rows as attention.c has it for wo_a. */
static double time_linear(const bench *b, const dsv4_layer_linear *what, const linear_data *data,
                          int64_t i, int64_t n_rows)
{
    const unsigned char *copy = data->memory + i % data->n_copies * data->copy_bytes;
    dsv4_linear part = what->linear;
    int64_t n_out = part.n_out, x_stride = part.n_in * what->n_groups;
    part.n_out = n_out / what->n_groups;
    bool x_is_bf16 = what->x_is_bf16 && b->setup.numerics == DSV4_NUMERICS_OFFICIAL;
    int64_t part_bytes = data->scales_begin / what->n_groups;
    int64_t part_scales = (dsv4_linear_bytes(&what->linear) - data->scales_begin) / what->n_groups;
    double start_s = dsv4_bench_now_s();
    for (int64_t g = 0; g < what->n_groups; g++) {
        part.weight = copy + g * part_bytes;
        part.scales = copy + data->scales_begin + g * part_scales;
        dsv4_linear_cpu(&b->setup.compute, &part, data->x + g * part.n_in, x_stride, n_rows,
                        x_is_bf16, data->y + g * part.n_out, n_out);
    }
    return dsv4_bench_now_s() - start_s;
}

/* Samples of one round; their median. */
static double time_linears(bench *b, const dsv4_layer_linear *what, const linear_data *data,
                           int64_t n_rows)
{
    int32_t first = b->n_samples, end = first + MAX_SAMPLES / N_ROUNDS;
    double end_s = dsv4_bench_now_s() + b->budget_s / 5 / N_ROUNDS;
    do {
        b->samples_s[b->n_samples] = time_linear(b, what, data, b->n_samples, n_rows);
        b->n_samples++;
    } while (b->n_samples < end && dsv4_bench_now_s() < end_s);
    return dsv4_bench_median(b->samples_s + first, b->n_samples - first);
}

static dsv4_status bench_linear(bench *b, const dsv4_layer_shape *shape,
                                const dsv4_layer_linear *what, const linear_data *data,
                                dsv4_error *error)
{
    for (int32_t i = 0; i < b->batches.n; i++) {
        dsv4_linear_result result = {.shape = shape->name,
                                     .linear = *what,
                                     .n_rows = b->batches.values[i],
                                     .bytes = (double)dsv4_linear_bytes(&what->linear)};
        (void)time_linear(b, what, data, data->n_copies - 1, result.n_rows);
        begin_samples(b);
        for (int32_t round = 0; round < N_ROUNDS; round++) {
            add_ratio(b, result.bytes / time_linears(b, what, data, result.n_rows));
        }
        end_samples(b, &result.time_s, &result.best_s, &result.read_fraction);
        result.n_samples = b->n_samples;
        DSV4_TRY(dsv4_layer_print_linear(&b->setup, &result, error));
    }
    return DSV4_OK;
}

static dsv4_status bench_linears(bench *b, const dsv4_layer_shape *shape, dsv4_error *error)
{
    dsv4_layer_linear linears[DSV4_LAYER_MAX_LINEARS];
    int32_t n = dsv4_layer_linears(shape, linears);
    if (!b->setup.is_json) dsv4_layer_print_linear_head(shape);
    dsv4_status status = DSV4_OK;
    for (int32_t i = 0; i < n && status == DSV4_OK; i++) {
        linear_data data = {0};
        status = make_linear(b, &linears[i], shape->cold_bytes,
                             dsv4_number_list_largest(&b->batches), &data, error);
        if (status == DSV4_OK) status = bench_linear(b, shape, &linears[i], &data, error);
        free(data.memory);
        free(data.x);
        free(data.y);
    }
    return status;
}

/* ---- layers ---- */

static int64_t count_experts(const bench *b, int64_t n_tokens)
{
    const dsv4_config *config = &b->model.weights.config;
    const int32_t *chosen = dsv4_forward_last_experts(b->forward);
    int64_t n_choices = n_tokens * config->n_active_experts, n_different = 0;
    for (int64_t i = 0; i < n_choices; i++) {
        bool is_new = true;
        for (int64_t j = 0; j < i && is_new; j++) is_new = chosen[j] != chosen[i];
        n_different += is_new;
    }
    return n_different;
}

/* Random tokens, since they decide which experts run; then a step on the next copy of the layer. */
static dsv4_status time_step(bench *b, const dsv4_layer_caches *caches, int32_t *tokens,
                             const dsv4_batch *batch, double *time_s, dsv4_error *error)
{
    for (int64_t i = 0; i < batch->n_tokens; i++) {
        tokens[i] = (int32_t)(draw(b) % (uint64_t)b->model.weights.config.vocab_size);
    }
    dsv4_layer_model_turn(&b->model);
    double start_s = dsv4_bench_now_s();
    DSV4_TRY(dsv4_forward_step(b->forward, dsv4_pool_cache(caches->pool), batch, error));
    *time_s = dsv4_bench_now_s() - start_s;
    return DSV4_OK;
}

/* Fills in what is measured. */
static dsv4_status sample_layer(bench *b, const dsv4_layer_caches *caches,
                                dsv4_layer_result *result, dsv4_error *error)
{
    int64_t n = result->n_sequences, n_experts = 0, n_bytes = 0;
    int32_t tokens[MAX_BATCH], sequences[MAX_BATCH];
    int64_t positions[MAX_BATCH];
    for (int64_t i = 0; i < n; i++) {
        positions[i] = result->context;
        sequences[i] = (int32_t)i;
    }
    const dsv4_batch batch = {.n_tokens = n,
                              .tokens = tokens,
                              .positions = positions,
                              .sequences = sequences,
                              .views = caches->views};
    double first_s, end_s;
    DSV4_TRY(time_step(b, caches, tokens, &batch, &first_s, error)); /* allocates */
    begin_samples(b);
    end_s = dsv4_bench_now_s() + b->budget_s;
    while (b->n_samples < MIN_SAMPLES ||
           (b->n_samples < MAX_SAMPLES && dsv4_bench_now_s() < end_s)) {
        double *time_s = &b->samples_s[b->n_samples++];
        DSV4_TRY(time_step(b, caches, tokens, &batch, time_s, error));
        int64_t n_read = count_experts(b, n);
        int64_t n_step_bytes =
            dsv4_layer_model_step_bytes(&b->model, b->setup.numerics, n, result->context, n_read);
        add_ratio(b, (double)n_step_bytes / *time_s);
        n_experts += n_read;
        n_bytes += n_step_bytes;
    }
    result->n_samples = b->n_samples;
    result->n_experts = (double)n_experts / b->n_samples;
    result->bytes = (double)n_bytes / b->n_samples;
    end_samples(b, &result->time_s, &result->best_s, &result->read_fraction);
    return DSV4_OK;
}

static dsv4_status bench_layer(bench *b, dsv4_layer_result *result, dsv4_error *error)
{
    dsv4_layer_caches caches;
    dsv4_layer_model_set_kind(&b->model, result->kind);
    /* So that a step expects no more compressed keys than there are at this position. */
    b->model.weights.config.max_positions = result->context + 1;
    dsv4_status status =
        dsv4_layer_caches_open(&b->model.weights.config, b->setup.numerics, result->n_sequences,
                               result->context, b->limit_bytes, &caches, error);
    if (status == DSV4_OK) status = sample_layer(b, &caches, result, error);
    dsv4_layer_caches_close(&caches);
    if (status != DSV4_OK) return status;
    return dsv4_layer_print_layer(&b->setup, &b->model, result, error);
}

/* All kinds of layers at one batch and context; their sum is a step of the model. */
static dsv4_status bench_kinds(bench *b, const dsv4_layer_shape *shape, int64_t n_sequences,
                               int64_t context, dsv4_error *error)
{
    int64_t ratio = b->options->values[DSV4_OPTION_LAYER], n_layers = 0;
    double sum_s = 0;
    dsv4_layer_result result = {0};
    for (int32_t i = 0; i < DSV4_LAYER_MAX_KINDS && shape->kinds[i].name != NULL; i++) {
        const dsv4_layer_kind *kind = &shape->kinds[i];
        if (ratio >= 0 && kind->ratio != ratio) continue;
        result = (dsv4_layer_result){
            .shape = shape->name, .kind = kind, .n_sequences = n_sequences, .context = context};
        DSV4_TRY(bench_layer(b, &result, error));
        n_layers += kind->n_layers;
        sum_s += (double)kind->n_layers * result.time_s;
    }
    if (ratio < 0 && !b->setup.is_json) dsv4_layer_print_sum(&result, n_layers, sum_s);
    return DSV4_OK;
}

static dsv4_status bench_shape(bench *b, const dsv4_layer_shape *shape, dsv4_error *error)
{
    DSV4_TRY(dsv4_layer_model_open(shape, b->limit_bytes, &b->model, error));
    DSV4_TRY(dsv4_forward_create(&b->model.weights, b->setup.numerics, &b->setup.compute,
                                 &b->forward, error));
    if (!b->setup.is_json) dsv4_layer_print_layer_head(shape, &b->model);
    for (int32_t i = 0; i < b->contexts.n; i++) {
        for (int32_t j = 0; j < b->batches.n; j++) {
            DSV4_TRY(bench_kinds(b, shape, b->batches.values[j], b->contexts.values[i], error));
        }
    }
    return DSV4_OK;
}

/* ---- what is asked for ---- */

static dsv4_status check_most(const dsv4_options *options, int32_t option,
                              const dsv4_number_list *list, int64_t most, dsv4_error *error)
{
    if (dsv4_number_list_largest(list) <= most) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "option --%s: '%.80s' is wrong; expected numbers of at most %" PRId64,
                          dsv4_options_table[option].name, options->texts[option], most);
}

static dsv4_status read_options(bench *b, const dsv4_options *options, dsv4_error *error)
{
    b->batches = (dsv4_number_list){.values = {1, 8}, .n = 2};
    b->contexts = (dsv4_number_list){.values = {4096, 65536}, .n = 2};
    DSV4_TRY(dsv4_number_list_read(options, DSV4_OPTION_BATCH, 1, &b->batches, error));
    DSV4_TRY(dsv4_number_list_read(options, DSV4_OPTION_LENGTHS, 0, &b->contexts, error));
    DSV4_TRY(check_most(options, DSV4_OPTION_BATCH, &b->batches, MAX_BATCH, error));
    DSV4_TRY(check_most(options, DSV4_OPTION_LENGTHS, &b->contexts, MAX_CONTEXT, error));
    int64_t limit_mib = options->values[DSV4_OPTION_MEMORY_LIMIT];
    b->limit_bytes = (limit_mib > 0 ? limit_mib : DEFAULT_LIMIT_MIB) << 20;
    b->budget_s = options->given[DSV4_OPTION_QUICK] ? 0.1 : 1.0;
    b->setup.is_json = options->given[DSV4_OPTION_JSON];
    b->setup.numerics = (int32_t)options->values[DSV4_OPTION_NUMERICS];
    int32_t level = (int32_t)options->values[DSV4_OPTION_ISA], best = dsv4_cpu_level();
    if (level > best) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "--isa %s: this CPU has only %s",
                              dsv4_cpu_level_name(level), dsv4_cpu_level_name(best));
    }
    int32_t n_threads = (int32_t)options->values[DSV4_OPTION_THREADS];
    b->setup.compute = (dsv4_compute){
        .cpu_level = level == DSV4_CPU_LEVEL_AUTO ? best : level,
        .n_threads = n_threads > 0 ? n_threads : dsv4_parallel_default_threads(),
    };
    return DSV4_OK;
}

/* A shape without layers of the kind that is asked for would measure nothing. */
static dsv4_status check_layer(const dsv4_options *options, dsv4_error *error)
{
    int64_t i = options->values[DSV4_OPTION_MODEL_SHAPE];
    int64_t ratio = options->values[DSV4_OPTION_LAYER];
    if (i < 0 || ratio < 0) return DSV4_OK;
    const dsv4_layer_shape *shape = &dsv4_layer_shapes[i];
    for (int32_t k = 0; k < DSV4_LAYER_MAX_KINDS && shape->kinds[k].name != NULL; k++) {
        if (shape->kinds[k].ratio == ratio) return DSV4_OK;
    }
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "option --layer: %s has no layers '%s'; expected another one",
                          shape->name, options->texts[DSV4_OPTION_LAYER]);
}

/* --shape all means the published models. */
static bool is_selected(const dsv4_options *options, int32_t i)
{
    int64_t shape = options->values[DSV4_OPTION_MODEL_SHAPE];
    return shape == i || (shape < 0 && strcmp(dsv4_layer_shapes[i].name, "tiny") != 0);
}

static dsv4_status run(bench *b, dsv4_error *error)
{
    int64_t part = b->options->values[DSV4_OPTION_PART];
    const dsv4_compute *compute = &b->setup.compute;
    DSV4_TRY(dsv4_bench_gauge_open(compute->cpu_level, false, compute->n_threads, b->budget_s,
                                   &b->gauge, error));
    b->setup.ceilings = b->gauge.ceilings;
    if (!b->setup.is_json) dsv4_layer_print_setup(&b->setup);
    for (int32_t i = 0; i < DSV4_N_LAYER_SHAPES; i++) {
        if (!is_selected(b->options, i)) continue;
        const dsv4_layer_shape *shape = &dsv4_layer_shapes[i];
        dsv4_status status = DSV4_OK;
        if (part != DSV4_BENCH_PART_LINEARS) status = bench_shape(b, shape, error);
        dsv4_forward_free(b->forward);
        b->forward = NULL;
        dsv4_layer_model_close(&b->model);
        if (status != DSV4_OK) return status;
        if (part != DSV4_BENCH_PART_LAYERS) DSV4_TRY(bench_linears(b, shape, error));
    }
    return DSV4_OK;
}

dsv4_status dsv4_layer_bench_run(const dsv4_options *options, dsv4_error *error)
{
    bench *b = calloc(1, sizeof *b);
    if (b == NULL) return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory");
    b->options = options;
    dsv4_status status = read_options(b, options, error);
    if (status == DSV4_OK) status = check_layer(options, error);
    if (status == DSV4_OK) status = run(b, error);
    dsv4_bench_gauge_close(&b->gauge);
    free(b);
    return status;
}
