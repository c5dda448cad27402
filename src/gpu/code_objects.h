/*
 * code_objects.h - the kernels for AMD GPUs, compiled when the library was built.
 *
 * Place: gpu. An ELF file each, for a loader of modules; of 0 bytes in a build without AMD's compiler. Every kernel
 * takes one struct by value, has the shared memory that it needs and no other, and is named here:
 *
 *   dsv4_attn_plan              attn_plan_args    1 block of ATTN_PLAN_THREADS; n_streams is 1
 *   dsv4_attn_merge             attn_merge_args   blocks of MERGE_THREADS, a wave for a head of a row; any number
 *   dsv4_attn_bf16_h16, _h32    attn_args         n_thread_blocks of DECODE_BLOCK_THREADS, one for each compute unit
 *   dsv4_attn_bf16_h64          attn_args         the same; gfx950 alone
 *   dsv4_attn_fp8_h16, _h32, _h64   attn_args     the same; gfx950 alone
 *   dsv4_keys_finish            keys_finish_args  blocks of KEYS_ROW_THREADS, a wave for a row; any number
 *   dsv4_keys_finish_bf16       keys_finish_args  the same, where is_bf16 is set
 *   dsv4_keys_compress_4, _128  keys_compress_args   a block of KEYS_COMPRESS_4_THREADS, _128_THREADS for each token
 *   dsv4_keys_read              keys_read_args    blocks of KEYS_ROW_THREADS, a wave for KEYS_READ_ROWS rows; any number
 *   dsv4_keys_read_bf16         keys_read_args    the same, of bf16 output
 *
 * The number in a name is that of heads together: n_groups of the plan is n_heads over it, rounded up. attn_args: caches
 * and page strides are multiples of 16 bytes.
 */
#ifndef DSV4_GPU_CODE_OBJECTS_H
#define DSV4_GPU_CODE_OBJECTS_H

#include <stddef.h>

#include "attn_device.h"
#include "keys_device.h"

enum { MERGE_THREADS = 64 * ATTN_MERGE_WAVES, DECODE_BLOCK_THREADS = 512 };

extern const unsigned char dsv4_code_gfx942[];
extern const size_t dsv4_code_gfx942_bytes;
extern const unsigned char dsv4_code_gfx950[];
extern const size_t dsv4_code_gfx950_bytes;

/* Who compiled them: "clang 22.1.8"; "" if nobody did. */
extern const char dsv4_code_compiler[];

#endif
