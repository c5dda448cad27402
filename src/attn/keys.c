/*
 * keys.c - the operations of dsv4/keys.h as callers see them: defaults, checks, the way to a backend.
 *
 * Place: attn; checks are in keys_check.c, arithmetic in src/cpu, src/cuda and src/gpu.
 */
#include "dsv4/keys.h"

#include <string.h>

#include "attn_check.h"
#include "base/error.h"
#include "base/parallel.h"
#include "cpu/keys_cpu.h"
#include "cuda/keys_cuda.h"
#include "hip/keys_hip.h"
#include "keys_check.h"

enum { DEFAULT_PAGE_ROWS = 64 };

#define DEFAULT_NORM_EPS 1e-6f

void dsv4_keys_finish_params_default(dsv4_keys_finish_params *params)
{
    memset(params, 0, sizeof *params);
    params->size = sizeof *params;
    params->norm_eps = DEFAULT_NORM_EPS;
    params->q_dtype = params->out_dtype = params->kv_dtype = DSV4_DTYPE_BF16;
    params->window.page_rows = DEFAULT_PAGE_ROWS;
}

void dsv4_keys_compress_params_default(dsv4_keys_compress_params *params)
{
    memset(params, 0, sizeof *params);
    params->size = sizeof *params;
    params->ratio = 4;
    params->norm_eps = DEFAULT_NORM_EPS;
    params->state_page_rows = DEFAULT_PAGE_ROWS;
    params->compressed.page_rows = DEFAULT_PAGE_ROWS;
}

void dsv4_keys_read_params_default(dsv4_keys_read_params *params)
{
    memset(params, 0, sizeof *params);
    params->size = sizeof *params;
    params->out_dtype = DSV4_DTYPE_BF16;
    params->cache.page_rows = DEFAULT_PAGE_ROWS;
}

/* Of a row's functions: 0 is the reference. */
static int32_t cpu_level(int32_t backend)
{
    return backend == DSV4_BACKEND_REF ? 0 : dsv4_cpu_level();
}

static int32_t cpu_threads(int32_t n_threads)
{
    return n_threads == 0 ? dsv4_parallel_default_threads() : n_threads;
}

dsv4_status dsv4_keys_finish(void *stream, const dsv4_keys_finish_params *params, dsv4_error *error)
{
    DSV4_TRY(dsv4_keys_check_finish(params, error));
    DSV4_TRY(dsv4_attn_check_stream(stream, params->backend, error));
    if (params->backend == DSV4_BACKEND_CUDA) return dsv4_keys_cuda_finish(stream, params, error);
    if (params->backend == DSV4_BACKEND_HIP) return dsv4_keys_hip_finish(stream, params, error);
    dsv4_keys_cpu_finish(params, cpu_level(params->backend), cpu_threads(params->n_threads));
    return DSV4_OK;
}

dsv4_status dsv4_keys_compress(void *stream, const dsv4_keys_compress_params *params,
                               dsv4_error *error)
{
    DSV4_TRY(dsv4_keys_check_compress(params, error));
    DSV4_TRY(dsv4_attn_check_stream(stream, params->backend, error));
    if (params->backend == DSV4_BACKEND_CUDA) return dsv4_keys_cuda_compress(stream, params, error);
    if (params->backend == DSV4_BACKEND_HIP) return dsv4_keys_hip_compress(stream, params, error);
    dsv4_keys_cpu_compress(params, cpu_level(params->backend), cpu_threads(params->n_threads));
    return DSV4_OK;
}

dsv4_status dsv4_keys_read(void *stream, const dsv4_keys_read_params *params, dsv4_error *error)
{
    DSV4_TRY(dsv4_keys_check_read(params, error));
    DSV4_TRY(dsv4_attn_check_stream(stream, params->backend, error));
    if (params->backend == DSV4_BACKEND_CUDA) return dsv4_keys_cuda_read(stream, params, error);
    if (params->backend == DSV4_BACKEND_HIP) return dsv4_keys_hip_read(stream, params, error);
    dsv4_keys_cpu_read(params, cpu_level(params->backend), cpu_threads(params->n_threads));
    return DSV4_OK;
}
