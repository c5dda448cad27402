/*
 * test_attn.c - decode attention and merge on cases small enough to compute by hand, on every
 * backend and level of this machine; the rules of merge's parameters; defaults and choice.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dsv4/attn.h"
#include "dsv4/cache.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum { MAX_ROWS = 4, N_SLOTS = 4, MEMORY_BYTES = 4 * 1024 * 1024 };

/*
 * A call of one head and up to four queries over one page of four rows:
 *   slot 0  values 1, 2, 4, 8 and so on, zero in dim 0: score 0
 *   slot 1  one in dim 0 and 3: score softmax_scale
 *   slot 2  as slot 0
 *   slot 3  NaN
 * The query is one in dim 0, so that a score is dim 0 of the key times softmax_scale.
 */
typedef struct small_call {
    dsv4_attn_params params;
    uint8_t page[N_SLOTS * DSV4_CACHE_RECORD_BYTES];
    uint16_t q[MAX_ROWS * DSV4_ATTN_DIM];
    float out[MAX_ROWS * DSV4_ATTN_DIM];
    float lse[MAX_ROWS];
    float key[2][DSV4_ATTN_DIM]; /* rows 0 and 1 */
    float rope_table[64];
    float sink;
    uint8_t *plan, *workspace; /* MEMORY_BYTES each */
} small_call;

static void call_init(small_call *call)
{
    memset(call->page, 0xff, sizeof call->page);
    for (int d = 0; d < DSV4_ATTN_DIM; d++) {
        call->key[0][d] = d == 0 ? 0.0f : ldexpf(d % 2 == 0 ? 1.0f : -1.0f, d % 5);
        call->key[1][d] = d == 0 || d == 3 ? 1.0f : 0.0f;
    }
    dsv4_cache_row_write(call->page, N_SLOTS, 0, call->key[0]);
    dsv4_cache_row_write(call->page, N_SLOTS, 1, call->key[1]);
    dsv4_cache_row_write(call->page, N_SLOTS, 2, call->key[0]);
    for (int row = 0; row < MAX_ROWS; row++) call->q[row * DSV4_ATTN_DIM] = 0x3f80;

    dsv4_attn_params *params = &call->params;
    dsv4_attn_params_default(params);
    params->n_requests = 1;
    params->n_heads = 1;
    params->softmax_scale = 1.0f;
    params->n_threads = 1;
    params->out_dtype = DSV4_DTYPE_F32;
    params->q = call->q;
    params->out = call->out;
    params->lse = call->lse;
    params->window.cache = call->page;
    params->window.n_pages = 1;
    params->window.page_rows = N_SLOTS;
}

static int setup(void **state)
{
    small_call *call = calloc(1, sizeof *call);
    if (!call) return -1;
    *state = call;
    call->plan = aligned_alloc(64, MEMORY_BYTES);
    call->workspace = aligned_alloc(64, MEMORY_BYTES);
    if (!call->plan || !call->workspace) return -1;
    call_init(call);
    return 0;
}

static int teardown(void **state)
{
    small_call *call = *state;
    free(call->plan);
    free(call->workspace);
    free(call);
    return 0;
}

/* Runs on one way to compute: 0 the reference, then each CPU level. False past the last. */
static bool call_run(small_call *call, int32_t way)
{
    dsv4_attn_params *params = &call->params;
    dsv4_error error = {0};
    if (way > dsv4_cpu_level()) return false;
    params->backend = way == 0 ? DSV4_BACKEND_REF : DSV4_BACKEND_CPU;
    params->cpu_level = way;
    int64_t page_stride_bytes = N_SLOTS * DSV4_CACHE_RECORD_BYTES;
    dsv4_attn_params_set_dense(params);
    params->window.page_stride_bytes = params->extra.page_stride_bytes = page_stride_bytes;
    memset(call->out, 0xff, sizeof call->out);
    memset(call->lse, 0xff, sizeof call->lse);
    memset(call->workspace, 0xff, MEMORY_BYTES);
    if (dsv4_attn_plan_build(NULL, params, call->plan, MEMORY_BYTES, &error) != DSV4_OK ||
        dsv4_attn_decode(NULL, params, call->plan, MEMORY_BYTES, call->workspace, MEMORY_BYTES,
                         &error) != DSV4_OK) {
        fail_msg("way %d: %s", way, error.text);
    }
    return true;
}

static void window_set(small_call *call, const int32_t *indices, int64_t n_indices)
{
    call->params.window.indices = indices;
    call->params.window.n_indices = n_indices;
}

static void extra_set(small_call *call, const int32_t *indices, int64_t n_indices)
{
    call->params.extra = call->params.window;
    call->params.extra.indices = indices;
    call->params.extra.n_indices = n_indices;
}

static void assert_close(float value, double expected, double tolerance)
{
    if (!(fabs((double)value - expected) <= tolerance)) {
        fail_msg("%.9g, expected %.9g", (double)value, expected);
    }
}

/* out row = a * key 0 + b * key 1; tolerance relative to the largest key value, 16. */
static void assert_mix(const small_call *call, int row, double a, double b, double tolerance)
{
    const float *out = call->out + row * DSV4_ATTN_DIM;
    for (int d = 0; d < DSV4_ATTN_DIM; d++) {
        double expected = a * (double)call->key[0][d] + b * (double)call->key[1][d];
        assert_close(out[d], expected, tolerance * 16);
    }
}

/* Accuracy of weights: that of f32, or that of probabilities rounded to bf16. */
static double mix_tolerance(int32_t way)
{
    return way == DSV4_CPU_LEVEL_AVX512BF16 ? 0x1p-9 : 1e-6;
}

static void assert_nothing(const small_call *call, int row)
{
    const float *out = call->out + row * DSV4_ATTN_DIM;
    for (int d = 0; d < DSV4_ATTN_DIM; d++) assert_true(out[d] == 0.0f);
    assert_true(call->lse[row] == INFINITY);
}

/* ---- decode ---- */

static void one_key_is_the_output(void **state)
{
    static const int32_t first[] = {0}, second[] = {1};
    small_call *call = *state;
    for (int32_t way = 0; window_set(call, first, 1), call_run(call, way); way++) {
        assert_memory_equal(call->out, call->key[0], sizeof call->key[0]);
        assert_true(call->lse[0] == 0.0f);
    }
    call->params.softmax_scale = 0.75f;
    for (int32_t way = 0; window_set(call, second, 1), call_run(call, way); way++) {
        assert_memory_equal(call->out, call->key[1], sizeof call->key[1]);
        assert_close(call->lse[0], 0.75, 0x1p-23);
    }
}

static void equal_keys_share(void **state)
{
    static const int32_t two_slots[] = {0, 2}, named_twice[] = {2, 2}, four[] = {0, 2, 2, 0};
    static const struct {
        const int32_t *list;
        int64_t n_indices;
    } lists[] = {{two_slots, 2}, {named_twice, 2}, {four, 4}};
    small_call *call = *state;
    for (size_t i = 0; i < COUNT(lists); i++) {
        window_set(call, lists[i].list, lists[i].n_indices);
        for (int32_t way = 0; call_run(call, way); way++) {
            assert_memory_equal(call->out, call->key[0], sizeof call->key[0]);
            assert_close(call->lse[0], log((double)lists[i].n_indices), 0x1p-22);
        }
    }
}

/* Scores 0 and 1: weights 1 to e; each mention counts. */
static void scores_weigh_keys(void **state)
{
    static const int32_t once[] = {0, 1}, twice[] = {1, 0, 2};
    small_call *call = *state;
    const double e = exp(1.0);
    for (int32_t way = 0; window_set(call, once, 2), call_run(call, way); way++) {
        assert_mix(call, 0, 1 / (1 + e), e / (1 + e), mix_tolerance(way));
        assert_close(call->lse[0], log(1 + e), 1e-6);
    }
    for (int32_t way = 0; window_set(call, twice, 3), call_run(call, way); way++) {
        assert_mix(call, 0, 2 / (2 + e), e / (2 + e), mix_tolerance(way));
        assert_close(call->lse[0], log(2 + e), 1e-6);
    }
    call->params.softmax_scale = 100.0f;
    for (int32_t way = 0; window_set(call, once, 2), call_run(call, way); way++) {
        assert_mix(call, 0, 0, 1, 1e-6);
        assert_close(call->lse[0], 100, 1e-5);
    }
}

static void two_scopes_are_one_softmax(void **state)
{
    static const int32_t first[] = {0, -1}, second[] = {99, 1, 4};
    small_call *call = *state;
    for (int i = 0; i < 2; i++) {
        call->params.softmax_scale = i == 0 ? 1.0f : 50.0f;
        double e = exp(i == 0 ? 1.0 : 50.0);
        for (int swap = 0; swap < 2; swap++) {
            window_set(call, swap ? second : first, swap ? 3 : 2);
            extra_set(call, swap ? first : second, swap ? 2 : 3);
            for (int32_t way = 0; call_run(call, way); way++) {
                assert_mix(call, 0, 1 / (1 + e), e / (1 + e), mix_tolerance(way));
                assert_close(call->lse[0], log(1 + e), 1e-5);
            }
        }
        call->params.window.n_pages = 0; /* the second scope alone */
        for (int32_t way = 0; call_run(call, way); way++) {
            assert_memory_equal(call->out, call->key[0], sizeof call->key[0]);
        }
        call->params.window.n_pages = 1;
    }
}

static void sink_takes_its_share(void **state)
{
    static const int32_t list[] = {0, 1};
    small_call *call = *state;
    const double e = exp(1.0);
    window_set(call, list, 2);
    call->params.sink = &call->sink;
    for (int32_t way = 0; call->sink = (float)log(1 + e), call_run(call, way); way++) {
        assert_mix(call, 0, 0.5 / (1 + e), 0.5 * e / (1 + e), mix_tolerance(way)); /* half */
        assert_close(call->lse[0], log(1 + e), 1e-6);
        call->sink = 0.0f;
        call_run(call, way);
        assert_mix(call, 0, 1 / (2 + e), e / (2 + e), mix_tolerance(way));
        assert_close(call->lse[0], log(1 + e), 1e-6);
        call->sink = INFINITY;
        call_run(call, way);
        for (int d = 0; d < DSV4_ATTN_DIM; d++) assert_true(call->out[d] == 0.0f);
        assert_close(call->lse[0], log(1 + e), 1e-6);

        float without[DSV4_ATTN_DIM];
        call->params.sink = NULL;
        call_run(call, way);
        memcpy(without, call->out, sizeof without);
        call->params.sink = &call->sink;
        call->sink = -INFINITY;
        call_run(call, way);
        assert_memory_equal(call->out, without, sizeof without);
    }
}

static void no_keys_give_zero(void **state)
{
    static const int32_t invalid[] = {-1, 4, INT32_MIN, INT32_MAX, -4, 5};
    static const int32_t valid[] = {0, 1}, zero = 0, negative = -3;
    static const float sinks[] = {-INFINITY, -2.0f, INFINITY};
    small_call *call = *state;
    for (int32_t way = 0; window_set(call, NULL, 0), call_run(call, way); way++) {
        for (size_t i = 0; i < COUNT(sinks) + 1; i++) {
            call->params.sink = i < COUNT(sinks) ? &sinks[i] : NULL;
            window_set(call, NULL, 0);
            call_run(call, way);
            assert_nothing(call, 0);
            window_set(call, invalid, COUNT(invalid));
            call_run(call, way);
            assert_nothing(call, 0);
            window_set(call, valid, 2);
            call->params.window.lengths = &zero;
            call_run(call, way);
            assert_nothing(call, 0);
            call->params.window.lengths = &negative;
            call_run(call, way);
            assert_nothing(call, 0);
            call->params.window.lengths = NULL;
        }
    }
}

static void lengths_cut_lists(void **state)
{
    static const int32_t list[] = {0, 3, 3}; /* slot 3 is NaN */
    static const int32_t lengths[] = {1, 2, 7, INT32_MAX};
    small_call *call = *state;
    window_set(call, list, 3);
    for (int32_t way = 0; call->params.window.lengths = &lengths[0], call_run(call, way); way++) {
        assert_memory_equal(call->out, call->key[0], sizeof call->key[0]);
        for (int i = 1; i < 4; i++) {
            call->params.window.lengths = &lengths[i];
            call_run(call, way);
            for (int d = 0; d < DSV4_ATTN_DIM; d++) assert_true(isnan((double)call->out[d]));
            assert_true(isnan((double)call->lse[0]));
        }
    }
}

static void queries_have_their_own_lists(void **state)
{
    static const int32_t lists[] = {0, -1, 1, -1, -1, -1, 3, 0};
    small_call *call = *state;
    window_set(call, lists, 2);
    call->params.n_queries = 4;
    for (int32_t way = 0; call_run(call, way); way++) {
        assert_mix(call, 0, 1, 0, 0);
        assert_mix(call, 1, 0, 1, 0);
        assert_nothing(call, 2);
        assert_true(isnan((double)call->out[3 * DSV4_ATTN_DIM])); /* and no other */
        assert_true(isnan((double)call->lse[3]));
    }
    call->params.n_queries = 1;
    call->params.n_requests = 4;
    for (int32_t way = 0; call_run(call, way); way++) {
        assert_mix(call, 0, 1, 0, 0);
        assert_mix(call, 1, 0, 1, 0);
        assert_nothing(call, 2);
        assert_true(isnan((double)call->out[3 * DSV4_ATTN_DIM]));
    }
}

/* A quarter turn back takes (x, y) to (y, -x). */
static void epilogue_turns_back(void **state)
{
    static const int32_t list[] = {0}, rows[] = {0, 1};
    small_call *call = *state;
    window_set(call, list, 1);
    call->params.rope_table = call->rope_table;
    call->params.n_rope_rows = 1;
    for (int i = 0; i < 32; i++) call->rope_table[32 + i] = 1.0f;
    for (int32_t way = 0; call->params.rope_rows = &rows[0], call_run(call, way); way++) {
        assert_memory_equal(call->out, call->key[0], 448 * sizeof(float));
        for (int d = 448; d < DSV4_ATTN_DIM; d += 2) {
            assert_true(call->out[d] == call->key[0][d + 1]);
            assert_true(call->out[d + 1] == -call->key[0][d]);
        }
        call->params.rope_rows = &rows[1]; /* past the table */
        call_run(call, way);
        assert_memory_equal(call->out, call->key[0], 448 * sizeof(float));
        for (int d = 448; d < DSV4_ATTN_DIM; d++) assert_true(isnan((double)call->out[d]));
    }
}

/* ---- merge ---- */

enum { MERGE_PARTS = 3, MERGE_HEADS = 2, MERGE_VALUES = MERGE_HEADS * DSV4_ATTN_DIM };

typedef struct merge_call {
    dsv4_attn_merge_params params;
    float parts[MERGE_PARTS * MERGE_VALUES]; /* part p holds p + 1, or -(p + 1) in odd dims */
    float lse_parts[MERGE_PARTS * MERGE_HEADS];
    float sink[MERGE_HEADS];
    float out[MERGE_VALUES + 1];
    float lse[MERGE_HEADS + 1];
} merge_call;

static void merge_init(merge_call *call)
{
    memset(call, 0, sizeof *call);
    memset(call->out, 0xff, sizeof call->out);
    memset(call->lse, 0xff, sizeof call->lse);
    for (int part = 0; part < MERGE_PARTS; part++) {
        for (int i = 0; i < MERGE_VALUES; i++) {
            call->parts[part * MERGE_VALUES + i] = (float)(part + 1) * (i % 2 == 0 ? 1.0f : -1.0f);
        }
    }
    call->params = (dsv4_attn_merge_params){.size = sizeof call->params,
                                            .n_parts = MERGE_PARTS,
                                            .n_rows = 1,
                                            .n_heads = MERGE_HEADS,
                                            .part_dtype = DSV4_DTYPE_F32,
                                            .out_dtype = DSV4_DTYPE_F32,
                                            .out_parts = call->parts,
                                            .lse_parts = call->lse_parts,
                                            .out = call->out,
                                            .lse = call->lse};
}

static void assert_merged(const merge_call *call, int head, double value, double lse)
{
    for (int d = 0; d < DSV4_ATTN_DIM; d++) {
        assert_close(call->out[head * DSV4_ATTN_DIM + d], d % 2 == 0 ? value : -value, 1e-6);
    }
    if (isinf(lse)) {
        assert_true(call->lse[head] == INFINITY);
    } else {
        assert_close(call->lse[head], lse, 1e-6 * (1 + fabs(lse)));
    }
}

static void merge_weighs_parts(void **state)
{
    (void)state;
    merge_call call;
    merge_init(&call);
    /* Head 0: weights 1, 2, 1. Head 1: the same a thousand further up. */
    const float lse[] = {0.0f, 1000.0f, 0.69314718f, 1000.69314718f, 0.0f, 1000.0f};
    memcpy(call.lse_parts, lse, sizeof lse);
    assert_int_equal(dsv4_attn_merge(NULL, &call.params, NULL), DSV4_OK);
    assert_merged(&call, 0, 2.0, log(4.0));
    for (int d = 0; d < DSV4_ATTN_DIM; d++) { /* f32 near 1000 is exact to 3e-5 only */
        assert_close(call.out[DSV4_ATTN_DIM + d], d % 2 == 0 ? 2.0 : -2.0, 1e-4);
    }
    assert_close(call.lse[1], 1000 + log(4.0), 1e-4);

    call.sink[0] = (float)log(4.0); /* as heavy as the parts together */
    call.sink[1] = INFINITY;
    call.params.sink = call.sink;
    assert_int_equal(dsv4_attn_merge(NULL, &call.params, NULL), DSV4_OK);
    assert_merged(&call, 0, 1.0, log(4.0));
    for (int d = 0; d < DSV4_ATTN_DIM; d++) assert_true(call.out[DSV4_ATTN_DIM + d] == 0.0f);

    call.sink[0] = -INFINITY;
    call.params.lse = NULL;
    memset(call.lse, 0xff, sizeof call.lse);
    assert_int_equal(dsv4_attn_merge(NULL, &call.params, NULL), DSV4_OK);
    assert_true(isnan((double)call.lse[0]));
    assert_close(call.out[0], 2.0, 1e-6);
}

static void merge_skips_empty_parts(void **state)
{
    (void)state;
    merge_call call;
    merge_init(&call);
    /* Head 0: only the last part has keys; head 1: none has. Empty parts hold NaN. */
    const float lse[] = {INFINITY, INFINITY, INFINITY, INFINITY, -3.0f, INFINITY};
    memcpy(call.lse_parts, lse, sizeof lse);
    memset(call.parts, 0xff, 2 * MERGE_VALUES * sizeof(float));
    memset(call.parts + 2 * MERGE_VALUES + DSV4_ATTN_DIM, 0xff, DSV4_ATTN_DIM * sizeof(float));
    for (int has_sink = 0; has_sink < 2; has_sink++) {
        call.params.sink = has_sink ? call.sink : NULL;
        call.sink[0] = -3.0f;
        assert_int_equal(dsv4_attn_merge(NULL, &call.params, NULL), DSV4_OK);
        assert_merged(&call, 0, has_sink ? 1.5 : 3.0, -3.0);
        assert_merged(&call, 1, 0.0, (double)INFINITY);
    }
}

static void merge_reads_and_writes_bf16(void **state)
{
    (void)state;
    merge_call call;
    uint16_t parts[MERGE_PARTS * MERGE_VALUES], out[MERGE_VALUES];
    merge_init(&call);
    for (int i = 0; i < MERGE_PARTS * MERGE_VALUES; i++) {
        uint32_t bits;
        memcpy(&bits, &call.parts[i], sizeof bits); /* small integers: the upper half is all */
        parts[i] = (uint16_t)(bits >> 16);
    }
    call.params.n_parts = 2;
    call.params.part_dtype = DSV4_DTYPE_BF16;
    call.params.out_parts = parts;
    assert_int_equal(dsv4_attn_merge(NULL, &call.params, NULL), DSV4_OK);
    assert_merged(&call, 0, 1.5, log(2.0));
    assert_merged(&call, 1, 1.5, log(2.0));
    call.params.out_dtype = DSV4_DTYPE_BF16;
    call.params.out = out;
    assert_int_equal(dsv4_attn_merge(NULL, &call.params, NULL), DSV4_OK);
    for (int i = 0; i < MERGE_VALUES; i++) assert_int_equal(out[i], i % 2 == 0 ? 0x3fc0 : 0xbfc0);
}

static void assert_merge_refuses(const dsv4_attn_merge_params *params, void *stream,
                                 const char *field, const char *value, const char *rule)
{
    dsv4_error error = {0};
    size_t len = strlen(field);
    if (dsv4_attn_merge(stream, params, &error) != DSV4_ERROR_INVALID_ARGUMENT) {
        fail_msg("%s, %s: merge accepts it", field, value);
    }
    assert_int_equal(error.status, DSV4_ERROR_INVALID_ARGUMENT);
    if (strncmp(error.text, field, len) != 0 || error.text[len] != ':' ||
        !strstr(error.text + len, value) || !strstr(error.text + len, rule)) {
        fail_msg("text is '%s', expected '%s: ' and then '%s' and '%s'", error.text, field, value,
                 rule);
    }
    assert_int_equal(dsv4_attn_merge(stream, params, NULL), DSV4_ERROR_INVALID_ARGUMENT);
}

static void merge_shapes_are_checked(void **state)
{
    static const struct {
        const char *field;
        size_t offset;
        size_t n_bytes;
        int64_t value;
        const char *rule;
    } broken[] = {
#define FIELD(member, value, rule)                                                                 \
    {#member, offsetof(dsv4_attn_merge_params, member),                                            \
     sizeof(((dsv4_attn_merge_params *)0)->member), value, rule}
        FIELD(size, 0, "sizeof(dsv4_attn_merge_params)"),
        FIELD(size, sizeof(dsv4_attn_merge_params) - 1, "sizeof(dsv4_attn_merge_params)"),
        FIELD(n_parts, 0, "1 .. 4096"),
        FIELD(n_parts, -1, "1 .. 4096"),
        FIELD(n_parts, 4097, "1 .. 4096"),
        FIELD(n_rows, -1, "0 .. 1073741824"),
        FIELD(n_rows, (1 << 30) + 1, "0 .. 1073741824"),
        FIELD(n_rows, INT64_MAX, "0 .. 1073741824"),
        FIELD(n_heads, 0, "1 .. 128"),
        FIELD(n_heads, 129, "1 .. 128"),
        FIELD(part_dtype, 0, "DSV4_DTYPE_BF16 (1) or DSV4_DTYPE_F32 (2)"),
        FIELD(part_dtype, 3, "DSV4_DTYPE_BF16 (1) or DSV4_DTYPE_F32 (2)"),
        FIELD(out_dtype, 0, "DSV4_DTYPE_BF16 (1) or DSV4_DTYPE_F32 (2)"),
        FIELD(out_dtype, -1, "DSV4_DTYPE_BF16 (1) or DSV4_DTYPE_F32 (2)"),
        FIELD(n_threads, -1, "0 .. 1024"),
        FIELD(n_threads, 1025, "0 .. 1024"),
        FIELD(backend, -1, "0 .. 4"),
        FIELD(backend, 5, "0 .. 4"),
#undef FIELD
    };
    (void)state;
    for (size_t i = 0; i < COUNT(broken); i++) {
        merge_call call;
        char value[32];
        merge_init(&call);
        memcpy((char *)&call.params + broken[i].offset, &broken[i].value, broken[i].n_bytes);
        (void)snprintf(value, sizeof value, "%lld", (long long)broken[i].value);
        assert_merge_refuses(&call.params, NULL, broken[i].field, value, broken[i].rule);
        assert_true(isnan((double)call.out[0]) && isnan((double)call.lse[0]));
    }
}

static void merge_pointers_are_checked(void **state)
{
    static const struct {
        const char *field;
        size_t offset;
        bool may_be_null;
    } tensors[] = {{"out_parts", offsetof(dsv4_attn_merge_params, out_parts), false},
                   {"lse_parts", offsetof(dsv4_attn_merge_params, lse_parts), false},
                   {"out", offsetof(dsv4_attn_merge_params, out), false},
                   {"lse", offsetof(dsv4_attn_merge_params, lse), true},
                   {"sink", offsetof(dsv4_attn_merge_params, sink), true}};
    (void)state;
    merge_call call;
    merge_init(&call);
    call.params.sink = call.sink;
    for (size_t i = 0; i < COUNT(tensors); i++) {
        dsv4_attn_merge_params params = call.params;
        char *tensor = NULL;
        char *at = (char *)&params + tensors[i].offset;
        memcpy(at, &tensor, sizeof tensor);
        if (!tensors[i].may_be_null) {
            assert_merge_refuses(&params, NULL, tensors[i].field, "NULL", "expected a tensor");
        }
        memcpy(&tensor, (char *)&call.params + tensors[i].offset, sizeof tensor);
        tensor += 2;
        memcpy(at, &tensor, sizeof tensor);
        assert_merge_refuses(&params, NULL, tensors[i].field, "address", "multiple of 4 bytes");
    }
    assert_merge_refuses(NULL, NULL, "params", "NULL", "");
    assert_merge_refuses(&call.params, &call, "stream", "0x", "NULL");
    call.params.n_rows = 0; /* nothing to do */
    call.params.out_parts = call.params.out = NULL;
    call.params.lse_parts = NULL;
    assert_int_equal(dsv4_attn_merge(NULL, &call.params, NULL), DSV4_OK);
}

static void merge_output_must_not_overlap_parts(void **state)
{
    static const int offsets[] = {0, MERGE_VALUES, 3 * MERGE_VALUES - 1, 4, 1 - MERGE_VALUES};
    (void)state;
    merge_call call;
    merge_init(&call);
    float *memory = calloc(5 * MERGE_VALUES, sizeof *memory);
    assert_non_null(memory);
    call.params.out_parts = memory + MERGE_VALUES;
    for (size_t i = 0; i < COUNT(offsets); i++) {
        call.params.out = memory + MERGE_VALUES + offsets[i];
        assert_merge_refuses(&call.params, NULL, "out", "address", "no overlap");
    }
    call.params.out = memory; /* just before, then just behind */
    assert_int_equal(dsv4_attn_merge(NULL, &call.params, NULL), DSV4_OK);
    call.params.out = memory + 4 * MERGE_VALUES;
    assert_int_equal(dsv4_attn_merge(NULL, &call.params, NULL), DSV4_OK);
    free(memory);
}

/* ---- defaults and choice ---- */

static void defaults_are_as_documented(void **state)
{
    (void)state;
    dsv4_attn_params params, zero;
    memset(&params, 0xee, sizeof params);
    memset(&zero, 0, sizeof zero);
    dsv4_attn_params_default(&params);
    assert_int_equal(params.size, sizeof params);
    assert_int_equal(params.n_queries, 1);
    assert_true(params.softmax_scale == 0x1.6a09e6p-5f); /* 512^-0.5 */
    assert_int_equal(params.out_dtype, DSV4_DTYPE_BF16);
    assert_int_equal(params.window.page_rows, 64);
    assert_int_equal(params.extra.page_rows, 64);
    zero.size = sizeof zero;
    zero.n_queries = 1;
    zero.softmax_scale = params.softmax_scale;
    zero.q_dtype = zero.out_dtype = DSV4_DTYPE_BF16;
    zero.window.page_rows = zero.extra.page_rows = 64;
    assert_memory_equal(&params, &zero, sizeof params);
}

static void dense_strides_are_as_documented(void **state)
{
    (void)state;
    dsv4_attn_params params;
    dsv4_attn_params_default(&params);
    params.n_requests = 7;
    params.n_queries = 3;
    params.n_heads = 5;
    params.window.n_indices = 9;
    params.extra.n_indices = 11;
    params.extra.page_rows = 2;
    dsv4_attn_params_set_dense(&params);
    assert_int_equal(params.q_head_stride_bytes, 1024);
    assert_int_equal(params.q_query_stride_bytes, 5 * 1024);
    assert_int_equal(params.q_request_stride_bytes, 15 * 1024);
    assert_int_equal(params.out_head_stride_bytes, 1024);
    assert_int_equal(params.out_query_stride_bytes, 5 * 1024);
    assert_int_equal(params.out_request_stride_bytes, 15 * 1024);
    assert_int_equal(params.lse_head_stride_bytes, 4);
    assert_int_equal(params.lse_query_stride_bytes, 20);
    assert_int_equal(params.lse_request_stride_bytes, 60);
    assert_int_equal(params.window.indices_query_stride_bytes, 36);
    assert_int_equal(params.window.indices_request_stride_bytes, 108);
    assert_int_equal(params.extra.indices_query_stride_bytes, 44);
    assert_int_equal(params.extra.indices_request_stride_bytes, 132);
    assert_int_equal(params.window.page_stride_bytes, 37440);
    assert_int_equal(params.extra.page_stride_bytes, 1728);
    params.out_dtype = DSV4_DTYPE_F32;
    dsv4_attn_params_set_dense(&params);
    assert_int_equal(params.out_head_stride_bytes, 2048);
    assert_int_equal(params.out_query_stride_bytes, 5 * 2048);
    assert_int_equal(params.out_request_stride_bytes, 15 * 2048);
}

/* Shapes that no tensor has are for the checks to refuse, not for this to trip over. */
static void dense_strides_of_wild_shapes(void **state)
{
    (void)state;
    dsv4_attn_params params;
    size_t n_bytes;
    dsv4_error error;
    dsv4_attn_params_default(&params);
    params.n_heads = params.n_queries = INT64_MAX;
    params.window.n_indices = params.extra.n_indices = INT64_MIN;
    params.window.page_rows = INT64_MAX;
    dsv4_attn_params_set_dense(&params);
    assert_int_equal(dsv4_attn_plan_size(&params, &n_bytes, &n_bytes, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.text, "9223372036854775807, expected 1 .. "));
}

static void choice_names_what_will_run(void **state)
{
    (void)state;
    dsv4_attn_choice choice;
    dsv4_attn_params params;
    dsv4_attn_params_default(&params);
    params.n_heads = -4; /* not among what choose reads */
    params.softmax_scale = NAN;
    int32_t best = dsv4_cpu_level();
    assert_int_equal(dsv4_attn_choose(&params, &choice, NULL), DSV4_OK);
    assert_string_equal(choice.backend, "cpu");
    assert_string_equal(choice.kernel, dsv4_cpu_level_name(best));
    assert_string_equal(choice.math, best == DSV4_CPU_LEVEL_AVX512BF16 ? "bf16" : "exact");
    assert_true(strlen(choice.reason) > 0);

    for (int32_t level = DSV4_CPU_LEVEL_V2; level <= best; level++) {
        params.backend = DSV4_BACKEND_CPU;
        params.cpu_level = level;
        params.math = DSV4_ATTN_MATH_AUTO;
        assert_int_equal(dsv4_attn_choose(&params, &choice, NULL), DSV4_OK);
        assert_string_equal(choice.backend, "cpu");
        assert_string_equal(choice.kernel, dsv4_cpu_level_name(level));
        assert_string_equal(choice.math, level == DSV4_CPU_LEVEL_AVX512BF16 ? "bf16" : "exact");
        params.math = DSV4_ATTN_MATH_EXACT;
        assert_int_equal(dsv4_attn_choose(&params, &choice, NULL), DSV4_OK);
        assert_string_equal(choice.math, "exact");
    }
    params.cpu_level = DSV4_CPU_LEVEL_AUTO;
    params.backend = DSV4_BACKEND_REF;
    params.math = DSV4_ATTN_MATH_AUTO;
    assert_int_equal(dsv4_attn_choose(&params, &choice, NULL), DSV4_OK);
    assert_string_equal(choice.backend, "ref");
    assert_string_equal(choice.kernel, "scalar");
    assert_string_equal(choice.math, "exact");

    dsv4_error error;
    assert_int_equal(dsv4_attn_choose(NULL, &choice, &error), DSV4_ERROR_INVALID_ARGUMENT);
    assert_int_equal(dsv4_attn_choose(&params, NULL, &error), DSV4_ERROR_INVALID_ARGUMENT);
    params.math = 9;
    assert_int_equal(dsv4_attn_choose(&params, &choice, &error), DSV4_ERROR_INVALID_ARGUMENT);
    assert_string_equal(error.text, "math: 9, expected 0 .. 4");
}

static void assert_unsupported(small_call *call, int32_t backend, int32_t math, int32_t level,
                               const char *field, const char *value)
{
    dsv4_attn_params params = call->params;
    dsv4_attn_choice choice;
    dsv4_error error = {0};
    size_t n_bytes;
    params.backend = backend;
    params.math = math;
    params.cpu_level = level;
    assert_int_equal(dsv4_attn_choose(&params, &choice, &error), DSV4_ERROR_UNSUPPORTED);
    assert_int_equal(error.status, DSV4_ERROR_UNSUPPORTED);
    assert_memory_equal(error.text, field, strlen(field));
    assert_non_null(strstr(error.text, value));
    assert_int_equal(dsv4_attn_plan_size(&params, &n_bytes, &n_bytes, NULL),
                     DSV4_ERROR_UNSUPPORTED);
    assert_int_equal(dsv4_attn_plan_build(NULL, &params, call->plan, MEMORY_BYTES, NULL),
                     DSV4_ERROR_UNSUPPORTED);
    assert_int_equal(dsv4_attn_decode(NULL, &params, call->plan, MEMORY_BYTES, call->workspace,
                                      MEMORY_BYTES, NULL),
                     DSV4_ERROR_UNSUPPORTED);
}

static void impossible_choices_are_unsupported(void **state)
{
    static const int32_t list[] = {0};
    small_call *call = *state;
    const int32_t bf16 = DSV4_ATTN_MATH_BF16;
    int32_t best = dsv4_cpu_level();
    window_set(call, list, 1);
    dsv4_attn_params_set_dense(&call->params);
    assert_unsupported(call, DSV4_BACKEND_REF, bf16, 0, "math", "bf16");
    for (int32_t level = DSV4_CPU_LEVEL_V2; level < DSV4_CPU_LEVEL_AVX512BF16; level++) {
        if (level > best) break;
        assert_unsupported(call, DSV4_BACKEND_CPU, bf16, level, "math", "bf16");
        assert_unsupported(call, DSV4_BACKEND_AUTO, bf16, level, "math", "bf16");
    }
    for (int32_t level = best + 1; level <= DSV4_CPU_LEVEL_AVX512BF16; level++) {
        assert_unsupported(call, DSV4_BACKEND_CPU, 0, level, "cpu_level",
                           dsv4_cpu_level_name(level));
    }
}

int main(void)
{
#define WITH_CALL(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_CALL(one_key_is_the_output),
        WITH_CALL(equal_keys_share),
        WITH_CALL(scores_weigh_keys),
        WITH_CALL(two_scopes_are_one_softmax),
        WITH_CALL(sink_takes_its_share),
        WITH_CALL(no_keys_give_zero),
        WITH_CALL(lengths_cut_lists),
        WITH_CALL(queries_have_their_own_lists),
        WITH_CALL(epilogue_turns_back),
        WITH_CALL(impossible_choices_are_unsupported),
        cmocka_unit_test(merge_weighs_parts),
        cmocka_unit_test(merge_skips_empty_parts),
        cmocka_unit_test(merge_reads_and_writes_bf16),
        cmocka_unit_test(merge_shapes_are_checked),
        cmocka_unit_test(merge_pointers_are_checked),
        cmocka_unit_test(merge_output_must_not_overlap_parts),
        cmocka_unit_test(defaults_are_as_documented),
        cmocka_unit_test(dense_strides_are_as_documented),
        cmocka_unit_test(dense_strides_of_wild_shapes),
        cmocka_unit_test(choice_names_what_will_run),
    };
#undef WITH_CALL
    return cmocka_run_group_tests_name("attn", tests, NULL, NULL);
}
