/*
 * test_hip_call.c - the program's own calls of a GPU, with a stand-in for AMD's runtime: every call of the runtime that a
 * decode, a merge and a benchmark make fails once, at each of its turns, is said by HIP's words, and nothing is left
 * behind. What is computed is not looked at: kernels do not run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "attn_bench_gpu.h"
#include "device_call.h"
#include "dsv4/attn.h"
#include "fake_hip.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum { N_REQUESTS = 2, N_HEADS = 4, N_INDICES = 8, PAGE_BYTES = 64 * 592, MOST_TURNS = 200 };

static _Alignas(64) unsigned char cache[PAGE_BYTES];
static _Alignas(64) uint16_t q[N_REQUESTS * N_HEADS * DSV4_ATTN_DIM];
static _Alignas(64) uint16_t out[N_REQUESTS * N_HEADS * DSV4_ATTN_DIM];
static float lse[N_REQUESTS * N_HEADS], sink[N_HEADS];
static int32_t indices[N_REQUESTS * N_INDICES];

static const dsv4_device_span written[DSV4_DEVICE_WRITTEN] = {
    {out, sizeof out}, {lse, sizeof lse}, {NULL, 0}};

static void make_params(dsv4_attn_params *p)
{
    dsv4_attn_params_default(p);
    p->backend = DSV4_BACKEND_HIP;
    p->n_requests = N_REQUESTS;
    p->n_heads = N_HEADS;
    p->window.n_pages = 1;
    p->window.n_indices = N_INDICES;
    dsv4_attn_params_set_dense(p);
    p->window.cache = cache;
    p->window.indices = indices;
    p->q = q;
    p->sink = sink;
    p->out = out;
    p->lse = lse;
}

static dsv4_status call_decode(dsv4_error *error)
{
    dsv4_attn_params params;
    make_params(&params);
    return dsv4_device_call_decode(&params, written, error);
}

static dsv4_status call_refused(dsv4_error *error)
{
    dsv4_attn_params params;
    make_params(&params);
    return dsv4_device_call_refused(&params, NULL, written, written, error);
}

static dsv4_status call_merge(dsv4_error *error)
{
    static const float lse_parts[2 * N_HEADS];
    const dsv4_attn_merge_params params = {.size = sizeof params,
                                           .n_parts = 2,
                                           .n_rows = 1,
                                           .n_heads = N_HEADS,
                                           .part_dtype = DSV4_DTYPE_BF16,
                                           .out_dtype = DSV4_DTYPE_BF16,
                                           .backend = DSV4_BACKEND_HIP,
                                           .out_parts = q,
                                           .lse_parts = lse_parts,
                                           .out = out,
                                           .lse = lse};
    return dsv4_device_call_merge(&params, written, error);
}

static dsv4_status call_bench(dsv4_error *error)
{
    dsv4_bench_gpu b;
    dsv4_bench_gpu_time time;
    dsv4_attn_params params;
    dsv4_bench_pool pool = {.cache = cache, .slots = indices, .n_slots = 64};
    static int32_t slots[64];
    pool.slots = slots;
    make_params(&params);
    dsv4_status status = dsv4_bench_gpu_open(&b, DSV4_BACKEND_HIP, true, &pool, &pool, q, COUNT(q),
                                             sink, N_HEADS, error);
    if (status == DSV4_OK) status = dsv4_bench_gpu_measure(&b, &params, &time, error);
    dsv4_bench_gpu_close(&b);
    return status;
}

typedef struct call_case {
    const char *name;
    dsv4_status (*call)(dsv4_error *error);
} call_case;

static const call_case calls[] = {{"decode", call_decode},
                                  {"refused", call_refused},
                                  {"merge", call_merge},
                                  {"bench", call_bench}};

/* What gives back may fail without a word. */
static const char *const functions[] = {"hipMalloc",
                                        "hipMemset",
                                        "hipMemcpy",
                                        "hipMemcpy2D",
                                        "hipDeviceSynchronize",
                                        "hipModuleLaunchKernel",
                                        "hipStreamCreateWithFlags",
                                        "hipStreamBeginCapture",
                                        "hipStreamEndCapture",
                                        "hipGraphInstantiateWithFlags",
                                        "hipGraphLaunch"};

static int setup(void **state)
{
    (void)state;
    fake_hip_reset();
    return 0;
}

static void calls_succeed_and_leave_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(calls); i++) {
        dsv4_error error = {0};
        if (calls[i].call(&error) != DSV4_OK) fail_msg("%s: %s", calls[i].name, error.text);
        assert_int_equal(fake_hip_n_blocks(), 0);
    }
}

/* Returns at how many turns the function was called. */
static int fail_at_each_turn(const call_case *c, const char *function)
{
    for (int turn = 1; turn < MOST_TURNS; turn++) {
        dsv4_error error = {0};
        fake_hip_reset();
        fake_hip_fail(function, turn, 719);
        const dsv4_status status = c->call(&error);
        if (fake_hip_count(function) < turn) { /* all turns have been */
            if (status != DSV4_OK) fail_msg("%s: %s", c->name, error.text);
            return turn - 1;
        }
        if (status != DSV4_ERROR_DEVICE || strstr(error.text, "a made-up failure") == NULL)
            fail_msg("%s, %s number %d: status %d, '%s'", c->name, function, turn, (int)status,
                     error.text);
        if (fake_hip_n_blocks() != 0)
            fail_msg("%s, %s number %d: %d blocks left", c->name, function, turn,
                     fake_hip_n_blocks());
    }
    return MOST_TURNS;
}

static void every_failure_is_said(void **state)
{
    (void)state;
    for (size_t f = 0; f < COUNT(functions); f++) {
        int n_turns = 0;
        for (size_t i = 0; i < COUNT(calls); i++) {
            n_turns += fail_at_each_turn(&calls[i], functions[f]);
        }
        if (n_turns == 0) fail_msg("%s is never called", functions[f]);
    }
}

/* A benchmark's step is captured: all launches of a measurement are the graph's. */
static void bench_captures_its_step(void **state)
{
    (void)state;
    dsv4_error error = {0};
    if (call_bench(&error) != DSV4_OK) fail_msg("%s", error.text);
    assert_int_equal(fake_hip_count("hipModuleLaunchKernel"), 1 + DSV4_BENCH_GPU_DECODES);
    assert_int_equal(fake_hip_count("hipGraphLaunch"), 1 + DSV4_BENCH_GPU_ROUNDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(calls_succeed_and_leave_nothing, setup),
        cmocka_unit_test_setup(every_failure_is_said, setup),
        cmocka_unit_test_setup(bench_captures_its_step, setup),
    };
    return cmocka_run_group_tests_name("hip_call", tests, NULL, NULL);
}
