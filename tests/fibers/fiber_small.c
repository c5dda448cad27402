/*
 * fiber_small.c - the decode kernels as gfx942 has them: less shared memory, so fewer steps and heads.
 *
 * Place: tests. With two products of K = 16 for one of 32, conversions by bits and copies that have happened when they
 * return, as gpu_matrix_amd.h has them there.
 */
#define GPU_SMALL
#define GPU_KERNEL(name, n_threads) void name##_small

#include "gpu/attn_decode_kernel.c"
