/*
 * test_hip.c - the decode op's host side on AMD GPUs, with a stand-in for the runtime (tests/fake_hip): what is launched,
 * in which shape, with which bytes and on which stream; that nothing else is called; and every call that can fail.
 *
 * What a device is and its kernels stay for the process: a test that wants a device that no call has seen yet has one
 * of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "dsv4/attn.h"
#include "dsv4/cache.h"
#include "fake_hip.h"
#include "gpu/attn_host.h"
#include "gpu/code_objects.h"
#include "hip/hip_library.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum {
    DEVICE_PLAIN,
    DEVICE_GFX942,
    DEVICE_FOREIGN,
    DEVICE_FAILING,
    DEVICE_NO_FP8,
    DEVICE_SHARED,
    DEVICE_LARGE,
    DEVICE_NO_PLAN
};

enum { N_UNITS = 256, PAGE_ROWS = 64, MEMORY_BYTES = 1 << 23 };

static _Alignas(256) unsigned char memory[MEMORY_BYTES];

/* A call of host pointers, none of which is followed. */
typedef struct call {
    dsv4_attn_params params;
    size_t plan_bytes, workspace_bytes;
    unsigned char *plan, *workspace;
} call;

static const int32_t some_lengths[8] = {1, 2, 3, 4, 5, 6, 7, 8};

static void use_device(int device)
{
    fake_hip_set_n_devices(FAKE_HIP_DEVICES);
    assert_int_equal(hipSetDevice(device), 0);
    fake_hip_forget_calls();
}

static int setup(void **state)
{
    (void)state;
    fake_hip_reset();
    fake_hip_set_device(DEVICE_GFX942, "gfx942:sramecc+:xnack-", 304);
    fake_hip_set_device(DEVICE_FOREIGN, "gfx90a", 104);
    fake_hip_set_device(DEVICE_LARGE, "gfx950", 2000);
    use_device(DEVICE_PLAIN);
    return 0;
}

static void make_call(call *c, int64_t n_requests, int64_t n_heads)
{
    dsv4_attn_params *p = &c->params;
    dsv4_attn_params_default(p);
    p->backend = DSV4_BACKEND_HIP;
    p->n_requests = n_requests;
    p->n_heads = n_heads;
    p->window.n_pages = 4;
    p->window.page_rows = PAGE_ROWS;
    p->window.n_indices = 128;
    dsv4_attn_params_set_dense(p);
    p->window.page_stride_bytes = PAGE_ROWS * 592;
    p->q = memory;
    p->out = memory + 4096;
    p->lse = (float *)(void *)(memory + 8192);
    p->window.cache = memory + 12288;
    p->window.indices = (const int32_t *)(const void *)(memory + 16384);
    p->window.lengths = some_lengths;
    c->plan = memory + 32768;
    dsv4_error error = {0};
    if (dsv4_attn_plan_size(p, &c->plan_bytes, &c->workspace_bytes, &error) != DSV4_OK)
        fail_msg("plan_size: %s", error.text);
    c->workspace = c->plan + (c->plan_bytes + 255) / 256 * 256;
}

static dsv4_status build(call *c, void *stream, dsv4_error *error)
{
    return dsv4_attn_plan_build(stream, &c->params, c->plan, c->plan_bytes, error);
}

static dsv4_status decode(call *c, void *stream, dsv4_error *error)
{
    return dsv4_attn_decode(stream, &c->params, c->plan, c->plan_bytes, c->workspace,
                            c->workspace_bytes, error);
}

/* The only launch in the record. */
static const fake_hip_call *only_launch(void)
{
    const fake_hip_call *launch = fake_hip_only("hipModuleLaunchKernel");
    assert_non_null(launch);
    return launch;
}

static void assert_launch(const fake_hip_call *launch, const char *kernel, unsigned n_blocks,
                          unsigned n_threads, const void *stream)
{
    assert_string_equal(launch->kernel, kernel);
    assert_int_equal(launch->grid[0], n_blocks);
    assert_int_equal(launch->grid[1], 1);
    assert_int_equal(launch->grid[2], 1);
    assert_int_equal(launch->block[0], n_threads);
    assert_int_equal(launch->block[1], 1);
    assert_int_equal(launch->block[2], 1);
    assert_int_equal(launch->shared_bytes, 0); /* all of it is in the kernel's own declaration */
    assert_ptr_equal(launch->stream, stream);
}

/* Steps ask for the device and launch; nothing is allocated, copied or waited for. */
static void assert_only_launches(void)
{
    for (int i = 0; i < fake_hip_n_calls(); i++) {
        const char *name = fake_hip_call_at(i)->name;
        if (strcmp(name, "hipGetDeviceCount") != 0 && strcmp(name, "hipGetDevice") != 0 &&
            strcmp(name, "hipModuleLaunchKernel") != 0)
            fail_msg("call %d is %s", i, name);
    }
}

static void kernels_follow_the_heads(void **state)
{
    static const struct {
        int64_t n_heads;
        int32_t group_heads;
        const char *kernel;
        int32_t n_groups;
    } cases[] = {
        {1, 0, "dsv4_attn_bf16_h16", 1},   {16, 0, "dsv4_attn_bf16_h16", 1},
        {17, 0, "dsv4_attn_bf16_h32", 1},  {32, 0, "dsv4_attn_bf16_h32", 1},
        {33, 0, "dsv4_attn_bf16_h64", 1},  {64, 0, "dsv4_attn_bf16_h64", 1},
        {65, 0, "dsv4_attn_bf16_h64", 2},  {128, 0, "dsv4_attn_bf16_h64", 2},
        {64, 8, "dsv4_attn_bf16_h16", 4},  {64, 16, "dsv4_attn_bf16_h16", 4},
        {64, 32, "dsv4_attn_bf16_h32", 2}, {16, 64, "dsv4_attn_bf16_h64", 1},
    };
    void *stream;
    (void)state;
    assert_int_equal(hipStreamCreateWithFlags(&stream, 1), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        call c;
        attn_plan_args plan_args;
        make_call(&c, 3, cases[i].n_heads);
        c.params.group_heads = cases[i].group_heads;
        fake_hip_forget_calls();
        assert_int_equal(dsv4_attn_plan_size(&c.params, &c.plan_bytes, &c.workspace_bytes, NULL),
                         DSV4_OK);
        assert_int_equal(build(&c, stream, NULL), DSV4_OK);
        assert_launch(only_launch(), "dsv4_attn_plan", 1, ATTN_PLAN_THREADS, stream);
        memcpy(&plan_args, only_launch()->args, sizeof plan_args);
        assert_int_equal(plan_args.n_groups, cases[i].n_groups);
        assert_int_equal(plan_args.n_thread_blocks, N_UNITS);
        assert_only_launches();
        fake_hip_forget_calls();
        assert_int_equal(decode(&c, stream, NULL), DSV4_OK);
        assert_launch(only_launch(), cases[i].kernel, N_UNITS, DECODE_BLOCK_THREADS, stream);
        assert_only_launches();
    }
    assert_int_equal(hipStreamDestroy(stream), 0);
}

/* One block for each compute unit, as far as a plan can have them. */
static void blocks_follow_the_device(void **state)
{
    static const struct {
        int device;
        unsigned n_blocks;
    } cases[] = {{DEVICE_PLAIN, N_UNITS}, {DEVICE_GFX942, 304}, {DEVICE_LARGE, ATTN_PLAN_THREADS}};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        call c;
        use_device(cases[i].device);
        make_call(&c, 1, 16);
        fake_hip_forget_calls();
        assert_int_equal(decode(&c, NULL, NULL), DSV4_OK);
        assert_launch(only_launch(), "dsv4_attn_bf16_h16", cases[i].n_blocks, DECODE_BLOCK_THREADS,
                      NULL);
        assert_int_equal(only_launch()->device, cases[i].device);
    }
}

/* All bytes, and by name what ties host and kernel together. */
static void arguments_arrive(void **state)
{
    call c;
    attn_args args;
    attn_plan_args plan_args;
    (void)state;
    make_call(&c, 5, 24);
    c.params.sink = some_lengths[0] == 1 ? (const float *)(const void *)(memory + 20480) : NULL;
    fake_hip_forget_calls();
    assert_int_equal(build(&c, NULL, NULL), DSV4_OK);
    memcpy(&plan_args, only_launch()->args, sizeof plan_args);
    fake_hip_forget_calls();
    assert_int_equal(decode(&c, NULL, NULL), DSV4_OK);
    memcpy(&args, only_launch()->args, sizeof args);

    assert_ptr_equal(plan_args.plan, c.plan);
    assert_ptr_equal(plan_args.window_lengths, some_lengths);
    assert_null(plan_args.extra_lengths);
    assert_int_equal(plan_args.window_n_indices, 128);
    assert_int_equal(plan_args.extra_n_indices, 0);
    assert_int_equal(plan_args.n_requests, 5);
    assert_int_equal(plan_args.n_queries, 1);
    assert_int_equal(plan_args.may_split, 1);
    assert_true(plan_args.n_streams >= 1);
    assert_true(plan_args.split_fixed > 0 && plan_args.split > 0);

    assert_ptr_equal(args.plan, c.plan);
    assert_true(args.fingerprint != 0 && args.fingerprint == plan_args.fingerprint);
    assert_ptr_equal(args.arrivals, c.workspace);
    assert_ptr_equal(args.states, c.workspace + N_UNITS * 64);
    assert_true(c.workspace_bytes >= N_UNITS * 64 + N_UNITS * (size_t)args.state_bytes);
    assert_int_equal(args.state_bytes, ATTN_STATE_BYTES + 32 * DSV4_ATTN_DIM * 4);
    assert_int_equal(args.n_requests, 5);
    assert_int_equal(args.n_heads, 24);
    assert_ptr_equal(args.q, c.params.q);
    assert_ptr_equal(args.out, c.params.out);
    assert_ptr_equal(args.lse, c.params.lse);
    assert_ptr_equal(args.sink, c.params.sink);
    assert_ptr_equal(args.window.cache, c.params.window.cache);
    assert_ptr_equal(args.window.indices, c.params.window.indices);
    assert_int_equal(args.window.n_slots, 4 * PAGE_ROWS);
    assert_int_equal(args.extra.n_slots, 0);
    assert_int_equal(args.out_is_f32, 0);
    /* the last field: nothing is cut off */
    assert_int_equal(args.out_is_aligned, 1);
}

static void merge_is_launched(void **state)
{
    static const struct {
        int64_t n_rows, n_heads;
        unsigned n_blocks;
    } cases[] = {
        {1, 1, 1},
        {1, 8, 1},
        {1, 9, 2},
        {3, 16, 6},
        {1 << 22, 128, 1 << 20}, /* rows are taken in turns */
    };
    void *stream;
    (void)state;
    assert_int_equal(hipStreamCreateWithFlags(&stream, 1), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        attn_merge_args args;
        dsv4_attn_merge_params params = {.size = sizeof params,
                                         .n_parts = 2,
                                         .n_rows = cases[i].n_rows,
                                         .n_heads = cases[i].n_heads,
                                         .part_dtype = DSV4_DTYPE_BF16,
                                         .out_dtype = DSV4_DTYPE_F32,
                                         .backend = DSV4_BACKEND_HIP,
                                         .out_parts = (const void *)(uintptr_t)(UINT64_C(1) << 44),
                                         .lse_parts = (const float *)(const void *)memory,
                                         .out = memory};
        fake_hip_forget_calls();
        assert_int_equal(dsv4_attn_merge(stream, &params, NULL), DSV4_OK);
        assert_launch(only_launch(), "dsv4_attn_merge", cases[i].n_blocks, MERGE_THREADS, stream);
        assert_only_launches();
        memcpy(&args, only_launch()->args, sizeof args);
        assert_int_equal(args.n_rows, cases[i].n_rows);
        assert_int_equal(args.n_heads, cases[i].n_heads);
        assert_int_equal(args.part_is_f32, 0);
        assert_int_equal(args.out_is_f32, 1);
        assert_ptr_equal(args.out, memory);
        assert_ptr_equal(args.out_parts, params.out_parts);
        params.n_rows = 0;
        fake_hip_forget_calls();
        assert_int_equal(dsv4_attn_merge(stream, &params, NULL), DSV4_OK);
        assert_int_equal(fake_hip_count("hipModuleLaunchKernel"), 0);
    }
    assert_int_equal(hipStreamDestroy(stream), 0);
}

static void no_requests_launch_nothing(void **state)
{
    call c;
    (void)state;
    make_call(&c, 0, 16);
    fake_hip_forget_calls();
    assert_int_equal(build(&c, NULL, NULL), DSV4_OK);
    assert_int_equal(decode(&c, NULL, NULL), DSV4_OK);
    assert_int_equal(fake_hip_count("hipModuleLaunchKernel"), 0);
}

/* ---- graphs ---- */

static char ran[256];

static bool note_run(const char *kernel, const void *args, int n_blocks, int n_threads)
{
    (void)args;
    const size_t len = strlen(ran);
    (void)snprintf(ran + len, sizeof ran - len, "%s<%d,%d> ", kernel, n_blocks, n_threads);
    return true;
}

/* A captured step is its two kernels, replayed without us. */
static void steps_are_captured(void **state)
{
    void *stream, *graph, *exec, *nodes[8];
    size_t n_nodes = 8;
    call c;
    (void)state;
    make_call(&c, 2, 64);
    fake_hip_set_runner(note_run);
    ran[0] = 0;
    assert_int_equal(hipStreamCreateWithFlags(&stream, 1), 0);
    assert_int_equal(hipStreamBeginCapture(stream, 0), 0);
    assert_int_equal(build(&c, stream, NULL), DSV4_OK);
    assert_int_equal(decode(&c, stream, NULL), DSV4_OK);
    assert_int_equal(hipStreamEndCapture(stream, &graph), 0);
    assert_string_equal(ran, "");
    assert_int_equal(hipGraphGetNodes(graph, nodes, &n_nodes), 0);
    assert_int_equal(n_nodes, 2);
    assert_int_equal(hipGraphInstantiateWithFlags(&exec, graph, 0), 0);
    assert_int_equal(hipGraphDestroy(graph), 0);
    for (int i = 0; i < 2; i++) assert_int_equal(hipGraphLaunch(exec, stream), 0);
    assert_string_equal(ran, "dsv4_attn_plan<1,1024> dsv4_attn_bf16_h64<256,512> "
                             "dsv4_attn_plan<1,1024> dsv4_attn_bf16_h64<256,512> ");
    assert_int_equal(hipGraphExecDestroy(exec), 0);
    assert_int_equal(hipStreamDestroy(stream), 0);
}

/* ---- what can fail ---- */

static dsv4_status choose(int32_t math, dsv4_attn_choice *choice, dsv4_error *error)
{
    dsv4_attn_params params;
    dsv4_attn_params_default(&params);
    params.backend = DSV4_BACKEND_HIP;
    params.math = math;
    *error = (dsv4_error){0};
    return dsv4_attn_choose(&params, choice, error);
}

/* While a device is looked at for the first time; a failure is not kept. */
static void failing_first_calls_are_named(void **state)
{
    static const struct {
        const char *name;
        int n, hip_status;
        dsv4_status status;
        const char *text;
    } cases[] = {
        {"hipGetDeviceCount", 1, 100, DSV4_ERROR_UNSUPPORTED,
         "backend: hip, but no device can be used: hipGetDeviceCount: no ROCm-capable device is "
         "detected (100)"},
        {"hipGetDevice", 1, 101, DSV4_ERROR_UNSUPPORTED,
         "backend: hip, but no device can be used: hipGetDevice: a made-up failure (101)"},
        {"hipGetDevicePropertiesR0600", 1, 1, DSV4_ERROR_DEVICE,
         "hipGetDevicePropertiesR0600: a made-up failure (1)"},
        {"hipDeviceGetAttribute", 1, 1, DSV4_ERROR_DEVICE,
         "hipDeviceGetAttribute MultiprocessorCount: a made-up failure (1)"},
        {"hipModuleLoadData", 1, 2, DSV4_ERROR_DEVICE,
         "hipModuleLoadData gfx950: out of memory (2)"},
        {"hipModuleGetFunction", 1, 1, DSV4_ERROR_DEVICE,
         "hipModuleGetFunction dsv4_attn_plan: a made-up failure (1)"},
        {"hipModuleGetFunction", 3, 1, DSV4_ERROR_DEVICE,
         "hipModuleGetFunction dsv4_attn_bf16_h16: a made-up failure (1)"},
    };
    dsv4_attn_choice choice;
    dsv4_error error;
    (void)state;
    use_device(DEVICE_FAILING);
    for (size_t i = 0; i < COUNT(cases); i++) {
        fake_hip_forget_calls();
        fake_hip_fail(cases[i].name, cases[i].n, cases[i].hip_status);
        assert_int_equal(choose(DSV4_ATTN_MATH_AUTO, &choice, &error), cases[i].status);
        assert_string_equal(error.text, cases[i].text);
        if (strcmp(cases[i].name, "hipModuleGetFunction") == 0)
            assert_int_equal(fake_hip_count("hipModuleUnload"), 1);
    }
    fake_hip_fail(NULL, 0, 0);
    assert_int_equal(choose(DSV4_ATTN_MATH_AUTO, &choice, &error), DSV4_OK);
    assert_string_equal(choice.backend, "hip");
    assert_string_equal(choice.kernel, "gfx950");
    assert_string_equal(choice.math, "bf16");
}

static void failing_launches_are_named(void **state)
{
    call c;
    dsv4_error error = {0};
    (void)state;
    make_call(&c, 2, 32);
    fake_hip_fail("hipModuleLaunchKernel", 0, 719);
    assert_int_equal(build(&c, NULL, &error), DSV4_ERROR_DEVICE);
    assert_string_equal(error.text,
                        "hipModuleLaunchKernel dsv4_attn_plan: a made-up failure (719)");
    assert_int_equal(decode(&c, NULL, &error), DSV4_ERROR_DEVICE);
    assert_string_equal(error.text,
                        "hipModuleLaunchKernel dsv4_attn_bf16_h32: a made-up failure (719)");
    dsv4_attn_merge_params merge = {.size = sizeof merge,
                                    .n_parts = 1,
                                    .n_rows = 1,
                                    .n_heads = 1,
                                    .part_dtype = DSV4_DTYPE_F32,
                                    .out_dtype = DSV4_DTYPE_F32,
                                    .backend = DSV4_BACKEND_HIP,
                                    .out_parts = memory,
                                    .lse_parts = (const float *)(const void *)memory,
                                    .out = memory + 65536};
    assert_int_equal(dsv4_attn_merge(NULL, &merge, &error), DSV4_ERROR_DEVICE);
    assert_string_equal(error.text,
                        "hipModuleLaunchKernel dsv4_attn_merge: a made-up failure (719)");
    fake_hip_fail("hipGetDevice", 0, 3);
    assert_int_equal(decode(&c, NULL, &error), DSV4_ERROR_UNSUPPORTED);
    assert_non_null(strstr(error.text, "hipGetDevice: a made-up failure (3)"));
}

static void other_machines_are_refused(void **state)
{
    dsv4_attn_choice choice;
    dsv4_error error;
    (void)state;
    use_device(DEVICE_FOREIGN);
    assert_int_equal(choose(DSV4_ATTN_MATH_AUTO, &choice, &error), DSV4_ERROR_UNSUPPORTED);
    assert_string_equal(error.text,
                        "backend: hip, but the device is gfx90a: expected gfx950 or gfx942");
    assert_int_equal(fake_hip_count("hipModuleLoadData"), 0);
    fake_hip_set_device(DEVICE_FOREIGN, "gfx9500", 1);
    assert_int_equal(choose(DSV4_ATTN_MATH_AUTO, &choice, &error), DSV4_ERROR_UNSUPPORTED);
    assert_non_null(strstr(error.text, "the device is gfx9500"));
    fake_hip_set_device(DEVICE_FOREIGN, "Radeon", 1); /* another layout of the properties */
    assert_int_equal(choose(DSV4_ATTN_MATH_AUTO, &choice, &error), DSV4_ERROR_DEVICE);
    assert_string_equal(error.text,
                        "hipGetDevicePropertiesR0600: no name of an architecture at byte 1160");
    fake_hip_set_device(DEVICE_FOREIGN, "gfx950", 0);
    assert_int_equal(choose(DSV4_ATTN_MATH_AUTO, &choice, &error), DSV4_ERROR_DEVICE);
    assert_non_null(strstr(error.text, "MultiprocessorCount: 0, expected at least 1"));
}

static void no_device_is_refused(void **state)
{
    dsv4_attn_choice choice;
    dsv4_error error;
    (void)state;
    fake_hip_set_n_devices(0);
    assert_int_equal(choose(DSV4_ATTN_MATH_AUTO, &choice, &error), DSV4_ERROR_UNSUPPORTED);
    assert_non_null(
        strstr(error.text, "no device can be used: hipGetDeviceCount: no ROCm-capable"));
}

static void choices_are_named(void **state)
{
    dsv4_attn_choice choice;
    dsv4_error error;
    (void)state;
    use_device(DEVICE_PLAIN);
    dsv4_attn_params params;
    dsv4_attn_params_default(&params);
    params.backend = DSV4_BACKEND_HIP;
    params.math = DSV4_ATTN_MATH_FP8;
    params.out_dtype = DSV4_DTYPE_FP8;
    assert_int_equal(dsv4_attn_choose(&params, &choice, &error), DSV4_ERROR_UNSUPPORTED);
    assert_string_equal(error.text, "math: fp8, but out_dtype is FP8: expected bf16 or f32");
    params.out_dtype = DSV4_DTYPE_F32;
    assert_int_equal(dsv4_attn_choose(&params, &choice, &error), DSV4_OK);
    assert_string_equal(choice.math, "fp8");
    use_device(DEVICE_GFX942);
    assert_int_equal(choose(DSV4_ATTN_MATH_BF16, &choice, &error), DSV4_OK);
    assert_string_equal(choice.kernel, "gfx942");
}

/* A code object without some kernels: what needs them is refused by their name, the rest works. */
static void missing_kernels_are_refused(void **state)
{
    dsv4_attn_choice choice;
    dsv4_error error;
    (void)state;
    use_device(DEVICE_NO_FP8);
    fake_hip_hide_kernels("dsv4_attn_fp8");
    assert_int_equal(choose(DSV4_ATTN_MATH_FP8, &choice, &error), DSV4_ERROR_UNSUPPORTED);
    assert_string_equal(error.text, "math: fp8, but this build's code for gfx950 has no kernel "
                                    "dsv4_attn_fp8_h16: expected bf16");
    assert_int_equal(choose(DSV4_ATTN_MATH_AUTO, &choice, &error), DSV4_OK);
    assert_string_equal(choice.math, "bf16");

    use_device(DEVICE_NO_PLAN);
    fake_hip_hide_kernels("dsv4_attn_plan");
    assert_int_equal(choose(DSV4_ATTN_MATH_AUTO, &choice, &error), DSV4_ERROR_UNSUPPORTED);
    assert_string_equal(error.text, "backend: hip, but this build's code for gfx950 has no kernel "
                                    "dsv4_attn_plan");
}

/* ---- first calls ---- */

/* A runtime that the process has comes before one that would have to be loaded, whatever the order of names. */
static void open_runtime_comes_first(void **state)
{
    static const char *const names[] = {"libresolv.so.2", "libamdhip64.so.7", NULL};
    dsv4_hip hip;
    dsv4_error error = {0};
    (void)state;
    fake_hip_set_version(60342134);
    if (dsv4_hip_open(names, &hip, &error) != DSV4_OK) fail_msg("%s", error.text);
    assert_string_equal(hip.name, "libamdhip64.so.7");
    assert_int_equal(hip.version, 60342134);
    fake_hip_set_version(50733341);
    assert_int_equal(dsv4_hip_open(names, &hip, &error), DSV4_ERROR_UNSUPPORTED);
    assert_ptr_equal(strstr(error.text, "libamdhip64.so.7 is HIP 5.7 (50733341): expected 6.0"),
                     error.text);
}

static void *choose_in_thread(void *unused)
{
    dsv4_attn_choice choice;
    dsv4_error error;
    (void)unused;
    return choose(DSV4_ATTN_MATH_AUTO, &choice, &error) == DSV4_OK ? NULL : &memory;
}

/* Whoever comes first loads the kernels, once. */
static void kernels_are_loaded_once(void **state)
{
    enum { N_THREADS = 8 };
    pthread_t threads[N_THREADS];
    (void)state;
    use_device(DEVICE_SHARED);
    for (int i = 0; i < N_THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, choose_in_thread, NULL), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        void *result = &memory;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_null(result);
    }
    assert_int_equal(fake_hip_count("hipModuleLoadData"), 1);
    assert_int_equal(fake_hip_count("hipRuntimeGetVersion"), 0); /* long known */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(kernels_follow_the_heads, setup),
        cmocka_unit_test_setup(blocks_follow_the_device, setup),
        cmocka_unit_test_setup(arguments_arrive, setup),
        cmocka_unit_test_setup(merge_is_launched, setup),
        cmocka_unit_test_setup(no_requests_launch_nothing, setup),
        cmocka_unit_test_setup(steps_are_captured, setup),
        cmocka_unit_test_setup(failing_first_calls_are_named, setup),
        cmocka_unit_test_setup(failing_launches_are_named, setup),
        cmocka_unit_test_setup(other_machines_are_refused, setup),
        cmocka_unit_test_setup(no_device_is_refused, setup),
        cmocka_unit_test_setup(choices_are_named, setup),
        cmocka_unit_test_setup(missing_kernels_are_refused, setup),
        cmocka_unit_test_setup(open_runtime_comes_first, setup),
        cmocka_unit_test_setup(kernels_are_loaded_once, setup),
    };
    return cmocka_run_group_tests_name("hip", tests, NULL, NULL);
}
