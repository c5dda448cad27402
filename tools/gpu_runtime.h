/*
 * gpu_runtime.h - what the program and the tests want of a GPU's runtime, CUDA's or HIP's: memory, copies, graphs.
 *
 * Place: program; tests use it too. A status is the runtime's own, 0 when all is well. Everything refers to the current
 * device. runtime_cuda.c (or runtime_cuda_none.c in a build without CUDA) and runtime_hip.c have the functions.
 */
#ifndef DSV4_TOOLS_GPU_RUNTIME_H
#define DSV4_TOOLS_GPU_RUNTIME_H

#include <stddef.h>

#include "dsv4/base.h"

typedef struct dsv4_gpu_runtime {
    const char *name; /* "CUDA" */
    int32_t backend;  /* DSV4_BACKEND_* */
    const char *(*error_text)(int status);
    int (*count)(int *n_devices);
    int (*device_text)(char *text, size_t text_bytes); /* the current device, for a person */
    int (*leave_error)(void);                          /* fails, which the runtime remembers */
    int (*last_error)(void);                           /* what it remembers, and forgets */
    int (*alloc)(void **memory, size_t n_bytes);
    int (*release)(void *memory);
    int (*fill)(void *memory, int byte, size_t n_bytes);
    int (*put)(void *device, const void *host, size_t n_bytes); /* host to device */
    int (*get)(void *host, const void *device, size_t n_bytes); /* and back; both wait */
    int (*put_rows)(void *device, size_t device_stride_bytes, const void *host,
                    size_t host_stride_bytes, size_t row_bytes, size_t n_rows);
    int (*wait)(void); /* for all that was enqueued */
    int (*free_bytes)(size_t *n_free, size_t *n_all);
    int (*alloc_host)(void **memory, size_t n_bytes); /* that the device copies without waiting */
    int (*release_host)(void *memory);

    /* A stream does not wait for the default one. */
    int (*stream_open)(void **stream);
    int (*stream_close)(void *stream);
    int (*stream_query)(void *stream); /* GPU_NOT_READY: there is work left */
    int (*put_later)(void *device, const void *host, size_t n_bytes, void *stream);
    int (*get_later)(void *host, const void *device, size_t n_bytes, void *stream);
    int (*fill_later)(void *device, int byte, size_t n_bytes, void *stream);

    int (*capture_begin)(
        void *stream); /* the runtime refuses waits and allocations of any thread */
    int (*capture_end)(void *stream, void **graph);
    int (*graph_nodes)(void *graph, void **nodes, size_t *n_nodes);
    int (*node_type)(void *node, int *type); /* GPU_NODE_KERNEL */
    int (*graph_close)(void *graph);
    int (*exec_open)(void **exec, void *graph);
    int (*exec_launch)(void *exec, void *stream);
    int (*exec_close)(void *exec);
} dsv4_gpu_runtime;

/* The same numbers in both. */
enum { GPU_OUT_OF_MEMORY = 2, GPU_NOT_READY = 600, GPU_NODE_KERNEL = 0 };

/* The runtime of CUDA or HIP, when it has a device. Errors: UNSUPPORTED. */
dsv4_status dsv4_gpu_runtime_find(int32_t backend, const dsv4_gpu_runtime **runtime,
                                  dsv4_error *error);

/* The runtime, whether or not it has a device. Errors: UNSUPPORTED. Not for several threads at once. */
dsv4_status dsv4_gpu_runtime_cuda(const dsv4_gpu_runtime **runtime, dsv4_error *error);
dsv4_status dsv4_gpu_runtime_hip(const dsv4_gpu_runtime **runtime, dsv4_error *error);

#endif
