/*
 * check_ops.c - randomized check of the model's small operations (cpu/rows_cpu.h, cpu/indexer_cpu.h): every
 * level of this machine against the reference and against double precision.
 *
 * Place: tests. One line for each group and level, then `N passed, M failed`; fails when M > 0. A failing
 * case prints its number and runs again alone with --case. --fail-fast: a group ends with its first failure.
 */
#include "ops_check.h"

#include "dsv4/base.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PRINTED = 3, GROUP_CASES = 100000, GUARD = 64 };

/* A NaN that no computation makes. */
#define POISON_BITS 0x7fab0badu

static const struct ops_group {
    const char *name;
    ops_property *property;
    int64_t n_quick;
    bool for_threads;
} groups[] = {
    {"round", ops_check_round, 200, false},
    {"quantize", ops_check_quantize, 400, false},
    {"hadamard", ops_check_hadamard, 60, false},
    {"streams", ops_check_streams, 200, false},
    {"norm", ops_check_norm, 300, false},
    {"norm_bf16", ops_check_norm_bf16, 200, false},
    {"pool", ops_check_pool, 60, false},
    {"swiglu", ops_check_swiglu, 200, false},
    {"index", ops_check_index_values, 150, false},
    {"index_nan", ops_check_index_specials, 100, false},
    {"index_bits", ops_check_index_bits, 40, true},
};

enum { N_GROUPS = sizeof groups / sizeof groups[0] };

/* ---- memory ---- */

static void *add_block(ops_run *run, int64_t n_bytes)
{
    void *memory = run->n_blocks < OPS_MAX_BLOCKS ? malloc((size_t)n_bytes) : NULL;
    if (memory == NULL) {
        fprintf(stderr, "no memory for a case\n");
        exit(2);
    }
    run->blocks[run->n_blocks++] = (ops_block){.memory = memory};
    return memory;
}

unsigned char *ops_bytes(ops_run *run, int64_t n_bytes)
{
    int64_t before = attn_rng_range(&run->rng, 0, 15);
    return (unsigned char *)add_block(run, before + n_bytes) + before;
}

float *ops_input(ops_run *run, int64_t n)
{
    int64_t before = attn_rng_range(&run->rng, 0, 15);
    return (float *)add_block(run, (before + n) * (int64_t)sizeof(float)) + before;
}

float *ops_output(ops_run *run, int64_t n)
{
    const uint32_t poison = POISON_BITS;
    int64_t before = GUARD + attn_rng_range(&run->rng, 0, 15), n_all = before + n + GUARD;
    float *block = add_block(run, n_all * (int64_t)sizeof(float));
    for (int64_t i = 0; i < n_all; i++) memcpy(&block[i], &poison, sizeof poison);
    run->blocks[run->n_blocks - 1].output = block + before;
    run->blocks[run->n_blocks - 1].n = n;
    return block + before;
}

void ops_free(ops_run *run)
{
    while (run->n_blocks > 0) free(run->blocks[--run->n_blocks].memory);
}

bool ops_guards_hold(ops_run *run)
{
    for (int b = 0; b < run->n_blocks; b++) {
        const ops_block *block = &run->blocks[b];
        if (block->output == NULL) continue;
        for (int64_t i = -GUARD; i < block->n + GUARD; i++) {
            uint32_t bits;
            memcpy(&bits, &block->output[i], sizeof bits);
            bool is_inside = i >= 0 && i < block->n;
            if ((bits == POISON_BITS) != is_inside) continue;
            (void)snprintf(run->text, sizeof run->text, "output %d, value %lld of %lld %s", b,
                           (long long)i, (long long)block->n,
                           is_inside ? "was not written" : "is outside and was written");
            return false;
        }
    }
    return true;
}

/* ---- values ---- */

void ops_fill(ops_run *run, float *values, int64_t n, bool has_specials)
{
    static const float specials[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 0x1p-140f, 3e38f};
    float scale = ldexpf(1.0f, (int)attn_rng_range(&run->rng, -12, 12));
    for (int64_t i = 0; i < n; i++) {
        values[i] = attn_rng_normal(&run->rng) * scale;
        if (!has_specials || !attn_rng_chance(&run->rng, 2)) continue;
        values[i] = specials[attn_rng_range(&run->rng, 0, 6)];
    }
}

int64_t ops_length(ops_run *run)
{
    int64_t pick = attn_rng_range(&run->rng, 0, 9);
    if (pick < 5) return attn_rng_range(&run->rng, 1, 300);
    if (pick < 8) {
        return attn_rng_range(&run->rng, 1, 12) * 64 + attn_rng_range(&run->rng, -2, 2);
    }
    return attn_rng_range(&run->rng, 1, 7200);
}

int ops_lanes(int32_t level)
{
    static const int lanes[] = {1, 4, 8, 16, 16};
    return lanes[level];
}

bool ops_same(ops_run *run, const char *what, const float *got, const float *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        bool both_nan = isnan(got[i]) && isnan(want[i]);
        if (both_nan || memcmp(&got[i], &want[i], sizeof *got) == 0) continue;
        (void)snprintf(run->text, sizeof run->text,
                       "%s: [%lld] of %lld is %.9g (%a), not %.9g (%a)", what, (long long)i,
                       (long long)n, (double)got[i], (double)got[i], (double)want[i],
                       (double)want[i]);
        return false;
    }
    return true;
}

bool ops_near(ops_run *run, const char *what, int64_t i, float got, double want, double bound)
{
    double error = fabs((double)got - want);
    bool is_good =
        isfinite(want) ? error <= bound : (isnan(want) ? isnan(got) : (double)got == want);
    if (isfinite(want) && bound > 0 && error / bound > run->worst) run->worst = error / bound;
    if (is_good) return true;
    (void)snprintf(run->text, sizeof run->text, "%s: [%lld] is %.9g, not %.9g, bound %.3g", what,
                   (long long)i, (double)got, want, bound);
    return false;
}

/* ---- running ---- */

typedef struct tally {
    int64_t n_cases, n_failed;
    double worst;
} tally;

static void run_case(uint64_t id, int32_t level, tally *t)
{
    const struct ops_group *group = &groups[id / GROUP_CASES];
    ops_run run = {.rng = {.state = id * 1000003u + 17u}, .level = level, .worst = t->worst};
    bool is_good = group->property(&run) && ops_guards_hold(&run);
    ops_free(&run);
    t->worst = run.worst;
    t->n_cases++;
    if (is_good || t->n_failed++ >= MAX_PRINTED) return;
    printf("FAILED %s level %d case %llu: %s\n", group->name, level, (unsigned long long)id,
           run.text);
}

static void run_group(int64_t index, int64_t n_cases, bool fails_fast, int64_t totals[2])
{
    for (int32_t level = 0; level <= dsv4_cpu_level(); level++) {
        tally t = {0};
        for (int64_t i = 0; i < n_cases && !(fails_fast && t.n_failed > 0); i++) {
            run_case((uint64_t)(index * GROUP_CASES + i), level, &t);
        }
        printf("%-10s %-11s %5lld cases  worst %5.3f of bound  %s\n", groups[index].name,
               level == 0 ? "reference" : dsv4_cpu_level_name(level), (long long)t.n_cases, t.worst,
               t.n_failed == 0 ? "ok" : "FAILED");
        totals[0] += t.n_cases - t.n_failed;
        totals[1] += t.n_failed;
        if (fails_fast && t.n_failed > 0) break;
    }
    fflush(stdout);
}

static int usage(void)
{
    fprintf(stderr, "usage: check_ops [--long | --threads | [--fail-fast] --group NAME | "
                    "--case NUMBER | --bench [LEVEL_NAME]]\n");
    return 2;
}

static int run_bench(const char *level_name)
{
    for (int32_t level = DSV4_CPU_LEVEL_V2; level_name && level <= dsv4_cpu_level(); level++) {
        if (strcmp(level_name, dsv4_cpu_level_name(level)) == 0) return ops_bench_run(level);
    }
    return level_name ? usage() : ops_bench_run(0);
}

static int run_single(const char *number)
{
    char *end;
    uint64_t id = strtoull(number, &end, 10);
    if (*end != 0 || id >= (uint64_t)N_GROUPS * GROUP_CASES) return usage();
    tally t = {0};
    for (int32_t level = 0; level <= dsv4_cpu_level(); level++) run_case(id, level, &t);
    printf("%lld passed, %lld failed\n", (long long)(t.n_cases - t.n_failed),
           (long long)t.n_failed);
    return t.n_failed == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    int64_t totals[2] = {0, 0}; /* passed, failed */
    if (argc >= 2 && argc <= 3 && strcmp(argv[1], "--bench") == 0) return run_bench(argv[2]);
    if (argc == 3 && strcmp(argv[1], "--case") == 0) return run_single(argv[2]);
    bool is_long = argc == 2 && strcmp(argv[1], "--long") == 0;
    bool for_threads = argc == 2 && strcmp(argv[1], "--threads") == 0;
    bool fails_fast = argc == 4 && strcmp(argv[1], "--fail-fast") == 0;
    bool has_group = argc == 3 + fails_fast && strcmp(argv[argc - 2], "--group") == 0;
    const char *only = has_group ? argv[argc - 1] : NULL;
    if (argc > 1 && !is_long && !for_threads && only == NULL) return usage();
    for (int64_t i = 0; i < N_GROUPS; i++) {
        if (only != NULL && strcmp(only, groups[i].name) != 0) continue;
        int64_t n_cases = groups[i].n_quick * (is_long ? 10 : 1);
        /* A thread checker is slow, and only threads are its business. */
        if (for_threads) n_cases = groups[i].for_threads ? 4 : 0;
        run_group(i, n_cases, fails_fast, totals);
    }
    printf("%lld passed, %lld failed\n", (long long)totals[0], (long long)totals[1]);
    return totals[0] > 0 && totals[1] == 0 ? 0 : 1;
}
