/*
 * test_keys.c - dsv4/keys.h: the same bytes as the model's functions of src/ref, in the same order; and every
 * rule on parameters, refused by name. check_keys has the rest.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/rows_cpu.h"
#include "dsv4/cache.h"
#include "dsv4/keys.h"
#include "num/bf16.h"
#include "num/exp.h"
#include "ref/compress.h"
#include "ref/norm.h"
#include "ref/quant.h"
#include "ref/rope.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum { DIM = 512, ROPE = 64, NOPE = DIM - ROPE, N_TOKENS = 128, PAGE_ROWS = 4, PAGE_BYTES = 2880 };

/* Calls that are right in every respect. */
typedef struct fixture {
    dsv4_keys_finish_params finish;
    dsv4_keys_compress_params compress;
    dsv4_keys_read_params read;
    float frequencies[ROPE / 2];
    float table[N_TOKENS * ROPE];
    float q[2 * DIM], out[2 * DIM], kv[DIM];
    uint16_t weight[DIM + 1];
    float raw_k[N_TOKENS * 2 * DIM], raw_g[N_TOKENS * 2 * DIM], ape[N_TOKENS * 2 * DIM];
    float state[N_TOKENS * 4 * DIM];
    int32_t requests[N_TOKENS], positions[N_TOKENS], slots[N_TOKENS], rows[N_TOKENS], page_table[1];
    uint8_t cache[PAGE_BYTES + 8];
} fixture;

static float some_value(int64_t i)
{
    return sinf((float)(i * i % 1009) + 0.1f * (float)(i % 7));
}

static void set_finish(fixture *f)
{
    dsv4_keys_finish_params *p = &f->finish;
    dsv4_keys_finish_params_default(p);
    p->n_tokens = 1;
    p->n_heads = 2;
    p->q_dtype = p->out_dtype = p->kv_dtype = DSV4_DTYPE_F32;
    p->q = f->q;
    p->out = f->out;
    p->q_head_stride_bytes = p->out_head_stride_bytes = DIM * 4;
    p->q_token_stride_bytes = p->out_token_stride_bytes = 2 * DIM * 4;
    p->kv = f->kv;
    p->kv_token_stride_bytes = DIM * 4;
    p->kv_norm = f->weight;
    p->window.pages = f->cache;
    p->window.n_pages = 1;
    p->window.page_rows = PAGE_ROWS;
    p->window.page_stride_bytes = PAGE_BYTES;
    p->slots = f->slots;
    p->rope_table = f->table;
    p->n_rope_rows = N_TOKENS;
    p->rope_rows = f->rows;
}

static void set_compress(fixture *f, int32_t ratio)
{
    dsv4_keys_compress_params *p = &f->compress;
    int64_t width = ratio == 4 ? 2 * DIM : DIM;
    dsv4_keys_compress_params_default(p);
    p->ratio = ratio;
    p->n_tokens = N_TOKENS;
    p->n_requests = 1;
    p->requests = f->requests;
    p->positions = f->positions;
    p->k = f->raw_k;
    p->g = f->raw_g;
    p->k_token_stride_bytes = p->g_token_stride_bytes = 4 * width;
    p->ape = f->ape;
    p->norm = f->weight;
    p->state = f->state;
    p->n_state_pages = 1;
    p->state_page_rows = N_TOKENS;
    p->state_page_stride_bytes = N_TOKENS * 8 * width;
    p->tables = f->page_table;
    p->n_table_pages = 1;
    p->table_stride_bytes = 4;
    p->compressed = f->finish.window;
    p->slots = f->slots;
    p->rope_table = f->table;
    p->n_rope_rows = N_TOKENS;
}

static int setup(void **state)
{
    static fixture f;
    memset(&f, 0, sizeof f);
    dsv4_rope_frequencies(160000.0, 16.0, 65536, 32.0, 1.0, f.frequencies);
    for (int i = 0; i < N_TOKENS; i++) {
        dsv4_rope_table(f.frequencies, i, f.table + i * ROPE);
        f.positions[i] = i;
        f.rows[i] = 70 + i % 9;
        f.slots[i] = i == N_TOKENS - 1 ? 2 : -1;
    }
    for (int64_t i = 0; i < N_TOKENS * 2 * DIM; i++) {
        f.raw_k[i] = some_value(i);
        f.raw_g[i] = 4.0f * some_value(3 * i + 1);
        f.ape[i] = some_value(5 * i + 2);
    }
    for (int i = 0; i < DIM; i++) {
        f.weight[i] = dsv4_bf16_from_f32(1.0f + 0.2f * some_value(i));
        f.kv[i] = 3.0f * some_value(7 * i + 3);
    }
    for (int i = 0; i < 2 * DIM; i++) f.q[i] = some_value(11 * i + 4);
    set_finish(&f);
    set_compress(&f, 4);
    dsv4_keys_read_params_default(&f.read);
    f.read.n_rows = 2;
    f.read.out_dtype = DSV4_DTYPE_F32;
    f.read.cache = f.finish.window;
    f.read.slots = f.positions;
    f.read.out = f.out;
    f.read.out_row_stride_bytes = DIM * 4;
    *state = &f;
    return 0;
}

/* ---- the model's functions ---- */

static void finish_as_model(const fixture *f, bool is_official, float *q, float *kv)
{
    const float *table = f->table + f->rows[0] * ROPE;
    if (is_official) dsv4_quant_bf16(kv, DIM);
    dsv4_norm_rms(kv, f->weight, DIM, 1e-6f, kv);
    if (is_official) dsv4_quant_bf16(kv, DIM);
    dsv4_rope_turn(kv + NOPE, table, 0);
    if (is_official) dsv4_quant_bf16(kv + NOPE, ROPE);
    for (int h = 0; h < 2; h++, q += DIM) {
        if (is_official) {
            dsv4_quant_bf16(q, DIM);
            dsv4_rows_kernels_of(0)->normalize_bf16(q, DIM, 1e-6f);
        } else {
            dsv4_norm_rms(q, NULL, DIM, 1e-6f, q);
        }
        dsv4_rope_turn(q + NOPE, table, 0);
        if (is_official) dsv4_quant_bf16(q + NOPE, ROPE);
    }
}

static void finish_is_the_models(void **state)
{
    fixture *f = *state;
    for (int is_official = 0; is_official < 2; is_official++) {
        float q[2 * DIM], kv[DIM];
        uint8_t want[PAGE_BYTES + 8];
        memcpy(q, f->q, sizeof q);
        memcpy(kv, f->kv, sizeof kv);
        finish_as_model(f, is_official, q, kv);
        memset(f->cache, 0x5a, sizeof f->cache);
        memcpy(want, f->cache, sizeof want);
        dsv4_cache_row_write(want, PAGE_ROWS, 2, kv);
        f->slots[0] = 2;
        f->finish.backend = DSV4_BACKEND_REF;
        f->finish.math = is_official ? DSV4_ATTN_MATH_OFFICIAL : DSV4_ATTN_MATH_EXACT;
        assert_int_equal(dsv4_keys_finish(NULL, &f->finish, NULL), DSV4_OK);
        assert_memory_equal(f->out, q, sizeof q);
        assert_memory_equal(f->cache, want, sizeof want);
    }
}

/* The group that the last token ends, by the model's pooling: the same up to the exponential's last bits. */
static void compressed_key_is_the_models(void **state)
{
    fixture *f = *state;
    for (int ratio = 4; ratio <= 128; ratio += 124) {
        int64_t width = ratio == 4 ? 2 * DIM : DIM, n_rows = ratio == 4 ? 8 : 128;
        static float raw[128][4 * DIM];
        const float *rows[128];
        float want[DIM], got[DIM];
        for (int64_t s = 0; s < n_rows; s++) {
            int64_t at = N_TOKENS - n_rows + s;
            for (int64_t i = 0; i < width; i++) {
                raw[s][i] = f->raw_k[at * width + i];
                raw[s][width + i] = f->raw_g[at * width + i] + f->ape[at % ratio * width + i];
            }
            rows[s] = raw[s];
        }
        dsv4_compress_pool(rows, ratio, DIM, want);
        const float *table = f->table + (N_TOKENS - ratio) * ROPE;
        dsv4_compress_finish(want, DIM, f->weight, 1e-6f, table, 0);
        set_compress(f, ratio);
        f->compress.compressed.row_format = DSV4_ATTN_ROWS_F32;
        f->compress.compressed.page_rows = 1;
        f->compress.compressed.page_stride_bytes = DIM * 4;
        f->compress.compressed.pages = got;
        f->slots[N_TOKENS - 1] = 0;
        assert_int_equal(dsv4_keys_compress(NULL, &f->compress, NULL), DSV4_OK);
        for (int i = 0; i < DIM; i++) assert_float_equal(got[i], want[i], 4e-6f);
    }
}

static void exponential_is_accurate(void **state)
{
    (void)state;
    for (float x = 0.0f; x > -86.0f; x -= 0.00711f) {
        double want = exp((double)x), got = (double)dsv4_exp_f32(x);
        assert_true(fabs(got - want) <= 2e-7 * want);
    }
    assert_true(dsv4_exp_f32(0.0f) == 1.0f);
    assert_true(dsv4_exp_f32(-86.1f) == 0.0f);
    assert_true(dsv4_exp_f32(-INFINITY) == 0.0f);
    assert_true(isnan(dsv4_exp_f32(NAN)));
}

/* ---- parameters ---- */

enum { OP_FINISH, OP_COMPRESS, OP_READ };

static dsv4_status call(fixture *f, int op, void *stream, dsv4_error *error)
{
    if (op == OP_FINISH) return dsv4_keys_finish(stream, &f->finish, error);
    if (op == OP_COMPRESS) return dsv4_keys_compress(stream, &f->compress, error);
    return dsv4_keys_read(stream, &f->read, error);
}

static void *params_of(fixture *f, int op)
{
    return op == OP_FINISH     ? (void *)&f->finish
           : op == OP_COMPRESS ? (void *)&f->compress
                               : &f->read;
}

/* A field with a value that breaks its rule, as 4 or 8 bytes; the text must begin with its name. */
typedef struct breach {
    int op;
    const char *field;
    size_t offset, n_bytes;
    int64_t value;
} breach;

#define BREACH(op, type, field, value)                                                             \
    {                                                                                              \
        op, #field, offsetof(type, field), sizeof((type *)0)->field, value                         \
    }
#define FINISH(field, value)   BREACH(OP_FINISH, dsv4_keys_finish_params, field, value)
#define COMPRESS(field, value) BREACH(OP_COMPRESS, dsv4_keys_compress_params, field, value)
#define READ(field, value)     BREACH(OP_READ, dsv4_keys_read_params, field, value)

static const breach breaches[] = {
    FINISH(size, 8),
    FINISH(n_tokens, -1),
    FINISH(n_tokens, (1 << 20) + 1),
    FINISH(n_heads, 129),
    FINISH(backend, 5),
    FINISH(math, DSV4_ATTN_MATH_BF16),
    FINISH(n_threads, 1025),
    FINISH(q_dtype, 0),
    FINISH(out_dtype, 3),
    FINISH(kv_dtype, 0),
    FINISH(reserved, 1),
    FINISH(q, 0),
    FINISH(q_token_stride_bytes, -4),
    FINISH(q_head_stride_bytes, 2),
    FINISH(out, 0),
    FINISH(out_head_stride_bytes, DIM * 4 - 4),
    FINISH(kv_token_stride_bytes, 3),
    FINISH(window.pages, 0),
    FINISH(window.n_pages, -1),
    FINISH(window.page_rows, 0),
    FINISH(window.page_stride_bytes, PAGE_ROWS * 584 - 1),
    FINISH(window.row_format, 2),
    FINISH(window.reserved, 1),
    FINISH(slots, 0),
    FINISH(rope_table, 0),
    FINISH(n_rope_rows, 0),
    FINISH(rope_rows, 0),
    COMPRESS(size, 8),
    COMPRESS(n_tokens, -1),
    COMPRESS(n_requests, 0),
    COMPRESS(ratio, 8),
    COMPRESS(backend, -1),
    COMPRESS(math, 4),
    COMPRESS(reserved, 1),
    COMPRESS(requests, 0),
    COMPRESS(positions, 0),
    COMPRESS(k, 0),
    COMPRESS(k_token_stride_bytes, 2),
    COMPRESS(g, 0),
    COMPRESS(g_token_stride_bytes, -4),
    COMPRESS(ape, 0),
    COMPRESS(state, 0),
    COMPRESS(state_page_rows, 0),
    COMPRESS(state_page_stride_bytes, N_TOKENS * 16 * DIM - 4),
    COMPRESS(state_page_stride_bytes, N_TOKENS * 16 * DIM + 2),
    COMPRESS(tables, 0),
    COMPRESS(n_table_pages, 0),
    COMPRESS(compressed.page_rows, 0),
    COMPRESS(slots, 0),
    COMPRESS(rope_table, 0),
    COMPRESS(n_rope_rows, 0),
    READ(size, 8),
    READ(n_rows, -1),
    READ(backend, 5),
    READ(out_dtype, 0),
    READ(reserved, 1),
    READ(cache.page_stride_bytes, 0),
    READ(slots, 0),
    READ(out, 0),
    READ(out_row_stride_bytes, DIM * 4 - 4),
};

static void every_field_is_checked(void **state)
{
    fixture *f = *state;
    for (size_t i = 0; i < COUNT(breaches); i++) {
        const breach *b = &breaches[i];
        dsv4_error error = {.status = DSV4_OK};
        (void)setup(state);
        assert_int_equal(call(f, b->op, NULL, &error), DSV4_OK);
        unsigned char *field = (unsigned char *)params_of(f, b->op) + b->offset;
        int32_t value = (int32_t)b->value;
        memcpy(field, b->n_bytes == 4 ? (const void *)&value : &b->value, b->n_bytes);
        if (strcmp(b->field, "out_head_stride_bytes") == 0) f->finish.q = f->raw_k;
        assert_int_equal(call(f, b->op, NULL, &error), DSV4_ERROR_INVALID_ARGUMENT);
        if (strncmp(error.text, b->field, strlen(b->field)) != 0) {
            fail_msg("%s: the text is: %s", b->field, error.text);
        }
    }
}

static void streams_are_for_devices(void **state)
{
    fixture *f = *state;
    for (int op = OP_FINISH; op <= OP_READ; op++) {
        dsv4_error error;
        assert_int_equal(call(f, op, f, &error), DSV4_ERROR_INVALID_ARGUMENT);
        assert_non_null(strstr(error.text, "stream"));
    }
}

static void null_and_nothing(void **state)
{
    fixture *f = *state;
    assert_int_equal(dsv4_keys_finish(NULL, NULL, NULL), DSV4_ERROR_INVALID_ARGUMENT);
    assert_int_equal(dsv4_keys_compress(NULL, NULL, NULL), DSV4_ERROR_INVALID_ARGUMENT);
    assert_int_equal(dsv4_keys_read(NULL, NULL, NULL), DSV4_ERROR_INVALID_ARGUMENT);
    dsv4_keys_finish_params_default(&f->finish);
    dsv4_keys_compress_params_default(&f->compress);
    f->compress.n_requests = 1;
    dsv4_keys_read_params_default(&f->read);
    for (int op = OP_FINISH; op <= OP_READ; op++) {
        assert_int_equal(call(f, op, NULL, NULL), DSV4_OK);
    }
}

static void in_place_needs_the_same_layout(void **state)
{
    fixture *f = *state;
    dsv4_error error;
    f->finish.out = f->q;
    assert_int_equal(dsv4_keys_finish(NULL, &f->finish, &error), DSV4_OK);
    f->finish.out_dtype = DSV4_DTYPE_BF16;
    assert_int_equal(dsv4_keys_finish(NULL, &f->finish, &error), DSV4_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.text, "out: address"));
}

static void only_one_list_is_read(void **state)
{
    fixture *f = *state;
    dsv4_error error;
    f->read.pages = f->slots;
    assert_int_equal(dsv4_keys_read(NULL, &f->read, &error), DSV4_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.text, "exactly one"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(finish_is_the_models, setup),
        cmocka_unit_test_setup(compressed_key_is_the_models, setup),
        cmocka_unit_test(exponential_is_accurate),
        cmocka_unit_test_setup(every_field_is_checked, setup),
        cmocka_unit_test_setup(streams_are_for_devices, setup),
        cmocka_unit_test_setup(null_and_nothing, setup),
        cmocka_unit_test_setup(in_place_needs_the_same_layout, setup),
        cmocka_unit_test_setup(only_one_list_is_read, setup),
    };
    return cmocka_run_group_tests_name("keys", tests, NULL, NULL);
}
