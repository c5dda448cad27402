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

dsv4_status dsv4_attn_cuda_choose(const dsv4_attn_params *params, const char **kernel,
                                  dsv4_error *error)
{
    (void)params;
    (void)kernel;
    return refuse(error);
}

dsv4_status dsv4_attn_cuda_plan_size(const dsv4_attn_params *params, size_t *plan_bytes,
                                     size_t *workspace_bytes, dsv4_error *error)
{
    (void)params;
    (void)plan_bytes;
    (void)workspace_bytes;
    return refuse(error);
}

dsv4_status dsv4_attn_cuda_plan_build(void *stream, const dsv4_attn_params *params, void *plan,
                                      dsv4_error *error)
{
    (void)stream;
    (void)params;
    (void)plan;
    return refuse(error);
}

dsv4_status dsv4_attn_cuda_decode(void *stream, const dsv4_attn_params *params, const void *plan,
                                  void *workspace, dsv4_error *error)
{
    (void)stream;
    (void)params;
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
