/*
 * test_attn_fp8.c - the decode's FP8 output: its rules on parameters, and codes and scales known by hand.
 *
 * That they are the quantized f32 output for any input is shown by check_attn, group fp8-output.
 */
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
    N_HEADS = 2,
    N_GROUPS = DSV4_ATTN_DIM / DSV4_ATTN_OUT_GROUP,
    MEMORY_BYTES = 4 * 1024 * 1024,
    POISON = 0x5a,
    EMPTY_SCALE = 105 /* 2^-22 >= 1e-4 / 448 */
};

/* Request 0 names row 0, request 1 nothing, request 2 row 0 too. */
typedef struct fixture {
    dsv4_attn_params params;
    uint16_t q[N_REQUESTS * N_HEADS * DSV4_ATTN_DIM];
    uint8_t out[N_REQUESTS * N_HEADS * DSV4_ATTN_DIM];
    uint8_t scales[N_REQUESTS * N_HEADS * N_GROUPS];
    float rope_table[64];
    int32_t rope_rows[N_REQUESTS];
    int32_t indices[N_REQUESTS];
    float row[DSV4_ATTN_DIM]; /* the one key */
    float sink[N_HEADS];
    uint8_t *plan, *workspace; /* MEMORY_BYTES each */
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    if (!f) return -1;
    *state = f;
    f->plan = aligned_alloc(64, MEMORY_BYTES);
    f->workspace = aligned_alloc(64, MEMORY_BYTES);
    if (!f->plan || !f->workspace) return -1;
    memset(f->out, POISON, sizeof f->out);
    memset(f->scales, POISON, sizeof f->scales);
    f->indices[1] = -1;
    /* Groups of very different size: 1, 2^-10 times that, 0, and 448 with ties to even. */
    for (int d = 0; d < 128; d++) f->row[d] = d % 2 == 0 ? 1.0f : -0.5f;
    for (int d = 128; d < 256; d++) f->row[d] = 0x1p-10f;
    f->row[384] = 448.0f;
    f->row[385] = 17.0f; /* between 16 and 18 */
    f->row[386] = 19.0f; /* between 18 and 20 */
    f->row[387] = -19.5f;
    dsv4_attn_params *params = &f->params;
    dsv4_attn_params_default(params);
    params->n_requests = N_REQUESTS;
    params->n_heads = N_HEADS;
    params->n_threads = 1;
    params->out_dtype = DSV4_DTYPE_FP8;
    params->window.n_pages = params->window.page_rows = params->window.n_indices = 1;
    params->window.row_format = DSV4_ATTN_ROWS_F32;
    params->window.cache = f->row;
    params->window.indices = f->indices;
    dsv4_attn_params_set_dense(params);
    params->q = f->q;
    params->out = f->out;
    params->out_scales = f->scales;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    free(f->plan);
    free(f->workspace);
    free(f);
    return 0;
}

static dsv4_status run(fixture *f, const dsv4_attn_params *params, dsv4_error *error)
{
    dsv4_status status = dsv4_attn_plan_build(NULL, params, f->plan, MEMORY_BYTES, error);
    if (status != DSV4_OK) return status;
    return dsv4_attn_decode(NULL, params, f->plan, MEMORY_BYTES, f->workspace, MEMORY_BYTES, error);
}

static void assert_run(fixture *f, const dsv4_attn_params *params)
{
    dsv4_error error = {0};
    if (run(f, params, &error) != DSV4_OK) fail_msg("refused: %s", error.text);
}

static void assert_refused(fixture *f, const dsv4_attn_params *params, const char *text)
{
    dsv4_error error = {0};
    assert_int_equal(run(f, params, &error), DSV4_ERROR_INVALID_ARGUMENT);
    if (!strstr(error.text, text)) fail_msg("text is '%s', expected '%s'", error.text, text);
    for (size_t i = 0; i < COUNT(f->out); i++) assert_int_equal(f->out[i], POISON);
    for (size_t i = 0; i < COUNT(f->scales); i++) assert_int_equal(f->scales[i], POISON);
}

static void dense_strides_are_bytes(void **state)
{
    (void)state;
    dsv4_attn_params params;
    dsv4_attn_params_default(&params);
    params.n_queries = 3;
    params.n_heads = 5;
    params.out_dtype = DSV4_DTYPE_FP8;
    dsv4_attn_params_set_dense(&params);
    assert_int_equal(params.out_head_stride_bytes, 512);
    assert_int_equal(params.out_query_stride_bytes, 5 * 512);
    assert_int_equal(params.out_request_stride_bytes, 15 * 512);
    assert_int_equal(params.out_scales_head_stride_bytes, 4);
    assert_int_equal(params.out_scales_query_stride_bytes, 20);
    assert_int_equal(params.out_scales_request_stride_bytes, 60);
    params.n_heads = INT64_MAX / 2;
    dsv4_attn_params_set_dense(&params);
    assert_int_equal(params.out_scales_query_stride_bytes, -1);
    assert_int_equal(params.out_scales_request_stride_bytes, -1);
}

static void rules_are_checked(void **state)
{
    static const struct {
        size_t offset;
        int64_t value;
        const char *text;
    } broken[] = {
#define FIELD(member, value, rule)                                                                 \
    {offsetof(dsv4_attn_params, member), value, #member ": " #value ", " rule}
        FIELD(out_scales_request_stride_bytes, -1, "expected a non-negative multiple of 1"),
        FIELD(out_scales_query_stride_bytes, -4, "expected a non-negative multiple of 1"),
        FIELD(out_scales_head_stride_bytes, -4, "expected a non-negative multiple of 1"),
        FIELD(out_scales_head_stride_bytes, 3, "expected at least 4 so that outputs do not"),
        FIELD(out_scales_head_stride_bytes, 0, "expected at least 4 so that outputs do not"),
        FIELD(out_scales_request_stride_bytes, 7, "expected at least 8 so that outputs do not"),
        FIELD(out_head_stride_bytes, 511, "expected at least 512 so that outputs do not"),
#undef FIELD
    };
    fixture *f = *state;
    dsv4_attn_params params;
    for (size_t i = 0; i < COUNT(broken); i++) {
        params = f->params;
        memcpy((char *)&params + broken[i].offset, &broken[i].value, sizeof broken[i].value);
        assert_refused(f, &params, broken[i].text);
    }
    params = f->params;
    params.out_scales_request_stride_bytes = INT64_MAX;
    assert_refused(f, &params, "expected an extent of less than 2^63 bytes");
    params = f->params;
    params.out_scales = NULL;
    assert_refused(f, &params, "out_scales: NULL, expected a tensor");
    params = f->params;
    params.q_dtype = DSV4_DTYPE_FP8;
    assert_refused(f, &params, "q_dtype: 3, expected DSV4_DTYPE_BF16 (1) or DSV4_DTYPE_F32 (2)");
    params = f->params;
    size_t n_bytes;
    params.out = params.out_scales = NULL; /* sizes need no tensors */
    assert_int_equal(dsv4_attn_plan_size(&params, &n_bytes, &n_bytes, NULL), DSV4_OK);
}

/* Scales of another out_dtype are nobody's business. */
static void other_outputs_ignore_scales(void **state)
{
    fixture *f = *state;
    static uint16_t out[N_REQUESTS * N_HEADS * DSV4_ATTN_DIM];
    dsv4_attn_params params = f->params;
    params.out_dtype = DSV4_DTYPE_BF16;
    dsv4_attn_params_set_dense(&params);
    params.out = out;
    params.out_scales_head_stride_bytes = -9;
    assert_run(f, &params);
    params.out_scales = NULL;
    assert_run(f, &params);
    for (size_t i = 0; i < COUNT(f->scales); i++) assert_int_equal(f->scales[i], POISON);
}

/* On both backends and every level. */
static void assert_head(const fixture *f, int head)
{
    const uint8_t *out = f->out + head * DSV4_ATTN_DIM, *scales = f->scales + head * N_GROUPS;
    assert_int_equal(scales[0], 127 - 8); /* 1 / 448 -> 2^-8 */
    assert_int_equal(scales[1], 127 - 18);
    assert_int_equal(scales[2], EMPTY_SCALE);
    assert_int_equal(scales[3], 127);
    for (int d = 0; d < 128; d++) assert_int_equal(out[d], d % 2 == 0 ? 0x78 : 0xf0);
    for (int d = 128; d < 256; d++) assert_int_equal(out[d], 0x78);
    for (int d = 256; d < 384; d++) assert_int_equal(out[d] & 0x7f, 0);
    assert_int_equal(out[384], 0x7e);
    assert_int_equal(out[385], 0x58); /* 16 */
    assert_int_equal(out[386], 0x5a); /* 20 */
    assert_int_equal(out[387], 0xda); /* -20 */
}

static void assert_empty(const fixture *f, int head)
{
    for (int d = 0; d < DSV4_ATTN_DIM; d++) {
        assert_int_equal(f->out[head * DSV4_ATTN_DIM + d] & 0x7f, 0);
    }
    for (int g = 0; g < N_GROUPS; g++) {
        assert_int_equal(f->scales[head * N_GROUPS + g], EMPTY_SCALE);
    }
}

static void codes_and_scales_are_known(void **state)
{
    fixture *f = *state;
    for (int32_t level = 0; level <= dsv4_cpu_level(); level++) {
        dsv4_attn_params params = f->params;
        params.backend = level == 0 ? DSV4_BACKEND_REF : DSV4_BACKEND_CPU;
        params.cpu_level = level;
        memset(f->out, POISON, sizeof f->out);
        memset(f->scales, POISON, sizeof f->scales);
        assert_run(f, &params);
        for (int h = 0; h < N_HEADS; h++) {
            assert_head(f, h);
            assert_empty(f, N_HEADS + h);
            assert_head(f, 2 * N_HEADS + h);
        }
        f->sink[0] = INFINITY;
        f->sink[1] = -INFINITY;
        params.sink = f->sink;
        assert_run(f, &params);
        assert_empty(f, 0);
        assert_head(f, 1);
    }
}

/* A row outside the rope table: NaN in the tail, and the last scale is of the 64 numbers before it. */
static void nan_does_not_count_in_scales(void **state)
{
    fixture *f = *state;
    for (int32_t level = 0; level <= dsv4_cpu_level(); level++) {
        dsv4_attn_params params = f->params;
        params.backend = level == 0 ? DSV4_BACKEND_REF : DSV4_BACKEND_CPU;
        params.cpu_level = level;
        params.rope_table = f->rope_table;
        params.n_rope_rows = 1;
        params.rope_rows = f->rope_rows;
        f->rope_rows[0] = f->rope_rows[1] = 1;
        for (int i = 0; i < 32; i++) f->rope_table[i] = 1.0f;
        assert_run(f, &params);
        for (int request = 0; request < 2; request++) {
            const uint8_t *out = f->out + request * N_HEADS * DSV4_ATTN_DIM;
            for (int d = 448; d < 512; d++) assert_int_equal(out[d] & 0x7f, 0x7f);
        }
        assert_int_equal(f->scales[3], 127);
        assert_int_equal(f->out[384], 0x7e);
        assert_int_equal(f->scales[N_HEADS * N_GROUPS + 3], EMPTY_SCALE);
        assert_head(f, 2 * N_HEADS); /* whose row is in the table */
    }
}

/* Heads innermost but for their scales, request outermost last: any order is fine. */
static void scales_may_lie_anywhere(void **state)
{
    fixture *f = *state;
    dsv4_attn_params params = f->params;
    params.out_scales_request_stride_bytes = N_GROUPS;
    params.out_scales_head_stride_bytes = N_REQUESTS * N_GROUPS;
    assert_run(f, &params);
    assert_int_equal(f->scales[0], 119);
    assert_int_equal(f->scales[N_GROUPS], EMPTY_SCALE);
    assert_int_equal(f->scales[2 * N_GROUPS], 119);
    assert_int_equal(f->scales[3 * N_GROUPS], 119);
    assert_int_equal(f->scales[4 * N_GROUPS], EMPTY_SCALE);
}

int main(void)
{
#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_strides_are_bytes),  WITH_FIXTURE(rules_are_checked),
        WITH_FIXTURE(other_outputs_ignore_scales),  WITH_FIXTURE(codes_and_scales_are_known),
        WITH_FIXTURE(nan_does_not_count_in_scales), WITH_FIXTURE(scales_may_lie_anywhere),
    };
#undef WITH_FIXTURE
    return cmocka_run_group_tests_name("attn_fp8", tests, NULL, NULL);
}
