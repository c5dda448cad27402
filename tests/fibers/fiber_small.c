/*
 * fiber_small.c - the decode kernels as gfx942 has them: less shared memory, so fewer steps and heads.
 *
 * Place: tests. Products are still those of gpu_matrix.h's model: one of 32 where gfx942 makes two of 16.
 */
#define GPU_SMALL
#define GPU_KERNEL(name, n_threads) void name##_small

#include "gpu/attn_decode_kernel.c"
