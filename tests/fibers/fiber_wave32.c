/*
 * fiber_wave32.c - the kernels without matrix products as NVIDIA's devices have them: waves of 32 threads.
 *
 * Place: tests.
 */
#define GPU_WAVE                    32
#define GPU_KERNEL(name, n_threads) void name##_wave32
#define GPU_CLUSTERS

#include "gpu/attn_plan_kernel.c"
#include "gpu/attn_join_kernel.c"
#include "gpu/attn_merge_kernel.c"
#include "gpu/keys_finish_kernel.c"
#include "gpu/keys_read_kernel.c"
#include "gpu/keys_compress_kernel.c"
