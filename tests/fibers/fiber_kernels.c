/*
 * fiber_kernels.c - one function for each kernel, which gives it the struct that it takes by value.
 *
 * Place: tests.
 */
#include "fiber_kernels.h"

#include <stddef.h>
#include <string.h>

#include "gpu/attn_device.h"
#include "gpu/keys_device.h"

/* Name, argument, blocks of a cluster. */
#define MATRIX_KERNELS(K)                                                                          \
    K(dsv4_attn_bf16_h16, attn_args, 1)                                                            \
    K(dsv4_attn_bf16_h32, attn_args, 1)                                                            \
    K(dsv4_attn_bf16_h64, attn_args, 1)                                                            \
    K(dsv4_attn_fp8_h16, attn_args, 1)                                                             \
    K(dsv4_attn_fp8_h32, attn_args, 1)                                                             \
    K(dsv4_attn_fp8_h64, attn_args, 1)

#define OTHER_KERNELS(K)                                                                           \
    K(dsv4_attn_plan, attn_plan_args, 1)                                                           \
    K(dsv4_attn_join, attn_join_args, 1)                                                           \
    K(dsv4_attn_merge, attn_merge_args, 1)                                                         \
    K(dsv4_keys_finish, keys_finish_args, 1)                                                       \
    K(dsv4_keys_finish_bf16, keys_finish_args, 1)                                                  \
    K(dsv4_keys_compress_4, keys_compress_args, 1)                                                 \
    K(dsv4_keys_compress_128, keys_compress_args, 1)                                               \
    K(dsv4_keys_compress_128_cluster, keys_compress_args, KEYS_CLUSTER_BLOCKS)                     \
    K(dsv4_keys_read, keys_read_args, 1)                                                           \
    K(dsv4_keys_read_bf16, keys_read_args, 1)

#define DEFINE_RUN(name, args_type, form)                                                          \
    void name##_##form(args_type args);                                                            \
    static void run_##name##_##form(const void *args)                                              \
    {                                                                                              \
        name##_##form(*(const args_type *)args);                                                   \
    }
#define DEFINE_RUN_64(name, args_type, cluster_blocks) DEFINE_RUN(name, args_type, fiber)
#define DEFINE_RUN_32(name, args_type, cluster_blocks) DEFINE_RUN(name, args_type, wave32)
MATRIX_KERNELS(DEFINE_RUN_64)
OTHER_KERNELS(DEFINE_RUN_64)
OTHER_KERNELS(DEFINE_RUN_32)

#define NAME_AND_RUN_64(name, args_type, cluster_blocks)                                           \
    {#name, {run_##name##_fiber, 64, cluster_blocks}},
#define NAME_AND_RUN_32(name, args_type, cluster_blocks)                                           \
    {#name, {run_##name##_wave32, 32, cluster_blocks}},

const fiber_kernel *fiber_kernel_find(const char *name, int wave_threads)
{
    static const struct {
        const char *name;
        fiber_kernel kernel;
    } kernels[] = {MATRIX_KERNELS(NAME_AND_RUN_64) OTHER_KERNELS(NAME_AND_RUN_64)
                       OTHER_KERNELS(NAME_AND_RUN_32)};
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++) {
        if (kernels[i].kernel.wave_threads == wave_threads && strcmp(name, kernels[i].name) == 0)
            return &kernels[i].kernel;
    }
    return NULL;
}
