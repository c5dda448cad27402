/*
 * indexer.c - score of a compressed key and the choice of the best k (specification 3.7).
 *
 * Place: ref. score = sum_h w_h relu(q_h . key); dot products in the order of dot.h, heads
 * ascending. DeepSeek's code holds the dots, the weighted ones and the score in bf16. A NaN passes through
 * relu, so that a broken key has a NaN score and is chosen last.
 *
 * The choice needs no heap and no sort. Scores map to unsigned numbers of the same order; three
 * passes of counting find the k-th largest, eleven bits at a time from the top, each keeping only the
 * numbers with the bits found so far; a last pass takes, in ascending order of index, all that are larger
 * and as many of the equal ones as there is room for. O(n), whatever the data.
 */
#include "ref/indexer.h"

#include <math.h>
#include <string.h>

#include "num/bf16.h"
#include "num/e2m1.h"
#include "num/ue8m0.h"
#include "ref/dot.h"

enum { KEY_DIM = 128, FP4_GROUP = 32, DIGIT_BITS = 11 };

#define DIGIT_MASK ((1u << DIGIT_BITS) - 1u)

static float round_if(int round, float value)
{
    return round ? dsv4_bf16_to_f32(dsv4_bf16_from_f32(value)) : value;
}

float dsv4_indexer_score(const float *q, const float *weights, int64_t n_heads, const float *key,
                         int round)
{
    float score = 0.0f;
    for (int64_t h = 0; h < n_heads; h++) {
        float dot = round_if(round, dsv4_dot_f32(q + h * KEY_DIM, key, KEY_DIM));
        score += round_if(round, weights[h] * (dot < 0.0f ? 0.0f : dot));
    }
    return round_if(round, score);
}

void dsv4_indexer_read_fp4(const unsigned char *row, float *key)
{
    for (int i = 0; i < KEY_DIM; i++) {
        unsigned code = ((unsigned)row[i / 2] >> (i % 2 * 4)) & 15u;
        float factor = dsv4_ue8m0_to_f32(row[KEY_DIM / 2 + i / FP4_GROUP]);
        key[i] = dsv4_e2m1_to_f32((uint8_t)code) * factor;
    }
}

/*
 * Larger scores have larger ranks; 0 and -0 share one; NaN has 0, below that of -infinity. Without a branch,
 * so that compilers do several at once.
 */
static uint32_t rank_of(float score)
{
    float positive_zero = score + 0.0f; /* -0 becomes 0 */
    uint32_t bits;
    memcpy(&bits, &positive_zero, sizeof bits);
    uint32_t negative = 0u - (bits >> 31);
    return isnan(score) ? 0u : bits ^ (negative | 0x80000000u);
}

/*
 * The k-th largest of ranks [n], 1 <= k <= n, which are used up; *n_equal is how many ranks equal to it
 * are among the k.
 */
static uint32_t kth_largest(uint32_t *ranks, int64_t n, int64_t k, int64_t *n_equal)
{
    uint32_t found = 0;
    for (int shift = 32 - DIGIT_BITS; shift > -DIGIT_BITS; shift -= DIGIT_BITS) {
        int32_t counts[1 << DIGIT_BITS] = {0};
        int low = shift > 0 ? shift : 0; /* the last digit overlaps the one before */
        for (int64_t i = 0; i < n; i++) counts[(ranks[i] >> low) & DIGIT_MASK]++;
        uint32_t digit = DIGIT_MASK;
        for (; counts[digit] < k; digit--) k -= counts[digit];
        found |= digit << low;
        int64_t n_kept = 0;
        for (int64_t i = 0; i < n; i++) {
            uint32_t rank = ranks[i];
            ranks[n_kept] = rank;
            n_kept += ((rank >> low) & DIGIT_MASK) == digit;
        }
        n = n_kept;
    }
    *n_equal = k;
    return found;
}

int64_t dsv4_indexer_topk(const float *scores, int64_t n, int64_t k, int32_t *scratch,
                          int32_t *chosen)
{
    if (k > n) k = n;
    if (k <= 0) return 0;
    uint32_t *ranks = (uint32_t *)scratch;
    for (int64_t i = 0; i < n; i++) ranks[i] = rank_of(scores[i]);

    int64_t n_equal, n_chosen = 0;
    uint32_t threshold = kth_largest(ranks, n, k, &n_equal);
    for (int64_t i = 0; i < n; i++) {
        uint32_t rank = rank_of(scores[i]);
        if (rank < threshold) continue;
        if (rank == threshold && n_equal-- <= 0) continue;
        chosen[n_chosen++] = (int32_t)i;
    }
    return n_chosen;
}
