/*
 * keys_oracle.c - the equations of docs/keys.md in double precision, and bounds.
 *
 * Place: tests. Bounds of a value v. exact math: f32 rounding on the way, 2e-6 |v| with the norm's factor; a
 * rotated value adds what its pair brings. official math: factor and values are rounded to bf16 up to four
 * times, each 2^-9 and each maybe on the other side of a tie: 2^-6 |v|. Then the output's own rounding: bf16 2^-8 |v|,
 * e4m3 2^-4 |v| or a unit of its least numbers. A scale must be that of the group's largest value, unless
 * that lies within its bound of a power of two.
 */
#include "keys_oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct oracle {
    const keys_case *c;
    const uint8_t *after;
    uint8_t *written; /* [used_bytes] whether a byte is an output's */
    double worst;
    char *text;
} oracle;

/* A row as it should be: values and how far off each may be before its last rounding. */
typedef struct expected_row {
    double values[KEYS_DIM], bounds[KEYS_DIM];
} expected_row;

/* ---- formats ---- */

static double decode_bf16(const void *at)
{
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static double decode_f32(const void *at)
{
    float value;
    memcpy(&value, at, sizeof value);
    return value;
}

static double decode_value(const void *row, int64_t i, int32_t dtype)
{
    return dtype == DSV4_DTYPE_F32 ? decode_f32((const char *)row + 4 * i)
                                   : decode_bf16((const char *)row + 2 * i);
}

static double decode_e4m3(unsigned code)
{
    int exponent = (int)(code >> 3 & 15u), mantissa = (int)(code & 7u);
    double value = exponent == 0 ? ldexp(mantissa, -9) : ldexp(8 + mantissa, exponent - 10);
    if ((code & 0x7fu) == 0x7fu) return NAN;
    return (code & 0x80u) != 0 ? -value : value;
}

/* To nearest in bf16, as double: values of f32 range. */
static double round_bf16(double value)
{
    if (value == 0 || !isfinite(value)) return value;
    int exponent;
    (void)frexp(value, &exponent);
    double unit = ldexp(1.0, (exponent < -125 ? -125 : exponent) - 8);
    double rounded = nearbyint(value / unit) * unit;
    return fabs(rounded) > 0x1.fep127 ? copysign(INFINITY, value) : rounded;
}

/* ---- judging ---- */

static bool refuse(oracle *o, const char *what, int64_t a, int64_t b, int i, double got,
                   double want)
{
    (void)snprintf(o->text, KEYS_TEXT_BYTES, "%s [%lld, %lld, %d]: %.9g, expected %.9g", what,
                   (long long)a, (long long)b, i, got, want);
    return false;
}

static bool is_near(oracle *o, double got, double want, double bound)
{
    if (isnan(want)) return isnan(got);
    if (!isfinite(want)) return got == want;
    double error = fabs(got - want);
    if (bound > 0 && error <= bound && error / bound > o->worst) o->worst = error / bound;
    return error <= bound || (fabs(want) + bound > 3.38e38 && fabs(got) > 3.38e38);
}

static void mark(oracle *o, const void *begin, int64_t n_bytes)
{
    memset(o->written + ((const uint8_t *)begin - o->c->image), 1, (size_t)n_bytes);
}

/* The same place in the image that was computed. */
static const uint8_t *after(const oracle *o, const void *place)
{
    return o->after + ((const uint8_t *)place - o->c->image);
}

/* A row of a tensor. */
static bool check_tensor_row(oracle *o, const char *what, int64_t a, int64_t b, const void *row,
                             int32_t dtype, const expected_row *e)
{
    mark(o, row, KEYS_DIM * (dtype == DSV4_DTYPE_F32 ? 4 : 2));
    for (int i = 0; i < KEYS_DIM; i++) {
        double got = decode_value(after(o, row), i, dtype), bound = e->bounds[i] + 1e-44;
        if (dtype == DSV4_DTYPE_BF16) bound += ldexp(fabs(e->values[i]), -8) + 1e-40;
        if (!is_near(o, got, e->values[i], bound)) {
            return refuse(o, what, a, b, i, got, e->values[i]);
        }
    }
    return true;
}

static int scale_of(double amax)
{
    if (amax < 1e-4f) amax = 1e-4f;
    if (isinf(amax)) return 254;
    int exponent;
    double fraction = frexp(amax / 448.0, &exponent);
    return (fraction == 0.5 ? exponent - 1 : exponent) + 127;
}

/* One group of a record: its scale, then its codes. */
static bool check_group(oracle *o, const char *what, int64_t token, int group, const uint8_t *codes,
                        unsigned scale, const expected_row *e)
{
    double least = 0, most = 0;
    for (int i = 64 * group; i < 64 * group + 64; i++) {
        if (isnan(e->values[i])) continue;
        double low = fabs(e->values[i]) - e->bounds[i], high = fabs(e->values[i]) + e->bounds[i];
        if (isinf(e->values[i])) low = high = INFINITY;
        if (low > least) least = low;
        if (high > most) most = high;
    }
    if ((int)scale < scale_of(least) || (int)scale > scale_of(most)) {
        return refuse(o, what, token, group, -1, scale, scale_of(most));
    }
    double factor = ldexp(1.0, (int)scale - 127);
    for (int i = 64 * group; i < 64 * group + 64; i++) {
        double want = e->values[i], got = decode_e4m3(codes[i]) * factor;
        if (isinf(want)) want = copysign(448 * factor, want);
        double bound = e->bounds[i] + 0x1p-4 * (fabs(want) + e->bounds[i]) + 0x1p-10 * factor;
        if (!is_near(o, got, want, bound)) return refuse(o, what, token, group, i, got, want);
    }
    return true;
}

/* A key at a slot; an invalid slot has none. */
static bool check_key(oracle *o, const char *what, int64_t token, const dsv4_keys_cache *cache,
                      int32_t slot, const expected_row *e)
{
    if (slot < 0 || slot >= cache->n_pages * cache->page_rows) return true;
    uint8_t *page = (uint8_t *)cache->pages + slot / cache->page_rows * cache->page_stride_bytes;
    int64_t row = slot % cache->page_rows;
    if (cache->row_format == DSV4_ATTN_ROWS_F32) {
        return check_tensor_row(o, what, token, slot, page + row * 2048, DSV4_DTYPE_F32, e);
    }
    uint8_t *data = page + row * 576, *scales = page + cache->page_rows * 576 + row * 8;
    mark(o, data, 576);
    mark(o, scales, 8);
    for (int group = 0; group < 7; group++) {
        if (!check_group(o, what, token, group, after(o, data), after(o, scales)[group], e)) {
            return false;
        }
    }
    if (after(o, scales)[7] != 0) return refuse(o, what, token, 7, -1, after(o, scales)[7], 0);
    for (int i = KEYS_NOPE; i < KEYS_DIM; i++) {
        double got = decode_bf16(after(o, data) + KEYS_NOPE + 2 * (i - KEYS_NOPE));
        double bound = e->bounds[i] + ldexp(fabs(e->values[i]) + e->bounds[i], -8) + 1e-40;
        if (!is_near(o, got, e->values[i], bound)) {
            return refuse(o, what, token, slot, i, got, e->values[i]);
        }
    }
    return true;
}

/* ---- equations ---- */

/* Normalizes values and sets their bounds; x has an error of `error` of itself already. */
static void normalize(expected_row *e, const uint16_t *weight, double eps, bool is_official,
                      double error)
{
    double sum = 0;
    for (int i = 0; i < KEYS_DIM; i++) sum += e->values[i] * e->values[i];
    double factor = 1 / sqrt((double)(float)((float)sum / 512.0f + (float)eps));
    if (sum > 3.4028235e38) factor = 0;
    for (int i = 0; i < KEYS_DIM; i++) {
        double w = weight == NULL ? 1.0 : decode_bf16(&weight[i]);
        e->values[i] = w * (double)(float)(e->values[i] * factor);
        e->bounds[i] = fabs(e->values[i]) * ((is_official ? 0x1p-6 : 2e-6) + error) + 1e-44;
    }
}

/* Rotates by table row `row`, NaN where there is none. */
static void rotate(expected_row *e, const float *table, int64_t n_rows, int64_t row)
{
    for (int i = 0; i < KEYS_ROPE / 2; i++) {
        double *even = &e->values[KEYS_NOPE + 2 * i], *odd = even + 1;
        double *bound = &e->bounds[KEYS_NOPE + 2 * i];
        if (row < 0 || row >= n_rows) {
            *even = *odd = NAN;
            continue;
        }
        double cosine = table[row * KEYS_ROPE + i], sine = table[row * KEYS_ROPE + 32 + i];
        double new_even = *even * cosine - *odd * sine;
        *odd = *odd * cosine + *even * sine;
        *even = new_even;
        bound[0] = bound[1] = bound[0] + bound[1] + 1e-6 * (fabs(*even) + fabs(*odd));
    }
}

static void load_row(expected_row *e, const void *row, int32_t dtype, bool is_official)
{
    for (int i = 0; i < KEYS_DIM; i++) {
        e->values[i] = decode_value(row, i, dtype);
        if (is_official) e->values[i] = round_bf16(e->values[i]);
    }
}

static bool check_finish(oracle *o)
{
    const dsv4_keys_finish_params *p = &o->c->finish;
    bool is_official = p->math == DSV4_ATTN_MATH_OFFICIAL;
    expected_row e;
    for (int64_t t = 0; t < p->n_tokens; t++) {
        for (int64_t h = 0; h < p->n_heads; h++) {
            load_row(&e,
                     (const char *)p->q + t * p->q_token_stride_bytes + h * p->q_head_stride_bytes,
                     p->q_dtype, is_official);
            normalize(&e, NULL, p->norm_eps, is_official, 0);
            rotate(&e, p->rope_table, p->n_rope_rows, p->rope_rows[t]);
            char *out =
                (char *)p->out + t * p->out_token_stride_bytes + h * p->out_head_stride_bytes;
            if (!check_tensor_row(o, "out", t, h, out, p->out_dtype, &e)) return false;
        }
        if (p->kv == NULL) continue;
        load_row(&e, (const char *)p->kv + t * p->kv_token_stride_bytes, p->kv_dtype, is_official);
        normalize(&e, p->kv_norm, p->norm_eps, is_official, 0);
        rotate(&e, p->rope_table, p->n_rope_rows, p->rope_rows[t]);
        if (!check_key(o, "window", t, &p->window, p->slots[t], &e)) return false;
    }
    return true;
}

static int64_t raw_width(const dsv4_keys_compress_params *p)
{
    return p->ratio == 4 ? 2 * KEYS_DIM : KEYS_DIM;
}

/* Where the state has a position's row; NULL: nowhere. */
static uint8_t *state_row(const dsv4_keys_compress_params *p, int32_t request, int64_t position)
{
    const int32_t *table = p->tables + request * p->table_stride_bytes / 4;
    int64_t page = table[position / p->state_page_rows % p->n_table_pages];
    if (page < 0 || page >= p->n_state_pages) return NULL;
    return (uint8_t *)p->state + page * p->state_page_stride_bytes +
           position % p->state_page_rows * 8 * raw_width(p);
}

static bool check_state_row(oracle *o, int64_t token)
{
    const dsv4_keys_compress_params *p = &o->c->compress;
    int32_t request = p->requests[token], position = p->positions[token];
    int64_t width = raw_width(p);
    uint8_t *row = state_row(p, request, position);
    if (row == NULL) return true;
    mark(o, row, 8 * width);
    for (int64_t i = 0; i < width; i++) {
        float k = keys_raw_value(o->c, request, position, i, false);
        float g = keys_raw_value(o->c, request, position, i, true) +
                  p->ape[position % p->ratio * width + i];
        double got_k = decode_f32(after(o, row) + 4 * i);
        double got_g = decode_f32(after(o, row) + 4 * (width + i));
        if (got_k != (double)k) return refuse(o, "state K", token, position, (int)i, got_k, k);
        if (got_g != (double)g) return refuse(o, "state G", token, position, (int)i, got_g, g);
    }
    return true;
}

static bool is_in_call(const dsv4_keys_compress_params *p, int64_t token, int32_t request,
                       int64_t position)
{
    for (int64_t t = token; t >= 0; t--) {
        if (p->requests[t] == request && p->positions[t] == position) return true;
    }
    return false;
}

/* The pooled key of the group that a token ends; the sum of |weight * K| is the scale of its error. */
static void pool(const oracle *o, int64_t token, expected_row *e)
{
    const dsv4_keys_compress_params *p = &o->c->compress;
    int32_t request = p->requests[token];
    int64_t last = p->positions[token], width = raw_width(p);
    int64_t n_rows = p->ratio == 4 ? 8 : 128, positions[128];
    int64_t n = 0;
    for (int64_t at = last - n_rows + 1; at <= last; at++) {
        if (at < 0) continue;
        if (is_in_call(p, token, request, at) || state_row(p, request, at)) positions[n++] = at;
    }
    for (int i = 0; i < KEYS_DIM; i++) {
        double max = -INFINITY, weights = 0, keys = 0, gates[128];
        for (int64_t s = 0; s < n; s++) {
            int64_t at = i + (p->ratio == 4 && last - positions[s] < 4 ? KEYS_DIM : 0);
            int32_t position = (int32_t)positions[s];
            gates[s] = keys_raw_value(o->c, request, position, at, true) +
                       p->ape[position % p->ratio * width + at];
            max = fmax(max, gates[s]);
        }
        for (int64_t s = 0; s < n; s++) {
            int64_t at = i + (p->ratio == 4 && last - positions[s] < 4 ? KEYS_DIM : 0);
            double weight = exp(gates[s] - max);
            weights += weight;
            keys += weight * keys_raw_value(o->c, request, (int32_t)positions[s], at, false);
        }
        e->values[i] = keys / weights;
    }
}

static bool check_compress(oracle *o)
{
    const dsv4_keys_compress_params *p = &o->c->compress;
    bool is_official = p->math == DSV4_ATTN_MATH_OFFICIAL;
    expected_row e;
    for (int64_t t = 0; t < p->n_tokens; t++) {
        int32_t position = p->positions[t], request = p->requests[t];
        if (position < 0 || request < 0 || request >= p->n_requests) continue;
        if (!check_state_row(o, t)) return false;
        if (position % p->ratio != p->ratio - 1) continue;
        pool(o, t, &e);
        double scale =
            0; /* cancellation: an error of 1e-6 of the largest key, after the norm about 1 */
        normalize(&e, p->norm, p->norm_eps, is_official, 0);
        for (int i = 0; i < KEYS_DIM; i++) scale = fmax(scale, fabs(e.values[i]));
        for (int i = 0; i < KEYS_DIM; i++) e.bounds[i] += 4e-6 * scale;
        int64_t row = p->rope_rows != NULL ? p->rope_rows[t] : position - p->ratio + 1;
        rotate(&e, p->rope_table, p->n_rope_rows, row);
        if (!check_key(o, "compressed", t, &p->compressed, p->slots[t], &e)) return false;
    }
    return true;
}

/* Exact: a value of the cache as f32 has it. */
static double cache_value(const dsv4_keys_cache *cache, int64_t slot, int i)
{
    const uint8_t *page =
        (const uint8_t *)cache->pages + slot / cache->page_rows * cache->page_stride_bytes;
    int64_t row = slot % cache->page_rows;
    if (cache->row_format == DSV4_ATTN_ROWS_F32) return decode_f32(page + row * 2048 + 4 * i);
    const uint8_t *data = page + row * 576;
    if (i >= KEYS_NOPE) return decode_bf16(data + KEYS_NOPE + 2 * (i - KEYS_NOPE));
    unsigned scale = page[cache->page_rows * 576 + row * 8 + i / 64];
    if (scale == 255) return NAN;
    return (double)(float)ldexp(decode_e4m3(data[i]), (int)scale - 127);
}

static bool check_read(oracle *o)
{
    const dsv4_keys_read_params *p = &o->c->read;
    for (int64_t r = 0; r < p->n_rows; r++) {
        int64_t page_rows = p->cache.page_rows, slot;
        if (p->slots != NULL) {
            slot = p->slots[r];
            if (slot >= p->cache.n_pages * page_rows) slot = -1;
        } else {
            int64_t page = p->pages[r / page_rows];
            slot = page < 0 || page >= p->cache.n_pages ? -1 : page * page_rows + r % page_rows;
        }
        char *row = (char *)p->out + r * p->out_row_stride_bytes;
        mark(o, row, KEYS_DIM * (p->out_dtype == DSV4_DTYPE_F32 ? 4 : 2));
        for (int i = 0; i < KEYS_DIM; i++) {
            double want = slot < 0 ? 0.0 : cache_value(&p->cache, slot, i);
            double got = decode_value(after(o, row), i, p->out_dtype);
            if (p->out_dtype == DSV4_DTYPE_BF16) want = round_bf16(want);
            if (got == want || (isnan(got) && isnan(want))) continue;
            return refuse(o, "row", r, slot, i, got, want);
        }
    }
    return true;
}

bool keys_oracle_check(const keys_case *c, const uint8_t *after_image, double *worst,
                       char text[KEYS_TEXT_BYTES])
{
    static bool (*const checks[])(oracle *) = {check_finish, check_compress, check_read};
    oracle o = {.c = c, .after = after_image, .worst = *worst, .text = text};
    o.written = calloc(1, c->used_bytes);
    if (o.written == NULL) exit(2);
    bool is_good = checks[c->op](&o);
    for (size_t i = 0; is_good && i < c->used_bytes; i++) {
        if (o.written[i] || after_image[i] == c->image[i]) continue;
        is_good = refuse(&o, "byte that no one may write", (int64_t)i, 0, -1, after_image[i],
                         c->image[i]);
    }
    *worst = o.worst;
    free(o.written);
    return is_good;
}
