/*
 * attn_bench_gpu.h - the time of a decode on a GPU.
 *
 * Place: program, bench. A step of a model: one plan and DSV4_BENCH_GPU_DECODES decodes in one graph, each with other
 * lists and all with the same queries; its time by the host's clock, from launch to the end of the wait, divided by the
 * decodes. Rows come from memory: the pool is larger than any cache, and before each step other memory is written.
 */
#ifndef DSV4_TOOLS_ATTN_BENCH_GPU_H
#define DSV4_TOOLS_ATTN_BENCH_GPU_H

#include <stdbool.h>

#include "bench_data.h"
#include "gpu_runtime.h"

enum { DSV4_BENCH_GPU_DECODES = 64, DSV4_BENCH_GPU_ROUNDS = 9, DSV4_BENCH_GPU_BLOCKS = 16 };

typedef struct dsv4_bench_gpu {
    const dsv4_gpu_runtime *gpu;
    char device[128]; /* for a person */
    void *stream;
    void *blocks[DSV4_BENCH_GPU_BLOCKS];
    int32_t n_blocks, n_kept; /* the first n_kept are of all shapes */
    int status;               /* the first failure */
    int32_t n_copies;         /* of the pools, one behind the other */
    void *flush;              /* written before a step; NULL: rows may come from caches */
    size_t flush_bytes;
    dsv4_attn_scope scopes[2]; /* window, extra: on the device */
    const int32_t *slots[2];   /* [n_slots] of all copies, each copy by the pool's permutation */
    int64_t n_slots[2], cursor[2]; /* where the next lists begin */
    const void *q;
    const float *sink;
} dsv4_bench_gpu;

/* Seconds of a decode. */
typedef struct dsv4_bench_gpu_time {
    double median_s, least_s, most_s;
} dsv4_bench_gpu_time;

/*
 * Copies pools, queries [n_q_values] and sinks [n_sinks] to the device of a backend. is_quick: a small pool, which caches
 * hold. Close it also after a failure. Errors: UNSUPPORTED, DEVICE.
 */
dsv4_status dsv4_bench_gpu_open(dsv4_bench_gpu *b, int32_t backend, bool is_quick,
                                const dsv4_bench_pool *window, const dsv4_bench_pool *extra,
                                const uint16_t *q, int64_t n_q_values, const float *sink,
                                int64_t n_sinks, dsv4_error *error);
void dsv4_bench_gpu_close(dsv4_bench_gpu *b);

/* params: options and shapes, n_indices of both scopes among them. Errors: those of the calls, DEVICE. */
dsv4_status dsv4_bench_gpu_measure(dsv4_bench_gpu *b, const dsv4_attn_params *params,
                                   dsv4_bench_gpu_time *time, dsv4_error *error);

#endif
