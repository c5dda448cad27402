/*
 * attn_case_gen.c - makes the tensors of a random decode call.
 *
 * Place: tests. The header has the invariants. Order of work: lists first, since they decide which
 * slots hold numbers and which hold NaN; then the pools, then everything of the queries.
 */
#include "attn_case_gen.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOT_UNNAMED = 0, SLOT_NAMED = 1, SLOT_NAN = 2 };

enum {
    SCORE_GROUP = DSV4_CACHE_N_GROUPS - 1
}; /* SCALES: it and the rotated tail make the scores */

/* Scales that bring q . k to the size that the kind of values asks for. */
typedef struct value_model {
    attn_values values;
    int32_t scale_byte[DSV4_CACHE_N_GROUPS]; /* EXTREME only */
    int32_t max_code[DSV4_CACHE_N_GROUPS];   /* EXTREME only */
    float q_scale[ATTN_SCORE_GROUPS];
} value_model;

/* One scope while it is being made. */
typedef struct pool {
    uint8_t *data;
    uint8_t *state; /* [n_total] SLOT_* */
    int64_t n_total;
    int64_t first; /* lists draw from first .. first + n_slots - 1 */
    int64_t trap;  /* a slot that no list names */
} pool;

void *attn_alloc(int64_t n_bytes)
{
    void *memory = malloc(n_bytes > 0 ? (size_t)n_bytes : 1);
    if (!memory) {
        fprintf(stderr, "out of memory: %lld bytes\n", (long long)n_bytes);
        exit(2);
    }
    return memory;
}

static void *case_alloc(attn_case *c, int64_t n_bytes)
{
    return attn_fenced_alloc(&c->blocks[c->n_blocks++], n_bytes);
}

void attn_spec_print(const attn_spec *spec)
{
    printf("  case %llu: requests %lld queries %lld heads %lld threads %d scale %g out_dtype %d "
           "q_dtype %d lse %d values %d sink %d rope %d layout %d unaligned %d nan %d varlen %d "
           "half_empty %d\n",
           (unsigned long long)spec->id, (long long)spec->n_requests, (long long)spec->n_queries,
           (long long)spec->n_heads, spec->n_threads, (double)spec->softmax_scale, spec->out_dtype,
           spec->q_dtype, spec->has_lse, (int)spec->values, (int)spec->sink, (int)spec->rope,
           (int)spec->layout, spec->is_unaligned, spec->names_nan, spec->varies_length,
           spec->half_empty);
    for (int i = 0; i < 2; i++) {
        const attn_scope_spec *s = &spec->scope[i];
        if (!spec->has_scope[i]) continue;
        printf("    %s: slots %lld page_rows %lld n_indices %lld page_pad %lld list %d lengths %d "
               "neighbours %d shared %d f32 %d\n",
               i == 0 ? "window" : "extra", (long long)s->n_slots, (long long)s->page_rows,
               (long long)s->n_indices, (long long)s->page_pad_bytes, (int)s->list, (int)s->lengths,
               s->neighbours, s->shares_lists, s->is_f32);
    }
}

int64_t attn_spec_macs(const attn_spec *spec)
{
    int64_t n_keys = 0;
    for (int i = 0; i < 2; i++) n_keys += spec->has_scope[i] ? spec->scope[i].n_indices : 0;
    return spec->n_requests * spec->n_queries * spec->n_heads * (n_keys + 1) * 1024;
}

/*
 * Draws strides for [sizes[0], sizes[1], sizes[2], row_bytes] and returns the bytes from the first
 * to the last. A dimension of one element may have any stride, 0 too.
 */
static int64_t layout_draw(attn_rng *rng, attn_layout layout, const int64_t sizes[3],
                           int64_t row_bytes, int64_t element_bytes, int64_t strides[3])
{
    int order[3] = {2, 1, 0}; /* innermost first */
    if (layout == ATTN_LAYOUT_PERMUTED) {
        for (int i = 2; i > 0; i--) {
            int j = (int)attn_rng_range(rng, 0, i);
            int swapped = order[i];
            order[i] = order[j];
            order[j] = swapped;
        }
    }
    int64_t span = row_bytes;
    for (int i = 0; i < 3; i++) {
        int64_t size = sizes[order[i]];
        int64_t pad = 0;
        if (layout != ATTN_LAYOUT_DENSE) pad = attn_rng_range(rng, 0, 9) * element_bytes;
        strides[order[i]] = span + pad;
        span += (size - 1) * strides[order[i]];
        if (size == 1 && layout != ATTN_LAYOUT_DENSE) {
            strides[order[i]] = attn_rng_range(rng, 0, 3) * element_bytes;
        }
    }
    return span;
}

void attn_tensor_make(attn_tensor *tensor, attn_rng *rng, attn_layout layout, bool is_unaligned,
                      const int64_t sizes[3], int64_t row_bytes, int64_t element_bytes)
{
    memcpy(tensor->sizes, sizes, sizeof tensor->sizes);
    tensor->row_bytes = row_bytes;
    tensor->element_bytes = element_bytes;
    int64_t span = layout_draw(rng, layout, sizes, row_bytes, element_bytes, tensor->strides);
    int64_t lead_bytes = 256 + (is_unaligned ? element_bytes : 0);
    tensor->block_bytes = lead_bytes + span + 256;
    tensor->block = attn_alloc(tensor->block_bytes);
    tensor->data = tensor->block + lead_bytes;
}

enum { POISON_BYTES = 4 }; /* whole elements */

/* What poisoned memory repeats; a block starts aligned, so that elements fall on whole patterns. */
static uint32_t poison_of(int64_t element_bytes)
{
    static const uint8_t nan_bf16[POISON_BYTES] = {0x8b, 0x7f, 0x8b, 0x7f};
    static const uint8_t nan_f32[POISON_BYTES] = {0xad, 0x0b, 0x8b, 0x7f};
    static const uint8_t byte[POISON_BYTES] = {0xff, 0xff, 0xff, 0xff};
    const uint8_t *pattern = element_bytes == 2 ? nan_bf16 : nan_f32;
    if (element_bytes == 1) pattern = byte;
    uint32_t bits;
    memcpy(&bits, pattern, sizeof bits);
    return bits;
}

static void poison_write(uint8_t *bytes, int64_t n_bytes, int64_t element_bytes)
{
    const uint32_t poison = poison_of(element_bytes);
    int64_t i = 0;
    for (; i + POISON_BYTES <= n_bytes; i += POISON_BYTES) memcpy(bytes + i, &poison, POISON_BYTES);
    memcpy(bytes + i, &poison, (size_t)(n_bytes - i));
}

/* Whether a whole block, of POISON_BYTES or more, is poison: its start is, and all else is as what lies before it. */
static bool is_poison(const uint8_t *bytes, int64_t n_bytes, int64_t element_bytes)
{
    const uint32_t poison = poison_of(element_bytes);
    return memcmp(bytes, &poison, POISON_BYTES) == 0 &&
           memcmp(bytes + POISON_BYTES, bytes, (size_t)(n_bytes - POISON_BYTES)) == 0;
}

/* Whether no element is poison. Counted without a branch, so that the compiler makes vectors of it. */
static bool row_is_written(const uint8_t *row, int64_t row_bytes, int64_t element_bytes)
{
    const uint32_t poison = poison_of(element_bytes);
    const uint16_t half = (uint16_t)poison; /* of two elements of two bytes */
    int32_t n_left = 0;
    for (int64_t i = 0; element_bytes == 2 && i < row_bytes; i += 2) {
        uint16_t bits;
        memcpy(&bits, row + i, sizeof bits);
        n_left += bits == half;
    }
    for (int64_t i = 0; element_bytes == 4 && i < row_bytes; i += 4) {
        uint32_t bits;
        memcpy(&bits, row + i, sizeof bits);
        n_left += bits == poison;
    }
    return n_left == 0;
}

void attn_tensor_poison(attn_tensor *tensor)
{
    poison_write(tensor->block, tensor->block_bytes, tensor->element_bytes);
}

static bool row_collect(attn_tensor *tensor, uint8_t *row, uint8_t *dense)
{
    const bool is_written = row_is_written(row, tensor->row_bytes, tensor->element_bytes);
    memcpy(dense, row, (size_t)tensor->row_bytes);
    poison_write(row, tensor->row_bytes, tensor->element_bytes);
    return is_written;
}

bool attn_tensor_collect(attn_tensor *tensor, uint8_t *dense)
{
    bool is_good = true;
    for (int64_t i = 0; i < tensor->sizes[0]; i++) {
        for (int64_t j = 0; j < tensor->sizes[1]; j++) {
            for (int64_t k = 0; k < tensor->sizes[2]; k++) {
                uint8_t *row = tensor->data + i * tensor->strides[0] + j * tensor->strides[1] +
                               k * tensor->strides[2];
                if (!row_collect(tensor, row, dense)) is_good = false;
                dense += tensor->row_bytes;
            }
        }
    }
    return is_poison(tensor->block, tensor->block_bytes, tensor->element_bytes) && is_good;
}

int64_t attn_dtype_bytes(int32_t dtype)
{
    if (dtype == DSV4_DTYPE_FP8) return 1;
    return dtype == DSV4_DTYPE_F32 ? 4 : 2;
}

void attn_outputs_make(attn_outputs *outputs, attn_rng *rng, attn_layout layout, bool is_unaligned,
                       dsv4_attn_params *params)
{
    const int64_t sizes[3] = {params->n_requests, params->n_queries, params->n_heads};
    const int64_t value_bytes = attn_dtype_bytes(params->out_dtype);
    attn_tensor *out = &outputs->out, *lse = &outputs->lse, *scales = &outputs->scales;
    memset(outputs, 0, sizeof *outputs);
    attn_tensor_make(out, rng, layout, is_unaligned, sizes, DSV4_ATTN_DIM * value_bytes,
                     value_bytes);
    params->out = out->data;
    params->out_request_stride_bytes = out->strides[0];
    params->out_query_stride_bytes = out->strides[1];
    params->out_head_stride_bytes = out->strides[2];
    attn_tensor_make(lse, rng, layout, is_unaligned, sizes, 4, 4);
    params->lse = (float *)(void *)lse->data;
    params->lse_request_stride_bytes = lse->strides[0];
    params->lse_query_stride_bytes = lse->strides[1];
    params->lse_head_stride_bytes = lse->strides[2];
    if (params->out_dtype != DSV4_DTYPE_FP8) return;
    attn_tensor_make(scales, rng, layout, is_unaligned, sizes, DSV4_ATTN_DIM / DSV4_ATTN_OUT_GROUP,
                     1);
    params->out_scales = scales->data;
    params->out_scales_request_stride_bytes = scales->strides[0];
    params->out_scales_query_stride_bytes = scales->strides[1];
    params->out_scales_head_stride_bytes = scales->strides[2];
}

void attn_outputs_free(attn_outputs *outputs)
{
    free(outputs->out.block);
    free(outputs->lse.block);
    free(outputs->scales.block);
}

/* An index that names no key, whatever the pool. */
static int32_t index_wild(attn_rng *rng, int64_t n_total)
{
    const int64_t wild[] = {-1, -7, INT_MIN, n_total, n_total + 1, INT_MAX, -n_total, n_total * 2};
    return (int32_t)wild[attn_rng_range(rng, 0, 7)];
}

/* Entries from n_valid on are -1. */
static void list_fill(const attn_scope_spec *s, const pool *p, attn_rng *rng, int32_t *distinct,
                      int64_t n_valid, int32_t *list)
{
    for (int64_t i = 0; i < s->n_indices; i++) {
        int32_t drawn = (int32_t)(p->first + attn_rng_range(rng, 0, s->n_slots - 1));
        bool is_wild = s->list == ATTN_LIST_INVALID ||
                       (s->list == ATTN_LIST_WILD && attn_rng_chance(rng, 33)) ||
                       (s->list == ATTN_LIST_LAST && i != s->n_indices - 1);
        if (i >= n_valid) {
            drawn = -1;
        } else if (is_wild) {
            drawn = index_wild(rng, p->n_total);
        } else if (s->list == ATTN_LIST_ONE_SLOT) {
            drawn = (int32_t)(p->first + s->n_slots - 1);
        } else if (s->list == ATTN_LIST_DISTINCT && i >= s->n_slots) {
            drawn = -1;
        } else if (s->list == ATTN_LIST_DISTINCT) {
            int64_t j = attn_rng_range(rng, i, s->n_slots - 1);
            drawn = distinct[j];
            distinct[j] = distinct[i];
            distinct[i] = drawn;
        }
        list[i] = drawn;
    }
}

/* Takes some entries from the list of the query before. */
static void list_take(const attn_scope_spec *s, attn_rng *rng, const int32_t *before, int32_t *list)
{
    for (int64_t i = 0; i < s->n_indices; i++) {
        if (attn_rng_chance(rng, s->neighbours)) list[i] = before[i];
    }
}

static int32_t length_draw(const attn_scope_spec *s, attn_rng *rng)
{
    const int64_t n = s->n_indices;
    switch (s->lengths) {
    case ATTN_LENGTHS_RANDOM: return (int32_t)attn_rng_range(rng, 0, n);
    case ATTN_LENGTHS_HALF_ZERO: return attn_rng_chance(rng, 50) ? 0 : (int32_t)n;
    case ATTN_LENGTHS_WILD: {
        const int64_t wild[] = {-1, INT_MIN, 0, n, n + 1, INT_MAX, n - 1, n / 2};
        return (int32_t)wild[attn_rng_range(rng, 0, 7)];
    }
    case ATTN_LENGTHS_ZERO:
    case ATTN_LENGTHS_NONE: break;
    }
    return 0;
}

/* How many entries of a list of this request count. */
static int64_t list_length(const dsv4_attn_scope *scope, int64_t request)
{
    if (!scope->lengths) return scope->n_indices;
    int64_t length = scope->lengths[request];
    if (length < 0) return 0;
    return length < scope->n_indices ? length : scope->n_indices;
}

static const int32_t *list_at(const dsv4_attn_scope *scope, int64_t request, int64_t query)
{
    const char *bytes = (const char *)scope->indices;
    return (const int32_t *)(const void *)(bytes + request * scope->indices_request_stride_bytes +
                                           query * scope->indices_query_stride_bytes);
}

static int64_t row_bytes_of(const dsv4_attn_scope *scope)
{
    return scope->row_format == DSV4_ATTN_ROWS_F32 ? DSV4_ATTN_DIM * 4 : DSV4_CACHE_RECORD_BYTES;
}

static bool request_is_empty(const attn_spec *spec, int64_t request)
{
    attn_rng rng = {spec->id ^ (uint64_t)request << 32};
    return spec->half_empty && attn_rng_chance(&rng, 50);
}

/* Draws page geometry, lists and lengths of one scope. */
static void scope_make_lists(attn_case *c, attn_rng *rng, int which, dsv4_attn_scope *scope,
                             pool *p)
{
    const attn_scope_spec *s = &c->spec.scope[which];
    scope->page_rows = s->page_rows;
    scope->n_pages = (s->n_slots + 2 + s->page_rows - 1) / s->page_rows + attn_rng_range(rng, 0, 1);
    scope->row_format = s->is_f32 ? DSV4_ATTN_ROWS_F32 : DSV4_ATTN_ROWS_FP8;
    scope->page_stride_bytes = s->page_rows * row_bytes_of(scope) + s->page_pad_bytes;
    scope->n_indices = s->n_indices;
    p->n_total = scope->n_pages * scope->page_rows;
    p->first = attn_rng_range(rng, 0, 1);
    p->trap = p->n_total - 1;

    if (s->lengths != ATTN_LENGTHS_NONE) {
        int32_t *lengths = case_alloc(c, c->spec.n_requests * 4);
        for (int64_t i = 0; i < c->spec.n_requests; i++) lengths[i] = length_draw(s, rng);
        scope->lengths = lengths;
    }
    if (s->n_indices == 0) return;

    const int64_t sizes[3] = {c->spec.n_requests, s->shares_lists ? 1 : c->spec.n_queries, 1};
    int64_t strides[3];
    int64_t span = layout_draw(rng, c->spec.layout, sizes, s->n_indices * 4, 4, strides);
    int64_t lead_bytes = c->spec.is_unaligned ? 4 : 0;
    int32_t *block = case_alloc(c, lead_bytes + span);
    for (int64_t i = 0; i < (lead_bytes + span) / 4; i++) block[i] = (int32_t)p->trap;
    scope->indices = block + lead_bytes / 4;
    scope->indices_request_stride_bytes = strides[0];
    scope->indices_query_stride_bytes = s->shares_lists ? 0 : strides[1];

    int32_t *distinct = attn_alloc(s->n_slots * 4);
    for (int64_t i = 0; i < s->n_slots; i++) distinct[i] = (int32_t)(p->first + i);
    for (int64_t i = 0; i < c->spec.n_requests; i++) {
        int64_t n_valid = attn_rng_range(rng, 0, s->n_indices);
        if (!c->spec.varies_length) n_valid = s->n_indices;
        if (request_is_empty(&c->spec, i)) n_valid = 0;
        for (int64_t j = 0; j < sizes[1]; j++) {
            int64_t at = (lead_bytes + i * strides[0] + j * strides[1]) / 4;
            list_fill(s, p, rng, distinct, n_valid, block + at);
            if (j > 0 && s->neighbours > 0)
                list_take(s, rng, block + at - strides[1] / 4, block + at);
        }
    }
    free(distinct);
}

/* Marks what the lists name; with names_nan turns one named slot into a NaN. */
static void scope_mark_named(const attn_case *c, attn_rng *rng, const dsv4_attn_scope *scope,
                             pool *p)
{
    int64_t n_seen = 0;
    int64_t nan_slot = -1;
    p->state = attn_alloc(p->n_total);
    memset(p->state, SLOT_UNNAMED, (size_t)p->n_total);
    for (int64_t i = 0; i < c->spec.n_requests; i++) {
        int64_t length = list_length(scope, i);
        for (int64_t j = 0; length > 0 && j < c->spec.n_queries; j++) {
            const int32_t *list = list_at(scope, i, j);
            for (int64_t k = 0; k < length; k++) {
                if (list[k] < 0 || list[k] >= p->n_total) continue;
                p->state[list[k]] = SLOT_NAMED;
                if (attn_rng_range(rng, 0, n_seen++) == 0) nan_slot = list[k];
            }
        }
    }
    if (c->spec.names_nan && nan_slot >= 0) p->state[nan_slot] = SLOT_NAN;
}

static void row_write_codes(const value_model *model, attn_rng *rng, uint8_t *data, uint8_t *scales)
{
    for (int i = 0; i < DSV4_CACHE_FP8_DIM; i++) {
        int group = i / DSV4_CACHE_GROUP_DIM;
        int64_t low = model->values == ATTN_VALUES_SUBNORMAL ? 1 : 0;
        int64_t high = model->values == ATTN_VALUES_SUBNORMAL ? 7 : 0x7e;
        if (model->values == ATTN_VALUES_EXTREME) high = model->max_code[group];
        data[i] = (uint8_t)(attn_rng_range(rng, low, high) | (attn_rng_chance(rng, 50) ? 0x80 : 0));
    }
    for (int g = 0; g < DSV4_CACHE_N_GROUPS; g++) {
        int32_t byte = (int32_t)attn_rng_range(rng, 114, 120);
        if (model->values == ATTN_VALUES_SUBNORMAL) byte = (int32_t)attn_rng_range(rng, 130, 134);
        if (model->values == ATTN_VALUES_EXTREME) byte = model->scale_byte[g];
        if (model->values == ATTN_VALUES_SCALES) {
            byte = g == SCORE_GROUP ? 117 : (int32_t)attn_rng_range(rng, 100, 120);
        }
        scales[g] = (uint8_t)byte;
    }
    for (int i = 0; i < DSV4_CACHE_ROPE_DIM; i++) {
        float value = attn_rng_normal(rng);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        data[DSV4_CACHE_FP8_DIM + 2 * i] = (uint8_t)(bits >> 16);
        data[DSV4_CACHE_FP8_DIM + 2 * i + 1] = (uint8_t)(bits >> 24);
    }
}

/* Puts one NaN into a row, in one of the ways that the record has. */
static void row_write_nan(attn_rng *rng, uint8_t *data, uint8_t *scales)
{
    int64_t at;
    switch (attn_rng_range(rng, 0, 3)) {
    case 0: data[attn_rng_range(rng, 0, DSV4_CACHE_FP8_DIM - 1)] = 0x7f; break;
    case 1: data[attn_rng_range(rng, 0, DSV4_CACHE_FP8_DIM - 1)] = 0xff; break;
    case 2: scales[attn_rng_range(rng, 0, DSV4_CACHE_N_GROUPS - 1)] = 0xff; break;
    default:
        at = DSV4_CACHE_FP8_DIM + 2 * attn_rng_range(rng, 0, DSV4_CACHE_ROPE_DIM - 1);
        data[at] = 0xc0;
        data[at + 1] = attn_rng_chance(rng, 50) ? 0x7f : 0xff;
    }
}

static void key_norm_update(attn_case *c, const float *values)
{
    for (int g = 0; g < ATTN_SCORE_GROUPS; g++) {
        double sum = 0;
        for (int i = g * 64; i < g * 64 + 64; i++) sum += (double)values[i] * (double)values[i];
        if (sqrt(sum) > c->key_norm[g]) c->key_norm[g] = sqrt(sum);
        c->key_square[g] += sum;
    }
    c->n_rows_named++;
}

static float clamp_one(float value)
{
    return fminf(fmaxf(value, -1.0f), 1.0f);
}

/* Number i of a row. f32 rows have no scale bytes: EXTREME ones take the size that q makes up for. */
static float value_draw(const value_model *model, attn_rng *rng, int64_t slot, int i)
{
    float spread = 1.0f;
    if (model->values == ATTN_VALUES_QUANT) spread = ldexpf(1.0f, (int)((slot + i / 64) % 5) - 3);
    if (model->values == ATTN_VALUES_EXTREME) spread = 1.0f / model->q_scale[i / 64];
    if (model->values == ATTN_VALUES_CLAMPED) return clamp_one(attn_rng_normal(rng) / 10.0f);
    return attn_rng_normal(rng) * spread;
}

static void slot_write_f32(attn_case *c, attn_rng *rng, const value_model *model, int64_t slot,
                           bool has_nan, uint8_t *row)
{
    float values[DSV4_ATTN_DIM];
    for (int i = 0; i < DSV4_ATTN_DIM; i++) values[i] = value_draw(model, rng, slot, i);
    key_norm_update(c, values);
    if (has_nan) values[attn_rng_range(rng, 0, DSV4_ATTN_DIM - 1)] = NAN;
    memcpy(row, values, sizeof values);
}

static void slot_write_fp8(attn_case *c, attn_rng *rng, const value_model *model, int64_t slot,
                           bool has_nan, int64_t page_rows, uint8_t *page)
{
    float values[DSV4_CACHE_DIM];
    int64_t row = slot % page_rows;
    uint8_t *data = page + row * DSV4_CACHE_DATA_BYTES;
    uint8_t *scales = page + page_rows * DSV4_CACHE_DATA_BYTES + row * 8;
    if (model->values == ATTN_VALUES_EXTREME || model->values == ATTN_VALUES_SUBNORMAL ||
        model->values == ATTN_VALUES_CODES || model->values == ATTN_VALUES_SCALES) {
        row_write_codes(model, rng, data, scales);
    } else {
        for (int i = 0; i < DSV4_CACHE_DIM; i++) values[i] = value_draw(model, rng, slot, i);
        dsv4_cache_row_write(page, page_rows, row, values);
        scales[DSV4_CACHE_N_GROUPS] = 0xff; /* the pad is not a number either */
    }
    dsv4_cache_row_read(page, page_rows, row, values);
    key_norm_update(c, values);
    if (has_nan) row_write_nan(rng, data, scales);
}

static void scope_make_pool(attn_case *c, attn_rng *rng, const value_model *model,
                            dsv4_attn_scope *scope, pool *p)
{
    /* Bytes of the last page's pad are not needed: the block ends with its last row or scale. */
    const int64_t row_bytes = row_bytes_of(scope);
    int64_t n_bytes =
        (scope->n_pages - 1) * scope->page_stride_bytes + scope->page_rows * row_bytes;
    int64_t lead_bytes = c->spec.is_unaligned ? attn_rng_range(rng, 0, 31) * 2 + 1 : 0;
    uint8_t *block = case_alloc(c, lead_bytes + n_bytes);
    memset(block, 0xff, (size_t)(lead_bytes + n_bytes));
    p->data = block + lead_bytes;
    scope->cache = p->data;
    for (int64_t slot = 0; slot < p->n_total; slot++) {
        if (p->state[slot] == SLOT_UNNAMED) continue;
        uint8_t *page = p->data + slot / scope->page_rows * scope->page_stride_bytes;
        bool has_nan = p->state[slot] == SLOT_NAN;
        if (scope->row_format == DSV4_ATTN_ROWS_F32) {
            slot_write_f32(c, rng, model, slot, has_nan,
                           page + slot % scope->page_rows * row_bytes);
        } else {
            slot_write_fp8(c, rng, model, slot, has_nan, scope->page_rows, page);
        }
    }
}

/* Which queries must come out as NaN: those that name a NaN. */
static void scope_mark_nan_rows(attn_case *c, const dsv4_attn_scope *scope, const pool *p)
{
    for (int64_t i = 0; i < c->spec.n_requests; i++) {
        int64_t length = list_length(scope, i);
        for (int64_t j = 0; length > 0 && j < c->spec.n_queries; j++) {
            const int32_t *list = list_at(scope, i, j);
            for (int64_t k = 0; k < length; k++) {
                if (list[k] < 0 || list[k] >= p->n_total) continue;
                if (p->state[list[k]] == SLOT_NAN) c->row_is_nan[i * c->spec.n_queries + j] = true;
            }
        }
    }
}

/* Scale bytes next to what f32, bf16 and binary16 can hold, and how far codes may go with them. */
static const struct {
    int32_t byte;
    int32_t max_code;
    int32_t typical_log2; /* of a usual code's value */
} extreme_scales[] = {{0, 0x7e, 7},    {1, 0x7e, 7},   {9, 0x7e, 7},    {10, 0x7e, 7},
                      {134, 0x7e, 7},  {135, 0x7e, 7}, {246, 0x38, -1}, {247, 0x30, -2},
                      {250, 0x07, -7}, {254, 0x01, -9}};

static void value_model_draw(value_model *model, attn_values values, attn_rng *rng)
{
    model->values = values;
    for (int g = 0; g < ATTN_SCORE_GROUPS; g++) {
        model->q_scale[g] = 1.0f;
        if (values == ATTN_VALUES_FLAT) model->q_scale[g] = 1e-3f;
        if (values == ATTN_VALUES_PEAKY) model->q_scale[g] = 8.0f;
        if (values == ATTN_VALUES_SCALES) model->q_scale[g] = g < SCORE_GROUP ? 0x1p-4f : 8.0f;
    }
    if (values == ATTN_VALUES_SCALES) model->q_scale[SCORE_GROUP] = 64.0f;
    if (values != ATTN_VALUES_EXTREME) return;
    /* Two bytes in a case: a kernel may treat a row apart for the sake of one of its groups. */
    const int64_t pair[2] = {attn_rng_range(rng, 0, 9), attn_rng_range(rng, 0, 9)};
    for (int g = 0; g < DSV4_CACHE_N_GROUPS; g++) {
        /* The largest |k| stays below 2^119, so that sums of a few hundred keys stay finite. */
        int64_t which = pair[attn_rng_range(rng, 0, 1)];
        model->scale_byte[g] = extreme_scales[which].byte;
        model->max_code[g] = extreme_scales[which].max_code;
        model->q_scale[g] =
            ldexpf(1.0f, 127 - model->scale_byte[g] - extreme_scales[which].typical_log2);
    }
}

/* Round toward zero: q is whatever it is, only its being bf16 matters. */
static uint16_t bf16_cut(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static void case_make_q(attn_case *c, attn_rng *rng, const value_model *model)
{
    dsv4_attn_params *params = &c->params;
    const int64_t sizes[3] = {params->n_requests, params->n_queries, params->n_heads};
    const int64_t value_bytes = params->q_dtype == DSV4_DTYPE_F32 ? 4 : 2;
    int64_t strides[3];
    int64_t span =
        layout_draw(rng, c->spec.layout, sizes, DSV4_ATTN_DIM * value_bytes, value_bytes, strides);
    int64_t lead_bytes = c->spec.is_unaligned ? value_bytes : 0;
    uint8_t *block = case_alloc(c, lead_bytes + span);
    memset(block, 0xff, (size_t)(lead_bytes + span));
    for (int64_t i = 0; i < sizes[0] * sizes[1] * sizes[2]; i++) {
        int64_t head = i % sizes[2], query = i / sizes[2] % sizes[1];
        int64_t request = i / sizes[2] / sizes[1];
        uint8_t *row =
            block + lead_bytes + request * strides[0] + query * strides[1] + head * strides[2];
        attn_rng common = {c->spec.id + (uint64_t)(i / sizes[2])};
        for (int d = 0; d < DSV4_ATTN_DIM; d++) {
            float value = attn_rng_normal(rng) * model->q_scale[d / 64];
            if (model->values == ATTN_VALUES_SCALES)
                value = attn_rng_normal(&common) * model->q_scale[d / 64] + value / 16.0f;
            if (model->values == ATTN_VALUES_CLAMPED) value = clamp_one(value);
            uint16_t bits = bf16_cut(value);
            memcpy(row + value_bytes * d, value_bytes == 4 ? (const void *)&value : &bits,
                   (size_t)value_bytes);
        }
    }
    params->q = block + lead_bytes;
    params->q_request_stride_bytes = strides[0];
    params->q_query_stride_bytes = strides[1];
    params->q_head_stride_bytes = strides[2];
}

static void case_make_sink(attn_case *c, attn_rng *rng)
{
    if (c->spec.sink == ATTN_SINK_NONE) return;
    int64_t lead = c->spec.is_unaligned ? 1 : 0;
    float *sink = (float *)case_alloc(c, (lead + c->spec.n_heads) * 4) + lead;
    for (int64_t i = 0; i < c->spec.n_heads; i++) {
        sink[i] = attn_rng_normal(rng) * 3.0f;
        if (c->spec.sink == ATTN_SINK_BIG) sink[i] = attn_rng_chance(rng, 50) ? 200.0f : -200.0f;
        if (c->spec.sink == ATTN_SINK_MIXED) {
            if (attn_rng_chance(rng, 31)) {
                sink[i] = INFINITY;
            } else if (attn_rng_chance(rng, 45)) {
                sink[i] = -INFINITY;
            }
        }
    }
    c->params.sink = sink;
}

static void case_make_rope(attn_case *c, attn_rng *rng)
{
    if (c->spec.rope == ATTN_ROPE_NONE) return;
    int64_t lead = c->spec.is_unaligned ? 1 : 0;
    int64_t n_table = attn_rng_range(rng, 1, 9);
    int64_t n_rows = c->spec.n_requests * c->spec.n_queries;
    float *table = (float *)case_alloc(c, (lead + n_table * 64) * 4) + lead;
    int32_t *rows = (int32_t *)case_alloc(c, (lead + n_rows) * 4) + lead;
    for (int64_t i = 0; i < n_table * 32; i++) {
        double angle = attn_rng_uniform(rng) * 6.283185307179586;
        table[i / 32 * 64 + i % 32] = (float)cos(angle);
        table[i / 32 * 64 + 32 + i % 32] = (float)sin(angle);
    }
    for (int64_t i = 0; i < n_rows; i++) {
        rows[i] = (int32_t)attn_rng_range(rng, 0, n_table - 1);
        if (c->spec.rope == ATTN_ROPE_OUTSIDE && attn_rng_chance(rng, 40)) {
            rows[i] = index_wild(rng, n_table);
        }
    }
    c->params.rope_table = table;
    c->params.n_rope_rows = n_table;
    c->params.rope_rows = rows;
}

static void case_make_outputs(attn_case *c, attn_rng *rng)
{
    attn_outputs_make(&c->outputs, rng, c->spec.layout, c->spec.is_unaligned, &c->params);
    if (!c->spec.has_lse) c->params.lse = NULL;
}

/* No pages: the scope is absent, whatever its other fields hold. */
static void scope_make_absent(attn_rng *rng, dsv4_attn_scope *scope)
{
    static const uint8_t nowhere[64];
    if (attn_rng_chance(rng, 50)) return;
    scope->cache = nowhere;
    scope->page_rows = attn_rng_range(rng, -3, 3);
    scope->page_stride_bytes = attn_rng_range(rng, -900, 900);
    scope->n_indices = attn_rng_range(rng, -2, 1000);
    scope->indices_request_stride_bytes = attn_rng_range(rng, -9, 9);
    scope->indices_query_stride_bytes = INT64_MAX;
}

void attn_case_make(attn_case *c, const attn_spec *spec)
{
    attn_rng rng = {spec->id ^ 0xa5a5a5a5a5a5a5a5u};
    value_model model;
    pool pools[2];
    memset(c, 0, sizeof *c);
    c->spec = *spec;
    dsv4_attn_params_default(&c->params);
    c->params.n_requests = spec->n_requests;
    c->params.n_queries = spec->n_queries;
    c->params.n_heads = spec->n_heads;
    c->params.softmax_scale = spec->softmax_scale;
    c->params.n_threads = spec->n_threads;
    c->params.out_dtype = spec->out_dtype;
    c->params.q_dtype = spec->q_dtype;
    c->row_is_nan = case_alloc(c, spec->n_requests * spec->n_queries);
    memset(c->row_is_nan, 0, (size_t)(spec->n_requests * spec->n_queries));
    value_model_draw(&model, spec->values, &rng);
    for (int i = 0; i < 2; i++) {
        dsv4_attn_scope *scope = i == 0 ? &c->params.window : &c->params.extra;
        if (!spec->has_scope[i]) {
            scope_make_absent(&rng, scope);
            continue;
        }
        scope_make_lists(c, &rng, i, scope, &pools[i]);
        scope_mark_named(c, &rng, scope, &pools[i]);
        scope_make_pool(c, &rng, &model, scope, &pools[i]);
        scope_mark_nan_rows(c, scope, &pools[i]);
        free(pools[i].state);
        c->n_keys_max += scope->n_indices;
    }
    case_make_q(c, &rng, &model);
    case_make_sink(c, &rng);
    case_make_rope(c, &rng);
    case_make_outputs(c, &rng);
}

void attn_case_free(attn_case *c)
{
    for (int32_t i = 0; i < c->n_blocks; i++) attn_fenced_free(&c->blocks[i]);
    attn_outputs_free(&c->outputs);
}
