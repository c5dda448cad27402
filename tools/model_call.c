/*
 * model_call.c - opening a model as the command line asks for it.
 *
 * Place: program.
 */
#include "model_call.h"

#include "base/checked.h"
#include "base/error.h"
#include "open_bar.h"

#include <stdlib.h>

void dsv4_model_call_options(const dsv4_options *options, dsv4_model_options *model_options)
{
    model_options->numerics = (int32_t)options->values[DSV4_OPTION_NUMERICS];
    model_options->cpu_level = (int32_t)options->values[DSV4_OPTION_ISA];
    model_options->n_threads = (int32_t)options->values[DSV4_OPTION_THREADS];
}

dsv4_status dsv4_model_call_open(const dsv4_options *options,
                                 const dsv4_model_options *model_options, dsv4_model **model,
                                 dsv4_error *error)
{
    int32_t best = dsv4_cpu_level();
    if (model_options->cpu_level > best) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "--isa %s: this CPU has only %s",
                              dsv4_cpu_level_name(model_options->cpu_level),
                              dsv4_cpu_level_name(best));
    }
    dsv4_model_options shown = *model_options;
    dsv4_open_bar bar = dsv4_open_bar_start();
    shown.progress = dsv4_open_bar_step;
    shown.progress_context = &bar;
    dsv4_status status = dsv4_model_open(options->texts[DSV4_OPTION_MODEL], &shown, model, error);
    dsv4_open_bar_end(&bar);
    if (status == DSV4_ERROR_UNSUPPORTED) status = error->status = DSV4_ERROR_BAD_FILE;
    return status;
}

void dsv4_model_call_sampling(const dsv4_options *options, dsv4_sampling *sampling)
{
    dsv4_sampling_default(sampling);
    if (options->given[DSV4_OPTION_TEMP]) {
        sampling->temperature = (float)options->reals[DSV4_OPTION_TEMP];
    }
    if (options->given[DSV4_OPTION_TOP_P]) {
        sampling->top_p = (float)options->reals[DSV4_OPTION_TOP_P];
    }
    sampling->min_p = (float)options->reals[DSV4_OPTION_MIN_P];
    sampling->top_k = (int32_t)options->values[DSV4_OPTION_TOP_K];
    sampling->seed = (uint64_t)options->values[DSV4_OPTION_SEED];
}

dsv4_status dsv4_model_call_tokenize(const dsv4_model *model, const char *text, size_t len_bytes,
                                     size_t n_before, int32_t **ids, size_t *n_ids,
                                     dsv4_error *error)
{
    size_t n_text = 0, n_all, all_bytes;
    dsv4_status status = dsv4_model_tokenize(model, text, len_bytes, 1, NULL, 0, &n_text, error);
    if (status == DSV4_ERROR_UNSUPPORTED) status = error->status = DSV4_ERROR_BAD_FILE;
    if (status != DSV4_OK) return status;
    *ids = NULL;
    if (dsv4_checked_add(n_text, n_before, &n_all) &&
        dsv4_checked_mul(n_all, sizeof **ids, &all_bytes)) {
        *ids = malloc(all_bytes > 0 ? all_bytes : 1);
    }
    if (*ids == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory for %zu tokens", n_text);
    }
    *n_ids = n_all;
    status =
        dsv4_model_tokenize(model, text, len_bytes, 1, *ids + n_before, n_text, &n_text, error);
    if (status != DSV4_OK) free(*ids);
    return status;
}
