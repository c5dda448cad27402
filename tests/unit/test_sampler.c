/*
 * test_sampler.c - sampling: rules on hand-made logits, frequencies, and a plain second implementation.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VOCAB = 2000 };

static uint64_t scratch[MAX_VOCAB];

static dsv4_sampling make_sampling(float temperature, int32_t top_k, float top_p, float min_p)
{
    dsv4_sampling sampling;
    dsv4_sampling_default(&sampling);
    sampling.temperature = temperature;
    sampling.top_k = top_k;
    sampling.top_p = top_p;
    sampling.min_p = min_p;
    return sampling;
}

static void defaults_leave_the_distribution_alone(void **state)
{
    (void)state;
    dsv4_sampling sampling;
    dsv4_sampling_default(&sampling);
    assert_int_equal(sampling.size, sizeof sampling);
    assert_true(sampling.temperature == 1.0f && sampling.top_p == 1.0f && sampling.min_p == 0.0f);
    assert_int_equal(sampling.top_k, 0);
    assert_int_equal(sampling.seed, 0);
    assert_int_equal(dsv4_sampling_check(&sampling, NULL), DSV4_OK);
}

static void wrong_settings_are_named(void **state)
{
    (void)state;
    static const struct {
        float temperature, top_p, min_p;
        int32_t top_k;
        const char *text;
    } cases[] = {
        {-0.5f, 1, 0, 0, "temperature: -0.5, expected 0 .. inf"},
        {NAN, 1, 0, 0, "temperature: nan"},
        {1, 1.5f, 0, 0, "top_p: 1.5, expected 0 .. 1"},
        {1, -1, 0, 0, "top_p: -1"},
        {1, 1, 2, 0, "min_p: 2, expected 0 .. 1"},
        {1, 1, NAN, 0, "min_p: nan"},
        {1, 1, 0, -1, "top_k: -1, expected 0 or more"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dsv4_error error = {0};
        dsv4_sampling sampling =
            make_sampling(cases[i].temperature, cases[i].top_k, cases[i].top_p, cases[i].min_p);
        assert_int_equal(dsv4_sampling_check(&sampling, &error), DSV4_ERROR_INVALID_ARGUMENT);
        if (strstr(error.text, cases[i].text) == NULL) fail_msg("%s", error.text);
    }
    dsv4_error error = {0};
    dsv4_sampling sampling = make_sampling(1, 0, 1, 0);
    sampling.size--;
    assert_int_equal(dsv4_sampling_check(&sampling, &error), DSV4_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.text, "size"));
}

static int32_t sample(const dsv4_sampling *sampling, const float *logits, int64_t n,
                      uint64_t *random)
{
    float before[MAX_VOCAB];
    memcpy(before, logits, (size_t)n * sizeof *logits);
    int32_t id = dsv4_sample(sampling, logits, n, random, scratch);
    assert_memory_equal(before, logits, (size_t)n * sizeof *logits);
    return id;
}

static void greedy_takes_the_smallest_id_of_equals(void **state)
{
    (void)state;
    dsv4_sampling sampling = make_sampling(0, 0, 1, 0);
    uint64_t random = 1;
    const float equal[] = {-1, 3, 2, 3, 3}, first[] = {3, 3, 2, 1, 0}, negative[] = {-5, -4, -4};
    assert_int_equal(sample(&sampling, equal, 5, &random), 1);
    assert_int_equal(sample(&sampling, first, 5, &random), 0);
    assert_int_equal(sample(&sampling, negative, 3, &random), 1);
    assert_int_equal(sample(&sampling, negative, 1, &random), 0);
}

static void nan_is_never_chosen(void **state)
{
    (void)state;
    const float logits[] = {NAN, 0, NAN, 1, NAN}, none[] = {NAN, NAN};
    const float temperatures[] = {0, 1, HUGE_VALF};
    for (size_t i = 0; i < 3; i++) {
        for (int32_t top_k = 0; top_k <= 5; top_k++) {
            dsv4_sampling sampling = make_sampling(temperatures[i], top_k, top_k % 2 ? 0.9f : 1, 0);
            uint64_t random = i;
            for (int n = 0; n < 200; n++) {
                assert_int_equal(sample(&sampling, logits, 5, &random) % 2, 1);
            }
            assert_int_equal(sample(&sampling, none, 2, &random), DSV4_SAMPLE_NONE);
        }
    }
}

static void infinite_logits_count_as_limits(void **state)
{
    (void)state;
    dsv4_sampling sampling = make_sampling(1, 0, 1, 0);
    const float masked[] = {-HUGE_VALF, 1, -HUGE_VALF, 1},
                all_masked[] = {NAN, -HUGE_VALF, -HUGE_VALF};
    const float above[] = {5, HUGE_VALF, 100, HUGE_VALF, -HUGE_VALF};
    uint64_t random = 7;
    int counts[5] = {0};
    for (int i = 0; i < 400; i++) {
        assert_int_equal(sample(&sampling, masked, 4, &random) % 2, 1);
        assert_int_equal(sample(&sampling, all_masked, 3, &random), 1);
        counts[sample(&sampling, above, 5, &random)]++;
    }
    assert_int_equal(counts[1] + counts[3], 400);
    assert_in_range(counts[1], 140, 260);
}

static void a_draw_advances_the_state_once(void **state)
{
    (void)state;
    const float logits[] = {0, 1, 2, 3};
    uint64_t expected = 0, random = 0;
    for (float temperature = 0; temperature < 3; temperature++) {
        dsv4_sampling sampling = make_sampling(temperature, 2, 0.5f, 0.1f);
        expected += UINT64_C(0x9e3779b97f4a7c15); /* the step of splitmix64 */
        (void)sample(&sampling, logits, 4, &random);
        assert_true(random == expected);
    }
}

/*
 * The first outputs of splitmix64 from state 0, by its authors' code, as shares of 2^64: 0.8864, 0.4318,
 * 0.0265. Tokens of equal weight split the unit interval.
 */
static void draws_are_those_of_splitmix64(void **state)
{
    (void)state;
    float logits[1000] = {0};
    dsv4_sampling sampling = make_sampling(1, 0, 1, 0);
    const uint64_t outputs[] = {UINT64_C(0xe220a8397b1dcdaf), UINT64_C(0x6e789e6aa1b965f4),
                                UINT64_C(0x06c45d188009454f)};
    uint64_t random = 0;
    for (size_t i = 0; i < 3; i++) {
        int32_t expected = (int32_t)((double)outputs[i] * 0x1p-64 * 1000);
        assert_int_equal(sample(&sampling, logits, 1000, &random), expected);
    }
}

/* ---- frequencies ---- */

/*
 * Chi-square of n_draws against the probabilities; with up to 7 degrees of freedom values above 40 have
 * a probability below 2e-6, and the seeds are fixed. What has probability 0 must not come.
 */
static void check_frequencies(const dsv4_sampling *sampling, const float *logits,
                              const double *probabilities, int n)
{
    enum { N_DRAWS = 100000 };
    int counts[8] = {0};
    uint64_t random = 42;
    for (int i = 0; i < N_DRAWS; i++) counts[sample(sampling, logits, n, &random)]++;
    double chi_square = 0;
    for (int i = 0; i < n; i++) {
        double expected = probabilities[i] * N_DRAWS;
        if (expected == 0) {
            assert_int_equal(counts[i], 0);
        } else {
            chi_square +=
                ((double)counts[i] - expected) * ((double)counts[i] - expected) / expected;
        }
    }
    if (chi_square > 40) fail_msg("chi-square %g", chi_square);
}

/* Logits are logarithms of 8, 4, 2, 1, 1 in another order. */
static const float log_weights[] = {0, 1.3862943611f, 0, 2.0794415417f, 0.6931471806f};

static void frequencies_are_the_probabilities(void **state)
{
    (void)state;
    const struct {
        float temperature;
        int32_t top_k;
        float top_p, min_p;
        double weights[5];
    } cases[] = {
        {1, 0, 1, 0, {1, 4, 1, 8, 2}},
        {0.5f, 0, 1, 0, {1, 16, 1, 64, 4}},
        {2, 0, 1, 0, {1, 2, 1, 2.8284271247, 1.4142135624}},
        {HUGE_VALF, 0, 1, 0, {1, 1, 1, 1, 1}},
        {1, 1, 1, 0, {0, 0, 0, 1, 0}},
        {1, 3, 1, 0, {0, 4, 0, 8, 2}},
        {1, 4, 1, 0, {1, 4, 0, 8, 2}}, /* of equals the smaller id */
        {1, 5, 1, 0, {1, 4, 1, 8, 2}},
        {1, 99, 1, 0, {1, 4, 1, 8, 2}},
        {1, 0, 0, 0, {0, 0, 0, 1, 0}},
        {1, 0, 0.49f, 0, {0, 0, 0, 1, 0}}, /* 8/16 reaches it */
        {1, 0, 0.51f, 0, {0, 4, 0, 8, 0}},
        {1, 0, 0.76f, 0, {0, 4, 0, 8, 2}},
        {1, 0, 0.88f, 0, {1, 4, 0, 8, 2}},
        {1, 0, 0.95f, 0, {1, 4, 1, 8, 2}},
        {1, 2, 0.6f, 0, {0, 0, 0, 1, 0}}, /* 8/12 of what top_k leaves */
        {1, 2, 0.7f, 0, {0, 4, 0, 8, 0}},
        {2, 0, 0.49f, 0, {0, 2, 0, 2.8284271247, 0}}, /* after the temperature */
        {1, 0, 1, 0.2f, {0, 4, 0, 8, 2}},
        {1, 0, 1, 0.3f, {0, 4, 0, 8, 0}},
        {1, 0, 1, 1, {0, 0, 0, 1, 0}},
        {2, 0, 1, 0.3f, {1, 2, 1, 2.8284271247, 1.4142135624}},
        {1, 4, 0.99f, 0.2f, {0, 4, 0, 8, 2}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dsv4_sampling sampling =
            make_sampling(cases[i].temperature, cases[i].top_k, cases[i].top_p, cases[i].min_p);
        double probabilities[5], sum = 0;
        for (int j = 0; j < 5; j++) sum += cases[i].weights[j];
        for (int j = 0; j < 5; j++) probabilities[j] = cases[i].weights[j] / sum;
        check_frequencies(&sampling, log_weights, probabilities, 5);
    }
}

/* Four equals: half of the probability is two of them, and each is as likely as the largest. */
static void bounds_are_inclusive(void **state)
{
    (void)state;
    const float logits[4] = {2, 2, 2, 2};
    const double two[4] = {0.5, 0.5, 0, 0}, all[4] = {0.25, 0.25, 0.25, 0.25};
    dsv4_sampling sampling = make_sampling(1, 0, 0.5f, 0);
    check_frequencies(&sampling, logits, two, 4);
    sampling = make_sampling(1, 0, 1, 1);
    check_frequencies(&sampling, logits, all, 4);
}

/* ---- a second implementation ---- */

typedef struct pair {
    double weight;
    int32_t id;
} pair;

static int compare_pairs(const void *a, const void *b)
{
    const pair *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

/* The tokens that may come, as the definition has it: everything sorted, each rule in turn. */
static int32_t count_allowed(const dsv4_sampling *sampling, const float *logits, int32_t n,
                             bool *is_allowed)
{
    static pair pairs[MAX_VOCAB];
    float largest = logits[0];
    for (int32_t i = 0; i < n; i++) largest = fmaxf(largest, logits[i]);
    for (int32_t i = 0; i < n; i++) {
        pairs[i] = (pair){(double)expf((logits[i] - largest) / sampling->temperature), i};
        is_allowed[i] = false;
    }
    qsort(pairs, (size_t)n, sizeof *pairs, compare_pairs);
    int32_t n_kept = sampling->top_k > 0 && sampling->top_k < n ? sampling->top_k : n, n_p = 0;
    double total = 0, sum = 0;
    for (int32_t i = 0; i < n_kept; i++) total += pairs[i].weight;
    while (n_p < n_kept && (n_p == 0 || sum < (double)sampling->top_p * total)) {
        sum += pairs[n_p++].weight;
    }
    if (sampling->top_p >= 1) n_p = n_kept;
    int32_t n_allowed = 0;
    for (int32_t i = 0; i < n_p; i++) {
        if (pairs[i].weight < (double)sampling->min_p) continue;
        is_allowed[pairs[i].id] = true;
        n_allowed++;
    }
    return n_allowed;
}

/* Whatever the sizes, exactly the allowed tokens come; few are allowed so that all of them do. */
static void exactly_the_allowed_tokens_come(void **state)
{
    (void)state;
    static bool is_allowed[MAX_VOCAB], came[MAX_VOCAB];
    static float logits[MAX_VOCAB];
    uint64_t random = 5;
    srand(1);
    for (int round = 0; round < 60; round++) {
        int32_t n = round < 20 ? 1 + round : 100 + rand() % (MAX_VOCAB - 100);
        for (int32_t i = 0; i < n; i++) {
            logits[i] = (float)(rand() % 4000) / (round % 3 == 0 ? 1000.0f : 400.0f);
            if (round % 4 == 0) logits[i] = floorf(logits[i]); /* many equals */
        }
        dsv4_sampling sampling = make_sampling(
            0.5f + (float)(round % 5) * 0.25f, round % 2 ? 1 + rand() % 20 : 0,
            round % 3 ? 0.02f + (float)(rand() % 100) * 1e-4f : 1, round % 5 == 0 ? 0.05f : 0);
        int32_t n_allowed = count_allowed(&sampling, logits, n, is_allowed), n_came = 0;
        memset(came, 0, sizeof came);
        for (int i = 0; i < 3000; i++) {
            int32_t id = sample(&sampling, logits, n, &random);
            assert_in_range(id, 0, n - 1);
            if (!is_allowed[id]) fail_msg("round %d: token %d", round, id);
            n_came += !came[id];
            came[id] = true;
        }
        if (n_allowed <= 30) assert_int_equal(n_came, n_allowed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_leave_the_distribution_alone),
        cmocka_unit_test(wrong_settings_are_named),
        cmocka_unit_test(greedy_takes_the_smallest_id_of_equals),
        cmocka_unit_test(nan_is_never_chosen),
        cmocka_unit_test(infinite_logits_count_as_limits),
        cmocka_unit_test(a_draw_advances_the_state_once),
        cmocka_unit_test(draws_are_those_of_splitmix64),
        cmocka_unit_test(frequencies_are_the_probabilities),
        cmocka_unit_test(bounds_are_inclusive),
        cmocka_unit_test(exactly_the_allowed_tokens_come),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
