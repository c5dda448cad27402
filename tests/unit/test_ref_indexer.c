/*
 * test_ref_indexer.c - the indexer's score in double, and its choice against a full sort.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "ref/indexer.h"
#include "test_ref.h"

static void score_matches_double(void **unused)
{
    (void)unused;
    uint64_t state = 1;
    enum { N_HEADS = 64 };
    static float q[N_HEADS * 128];
    float weights[N_HEADS], key[128];
    for (int round = 0; round < 50; round++) {
        random_fill(&state, 2.0f, q, N_HEADS * 128);
        random_fill(&state, 0.1f, weights, N_HEADS);
        random_fill(&state, 2.0f, key, 128);
        double score = 0.0, magnitudes = 0.0;
        for (int h = 0; h < N_HEADS; h++) {
            double dot = 0.0;
            for (int i = 0; i < 128; i++) {
                dot += (double)q[h * 128 + i] * (double)key[i];
                magnitudes += fabs((double)weights[h] * (double)q[h * 128 + i] * (double)key[i]);
            }
            score += (double)weights[h] * fmax(dot, 0.0);
        }
        /* 21 roundings of a dot product, one of its product with w, 64 of the sum over heads. */
        float actual = dsv4_indexer_score(q, weights, N_HEADS, key, 0);
        assert_near((double)actual, score, 86 * F32_ROUNDING * magnitudes);
    }
}

/* Unit vectors: dots of head 0, 1, 2 are 3, -5, 2. */
static void score_spelled_out(void **unused)
{
    (void)unused;
    float q[3 * 128] = {0.0f}, key[128] = {0.0f};
    const float weights[3] = {-2.0f, 100.0f, 0.5f};
    q[0] = 1.0f, q[128 + 1] = 1.0f, q[256 + 127] = 1.0f;
    key[0] = 3.0f, key[1] = -5.0f, key[127] = 2.0f;
    assert_true(dsv4_indexer_score(q, weights, 3, key, 0) == -5.0f);
    assert_true(dsv4_indexer_score(q, weights, 1, key, 0) == -6.0f);
    assert_true(dsv4_indexer_score(q, weights, 0, key, 0) == 0.0f);
    key[64] = NAN;
    assert_true(isnan(dsv4_indexer_score(q, weights, 3, key, 0)));
}

struct entry {
    float score;
    int32_t index;
};

/* Best first: larger scores, then smaller indices; NaN after everything. */
static int compare_entries(const void *a_pointer, const void *b_pointer)
{
    const struct entry *a = a_pointer, *b = b_pointer;
    int a_nan = isnan(a->score) != 0, b_nan = isnan(b->score) != 0;
    if (a_nan != b_nan) return a_nan - b_nan;
    if (!a_nan && a->score != b->score) return a->score > b->score ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

static int compare_indices(const void *a, const void *b)
{
    int32_t left, right;
    memcpy(&left, a, sizeof left);
    memcpy(&right, b, sizeof right);
    return left < right ? -1 : left > right;
}

static void check_topk(const float *scores, int64_t n, int64_t k)
{
    int64_t n_chosen = k < n ? k : n;
    struct entry *entries = malloc((size_t)(n + 1) * sizeof *entries);
    int32_t *expected = malloc((size_t)(n_chosen + 1) * sizeof *expected);
    int32_t *chosen = malloc((size_t)(n_chosen + 1) * sizeof *chosen);
    int32_t *scratch = malloc((size_t)(n + 1) * sizeof *scratch);
    assert_true(entries != NULL && expected != NULL && chosen != NULL && scratch != NULL);
    for (int64_t i = 0; i < n; i++) entries[i] = (struct entry){scores[i], (int32_t)i};
    qsort(entries, (size_t)n, sizeof *entries, compare_entries);
    for (int64_t i = 0; i < n_chosen; i++) expected[i] = entries[i].index;
    qsort(expected, (size_t)n_chosen, sizeof *expected, compare_indices);
    expected[n_chosen] = chosen[n_chosen] = scratch[n] = -7;
    assert_int_equal(dsv4_indexer_topk(scores, n, k, scratch, chosen), n_chosen);
    assert_memory_equal(chosen, expected, (size_t)(n_chosen + 1) * sizeof *chosen);
    assert_int_equal(scratch[n], -7);
    free(entries);
    free(expected);
    free(chosen);
    free(scratch);
}

static void topk_matches_sort(void **unused)
{
    (void)unused;
    uint64_t state = 2;
    static float scores[3000];
    for (int round = 0; round < 400; round++) {
        int64_t n = random_next(&state) % 3000;
        int64_t k = random_next(&state) % 700;
        random_fill(&state, 5.0f, scores, n);
        /* Every other round few distinct values, so many ties, -0 and 0 among them. */
        for (int64_t i = 0; round % 2 == 0 && i < n; i++) scores[i] = truncf(scores[i]);
        for (int64_t i = 0; round % 3 == 0 && i < n / 8; i++) {
            static const float special[] = {NAN, -NAN, INFINITY, -INFINITY, 0x1p-149f, -0.0f};
            scores[random_next(&state) % n] = special[random_next(&state) % 6];
        }
        check_topk(scores, n, k);
    }
}

static void topk_edges(void **unused)
{
    (void)unused;
    const float scores[] = {0.0f, -0.0f, NAN, 1.0f, -INFINITY, -0.0f, 0.0f, NAN};
    for (int64_t n = 0; n <= 8; n++) {
        for (int64_t k = 0; k <= 10; k++) check_topk(scores, n, k);
    }
    int32_t scratch[8], chosen[8];
    assert_int_equal(dsv4_indexer_topk(scores, 8, 3, scratch, chosen), 3);
    assert_true(chosen[0] == 0 && chosen[1] == 1 && chosen[2] == 3); /* 0 and -0 tie */
    assert_int_equal(dsv4_indexer_topk(scores, 8, 7, scratch, chosen), 7);
    assert_true(chosen[2] == 2 && chosen[6] == 6); /* one NaN, the earlier, after -infinity */
}

static void topk_large(void **unused)
{
    (void)unused;
    enum { N = 262144, K = 2048 };
    uint64_t state = 3;
    float *scores = new_floats(N);
    random_fill(&state, 1.0f, scores, N);
    check_topk(scores, N, K);
    for (int i = 0; i < N; i++) scores[i] = (float)i;
    check_topk(scores, N, K);
    for (int i = 0; i < N; i++) scores[i] = (float)-i;
    check_topk(scores, N, K);
    for (int i = 0; i < N; i++) scores[i] = -1.5f;
    check_topk(scores, N, K);
    free(scores);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(score_matches_double), cmocka_unit_test(score_spelled_out),
        cmocka_unit_test(topk_matches_sort),    cmocka_unit_test(topk_edges),
        cmocka_unit_test(topk_large),
    };
    return cmocka_run_group_tests_name("ref_indexer", tests, NULL, NULL);
}
