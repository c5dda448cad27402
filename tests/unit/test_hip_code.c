/*
 * test_hip_code.c - the code objects that are in the library, as a loader reads them: every kernel is there, takes the
 * blocks that hosts launch and no larger ones, and has its shared memory without a launch's asking.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fake_hip.h"
#include "gpu/attn_device.h"
#include "gpu/code_objects.h"

enum { FITS = 0, INVALID_CONFIGURATION = 9, NOT_FOUND = 500 };

/* Bytes of a launch's own shared memory that leave no room where 64 or 160 KiB are all. */
enum { REST = 0, TOO_MUCH = 32 << 10, FAR_TOO_MUCH = 200 << 10 };

static int launch(void *module, const char *name, int n_threads, unsigned shared_bytes)
{
    static unsigned char args[FAKE_HIP_ARGS_BYTES];
    void *arguments[1] = {args}, *function = NULL;
    const int status = hipModuleGetFunction(&function, module, name);
    if (status != 0) return status;
    return hipModuleLaunchKernel(function, 1, 1, 1, (unsigned)n_threads, 1, 1, shared_bytes, NULL,
                                 arguments, NULL);
}

static void check_kernel(void *module, const char *name, int n_threads)
{
    assert_int_equal(launch(module, name, n_threads, REST), FITS);
    assert_int_equal(launch(module, name, n_threads + 1, REST), INVALID_CONFIGURATION);
    assert_int_equal(launch(module, name, n_threads, FAR_TOO_MUCH), INVALID_CONFIGURATION);
}

static void check_code(const char *architecture, const unsigned char *code, bool has_all)
{
    static const char *const names[] = {"dsv4_attn_bf16_h64", "dsv4_attn_fp8_h16",
                                        "dsv4_attn_fp8_h32", "dsv4_attn_fp8_h64"};
    void *module = NULL;
    fake_hip_reset();
    fake_hip_set_runner(NULL);
    fake_hip_set_device(0, architecture, 1);
    assert_int_equal(hipModuleLoadData(&module, code), 0);
    check_kernel(module, "dsv4_attn_plan", ATTN_PLAN_THREADS);
    check_kernel(module, "dsv4_attn_merge", MERGE_THREADS);
    check_kernel(module, "dsv4_keys_finish", KEYS_ROW_THREADS);
    check_kernel(module, "dsv4_keys_finish_bf16", KEYS_ROW_THREADS);
    check_kernel(module, "dsv4_keys_compress_4", KEYS_COMPRESS_4_THREADS);
    check_kernel(module, "dsv4_keys_compress_128", KEYS_COMPRESS_128_THREADS);
    check_kernel(module, "dsv4_keys_read", KEYS_ROW_THREADS);
    check_kernel(module, "dsv4_keys_read_bf16", KEYS_ROW_THREADS);
    check_kernel(module, "dsv4_attn_bf16_h16", DECODE_BLOCK_THREADS);
    check_kernel(module, "dsv4_attn_bf16_h32", DECODE_BLOCK_THREADS);
    assert_int_equal(launch(module, "dsv4_attn_bf16_h32", DECODE_BLOCK_THREADS, TOO_MUCH),
                     INVALID_CONFIGURATION);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (has_all) {
            check_kernel(module, names[i], DECODE_BLOCK_THREADS);
        } else {
            assert_int_equal(launch(module, names[i], DECODE_BLOCK_THREADS, REST), NOT_FOUND);
        }
    }
    assert_int_equal(launch(module, "dsv4_attn_bf16_h8", DECODE_BLOCK_THREADS, REST), NOT_FOUND);
    assert_int_equal(hipModuleUnload(module), 0);
}

static void gfx950(void **state)
{
    (void)state;
    check_code("gfx950:sramecc+:xnack-", dsv4_code_gfx950, true);
}

static void gfx942(void **state)
{
    (void)state;
    check_code("gfx942:sramecc+:xnack-", dsv4_code_gfx942, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gfx950), cmocka_unit_test(gfx942)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
