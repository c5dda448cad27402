/*
 * keys_cuda.c - the operations of dsv4/keys.h on NVIDIA GPUs, host side: launches.
 *
 * Place: cuda; what kernels are told is in gpu/keys_host.h. Nothing here waits for the device or allocates.
 */
#include "keys_cuda.h"

#include <cuda_runtime_api.h>

#include "base/error.h"
#include "gpu/keys_host.h"
#include "keys_launch.h"

enum { LEAST_MAJOR = 8, CLUSTERS_MAJOR = 9 };

static dsv4_status check_cuda(cudaError_t status, const char *call, dsv4_error *error)
{
    if (status == cudaSuccess) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_DEVICE, "%s: %s", call, cudaGetErrorString(status));
}

static dsv4_status find_device(int *major, dsv4_error *error)
{
    int device;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) {
        status = cudaDeviceGetAttribute(major, cudaDevAttrComputeCapabilityMajor, device);
    }
    if (status != cudaSuccess) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "backend: cuda, but no device can be used: %s",
                              cudaGetErrorString(status));
    }
    if (*major >= LEAST_MAJOR) return DSV4_OK;
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                          "backend: cuda, but the device is sm_%dx: expected sm_80 or later",
                          *major);
}

dsv4_status dsv4_keys_cuda_finish(void *stream, const dsv4_keys_finish_params *p, dsv4_error *error)
{
    int major;
    DSV4_TRY(find_device(&major, error));
    keys_finish_args args = dsv4_keys_gpu_finish_args(p);
    if (args.n_rows == 0) return DSV4_OK;
    return check_cuda(dsv4_keys_finish_launch(&args, stream), "finish kernel", error);
}

dsv4_status dsv4_keys_cuda_compress(void *stream, const dsv4_keys_compress_params *p,
                                    dsv4_error *error)
{
    int major;
    DSV4_TRY(find_device(&major, error));
    if (p->n_tokens == 0) return DSV4_OK;
    keys_compress_args args = dsv4_keys_gpu_compress_args(p);
    int has_clusters = major >= CLUSTERS_MAJOR;
    return check_cuda(dsv4_keys_compress_launch(&args, p->ratio, has_clusters, stream),
                      "compress kernel", error);
}

dsv4_status dsv4_keys_cuda_read(void *stream, const dsv4_keys_read_params *p, dsv4_error *error)
{
    int major;
    DSV4_TRY(find_device(&major, error));
    if (p->n_rows == 0) return DSV4_OK;
    keys_read_args args = dsv4_keys_gpu_read_args(p);
    return check_cuda(dsv4_keys_read_launch(&args, stream), "read kernel", error);
}
