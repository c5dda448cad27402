/*
 * fiber_keys.c - cases of check_keys on fibers: the kernel works on the case's image itself, the reference on a copy.
 *
 * Place: tests. Blocks and the order of waves differ from case to case; results must not.
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

enum { MAX_PRINTED = 3 };

static void run_fibers(const keys_case *c, int64_t id)
{
    static const int blocks[] = {1, 3, 8, 2, 5};
    const int n_blocks = blocks[id % 5];
    const bool downwards = id / 5 % 2 == 1;
    if (c->op == KEYS_FINISH) {
        const keys_finish_args args = dsv4_keys_gpu_finish_args(&c->finish);
        fiber_run(fiber_kernel_find("dsv4_keys_finish"), &args, n_blocks, KEYS_ROW_THREADS,
                  downwards);
    } else if (c->op == KEYS_COMPRESS) {
        const keys_compress_args args = dsv4_keys_gpu_compress_args(&c->compress);
        const bool is_4 = c->compress.ratio == 4;
        fiber_run(fiber_kernel_find(is_4 ? "dsv4_keys_compress_4" : "dsv4_keys_compress_128"),
                  &args, (int)args.n_tokens,
                  is_4 ? KEYS_COMPRESS_4_THREADS : KEYS_COMPRESS_128_THREADS, downwards);
    } else {
        const keys_read_args args = dsv4_keys_gpu_read_args(&c->read);
        fiber_run(fiber_kernel_find("dsv4_keys_read"), &args, n_blocks, KEYS_ROW_THREADS,
                  downwards);
    }
}

static bool check_case(keys_case *c, uint8_t *want, int64_t id, char text[KEYS_TEXT_BYTES])
{
    dsv4_error error;
    size_t n_apart = 0, first = 0;
    memcpy(want, c->image, c->used_bytes);
    if (keys_case_call(c, want, DSV4_BACKEND_REF, NULL, &error) != DSV4_OK) {
        (void)snprintf(text, KEYS_TEXT_BYTES, "%.200s", error.text);
        return false;
    }
    run_fibers(c, id);
    keys_case_level_nan(c, c->image);
    keys_case_level_nan(c, want);
    for (size_t i = 0; i < c->used_bytes; i++) {
        if (c->image[i] != want[i] && n_apart++ == 0) first = i;
    }
    (void)snprintf(text, KEYS_TEXT_BYTES, "%zu bytes differ, the first at %zu: %02x, not %02x",
                   n_apart, first, c->image[first], want[first]);
    return n_apart == 0;
}

int64_t fiber_keys_check(int op, int64_t n_cases, int64_t *n_failed)
{
    keys_case c = {0};
    uint8_t *want = NULL;
    for (int64_t id = 0; id < n_cases; id++) {
        char text[KEYS_TEXT_BYTES], shape[KEYS_TEXT_BYTES];
        keys_case_draw(&c, op, (uint64_t)id, true);
        if (want == NULL) want = malloc(c.capacity_bytes);
        if (want == NULL) exit(3);
        if (check_case(&c, want, id, text) || (*n_failed)++ >= MAX_PRINTED) continue;
        keys_case_describe(&c, shape);
        printf("FAILED case %lld: %s\n    %s\n", (long long)id, text, shape);
    }
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
