/*
 * keys_host.c - what the kernels of dsv4/keys.h are told.
 *
 * Place: gpu; host side.
 */
#include "keys_host.h"

#include "dsv4/cache.h"

enum { ALIGNED_BYTES = 16 };

static keys_cache_args cache_args(const dsv4_keys_cache *cache)
{
    keys_cache_args args = {.page_rows = 1};
    if (cache->n_pages == 0) return args;
    int64_t most = INT64_C(0x80000000);
    int64_t n_slots =
        cache->n_pages > most / cache->page_rows ? most : cache->n_pages * cache->page_rows;
    args.pages = cache->pages;
    args.page_stride_bytes = cache->page_stride_bytes;
    args.scale_plane_bytes = cache->page_rows * DSV4_CACHE_DATA_BYTES;
    args.n_slots = (uint32_t)n_slots;
    args.page_rows = (uint32_t)cache->page_rows;
    args.is_f32 = cache->row_format == DSV4_ATTN_ROWS_F32;
    return args;
}

static int is_aligned(const void *pointer, int64_t a, int64_t b)
{
    return ((uintptr_t)pointer | (uint64_t)a | (uint64_t)b) % ALIGNED_BYTES == 0;
}

static keys_tensor_args tensor_args(const void *tensor, int32_t dtype, int64_t token_stride_bytes,
                                    int64_t head_stride_bytes)
{
    return (keys_tensor_args){.base = (char *)(uintptr_t)tensor,
                              .token_stride_bytes = token_stride_bytes,
                              .head_stride_bytes = head_stride_bytes,
                              .is_f32 = dtype == DSV4_DTYPE_F32,
                              .is_aligned =
                                  is_aligned(tensor, token_stride_bytes, head_stride_bytes)};
}

keys_finish_args dsv4_keys_gpu_finish_args(const dsv4_keys_finish_params *p)
{
    keys_finish_args args = {
        .rows_per_token = (uint32_t)p->n_heads + (p->kv != NULL),
        .n_heads = (uint32_t)p->n_heads,
        .norm_eps = p->norm_eps,
        .is_official = p->math == DSV4_ATTN_MATH_OFFICIAL,
        .kv_norm = p->kv_norm,
        .slots = p->slots,
        .rope = {p->rope_table, p->rope_rows, (uint32_t)p->n_rope_rows},
    };
    if (p->n_heads > 0) {
        args.q = tensor_args(p->q, p->q_dtype, p->q_token_stride_bytes, p->q_head_stride_bytes);
        args.out =
            tensor_args(p->out, p->out_dtype, p->out_token_stride_bytes, p->out_head_stride_bytes);
    }
    if (p->kv != NULL) {
        args.kv = tensor_args(p->kv, p->kv_dtype, p->kv_token_stride_bytes, 0);
        args.window = cache_args(&p->window);
    }
    args.is_bf16 = !args.q.is_f32 && !args.out.is_f32 && !args.kv.is_f32;
    args.n_rows = p->n_tokens * args.rows_per_token;
    return args;
}

keys_compress_args dsv4_keys_gpu_compress_args(const dsv4_keys_compress_params *p)
{
    keys_compress_args args = {
        .n_tokens = p->n_tokens,
        .n_requests = (int32_t)p->n_requests,
        .norm_eps = p->norm_eps,
        .is_official = p->math == DSV4_ATTN_MATH_OFFICIAL,
        .raw_is_aligned = is_aligned(p->k, p->k_token_stride_bytes, 0) &&
                          is_aligned(p->g, p->g_token_stride_bytes, 0) && is_aligned(p->ape, 0, 0),
        .requests = p->requests,
        .positions = p->positions,
        .k = (const char *)p->k,
        .g = (const char *)p->g,
        .k_token_stride_bytes = p->k_token_stride_bytes,
        .g_token_stride_bytes = p->g_token_stride_bytes,
        .ape = p->ape,
        .norm = p->norm,
        .state = p->state,
        .n_state_pages = p->n_state_pages,
        .state_page_stride_bytes = p->state_page_stride_bytes,
        .state_page_rows = (uint32_t)p->state_page_rows,
        .n_table_pages = (uint32_t)p->n_table_pages,
        .tables = (const char *)p->tables,
        .table_stride_bytes = p->table_stride_bytes,
        .compressed = cache_args(&p->compressed),
        .slots = p->slots,
        .rope = {p->rope_table, p->rope_rows, (uint32_t)p->n_rope_rows},
    };
    return args;
}

keys_read_args dsv4_keys_gpu_read_args(const dsv4_keys_read_params *p)
{
    keys_read_args args = {
        .n_rows = p->n_rows,
        .cache = cache_args(&p->cache),
        .slots = p->slots,
        .pages = p->pages,
        .out = tensor_args(p->out, p->out_dtype, p->out_row_stride_bytes, 0),
    };
    args.cache.page_rows =
        (uint32_t)p->cache.page_rows; /* of the list, also when no slot is valid */
    return args;
}
