/*
 * keys_bench.c - benchmark of the operations of dsv4/keys.h: shapes of V4 Flash and Pro, and the CPU's times.
 *
 * Place: tests.
 */
#include "keys_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_clock.h"
#include "dsv4/cache.h"

enum { PAGE_ROWS = 64, N_ROPE_ROWS = 4096, CPU_MOST_TOKENS = 256 };

#define BUDGET_S 0.2

const keys_shape keys_shapes[] = {
    {.op = KEYS_FINISH, .n_tokens = 1, .n_heads = 128},
    {.op = KEYS_FINISH, .n_tokens = 32, .n_heads = 16},
    {.op = KEYS_FINISH, .n_tokens = 32, .n_heads = 64},
    {.op = KEYS_FINISH, .n_tokens = 256, .n_heads = 8},
    {.op = KEYS_FINISH, .n_tokens = 256, .n_heads = 16},
    {.op = KEYS_FINISH, .n_tokens = 256, .n_heads = 64},
    {.op = KEYS_FINISH, .n_tokens = 256, .n_heads = 128},
    {.op = KEYS_FINISH, .n_tokens = 2048, .n_heads = 64},
    {.op = KEYS_COMPRESS, .ratio = 4, .n_tokens = 1, .n_requests = 1, .first = 1003},
    {.op = KEYS_COMPRESS, .ratio = 4, .n_tokens = 32, .n_requests = 32, .first = 999, .step = 1},
    {.op = KEYS_COMPRESS, .ratio = 4, .n_tokens = 256, .n_requests = 256, .first = 999, .step = 1},
    {.op = KEYS_COMPRESS, .ratio = 4, .n_tokens = 4096, .n_requests = 1},
    {.op = KEYS_COMPRESS, .ratio = 128, .n_tokens = 1, .n_requests = 1, .first = 1023},
    {.op = KEYS_COMPRESS, .ratio = 128, .n_tokens = 32, .n_requests = 32, .first = 1000},
    {.op = KEYS_COMPRESS,
     .ratio = 128,
     .n_tokens = 256,
     .n_requests = 256,
     .first = 999,
     .step = 1},
    {.op = KEYS_COMPRESS, .ratio = 128, .n_tokens = 64, .n_requests = 64, .first = 1023},
    {.op = KEYS_COMPRESS, .ratio = 128, .n_tokens = 4096, .n_requests = 1},
    {.op = KEYS_READ, .n_tokens = 64, .dtype = DSV4_DTYPE_BF16},
    {.op = KEYS_READ, .n_tokens = 4096, .dtype = DSV4_DTYPE_BF16},
    {.op = KEYS_READ, .n_tokens = 65536, .dtype = DSV4_DTYPE_BF16},
    {.op = KEYS_READ, .n_tokens = 65536, .dtype = DSV4_DTYPE_F32},
};
const int64_t keys_n_shapes = sizeof keys_shapes / sizeof keys_shapes[0];

/* Numbers of about 0.01 in bf16 and f32. */
static void *take(keys_case *c, int64_t n_bytes)
{
    void *tensor = keys_case_take(c, (size_t)n_bytes, 256, 0);
    memset(tensor, 0x3c, (size_t)n_bytes);
    return tensor;
}

static int32_t *take_list(keys_case *c, int64_t n, int64_t step)
{
    int32_t *list = take(c, n * 4);
    for (int64_t i = 0; i < n; i++) list[i] = (int32_t)(i * step % n);
    return list;
}

static void set_cache(keys_case *c, dsv4_keys_cache *cache, int64_t n_rows)
{
    cache->n_pages = (n_rows + PAGE_ROWS - 1) / PAGE_ROWS;
    cache->page_rows = PAGE_ROWS;
    cache->page_stride_bytes = dsv4_cache_page_stride_bytes(PAGE_ROWS);
    cache->pages = take(c, cache->n_pages * cache->page_stride_bytes);
}

static double make_finish(keys_case *c, const keys_shape *shape)
{
    dsv4_keys_finish_params *p = &c->finish;
    dsv4_keys_finish_params_default(p);
    p->n_tokens = shape->n_tokens;
    p->n_heads = shape->n_heads;
    p->q_head_stride_bytes = p->out_head_stride_bytes = p->kv_token_stride_bytes = 2 * KEYS_DIM;
    p->q_token_stride_bytes = p->out_token_stride_bytes = 2 * KEYS_DIM * p->n_heads;
    p->q = take(c, p->n_tokens * p->q_token_stride_bytes);
    p->out = take(c, p->n_tokens * p->q_token_stride_bytes);
    p->kv = take(c, p->n_tokens * p->kv_token_stride_bytes);
    p->kv_norm = take(c, 2 * KEYS_DIM);
    p->n_rope_rows = N_ROPE_ROWS;
    p->rope_table = take(c, 4 * KEYS_ROPE * N_ROPE_ROWS);
    p->rope_rows = take_list(c, p->n_tokens, 1);
    set_cache(c, &p->window, p->n_tokens);
    p->slots = take_list(c, p->n_tokens, 1);
    return (double)p->n_tokens * ((double)p->n_heads * 2048 + 1024 + DSV4_CACHE_RECORD_BYTES + 256);
}

static double make_compress(keys_case *c, const keys_shape *shape)
{
    dsv4_keys_compress_params *p = &c->compress;
    dsv4_keys_compress_params_default(p);
    p->ratio = shape->ratio;
    p->n_tokens = shape->n_tokens;
    p->n_requests = shape->n_requests;
    int64_t width = p->ratio == 4 ? 2 * KEYS_DIM : KEYS_DIM, each = p->n_tokens / p->n_requests;
    int64_t n_group_rows = p->ratio == 4 ? 8 : 128;
    int32_t *requests = take(c, 4 * p->n_tokens), *positions = take(c, 4 * p->n_tokens);
    double bytes = 0;
    for (int64_t t = 0; t < p->n_tokens; t++) {
        requests[t] = (int32_t)(t / each);
        positions[t] = (int32_t)(shape->first + shape->step * (t / each) + t % each);
        bytes += 16.0 * (double)width;
        if ((positions[t] + 1) % p->ratio != 0) continue;
        bytes += DSV4_CACHE_RECORD_BYTES;
        if (each == 1) bytes += (double)(n_group_rows - 1) * 8 * KEYS_DIM;
    }
    p->requests = requests;
    p->positions = positions;
    p->k_token_stride_bytes = p->g_token_stride_bytes = 4 * width;
    p->k = take(c, p->n_tokens * p->k_token_stride_bytes);
    p->g = take(c, p->n_tokens * p->g_token_stride_bytes);
    p->ape = take(c, 4 * width * p->ratio);
    p->norm = take(c, 2 * KEYS_DIM);
    p->state_page_rows = 8;
    p->n_table_pages = (n_group_rows + each + 7) / 8;
    p->n_state_pages = p->n_requests * p->n_table_pages;
    p->state_page_stride_bytes = p->state_page_rows * 8 * width;
    p->state = take(c, p->n_state_pages * p->state_page_stride_bytes);
    p->tables = take_list(c, p->n_state_pages, 1);
    p->table_stride_bytes = 4 * p->n_table_pages;
    set_cache(c, &p->compressed, p->n_tokens);
    p->slots = take_list(c, p->n_tokens, 1);
    p->n_rope_rows = N_ROPE_ROWS;
    p->rope_table = take(c, 4 * KEYS_ROPE * N_ROPE_ROWS);
    return bytes;
}

static double make_read(keys_case *c, const keys_shape *shape)
{
    dsv4_keys_read_params *p = &c->read;
    dsv4_keys_read_params_default(p);
    p->n_rows = shape->n_tokens;
    p->out_dtype = shape->dtype;
    set_cache(c, &p->cache, p->n_rows);
    p->pages = take_list(c, p->cache.n_pages, 7);
    p->out_row_stride_bytes = KEYS_DIM * (p->out_dtype == DSV4_DTYPE_F32 ? 4 : 2);
    p->out = take(c, p->n_rows * p->out_row_stride_bytes);
    return (double)p->n_rows * (double)(DSV4_CACHE_RECORD_BYTES + p->out_row_stride_bytes);
}

static int64_t image_bytes(const keys_shape *shape)
{
    int64_t per_token = shape->op == KEYS_FINISH ? 2048 * (shape->n_heads + 2) : 4096;
    int64_t per_request = 0;
    if (shape->op == KEYS_COMPRESS) {
        per_token = 40960;
        per_request = shape->ratio == 4 ? 17 * 8192 : 145 * 4096;
    }
    return (16 << 20) + shape->n_tokens * per_token + shape->n_requests * per_request;
}

void keys_bench_make(keys_case *c, const keys_shape *shape, double *bytes)
{
    memset(c, 0, sizeof *c);
    c->op = shape->op;
    c->capacity_bytes = (size_t)image_bytes(shape) / 4096 * 4096;
    c->image = aligned_alloc(4096, c->capacity_bytes);
    if (c->image == NULL) exit(2);
    *bytes = shape->op == KEYS_FINISH     ? make_finish(c, shape)
             : shape->op == KEYS_COMPRESS ? make_compress(c, shape)
                                          : make_read(c, shape);
}

void keys_bench_describe(const keys_shape *shape, char text[KEYS_TEXT_BYTES])
{
    if (shape->op == KEYS_FINISH) {
        (void)snprintf(text, KEYS_TEXT_BYTES, "finish %5lld tokens %3lld heads",
                       (long long)shape->n_tokens, (long long)shape->n_heads);
    } else if (shape->op == KEYS_COMPRESS) {
        (void)snprintf(text, KEYS_TEXT_BYTES, "compress %3d %5lld tokens %3lld requests at %lld%s",
                       shape->ratio, (long long)shape->n_tokens, (long long)shape->n_requests,
                       (long long)shape->first, shape->step > 0 ? ".." : "");
    } else {
        (void)snprintf(text, KEYS_TEXT_BYTES, "read %6lld rows as %s", (long long)shape->n_tokens,
                       shape->dtype == DSV4_DTYPE_F32 ? "f32" : "bf16");
    }
}

int keys_bench_run(void)
{
    for (int64_t i = 0; i < keys_n_shapes; i++) {
        const keys_shape *shape = &keys_shapes[i];
        keys_case c;
        dsv4_error error;
        char text[KEYS_TEXT_BYTES];
        double bytes, best_s = 1e30;
        if (shape->n_tokens > CPU_MOST_TOKENS && shape->op != KEYS_READ) continue;
        keys_bench_make(&c, shape, &bytes);
        keys_bench_describe(shape, text);
        double start_s = dsv4_bench_now_s();
        for (int n = 0; n < 3 || dsv4_bench_now_s() - start_s < BUDGET_S; n++) {
            double call_s = dsv4_bench_now_s();
            if (keys_case_call(&c, c.image, DSV4_BACKEND_CPU, NULL, &error) != DSV4_OK) {
                fprintf(stderr, "%s: %s\n", text, error.text);
                return 2;
            }
            call_s = dsv4_bench_now_s() - call_s;
            if (call_s < best_s) best_s = call_s;
        }
        printf("%-46s %10.1f us %8.2f GB/s\n", text, 1e6 * best_s, 1e-9 * bytes / best_s);
        fflush(stdout);
        keys_case_free(&c);
    }
    return 0;
}
