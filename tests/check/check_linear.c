/*
 * check_linear.c - randomized check of the CPU's linear products: every level of this machine and
 * the reference against double precision, and what must hold bit for bit.
 *
 * Place: tests. One line for each group and level, then `N passed, M failed`; fails when M > 0. A
 * failing case prints its switches and runs again alone with --case.
 */
#include "attn_rng.h"
#include "dsv4/base.h"
#include "linear_bench.h"
#include "linear_case.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PRINTED = 3, GROUP_CASES = 100000, MAX_PRODUCTS = 3000000 };

typedef bool linear_property(linear_case *c, const linear_config *config, double *worst,
                             char *text);

typedef struct linear_group {
    const char *name;
    linear_property *property;
    int64_t n_quick;
} linear_group;

/* ---- values ---- */

/*
 * Error that the level may make, to first order in u = 2^-24. In the longest chain a product is
 * rounded once, goes through the additions of its lane in one panel, those of the tree and those of
 * the panels:
 *   reference   1 + 128 / 8 + 3 + n_in / 128
 *   v2, avx2, avx512   1 + panel / lanes + log2(lanes) + n_in / 1024, a panel being 1024 or n_in
 *   avx512bf16  1 + 2 * panel / 32 + 4 + n_in / 2048, a panel being 2048 or n_in
 * (steps are padded to 64 columns) each times u times the sum of magnitudes; one more count covers
 * the higher orders. Below f32's normal range a rounding errs by up to 2^-150; the bf16 dot
 * instruction instead drops operands, products and sums below 2^-126.
 */
static double error_bound(const linear_config *config, int32_t kind, int64_t n_in,
                          const linear_answer *answer)
{
    static const double lanes_log2[5] = {0, 2, 3, 4, 4};
    double n = (double)n_in, padded = ceil(n / 64) * 64;
    double n_roundings = 20 + ceil(n / 128), floor = 0x1p-149, dropped = 0;
    if (config->level > 0) {
        double log2_lanes = lanes_log2[config->level];
        n_roundings = 1 + fmin(padded, 1024) / exp2(log2_lanes) + log2_lanes + ceil(n / 1024);
    }
    if (config->promises_bf16 && kind != DSV4_LINEAR_F32) {
        n_roundings = fmax(n_roundings, 5 + fmin(padded, 2048) / 16 + ceil(n / 2048));
        floor = 0x1p-126;
        dropped = answer->dropped;
    }
    return (n_roundings + 1) * 0x1p-24 * answer->magnitude + 2 * n * floor + dropped;
}

static bool value_check(const linear_case *c, const linear_config *config, float got,
                        const linear_answer *want, double *worst)
{
    /* A partial sum of finite products may leave f32 or not, as the order has it. */
    bool may_overflow = want->magnitude > 0.5 * (double)FLT_MAX;
    if (want->has_special) {
        if (may_overflow) return !isfinite(got);
        return isnan(want->sum) ? isnan(got) : (double)got == want->sum;
    }
    if (may_overflow) return true;
    double error = fabs((double)got - want->sum);
    double bound = error_bound(config, c->spec.kind, c->spec.n_in, want);
    if (bound > 0 && error / bound > *worst) *worst = error / bound;
    return error <= bound;
}

/* The row that the library dequantizes, bit for bit; any NaN equals any other. */
static bool row_check(const linear_case *c, int64_t i, const float *values, float *row)
{
    dsv4_linear_row(&c->linear, i, row);
    for (int64_t k = 0; k < c->spec.n_in; k++) {
        bool both_nan = isnan(row[k]) && isnan(values[k]);
        if (!both_nan && memcmp(&row[k], &values[k], sizeof *row) != 0) return false;
    }
    return true;
}

/* Sets c->answers, unless a row is dequantized wrongly. */
static bool answer_case(linear_case *c, char *text)
{
    int64_t n_out = c->spec.n_out, n_in = c->spec.n_in, n_rows = c->spec.n_rows;
    float *values = linear_alloc(2 * n_in * (int64_t)sizeof *values);
    linear_answer *answers = linear_alloc(n_out * n_rows * (int64_t)sizeof *answers);
    bool is_good = true;
    for (int64_t i = 0; i < n_out && is_good; i++) {
        linear_oracle_row(c, i, values);
        is_good = row_check(c, i, values, values + n_in);
        if (!is_good) {
            (void)snprintf(text, LINEAR_TEXT_BYTES, "dsv4_linear_row %lld differs", (long long)i);
        }
        for (int64_t row = 0; row < n_rows && is_good; row++) {
            answers[i * n_rows + row] = linear_oracle(c, row, values);
        }
    }
    free(values);
    if (is_good) {
        c->answers = answers;
    } else {
        free(answers);
    }
    return is_good;
}

static bool all_values_check(const linear_case *c, const linear_config *config, const float *y,
                             double *worst, char *text)
{
    int64_t n_out = c->spec.n_out, n_rows = c->spec.n_rows;
    for (int64_t i = 0; i < n_out; i++) {
        for (int64_t row = 0; row < n_rows; row++) {
            const linear_answer *want = &c->answers[i * n_rows + row];
            float got = y[row * n_out + i];
            if (value_check(c, config, got, want, worst)) continue;
            (void)snprintf(text, LINEAR_TEXT_BYTES,
                           "y[%lld][%lld] is %.9g, not %.9g (magnitudes %.9g, bound %.3g)",
                           (long long)row, (long long)i, (double)got, want->sum, want->magnitude,
                           error_bound(config, c->spec.kind, c->spec.n_in, want));
            return false;
        }
    }
    return true;
}

static bool values_property(linear_case *c, const linear_config *config, double *worst, char *text)
{
    if (c->answers == NULL && !answer_case(c, text)) return false;
    float *y = linear_alloc(c->spec.n_rows * c->spec.n_out * (int64_t)sizeof *y);
    bool is_good = linear_run(c, config, c->spec.n_threads, 0, c->spec.n_rows, y, text) &&
                   all_values_check(c, config, y, worst, text);
    free(y);
    return is_good;
}

/* ---- bits ---- */

/* Each row alone on one thread, then batches from a first row, on 1, 2 and 3 threads. */
static bool same_bits_property(linear_case *c, const linear_config *config, double *worst,
                               char *text)
{
    static const int64_t batches[] = {2, 3, 4, 5, 6, 7, 8, 17, 49, 64, LINEAR_MAX_BATCH};
    (void)worst;
    int64_t n_out = c->spec.n_out, n_rows = c->spec.n_rows;
    int64_t row_bytes = n_out * (int64_t)sizeof(float);
    float *alone = linear_alloc(n_rows * row_bytes), *together = linear_alloc(n_rows * row_bytes);
    bool is_good = true;
    for (int64_t row = 0; row < n_rows && is_good; row++) {
        is_good = linear_run(c, config, 1, row, 1, alone + row * n_out, text);
    }
    for (size_t i = 0; i < sizeof batches / sizeof *batches && is_good; i++) {
        int64_t n = batches[i] < n_rows ? batches[i] : n_rows, first = (n_rows - n) / 2;
        for (int32_t n_threads = 1; n_threads <= 3 && is_good; n_threads++) {
            is_good = linear_run(c, config, n_threads, first, n, together, text);
            if (!is_good || memcmp(together, alone + first * n_out, (size_t)(n * row_bytes)) == 0) {
                continue;
            }
            (void)snprintf(text, LINEAR_TEXT_BYTES, "%lld rows on %d threads give other bits",
                           (long long)n, n_threads);
            is_good = false;
        }
    }
    free(alone);
    free(together);
    return is_good;
}

/* ---- groups ---- */

static const linear_group groups[] = {
    {"values", values_property, 160},   {"scales", values_property, 120},
    {"nan", values_property, 120},      {"long", values_property, 24},
    {"many_rows", values_property, 24}, {"same_bits", same_bits_property, 20},
    {"limits", same_bits_property, 48},
};

enum { N_GROUPS = sizeof groups / sizeof *groups };

static int64_t draw_columns(attn_rng *rng, int32_t kind)
{
    int64_t n = attn_rng_range(rng, 0, 300);
    int64_t pick = attn_rng_range(rng, 0, 9);
    /* Around the ends of steps, scale blocks and panels. */
    if (pick >= 4) n = attn_rng_range(rng, 1, 18) * 64 + attn_rng_range(rng, -2, 2);
    if (pick >= 8) n = attn_rng_range(rng, 1, 4) * 1024 + attn_rng_range(rng, -65, 65);
    if (kind == DSV4_LINEAR_FP4) n = (n + 16) / 32 * 32;
    return n;
}

static void draw_shape(attn_rng *rng, linear_spec *spec)
{
    spec->n_in = draw_columns(rng, spec->kind);
    spec->n_rows = attn_rng_range(rng, 1, attn_rng_chance(rng, 30) ? 60 : 9);
    spec->n_out = attn_rng_range(rng, 1, 40);
    if (attn_rng_chance(rng, 25)) {
        spec->n_out = attn_rng_range(rng, 1, 3) * 128 + attn_rng_range(rng, -3, 3);
    }
    while (spec->n_out * (spec->n_in + 1) * spec->n_rows > MAX_PRODUCTS) {
        spec->n_rows = (spec->n_rows + 1) / 2;
        if (spec->n_rows == 1) spec->n_out = (spec->n_out + 1) / 2;
    }
}

static void draw_spec(uint64_t id, linear_spec *spec)
{
    attn_rng rng = {.state = id};
    const char *name = groups[id / GROUP_CASES].name;
    memset(spec, 0, sizeof *spec);
    spec->id = id;
    spec->kind = (int32_t)(id % 4) + 1;
    draw_shape(&rng, spec);
    if (strcmp(name, "long") == 0) {
        spec->n_in = attn_rng_range(&rng, 100, 600) * 32 + (spec->kind != DSV4_LINEAR_FP4);
        spec->n_rows = attn_rng_range(&rng, 1, 7);
        spec->n_out = attn_rng_range(&rng, 1, 12);
    }
    if (strcmp(name, "many_rows") == 0) spec->n_rows = attn_rng_range(&rng, 40, 170);
    if (strcmp(name, "same_bits") == 0) {
        spec->n_rows = LINEAR_MAX_BATCH;
        spec->n_out = attn_rng_range(&rng, 1, 90);
    }
    spec->x_pad = attn_rng_chance(&rng, 50) ? attn_rng_range(&rng, 1, 9) : 0;
    spec->y_pad = attn_rng_chance(&rng, 50) ? attn_rng_range(&rng, 1, 9) : 0;
    spec->misalign = attn_rng_chance(&rng, 60) ? attn_rng_range(&rng, 1, 15) : 0;
    spec->x_is_bf16 = attn_rng_chance(&rng, 70);
    spec->n_threads = (int32_t)attn_rng_range(&rng, 1, 3);
    if (strcmp(name, "scales") == 0) {
        spec->kind = (int32_t)(id % 2) + 1;
        if (spec->kind == DSV4_LINEAR_FP4) spec->n_in = spec->n_in / 32 * 32;
        spec->scales = (linear_scales)(LINEAR_SCALES_EXTREME + id / 2 % 3);
        spec->has_small_codes = attn_rng_chance(&rng, 50);
    }
    if (strcmp(name, "nan") == 0) {
        spec->scales = attn_rng_chance(&rng, 40) ? LINEAR_SCALES_NAN : LINEAR_SCALES_USUAL;
        spec->has_nan_codes = attn_rng_chance(&rng, 60);
        spec->is_positive = attn_rng_chance(&rng, 40);
        spec->x_has_specials = attn_rng_chance(&rng, 60);
    }
    if (strcmp(name, "limits") == 0) { /* of the way that FP4 takes with few rows of x */
        spec->kind = DSV4_LINEAR_FP4;
        spec->scales = LINEAR_SCALES_LIMIT;
        spec->n_in = attn_rng_range(&rng, 1, 8) * 128;
        spec->n_out = attn_rng_range(&rng, 1, 60);
        spec->n_rows = 7;
        spec->x_is_bf16 = true;
    }
    if (strcmp(name, "same_bits") == 0) {
        if (attn_rng_chance(&rng, 40)) spec->scales = LINEAR_SCALES_EXTREME;
    }
}

typedef struct tally {
    int64_t n_cases, n_failed;
    double worst; /* largest error, as a part of its bound */
} tally;

static void run_case(uint64_t id, const linear_config *configs, int32_t n_configs, tally *tallies)
{
    const linear_group *group = &groups[id / GROUP_CASES];
    linear_spec spec;
    linear_case c;
    draw_spec(id, &spec);
    linear_case_make(&c, &spec);
    for (int32_t i = 0; i < n_configs; i++) {
        char text[LINEAR_TEXT_BYTES];
        if (configs[i].promises_bf16 && !spec.x_is_bf16) continue;
        tallies[i].n_cases++;
        if (group->property(&c, &configs[i], &tallies[i].worst, text)) continue;
        if (tallies[i].n_failed++ >= MAX_PRINTED) continue;
        printf("FAILED %s %s: %s\n", group->name, configs[i].name, text);
        linear_spec_print(&spec);
    }
    linear_case_free(&c);
}

static void run_group(int64_t index, int64_t n_cases, const linear_config *configs,
                      int32_t n_configs, int64_t totals[2])
{
    tally tallies[LINEAR_MAX_CONFIGS] = {{0}};
    for (int64_t i = 0; i < n_cases; i++) {
        run_case((uint64_t)(index * GROUP_CASES + i), configs, n_configs, tallies);
    }
    for (int32_t i = 0; i < n_configs; i++) {
        const tally *t = &tallies[i];
        printf("%-10s %-11s %5lld cases  worst %5.3f of bound  %s\n", groups[index].name,
               configs[i].name, (long long)t->n_cases, t->worst,
               t->n_failed == 0 ? "ok" : "FAILED");
        totals[0] += t->n_cases - t->n_failed;
        totals[1] += t->n_failed;
    }
    fflush(stdout);
}

/* A product without columns is zero, one without rows of x or W writes nothing. */
static void run_empty(const linear_config *configs, int32_t n_configs, int64_t totals[2])
{
    for (int32_t i = 0; i < n_configs; i++) {
        static const int64_t shapes[][3] = {{5, 0, 2}, {5, 32, 0}, {0, 32, 2}, {70, 0, 50}};
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
            linear_spec spec = {.kind = DSV4_LINEAR_FP8,
                                .n_out = shapes[k][0],
                                .n_in = shapes[k][1],
                                .n_rows = shapes[k][2],
                                .y_pad = 1,
                                .x_is_bf16 = true,
                                .n_threads = 2};
            linear_case c;
            char text[LINEAR_TEXT_BYTES];
            double worst = 0;
            linear_case_make(&c, &spec);
            bool is_good = values_property(&c, &configs[i], &worst, text);
            if (!is_good) printf("FAILED empty %s: %s\n", configs[i].name, text);
            totals[is_good ? 0 : 1]++;
            linear_case_free(&c);
        }
    }
}

static int usage(void)
{
    fprintf(
        stderr,
        "usage: check_linear [--long | --threads | --fail-fast | --group NAME | --case NUMBER | "
        "--bench [LEVEL_NAME]]\n");
    return 2;
}

static int run_bench(const char *level_name)
{
    for (int32_t level = DSV4_CPU_LEVEL_V2; level_name && level <= dsv4_cpu_level(); level++) {
        if (strcmp(level_name, dsv4_cpu_level_name(level)) == 0) return linear_bench_run(level);
    }
    return level_name ? usage() : linear_bench_run(0);
}

static int run_single(const char *number, const linear_config *configs, int32_t n_configs)
{
    tally tallies[LINEAR_MAX_CONFIGS] = {{0}};
    char *end;
    uint64_t id = strtoull(number, &end, 10);
    if (*end != 0 || id >= (uint64_t)N_GROUPS * GROUP_CASES) return usage();
    run_case(id, configs, n_configs, tallies);
    int64_t n_passed = 0, n_failed = 0;
    for (int32_t i = 0; i < n_configs; i++) {
        n_passed += tallies[i].n_cases - tallies[i].n_failed;
        n_failed += tallies[i].n_failed;
    }
    printf("%lld passed, %lld failed\n", (long long)n_passed, (long long)n_failed);
    return n_failed == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    linear_config configs[LINEAR_MAX_CONFIGS];
    int64_t totals[2] = {0, 0}; /* passed, failed */
    const int32_t n_configs = linear_config_list(configs);
    if (argc >= 2 && argc <= 3 && strcmp(argv[1], "--bench") == 0) return run_bench(argv[2]);
    if (argc == 3 && strcmp(argv[1], "--case") == 0) {
        return run_single(argv[2], configs, n_configs);
    }
    bool is_long = argc == 2 && strcmp(argv[1], "--long") == 0;
    bool for_threads = argc == 2 && strcmp(argv[1], "--threads") == 0;
    bool fails_fast = argc == 2 && strcmp(argv[1], "--fail-fast") == 0;
    const char *only = argc == 3 && strcmp(argv[1], "--group") == 0 ? argv[2] : NULL;
    if (argc > 1 && !is_long && !for_threads && !fails_fast && !only) return usage();
    for (int64_t i = 0; i < N_GROUPS && !(fails_fast && totals[1] > 0); i++) {
        if (only && strcmp(only, groups[i].name) != 0) continue;
        int64_t n_cases = groups[i].n_quick * (is_long ? 10 : 1);
        /* A thread checker is slow, and only threads are its business. */
        if (for_threads) n_cases = groups[i].property == same_bits_property ? 4 : 0;
        run_group(i, n_cases, configs, n_configs, totals);
    }
    if (!only) run_empty(configs, n_configs, totals);
    printf("%lld passed, %lld failed\n", (long long)totals[0], (long long)totals[1]);
    return totals[1] == 0 && totals[0] > 0 ? 0 : 1; /* 0 in all: no such group */
}
