/*
 * attn_device.h - one decode of host tensors on the GPU: everything is copied there and back.
 *
 * Place: tests; in builds without CUDA nothing can be run.
 */
#ifndef DSV4_TESTS_ATTN_DEVICE_H
#define DSV4_TESTS_ATTN_DEVICE_H

#include "attn_case_gen.h"

/* Whether there is a device to run on; if not, why in text. */
bool attn_device_is_there(char *text);

/*
 * As dsv4_attn_decode on params whose tensors are in host memory and whose written ones are out and lse: their
 * whole blocks are copied, so that bytes between and around elements can be looked at afterwards. Caches are
 * moved to multiples of 16 bytes, which the device wants. Runs twice and compares the bits; checks guards around plan
 * and workspace.
 */
bool attn_device_run(const dsv4_attn_params *params, attn_tensor *out, attn_tensor *lse,
                     char *text);

#endif
