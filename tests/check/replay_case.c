/*
 * replay_case.c - the tensors of a decode call, lists that change, and the comparison.
 *
 * Place: tests.
 */
#include "replay_case.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dsv4/cache.h"
#include "num/bf16.h"

#define OUT_LIMIT     0x1p-8
#define FP8_OUT_LIMIT 0x1p-4
#define FP8_LSE_LIMIT 0.2
#define LSE_LIMIT     1e-4
#define LSE_SLOPE     1e-5

void *replay_host_alloc(int64_t n_bytes)
{
    void *memory = aligned_alloc(64, ((size_t)n_bytes + 64) / 64 * 64);
    if (memory == NULL) {
        fprintf(stderr, "check_replay: out of memory: %lld bytes\n", (long long)n_bytes);
        exit(2);
    }
    return memory;
}

static void make_cache(replay_case *c, int which, dsv4_attn_scope *scope)
{
    float values[DSV4_CACHE_DIM];
    c->cache_bytes[which] = scope->n_pages * scope->page_stride_bytes;
    c->cache[which] = replay_host_alloc(c->cache_bytes[which]);
    memset(c->cache[which], 0xff, (size_t)c->cache_bytes[which]);
    scope->cache = c->cache[which];
    for (int64_t slot = 0; slot < c->n_slots[which]; slot++) {
        uint8_t *page = c->cache[which] + slot / scope->page_rows * scope->page_stride_bytes;
        for (int i = 0; i < DSV4_CACHE_DIM; i++) values[i] = attn_rng_normal(&c->rng);
        dsv4_cache_row_write(page, scope->page_rows, slot % scope->page_rows, values);
    }
}

static void make_queries(replay_case *c)
{
    const int64_t n_values = c->n_query_rows * c->params.n_heads * DSV4_ATTN_DIM;
    c->q_bytes = n_values * 2;
    c->q = replay_host_alloc(c->q_bytes);
    for (int64_t i = 0; i < n_values; i++) c->q[i] = dsv4_bf16_from_f32(attn_rng_normal(&c->rng));
    c->params.q = c->q;
    c->sink_bytes = c->params.n_heads * 4;
    c->sink = replay_host_alloc(c->sink_bytes);
    for (int64_t i = 0; i < c->params.n_heads; i++) c->sink[i] = 3.0f * attn_rng_normal(&c->rng);
    c->params.sink = c->sink;
}

/* Where lengths and indices lie, in params and in the block. */
static void place_lists(replay_case *c)
{
    dsv4_attn_scope *scopes[2] = {&c->params.window, &c->params.extra};
    c->n_lengths = 2 * c->params.n_requests;
    c->n_lists = c->n_lengths;
    for (int i = 0; i < 2; i++) {
        c->n_indices[i] = c->n_query_rows * scopes[i]->n_indices;
        c->indices_at[i] = c->n_lists;
        c->n_lists += c->n_indices[i];
    }
    c->lists = replay_host_alloc(c->n_lists * 4);
    for (int i = 0; i < 2; i++) {
        scopes[i]->lengths = c->lists + i * c->params.n_requests;
        scopes[i]->indices = c->lists + c->indices_at[i];
    }
}

void replay_case_make(replay_case *c, const replay_shape *shape, int32_t backend, uint64_t seed)
{
    memset(c, 0, sizeof *c);
    c->rng.state = seed;
    dsv4_attn_params *p = &c->params;
    dsv4_attn_params_default(p);
    p->backend = backend;
    p->cuda_kernel = shape->cuda_kernel;
    p->math = shape->math;
    p->fixed_split = shape->fixed_split;
    p->join_queries = shape->join_queries;
    p->n_requests = shape->n_requests;
    p->n_queries = shape->n_queries;
    p->n_heads = shape->n_heads;
    dsv4_attn_scope *scopes[2] = {&p->window, &p->extra};
    for (int i = 0; i < 2; i++) {
        scopes[i]->n_pages = shape->n_pages[i];
        scopes[i]->page_rows = REPLAY_PAGE_ROWS;
        scopes[i]->n_indices = i == 0 ? REPLAY_WINDOW_INDICES : REPLAY_EXTRA_INDICES;
        c->n_slots[i] = shape->n_pages[i] * REPLAY_PAGE_ROWS;
    }
    dsv4_attn_params_set_dense(p);
    c->n_query_rows = p->n_requests * p->n_queries;
    c->out_bytes = c->n_query_rows * p->out_query_stride_bytes;
    c->lse_bytes = c->n_query_rows * p->lse_query_stride_bytes;
    for (int i = 0; i < 2; i++) make_cache(c, i, scopes[i]);
    make_queries(c);
    place_lists(c);
    replay_draw_indices(c);
    replay_set_whole_lengths(c);
}

void replay_case_free(replay_case *c)
{
    free(c->lists);
    free(c->q);
    free(c->sink);
    for (int i = 0; i < 2; i++) free(c->cache[i]);
}

/* ---- lists ---- */

static int32_t draw_length(attn_rng *rng, int64_t n_indices)
{
    static const int32_t negative[] = {-1, -7, INT_MIN};
    switch (attn_rng_range(rng, 0, 15)) {
    case 0: return 0;
    case 1: return negative[attn_rng_range(rng, 0, 2)];
    case 2: return (int32_t)n_indices + 1;
    case 3: return INT_MAX;
    case 4: return (int32_t)n_indices;
    default: return (int32_t)attn_rng_range(rng, 0, n_indices);
    }
}

static const dsv4_attn_scope *scope_of_length(const replay_case *c, int64_t i)
{
    return i < c->params.n_requests ? &c->params.window : &c->params.extra;
}

void replay_set_whole_lengths(replay_case *c)
{
    for (int64_t i = 0; i < c->n_lengths; i++) {
        c->lists[i] = (int32_t)scope_of_length(c, i)->n_indices;
    }
}

void replay_draw_lengths(replay_case *c)
{
    const int64_t kind = attn_rng_range(&c->rng, 0, 63);
    if (kind == 1) replay_set_whole_lengths(c);
    for (int64_t i = 0; kind != 1 && i < c->n_lengths; i++) {
        c->lists[i] = kind == 0 ? 0 : draw_length(&c->rng, scope_of_length(c, i)->n_indices);
    }
}

/* Of every 32 indices one is -1, and one any other that names nothing. */
static int32_t draw_index(attn_rng *rng, int64_t n_slots)
{
    const uint64_t bits = attn_rng_next(rng);
    const int32_t wild[4] = {INT_MIN, -7, (int32_t)n_slots, INT_MAX};
    if (bits % 32 == 0) return -1;
    if (bits % 32 == 1) return wild[bits / 32 % 4];
    return (int32_t)(((bits >> 32) * (uint64_t)n_slots) >> 32);
}

void replay_draw_indices(replay_case *c)
{
    for (int which = 0; which < 2; which++) {
        const int64_t n = which == 0 ? REPLAY_WINDOW_INDICES : REPLAY_EXTRA_INDICES;
        for (int64_t row = 0; row < c->n_query_rows; row++) {
            int32_t *list = c->lists + c->indices_at[which] + row * n;
            const int64_t kind = attn_rng_range(&c->rng, 0, 15);
            int64_t n_named = kind < 4 ? attn_rng_range(&c->rng, 0, n) : n;
            if (kind == 4) n_named = 0;
            for (int64_t i = 0; i < n; i++) {
                list[i] = i < n_named ? draw_index(&c->rng, c->n_slots[which]) : -1;
            }
            /* the last slot is never missing where keys are */
            if (n_named > 0) list[0] = (int32_t)(c->n_slots[which] - 1);
        }
    }
}

/* ---- the answer ---- */

/* The CPU's exact results: out in f32, dense. */
static bool run_reference(const replay_case *c, float *out, float *lse, char *text)
{
    dsv4_attn_params p = c->params;
    dsv4_error error = {.status = DSV4_OK};
    size_t plan_bytes, workspace_bytes;
    p.backend = DSV4_BACKEND_CPU;
    p.math = DSV4_ATTN_MATH_EXACT;
    p.out_dtype = DSV4_DTYPE_F32;
    p.cuda_kernel = DSV4_CUDA_KERNEL_AUTO;
    p.fixed_split = 0;
    dsv4_attn_params_set_dense(&p);
    p.out = out;
    p.lse = lse;
    if (dsv4_attn_plan_size(&p, &plan_bytes, &workspace_bytes, &error) == DSV4_OK) {
        void *plan = replay_host_alloc((int64_t)plan_bytes);
        void *workspace = replay_host_alloc((int64_t)workspace_bytes);
        if (dsv4_attn_plan_build(NULL, &p, plan, plan_bytes, &error) == DSV4_OK) {
            (void)dsv4_attn_decode(NULL, &p, plan, plan_bytes, workspace, workspace_bytes, &error);
        }
        free(plan);
        free(workspace);
    }
    if (error.status == DSV4_OK) return true;
    (void)snprintf(text, REPLAY_TEXT_BYTES, "the reference: %.300s", error.text);
    return false;
}

static bool compare_out(const uint16_t *got, const float *want, int64_t n_values, bool is_fp8,
                        double *worst, char *text)
{
    double error_sum = 0, want_sum = 0;
    for (int64_t i = 0; i < n_values; i++) {
        const double wanted = (double)want[i];
        const double error = (double)dsv4_bf16_to_f32(got[i]) - wanted;
        error_sum += error * error;
        want_sum += wanted * wanted;
    }
    const double relative = want_sum > 0 ? sqrt(error_sum / want_sum) : sqrt(error_sum);
    const double largest = is_fp8 ? FP8_OUT_LIMIT : OUT_LIMIT;
    const double limit = want_sum > 0 ? largest : 0;
    if (relative > *worst) *worst = relative;
    if (relative <= limit) return true; /* not so of NaN */
    (void)snprintf(text, REPLAY_TEXT_BYTES, "out is off by %.3e of its norm, limit %.3e", relative,
                   limit);
    return false;
}

static bool compare_lse(const float *got, const float *want, int64_t n_heads, bool is_fp8,
                        double *worst, char *text)
{
    for (int64_t h = 0; h < n_heads; h++) {
        if (got[h] == want[h]) continue; /* +inf too */
        const double wanted = (double)want[h], error = fabs((double)got[h] - wanted);
        const double limit = (is_fp8 ? FP8_LSE_LIMIT : LSE_LIMIT) + LSE_SLOPE * fabs(wanted);
        if (isinf(wanted) || !(error <= limit)) {
            (void)snprintf(text, REPLAY_TEXT_BYTES, "head %lld: lse %.9g, expected %.9g",
                           (long long)h, (double)got[h], wanted);
            return false;
        }
        if (error > *worst) *worst = error;
    }
    return true;
}

bool replay_compare(const replay_case *c, const uint16_t *out, const float *lse,
                    replay_worst *worst, char text[REPLAY_TEXT_BYTES])
{
    const int64_t n_heads = c->params.n_heads, n_values = n_heads * DSV4_ATTN_DIM;
    float *want_out = replay_host_alloc(c->n_query_rows * n_values * 4);
    float *want_lse = replay_host_alloc(c->lse_bytes);
    const bool is_fp8 = c->params.math == DSV4_ATTN_MATH_FP8;
    bool is_good = run_reference(c, want_out, want_lse, text);
    for (int64_t row = 0; is_good && row < c->n_query_rows; row++) {
        char why[REPLAY_TEXT_BYTES / 2] = "";
        is_good = compare_out(out + row * n_values, want_out + row * n_values, n_values, is_fp8,
                              &worst->out, text) &&
                  compare_lse(lse + row * n_heads, want_lse + row * n_heads, n_heads, is_fp8,
                              &worst->lse, text);
        if (is_good) continue;
        (void)snprintf(why, sizeof why, "%.200s", text);
        (void)snprintf(text, REPLAY_TEXT_BYTES, "request %lld query %lld: %s",
                       (long long)(row / c->params.n_queries),
                       (long long)(row % c->params.n_queries), why);
    }
    free(want_out);
    free(want_lse);
    return is_good;
}
