/*
 * hip_device.h - an AMD device and the library's kernels on it.
 *
 * Place: hip. Kernels are loaded once for each device of the process, when a call first asks for it, and stay until the
 * process ends. dsv4_attn_choose and dsv4_attn_plan_size do, so that it is long done when a graph is captured; whoever
 * uses dsv4/keys.h alone has to make a call before.
 */
#ifndef DSV4_HIP_HIP_DEVICE_H
#define DSV4_HIP_HIP_DEVICE_H

#include "hip_library.h"

/* Kernels, in the order of hip_device.c's names. */
enum {
    HIP_KERNEL_PLAN,
    HIP_KERNEL_MERGE,
    HIP_KERNEL_BF16_H16,
    HIP_KERNEL_BF16_H32,
    HIP_KERNEL_BF16_H64,
    HIP_KERNEL_FP8_H16,
    HIP_KERNEL_FP8_H32,
    HIP_KERNEL_FP8_H64,
    HIP_KERNEL_KEYS_FINISH,
    HIP_KERNEL_KEYS_FINISH_BF16,
    HIP_KERNEL_KEYS_COMPRESS_4,
    HIP_KERNEL_KEYS_COMPRESS_128,
    HIP_KERNEL_KEYS_READ,
    HIP_KERNEL_KEYS_READ_BF16,
    HIP_N_KERNELS
};

enum { HIP_ARCHITECTURE_BYTES = 32, HIP_MAX_DEVICES = 64 };

/* What a device is. */
typedef struct dsv4_hip_properties {
    char architecture[HIP_ARCHITECTURE_BYTES]; /* "gfx950", without what follows a colon */
    int n_units;                               /* compute units */
} dsv4_hip_properties;

typedef struct dsv4_hip_device {
    dsv4_hip_properties properties;
    void *functions[HIP_N_KERNELS]; /* NULL: this build has no such kernel for it */
} dsv4_hip_device;

/* Errors: DEVICE. */
dsv4_status dsv4_hip_properties_read(const dsv4_hip *hip, int ordinal,
                                     dsv4_hip_properties *properties, dsv4_error *error);

/* DSV4_OK when this build has code for the architecture. Errors: UNSUPPORTED; the text begins with it. */
dsv4_status dsv4_hip_code_find(const char *architecture, const void **code, dsv4_error *error);

/*
 * The calling thread's current device with its kernels; it stays. Thread-safe. Errors: UNSUPPORTED (no device, or one
 * without code in this build), DEVICE.
 */
dsv4_status dsv4_hip_device_current(const dsv4_hip *hip, const dsv4_hip_device **device,
                                    dsv4_error *error);

/* A kernel's name, and the threads of its blocks. */
const char *dsv4_hip_kernel_name(int kernel);
int dsv4_hip_kernel_threads(int kernel);

/* Errors: UNSUPPORTED, when this build's code for the device has no such kernel. */
dsv4_status dsv4_hip_kernel_require(const dsv4_hip_device *device, int kernel, dsv4_error *error);

/* Enqueues a kernel of n_blocks blocks whose only argument is what `args` points to. Errors: DEVICE. */
dsv4_status dsv4_hip_launch(const dsv4_hip *hip, const dsv4_hip_device *device, int kernel,
                            int64_t n_blocks, void *stream, const void *args, dsv4_error *error);

#endif
