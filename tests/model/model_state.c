/*
 * model_state.c - forks, rewinds, pages and memory under the running model.
 *
 * Place: tests. Continuations are compared bit for bit with a sequence that was never forked or
 * rewound.
 */
#include "model_group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_AHEAD = 6 }; /* tokens that a continuation computes: past the end of a group of 4 */

static const char *numerics_of(const model_engine *engine)
{
    return model_numerics_name(dsv4_pool_cache(engine->pool)->numerics);
}

/* Continues with the fixture's tokens to `end` in one step and compares. */
static bool continues(model_engine *engine, dsv4_sequence *sequence, int64_t end,
                      const float *reference)
{
    const model_fixture *fixture = engine->fixture;
    int64_t begin = dsv4_sequence_n_tokens(sequence);
    if (end > fixture->n_tokens) end = fixture->n_tokens;
    float *rows = model_alloc((end - begin) * fixture->width, sizeof *rows);
    bool is_good = model_feed_chunks(engine, sequence, end, MODEL_MAX_STEP, rows) &&
                   model_same_rows(fixture, rows, end - begin, reference, begin);
    free(rows);
    return is_good;
}

static dsv4_sequence *fork_of(model_engine *engine, const dsv4_sequence *sequence)
{
    dsv4_sequence *fork;
    if (dsv4_sequence_fork(sequence, &fork, &engine->error) != DSV4_OK) {
        model_die("fork", &engine->error);
    }
    return fork;
}

/* A child goes a little back and then its own way, over the rows that it shares with its parent. */
static void stray(model_engine *engine, const dsv4_sequence *parent)
{
    const model_fixture *fixture = engine->fixture;
    int32_t tokens[N_AHEAD];
    float *rows = model_alloc(N_AHEAD * fixture->width, sizeof *rows);
    int64_t n = dsv4_sequence_n_tokens(parent);
    for (int64_t i = 0; i < N_AHEAD; i++) {
        int64_t at = (n + i) % fixture->n_tokens;
        tokens[i] = (int32_t)((fixture->tokens[at] + 1) % fixture->vocab);
    }
    dsv4_sequence *child = fork_of(engine, parent);
    int64_t back = n < N_AHEAD - 1 ? n : N_AHEAD - 1;
    if (dsv4_sequence_rewind(child, n - back) != n - back) model_die("stray child", NULL);
    model_piece piece = {child, tokens, N_AHEAD, 1, rows};
    if (!model_feed(engine, &piece)) model_die("stray child", &engine->error);
    dsv4_sequence_free(child);
    free(rows);
}

/*
 * At each position: a child that strays, then a child that continues as the parent will, then the
 * parent's own next token.
 */
static void check_forks(model_context *context, const model_fixture *fixture,
                        const model_setup *setup)
{
    float *reference = model_reference(fixture, setup);
    dsv4_pool_options options = model_pool_options(fixture, setup);
    options.n_sequences = 3;
    model_engine engine;
    model_engine_make(&engine, fixture, setup, &options);
    dsv4_sequence *parent = model_sequence_make(&engine);
    for (int64_t p = 0; p < fixture->n_tokens && !model_is_over(context); p++) {
        if (!context->is_quick || p % 13 == 0) {
            int64_t used_bytes = dsv4_pool_used_bytes(engine.pool);
            stray(&engine, parent);
            dsv4_sequence *child = fork_of(&engine, parent);
            model_check(context, dsv4_pool_used_bytes(engine.pool) == used_bytes,
                        "%s: a fork at %lld takes pages", fixture->name, (long long)p);
            int64_t end = p % 32 == 5 ? fixture->n_tokens : p + N_AHEAD;
            model_check(context, continues(&engine, child, end, reference),
                        "%s %s: a fork at %lld continues differently", fixture->name,
                        numerics_of(&engine), (long long)p);
            dsv4_sequence_free(child);
            model_check(context, dsv4_pool_used_bytes(engine.pool) == used_bytes,
                        "%s: forks at %lld leave pages behind", fixture->name, (long long)p);
        }
        model_check(context, continues(&engine, parent, p + 1, reference),
                    "%s %s: the parent's token %lld differs after forks", fixture->name,
                    numerics_of(&engine), (long long)p);
    }
    dsv4_sequence_free(parent);
    model_check_free(context, &engine);
    free(reference);
}

/* mixed has all kinds of layers, window-mtp the MTP block. */
static void each_state_fixture(model_context *context,
                               void (*body)(model_context *, const model_fixture *,
                                            const model_setup *))
{
    static const char *const names[] = {"mixed", "window-mtp"};
    for (int i = 0; i < 4 && !model_is_over(context); i++) {
        model_setup setup = model_best_setup(context, i % 2);
        body(context, model_find(context, names[i / 2]), &setup);
    }
}

void model_group_forks(model_context *context)
{
    each_state_fixture(context, check_forks);
    (void)snprintf(context->note, sizeof context->note, "at every position, bit-equal");
}

/* ---- rewinds ---- */

/*
 * A full run is rewound to n and continued. kept_tokens is how far back the pool promises that nothing
 * is recomputed; further back it may say 0, and then the first n tokens are run again.
 */
static void check_rewind(model_context *context, model_engine *engine, dsv4_sequence *sequence,
                         int64_t n, int64_t kept_tokens, const float *reference)
{
    const model_fixture *fixture = engine->fixture;
    int64_t n_computed = dsv4_sequence_rewind(sequence, n);
    bool is_promised = fixture->n_tokens - n <= kept_tokens;
    model_check(context, n_computed == n || (n_computed == 0 && !is_promised),
                "%s: rewound to %lld of %lld, %lld computed", fixture->name, (long long)n,
                (long long)fixture->n_tokens, (long long)n_computed);
    bool is_same_past = memcmp(dsv4_sequence_tokens(sequence), fixture->tokens,
                               (size_t)n * sizeof *fixture->tokens) == 0;
    model_check(context, dsv4_sequence_n_tokens(sequence) == n_computed && is_same_past,
                "%s: rewound to %lld, the past is lost", fixture->name, (long long)n);
    bool is_good = n_computed == n || continues(engine, sequence, n, reference);
    is_good = is_good && continues(engine, sequence, n + N_AHEAD, reference);
    model_check(context, is_good, "%s %s: rewound to %lld, continues differently", fixture->name,
                numerics_of(engine), (long long)n);
}

/* To every position in descending order, each from a fork of the full run. */
static void check_rewinds_keeping(model_context *context, const model_fixture *fixture,
                                  const model_setup *setup, int64_t kept_tokens,
                                  const float *reference, int64_t every)
{
    dsv4_pool_options options = model_pool_options(fixture, setup);
    options.n_sequences = 3;
    options.rewind_tokens = kept_tokens;
    model_engine engine;
    model_engine_make(&engine, fixture, setup, &options);
    dsv4_sequence *full = model_sequence_make(&engine);
    model_check(context, continues(&engine, full, fixture->n_tokens, reference), "%s: full run",
                fixture->name);
    for (int64_t n = fixture->n_tokens; n >= 0 && !model_is_over(context); n--) {
        bool is_near = fixture->n_tokens - n <= kept_tokens + 70;
        if (n % every != 0 && !(is_near && kept_tokens < 70 && !context->is_quick)) continue;
        dsv4_sequence *fork = fork_of(&engine, full);
        check_rewind(context, &engine, fork, n, kept_tokens, reference);
        dsv4_sequence_free(fork);
    }
    dsv4_sequence_free(full);
    model_check_free(context, &engine);
}

/* One sequence that goes three forward, two back, all the way. */
static void check_to_and_fro(model_context *context, const model_fixture *fixture,
                             const model_setup *setup, const float *reference)
{
    dsv4_pool_options options = model_pool_options(fixture, setup);
    options.n_sequences = 1;
    options.rewind_tokens = 2;
    model_engine engine;
    model_engine_make(&engine, fixture, setup, &options);
    dsv4_sequence *sequence = model_sequence_make(&engine);
    bool is_good = true;
    for (int64_t n = 0; n + 3 <= fixture->n_tokens && is_good; n++) {
        is_good = continues(&engine, sequence, n + 3, reference) &&
                  dsv4_sequence_rewind(sequence, n + 1) == n + 1;
        model_check(context, is_good, "%s %s: from %lld three on and two back differs",
                    fixture->name, numerics_of(&engine), (long long)n);
    }
    dsv4_sequence_free(sequence);
    model_check_free(context, &engine);
}

static void check_rewinds(model_context *context, const model_fixture *fixture,
                          const model_setup *setup)
{
    float *reference = model_reference(fixture, setup);
    check_rewinds_keeping(context, fixture, setup, fixture->n_tokens, reference,
                          context->is_quick ? 29 : 1);
    check_rewinds_keeping(context, fixture, setup, 5, reference, context->is_quick ? 97 : 13);
    if (!context->is_quick) check_to_and_fro(context, fixture, setup, reference);
    free(reference);
}

void model_group_rewinds(model_context *context)
{
    each_state_fixture(context, check_rewinds);
    (void)snprintf(context->note, sizeof context->note, "kept and recomputed, bit-equal");
}

/* ---- pages ---- */

/* What must not change when a call fails. */
typedef struct snapshot {
    int64_t n_tokens, n_free[DSV4_CACHE_N_KINDS];
    int32_t pages[DSV4_CACHE_N_KINDS][512];
} snapshot;

static snapshot snapshot_of(const model_engine *engine, const dsv4_sequence *sequence)
{
    snapshot s;
    memset(&s, 0, sizeof s);
    s.n_tokens = dsv4_sequence_n_tokens(sequence);
    dsv4_cache_view view = dsv4_sequence_view(sequence);
    for (int kind = 0; kind < DSV4_CACHE_N_KINDS; kind++) {
        s.n_free[kind] = dsv4_pool_n_free(engine->pool, kind);
        for (int64_t i = 0; i < view.n_pages[kind] && i < 512; i++) {
            s.pages[kind][i] = view.pages[kind][i];
        }
    }
    return s;
}

/* Sequences fill the pool until one is refused; that one goes on when another leaves. */
static void check_full(model_context *context, const model_fixture *fixture,
                       const model_setup *setup)
{
    enum { MAX_SEQUENCES = 12, CHUNK = 50 };
    float *reference = model_reference(fixture, setup);
    dsv4_pool_options options = model_pool_options(fixture, setup);
    options.n_sequences = 1;
    model_engine engine;
    model_engine_make(&engine, fixture, setup, &options);
    dsv4_sequence *sequences[MAX_SEQUENCES];
    int n = 0;
    bool is_full = false;
    while (!is_full && n < MAX_SEQUENCES) {
        dsv4_sequence *sequence = sequences[n++] = model_sequence_make(&engine);
        for (int64_t end = CHUNK; end <= 250 && !is_full; end += CHUNK) {
            snapshot before = snapshot_of(&engine, sequence);
            is_full = dsv4_sequence_reserve(sequence, CHUNK, &engine.error) != DSV4_OK;
            snapshot after = snapshot_of(&engine, sequence);
            if (is_full) {
                model_check(context, memcmp(&before, &after, sizeof before) == 0,
                            "%s: a refused reservation changes pages", fixture->name);
                model_check(context,
                            engine.error.status == DSV4_ERROR_OUT_OF_MEMORY &&
                                strstr(engine.error.text, "full") != NULL,
                            "%s: full pool says %s", fixture->name, engine.error.text);
            } else {
                model_check(context, continues(&engine, sequence, end, reference),
                            "%s %s: sequence %d differs at %lld", fixture->name,
                            numerics_of(&engine), n - 1, (long long)end);
            }
        }
    }
    model_check(context, is_full && n >= 2, "%s: the pool never fills", fixture->name);
    for (int i = 0; i + 1 < n; i++) dsv4_sequence_free(sequences[i]);
    model_check(context, continues(&engine, sequences[n - 1], fixture->n_tokens, reference),
                "%s %s: after others left, the refused one differs", fixture->name,
                numerics_of(&engine));
    dsv4_sequence_free(sequences[n - 1]);
    model_check_free(context, &engine);
    free(reference);
}

/* A sequence that is as long as the pool allows refuses to grow and stays as it is. */
static void check_long(model_context *context, const model_fixture *fixture,
                       const model_setup *setup)
{
    float *reference = model_reference(fixture, setup);
    dsv4_pool_options options = model_pool_options(fixture, setup);
    options.n_tokens = 200;
    model_engine engine;
    model_engine_make(&engine, fixture, setup, &options);
    dsv4_sequence *sequence = model_sequence_make(&engine);
    model_check(context, continues(&engine, sequence, 195, reference), "%s: to 195 of 200",
                fixture->name);
    snapshot before = snapshot_of(&engine, sequence);
    dsv4_status status = dsv4_sequence_reserve(sequence, 6, &engine.error);
    snapshot after = snapshot_of(&engine, sequence);
    model_check(context,
                status == DSV4_ERROR_OUT_OF_MEMORY && strstr(engine.error.text, "200") != NULL &&
                    memcmp(&before, &after, sizeof before) == 0,
                "%s: 6 more of 195 in 200: %s", fixture->name, engine.error.text);
    model_check(context, continues(&engine, sequence, 200, reference), "%s: the last 5 of 200",
                fixture->name);
    dsv4_sequence_free(sequence);
    model_check_free(context, &engine);
    free(reference);
}

static void check_pages(model_context *context, const model_fixture *fixture,
                        const model_setup *setup)
{
    check_full(context, fixture, setup);
    check_long(context, fixture, setup);
}

void model_group_pages(model_context *context)
{
    each_state_fixture(context, check_pages);
}

/* ---- growth ---- */

static void check_growth(model_context *context, const model_fixture *fixture,
                         const model_setup *setup)
{
    /* Lengths of steps, and how often the context has grown after each. */
    static const struct {
        int64_t n_tokens, n_growths;
    } steps[] = {{8, 1}, {8, 1}, {1, 1}, {64, 2}, {1, 2}, {64, 2}, {63, 2}, {1, 2}, {90, 3}};
    dsv4_pool_options options = model_pool_options(fixture, setup);
    model_engine engine;
    model_engine_make(&engine, fixture, setup, &options);
    float *rows = model_alloc(fixture->n_tokens * fixture->width, sizeof *rows);
    for (int round = 0; round < 2; round++) { /* the second never grows */
        dsv4_sequence *sequence = model_sequence_make(&engine);
        int64_t end = 0;
        for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
            end += steps[i].n_tokens;
            int64_t expected = round == 0 ? steps[i].n_growths : 3;
            bool succeeded = model_feed_chunks(&engine, sequence, end, MODEL_MAX_STEP, rows);
            int64_t n_growths = dsv4_forward_n_growths(engine.forward);
            model_check(context, succeeded && n_growths == expected,
                        "%s: %lld growths after a step of %lld tokens, expected %lld",
                        fixture->name, (long long)n_growths, (long long)steps[i].n_tokens,
                        (long long)expected);
        }
        dsv4_sequence_free(sequence);
    }
    free(rows);
    model_check_free(context, &engine);
}

void model_group_growth(model_context *context)
{
    each_state_fixture(context, check_growth);
}
