/*
 * fiber_plan_check.c - random lengths, shapes and costs; every byte of the plan compared.
 *
 * Place: tests. The plan is written a second time here from the description in attn_plan_kernel.c, without threads.
 * Besides, parts have to cover each task's blocks once, whatever both think a plan is.
 */
#include "fiber_plan_check.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn_case_gen.h"
#include "attn_rng.h"
#include "fiber_kernels.h"
#include "fiber_run.h"
#include "gpu/attn_device.h"

enum { N_BINS = 1024, N_STEPS = 32 };

static int32_t counted(const int32_t *lengths, int32_t request, int32_t n_indices)
{
    if (lengths == NULL) return n_indices;
    return lengths[request] < 0 ? 0 : lengths[request] < n_indices ? lengths[request] : n_indices;
}

static int32_t window_of(const attn_plan_args *a, int32_t request)
{
    return counted(a->window_lengths, request, a->window_n_indices);
}

static int32_t total_of(const attn_plan_args *a, int32_t request)
{
    return window_of(a, request) + counted(a->extra_lengths, request, a->extra_n_indices);
}

static int32_t blocks_of(const attn_plan_args *a, int32_t request)
{
    return (total_of(a, request) + ATTN_BLOCK_KEYS - 1) / ATTN_BLOCK_KEYS;
}

/* Requests, longest first; lengths from N_BINS - 1 on are alike. */
static int32_t *order_requests(const attn_plan_args *a)
{
    int32_t *order = attn_alloc((a->n_requests + 1) * (int64_t)sizeof *order), n = 0;
    for (int32_t length = N_BINS - 1; length >= 0; length--) {
        for (int32_t r = 0; r < a->n_requests; r++) {
            const int32_t blocks = blocks_of(a, r);
            if ((blocks < N_BINS - 1 ? blocks : N_BINS - 1) == length) order[n++] = r;
        }
    }
    return order;
}

/* Of the longest list: up to 8 blocks, then 1, 2, ... 16 parts, then 1.4 times as many each time. */
static int32_t step_of(int32_t i, int32_t longest)
{
    if (i < 8) return i + 1;
    const int32_t n = i < 24 ? i - 7 : (int32_t)(16.0f * exp2f((float)(i - 23) * 0.5f) + 0.5f);
    return longest > 0 ? (longest + n - 1) / n : 1;
}

static int32_t at_least(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static float cost_of(const attn_plan_args *a, int32_t n_blocks, int32_t n_parts)
{
    const float blocks = (float)at_least(n_blocks, a->n_streams);
    return n_parts > a->n_alone ? a->busy_part + blocks * a->busy_block : blocks;
}

/* Blocks of a part of the tail's tasks; 0: they stay whole. */
static int32_t choose_step(const attn_plan_args *a, const int32_t *order, int32_t first,
                           int32_t n_tail)
{
    const int32_t per_request = a->n_queries * a->n_groups;
    float best = 3e38f;
    const int32_t first_longest = n_tail > 0 ? blocks_of(a, order[first / per_request]) : 0;
    int32_t best_step = 1, longest = 0;
    for (int32_t i = 0; i < N_STEPS; i++) {
        const int32_t step = step_of(i, first_longest);
        int32_t n_parts = 0;
        for (int32_t t = 0; t < n_tail; t++) {
            const int32_t blocks = blocks_of(a, order[(first + t) / per_request]);
            n_parts += at_least((blocks + step - 1) / step, 1);
            longest = at_least(longest, blocks);
        }
        const int32_t parts = (longest + step - 1) / step;
        if (n_parts > a->n_thread_blocks || !a->may_split) continue;
        const float cost =
            cost_of(a, step < longest ? step : longest, n_parts) +
            (parts > 1 ? a->split_fixed + a->split_share / (float)parts + a->split * (float)parts
                       : 0.0f);
        if (cost < best) {
            best = cost;
            best_step = step;
        }
    }
    return best < cost_of(a, longest, n_tail) ? best_step : 0;
}

static attn_part make_part(const attn_plan_args *a, const int32_t *order, int32_t task,
                           int32_t number, int32_t n_parts, int32_t first_slot)
{
    const int32_t per_request = a->n_queries * a->n_groups, request = order[task / per_request];
    const int32_t in_request = task % per_request;
    const int64_t n_blocks = blocks_of(a, request);
    return (attn_part){.request = request,
                       .query_group = in_request / a->n_groups * 256 + in_request % a->n_groups,
                       .first_block = (int32_t)(n_blocks * number / n_parts),
                       .end_block = (int32_t)(n_blocks * (number + 1) / n_parts),
                       .part_of = number * 65536 + n_parts,
                       .first_slot = n_parts > 1 ? first_slot : -1,
                       .window_len = window_of(a, request),
                       .total_len = total_of(a, request)};
}

/* Returns the number of parts. */
static int32_t make_plan(const attn_plan_args *a, attn_part *parts)
{
    int32_t *order = order_requests(a);
    const int32_t per_request = a->n_queries * a->n_groups, n_tasks = a->n_requests * per_request;
    const int32_t n_tail = n_tasks % a->n_thread_blocks, n_whole = n_tasks - n_tail;
    const int32_t step = choose_step(a, order, n_whole, n_tail);
    int32_t n = 0;
    for (int32_t task = 0; task < n_tasks; task++) {
        const int32_t blocks = blocks_of(a, order[task / per_request]);
        const int32_t n_parts =
            task < n_whole || step == 0 ? 1 : at_least((blocks + step - 1) / step, 1);
        const int32_t first_slot = n - n_whole;
        for (int32_t k = 0; k < n_parts; k++)
            parts[n++] = make_part(a, order, task, k, n_parts, first_slot);
    }
    free(order);
    return n;
}

/* Blocks of all parts are those of all tasks, and slots of states are below the number of thread blocks. */
static bool covers_all(const attn_plan_args *a, const attn_part *parts, int32_t n_parts)
{
    int64_t n_blocks = 0, n_wanted = 0;
    bool is_good = true;
    for (int32_t i = 0; i < n_parts; i++) {
        const int32_t number = parts[i].part_of >> 16;
        n_blocks += parts[i].end_block - parts[i].first_block;
        is_good &= parts[i].first_slot < 0 || parts[i].first_slot + number < a->n_thread_blocks;
    }
    for (int32_t r = 0; r < a->n_requests; r++)
        n_wanted += (int64_t)blocks_of(a, r) * a->n_queries * a->n_groups;
    return is_good && n_blocks == n_wanted;
}

static bool is_wanted(const attn_plan_args *a, const attn_part *wanted, int32_t n_parts)
{
    attn_plan_head head;
    memcpy(&head, a->plan, sizeof head);
    const attn_part *parts = (const attn_part *)(const void *)(a->plan + sizeof head);
    return head.n_parts == n_parts && head.fingerprint == a->fingerprint &&
           memcmp(parts, wanted, (size_t)n_parts * sizeof *parts) == 0 &&
           covers_all(a, parts, n_parts);
}

static int32_t *draw_lengths(attn_rng *rng, int32_t n_requests, int32_t n_indices)
{
    int32_t *lengths = attn_alloc((n_requests + 1) * (int64_t)sizeof *lengths);
    for (int32_t r = 0; r < n_requests; r++)
        lengths[r] =
            (int32_t)attn_rng_range(rng, -3, attn_rng_chance(rng, 50) ? n_indices + 5 : 200);
    return lengths;
}

static bool check_plan(uint64_t seed)
{
    static const int32_t most_requests[] = {3, 40, 300, 2500};
    static const int32_t n_extra[] = {80000, 1024, 1024, 8192, 1024, 1024, 1024};
    attn_rng rng = {seed};
    attn_plan_args a = {.fingerprint = seed << 33 | 5,
                        .n_requests = (int32_t)attn_rng_range(&rng, 0, most_requests[seed % 4]),
                        .n_queries = (int32_t)attn_rng_range(&rng, 1, 3),
                        .n_groups = (int32_t)attn_rng_range(&rng, 1, 8),
                        .n_thread_blocks =
                            seed % 3 == 0 ? 256 : (int32_t)attn_rng_range(&rng, 1, 1024),
                        .may_split = seed % 5 != 4,
                        .n_streams = 1 + (int32_t)(seed % 2),
                        .n_alone = (int32_t)attn_rng_range(&rng, 0, 300),
                        .busy_part = (float)attn_rng_uniform(&rng) * 2.0f,
                        .busy_block = 0.5f + (float)attn_rng_uniform(&rng),
                        .split_fixed = (float)attn_rng_uniform(&rng) * 4.0f,
                        .split = (float)attn_rng_uniform(&rng) * 0.5f,
                        .split_share = seed % 2 == 0 ? (float)attn_rng_uniform(&rng) * 8.0f : 0.0f,
                        .window_n_indices = 128,
                        .extra_n_indices = n_extra[seed % 7]};
    int32_t *window = draw_lengths(&rng, a.n_requests, a.window_n_indices),
            *extra = draw_lengths(&rng, a.n_requests, a.extra_n_indices);
    a.window_lengths = attn_rng_chance(&rng, 70) ? window : NULL;
    a.extra_lengths = attn_rng_chance(&rng, 80) ? extra : NULL;
    const int64_t n_tasks = (int64_t)a.n_requests * a.n_queries * a.n_groups;
    const int64_t most_parts = n_tasks + a.n_thread_blocks;
    const int64_t n_bytes =
        (int64_t)sizeof(attn_plan_head) + most_parts * (int64_t)sizeof(attn_part);
    attn_part *wanted = attn_alloc(most_parts * (int64_t)sizeof *wanted);
    const int32_t n_parts = make_plan(&a, wanted);
    bool is_good = true;
    for (int wave_threads = 32; wave_threads <= 64; wave_threads += 32) {
        a.plan = attn_alloc(n_bytes + a.n_requests * (int64_t)sizeof(int32_t));
        fiber_run(fiber_kernel_find("dsv4_attn_plan", wave_threads), &a, 1, ATTN_PLAN_THREADS,
                  seed % 2 == 1);
        is_good &= is_wanted(&a, wanted, n_parts);
        free(a.plan);
    }
    if (!is_good) printf("FAILED plan: seed %d\n", (int)seed);
    free(wanted);
    free(window);
    free(extra);
    return is_good;
}

int64_t fiber_plan_check(bool fails_fast, int64_t *n_failed)
{
    enum { N_CHECKS = 60 };
    *n_failed = 0;
    for (uint64_t seed = 0; seed < N_CHECKS; seed++) {
        *n_failed += !check_plan(seed);
        if (fails_fast && *n_failed > 0) return (int64_t)seed + 1;
    }
    return N_CHECKS;
}
