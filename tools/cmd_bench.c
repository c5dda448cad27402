/*
 * cmd_bench.c - `dsv4 bench`: the speed of a model, or without one that of its layers.
 *
 * Place: program. Options of the other way are refused, not ignored.
 */
#include "commands.h"

#include "base/error.h"
#include "layer_bench.h"
#include "model_bench.h"

static const int32_t model_only[] = {DSV4_OPTION_PP, DSV4_OPTION_TG, DSV4_OPTION_DEPTH,
                                     DSV4_OPTION_REPS, DSV4_OPTION_DRAFT};
static const int32_t layers_only[] = {
    DSV4_OPTION_MODEL_SHAPE, DSV4_OPTION_LAYER,        DSV4_OPTION_PART, DSV4_OPTION_BATCH,
    DSV4_OPTION_LENGTHS,     DSV4_OPTION_MEMORY_LIMIT, DSV4_OPTION_QUICK};

static dsv4_status refuse(const dsv4_options *options, const int32_t *others, size_t n_others,
                          const char *expected, dsv4_error *error)
{
    for (size_t i = 0; i < n_others; i++) {
        if (!options->given[others[i]]) continue;
        const char *value = options->texts[others[i]];
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "option --%s%s%.80s: expected only %s --model",
                              dsv4_options_table[others[i]].name, value != NULL ? " " : "",
                              value != NULL ? value : "", expected);
    }
    return DSV4_OK;
}

static dsv4_status run(const dsv4_options *options, dsv4_error *error)
{
    if (options->given[DSV4_OPTION_MODEL]) {
        DSV4_TRY(refuse(options, layers_only, sizeof layers_only / sizeof *layers_only, "without",
                        error));
        return dsv4_model_bench_run(options, error);
    }
    DSV4_TRY(refuse(options, model_only, sizeof model_only / sizeof *model_only, "with", error));
    return dsv4_layer_bench_run(options, error);
}

int dsv4_cmd_bench(const dsv4_options *options)
{
    dsv4_error error;
    dsv4_status status = run(options, &error);
    return status == DSV4_OK ? DSV4_EXIT_OK : dsv4_command_fail(options, &error);
}
