/*
 * attn_call.c - allocates, runs and inspects one attention call.
 *
 * Place: program.
 */
#include "attn_call.h"

#include "device_call.h"

#include "attn/attn_check.h"
#include "base/checked.h"
#include "base/error.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN_BYTES = 64, GUARD_BYTES = 4096, GUARD_VALUE = 0xa5, POISON_VALUE = 0xff };

static dsv4_status guarded_open(dsv4_guarded *guarded, const char *what, size_t len_bytes,
                                dsv4_error *error)
{
    size_t total_bytes;
    bool fits = dsv4_checked_add(len_bytes, 2 * GUARD_BYTES + ALIGN_BYTES, &total_bytes);
    total_bytes -= fits ? total_bytes % ALIGN_BYTES : 0;
    guarded->allocation = fits ? aligned_alloc(ALIGN_BYTES, total_bytes) : NULL;
    if (guarded->allocation == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory for %zu bytes of %s",
                              len_bytes, what);
    }
    guarded->bytes = guarded->allocation + GUARD_BYTES;
    guarded->len_bytes = len_bytes;
    memset(guarded->allocation, GUARD_VALUE, GUARD_BYTES);
    memset(guarded->bytes, POISON_VALUE, len_bytes);
    memset(guarded->allocation + GUARD_BYTES + len_bytes, GUARD_VALUE, GUARD_BYTES);
    return DSV4_OK;
}

static bool guarded_is_whole(const dsv4_guarded *guarded)
{
    const unsigned char *before = guarded->allocation;
    const unsigned char *after = guarded->allocation + GUARD_BYTES + guarded->len_bytes;
    for (int i = 0; i < GUARD_BYTES; i++) {
        if (before[i] != GUARD_VALUE || after[i] != GUARD_VALUE) return false;
    }
    return true;
}

void dsv4_attn_call_set_options(dsv4_attn_params *params, const dsv4_options *options)
{
    params->backend = (int32_t)options->values[DSV4_OPTION_BACKEND];
    params->cpu_level = (int32_t)options->values[DSV4_OPTION_ISA];
    params->math = (int32_t)options->values[DSV4_OPTION_MATH];
    params->n_threads = (int32_t)options->values[DSV4_OPTION_THREADS];
}

dsv4_status dsv4_attn_call_choose(const dsv4_options *options, dsv4_attn_params *params,
                                  dsv4_attn_choice *choice, dsv4_error *error)
{
    dsv4_attn_params_default(params);
    dsv4_attn_call_set_options(params, options);
    dsv4_error cause;
    dsv4_status status = dsv4_attn_choose(params, choice, &cause);
    if (status == DSV4_OK) return DSV4_OK;
    char given[128] = "";
    const int32_t ids[] = {DSV4_OPTION_BACKEND, DSV4_OPTION_ISA, DSV4_OPTION_MATH};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        if (!options->given[ids[i]]) continue;
        size_t used = strlen(given);
        (void)snprintf(given + used, sizeof given - used,
                       "--%s %s: ", dsv4_options_table[ids[i]].name, options->texts[ids[i]]);
    }
    return dsv4_error_set(error, status, "%s%.360s", given, cause.text);
}

/* Allocates dense results and points params at them. */
static dsv4_status open_results(dsv4_attn_call *call, dsv4_error *error)
{
    dsv4_attn_params *params = &call->params;
    const int64_t scales_bytes = DSV4_ATTN_DIM / DSV4_ATTN_OUT_GROUP;
    int64_t element_bytes = params->out_dtype == DSV4_DTYPE_F32 ? 4 : 2;
    if (params->out_dtype == DSV4_DTYPE_FP8) element_bytes = 1;
    int64_t n_rows, out_bytes = 0;
    bool fits = dsv4_checked_mul_i64(params->n_requests, params->n_queries, &n_rows) &&
                dsv4_checked_mul_i64(n_rows, params->n_heads, &n_rows) &&
                dsv4_checked_mul_i64(n_rows, DSV4_ATTN_DIM * element_bytes, &out_bytes);
    if (!fits) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "the output's size overflows");
    }
    DSV4_TRY(guarded_open(&call->out, "out", (size_t)out_bytes, error));
    if (params->out_dtype == DSV4_DTYPE_FP8) {
        size_t len_bytes = (size_t)(n_rows * scales_bytes);
        DSV4_TRY(guarded_open(&call->out_scales, "out_scales", len_bytes, error));
    }
    DSV4_TRY(guarded_open(&call->lse, "lse", (size_t)n_rows * sizeof(float), error));
    params->out = call->out.bytes;
    params->out_head_stride_bytes = DSV4_ATTN_DIM * element_bytes;
    params->out_query_stride_bytes = params->n_heads * params->out_head_stride_bytes;
    params->out_request_stride_bytes = params->n_queries * params->out_query_stride_bytes;
    params->out_scales = call->out_scales.bytes;
    params->out_scales_head_stride_bytes = scales_bytes;
    params->out_scales_query_stride_bytes = params->n_heads * scales_bytes;
    params->out_scales_request_stride_bytes = params->n_queries * params->n_heads * scales_bytes;
    params->lse = call->lse.bytes;
    params->lse_head_stride_bytes = (int64_t)sizeof(float);
    params->lse_query_stride_bytes = params->n_heads * params->lse_head_stride_bytes;
    params->lse_request_stride_bytes = params->n_queries * params->lse_query_stride_bytes;
    return DSV4_OK;
}

dsv4_status dsv4_attn_call_open(dsv4_attn_call *call, const dsv4_attn_params *params,
                                dsv4_error *error)
{
    *call = (dsv4_attn_call){.params = *params};
    DSV4_TRY(open_results(call, error));
    if (dsv4_attn_on_gpu(params->backend)) return DSV4_OK; /* device_call.h makes the rest */
    size_t plan_bytes, workspace_bytes;
    DSV4_TRY(dsv4_attn_plan_size(&call->params, &plan_bytes, &workspace_bytes, error));
    DSV4_TRY(guarded_open(&call->plan, "plan", plan_bytes, error));
    DSV4_TRY(guarded_open(&call->workspace, "workspace", workspace_bytes, error));
    return dsv4_attn_plan_build(NULL, &call->params, call->plan.bytes, plan_bytes, error);
}

dsv4_status dsv4_attn_call_decode(dsv4_attn_call *call, dsv4_error *error)
{
    if (dsv4_attn_on_gpu(call->params.backend)) {
        const dsv4_device_span written[DSV4_DEVICE_WRITTEN] = {
            {call->out.bytes, call->out.len_bytes},
            {call->lse.bytes, call->lse.len_bytes},
            {call->out_scales.bytes, call->out_scales.len_bytes}};
        return dsv4_device_call_decode(&call->params, written, error);
    }
    return dsv4_attn_decode(NULL, &call->params, call->plan.bytes, call->plan.len_bytes,
                            call->workspace.bytes, call->workspace.len_bytes, error);
}

const char *dsv4_attn_call_damaged(const dsv4_attn_call *call)
{
    if (!guarded_is_whole(&call->out)) return "out";
    if (!guarded_is_whole(&call->lse)) return "lse";
    if (call->out_scales.allocation != NULL && !guarded_is_whole(&call->out_scales)) {
        return "out_scales";
    }
    if (dsv4_attn_on_gpu(call->params.backend)) return NULL;
    if (!guarded_is_whole(&call->plan)) return "plan";
    if (!guarded_is_whole(&call->workspace)) return "workspace";
    return NULL;
}

void dsv4_attn_call_close(dsv4_attn_call *call)
{
    free(call->out.allocation);
    free(call->out_scales.allocation);
    free(call->lse.allocation);
    free(call->plan.allocation);
    free(call->workspace.allocation);
    *call = (dsv4_attn_call){0};
}
