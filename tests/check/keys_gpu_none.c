/*
 * keys_gpu_none.c - the GPU's benchmark in a build without CUDA.
 *
 * Place: tests.
 */
#include "keys_gpu.h"

int keys_gpu_bench(void)
{
    return 2;
}
