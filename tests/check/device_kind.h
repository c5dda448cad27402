/*
 * device_kind.h - what the GPU is, for checks of what only some have.
 *
 * Place: tests.
 */
#ifndef DSV4_TESTS_DEVICE_KIND_H
#define DSV4_TESTS_DEVICE_KIND_H

#include "dsv4/attn.h"

#include <stdbool.h>

/* Has FP8 products. Asked by its kernel of bf16 products, so that a refusal of FP8 math there is noticed, not skipped. */
static inline bool device_is_hopper(void)
{
    dsv4_attn_params params;
    dsv4_attn_choice choice;
    dsv4_attn_params_default(&params);
    params.backend = DSV4_BACKEND_CUDA;
    params.cuda_kernel = DSV4_CUDA_KERNEL_SM90;
    return dsv4_attn_choose(&params, &choice, NULL) == DSV4_OK;
}

/* Has kernels with FP8 products in this build: gfx950 may, gfx942 does not. */
static inline bool device_has_hip_fp8(void)
{
    dsv4_attn_params params;
    dsv4_attn_choice choice;
    dsv4_attn_params_default(&params);
    params.backend = DSV4_BACKEND_HIP;
    params.math = DSV4_ATTN_MATH_FP8;
    return dsv4_attn_choose(&params, &choice, NULL) == DSV4_OK;
}

#endif
