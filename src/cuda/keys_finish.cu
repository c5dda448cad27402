/*
 * keys_finish.cu - launches dsv4_keys_finish's kernels.
 *
 * Place: cuda. The kernels are src/gpu's.
 */
#include "keys_launch.h"
#include "launch.cuh"

#include "gpu/keys_finish_kernel.c"

cudaError_t dsv4_keys_finish_launch(const keys_finish_args *args, cudaStream_t stream)
{
    const int waves = KEYS_ROW_THREADS / GPU_WAVE;
    const unsigned n_blocks = (unsigned)((args->n_rows + waves - 1) / waves);
    return launch_kernel(args->is_bf16 ? dsv4_keys_finish_bf16_gpu : dsv4_keys_finish_gpu, n_blocks,
                         KEYS_ROW_THREADS, 0, stream, *args);
}
