/*
 * attn_sm90.cu - decode attention for Hopper: bf16 products on wgmma, f32 sums, keys straight from the
 * paged FP8 cache.
 *
 * Place: cuda, sm_90a only. A thread block stays for all its parts (attn_device.h). Its warps:
 *
 *   key warps     two warpgroups, which take turns with blocks of 64 keys: a stream each. Bring a block's rows, each
 *                 thread what it will convert; convert them to bf16 in the registers of a matrix operand, multiply
 *                 them with the queries (keys on rows, heads on columns), store them as values, make probabilities and
 *                 store those
 *   value warps   two warpgroups, half of the dimensions each: sums in registers += probabilities times values, for
 *                 the blocks of both streams in turn; and they find the rows of the blocks to come
 *
 * So one block is converted while the other is weighed and multiplied, and the key warps begin with the next part
 * while the value warps write this one's output. All heads of a group share a row's load and conversion. Softmax:
 * probabilities are relative to a reference per head, 2^(score - ref), and may pass 1 by far, since bf16 and f32 have
 * the exponents for it. So there is no running maximum: a part's first block, and one in which a thread's sum passes 2^40,
 * set a new reference and make the value warps rescale.
 *
 * Joined lists: heads are those of all queries of the request, and a row's scores are -inf to those of queries that do
 * not name it (mark_joined); the finder leaves the bits of those that do with the row's address.
 *
 * A NaN code is found by the largest magnitude of a row; the row then counts as NaN for every head. Rows that no list
 * names are never read.
 */
#include "attn_launch.h"
#include "attn_sm90_kernel.cuh"

cudaError_t dsv4_attn_sm90_launch(const attn_args *args, int group_heads, int n_thread_blocks,
                                  cudaStream_t stream)
{
    return launch_group<attn_part>(args, group_heads, n_thread_blocks, stream);
}
