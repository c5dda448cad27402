/*
 * model_split.c - the same tokens in other steps give the same bits.
 *
 * Place: tests. The forward step promises that a token's logits depend on its sequence alone
 * (model/forward.h), so nothing here has a tolerance: chunks of a prompt, single tokens, and batches
 * of several sequences are all compared with one prefill of one sequence, bit for bit.
 */
#include "model_group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn_rng.h"

/* Feeds n_pieces pieces of the given lengths and compares their rows. */
static void check_pieces(model_context *context, model_engine *engine, const int64_t *lengths,
                         int n_pieces, const float *reference)
{
    const model_fixture *fixture = engine->fixture;
    dsv4_sequence *sequence = model_sequence_make(engine);
    float *rows = model_alloc(fixture->n_tokens * fixture->width, sizeof *rows);
    char how[64] = "";
    int64_t n = 0;
    bool succeeded = true;
    for (int i = 0; i < n_pieces && succeeded; i++) {
        int64_t end = n + lengths[i] < fixture->n_tokens ? n + lengths[i] : fixture->n_tokens;
        succeeded = model_feed_chunks(engine, sequence, end, lengths[i], rows + n * fixture->width);
        n = end;
        size_t at = strlen(how);
        (void)snprintf(how + at, sizeof how - at, "%s%lld", i > 0 ? "+" : "",
                       (long long)lengths[i]);
    }
    model_check(context, succeeded && model_same_rows(fixture, rows, n, reference, 0),
                "%s %s, %s: differs from one step%s%s", fixture->name,
                model_numerics_name(dsv4_pool_cache(engine->pool)->numerics), how,
                succeeded ? "" : ": ", succeeded ? "" : engine->error.text);
    dsv4_sequence_free(sequence);
    free(rows);
}

/* Runs `body` with an engine and its reference for each fixture and numerics. */
static void each_engine(model_context *context, int64_t n_fixtures,
                        void (*body)(model_context *, model_engine *, const float *))
{
    for (int64_t i = 0; i < 2 * n_fixtures && !model_is_over(context); i++) {
        const model_fixture *fixture = &context->fixtures[i / 2];
        model_setup setup = model_best_setup(context, (int)(i % 2));
        float *reference = model_reference(fixture, &setup);
        dsv4_pool_options options = model_pool_options(fixture, &setup);
        model_engine engine;
        model_engine_make(&engine, fixture, &setup, &options);
        body(context, &engine, reference);
        model_check_free(context, &engine);
        free(reference);
    }
}

static void check_all_chunks(model_context *context, model_engine *engine, const float *reference)
{
    static const int64_t chunks[] = {1, 3, 7, 64, 127, 128, 129};
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        int64_t lengths[512], n_tokens = engine->fixture->n_tokens;
        int n = 0;
        if (context->is_quick && chunks[i] != 7 && chunks[i] != 129) continue;
        for (int64_t at = 0; at < n_tokens; at += chunks[i]) lengths[n++] = chunks[i];
        check_pieces(context, engine, lengths, n, reference);
        if (model_is_over(context)) return;
    }
}

void model_group_chunks(model_context *context)
{
    each_engine(context, MODEL_N_FIXTURES, check_all_chunks);
    (void)snprintf(context->note, sizeof context->note, "bit-equal to one step");
}

/* Every split of 40 tokens into two, and splits around the ends of groups, windows and pages. */
static void check_all_splits(model_context *context, model_engine *engine, const float *reference)
{
    static const int64_t ends[] = {3, 4, 5, 63, 64, 65, 127, 128, 129, 191, 193, 255, 256, 257};
    int64_t step = context->is_quick ? 7 : 1;
    for (int64_t a = 1; a < 40 && !model_is_over(context); a += step) {
        check_pieces(context, engine, (int64_t[]){a, 40 - a}, 2, reference);
    }
    for (size_t i = 0; i < sizeof ends / sizeof ends[0] && !context->is_quick; i++) {
        if (model_is_over(context)) return;
        int64_t rest = engine->fixture->n_tokens - ends[i] - 1;
        check_pieces(context, engine, (int64_t[]){ends[i], rest + 1}, 2, reference);
        check_pieces(context, engine, (int64_t[]){ends[i], 1, rest}, 3, reference);
    }
}

void model_group_splits(model_context *context)
{
    each_engine(context, MODEL_N_FIXTURES, check_all_splits);
    (void)snprintf(context->note, sizeof context->note, "bit-equal to one step");
}

/* ---- batches ---- */

enum { N_SEQUENCES = 6, MAX_TOKENS = 300 };

/* Sequences of their own lengths and tokens, and what each gives alone. */
typedef struct crowd {
    int64_t n_tokens[N_SEQUENCES];
    int32_t tokens[N_SEQUENCES][MAX_TOKENS];
    float *alone[N_SEQUENCES]; /* [n_tokens, width] */
    float *rows[N_SEQUENCES];  /* [n_tokens, width] as batched */
    dsv4_sequence *sequences[N_SEQUENCES];
} crowd;

static void crowd_make(const model_fixture *fixture, const model_setup *setup, attn_rng *rng,
                       crowd *made)
{
    static const int64_t lengths[N_SEQUENCES] = {1, 40, 131, 258, 300, 77};
    dsv4_pool_options options = model_pool_options(fixture, setup);
    options.n_tokens = MAX_TOKENS;
    for (int s = 0; s < N_SEQUENCES; s++) {
        model_engine engine;
        model_engine_make(&engine, fixture, setup, &options);
        int64_t n = made->n_tokens[s] = lengths[s];
        for (int64_t i = 0; i < n; i++) {
            made->tokens[s][i] = (int32_t)attn_rng_range(rng, 0, fixture->vocab - 1);
        }
        made->alone[s] = model_alloc(n * fixture->width, sizeof *made->alone[s]);
        made->rows[s] = model_alloc(n * fixture->width, sizeof *made->rows[s]);
        dsv4_sequence *sequence = model_sequence_make(&engine);
        model_piece piece = {sequence, made->tokens[s], n, -1, made->alone[s]};
        if (!model_feed(&engine, &piece)) model_die(fixture->name, &engine.error);
        dsv4_sequence_free(sequence);
        (void)model_engine_free(&engine);
    }
}

static void crowd_free(crowd *made)
{
    for (int s = 0; s < N_SEQUENCES; s++) {
        free(made->alone[s]);
        free(made->rows[s]);
    }
}

/* Pieces of a random subset of what is left, in random order; 0 when nothing is left. */
static int64_t draw_pieces(const crowd *c, int64_t width, attn_rng *rng, model_piece *pieces,
                           int *owners)
{
    static const int64_t sizes[] = {1, 1, 1, 2, 3, 5, 17, 60};
    int order[N_SEQUENCES], n_pieces = 0;
    for (int s = 0; s < N_SEQUENCES; s++) order[s] = s;
    for (int s = N_SEQUENCES - 1; s > 0; s--) {
        int other = (int)attn_rng_range(rng, 0, s), kept = order[s];
        order[s] = order[other];
        order[other] = kept;
    }
    bool is_left = false;
    for (int i = 0; i < N_SEQUENCES; i++) {
        int s = order[i];
        int64_t at = dsv4_sequence_n_tokens(c->sequences[s]), left = c->n_tokens[s] - at;
        if (left == 0) continue;
        is_left = true;
        if (attn_rng_chance(rng, 30) && (n_pieces > 0 || i + 1 < N_SEQUENCES)) continue;
        int64_t n = sizes[attn_rng_range(rng, 0, 7)];
        if (n > left) n = left;
        int32_t following = n < left ? c->tokens[s][at + n] : -1;
        owners[n_pieces] = s;
        pieces[n_pieces++] = (model_piece){c->sequences[s], c->tokens[s] + at, n, following,
                                           c->rows[s] + at * width};
    }
    return n_pieces > 0 ? n_pieces : is_left ? draw_pieces(c, width, rng, pieces, owners) : 0;
}

/* The tokens of all pieces mixed, each piece's own in order. */
static void draw_order(const model_piece *pieces, int64_t n_pieces, attn_rng *rng, int32_t *order)
{
    int64_t n = 0;
    for (int64_t i = 0; i < n_pieces; i++) {
        for (int64_t j = 0; j < pieces[i].n_tokens; j++) order[n++] = (int32_t)i;
    }
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t other = attn_rng_range(rng, 0, i);
        int32_t kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
}

static void check_crowd(model_context *context, const model_fixture *fixture, crowd *c,
                        const model_setup *setup, attn_rng *rng)
{
    dsv4_pool_options options = model_pool_options(fixture, setup);
    options.n_tokens = MAX_TOKENS * N_SEQUENCES;
    options.n_sequences = N_SEQUENCES;
    model_engine engine;
    model_engine_make(&engine, fixture, setup, &options);
    for (int s = 0; s < N_SEQUENCES; s++) c->sequences[s] = model_sequence_make(&engine);
    model_piece pieces[N_SEQUENCES];
    int owners[N_SEQUENCES];
    int32_t order[MODEL_MAX_STEP];
    bool is_good = true;
    for (;;) {
        int64_t n_pieces = draw_pieces(c, fixture->width, rng, pieces, owners);
        if (n_pieces == 0 || !is_good) break;
        bool is_mixed = attn_rng_chance(rng, 50);
        if (is_mixed) draw_order(pieces, n_pieces, rng, order);
        is_good = model_step(&engine, pieces, n_pieces, is_mixed ? order : NULL);
        model_check(context, is_good, "%s: %s", fixture->name, engine.error.text);
    }
    for (int s = 0; s < N_SEQUENCES; s++) {
        model_check(context, model_same_rows(fixture, c->rows[s], c->n_tokens[s], c->alone[s], 0),
                    "%s %s, %d threads: sequence %d of %lld tokens differs from alone",
                    fixture->name, model_numerics_name(setup->numerics), setup->n_threads, s,
                    (long long)c->n_tokens[s]);
        dsv4_sequence_free(c->sequences[s]);
    }
    model_check_free(context, &engine);
}

void model_group_batches(model_context *context)
{
    int64_t first_round = context->is_quick ? 1 : 0; /* the one with two threads */
    for (int i = 0; i < 2 * MODEL_N_FIXTURES; i++) {
        const model_fixture *fixture = &context->fixtures[i / 2];
        if (context->is_quick && i / 2 > 1) continue;
        model_setup setup = model_best_setup(context, i % 2);
        attn_rng rng = {(uint64_t)i + 1};
        crowd c;
        crowd_make(fixture, &setup, &rng, &c);
        for (int64_t round = first_round; round < 2 && !model_is_over(context); round++) {
            setup.n_threads = (int32_t)(1 + round);
            check_crowd(context, fixture, &c, &setup, &rng);
        }
        crowd_free(&c);
        if (model_is_over(context)) return;
    }
    (void)snprintf(context->note, sizeof context->note, "%d sequences, bit-equal to each alone",
                   N_SEQUENCES);
}
