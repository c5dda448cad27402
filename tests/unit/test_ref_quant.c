/*
 * test_ref_quant.c - the fake quantizers and the Hadamard transform against their definitions.
 *
 * The expected value is found by searching all codes of the format in double for the nearest, ties
 * to the even code; the scale by searching the powers of two upward. Both are exact in double.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "dsv4/cache.h"
#include "ref/quant.h"
#include "test_ref.h"

struct format {
    int n_mantissa, bias, n_codes; /* codes of magnitudes, in order */
    double max, floor;
};

static const struct format fp8 = {3, 7, 127, 448.0, 1e-4f};
static const struct format fp4 = {1, 1, 8, 6.0, 6 * 0x1p-126};

static double magnitude_of(const struct format *format, int code)
{
    int n = 1 << format->n_mantissa;
    double mantissa = (double)(code % n) / n;
    if (code < n) return ldexp(mantissa, 1 - format->bias);
    return ldexp(1.0 + mantissa, code / n - format->bias);
}

static double nearest_magnitude(const struct format *format, double magnitude)
{
    int best = 0;
    for (int code = 1; code < format->n_codes; code++) {
        double gain = fabs(magnitude - magnitude_of(format, best)) -
                      fabs(magnitude - magnitude_of(format, code));
        if (gain > 0.0 || (gain == 0.0 && code % 2 == 0)) best = code;
    }
    return magnitude_of(format, best);
}

/* The smallest power of two that brings amax into the format's range. */
static double scale_of(const struct format *format, const float *group, int64_t n)
{
    double amax = format->floor;
    for (int64_t i = 0; i < n; i++) amax = fmax(amax, fabs((double)group[i]));
    int exponent = -127;
    while (ldexp(format->max, exponent) < amax) exponent++;
    return ldexp(1.0, exponent);
}

static void check_quantized(const struct format *format, const float *before, const float *after,
                            int64_t n, int64_t group_dim)
{
    for (int64_t i = 0; i < n; i++) {
        double scale = scale_of(format, before + i / group_dim * group_dim, group_dim);
        double expected = scale * nearest_magnitude(format, fabs((double)before[i]) / scale);
        float signed_value = copysignf((float)expected, before[i]);
        assert_int_equal(bits_of(after[i]), bits_of(signed_value));
        /* Exact in bf16. */
        assert_int_equal(bits_of(after[i]) & 0xffffu, 0);
    }
}

/* Groups of very different magnitudes, a zero group and a group under the FP8 floor among them. */
static void fill_groups(uint64_t *state, float *values, int64_t n, int64_t group_dim)
{
    for (int64_t begin = 0; begin < n; begin += group_dim) {
        int exponent = (int)(random_next(state) % 50u) - 30;
        float scale = begin == group_dim ? 0.0f : ldexpf(1.0f, exponent);
        random_fill(state, scale, values + begin, group_dim);
    }
}

static void fp8_matches_search(void **unused)
{
    (void)unused;
    enum { N = 64 * 128 };
    static float before[N], after[N];
    uint64_t state = 1;
    for (int64_t group_dim = 64; group_dim <= 128; group_dim *= 2) {
        fill_groups(&state, before, N, group_dim);
        memcpy(after, before, sizeof after);
        dsv4_quant_fp8(after, N, group_dim);
        check_quantized(&fp8, before, after, N, group_dim);
    }
}

static void fp4_matches_search(void **unused)
{
    (void)unused;
    enum { N = 32 * 256 };
    static float before[N], after[N];
    uint64_t state = 2;
    fill_groups(&state, before, N, 32);
    memcpy(after, before, sizeof after);
    dsv4_quant_fp4(after, N);
    check_quantized(&fp4, before, after, N, 32);
}

/* Codes and scales kept apart stand for the same numbers, with the same scales. */
static void fp8_codes_match_search(void **unused)
{
    (void)unused;
    enum { N = 64 * 128 };
    static float before[N], after[N];
    static uint8_t codes[N], scales[N / 128];
    uint64_t state = 4;
    fill_groups(&state, before, N, 128);
    dsv4_quant_fp8_codes(before, N, 128, codes, scales);
    for (int i = 0; i < N; i++) {
        double magnitude = magnitude_of(&fp8, codes[i] & 0x7f);
        double scale = ldexp(1.0, scales[i / 128] - 127);
        after[i] = copysignf((float)(magnitude * scale), codes[i] & 0x80 ? -1.0f : 1.0f);
        assert_true(scale == scale_of(&fp8, before + i / 128 * 128, 128));
    }
    check_quantized(&fp8, before, after, N, 128);
}

/* The cache's record is another implementation of the same rounding. */
static void fp8_equals_cache_record(void **unused)
{
    (void)unused;
    uint64_t state = 3;
    float values[512], read[512];
    unsigned char page[DSV4_CACHE_RECORD_BYTES];
    for (int round = 0; round < 100; round++) {
        fill_groups(&state, values, 512, 64);
        values[round] = round % 3 == 0 ? NAN : -0.0f;
        dsv4_cache_row_write(page, 1, 0, values);
        dsv4_cache_row_read(page, 1, 0, read);
        dsv4_quant_fp8(values, 448, 64);
        dsv4_quant_bf16(values + 448, 64);
        for (int i = 0; i < 512; i++) {
            assert_true(isnan(values[i]) ? isnan(read[i]) : bits_of(values[i]) == bits_of(read[i]));
        }
    }
}

/* A group whose largest magnitude is at, or just past, what a scale holds. */
static void scales_round_up(void **unused)
{
    (void)unused;
    float group[64] = {448.0f, 17.0f};
    dsv4_quant_fp8(group, 64, 64);
    assert_true(group[0] == 448.0f && group[1] == 16.0f); /* scale 1: 17 ties to 16 */
    group[0] = nextafterf(448.0f, INFINITY), group[1] = 33.0f;
    dsv4_quant_fp8(group, 64, 64);
    assert_true(group[0] == 448.0f && group[1] == 32.0f); /* scale 2 */
    group[0] = 460.0f, group[1] = 0x1p-9f;
    dsv4_quant_fp8(group, 64, 64);
    assert_true(group[0] == 448.0f && group[1] == 0.0f); /* scale 2: half of the smallest code */

    float pair[32] = {6.0f, 0.5f};
    dsv4_quant_fp4(pair, 32);
    assert_true(pair[0] == 6.0f && pair[1] == 0.5f);
    pair[0] = 6.5f, pair[1] = 0.5f;
    dsv4_quant_fp4(pair, 32);
    assert_true(pair[0] == 6.0f && pair[1] == 0.0f); /* scale 2: 0.25 ties to 0 */
    pair[0] = 7.5f, pair[1] = 1.0f;
    dsv4_quant_fp4(pair, 32);
    assert_true(pair[0] == 8.0f && pair[1] == 1.0f); /* scale 2, not 1 */
}

static void fp4_ties(void **unused)
{
    (void)unused;
    static const float ties[7][2] = {{0.25f, 0.0f}, {0.75f, 1.0f}, {1.25f, 1.0f}, {1.75f, 2.0f},
                                     {2.5f, 2.0f},  {3.5f, 4.0f},  {5.0f, 4.0f}};
    for (int exponent = -100; exponent <= 100; exponent += 25) {
        float group[32] = {0.0f};
        group[31] = ldexpf(6.0f, exponent);
        for (int i = 0; i < 7; i++) {
            group[2 * i] = ldexpf(ties[i][0], exponent);
            group[2 * i + 1] = -group[2 * i];
        }
        dsv4_quant_fp4(group, 32);
        for (int i = 0; i < 7; i++) {
            float expected = ldexpf(ties[i][1], exponent);
            assert_int_equal(bits_of(group[2 * i]), bits_of(expected));
            assert_int_equal(bits_of(group[2 * i + 1]), bits_of(-expected));
        }
    }
}

/* The floor of amax: what is far below it vanishes; 2^-22 is the smallest FP8 scale. */
static void floors(void **unused)
{
    (void)unused;
    float group[64] = {0x1p-31f, 0x1p-32f, 0x1.8p-32f, -0x1p-40f};
    dsv4_quant_fp8(group, 64, 64);
    assert_true(group[0] == 0x1p-31f && group[1] == 0.0f && group[2] == 0x1p-31f);
    assert_int_equal(bits_of(group[3]), 0x80000000u);

    float tiny[32] = {0x1p-127f, 0x1p-128f};
    dsv4_quant_fp4(tiny, 32);
    assert_true(tiny[0] == 0x1p-127f && tiny[1] == 0.0f); /* scale 2^-126 */
}

static void nan_and_infinity(void **unused)
{
    (void)unused;
    float group[128] = {NAN, 448.0f, 1.0f};
    group[64] = 1.0f;
    dsv4_quant_fp8(group, 128, 64);
    assert_true(isnan(group[0]) && group[1] == 448.0f && group[2] == 1.0f && group[64] == 1.0f);
    float pair[64] = {NAN, -NAN, 3.0f};
    pair[32] = INFINITY, pair[33] = 1.0f;
    dsv4_quant_fp4(pair, 64);
    /* Scale 0.5. */
    assert_true(fabsf(pair[0]) == 3.0f && fabsf(pair[1]) == 3.0f && pair[0] == -pair[1]);
    assert_true(pair[2] == 3.0f && pair[32] == INFINITY && pair[33] == 0.0f);
}

static void bf16_matches_definition(void **unused)
{
    (void)unused;
    enum { N = 4096 };
    static float values[N + 1], rounded[N + 1];
    uint64_t state = 4;
    random_fill(&state, 1e5f, values, N + 1);
    for (int i = 0; i < 64; i++) values[i] = 1.0f + (float)i * 0x1p-9f; /* ties among them */
    memcpy(rounded, values, sizeof values);
    dsv4_quant_bf16(rounded, N);
    for (int i = 0; i < N; i++) {
        assert_true((double)rounded[i] == round_to_bf16((double)values[i]));
    }
    assert_int_equal(bits_of(rounded[N]), bits_of(values[N]));
}

static int parity(unsigned bits)
{
    int odd = 0;
    for (; bits != 0; bits &= bits - 1) odd = !odd;
    return odd;
}

/* Every column of the matrix, from the unit vectors: entries are +-128^-0.5 exactly as f32. */
static void hadamard_matches_matrix(void **unused)
{
    (void)unused;
    float entry = (float)(1.0 / sqrt(128.0));
    for (unsigned b = 0; b < 128; b++) {
        float values[128] = {0.0f};
        values[b] = 1.0f;
        dsv4_quant_hadamard(values);
        for (unsigned a = 0; a < 128; a++) {
            assert_true(values[a] == (parity(a & b) ? -entry : entry));
        }
    }
}

/*
 * 7 additions and a product round; each stage's error is below 2^-24 of its values, whose norm is
 * that of the input times powers of sqrt 2 that the scale takes back; the scale's own error
 * doubles.
 */
static void hadamard_is_orthonormal_and_its_own_inverse(void **unused)
{
    (void)unused;
    uint64_t state = 5;
    for (int round = 0; round < 50; round++) {
        float values[128], turned[128];
        random_fill(&state, 10.0f, values, 128);
        memcpy(turned, values, sizeof turned);
        dsv4_quant_hadamard(turned);
        double norm2 = 0.0, turned2 = 0.0;
        for (int i = 0; i < 128; i++) {
            norm2 += (double)values[i] * (double)values[i];
            turned2 += (double)turned[i] * (double)turned[i];
        }
        assert_near(turned2, norm2, 2 * 10 * F32_ROUNDING * norm2);
        for (unsigned a = 0; a < 128; a++) {
            double sum = 0.0;
            for (unsigned b = 0; b < 128; b++) {
                sum += parity(a & b) ? -(double)values[b] : (double)values[b];
            }
            assert_near((double)turned[a], sum / sqrt(128.0), 10 * F32_ROUNDING * sqrt(norm2));
        }
        dsv4_quant_hadamard(turned);
        for (int i = 0; i < 128; i++) {
            assert_near((double)turned[i], (double)values[i], 20 * F32_ROUNDING * sqrt(norm2));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fp8_matches_search),
        cmocka_unit_test(fp8_codes_match_search),
        cmocka_unit_test(fp4_matches_search),
        cmocka_unit_test(fp8_equals_cache_record),
        cmocka_unit_test(scales_round_up),
        cmocka_unit_test(fp4_ties),
        cmocka_unit_test(floors),
        cmocka_unit_test(nan_and_infinity),
        cmocka_unit_test(bf16_matches_definition),
        cmocka_unit_test(hadamard_matches_matrix),
        cmocka_unit_test(hadamard_is_orthonormal_and_its_own_inverse),
    };
    return cmocka_run_group_tests_name("ref_quant", tests, NULL, NULL);
}
