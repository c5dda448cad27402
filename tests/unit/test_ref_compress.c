/*
 * test_ref_compress.c - pooling and finishing of a compressed key against the equations in double.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "ref/compress.h"
#include "ref/rope.h"
#include "test_ref.h"

enum { MAX_SLOTS = 128, MAX_DIM = 512 };

/* Raw rows [n_tokens][2][n_halves * dim] f32: K then G. */
static float *rows_make(uint64_t *state, int64_t n_tokens, int64_t width, float gate_scale)
{
    float *raw = new_floats(n_tokens * 2 * width);
    for (int64_t token = 0; token < n_tokens; token++) {
        random_fill(state, 2.0f, raw + token * 2 * width, width);
        random_fill(state, gate_scale, raw + token * 2 * width + width, width);
    }
    return raw;
}

/* v of one channel; slot s has K at keys[s] and G at gates[s]. Relative to sum p |K|. */
static void assert_pooled(float actual, const float *const *keys, const float *const *gates,
                          int n_slots)
{
    double total = 0.0, sum = 0.0, magnitudes = 0.0, largest = 0.0;
    for (int s = 0; s < n_slots; s++) {
        double weight = exp((double)*gates[s]);
        total += weight;
        sum += weight * (double)*keys[s];
        magnitudes += weight * fabs((double)*keys[s]);
        largest = fmax(largest, fabs((double)*gates[s]));
    }
    /* Two sums of n_slots, and exponentials of differences that are off by 2 max |G| 2^-24. */
    double tolerance = (2.0 * n_slots + 4.0 * largest + 8.0) * F32_ROUNDING * magnitudes / total;
    assert_near((double)actual, sum / total, tolerance);
}

static void pool_128_matches_double(void **unused)
{
    (void)unused;
    uint64_t state = 1;
    enum { DIM = 96 };
    float *raw = rows_make(&state, 128, DIM, 10.0f);
    const float *rows[MAX_SLOTS], *keys[MAX_SLOTS], *gates[MAX_SLOTS];
    float pooled[DIM + 1] = {0.0f};
    pooled[DIM] = 77.0f;
    for (int s = 0; s < 128; s++) rows[s] = raw + s * 2 * DIM;
    dsv4_compress_pool(rows, 128, DIM, pooled);
    for (int channel = 0; channel < DIM; channel++) {
        for (int s = 0; s < 128; s++) {
            keys[s] = raw + s * 2 * DIM + channel;
            gates[s] = raw + s * 2 * DIM + DIM + channel;
        }
        assert_pooled(pooled[channel], keys, gates, 128);
    }
    assert_true(pooled[DIM] == 77.0f);
    free(raw);
}

/* Tokens 0 .. 11 of a sequence; key j pools tokens 4(j - 1) .. 4j + 3. */
static void pool_4_matches_double(void **unused)
{
    (void)unused;
    uint64_t state = 2;
    enum { DIM = 128, WIDTH = 2 * DIM };
    float *raw = rows_make(&state, 12, WIDTH, 8.0f);
    for (int j = 0; j < 3; j++) {
        const float *rows[8];
        for (int s = 0; s < 8; s++) {
            int token = 4 * (j - 1) + s;
            rows[s] = token < 0 ? NULL : raw + token * 2 * WIDTH;
        }
        float pooled[DIM];
        dsv4_compress_pool(rows, 4, DIM, pooled);
        for (int channel = 0; channel < DIM; channel++) {
            const float *keys[8], *gates[8];
            int n_slots = 0;
            for (int token = 0; token < 12; token++) {
                int column = channel;
                if (token / 4 != j - 1 && token / 4 != j) continue;
                if (token / 4 == j) column += DIM;
                keys[n_slots] = raw + token * 2 * WIDTH + column;
                gates[n_slots++] = raw + token * 2 * WIDTH + WIDTH + column;
            }
            assert_int_equal(n_slots, j == 0 ? 4 : 8);
            assert_pooled(pooled[channel], keys, gates, n_slots);
        }
    }
    free(raw);
}

/* Rows of constants: previous tokens count with their first half, current ones with the second. */
static void pool_4_halves(void **unused)
{
    (void)unused;
    enum { DIM = 64 };
    float previous[4 * DIM], current[4 * DIM], pooled[DIM];
    for (int i = 0; i < DIM; i++) {
        previous[i] = 1.0f, previous[DIM + i] = 1000.0f;
        current[i] = 1000.0f, current[DIM + i] = 4.0f;
        previous[2 * DIM + i] = 0.0f, previous[3 * DIM + i] = 50.0f;
        current[2 * DIM + i] = 50.0f, current[3 * DIM + i] = 0.0f;
    }
    const float *rows[8] = {previous, previous, previous, previous,
                            current,  current,  current,  current};
    dsv4_compress_pool(rows, 4, DIM, pooled);
    for (int i = 0; i < DIM; i++) assert_true(pooled[i] == 2.5f);
    for (int s = 0; s < 4; s++) rows[s] = NULL;
    dsv4_compress_pool(rows, 4, DIM, pooled);
    for (int i = 0; i < DIM; i++) assert_true(pooled[i] == 4.0f);
}

/* Each channel has its own softmax: channel i listens to slot i alone. Gates may be huge. */
static void pool_weighs_per_channel(void **unused)
{
    (void)unused;
    enum { DIM = 128 };
    static float raw[128][2 * DIM];
    const float *rows[128];
    float pooled[DIM];
    for (int s = 0; s < 128; s++) {
        for (int i = 0; i < DIM; i++) {
            raw[s][i] = (float)(1000 * s + i);
            raw[s][DIM + i] = s == i ? 9000.0f : -9000.0f;
        }
        rows[s] = raw[s];
    }
    dsv4_compress_pool(rows, 128, DIM, pooled);
    for (int i = 0; i < DIM; i++) assert_true(pooled[i] == (float)(1001 * i));
}

static void finish_in_double(const double *pooled, int64_t dim, const uint16_t *weight, double eps,
                             const float *table, int round, double *key)
{
    double squares = 0.0;
    for (int64_t i = 0; i < dim; i++) {
        key[i] = round ? round_to_bf16(pooled[i]) : pooled[i];
        squares += key[i] * key[i];
    }
    for (int64_t i = 0; i < dim; i++) {
        uint32_t bits = (uint32_t)weight[i] << 16;
        float w;
        memcpy(&w, &bits, sizeof w);
        key[i] *= (double)w / sqrt(squares / (double)dim + eps);
        if (round) key[i] = round_to_bf16(key[i]);
    }
    for (int64_t i = 0; i < 32; i++) {
        double *pair = key + dim - 64 + 2 * i;
        double even = pair[0] * (double)table[i] - pair[1] * (double)table[32 + i];
        double odd = pair[0] * (double)table[32 + i] + pair[1] * (double)table[i];
        pair[0] = round ? round_to_bf16(even) : even;
        pair[1] = round ? round_to_bf16(odd) : odd;
    }
}

/*
 * With rounding, a value whose f32 error carries it over a tie of bf16 differs by a step: 2^-24 of
 * it against steps of 2^-8, a chance of some 10 * 2^-16 per rounding. A missing rounding changes
 * far more.
 */
static void check_finish(uint64_t *state, int64_t dim, float scale, int64_t position, int round)
{
    float f[32], table[64], pooled[MAX_DIM];
    double before[MAX_DIM], expected[MAX_DIM];
    uint16_t weight[MAX_DIM];
    dsv4_rope_frequencies(160000.0, 16.0, 65536, 32.0, 1.0, f);
    dsv4_rope_table(f, position, table);
    random_fill(state, scale, pooled, dim);
    for (int64_t i = 0; i < dim; i++) {
        before[i] = (double)pooled[i];
        weight[i] = (uint16_t)(bits_of(1.0f + 0.5f * random_unit(state)) >> 16);
    }
    finish_in_double(before, dim, weight, (double)1e-6f, table, round, expected);
    dsv4_compress_finish(pooled, dim, weight, 1e-6f, table, round);
    int n_steps = 0;
    for (int64_t i = 0; i < dim; i++) {
        double pair = hypot(expected[i], expected[i ^ 1]);
        if (fabs((double)pooled[i] - expected[i]) <= 32 * F32_ROUNDING * pair) continue;
        assert_true(round);
        assert_near((double)pooled[i], expected[i], 0x1p-7 * pair);
        n_steps++;
    }
    assert_true(n_steps <= 2);
    for (int64_t i = 0; round && i < dim; i++) assert_int_equal(bits_of(pooled[i]) & 0xffffu, 0);
}

static void finish_matches_double(void **unused)
{
    (void)unused;
    uint64_t state = 3;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 20; i++) {
            check_finish(&state, 512, 3.0f, 4 * i, round);
            check_finish(&state, 128, 1e-3f, 128 * i, round); /* the eps matters */
        }
    }
}

/*
 * The key of group j stands where its first token does: turned back there, it is the unturned key.
 */
static void finish_turns_tail_by_table_alone(void **unused)
{
    (void)unused;
    uint64_t state = 4;
    float f[32], at_0[64], at_first[64], still[128], turned[128], pooled[128];
    uint16_t ones[128];
    for (int i = 0; i < 128; i++) ones[i] = 0x3f80;
    dsv4_rope_frequencies(160000.0, 16.0, 65536, 32.0, 1.0, f);
    dsv4_rope_table(f, 0, at_0);
    dsv4_rope_table(f, 4 * 7, at_first);
    random_fill(&state, 1.0f, pooled, 128);
    memcpy(still, pooled, sizeof pooled);
    memcpy(turned, pooled, sizeof pooled);
    dsv4_compress_finish(still, 128, ones, 1e-6f, at_0, 0);
    dsv4_compress_finish(turned, 128, ones, 1e-6f, at_first, 0);
    assert_memory_equal(turned, still, 64 * sizeof *still);
    assert_true(fabsf(turned[64] - still[64]) > 1e-3f);
    for (int i = 0; i < 32; i++) {
        double angle = 28.0 * (double)f[i];
        double even = (double)turned[64 + 2 * i], odd = (double)turned[65 + 2 * i];
        assert_near(even * cos(angle) + odd * sin(angle), (double)still[64 + 2 * i], 1e-5);
        assert_near(odd * cos(angle) - even * sin(angle), (double)still[65 + 2 * i], 1e-5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pool_128_matches_double),
        cmocka_unit_test(pool_4_matches_double),
        cmocka_unit_test(pool_4_halves),
        cmocka_unit_test(pool_weighs_per_channel),
        cmocka_unit_test(finish_matches_double),
        cmocka_unit_test(finish_turns_tail_by_table_alone),
    };
    return cmocka_run_group_tests_name("ref_compress", tests, NULL, NULL);
}
