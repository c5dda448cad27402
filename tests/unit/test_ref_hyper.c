/*
 * test_ref_hyper.c - hyper-connections against the equations in double, and Sinkhorn's invariants.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "ref/hyper.h"
#include "test_ref.h"

enum { MAX_DIM = 520 };

#define HC_EPS 1e-6f

/*
 * A Sinkhorn round is two sums of 4 and two divisions, about 8 roundings; 20 rounds and the
 * exponentials (arguments up to 8, wrong by 8 * 2^-24) stay below 200 roundings.
 */
#define SPLIT_TOLERANCE (200 * F32_ROUNDING)

static double sigmoid(double value)
{
    return 1.0 / (1.0 + exp(-value));
}

static void project_matches_double(void **unused)
{
    (void)unused;
    static const int64_t dims[] = {1, 33, 512};
    uint64_t state = 1;
    for (int d = 0; d < 3; d++) {
        int64_t n = 4 * dims[d];
        float *fn = new_floats(24 * n), *x = new_floats(n);
        random_fill(&state, 0.5f, fn, 24 * n);
        random_fill(&state, d == 1 ? 1e-3f : 3.0f, x, n); /* 1e-3: the eps outweighs the mean */
        dsv4_hyper hyper = {fn, NULL, NULL};
        float projected[24], head[4];
        dsv4_hyper_project(&hyper, x, dims[d], 24, 1e-6f, projected);
        dsv4_hyper_project(&hyper, x, dims[d], 4, 1e-6f, head);
        assert_memory_equal(head, projected, sizeof head);
        double squares = 0.0;
        for (int64_t i = 0; i < n; i++) squares += (double)x[i] * (double)x[i];
        double rsqrt = pow(squares / (double)n + (double)1e-6f, -0.5);
        for (int64_t i = 0; i < 24; i++) {
            double sum = 0.0, magnitudes = 0.0;
            for (int64_t c = 0; c < n; c++) {
                sum += (double)fn[i * n + c] * (double)x[c];
                magnitudes += fabs((double)fn[i * n + c] * (double)x[c]);
            }
            /* Both sums round up to 20 + n / 128 times; 8 for the root and the products. */
            double tolerance = 2.0 * (28.0 + (double)n / 128.0) * F32_ROUNDING * magnitudes * rsqrt;
            assert_near((double)projected[i], sum * rsqrt, tolerance);
        }
        free(fn);
        free(x);
    }
}

/*
 * The equations in double with scale factors of rows and columns kept apart from the matrix, which
 * is another way to run Sinkhorn: comb[j][k] = start[j][k] * row[j] * column[k].
 */
static void split_in_double(const dsv4_hyper *hyper, const float *m, int n_iters, double eps,
                            double pre[4], double post[4], double comb[4][4])
{
    double start[4][4], row[4], column[4];
    for (int j = 0; j < 4; j++) {
        pre[j] = sigmoid((double)m[j] * (double)hyper->scale[0] + (double)hyper->base[j]) + eps;
        post[j] =
            2 * sigmoid((double)m[4 + j] * (double)hyper->scale[1] + (double)hyper->base[4 + j]);
        double sum = 0.0;
        for (int k = 0; k < 4; k++) {
            int at = 8 + 4 * j + k;
            start[j][k] = exp((double)m[at] * (double)hyper->scale[2] + (double)hyper->base[at]);
            sum += start[j][k];
        }
        for (int k = 0; k < 4; k++) start[j][k] = start[j][k] / sum + eps;
        row[j] = column[j] = 1.0;
    }
    for (int half_round = 1; half_round < 2 * n_iters; half_round++) {
        for (int a = 0; a < 4; a++) {
            double sum = eps;
            for (int b = 0; b < 4; b++) {
                sum += half_round % 2 != 0 ? start[b][a] * row[b] * column[a]
                                           : start[a][b] * row[a] * column[b];
            }
            if (half_round % 2 != 0) column[a] /= sum;
            if (half_round % 2 == 0) row[a] /= sum;
        }
    }
    for (int j = 0; j < 4; j++) {
        for (int k = 0; k < 4; k++) comb[j][k] = start[j][k] * row[j] * column[k];
    }
}

static void check_split(uint64_t *state, int n_iters, float eps)
{
    float m[24], base[24], scale[3];
    random_fill(state, 3.0f, m, 24);
    random_fill(state, 2.0f, base, 24);
    random_fill(state, 2.0f, scale, 3);
    dsv4_hyper hyper = {NULL, base, scale};
    dsv4_hyper_mix mix;
    dsv4_hyper_split(&hyper, m, n_iters, eps, &mix);
    double pre[4], post[4], comb[4][4];
    split_in_double(&hyper, m, n_iters, (double)eps, pre, post, comb);
    for (int j = 0; j < 4; j++) {
        assert_near((double)mix.pre[j], pre[j], SPLIT_TOLERANCE);
        assert_near((double)mix.post[j], post[j], SPLIT_TOLERANCE);
        for (int k = 0; k < 4; k++) {
            assert_near((double)mix.comb[j][k], comb[j][k], SPLIT_TOLERANCE);
        }
    }
    float pre_head[4];
    dsv4_hyper_split_head(&hyper, m, eps, pre_head);
    assert_memory_equal(pre_head, mix.pre, sizeof pre_head);
}

/* The large eps shows each place where it is added; few rounds show each normalization. */
static void split_matches_double(void **unused)
{
    (void)unused;
    uint64_t state = 2;
    for (int round = 0; round < 200; round++) {
        check_split(&state, 20, HC_EPS);
        check_split(&state, 20, 0.125f);
        check_split(&state, 1, 0.125f);
        check_split(&state, 2, HC_EPS);
        check_split(&state, 3, 0.125f);
    }
}

/* Column k of sum S was divided by S + eps, S being about 1: it sums to 1 - eps. Rows converge. */
static void comb_is_doubly_stochastic(void **unused)
{
    (void)unused;
    uint64_t state = 3;
    for (int round = 0; round < 500; round++) {
        float m[24], base[24], scale[3] = {1.0f, 1.0f, 1.0f};
        random_fill(&state, 1.0f, m, 24);
        random_fill(&state, 1.0f, base, 24);
        dsv4_hyper hyper = {NULL, base, scale};
        dsv4_hyper_mix mix;
        dsv4_hyper_split(&hyper, m, 20, HC_EPS, &mix);
        for (int a = 0; a < 4; a++) {
            double row = 0.0, column = 0.0;
            for (int b = 0; b < 4; b++) {
                row += (double)mix.comb[a][b];
                column += (double)mix.comb[b][a];
            }
            assert_near(column, 1.0 - (double)HC_EPS, 8 * F32_ROUNDING);
            assert_near(row, 1.0, 1e-4);
        }
    }
}

/* After one round the last step shows: columns sum to 1, rows do not. */
static void last_step_is_of_columns(void **unused)
{
    (void)unused;
    float m[24] = {0.0f}, base[24] = {0.0f}, scale[3] = {1.0f, 1.0f, 1.0f};
    m[8] = m[12] = 5.0f; /* c[0][0], c[1][0]: streams 0 and 1 both go to 0 */
    dsv4_hyper hyper = {NULL, base, scale};
    for (int n_iters = 1; n_iters <= 2; n_iters++) {
        dsv4_hyper_mix mix;
        dsv4_hyper_split(&hyper, m, n_iters, HC_EPS, &mix);
        for (int a = 0; a < 4; a++) {
            double row = 0.0, column = 0.0;
            for (int b = 0; b < 4; b++) {
                row += (double)mix.comb[a][b];
                column += (double)mix.comb[b][a];
            }
            assert_near(column, 1.0, 2e-6);
            assert_true(fabs(row - 1.0) > 1e-3);
        }
        assert_true(mix.comb[0][0] > mix.comb[0][1] && mix.comb[0][0] > mix.comb[2][0]);
        assert_true(mix.pre[0] == 0.5f + HC_EPS && mix.post[3] == 1.0f);
    }
}

/* Rows are shifted by their maximum: large logits neither overflow nor vanish. */
static void extreme_logits_stay_finite(void **unused)
{
    (void)unused;
    float m[24], base[24] = {0.0f}, scale[3] = {1.0f, 1.0f, 1.0f};
    for (int i = 0; i < 24; i++) m[i] = i % 5 == 3 ? 300.0f : -300.0f;
    dsv4_hyper hyper = {NULL, base, scale};
    dsv4_hyper_mix mix;
    dsv4_hyper_split(&hyper, m, 20, HC_EPS, &mix);
    assert_true(mix.pre[0] == HC_EPS && mix.pre[3] == 1.0f + HC_EPS);
    assert_true(mix.post[0] == 0.0f && mix.post[3] == 0.0f);
    for (int j = 0; j < 4; j++) {
        for (int k = 0; k < 4; k++) assert_true(mix.comb[j][k] >= 0.0f && mix.comb[j][k] <= 1.0f);
    }
    for (int i = 8; i < 24; i++)
        m[i] += 600.0f; /* a shift of all logits of a row changes nothing */
    dsv4_hyper_mix shifted;
    dsv4_hyper_split(&hyper, m, 20, HC_EPS, &shifted);
    assert_memory_equal(shifted.comb, mix.comb, sizeof mix.comb);
}

static void collapse_matches_double(void **unused)
{
    (void)unused;
    uint64_t state = 4;
    const float pre[4] = {0.25f, 1.0f, -0.5f, 0.7f};
    static float x[4 * MAX_DIM], exact[MAX_DIM], rounded[MAX_DIM];
    random_fill(&state, 2.0f, x, 4 * MAX_DIM);
    dsv4_hyper_collapse(pre, x, MAX_DIM, 0, exact);
    dsv4_hyper_collapse(pre, x, MAX_DIM, 1, rounded);
    for (int64_t i = 0; i < MAX_DIM; i++) {
        double sum = 0.0, magnitudes = 0.0;
        for (int64_t j = 0; j < 4; j++) {
            sum += (double)pre[j] * (double)x[j * MAX_DIM + i];
            magnitudes += fabs((double)pre[j] * (double)x[j * MAX_DIM + i]);
        }
        assert_near((double)exact[i], sum, 5 * F32_ROUNDING * magnitudes);
        assert_true((double)rounded[i] == round_to_bf16((double)exact[i]));
    }
}

/* Stream j is 1 at one place alone: the streams after show comb[j][.], not its transpose. */
static void expand_index_order(void **unused)
{
    (void)unused;
    dsv4_hyper_mix mix = {{0.0f}, {0.0f}, {{0.0f}}};
    for (int j = 0; j < 4; j++) {
        mix.post[j] = (float)(100 * (j + 1));
        for (int k = 0; k < 4; k++) mix.comb[j][k] = (float)(10 * j + k);
    }
    float streams[4 * 5] = {0.0f};
    const float sublayer[5] = {0.0f, 0.0f, 0.0f, 0.0f, 2.0f};
    for (int j = 0; j < 4; j++) streams[j * 5 + j] = 1.0f;
    dsv4_hyper_expand(&mix, sublayer, 5, 0, streams);
    for (int k = 0; k < 4; k++) {
        for (int j = 0; j < 4; j++) assert_true(streams[k * 5 + j] == (float)(10 * j + k));
        assert_true(streams[k * 5 + 4] == (float)(200 * (k + 1)));
    }
}

static void expand_matches_double(void **unused)
{
    (void)unused;
    uint64_t state = 5;
    static float before[4 * MAX_DIM], exact[4 * MAX_DIM], rounded[4 * MAX_DIM], sublayer[MAX_DIM];
    dsv4_hyper_mix mix;
    random_fill(&state, 2.0f, mix.post, 4);
    for (int j = 0; j < 4; j++) random_fill(&state, 1.0f, mix.comb[j], 4);
    random_fill(&state, 3.0f, before, 4 * MAX_DIM);
    random_fill(&state, 3.0f, sublayer, MAX_DIM);
    memcpy(exact, before, sizeof before);
    memcpy(rounded, before, sizeof before);
    dsv4_hyper_expand(&mix, sublayer, MAX_DIM, 0, exact);
    dsv4_hyper_expand(&mix, sublayer, MAX_DIM, 1, rounded);
    for (int64_t at = 0; at < 4 * MAX_DIM; at++) {
        int64_t k = at / MAX_DIM, i = at % MAX_DIM;
        double sum = (double)mix.post[k] * (double)sublayer[i];
        double magnitudes = fabs(sum);
        for (int64_t j = 0; j < 4; j++) {
            double product = (double)mix.comb[j][k] * (double)before[j * MAX_DIM + i];
            sum += product;
            magnitudes += fabs(product);
        }
        assert_near((double)exact[at], sum, 6 * F32_ROUNDING * magnitudes);
        assert_true((double)rounded[at] == round_to_bf16((double)exact[at]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(project_matches_double),     cmocka_unit_test(split_matches_double),
        cmocka_unit_test(comb_is_doubly_stochastic),  cmocka_unit_test(last_step_is_of_columns),
        cmocka_unit_test(extreme_logits_stay_finite), cmocka_unit_test(collapse_matches_double),
        cmocka_unit_test(expand_index_order),         cmocka_unit_test(expand_matches_double),
    };
    return cmocka_run_group_tests_name("ref_hyper", tests, NULL, NULL);
}
