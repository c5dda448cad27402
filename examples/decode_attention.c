/*
 * decode_attention.c - one decode call of DeepSeek-V4's sparse attention, start to end.
 *
 * Place: examples; uses only the installed headers and library. Makes a small paged cache, lets one
 * query token of 8 heads attend to four of its rows, and prints the first head's result.
 *
 *   cc decode_attention.c $(pkg-config --cflags --libs dsv4) && ./a.out
 */
#include <dsv4/attn.h>
#include <dsv4/cache.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_PAGES = 2, PAGE_ROWS = 4, N_HEADS = 8, N_KEYS = 5 };

/* bf16 is the upper half of an f32; these few values lose nothing when cut. */
static uint16_t bf16_from_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* Memory for a plan or a workspace: 64-byte aligned, the size a multiple of 64 and not zero. */
static void *alloc_aligned(size_t n_bytes)
{
    return aligned_alloc(64, (n_bytes / 64 + 1) * 64);
}

/* Writes every row of the cache: row r holds 0.25 * (r + 1), with the sign alternating by dim. */
static void fill_cache(unsigned char *cache, int64_t page_stride_bytes)
{
    float values[DSV4_CACHE_DIM];
    for (int64_t slot = 0; slot < N_PAGES * PAGE_ROWS; slot++) {
        for (int i = 0; i < DSV4_CACHE_DIM; i++) {
            values[i] = (i % 2 == 0 ? 0.25f : -0.25f) * (float)(slot + 1);
        }
        dsv4_cache_row_write(cache + slot / PAGE_ROWS * page_stride_bytes, PAGE_ROWS,
                             slot % PAGE_ROWS, values);
    }
}

/* Plans and computes; plan and workspace live only here, a real program keeps them. */
static dsv4_status decode(const dsv4_attn_params *params, dsv4_error *error)
{
    size_t plan_bytes, workspace_bytes;
    dsv4_status status = dsv4_attn_plan_size(params, &plan_bytes, &workspace_bytes, error);
    if (status != DSV4_OK) return status;

    void *plan = alloc_aligned(plan_bytes), *workspace = alloc_aligned(workspace_bytes);
    if (plan == NULL || workspace == NULL) {
        status = DSV4_ERROR_OUT_OF_MEMORY;
        (void)snprintf(error->text, sizeof error->text, "no memory for the plan");
    } else {
        /* Once per step, when lengths or shapes change ... */
        status = dsv4_attn_plan_build(NULL, params, plan, plan_bytes, error);
    }
    if (status == DSV4_OK) {
        /* ... and once per layer. */
        status =
            dsv4_attn_decode(NULL, params, plan, plan_bytes, workspace, workspace_bytes, error);
    }
    free(plan);
    free(workspace);
    return status;
}

int main(void)
{
    int64_t page_stride_bytes = dsv4_cache_page_stride_bytes(PAGE_ROWS);
    unsigned char *cache = malloc((size_t)(N_PAGES * page_stride_bytes));
    if (cache == NULL) return 1;
    fill_cache(cache, page_stride_bytes);

    /* Query: head h looks along the keys' direction with strength 0.125 * h. */
    static uint16_t q[N_HEADS][DSV4_ATTN_DIM];
    for (int h = 0; h < N_HEADS; h++) {
        for (int i = 0; i < DSV4_ATTN_DIM; i++) {
            q[h][i] = bf16_from_f32((i % 2 == 0 ? 0.125f : -0.125f) * (float)h);
        }
    }

    /* Slots are page * PAGE_ROWS + row, in any order; a negative one names no key. */
    static const int32_t indices[N_KEYS] = {6, 0, 3, -1, 5};
    static float out[N_HEADS][DSV4_ATTN_DIM], lse[N_HEADS];

    dsv4_attn_params params;
    dsv4_attn_params_default(&params);
    params.n_requests = 1;
    params.n_heads = N_HEADS;
    params.out_dtype = DSV4_DTYPE_F32;
    params.q = q;
    params.window.cache = cache;
    params.window.n_pages = N_PAGES;
    params.window.page_rows = PAGE_ROWS;
    params.window.indices = indices;
    params.window.n_indices = N_KEYS;
    params.out = out;
    params.lse = lse;
    dsv4_attn_params_set_dense(&params);

    dsv4_error error;
    dsv4_status status = decode(&params, &error);
    free(cache);
    if (status != DSV4_OK) {
        fprintf(stderr, "decode_attention: %s: %s\n", dsv4_status_name(status), error.text);
        return 1;
    }
    for (int h = 0; h < N_HEADS; h++) {
        printf("head %d: lse %.4f, out %.4f %.4f %.4f %.4f\n", h, (double)lse[h], (double)out[h][0],
               (double)out[h][1], (double)out[h][2], (double)out[h][3]);
    }
    return 0;
}
