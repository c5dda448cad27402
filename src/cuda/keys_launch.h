/*
 * keys_launch.h - the kernels of dsv4/keys.h as C functions.
 *
 * Place: cuda. Each enqueues one kernel on `stream` (a cudaStream_t) and says what the launch said; nothing is empty.
 */
#ifndef DSV4_CUDA_KEYS_LAUNCH_H
#define DSV4_CUDA_KEYS_LAUNCH_H

#include <cuda_runtime_api.h>

#include "gpu/keys_device.h"

#ifdef __cplusplus
extern "C" {
#endif

cudaError_t dsv4_keys_finish_launch(const keys_finish_args *args, cudaStream_t stream);
cudaError_t dsv4_keys_read_launch(const keys_read_args *args, cudaStream_t stream);

/* A group's channels on a cluster of thread blocks if has_clusters (sm_90 on), where that is faster. */
cudaError_t dsv4_keys_compress_launch(const keys_compress_args *args, int ratio, int has_clusters,
                                      cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
