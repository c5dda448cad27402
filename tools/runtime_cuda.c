/*
 * runtime_cuda.c - CUDA's runtime as gpu_runtime.h wants it.
 *
 * Place: program; tests use it too.
 */
#include "gpu_runtime.h"

#include <cuda_runtime_api.h>
#include <stdio.h>

#include "dsv4/attn.h"

static const char *error_text(int status)
{
    return cudaGetErrorString((cudaError_t)status);
}

static int count(int *n_devices)
{
    return (int)cudaGetDeviceCount(n_devices);
}

static int device_text(char *text, size_t text_bytes)
{
    struct cudaDeviceProp properties;
    int device = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = cudaGetDeviceProperties(&properties, device);
    if (status != cudaSuccess) return (int)status;
    (void)snprintf(text, text_bytes, "%s, sm_%d%d", properties.name, properties.major,
                   properties.minor);
    return 0;
}

static int leave_error(void)
{
    return (int)cudaSetDevice(-1);
}

static int last_error(void)
{
    return (int)cudaGetLastError();
}

static int alloc(void **memory, size_t n_bytes)
{
    return (int)cudaMalloc(memory, n_bytes);
}

static int release(void *memory)
{
    return (int)cudaFree(memory);
}

static int fill(void *memory, int byte, size_t n_bytes)
{
    return (int)cudaMemset(memory, byte, n_bytes);
}

static int put(void *device, const void *host, size_t n_bytes)
{
    return (int)cudaMemcpy(device, host, n_bytes, cudaMemcpyHostToDevice);
}

static int get(void *host, const void *device, size_t n_bytes)
{
    return (int)cudaMemcpy(host, device, n_bytes, cudaMemcpyDeviceToHost);
}

static int put_rows(void *device, size_t device_stride_bytes, const void *host,
                    size_t host_stride_bytes, size_t row_bytes, size_t n_rows)
{
    return (int)cudaMemcpy2D(device, device_stride_bytes, host, host_stride_bytes, row_bytes,
                             n_rows, cudaMemcpyHostToDevice);
}

static int wait(void)
{
    return (int)cudaDeviceSynchronize();
}

static int free_bytes(size_t *n_free, size_t *n_all)
{
    return (int)cudaMemGetInfo(n_free, n_all);
}

static int alloc_host(void **memory, size_t n_bytes)
{
    return (int)cudaMallocHost(memory, n_bytes);
}

static int release_host(void *memory)
{
    return (int)cudaFreeHost(memory);
}

/* ---- streams ---- */

static int stream_open(void **stream)
{
    cudaStream_t opened = NULL;
    int status = (int)cudaStreamCreateWithFlags(&opened, cudaStreamNonBlocking);
    *stream = opened;
    return status;
}

static int stream_close(void *stream)
{
    return (int)cudaStreamDestroy(stream);
}

static int stream_query(void *stream)
{
    return (int)cudaStreamQuery(stream);
}

static int put_later(void *device, const void *host, size_t n_bytes, void *stream)
{
    return (int)cudaMemcpyAsync(device, host, n_bytes, cudaMemcpyHostToDevice, stream);
}

static int get_later(void *host, const void *device, size_t n_bytes, void *stream)
{
    return (int)cudaMemcpyAsync(host, device, n_bytes, cudaMemcpyDeviceToHost, stream);
}

static int fill_later(void *device, int byte, size_t n_bytes, void *stream)
{
    return (int)cudaMemsetAsync(device, byte, n_bytes, stream);
}

/* ---- graphs ---- */

_Static_assert((int)cudaErrorMemoryAllocation == GPU_OUT_OF_MEMORY, "CUDA's number");
_Static_assert((int)cudaErrorNotReady == GPU_NOT_READY, "CUDA's number");
_Static_assert((int)cudaGraphNodeTypeKernel == GPU_NODE_KERNEL, "CUDA's number");

static int capture_begin(void *stream)
{
    return (int)cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
}

static int capture_end(void *stream, void **graph)
{
    cudaGraph_t captured = NULL;
    int status = (int)cudaStreamEndCapture(stream, &captured);
    *graph = captured;
    return status;
}

static int graph_nodes(void *graph, void **nodes, size_t *n_nodes)
{
    return (int)cudaGraphGetNodes(graph, (cudaGraphNode_t *)nodes, n_nodes);
}

static int node_type(void *node, int *type)
{
    enum cudaGraphNodeType found = cudaGraphNodeTypeEmpty;
    int status = (int)cudaGraphNodeGetType(node, &found);
    *type = (int)found;
    return status;
}

static int graph_close(void *graph)
{
    return (int)cudaGraphDestroy(graph);
}

static int exec_open(void **exec, void *graph)
{
    cudaGraphExec_t opened = NULL;
    int status = (int)cudaGraphInstantiate(&opened, graph, 0);
    *exec = opened;
    return status;
}

static int exec_launch(void *exec, void *stream)
{
    return (int)cudaGraphLaunch(exec, stream);
}

static int exec_close(void *exec)
{
    return (int)cudaGraphExecDestroy(exec);
}

dsv4_status dsv4_gpu_runtime_cuda(const dsv4_gpu_runtime **runtime, dsv4_error *error)
{
    static const dsv4_gpu_runtime cuda = {
        .name = "CUDA",
        .backend = DSV4_BACKEND_CUDA,
        .error_text = error_text,
        .count = count,
        .device_text = device_text,
        .leave_error = leave_error,
        .last_error = last_error,
        .alloc = alloc,
        .release = release,
        .fill = fill,
        .put = put,
        .get = get,
        .put_rows = put_rows,
        .wait = wait,
        .free_bytes = free_bytes,
        .alloc_host = alloc_host,
        .release_host = release_host,
        .stream_open = stream_open,
        .stream_close = stream_close,
        .stream_query = stream_query,
        .put_later = put_later,
        .get_later = get_later,
        .fill_later = fill_later,
        .capture_begin = capture_begin,
        .capture_end = capture_end,
        .graph_nodes = graph_nodes,
        .node_type = node_type,
        .graph_close = graph_close,
        .exec_open = exec_open,
        .exec_launch = exec_launch,
        .exec_close = exec_close,
    };
    (void)error;
    *runtime = &cuda;
    return DSV4_OK;
}
