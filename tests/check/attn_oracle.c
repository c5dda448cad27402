/*
 * attn_oracle.c - decode attention and merge in double precision, in the plainest form.
 *
 * Place: tests. Two passes: all scores and their maximum, then the weighted sum. Nothing is fast.
 */
#include "attn_oracle.h"

#include "attn_case_gen.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The keys of one query: dequantized rows in list order. */
typedef struct key_set {
    float *rows; /* [n_keys, 512] */
    int64_t n_keys;
} key_set;

static double bf16_value(const uint8_t *bytes)
{
    uint32_t wide = (uint32_t)bytes[0] << 16 | (uint32_t)bytes[1] << 24;
    float value;
    memcpy(&value, &wide, sizeof value);
    return (double)value;
}

static double q_value(const dsv4_attn_params *params, const uint8_t *q, int d)
{
    float value;
    if (params->q_dtype == DSV4_DTYPE_BF16) return bf16_value(q + 2 * d);
    memcpy(&value, q + 4 * d, sizeof value);
    return (double)value;
}

static void row_read(const dsv4_attn_scope *scope, const uint8_t *page, int64_t row, float *values)
{
    if (scope->row_format == DSV4_ATTN_ROWS_F32) {
        memcpy(values, page + row * DSV4_ATTN_DIM * 4, DSV4_ATTN_DIM * 4);
    } else {
        dsv4_cache_row_read(page, scope->page_rows, row, values);
    }
}

static void keys_gather(const dsv4_attn_scope *scope, int64_t request, int64_t query, key_set *keys)
{
    if (scope->n_pages == 0 || scope->n_indices == 0) return;
    const uint8_t *list = (const uint8_t *)scope->indices +
                          request * scope->indices_request_stride_bytes +
                          query * scope->indices_query_stride_bytes;
    for (int64_t i = 0; i < scope->n_indices; i++) {
        if (scope->lengths && i >= scope->lengths[request]) break;
        int32_t slot;
        memcpy(&slot, list + 4 * i, sizeof slot);
        if (slot < 0) continue;
        int64_t page = slot / scope->page_rows;
        if (page >= scope->n_pages) continue;
        row_read(scope, (const uint8_t *)scope->cache + page * scope->page_stride_bytes,
                 slot % scope->page_rows, keys->rows + keys->n_keys * DSV4_ATTN_DIM);
        keys->n_keys++;
    }
}

void attn_oracle_rotate(const dsv4_attn_params *params, int32_t row, double *values)
{
    double *tail = values + DSV4_ATTN_DIM - DSV4_ATTN_ROPE_DIM;
    for (int i = 0; i < DSV4_ATTN_ROPE_DIM / 2; i++) {
        double cosine = NAN, sine = NAN;
        if (row >= 0 && row < params->n_rope_rows) {
            cosine = (double)params->rope_table[(int64_t)row * 64 + i];
            sine = (double)params->rope_table[(int64_t)row * 64 + 32 + i];
        }
        /* The turn by -angle: (x, y) -> (x cos + y sin, y cos - x sin). */
        double x = tail[2 * i], y = tail[2 * i + 1];
        tail[2 * i] = x * cosine + y * sine;
        tail[2 * i + 1] = y * cosine - x * sine;
    }
}

/* To 8 bits, ties to even; 0 <= value. What is below 2^-126 counts as far too little to matter. */
static double bf16_round(double value)
{
    if (!(value >= 0x1p-126)) return isnan(value) ? value : 0;
    int exponent;
    double fraction = frexp(value, &exponent);
    return ldexp(rint(fraction * 256), exponent - 8);
}

/* How the roundings of official math enter: NULL where there are none. */
typedef struct rounding {
    double noise; /* of a probability, relative */
    double slack; /* what single probabilities that may round either way add up to */
} rounding;

/* The factor of a value with this weight; counts what noise may do to it. */
static double factor_of(double weight, const float *row, rounding *r)
{
    if (!r || isnan(weight)) return weight;
    double step = bf16_round(weight * (1 + r->noise)) - bf16_round(weight * (1 - r->noise));
    double square = 0;
    for (int d = 0; step > 0 && d < DSV4_ATTN_DIM; d++) square += (double)row[d] * (double)row[d];
    r->slack += step * sqrt(square);
    return bf16_round(weight);
}

/* One head over its keys; scores is scratch [n_keys]. */
static void head_decode(const dsv4_attn_params *params, const uint8_t *q, int64_t head,
                        const key_set *keys, rounding *r, double *scores, double *out, double *lse)
{
    memset(out, 0, DSV4_ATTN_DIM * sizeof *out);
    *lse = (double)INFINITY;
    if (keys->n_keys == 0) return;

    double q_values[DSV4_ATTN_DIM];
    double max = -(double)INFINITY;
    double total = 0;
    for (int d = 0; d < DSV4_ATTN_DIM; d++) q_values[d] = q_value(params, q, d);
    for (int64_t i = 0; i < keys->n_keys; i++) {
        double dot = 0;
        const float *row = keys->rows + i * DSV4_ATTN_DIM;
        for (int d = 0; d < DSV4_ATTN_DIM; d++) dot += q_values[d] * (double)row[d];
        scores[i] = dot * (double)params->softmax_scale;
        if (scores[i] > max || isnan(scores[i])) max = scores[i];
        if (isnan(max)) break;
    }
    for (int64_t i = 0; i < keys->n_keys; i++) {
        double weight = isnan(max) ? (double)NAN : exp(scores[i] - max);
        const float *row = keys->rows + i * DSV4_ATTN_DIM;
        double factor = factor_of(weight, row, r);
        total += weight;
        for (int d = 0; d < DSV4_ATTN_DIM; d++) out[d] += factor * (double)row[d];
    }
    *lse = max + log(total);
    if (params->sink) total += exp((double)params->sink[head] - max);
    for (int d = 0; d < DSV4_ATTN_DIM; d++) out[d] /= total;
    if (r) r->slack = isnan(total) ? 0 : r->slack / total;
}

/* noise and slack are NULL where nothing is rounded. */
static void decode(const dsv4_attn_params *params, const double *noise, double *out, double *lse,
                   double *slack)
{
    int64_t n_listed = params->window.n_pages > 0 ? params->window.n_indices : 0;
    if (params->extra.n_pages > 0) n_listed += params->extra.n_indices;
    float *rows = attn_alloc(n_listed * DSV4_ATTN_DIM * (int64_t)sizeof *rows);
    double *scores = attn_alloc(n_listed * (int64_t)sizeof *scores);
    for (int64_t request = 0; request < params->n_requests; request++) {
        for (int64_t query = 0; query < params->n_queries; query++) {
            key_set keys = {rows, 0};
            keys_gather(&params->window, request, query, &keys);
            keys_gather(&params->extra, request, query, &keys);
            const uint8_t *q = (const uint8_t *)params->q +
                               request * params->q_request_stride_bytes +
                               query * params->q_query_stride_bytes;
            for (int64_t head = 0; head < params->n_heads; head++) {
                rounding r = {noise ? *noise++ : 0, 0};
                head_decode(params, q, head, &keys, noise ? &r : NULL, scores, out, lse);
                if (slack) *slack++ = r.slack;
                if (params->rope_table) {
                    int32_t row = params->rope_rows[request * params->n_queries + query];
                    attn_oracle_rotate(params, row, out);
                }
                q += params->q_head_stride_bytes;
                out += DSV4_ATTN_DIM;
                lse++;
            }
        }
    }
    free(rows);
    free(scores);
}

void attn_oracle_decode(const dsv4_attn_params *params, double *out, double *lse)
{
    decode(params, NULL, out, lse, NULL);
}

void attn_oracle_decode_official(const dsv4_attn_params *params, const double *noise, double *out,
                                 double *lse, double *slack)
{
    decode(params, noise, out, lse, slack);
}

static void head_merge(const dsv4_attn_merge_params *params, int64_t at, int64_t head, double *out,
                       double *lse)
{
    const int64_t part_rows = params->n_rows * params->n_heads;
    double max = -(double)INFINITY;
    double total = 0;
    memset(out, 0, DSV4_ATTN_DIM * sizeof *out);
    *lse = (double)INFINITY;
    for (int64_t part = 0; part < params->n_parts; part++) {
        double part_lse = (double)params->lse_parts[part * part_rows + at];
        if (part_lse < (double)INFINITY && part_lse > max) max = part_lse;
    }
    for (int64_t part = 0; part < params->n_parts; part++) {
        int64_t row = part * part_rows + at;
        double part_lse = (double)params->lse_parts[row];
        if (part_lse == (double)INFINITY) continue;
        double weight = exp(part_lse - max);
        total += weight;
        for (int d = 0; d < DSV4_ATTN_DIM; d++) {
            int64_t i = row * DSV4_ATTN_DIM + d;
            double value = params->part_dtype == DSV4_DTYPE_BF16
                               ? bf16_value((const uint8_t *)params->out_parts + 2 * i)
                               : (double)((const float *)params->out_parts)[i];
            out[d] += weight * value;
        }
    }
    if (total == 0) return;
    *lse = max + log(total);
    if (params->sink) total += exp((double)params->sink[head] - max);
    for (int d = 0; d < DSV4_ATTN_DIM; d++) out[d] /= total;
}

void attn_oracle_merge(const dsv4_attn_merge_params *params, double *out, double *lse)
{
    for (int64_t i = 0; i < params->n_rows * params->n_heads; i++) {
        head_merge(params, i, i % params->n_heads, out + i * DSV4_ATTN_DIM, lse + i);
    }
}
