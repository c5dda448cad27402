/*
 * check_model.c - checks of the whole forward step, its caches and its sequences.
 *
 * Place: tests. Answers that are not the library's, under both numerics; and what must hold bit for bit,
 * whatever the network computes. One line for each group, then `N passed, M failed`; fails when M > 0.
 */
#include "model_group.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_PRINTED = 5 }; /* failures shown for each group */

static const char *const fixture_names[MODEL_N_FIXTURES] = {
    "mixed", "window-mtp", "twelve-heads", "top-one", "odd-hidden", "ratio-4", "ratio-128", "pro"};

/* Those most likely to fail come first. */
static const struct {
    const char *name;
    void (*run)(model_context *context);
    bool for_threads; /* belongs to the run under a thread sanitizer */
} groups[] = {
    {"exact", model_group_exact, false},     {"official", model_group_official, false},
    {"inputs", model_group_inputs, false},   {"growth", model_group_growth, false},
    {"pages", model_group_pages, false},     {"chunks", model_group_chunks, false},
    {"batches", model_group_batches, true},  {"forks", model_group_forks, false},
    {"rewinds", model_group_rewinds, false}, {"splits", model_group_splits, false},
};

void model_check(model_context *context, bool is_good, const char *format, ...)
{
    context->n_cases++;
    if (is_good || context->n_failed++ >= MAX_PRINTED) return;
    va_list arguments;
    va_start(arguments, format);
    printf("FAILED %s ", context->group);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
}

bool model_is_over(const model_context *context)
{
    return context->stops_early && context->n_failed > 0;
}

const model_fixture *model_find(const model_context *context, const char *name)
{
    for (int i = 0; i < MODEL_N_FIXTURES; i++) {
        if (strcmp(context->fixtures[i].name, name) == 0) return &context->fixtures[i];
    }
    model_die(name, NULL);
}

model_setup model_best_setup(const model_context *context, int i)
{
    return (model_setup){.numerics = i == 0 ? DSV4_NUMERICS_EXACT : DSV4_NUMERICS_OFFICIAL,
                         .cpu_level = context->best_level,
                         .n_threads = 1};
}

const char *model_numerics_name(int32_t numerics)
{
    return numerics == DSV4_NUMERICS_EXACT ? "exact" : "official";
}

void model_check_free(model_context *context, model_engine *engine)
{
    const char *name = engine->fixture->name;
    int64_t n_leaked = model_engine_free(engine);
    model_check(context, n_leaked == 0, "%s: %lld bytes of pages leaked", name,
                (long long)n_leaked);
}

bool model_same_rows(const model_fixture *fixture, const float *rows, int64_t n,
                     const float *reference, int64_t begin)
{
    size_t row_bytes = (size_t)fixture->width * sizeof *rows;
    return memcmp(rows, reference + begin * fixture->width, (size_t)n * row_bytes) == 0;
}

typedef struct run_options {
    bool is_quick, for_threads, stops_early;
    const char *only;   /* NULL: every group */
    const char *folder; /* of the fixtures */
} run_options;

static bool options_parse(int argc, char **argv, run_options *options)
{
    memset(options, 0, sizeof *options);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) {
            options->is_quick = true;
        } else if (strcmp(argv[i], "--threads") == 0) {
            options->is_quick = options->for_threads = true;
        } else if (strcmp(argv[i], "--fail-fast") == 0) {
            options->stops_early = true;
        } else if (strcmp(argv[i], "--group") == 0 && i + 1 < argc) {
            options->only = argv[++i];
        } else if (options->folder == NULL && argv[i][0] != '-') {
            options->folder = argv[i];
        } else {
            return false;
        }
    }
    return options->folder != NULL;
}

static void run_groups(model_context *context, const run_options *options, int64_t totals[2])
{
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        if (options->for_threads && !groups[i].for_threads) continue;
        if (options->only != NULL && strcmp(options->only, groups[i].name) != 0) continue;
        context->group = groups[i].name;
        context->n_cases = context->n_failed = 0;
        context->note[0] = 0;
        groups[i].run(context);
        printf("%-10s %6lld cases  %-50s %s\n", groups[i].name, (long long)context->n_cases,
               context->note, context->n_failed == 0 ? "ok" : "FAILED");
        fflush(stdout);
        totals[0] += context->n_cases - context->n_failed;
        totals[1] += context->n_failed;
        if (options->stops_early && totals[1] > 0) return;
    }
}

int main(int argc, char **argv)
{
    static model_context context;
    run_options options;
    int64_t totals[2] = {0, 0}; /* passed, failed */
    if (!options_parse(argc, argv, &options)) {
        fprintf(stderr, "usage: check_model [--quick | --threads] [--fail-fast] [--group NAME] "
                        "FIXTURES_DIR\n");
        return 2;
    }
    context.best_level = dsv4_cpu_level();
    context.is_quick = options.is_quick;
    context.stops_early = options.stops_early;
    for (int i = 0; i < MODEL_N_FIXTURES; i++) {
        model_fixture_open(&context.fixtures[i], options.folder, fixture_names[i]);
    }
    run_groups(&context, &options, totals);
    for (int i = 0; i < MODEL_N_FIXTURES; i++) model_fixture_close(&context.fixtures[i]);
    printf("%lld passed, %lld failed\n", (long long)totals[0], (long long)totals[1]);
    return totals[1] == 0 && totals[0] > 0 ? 0 : 1;
}
