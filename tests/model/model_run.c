/*
 * model_run.c - opening fixtures, engines on poisoned pages, steps.
 *
 * Place: tests.
 */
#include "model_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 1024, POISON = 0xff }; /* a NaN as f32, as e4m3, and as ue8m0 */

_Noreturn void model_die(const char *what, const dsv4_error *error)
{
    printf("cannot go on: %s%s%s\n", what, error != NULL ? ": " : "",
           error != NULL ? error->text : "");
    exit(2);
}

void *model_alloc(int64_t count, size_t element_bytes)
{
    void *memory = calloc(count > 0 ? (size_t)count : 1, element_bytes);
    if (memory == NULL) model_die("no memory", NULL);
    return memory;
}

void model_fixture_open(model_fixture *fixture, const char *folder, const char *name)
{
    char path[PATH_BYTES];
    dsv4_error error;
    memset(fixture, 0, sizeof *fixture);
    fixture->name = name;
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    if (dsv4_model_dir_open(path, NULL, NULL, &fixture->dir, &error) != DSV4_OK ||
        dsv4_weights_open(fixture->dir, &fixture->weights, &error) != DSV4_OK) {
        model_die(path, &error);
    }
    (void)snprintf(path, sizeof path, "%s/%s/golden.safetensors", folder, name);
    if (dsv4_safetensors_open(path, &fixture->golden, &error) != DSV4_OK) model_die(path, &error);
    const dsv4_tensor_view *tokens = dsv4_safetensors_find(fixture->golden, "tokens");
    if (tokens == NULL || tokens->dtype != DSV4_SAFETENSORS_I32) model_die(path, NULL);
    fixture->tokens = tokens->data;
    fixture->n_tokens = tokens->shape[0];
    fixture->vocab = fixture->weights.config.vocab_size;
    fixture->width = fixture->vocab * (1 + fixture->weights.config.n_mtp_blocks);
}

void model_fixture_close(model_fixture *fixture)
{
    dsv4_safetensors_close(fixture->golden);
    dsv4_weights_close(&fixture->weights);
    dsv4_model_dir_close(fixture->dir);
}

const float *model_fixture_answer(const model_fixture *fixture, const char *name, int64_t *n_rows)
{
    const dsv4_tensor_view *answer = dsv4_safetensors_find(fixture->golden, name);
    if (answer == NULL) return NULL;
    if (answer->dtype != DSV4_SAFETENSORS_F32 || answer->shape[1] != fixture->vocab) {
        model_die(name, NULL);
    }
    *n_rows = answer->shape[0];
    return answer->data;
}

dsv4_pool_options model_pool_options(const model_fixture *fixture, const model_setup *setup)
{
    return (dsv4_pool_options){.numerics = setup->numerics,
                               .n_tokens = fixture->n_tokens + 8,
                               .n_sequences = 2,
                               .step_tokens = MODEL_MAX_STEP,
                               .rewind_tokens = 8};
}

static void poison_tensor(const dsv4_cache *cache, const dsv4_cache_tensor *tensor, int kind)
{
    if (tensor->base == NULL) return;
    memset(tensor->base, POISON, (size_t)(cache->n_pages[kind] * tensor->page_stride_bytes));
}

static void poison_pages(const model_engine *engine)
{
    const dsv4_config *config = &engine->fixture->weights.config;
    const dsv4_cache *cache = dsv4_pool_cache(engine->pool);
    for (int64_t i = 0; i < config->n_layers + config->n_mtp_blocks; i++) {
        const dsv4_layer_cache *layer = &cache->layers[i];
        int compressed = dsv4_cache_compressed_kind(config->ratios[i]);
        int state = dsv4_cache_state_kind(config->ratios[i]);
        poison_tensor(cache, &layer->window, DSV4_CACHE_WINDOW);
        poison_tensor(cache, &layer->compressed, compressed);
        poison_tensor(cache, &layer->index_keys, compressed);
        poison_tensor(cache, &layer->state, state);
        poison_tensor(cache, &layer->index_state, state);
    }
}

void model_engine_make(model_engine *engine, const model_fixture *fixture, const model_setup *setup,
                       const dsv4_pool_options *options)
{
    dsv4_compute compute = {.cpu_level = setup->cpu_level, .n_threads = setup->n_threads};
    memset(engine, 0, sizeof *engine);
    engine->fixture = fixture;
    if (dsv4_forward_create(&fixture->weights, setup->numerics, &compute, &engine->forward,
                            &engine->error) != DSV4_OK ||
        dsv4_pool_create(&fixture->weights.config, options, &engine->pool, &engine->error) !=
            DSV4_OK) {
        model_die(fixture->name, &engine->error);
    }
    engine->logits = model_alloc(MODEL_MAX_STEP * fixture->vocab, sizeof(float));
    engine->mtp_logits = model_alloc(MODEL_MAX_STEP * fixture->vocab, sizeof(float));
    poison_pages(engine);
}

int64_t model_engine_free(model_engine *engine)
{
    int64_t n_leaked = dsv4_pool_used_bytes(engine->pool);
    dsv4_pool_free(engine->pool);
    dsv4_forward_free(engine->forward);
    free(engine->logits);
    free(engine->mtp_logits);
    return n_leaked;
}

dsv4_sequence *model_sequence_make(const model_engine *engine)
{
    dsv4_sequence *sequence;
    dsv4_error error;
    if (dsv4_sequence_create(engine->pool, &sequence, &error) != DSV4_OK) {
        model_die("sequence", &error);
    }
    return sequence;
}

/* The arrays of a batch, and where each of its tokens comes from. */
typedef struct step_arrays {
    dsv4_batch batch;
    int32_t tokens[MODEL_MAX_STEP], sequences[MODEL_MAX_STEP], logit_tokens[MODEL_MAX_STEP];
    int32_t next_tokens[MODEL_MAX_STEP];
    int64_t positions[MODEL_MAX_STEP];
    int64_t piece_tokens[MODEL_MAX_STEP]; /* index in its piece */
} step_arrays;

static void fill_arrays(const model_piece *pieces, int64_t n_pieces, const int32_t *order,
                        step_arrays *arrays)
{
    int64_t n_taken[MODEL_MAX_STEP] = {0}, n_tokens = 0, piece = 0;
    for (int64_t i = 0; i < n_pieces; i++) n_tokens += pieces[i].n_tokens;
    if (n_tokens > MODEL_MAX_STEP) model_die("a step is larger than the test's buffers", NULL);
    for (int64_t i = 0; i < n_tokens; i++) {
        while (order == NULL && n_taken[piece] == pieces[piece].n_tokens) piece++;
        int64_t from = order == NULL ? piece : order[i];
        const model_piece *p = &pieces[from];
        int64_t at = n_taken[from]++;
        arrays->tokens[i] = p->tokens[at];
        arrays->next_tokens[i] = at + 1 < p->n_tokens ? p->tokens[at + 1] : p->following;
        arrays->positions[i] = dsv4_sequence_n_tokens(p->sequence) + at;
        arrays->sequences[i] = (int32_t)from;
        arrays->piece_tokens[i] = at;
        arrays->logit_tokens[i] = (int32_t)(n_tokens - 1 - i); /* any order will do */
    }
    arrays->batch.n_tokens = arrays->batch.n_logits = n_tokens;
}

static void give_rows(const model_engine *engine, const model_piece *pieces, int64_t n_pieces,
                      const step_arrays *arrays, bool succeeded)
{
    int64_t vocab = engine->fixture->vocab, width = engine->fixture->width;
    for (int64_t i = 0; i < n_pieces && !succeeded; i++) {
        for (int64_t j = 0; j < pieces[i].n_tokens * width; j++) pieces[i].rows[j] = NAN;
    }
    for (int64_t i = 0; i < arrays->batch.n_logits && succeeded; i++) {
        int32_t token = arrays->logit_tokens[i];
        float *row = pieces[arrays->sequences[token]].rows + arrays->piece_tokens[token] * width;
        memcpy(row, engine->logits + i * vocab, (size_t)vocab * sizeof *row);
        if (width == vocab) continue;
        memcpy(row + vocab, engine->mtp_logits + i * vocab, (size_t)vocab * sizeof *row);
    }
}

bool model_step(model_engine *engine, const model_piece *pieces, int64_t n_pieces,
                const int32_t *order)
{
    step_arrays arrays;
    dsv4_cache_view views[MODEL_MAX_STEP];
    const dsv4_cache *cache = dsv4_pool_cache(engine->pool);
    fill_arrays(pieces, n_pieces, order, &arrays);
    dsv4_batch *batch = &arrays.batch;
    batch->tokens = arrays.tokens;
    batch->positions = arrays.positions;
    batch->sequences = arrays.sequences;
    batch->logit_tokens = arrays.logit_tokens;
    batch->views = views;
    batch->logits = engine->logits;
    dsv4_status status = DSV4_OK;
    for (int64_t i = 0; i < n_pieces && status == DSV4_OK; i++) {
        status = dsv4_sequence_reserve(pieces[i].sequence, pieces[i].n_tokens, &engine->error);
        views[i] = dsv4_sequence_view(pieces[i].sequence);
    }
    if (status == DSV4_OK) {
        status = dsv4_forward_step(engine->forward, cache, batch, &engine->error);
    }
    if (status == DSV4_OK && engine->fixture->weights.config.n_mtp_blocks > 0) {
        status = dsv4_forward_mtp(engine->forward, cache, batch, arrays.next_tokens,
                                  engine->mtp_logits, &engine->error);
    }
    for (int64_t i = 0; i < n_pieces && status == DSV4_OK; i++) {
        dsv4_sequence_advance(pieces[i].sequence, pieces[i].tokens, pieces[i].n_tokens);
    }
    give_rows(engine, pieces, n_pieces, &arrays, status == DSV4_OK);
    return status == DSV4_OK;
}

bool model_feed(model_engine *engine, const model_piece *piece)
{
    return model_step(engine, piece, 1, NULL);
}

bool model_feed_chunks(model_engine *engine, dsv4_sequence *sequence, int64_t end, int64_t chunk,
                       float *rows)
{
    const model_fixture *fixture = engine->fixture;
    bool succeeded = true;
    while (dsv4_sequence_n_tokens(sequence) < end && succeeded) {
        int64_t begin = dsv4_sequence_n_tokens(sequence);
        int64_t n = end - begin < chunk ? end - begin : chunk;
        int32_t following = begin + n < fixture->n_tokens ? fixture->tokens[begin + n] : -1;
        model_piece piece = {sequence, fixture->tokens + begin, n, following, rows};
        succeeded = model_feed(engine, &piece);
        rows += n * fixture->width;
    }
    return succeeded;
}

float *model_reference(const model_fixture *fixture, const model_setup *setup)
{
    model_engine engine;
    dsv4_pool_options options = model_pool_options(fixture, setup);
    model_engine_make(&engine, fixture, setup, &options);
    dsv4_sequence *sequence = model_sequence_make(&engine);
    float *rows = model_alloc(fixture->n_tokens * fixture->width, sizeof *rows);
    if (!model_feed_chunks(&engine, sequence, fixture->n_tokens, MODEL_MAX_STEP, rows)) {
        model_die(fixture->name, &engine.error);
    }
    dsv4_sequence_free(sequence);
    (void)model_engine_free(&engine);
    return rows;
}
