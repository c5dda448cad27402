/*
 * keys_hip.h - the operations of dsv4/keys.h on AMD GPUs.
 *
 * Place: hip; params have been validated. Each enqueues one kernel on the current device, whose kernels the first call of
 * the process loads. Kernels are compiled and checked for gfx950 and gfx942; they have never run on a device
 * (docs/hip.md). Errors: UNSUPPORTED (no runtime, no device, one without code in this build), DEVICE.
 */
#ifndef DSV4_HIP_KEYS_HIP_H
#define DSV4_HIP_KEYS_HIP_H

#include "dsv4/keys.h"

dsv4_status dsv4_keys_hip_finish(void *stream, const dsv4_keys_finish_params *params,
                                 dsv4_error *error);
dsv4_status dsv4_keys_hip_compress(void *stream, const dsv4_keys_compress_params *params,
                                   dsv4_error *error);
dsv4_status dsv4_keys_hip_read(void *stream, const dsv4_keys_read_params *params,
                               dsv4_error *error);

#endif
