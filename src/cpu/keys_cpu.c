/*
 * keys_cpu.c - queries and keys beside the attention (dsv4/keys.h), on the CPU.
 *
 * Place: cpu. Row by row on the functions of ref and of the level's rows table; rows are spread over
 * threads. A row depends on nothing but its own inputs, so neither threads nor the batch change a bit. The
 * pooling is here and not in ref/compress.h because its order of sums and its exponential are part of
 * the contract: the GPU has the same bits.
 */
#include "keys_cpu.h"

#include <math.h>
#include <string.h>

#include "base/parallel.h"
#include "dsv4/cache.h"
#include "num/bf16.h"
#include "num/exp.h"
#include "ref/compress.h"
#include "ref/rope.h"
#include "rows_cpu.h"

enum {
    DIM = DSV4_ATTN_DIM,
    ROPE = DSV4_ATTN_ROPE_DIM,
    NOPE = DIM - ROPE,
    RUN_ROWS = 8, /* of the softmax */
    MAX_GROUP_ROWS = 128,
    OVERLAP_RATIO = 4,
    TASK_ROWS = 4 /* of a cache that is read */
};

/* ---- rows of tensors and caches ---- */

static void load_row(const void *row, int32_t dtype, float *values)
{
    if (dtype == DSV4_DTYPE_F32) {
        memcpy(values, row, DIM * sizeof *values);
        return;
    }
    const uint16_t *bits = row;
    for (int i = 0; i < DIM; i++) values[i] = dsv4_bf16_to_f32(bits[i]);
}

static void store_row(void *row, int32_t dtype, const dsv4_rows_kernels *rows, const float *values)
{
    if (dtype == DSV4_DTYPE_F32) {
        memcpy(row, values, DIM * sizeof *values);
    } else {
        rows->to_bf16(values, DIM, row);
    }
}

/* The page of a slot and its row in it; NULL where the slot names none. */
static unsigned char *find_page(const dsv4_keys_cache *cache, int64_t slot, int64_t *row)
{
    if (slot < 0 || slot > INT32_MAX) return NULL;
    if (cache->n_pages == 0 || slot / cache->page_rows >= cache->n_pages) return NULL;
    *row = slot % cache->page_rows;
    return (unsigned char *)cache->pages + slot / cache->page_rows * cache->page_stride_bytes;
}

static void insert_key(const dsv4_keys_cache *cache, int32_t slot, const float *values)
{
    int64_t row;
    unsigned char *page = find_page(cache, slot, &row);
    if (page == NULL) return;
    if (cache->row_format == DSV4_ATTN_ROWS_F32) {
        memcpy(page + row * DIM * (int64_t)sizeof *values, values, DIM * sizeof *values);
    } else {
        dsv4_cache_row_write(page, cache->page_rows, row, values);
    }
}

/* Rotates the last 64 values by a row of the table; NaN where there is no such row. */
static void rotate_tail(float *values, const float *table, int64_t n_table_rows, int64_t row)
{
    if (row >= 0 && row < n_table_rows) {
        dsv4_rope_turn(values + NOPE, table + row * ROPE, 0);
        return;
    }
    for (int i = NOPE; i < DIM; i++) values[i] = NAN;
}

/* ---- finish ---- */

typedef struct finish_context {
    const dsv4_keys_finish_params *params;
    const dsv4_rows_kernels *rows;
} finish_context;

static void finish_query(const finish_context *context, int64_t token, int64_t head)
{
    const dsv4_keys_finish_params *p = context->params;
    const dsv4_rows_kernels *rows = context->rows;
    float q[DIM];
    load_row((const char *)p->q + token * p->q_token_stride_bytes + head * p->q_head_stride_bytes,
             p->q_dtype, q);
    if (p->math == DSV4_ATTN_MATH_OFFICIAL) {
        rows->round(q, DIM);
        rows->normalize_bf16(q, DIM, p->norm_eps);
    } else {
        rows->normalize(q, NULL, DIM, p->norm_eps, q);
    }
    rotate_tail(q, p->rope_table, p->n_rope_rows, p->rope_rows[token]);
    if (p->math == DSV4_ATTN_MATH_OFFICIAL) rows->round(q + NOPE, ROPE);
    store_row((char *)p->out + token * p->out_token_stride_bytes + head * p->out_head_stride_bytes,
              p->out_dtype, rows, q);
}

static void finish_key(const finish_context *context, int64_t token)
{
    const dsv4_keys_finish_params *p = context->params;
    const dsv4_rows_kernels *rows = context->rows;
    int is_official = p->math == DSV4_ATTN_MATH_OFFICIAL;
    float kv[DIM];
    load_row((const char *)p->kv + token * p->kv_token_stride_bytes, p->kv_dtype, kv);
    if (is_official) rows->round(kv, DIM);
    rows->normalize(kv, p->kv_norm, DIM, p->norm_eps, kv);
    if (is_official) rows->round(kv, DIM);
    rotate_tail(kv, p->rope_table, p->n_rope_rows, p->rope_rows[token]);
    if (is_official) rows->round(kv + NOPE, ROPE);
    insert_key(&p->window, p->slots[token], kv);
}

static void finish_token(void *shared, int64_t token, int32_t worker)
{
    (void)worker;
    const finish_context *context = shared;
    for (int64_t h = 0; h < context->params->n_heads; h++) finish_query(context, token, h);
    if (context->params->kv != NULL) finish_key(context, token);
}

void dsv4_keys_cpu_finish(const dsv4_keys_finish_params *params, int32_t level, int32_t n_threads)
{
    finish_context context = {params, dsv4_rows_kernels_of(level)};
    dsv4_parallel_for(n_threads, params->n_tokens, finish_token, &context);
}

/* ---- compress ---- */

typedef struct compress_context {
    const dsv4_keys_compress_params *params;
    const dsv4_rows_kernels *rows;
    int64_t width; /* values of K, and of G, in a raw row */
} compress_context;

/* One row of a group: K, and G with its bias or, where bias is not NULL, without. */
typedef struct raw_row {
    const float *k, *g, *bias; /* [width]; k NULL: the row does not count */
} raw_row;

/* Where the raw row of a position lies in the state; NULL: nowhere. */
static float *state_row(const compress_context *context, int32_t request, int64_t position)
{
    const dsv4_keys_compress_params *p = context->params;
    const int32_t *table =
        (const int32_t *)(const void *)((const char *)p->tables + request * p->table_stride_bytes);
    int64_t page = table[position / p->state_page_rows % p->n_table_pages];
    if (page < 0 || page >= p->n_state_pages) return NULL;
    int64_t row_bytes = 2 * context->width * (int64_t)sizeof(float);
    char *pages = (char *)p->state + page * p->state_page_stride_bytes;
    return (float *)(void *)(pages + position % p->state_page_rows * row_bytes);
}

static raw_row batch_row(const compress_context *context, int64_t token)
{
    const dsv4_keys_compress_params *p = context->params;
    const char *k = (const char *)p->k + token * p->k_token_stride_bytes;
    const char *g = (const char *)p->g + token * p->g_token_stride_bytes;
    return (raw_row){.k = (const float *)(const void *)k,
                     .g = (const float *)(const void *)g,
                     .bias = p->ape + p->positions[token] % p->ratio * context->width};
}

/* The raw row `back` positions before that of `token`: of this call, or of an earlier one. */
static raw_row find_row(const compress_context *context, int64_t token, int64_t back)
{
    const dsv4_keys_compress_params *p = context->params;
    int64_t position = (int64_t)p->positions[token] - back, other = token - back;
    if (position < 0) return (raw_row){0};
    if (other >= 0 && p->requests[other] == p->requests[token] && p->positions[other] == position) {
        return batch_row(context, other);
    }
    const float *row = state_row(context, p->requests[token], position);
    if (row == NULL) return (raw_row){0};
    return (raw_row){.k = row, .g = row + context->width};
}

static void store_raw_row(const compress_context *context, int64_t token)
{
    const dsv4_keys_compress_params *p = context->params;
    float *row = state_row(context, p->requests[token], p->positions[token]);
    if (row == NULL) return;
    raw_row own = batch_row(context, token);
    memcpy(row, own.k, (size_t)context->width * sizeof *row);
    for (int64_t i = 0; i < context->width; i++) row[context->width + i] = own.g[i] + own.bias[i];
}

/* The softmax of some rows relative to their own maximum: sum of weights, and of weighted K. */
typedef struct run_sums {
    float max, weights, keys;
} run_sums;

/* channel: of K and G in this run's half. Returns whether any row counts. */
static int sum_run(const raw_row rows[RUN_ROWS], const int64_t channels[RUN_ROWS], run_sums *sums)
{
    float gates[RUN_ROWS];
    int is_there = 0;
    *sums = (run_sums){.max = -INFINITY};
    for (int s = 0; s < RUN_ROWS; s++) {
        if (rows[s].k == NULL) continue;
        is_there = 1;
        gates[s] = rows[s].g[channels[s]];
        if (rows[s].bias != NULL) gates[s] += rows[s].bias[channels[s]];
        if (gates[s] > sums->max) sums->max = gates[s];
    }
    for (int s = 0; s < RUN_ROWS; s++) {
        if (rows[s].k == NULL) continue;
        float weight = dsv4_exp_f32(gates[s] - sums->max);
        sums->weights += weight;
        sums->keys += weight * rows[s].k[channels[s]];
    }
    return is_there;
}

/* One channel of a group of n_rows rows: runs relative to the largest of their maxima. */
static float pool_channel(const raw_row *rows, int n_rows, int64_t channel)
{
    run_sums runs[MAX_GROUP_ROWS / RUN_ROWS];
    int n_runs = 0;
    float max = -INFINITY, weights = 0.0f, keys = 0.0f;
    for (int first = 0; first < n_rows; first += RUN_ROWS) {
        int64_t channels[RUN_ROWS];
        for (int s = 0; s < RUN_ROWS; s++) {
            int is_second_half = n_rows == 2 * OVERLAP_RATIO && s >= OVERLAP_RATIO;
            channels[s] = channel + (is_second_half ? DIM : 0);
        }
        if (!sum_run(rows + first, channels, &runs[n_runs])) continue;
        if (runs[n_runs].max > max) max = runs[n_runs].max;
        n_runs++;
    }
    for (int run = 0; run < n_runs; run++) {
        float weight = dsv4_exp_f32(runs[run].max - max);
        weights += weight * runs[run].weights;
        keys += weight * runs[run].keys;
    }
    return keys / weights;
}

static void emit_key(const compress_context *context, int64_t token)
{
    const dsv4_keys_compress_params *p = context->params;
    int n_rows = p->ratio == OVERLAP_RATIO ? 2 * OVERLAP_RATIO : p->ratio;
    int is_official = p->math == DSV4_ATTN_MATH_OFFICIAL;
    raw_row rows[MAX_GROUP_ROWS];
    float key[DIM];
    for (int s = 0; s < n_rows; s++) rows[s] = find_row(context, token, n_rows - 1 - s);
    for (int64_t channel = 0; channel < DIM; channel++) {
        key[channel] = pool_channel(rows, n_rows, channel);
    }
    int64_t first_position = (int64_t)p->positions[token] - p->ratio + 1;
    int64_t rope_row = p->rope_rows != NULL ? p->rope_rows[token] : first_position;
    if (is_official) context->rows->round(key, DIM);
    context->rows->normalize(key, p->norm, DIM, p->norm_eps, key);
    if (is_official) context->rows->round(key, DIM);
    rotate_tail(key, p->rope_table, p->n_rope_rows, rope_row);
    if (is_official) context->rows->round(key + NOPE, ROPE);
    insert_key(&p->compressed, p->slots[token], key);
}

static void compress_token(void *shared, int64_t token, int32_t worker)
{
    (void)worker;
    const compress_context *context = shared;
    const dsv4_keys_compress_params *p = context->params;
    int32_t position = p->positions[token], request = p->requests[token];
    if (position < 0 || request < 0 || request >= p->n_requests) return;
    store_raw_row(context, token);
    int64_t row;
    if (position % p->ratio != p->ratio - 1) return;
    if (find_page(&p->compressed, p->slots[token], &row) != NULL) emit_key(context, token);
}

void dsv4_keys_cpu_compress(const dsv4_keys_compress_params *params, int32_t level,
                            int32_t n_threads)
{
    compress_context context = {params, dsv4_rows_kernels_of(level),
                                params->ratio == OVERLAP_RATIO ? 2 * DIM : DIM};
    dsv4_parallel_for(n_threads, params->n_tokens, compress_token, &context);
}

/* ---- read ---- */

typedef struct read_context {
    const dsv4_keys_read_params *params;
    const dsv4_rows_kernels *rows;
} read_context;

static int64_t read_slot(const dsv4_keys_read_params *p, int64_t i)
{
    if (p->slots != NULL) return p->slots[i];
    return p->pages[i / p->cache.page_rows] * p->cache.page_rows + i % p->cache.page_rows;
}

static void read_rows(void *shared, int64_t task, int32_t worker)
{
    (void)worker;
    const read_context *context = shared;
    const dsv4_keys_read_params *p = context->params;
    for (int64_t i = task * TASK_ROWS; i < (task + 1) * TASK_ROWS && i < p->n_rows; i++) {
        float values[DIM] = {0.0f};
        int64_t row;
        const unsigned char *page = find_page(&p->cache, read_slot(p, i), &row);
        if (page != NULL && p->cache.row_format == DSV4_ATTN_ROWS_F32) {
            memcpy(values, page + row * (int64_t)sizeof values, sizeof values);
        } else if (page != NULL) {
            dsv4_cache_row_read(page, p->cache.page_rows, row, values);
        }
        store_row((char *)p->out + i * p->out_row_stride_bytes, p->out_dtype, context->rows,
                  values);
    }
}

void dsv4_keys_cpu_read(const dsv4_keys_read_params *params, int32_t level, int32_t n_threads)
{
    read_context context = {params, dsv4_rows_kernels_of(level)};
    dsv4_parallel_for(n_threads, (params->n_rows + TASK_ROWS - 1) / TASK_ROWS, read_rows, &context);
}
