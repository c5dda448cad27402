/*
 * test_attn_choice.c - the fields of dsv4/attn.h that say how inputs are stored, and official math:
 * their defaults, their dense strides, and which arithmetic dsv4_attn_choose answers for them; and what decides that the
 * lists of a request's queries are joined.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cuda/attn_cuda.h"
#include "dsv4/attn.h"
#include "dsv4/cache.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static void defaults_are_those_of_fp8(void **state)
{
    (void)state;
    dsv4_attn_params params;
    memset(&params, 0x5a, sizeof params);
    dsv4_attn_params_default(&params);
    assert_int_equal(params.q_dtype, DSV4_DTYPE_BF16);
    assert_int_equal(params.cuda_kernel, DSV4_CUDA_KERNEL_AUTO);
    assert_int_equal(params.join_queries, DSV4_JOIN_AUTO);
    assert_int_equal(params.reserved, 0);
    assert_int_equal(params.window.row_format, DSV4_ATTN_ROWS_FP8);
    assert_int_equal(params.window.reserved, 0);
    assert_int_equal(params.extra.row_format, DSV4_ATTN_ROWS_FP8);
    assert_int_equal(params.extra.reserved, 0);
}

static void dense_strides_follow_the_formats(void **state)
{
    (void)state;
    dsv4_attn_params params;
    dsv4_attn_params_default(&params);
    params.n_queries = 2;
    params.n_heads = 3;
    params.q_dtype = DSV4_DTYPE_F32;
    params.window.row_format = DSV4_ATTN_ROWS_F32;
    dsv4_attn_params_set_dense(&params);
    assert_int_equal(params.q_head_stride_bytes, 2048);
    assert_int_equal(params.q_query_stride_bytes, 3 * 2048);
    assert_int_equal(params.q_request_stride_bytes, 2 * 3 * 2048);
    assert_int_equal(params.window.page_stride_bytes, 64 * 2048);
    assert_int_equal(params.extra.page_stride_bytes, dsv4_cache_page_stride_bytes(64));
    params.window.page_rows = INT64_MAX / 1024; /* does not fit */
    dsv4_attn_params_set_dense(&params);
    assert_int_equal(params.window.page_stride_bytes, -1);
}

/* Asks for `math` with one input in f32: the query, the window or the second scope. */
static dsv4_status choose_with_f32(int32_t backend, int32_t math, int which,
                                   dsv4_attn_choice *choice, dsv4_error *error)
{
    dsv4_attn_params params;
    dsv4_attn_params_default(&params);
    params.backend = backend;
    params.math = math;
    params.window.n_pages = params.extra.n_pages = 1;
    if (which == 0) params.q_dtype = DSV4_DTYPE_F32;
    if (which == 1) params.window.row_format = DSV4_ATTN_ROWS_F32;
    if (which == 2) params.extra.row_format = DSV4_ATTN_ROWS_F32;
    return dsv4_attn_choose(&params, choice, error);
}

/* The text opens with what was asked and says what to ask instead. */
static void assert_unsupported(dsv4_status status, const dsv4_error *error, const char *begin)
{
    assert_int_equal(status, DSV4_ERROR_UNSUPPORTED);
    assert_int_equal(error->status, DSV4_ERROR_UNSUPPORTED);
    if (strncmp(error->text, begin, strlen(begin)) != 0 || !strstr(error->text, "exact")) {
        fail_msg("text is '%s', expected '%s' and then 'exact'", error->text, begin);
    }
}

static void f32_inputs_are_exact_or_refused(void **state)
{
    static const int32_t exact[] = {DSV4_ATTN_MATH_AUTO, DSV4_ATTN_MATH_EXACT};
    (void)state;
    for (int32_t backend = DSV4_BACKEND_AUTO; backend <= DSV4_BACKEND_CPU; backend++) {
        for (int which = 0; which < 3; which++) {
            dsv4_status status;
            dsv4_attn_choice choice = {0};
            dsv4_error error = {0};
            for (size_t i = 0; i < COUNT(exact); i++) {
                status = choose_with_f32(backend, exact[i], which, &choice, &error);
                assert_int_equal(status, DSV4_OK);
                assert_string_equal(choice.math, "exact");
                assert_string_not_equal(choice.kernel, "avx512bf16");
            }
            status = choose_with_f32(backend, DSV4_ATTN_MATH_OFFICIAL, which, &choice, &error);
            assert_unsupported(status, &error, "math: official");
            status = choose_with_f32(backend, DSV4_ATTN_MATH_BF16, which, &choice, &error);
            assert_unsupported(status, &error, "math: bf16");
        }
    }
}

/* The format of a scope without pages decides nothing. */
static void absent_f32_scope_leaves_the_choice(void **state)
{
    (void)state;
    dsv4_attn_params params;
    dsv4_attn_choice choice;
    dsv4_attn_params_default(&params);
    params.math = DSV4_ATTN_MATH_OFFICIAL;
    params.window.row_format = params.extra.row_format = DSV4_ATTN_ROWS_F32;
    assert_int_equal(dsv4_attn_choose(&params, &choice, NULL), DSV4_OK);
    assert_string_equal(choice.math, "official");
}

static void official_math_is_chosen_everywhere(void **state)
{
    (void)state;
    for (int32_t level = DSV4_CPU_LEVEL_AUTO; level <= dsv4_cpu_level(); level++) {
        dsv4_attn_params params;
        dsv4_attn_choice choice;
        dsv4_attn_params_default(&params);
        params.math = DSV4_ATTN_MATH_OFFICIAL;
        params.cpu_level = level;
        assert_int_equal(dsv4_attn_choose(&params, &choice, NULL), DSV4_OK);
        assert_string_equal(choice.backend, "cpu");
        assert_string_equal(choice.math, "official");
        assert_string_equal(
            choice.kernel,
            dsv4_cpu_level_name(level == DSV4_CPU_LEVEL_AUTO ? dsv4_cpu_level() : level));
        params.backend = DSV4_BACKEND_REF;
        assert_int_equal(dsv4_attn_choose(&params, &choice, NULL), DSV4_OK);
        assert_string_equal(choice.backend, "ref");
        assert_string_equal(choice.math, "official");
    }
}

static void assert_text(const dsv4_error *error, const char *expected)
{
    assert_int_equal(error->status, DSV4_ERROR_UNSUPPORTED);
    assert_string_equal(error->text, expected);
}

/* By every level, and before what is wrong with the inputs or the output. */
static void fp8_math_is_refused_by_the_cpu(void **state)
{
    static const char by_cpu[] =
        "math: fp8, but the backend cpu has no FP8 products: expected the backend cuda or hip";
    static const char by_ref[] =
        "math: fp8, but the backend ref has no FP8 products: expected the backend cuda or hip";
    (void)state;
    for (int32_t level = DSV4_CPU_LEVEL_AUTO; level <= dsv4_cpu_level(); level++) {
        dsv4_attn_params params;
        dsv4_attn_choice choice;
        dsv4_error error = {0};
        size_t n_bytes;
        dsv4_attn_params_default(&params);
        params.n_requests = params.n_heads = 1;
        dsv4_attn_params_set_dense(&params);
        params.math = DSV4_ATTN_MATH_FP8;
        params.cpu_level = level;
        for (int32_t backend = DSV4_BACKEND_AUTO; backend <= DSV4_BACKEND_CPU; backend++) {
            params.backend = backend;
            const char *expected = backend == DSV4_BACKEND_REF ? by_ref : by_cpu;
            assert_int_equal(dsv4_attn_choose(&params, &choice, &error), DSV4_ERROR_UNSUPPORTED);
            assert_text(&error, expected);
            assert_int_equal(dsv4_attn_plan_size(&params, &n_bytes, &n_bytes, &error),
                             DSV4_ERROR_UNSUPPORTED);
            assert_text(&error, expected);
        }
    }
}

/*
 * On the backend cuda: as bf16 where there is no device, else it is there or the text says what the device or the
 * choice lacks.
 */
static void fp8_math_on_cuda_is_chosen_or_explained(void **state)
{
    (void)state;
    dsv4_attn_params params;
    dsv4_attn_choice choice = {0};
    dsv4_error bf16 = {0}, fp8 = {0};
    dsv4_attn_params_default(&params);
    params.backend = DSV4_BACKEND_CUDA;
    const dsv4_status status = dsv4_attn_choose(&params, &choice, &bf16);
    params.math = DSV4_ATTN_MATH_FP8;
    if (status != DSV4_OK) {
        assert_int_equal(dsv4_attn_choose(&params, &choice, &fp8), status);
        assert_string_equal(fp8.text, bf16.text);
        return;
    }
    if (dsv4_attn_choose(&params, &choice, &fp8) != DSV4_OK) {
        assert_non_null(strstr(fp8.text, "math: fp8, but the device is sm_"));
        assert_non_null(strstr(fp8.text, "expected sm_90"));
        return;
    }
    assert_string_equal(choice.kernel, "sm90");
    assert_string_equal(choice.math, "fp8");
    params.cuda_kernel = DSV4_CUDA_KERNEL_MMA;
    assert_int_equal(dsv4_attn_choose(&params, &choice, &fp8), DSV4_ERROR_UNSUPPORTED);
    assert_text(&fp8,
                "math: fp8, but the kernel mma with it is not: expected cuda_kernel auto or sm90");
    params.cuda_kernel = DSV4_CUDA_KERNEL_AUTO;
    params.out_dtype = DSV4_DTYPE_FP8;
    assert_int_equal(dsv4_attn_choose(&params, &choice, &fp8), DSV4_ERROR_UNSUPPORTED);
    assert_text(&fp8, "math: fp8, but FP8 output of it is not: expected out_dtype bf16 or f32");
}

static void assert_cuda_refuses(const dsv4_attn_params *params, const char *field, const char *rule)
{
    dsv4_error error;
    assert_int_equal(dsv4_attn_decode(NULL, params, NULL, 0, NULL, 0, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_ptr_equal(strstr(error.text, field), error.text);
    assert_non_null(strstr(error.text, rule));
}

/* Needs no device: parameters are checked before one is looked for. */
static void cuda_wants_rows_of_16_bytes(void **state)
{
    (void)state;
    static _Alignas(64) unsigned char memory[4096];
    static const int32_t index = 0;
    dsv4_attn_params params;
    dsv4_attn_params_default(&params);
    params.n_requests = params.n_heads = params.window.n_indices = params.window.n_pages = 1;
    params.window.page_rows = 1;
    dsv4_attn_params_set_dense(&params);
    params.backend = DSV4_BACKEND_CUDA;
    params.q = params.window.cache = params.out = memory;
    params.window.indices = &index;
    params.window.page_stride_bytes = 584;
    assert_cuda_refuses(&params, "window.page_stride_bytes: 584", "multiple of 16 on CUDA");
    params.window.page_stride_bytes = 592;
    params.window.cache = memory + 8;
    assert_cuda_refuses(&params, "window.cache: ", "multiple of 16 bytes");
}

/* The same of the merge. What an aligned call answers depends on the machine: no more than that it is no crash. */
static void cuda_merges_values_of_16_bytes(void **state)
{
    (void)state;
    static _Alignas(64) unsigned char memory[16384];
    dsv4_error error;
    dsv4_attn_merge_params params = {.size = sizeof params,
                                     .n_parts = 2,
                                     .n_rows = 1,
                                     .n_heads = 1,
                                     .part_dtype = DSV4_DTYPE_BF16,
                                     .out_dtype = DSV4_DTYPE_F32,
                                     .backend = DSV4_BACKEND_CUDA,
                                     .out_parts = memory,
                                     .lse_parts = (const float *)(const void *)(memory + 4096),
                                     .out = memory + 8192};
    params.out_parts = memory + 8;
    assert_int_equal(dsv4_attn_merge(NULL, &params, &error), DSV4_ERROR_INVALID_ARGUMENT);
    assert_ptr_equal(strstr(error.text, "out_parts: address "), error.text);
    assert_non_null(strstr(error.text, "multiple of 16 bytes"));
    params.out_parts = memory;
    params.out = memory + 8196;
    assert_int_equal(dsv4_attn_merge(NULL, &params, &error), DSV4_ERROR_INVALID_ARGUMENT);
    assert_ptr_equal(strstr(error.text, "out: address "), error.text);
    params.out = memory + 8192;
    params.n_rows = 0; /* nothing to do, on a device that is there */
    dsv4_status status = dsv4_attn_merge(memory, &params, &error);
    assert_true(status == DSV4_OK || status == DSV4_ERROR_UNSUPPORTED);
    for (int32_t backend = DSV4_BACKEND_AUTO; backend <= DSV4_BACKEND_CPU; backend++) {
        params.backend = backend;
        assert_int_equal(dsv4_attn_merge(memory, &params, &error), DSV4_ERROR_INVALID_ARGUMENT);
        assert_non_null(strstr(error.text, "expected NULL on the CPU"));
        assert_int_equal(dsv4_attn_merge(NULL, &params, &error), DSV4_OK);
    }
}

/* ---- joined lists ---- */

/* A step with queries of neighbouring tokens, whose lists have 128 and 512 entries. */
static dsv4_attn_params neighbours(int64_t n_requests, int64_t n_queries, int64_t n_heads)
{
    dsv4_attn_params params;
    dsv4_attn_params_default(&params);
    params.backend = DSV4_BACKEND_CUDA;
    params.n_requests = n_requests;
    params.n_queries = n_queries;
    params.n_heads = n_heads;
    params.window.n_pages = params.extra.n_pages = 1000;
    params.window.n_indices = 128;
    params.extra.n_indices = 512;
    dsv4_attn_params_set_dense(&params);
    return params;
}

static void assert_join_refused(int32_t join_queries, int32_t reserved, const char *expected)
{
    dsv4_attn_params params = neighbours(1, 2, 8);
    dsv4_error error = {0};
    size_t n_bytes;
    params.backend = DSV4_BACKEND_REF; /* which ignores it, but not what it cannot be */
    params.join_queries = join_queries;
    params.reserved = reserved;
    assert_int_equal(dsv4_attn_plan_size(&params, &n_bytes, &n_bytes, &error),
                     DSV4_ERROR_INVALID_ARGUMENT);
    assert_string_equal(error.text, expected);
}

static void join_queries_is_checked(void **state)
{
    (void)state;
    assert_join_refused(-1, 0, "join_queries: -1, expected 0 .. 2");
    assert_join_refused(3, 0, "join_queries: 3, expected 0 .. 2");
    assert_join_refused(INT32_MIN, 0, "join_queries: -2147483648, expected 0 .. 2");
    assert_join_refused(0, 1, "reserved: 1, expected 0 .. 0");
    for (int32_t join = DSV4_JOIN_AUTO; join <= DSV4_JOIN_ALWAYS; join++) {
        dsv4_attn_params params = neighbours(1, 2, 8);
        size_t n_bytes;
        params.backend = DSV4_BACKEND_REF;
        params.join_queries = join;
        assert_int_equal(dsv4_attn_plan_size(&params, &n_bytes, &n_bytes, NULL), DSV4_OK);
    }
}

static bool can_join(const dsv4_attn_params *params)
{
    int32_t group_heads = -1;
    const bool can = dsv4_attn_gpu_can_join(params, &group_heads);
    if (can) assert_int_equal(group_heads, params->n_queries * params->n_heads);
    return can;
}

static void lists_of_some_shapes_can_be_joined(void **state)
{
    static const struct {
        int64_t n_heads, n_queries;
        bool can;
    } shapes[] = {{8, 1, false},  {8, 2, true},  {8, 3, true},   {8, 4, true},
                  {8, 5, false},  {16, 4, true}, {32, 2, true},  {32, 3, false},
                  {64, 2, false}, {4, 2, false}, {24, 2, false}, {12, 4, false}};
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++) {
        const dsv4_attn_params params = neighbours(3, shapes[i].n_queries, shapes[i].n_heads);
        if (can_join(&params) != shapes[i].can)
            fail_msg("%d heads, %d queries", (int)shapes[i].n_heads, (int)shapes[i].n_queries);
    }
}

/* A slot and the bits of queries are one number; what is not a slot of any pool says NaN. */
static void lists_of_small_pools_can_be_joined(void **state)
{
    (void)state;
    dsv4_attn_params params = neighbours(3, 2, 8);
    params.extra.page_rows = 2;
    params.extra.n_pages = (1 << 27) - 1; /* 2^28 - 2 rows */
    assert_true(can_join(&params));
    params.extra.page_rows = 1;
    params.extra.n_pages = (1 << 28) - 1;
    assert_false(can_join(&params));
    params.extra.page_rows = 1 << 20;
    params.extra.n_pages = INT64_MAX;
    assert_false(can_join(&params));
    params.extra.n_pages = 0; /* absent: nothing else of it is read */
    params.extra.page_rows = 0;
    params.window.n_indices = 1 << 17;
    assert_true(can_join(&params));
    params.window.n_indices++;
    assert_false(can_join(&params));
    params.window.n_indices = 100;
    params.math = DSV4_ATTN_MATH_FP8;
    assert_false(can_join(&params));
}

/* On a device that need not be there; false: this build has no CUDA. */
static bool describe(const dsv4_attn_params *params, int major, dsv4_attn_gpu_shape *gpu)
{
    const dsv4_attn_cuda_device device = {
        .major = major, .n_multiprocessors = 132, .shared_bytes = 228 * 1024};
    dsv4_attn_cuda_shape shape;
    dsv4_error error;
    const dsv4_status status = dsv4_attn_cuda_describe(params, &device, &shape, &error);
    if (status == DSV4_ERROR_UNSUPPORTED) return false;
    assert_int_equal(status, DSV4_OK);
    *gpu = shape.gpu;
    return true;
}

/* Heads of the kernel that is chosen, negative where it does not join lists; 0: a build without CUDA. */
static int32_t chosen_heads(const dsv4_attn_params *params, int major)
{
    dsv4_attn_gpu_shape gpu = {0};
    if (!describe(params, major, &gpu)) return 0;
    const int64_t n = (gpu.state_bytes - ATTN_STATE_BYTES) / (DSV4_ATTN_DIM * 4);
    return (int32_t)(gpu.is_joined ? n : -n);
}

static void lists_are_joined_where_it_gains(void **state)
{
    enum { AUTO = DSV4_JOIN_AUTO, NEVER = DSV4_JOIN_NEVER, ALWAYS = DSV4_JOIN_ALWAYS };
    enum { ANY = DSV4_CUDA_KERNEL_AUTO, MMA = DSV4_CUDA_KERNEL_MMA };
    static const struct {
        int64_t n_requests, n_queries, n_heads;
        int32_t join, major, kernel, group, expected;
    } calls[] = {
        {256, 2, 8, AUTO, 9, ANY, 0, -8},     {256, 2, 16, AUTO, 9, ANY, 0, -16},
        {256, 2, 32, AUTO, 9, ANY, 0, -32},   {256, 4, 16, AUTO, 9, ANY, 0, 64},
        {256, 3, 8, AUTO, 9, ANY, 0, 32},     {256, 2, 64, AUTO, 9, ANY, 0, -64},
        {64, 4, 8, AUTO, 9, ANY, 0, -8},      {256, 4, 16, NEVER, 9, ANY, 0, -16},
        {256, 2, 64, ALWAYS, 9, ANY, 0, -64}, {256, 2, 32, NEVER, 9, ANY, 0, -32},
        {1, 2, 8, AUTO, 9, ANY, 0, -8},       {1, 2, 8, ALWAYS, 9, ANY, 0, 16},
        {256, 2, 8, ALWAYS, 9, MMA, 0, 16},   {256, 2, 16, ALWAYS, 9, MMA, 0, -16},
        {256, 2, 8, ALWAYS, 8, ANY, 0, 16},   {256, 4, 8, ALWAYS, 8, ANY, 0, -8},
        {256, 2, 8, ALWAYS, 9, ANY, 8, -8},   {256, 2, 8, ALWAYS, 9, ANY, 64, 64},
        {256, 2, 8, ALWAYS, 9, MMA, 16, 16},  {256, 2, 8, ALWAYS, 9, MMA, 8, -8},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(calls); i++) {
        dsv4_attn_params params =
            neighbours(calls[i].n_requests, calls[i].n_queries, calls[i].n_heads);
        params.join_queries = calls[i].join;
        params.cuda_kernel = calls[i].kernel;
        params.group_heads = calls[i].group;
        const int32_t heads = chosen_heads(&params, calls[i].major);
        if (heads == 0) skip();
        if (heads != calls[i].expected)
            fail_msg("call %d: %d, expected %d", (int)i, heads, calls[i].expected);
    }
}

/* Joined lists make another plan, of one task for all queries, and need memory at the end of the workspace. */
static void joined_lists_have_plans_and_memory_of_their_own(void **state)
{
    (void)state;
    dsv4_attn_params params = neighbours(5, 2, 8);
    dsv4_attn_gpu_shape joined = {0}, other = {0};
    params.join_queries = DSV4_JOIN_ALWAYS;
    params.window.n_indices = 127;
    params.group_heads = 16;
    params.cuda_kernel = DSV4_CUDA_KERNEL_MMA;
    if (!describe(&params, 9, &joined)) skip();
    params.join_queries = DSV4_JOIN_NEVER;
    assert_true(describe(&params, 9, &other));
    assert_true(joined.is_joined && !other.is_joined);
    assert_int_equal(joined.n_thread_blocks, other.n_thread_blocks);
    assert_int_equal(joined.state_bytes, other.state_bytes);
    assert_int_not_equal(joined.fingerprint, other.fingerprint);
    assert_int_equal(joined.joined_pitch, 4 + 2 * 127 + 2 * 512 + 2); /* a multiple of 16 bytes */
    assert_int_equal(joined.workspace_bytes, other.workspace_bytes + 5 * 4 * 1284);
    assert_int_equal(joined.plan_bytes + 5 * sizeof(attn_part), other.plan_bytes);
    assert_int_equal(other.workspace_bytes % 16, 0);
}

/* With fixed_split the batch decides nothing, and nothing is joined that nobody asked for. */
static void fixed_split_joins_whatever_the_batch(void **state)
{
    (void)state;
    for (int64_t n_heads = 8; n_heads <= 32; n_heads *= 2) {
        for (int32_t join = DSV4_JOIN_AUTO; join <= DSV4_JOIN_ALWAYS; join += DSV4_JOIN_ALWAYS) {
            dsv4_attn_params params = neighbours(1, 64 / n_heads > 4 ? 4 : 64 / n_heads, n_heads);
            params.fixed_split = 1;
            params.join_queries = join;
            const int32_t heads = chosen_heads(&params, 9);
            if (heads == 0) skip();
            assert_true((heads > 0) == (join == DSV4_JOIN_ALWAYS));
            for (int64_t n = 2; n < 3000; n += n / 2) {
                params.n_requests = n;
                assert_int_equal(chosen_heads(&params, 9), heads);
            }
        }
    }
}

/* The batch is not known then, and ways are compared by the same work: few heads take the way of few. */
static void fixed_split_takes_the_faster_way(void **state)
{
    (void)state;
    for (int64_t n_heads = 8; n_heads <= 64; n_heads *= 2) {
        dsv4_attn_params params = neighbours(1, 1, n_heads);
        params.fixed_split = 1;
        const int32_t heads = chosen_heads(&params, 9);
        if (heads == 0) skip();
        assert_int_equal(-heads, n_heads);
    }
}

/* AUTO wants lists that are worth it, and are matched as a whole. */
static void lists_of_some_lengths_are_joined(void **state)
{
    static const struct {
        int64_t window, extra;
        bool expected;
    } lists[] = {{128, 512, true},   {128, 1024, true}, {128, 1025, false},
                 {1025, 128, false}, {128, 127, false}, {255, 0, false}};
    (void)state;
    for (size_t i = 0; i < COUNT(lists); i++) {
        dsv4_attn_params params = neighbours(256, 4, 8);
        params.window.n_indices = lists[i].window;
        params.extra.n_indices = lists[i].extra;
        dsv4_attn_params_set_dense(&params);
        const int32_t heads = chosen_heads(&params, 9);
        if (heads == 0) skip();
        if ((heads > 0) != lists[i].expected) fail_msg("lists %d: %d", (int)i, heads);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_fp8),
        cmocka_unit_test(dense_strides_follow_the_formats),
        cmocka_unit_test(f32_inputs_are_exact_or_refused),
        cmocka_unit_test(cuda_wants_rows_of_16_bytes),
        cmocka_unit_test(cuda_merges_values_of_16_bytes),
        cmocka_unit_test(absent_f32_scope_leaves_the_choice),
        cmocka_unit_test(official_math_is_chosen_everywhere),
        cmocka_unit_test(fp8_math_is_refused_by_the_cpu),
        cmocka_unit_test(fp8_math_on_cuda_is_chosen_or_explained),
        cmocka_unit_test(join_queries_is_checked),
        cmocka_unit_test(lists_of_some_shapes_can_be_joined),
        cmocka_unit_test(lists_of_small_pools_can_be_joined),
        cmocka_unit_test(lists_are_joined_where_it_gains),
        cmocka_unit_test(joined_lists_have_plans_and_memory_of_their_own),
        cmocka_unit_test(fixed_split_joins_whatever_the_batch),
        cmocka_unit_test(fixed_split_takes_the_faster_way),
        cmocka_unit_test(lists_of_some_lengths_are_joined),
    };
    return cmocka_run_group_tests_name("attn_choice", tests, NULL, NULL);
}
