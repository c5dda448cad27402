/*
 * device_call.h - one decode or merge of host tensors on the GPU: everything is copied there and back.
 *
 * Place: program, for `attn check` and `attn run`; tests use it too. Slow on purpose: nothing is kept between calls.
 */
#ifndef DSV4_TOOLS_DEVICE_CALL_H
#define DSV4_TOOLS_DEVICE_CALL_H

#include "dsv4/attn.h"

/* Memory around a tensor that a call writes. */
typedef struct dsv4_device_span {
    void *bytes; /* may be NULL when len_bytes is 0 */
    size_t len_bytes;
} dsv4_device_span;

enum { DSV4_DEVICE_WRITTEN = 3 };

/*
 * As plan_build and decode with backend CUDA or HIP, of params whose tensors are in host memory. out lies in written[0], lse,
 * if there is one, in written[1], out_scales of an FP8 output in written[2]; all are copied there as they are and back, so that bytes
 * between and around elements can be looked at. Caches are moved to multiples of 16 bytes, which the device wants; plan
 * and workspace are made here, between guards. Errors: those of the calls, DEVICE.
 */
dsv4_status dsv4_device_call_decode(const dsv4_attn_params *params,
                                    const dsv4_device_span written[DSV4_DEVICE_WRITTEN],
                                    dsv4_error *error);

/*
 * Two decodes of params in one workspace: with a plan that was built for `planned` (without lengths), or with zeros in
 * its place when that is NULL, and then with its own. What the first wrote comes back in `written`, and the same memory
 * after the second in `after`, whose spans are as long.
 */
dsv4_status dsv4_device_call_refused(const dsv4_attn_params *params,
                                     const dsv4_attn_params *planned,
                                     const dsv4_device_span written[DSV4_DEVICE_WRITTEN],
                                     const dsv4_device_span after[DSV4_DEVICE_WRITTEN],
                                     dsv4_error *error);

/* As dsv4_attn_merge with backend CUDA or HIP, of params whose tensors are in host memory; out and lse lie in written. */
dsv4_status dsv4_device_call_merge(const dsv4_attn_merge_params *params,
                                   const dsv4_device_span written[2], dsv4_error *error);

#endif
