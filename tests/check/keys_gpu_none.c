/*
 * keys_gpu_none.c - keys_gpu.h in a build without CUDA.
 *
 * Place: tests.
 */
#include <stdio.h>

#include "base/error.h"
#include "keys_gpu.h"

dsv4_status keys_gpu_find(dsv4_error *error)
{
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "no CUDA device: this build has no CUDA");
}

bool keys_gpu_run(const keys_case *c, uint8_t *image, char text[KEYS_TEXT_BYTES])
{
    (void)c;
    (void)image;
    (void)snprintf(text, KEYS_TEXT_BYTES, "this build has no CUDA");
    return false;
}

int keys_gpu_bench(void)
{
    return 2;
}
