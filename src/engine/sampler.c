/*
 * sampler.c - temperature, top-k, top-p, min-p and one random draw.
 *
 * Place: engine. Invariants: candidates lie in the order of their ids or, behind top_k or top_p, of their
 * weights with equal ones by id; sums are in double. Only as much is sorted as top_k and top_p look at:
 * candidates form a heap, and those taken from it lie behind it, the largest last.
 */
#include "sampler.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/error.h"

typedef struct candidate {
    float weight; /* logit at first, then its probability times a common factor */
    int32_t id;
} candidate;

_Static_assert(sizeof(candidate) == DSV4_SAMPLE_SCRATCH_BYTES, "scratch holds one per token");

void dsv4_sampling_default(dsv4_sampling *sampling)
{
    memset(sampling, 0, sizeof *sampling);
    sampling->size = sizeof *sampling;
    sampling->temperature = 1.0f;
    sampling->top_p = 1.0f;
}

dsv4_status dsv4_sampling_check(const dsv4_sampling *sampling, dsv4_error *error)
{
    if (sampling->size != sizeof *sampling) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "sampling: size: %" PRIu64
                              ", expected %zu; call dsv4_sampling_default first",
                              sampling->size, sizeof *sampling);
    }
    const struct {
        const char *name;
        float value, high;
    } rules[] = {{"temperature", sampling->temperature, HUGE_VALF},
                 {"top_p", sampling->top_p, 1.0f},
                 {"min_p", sampling->min_p, 1.0f}};
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (rules[i].value >= 0 && rules[i].value <= rules[i].high) continue;
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "sampling: %s: %g, expected 0 .. %g", rules[i].name,
                              (double)rules[i].value, (double)rules[i].high);
    }
    if (sampling->top_k < 0) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "sampling: top_k: %" PRId32 ", expected 0 or more", sampling->top_k);
    }
    return DSV4_OK;
}

/* splitmix64: every state, 0 too, is a good one. */
static uint64_t draw_bits(uint64_t *state)
{
    *state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* 0 <= result < 1 */
static double draw_unit(uint64_t *state)
{
    return (double)(draw_bits(state) >> 11) * 0x1p-53;
}

/* The smallest id of the largest logits. */
static int32_t find_largest(const float *logits, int64_t n_vocab)
{
    int64_t best = DSV4_SAMPLE_NONE;
    for (int64_t i = 0; i < n_vocab; i++) {
        if (isnan(logits[i])) continue;
        if (best < 0 || logits[i] > logits[best]) best = i;
    }
    return (int32_t)best;
}

/* Fills candidates with exp((logit - largest) / temperature); leaves out what has no probability. */
static int64_t weigh(const float *logits, int64_t n_vocab, float largest, float temperature,
                     candidate *candidates)
{
    int64_t n = 0;
    for (int64_t i = 0; i < n_vocab; i++) {
        if (isnan(logits[i]) || isinf(logits[i])) {
            /* Against +INFINITY nothing finite counts; the infinite ones count alike. */
            if (logits[i] != largest) continue;
            candidates[n++] = (candidate){1.0f, (int32_t)i};
            continue;
        }
        float weight = expf((logits[i] - largest) / temperature);
        if (weight > 0) candidates[n++] = (candidate){weight, (int32_t)i};
    }
    return n;
}

static bool is_before(candidate a, candidate b)
{
    return a.weight > b.weight || (a.weight == b.weight && a.id < b.id);
}

/* Moves the candidate at `at` down to its place in the heap of n. */
static void sift_down(candidate *heap, int64_t n, int64_t at)
{
    candidate moved = heap[at];
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= n) break;
        if (child + 1 < n && is_before(heap[child + 1], heap[child])) child++;
        if (!is_before(heap[child], moved)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static void make_heap(candidate *heap, int64_t n)
{
    for (int64_t at = n / 2 - 1; at >= 0; at--) sift_down(heap, n, at);
}

/* Takes the first candidate of a heap of n and puts it behind the rest. */
static candidate take_first(candidate *heap, int64_t n)
{
    candidate first = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = first;
    if (n > 1) sift_down(heap, n - 1, 0);
    return first;
}

static double sum_weights(const candidate *candidates, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)candidates[i].weight;
    return sum;
}

/*
 * The range [*begin, n) of candidates that top_k and top_p leave; sorted, the largest last, when either
 * is on.
 */
static void keep_top(const dsv4_sampling *sampling, candidate *candidates, int64_t n,
                     int64_t *begin)
{
    *begin = 0;
    bool cuts_k = sampling->top_k > 0 && sampling->top_k < n, cuts_p = !(sampling->top_p >= 1.0f);
    if (!cuts_k && !cuts_p) return;
    make_heap(candidates, n);
    int64_t n_heap = n, n_most = cuts_k ? sampling->top_k : n;
    double total = 0;
    if (cuts_k) {
        while (n - n_heap < n_most) total += (double)take_first(candidates, n_heap--).weight;
    } else {
        total = sum_weights(candidates, n);
    }
    *begin = n_heap;
    if (!cuts_p) return;
    double bound = (double)sampling->top_p * total, sum = 0;
    int64_t n_kept = 0;
    while (n_kept < n_most && sum < bound) {
        int64_t at = n - 1 - n_kept++;
        if (at < n_heap) (void)take_first(candidates, n_heap--);
        sum += (double)candidates[at].weight;
    }
    *begin = n - n_kept;
}

int32_t dsv4_sample(const dsv4_sampling *sampling, const float *logits, int64_t n_vocab,
                    uint64_t *state, void *scratch)
{
    double unit = draw_unit(state);
    int32_t best = find_largest(logits, n_vocab);
    if (best < 0 || logits[best] == -HUGE_VALF || !(sampling->temperature > 0)) return best;
    candidate *candidates = scratch;
    int64_t begin, n = weigh(logits, n_vocab, logits[best], sampling->temperature, candidates);
    keep_top(sampling, candidates, n, &begin);

    int64_t n_kept = 0;
    for (int64_t i = begin; i < n; i++) { /* the largest weight is 1 */
        if (candidates[i].weight >= sampling->min_p) candidates[n_kept++] = candidates[i];
    }
    double left = unit * sum_weights(candidates, n_kept);
    for (int64_t i = 0; i < n_kept; i++) {
        left -= (double)candidates[i].weight;
        if (left < 0) return candidates[i].id;
    }
    /* The draw was lost to rounding, or a top_p of 0 keeps nothing but the largest. */
    return n_kept > 0 ? candidates[n_kept - 1].id : best;
}
