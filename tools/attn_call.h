/*
 * attn_call.h - the memory around one attention call: results, plan and workspace.
 *
 * Place: program; check, run and bench use it. Each buffer is filled with NaN bytes and stands
 * between guard bytes, so that what was not written and what was written outside both show. On a GPU tensors
 * are in host memory all the same and the call copies them (device_call.h).
 */
#ifndef DSV4_TOOLS_ATTN_CALL_H
#define DSV4_TOOLS_ATTN_CALL_H

#include "options.h"

#include "dsv4/attn.h"

typedef struct dsv4_guarded {
    unsigned char *allocation;
    void *bytes; /* [len_bytes], 64-byte aligned */
    size_t len_bytes;
} dsv4_guarded;

typedef struct dsv4_attn_call {
    dsv4_attn_params params; /* with out, out_scales and lse set */
    dsv4_guarded out;        /* [n_requests, n_queries, n_heads, 512] params.out_dtype, dense */
    dsv4_guarded
        out_scales;   /* [n_requests, n_queries, n_heads, 4] ue8m0, dense; of an FP8 output */
    dsv4_guarded lse; /* [n_requests, n_queries, n_heads] f32, dense */
    dsv4_guarded plan;
    dsv4_guarded workspace;
} dsv4_attn_call;

/* Sets backend, cpu_level, math and n_threads from --backend, --isa, --math and --threads. */
void dsv4_attn_call_set_options(dsv4_attn_params *params, const dsv4_options *options);

/*
 * Sets *params to defaults with the options, and *choice to what they select. Errors: UNSUPPORTED,
 * INVALID_ARGUMENT; the text begins with the options.
 */
dsv4_status dsv4_attn_call_choose(const dsv4_options *options, dsv4_attn_params *params,
                                  dsv4_attn_choice *choice, dsv4_error *error);

/*
 * Copies params, allocates results of params->out_dtype, plan and workspace, and builds the plan.
 * Close the call also after a failure. Errors: those of dsv4_attn_plan_size and _build.
 */
dsv4_status dsv4_attn_call_open(dsv4_attn_call *call, const dsv4_attn_params *params,
                                dsv4_error *error);

/* Runs the decode into the call's results. */
dsv4_status dsv4_attn_call_decode(dsv4_attn_call *call, dsv4_error *error);

/* The first buffer whose guard bytes have changed ("out", ...), or NULL when all are whole. */
const char *dsv4_attn_call_damaged(const dsv4_attn_call *call);

/* Accepts a zeroed call. */
void dsv4_attn_call_close(dsv4_attn_call *call);

#endif
