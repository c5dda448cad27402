/*
 * fake_hip_memory.c - memory, streams and graphs of the stand-in for AMD's runtime.
 *
 * Place: tests. Device memory is aligned to 256 bytes as the real one; what is not written has the byte 0xdb.
 */
#include "fake_hip_state.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN_BYTES = 256, FRESH_BYTE = 0xdb, MAX_NODES = 256, HOST_TO_DEVICE = 1, DEVICE_TO_HOST };

typedef struct graph_state {
    fake_hip_call nodes[MAX_NODES];
    int n_nodes;
} graph_state;

typedef struct stream_state {
    graph_state *captured; /* NULL: not captured */
} stream_state;

static int n_blocks, n_captures;
static size_t n_used_bytes;

bool fake_hip_is_capturing(void)
{
    return n_captures > 0;
}

int fake_hip_n_blocks(void)
{
    return n_blocks;
}

bool fake_hip_keep(void *stream, const fake_hip_call *launch)
{
    stream_state *s = stream;
    if (s == NULL || s->captured == NULL) return false;
    if (s->captured->n_nodes == MAX_NODES) abort();
    s->captured->nodes[s->captured->n_nodes++] = *launch;
    return true;
}

/* Of calls that are not allowed while anything is captured. */
static int enter_waiting(const char *name)
{
    (void)fake_hip_record(name);
    int failure = fake_hip_failure(name);
    if (failure != 0) return failure;
    return fake_hip_is_capturing() ? FAKE_IN_CAPTURE : 0;
}

static int enter(const char *name)
{
    (void)fake_hip_record(name);
    return fake_hip_failure(name);
}

/* ---- memory ---- */

int hipMalloc(void **memory, size_t n_bytes)
{
    int status = enter_waiting("hipMalloc");
    if (status != 0) return status;
    const size_t rounded_bytes = (n_bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    *memory = aligned_alloc(ALIGN_BYTES, rounded_bytes);
    if (*memory == NULL) return FAKE_OUT_OF_MEMORY;
    memset(*memory, FRESH_BYTE, rounded_bytes);
    n_blocks++;
    n_used_bytes += malloc_usable_size(*memory);
    return 0;
}

int hipFree(void *memory)
{
    int status = enter_waiting("hipFree");
    if (status != 0) return status;
    n_blocks -= memory != NULL;
    n_used_bytes -= malloc_usable_size(memory);
    free(memory);
    return 0;
}

int hipMemset(void *memory, int byte, size_t n_bytes)
{
    int status = enter_waiting("hipMemset");
    if (status == 0) memset(memory, byte, n_bytes);
    return status;
}

int hipMemcpy(void *to, const void *from, size_t n_bytes, int kind)
{
    int status = enter_waiting("hipMemcpy");
    if (status != 0) return status;
    if (kind != HOST_TO_DEVICE && kind != DEVICE_TO_HOST) return FAKE_INVALID_VALUE;
    memcpy(to, from, n_bytes);
    return 0;
}

int hipMemcpy2D(void *to, size_t to_stride_bytes, const void *from, size_t from_stride_bytes,
                size_t row_bytes, size_t n_rows, int kind)
{
    int status = enter_waiting("hipMemcpy2D");
    if (status != 0) return status;
    if (kind != HOST_TO_DEVICE || row_bytes > to_stride_bytes || row_bytes > from_stride_bytes)
        return FAKE_INVALID_VALUE;
    for (size_t i = 0; i < n_rows; i++) {
        memcpy((char *)to + i * to_stride_bytes, (const char *)from + i * from_stride_bytes,
               row_bytes);
    }
    return 0;
}

int hipDeviceSynchronize(void)
{
    return enter_waiting("hipDeviceSynchronize");
}

/* What is left of 2 GiB, so that a leak is seen. */
int hipMemGetInfo(size_t *n_free, size_t *n_all)
{
    int status = enter_waiting("hipMemGetInfo");
    *n_all = (size_t)1 << 31;
    *n_free = *n_all - n_used_bytes;
    return status;
}

int hipHostMalloc(void **memory, size_t n_bytes, unsigned flags)
{
    int status = enter_waiting("hipHostMalloc");
    (void)flags;
    if (status != 0) return status;
    *memory = malloc(n_bytes);
    return *memory == NULL ? FAKE_OUT_OF_MEMORY : 0;
}

int hipHostFree(void *memory)
{
    int status = enter_waiting("hipHostFree");
    if (status == 0) free(memory);
    return status;
}

/* Copies are not kept in graphs: dsv4 captures kernels only. */
static int enter_stream(const char *name, void *stream)
{
    stream_state *s = stream;
    int status = enter(name);
    return status == 0 && s != NULL && s->captured != NULL ? FAKE_IN_CAPTURE : status;
}

int hipMemcpyAsync(void *to, const void *from, size_t n_bytes, int kind, void *stream)
{
    int status = enter_stream("hipMemcpyAsync", stream);
    if (status != 0) return status;
    if (kind != HOST_TO_DEVICE && kind != DEVICE_TO_HOST) return FAKE_INVALID_VALUE;
    memcpy(to, from, n_bytes);
    return 0;
}

int hipMemsetAsync(void *memory, int byte, size_t n_bytes, void *stream)
{
    int status = enter_stream("hipMemsetAsync", stream);
    if (status == 0) memset(memory, byte, n_bytes);
    return status;
}

/* ---- streams and graphs ---- */

int hipStreamCreateWithFlags(void **stream, unsigned flags)
{
    int status = enter("hipStreamCreateWithFlags");
    (void)flags;
    if (status != 0) return status;
    *stream = calloc(1, sizeof(stream_state));
    return *stream == NULL ? FAKE_OUT_OF_MEMORY : 0;
}

int hipStreamDestroy(void *stream)
{
    int status = enter("hipStreamDestroy");
    if (status == 0) free(stream);
    return status;
}

int hipStreamQuery(void *stream)
{
    (void)stream;
    return enter_waiting("hipStreamQuery");
}

int hipStreamBeginCapture(void *stream, int mode)
{
    stream_state *s = stream;
    int status = enter("hipStreamBeginCapture");
    (void)mode;
    if (status != 0) return status;
    if (s == NULL || s->captured != NULL) return FAKE_INVALID_VALUE;
    s->captured = calloc(1, sizeof(graph_state));
    if (s->captured == NULL) return FAKE_OUT_OF_MEMORY;
    n_captures++;
    return 0;
}

int hipStreamEndCapture(void *stream, void **graph)
{
    stream_state *s = stream;
    int status = enter("hipStreamEndCapture");
    if (s == NULL || s->captured == NULL) return FAKE_INVALID_VALUE;
    if (status == 0) {
        *graph = s->captured;
    } else { /* ended, without a graph */
        free(s->captured);
    }
    s->captured = NULL;
    n_captures--;
    return status;
}

int hipGraphGetNodes(void *graph, void **nodes, size_t *n_nodes)
{
    graph_state *g = graph;
    int status = enter("hipGraphGetNodes");
    if (status != 0) return status;
    for (int i = 0; nodes != NULL && i < g->n_nodes && (size_t)i < *n_nodes; i++) {
        nodes[i] = &g->nodes[i];
    }
    *n_nodes = (size_t)g->n_nodes;
    return 0;
}

int hipGraphNodeGetType(void *node, int *type)
{
    int status = enter("hipGraphNodeGetType");
    (void)node;
    *type = 0; /* hipGraphNodeTypeKernel: it keeps nothing else */
    return status;
}

/* What is launched is a copy: the graph may be gone by then. */
int hipGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags)
{
    int status = enter("hipGraphInstantiateWithFlags");
    (void)flags;
    if (status != 0) return status;
    *exec = malloc(sizeof(graph_state));
    if (*exec == NULL) return FAKE_OUT_OF_MEMORY;
    memcpy(*exec, graph, sizeof(graph_state));
    return 0;
}

int hipGraphLaunch(void *exec, void *stream)
{
    const graph_state *g = exec;
    int status = enter("hipGraphLaunch");
    (void)stream;
    for (int i = 0; status == 0 && i < g->n_nodes; i++) fake_hip_run(&g->nodes[i]);
    return status;
}

int hipGraphExecDestroy(void *exec)
{
    free(exec);
    return enter("hipGraphExecDestroy");
}

int hipGraphDestroy(void *graph)
{
    free(graph);
    return enter("hipGraphDestroy");
}
