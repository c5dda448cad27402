/*
 * fiber_decode.c - src/gpu's kernels on fibers, with the arguments that a device's host side makes.
 *
 * Place: tests.
 */
#include "fiber_decode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dsv4/cache.h"
#include "fiber_kernels.h"
#include "fiber_run.h"
#include "gpu/attn_host.h"
#include "gpu/code_objects.h"

enum {
    GUARD_BYTES = 256,
    GUARD_BYTE = 0xc9,
    COUNTER_BYTES = 64,
    WAVE_THREADS = 64,
    WARP_THREADS = 32
};

void dsv4_attn_bf16_h16_small(attn_args args);
void dsv4_attn_bf16_h32_small(attn_args args);

static void run_small_h16(const void *args)
{
    dsv4_attn_bf16_h16_small(*(const attn_args *)args);
}

static void run_small_h32(const void *args)
{
    dsv4_attn_bf16_h32_small(*(const attn_args *)args);
}

/* A block between guards. */
typedef struct guarded {
    unsigned char *block, *data;
    size_t n_bytes;
} guarded;

static guarded guarded_make(size_t n_bytes, int fill)
{
    guarded g = {.n_bytes = n_bytes};
    size_t all = (n_bytes + 63) / 64 * 64 + 2 * GUARD_BYTES;
    g.block = aligned_alloc(64, all);
    if (g.block == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(3);
    }
    memset(g.block, GUARD_BYTE, all);
    g.data = g.block + GUARD_BYTES;
    memset(g.data, fill, n_bytes);
    return g;
}

static bool guarded_free(guarded *g)
{
    bool is_good = true;
    for (size_t i = 0; i < GUARD_BYTES; i++) {
        is_good &= g->block[i] == GUARD_BYTE && g->data[g->n_bytes + i] == GUARD_BYTE;
    }
    free(g->block);
    return is_good;
}

static const fiber_kernel *find_way(const fiber_way *way)
{
    static const fiber_kernel small_h16 = {run_small_h16, WAVE_THREADS, 1},
                              small_h32 = {run_small_h32, WAVE_THREADS, 1};
    char name[40];
    if (way->is_small) return way->group_heads == 16 ? &small_h16 : &small_h32;
    (void)snprintf(name, sizeof name, "dsv4_attn_%s_h%d",
                   way->math == DSV4_ATTN_MATH_FP8 ? "fp8" : "bf16", way->group_heads);
    return fiber_kernel_find(name, WAVE_THREADS);
}

/* Pages where copies of 16 bytes may begin, as a device's host side has them; far pools lie so. */
static guarded align_pages(dsv4_attn_scope *scope)
{
    const int64_t stride = (scope->page_stride_bytes + 15) / 16 * 16,
                  n_bytes = scope->n_pages * stride;
    const bool is_far = n_bytes > INT64_C(1) << 28;
    guarded pages = guarded_make(is_far ? 0 : (size_t)n_bytes, 0xff);
    if (is_far) return pages;
    for (int64_t i = 0; i < scope->n_pages; i++) {
        memcpy(pages.data + i * stride,
               (const unsigned char *)scope->cache + i * scope->page_stride_bytes,
               (size_t)(scope->page_rows * DSV4_CACHE_RECORD_BYTES));
    }
    scope->cache = pages.data;
    scope->page_stride_bytes = stride;
    return pages;
}

/* Of the kernels without matrix products, as this way's device has them. */
static void run_shared(const fiber_way *way, const char *name, const void *args, int n_blocks,
                       int n_threads)
{
    fiber_run(fiber_kernel_find(name, way->cuda != NULL ? WARP_THREADS : WAVE_THREADS), args,
              n_blocks, n_threads, way->downwards);
}

/* cuda: the kernel of src/cuda that has this shape, or NULL. */
static void run_way(const fiber_way *way, const fiber_cuda_way *cuda, const attn_args *args)
{
    if (cuda != NULL) {
        fiber_cuda_decode(cuda, args, way->n_thread_blocks, !way->copies_at_once,
                          2 * way->seed + way->copies_at_once);
        return;
    }
    fiber_copies_at_once = way->copies_at_once;
    fiber_run(find_way(way), args, way->n_thread_blocks, DECODE_BLOCK_THREADS, way->downwards);
    fiber_copies_at_once = false;
}

static bool decode_pages(const dsv4_attn_params *params, const fiber_way *way, bool is_refused,
                         char *text)
{
    const dsv4_attn_gpu_costs costs = {.n_streams = 1,
                                       .n_alone = way->n_thread_blocks,
                                       .split_fixed = 0.5f,
                                       .split = way->least_parts > 0 ? 0.01f : 0.1f};
    dsv4_attn_gpu_shape shape;
    dsv4_error error;
    int32_t least_heads;
    const fiber_cuda_way *joined = way->joins && dsv4_attn_gpu_can_join(params, &least_heads)
                                       ? fiber_cuda_find_joined(way->cuda, least_heads)
                                       : NULL;
    const bool is_joined = joined != NULL;
    const int32_t group_heads = is_joined ? joined->group_heads : way->group_heads;
    if (dsv4_attn_gpu_describe(params, group_heads, way->n_thread_blocks, 0, is_joined, &shape,
                               &error) != DSV4_OK) {
        snprintf(text, FIBER_TEXT_BYTES, "%.*s", FIBER_TEXT_BYTES - 1, error.text);
        return false;
    }
    guarded plan = guarded_make(shape.plan_bytes, 0xff);
    guarded workspace = guarded_make(shape.workspace_bytes, 0xff);
    const size_t n_counter_bytes = (size_t)way->n_thread_blocks * COUNTER_BYTES;
    memset(workspace.data, 0, n_counter_bytes);
    attn_plan_args p;
    dsv4_attn_gpu_plan_args(params, &shape, &costs, plan.data, &p);
    p.may_split = way->may_split;
    run_shared(way, "dsv4_attn_plan", &p, 1, ATTN_PLAN_THREADS);
    attn_plan_head head;
    memcpy(&head, plan.data, sizeof head);
    attn_args a;
    dsv4_attn_gpu_args(params, &shape, plan.data, workspace.data, &a);
    if (is_refused) a.fingerprint ^= UINT64_C(1) << 40;
    if (is_joined) {
        attn_join_args join;
        dsv4_attn_gpu_join_args(params, &shape, plan.data, workspace.data, &join);
        if (is_refused) join.fingerprint = a.fingerprint;
        run_shared(way, "dsv4_attn_join", &join, (int)(2 * params->n_requests), ATTN_JOIN_THREADS);
    }
    run_way(way, is_joined ? joined : way->cuda, &a);
    bool is_good = true;
    for (size_t i = 0; i < n_counter_bytes; i++) is_good &= workspace.data[i] == 0;
    if (!is_good) snprintf(text, FIBER_TEXT_BYTES, "a counter is not 0 behind the decode");
    if (head.n_parts < way->least_parts) {
        snprintf(text, FIBER_TEXT_BYTES, "%d parts, at least %d expected", (int)head.n_parts,
                 (int)way->least_parts);
        is_good = false;
    }
    bool has_guards = guarded_free(&plan);
    has_guards &= guarded_free(&workspace);
    if (!has_guards) snprintf(text, FIBER_TEXT_BYTES, "wrote outside plan or workspace");
    return is_good && has_guards;
}

static bool decode(const dsv4_attn_params *params, const fiber_way *way, bool is_refused,
                   char *text)
{
    if (way->cuda == NULL) return decode_pages(params, way, is_refused, text);
    dsv4_attn_params aligned = *params;
    guarded window = align_pages(&aligned.window), extra = align_pages(&aligned.extra);
    bool is_good = decode_pages(&aligned, way, is_refused, text);
    const bool has_window = guarded_free(&window), has_extra = guarded_free(&extra);
    if (!has_window || !has_extra) snprintf(text, FIBER_TEXT_BYTES, "wrote outside a pool");
    return is_good && has_window && has_extra;
}

bool fiber_decode(const dsv4_attn_params *params, const fiber_way *way, char *text)
{
    return decode(params, way, false, text);
}

bool fiber_decode_refused(const dsv4_attn_params *params, const fiber_way *way, char *text)
{
    return decode(params, way, true, text);
}

void fiber_merge(const dsv4_attn_merge_params *params, int wave_threads, int n_thread_blocks)
{
    attn_merge_args args;
    dsv4_attn_gpu_merge_args(params, &args);
    fiber_run(fiber_kernel_find("dsv4_attn_merge", wave_threads), &args, n_thread_blocks,
              ATTN_MERGE_WAVES * wave_threads, false);
}
