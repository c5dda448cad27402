/*
 * attn_bench_gpu.c - steps of decodes in a graph, timed.
 *
 * Place: program, bench. Failures of the runtime are noted, the first one counts; calls after it do nothing that matters.
 */
#include "attn_bench_gpu.h"

#include <stdlib.h>

#include "base/error.h"
#include "bench_ceiling.h"
#include "bench_clock.h"

enum {
    COPIES = 16,    /* of two pools of 78 MB: 1.2 GB each, rows enough for 256 requests of 8192 */
    PAGE_ROWS = 64, /* of a pool */
    FLUSH_BYTE = 0x5a, /* whatever */
};

#define FLUSH_BYTES ((size_t)1 << 30) /* four times the largest cache of a chip so far */

static void note(dsv4_bench_gpu *b, int status)
{
    if (b->status == 0) b->status = status;
}

static dsv4_status check(const dsv4_bench_gpu *b, dsv4_error *error)
{
    if (b->status == 0) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_DEVICE, "device: %.300s",
                          b->gpu->error_text(b->status));
}

static void *device_alloc(dsv4_bench_gpu *b, size_t n_bytes)
{
    void *block = NULL;
    note(b,
         b->n_blocks < DSV4_BENCH_GPU_BLOCKS ? b->gpu->alloc(&block, n_bytes) : GPU_OUT_OF_MEMORY);
    if (block != NULL) b->blocks[b->n_blocks++] = block;
    return block;
}

static const void *device_copy(dsv4_bench_gpu *b, const void *host, size_t n_bytes)
{
    void *block = device_alloc(b, n_bytes);
    if (block != NULL) note(b, b->gpu->put(block, host, n_bytes));
    return block;
}

static void release_from(dsv4_bench_gpu *b, int32_t first)
{
    while (b->n_blocks > first) (void)b->gpu->release(b->blocks[--b->n_blocks]);
}

/* The copies of a pool, and slots that name the rows of all of them. */
static dsv4_status copy_pool(dsv4_bench_gpu *b, int which, const dsv4_bench_pool *pool,
                             dsv4_error *error)
{
    const int64_t n_pages = pool->n_slots / PAGE_ROWS;
    dsv4_attn_scope *scope = &b->scopes[which];
    dsv4_bench_pool_scope(pool, 0, scope);
    const size_t pool_bytes = (size_t)(n_pages * scope->page_stride_bytes);
    unsigned char *cache = device_alloc(b, pool_bytes * (size_t)b->n_copies);
    b->n_slots[which] = pool->n_slots * b->n_copies;
    int32_t *slots = malloc((size_t)b->n_slots[which] * sizeof *slots);
    if (slots == NULL)
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory for index lists");
    for (int32_t copy = 0; cache != NULL && copy < b->n_copies; copy++) {
        note(b, b->gpu->put(cache + (size_t)copy * pool_bytes, pool->cache, pool_bytes));
        for (int64_t i = 0; i < pool->n_slots; i++) {
            slots[copy * pool->n_slots + i] = (int32_t)(copy * pool->n_slots) + pool->slots[i];
        }
    }
    b->slots[which] = device_copy(b, slots, (size_t)b->n_slots[which] * sizeof *slots);
    free(slots);
    scope->cache = cache;
    scope->n_pages = n_pages * b->n_copies;
    return check(b, error);
}

dsv4_status dsv4_bench_gpu_open(dsv4_bench_gpu *b, int32_t backend, bool is_quick,
                                const dsv4_bench_pool *window, const dsv4_bench_pool *extra,
                                const uint16_t *q, int64_t n_q_values, const float *sink,
                                int64_t n_sinks, dsv4_error *error)
{
    *b = (dsv4_bench_gpu){.n_copies = is_quick ? 1 : COPIES,
                          .flush_bytes = is_quick ? 0 : FLUSH_BYTES};
    DSV4_TRY(dsv4_gpu_runtime_find(backend, &b->gpu, error));
    note(b, b->gpu->device_text(b->device, sizeof b->device));
    note(b, b->gpu->stream_open(&b->stream));
    if (b->flush_bytes > 0) b->flush = device_alloc(b, b->flush_bytes);
    DSV4_TRY(copy_pool(b, 0, window, error));
    DSV4_TRY(copy_pool(b, 1, extra, error));
    b->q = device_copy(b, q, (size_t)n_q_values * sizeof *q);
    b->sink = device_copy(b, sink, (size_t)n_sinks * sizeof *sink);
    b->n_kept = b->n_blocks;
    return check(b, error);
}

void dsv4_bench_gpu_close(dsv4_bench_gpu *b)
{
    if (b->gpu == NULL) return;
    if (b->stream != NULL) (void)b->gpu->stream_close(b->stream);
    release_from(b, 0);
    *b = (dsv4_bench_gpu){0};
}

/* The next lists of a scope. */
static void name_rows(dsv4_bench_gpu *b, int which, int64_t n_requests, dsv4_attn_scope *scope)
{
    const int64_t n_named = n_requests * scope->n_indices;
    if (b->cursor[which] + n_named > b->n_slots[which]) b->cursor[which] = 0;
    scope->indices = b->slots[which] + b->cursor[which];
    b->cursor[which] += n_named;
}

static void place_scope(const dsv4_bench_gpu *b, int which, dsv4_attn_scope *scope)
{
    const int64_t n_indices = scope->n_pages > 0 ? scope->n_indices : 0;
    if (n_indices == 0) return;
    *scope = b->scopes[which];
    scope->n_indices = n_indices;
}

/* Plan, workspace and the step's calls. */
typedef struct step {
    dsv4_attn_params params;
    unsigned char *plan, *workspace;
    size_t plan_bytes, workspace_bytes;
} step;

static dsv4_status step_open(dsv4_bench_gpu *b, const dsv4_attn_params *params, step *s,
                             dsv4_error *error)
{
    dsv4_attn_params *p = &s->params;
    *p = *params;
    place_scope(b, 0, &p->window);
    place_scope(b, 1, &p->extra);
    dsv4_attn_params_set_dense(p);
    p->q = b->q;
    p->sink = b->sink;
    DSV4_TRY(dsv4_attn_plan_size(p, &s->plan_bytes, &s->workspace_bytes, error));
    p->out = device_alloc(b, (size_t)(p->n_requests * p->out_request_stride_bytes));
    p->lse = device_alloc(b, (size_t)(p->n_requests * p->lse_request_stride_bytes));
    s->plan = device_alloc(b, s->plan_bytes);
    s->workspace = device_alloc(b, s->workspace_bytes);
    DSV4_TRY(check(b, error));
    note(b, b->gpu->fill(s->workspace, 0, s->workspace_bytes));
    note(b, b->gpu->wait());
    return check(b, error);
}

static dsv4_status enqueue(dsv4_bench_gpu *b, step *s, dsv4_error *error)
{
    DSV4_TRY(dsv4_attn_plan_build(b->stream, &s->params, s->plan, s->plan_bytes, error));
    for (int i = 0; i < DSV4_BENCH_GPU_DECODES; i++) {
        name_rows(b, 0, s->params.n_requests, &s->params.window);
        if (s->params.extra.n_pages > 0) name_rows(b, 1, s->params.n_requests, &s->params.extra);
        DSV4_TRY(dsv4_attn_decode(b->stream, &s->params, s->plan, s->plan_bytes, s->workspace,
                                  s->workspace_bytes, error));
    }
    return DSV4_OK;
}

static dsv4_status capture(dsv4_bench_gpu *b, step *s, void **exec, dsv4_error *error)
{
    void *graph = NULL;
    note(b, b->gpu->capture_begin(b->stream));
    DSV4_TRY(check(b, error));
    dsv4_status status = enqueue(b, s, error);
    note(b, b->gpu->capture_end(b->stream, &graph));
    if (status == DSV4_OK) status = check(b, error);
    if (status == DSV4_OK) {
        note(b, b->gpu->exec_open(exec, graph));
        status = check(b, error);
    }
    if (graph != NULL) (void)b->gpu->graph_close(graph);
    return status;
}

/* Of one decode; the first launch is not counted. */
static dsv4_status time_launches(dsv4_bench_gpu *b, void *exec, dsv4_bench_gpu_time *time,
                                 dsv4_error *error)
{
    double times_s[DSV4_BENCH_GPU_ROUNDS];
    *time = (dsv4_bench_gpu_time){.least_s = 1e30};
    for (int i = -1; i < DSV4_BENCH_GPU_ROUNDS; i++) {
        if (b->flush != NULL) note(b, b->gpu->fill(b->flush, FLUSH_BYTE, b->flush_bytes));
        note(b, b->gpu->wait());
        const double start_s = dsv4_bench_now_s();
        note(b, b->gpu->exec_launch(exec, b->stream));
        note(b, b->gpu->wait());
        const double decode_s = (dsv4_bench_now_s() - start_s) / DSV4_BENCH_GPU_DECODES;
        DSV4_TRY(check(b, error));
        if (i < 0) continue;
        times_s[i] = decode_s;
        if (decode_s < time->least_s) time->least_s = decode_s;
        if (decode_s > time->most_s) time->most_s = decode_s;
    }
    time->median_s = dsv4_bench_median(times_s, DSV4_BENCH_GPU_ROUNDS);
    return DSV4_OK;
}

dsv4_status dsv4_bench_gpu_measure(dsv4_bench_gpu *b, const dsv4_attn_params *params,
                                   dsv4_bench_gpu_time *time, dsv4_error *error)
{
    step s = {0};
    void *exec = NULL;
    dsv4_status status = step_open(b, params, &s, error);
    if (status == DSV4_OK) status = capture(b, &s, &exec, error);
    if (status == DSV4_OK) status = time_launches(b, exec, time, error);
    if (exec != NULL) (void)b->gpu->exec_close(exec);
    release_from(b, b->n_kept);
    return status;
}
