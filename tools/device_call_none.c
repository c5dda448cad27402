/*
 * device_call_none.c - device_call.h in a build without CUDA.
 *
 * Place: program; tests use it too.
 */
#include "base/error.h"
#include "device_call.h"

dsv4_status dsv4_device_call_find(dsv4_error *error)
{
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "no CUDA device: this build has no CUDA");
}

dsv4_status dsv4_device_call_decode(const dsv4_attn_params *params,
                                    const dsv4_device_span written[DSV4_DEVICE_WRITTEN],
                                    dsv4_error *error)
{
    (void)params;
    (void)written;
    return dsv4_device_call_find(error);
}

dsv4_status dsv4_device_call_refused(const dsv4_attn_params *params,
                                     const dsv4_attn_params *planned,
                                     const dsv4_device_span written[DSV4_DEVICE_WRITTEN],
                                     const dsv4_device_span after[DSV4_DEVICE_WRITTEN],
                                     dsv4_error *error)
{
    (void)params;
    (void)planned;
    (void)written;
    (void)after;
    return dsv4_device_call_find(error);
}

dsv4_status dsv4_device_call_merge(const dsv4_attn_merge_params *params,
                                   const dsv4_device_span written[2], dsv4_error *error)
{
    (void)params;
    (void)written;
    return dsv4_device_call_find(error);
}
