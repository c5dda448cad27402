/*
 * attn_flashmla.c - FlashMLA's shapes and tolerances.
 *
 * Place: tests.
 */
#include "attn_flashmla.h"

#include <math.h>
#include <stdio.h>

/* A digit of a mixed-radix number. */
static int64_t take(int64_t *rest, int64_t radix)
{
    int64_t digit = *rest % radix;
    *rest /= radix;
    return digit;
}

typedef struct lists {
    int64_t n_slots, n_indices, page_rows;
} lists;

static const lists sweep_lists[] = {{512, 64, 2},     {512, 64, 64},    {512, 64, 69},
                                    {1024, 576, 2},   {1024, 576, 61},  {2046, 2048, 2},
                                    {2046, 2048, 64}, {2046, 2048, 576}};
static const lists corner_lists[] = {{512, 64, 61}, {650, 576, 53}};

/* n_requests; sequences of one length are tried with one number only, and without lengths. */
static const struct {
    int64_t n_requests;
    bool varies_length;
} batches[] = {{4, true}, {74, true}, {321, true}, {74, false}};

/* One combination of everything; some do not exist. */
typedef struct point {
    const lists *window, *extra; /* extra NULL: one scope */
    int64_t n_heads, n_queries, batch;
    bool has_lengths[2];
    bool all_invalid, half_empty, has_sink;
} point;

enum {
    N_SWEEP = 2 * 4 * 2 * 4 * 9 * 8,
    N_CORNER = 2 * 4 * 4 * 3 * 2 * 7,
    N_POINTS = N_SWEEP + N_CORNER
};

static bool point_at(int64_t number, point *p)
{
    const bool is_corner = number >= N_SWEEP;
    const lists *from = is_corner ? corner_lists : sweep_lists;
    const int64_t n_lists = is_corner ? 2 : 8;
    int64_t rest = is_corner ? number - N_SWEEP : number;
    p->n_heads = 64 << take(&rest, 2);
    p->batch = take(&rest, 4);
    int64_t lengths = take(&rest, 4);
    p->has_lengths[0] = lengths & 1;
    p->has_lengths[1] = lengths & 2;
    p->window = &from[take(&rest, n_lists)];
    int64_t extra = take(&rest, n_lists + 1);
    p->extra = extra > 0 ? &from[extra - 1] : NULL;
    p->n_queries = is_corner ? 3 : 1 + 2 * take(&rest, 2);
    /* Not the combination that is no corner: valid, none empty, a sink. */
    int64_t kind = is_corner ? 1 + take(&rest, 7) : 0;
    p->all_invalid = kind & 1;
    p->half_empty = kind & 2;
    p->has_sink = !(kind & 4);
    if (p->has_lengths[1] && p->extra == NULL) return false;
    return batches[p->batch].varies_length || lengths == 0;
}

/* The combinations in steps of a number without a common factor. */
static void find_point(int64_t index, point *p)
{
    enum { STEP = 2441 };
    int64_t number = 0;
    for (int64_t left = index % ATTN_FLASHMLA_CASES + 1; left > 0;) {
        number = (number + STEP) % N_POINTS;
        if (point_at(number, p)) left--;
    }
}

void attn_flashmla_draw(attn_rng *rng, int64_t index, attn_spec *spec)
{
    point p = {0};
    find_point(index, &p);
    for (int i = 0; i < 2; i++) {
        const lists *from = i == 0 ? p.window : p.extra;
        attn_scope_spec *scope = &spec->scope[i];
        spec->has_scope[i] = from != NULL;
        if (from == NULL) continue;
        scope->n_slots = from->n_slots;
        scope->n_indices = from->n_indices;
        scope->page_rows = from->page_rows;
        scope->list = p.all_invalid ? ATTN_LIST_INVALID : ATTN_LIST_DISTINCT;
        scope->lengths = p.has_lengths[i] ? ATTN_LENGTHS_RANDOM : ATTN_LENGTHS_NONE;
        scope->shares_lists = false;
    }
    spec->n_requests = batches[p.batch].n_requests;
    spec->varies_length = batches[p.batch].varies_length;
    spec->n_queries = p.n_queries;
    spec->n_heads = p.n_heads;
    spec->half_empty = p.half_empty;
    spec->sink = p.has_sink ? ATTN_SINK_MIXED : ATTN_SINK_NONE;
    spec->softmax_scale = 0.03235187f; /* 512^-0.55 */
    spec->values = ATTN_VALUES_CLAMPED;
    spec->out_dtype = DSV4_DTYPE_BF16;
    spec->rope = ATTN_ROPE_NONE;
    spec->has_lse = true;
    spec->names_nan = false;
    spec->n_threads = 0;
    if (attn_rng_chance(rng, 80)) spec->layout = ATTN_LAYOUT_PADDED;
}

/* ---- tolerances ---- */

typedef struct tolerance {
    const char *name;
    double absolute, relative, cosine;
} tolerance;

typedef struct sums {
    double error, total; /* (x - y)^2 and x^2 + y^2 */
    double quotient;     /* the largest that the absolute tolerance does not cover */
} sums;

/* Adds one element; false when it is not close. */
static bool add_element(const tolerance *allowed, double got, double want, sums *s)
{
    if (isnan(want) || isinf(want)) return isnan(want) ? isnan(got) : got == want;
    double error = fabs(got - want);
    s->error += error * error;
    s->total += got * got + want * want;
    if (error < allowed->absolute) return true;
    double quotient = error / (fabs(want) + 1e-6);
    if (quotient > s->quotient) s->quotient = quotient;
    return quotient < allowed->relative; /* false for NaN */
}

/* 1 - 2 x.y / (x.x + y.y), without the cancellation. */
static double cosine_distance(const sums *s)
{
    return s->total > 0 ? s->error / s->total : 0;
}

static bool element_fail(const tolerance *allowed, int64_t i, double got, double want, char *text)
{
    snprintf(text, ATTN_TEXT_BYTES, "%s %lld: %.9g, expected %.9g within %g or %g of it",
             allowed->name, (long long)i, got, want, allowed->absolute, allowed->relative);
    return false;
}

static bool cosine_check(const tolerance *allowed, const sums *s, char *text)
{
    if (cosine_distance(s) <= allowed->cosine) return true;
    snprintf(text, ATTN_TEXT_BYTES, "%s: cosine distance %g, expected at most %g", allowed->name,
             cosine_distance(s), allowed->cosine);
    return false;
}

bool attn_flashmla_compare(const attn_case *c, const attn_result *got, const attn_result *want,
                           attn_worst *worst, char *text)
{
    static const tolerance out_allowed = {"out", 1e-3, 2.01 / 128, 5e-6};
    static const tolerance lse_allowed = {"lse", 1e-6, 8.01 / 65536, 1e-7};
    sums out = {0, 0, 0}, lse = {0, 0, 0};
    for (int64_t i = 0; i < want->n_lse * DSV4_ATTN_DIM; i++) {
        double x = attn_out_value(got->out, c->spec.out_dtype, i);
        double y = attn_out_value(want->out, DSV4_DTYPE_F32, i);
        if (!add_element(&out_allowed, x, y, &out))
            return element_fail(&out_allowed, i, x, y, text);
    }
    for (int64_t i = 0; i < want->n_lse; i++) {
        double x = (double)got->lse[i], y = (double)want->lse[i];
        if (!add_element(&lse_allowed, x, y, &lse))
            return element_fail(&lse_allowed, i, x, y, text);
    }
    if (cosine_distance(&out) > worst->out) worst->out = cosine_distance(&out);
    if (lse.quotient > worst->lse) worst->lse = lse.quotient;
    return cosine_check(&out_allowed, &out, text) && cosine_check(&lse_allowed, &lse, text);
}
