/*
 * attn_device.c - one decode of host tensors on the GPU.
 *
 * Place: tests.
 */
#include "attn_device.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn_run.h"

enum { MAX_COPIES = 16, ALIGN_BYTES = 256, GUARD_BYTES = 256, GUARD_BYTE = 0xc9 };

/* Device memory of one run. */
typedef struct device_memory {
    void *blocks[MAX_COPIES];
    int32_t n_blocks;
    cudaError_t status; /* the first failure */
} device_memory;

static void note(device_memory *m, cudaError_t status)
{
    if (m->status == cudaSuccess) m->status = status;
}

static void *device_alloc(device_memory *m, size_t n_bytes)
{
    void *block = NULL;
    note(m, cudaMalloc(&block, n_bytes + 2 * ALIGN_BYTES));
    if (block != NULL) m->blocks[m->n_blocks++] = block;
    return block;
}

/* A copy at the same place within 256 bytes; NULL stays NULL. */
static void *device_copy(device_memory *m, const void *host, int64_t n_bytes)
{
    if (host == NULL) return NULL;
    unsigned char *block = device_alloc(m, (size_t)n_bytes);
    if (block == NULL) return NULL;
    block += (uintptr_t)host % ALIGN_BYTES;
    note(m, cudaMemcpy(block, host, (size_t)n_bytes, cudaMemcpyHostToDevice));
    return block;
}

static void copy_scope(device_memory *m, dsv4_attn_scope *scope, int64_t n_requests,
                       int64_t n_queries)
{
    if (scope->n_pages == 0) return;
    const int64_t stride = (scope->page_stride_bytes + 15) / 16 * 16;
    unsigned char *pages = device_alloc(m, (size_t)(scope->n_pages * stride));
    if (pages == NULL) return;
    note(m, cudaMemcpy2D(pages, (size_t)stride, scope->cache, (size_t)scope->page_stride_bytes,
                         (size_t)scope->page_stride_bytes, (size_t)scope->n_pages,
                         cudaMemcpyHostToDevice));
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
    note(m, cudaMemset(block, GUARD_BYTE, n_bytes + 2 * GUARD_BYTES));
    note(m, cudaMemset(block + GUARD_BYTES, fill, n_bytes));
    return block + GUARD_BYTES;
}

static bool guards_hold(device_memory *m, const unsigned char *data, size_t n_bytes)
{
    unsigned char guards[2 * GUARD_BYTES];
    if (data == NULL) return false;
    note(m, cudaMemcpy(guards, data - GUARD_BYTES, GUARD_BYTES, cudaMemcpyDeviceToHost));
    note(m, cudaMemcpy(guards + GUARD_BYTES, data + n_bytes, GUARD_BYTES, cudaMemcpyDeviceToHost));
    bool holds = true;
    for (size_t i = 0; i < sizeof guards; i++) holds &= guards[i] == GUARD_BYTE;
    return holds;
}

bool attn_device_is_there(char *text)
{
    int n_devices = 0;
    cudaError_t status = cudaGetDeviceCount(&n_devices);
    if (status == cudaSuccess && n_devices > 0) return true;
    snprintf(text, ATTN_TEXT_BYTES, "no CUDA device: %s", cudaGetErrorString(status));
    return false;
}

/* Decodes into the written tensors' blocks and copies those back. */
static bool run_once(const dsv4_attn_params *p, unsigned char *plan, size_t plan_bytes,
                     unsigned char *workspace, size_t workspace_bytes, device_memory *m,
                     attn_tensor *const written[2], unsigned char *const blocks[2], char *text)
{
    dsv4_error error;
    for (int i = 0; i < 2; i++) {
        attn_tensor_poison(written[i]);
        note(m, cudaMemcpy(blocks[i], written[i]->block, (size_t)written[i]->block_bytes,
                           cudaMemcpyHostToDevice));
    }
    if (dsv4_attn_decode(NULL, p, plan, plan_bytes, workspace, workspace_bytes, &error) !=
        DSV4_OK) {
        snprintf(text, ATTN_TEXT_BYTES, "decode: %s", error.text);
        return false;
    }
    note(m, cudaDeviceSynchronize());
    for (int i = 0; i < 2; i++) {
        note(m, cudaMemcpy(written[i]->block, blocks[i], (size_t)written[i]->block_bytes,
                           cudaMemcpyDeviceToHost));
    }
    if (m->status != cudaSuccess)
        snprintf(text, ATTN_TEXT_BYTES, "device: %s", cudaGetErrorString(m->status));
    return m->status == cudaSuccess;
}

static bool run_twice(const dsv4_attn_params *p, device_memory *m, attn_tensor *const written[2],
                      unsigned char *const blocks[2], char *text)
{
    dsv4_error error;
    size_t plan_bytes, workspace_bytes;
    if (dsv4_attn_plan_size(p, &plan_bytes, &workspace_bytes, &error) != DSV4_OK) {
        snprintf(text, ATTN_TEXT_BYTES, "plan_size: %s", error.text);
        return false;
    }
    unsigned char *plan = guarded(m, plan_bytes, 0xff), *workspace = guarded(m, workspace_bytes, 0);
    if (dsv4_attn_plan_build(NULL, p, plan, plan_bytes, &error) != DSV4_OK) {
        snprintf(text, ATTN_TEXT_BYTES, "plan_build: %s", error.text);
        return false;
    }
    unsigned char *first = attn_alloc(written[0]->block_bytes);
    bool is_good =
        run_once(p, plan, plan_bytes, workspace, workspace_bytes, m, written, blocks, text);
    memcpy(first, written[0]->block, (size_t)written[0]->block_bytes);
    is_good = is_good &&
              run_once(p, plan, plan_bytes, workspace, workspace_bytes, m, written, blocks, text);
    if (is_good && memcmp(first, written[0]->block, (size_t)written[0]->block_bytes) != 0) {
        snprintf(text, ATTN_TEXT_BYTES, "out: a second run has other bits");
        is_good = false;
    }
    free(first);
    if (is_good &&
        !(guards_hold(m, plan, plan_bytes) && guards_hold(m, workspace, workspace_bytes))) {
        snprintf(text, ATTN_TEXT_BYTES, "wrote outside the plan or the workspace");
        is_good = false;
    }
    return is_good;
}

bool attn_device_run(const dsv4_attn_params *params, attn_tensor *out, attn_tensor *lse, char *text)
{
    device_memory m = {.status = cudaSuccess};
    dsv4_attn_params p = *params;
    attn_tensor *const written[2] = {out, lse};
    unsigned char *blocks[2];
    for (int i = 0; i < 2; i++)
        blocks[i] = device_copy(&m, written[i]->block, written[i]->block_bytes);
    copy_inputs(&m, &p);
    bool is_good = m.status == cudaSuccess;
    if (is_good) {
        p.out = blocks[0] + (out->data - out->block);
        if (p.lse != NULL) p.lse = (float *)(void *)(blocks[1] + (lse->data - lse->block));
        is_good = run_twice(&p, &m, written, blocks, text);
    } else {
        snprintf(text, ATTN_TEXT_BYTES, "device: %s", cudaGetErrorString(m.status));
    }
    for (int32_t i = 0; i < m.n_blocks; i++) (void)cudaFree(m.blocks[i]);
    return is_good;
}
