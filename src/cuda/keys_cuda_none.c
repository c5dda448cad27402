/*
 * keys_cuda_none.c - keys_cuda.h in a build without CUDA: nothing is supported.
 *
 * Place: cuda.
 */
#include "base/error.h"
#include "keys_cuda.h"

static dsv4_status refuse(dsv4_error *error)
{
    return dsv4_error_set(
        error, DSV4_ERROR_UNSUPPORTED,
        "backend: cuda, but this build has no CUDA (it was configured without nvcc)");
}

dsv4_status dsv4_keys_cuda_finish(void *stream, const dsv4_keys_finish_params *params,
                                  dsv4_error *error)
{
    (void)stream;
    (void)params;
    return refuse(error);
}

dsv4_status dsv4_keys_cuda_compress(void *stream, const dsv4_keys_compress_params *params,
                                    dsv4_error *error)
{
    (void)stream;
    (void)params;
    return refuse(error);
}

dsv4_status dsv4_keys_cuda_read(void *stream, const dsv4_keys_read_params *params,
                                dsv4_error *error)
{
    (void)stream;
    (void)params;
    return refuse(error);
}
