/*
 * cmd_info.c - `dsv4 info`: what this build and this machine can do, and what is chosen.
 *
 * Place: program.
 */
#include "commands.h"

#include "dsv4/attn.h"

#include "base/parallel.h"

#include <inttypes.h>
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

static void print_device(void)
{
    dsv4_attn_params params;
    dsv4_attn_choice choice;
    dsv4_error error;
    dsv4_attn_params_default(&params);
    params.backend = DSV4_BACKEND_CUDA;
    if (dsv4_attn_choose(&params, &choice, &error) == DSV4_OK) {
        printf("devices    CUDA: kernel %s, math %s\n", choice.kernel, choice.math);
    } else {
        printf("devices    none: %s\n", error.text);
    }
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
        "and its neighbours)\n");
    print_device();
    return print_choice(options);
}
