/*
 * attn_device_none.c - attn_device.h in a build without CUDA.
 *
 * Place: tests.
 */
#include "attn_device.h"

#include <stdio.h>

#include "attn_run.h"

bool attn_device_is_there(char *text)
{
    snprintf(text, ATTN_TEXT_BYTES, "this build has no CUDA");
    return false;
}

bool attn_device_run(const dsv4_attn_params *params, attn_tensor *out, attn_tensor *lse, char *text)
{
    (void)params;
    (void)out;
    (void)lse;
    return attn_device_is_there(text);
}
