/*
 * test_num.c - the number formats against their definitions, code by code.
 *
 * Expected values come from formulas in double (ldexp, frexp, exact midpoints), never from bit
 * manipulation, so that they share no reasoning with the code under test. Every value of every
 * format here, and every midpoint of two neighbours, is exact in double and in f32.
 */
#include <fenv.h>
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "num/bf16.h"
#include "num/e2m1.h"
#include "num/e4m3.h"
#include "num/ue8m0.h"
#include "test_bits.h"

#define N_RANDOM 300000

/* Equal as bits: tells -0 from 0. */
static void assert_same_float(float actual, double expected)
{
    assert_true((double)(float)expected == expected);
    assert_int_equal(bits_of(actual), bits_of((float)expected));
}

/*
 * Magnitude of a code by the definition of a binary format with subnormals and no special codes:
 * m * 2^(1 - bias - n_mantissa) for exponent 0, else (1 + m / 2^n_mantissa) * 2^(e - bias).
 */
static double magnitude_of(uint32_t code, int n_mantissa, int bias)
{
    int exponent = (int)(code >> n_mantissa);
    double mantissa = ldexp((double)(code % (1u << n_mantissa)), -n_mantissa);
    if (exponent == 0) return ldexp(mantissa, 1 - bias);
    return ldexp(1.0 + mantissa, exponent - bias);
}

/* A small float format, for the tests that e4m3 and e2m1 share. */
struct format {
    int n_mantissa;
    int bias;
    uint32_t max_code; /* of the positive half */
    uint32_t sign_bit;
    uint8_t (*from_f32)(float value);
};

static const struct format e4m3 = {3, 7, 0x7e, 0x80, dsv4_e4m3_from_f32};
static const struct format e2m1 = {1, 1, 7, 8, dsv4_e2m1_from_f32};

static double format_magnitude(const struct format *format, uint32_t code)
{
    return magnitude_of(code, format->n_mantissa, format->bias);
}

static void assert_both_signs(const struct format *format, float magnitude, uint32_t code)
{
    assert_int_equal(format->from_f32(magnitude), code);
    assert_int_equal(format->from_f32(-magnitude), code | format->sign_bit);
}

static void check_values_ties_neighbours(const struct format *format)
{
    for (uint32_t code = 0; code <= format->max_code; code++) {
        double low = format_magnitude(format, code);
        assert_both_signs(format, (float)low, code);
        assert_both_signs(format, nextafterf((float)low, INFINITY), code);
        if (code > 0) assert_both_signs(format, nextafterf((float)low, 0.0f), code);
        if (code == format->max_code) break;

        double middle = (low + format_magnitude(format, code + 1)) / 2.0;
        assert_true((double)(float)middle == middle);
        assert_both_signs(format, (float)middle, code % 2 == 0 ? code : code + 1);
        assert_both_signs(format, nextafterf((float)middle, 0.0f), code);
        assert_both_signs(format, nextafterf((float)middle, INFINITY), code + 1);
    }
}

static void check_saturation(const struct format *format)
{
    float max = (float)format_magnitude(format, format->max_code);
    double step = (double)max - format_magnitude(format, format->max_code - 1);
    assert_both_signs(format, nextafterf(max, INFINITY), format->max_code);
    /* Where a format with one more exponent would tie, and past it. */
    assert_both_signs(format, (float)((double)max + step / 2.0), format->max_code);
    assert_both_signs(format, (float)((double)max + step), format->max_code);
    assert_both_signs(format, 1e30f, format->max_code);
    assert_both_signs(format, FLT_MAX, format->max_code);
    assert_both_signs(format, INFINITY, format->max_code);
}

static void check_small(const struct format *format)
{
    assert_both_signs(format, 0.0f, 0);
    assert_both_signs(format, FLT_TRUE_MIN, 0);
    assert_both_signs(format, nextafterf(FLT_MIN, 0.0f), 0);
    assert_both_signs(format, FLT_MIN, 0);
}

/* The nearest code by looking at them all; the distances are exact in double. */
static uint32_t nearest_code(const struct format *format, double magnitude)
{
    uint32_t best = 0;
    for (uint32_t code = 1; code <= format->max_code; code++) {
        double gain = fabs(magnitude - format_magnitude(format, best)) -
                      fabs(magnitude - format_magnitude(format, code));
        if (gain > 0.0 || (gain == 0.0 && code % 2 == 0)) best = code;
    }
    return best;
}

/* Random mantissas with exponents that reach from below half the smallest value to past max. */
static void check_random(const struct format *format)
{
    uint64_t state = 1;
    for (int i = 0; i < N_RANDOM / 30; i++) {
        double mantissa = 1.0 + ldexp((double)(random_next(&state) >> 9), -23);
        int exponent = (int)(random_next(&state) % 24) - 13;
        double magnitude = ldexp(mantissa, exponent);
        assert_both_signs(format, (float)magnitude, nearest_code(format, magnitude));
    }
}

static void e4m3_table_matches_formula(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x7f; code++) {
        double magnitude = magnitude_of(code, 3, 7);
        assert_same_float(dsv4_e4m3_to_f32((uint8_t)code), magnitude);
        assert_same_float(dsv4_e4m3_to_f32((uint8_t)(code | 0x80u)), -magnitude);
    }
    assert_true(isnan(dsv4_e4m3_to_f32(0x7f)));
    assert_true(isnan(dsv4_e4m3_to_f32(0xff)));
    assert_same_float(dsv4_e4m3_to_f32(0x01), 1.0 / 512.0);
    assert_same_float(dsv4_e4m3_to_f32(0x7e), 448.0);
    assert_same_float(dsv4_e4m3_to_f32(0xb8), -1.0);
    assert_true(DSV4_E4M3_MAX == 448.0f);
}

static void e4m3_codes_round_trip(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 256; code++)
        assert_int_equal(dsv4_e4m3_from_f32(dsv4_e4m3_to_f32((uint8_t)code)), code);
}

static void e4m3_rounds(void **state)
{
    (void)state;
    check_values_ties_neighbours(&e4m3);
    check_small(&e4m3);
    check_saturation(&e4m3);
    check_random(&e4m3);
}

/* All that the test itself computes is exact, so the mode reaches only the code under test. */
static void rounding_mode_does_not_matter(void **state)
{
    (void)state;
    static const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        assert_int_equal(fesetround(modes[i]), 0);
        check_values_ties_neighbours(&e4m3);
        check_values_ties_neighbours(&e2m1);
        assert_int_equal(fesetround(FE_TONEAREST), 0);
    }
}

static void e4m3_nan_keeps_sign(void **state)
{
    (void)state;
    static const uint32_t payloads[] = {0x7f800001u, 0x7fa00000u, 0x7fc00000u, 0x7fffffffu};
    for (size_t i = 0; i < sizeof payloads / sizeof payloads[0]; i++) {
        assert_int_equal(dsv4_e4m3_from_f32(float_of(payloads[i])), 0x7f);
        assert_int_equal(dsv4_e4m3_from_f32(float_of(payloads[i] | 0x80000000u)), 0xff);
    }
}

static void e2m1_table_matches_formula(void **state)
{
    (void)state;
    static const double spelled[8] = {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0};
    for (uint32_t code = 0; code < 8; code++) {
        assert_true(magnitude_of(code, 1, 1) == spelled[code]);
        assert_same_float(dsv4_e2m1_to_f32((uint8_t)code), spelled[code]);
        assert_same_float(dsv4_e2m1_to_f32((uint8_t)(code | 8u)), -spelled[code]);
    }
    assert_true(DSV4_E2M1_MAX == 6.0f);
}

static void e2m1_codes_round_trip(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 16; code++)
        assert_int_equal(dsv4_e2m1_from_f32(dsv4_e2m1_to_f32((uint8_t)code)), code);
}

static void e2m1_rounds(void **state)
{
    (void)state;
    check_values_ties_neighbours(&e2m1);
    check_small(&e2m1);
    check_saturation(&e2m1);
    check_random(&e2m1);
}

/* The list in the header, spelled out. */
static void e2m1_documented_ties(void **state)
{
    (void)state;
    static const float ties[7][2] = {{0.25f, 0.0f}, {0.75f, 1.0f}, {1.25f, 1.0f}, {1.75f, 2.0f},
                                     {2.5f, 2.0f},  {3.5f, 4.0f},  {5.0f, 4.0f}};
    for (int i = 0; i < 7; i++)
        assert_same_float(dsv4_e2m1_to_f32(dsv4_e2m1_from_f32(ties[i][0])), (double)ties[i][1]);
}

static void e2m1_nan_gives_max_by_sign(void **state)
{
    (void)state;
    assert_int_equal(dsv4_e2m1_from_f32(float_of(0x7fc00000u)), 7);
    assert_int_equal(dsv4_e2m1_from_f32(float_of(0xffc00000u)), 15);
    assert_int_equal(dsv4_e2m1_from_f32(float_of(0x7f800001u)), 7);
    assert_int_equal(dsv4_e2m1_from_f32(float_of(0xff800001u)), 15);
}

static void bf16_codes_match_formula_and_round_trip(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 65536; code++) {
        uint32_t magnitude = code & 0x7fffu;
        float value = dsv4_bf16_to_f32((uint16_t)code);
        uint16_t back = dsv4_bf16_from_f32(value);
        if (magnitude > 0x7f80u) {
            assert_true(isnan(value));
            /* A signalling NaN comes back quiet; sign and payload stay. */
            assert_int_equal(back, code | 0x40u);
            continue;
        }
        assert_true((signbit(value) != 0) == (code >= 0x8000u));
        if (magnitude == 0x7f80u)
            assert_true(isinf(value));
        else
            assert_same_float(fabsf(value), magnitude_of(magnitude, 7, 127));
        assert_int_equal(back, code);
    }
}

/* NaN whose payload lies only in the dropped bits must not become infinity. */
static void bf16_nan_stays_nan(void **state)
{
    (void)state;
    assert_int_equal(dsv4_bf16_from_f32(float_of(0x7f800001u)), 0x7fc0);
    assert_int_equal(dsv4_bf16_from_f32(float_of(0xff80ffffu)), 0xffc0);
    assert_int_equal(dsv4_bf16_from_f32(float_of(0x7fffffffu)), 0x7fff);
    assert_int_equal(dsv4_bf16_from_f32(float_of(0xffffffffu)), 0xffff);
}

/* The neighbour above the largest finite code is 2^128 by the formula: its code is infinity. */
static void bf16_ties_and_neighbours(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x7f80u; code++) {
        double middle = (magnitude_of(code, 7, 127) + magnitude_of(code + 1, 7, 127)) / 2.0;
        float tie = (float)middle;
        assert_true((double)tie == middle);
        uint32_t even = code % 2 == 0 ? code : code + 1;
        assert_int_equal(dsv4_bf16_from_f32(tie), even);
        assert_int_equal(dsv4_bf16_from_f32(-tie), even | 0x8000u);
        float below = nextafterf(tie, 0.0f);
        assert_int_equal(dsv4_bf16_from_f32(below), code);
        assert_int_equal(dsv4_bf16_from_f32(-below), code | 0x8000u);
        float above = nextafterf(tie, INFINITY);
        assert_int_equal(dsv4_bf16_from_f32(above), code + 1);
        assert_int_equal(dsv4_bf16_from_f32(-above), (code + 1) | 0x8000u);
    }
    assert_int_equal(dsv4_bf16_from_f32(FLT_MAX), 0x7f80);
    assert_int_equal(dsv4_bf16_from_f32(-INFINITY), 0xff80);
}

static void ue8m0_codes_match_formula(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 255; code++) {
        float value = dsv4_ue8m0_to_f32((uint8_t)code);
        assert_same_float(value, ldexp(1.0, (int)code - 127));
        assert_int_equal(dsv4_ue8m0_from_f32_ceil(value), code);
        assert_int_equal(dsv4_ue8m0_from_f32_nearest(value), code);
    }
    assert_true(isnan(dsv4_ue8m0_to_f32(255)));
    assert_int_equal(dsv4_ue8m0_from_f32_ceil(NAN), 255);
    assert_int_equal(dsv4_ue8m0_from_f32_ceil(-NAN), 255);
    assert_int_equal(dsv4_ue8m0_from_f32_nearest(NAN), 255);
    assert_int_equal(dsv4_ue8m0_from_f32_nearest(-NAN), 255);
    assert_int_equal(dsv4_ue8m0_from_f32_nearest(float_of(0x7f800001u)), 255);
}

static void ue8m0_ceil_at_powers(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 255; code++) {
        float power = (float)ldexp(1.0, (int)code - 127);
        assert_int_equal(dsv4_ue8m0_from_f32_ceil(nextafterf(power, 0.0f)), code);
        uint32_t next = code == 254 ? 254 : code + 1;
        assert_int_equal(dsv4_ue8m0_from_f32_ceil(nextafterf(power, INFINITY)), next);
        assert_int_equal(dsv4_ue8m0_from_f32_ceil(1.5f * power), next);
    }
    assert_int_equal(dsv4_ue8m0_from_f32_ceil(FLT_TRUE_MIN), 0);
    assert_int_equal(dsv4_ue8m0_from_f32_ceil(FLT_MAX), 254);
    assert_int_equal(dsv4_ue8m0_from_f32_ceil(INFINITY), 254);
}

static void ue8m0_nearest_ties(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 255; code++) {
        float tie = (float)ldexp(1.5, (int)code - 127);
        uint32_t next = code == 254 ? 254 : code + 1;
        assert_int_equal(dsv4_ue8m0_from_f32_nearest(tie), code % 2 == 0 ? code : next);
        assert_int_equal(dsv4_ue8m0_from_f32_nearest(nextafterf(tie, 0.0f)), code);
        assert_int_equal(dsv4_ue8m0_from_f32_nearest(nextafterf(tie, INFINITY)), next);
        float power = (float)ldexp(1.0, (int)code - 127);
        assert_int_equal(dsv4_ue8m0_from_f32_nearest(nextafterf(power, 0.0f)), code);
        assert_int_equal(dsv4_ue8m0_from_f32_nearest(nextafterf(power, INFINITY)), code);
    }
    assert_int_equal(dsv4_ue8m0_from_f32_nearest(FLT_TRUE_MIN), 0);
    assert_int_equal(dsv4_ue8m0_from_f32_nearest(FLT_MAX), 254);
    assert_int_equal(dsv4_ue8m0_from_f32_nearest(INFINITY), 254);
}

static uint32_t code_clamp(int exponent)
{
    int code = exponent + 127;
    return (uint32_t)(code < 0 ? 0 : code > 254 ? 254 : code);
}

static void ue8m0_random(void **state)
{
    (void)state;
    uint64_t random = 2;
    for (int i = 0; i < N_RANDOM; i++) {
        float value = float_of(1u + random_next(&random) % 0x7f7fffffu);
        int exponent;
        double fraction = frexp((double)value, &exponent); /* fraction in [0.5, 1) */
        int ceil_exponent = fraction == 0.5 ? exponent - 1 : exponent;
        assert_int_equal(dsv4_ue8m0_from_f32_ceil(value), code_clamp(ceil_exponent));
        int nearest_exponent = fraction > 0.75 ? exponent : exponent - 1;
        if (fraction == 0.75) nearest_exponent = exponent % 2 != 0 ? exponent : exponent - 1;
        assert_int_equal(dsv4_ue8m0_from_f32_nearest(value), code_clamp(nearest_exponent));
    }
}

/*
 * The smallest power of two p, by search, with p >= fl(amax * fl(1 / max_code)). The product is
 * exact in double (24 + 24 bits) before it is rounded to f32.
 */
static uint32_t scale_expected(float amax, float max_code, float floor_value)
{
    double raised = fmax((double)amax, (double)floor_value);
    double inverse = (double)(float)(1.0 / (double)max_code);
    double quotient = (double)(float)(raised * inverse);
    uint32_t code = 0;
    while (code < 254 && ldexp(1.0, (int)code - 127) < quotient) code++;
    return code;
}

static void check_group_scale(float amax, float max_code, float floor_value)
{
    uint32_t code = dsv4_ue8m0_group_scale(amax, max_code, floor_value);
    assert_int_equal(code, scale_expected(amax, max_code, floor_value));
    /* The rounded quotient crosses powers of two just where the true one does: amax fits. */
    double raised = fmax((double)amax, (double)floor_value);
    double scale = ldexp(1.0, (int)code - 127);
    assert_true(raised <= (double)max_code * scale);
    assert_true(raised > (double)max_code * scale / 2.0);
}

static void group_scale_random_and_edges(void **state)
{
    (void)state;
    static const float max_codes[2] = {448.0f, 6.0f};
    static const float floors[2] = {1e-4f, 6 * 0x1p-126f};
    for (int kind = 0; kind < 2; kind++) {
        float max_code = max_codes[kind];
        for (int exponent = -149; exponent < 128; exponent++) {
            double edge = ldexp((double)max_code, exponent);
            float amax = edge < (double)FLT_MAX ? (float)edge : FLT_MAX;
            check_group_scale(amax, max_code, floors[kind]);
            check_group_scale(nextafterf(amax, 0.0f), max_code, floors[kind]);
            if (amax < FLT_MAX)
                check_group_scale(nextafterf(amax, INFINITY), max_code, floors[kind]);
        }
        uint64_t random = 3;
        for (int i = 0; i < N_RANDOM / 10; i++) {
            float amax = float_of(random_next(&random) % 0x7f800000u);
            check_group_scale(amax, max_code, floors[kind]);
        }
    }
}

static void group_scale_spelled_out(void **state)
{
    (void)state;
    assert_int_equal(dsv4_ue8m0_group_scale(448.0f, 448.0f, 1e-4f), 127);
    assert_int_equal(dsv4_ue8m0_group_scale(nextafterf(448.0f, 449.0f), 448.0f, 1e-4f), 128);
    assert_int_equal(dsv4_ue8m0_group_scale(224.0f, 448.0f, 1e-4f), 126);
    /* 1e-4 / 448 = 2^-22.1 */
    assert_int_equal(dsv4_ue8m0_group_scale(0.0f, 448.0f, 1e-4f), 105);
    assert_int_equal(dsv4_ue8m0_group_scale(1e-4f, 448.0f, 1e-4f), 105);
    assert_int_equal(dsv4_ue8m0_group_scale(6.0f, 6.0f, 6 * 0x1p-126f), 127);
    assert_int_equal(dsv4_ue8m0_group_scale(nextafterf(6.0f, 7.0f), 6.0f, 6 * 0x1p-126f), 128);
    assert_int_equal(dsv4_ue8m0_group_scale(0.0f, 6.0f, 6 * 0x1p-126f), 1);
    assert_int_equal(dsv4_ue8m0_group_scale(INFINITY, 448.0f, 1e-4f), 254);
    assert_int_equal(dsv4_ue8m0_group_scale(NAN, 448.0f, 1e-4f), 255);
    assert_int_equal(dsv4_ue8m0_group_scale(NAN, 6.0f, 6 * 0x1p-126f), 255);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(e4m3_table_matches_formula),
        cmocka_unit_test(e4m3_codes_round_trip),
        cmocka_unit_test(e4m3_rounds),
        cmocka_unit_test(e4m3_nan_keeps_sign),
        cmocka_unit_test(e2m1_table_matches_formula),
        cmocka_unit_test(e2m1_codes_round_trip),
        cmocka_unit_test(e2m1_rounds),
        cmocka_unit_test(e2m1_documented_ties),
        cmocka_unit_test(e2m1_nan_gives_max_by_sign),
        cmocka_unit_test(bf16_codes_match_formula_and_round_trip),
        cmocka_unit_test(bf16_nan_stays_nan),
        cmocka_unit_test(bf16_ties_and_neighbours),
        cmocka_unit_test(ue8m0_codes_match_formula),
        cmocka_unit_test(ue8m0_ceil_at_powers),
        cmocka_unit_test(ue8m0_nearest_ties),
        cmocka_unit_test(ue8m0_random),
        cmocka_unit_test(rounding_mode_does_not_matter),
        cmocka_unit_test(group_scale_random_and_edges),
        cmocka_unit_test(group_scale_spelled_out),
    };
    return cmocka_run_group_tests_name("num", tests, NULL, NULL);
}
