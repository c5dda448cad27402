/*
 * model_inputs.c - steps that must be refused, by name, and change nothing.
 *
 * Place: tests.
 */
#include "model_group.h"

#include <stdlib.h>
#include <string.h>

/* The new tokens end a group of 4, and each kind of row that they need lies in several pages. */
enum { N_PAST = 288, N_NEW = 4 };

/* A step of N_NEW tokens after N_PAST, that a case changes in one place. */
typedef struct request {
    dsv4_batch batch;
    dsv4_cache_view view;
    int32_t tokens[N_NEW], sequences[N_NEW], logit_tokens[N_NEW], next_tokens[N_NEW];
    int64_t positions[N_NEW];
    int32_t *tables[DSV4_CACHE_N_KINDS]; /* copies of the page tables */
} request;

static void request_make(const model_engine *engine, const dsv4_sequence *sequence, request *r)
{
    memset(r, 0, sizeof *r);
    r->view = dsv4_sequence_view(sequence);
    for (int kind = 0; kind < DSV4_CACHE_N_KINDS; kind++) {
        int64_t n_pages = r->view.n_pages[kind];
        r->tables[kind] = model_alloc(n_pages, sizeof *r->tables[kind]);
        memcpy(r->tables[kind], r->view.pages[kind], (size_t)n_pages * sizeof *r->tables[kind]);
        r->view.pages[kind] = r->tables[kind];
    }
    for (int i = 0; i < N_NEW; i++) {
        r->tokens[i] = engine->fixture->tokens[N_PAST + i];
        r->next_tokens[i] = engine->fixture->tokens[N_PAST + i + 1];
        r->positions[i] = N_PAST + i;
        r->logit_tokens[i] = i;
    }
    r->batch = (dsv4_batch){.n_tokens = N_NEW,
                            .tokens = r->tokens,
                            .positions = r->positions,
                            .sequences = r->sequences,
                            .views = &r->view,
                            .logit_tokens = r->logit_tokens,
                            .n_logits = N_NEW,
                            .logits = engine->logits};
}

static void request_free(request *r)
{
    for (int kind = 0; kind < DSV4_CACHE_N_KINDS; kind++) free(r->tables[kind]);
}

/* The step must fail with INVALID_ARGUMENT and a text that has both parts. */
static void check_refused(model_context *context, model_engine *engine, const request *r,
                          const char *part, const char *other_part)
{
    dsv4_error error = {0};
    dsv4_status status =
        dsv4_forward_step(engine->forward, dsv4_pool_cache(engine->pool), &r->batch, &error);
    model_check(context,
                status == DSV4_ERROR_INVALID_ARGUMENT && strstr(error.text, part) != NULL &&
                    strstr(error.text, other_part) != NULL,
                "%s: expected an error with '%s' and '%s', got %d: %s", engine->fixture->name, part,
                other_part, (int)status, error.text);
}

static void check_ids(model_context *context, model_engine *engine, const dsv4_sequence *sequence)
{
    const dsv4_config *config = &engine->fixture->weights.config;
    const int32_t ids[] = {-1, INT32_MIN, (int32_t)config->vocab_size, INT32_MAX};
    const int64_t positions[] = {-1, INT64_MIN, config->max_positions, INT64_MAX};
    const int32_t indices[] = {-1, N_NEW, INT32_MAX};
    request r;
    request_make(engine, sequence, &r);
    for (int i = 0; i < 4; i++) {
        int32_t kept = r.tokens[2];
        r.tokens[2] = ids[i];
        check_refused(context, engine, &r, "token 2", "id");
        r.tokens[2] = kept;
    }
    for (int i = 0; i < 4; i++) {
        r.positions[3] = positions[i];
        check_refused(context, engine, &r, "token 3", "max_position_embeddings");
        r.positions[3] = N_PAST + 3;
    }
    for (int i = 0; i < 3; i++) {
        r.logit_tokens[1] = indices[i];
        check_refused(context, engine, &r, "logit_tokens[1]", "expected 0 .. 3");
        r.logit_tokens[1] = 1;
    }
    request_free(&r);
}

/* Each page that the step reads or writes is missing once. */
static void check_missing_pages(model_context *context, model_engine *engine,
                                const dsv4_sequence *sequence)
{
    static const char *const names[DSV4_CACHE_N_KINDS] = {
        "window", "compressed-4", "compressed-128", "raw rows of ratio 4", "raw rows of ratio 128"};
    /* First and last row of each kind that tokens 288 .. 291 need. */
    static const int64_t rows[DSV4_CACHE_N_KINDS][2] = {
        {N_PAST - 127, N_PAST + 3}, {0, 72}, {0, 1}, {N_PAST - 4, N_PAST + 3}, {256, N_PAST + 3}};
    const dsv4_cache *cache = dsv4_pool_cache(engine->pool);
    for (int kind = 0; kind < DSV4_CACHE_N_KINDS; kind++) {
        for (int end = 0; end < 2; end++) {
            request r;
            request_make(engine, sequence, &r);
            r.tables[kind][rows[kind][end] / cache->page_rows[kind]] = -1;
            check_refused(context, engine, &r, names[kind], "holds no page");
            request_free(&r);
        }
        request r;
        request_make(engine, sequence, &r);
        r.view.n_pages[kind] = rows[kind][1] / cache->page_rows[kind]; /* a table too short */
        check_refused(context, engine, &r, names[kind], "holds no page");
        request_free(&r);
    }
}

/* The sequence goes on after every refusal as if nothing had been. */
static void check_refusals(model_context *context, const model_setup *setup)
{
    const model_fixture *fixture = model_find(context, "mixed");
    float *reference = model_reference(fixture, setup);
    dsv4_pool_options options = model_pool_options(fixture, setup);
    model_engine engine;
    model_engine_make(&engine, fixture, setup, &options);
    dsv4_sequence *sequence = model_sequence_make(&engine);
    float *rows = model_alloc(fixture->n_tokens * fixture->width, sizeof *rows);
    if (!model_feed_chunks(&engine, sequence, N_PAST, N_PAST, rows) ||
        dsv4_sequence_reserve(sequence, N_NEW, &engine.error) != DSV4_OK) {
        model_die("inputs", &engine.error);
    }
    check_ids(context, &engine, sequence);
    check_missing_pages(context, &engine, sequence);
    dsv4_batch nothing = {0};
    model_check(context,
                dsv4_forward_step(engine.forward, dsv4_pool_cache(engine.pool), &nothing,
                                  &engine.error) == DSV4_OK,
                "a step of no tokens: %s", engine.error.text);
    bool succeeded = model_feed_chunks(&engine, sequence, fixture->n_tokens, N_NEW, rows);
    model_check(context,
                succeeded &&
                    model_same_rows(fixture, rows, fixture->n_tokens - N_PAST, reference, N_PAST),
                "%s: differs after refused steps", fixture->name);
    dsv4_sequence_free(sequence);
    model_check_free(context, &engine);
    free(reference);
    free(rows);
}

/* An MTP block that is not there, and a successor that is no token. */
static void check_mtp(model_context *context, const model_setup *setup)
{
    static const char *const names[] = {"ratio-4", "window-mtp"};
    for (int i = 0; i < 2; i++) {
        const model_fixture *fixture = model_find(context, names[i]);
        dsv4_pool_options options = model_pool_options(fixture, setup);
        model_engine engine;
        model_engine_make(&engine, fixture, setup, &options);
        dsv4_sequence *sequence = model_sequence_make(&engine);
        float *rows = model_alloc(fixture->n_tokens * fixture->width, sizeof *rows);
        const dsv4_cache *cache = dsv4_pool_cache(engine.pool);
        if (!model_feed_chunks(&engine, sequence, N_PAST, N_PAST, rows) ||
            dsv4_sequence_reserve(sequence, N_NEW, &engine.error) != DSV4_OK) {
            model_die("inputs", &engine.error);
        }
        request r;
        request_make(&engine, sequence, &r);
        dsv4_error error = {0};
        if (dsv4_forward_step(engine.forward, cache, &r.batch, &error) != DSV4_OK) {
            model_die("inputs", &error);
        }
        r.next_tokens[1] = (int32_t)fixture->vocab;
        dsv4_status status = dsv4_forward_mtp(engine.forward, cache, &r.batch, r.next_tokens,
                                              engine.mtp_logits, &error);
        dsv4_status expected = i == 0 ? DSV4_ERROR_UNSUPPORTED : DSV4_ERROR_INVALID_ARGUMENT;
        model_check(context,
                    status == expected && strstr(error.text, i == 0 ? "MTP" : "token 1") != NULL,
                    "%s: MTP step: %d, %s", fixture->name, (int)status, error.text);
        request_free(&r);
        dsv4_sequence_free(sequence);
        free(rows);
        model_check_free(context, &engine);
    }
}

void model_group_inputs(model_context *context)
{
    for (int i = 0; i < 2; i++) {
        model_setup setup = model_best_setup(context, i);
        check_refusals(context, &setup);
        check_mtp(context, &setup);
    }
}
