/*
 * keys_bench.h - the shapes at which the operations of dsv4/keys.h are measured.
 *
 * Place: tests; used by the CPU's benchmark here and the GPU's in keys_gpu_bench.c.
 */
#ifndef DSV4_TESTS_KEYS_BENCH_H
#define DSV4_TESTS_KEYS_BENCH_H

#include "keys_case.h"

typedef struct keys_shape {
    int op;
    int64_t n_tokens;   /* of rows for KEYS_READ */
    int64_t n_heads;    /* finish */
    int32_t ratio;      /* compress */
    int64_t n_requests; /* compress: tokens are shared out among them */
    int64_t first;      /* compress: position of request r's first token is first + step * r */
    int64_t step;
    int32_t dtype; /* read: of out */
} keys_shape;

extern const keys_shape keys_shapes[];
extern const int64_t keys_n_shapes;

/*
 * A case of that shape, all tensors aligned, of numbers that do not matter. *bytes: what must be moved at least.
 * keys_case_free frees it.
 */
void keys_bench_make(keys_case *c, const keys_shape *shape, double *bytes);

/* "finish 256 tokens 64 heads" */
void keys_bench_describe(const keys_shape *shape, char text[KEYS_TEXT_BYTES]);

/* The CPU's benchmark; returns the exit status. */
int keys_bench_run(void);

#endif
