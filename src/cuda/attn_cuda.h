/*
 * attn_cuda.h - the decode attention on NVIDIA GPUs: what it can do, sizes, plan, launch and merge.
 *
 * Place: cuda; validation is in src/attn. Everything refers to the calling thread's current device, which a call asks
 * once: choose, then describe, then plan_build or decode with what was described. In a build without CUDA every
 * function answers UNSUPPORTED.
 */
#ifndef DSV4_CUDA_ATTN_CUDA_H
#define DSV4_CUDA_ATTN_CUDA_H

#include "dsv4/attn.h"
#include "gpu/attn_host.h"

/* What the current device is. */
typedef struct dsv4_attn_cuda_device {
    int major, minor, n_multiprocessors;
    int shared_bytes; /* of a multiprocessor */
} dsv4_attn_cuda_device;

/* What shapes, options and the device make of a call: all that a plan and a launch depend on but lengths. */
typedef struct dsv4_attn_cuda_shape {
    const struct dsv4_attn_cuda_way *way; /* kernel and heads that it computes together */
    int32_t n_alone;                      /* so many thread blocks do not share multiprocessors */
    dsv4_attn_gpu_shape gpu;
} dsv4_attn_cuda_shape;

/*
 * Asks for the current device, and sets *kernel to the name of the kernel that these params get on it. Errors:
 * UNSUPPORTED, DEVICE.
 */
dsv4_status dsv4_attn_cuda_choose(const dsv4_attn_params *params, dsv4_attn_cuda_device *device,
                                  const char **kernel, dsv4_error *error);

/* Params are valid and can be computed (dsv4_attn_cuda_choose). Errors: OUT_OF_MEMORY. */
dsv4_status dsv4_attn_cuda_describe(const dsv4_attn_params *params,
                                    const dsv4_attn_cuda_device *device,
                                    dsv4_attn_cuda_shape *shape, dsv4_error *error);

/* Enqueues the plan's kernel; `plan` is device memory. Errors: DEVICE. */
dsv4_status dsv4_attn_cuda_plan_build(void *stream, const dsv4_attn_params *params,
                                      const dsv4_attn_cuda_shape *shape, void *plan,
                                      dsv4_error *error);

/*
 * Enqueues the attention, and in front of it what joins lists; nothing but the plan's parts, tensors and workspace is
 * touched. Errors: DEVICE.
 */
dsv4_status dsv4_attn_cuda_decode(void *stream, const dsv4_attn_params *params,
                                  const dsv4_attn_cuda_shape *shape, const void *plan,
                                  void *workspace, dsv4_error *error);

/* Enqueues the merge; there is at least one row. Errors: DEVICE. */
dsv4_status dsv4_attn_cuda_merge(void *stream, const dsv4_attn_merge_params *params,
                                 dsv4_error *error);

#endif
