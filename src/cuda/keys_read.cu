/*
 * keys_read.cu - launches dsv4_keys_read's kernels.
 *
 * Place: cuda. The kernels are src/gpu's.
 */
#include "keys_launch.h"
#include "launch.cuh"

#include "gpu/keys_read_kernel.c"

cudaError_t dsv4_keys_read_launch(const keys_read_args *args, cudaStream_t stream)
{
    const int block_rows = KEYS_ROW_THREADS / GPU_WAVE * KEYS_READ_ROWS;
    const unsigned n_blocks = (unsigned)((args->n_rows + block_rows - 1) / block_rows);
    return launch_kernel(args->out.is_f32 ? dsv4_keys_read_gpu : dsv4_keys_read_bf16_gpu, n_blocks,
                         KEYS_ROW_THREADS, 0, stream, *args);
}
