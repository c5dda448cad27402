/*
 * runtime_hip.c - HIP's runtime as gpu_runtime.h wants it, and the choice between the two.
 *
 * Place: program; tests use it too. The functions are found in the library that the attention has opened
 * (hip/hip_library.h): what the program alone needs is not asked of those who only link with libdsv4.
 */
#include "gpu_runtime.h"

#include <stdio.h>

#include "base/error.h"
#include "dsv4/attn.h"
#include "hip/hip_device.h"

/* hipMemcpyKind, hipStreamNonBlocking, hipStreamCaptureModeGlobal. */
enum { HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2, STREAM_NON_BLOCKING = 1, CAPTURE_GLOBAL = 0 };

typedef struct hip_functions {
    int (*hipSetDevice)(int device);
    int (*hipGetLastError)(void);
    int (*hipMalloc)(void **memory, size_t n_bytes);
    int (*hipFree)(void *memory);
    int (*hipMemset)(void *memory, int byte, size_t n_bytes);
    int (*hipMemcpy)(void *to, const void *from, size_t n_bytes, int kind);
    int (*hipMemcpy2D)(void *to, size_t to_stride_bytes, const void *from, size_t from_stride_bytes,
                       size_t row_bytes, size_t n_rows, int kind);
    int (*hipDeviceSynchronize)(void);
    int (*hipMemGetInfo)(size_t *n_free, size_t *n_all);
    int (*hipHostMalloc)(void **memory, size_t n_bytes, unsigned flags);
    int (*hipHostFree)(void *memory);
    int (*hipMemcpyAsync)(void *to, const void *from, size_t n_bytes, int kind, void *stream);
    int (*hipMemsetAsync)(void *memory, int byte, size_t n_bytes, void *stream);
    int (*hipStreamCreateWithFlags)(void **stream, unsigned flags);
    int (*hipStreamDestroy)(void *stream);
    int (*hipStreamQuery)(void *stream);
    int (*hipStreamBeginCapture)(void *stream, int mode);
    int (*hipStreamEndCapture)(void *stream, void **graph);
    int (*hipGraphGetNodes)(void *graph, void **nodes, size_t *n_nodes);
    int (*hipGraphNodeGetType)(void *node, int *type);
    int (*hipGraphDestroy)(void *graph);
    int (*hipGraphInstantiateWithFlags)(void **exec, void *graph, unsigned long long flags);
    int (*hipGraphLaunch)(void *exec, void *stream);
    int (*hipGraphExecDestroy)(void *exec);
} hip_functions;

#define SYMBOL(name)                                                                               \
    {                                                                                              \
#name, offsetof(hip_functions, name)                                                       \
    }

static const dsv4_hip_symbol symbols[] = {
    SYMBOL(hipSetDevice),
    SYMBOL(hipGetLastError),
    SYMBOL(hipMalloc),
    SYMBOL(hipFree),
    SYMBOL(hipMemset),
    SYMBOL(hipMemcpy),
    SYMBOL(hipMemcpy2D),
    SYMBOL(hipDeviceSynchronize),
    SYMBOL(hipMemGetInfo),
    SYMBOL(hipHostMalloc),
    SYMBOL(hipHostFree),
    SYMBOL(hipMemcpyAsync),
    SYMBOL(hipMemsetAsync),
    SYMBOL(hipStreamCreateWithFlags),
    SYMBOL(hipStreamDestroy),
    SYMBOL(hipStreamQuery),
    SYMBOL(hipStreamBeginCapture),
    SYMBOL(hipStreamEndCapture),
    SYMBOL(hipGraphGetNodes),
    SYMBOL(hipGraphNodeGetType),
    SYMBOL(hipGraphDestroy),
    SYMBOL(hipGraphInstantiateWithFlags),
    SYMBOL(hipGraphLaunch),
    SYMBOL(hipGraphExecDestroy),
    {NULL, 0},
};

/* Of the process; filled by dsv4_gpu_runtime_hip. */
static const dsv4_hip *hip;
static hip_functions functions;

static const char *error_text(int status)
{
    return hip->hipGetErrorString(status);
}

static int count(int *n_devices)
{
    return hip->hipGetDeviceCount(n_devices);
}

static int device_text(char *text, size_t text_bytes)
{
    dsv4_hip_properties properties;
    dsv4_error error;
    int device = 0, status = hip->hipGetDevice(&device);
    if (status != 0) return status;
    if (dsv4_hip_properties_read(hip, device, &properties, &error) != DSV4_OK) {
        (void)snprintf(text, text_bytes, "%s", error.text);
    } else {
        (void)snprintf(text, text_bytes, "%s, %d compute units, HIP %d", properties.architecture,
                       properties.n_units, hip->version);
    }
    return 0;
}

static int leave_error(void)
{
    return functions.hipSetDevice(-1);
}

static int put(void *device, const void *host, size_t n_bytes)
{
    return functions.hipMemcpy(device, host, n_bytes, HOST_TO_DEVICE);
}

static int get(void *host, const void *device, size_t n_bytes)
{
    return functions.hipMemcpy(host, device, n_bytes, DEVICE_TO_HOST);
}

static int put_rows(void *device, size_t device_stride_bytes, const void *host,
                    size_t host_stride_bytes, size_t row_bytes, size_t n_rows)
{
    return functions.hipMemcpy2D(device, device_stride_bytes, host, host_stride_bytes, row_bytes,
                                 n_rows, HOST_TO_DEVICE);
}

static int alloc_host(void **memory, size_t n_bytes)
{
    return functions.hipHostMalloc(memory, n_bytes, 0);
}

static int stream_open(void **stream)
{
    return functions.hipStreamCreateWithFlags(stream, STREAM_NON_BLOCKING);
}

static int put_later(void *device, const void *host, size_t n_bytes, void *stream)
{
    return functions.hipMemcpyAsync(device, host, n_bytes, HOST_TO_DEVICE, stream);
}

static int get_later(void *host, const void *device, size_t n_bytes, void *stream)
{
    return functions.hipMemcpyAsync(host, device, n_bytes, DEVICE_TO_HOST, stream);
}

static int capture_begin(void *stream)
{
    return functions.hipStreamBeginCapture(stream, CAPTURE_GLOBAL);
}

static int exec_open(void **exec, void *graph)
{
    return functions.hipGraphInstantiateWithFlags(exec, graph, 0);
}

static void fill_table(dsv4_gpu_runtime *table)
{
    *table = (dsv4_gpu_runtime){.name = "HIP",
                                .backend = DSV4_BACKEND_HIP,
                                .error_text = error_text,
                                .count = count,
                                .device_text = device_text,
                                .leave_error = leave_error,
                                .last_error = functions.hipGetLastError,
                                .alloc = functions.hipMalloc,
                                .release = functions.hipFree,
                                .fill = functions.hipMemset,
                                .put = put,
                                .get = get,
                                .put_rows = put_rows,
                                .wait = functions.hipDeviceSynchronize,
                                .free_bytes = functions.hipMemGetInfo,
                                .alloc_host = alloc_host,
                                .release_host = functions.hipHostFree,
                                .stream_open = stream_open,
                                .stream_close = functions.hipStreamDestroy,
                                .stream_query = functions.hipStreamQuery,
                                .put_later = put_later,
                                .get_later = get_later,
                                .fill_later = functions.hipMemsetAsync,
                                .capture_begin = capture_begin,
                                .capture_end = functions.hipStreamEndCapture,
                                .graph_nodes = functions.hipGraphGetNodes,
                                .node_type = functions.hipGraphNodeGetType,
                                .graph_close = functions.hipGraphDestroy,
                                .exec_open = exec_open,
                                .exec_launch = functions.hipGraphLaunch,
                                .exec_close = functions.hipGraphExecDestroy};
}

dsv4_status dsv4_gpu_runtime_hip(const dsv4_gpu_runtime **runtime, dsv4_error *error)
{
    static dsv4_gpu_runtime filled;
    hip = dsv4_hip_get(error);
    if (hip == NULL) return DSV4_ERROR_UNSUPPORTED;
    const char *missing =
        dsv4_hip_bind_symbols(dsv4_hip_find_symbol, hip->library, symbols, &functions);
    if (missing != NULL) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "%s has no symbol %s", hip->name,
                              missing);
    }
    fill_table(&filled);
    *runtime = &filled;
    return DSV4_OK;
}

dsv4_status dsv4_gpu_runtime_find(int32_t backend, const dsv4_gpu_runtime **runtime,
                                  dsv4_error *error)
{
    int n_devices = 0;
    DSV4_TRY(backend == DSV4_BACKEND_HIP ? dsv4_gpu_runtime_hip(runtime, error)
                                         : dsv4_gpu_runtime_cuda(runtime, error));
    int status = (*runtime)->count(&n_devices);
    if (status == 0 && n_devices > 0) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "no %s device: %.300s", (*runtime)->name,
                          status == 0 ? "none is there" : (*runtime)->error_text(status));
}
