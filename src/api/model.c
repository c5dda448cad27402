/*
 * model.c - opening and closing a model, and what it says about itself.
 *
 * Place: api. Invariant: a model that is returned is complete; everything that a decode step needs is
 * allocated here or grows in its first rounds.
 */
#include "api_model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "engine/sampler.h"

enum {
    MAX_THREADS = 1024,
    ALIGN_BYTES = 8,
    N_SAMPLE_ROWS = 3,   /* two of a step, one of the MTP block */
    MIN_DRAFT_REWIND = 8 /* tokens */
};

_Static_assert(DSV4_MODEL_OFFICIAL == (int)DSV4_NUMERICS_OFFICIAL, "the same numbers");
_Static_assert(DSV4_MODEL_EXACT == (int)DSV4_NUMERICS_EXACT, "the same numbers");

void dsv4_model_options_default(dsv4_model_options *options)
{
    memset(options, 0, sizeof *options);
    options->size = sizeof *options;
    options->numerics = DSV4_MODEL_OFFICIAL;
    options->cpu_level = DSV4_CPU_LEVEL_AUTO;
    options->n_sessions = 4;
    options->n_tokens = 8192;
    options->step_tokens = 256;
    options->rewind_tokens = 64;
}

static dsv4_status check_ranges(const dsv4_model_options *options, dsv4_error *error)
{
    const struct {
        const char *name;
        int64_t value, low, high;
    } rules[] = {
        {"numerics", options->numerics, DSV4_MODEL_OFFICIAL, DSV4_MODEL_EXACT},
        {"cpu_level", options->cpu_level, DSV4_CPU_LEVEL_AUTO, DSV4_CPU_LEVEL_AVX512BF16},
        {"n_threads", options->n_threads, 0, MAX_THREADS},
        {"n_sessions", options->n_sessions, 1, INT32_MAX},
        {"n_tokens", options->n_tokens, 1, INT32_MAX},
        {"step_tokens", options->step_tokens, 1, INT32_MAX},
        {"rewind_tokens", options->rewind_tokens, 0, INT32_MAX},
        {"n_draft", options->n_draft, 0, 1},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (rules[i].value >= rules[i].low && rules[i].value <= rules[i].high) continue;
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "options: %s: %" PRId64 ", expected %" PRId64 " .. %" PRId64,
                              rules[i].name, rules[i].value, rules[i].low, rules[i].high);
    }
    return DSV4_OK;
}

/* Checks the options and resolves what they leave open. */
static dsv4_status resolve_options(const dsv4_model_options *options, dsv4_model_options *resolved,
                                   dsv4_error *error)
{
    if (options->size != sizeof *options) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "options: size: %" PRIu64
                              ", expected %zu; call dsv4_model_options_default first",
                              options->size, sizeof *options);
    }
    DSV4_TRY(check_ranges(options, error));
    int32_t best = dsv4_cpu_level();
    if (options->cpu_level > best) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "options: cpu_level: %s, but this CPU has no more than %s",
                              dsv4_cpu_level_name(options->cpu_level), dsv4_cpu_level_name(best));
    }
    *resolved = *options;
    /* A refused draft is rewound, and the MTP block looks back from the token before it. */
    if (options->n_draft > 0 && options->rewind_tokens < MIN_DRAFT_REWIND) {
        resolved->rewind_tokens = MIN_DRAFT_REWIND;
    }
    if (options->cpu_level == DSV4_CPU_LEVEL_AUTO) resolved->cpu_level = best;
    if (options->n_threads == 0) {
        int32_t n_threads = dsv4_parallel_default_threads();
        resolved->n_threads = n_threads < MAX_THREADS ? n_threads : MAX_THREADS;
    }
    return DSV4_OK;
}

static dsv4_status check_drafts(const dsv4_model *model, const char *dir, dsv4_error *error)
{
    if (model->options.n_draft == 0 || model->weights.config.n_mtp_blocks > 0) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                          "options: n_draft: %" PRId32 ", but %.300s has no MTP block "
                          "(num_nextn_predict_layers of config.json)",
                          model->options.n_draft, dir);
}

static dsv4_status open_text(dsv4_model *model, const char *dir, dsv4_error *error)
{
    DSV4_TRY(dsv4_model_read_tokenizer(dir, &model->tokenizer, error));
    if (model->tokenizer == NULL) return DSV4_OK;
    int32_t n_ids = dsv4_tokenizer_n_ids(model->tokenizer);
    if (n_ids > dsv4_model_n_vocab(model)) {
        return dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                              "%.200s/tokenizer.json: has id %" PRId32 ", expected 0 .. %" PRId64
                              " (vocab_size of config.json)",
                              dir, n_ids - 1, dsv4_model_n_vocab(model) - 1);
    }
    return DSV4_OK;
}

/* More than all sessions can hold would be memory for nothing. */
static void bound_tokens(dsv4_model *model)
{
    int64_t most;
    int64_t max_positions = model->weights.config.max_positions;
    if (!dsv4_checked_mul_i64(model->options.n_sessions, max_positions, &most)) return;
    if (model->options.n_tokens > most) model->options.n_tokens = most;
}

static dsv4_status open_caches(dsv4_model *model, dsv4_error *error)
{
    bound_tokens(model);
    const dsv4_model_options *options = &model->options;
    const dsv4_compute compute = {.cpu_level = options->cpu_level, .n_threads = options->n_threads};
    DSV4_TRY(
        dsv4_forward_create(&model->weights, options->numerics, &compute, &model->forward, error));
    const dsv4_pool_options pool_options = {
        .numerics = options->numerics,
        .n_tokens = options->n_tokens,
        .n_sequences = options->n_sessions,
        .step_tokens = options->step_tokens,
        .rewind_tokens = options->rewind_tokens,
    };
    return dsv4_pool_create(&model->weights.config, &pool_options, &model->pool, error);
}

static dsv4_status allocate(dsv4_model *model, dsv4_error *error)
{
    size_t n_sessions = (size_t)model->options.n_sessions;
    size_t n_vocab = (size_t)dsv4_model_n_vocab(model), scratch_bytes;
    if (dsv4_checked_mul(n_vocab, DSV4_SAMPLE_SCRATCH_BYTES, &scratch_bytes)) {
        model->sample_scratch = aligned_alloc(ALIGN_BYTES, scratch_bytes);
        model->sample_logits = calloc(N_SAMPLE_ROWS * n_vocab, sizeof *model->sample_logits);
        model->round.views = calloc(n_sessions, sizeof *model->round.views);
        model->round.n_done = calloc(n_sessions, sizeof *model->round.n_done);
    }
    if (model->sample_scratch == NULL || model->sample_logits == NULL ||
        model->round.views == NULL || model->round.n_done == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "model: no memory for %zu sessions and %zu logits", n_sessions,
                              n_vocab);
    }
    return DSV4_OK;
}

dsv4_status dsv4_model_open(const char *dir, const dsv4_model_options *options, dsv4_model **model,
                            dsv4_error *error)
{
    if (dir == NULL || options == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT, "%s: is NULL",
                              dir == NULL ? "dir" : "options");
    }
    dsv4_model_options resolved;
    DSV4_TRY(resolve_options(options, &resolved, error));
    dsv4_model *made = calloc(1, sizeof *made);
    if (made == NULL) return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "model: no memory");
    made->options = resolved;
    dsv4_status status =
        dsv4_model_dir_open(dir, resolved.progress, resolved.progress_context, &made->dir, error);
    if (status == DSV4_OK) status = dsv4_weights_open(made->dir, &made->weights, error);
    if (status == DSV4_OK) status = check_drafts(made, dir, error);
    if (status == DSV4_OK) status = open_text(made, dir, error);
    if (status == DSV4_OK) status = allocate(made, error);
    if (status == DSV4_OK) status = open_caches(made, error);
    if (status != DSV4_OK) {
        dsv4_model_close(made);
        return status;
    }
    *model = made;
    return DSV4_OK;
}

void dsv4_model_close(dsv4_model *model)
{
    if (model == NULL) return;
    dsv4_pool_free(model->pool);
    dsv4_forward_free(model->forward);
    dsv4_tokenizer_close(model->tokenizer);
    dsv4_weights_close(&model->weights);
    dsv4_model_dir_close(model->dir);
    dsv4_round_free(&model->round);
    free(model->sample_logits);
    free(model->sample_scratch);
    free(model);
}

int64_t dsv4_model_n_vocab(const dsv4_model *model)
{
    return model->weights.config.vocab_size;
}

int64_t dsv4_model_max_tokens(const dsv4_model *model)
{
    int64_t max_positions = model->weights.config.max_positions;
    return model->options.n_tokens < max_positions ? model->options.n_tokens : max_positions;
}

int32_t dsv4_model_bos(const dsv4_model *model)
{
    return model->weights.config.bos_id;
}

int32_t dsv4_model_eos(const dsv4_model *model)
{
    return model->weights.config.eos_id;
}

void dsv4_model_draft_counts(const dsv4_model *model, int64_t *n_drafted, int64_t *n_accepted)
{
    *n_drafted = model->n_drafted;
    *n_accepted = model->n_accepted;
}

int64_t dsv4_model_cache_bytes(const dsv4_model *model)
{
    return dsv4_pool_bytes(model->pool);
}

int64_t dsv4_model_cache_used_bytes(const dsv4_model *model)
{
    return dsv4_pool_used_bytes(model->pool);
}
