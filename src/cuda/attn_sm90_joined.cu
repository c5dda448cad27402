/*
 * attn_sm90_joined.cu - the kernel of attn_sm90.cu for joined lists.
 *
 * Place: cuda, sm_90a only.
 */
#include "attn_launch.h"
#include "attn_sm90_kernel.cuh"

cudaError_t dsv4_attn_sm90_joined_launch(const attn_args *args, int group_heads,
                                         int n_thread_blocks, cudaStream_t stream)
{
    return launch_group<joined_part>(args, group_heads, n_thread_blocks, stream);
}
