/*
 * test_ref_gate.c - routing and the experts' activation against the equations in double.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "ref/gate.h"
#include "test_ref.h"

enum { N_EXPERTS = 384, N_ACTIVE = 6 };

/* expf and log1pf to 2 units each; the square root halves errors; far left z itself costs |z|. */
static void scores_match_double(void **unused)
{
    (void)unused;
    for (int i = -800; i <= 1000; i++) {
        float z = (float)i / 10.0f, score = z;
        dsv4_gate_scores(&score, 1);
        double expected = sqrt(log1p(exp((double)z)));
        assert_near((double)score, expected, (8.0 + fabs((double)z)) * F32_ROUNDING * expected);
    }
}

static void scores_at_edges(void **unused)
{
    (void)unused;
    float z[] = {1e30f, 20.5f, nextafterf(20.0f, 21.0f), -200.0f, -INFINITY, INFINITY, NAN, 0.0f};
    float past_20 = z[2];
    dsv4_gate_scores(z, 8);
    assert_true(z[0] == sqrtf(1e30f) && z[1] == sqrtf(20.5f) && z[2] == sqrtf(past_20));
    assert_true(z[3] == 0.0f && z[4] == 0.0f && z[5] == INFINITY && isnan(z[6]));
    assert_near((double)z[7], sqrt(log(2.0)), 4 * F32_ROUNDING);
}

/* Takes the best of those left, n_active times; strict comparison keeps the smaller expert. */
static void choose_slowly(const float *scores, const float *bias, int64_t n_experts,
                          int64_t n_active, int32_t *experts)
{
    char taken[N_EXPERTS] = {0};
    for (int64_t i = 0; i < n_active; i++) {
        int32_t best = -1;
        for (int32_t e = 0; e < n_experts; e++) {
            if (taken[e] || isnan(scores[e])) continue;
            if (best < 0 || scores[e] + bias[e] > scores[best] + bias[best]) best = e;
        }
        for (int32_t e = 0; best < 0; e++) {
            if (!taken[e]) best = e;
        }
        taken[best] = 1;
        experts[i] = best;
    }
}

static void choose_matches_repeated_maximum(void **unused)
{
    (void)unused;
    uint64_t state = 1;
    float scores[N_EXPERTS], bias[N_EXPERTS];
    for (int round = 0; round < 1000; round++) {
        int64_t n_experts = 1 + random_next(&state) % N_EXPERTS;
        int64_t n_active = 1 + random_next(&state) % DSV4_GATE_MAX_ACTIVE;
        if (n_active > n_experts) n_active = n_experts;
        random_fill(&state, 2.0f, scores, n_experts);
        random_fill(&state, 2.0f, bias, n_experts);
        for (int64_t e = 0; round % 2 == 0 && e < n_experts; e++) { /* ties */
            scores[e] = roundf(scores[e]);
            bias[e] = roundf(bias[e]);
            if (round % 4 == 0 && random_next(&state) % 4 == 0) scores[e] = NAN;
        }
        int32_t chosen[DSV4_GATE_MAX_ACTIVE + 1], expected[DSV4_GATE_MAX_ACTIVE];
        chosen[n_active] = -7;
        dsv4_gate_choose(scores, bias, n_experts, n_active, chosen);
        choose_slowly(scores, bias, n_experts, n_active, expected);
        assert_memory_equal(chosen, expected, (size_t)n_active * sizeof *chosen);
        assert_int_equal(chosen[n_active], -7);
    }
}

static void choose_ties_go_to_smaller_expert(void **unused)
{
    (void)unused;
    float scores[8] = {1.0f, 2.0f, 2.0f, 1.0f, 2.0f, 0.5f, 1.0f, 3.0f}, bias[8] = {0.0f};
    bias[5] = 1.5f; /* 0.5 + 1.5 ties with the 2s */
    static const int32_t expected[8] = {7, 1, 2, 4, 5, 0, 3, 6};
    int32_t chosen[8];
    for (int64_t n_active = 1; n_active <= 8; n_active++) {
        dsv4_gate_choose(scores, bias, 8, n_active, chosen);
        assert_memory_equal(chosen, expected, (size_t)n_active * sizeof *chosen);
    }
}

/* The bias brings expert 3 in; its weight is of its score alone. */
static void bias_chooses_and_does_not_weigh(void **unused)
{
    (void)unused;
    const float scores[4] = {1.0f, 3.0f, 2.0f, 0.5f}, bias[4] = {0.0f, 0.0f, -10.0f, 100.0f};
    int32_t experts[2];
    float weights[2];
    dsv4_gate_choose(scores, bias, 4, 2, experts);
    assert_true(experts[0] == 3 && experts[1] == 1);
    dsv4_gate_weigh(scores, experts, 2, 3.5f, weights);
    assert_true(weights[0] == 0.5f && weights[1] == 3.0f);
}

static void weights_sum_to_routed_scale(void **unused)
{
    (void)unused;
    uint64_t state = 2;
    float scores[N_EXPERTS], bias[N_EXPERTS], weights[N_ACTIVE];
    int32_t experts[N_ACTIVE];
    for (int round = 0; round < 200; round++) {
        random_fill(&state, 6.0f, scores, N_EXPERTS);
        random_fill(&state, 1.0f, bias, N_EXPERTS);
        dsv4_gate_scores(scores, N_EXPERTS);
        dsv4_gate_choose(scores, bias, N_EXPERTS, N_ACTIVE, experts);
        dsv4_gate_weigh(scores, experts, N_ACTIVE, 2.5f, weights);
        double sum = 0.0, score_sum = 0.0;
        for (int i = 0; i < N_ACTIVE; i++) {
            sum += (double)weights[i];
            score_sum += (double)scores[experts[i]];
        }
        assert_near(sum, 2.5, 2.5 * 8 * F32_ROUNDING);
        for (int i = 0; i < N_ACTIVE; i++) {
            double expected = (double)scores[experts[i]] / score_sum * 2.5;
            assert_near((double)weights[i], expected, 8 * F32_ROUNDING * expected);
        }
    }
}

static double swiglu_in_double(double g, double u, double limit, double weight)
{
    if (limit > 0.0) {
        g = fmin(g, limit);
        u = fmax(-limit, fmin(u, limit));
    }
    return weight * u * (g / (1.0 + exp(-g)));
}

static void swiglu_matches_double(void **unused)
{
    (void)unused;
    uint64_t state = 3;
    enum { N = 2000 };
    static float gate[N], up[N], hidden[N];
    static const float limits[] = {10.0f, 0.0f, -1.0f, 0.5f};
    random_fill(&state, 25.0f, gate, N);
    random_fill(&state, 25.0f, up, N);
    for (int l = 0; l < 4; l++) {
        dsv4_gate_swiglu(gate, up, N, limits[l], 0.375f, 0, hidden);
        for (int i = 0; i < N; i++) {
            double g = (double)gate[i];
            double expected = swiglu_in_double(g, (double)up[i], (double)limits[l], 0.375);
            /* 5 operations and an exponential that |g| 2^-24 of its argument feeds. */
            assert_near((double)hidden[i], expected,
                        (8.0 + fabs(g)) * F32_ROUNDING * fabs(expected));
        }
    }
}

static void swiglu_clamps(void **unused)
{
    (void)unused;
    const float gate[] = {30.0f, 10.0f, -30.0f, 1.0f, 1.0f, NAN, 1.0f};
    const float up[] = {1.0f, 1.0f, 1e6f, 99.0f, -99.0f, 1.0f, NAN};
    float h[7], clamped[7];
    dsv4_gate_swiglu(gate, up, 7, 10.0f, 1.0f, 0, h);
    assert_true(h[0] == h[1] && h[3] == -h[4]);
    assert_near((double)h[0], 10.0 / (1.0 + exp(-10.0)), 1e-5);
    assert_near((double)h[3], 10.0 / (1.0 + exp(-1.0)), 1e-5);
    /* No lower clamp of the gate: silu(-30) is -2.8e-12, silu(-10) would be -4.5e-4. */
    assert_near((double)h[2], -300.0 / (1.0 + exp(30.0)), 1e-15);
    assert_true(isnan(h[5]) && isnan(h[6]));
    dsv4_gate_swiglu(gate, up, 7, 0.0f, 1.0f, 0, clamped);
    assert_true(clamped[0] > 29.0f && clamped[3] > 72.0f);
}

/* Rounds before the clamp and at the end: both operands, the result, nothing between. */
static void swiglu_rounds(void **unused)
{
    (void)unused;
    uint64_t state = 4;
    enum { N = 2000 };
    static float gate[N], up[N], gate_rounded[N], up_rounded[N], hidden[N], exact[N];
    random_fill(&state, 12.0f, gate, N);
    random_fill(&state, 12.0f, up, N);
    for (int i = 0; i < N; i++) {
        gate_rounded[i] = (float)round_to_bf16((double)gate[i]);
        up_rounded[i] = (float)round_to_bf16((double)up[i]);
    }
    dsv4_gate_swiglu(gate, up, N, 10.0f, 0.3f, 1, hidden);
    dsv4_gate_swiglu(gate_rounded, up_rounded, N, 10.0f, 0.3f, 0, exact);
    for (int i = 0; i < N; i++) {
        assert_true((double)hidden[i] == round_to_bf16((double)exact[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_match_double),
        cmocka_unit_test(scores_at_edges),
        cmocka_unit_test(choose_matches_repeated_maximum),
        cmocka_unit_test(choose_ties_go_to_smaller_expert),
        cmocka_unit_test(bias_chooses_and_does_not_weigh),
        cmocka_unit_test(weights_sum_to_routed_scale),
        cmocka_unit_test(swiglu_matches_double),
        cmocka_unit_test(swiglu_clamps),
        cmocka_unit_test(swiglu_rounds),
    };
    return cmocka_run_group_tests_name("ref_gate", tests, NULL, NULL);
}
