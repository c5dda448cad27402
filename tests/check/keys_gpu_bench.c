/*
 * keys_gpu_bench.c - times of the operations of dsv4/keys.h on the GPU.
 *
 * Place: tests. Calls on copies of a case, as many as leave the second-level cache cold where the case is not tiny,
 * are captured in one graph, which is replayed; the best replay counts, since others only ever slow it down. The roof
 * is the rate of a large device-to-device copy, read and written bytes counted.
 */
#include <cuda_runtime_api.h>
#include <stdio.h>

#include "keys_bench.h"
#include "keys_gpu.h"

enum { MAX_COPIES = 64, LEAST_CALLS = 64, REPLAYS = 10 };

#define COLD_BYTES  256e6
#define ROOF_BYTES  ((size_t)1 << 30)
#define MEMORY_MOST 16e9

typedef struct bench {
    cudaStream_t stream;
    cudaEvent_t begin, end;
    double roof_bytes_per_s;
    void *copies[MAX_COPIES];
    int n_copies;
    cudaError_t status; /* the first failure */
} bench;

static void note(bench *b, cudaError_t status)
{
    if (b->status == cudaSuccess) b->status = status;
}

static double elapsed_s(bench *b)
{
    float ms = 0;
    note(b, cudaEventRecord(b->end, b->stream));
    note(b, cudaEventSynchronize(b->end));
    note(b, cudaEventElapsedTime(&ms, b->begin, b->end));
    return 1e-3 * (double)ms;
}

static void measure_roof(bench *b)
{
    void *from = NULL, *to = NULL;
    double best_s = 1e30;
    note(b, cudaMalloc(&from, ROOF_BYTES));
    note(b, cudaMalloc(&to, ROOF_BYTES));
    for (int i = 0; i < 10 && b->status == cudaSuccess; i++) {
        note(b, cudaEventRecord(b->begin, b->stream));
        note(b, cudaMemcpyAsync(to, from, ROOF_BYTES, cudaMemcpyDeviceToDevice, b->stream));
        double s = elapsed_s(b);
        if (s < best_s) best_s = s;
    }
    b->roof_bytes_per_s = 2.0 * (double)ROOF_BYTES / best_s;
    (void)cudaFree(from);
    (void)cudaFree(to);
}

static void make_copies(bench *b, const keys_case *c, double bytes)
{
    double most = MEMORY_MOST / (double)c->used_bytes, wanted = COLD_BYTES / bytes + 1;
    b->n_copies = (int)(wanted < most ? wanted : most);
    if (b->n_copies > MAX_COPIES) b->n_copies = MAX_COPIES;
    if (b->n_copies < 1) b->n_copies = 1;
    for (int i = 0; i < b->n_copies; i++) {
        b->copies[i] = NULL;
        note(b, cudaMalloc(&b->copies[i], c->used_bytes));
        note(b, cudaMemcpy(b->copies[i], c->image, c->used_bytes, cudaMemcpyHostToDevice));
    }
}

/* Seconds of one call. */
static double time_case(bench *b, const keys_case *c, dsv4_error *error)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    int n_calls = b->n_copies < LEAST_CALLS ? LEAST_CALLS / b->n_copies * b->n_copies : b->n_copies;
    double best_s = 1e30;
    note(b, cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < n_calls; i++) {
        if (keys_case_call(c, b->copies[i % b->n_copies], DSV4_BACKEND_CUDA, b->stream, error)) {
            note(b, cudaErrorUnknown);
        }
    }
    note(b, cudaStreamEndCapture(b->stream, &graph));
    if (b->status == cudaSuccess) note(b, cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < REPLAYS && b->status == cudaSuccess; i++) {
        note(b, cudaEventRecord(b->begin, b->stream));
        note(b, cudaGraphLaunch(exec, b->stream));
        double s = elapsed_s(b) / n_calls;
        if (i > 0 && s < best_s) best_s = s;
    }
    if (exec != NULL) (void)cudaGraphExecDestroy(exec);
    if (graph != NULL) (void)cudaGraphDestroy(graph);
    return best_s;
}

static void bench_shape(bench *b, const keys_shape *shape)
{
    keys_case c;
    dsv4_error error = {.status = DSV4_OK};
    char text[KEYS_TEXT_BYTES];
    double bytes;
    keys_bench_make(&c, shape, &bytes);
    keys_bench_describe(shape, text);
    for (int math = DSV4_ATTN_MATH_EXACT; math <= DSV4_ATTN_MATH_OFFICIAL; math += 2) {
        if (shape->op == KEYS_READ && math != DSV4_ATTN_MATH_EXACT) continue;
        c.finish.math = c.compress.math = math;
        make_copies(b, &c, bytes);
        double s = b->status == cudaSuccess ? time_case(b, &c, &error) : 0;
        if (b->status != cudaSuccess) {
            fprintf(stderr, "%s: %s %s\n", text, cudaGetErrorString(b->status),
                    error.status != DSV4_OK ? error.text : "");
        } else {
            printf("%-46s %-9s %8.2f us %9.3f MB %7.0f GB/s %5.1f %% of a copy\n", text,
                   shape->op == KEYS_READ         ? ""
                   : math == DSV4_ATTN_MATH_EXACT ? "exact"
                                                  : "official",
                   1e6 * s, 1e-6 * bytes, 1e-9 * bytes / s, 100 * bytes / s / b->roof_bytes_per_s);
        }
        for (int i = 0; i < b->n_copies; i++) (void)cudaFree(b->copies[i]);
    }
    fflush(stdout);
    keys_case_free(&c);
}

int keys_gpu_bench(void)
{
    bench b = {.status = cudaSuccess};
    struct cudaDeviceProp properties;
    note(&b, cudaGetDeviceProperties(&properties, 0));
    note(&b, cudaStreamCreate(&b.stream));
    note(&b, cudaEventCreate(&b.begin));
    note(&b, cudaEventCreate(&b.end));
    if (b.status == cudaSuccess) measure_roof(&b);
    if (b.status != cudaSuccess) {
        fprintf(stderr, "check_keys: %s\n", cudaGetErrorString(b.status));
        return 2;
    }
    printf("%s: a copy moves %.0f GB/s\n", properties.name, 1e-9 * b.roof_bytes_per_s);
    for (int64_t i = 0; i < keys_n_shapes && b.status == cudaSuccess; i++) {
        bench_shape(&b, &keys_shapes[i]);
    }
    return b.status == cudaSuccess ? 0 : 1;
}
