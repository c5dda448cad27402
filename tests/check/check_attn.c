/*
 * check_attn.c - randomized check of the decode attention: every CPU level of this machine against
 * the reference, the reference against double precision, and what must hold bit for bit.
 *
 * Place: tests. One line for each group and level, then `N passed, M failed`; fails when M > 0. A
 * failing case prints its number and all its switches and runs again alone with --case.
 */
#include "attn_flashmla.h"
#include "attn_fp8.h"
#include "attn_group.h"
#include "attn_property.h"
#include "gpu_runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_PRINTED = 3,            /* failures shown for each group and level */
    ORACLE_MAX_MACS = 12000000, /* the reference is checked in double up to this size */
    SCALAR_MAX_MACS = 400000000 /* where the scalar reference would take too long */
};

typedef struct run_options {
    bool is_long;
    bool for_threads;
    int32_t gpu; /* DSV4_BACKEND_CUDA or _HIP; 0: the CPU */
    bool stops_early;
    int64_t shard, n_shards; /* of the cases: those that are `shard` modulo n_shards */
    const char *group;       /* run no other; NULL: all */
    int64_t n_cases;         /* of each group; 0: what the group says */
    bool has_case;
    uint64_t case_id;
} run_options;

typedef struct tally {
    int64_t n_cases;
    int64_t n_failed;
    attn_worst worst;
} tally;

static void fail(tally *t, const attn_group *group, const attn_config *config,
                 const attn_spec *spec, const char *text)
{
    if (t->n_failed++ >= MAX_PRINTED) return;
    printf("FAILED %s %s: %s\n", group->name, config->name, text);
    attn_spec_print(spec);
}

/*
 * The reference in the case's own layout and dtype against the oracle. *slack gets that of the
 * oracle's answer, NULL when it has none; it is the caller's to free.
 */
static bool reference_check(attn_case *c, const attn_config *config, double **slack,
                            attn_worst *worst, char *text)
{
    attn_result result;
    attn_answer answer;
    bool is_good = attn_run_case(c, config, &result, text);
    bool is_official = config->math == DSV4_ATTN_MATH_OFFICIAL;
    *slack = NULL;
    if (is_official || attn_spec_macs(&c->spec) <= ORACLE_MAX_MACS) {
        attn_answer_from_oracle(&answer, c, config->math);
        is_good = is_good && attn_compare(c, config->math, &result, &answer, 0, worst, text);
        *slack = answer.slack;
        answer.slack = NULL;
        attn_answer_free(&answer);
    }
    attn_result_free(&result);
    return is_good;
}

/* The reference of large cases, and where the scalar one would be run once more. */
static const attn_config exact_cpu = {
    .name = "cpu exact", .backend = DSV4_BACKEND_CPU, .math = DSV4_ATTN_MATH_EXACT};

static bool has_fp8_math(const attn_config *config)
{
    return config->math == DSV4_ATTN_MATH_FP8;
}

/* Results of FP8 math with the answer for rounded queries, and their cosine to `plain`, the answer for all others. */
static void compare_fp8(attn_case *c, const attn_group *group, const attn_config *config,
                        const attn_result *result, const attn_answer *plain, tally *t)
{
    char text[ATTN_TEXT_BYTES];
    attn_fp8_kept kept;
    attn_result wide;
    attn_fp8_queries_round(c, &kept);
    bool is_good = attn_run_case_f32(c, &exact_cpu, &wide, text);
    if (is_good) {
        attn_answer answer;
        attn_answer_from_result(&answer, &wide);
        is_good = attn_compare(c, config->math, result, &answer, 0, &t->worst, text);
        attn_answer_free(&answer);
    }
    attn_fp8_queries_restore(c, &kept);
    attn_result_free(&wide);
    is_good = is_good && attn_fp8_cosine_check(c, result, plain, &t->worst, text);
    if (!is_good) fail(t, group, config, &c->spec, text);
}

/* Scales of a row that are far apart are more than Hopper's FP8 products promise anything of. */
static bool is_left_out(const attn_config *config, const attn_spec *spec)
{
    return has_fp8_math(config) && config->backend == DSV4_BACKEND_CUDA &&
           spec->values == ATTN_VALUES_ROOM;
}

/* All levels first, each on poisoned memory, then the reference, then the comparison. */
static void compare_levels(attn_case *c, const attn_group *group, const attn_config *configs,
                           int32_t n_configs, tally *tallies)
{
    char text[ATTN_TEXT_BYTES];
    attn_result results[ATTN_MAX_CONFIGS] = {{0}};
    bool has_result[ATTN_MAX_CONFIGS] = {false};
    double *slack;
    for (int32_t i = 1; i < n_configs; i++) {
        if (is_left_out(&configs[i], &c->spec)) continue;
        has_result[i] = attn_run_case(c, &configs[i], &results[i], text);
        if (!has_result[i]) fail(&tallies[i], group, &configs[i], &c->spec, text);
    }
    if (!reference_check(c, &configs[0], &slack, &tallies[0].worst, text)) {
        fail(&tallies[0], group, &configs[0], &c->spec, text);
    }
    attn_result wide;
    if (!attn_run_case_f32(c, &configs[0], &wide, text)) {
        fail(&tallies[0], group, &configs[0], &c->spec, text);
        free(slack);
        return;
    }
    attn_answer answer;
    attn_answer_from_result(&answer, &wide);
    answer.slack = slack; /* of each of two computations, within the same steps */
    for (int32_t i = 1; i < n_configs; i++) {
        if (has_result[i] && has_fp8_math(&configs[i])) {
            compare_fp8(c, group, &configs[i], &results[i], &answer, &tallies[i]);
        } else if (has_result[i] && !attn_compare(c, configs[i].math, &results[i], &answer, 0,
                                                  &tallies[i].worst, text)) {
            fail(&tallies[i], group, &configs[i], &c->spec, text);
        }
        attn_result_free(&results[i]);
    }
    attn_answer_free(&answer);
    attn_result_free(&wide);
}

/*
 * FlashMLA's tolerances. Of large cases the reference is the CPU's best exact kernel, which other groups compare
 * with the scalar one, and of the ways to compute them the first and one other, by turns, are compared with it.
 */
static void compare_as_flashmla(attn_case *c, const attn_group *group, const attn_config *configs,
                                int32_t n_configs, tally *tallies)
{
    char text[ATTN_TEXT_BYTES];
    attn_result wanted, got;
    const bool is_large = attn_spec_macs(&c->spec) > SCALAR_MAX_MACS;
    const attn_config *reference = is_large ? &exact_cpu : &configs[0];
    const int32_t other = n_configs > 2 ? 2 + (int32_t)(c->spec.id % (uint64_t)(n_configs - 2)) : 1;
    tallies[0].n_cases++;
    if (!attn_run_case_f32(c, reference, &wanted, text)) {
        fail(&tallies[0], group, reference, &c->spec, text);
    } else {
        for (int32_t i = 1; i < n_configs; i++) {
            if (is_large && i > 1 && i != other) continue;
            tallies[i].n_cases++;
            if (!attn_run_case(c, &configs[i], &got, text) ||
                !attn_flashmla_compare(c, &got, &wanted, &tallies[i].worst, text)) {
                fail(&tallies[i], group, &configs[i], &c->spec, text);
            }
            attn_result_free(&got);
        }
    }
    attn_result_free(&wanted);
}

static void run_case(uint64_t id, const attn_config *all, int32_t n_configs, tally *tallies)
{
    const attn_group *group = &attn_groups[id / ATTN_GROUP_CASES];
    char text[ATTN_TEXT_BYTES];
    attn_config configs[ATTN_MAX_CONFIGS];
    attn_spec spec;
    attn_case c;
    for (int32_t i = 0; i < n_configs; i++) {
        configs[i] = all[i];
        if (group->math != DSV4_ATTN_MATH_AUTO) configs[i].math = group->math;
    }
    attn_group_draw(id, &spec);
    attn_case_make(&c, &spec);
    if (group->as_flashmla) {
        compare_as_flashmla(&c, group, configs, n_configs, tallies);
    } else if (group->property) {
        for (int32_t i = 0; i < n_configs; i++) {
            if (has_fp8_math(&configs[i]) && spec.out_dtype == DSV4_DTYPE_FP8) continue;
            tallies[i].n_cases++;
            if (!group->property(&c, &configs[i], &tallies[i].worst, text)) {
                fail(&tallies[i], group, &configs[i], &spec, text);
            }
        }
    } else {
        for (int32_t i = 0; i < n_configs; i++) tallies[i].n_cases++;
        compare_levels(&c, group, configs, n_configs, tallies);
    }
    attn_case_free(&c);
}

static int64_t count_failed(const tally *tallies, int32_t n_configs)
{
    int64_t n_failed = 0;
    for (int32_t i = 0; i < n_configs; i++) n_failed += tallies[i].n_failed;
    return n_failed;
}

/* Why the GPU does not compute a group, or NULL. */
static const char *gpu_skip(const attn_group *group)
{
    if (group->math == DSV4_ATTN_MATH_OFFICIAL) return "official math";
    if (group->math == DSV4_ATTN_MATH_EXACT) return "f32 queries and rows";
    if (group->property == attn_check_shared_plan) return "plans in host memory";
    if (group->property == attn_check_far) return "pages terabytes apart";
    return NULL;
}

/* Whether a group is made for a way to compute. */
static bool is_selected(const attn_group *group, const attn_config *config)
{
    const bool on_gpu = attn_config_on_gpu(config);
    const bool for_bits = on_gpu && group->property == attn_check_bits;
    if (for_bits && config->fixed_split == 0) return false;
    /* whose FP8 output and f32 output come from one kernel */
    if (for_bits && strcmp(group->name, "fp8-output") == 0)
        return config->backend == DSV4_BACKEND_HIP || config->cuda_kernel == DSV4_CUDA_KERNEL_MMA;
    if (group->property == attn_check_refused) return on_gpu;
    return !group->as_flashmla || !has_fp8_math(config);
}

/* Returns how many of `all` there are in `selected`. */
static int32_t select_configs(const attn_group *group, const attn_config *all, int32_t n_configs,
                              attn_config selected[ATTN_MAX_CONFIGS])
{
    int32_t n_selected = 0, n_fp8_left = 0;
    for (int32_t i = 0; i < n_configs; i++) {
        if (is_selected(group, &all[i])) {
            selected[n_selected++] = all[i];
        } else if (group->as_flashmla && has_fp8_math(&all[i])) {
            n_fp8_left++;
        }
    }
    if (n_fp8_left > 0)
        printf("%-12s fp8          skipped: its tolerances are those of bf16 products\n",
               group->name);
    return n_selected;
}

/* One line of a group. */
static void print_tally(const attn_group *group, const attn_config *config, const tally *t)
{
    char cosine[32] = "";
    if (has_fp8_math(config) && t->worst.cosine_distance > 0)
        (void)snprintf(cosine, sizeof cosine, "cosine %.5f  ", 1 - t->worst.cosine_distance);
    printf("%-12s %-12s %5lld cases  worst out %8.2e  lse %8.2e  %s%s\n", group->name, config->name,
           (long long)t->n_cases, t->worst.out, t->worst.lse, cosine,
           t->n_failed == 0 ? "ok" : "FAILED");
}

static int64_t group_size(const attn_group *group, const run_options *options)
{
    if (options->for_threads) return group->n_threads;
    const bool needs_gpu =
        group->name == attn_group_flashmla || group->property == attn_check_refused;
    if (needs_gpu && options->gpu == 0) return 0;
    if (options->n_cases > 0) return options->n_cases;
    return options->is_long ? 10 * group->n_quick : group->n_quick;
}

/* Prints the group's lines and adds to the totals. */
static void run_group(int64_t index, const run_options *options, const attn_config *all,
                      int32_t n_configs, int64_t totals[2])
{
    const attn_group *group = &attn_groups[index];
    attn_config configs[ATTN_MAX_CONFIGS];
    tally tallies[ATTN_MAX_CONFIGS] = {{0}};
    int64_t n_cases = group_size(group, options);
    if (n_cases == 0 || (options->group && strcmp(options->group, group->name) != 0)) return;
    if (options->gpu != 0 && gpu_skip(group) != NULL) {
        printf("%-12s gpu          skipped: %s\n", group->name, gpu_skip(group));
        return;
    }
    n_configs = select_configs(group, all, n_configs, configs);
    if (group->as_flashmla) {
        printf("%-12s %lld cases of FlashMLA's %d in shard %lld of %lld; larger ones are compared "
               "with %s\n",
               group->name, (long long)n_cases, (int)ATTN_FLASHMLA_CASES, (long long)options->shard,
               (long long)options->n_shards, exact_cpu.name);
    }
    for (int64_t i = options->shard; i < n_cases; i += options->n_shards) {
        run_case((uint64_t)(index * ATTN_GROUP_CASES + i), configs, n_configs, tallies);
        if (options->stops_early && count_failed(tallies, n_configs) > 0) break;
    }
    for (int32_t i = 0; i < n_configs; i++) {
        const tally *t = &tallies[i];
        print_tally(group, &configs[i], t);
        totals[0] += t->n_cases - t->n_failed;
        totals[1] += t->n_failed;
    }
    fflush(stdout);
}

static bool options_parse(int argc, char **argv, run_options *options)
{
    memset(options, 0, sizeof *options);
    options->n_shards = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--long") == 0) {
            options->is_long = true;
        } else if (strcmp(argv[i], "--threads") == 0) {
            options->for_threads = true;
        } else if (strcmp(argv[i], "--cuda") == 0) {
            options->gpu = DSV4_BACKEND_CUDA;
        } else if (strcmp(argv[i], "--hip") == 0) {
            options->gpu = DSV4_BACKEND_HIP;
        } else if (strcmp(argv[i], "--shard") == 0 && i + 1 < argc) {
            char *end;
            options->shard = strtoll(argv[++i], &end, 10);
            if (*end != '/') return false;
            options->n_shards = strtoll(end + 1, &end, 10);
            if (*end != 0 || options->shard < 0 || options->shard >= options->n_shards)
                return false;
        } else if (strcmp(argv[i], "--fail-fast") == 0) {
            options->stops_early = true;
        } else if (strcmp(argv[i], "--cases") == 0 && i + 1 < argc) {
            char *end;
            options->n_cases = strtoll(argv[++i], &end, 10);
            if (*end != 0 || options->n_cases < 1 || options->n_cases > ATTN_GROUP_CASES)
                return false;
        } else if (strcmp(argv[i], "--group") == 0 && i + 1 < argc) {
            options->group = argv[++i];
        } else if (strcmp(argv[i], "--case") == 0 && i + 1 < argc) {
            char *end;
            options->case_id = strtoull(argv[++i], &end, 10);
            options->has_case = true;
            if (*end != 0 || options->case_id >= (uint64_t)(attn_n_groups * ATTN_GROUP_CASES)) {
                return false;
            }
        } else {
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    run_options options;
    attn_config configs[ATTN_MAX_CONFIGS];
    int64_t totals[2] = {0, 0};       /* passed, failed */
    setvbuf(stdout, NULL, _IOLBF, 0); /* a crash must not take along what was said before it */
    if (!options_parse(argc, argv, &options)) {
        fprintf(
            stderr,
            "usage: check_attn [--long | --threads] [--cuda | --hip] [--fail-fast] [--group NAME] "
            "[--cases N] [--shard I/N] [--case NUMBER]\n");
        return 2;
    }
    dsv4_error error;
    const dsv4_gpu_runtime *runtime;
    if (options.gpu != 0 && dsv4_gpu_runtime_find(options.gpu, &runtime, &error) != DSV4_OK) {
        fprintf(stderr, "check_attn: %s\n", error.text);
        return 2;
    }
    const int32_t n_configs =
        options.gpu != 0 ? attn_config_list_gpu(options.gpu, configs) : attn_config_list(configs);
    if (options.gpu != 0 && !has_fp8_math(&configs[n_configs - 1]))
        printf("%-12s fp8          skipped: %s\n", "all groups",
               options.gpu == DSV4_BACKEND_CUDA ? "the device is not sm_90"
                                                : "no kernel for it in this build for this device");
    if (options.has_case) {
        tally tallies[ATTN_MAX_CONFIGS] = {{0}};
        attn_config selected[ATTN_MAX_CONFIGS];
        attn_spec spec;
        attn_group_draw(options.case_id, &spec);
        attn_spec_print(&spec);
        const int32_t n_selected = select_configs(&attn_groups[options.case_id / ATTN_GROUP_CASES],
                                                  configs, n_configs, selected);
        run_case(options.case_id, selected, n_selected, tallies);
        totals[1] = count_failed(tallies, n_selected);
        totals[0] = n_selected - totals[1];
    }
    for (int64_t i = 0; !options.has_case && i < attn_n_groups; i++) {
        run_group(i, &options, configs, n_configs, totals);
        if (options.stops_early && totals[1] > 0) break;
    }
    printf("%lld passed, %lld failed\n", (long long)totals[0], (long long)totals[1]);
    return totals[1] == 0 && totals[0] > 0 ? 0 : 1;
}
