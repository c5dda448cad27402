/*
 * attn_hip.h - the decode attention on AMD GPUs: what it can do, sizes, plan, launch and merge.
 *
 * Place: hip; validation is in src/attn. Everything refers to the calling thread's current device, which a call asks
 * once: choose, then describe, then plan_build or decode with what was described. Kernels are compiled and their
 * instructions checked for gfx950 and gfx942; they have never run on a device (docs/hip.md).
 */
#ifndef DSV4_HIP_ATTN_HIP_H
#define DSV4_HIP_ATTN_HIP_H

#include "dsv4/attn.h"
#include "gpu/attn_host.h"

/* The runtime and the current device. */
typedef struct dsv4_attn_hip_device {
    const struct dsv4_hip *hip;
    const struct dsv4_hip_device *device;
} dsv4_attn_hip_device;

typedef struct dsv4_attn_hip_shape {
    const struct dsv4_attn_hip_way *way; /* kernel and heads that it computes together */
    dsv4_attn_gpu_shape gpu;
} dsv4_attn_hip_shape;

/*
 * Asks for the current device and loads its kernels when no call has yet; sets *kernel to the device's architecture,
 * which is what kernels differ by. Errors: UNSUPPORTED, DEVICE.
 */
dsv4_status dsv4_attn_hip_choose(const dsv4_attn_params *params, dsv4_attn_hip_device *device,
                                 const char **kernel, dsv4_error *error);

/* Params are valid and can be computed (dsv4_attn_hip_choose). Errors: OUT_OF_MEMORY. */
dsv4_status dsv4_attn_hip_describe(const dsv4_attn_params *params,
                                   const dsv4_attn_hip_device *device, dsv4_attn_hip_shape *shape,
                                   dsv4_error *error);

/* Enqueues the plan's kernel; `plan` is device memory. Errors: DEVICE. */
dsv4_status dsv4_attn_hip_plan_build(void *stream, const dsv4_attn_params *params,
                                     const dsv4_attn_hip_device *device,
                                     const dsv4_attn_hip_shape *shape, void *plan,
                                     dsv4_error *error);

/* Enqueues the attention; nothing but the plan's parts, tensors and workspace is touched. Errors: DEVICE. */
dsv4_status dsv4_attn_hip_decode(void *stream, const dsv4_attn_params *params,
                                 const dsv4_attn_hip_device *device,
                                 const dsv4_attn_hip_shape *shape, const void *plan,
                                 void *workspace, dsv4_error *error);

/* Enqueues the merge, when there is a row. Errors: UNSUPPORTED, DEVICE. */
dsv4_status dsv4_attn_hip_merge(void *stream, const dsv4_attn_merge_params *params,
                                dsv4_error *error);

#endif
