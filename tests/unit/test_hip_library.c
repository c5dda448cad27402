/*
 * test_hip_library.c - opening AMD's runtime: no library, a symbol that is missing, a version that is too old, and what a
 * caller of the public functions reads about it. Without a stand-in: what the machine has decides the last one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dsv4/attn.h"
#include "hip/hip_library.h"

static const char *missing_symbol;
static int version, version_status;

static int get_version(int *result)
{
    *result = version;
    return version_status;
}

static const char *get_error_string(int status)
{
    return status == 100 ? "no ROCm-capable device is detected" : NULL;
}

static int some_function(void)
{
    return 0;
}

/* A dlsym. ISO C has no conversion between functions and objects, POSIX has. */
static void *find(void *library, const char *symbol)
{
    int (*function)(void) = some_function;
    void *address;
    assert_ptr_equal(library, &version);
    if (missing_symbol != NULL && strcmp(symbol, missing_symbol) == 0) return NULL;
    if (strcmp(symbol, "hipRuntimeGetVersion") == 0) {
        int (*versions)(int *) = get_version;
        memcpy(&address, &versions, sizeof address);
        return address;
    }
    if (strcmp(symbol, "hipGetErrorString") == 0) {
        const char *(*words)(int) = get_error_string;
        memcpy(&address, &words, sizeof address);
        return address;
    }
    memcpy(&address, &function, sizeof address);
    return address;
}

static dsv4_status bind(dsv4_hip *hip, dsv4_error *error)
{
    *hip = (dsv4_hip){.library = &version, .name = "libamdhip64.so.7"};
    return dsv4_hip_bind(find, hip, error);
}

static int setup(void **state)
{
    (void)state;
    missing_symbol = NULL;
    version = 70051831;
    version_status = 0;
    return 0;
}

static void all_symbols_are_bound(void **state)
{
    (void)state;
    dsv4_hip hip;
    assert_int_equal(bind(&hip, NULL), DSV4_OK);
    assert_int_equal(hip.version, 70051831);
    assert_non_null(hip.hipGetErrorString);
    assert_non_null(hip.hipGetDeviceCount);
    assert_non_null(hip.hipGetDevice);
    assert_non_null(hip.hipDeviceGetAttribute);
    assert_non_null(hip.hipGetDevicePropertiesR0600);
    assert_non_null(hip.hipModuleLoadData);
    assert_non_null(hip.hipModuleUnload);
    assert_non_null(hip.hipModuleGetFunction);
    assert_non_null(hip.hipModuleLaunchKernel);
}

static void every_missing_symbol_is_named(void **state)
{
    (void)state;
    int n_symbols = 0;
    for (const dsv4_hip_symbol *symbol = dsv4_hip_symbols; symbol->name != NULL; symbol++) {
        dsv4_hip hip;
        dsv4_error error = {0};
        char expected[64] = "has no symbol ";
        missing_symbol = symbol->name;
        assert_int_equal(bind(&hip, &error), DSV4_ERROR_UNSUPPORTED);
        strcat(expected, symbol->name);
        assert_non_null(strstr(error.text, expected));
        assert_ptr_equal(strstr(error.text, "libamdhip64.so.7"), error.text);
        n_symbols++;
    }
    assert_int_equal(n_symbols, 10);
}

/* Before a symbol is missed that such a version does not have. */
static void old_versions_are_refused(void **state)
{
    static const struct {
        int version;
        const char *text;
    } old[] = {{50221153, "HIP 5.2 (50221153)"}, {59999999, "HIP 5.99 (59999999)"}, {0, "HIP 0.0"}};
    (void)state;
    missing_symbol = "hipGetDevicePropertiesR0600";
    for (size_t i = 0; i < sizeof old / sizeof old[0]; i++) {
        dsv4_hip hip;
        dsv4_error error = {0};
        version = old[i].version;
        assert_int_equal(bind(&hip, &error), DSV4_ERROR_UNSUPPORTED);
        assert_non_null(strstr(error.text, old[i].text));
        assert_non_null(strstr(error.text, "expected 6.0 or later"));
    }
}

static void first_good_version_is_taken(void **state)
{
    (void)state;
    dsv4_hip hip;
    version = 60000000;
    assert_int_equal(bind(&hip, NULL), DSV4_OK);
    version_status = 100;
    dsv4_error error = {0};
    assert_int_equal(bind(&hip, &error), DSV4_ERROR_UNSUPPORTED);
    assert_string_equal(error.text,
                        "libamdhip64.so.7: hipRuntimeGetVersion: no ROCm-capable device "
                        "is detected (100)");
}

/* The C library is there and is no HIP; it is closed again. */
static void libraries_are_opened_by_name(void **state)
{
    static const char *const none[] = {"libdsv4-nowhere.so.7", "libdsv4-nowhere.so", NULL};
    static const char *const wrong[] = {"libdsv4-nowhere.so.7", "libc.so.6", NULL};
    (void)state;
    dsv4_hip hip;
    dsv4_error error = {0};
    assert_int_equal(dsv4_hip_open(none, &hip, &error), DSV4_ERROR_UNSUPPORTED);
    assert_ptr_equal(strstr(error.text, "no HIP runtime: "), error.text);
    assert_non_null(strstr(error.text, "libdsv4-nowhere.so.7"));
    assert_null(hip.library);
    assert_int_equal(dsv4_hip_open(wrong, &hip, &error), DSV4_ERROR_UNSUPPORTED);
    assert_string_equal(error.text, "libc.so.6 has no symbol hipRuntimeGetVersion");
    assert_null(hip.library);
}

static void failures_have_hips_words(void **state)
{
    (void)state;
    const dsv4_hip hip = {.hipGetErrorString = get_error_string};
    dsv4_error error = {0};
    assert_int_equal(dsv4_hip_check(&hip, 0, "hipGetDevice", NULL, &error), DSV4_OK);
    assert_int_equal(error.status, DSV4_OK);
    assert_int_equal(dsv4_hip_check(&hip, 100, "hipGetDevice", NULL, &error), DSV4_ERROR_DEVICE);
    assert_string_equal(error.text, "hipGetDevice: no ROCm-capable device is detected (100)");
    assert_int_equal(dsv4_hip_check(&hip, 7, "hipModuleGetFunction", "name", &error),
                     DSV4_ERROR_DEVICE);
    assert_string_equal(error.text, "hipModuleGetFunction name: unknown error (7)");
}

/* On a machine with AMD's runtime and a device it is the choice; anywhere else the text says what is missing. */
static void public_calls_answer_by_name(void **state)
{
    (void)state;
    dsv4_attn_params params;
    dsv4_attn_choice choice;
    dsv4_attn_params_default(&params);
    params.backend = DSV4_BACKEND_HIP;
    for (int i = 0; i < 2; i++) { /* the second time from what was found out */
        dsv4_error error = {0};
        if (dsv4_attn_choose(&params, &choice, &error) == DSV4_OK) {
            assert_string_equal(choice.backend, "hip");
        } else {
            assert_int_equal(error.status, DSV4_ERROR_UNSUPPORTED);
            assert_ptr_equal(strstr(error.text, "backend: hip, but "), error.text);
        }
    }
    dsv4_error error = {0};
    params.math = DSV4_ATTN_MATH_EXACT;
    assert_int_equal(dsv4_attn_choose(&params, &choice, &error), DSV4_ERROR_UNSUPPORTED);
    assert_string_equal(error.text, "math: exact, but the backend hip computes bf16 or fp8");
    params.math = DSV4_ATTN_MATH_AUTO;
    params.q_dtype = DSV4_DTYPE_F32;
    assert_int_equal(dsv4_attn_choose(&params, &choice, &error), DSV4_ERROR_UNSUPPORTED);
    assert_ptr_equal(strstr(error.text, "backend: hip, but the query or the cache is f32"),
                     error.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(all_symbols_are_bound, setup),
        cmocka_unit_test_setup(every_missing_symbol_is_named, setup),
        cmocka_unit_test_setup(old_versions_are_refused, setup),
        cmocka_unit_test_setup(first_good_version_is_taken, setup),
        cmocka_unit_test_setup(libraries_are_opened_by_name, setup),
        cmocka_unit_test_setup(failures_have_hips_words, setup),
        cmocka_unit_test_setup(public_calls_answer_by_name, setup),
    };
    return cmocka_run_group_tests_name("hip_library", tests, NULL, NULL);
}
