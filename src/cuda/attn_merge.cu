/*
 * attn_merge.cu - launches dsv4_attn_merge's kernel.
 *
 * Place: cuda. The kernel is src/gpu's.
 */
#include "attn_launch.h"
#include "launch.cuh"

#include "gpu/attn_merge_kernel.c"

static const int64_t MAX_BLOCKS = 1 << 30;

cudaError_t dsv4_attn_merge_launch(const attn_merge_args *args, cudaStream_t stream)
{
    const int64_t n_wanted =
        (args->n_rows * args->n_heads + ATTN_MERGE_WAVES - 1) / ATTN_MERGE_WAVES;
    const unsigned n_blocks = (unsigned)(n_wanted < MAX_BLOCKS ? n_wanted : MAX_BLOCKS);
    return launch_kernel(dsv4_attn_merge_gpu, n_blocks, ATTN_MERGE_WAVES * GPU_WAVE, 0, stream,
                         *args);
}
