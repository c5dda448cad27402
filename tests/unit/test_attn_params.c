/*
 * test_attn_params.c - every rule of dsv4/attn.h on parameters: a broken one is refused by name,
 * value and rule, before anything is written.
 */
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dsv4/attn.h"
#include "dsv4/cache.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum {
    N_REQUESTS = 3,
    N_QUERIES = 2,
    N_HEADS = 3,
    N_INDICES = 4,
    N_ROWS = N_REQUESTS * N_QUERIES,
    N_SLOTS = 4,
    CACHE_BYTES = 2 * 1728,          /* two pages of two rows, as dense strides have it */
    MEMORY_BYTES = 16 * 1024 * 1024, /* more than any plan or workspace here needs */
    POISON = 0x5a
};

/* A call that is right in every respect, with two scopes, lse, sink and rope. */
typedef struct fixture {
    dsv4_attn_params params;
    size_t plan_bytes, workspace_bytes;
    uint16_t q[N_ROWS * N_HEADS * DSV4_ATTN_DIM];
    float out[N_ROWS * N_HEADS * DSV4_ATTN_DIM + 1];
    float lse[N_ROWS * N_HEADS + 1];
    float sink[N_HEADS + 1];
    float rope_table[2 * 64 + 1];
    int32_t rope_rows[N_ROWS + 1];
    int32_t indices[N_ROWS * N_INDICES + 1];
    int32_t lengths[N_REQUESTS + 1];
    uint8_t cache[CACHE_BYTES];
    uint8_t *plan, *workspace; /* MEMORY_BYTES each */
} fixture;

static void scope_init(fixture *f, dsv4_attn_scope *scope)
{
    scope->cache = f->cache;
    scope->n_pages = 2;
    scope->page_rows = 2;
    scope->indices = f->indices;
    scope->n_indices = N_INDICES;
    scope->lengths = f->lengths;
}

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    if (!f) return -1;
    *state = f;
    f->plan = aligned_alloc(64, MEMORY_BYTES);
    f->workspace = aligned_alloc(64, MEMORY_BYTES);
    if (!f->plan || !f->workspace) return -1;
    memset(f->plan, 0, MEMORY_BYTES);
    for (size_t i = 0; i < COUNT(f->q); i++) f->q[i] = 0x3f80;
    for (int i = 0; i < N_ROWS * N_INDICES; i++) f->indices[i] = i % N_SLOTS;
    for (int i = 0; i < N_REQUESTS; i++) f->lengths[i] = N_INDICES;
    for (int i = 0; i < 32; i++) f->rope_table[i] = f->rope_table[64 + i] = 1.0f;

    dsv4_attn_params *params = &f->params;
    dsv4_attn_params_default(params);
    params->n_requests = N_REQUESTS;
    params->n_queries = N_QUERIES;
    params->n_heads = N_HEADS;
    params->n_threads = 1;
    params->out_dtype = DSV4_DTYPE_F32;
    scope_init(f, &params->window);
    scope_init(f, &params->extra);
    dsv4_attn_params_set_dense(params);
    params->q = f->q;
    params->sink = f->sink;
    params->out = f->out;
    params->lse = f->lse;
    params->rope_table = f->rope_table;
    params->n_rope_rows = 2;
    params->rope_rows = f->rope_rows;
    memset(f->out, POISON, sizeof f->out);
    memset(f->lse, POISON, sizeof f->lse);
    if (dsv4_attn_plan_size(params, &f->plan_bytes, &f->workspace_bytes, NULL) != DSV4_OK)
        return -1;
    return dsv4_attn_plan_build(NULL, params, f->plan, f->plan_bytes, NULL);
}

static int teardown(void **state)
{
    fixture *f = *state;
    free(f->plan);
    free(f->workspace);
    free(f);
    return 0;
}

static void assert_unwritten(const fixture *f)
{
    for (size_t i = 0; i < sizeof f->out; i++) {
        assert_int_equal(((const uint8_t *)f->out)[i], POISON);
    }
    for (size_t i = 0; i < sizeof f->lse; i++) {
        assert_int_equal(((const uint8_t *)f->lse)[i], POISON);
    }
}

/* The text opens with the field and then has the value and the rule. */
static void assert_error(const dsv4_error *error, dsv4_status status, const char *field,
                         const char *value, const char *rule)
{
    size_t len = strlen(field);
    assert_int_equal(error->status, status);
    if (strncmp(error->text, field, len) != 0 || error->text[len] != ':' ||
        !strstr(error->text + len, value) || !strstr(error->text + len, rule)) {
        fail_msg("text is '%s', expected '%s: ' and then '%s' and '%s'", error->text, field, value,
                 rule);
    }
}

static dsv4_status decode(fixture *f, const dsv4_attn_params *params, dsv4_error *error)
{
    return dsv4_attn_decode(NULL, params, f->plan, MEMORY_BYTES, f->workspace, MEMORY_BYTES, error);
}

/* Refused by decode; nothing written. */
static void assert_decode_refuses(fixture *f, const dsv4_attn_params *params, const char *field,
                                  const char *value, const char *rule)
{
    dsv4_error error = {0};
    if (decode(f, params, &error) != DSV4_ERROR_INVALID_ARGUMENT) {
        fail_msg("%s, %s: decode accepts it", field, value);
    }
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, field, value, rule);
    assert_int_equal(decode(f, params, NULL), DSV4_ERROR_INVALID_ARGUMENT);
    assert_unwritten(f);
}

/* Refused by plan_size, plan_build and decode alike. */
static void assert_refused(fixture *f, const dsv4_attn_params *params, const char *field,
                           const char *value, const char *rule)
{
    dsv4_error error = {0};
    size_t plan_bytes = 77, workspace_bytes = 78;
    if (dsv4_attn_plan_size(params, &plan_bytes, &workspace_bytes, &error) !=
        DSV4_ERROR_INVALID_ARGUMENT) {
        fail_msg("%s, %s: plan_size accepts it", field, value);
    }
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, field, value, rule);
    assert_int_equal(dsv4_attn_plan_size(params, &plan_bytes, &workspace_bytes, NULL),
                     DSV4_ERROR_INVALID_ARGUMENT);

    uint8_t *other_plan = f->workspace;
    memset(&error, 0, sizeof error);
    assert_int_equal(dsv4_attn_plan_build(NULL, params, other_plan, MEMORY_BYTES, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, field, value, rule);
    assert_decode_refuses(f, params, field, value, rule);
}

static void assert_accepted(fixture *f, const dsv4_attn_params *params)
{
    dsv4_error error = {0};
    if (dsv4_attn_plan_build(NULL, params, f->plan, MEMORY_BYTES, &error) != DSV4_OK ||
        decode(f, params, &error) != DSV4_OK) {
        fail_msg("refused: %s", error.text);
    }
}

static void valid_call_is_accepted(void **state)
{
    fixture *f = *state;
    assert_accepted(f, &f->params);
    for (int i = 0; i < N_ROWS * N_HEADS * DSV4_ATTN_DIM; i++) {
        assert_int_equal(fpclassify((double)f->out[i]) == FP_NAN, 0);
    }
}

/* ---- one field at a time ---- */

typedef enum kind { KIND_I64, KIND_I32 } kind;

typedef struct broken_field {
    const char *field;
    size_t offset;
    kind kind;
    int64_t value;
    const char *rule;
} broken_field;

#define I64(member, value, rule)                                                                   \
    {                                                                                              \
#member, offsetof(dsv4_attn_params, member), KIND_I64, value, rule                         \
    }
#define I32(member, value, rule)                                                                   \
    {                                                                                              \
#member, offsetof(dsv4_attn_params, member), KIND_I32, value, rule                         \
    }
#define SCOPE(scope)                                                                               \
    I64(scope.n_pages, -1, "0 .. "), I64(scope.n_pages, INT64_MIN, "0 .. "),                       \
        I64(scope.page_rows, 0, "1 .. 1048576"), I64(scope.page_rows, -64, "1 .. 1048576"),        \
        I64(scope.page_rows, (1 << 20) + 1, "1 .. 1048576"),                                       \
        I64(scope.page_rows, INT64_MAX, "1 .. 1048576"),                                           \
        I64(scope.page_stride_bytes, 2 * 584 - 1, "at least page_rows * 584 = 1168"),              \
        I64(scope.page_stride_bytes, 0, "at least page_rows * 584 = 1168"),                        \
        I64(scope.page_stride_bytes, -37440, "at least page_rows * 584 = 1168"),                   \
        I64(scope.page_stride_bytes, INT64_MAX, "less than 2^63 bytes"),                           \
        I32(scope.row_format, -1, "0 .. 1"), I32(scope.row_format, 2, "0 .. 1"),                   \
        I32(scope.reserved, 1, "0 .. 0"), I32(scope.reserved, -1, "0 .. 0"),                       \
        I64(scope.n_indices, -1, "0 .. 16777216"),                                                 \
        I64(scope.n_indices, (1 << 24) + 1, "0 .. 16777216"),                                      \
        I64(scope.n_indices, INT64_MAX, "0 .. 16777216"),                                          \
        I64(scope.indices_request_stride_bytes, -4, "non-negative multiple of 4"),                 \
        I64(scope.indices_request_stride_bytes, 6, "non-negative multiple of 4"),                  \
        I64(scope.indices_request_stride_bytes, INT64_MAX - 3, "less than 2^63 bytes"),            \
        I64(scope.indices_query_stride_bytes, -4, "non-negative multiple of 4"),                   \
        I64(scope.indices_query_stride_bytes, 17, "non-negative multiple of 4"),                   \
        I64(scope.indices_query_stride_bytes, INT64_MAX - 3, "less than 2^63 bytes")

static const broken_field broken_fields[] = {
    I64(n_requests, -1, "0 .. 1048576"),
    I64(n_requests, (1 << 20) + 1, "0 .. 1048576"),
    I64(n_requests, INT64_MAX, "0 .. 1048576"),
    I64(n_queries, 0, "1 .. 1024"),
    I64(n_queries, -1, "1 .. 1024"),
    I64(n_queries, 1025, "1 .. 1024"),
    I64(n_queries, INT64_MIN, "1 .. 1024"),
    I64(n_heads, 0, "1 .. 128"),
    I64(n_heads, -1, "1 .. 128"),
    I64(n_heads, 129, "1 .. 128"),
    I64(n_heads, INT64_MAX, "1 .. 128"),
    I32(backend, -1, "0 .. 4"),
    I32(backend, 5, "0 .. 4"),
    I32(math, -1, "0 .. 4"),
    I32(math, 5, "0 .. 4"),
    I32(cpu_level, -1, "0 .. 4"),
    I32(cpu_level, 5, "0 .. 4"),
    I32(n_threads, -1, "0 .. 1024"),
    I32(n_threads, 1025, "0 .. 1024"),
    I32(out_dtype, 0, "DSV4_DTYPE_BF16 (1), DSV4_DTYPE_F32 (2) or DSV4_DTYPE_FP8 (3)"),
    I32(out_dtype, 4, "DSV4_DTYPE_BF16 (1), DSV4_DTYPE_F32 (2) or DSV4_DTYPE_FP8 (3)"),
    I32(q_dtype, 0, "DSV4_DTYPE_BF16 (1) or DSV4_DTYPE_F32 (2)"),
    I32(q_dtype, 3, "DSV4_DTYPE_BF16 (1) or DSV4_DTYPE_F32 (2)"),
    I32(fixed_split, -1, "0 .. 1"),
    I32(fixed_split, 2, "0 .. 1"),
    I32(group_heads, -8, "0, 8, 16, 32 or 64"),
    I32(group_heads, 1, "0, 8, 16, 32 or 64"),
    I32(group_heads, 128, "0, 8, 16, 32 or 64"),
    I32(cuda_kernel, 3, "0 .. 2"),
    I32(cuda_kernel, INT32_MIN, "0 .. 2"),
    I64(q_request_stride_bytes, -2, "non-negative multiple of 2"),
    I64(q_request_stride_bytes, 2049, "non-negative multiple of 2"),
    I64(q_request_stride_bytes, INT64_MAX - 1, "less than 2^63 bytes"),
    I64(q_query_stride_bytes, -2, "non-negative multiple of 2"),
    I64(q_query_stride_bytes, 1, "non-negative multiple of 2"),
    I64(q_query_stride_bytes, INT64_MAX - 1, "less than 2^63 bytes"),
    I64(q_head_stride_bytes, -1024, "non-negative multiple of 2"),
    I64(q_head_stride_bytes, 1025, "non-negative multiple of 2"),
    I64(q_head_stride_bytes, INT64_MAX - 1, "less than 2^63 bytes"),
    SCOPE(window),
    SCOPE(extra),
    I64(out_request_stride_bytes, -4, "non-negative multiple of 4"),
    I64(out_request_stride_bytes, 100002, "non-negative multiple of 4"),
    I64(out_request_stride_bytes, INT64_MAX - 3, "less than 2^63 bytes"),
    I64(out_request_stride_bytes, 0, "overlap"),
    I64(out_request_stride_bytes, 2 * 3 * 2048 - 4, "overlap"),
    I64(out_query_stride_bytes, -4, "non-negative multiple of 4"),
    I64(out_query_stride_bytes, 6145, "non-negative multiple of 4"),
    I64(out_query_stride_bytes, INT64_MAX - 3, "less than 2^63 bytes"),
    I64(out_query_stride_bytes, 3 * 2048 - 4, "overlap"),
    I64(out_head_stride_bytes, -4, "non-negative multiple of 4"),
    I64(out_head_stride_bytes, 2050, "non-negative multiple of 4"),
    I64(out_head_stride_bytes, INT64_MAX - 3, "less than 2^63 bytes"),
    I64(out_head_stride_bytes, 0, "overlap"),
    I64(out_head_stride_bytes, 2044, "overlap"),
    I64(lse_request_stride_bytes, -4, "non-negative multiple of 4"),
    I64(lse_request_stride_bytes, 26, "non-negative multiple of 4"),
    I64(lse_request_stride_bytes, 20, "overlap"),
    I64(lse_request_stride_bytes, INT64_MAX - 3, "less than 2^63 bytes"),
    I64(lse_query_stride_bytes, -4, "non-negative multiple of 4"),
    I64(lse_query_stride_bytes, 13, "non-negative multiple of 4"),
    I64(lse_query_stride_bytes, 8, "overlap"),
    I64(lse_head_stride_bytes, -4, "non-negative multiple of 4"),
    I64(lse_head_stride_bytes, 5, "non-negative multiple of 4"),
    I64(lse_head_stride_bytes, 0, "overlap"),
    I64(n_rope_rows, 0, "1 .. 2147483647"),
    I64(n_rope_rows, -1, "1 .. 2147483647"),
    I64(n_rope_rows, (int64_t)INT32_MAX + 1, "1 .. 2147483647"),
};

static void every_field_is_checked(void **state)
{
    fixture *f = *state;
    for (size_t i = 0; i < COUNT(broken_fields); i++) {
        const broken_field *b = &broken_fields[i];
        dsv4_attn_params params = f->params;
        char value[32];
        if (b->kind == KIND_I64) {
            memcpy((char *)&params + b->offset, &b->value, sizeof b->value);
        } else {
            int32_t narrow = (int32_t)b->value;
            memcpy((char *)&params + b->offset, &narrow, sizeof narrow);
        }
        (void)snprintf(value, sizeof value, "%lld", (long long)b->value);
        assert_refused(f, &params, b->field, value, b->rule);
    }
}

static void softmax_scale_is_finite_and_positive(void **state)
{
    static const struct {
        float value;
        const char *text;
    } bad[] = {{0.0f, "0"},       {-0.0f, "-0"},       {-0.5f, "-0.5"},
               {INFINITY, "inf"}, {-INFINITY, "-inf"}, {NAN, "nan"}};
    fixture *f = *state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        dsv4_attn_params params = f->params;
        params.softmax_scale = bad[i].value;
        assert_refused(f, &params, "softmax_scale", bad[i].text, "finite number > 0");
    }
}

static void bf16_strides_are_multiples_of_two(void **state)
{
    fixture *f = *state;
    dsv4_attn_params params = f->params;
    params.out_dtype = DSV4_DTYPE_BF16;
    dsv4_attn_params_set_dense(&params);
    params.out_head_stride_bytes = 1027;
    assert_refused(f, &params, "out_head_stride_bytes", "1027", "multiple of 2");
    params.out_head_stride_bytes = 1022;
    assert_refused(f, &params, "out_head_stride_bytes", "1022", "at least 1024");
    params.out_head_stride_bytes = 1026;
    params.out_query_stride_bytes = 3 * 1026;
    params.out_request_stride_bytes = 2 * 3 * 1026;
    assert_accepted(f, &params);
}

/* ---- what is allowed ---- */

static void limits_are_inside(void **state)
{
    fixture *f = *state;
    size_t plan_bytes, workspace_bytes;
    dsv4_attn_params params = f->params;
    params.n_requests = 1 << 20;
    params.n_queries = 1 << 10;
    params.n_heads = DSV4_ATTN_MAX_HEADS;
    params.n_threads = 1024;
    params.window.n_pages = 1 << 30; /* more than 2^31 slots */
    params.window.page_rows = 1 << 20;
    params.window.n_indices = 1 << 24;
    params.extra.n_indices = 1 << 24;
    params.n_rope_rows = INT32_MAX;
    dsv4_attn_params_set_dense(&params);
    assert_int_equal(dsv4_attn_plan_size(&params, &plan_bytes, &workspace_bytes, NULL), DSV4_OK);
}

/* A dimension of one element has nothing to overlap with. */
static void strides_of_one_element_are_free(void **state)
{
    fixture *f = *state;
    dsv4_attn_params params = f->params;
    params.n_requests = params.n_queries = params.n_heads = 1;
    params.q_request_stride_bytes = params.q_query_stride_bytes = params.q_head_stride_bytes = 0;
    params.out_request_stride_bytes = params.out_query_stride_bytes = 0;
    params.out_head_stride_bytes = 0;
    params.lse_request_stride_bytes = params.lse_query_stride_bytes = 0;
    params.lse_head_stride_bytes = 0;
    assert_accepted(f, &params);
}

static void shared_inputs_may_have_stride_zero(void **state)
{
    fixture *f = *state;
    dsv4_attn_params params = f->params;
    params.q_request_stride_bytes = params.q_query_stride_bytes = params.q_head_stride_bytes = 0;
    params.window.indices_request_stride_bytes = params.window.indices_query_stride_bytes = 0;
    assert_accepted(f, &params);
    for (int i = 1; i < N_ROWS * N_HEADS; i++) {
        assert_memory_equal(f->out, f->out + i * DSV4_ATTN_DIM, 2048);
    }
}

static void outer_dimensions_may_come_in_any_order(void **state)
{
    fixture *f = *state;
    dsv4_attn_params params = f->params;
    params.out_request_stride_bytes = 2048; /* [heads, queries, requests, 512] */
    params.out_query_stride_bytes = N_REQUESTS * 2048;
    params.out_head_stride_bytes = N_QUERIES * N_REQUESTS * 2048;
    params.lse_request_stride_bytes = 4;
    params.lse_query_stride_bytes = N_REQUESTS * 4;
    params.lse_head_stride_bytes = N_QUERIES * N_REQUESTS * 4;
    assert_accepted(f, &params);
    params.out_head_stride_bytes -= 4;
    dsv4_error error;
    assert_int_equal(decode(f, &params, &error), DSV4_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.text, "out_head_stride_bytes: 12284"));
}

static void absent_scopes_are_ignored(void **state)
{
    fixture *f = *state;
    dsv4_attn_params params = f->params;
    const dsv4_attn_scope nonsense = {.cache = (const void *)1,
                                      .page_rows = -5,
                                      .page_stride_bytes = -1,
                                      .row_format = 9,
                                      .reserved = -9,
                                      .indices = (const int32_t *)(const void *)3,
                                      .n_indices = INT64_MAX,
                                      .indices_request_stride_bytes = -3,
                                      .indices_query_stride_bytes = 7,
                                      .lengths = (const int32_t *)(const void *)5};
    params.extra = nonsense;
    assert_accepted(f, &params);
    params.window = nonsense;
    assert_accepted(f, &params);
    for (int i = 0; i < N_ROWS * N_HEADS; i++) {
        assert_true(f->lse[i] == INFINITY);
        assert_true(f->out[i * DSV4_ATTN_DIM] == 0.0f);
    }
}

/* ---- f32 inputs (what they choose: test_attn_choice.c) ---- */

enum { SLOT_BYTES = DSV4_ATTN_DIM * 4 };

static void f32_rows_have_strides_of_their_own(void **state)
{
    fixture *f = *state;
    dsv4_attn_params params = f->params;
    params.extra.row_format = DSV4_ATTN_ROWS_F32;
    params.extra.page_stride_bytes = 2 * 2048 - 1;
    assert_refused(f, &params, "extra.page_stride_bytes", "4095",
                   "at least page_rows * 2048 = 4096");
    params.extra.page_stride_bytes = 2 * 584; /* enough for FP8 */
    assert_refused(f, &params, "extra.page_stride_bytes", "1168",
                   "at least page_rows * 2048 = 4096");
}

static void f32_queries_are_aligned_to_four(void **state)
{
    fixture *f = *state;
    float *q = calloc(N_ROWS * N_HEADS * DSV4_ATTN_DIM + 1, sizeof *q);
    assert_non_null(q);
    dsv4_attn_params params = f->params;
    params.math = DSV4_ATTN_MATH_EXACT;
    params.q_dtype = DSV4_DTYPE_F32;
    dsv4_attn_params_set_dense(&params);
    params.q_head_stride_bytes = 2050;
    assert_refused(f, &params, "q_head_stride_bytes", "2050", "non-negative multiple of 4");
    params.q_head_stride_bytes = 2048;
    params.q = (const char *)(q + 1) - 2;
    assert_decode_refuses(f, &params, "q", "address", "multiple of 4 bytes");
    params.q = q + 1; /* the last byte that a call may read is the last of the block */
    assert_accepted(f, &params);
    free(q);
}

/* Rows of ones at any address, in pages that are not multiples of four bytes apart. */
static void f32_rows_may_lie_anywhere(void **state)
{
    enum { STRIDE_BYTES = 2 * SLOT_BYTES + 3, POOL_BYTES = STRIDE_BYTES + 2 * SLOT_BYTES };
    fixture *f = *state;
    const float one = 1.0f;
    uint8_t *pool = malloc(POOL_BYTES + 1);
    assert_non_null(pool);
    memset(pool, 0xff, POOL_BYTES + 1);
    for (int slot = 0; slot < N_SLOTS; slot++) {
        uint8_t *row = pool + 1 + slot / 2 * STRIDE_BYTES + slot % 2 * SLOT_BYTES;
        for (int d = 0; d < DSV4_ATTN_DIM; d++) memcpy(row + 4 * d, &one, sizeof one);
    }
    dsv4_attn_params params = f->params;
    params.window.row_format = params.extra.row_format = DSV4_ATTN_ROWS_F32;
    params.window.page_stride_bytes = params.extra.page_stride_bytes = STRIDE_BYTES;
    params.window.cache = params.extra.cache = pool + 1;
    params.rope_table = NULL;
    params.sink = NULL;
    assert_accepted(f, &params);
    for (int i = 0; i < N_ROWS * N_HEADS * DSV4_ATTN_DIM; i++) {
        assert_float_equal(f->out[i], 1.0f, 1e-6f);
    }
    free(pool);
}

/* Decode and its plan refuse what dsv4_attn_choose refuses; nothing is written. */
static void f32_inputs_are_refused_by_decode_too(void **state)
{
    fixture *f = *state;
    for (int which = 0; which < 3; which++) {
        dsv4_attn_params params = f->params;
        dsv4_error error = {0};
        size_t n_bytes;
        params.math = DSV4_ATTN_MATH_OFFICIAL;
        if (which == 0) params.q_dtype = DSV4_DTYPE_F32;
        if (which == 1) params.window.row_format = DSV4_ATTN_ROWS_F32;
        if (which == 2) params.extra.row_format = DSV4_ATTN_ROWS_F32;
        dsv4_attn_params_set_dense(&params);
        assert_int_equal(dsv4_attn_plan_size(&params, &n_bytes, &n_bytes, &error),
                         DSV4_ERROR_UNSUPPORTED);
        assert_error(&error, DSV4_ERROR_UNSUPPORTED, "math", "official", "expected exact");
        assert_int_equal(dsv4_attn_plan_build(NULL, &params, f->plan, MEMORY_BYTES, &error),
                         DSV4_ERROR_UNSUPPORTED);
        assert_int_equal(decode(f, &params, &error), DSV4_ERROR_UNSUPPORTED);
        assert_error(&error, DSV4_ERROR_UNSUPPORTED, "math", "official", "expected exact");
    }
    assert_unwritten(f);
}

static void unused_tensors_may_be_null(void **state)
{
    fixture *f = *state;
    dsv4_attn_params params = f->params;
    params.sink = NULL;
    params.lse = NULL;
    params.lse_head_stride_bytes = -1; /* strides of an absent tensor do not matter */
    params.lse_query_stride_bytes = 3;
    params.rope_table = NULL;
    params.n_rope_rows = -1;
    params.rope_rows = NULL;
    params.window.lengths = NULL;
    params.window.indices = NULL;
    params.window.n_indices = 0;
    params.extra.lengths = NULL;
    assert_accepted(f, &params);
}

static void nothing_to_do_writes_nothing(void **state)
{
    fixture *f = *state;
    dsv4_attn_params params = f->params;
    params.n_requests = 0;
    assert_accepted(f, &params);
    assert_unwritten(f);
}

/* ---- pointers ---- */

static void null_tensors_are_refused(void **state)
{
    static const struct {
        const char *field;
        size_t offset;
    } tensors[] = {{"q", offsetof(dsv4_attn_params, q)},
                   {"window.cache", offsetof(dsv4_attn_params, window.cache)},
                   {"window.indices", offsetof(dsv4_attn_params, window.indices)},
                   {"extra.cache", offsetof(dsv4_attn_params, extra.cache)},
                   {"extra.indices", offsetof(dsv4_attn_params, extra.indices)},
                   {"out", offsetof(dsv4_attn_params, out)},
                   {"rope_rows", offsetof(dsv4_attn_params, rope_rows)}};
    fixture *f = *state;
    for (size_t i = 0; i < COUNT(tensors); i++) {
        dsv4_attn_params params = f->params;
        void *null = NULL;
        memcpy((char *)&params + tensors[i].offset, &null, sizeof null);
        assert_decode_refuses(f, &params, tensors[i].field, "NULL", "expected a tensor");
    }
}

static void misaligned_tensors_are_refused(void **state)
{
    static const struct {
        const char *field;
        size_t offset;
        size_t shift_bytes;
        const char *rule;
    } tensors[] = {
        {"q", offsetof(dsv4_attn_params, q), 1, "multiple of 2 bytes"},
        {"window.indices", offsetof(dsv4_attn_params, window.indices), 2, "multiple of 4 bytes"},
        {"window.lengths", offsetof(dsv4_attn_params, window.lengths), 1, "multiple of 4 bytes"},
        {"extra.indices", offsetof(dsv4_attn_params, extra.indices), 1, "multiple of 4 bytes"},
        {"extra.lengths", offsetof(dsv4_attn_params, extra.lengths), 2, "multiple of 4 bytes"},
        {"sink", offsetof(dsv4_attn_params, sink), 2, "multiple of 4 bytes"},
        {"out", offsetof(dsv4_attn_params, out), 2, "multiple of 4 bytes"},
        {"lse", offsetof(dsv4_attn_params, lse), 2, "multiple of 4 bytes"},
        {"rope_table", offsetof(dsv4_attn_params, rope_table), 1, "multiple of 4 bytes"},
        {"rope_rows", offsetof(dsv4_attn_params, rope_rows), 2, "multiple of 4 bytes"},
    };
    fixture *f = *state;
    for (size_t i = 0; i < COUNT(tensors); i++) {
        dsv4_attn_params params = f->params;
        char *tensor;
        char value[32];
        memcpy(&tensor, (char *)&params + tensors[i].offset, sizeof tensor);
        tensor += tensors[i].shift_bytes;
        memcpy((char *)&params + tensors[i].offset, &tensor, sizeof tensor);
        (void)snprintf(value, sizeof value, "%p", (void *)tensor);
        assert_decode_refuses(f, &params, tensors[i].field, value, tensors[i].rule);
    }
    dsv4_attn_params params = f->params;
    params.out_dtype = DSV4_DTYPE_BF16;
    params.out = (char *)f->out + 1;
    dsv4_attn_params_set_dense(&params);
    assert_decode_refuses(f, &params, "out", "address", "multiple of 2 bytes");
}

static void sizes_do_not_need_tensors(void **state)
{
    fixture *f = *state;
    dsv4_attn_params params = f->params;
    params.q = params.window.cache = params.extra.cache = NULL;
    params.window.indices = params.extra.indices = params.rope_rows = NULL;
    params.window.lengths = params.extra.lengths = NULL;
    params.sink = params.rope_table = NULL;
    params.out = params.lse = NULL;
    size_t plan_bytes = SIZE_MAX, workspace_bytes = SIZE_MAX;
    assert_int_equal(dsv4_attn_plan_size(&params, &plan_bytes, &workspace_bytes, NULL), DSV4_OK);
    assert_int_equal(plan_bytes, f->plan_bytes);
    assert_int_equal(workspace_bytes, f->workspace_bytes);
}

static void null_arguments_are_refused(void **state)
{
    fixture *f = *state;
    dsv4_error error = {0};
    size_t n_bytes;
    assert_int_equal(dsv4_attn_plan_size(NULL, &n_bytes, &n_bytes, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "params", "NULL", "");
    assert_int_equal(dsv4_attn_plan_size(&f->params, NULL, &n_bytes, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "plan_bytes", "NULL", "");
    assert_int_equal(dsv4_attn_plan_size(&f->params, &n_bytes, NULL, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "workspace_bytes", "NULL", "");
    assert_int_equal(dsv4_attn_plan_build(NULL, NULL, f->plan, MEMORY_BYTES, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "params", "NULL", "");
    assert_int_equal(dsv4_attn_plan_build(NULL, &f->params, NULL, MEMORY_BYTES, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "plan", "NULL", "");
    assert_int_equal(decode(f, NULL, &error), DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "params", "NULL", "");
    assert_int_equal(
        dsv4_attn_decode(NULL, &f->params, NULL, MEMORY_BYTES, f->workspace, MEMORY_BYTES, &error),
        DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "plan", "NULL", "");
    assert_int_equal(
        dsv4_attn_decode(NULL, &f->params, f->plan, MEMORY_BYTES, NULL, MEMORY_BYTES, &error),
        DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "workspace", "NULL", "");
    assert_unwritten(f);
}

static void struct_size_is_checked(void **state)
{
    fixture *f = *state;
    dsv4_attn_params params = f->params;
    char value[32];
    params.size = 0;
    assert_refused(f, &params, "size", "0", "sizeof(dsv4_attn_params)");
    params.size = sizeof params - 1;
    (void)snprintf(value, sizeof value, "%zu", sizeof params - 1);
    assert_refused(f, &params, "size", value, "sizeof(dsv4_attn_params)");
    params.size = sizeof params + 8; /* the caller knows a later version */
    assert_accepted(f, &params);
}

/* ---- memory ---- */

static void memory_is_checked(void **state)
{
    fixture *f = *state;
    const dsv4_attn_params *params = &f->params;
    size_t plan = f->plan_bytes, work = f->workspace_bytes;
    dsv4_error error;
    char value[32];
    assert_true(plan > 0 && work > 0 && work < MEMORY_BYTES);
    (void)snprintf(value, sizeof value, "%zu", plan - 1);
    assert_int_equal(dsv4_attn_plan_build(NULL, params, f->plan, plan - 1, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "plan_bytes", value, "expected at least");
    assert_int_equal(dsv4_attn_decode(NULL, params, f->plan, plan - 1, f->workspace, work, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "plan_bytes", value, "expected at least");
    assert_int_equal(dsv4_attn_decode(NULL, params, f->plan, 0, f->workspace, work, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    (void)snprintf(value, sizeof value, "%zu", work - 1);
    assert_int_equal(dsv4_attn_decode(NULL, params, f->plan, plan, f->workspace, work - 1, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "workspace_bytes", value,
                 "expected at least");

    assert_int_equal(dsv4_attn_plan_build(NULL, params, f->plan + 32, plan, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "plan", "address", "multiple of 64 bytes");
    assert_int_equal(dsv4_attn_decode(NULL, params, f->plan + 16, plan, f->workspace, work, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "plan", "address", "multiple of 64 bytes");
    assert_int_equal(dsv4_attn_decode(NULL, params, f->plan, plan, f->workspace + 32, work, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "workspace", "address",
                 "multiple of 64 bytes");
    assert_unwritten(f);
    assert_int_equal(dsv4_attn_decode(NULL, params, f->plan, plan, f->workspace, work, &error),
                     DSV4_OK);
}

static void stream_must_be_null(void **state)
{
    fixture *f = *state;
    dsv4_error error;
    assert_int_equal(dsv4_attn_plan_build(f, &f->params, f->plan, MEMORY_BYTES, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "stream", "0x", "NULL");
    assert_int_equal(
        dsv4_attn_decode(f, &f->params, f->plan, MEMORY_BYTES, f->workspace, MEMORY_BYTES, &error),
        DSV4_ERROR_INVALID_ARGUMENT);
    assert_error(&error, DSV4_ERROR_INVALID_ARGUMENT, "stream", "0x", "NULL");
    assert_unwritten(f);
}

static void other_plans_are_refused(void **state)
{
    static const struct {
        const char *field;
        size_t offset;
        kind kind;
        int32_t value;
    } changes[] = {
        {"n_requests", offsetof(dsv4_attn_params, n_requests), KIND_I64, 2},
        {"n_requests", offsetof(dsv4_attn_params, n_requests), KIND_I64, 1},
        {"n_queries", offsetof(dsv4_attn_params, n_queries), KIND_I64, 1},
        {"n_heads", offsetof(dsv4_attn_params, n_heads), KIND_I64, 2},
        {"window.n_indices", offsetof(dsv4_attn_params, window.n_indices), KIND_I64, 3},
        {"extra.n_indices", offsetof(dsv4_attn_params, extra.n_indices), KIND_I64, 3},
        {"extra.n_indices", offsetof(dsv4_attn_params, extra.n_pages), KIND_I64, 0},
        {"n_threads", offsetof(dsv4_attn_params, n_threads), KIND_I32, 2},
        {"backend", offsetof(dsv4_attn_params, backend), KIND_I32, DSV4_BACKEND_REF},
    };
    fixture *f = *state;
    dsv4_error error;
    for (size_t i = 0; i < COUNT(changes); i++) {
        dsv4_attn_params params = f->params;
        int64_t wide = changes[i].value;
        memcpy((char *)&params + changes[i].offset,
               changes[i].kind == KIND_I64 ? (const void *)&wide : &changes[i].value,
               changes[i].kind == KIND_I64 ? 8 : 4);
        assert_decode_refuses(f, &params, "plan", changes[i].field, "expected");
    }
    if (dsv4_cpu_level() > DSV4_CPU_LEVEL_V2) {
        dsv4_attn_params params = f->params;
        params.cpu_level = DSV4_CPU_LEVEL_V2;
        assert_decode_refuses(f, &params, "plan", "cpu_level", "expected");
    }
    dsv4_attn_params official = f->params;
    official.math = DSV4_ATTN_MATH_OFFICIAL;
    assert_decode_refuses(f, &official, "plan", "math", "expected");
    if (dsv4_cpu_level() == DSV4_CPU_LEVEL_AVX512BF16) {
        dsv4_attn_params params = f->params;
        params.math = DSV4_ATTN_MATH_EXACT;
        assert_int_equal(decode(f, &params, &error), DSV4_ERROR_INVALID_ARGUMENT);
    }
    memset(f->plan, 0, f->plan_bytes);
    assert_decode_refuses(f, &f->params, "plan", "not built", "dsv4_attn_plan_build");
}

int main(void)
{
#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(valid_call_is_accepted),
        WITH_FIXTURE(every_field_is_checked),
        WITH_FIXTURE(softmax_scale_is_finite_and_positive),
        WITH_FIXTURE(bf16_strides_are_multiples_of_two),
        WITH_FIXTURE(limits_are_inside),
        WITH_FIXTURE(strides_of_one_element_are_free),
        WITH_FIXTURE(shared_inputs_may_have_stride_zero),
        WITH_FIXTURE(outer_dimensions_may_come_in_any_order),
        WITH_FIXTURE(absent_scopes_are_ignored),
        WITH_FIXTURE(f32_rows_have_strides_of_their_own),
        WITH_FIXTURE(f32_queries_are_aligned_to_four),
        WITH_FIXTURE(f32_rows_may_lie_anywhere),
        WITH_FIXTURE(f32_inputs_are_refused_by_decode_too),
        WITH_FIXTURE(unused_tensors_may_be_null),
        WITH_FIXTURE(nothing_to_do_writes_nothing),
        WITH_FIXTURE(null_tensors_are_refused),
        WITH_FIXTURE(misaligned_tensors_are_refused),
        WITH_FIXTURE(sizes_do_not_need_tensors),
        WITH_FIXTURE(null_arguments_are_refused),
        WITH_FIXTURE(struct_size_is_checked),
        WITH_FIXTURE(memory_is_checked),
        WITH_FIXTURE(stream_must_be_null),
        WITH_FIXTURE(other_plans_are_refused),
    };
#undef WITH_FIXTURE
    return cmocka_run_group_tests_name("attn_params", tests, NULL, NULL);
}
