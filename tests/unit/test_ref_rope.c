/*
 * test_ref_rope.c - frequencies, tables and rotation, against complex numbers in double.
 */
#include <complex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "ref/rope.h"
#include "test_ref.h"

#define PI 3.14159265358979323846

static void yarn_frequencies(float *frequencies)
{
    dsv4_rope_frequencies(160000.0, 16.0, 65536, 32.0, 1.0, frequencies);
}

/* Power, reciprocal and up to 5 operations of the blend: 7 roundings. */
static void assert_frequency(float actual, double expected)
{
    assert_near((double)actual, expected, 8 * F32_ROUNDING * expected);
}

static void plain_frequencies(void **unused)
{
    (void)unused;
    float f[32];
    dsv4_rope_frequencies(10000.0, 16.0, 0, 32.0, 1.0, f);
    for (int i = 0; i < 32; i++) assert_frequency(f[i], exp(-i / 32.0 * log(10000.0)));
    assert_true(f[0] == 1.0f);
    assert_frequency(f[31], pow(10000.0, -62.0 / 64.0));
}

/*
 * The ramp's ends follow from the wave lengths: pair i turns 65536 f_i / (2 pi) times over the
 * original positions; low is the last pair that turns 32 times or more, high the first that turns
 * at most once.
 */
static void yarn_ramp(void **unused)
{
    (void)unused;
    float f[32];
    yarn_frequencies(f);
    int low = -1, high = -1;
    for (int i = 0; i < 32; i++) {
        double n_turns = 65536.0 * pow(160000.0, -i / 32.0) / (2.0 * PI);
        if (n_turns >= 32.0) low = i;
        if (n_turns <= 1.0 && high < 0) high = i;
    }
    assert_int_equal(low, 15);
    assert_int_equal(high, 25);
    for (int i = 0; i < 32; i++) {
        double base = pow(160000.0, -i / 32.0);
        double slow_part = i <= low ? 0.0 : i >= high ? 1.0 : (i - low) / (double)(high - low);
        assert_frequency(f[i], base * (1.0 - slow_part * 15.0 / 16.0));
    }
    assert_frequency(f[31], pow(160000.0, -62.0 / 64.0) / 16.0);
}

/* Outside the ramp YaRN is exact: unchanged, or a division by 16. */
static void yarn_outside_ramp_is_exact(void **unused)
{
    (void)unused;
    float f[32], plain[32];
    yarn_frequencies(f);
    dsv4_rope_frequencies(160000.0, 16.0, 0, 32.0, 1.0, plain);
    for (int i = 0; i <= 15; i++) assert_int_equal(bits_of(f[i]), bits_of(plain[i]));
    for (int i = 16; i <= 24; i++) assert_true(f[i] < plain[i] && f[i] > plain[i] / 16.0f);
    for (int i = 25; i < 32; i++) assert_int_equal(bits_of(f[i]), bits_of(plain[i] / 16.0f));
}

/* Six positions: both ends of the ramp are pair 0, so it is a step after it. */
static void yarn_ramp_of_no_length(void **unused)
{
    (void)unused;
    float f[32], plain[32];
    dsv4_rope_frequencies(10000.0, 16.0, 6, 32.0, 1.0, f);
    dsv4_rope_frequencies(10000.0, 16.0, 0, 32.0, 1.0, plain);
    assert_true(f[0] == 1.0f);
    for (int i = 1; i < 32; i++) assert_int_equal(bits_of(f[i]), bits_of(plain[i] / 16.0f));
}

static void table_matches_exponentials(void **unused)
{
    (void)unused;
    static const int64_t positions[] = {0, 1, 127, 65536, 1048575};
    float f[32], table[64];
    yarn_frequencies(f);
    for (int p = 0; p < 5; p++) {
        dsv4_rope_table(f, positions[p], table);
        for (int i = 0; i < 32; i++) {
            float angle = (float)positions[p] * f[i];
            double complex turn = cexp(I * (double)angle);
            assert_near((double)table[i], creal(turn), F32_ROUNDING);
            assert_near((double)table[32 + i], cimag(turn), F32_ROUNDING);
        }
    }
}

static void position_0_is_identity(void **unused)
{
    (void)unused;
    uint64_t state = 1;
    float f[32], table[64], values[64], turned[64];
    yarn_frequencies(f);
    dsv4_rope_table(f, 0, table);
    random_fill(&state, 4.0f, values, 64);
    memcpy(turned, values, sizeof turned);
    dsv4_rope_turn(turned, table, 0);
    assert_memory_equal(turned, values, sizeof values);
    dsv4_rope_turn(turned, table, 1);
    assert_memory_equal(turned, values, sizeof values);
}

/* Pairs are adjacent, the angle of pair i is position * f_i, and forward is counterclockwise. */
static void turn_multiplies_complex(void **unused)
{
    (void)unused;
    uint64_t state = 2;
    float f[32], table[64];
    yarn_frequencies(f);
    for (int inverse = 0; inverse < 2; inverse++) {
        for (int64_t position = 1; position < 3000; position += 97) {
            float values[64], turned[64];
            random_fill(&state, 4.0f, values, 64);
            memcpy(turned, values, sizeof turned);
            dsv4_rope_table(f, position, table);
            dsv4_rope_turn(turned, table, inverse);
            for (int i = 0; i < 32; i++) {
                /* The f32 angle is off by 2^-24 of itself; three more operations on it. */
                double angle = (double)position * (double)f[i];
                double complex before = (double)values[2 * i] + I * (double)values[2 * i + 1];
                double complex after = before * cexp(inverse ? -I * angle : I * angle);
                double tolerance = (angle + 4.0) * F32_ROUNDING * cabs(before);
                assert_near((double)turned[2 * i], creal(after), tolerance);
                assert_near((double)turned[2 * i + 1], cimag(after), tolerance);
            }
        }
    }
}

static void turn_keeps_norm_and_inverse_undoes(void **unused)
{
    (void)unused;
    uint64_t state = 3;
    float f[32], table[64];
    yarn_frequencies(f);
    for (int round = 0; round < 200; round++) {
        float values[64], turned[64];
        random_fill(&state, 4.0f, values, 64);
        memcpy(turned, values, sizeof turned);
        dsv4_rope_table(f, random_next(&state) % 1048576, table);
        dsv4_rope_turn(turned, table, 0);
        for (int i = 0; i < 32; i++) {
            double norm = hypot((double)values[2 * i], (double)values[2 * i + 1]);
            double turned_norm = hypot((double)turned[2 * i], (double)turned[2 * i + 1]);
            assert_near(turned_norm, norm, 5 * F32_ROUNDING * norm);
        }
        dsv4_rope_turn(turned, table, 1);
        for (int i = 0; i < 64; i++) {
            double norm = hypot((double)values[i], (double)values[i ^ 1]);
            assert_near((double)turned[i], (double)values[i], 10 * F32_ROUNDING * norm);
        }
    }
}

static double dot_turned(const float *f, const float *q, int64_t q_position, const float *k,
                         int64_t k_position)
{
    float table[64], q_turned[64], k_turned[64];
    memcpy(q_turned, q, sizeof q_turned);
    memcpy(k_turned, k, sizeof k_turned);
    dsv4_rope_table(f, q_position, table);
    dsv4_rope_turn(q_turned, table, 0);
    dsv4_rope_table(f, k_position, table);
    dsv4_rope_turn(k_turned, table, 0);
    double dot = 0.0;
    for (int i = 0; i < 64; i++) dot += (double)q_turned[i] * (double)k_turned[i];
    return dot;
}

/* A score depends on the distance alone: angles up to 1100 are off by 1100 * 2^-24 each. */
static void scores_depend_on_distance(void **unused)
{
    (void)unused;
    uint64_t state = 4;
    float f[32], q[64], k[64];
    yarn_frequencies(f);
    random_fill(&state, 1.0f, q, 64);
    random_fill(&state, 1.0f, k, 64);
    double near = dot_turned(f, q, 100, k, 40);
    assert_near(dot_turned(f, q, 1060, k, 1000), near, 64 * 2 * 1100 * F32_ROUNDING);
    assert_true(fabs(dot_turned(f, q, 40, k, 100) - near) > 0.1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_frequencies),
        cmocka_unit_test(yarn_ramp),
        cmocka_unit_test(yarn_outside_ramp_is_exact),
        cmocka_unit_test(yarn_ramp_of_no_length),
        cmocka_unit_test(table_matches_exponentials),
        cmocka_unit_test(position_0_is_identity),
        cmocka_unit_test(turn_multiplies_complex),
        cmocka_unit_test(turn_keeps_norm_and_inverse_undoes),
        cmocka_unit_test(scores_depend_on_distance),
    };
    return cmocka_run_group_tests_name("ref_rope", tests, NULL, NULL);
}
