/*
 * attn_cuda_none.c - attn_cuda.h in a build without CUDA: nothing is supported.
 *
 * Place: cuda.
 */
#include "attn_cuda.h"
#include "base/error.h"

static dsv4_status refuse(dsv4_error *error)
{
    return dsv4_error_set(
        error, DSV4_ERROR_UNSUPPORTED,
        "backend: cuda, but this build has no CUDA (it was configured without nvcc)");
}

dsv4_status dsv4_attn_cuda_choose(const dsv4_attn_params *params, dsv4_attn_cuda_device *device,
                                  const char **kernel, dsv4_error *error)
{
    (void)params;
    (void)device;
    (void)kernel;
    return refuse(error);
}

dsv4_status dsv4_attn_cuda_describe(const dsv4_attn_params *params,
                                    const dsv4_attn_cuda_device *device,
                                    dsv4_attn_cuda_shape *shape, dsv4_error *error)
{
    (void)params;
    (void)device;
    (void)shape;
    return refuse(error);
}

dsv4_status dsv4_attn_cuda_plan_build(void *stream, const dsv4_attn_params *params,
                                      const dsv4_attn_cuda_shape *shape, void *plan,
                                      dsv4_error *error)
{
    (void)stream;
    (void)params;
    (void)shape;
    (void)plan;
    return refuse(error);
}

dsv4_status dsv4_attn_cuda_decode(void *stream, const dsv4_attn_params *params,
                                  const dsv4_attn_cuda_shape *shape, const void *plan,
                                  void *workspace, dsv4_error *error)
{
    (void)stream;
    (void)params;
    (void)shape;
    (void)plan;
    (void)workspace;
    return refuse(error);
}

dsv4_status dsv4_attn_cuda_merge(void *stream, const dsv4_attn_merge_params *params,
                                 dsv4_error *error)
{
    (void)stream;
    (void)params;
    return refuse(error);
}
