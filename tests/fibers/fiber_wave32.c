/*
 * fiber_wave32.c - the kernel that joins lists with NVIDIA's waves of 32 threads.
 *
 * Place: tests.
 */
#define GPU_WAVE                    32
#define GPU_KERNEL(name, n_threads) void name##_wave32

#include "gpu/attn_join_kernel.c"
