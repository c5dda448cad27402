/*
 * linear_kernels.h - what one CPU level provides to the driver of y = x W^T.
 *
 * Place: cpu. The driver (linear_cpu.c) cuts the output into tasks: some rows of W by at most
 * DSV4_LINEAR_MAX_ROWS rows of x. The order of sums, the same for every task that holds an element:
 *
 *   Columns are walked in panels (DSV4_LINEAR_PANEL_BYTES of packed x: 1024 f32 or 2048 bf16). In a
 *   panel one vector of f32 sums adds the products of one vector of columns after another; lanes
 *   are then added in a fixed tree (vf_sum4 in vec_*.h), and the panels' sums are added ascending.
 *
 * Which columns share a lane is a matter of the level and the kind of the matrix. Kernels neither
 * allocate nor fail; they need about 220 kB of stack.
 */
#ifndef DSV4_CPU_LINEAR_KERNELS_H
#define DSV4_CPU_LINEAR_KERNELS_H

#include <stdint.h>

#include "ref/linear.h"

enum {
    DSV4_LINEAR_GROUP_ROWS = 4, /* rows of W that are computed at once: 4k .. 4k + 3 */
    DSV4_LINEAR_MAX_ROWS = 48,  /* rows of x in one task */
    DSV4_LINEAR_PANEL_BYTES = 4096
};

/* One task's view of the product. */
typedef struct dsv4_linear_job {
    const dsv4_linear *linear;
    const float *x; /* [n_rows, n_in], rows x_stride apart */
    float *y;       /* [n_rows, n_out], rows y_stride apart */
    int64_t x_stride, y_stride;
    int64_t n_rows; /* 1 .. DSV4_LINEAR_MAX_ROWS */
    /* What is prefetched: codes of rows of W so far ahead, past the end those from next_begin on, where
     * this worker probably goes on; and scales next_rows ahead, from one task's begin to the next. */
    int64_t ahead_rows, next_begin, next_rows;
} dsv4_linear_job;

/* f32 bits of 2^(scale - 127); a NaN for 255. */
extern const uint32_t dsv4_linear_scale_bits[256];

/* Writes columns begin .. end - 1 of y; begin is a multiple of DSV4_LINEAR_GROUP_ROWS. */
typedef void dsv4_linear_kernel(const dsv4_linear_job *job, int64_t begin, int64_t end);

/* The last one multiplies in bf16: every x must be exact in bf16. */
dsv4_linear_kernel dsv4_linear_kernel_v2, dsv4_linear_kernel_avx2, dsv4_linear_kernel_avx512,
    dsv4_linear_kernel_avx512bf16;

#endif
