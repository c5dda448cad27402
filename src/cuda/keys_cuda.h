/*
 * keys_cuda.h - the operations of dsv4/keys.h on NVIDIA GPUs.
 *
 * Place: cuda; params have been validated. Each enqueues one kernel on the current device. Errors:
 * UNSUPPORTED (no device from sm_80 on; always, in a build without CUDA), DEVICE.
 */
#ifndef DSV4_CUDA_KEYS_CUDA_H
#define DSV4_CUDA_KEYS_CUDA_H

#include "dsv4/keys.h"

dsv4_status dsv4_keys_cuda_finish(void *stream, const dsv4_keys_finish_params *params,
                                  dsv4_error *error);
dsv4_status dsv4_keys_cuda_compress(void *stream, const dsv4_keys_compress_params *params,
                                    dsv4_error *error);
dsv4_status dsv4_keys_cuda_read(void *stream, const dsv4_keys_read_params *params,
                                dsv4_error *error);

#endif
