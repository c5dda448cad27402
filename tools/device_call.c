/*
 * device_call.c - copies a call's tensors to the GPU, decodes or merges, copies back.
 *
 * Place: program; tests use it too.
 */
#include "device_call.h"

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "dsv4/cache.h"
#include "gpu_runtime.h"

enum { MAX_COPIES = 16, ALIGN_BYTES = 256, GUARD_BYTES = 256, GUARD_BYTE = 0xc9 };

/* Device memory of one run. */
typedef struct device_memory {
    const dsv4_gpu_runtime *gpu;
    void *blocks[MAX_COPIES];
    int32_t n_blocks;
    int status; /* the first failure */
} device_memory;

static void note(device_memory *m, int status)
{
    if (m->status == 0) m->status = status;
}

static void *device_alloc(device_memory *m, size_t n_bytes)
{
    void *block = NULL;
    note(m, m->n_blocks < MAX_COPIES ? m->gpu->alloc(&block, n_bytes + 2 * ALIGN_BYTES)
                                     : GPU_OUT_OF_MEMORY);
    if (block != NULL) m->blocks[m->n_blocks++] = block;
    return block;
}

/* A copy at the same place within 256 bytes; NULL stays NULL. */
static void *device_copy(device_memory *m, const void *host, int64_t n_bytes)
{
    if (host == NULL || n_bytes == 0) return NULL;
    unsigned char *block = device_alloc(m, (size_t)n_bytes);
    if (block == NULL) return NULL;
    block += (uintptr_t)host % ALIGN_BYTES;
    note(m, m->gpu->put(block, host, (size_t)n_bytes));
    return block;
}

/* Without what lies between pages: after the last one it need not be memory. The device has NaN there. */
static void copy_scope(device_memory *m, dsv4_attn_scope *scope, int64_t n_requests,
                       int64_t n_queries)
{
    if (scope->n_pages == 0) return;
    const int64_t stride = (scope->page_stride_bytes + 15) / 16 * 16;
    const int64_t row_bytes =
        scope->row_format == DSV4_ATTN_ROWS_F32 ? DSV4_ATTN_DIM * 4 : DSV4_CACHE_RECORD_BYTES;
    unsigned char *pages = device_alloc(m, (size_t)(scope->n_pages * stride));
    if (pages == NULL) return;
    note(m, m->gpu->fill(pages, 0xff, (size_t)(scope->n_pages * stride)));
    note(m, m->gpu->put_rows(pages, (size_t)stride, scope->cache, (size_t)scope->page_stride_bytes,
                             (size_t)(scope->page_rows * row_bytes), (size_t)scope->n_pages));
    scope->cache = pages;
    scope->page_stride_bytes = stride;
    if (scope->n_indices > 0) {
        scope->indices = device_copy(m, scope->indices,
                                     (n_requests - 1) * scope->indices_request_stride_bytes +
                                         (n_queries - 1) * scope->indices_query_stride_bytes +
                                         scope->n_indices * 4);
    }
    scope->lengths = device_copy(m, scope->lengths, n_requests * 4);
}

static int64_t extent(const dsv4_attn_params *p, int64_t request, int64_t query, int64_t head,
                      int64_t inner)
{
    return (p->n_requests - 1) * request + (p->n_queries - 1) * query + (p->n_heads - 1) * head +
           inner;
}

static void copy_inputs(device_memory *m, dsv4_attn_params *p)
{
    copy_scope(m, &p->window, p->n_requests, p->n_queries);
    copy_scope(m, &p->extra, p->n_requests, p->n_queries);
    p->q = device_copy(m, p->q,
                       extent(p, p->q_request_stride_bytes, p->q_query_stride_bytes,
                              p->q_head_stride_bytes, DSV4_ATTN_DIM * 2));
    p->sink = device_copy(m, p->sink, p->n_heads * 4);
    p->rope_table = device_copy(m, p->rope_table, p->n_rope_rows * DSV4_ATTN_ROPE_DIM * 4);
    if (p->rope_table != NULL)
        p->rope_rows = device_copy(m, p->rope_rows, p->n_requests * p->n_queries * 4);
}

/* The plan or the workspace: n_bytes of `fill` between guards. */
static unsigned char *guarded(device_memory *m, size_t n_bytes, int fill)
{
    unsigned char *block = device_alloc(m, n_bytes + 2 * GUARD_BYTES);
    if (block == NULL) return NULL;
    note(m, m->gpu->fill(block, GUARD_BYTE, n_bytes + 2 * GUARD_BYTES));
    note(m, m->gpu->fill(block + GUARD_BYTES, fill, n_bytes));
    return block + GUARD_BYTES;
}

static bool guards_hold(device_memory *m, const unsigned char *data, size_t n_bytes)
{
    unsigned char guards[2 * GUARD_BYTES];
    if (data == NULL) return false;
    note(m, m->gpu->get(guards, data - GUARD_BYTES, GUARD_BYTES));
    note(m, m->gpu->get(guards + GUARD_BYTES, data + n_bytes, GUARD_BYTES));
    bool holds = true;
    for (size_t i = 0; i < sizeof guards; i++) holds &= guards[i] == GUARD_BYTE;
    return holds;
}

static dsv4_status device_status(const device_memory *m, dsv4_error *error)
{
    if (m->status == 0) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_DEVICE, "device: %s", m->gpu->error_text(m->status));
}

/* Plan and workspace of a decode. */
typedef struct step_memory {
    unsigned char *plan, *workspace;
    size_t plan_bytes, workspace_bytes;
} step_memory;

/* For params, the plan of plan_fill and large enough for `planned`, unless that is NULL. */
static dsv4_status make_step(device_memory *m, const dsv4_attn_params *params,
                             const dsv4_attn_params *planned, int plan_fill, step_memory *step,
                             dsv4_error *error)
{
    size_t plan_bytes = 0, workspace_bytes;
    DSV4_TRY(dsv4_attn_plan_size(params, &step->plan_bytes, &step->workspace_bytes, error));
    if (planned != NULL)
        DSV4_TRY(dsv4_attn_plan_size(planned, &plan_bytes, &workspace_bytes, error));
    if (step->plan_bytes < plan_bytes) step->plan_bytes = plan_bytes;
    step->plan = guarded(m, step->plan_bytes, plan_fill);
    step->workspace = guarded(m, step->workspace_bytes, 0);
    return device_status(m, error);
}

/* Decodes with the plan as it is and waits. */
static dsv4_status decode_step(device_memory *m, const dsv4_attn_params *params,
                               const step_memory *step, dsv4_error *error)
{
    DSV4_TRY(dsv4_attn_decode(NULL, params, step->plan, step->plan_bytes, step->workspace,
                              step->workspace_bytes, error));
    note(m, m->gpu->wait());
    DSV4_TRY(device_status(m, error));
    if (guards_hold(m, step->plan, step->plan_bytes) &&
        guards_hold(m, step->workspace, step->workspace_bytes))
        return DSV4_OK;
    DSV4_TRY(device_status(m, error));
    return dsv4_error_set(error, DSV4_ERROR_DEVICE,
                          "bytes around the plan or the workspace were written");
}

static dsv4_status decode(device_memory *m, const dsv4_attn_params *params, dsv4_error *error)
{
    step_memory step;
    DSV4_TRY(make_step(m, params, NULL, 0xff, &step, error));
    DSV4_TRY(dsv4_attn_plan_build(NULL, params, step.plan, step.plan_bytes, error));
    return decode_step(m, params, &step, error);
}

/* The place on the device of a tensor that lies in a span. */
static void *moved(const void *tensor, const dsv4_device_span *span, unsigned char *block)
{
    return block + ((const unsigned char *)tensor - (const unsigned char *)span->bytes);
}

/* Copies of what a call writes, as it is. */
static void copy_written(device_memory *m, const dsv4_device_span *written, int n_written,
                         unsigned char **blocks)
{
    for (int i = 0; i < n_written; i++) {
        blocks[i] = device_copy(m, written[i].bytes, (int64_t)written[i].len_bytes);
    }
}

static dsv4_status fetch_written(device_memory *m, const dsv4_device_span *written, int n_written,
                                 unsigned char *const *blocks, dsv4_error *error)
{
    for (int i = 0; i < n_written; i++) {
        if (written[i].len_bytes == 0) continue;
        note(m, m->gpu->get(written[i].bytes, blocks[i], written[i].len_bytes));
        DSV4_TRY(device_status(m, error));
    }
    return DSV4_OK;
}

/* Ends a call: what it wrote comes back unless it failed, and its memory is given back. */
static dsv4_status finish_call(device_memory *m, dsv4_status status,
                               const dsv4_device_span *written, int n_written,
                               unsigned char *const *blocks, dsv4_error *error)
{
    if (status == DSV4_OK) status = fetch_written(m, written, n_written, blocks, error);
    for (int32_t i = 0; i < m->n_blocks; i++) (void)m->gpu->release(m->blocks[i]);
    return status;
}

/* Copies everything of a decode to the device, where *p then is. */
static dsv4_status copy_decode(device_memory *m, const dsv4_attn_params *params,
                               const dsv4_device_span *written, unsigned char **blocks,
                               dsv4_attn_params *p, dsv4_error *error)
{
    *p = *params;
    copy_written(m, written, DSV4_DEVICE_WRITTEN, blocks);
    copy_inputs(m, p);
    DSV4_TRY(device_status(m, error));
    p->out = moved(params->out, &written[0], blocks[0]);
    if (params->lse != NULL) p->lse = moved(params->lse, &written[1], blocks[1]);
    if (params->out_dtype == DSV4_DTYPE_FP8)
        p->out_scales = moved(params->out_scales, &written[2], blocks[2]);
    return DSV4_OK;
}

dsv4_status dsv4_device_call_decode(const dsv4_attn_params *params,
                                    const dsv4_device_span written[DSV4_DEVICE_WRITTEN],
                                    dsv4_error *error)
{
    device_memory m = {0};
    dsv4_attn_params p;
    unsigned char *blocks[DSV4_DEVICE_WRITTEN];
    DSV4_TRY(dsv4_gpu_runtime_find(params->backend, &m.gpu, error));
    dsv4_status status = copy_decode(&m, params, written, blocks, &p, error);
    if (status == DSV4_OK) status = decode(&m, &p, error);
    return finish_call(&m, status, written, DSV4_DEVICE_WRITTEN, blocks, error);
}

/* The first decode is that with the wrong plan. */
static dsv4_status decode_twice(device_memory *m, const dsv4_attn_params *params,
                                const dsv4_attn_params *planned, const dsv4_device_span *written,
                                unsigned char *const *blocks, dsv4_error *error)
{
    step_memory step;
    DSV4_TRY(make_step(m, params, planned, 0, &step, error));
    if (planned != NULL)
        DSV4_TRY(dsv4_attn_plan_build(NULL, planned, step.plan, step.plan_bytes, error));
    DSV4_TRY(decode_step(m, params, &step, error));
    DSV4_TRY(fetch_written(m, written, DSV4_DEVICE_WRITTEN, blocks, error));
    DSV4_TRY(dsv4_attn_plan_build(NULL, params, step.plan, step.plan_bytes, error));
    return decode_step(m, params, &step, error);
}

dsv4_status dsv4_device_call_refused(const dsv4_attn_params *params,
                                     const dsv4_attn_params *planned,
                                     const dsv4_device_span written[DSV4_DEVICE_WRITTEN],
                                     const dsv4_device_span after[DSV4_DEVICE_WRITTEN],
                                     dsv4_error *error)
{
    device_memory m = {0};
    dsv4_attn_params p;
    unsigned char *blocks[DSV4_DEVICE_WRITTEN];
    DSV4_TRY(dsv4_gpu_runtime_find(params->backend, &m.gpu, error));
    dsv4_status status = copy_decode(&m, params, written, blocks, &p, error);
    if (status == DSV4_OK) status = decode_twice(&m, &p, planned, written, blocks, error);
    return finish_call(&m, status, after, DSV4_DEVICE_WRITTEN, blocks, error);
}

dsv4_status dsv4_device_call_merge(const dsv4_attn_merge_params *params,
                                   const dsv4_device_span written[2], dsv4_error *error)
{
    device_memory m = {0};
    dsv4_attn_merge_params p = *params;
    unsigned char *blocks[2];
    const int64_t n_heads = p.n_parts * p.n_rows * p.n_heads;
    const int64_t value_bytes = p.part_dtype == DSV4_DTYPE_F32 ? 4 : 2;
    DSV4_TRY(dsv4_gpu_runtime_find(params->backend, &m.gpu, error));
    copy_written(&m, written, 2, blocks);
    p.out_parts = device_copy(&m, p.out_parts, n_heads * DSV4_ATTN_DIM * value_bytes);
    p.lse_parts = device_copy(&m, p.lse_parts, n_heads * 4);
    p.sink = device_copy(&m, p.sink, p.n_heads * 4);
    dsv4_status status = device_status(&m, error);
    if (status == DSV4_OK) {
        p.out = moved(params->out, &written[0], blocks[0]);
        if (params->lse != NULL) p.lse = moved(params->lse, &written[1], blocks[1]);
        status = dsv4_attn_merge(NULL, &p, error);
    }
    if (status == DSV4_OK) {
        note(&m, m.gpu->wait());
        status = device_status(&m, error);
    }
    return finish_call(&m, status, written, 2, blocks, error);
}
