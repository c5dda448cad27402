/*
 * fiber_matrix_check.c - operands filled from plain matrices by the layouts of gpu_matrix.h, products compared with loops
 * over these matrices, conversions with src/num, and who scales what with AMD's published tables.
 *
 * Place: tests. The layouts are spelled out a second time here, by index and not by lane. Operands are small integers
 * times powers of two: every sum of them is exact in f32, in any order, and results have to be equal.
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
    int side, n_k; /* 16 x 32 and 16 x 16 of bf16; 16 x 128 and 32 x 64 of codes */
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

/* gfx942's. */
static void run_bf16_k16(const void *args)
{
    (void)args;
    const int lane = gpu_thread(), row = lane % 16, block = lane / 16;
    gpu_u32x2 a, b;
    gpu_f32x4 c;
    for (int i = 0; i < 2; i++) {
        const int k = 4 * block + 2 * i;
        a[i] = t.a[row][k] | t.a[row][k + 1] << 16;
        b[i] = t.b[row][k] | t.b[row][k + 1] << 16;
    }
    for (int i = 0; i < 4; i++) c[i] = t.c[4 * block + i][row];
    c = fiber_multiply_bf16_k16(a, b, c);
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

static bool is_bf16(void)
{
    return t.n_k <= 32;
}

static double number_of(uint32_t bits, uint32_t scale)
{
    if (is_bf16()) return (double)dsv4_bf16_to_f32((uint16_t)bits);
    return (double)dsv4_e4m3_to_f32((uint8_t)bits) * ldexp(1.0, (int)scale - 127);
}

static bool check_product(uint64_t seed, int side, int n_k)
{
    attn_rng rng = {seed};
    t.side = side;
    t.n_k = n_k;
    for (int i = 0; i < side; i++) {
        for (int k = 0; k < n_k; k++) {
            const float x = (float)attn_rng_range(&rng, -8, 8),
                        y = (float)attn_rng_range(&rng, -8, 8);
            t.a[i][k] = is_bf16() ? dsv4_bf16_from_f32(x) : dsv4_e4m3_from_f32(x);
            t.b[i][k] = is_bf16() ? dsv4_bf16_from_f32(y) : dsv4_e4m3_from_f32(y);
        }
        for (int k = 0; k < 4; k++) {
            t.scales_a[i][k] = (uint32_t)attn_rng_range(&rng, 125, 129);
            t.scales_b[i][k] = (uint32_t)attn_rng_range(&rng, 125, 129);
        }
        for (int j = 0; j < side; j++) t.c[i][j] = (float)attn_rng_range(&rng, -100, 100);
    }
    const fiber_kernel kernel = {n_k == 16   ? run_bf16_k16
                                 : n_k == 32 ? run_bf16
                                             : run_codes,
                                 64, 1};
    fiber_run(&kernel, NULL, 1, 64, false);
    for (int i = 0; i < side; i++) {
        for (int j = 0; j < side; j++) {
            double sum = (double)t.c[i][j];
            for (int k = 0; k < n_k; k++) {
                sum += number_of(t.a[i][k], t.scales_a[i][k / 32]) *
                       number_of(t.b[j][k], t.scales_b[j][k / 32]);
            }
            if ((double)t.d[i][j] != sum) {
                printf("FAILED product %dx%dx%d: [%d][%d] is %g, expected %g\n", side, side, n_k, i,
                       j, (double)t.d[i][j], sum);
                return false;
            }
        }
    }
    return true;
}

/*
 * Whose scale counts for which bytes, as AMD lists it for every element (composable_kernel, test/mx_mfma_op,
 * scale_mapping_16x16x128.txt and scale_mapping_32x32x64.txt; the two operands alike): bytes 0 .. 15 and 16 .. 31 of the
 * lanes of a group are scaled by the lanes of these groups.
 */
typedef struct scale_fact {
    int side, group;
    int scaled_by[2];
} scale_fact;

static const scale_fact scale_facts[] = {
    {16, 0, {0, 2}}, {16, 1, {0, 2}}, {16, 2, {1, 3}},
    {16, 3, {1, 3}}, {32, 0, {0, 1}}, {32, 1, {0, 1}},
};

/* What is scaled: these bytes of one operand, all of them 1. */
static struct scale_trial {
    int side, group, half;
    bool is_b;
    float d[64]; /* a value of each lane */
} s;

static void run_scaled(const void *args)
{
    (void)args;
    const int lane = gpu_thread(), group = lane / s.side;
    unsigned char bytes[2][32];
    memset(bytes[s.is_b], 0, 32);
    memset(bytes[!s.is_b], 0x38, 32); /* 1 */
    if (group == s.group) memset(bytes[s.is_b] + 16 * s.half, 0x38, 16);
    gpu_u32x8 a, b;
    memcpy(&a, bytes[0], 32);
    memcpy(&b, bytes[1], 32);
    const uint32_t own = 127 + (uint32_t)group; /* 2^group */
    const uint32_t scale_a = s.is_b ? 127 : own, scale_b = s.is_b ? own : 127;
    if (s.side == 16) {
        const gpu_f32x4 zero = {0};
        s.d[lane] = gpu_multiply_codes(a, b, zero, scale_a, scale_b)[0];
    } else {
        const gpu_f32x16 zero = {0};
        s.d[lane] = gpu_multiply_codes32(a, b, zero, scale_a, scale_b)[0];
    }
}

/* Every row and column has 16 products of 1, times the scale of who scales them. */
static bool check_scale_fact(const scale_fact *fact)
{
    const fiber_kernel kernel = {run_scaled, 64, 1};
    for (int i = 0; i < 4; i++) {
        s = (struct scale_trial){
            .side = fact->side, .group = fact->group, .half = i % 2, .is_b = i / 2 == 1};
        fiber_run(&kernel, NULL, 1, 64, false);
        for (int lane = 0; lane < 64; lane++) {
            const float wanted = ldexpf(16.0f, fact->scaled_by[s.half]);
            if (s.d[lane] == wanted) continue;
            printf("FAILED scale, side %d group %d half %d: %g, expected %g\n", s.side, s.group,
                   s.half, (double)s.d[lane], (double)wanted);
            return false;
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
    static const int shapes[][2] = {{16, 32}, {16, 128}, {32, 64}, {16, 16}};
    int64_t n_checks = 2;
    *n_failed = !check_conversions() + !check_codes();
    for (uint64_t seed = 1; seed <= 40; seed++) {
        n_checks++;
        *n_failed += !check_product(seed, shapes[seed % 4][0], shapes[seed % 4][1]);
    }
    for (size_t i = 0; i < sizeof scale_facts / sizeof scale_facts[0]; i++) {
        n_checks++;
        *n_failed += !check_scale_fact(&scale_facts[i]);
    }
    return n_checks;
}
