/*
 * test_hip_keys.c - the host side of dsv4/keys.h on AMD GPUs, with a stand-in for the runtime (tests/fake_hip): what is
 * launched, in which shape, with which bytes and on which stream; what is refused, and every call that can fail.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "dsv4/keys.h"
#include "fake_hip.h"
#include "gpu/code_objects.h"
#include "gpu/keys_device.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum { DEVICE_PLAIN, DEVICE_NO_KEYS, DEVICE_FAILING };
enum { DIM = 512, PAGE_ROWS = 64, PAGE_BYTES = PAGE_ROWS * 592, STATE_PAGE_BYTES = 64 * 8 * 1024 };

/* None of it is followed: launches leave a record only. */
static _Alignas(256) unsigned char memory[4096];

#define AT(type, offset_bytes) ((type *)(void *)(memory + (offset_bytes)))

typedef struct fixture {
    dsv4_keys_finish_params finish;
    dsv4_keys_compress_params compress;
    dsv4_keys_read_params read;
} fixture;

static void use_device(int device)
{
    fake_hip_set_n_devices(FAKE_HIP_DEVICES);
    assert_int_equal(hipSetDevice(device), 0);
    fake_hip_forget_calls();
}

static void set_cache(dsv4_keys_cache *cache)
{
    cache->pages = memory + 256;
    cache->n_pages = 10;
    cache->page_rows = PAGE_ROWS;
    cache->page_stride_bytes = PAGE_BYTES;
}

static void make_finish(dsv4_keys_finish_params *p, int64_t n_tokens, int64_t n_heads)
{
    dsv4_keys_finish_params_default(p);
    p->backend = DSV4_BACKEND_HIP;
    p->n_tokens = n_tokens;
    p->n_heads = n_heads;
    p->q = p->out = memory;
    p->q_head_stride_bytes = p->out_head_stride_bytes = 2 * DIM;
    p->q_token_stride_bytes = p->out_token_stride_bytes = n_heads * 2 * DIM;
    p->kv = memory + 512;
    p->kv_token_stride_bytes = 2 * DIM;
    set_cache(&p->window);
    p->slots = AT(int32_t, 1024);
    p->rope_table = AT(float, 1280);
    p->n_rope_rows = 7;
    p->rope_rows = AT(int32_t, 1536);
}

static void make_compress(dsv4_keys_compress_params *p, int32_t ratio)
{
    const int64_t width = ratio == 4 ? 2 * DIM : DIM;
    dsv4_keys_compress_params_default(p);
    p->backend = DSV4_BACKEND_HIP;
    p->ratio = ratio;
    p->n_tokens = 11;
    p->n_requests = 3;
    p->requests = AT(int32_t, 0);
    p->positions = AT(int32_t, 256);
    p->k = AT(float, 512);
    p->g = AT(float, 768);
    p->k_token_stride_bytes = p->g_token_stride_bytes = 4 * width;
    p->ape = AT(float, 1024);
    p->state = memory + 1280;
    p->n_state_pages = 5;
    p->state_page_rows = 64;
    p->state_page_stride_bytes = STATE_PAGE_BYTES;
    p->tables = AT(int32_t, 1536);
    p->n_table_pages = 4;
    p->table_stride_bytes = 16;
    set_cache(&p->compressed);
    p->slots = AT(int32_t, 1792);
    p->rope_table = AT(float, 2048);
    p->n_rope_rows = 9;
}

static void make_read(dsv4_keys_read_params *p, int64_t n_rows)
{
    dsv4_keys_read_params_default(p);
    p->backend = DSV4_BACKEND_HIP;
    p->n_rows = n_rows;
    set_cache(&p->cache);
    p->slots = AT(int32_t, 0);
    p->out = memory + 512;
    p->out_row_stride_bytes = 2 * DIM;
}

static fixture f;

static int setup(void **state)
{
    (void)state;
    fake_hip_reset();
    use_device(DEVICE_PLAIN);
    make_finish(&f.finish, 3, 8);
    make_compress(&f.compress, 4);
    make_read(&f.read, 5);
    return 0;
}

static void assert_launch(const char *kernel, unsigned n_blocks, unsigned n_threads,
                          const void *stream, void *args, size_t args_bytes)
{
    const fake_hip_call *launch = fake_hip_only("hipModuleLaunchKernel");
    assert_non_null(launch);
    assert_string_equal(launch->kernel, kernel);
    assert_int_equal(launch->grid[0], n_blocks);
    assert_int_equal(launch->block[0], n_threads);
    assert_int_equal(launch->shared_bytes, 0);
    assert_ptr_equal(launch->stream, stream);
    memcpy(args, launch->args, args_bytes);
}

static void finish_is_launched(void **state)
{
    static const struct {
        int64_t n_tokens, n_heads;
        unsigned n_blocks;
    } cases[] = {{1, 1, 1}, {1, 3, 1}, {1, 4, 2}, {12, 128, 387}, {1 << 20, 128, 1 << 20}};
    void *stream;
    (void)state;
    assert_int_equal(hipStreamCreateWithFlags(&stream, 1), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        keys_finish_args args;
        make_finish(&f.finish, cases[i].n_tokens, cases[i].n_heads);
        f.finish.math = DSV4_ATTN_MATH_OFFICIAL;
        fake_hip_forget_calls();
        assert_int_equal(dsv4_keys_finish(stream, &f.finish, NULL), DSV4_OK);
        assert_launch("dsv4_keys_finish_bf16", cases[i].n_blocks, KEYS_ROW_THREADS, stream, &args,
                      sizeof args);
        assert_int_equal(args.n_rows, cases[i].n_tokens * (cases[i].n_heads + 1));
        assert_int_equal(args.is_official, 1);
        assert_ptr_equal(args.kv.base, f.finish.kv);
        assert_ptr_equal(args.window.pages, f.finish.window.pages);
        assert_int_equal(args.window.n_slots, 10 * PAGE_ROWS);
        assert_int_equal(args.rope.n_rows, 7);
    }
    assert_int_equal(hipStreamDestroy(stream), 0);
}

/* One tensor of f32 is enough for the kernels that take any. */
static void f32_has_kernels_of_its_own(void **state)
{
    keys_finish_args finish;
    keys_read_args read;
    (void)state;
    f.finish.kv_dtype = DSV4_DTYPE_F32;
    f.finish.kv_token_stride_bytes = 4 * DIM;
    assert_int_equal(dsv4_keys_finish(NULL, &f.finish, NULL), DSV4_OK);
    assert_launch("dsv4_keys_finish", 7, KEYS_ROW_THREADS, NULL, &finish, sizeof finish);
    f.read.out_dtype = DSV4_DTYPE_F32;
    f.read.out_row_stride_bytes = 4 * DIM;
    fake_hip_forget_calls();
    assert_int_equal(dsv4_keys_read(NULL, &f.read, NULL), DSV4_OK);
    assert_launch("dsv4_keys_read", 1, KEYS_ROW_THREADS, NULL, &read, sizeof read);
}

static void compress_is_launched(void **state)
{
    keys_compress_args args;
    (void)state;
    assert_int_equal(dsv4_keys_compress(NULL, &f.compress, NULL), DSV4_OK);
    assert_launch("dsv4_keys_compress_4", 11, KEYS_COMPRESS_4_THREADS, NULL, &args, sizeof args);
    assert_ptr_equal(args.state, f.compress.state);
    assert_int_equal(args.compressed.n_slots, 10 * PAGE_ROWS);
    assert_int_equal(args.rope.n_rows, 9);
    make_compress(&f.compress, 128);
    fake_hip_forget_calls();
    assert_int_equal(dsv4_keys_compress(NULL, &f.compress, NULL), DSV4_OK);
    assert_launch("dsv4_keys_compress_128", 11, KEYS_COMPRESS_128_THREADS, NULL, &args,
                  sizeof args);
}

static void read_is_launched(void **state)
{
    static const struct {
        int64_t n_rows;
        unsigned n_blocks;
    } cases[] = {{1, 1}, {8, 1}, {9, 2}, {1 << 30, 1 << 20}};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        keys_read_args args;
        make_read(&f.read, cases[i].n_rows);
        fake_hip_forget_calls();
        assert_int_equal(dsv4_keys_read(NULL, &f.read, NULL), DSV4_OK);
        assert_launch("dsv4_keys_read_bf16", cases[i].n_blocks, KEYS_ROW_THREADS, NULL, &args,
                      sizeof args);
        assert_int_equal(args.n_rows, cases[i].n_rows);
        assert_ptr_equal(args.out.base, f.read.out);
        assert_int_equal(args.out.is_aligned, 1);
    }
}

static dsv4_status call(int op, dsv4_error *error)
{
    if (op == 0) return dsv4_keys_finish(NULL, &f.finish, error);
    if (op == 1) return dsv4_keys_compress(NULL, &f.compress, error);
    return dsv4_keys_read(NULL, &f.read, error);
}

static void nothing_to_do_launches_nothing(void **state)
{
    (void)state;
    f.finish.n_tokens = f.compress.n_tokens = f.read.n_rows = 0;
    for (int op = 0; op < 3; op++) assert_int_equal(call(op, NULL), DSV4_OK);
    f.finish.n_tokens = 1; /* neither heads nor keys */
    f.finish.n_heads = 0;
    f.finish.kv = NULL;
    assert_int_equal(call(0, NULL), DSV4_OK);
    assert_int_equal(fake_hip_count("hipModuleLaunchKernel"), 0);
}

static void odd_caches_are_refused(void **state)
{
    (void)state;
    f.finish.window.pages = memory + 8;
    f.compress.state = memory + 4;
    f.read.cache.page_stride_bytes += 8;
    for (int op = 0; op < 3; op++) {
        dsv4_error error;
        assert_int_equal(call(op, &error), DSV4_ERROR_INVALID_ARGUMENT);
        assert_non_null(strstr(error.text, "16"));
    }
    assert_int_equal(fake_hip_count("hipModuleLaunchKernel"), 0);
}

static void a_missing_kernel_is_named(void **state)
{
    static const char *const names[] = {"dsv4_keys_finish", "dsv4_keys_compress_4",
                                        "dsv4_keys_read"};
    (void)state;
    use_device(DEVICE_NO_KEYS);
    fake_hip_hide_kernels("dsv4_keys_");
    for (int op = 0; op < 3; op++) {
        dsv4_error error;
        assert_int_equal(call(op, &error), DSV4_ERROR_UNSUPPORTED);
        assert_non_null(strstr(error.text, names[op]));
    }
}

static void failing_launches_are_told(void **state)
{
    (void)state;
    use_device(DEVICE_FAILING);
    for (int op = 0; op < 3; op++) {
        dsv4_error error;
        fake_hip_fail("hipModuleLaunchKernel", 1, 700);
        assert_int_equal(call(op, &error), DSV4_ERROR_DEVICE);
        assert_non_null(strstr(error.text, "dsv4_keys_"));
        fake_hip_fail(NULL, 0, 0);
        assert_int_equal(call(op, &error), DSV4_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(finish_is_launched, setup),
        cmocka_unit_test_setup(compress_is_launched, setup),
        cmocka_unit_test_setup(read_is_launched, setup),
        cmocka_unit_test_setup(f32_has_kernels_of_its_own, setup),
        cmocka_unit_test_setup(nothing_to_do_launches_nothing, setup),
        cmocka_unit_test_setup(odd_caches_are_refused, setup),
        cmocka_unit_test_setup(a_missing_kernel_is_named, setup),
        cmocka_unit_test_setup(failing_launches_are_told, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
