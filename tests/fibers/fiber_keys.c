/*
 * fiber_keys.c - cases of check_keys on fibers: the kernel works on the case's image itself, the reference on a copy.
 *
 * Place: tests. Every form of the kernel that takes a case computes it. Blocks and the order of waves differ from case to case; results must not.
 */
#include "fiber_keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fiber_kernels.h"
#include "fiber_run.h"
#include "gpu/code_objects.h"
#include "gpu/keys_host.h"
#include "gpu/keys_lanes.h"
#include "keys_case.h"
#include "num/e4m3.h"
#include "num/ue8m0.h"

/* A form of an operation's kernel: its waves; special: for bf16 alone, or in clusters. */
typedef struct kernel_form {
    int wave_threads;
    bool is_special;
} kernel_form;

static const kernel_form forms[] = {{64, false}, {32, false}, {64, true}, {32, true}};

enum { N_FORMS = sizeof forms / sizeof forms[0] };

/* What a form is of a case: the kernel's name, NULL where it does not take it, and its geometry. */
typedef struct form_launch {
    const char *name;
    int n_blocks, n_threads;
} form_launch;

static form_launch compress_launch(const keys_case *c, kernel_form form)
{
    const int n_tokens = (int)c->compress.n_tokens;
    if (c->compress.ratio == 4) {
        return (form_launch){form.is_special ? NULL : "dsv4_keys_compress_4", n_tokens,
                             KEYS_COMPRESS_4_THREADS};
    }
    if (form.is_special) { /* no device with waves of 64 has clusters */
        return (form_launch){form.wave_threads == 64 ? NULL : "dsv4_keys_compress_128_cluster",
                             n_tokens * KEYS_CLUSTER_BLOCKS, KEYS_CLUSTER_THREADS};
    }
    return (form_launch){"dsv4_keys_compress_128", n_tokens, KEYS_COMPRESS_128_THREADS};
}

/* On the case's image; false: the form does not take the case. */
static bool run_form(const keys_case *c, int64_t id, kernel_form form)
{
    static const int blocks[] = {1, 3, 8, 2, 5};
    const bool downwards = id / 5 % 2 == 1;
    const keys_finish_args finish = dsv4_keys_gpu_finish_args(&c->finish);
    const keys_compress_args compress = dsv4_keys_gpu_compress_args(&c->compress);
    const keys_read_args read = dsv4_keys_gpu_read_args(&c->read);
    const void *args = &compress;
    form_launch launch = {NULL, blocks[id % 5], KEYS_ROW_THREADS};
    if (c->op == KEYS_COMPRESS) {
        launch = compress_launch(c, form);
    } else if (c->op == KEYS_FINISH) {
        args = &finish;
        if (!form.is_special) launch.name = "dsv4_keys_finish";
        if (form.is_special && finish.is_bf16) launch.name = "dsv4_keys_finish_bf16";
    } else {
        args = &read;
        if (!form.is_special) launch.name = "dsv4_keys_read";
        if (form.is_special && !read.out.is_f32) launch.name = "dsv4_keys_read_bf16";
    }
    if (launch.name == NULL) return false;
    fiber_run(fiber_kernel_find(launch.name, form.wave_threads), args, launch.n_blocks,
              launch.n_threads, downwards);
    return true;
}

/* given, want: of a case's image each. */
static bool check_form(keys_case *c, const uint8_t *given, const uint8_t *want, int64_t id,
                       kernel_form form, char text[KEYS_TEXT_BYTES])
{
    size_t n_apart = 0, first = 0;
    memcpy(c->image, given, c->used_bytes);
    if (!run_form(c, id, form)) return true;
    keys_case_level_nan(c, c->image);
    for (size_t i = 0; i < c->used_bytes; i++) {
        if (c->image[i] != want[i] && n_apart++ == 0) first = i;
    }
    (void)snprintf(text, KEYS_TEXT_BYTES,
                   "waves of %d%s: %zu bytes differ, the first at %zu: %02x, not %02x",
                   form.wave_threads, form.is_special ? ", special" : "", n_apart, first,
                   c->image[first], want[first]);
    return n_apart == 0;
}

static bool check_case(keys_case *c, uint8_t *given, uint8_t *want, int64_t id,
                       char text[KEYS_TEXT_BYTES])
{
    dsv4_error error;
    memcpy(given, c->image, c->used_bytes);
    memcpy(want, c->image, c->used_bytes);
    if (keys_case_call(c, want, DSV4_BACKEND_REF, NULL, &error) != DSV4_OK) {
        (void)snprintf(text, KEYS_TEXT_BYTES, "%.200s", error.text);
        return false;
    }
    keys_case_level_nan(c, want);
    for (int i = 0; i < N_FORMS; i++) {
        if (!check_form(c, given, want, id, forms[i], text)) return false;
    }
    return true;
}

int64_t fiber_keys_check(int op, int64_t n_cases, int64_t most_failed, int64_t *n_failed)
{
    keys_case c = {0};
    uint8_t *given = NULL, *want = NULL;
    for (int64_t id = 0; id < n_cases; id++) {
        char text[KEYS_TEXT_BYTES], shape[KEYS_TEXT_BYTES];
        keys_case_draw(&c, op, (uint64_t)id, true);
        if (want == NULL) want = malloc(c.capacity_bytes);
        if (given == NULL) given = malloc(c.capacity_bytes);
        if (want == NULL || given == NULL) exit(3);
        if (check_case(&c, given, want, id, text)) continue;
        keys_case_describe(&c, shape);
        printf("FAILED case %lld: %s\n    %s\n", (long long)id, text, shape);
        if (++*n_failed == most_failed) n_cases = id + 1; /* enough is known */
    }
    free(given);
    free(want);
    keys_case_free(&c);
    return n_cases;
}

static bool is_same(float a, float b)
{
    return gpu_as_u32(a) == gpu_as_u32(b) || (a != a && b != b);
}

int64_t fiber_keys_formats_check(int64_t *n_failed)
{
    static const uint32_t lows[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
    int64_t n_codes = 0, n_values = 0, n_scales = 0;
    for (uint32_t code = 0; code < 256; code++) {
        n_codes += !is_same(e4m3_to_f32(code), dsv4_e4m3_to_f32((uint8_t)code));
        n_codes += !is_same(scale_to_f32(code), dsv4_ue8m0_to_f32((uint8_t)code));
    }
    for (uint32_t i = 0; i < 6u << 16; i++) {
        const float value = gpu_as_f32((i & 0xffffu) << 16 | lows[i >> 16]);
        const uint32_t want = value != value ? 0x7fu : dsv4_e4m3_from_f32(value);
        n_values += to_e4m3(value) != want;
        if (!(value >= 0.0f)) continue;
        const uint32_t scale = group_scale(value);
        n_scales += scale != dsv4_ue8m0_group_scale(value, 448.0f, 1e-4f);
        n_scales += inverse_scale(scale) != 1.0f / dsv4_ue8m0_to_f32((uint8_t)scale);
    }
    *n_failed += (n_codes > 0) + (n_values > 0) + (n_scales > 0);
    if (*n_failed > 0) {
        printf("FAILED: %lld codes, %lld values, %lld scales\n", (long long)n_codes,
               (long long)n_values, (long long)n_scales);
    }
    return 3;
}
