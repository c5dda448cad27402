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

#define KERNELS(K)                                                                                 \
    K(dsv4_attn_plan, attn_plan_args)                                                              \
    K(dsv4_attn_merge, attn_merge_args)                                                            \
    K(dsv4_attn_bf16_h16, attn_args)                                                               \
    K(dsv4_attn_bf16_h32, attn_args)                                                               \
    K(dsv4_attn_bf16_h64, attn_args)                                                               \
    K(dsv4_attn_fp8_h16, attn_args)                                                                \
    K(dsv4_attn_fp8_h32, attn_args)                                                                \
    K(dsv4_attn_fp8_h64, attn_args)                                                                \
    K(dsv4_keys_finish, keys_finish_args)                                                          \
    K(dsv4_keys_compress_4, keys_compress_args)                                                    \
    K(dsv4_keys_compress_128, keys_compress_args)                                                  \
    K(dsv4_keys_read, keys_read_args)

#define DEFINE_RUN(name, args_type)                                                                \
    void name##_fiber(args_type args);                                                             \
    static void run_##name(const void *args)                                                       \
    {                                                                                              \
        name##_fiber(*(const args_type *)args);                                                    \
    }
KERNELS(DEFINE_RUN)

fiber_kernel *fiber_kernel_find(const char *name)
{
#define NAME_AND_RUN(name, args_type) {#name, run_##name},
    static const struct {
        const char *name;
        fiber_kernel *run;
    } kernels[] = {KERNELS(NAME_AND_RUN)};
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++) {
        if (strcmp(name, kernels[i].name) == 0) return kernels[i].run;
    }
    return NULL;
}
