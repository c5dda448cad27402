/*
 * attn_ref.c - decode attention over two paged scopes, one softmax, a sink per head (specification 3.4).
 *
 * Place: ref. Keys are visited in list order, window first, with the running-maximum form of softmax:
 * when a larger score arrives, what was summed so far is scaled down. The running state per head is the
 * maximum m, the sum Z of exp(s - m) and the weighted sum of values, all relative to m. Official math
 * makes two passes, the first for m alone, and rounds exp(s - m) to bf16 where it multiplies values.
 */
#include "attn_ref.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "dsv4/cache.h"
#include "num/bf16.h"
#include "ref/quant.h"

enum { DIM = DSV4_ATTN_DIM, ROPE_DIM = DSV4_ATTN_ROPE_DIM };

typedef struct head_state {
    float max;         /* largest score so far; -inf before the first key */
    float sum;         /* sum of exp(score - max) */
    float values[DIM]; /* sum of exp(score - max) * value */
} head_state;

size_t dsv4_attn_ref_workspace_bytes(const dsv4_attn_params *params)
{
    return (size_t)params->n_heads * sizeof(head_state);
}

/* values [512] of a query head. */
static void load_query(const unsigned char *head, int32_t dtype, float values[DIM])
{
    if (dtype == DSV4_DTYPE_F32) {
        memcpy(values, head, DIM * sizeof *values);
        return;
    }
    for (int d = 0; d < DIM; d++) {
        uint16_t bits;
        memcpy(&bits, head + 2 * d, sizeof bits);
        values[d] = dsv4_bf16_to_f32(bits);
    }
}

/* values [512] of a row of a page. */
static void load_key(const dsv4_attn_scope *scope, const unsigned char *page, int64_t row,
                     float values[DIM])
{
    if (scope->row_format == DSV4_ATTN_ROWS_F32) {
        memcpy(values, page + row * DIM * (int64_t)sizeof *values, DIM * sizeof *values);
    } else {
        dsv4_cache_row_read(page, scope->page_rows, row, values);
    }
}

static void visit_key(const dsv4_attn_params *params, const unsigned char *q, const float key[DIM],
                      bool only_max, head_state *heads)
{
    for (int64_t h = 0; h < params->n_heads; h++) {
        head_state *head = &heads[h];
        float query[DIM];
        load_query(q + h * params->q_head_stride_bytes, params->q_dtype, query);

        float dot = 0.0f;
        for (int d = 0; d < DIM; d++) dot += query[d] * key[d];
        float score = dot * params->softmax_scale;

        if (only_max) {
            if (!(score <= head->max)) head->max = score;
            continue;
        }
        if (!(score <= head->max)) { /* also for NaN, which then spreads to everything */
            float shrink = expf(head->max - score);
            head->sum *= shrink;
            for (int d = 0; d < DIM; d++) head->values[d] *= shrink;
            head->max = score;
        }
        float p = expf(score - head->max);
        head->sum += p;
        if (params->math == DSV4_ATTN_MATH_OFFICIAL) p = dsv4_bf16_to_f32(dsv4_bf16_from_f32(p));
        for (int d = 0; d < DIM; d++) head->values[d] += p * key[d];
    }
}

static void visit_scope(const dsv4_attn_params *params, const dsv4_attn_scope *scope,
                        int64_t request, int64_t query, bool only_max, head_state *heads)
{
    if (scope->n_pages == 0 || scope->n_indices == 0) return;
    int64_t n_listed = scope->n_indices;
    if (scope->lengths != NULL && scope->lengths[request] < n_listed) {
        n_listed = scope->lengths[request];
    }
    const unsigned char *q = (const unsigned char *)params->q +
                             request * params->q_request_stride_bytes +
                             query * params->q_query_stride_bytes;
    const unsigned char *list = (const unsigned char *)scope->indices +
                                request * scope->indices_request_stride_bytes +
                                query * scope->indices_query_stride_bytes;
    for (int64_t i = 0; i < n_listed; i++) {
        int32_t slot;
        memcpy(&slot, list + i * (int64_t)sizeof slot, sizeof slot);
        if (slot < 0 || slot / scope->page_rows >= scope->n_pages) continue;
        const unsigned char *page = (const unsigned char *)scope->cache +
                                    slot / scope->page_rows * scope->page_stride_bytes;
        float key[DIM];
        load_key(scope, page, slot % scope->page_rows, key);
        visit_key(params, q, key, only_max, heads);
    }
}

void dsv4_attn_ref_rotate_back(float *values, const float *table)
{
    for (int i = 0; i < ROPE_DIM / 2; i++) {
        float even = values[2 * i], odd = values[2 * i + 1];
        float cosine = table[i], sine = table[ROPE_DIM / 2 + i];
        values[2 * i] = even * cosine + odd * sine;
        values[2 * i + 1] = odd * cosine - even * sine;
    }
}

static void store_values(void *out, int32_t dtype, const float values[DIM])
{
    if (dtype == DSV4_DTYPE_F32) {
        memcpy(out, values, DIM * sizeof *values);
        return;
    }
    for (int d = 0; d < DIM; d++) {
        uint16_t bits = dsv4_bf16_from_f32(values[d]);
        memcpy((unsigned char *)out + 2 * d, &bits, sizeof bits);
    }
}

static void rotate_output(const dsv4_attn_params *params, int64_t request, int64_t query,
                          float values[DIM])
{
    if (params->rope_table == NULL) return;
    float *tail = values + DIM - ROPE_DIM;
    int64_t row = params->rope_rows[request * params->n_queries + query];
    if (row < 0 || row >= params->n_rope_rows) {
        for (int d = 0; d < ROPE_DIM; d++) tail[d] = NAN;
        return;
    }
    dsv4_attn_ref_rotate_back(tail, params->rope_table + row * ROPE_DIM);
}

static void finish_head(const dsv4_attn_params *params, int64_t request, int64_t query, int64_t h,
                        head_state *head)
{
    float lse = INFINITY, inverse = 0.0f;
    if (head->sum != 0.0f) {
        lse = head->max + logf(head->sum);
        float total = head->sum;
        if (params->sink != NULL) total += expf(params->sink[h] - head->max);
        inverse = 1.0f / total;
    }
    for (int d = 0; d < DIM; d++) head->values[d] *= inverse;
    rotate_output(params, request, query, head->values);

    unsigned char *out = (unsigned char *)params->out + request * params->out_request_stride_bytes +
                         query * params->out_query_stride_bytes + h * params->out_head_stride_bytes;
    if (params->out_dtype == DSV4_DTYPE_FP8) {
        uint8_t *scales = params->out_scales + request * params->out_scales_request_stride_bytes +
                          query * params->out_scales_query_stride_bytes +
                          h * params->out_scales_head_stride_bytes;
        dsv4_quant_fp8_codes(head->values, DIM, DSV4_ATTN_OUT_GROUP, out, scales);
    } else {
        store_values(out, params->out_dtype, head->values);
    }
    if (params->lse != NULL) {
        unsigned char *slot =
            (unsigned char *)params->lse + request * params->lse_request_stride_bytes +
            query * params->lse_query_stride_bytes + h * params->lse_head_stride_bytes;
        memcpy(slot, &lse, sizeof lse);
    }
}

void dsv4_attn_ref_decode(const dsv4_attn_params *params, void *workspace)
{
    head_state *heads = workspace;
    for (int64_t request = 0; request < params->n_requests; request++) {
        for (int64_t query = 0; query < params->n_queries; query++) {
            for (int64_t h = 0; h < params->n_heads; h++) {
                memset(&heads[h], 0, sizeof heads[h]);
                heads[h].max = -INFINITY;
            }
            if (params->math == DSV4_ATTN_MATH_OFFICIAL) {
                visit_scope(params, &params->window, request, query, true, heads);
                visit_scope(params, &params->extra, request, query, true, heads);
            }
            visit_scope(params, &params->window, request, query, false, heads);
            visit_scope(params, &params->extra, request, query, false, heads);
            for (int64_t h = 0; h < params->n_heads; h++) {
                finish_head(params, request, query, h, &heads[h]);
            }
        }
    }
}

static float merge_max(const dsv4_attn_merge_params *params, int64_t row, int64_t h)
{
    float max = -INFINITY;
    for (int64_t part = 0; part < params->n_parts; part++) {
        float lse = params->lse_parts[(part * params->n_rows + row) * params->n_heads + h];
        if (lse != INFINITY && !(lse <= max)) max = lse;
    }
    return max;
}

static void add_part(const dsv4_attn_merge_params *params, int64_t at, float weight,
                     float values[DIM])
{
    if (params->part_dtype == DSV4_DTYPE_F32) {
        const float *part = (const float *)params->out_parts + at * DIM;
        for (int d = 0; d < DIM; d++) values[d] += weight * part[d];
    } else {
        const uint16_t *part = (const uint16_t *)params->out_parts + at * DIM;
        for (int d = 0; d < DIM; d++) values[d] += weight * dsv4_bf16_to_f32(part[d]);
    }
}

static void merge_head(const dsv4_attn_merge_params *params, int64_t row, int64_t h)
{
    float values[DIM] = {0};
    float sum = 0.0f;
    float max = merge_max(params, row, h);
    for (int64_t part = 0; part < params->n_parts; part++) {
        int64_t at = (part * params->n_rows + row) * params->n_heads + h;
        float lse = params->lse_parts[at];
        if (lse == INFINITY) continue;
        float weight = expf(lse - max);
        sum += weight;
        add_part(params, at, weight, values);
    }
    float lse = INFINITY, inverse = 0.0f;
    if (sum != 0.0f) {
        lse = max + logf(sum);
        float total = sum;
        if (params->sink != NULL) total += expf(params->sink[h] - max);
        inverse = 1.0f / total;
    }
    for (int d = 0; d < DIM; d++) values[d] *= inverse;
    int64_t at = row * params->n_heads + h;
    int64_t value_bytes = params->out_dtype == DSV4_DTYPE_F32 ? 4 : 2;
    store_values((unsigned char *)params->out + at * DIM * value_bytes, params->out_dtype, values);
    if (params->lse != NULL) params->lse[at] = lse;
}

void dsv4_attn_ref_merge(const dsv4_attn_merge_params *params, int64_t row_begin, int64_t row_end)
{
    for (int64_t row = row_begin; row < row_end; row++) {
        for (int64_t h = 0; h < params->n_heads; h++) merge_head(params, row, h);
    }
}
