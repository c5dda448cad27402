/*
 * runtime_cuda_none.c - CUDA's part of gpu_runtime.h in a build without CUDA.
 *
 * Place: program; tests use it too.
 */
#include "gpu_runtime.h"

#include "base/error.h"

dsv4_status dsv4_gpu_runtime_cuda(const dsv4_gpu_runtime **runtime, dsv4_error *error)
{
    *runtime = NULL;
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "no CUDA device: this build has no CUDA");
}
