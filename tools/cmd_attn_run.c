/*
 * cmd_attn_run.c - `dsv4 attn run`: computes a case file and writes out (with its scales when it is FP8) and lse.
 *
 * Place: program. The metadata of the result name what computed it, so that a result that was kept
 * still tells.
 */
#include "attn_call.h"
#include "attn_case.h"
#include "commands.h"

#include "base/error.h"

static dsv4_status write_results(const char *path, const dsv4_attn_call *call,
                                 const dsv4_attn_choice *choice, dsv4_error *error)
{
    const dsv4_attn_params *params = &call->params;
    static const int32_t dtypes[] = {[DSV4_DTYPE_BF16] = DSV4_SAFETENSORS_BF16,
                                     [DSV4_DTYPE_F32] = DSV4_SAFETENSORS_F32,
                                     [DSV4_DTYPE_FP8] = DSV4_SAFETENSORS_F8_E4M3};
    const int64_t n_tensors = params->out_dtype == DSV4_DTYPE_FP8 ? 3 : 2;
    const dsv4_tensor_view tensors[] = {
        {
            .name = "out",
            .dtype = dtypes[params->out_dtype],
            .rank = 4,
            .shape = {params->n_requests, params->n_queries, params->n_heads, DSV4_ATTN_DIM},
            .data = call->out.bytes,
            .len_bytes = (int64_t)call->out.len_bytes,
        },
        {
            .name = "lse",
            .dtype = DSV4_SAFETENSORS_F32,
            .rank = 3,
            .shape = {params->n_requests, params->n_queries, params->n_heads},
            .data = call->lse.bytes,
            .len_bytes = (int64_t)call->lse.len_bytes,
        },
        {
            .name = "out_scales",
            .dtype = DSV4_SAFETENSORS_F8_E8M0,
            .rank = 4,
            .shape = {params->n_requests, params->n_queries, params->n_heads,
                      DSV4_ATTN_DIM / DSV4_ATTN_OUT_GROUP},
            .data = call->out_scales.bytes,
            .len_bytes = (int64_t)call->out_scales.len_bytes,
        },
    };
    const dsv4_metadata_entry metadata[] = {
        {"dsv4_version", dsv4_version()},
        {"backend", choice->backend},
        {"kernel", choice->kernel},
        {"math", choice->math},
    };
    return dsv4_safetensors_write(path, tensors, n_tensors, metadata,
                                  sizeof metadata / sizeof *metadata, error);
}

/* Computes the case at `path` and writes the results. */
static dsv4_status run_case(const char *path, const dsv4_options *options,
                            const dsv4_attn_choice *choice, dsv4_error *error)
{
    dsv4_attn_case attn_case;
    dsv4_attn_call call = {0};
    dsv4_status status = dsv4_attn_case_open(path, &attn_case, error);
    if (status == DSV4_OK) {
        dsv4_attn_params params = attn_case.params;
        dsv4_attn_call_set_options(&params, options);
        params.out_dtype = (int32_t)options->values[DSV4_OPTION_OUT_DTYPE];
        dsv4_error cause;
        status = dsv4_attn_call_open(&call, &params, &cause);
        if (status == DSV4_OK) status = dsv4_attn_call_decode(&call, &cause);
        if (status != DSV4_OK) {
            if (status == DSV4_ERROR_INVALID_ARGUMENT) status = DSV4_ERROR_BAD_FILE;
            (void)dsv4_error_set(error, status, "%.200s: %.280s", path, cause.text);
        }
    }
    if (status == DSV4_OK) {
        status = write_results(options->texts[DSV4_OPTION_OUTPUT], &call, choice, error);
    }
    dsv4_attn_call_close(&call);
    dsv4_attn_case_close(&attn_case);
    return status;
}

int dsv4_cmd_attn_run(const dsv4_options *options)
{
    dsv4_attn_params params;
    dsv4_attn_choice choice;
    dsv4_error error;
    if (dsv4_attn_call_choose(options, &params, &choice, &error) != DSV4_OK ||
        run_case(options->arguments[0], options, &choice, &error) != DSV4_OK) {
        return dsv4_command_fail(options, &error);
    }
    printf("%s: backend %s, kernel %s, math %s\n", options->texts[DSV4_OPTION_OUTPUT],
           choice.backend, choice.kernel, choice.math);
    return DSV4_EXIT_OK;
}
