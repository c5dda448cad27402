/*
 * fiber_matrix_check.c - operands filled from plain matrices by the layouts of gpu_matrix.h, products compared with loops
 * over these matrices, conversions with src/num.
 *
 * Place: tests. The layouts are spelled out a second time here, by index and not by lane.
 */
#include "fiber_matrix_check.h"

#include <stdio.h>
#include <stdlib.h>

#include "attn_rng.h"
#include "fiber_run.h"
#include "gpu/gpu_matrix.h"
#include "num/bf16.h"
#include "num/e4m3.h"

enum { SIDE = 32, MAX_K = 128 };

/* A product to check, in and out. */
typedef struct trial {
    int side, n_k;                           /* 16 x 32 of bf16; 16 x 128 and 32 x 64 of codes */
    uint32_t a[SIDE][MAX_K], b[SIDE][MAX_K]; /* bits of numbers or codes; b by columns */
    uint32_t scales_a[SIDE][4], scales_b[SIDE][4];
    float c[SIDE][SIDE], d[SIDE][SIDE];
} trial;

static trial t;

static void run_bf16(const void *args)
{
    (void)args;
    const int lane = gpu_thread(), row = lane % 16, block = lane / 16;
    gpu_u32x4 a, b;
    gpu_f32x4 c;
    for (int i = 0; i < 4; i++) {
        const int k = 8 * block + 2 * i;
        a[i] = t.a[row][k] | t.a[row][k + 1] << 16;
        b[i] = t.b[row][k] | t.b[row][k + 1] << 16;
        c[i] = t.c[4 * block + i][row];
    }
    c = gpu_multiply_bf16(a, b, c);
    for (int i = 0; i < 4; i++) t.d[4 * block + i][row] = c[i];
}

static void fill_codes(gpu_u32x8 *a, gpu_u32x8 *b)
{
    unsigned char bytes[2][32];
    const int lane = gpu_thread(), row = lane % t.side, group = lane / t.side;
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 16; i++) {
            const int k = half * t.n_k / 2 + 16 * group + i;
            bytes[0][16 * half + i] = (unsigned char)t.a[row][k];
            bytes[1][16 * half + i] = (unsigned char)t.b[row][k];
        }
    }
    memcpy(a, bytes[0], 32);
    memcpy(b, bytes[1], 32);
}

static void run_codes(const void *args)
{
    (void)args;
    const int lane = gpu_thread(), row = lane % t.side, group = lane / t.side;
    gpu_u32x8 a, b;
    fill_codes(&a, &b);
    const uint32_t scale_a = t.scales_a[row][group], scale_b = t.scales_b[row][group];
    if (t.side == 16) {
        gpu_f32x4 c;
        for (int i = 0; i < 4; i++) c[i] = t.c[4 * group + i][row];
        c = gpu_multiply_codes(a, b, c, scale_a, scale_b);
        for (int i = 0; i < 4; i++) t.d[4 * group + i][row] = c[i];
    } else {
        gpu_f32x16 c;
        for (int i = 0; i < 16; i++) c[i] = t.c[8 * (i / 4) + 4 * group + i % 4][row];
        c = gpu_multiply_codes32(a, b, c, scale_a, scale_b);
        for (int i = 0; i < 16; i++) t.d[8 * (i / 4) + 4 * group + i % 4][row] = c[i];
    }
}

static double number_of(uint32_t bits, uint32_t scale)
{
    if (t.n_k == 32) return (double)dsv4_bf16_to_f32((uint16_t)bits);
    return (double)dsv4_e4m3_to_f32((uint8_t)bits) * ldexp(1.0, (int)scale - 127);
}

static bool check_product(uint64_t seed, int side, int n_k)
{
    attn_rng rng = {seed};
    t.side = side;
    t.n_k = n_k;
    for (int i = 0; i < side; i++) {
        for (int k = 0; k < n_k; k++) {
            const float x = attn_rng_normal(&rng), y = attn_rng_normal(&rng);
            t.a[i][k] = n_k == 32 ? dsv4_bf16_from_f32(x) : dsv4_e4m3_from_f32(x);
            t.b[i][k] = n_k == 32 ? dsv4_bf16_from_f32(y) : dsv4_e4m3_from_f32(y);
        }
        for (int k = 0; k < 4; k++) {
            t.scales_a[i][k] = (uint32_t)attn_rng_range(&rng, 120, 134);
            t.scales_b[i][k] = (uint32_t)attn_rng_range(&rng, 120, 134);
        }
        for (int j = 0; j < side; j++) t.c[i][j] = attn_rng_normal(&rng);
    }
    const fiber_kernel kernel = {n_k == 32 ? run_bf16 : run_codes, 64, 1};
    fiber_run(&kernel, NULL, 1, 64, false);
    for (int i = 0; i < side; i++) {
        for (int j = 0; j < side; j++) {
            double sum = (double)t.c[i][j], magnitude = 1;
            for (int k = 0; k < n_k; k++) {
                const double product = number_of(t.a[i][k], t.scales_a[i][k / 32]) *
                                       number_of(t.b[j][k], t.scales_b[j][k / 32]);
                sum += product;
                magnitude += fabs(product);
            }
            if (!(fabs((double)t.d[i][j] - sum) <= 1e-5 * magnitude)) {
                printf("FAILED product %dx%dx%d: [%d][%d] is %g, expected %g\n", side, side, n_k, i,
                       j, (double)t.d[i][j], sum);
                return false;
            }
        }
    }
    return true;
}

/* All codes, some scales; a result of more than bf16 holds is infinite. */
static bool check_conversions(void)
{
    static const uint32_t scales[] = {0, 1, 7, 100, 127, 134, 200, 246, 254, 255};
    for (uint32_t code = 0; code < 256; code++) {
        for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
            const float scale = scales[i] == 255 ? NAN : ldexpf(1.0f, (int)scales[i] - 127);
            const uint16_t want = dsv4_bf16_from_f32(dsv4_e4m3_to_f32((uint8_t)code) * scale);
            const uint32_t word = code << 8 | code << 16 | 0x38000038u,
                           bits = gpu_scale_bits(scales[i]);
            const uint16_t low = (uint16_t)(gpu_codes_to_bf16_low(word, bits) >> 16),
                           high = (uint16_t)gpu_codes_to_bf16_high(word, bits);
            const uint16_t by_bits =
                (uint16_t)(gpu_code_pair_by_bits(word, bits == 0 ? 0x00400000u : bits) >> 16);
            const float wanted = dsv4_bf16_to_f32(want);
            const bool is_small = fabsf(wanted) < 0x1p-126f; /* cut off there, not rounded */
            const bool is_good =
                isnan(wanted) ? isnan(dsv4_bf16_to_f32(low)) && isnan(dsv4_bf16_to_f32(high)) &&
                                    isnan(dsv4_bf16_to_f32(by_bits))
                              : low == want && high == want && (by_bits == want || is_small);
            if (!is_good) {
                printf("FAILED code %u scale %u: 0x%x and 0x%x, expected 0x%x\n", code, scales[i],
                       low, high, want);
                return false;
            }
        }
    }
    return true;
}

static bool check_codes(void)
{
    attn_rng rng = {7};
    for (int i = 0; i < 20000; i++) {
        const float x = ldexpf(attn_rng_normal(&rng), (int)attn_rng_range(&rng, -12, 7));
        const uint32_t got = gpu_to_codes(x, -x, 0.0f, 448.0f);
        const uint32_t want = dsv4_e4m3_from_f32(x) | (uint32_t)dsv4_e4m3_from_f32(-x) << 8 |
                              (uint32_t)dsv4_e4m3_from_f32(0.0f) << 16 | 0x7eu << 24;
        if (got != want) {
            printf("FAILED code of %g: 0x%x, expected 0x%x\n", (double)x, got, want);
            return false;
        }
    }
    return true;
}

int64_t fiber_matrix_check(int64_t *n_failed)
{
    static const int shapes[][2] = {{16, 32}, {16, 128}, {32, 64}};
    int64_t n_checks = 2;
    *n_failed = !check_conversions() + !check_codes();
    for (uint64_t seed = 1; seed <= 30; seed++) {
        n_checks++;
        *n_failed += !check_product(seed, shapes[seed % 3][0], shapes[seed % 3][1]);
    }
    return n_checks;
}
