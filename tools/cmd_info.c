/*
 * cmd_info.c - `dsv4 info`: what this build and this machine can do, and what is chosen.
 *
 * Place: program.
 */
#include "commands.h"

#include "dsv4/attn.h"

#include "base/parallel.h"
#include "gpu/code_objects.h"
#include "hip/hip_device.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

/* What a level consists of; indexed by DSV4_CPU_LEVEL_*. */
static const char *const level_parts[] = {
    NULL, "SSE4.2", "AVX2, FMA and F16C", "AVX-512 F, BW, DQ and VL", "AVX-512 BF16 and VBMI",
};

static void print_cpu(void)
{
    int32_t level = dsv4_cpu_level();
    printf("cpu level  %s: this machine has %s", dsv4_cpu_level_name(level), level_parts[level]);
    if (level < DSV4_CPU_LEVEL_AVX512BF16) {
        printf("; %s would need %s", dsv4_cpu_level_name(level + 1), level_parts[level + 1]);
    }
    printf("\n");
    printf("threads    %" PRId32 " by OpenMP, %ld processors online\n",
           dsv4_parallel_default_threads(), sysconf(_SC_NPROCESSORS_ONLN));
}

/* What the attention gets on the current device of a backend, or why it gets nothing. */
static void print_kernel(const char *label, const char *name, int32_t backend)
{
    dsv4_attn_params params;
    dsv4_attn_choice choice;
    dsv4_error error;
    dsv4_attn_params_default(&params);
    params.backend = backend;
    if (dsv4_attn_choose(&params, &choice, &error) != DSV4_OK) {
        printf("%-10s %s: none: %s\n", label, name, error.text);
        return;
    }
    printf("%-10s %s: kernel %s, math %s", label, name, choice.kernel, choice.math);
    params.math = DSV4_ATTN_MATH_FP8;
    bool has_fp8 = dsv4_attn_choose(&params, &choice, &error) == DSV4_OK;
    printf("%s\n", has_fp8 ? ", fp8 when asked for" : "");
}

/* Every device of AMD's runtime, and whether this build has code for it. */
static void print_hip_devices(const dsv4_hip *hip)
{
    int n_devices = 0;
    if (hip->hipGetDeviceCount(&n_devices) != 0) n_devices = 0;
    printf("%-10s HIP: %s, version %d.%d, devices: %d\n", "", hip->name, hip->version / 10000000,
           hip->version / 100000 % 100, n_devices);
    for (int i = 0; i < n_devices; i++) {
        dsv4_hip_properties properties;
        const void *code;
        dsv4_error error;
        if (dsv4_hip_properties_read(hip, i, &properties, &error) != DSV4_OK) {
            printf("%-10s HIP device %d: %s\n", "", i, error.text);
            continue;
        }
        bool has_code = dsv4_hip_code_find(properties.architecture, &code, &error) == DSV4_OK;
        printf("%-10s HIP device %d: %s, %d compute units, %s%s\n", "", i, properties.architecture,
               properties.n_units,
               has_code ? "with code in this build" : "without code: ", has_code ? "" : error.text);
    }
}

static void print_devices(void)
{
    print_kernel("devices", "CUDA", DSV4_BACKEND_CUDA);
    print_kernel("", "HIP", DSV4_BACKEND_HIP);
    const dsv4_hip *hip = dsv4_hip_get(NULL);
    if (hip != NULL) print_hip_devices(hip);
    if (dsv4_code_gfx950_bytes > 0)
        printf("%-10s HIP: this build's code is by %s\n", "", dsv4_code_compiler);
    printf("%-10s HIP: %s\n", "",
           dsv4_code_gfx950_bytes == 0
               ? "this build has no code for AMD GPUs (it was configured without clang-22)"
               : "compiled and ISA-checked for gfx950, functionally tested without hardware, never "
                 "run on an MI355X");
}

static int print_choice(const dsv4_options *options)
{
    dsv4_attn_params params;
    dsv4_attn_choice choice;
    dsv4_error error;
    dsv4_attn_params_default(&params);
    if (dsv4_attn_choose(&params, &choice, &error) != DSV4_OK) {
        return dsv4_command_fail(options, &error);
    }
    printf("attn       backend %s, kernel %s, math %s: %s\n", choice.backend, choice.kernel,
           choice.math, choice.reason);
    return DSV4_EXIT_OK;
}

int dsv4_cmd_info(const dsv4_options *options)
{
    printf("dsv4       %s\n", dsv4_version());
    print_cpu();
    printf(
        "backends   ref (scalar), cpu (v2, avx2, avx512, avx512bf16), cuda (mma, sm90: attention "
        "and its neighbours), hip (gfx950, gfx942: attention\n"
        "           and its neighbours)\n");
    print_devices();
    return print_choice(options);
}
