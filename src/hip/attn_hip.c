/*
 * attn_hip.c - the decode attention on AMD GPUs, host side: choice of the kernel and its head group, launches.
 *
 * Place: hip; what kernels are told is in gpu/attn_host.h. Once a device's kernels are loaded nothing here allocates or
 * waits: a call asks for the current device and launches.
 */
#include "attn_hip.h"

#include <stdbool.h>

#include "base/error.h"
#include "hip_device.h"

/* A way to compute a group of heads. */
typedef struct dsv4_attn_hip_way {
    int kernel; /* HIP_KERNEL_* */
    int32_t heads;
    int32_t math; /* DSV4_ATTN_MATH_* */
} way;

enum { BF16 = DSV4_ATTN_MATH_BF16, FP8 = DSV4_ATTN_MATH_FP8 };

static const way ways[] = {
    {HIP_KERNEL_BF16_H16, 16, BF16}, {HIP_KERNEL_BF16_H32, 32, BF16},
    {HIP_KERNEL_BF16_H64, 64, BF16}, {HIP_KERNEL_FP8_H16, 16, FP8},
    {HIP_KERNEL_FP8_H32, 32, FP8},   {HIP_KERNEL_FP8_H64, 64, FP8},
};

enum { N_WAYS = sizeof ways / sizeof ways[0] };

/*
 * Costs of cutting a task, in blocks: 2.5 us and 0.15 us for each part, where a block takes 1.6 us. All three are guesses
 * (docs/kernels-gfx950.md): nothing has been measured. They move the point from which on lists are cut, not results. A
 * thread block always has its compute unit for itself.
 */
static const dsv4_attn_gpu_costs costs = {.n_streams = 1,
                                          .n_alone = ATTN_PLAN_THREADS,
                                          .busy_block = 1.0f,
                                          .split_fixed = 1.6f,
                                          .split = 0.1f};

/* Rows of a merge in a block, one for each wave, and blocks of a launch: HIP wants fewer than 2^32 threads. */
enum { WAVE_THREADS = 64, MERGE_MAX_BLOCKS = 1 << 20 };

typedef dsv4_attn_hip_device device;
typedef dsv4_attn_hip_shape shape;

static bool has_way(const device *d, const way *w, int32_t math)
{
    return (w->math == FP8) == (math == FP8) && d->device->functions[w->kernel] != NULL;
}

/*
 * As many heads as params ask for, or the nearest below, if there is one. Else the fewest that take all heads at once,
 * so that a row of the cache is read once, or the most that there are.
 */
static const way *choose_way(const dsv4_attn_params *params, const device *d)
{
    const way *best = NULL;
    for (int i = 0; i < N_WAYS; i++) {
        const way *w = &ways[i];
        if (!has_way(d, w, params->math)) continue;
        bool is_better = params->group_heads != 0 ? w->heads <= params->group_heads
                                                  : best != NULL && best->heads < params->n_heads;
        if (best == NULL || is_better) best = w;
    }
    return best;
}

/* One for each compute unit, whose shared memory it needs. */
static int64_t count_thread_blocks(const device *d)
{
    int64_t n = d->device->properties.n_units;
    return n < ATTN_PLAN_THREADS ? n : ATTN_PLAN_THREADS;
}

static dsv4_status open_device(device *d, dsv4_error *error)
{
    d->hip = dsv4_hip_get(error);
    if (d->hip == NULL) return DSV4_ERROR_UNSUPPORTED;
    return dsv4_hip_device_current(d->hip, &d->device, error);
}

dsv4_status dsv4_attn_hip_choose(const dsv4_attn_params *params, device *d, const char **kernel,
                                 dsv4_error *error)
{
    DSV4_TRY(open_device(d, error));
    DSV4_TRY(dsv4_hip_kernel_require(d->device, HIP_KERNEL_PLAN, error));
    *kernel = d->device->properties.architecture;
    if (params->math == FP8 && params->out_dtype == DSV4_DTYPE_FP8) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "math: fp8, but out_dtype is FP8: expected bf16 or f32");
    }
    for (int i = 0; i < N_WAYS; i++) {
        if (has_way(d, &ways[i], params->math)) return DSV4_OK;
    }
    if (params->math != FP8) return dsv4_hip_kernel_require(d->device, HIP_KERNEL_BF16_H16, error);
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                          "math: fp8, but this build's code for %s has no kernel %s: expected "
                          "bf16",
                          *kernel, dsv4_hip_kernel_name(HIP_KERNEL_FP8_H16));
}

dsv4_status dsv4_attn_hip_describe(const dsv4_attn_params *params, const device *d, shape *s,
                                   dsv4_error *error)
{
    s->way = choose_way(params, d);
    return dsv4_attn_gpu_describe(params, s->way->heads, count_thread_blocks(d), s->way - ways,
                                  false, &s->gpu, error);
}

dsv4_status dsv4_attn_hip_plan_build(void *stream, const dsv4_attn_params *params, const device *d,
                                     const shape *s, void *plan, dsv4_error *error)
{
    attn_plan_args args;
    dsv4_attn_gpu_plan_args(params, &s->gpu, &costs, plan, &args);
    return dsv4_hip_launch(d->hip, d->device, HIP_KERNEL_PLAN, 1, stream, &args, error);
}

dsv4_status dsv4_attn_hip_decode(void *stream, const dsv4_attn_params *params, const device *d,
                                 const shape *s, const void *plan, void *workspace,
                                 dsv4_error *error)
{
    attn_args args;
    dsv4_attn_gpu_args(params, &s->gpu, plan, workspace, &args);
    return dsv4_hip_launch(d->hip, d->device, s->way->kernel, s->gpu.n_thread_blocks, stream, &args,
                           error);
}

dsv4_status dsv4_attn_hip_merge(void *stream, const dsv4_attn_merge_params *params,
                                dsv4_error *error)
{
    const int64_t block_rows = dsv4_hip_kernel_threads(HIP_KERNEL_MERGE) / WAVE_THREADS;
    device d;
    DSV4_TRY(open_device(&d, error));
    DSV4_TRY(dsv4_hip_kernel_require(d.device, HIP_KERNEL_MERGE, error));
    if (params->n_rows == 0) return DSV4_OK;
    attn_merge_args args;
    dsv4_attn_gpu_merge_args(params, &args);
    const int64_t n_wanted = (params->n_rows * params->n_heads + block_rows - 1) / block_rows;
    const int64_t n_blocks = n_wanted < MERGE_MAX_BLOCKS ? n_wanted : MERGE_MAX_BLOCKS;
    return dsv4_hip_launch(d.hip, d.device, HIP_KERNEL_MERGE, n_blocks, stream, &args, error);
}
