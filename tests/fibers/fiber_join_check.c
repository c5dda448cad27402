/*
 * fiber_join_check.c - random lists of a request's queries, joined by the kernel and without threads; every entry compared.
 *
 * Place: tests. The joined list is made a second time here, by looking at all entries of a chunk. Besides, whatever both
 * think the order is, each query has to find in it the rows that its own list names, each as often; rows that are not
 * finite as ATTN_JOIN_NAN_SLOT where not all queries share them.
 */
#include "fiber_join_check.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn_case_gen.h"
#include "attn_rng.h"
#include "dsv4/cache.h"
#include "fiber_kernels.h"
#include "fiber_run.h"
#include "gpu/attn_host.h"

enum {
    GUARD_BYTE = 0xc9,
    PAGE_ROWS = 3, /* that pages are found by a division */
    CODES = 448,
    SLOT_MASK = ATTN_JOIN_NAN_SLOT,
};

/* A scope's tensors, and which of its rows are not finite. */
typedef struct pool {
    uint8_t *cache;
    bool *is_finite;
    int32_t *indices, *lengths;
} pool;

static void spoil_row(attn_rng *rng, uint8_t *data, uint8_t *scales, bool *is_finite)
{
    const int64_t dim = attn_rng_range(rng, 0, CODES - 1);
    *is_finite = false;
    switch (attn_rng_range(rng, 0, 5)) {
    case 0: memcpy(data + CODES + dim / 64 * 2, "\x80\x7f", 2); break; /* infinity */
    case 1: memcpy(data + CODES + 127 - 1, "\xc0\xff", 2); break;      /* NaN */
    case 2: scales[dim / 64] = 255; break;
    case 3: /* the smallest code that is infinite with this scale: exponent field 10 */
        scales[dim / 64] = 252;
        data[dim] = (uint8_t)(0x80 * (dim % 2) + 10 * 8);
        break;
    case 4: /* and the largest that is not */
        scales[dim / 64] = 252;
        data[dim] = 10 * 8 - 1;
        *is_finite = true;
        break;
    default: /* a NaN code, which counts as one where it is read; the eighth scale is no scale */
        data[dim] = 0x7f;
        scales[7] = 255;
        *is_finite = true;
        break;
    }
}

static void make_cache(attn_rng *rng, dsv4_attn_scope *scope, pool *p)
{
    const int64_t n_rows = scope->n_pages * scope->page_rows;
    p->cache = attn_alloc(scope->n_pages * scope->page_stride_bytes + 1);
    p->is_finite = attn_alloc(n_rows + 1);
    for (int64_t row = 0; row < n_rows; row++) {
        uint8_t *page = p->cache + row / PAGE_ROWS * scope->page_stride_bytes;
        uint8_t *data = page + row % PAGE_ROWS * DSV4_CACHE_DATA_BYTES,
                *scales = page + PAGE_ROWS * DSV4_CACHE_DATA_BYTES + row % PAGE_ROWS * 8;
        memset(data, 0x31, DSV4_CACHE_DATA_BYTES);
        memset(scales, 100, 8);
        p->is_finite[row] = true;
        if (attn_rng_chance(rng, 20)) spoil_row(rng, data, scales, &p->is_finite[row]);
    }
    scope->cache = p->cache;
}

/* A query's list: own entries, or those of the query before but for some, and those shuffled. */
static void draw_list(attn_rng *rng, int32_t *list, const int32_t *before, int64_t n,
                      int64_t n_rows, int shared_percent)
{
    for (int64_t i = 0; i < n; i++) {
        list[i] = (int32_t)attn_rng_range(rng, 0, n_rows - 1);
        if (before != NULL && attn_rng_chance(rng, shared_percent)) list[i] = before[i];
        if (attn_rng_chance(rng, 5)) list[i] = -1;
        if (attn_rng_chance(rng, 2)) list[i] = (int32_t)attn_rng_range(rng, n_rows, n_rows + 2);
        if (attn_rng_chance(rng, 1)) list[i] = INT32_MIN + (int32_t)attn_rng_range(rng, 0, 9);
        if (i > 0 && attn_rng_chance(rng, 3)) list[i] = list[attn_rng_range(rng, 0, i - 1)];
    }
    if (!attn_rng_chance(rng, 50)) return;
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t k = attn_rng_range(rng, 0, i);
        const int32_t kept = list[i];
        list[i] = list[k];
        list[k] = kept;
    }
}

static void make_scope(attn_rng *rng, const dsv4_attn_params *params, dsv4_attn_scope *scope,
                       pool *p)
{
    static const int shared[] = {0, 80, 95, 100};
    const int percent = shared[attn_rng_range(rng, 0, 3)];
    memset(p, 0, sizeof *p);
    if (attn_rng_chance(rng, 12)) return; /* absent */
    scope->n_pages = attn_rng_chance(rng, 30) ? 3 : attn_rng_range(rng, 1, 900);
    scope->page_rows = PAGE_ROWS;
    scope->page_stride_bytes = (PAGE_ROWS * DSV4_CACHE_RECORD_BYTES + 15) / 16 * 16;
    scope->n_indices = attn_rng_range(rng, 0, attn_rng_chance(rng, 25) ? 2500 : 150);
    scope->indices_query_stride_bytes = (scope->n_indices + attn_rng_range(rng, 0, 2)) * 4;
    scope->indices_request_stride_bytes =
        params->n_queries * scope->indices_query_stride_bytes + 4 * attn_rng_range(rng, 0, 2);
    make_cache(rng, scope, p);
    p->indices = attn_alloc(params->n_requests * scope->indices_request_stride_bytes + 4);
    p->lengths = attn_alloc(params->n_requests * (int64_t)sizeof *p->lengths);
    for (int64_t r = 0; r < params->n_requests; r++) {
        const int32_t *before = NULL;
        for (int64_t q = 0; q < params->n_queries; q++) {
            int32_t *list = p->indices + (r * scope->indices_request_stride_bytes +
                                          q * scope->indices_query_stride_bytes) /
                                             4;
            draw_list(rng, list, before, scope->n_indices, scope->n_pages * PAGE_ROWS, percent);
            before = list;
        }
        p->lengths[r] = (int32_t)attn_rng_range(rng, -2, scope->n_indices + 3);
    }
    scope->indices = p->indices;
    scope->lengths = attn_rng_chance(rng, 60) ? p->lengths : NULL;
}

static int64_t listed(const dsv4_attn_scope *scope, int64_t request)
{
    if (scope->n_pages == 0) return 0;
    if (scope->lengths == NULL) return scope->n_indices;
    const int64_t n = scope->lengths[request];
    return n < 0 ? 0 : n < scope->n_indices ? n : scope->n_indices;
}

static int32_t entry_at(const dsv4_attn_scope *scope, int64_t request, int64_t query, int64_t i)
{
    const int32_t slot = scope->indices[(request * scope->indices_request_stride_bytes +
                                         query * scope->indices_query_stride_bytes) /
                                            4 +
                                        i];
    return slot >= 0 && slot < scope->n_pages * scope->page_rows ? slot : -1;
}

/* First entry of the chunk in which this query names the slot; -1: it does not. */
static int64_t find_first(const dsv4_attn_scope *scope, int64_t request, int64_t query,
                          int64_t first, int64_t end, int32_t slot)
{
    for (int64_t i = first; i < end; i++) {
        if (entry_at(scope, request, query, i) == slot) return i;
    }
    return -1;
}

/* The entry that stands for entry i of a query, 0 if none does. */
static uint32_t join_entry(const dsv4_attn_params *params, const dsv4_attn_scope *scope,
                           const pool *p, int64_t request, int64_t query, int64_t first,
                           int64_t end, int64_t i)
{
    const int32_t slot = entry_at(scope, request, query, i);
    uint32_t queries = 0;
    if (slot < 0) return 0;
    if (find_first(scope, request, query, first, end, slot) < i) {
        queries = 1u << query;
    } else {
        for (int64_t q = 0; q < params->n_queries; q++) {
            if (find_first(scope, request, q, first, end, slot) < 0) continue;
            if (q < query) return 0;
            queries |= 1u << q;
        }
        if (queries == (1u << params->n_queries) - 1) queries = ATTN_JOIN_ALL;
    }
    const bool is_kept = queries == ATTN_JOIN_ALL || p->is_finite[slot];
    return queries << ATTN_JOIN_SLOT_BITS | (is_kept ? (uint32_t)slot : ATTN_JOIN_NAN_SLOT);
}

static int64_t join(const dsv4_attn_params *params, const dsv4_attn_scope *scope, const pool *p,
                    int64_t request, uint32_t *joined)
{
    const int64_t n = listed(scope, request), most = ATTN_JOIN_ENTRIES / params->n_queries;
    int64_t n_joined = 0;
    for (int64_t first = 0; first < n; first += most) {
        const int64_t end = first + most < n ? first + most : n;
        for (int64_t q = 0; q < params->n_queries; q++) {
            for (int64_t i = first; i < end; i++) {
                joined[n_joined] = join_entry(params, scope, p, request, q, first, end, i);
                n_joined += joined[n_joined] != 0;
            }
        }
    }
    return n_joined;
}

/* Each query finds what its own list names, as often as there: counts of slots, those that are NaN on one place. */
static bool keeps_meaning(const dsv4_attn_params *params, const dsv4_attn_scope *scope,
                          const pool *p, int64_t request, const uint32_t *joined, int64_t n_joined)
{
    const int64_t n_rows = scope->n_pages * scope->page_rows;
    int32_t *counts = attn_alloc((n_rows + 1) * (int64_t)sizeof *counts);
    bool is_good = true;
    for (int64_t q = 0; q < params->n_queries; q++) {
        memset(counts, 0, (size_t)(n_rows + 1) * sizeof *counts);
        for (int64_t i = 0; i < listed(scope, request); i++) {
            const int32_t slot = entry_at(scope, request, q, i);
            if (slot >= 0) counts[p->is_finite[slot] ? slot : n_rows]++;
        }
        for (int64_t i = 0; i < n_joined; i++) {
            const uint32_t slot = joined[i] & SLOT_MASK;
            if ((joined[i] >> ATTN_JOIN_SLOT_BITS >> q & 1) == 0) continue;
            is_good &= slot == ATTN_JOIN_NAN_SLOT || slot < n_rows;
            if (!is_good) break;
            counts[slot != ATTN_JOIN_NAN_SLOT && p->is_finite[slot] ? slot : n_rows]--;
        }
        for (int64_t i = 0; i <= n_rows; i++) is_good &= counts[i] == 0;
    }
    free(counts);
    return is_good;
}

static bool compare_scope(const dsv4_attn_params *params, const dsv4_attn_scope *scope,
                          const pool *p, int64_t request, const uint32_t *got, int64_t n_got)
{
    uint32_t *wanted =
        attn_alloc((params->n_queries * scope->n_indices + 1) * (int64_t)sizeof *wanted);
    const int64_t n_wanted = join(params, scope, p, request, wanted);
    const bool is_good = n_got == n_wanted &&
                         memcmp(got, wanted, (size_t)n_wanted * sizeof *wanted) == 0 &&
                         keeps_meaning(params, scope, p, request, got, n_got);
    free(wanted);
    return is_good;
}

/* Runs the kernel in the end of a workspace of the call's size; nothing else of it may be written. */
static bool check_joined(const dsv4_attn_params *params, const pool pools[2], uint64_t seed,
                         int wave_threads)
{
    enum { N_THREAD_BLOCKS = 3 };
    dsv4_attn_gpu_shape shape, other;
    attn_join_args a;
    attn_plan_head plan = {0};
    int32_t group_heads = 0;
    if (!dsv4_attn_gpu_can_join(params, &group_heads) ||
        dsv4_attn_gpu_describe(params, group_heads, N_THREAD_BLOCKS, 0, true, &shape, NULL) !=
            DSV4_OK)
        return false;
    uint8_t *workspace = attn_alloc((int64_t)shape.workspace_bytes + 64);
    memset(workspace, GUARD_BYTE, shape.workspace_bytes + 64);
    dsv4_attn_gpu_join_args(params, &shape, &plan, workspace, &a);
    plan.fingerprint = a.fingerprint ^ (seed % 5 == 4 ? UINT64_C(1) << 50 : 0);
    fiber_run(fiber_kernel_find("dsv4_attn_join", wave_threads), &a, 2 * (int)params->n_requests,
              ATTN_JOIN_THREADS, seed % 2 == 1);
    const size_t front = (size_t)((uint8_t *)a.joined.lists - workspace);
    const size_t n_kept = plan.fingerprint == a.fingerprint ? front : shape.workspace_bytes;
    /* behind all that a decode without joined lists has there */
    bool is_good = dsv4_attn_gpu_describe(params, group_heads, N_THREAD_BLOCKS, 0, false, &other,
                                          NULL) == DSV4_OK &&
                   front == other.workspace_bytes;
    for (size_t i = 0; i < n_kept; i++) is_good &= workspace[i] == GUARD_BYTE;
    for (size_t i = 0; i < 64; i++) is_good &= workspace[shape.workspace_bytes + i] == GUARD_BYTE;
    for (int64_t r = 0; n_kept == front && r < params->n_requests; r++) {
        const uint32_t *own = a.joined.lists + r * a.joined.request_pitch;
        attn_joined_head head;
        memcpy(&head, own, sizeof head);
        is_good &= compare_scope(params, &params->window, &pools[0], r,
                                 own + sizeof head / sizeof *own, head.n_window);
        is_good &= compare_scope(params, &params->extra, &pools[1], r, own + a.joined.first_extra,
                                 head.n_extra);
    }
    free(workspace);
    return is_good;
}

static bool check_join(uint64_t seed)
{
    static const int64_t heads[] = {8, 16, 32};
    attn_rng rng = {seed};
    dsv4_attn_params params;
    pool pools[2];
    dsv4_attn_params_default(&params);
    params.n_heads = heads[seed % 3];
    params.n_requests = attn_rng_range(&rng, 1, 5);
    params.n_queries = attn_rng_range(&rng, 2, params.n_heads == 32 ? 2 : 4);
    make_scope(&rng, &params, &params.window, &pools[0]);
    make_scope(&rng, &params, &params.extra, &pools[1]);
    bool is_good = true;
    for (int wave_threads = 32; wave_threads <= 64; wave_threads += 32)
        is_good &= check_joined(&params, pools, seed, wave_threads);
    if (!is_good) printf("FAILED join: seed %d\n", (int)seed);
    for (int i = 0; i < 2; i++) {
        free(pools[i].cache);
        free(pools[i].is_finite);
        free(pools[i].indices);
        free(pools[i].lengths);
    }
    return is_good;
}

int64_t fiber_join_check(int64_t *n_failed)
{
    enum { N_CHECKS = 48 };
    *n_failed = 0;
    for (uint64_t seed = 0; seed < N_CHECKS; seed++) *n_failed += !check_join(seed);
    return N_CHECKS;
}
