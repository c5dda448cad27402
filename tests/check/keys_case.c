/*
 * keys_case.c - drawing of cases, and calls on copies of their image.
 *
 * Place: tests.
 */
#include "keys_case.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dsv4/cache.h"
#include "num/bf16.h"

enum { CAPACITY_BYTES = 48 << 20, GUARD_BYTES = 96, GUARD_BYTE = 0xc9 };

void *keys_case_take(keys_case *c, size_t n_bytes, size_t align_bytes, size_t skew_bytes)
{
    size_t begin = (c->used_bytes + align_bytes - 1) / align_bytes * align_bytes + skew_bytes;
    size_t end = begin + n_bytes + GUARD_BYTES;
    if (end > c->capacity_bytes) {
        fprintf(stderr, "check_keys: a case needs more than %zu bytes\n", c->capacity_bytes);
        exit(2);
    }
    memset(c->image + c->used_bytes, GUARD_BYTE, end - c->used_bytes);
    memset(c->image + begin, 0xff, n_bytes);
    c->used_bytes = end;
    return c->image + begin;
}

static int64_t pick(keys_case *c, const int64_t *values, size_t n)
{
    return values[attn_rng_range(&c->rng, 0, (int64_t)n - 1)];
}

#define PICK(c, ...)                                                                               \
    pick(c, (const int64_t[]){__VA_ARGS__}, sizeof((const int64_t[]){__VA_ARGS__}) / 8)

/* ---- tensors ---- */

/* Normal numbers, some rows much larger or smaller, few special ones. */
static float random_value(keys_case *c, float factor)
{
    float value = factor * attn_rng_normal(&c->rng);
    static const float specials[] = {0.0f, -0.0f, 1e-30f, -3e38f, INFINITY, NAN, 448.0f};
    if (attn_rng_range(&c->rng, 0, 39999) == 0) return specials[attn_rng_range(&c->rng, 0, 6)];
    return value;
}

static float row_factor(keys_case *c)
{
    static const float factors[] = {1.0f, 1.0f, 1.0f, 30.0f, 1e-3f, 1e-7f, 1e4f, 0.0f};
    return factors[attn_rng_range(&c->rng, 0, 7)];
}

/* A tensor's place: 16-byte aligned, or aligned to its element only. */
typedef struct tensor_place {
    int64_t stride_bytes;
    size_t skew_bytes;
} tensor_place;

static tensor_place draw_place(keys_case *c, int64_t row_bytes, int64_t element_bytes)
{
    tensor_place place = {row_bytes, 0};
    int64_t way = attn_rng_range(&c->rng, 0, 3);
    if (way == 1) place.stride_bytes += 16 * attn_rng_range(&c->rng, 1, 5);
    if (way >= 2) place.stride_bytes += element_bytes * attn_rng_range(&c->rng, 0, 9);
    if (way == 3) place.skew_bytes = (size_t)(element_bytes * attn_rng_range(&c->rng, 1, 7));
    return place;
}

static int64_t dtype_bytes(int32_t dtype)
{
    return dtype == DSV4_DTYPE_F32 ? 4 : 2;
}

static void fill_row(keys_case *c, void *row, int32_t dtype)
{
    float factor = row_factor(c);
    for (int i = 0; i < KEYS_DIM; i++) {
        float value = random_value(c, factor);
        if (dtype == DSV4_DTYPE_F32) {
            ((float *)row)[i] = value;
        } else {
            ((uint16_t *)row)[i] = dsv4_bf16_from_f32(value);
        }
    }
}

static const uint16_t *make_weight(keys_case *c)
{
    if (attn_rng_chance(&c->rng, 20)) return NULL;
    size_t skew_bytes = (size_t)(2 * attn_rng_range(&c->rng, 0, 7));
    uint16_t *weight = keys_case_take(c, KEYS_DIM * sizeof *weight, 16, skew_bytes);
    for (int i = 0; i < KEYS_DIM; i++) {
        weight[i] = dsv4_bf16_from_f32(1.0f + 0.3f * attn_rng_normal(&c->rng));
    }
    return weight;
}

/* Cosines and sines of angles that differ from row to row. */
static const float *make_table(keys_case *c, int64_t n_rows)
{
    size_t skew_bytes = (size_t)(4 * attn_rng_range(&c->rng, 0, 3));
    float *table = keys_case_take(c, (size_t)n_rows * KEYS_ROPE * sizeof *table, 16, skew_bytes);
    for (int64_t row = 0; row < n_rows; row++) {
        for (int i = 0; i < KEYS_ROPE / 2; i++) {
            double angle = 6.283185307179586 * attn_rng_uniform(&c->rng);
            table[row * KEYS_ROPE + i] = (float)cos(angle);
            table[row * KEYS_ROPE + KEYS_ROPE / 2 + i] = (float)sin(angle);
        }
    }
    return table;
}

static int32_t *take_list(keys_case *c, int64_t n)
{
    return keys_case_take(c, (size_t)n * sizeof(int32_t), 4, 0);
}

/* Rows of a table of n_table_rows, few outside it. */
static const int32_t *make_rows(keys_case *c, int64_t n, int64_t n_table_rows)
{
    int32_t *rows = take_list(c, n);
    for (int64_t i = 0; i < n; i++) {
        rows[i] = (int32_t)attn_rng_range(&c->rng, 0, n_table_rows - 1);
        if (attn_rng_chance(&c->rng, 2)) {
            rows[i] = (int32_t)PICK(c, -1, INT32_MIN, n_table_rows, INT32_MAX);
        }
    }
    return rows;
}

static void make_cache(keys_case *c, dsv4_keys_cache *cache, int64_t n_rows)
{
    cache->row_format = attn_rng_chance(&c->rng, 20) ? DSV4_ATTN_ROWS_F32 : DSV4_ATTN_ROWS_FP8;
    cache->page_rows = PICK(c, 1, 2, 3, 16, 64, 64, 64, 65);
    cache->n_pages = n_rows / cache->page_rows + attn_rng_range(&c->rng, 1, 3);
    bool is_f32 = cache->row_format == DSV4_ATTN_ROWS_F32;
    int64_t page_bytes = cache->page_rows * (is_f32 ? 2048 : DSV4_CACHE_RECORD_BYTES);
    cache->page_stride_bytes = is_f32 ? page_bytes : dsv4_cache_page_stride_bytes(cache->page_rows);
    size_t skew_bytes = 0;
    if (attn_rng_chance(&c->rng, 30)) {
        page_bytes = (page_bytes + 15) / 16 * 16;
        cache->page_stride_bytes = page_bytes + 16 * attn_rng_range(&c->rng, 0, 9);
    }
    if (!c->for_gpu && attn_rng_chance(&c->rng, 30)) {
        cache->page_stride_bytes += attn_rng_range(&c->rng, 0, 31);
        skew_bytes = (size_t)attn_rng_range(&c->rng, 0, 15);
    }
    size_t n_bytes = (size_t)(cache->n_pages * cache->page_stride_bytes);
    cache->pages = keys_case_take(c, n_bytes, 16, skew_bytes);
}

/* Different slots of a cache in random order, some invalid. */
static const int32_t *make_slots(keys_case *c, int64_t n, const dsv4_keys_cache *cache)
{
    int64_t n_slots = cache->n_pages * cache->page_rows;
    int32_t *slots = take_list(c, n), *order = malloc((size_t)n_slots * sizeof *order);
    if (order == NULL) exit(2);
    for (int64_t i = 0; i < n_slots; i++) order[i] = (int32_t)i;
    for (int64_t i = 0; i < n; i++) {
        int64_t other = attn_rng_range(&c->rng, i, n_slots - 1);
        int32_t slot = order[other];
        order[other] = order[i];
        order[i] = slot;
        slots[i] = slot;
        if (attn_rng_chance(&c->rng, 10)) {
            slots[i] = (int32_t)PICK(c, -1, INT32_MIN, INT32_MAX, n_slots, n_slots + 5);
        }
    }
    free(order);
    return slots;
}

static int32_t draw_math(keys_case *c)
{
    return (int32_t)PICK(c, DSV4_ATTN_MATH_EXACT, DSV4_ATTN_MATH_OFFICIAL);
}

static int32_t draw_dtype(keys_case *c)
{
    return attn_rng_chance(&c->rng, 70) ? DSV4_DTYPE_BF16 : DSV4_DTYPE_F32;
}

/* ---- finish ---- */

static void make_queries(keys_case *c, dsv4_keys_finish_params *p)
{
    int64_t in_bytes = dtype_bytes(p->q_dtype), out_bytes = dtype_bytes(p->out_dtype);
    tensor_place head = draw_place(c, KEYS_DIM * in_bytes, in_bytes);
    tensor_place token = draw_place(c, p->n_heads * head.stride_bytes, in_bytes);
    p->q_head_stride_bytes = head.stride_bytes;
    p->q_token_stride_bytes = token.stride_bytes;
    char *q = keys_case_take(c, (size_t)(p->n_tokens * token.stride_bytes), 16, token.skew_bytes);
    for (int64_t i = 0; i < p->n_tokens * p->n_heads; i++) {
        fill_row(c, q + i / p->n_heads * token.stride_bytes + i % p->n_heads * head.stride_bytes,
                 p->q_dtype);
    }
    p->q = q;
    if (p->out_dtype == p->q_dtype && attn_rng_chance(&c->rng, 30)) { /* in place */
        p->out = q;
        p->out_head_stride_bytes = p->q_head_stride_bytes;
        p->out_token_stride_bytes = p->q_token_stride_bytes;
        return;
    }
    head = draw_place(c, KEYS_DIM * out_bytes, out_bytes);
    token = draw_place(c, p->n_heads * head.stride_bytes, out_bytes);
    p->out_head_stride_bytes = head.stride_bytes;
    p->out_token_stride_bytes = token.stride_bytes;
    p->out = keys_case_take(c, (size_t)(p->n_tokens * token.stride_bytes), 16, token.skew_bytes);
}

static void draw_finish(keys_case *c)
{
    dsv4_keys_finish_params *p = &c->finish;
    dsv4_keys_finish_params_default(p);
    p->n_tokens = attn_rng_range(&c->rng, 1, 12);
    p->n_heads = PICK(c, 0, 1, 3, 8, 16, 64, 128);
    if (p->n_heads < 8 && attn_rng_chance(&c->rng, 20)) p->n_tokens = 700;
    p->math = draw_math(c);
    p->norm_eps = attn_rng_chance(&c->rng, 80) ? 1e-6f : 1e-2f;
    p->q_dtype = draw_dtype(c);
    p->out_dtype = draw_dtype(c);
    p->kv_dtype = draw_dtype(c);
    p->n_threads = (int32_t)PICK(c, 1, 2, 3);
    if (p->n_heads > 0) make_queries(c, p);
    p->n_rope_rows = attn_rng_range(&c->rng, 1, 40);
    p->rope_table = make_table(c, p->n_rope_rows);
    p->rope_rows = make_rows(c, p->n_tokens, p->n_rope_rows);
    if (p->n_heads > 0 && attn_rng_chance(&c->rng, 10)) return; /* queries alone */
    int64_t value_bytes = dtype_bytes(p->kv_dtype);
    tensor_place token = draw_place(c, KEYS_DIM * value_bytes, value_bytes);
    p->kv_token_stride_bytes = token.stride_bytes;
    char *kv = keys_case_take(c, (size_t)(p->n_tokens * token.stride_bytes), 16, token.skew_bytes);
    for (int64_t t = 0; t < p->n_tokens; t++) {
        fill_row(c, kv + t * token.stride_bytes, p->kv_dtype);
    }
    p->kv = kv;
    p->kv_norm = make_weight(c);
    make_cache(c, &p->window, p->n_tokens);
    p->slots = make_slots(c, p->n_tokens, &p->window);
}

/* ---- compress ---- */

float keys_raw_value(const keys_case *c, int32_t request, int32_t position, int64_t i, bool is_gate)
{
    attn_rng rng = {c->seed + (uint64_t)(uint32_t)request * 0x9e3779b97f4a7c15u +
                    (uint64_t)(uint32_t)position * 0xd1342543de82ef95u +
                    (uint64_t)(2 * i + is_gate) * 0xaf251af3b0f025b5u};
    float value = attn_rng_normal(&rng);
    return is_gate ? 3.0f * value : value;
}

static int64_t raw_width(const dsv4_keys_compress_params *p)
{
    return p->ratio == 4 ? 2 * KEYS_DIM : KEYS_DIM;
}

/* Tokens of requests in random order, a run of positions each, some padding between. */
static void make_tokens(keys_case *c, dsv4_keys_compress_params *p, int64_t most_tokens,
                        int64_t first_positions[], int64_t counts[])
{
    int32_t *requests = take_list(c, p->n_tokens), *positions = take_list(c, p->n_tokens);
    int64_t token = 0, offset = attn_rng_range(&c->rng, 0, p->n_requests - 1);
    for (int64_t i = 0; i < p->n_requests; i++) {
        int64_t r = (i + offset) % p->n_requests;
        int64_t count = attn_rng_range(&c->rng, 0, most_tokens);
        if (count > p->n_tokens - token) count = p->n_tokens - token;
        int64_t groups = attn_rng_range(&c->rng, 0, 3) * attn_rng_range(&c->rng, 0, 1);
        int64_t first = groups * p->ratio + attn_rng_range(&c->rng, 0, p->ratio - 1);
        if (p->rope_rows != NULL && attn_rng_chance(&c->rng, 30)) {
            first = PICK(c, 65536, 1048576, INT32_MAX) - attn_rng_range(&c->rng, 1, 300) - count;
        }
        if (token > 0 && attn_rng_chance(&c->rng, 20) && positions[token - 1] >= 0 &&
            positions[token - 1] < 1 << 21) {
            first = positions[token - 1] + 1; /* as if it were the request before */
        }
        first_positions[r] = first;
        counts[r] = count;
        for (int64_t k = 0; k < count; k++, token++) {
            requests[token] = (int32_t)r;
            positions[token] = (int32_t)(first + k);
        }
        if (token < p->n_tokens && attn_rng_chance(&c->rng, 30)) {
            bool is_request = attn_rng_chance(&c->rng, 50);
            requests[token] = is_request ? (int32_t)r : (int32_t)PICK(c, -1, p->n_requests);
            positions[token++] = is_request ? -1 : 3;
        }
    }
    for (; token < p->n_tokens; token++) requests[token] = 0, positions[token] = -1;
    p->requests = requests;
    p->positions = positions;
}

/* Pages of the state in random order; the rows that groups need from before the call, and none else. */
static void make_state(keys_case *c, dsv4_keys_compress_params *p, int64_t n_group_rows,
                       const int64_t first_positions[], const int64_t counts[])
{
    int64_t width = raw_width(p), row_bytes = 8 * width, most_count = 1;
    for (int64_t r = 0; r < p->n_requests; r++) {
        if (counts[r] > most_count) most_count = counts[r];
    }
    int64_t n_rows = n_group_rows + most_count + attn_rng_range(&c->rng, 0, 9);
    p->state_page_rows = p->ratio == 4 ? PICK(c, 1, 2, 3, 4, 8, 16) : PICK(c, 1, 8, 8, 32, 128);
    p->n_table_pages = (n_rows + p->state_page_rows - 1) / p->state_page_rows;
    p->state_page_stride_bytes = p->state_page_rows * row_bytes + 16 * PICK(c, 0, 0, 1, 4);
    p->n_state_pages = p->n_requests * p->n_table_pages + attn_rng_range(&c->rng, 0, 2);
    p->table_stride_bytes = 4 * (p->n_table_pages + PICK(c, 0, 0, 3));
    char *state = keys_case_take(c, (size_t)(p->n_state_pages * p->state_page_stride_bytes), 16, 0);
    int32_t *tables = take_list(c, p->n_requests * p->table_stride_bytes / 4);
    static const int64_t primes[] = {7, 11, 13, 17};
    int64_t step = 1; /* visits every page once */
    for (int i = 0; i < 4 && step == 1; i++) {
        if (p->n_state_pages % primes[i] != 0) step = primes[i];
    }
    for (int64_t r = 0; r < p->n_requests; r++) {
        int32_t *table = tables + r * p->table_stride_bytes / 4;
        for (int64_t i = 0; i < p->n_table_pages; i++) {
            table[i] = (int32_t)((r * p->n_table_pages + i) * step % p->n_state_pages);
            if (attn_rng_chance(&c->rng, 3)) table[i] = (int32_t)PICK(c, -1, p->n_state_pages);
        }
        for (int64_t at = first_positions[r] - n_group_rows; at < first_positions[r]; at++) {
            int64_t page = at < 0 ? -1 : table[at / p->state_page_rows % p->n_table_pages];
            if (page < 0 || page >= p->n_state_pages) continue;
            float *row = (float *)(void *)(state + page * p->state_page_stride_bytes +
                                           at % p->state_page_rows * row_bytes);
            for (int64_t i = 0; i < width; i++) {
                row[i] = keys_raw_value(c, (int32_t)r, (int32_t)at, i, false);
                row[width + i] = keys_raw_value(c, (int32_t)r, (int32_t)at, i, true) +
                                 p->ape[at % p->ratio * width + i];
            }
        }
    }
    p->state = state;
    p->tables = tables;
}

/* k or g; of padding nothing, so that it is NaN. */
static const float *make_raw(keys_case *c, const dsv4_keys_compress_params *p, bool is_gate,
                             int64_t *stride_bytes)
{
    int64_t width = raw_width(p);
    tensor_place place = draw_place(c, 4 * width, 4);
    char *rows =
        keys_case_take(c, (size_t)(p->n_tokens * place.stride_bytes), 16, place.skew_bytes);
    for (int64_t t = 0; t < p->n_tokens; t++) {
        float *row = (float *)(void *)(rows + t * place.stride_bytes);
        if (p->positions[t] < 0) continue;
        for (int64_t i = 0; i < width; i++) {
            row[i] = keys_raw_value(c, p->requests[t], p->positions[t], i, is_gate);
        }
    }
    *stride_bytes = place.stride_bytes;
    return (const float *)(void *)rows;
}

static void draw_compress(keys_case *c)
{
    enum { MOST_REQUESTS = 5 };
    int64_t first_positions[MOST_REQUESTS], counts[MOST_REQUESTS];
    dsv4_keys_compress_params *p = &c->compress;
    dsv4_keys_compress_params_default(p);
    p->ratio = attn_rng_chance(&c->rng, 60) ? 4 : 128;
    p->math = draw_math(c);
    p->n_threads = (int32_t)PICK(c, 1, 2, 3);
    p->n_requests = attn_rng_range(&c->rng, 1, MOST_REQUESTS);
    p->n_tokens = p->n_requests + attn_rng_range(&c->rng, 0, p->ratio == 4 ? 40 : 300);
    if (attn_rng_chance(&c->rng, 8)) p->n_tokens = 1030; /* mostly padding */
    c->seed = attn_rng_next(&c->rng);
    int64_t width = raw_width(p);
    p->n_rope_rows = attn_rng_range(&c->rng, 1, 800);
    p->rope_table = make_table(c, p->n_rope_rows);
    if (attn_rng_chance(&c->rng, 50)) {
        p->rope_rows = make_rows(c, p->n_tokens, p->n_rope_rows);
    }
    make_tokens(c, p, p->ratio == 4 ? 21 : 280, first_positions, counts);
    float *ape =
        keys_case_take(c, (size_t)(p->ratio * width * 4), 16, attn_rng_chance(&c->rng, 80) ? 0 : 4);
    for (int64_t i = 0; i < p->ratio * width; i++) ape[i] = attn_rng_normal(&c->rng);
    p->ape = ape;
    p->norm = make_weight(c);
    p->k = make_raw(c, p, false, &p->k_token_stride_bytes);
    p->g = make_raw(c, p, true, &p->g_token_stride_bytes);
    make_state(c, p, p->ratio == 4 ? 8 : 128, first_positions, counts);
    make_cache(c, &p->compressed, p->n_tokens);
    p->slots = make_slots(c, p->n_tokens, &p->compressed);
}

/* ---- read ---- */

static void fill_cache(keys_case *c, const dsv4_keys_cache *cache)
{
    uint8_t *pages = cache->pages;
    if (cache->row_format == DSV4_ATTN_ROWS_F32) {
        for (int64_t page = 0; page < cache->n_pages; page++) {
            for (int64_t i = 0; i < cache->page_rows * KEYS_DIM; i++) {
                float value = random_value(c, 1.0f);
                memcpy(pages + page * cache->page_stride_bytes + 4 * i, &value, sizeof value);
            }
        }
        return;
    }
    bool has_any_scale = attn_rng_chance(&c->rng, 30);
    for (int64_t page = 0; page < cache->n_pages; page++) {
        uint8_t *at = pages + page * cache->page_stride_bytes;
        for (int64_t i = 0; i < cache->page_rows * DSV4_CACHE_DATA_BYTES; i++) {
            at[i] = (uint8_t)attn_rng_range(&c->rng, 0, 255);
        }
        at += cache->page_rows * DSV4_CACHE_DATA_BYTES;
        for (int64_t i = 0; i < cache->page_rows * DSV4_CACHE_SCALE_BYTES; i++) {
            at[i] = (uint8_t)(has_any_scale ? attn_rng_range(&c->rng, 0, 255)
                                            : attn_rng_range(&c->rng, 110, 130));
        }
    }
}

static void draw_read(keys_case *c)
{
    dsv4_keys_read_params *p = &c->read;
    dsv4_keys_read_params_default(p);
    p->n_rows = attn_rng_range(&c->rng, 1, attn_rng_chance(&c->rng, 5) ? 5000 : 150);
    p->out_dtype = draw_dtype(c);
    p->n_threads = (int32_t)PICK(c, 1, 2, 3);
    make_cache(c, &p->cache, attn_rng_range(&c->rng, 1, 130));
    fill_cache(c, &p->cache);
    bool has_pages = attn_rng_chance(&c->rng, 50);
    int64_t n = has_pages ? (p->n_rows + p->cache.page_rows - 1) / p->cache.page_rows : p->n_rows;
    int64_t most = has_pages ? p->cache.n_pages : p->cache.n_pages * p->cache.page_rows;
    int32_t *list = take_list(c, n);
    for (int64_t i = 0; i < n; i++) {
        list[i] = (int32_t)attn_rng_range(&c->rng, 0, most - 1);
        if (attn_rng_chance(&c->rng, 10)) {
            list[i] = (int32_t)PICK(c, -1, INT32_MIN, INT32_MAX, most, most + 3);
        }
    }
    p->slots = has_pages ? NULL : list;
    p->pages = has_pages ? list : NULL;
    if (attn_rng_chance(&c->rng, 5)) p->cache.n_pages = 0;
    int64_t value_bytes = dtype_bytes(p->out_dtype);
    tensor_place place = draw_place(c, KEYS_DIM * value_bytes, value_bytes);
    p->out_row_stride_bytes = place.stride_bytes;
    p->out = keys_case_take(c, (size_t)(p->n_rows * place.stride_bytes), 16, place.skew_bytes);
}

/* ---- cases ---- */

void keys_case_draw(keys_case *c, int op, uint64_t id, bool for_gpu)
{
    static void (*const draws[])(keys_case *) = {draw_finish, draw_compress, draw_read};
    if (c->image == NULL) {
        c->capacity_bytes = CAPACITY_BYTES;
        c->image = aligned_alloc(4096, CAPACITY_BYTES);
        if (c->image == NULL) exit(2);
    }
    c->op = op;
    c->for_gpu = for_gpu;
    c->used_bytes = 0;
    c->rng.state = (id * KEYS_N_OPS + (uint64_t)op) * 1000003u + 29u;
    (void)keys_case_take(c, 0, 1, GUARD_BYTES);
    draws[op](c);
}

void keys_case_free(keys_case *c)
{
    free(c->image);
    c->image = NULL;
}

void keys_case_describe(const keys_case *c, char text[KEYS_TEXT_BYTES])
{
    const dsv4_keys_finish_params *f = &c->finish;
    const dsv4_keys_compress_params *p = &c->compress;
    const dsv4_keys_read_params *r = &c->read;
    if (c->op == KEYS_FINISH) {
        (void)snprintf(text, KEYS_TEXT_BYTES,
                       "%lld tokens, %lld heads, math %d, dtypes q %d out %d kv %d, %s, page rows "
                       "%lld, format %d, threads %d",
                       (long long)f->n_tokens, (long long)f->n_heads, f->math, f->q_dtype,
                       f->out_dtype, f->kv_dtype, f->kv == NULL ? "no keys" : "keys",
                       (long long)f->window.page_rows, f->window.row_format, f->n_threads);
    } else if (c->op == KEYS_COMPRESS) {
        (void)snprintf(text, KEYS_TEXT_BYTES,
                       "%lld tokens of %lld requests, ratio %d, math %d, state pages of %lld rows, "
                       "%lld in a table, page rows %lld, format %d, threads %d",
                       (long long)p->n_tokens, (long long)p->n_requests, p->ratio, p->math,
                       (long long)p->state_page_rows, (long long)p->n_table_pages,
                       (long long)p->compressed.page_rows, p->compressed.row_format, p->n_threads);
    } else {
        (void)snprintf(text, KEYS_TEXT_BYTES,
                       "%lld rows by %s, dtype %d, %lld pages of %lld rows, format %d, threads %d",
                       (long long)r->n_rows, r->slots == NULL ? "pages" : "slots", r->out_dtype,
                       (long long)r->cache.n_pages, (long long)r->cache.page_rows,
                       r->cache.row_format, r->n_threads);
    }
}

/* ---- calls ---- */

static void *move(const keys_case *c, const void *pointer, void *base)
{
    if (pointer == NULL) return NULL;
    return (char *)base + ((const uint8_t *)pointer - c->image);
}

#define MOVE(c, field, base) ((field) = move(c, field, base))

static dsv4_status call_finish(const keys_case *c, void *base, int32_t backend, void *stream,
                               dsv4_error *error)
{
    dsv4_keys_finish_params p = c->finish;
    p.backend = backend;
    MOVE(c, p.q, base);
    MOVE(c, p.out, base);
    MOVE(c, p.kv, base);
    MOVE(c, p.kv_norm, base);
    MOVE(c, p.window.pages, base);
    MOVE(c, p.slots, base);
    MOVE(c, p.rope_table, base);
    MOVE(c, p.rope_rows, base);
    return dsv4_keys_finish(stream, &p, error);
}

static dsv4_status call_compress(const keys_case *c, void *base, int32_t backend, void *stream,
                                 dsv4_error *error)
{
    dsv4_keys_compress_params p = c->compress;
    p.backend = backend;
    MOVE(c, p.requests, base);
    MOVE(c, p.positions, base);
    MOVE(c, p.k, base);
    MOVE(c, p.g, base);
    MOVE(c, p.ape, base);
    MOVE(c, p.norm, base);
    MOVE(c, p.state, base);
    MOVE(c, p.tables, base);
    MOVE(c, p.compressed.pages, base);
    MOVE(c, p.slots, base);
    MOVE(c, p.rope_table, base);
    MOVE(c, p.rope_rows, base);
    return dsv4_keys_compress(stream, &p, error);
}

dsv4_status keys_case_call(const keys_case *c, void *base, int32_t backend, void *stream,
                           dsv4_error *error)
{
    if (c->op == KEYS_FINISH) return call_finish(c, base, backend, stream, error);
    if (c->op == KEYS_COMPRESS) return call_compress(c, base, backend, stream, error);
    dsv4_keys_read_params p = c->read;
    p.backend = backend;
    MOVE(c, p.cache.pages, base);
    MOVE(c, p.slots, base);
    MOVE(c, p.pages, base);
    MOVE(c, p.out, base);
    return dsv4_keys_read(stream, &p, error);
}

/* ---- NaN ---- */

static void level_values(uint8_t *at, int64_t n, int32_t dtype)
{
    for (int64_t i = 0; i < n && dtype == DSV4_DTYPE_F32; i++) {
        float value;
        memcpy(&value, at + 4 * i, sizeof value);
        if (isnan(value)) memset(at + 4 * i, 0xff, 4);
    }
    for (int64_t i = 0; i < n && dtype == DSV4_DTYPE_BF16; i++) {
        uint16_t bits;
        memcpy(&bits, at + 2 * i, sizeof bits);
        if ((bits & 0x7fffu) > 0x7f80u) memset(at + 2 * i, 0xff, 2);
    }
}

static void level_cache(uint8_t *pages, const dsv4_keys_cache *cache)
{
    bool is_f32 = cache->row_format == DSV4_ATTN_ROWS_F32;
    for (int64_t i = 0; i < cache->n_pages * cache->page_rows; i++) {
        uint8_t *page = pages + i / cache->page_rows * cache->page_stride_bytes;
        int64_t row = i % cache->page_rows;
        if (is_f32) {
            level_values(page + row * 2048, KEYS_DIM, DSV4_DTYPE_F32);
        } else {
            level_values(page + row * DSV4_CACHE_DATA_BYTES + KEYS_NOPE, KEYS_ROPE,
                         DSV4_DTYPE_BF16);
        }
    }
}

void keys_case_level_nan(const keys_case *c, uint8_t *image)
{
    const dsv4_keys_finish_params *f = &c->finish;
    const dsv4_keys_compress_params *p = &c->compress;
    const dsv4_keys_read_params *r = &c->read;
    if (c->op == KEYS_FINISH) {
        uint8_t *out = move(c, f->out, image);
        for (int64_t i = 0; i < f->n_tokens * f->n_heads; i++) {
            level_values(out + i / f->n_heads * f->out_token_stride_bytes +
                             i % f->n_heads * f->out_head_stride_bytes,
                         KEYS_DIM, f->out_dtype);
        }
        if (f->kv != NULL) level_cache(move(c, f->window.pages, image), &f->window);
    } else if (c->op == KEYS_COMPRESS) {
        uint8_t *state = move(c, p->state, image);
        for (int64_t page = 0; page < p->n_state_pages; page++) {
            level_values(state + page * p->state_page_stride_bytes,
                         2 * raw_width(p) * p->state_page_rows, DSV4_DTYPE_F32);
        }
        level_cache(move(c, p->compressed.pages, image), &p->compressed);
    } else {
        uint8_t *out = move(c, r->out, image);
        for (int64_t i = 0; i < r->n_rows; i++) {
            level_values(out + i * r->out_row_stride_bytes, KEYS_DIM, r->out_dtype);
        }
    }
}
