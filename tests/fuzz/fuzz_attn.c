/*
 * fuzz_attn.c - libFuzzer target: hostile parameters, lists and bytes for decode and merge.
 *
 * The input decides every field of the params. What the checks accept is then run on heap blocks
 * that end exactly where the accepted params say that a tensor ends, on the reference and on every
 * CPU level, so that the sanitizers see any byte touched outside. Must hold: no crash; a refusal
 * writes nothing; a success writes every element and nothing between.
 *
 * Input: one byte that chooses decode (even) or merge (odd), then the fields in the order of the
 * tables below. Each field is a mode byte: 0 modulo 4 takes the default, 1 an i8, 2 an i32, 3 an
 * i64, little-endian, that follow. Then switches and contents. Past the end all bytes are 0, so
 * that the empty input is a valid small call.
 */
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dsv4/attn.h"
#include "dsv4/cache.h"

/* Keeps libFuzzer from tracing every comparison of a loop over bytes: many times as fast. */
#if defined(__clang__)
#define NOT_TRACED __attribute__((no_sanitize("coverage")))
#else
#define NOT_TRACED
#endif

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum {
    MAX_BYTES = 1 << 18,     /* of one tensor; larger calls stop after plan_size */
    MAX_WORKSPACE = 1 << 22, /* bytes */
    MAX_MACS = 1 << 19,      /* products of one decode */
    MAX_TENSORS = 16
};

/* Stops the fuzzer with a stack trace where a promise is broken. */
static void require(bool holds)
{
    if (!holds) abort();
}

/* ---- input ---- */

typedef struct reader {
    const uint8_t *bytes;
    size_t n_left;
} reader;

static uint8_t read_u8(reader *r)
{
    if (r->n_left == 0) return 0;
    r->n_left--;
    return *r->bytes++;
}

static int64_t read_bytes(reader *r, int n_bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < n_bytes; i++) value |= (uint64_t)read_u8(r) << (8 * i);
    uint64_t sign = (uint64_t)1 << (8 * n_bytes - 1);
    return (int64_t)((value ^ sign) - sign);
}

static int64_t read_field(reader *r, int64_t normal)
{
    switch (read_u8(r) % 4) {
    case 1: return read_bytes(r, 1);
    case 2: return read_bytes(r, 4);
    case 3: return read_bytes(r, 8);
    default: return normal;
    }
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    return z ^ (z >> 27);
}

typedef struct field {
    size_t offset;
    size_t n_bytes;
    int64_t normal;
} field;

#define FIELD(type, member, normal)                                                                \
    {                                                                                              \
        offsetof(type, member), sizeof(((type *)0)->member), normal                                \
    }
#define DECODE(member, normal) FIELD(dsv4_attn_params, member, normal)
#define MERGE(member, normal)  FIELD(dsv4_attn_merge_params, member, normal)

static const field shape_fields[] = {
    DECODE(size, sizeof(dsv4_attn_params)),
    DECODE(n_requests, 2),
    DECODE(n_queries, 1),
    DECODE(n_heads, 3),
    DECODE(backend, 0),
    DECODE(math, 0),
    DECODE(cpu_level, 0),
    DECODE(n_threads, 1),
    DECODE(out_dtype, DSV4_DTYPE_BF16),
    DECODE(window.n_pages, 2),
    DECODE(window.page_rows, 3),
    DECODE(window.n_indices, 5),
    DECODE(extra.n_pages, 0),
    DECODE(extra.page_rows, 2),
    DECODE(extra.n_indices, 4),
    DECODE(n_rope_rows, 2),
    DECODE(q_dtype, DSV4_DTYPE_BF16),
    DECODE(cuda_kernel, 0),
    DECODE(window.row_format, DSV4_ATTN_ROWS_FP8),
    DECODE(window.reserved, 0),
    DECODE(extra.row_format, DSV4_ATTN_ROWS_FP8),
    DECODE(extra.reserved, 0),
    DECODE(fixed_split, 0),
    DECODE(group_heads, 0),
    DECODE(join_queries, 0),
    DECODE(reserved, 0),
};

/* Their defaults are what dsv4_attn_params_set_dense made of the shapes. */
static const field stride_fields[] = {
    DECODE(q_request_stride_bytes, 0),
    DECODE(q_query_stride_bytes, 0),
    DECODE(q_head_stride_bytes, 0),
    DECODE(window.page_stride_bytes, 0),
    DECODE(window.indices_request_stride_bytes, 0),
    DECODE(window.indices_query_stride_bytes, 0),
    DECODE(extra.page_stride_bytes, 0),
    DECODE(extra.indices_request_stride_bytes, 0),
    DECODE(extra.indices_query_stride_bytes, 0),
    DECODE(out_request_stride_bytes, 0),
    DECODE(out_query_stride_bytes, 0),
    DECODE(out_head_stride_bytes, 0),
    DECODE(lse_request_stride_bytes, 0),
    DECODE(lse_query_stride_bytes, 0),
    DECODE(lse_head_stride_bytes, 0),
    DECODE(out_scales_request_stride_bytes, 0),
    DECODE(out_scales_query_stride_bytes, 0),
    DECODE(out_scales_head_stride_bytes, 0),
};

static const field merge_fields[] = {
    MERGE(size, sizeof(dsv4_attn_merge_params)),
    MERGE(n_parts, 3),
    MERGE(n_rows, 2),
    MERGE(n_heads, 2),
    MERGE(part_dtype, DSV4_DTYPE_F32),
    MERGE(out_dtype, DSV4_DTYPE_F32),
    MERGE(n_threads, 1),
    MERGE(backend, 0),
};

/* keeps_value: the default is what the field holds already. */
static void fields_read(reader *r, const field *fields, size_t n_fields, bool keeps_value,
                        void *params)
{
    for (size_t i = 0; i < n_fields; i++) {
        uint8_t *at = (uint8_t *)params + fields[i].offset;
        int64_t value = fields[i].normal;
        if (keeps_value) memcpy(&value, at, sizeof value);
        value = read_field(r, value);
        memcpy(at, &value, fields[i].n_bytes);
    }
}

/* ---- memory ---- */

/* The tensors of one call. */
typedef struct arena {
    void *blocks[MAX_TENSORS];
    size_t n_blocks;
    uint64_t random;
} arena;

/* Bytes of an exact block, random; `shift` moves the tensor off its alignment. */
NOT_TRACED static void *arena_take(arena *a, int64_t n_bytes, int shift)
{
    size_t len_bytes = (size_t)n_bytes + (size_t)shift;
    uint8_t *block = malloc(len_bytes > 0 ? len_bytes : 1);
    require(block != NULL && a->n_blocks < MAX_TENSORS);
    a->blocks[a->n_blocks++] = block;
    for (size_t i = 0; i < len_bytes; i += 8) {
        uint64_t random = next_random(&a->random);
        memcpy(block + i, &random, len_bytes - i < 8 ? len_bytes - i : 8);
    }
    return block + shift;
}

static void arena_free(arena *a)
{
    for (size_t i = 0; i < a->n_blocks; i++) free(a->blocks[i]);
}

/* [counts..., inner_bytes] by strides. Accepted params never overflow here; others do not come. */
typedef struct shape {
    int64_t counts[3];
    int64_t strides[3];
    int64_t inner_bytes;
    int64_t element_bytes;
    bool may_be_poison; /* codes, among which there is every byte */
} shape;

static int64_t shape_bytes(const shape *s)
{
    int64_t extent = s->inner_bytes;
    for (int i = 0; i < 3; i++) {
        if (s->counts[i] == 0) return 0;
        extent += (s->counts[i] - 1) * s->strides[i];
    }
    return extent;
}

static shape shape_of_heads(const dsv4_attn_params *params, int64_t request_stride,
                            int64_t query_stride, int64_t head_stride, int64_t inner_bytes,
                            int64_t element_bytes)
{
    return (shape){{params->n_requests, params->n_queries, params->n_heads},
                   {request_stride, query_stride, head_stride},
                   inner_bytes,
                   element_bytes,
                   false};
}

static shape shape_of_q(const dsv4_attn_params *params)
{
    int64_t element_bytes = params->q_dtype == DSV4_DTYPE_F32 ? 4 : 2;
    return shape_of_heads(params, params->q_request_stride_bytes, params->q_query_stride_bytes,
                          params->q_head_stride_bytes, DSV4_ATTN_DIM * element_bytes,
                          element_bytes);
}

static shape shape_of_out(const dsv4_attn_params *params)
{
    int64_t element_bytes = params->out_dtype == DSV4_DTYPE_F32 ? 4 : 2;
    if (params->out_dtype == DSV4_DTYPE_FP8) element_bytes = 1;
    shape out =
        shape_of_heads(params, params->out_request_stride_bytes, params->out_query_stride_bytes,
                       params->out_head_stride_bytes, DSV4_ATTN_DIM * element_bytes, element_bytes);
    out.may_be_poison = element_bytes == 1;
    return out;
}

static shape shape_of_scales(const dsv4_attn_params *params)
{
    return shape_of_heads(params, params->out_scales_request_stride_bytes,
                          params->out_scales_query_stride_bytes,
                          params->out_scales_head_stride_bytes, 4, 1);
}

static shape shape_of_lse(const dsv4_attn_params *params)
{
    return shape_of_heads(params, params->lse_request_stride_bytes, params->lse_query_stride_bytes,
                          params->lse_head_stride_bytes, 4, 4);
}

static shape shape_of_lists(const dsv4_attn_params *params, const dsv4_attn_scope *scope)
{
    return (shape){{params->n_requests, params->n_queries, 1},
                   {scope->indices_request_stride_bytes, scope->indices_query_stride_bytes, 0},
                   scope->n_indices * 4,
                   4,
                   false};
}

static int64_t pool_bytes(const dsv4_attn_scope *scope)
{
    int64_t row_bytes = DSV4_CACHE_RECORD_BYTES;
    if (scope->row_format == DSV4_ATTN_ROWS_F32) row_bytes = DSV4_ATTN_DIM * 4;
    return (scope->n_pages - 1) * scope->page_stride_bytes + scope->page_rows * row_bytes;
}

/* Signalling NaNs, which no arithmetic produces; of bytes, the scale that is NaN, which no group gets. */
static const uint8_t poison_byte[1] = {0xff};
static const uint8_t poison_bf16[2] = {0x8b, 0x7f};
static const uint8_t poison_f32[4] = {0xad, 0x0b, 0x8b, 0x7f};

static const uint8_t *poison_of(const shape *s)
{
    if (s->element_bytes == 1) return poison_byte;
    return s->element_bytes == 2 ? poison_bf16 : poison_f32;
}

NOT_TRACED static void poison_write(const shape *s, uint8_t *tensor)
{
    const uint8_t *poison = poison_of(s);
    int64_t n_bytes = shape_bytes(s);
    for (int64_t i = 0; i < n_bytes; i++) tensor[i] = poison[i % s->element_bytes];
}

/* A row that was written has no poison left; gets it back. */
NOT_TRACED static void row_check(const shape *s, uint8_t *row)
{
    const uint8_t *poison = poison_of(s);
    size_t element_bytes = (size_t)s->element_bytes;
    for (int64_t at = 0; at < s->inner_bytes; at += s->element_bytes) {
        require(s->may_be_poison || memcmp(row + at, poison, element_bytes) != 0);
        memcpy(row + at, poison, element_bytes);
    }
}

/* After a success rows are written and nothing else is; after a failure nothing is. */
NOT_TRACED static void written_check(const shape *s, uint8_t *tensor, bool is_written)
{
    const uint8_t *poison = poison_of(s);
    for (int64_t i = 0; is_written && i < s->counts[0]; i++) {
        for (int64_t j = 0; j < s->counts[1]; j++) {
            for (int64_t k = 0; k < s->counts[2]; k++) {
                row_check(s, tensor + i * s->strides[0] + j * s->strides[1] + k * s->strides[2]);
            }
        }
    }
    int64_t n_bytes = shape_bytes(s);
    for (int64_t i = 0; i < n_bytes; i++) require(tensor[i] == poison[i % s->element_bytes]);
}

/* ---- decode ---- */

static int64_t scope_keys(const dsv4_attn_scope *scope)
{
    return scope->n_pages > 0 ? scope->n_indices : 0;
}

/* Of accepted params: whether the call is small enough to run. */
static bool is_small(const dsv4_attn_params *params)
{
    const dsv4_attn_scope *scopes[2] = {&params->window, &params->extra};
    shape q = shape_of_q(params), out = shape_of_out(params), lse = shape_of_lse(params);
    if (shape_bytes(&q) > MAX_BYTES || shape_bytes(&out) > MAX_BYTES) return false;
    for (int i = 0; i < 3; i++) { /* lse, which the checks have not seen yet, may be anything */
        if (lse.strides[i] < 0 || lse.strides[i] > MAX_BYTES) return false;
        if (lse.counts[i] > MAX_BYTES) return false;
    }
    if (shape_bytes(&lse) > MAX_BYTES) return false;
    shape scales = shape_of_scales(params);
    if (params->out_dtype == DSV4_DTYPE_FP8 && shape_bytes(&scales) > MAX_BYTES) return false;
    for (int i = 0; i < 2; i++) {
        if (scopes[i]->n_pages == 0) continue; /* and anything in its other fields */
        shape lists = shape_of_lists(params, scopes[i]);
        if (shape_bytes(&lists) > MAX_BYTES || pool_bytes(scopes[i]) > MAX_BYTES) return false;
    }
    int64_t n_keys = scope_keys(&params->window) + scope_keys(&params->extra) + 1;
    int64_t n_rows = params->n_requests * params->n_queries * params->n_heads;
    return n_rows <= MAX_MACS && n_rows * n_keys * 1024 <= MAX_MACS;
}

static void lists_fill(reader *r, const dsv4_attn_scope *scope, int32_t *lists, int64_t n_entries)
{
    int64_t n_slots = scope->n_pages * scope->page_rows;
    for (int64_t i = 0; i < n_entries; i++) {
        uint8_t byte = read_u8(r);
        lists[i] = byte < 220 ? (int32_t)(byte % n_slots) : (int32_t)read_bytes(r, 4);
    }
}

/* Where nothing larger than a byte may be. */
static void *one_byte_on(const void *tensor)
{
    return (char *)(uintptr_t)tensor + 1;
}

/* One bit of `nulls` and of `shifts` for each tensor of the scope. */
static void scope_fill(reader *r, arena *a, const dsv4_attn_params *params, dsv4_attn_scope *scope,
                       int nulls, int shifts)
{
    if (scope->n_pages == 0) return;
    shape lists = shape_of_lists(params, scope);
    scope->cache = arena_take(a, pool_bytes(scope), shifts % 4);
    int32_t *aligned = arena_take(a, shape_bytes(&lists), 0);
    lists_fill(r, scope, aligned, shape_bytes(&lists) / 4);
    scope->indices = aligned;
    if (shifts & 4) scope->indices = (const int32_t *)(const void *)((const char *)aligned + 1);
    int32_t *lengths = arena_take(a, params->n_requests * 4, 0);
    for (int64_t i = 0; i < params->n_requests; i++) {
        lengths[i] = (int32_t)read_field(r, scope->n_indices);
    }
    if (nulls & 1) scope->cache = NULL;
    if (nulls & 2) scope->indices = NULL;
    scope->lengths = nulls & 4 ? NULL : lengths;
    if (nulls & 8) scope->lengths = one_byte_on(lengths);
}

static void rope_fill(reader *r, arena *a, dsv4_attn_params *params)
{
    if (params->n_rope_rows > 64 && params->n_rope_rows <= INT32_MAX) params->n_rope_rows = 64;
    bool is_valid = params->n_rope_rows >= 1 && params->n_rope_rows <= 64;
    params->rope_table = arena_take(a, (is_valid ? params->n_rope_rows : 1) * 256, 0);
    int32_t *rows = arena_take(a, params->n_requests * params->n_queries * 4, 0);
    for (int64_t i = 0; i < params->n_requests * params->n_queries; i++) {
        rows[i] = (int32_t)read_field(r, 0);
    }
    params->rope_rows = rows;
}

static void tensors_fill(reader *r, arena *a, dsv4_attn_params *params)
{
    uint8_t switches = read_u8(r), shifts = read_u8(r);
    shape q = shape_of_q(params), out = shape_of_out(params), lse = shape_of_lse(params);
    params->q = arena_take(a, shape_bytes(&q), shifts & 1);
    params->out = arena_take(a, shape_bytes(&out), (shifts >> 1 & 1) * 2);
    shape scales = shape_of_scales(params);
    if (params->out_dtype == DSV4_DTYPE_FP8 && !(switches & 16)) {
        params->out_scales = arena_take(a, shape_bytes(&scales), 0);
    }
    if (switches & 2) params->sink = arena_take(a, params->n_heads * 4, 0);
    if (switches & 4) rope_fill(r, a, params);
    scope_fill(r, a, params, &params->window, read_u8(r), shifts >> 2);
    scope_fill(r, a, params, &params->extra, read_u8(r), shifts >> 5);
    if (switches & 8) params->q = NULL;
    uint8_t odd = read_u8(r);
    if (!(switches & 1)) params->lse = arena_take(a, shape_bytes(&lse), odd & 1);
    if (odd & 2 && params->sink != NULL) params->sink = one_byte_on(params->sink);
    if (odd & 4 && params->rope_rows != NULL) params->rope_rows = one_byte_on(params->rope_rows);
    if (odd & 8 && params->rope_table != NULL) params->rope_table = one_byte_on(params->rope_table);
    if (odd & 16) params->rope_rows = NULL;
    if (odd & 32) params->out_scales = NULL;
    if (odd & 64) params->out = NULL;
}

static bool has_f32_input(const dsv4_attn_params *params)
{
    const dsv4_attn_scope *scopes[2] = {&params->window, &params->extra};
    bool has_f32 = params->q_dtype == DSV4_DTYPE_F32;
    for (int i = 0; i < 2; i++) {
        if (scopes[i]->n_pages > 0 && scopes[i]->row_format == DSV4_ATTN_ROWS_F32) has_f32 = true;
    }
    return has_f32;
}

/* A caller's memory, as the library is told of it. */
typedef struct given_memory {
    void *memory;
    size_t n_bytes;
    bool is_whole; /* it may be taken */
} given_memory;

static given_memory spoil_memory(void *memory, size_t n_bytes, int hostile)
{
    given_memory given = {memory, n_bytes, n_bytes == 0 || hostile % 8 == 0};
    if (n_bytes == 0) return given;
    if (hostile & 1) given.memory = NULL;
    if (hostile & 2) given.memory = one_byte_on(memory);
    if (hostile & 4) given.n_bytes--;
    return given;
}

/*
 * On exact memories; the tensors are small. Rounded math takes no f32 input. hostile: bits 0 to 2 of the plan, 3 to 5 of
 * the workspace: NULL, misaligned, a byte too small. Returns what plan_size says.
 */
static dsv4_status decode_run(const dsv4_attn_params *params, int hostile)
{
    size_t plan_bytes, workspace_bytes;
    dsv4_error error;
    void *plan = NULL, *workspace = NULL;
    shape out = shape_of_out(params), lse = shape_of_lse(params), scales = shape_of_scales(params);
    dsv4_status sized = dsv4_attn_plan_size(params, &plan_bytes, &workspace_bytes, &error);
    if (params->math >= DSV4_ATTN_MATH_BF16 && has_f32_input(params)) require(sized != DSV4_OK);
    if (sized != DSV4_OK) return sized;
    if (plan_bytes > MAX_WORKSPACE || workspace_bytes > MAX_WORKSPACE) return sized;
    require(posix_memalign(&plan, 64, plan_bytes) == 0);
    require(posix_memalign(&workspace, 64, workspace_bytes) == 0);
    memset(plan, 0xff, plan_bytes);
    memset(workspace, 0xff, workspace_bytes);
    const given_memory given[2] = {spoil_memory(plan, plan_bytes, hostile),
                                   spoil_memory(workspace, workspace_bytes, hostile >> 3)};
    if (params->out) poison_write(&out, params->out);
    if (params->lse) poison_write(&lse, (uint8_t *)params->lse);
    if (params->out_scales) poison_write(&scales, params->out_scales);
    dsv4_status built =
        dsv4_attn_plan_build(NULL, params, given[0].memory, given[0].n_bytes, &error);
    dsv4_status status = dsv4_attn_decode(NULL, params, given[0].memory, given[0].n_bytes,
                                          given[1].memory, given[1].n_bytes, &error);
    require(status != DSV4_OK || (given[0].is_whole && given[1].is_whole));
    require(built == DSV4_OK || status != DSV4_OK);
    require(status == DSV4_OK || (error.status == status && error.text[0] != 0));
    if (params->out) written_check(&out, params->out, status == DSV4_OK);
    if (params->lse) written_check(&lse, (uint8_t *)params->lse, status == DSV4_OK);
    if (params->out_scales) written_check(&scales, params->out_scales, status == DSV4_OK);
    free(plan);
    free(workspace);
    return sized;
}

static void fuzz_decode(reader *r)
{
    arena a = {{NULL}, 0, 1};
    dsv4_attn_params params;
    size_t plan_bytes, workspace_bytes;
    dsv4_error error;
    dsv4_attn_params_default(&params);
    fields_read(r, shape_fields, COUNT(shape_fields), false, &params);
    if (read_u8(r) % 2 == 1) { /* any bits, else the default */
        int32_t bits = (int32_t)read_bytes(r, 4);
        memcpy(&params.softmax_scale, &bits, sizeof bits);
    }
    dsv4_attn_params_set_dense(&params);
    fields_read(r, stride_fields, COUNT(stride_fields), true, &params);
    dsv4_status status = dsv4_attn_plan_size(&params, &plan_bytes, &workspace_bytes, &error);
    require(status == DSV4_OK || (error.status == status && error.text[0] != 0));
    if (status != DSV4_OK || !is_small(&params)) return;

    a.random = (uint64_t)read_bytes(r, 8);
    tensors_fill(r, &a, &params);
    const int hostile = read_u8(r) % 4 == 1 ? read_u8(r) : 0;
    decode_run(&params, hostile);
    for (int32_t level = 0; level <= dsv4_cpu_level(); level++) {
        params.backend = level == 0 ? DSV4_BACKEND_REF : DSV4_BACKEND_CPU;
        params.cpu_level = level;
        params.math = DSV4_ATTN_MATH_AUTO;
        decode_run(&params, hostile);
        params.math = DSV4_ATTN_MATH_OFFICIAL;
        decode_run(&params, hostile);
        params.math = DSV4_ATTN_MATH_FP8; /* which no CPU has */
        require(decode_run(&params, hostile) != DSV4_OK);
    }
    arena_free(&a);
}

/* ---- merge ---- */

static void fuzz_merge(reader *r)
{
    arena a = {{NULL}, 0, 1};
    dsv4_attn_merge_params params;
    dsv4_error error;
    memset(&params, 0, sizeof params);
    fields_read(r, merge_fields, COUNT(merge_fields), false, &params);
    uint8_t switches = read_u8(r), shifts = read_u8(r);
    a.random = (uint64_t)read_bytes(r, 8);
    /* Wild shapes get no tensors: they must be refused before any is read. */
    bool is_sane = params.n_parts >= 1 && params.n_parts <= 8 && params.n_rows >= 0 &&
                   params.n_rows <= 8 && params.n_heads >= 1 && params.n_heads <= 8;
    int64_t part_bytes = params.part_dtype == DSV4_DTYPE_F32 ? 4 : 2;
    int64_t out_bytes = params.out_dtype == DSV4_DTYPE_F32 ? 4 : 2;
    shape out = {{1, 1, 1}, {0, 0, 0}, 0, out_bytes, false};
    shape lse = {{1, 1, 1}, {0, 0, 0}, 0, 4, false};
    if (is_sane) {
        int64_t n_heads = params.n_rows * params.n_heads;
        out.inner_bytes = n_heads * DSV4_ATTN_DIM * out_bytes;
        lse.inner_bytes = n_heads * 4;
        params.out_parts =
            arena_take(&a, params.n_parts * n_heads * DSV4_ATTN_DIM * part_bytes, shifts & 1);
        float *lse_parts = arena_take(&a, params.n_parts * n_heads * 4, 0);
        for (int64_t i = 0; i < params.n_parts * n_heads; i++) {
            uint8_t byte = read_u8(r);
            if (byte < 200) lse_parts[i] = byte % 4 == 3 ? INFINITY : (float)byte;
        }
        params.lse_parts = lse_parts;
        params.out = arena_take(&a, out.inner_bytes, (shifts >> 1 & 1) * 2);
        poison_write(&out, params.out);
        if (switches & 1) params.sink = arena_take(&a, params.n_heads * 4, 0);
        if (switches & 2) params.lse = arena_take(&a, lse.inner_bytes, 0);
        if (params.lse) poison_write(&lse, (uint8_t *)params.lse);
    }
    dsv4_status status = dsv4_attn_merge(NULL, &params, &error);
    require(status == DSV4_OK || (error.status == status && error.text[0] != 0));
    require(is_sane || status != DSV4_OK || params.n_rows == 0);
    if (params.out) written_check(&out, params.out, status == DSV4_OK);
    if (params.lse) written_check(&lse, (uint8_t *)params.lse, status == DSV4_OK);
    arena_free(&a);
}

/* LLVM's OpenMP keeps a table of its own when a region needs more threads than the last. */
const char *__lsan_default_suppressions(void);

const char *__lsan_default_suppressions(void)
{
    return "leak:libomp";
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    reader r = {bytes, n_bytes};
    if (read_u8(&r) % 2 == 0) {
        fuzz_decode(&r);
    } else {
        fuzz_merge(&r);
    }
    return 0;
}
