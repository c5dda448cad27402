/*
 * ops_indexer.c - checks of cpu/indexer_cpu.h.
 *
 * Place: tests. Keys lie in pages of random order; the answer is in double precision from the formats'
 * definitions.
 */
#include "ops_check.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "cpu/indexer_cpu.h"
#include "num/bf16.h"
#include "ref/indexer.h"

enum { DIM = 128, FP4_ROW_BYTES = 68, F32_ROW_BYTES = 512, MAX_HEADS = 140 };

typedef struct index_case {
    dsv4_index_keys keys;
    int64_t n_heads, n_keys, row_bytes;
    const float *q, *weights;
} index_case;

typedef struct index_wants {
    bool has_specials;   /* NaN scales or values, infinities */
    bool extreme_scales; /* of FP4 keys */
    int64_t n_keys;
} index_wants;

static const unsigned char *key_row(const index_case *c, int64_t j)
{
    return c->keys.base + c->keys.pages[j / c->keys.page_rows] * c->keys.page_stride_bytes +
           j % c->keys.page_rows * c->row_bytes;
}

static void fill_fp4_row(ops_run *run, const index_wants *wants, unsigned char *row)
{
    bool is_zero = attn_rng_chance(&run->rng, 3);
    for (int i = 0; i < 64; i++) row[i] = is_zero ? 0 : (unsigned char)attn_rng_next(&run->rng);
    bool is_extreme = wants->extreme_scales && attn_rng_chance(&run->rng, 30);
    for (int g = 0; g < 4; g++) {
        int64_t scale = attn_rng_range(&run->rng, 115, 130);
        if (is_extreme && attn_rng_chance(&run->rng, 60)) {
            bool is_low = attn_rng_chance(&run->rng, 50);
            scale = is_low ? attn_rng_range(&run->rng, 0, 3) : attn_rng_range(&run->rng, 230, 254);
        }
        if (wants->has_specials && attn_rng_chance(&run->rng, 4)) scale = 255;
        row[64 + g] = (unsigned char)scale;
    }
}

static void fill_rows(ops_run *run, const index_wants *wants, const index_case *c)
{
    for (int64_t j = 0; j < c->n_keys; j++) {
        unsigned char *row = (unsigned char *)(uintptr_t)key_row(c, j);
        if (c->keys.is_fp4) {
            fill_fp4_row(run, wants, row);
            continue;
        }
        float values[DIM];
        ops_fill(run, values, DIM, wants->has_specials && attn_rng_chance(&run->rng, 30));
        memcpy(row, values, sizeof values);
    }
}

/* FP4 queries are as the model makes them: multiples of powers of two, or, sometimes, any f32. */
static void fill_query(ops_run *run, const index_case *c, float *q, float *weights)
{
    bool is_bf16 = c->keys.is_fp4 && attn_rng_chance(&run->rng, 80);
    ops_fill(run, q, c->n_heads * DIM, false);
    ops_fill(run, weights, c->n_heads, false);
    for (int64_t i = 0; i < c->n_heads * DIM && is_bf16; i++) {
        q[i] = dsv4_bf16_to_f32(dsv4_bf16_from_f32(q[i]));
        if (attn_rng_chance(&run->rng, 10)) q[i] = 0.0f;
    }
}

static void make_case(ops_run *run, const index_wants *wants, index_case *c)
{
    static const int64_t page_rows[] = {1, 3, 16, 64}, head_counts[] = {64, 64, 1, 7, 33, 65, 128};
    memset(c, 0, sizeof *c);
    c->n_keys = wants->n_keys;
    c->n_heads = head_counts[attn_rng_range(&run->rng, 0, 6)];
    if (attn_rng_chance(&run->rng, 20)) c->n_heads = attn_rng_range(&run->rng, 1, MAX_HEADS);
    c->keys.is_fp4 = wants->extreme_scales || attn_rng_chance(&run->rng, 60);
    c->row_bytes = c->keys.is_fp4 ? FP4_ROW_BYTES : F32_ROW_BYTES;
    c->keys.page_rows = page_rows[attn_rng_range(&run->rng, 0, 3)];
    c->keys.page_stride_bytes =
        c->keys.page_rows * c->row_bytes + attn_rng_range(&run->rng, 0, 1) * 36;
    int64_t n_pages = (c->n_keys - 1) / c->keys.page_rows + 1;
    unsigned char *base = ops_bytes(run, n_pages * c->keys.page_stride_bytes);
    memset(base, 0xff, (size_t)(n_pages * c->keys.page_stride_bytes));
    int32_t *pages = (int32_t *)(void *)ops_input(run, n_pages);
    for (int64_t i = 0; i < n_pages; i++) pages[i] = (int32_t)i;
    for (int64_t i = n_pages - 1; i > 0; i--) {
        int64_t other = attn_rng_range(&run->rng, 0, i);
        int32_t page = pages[i];
        pages[i] = pages[other];
        pages[other] = page;
    }
    c->keys.base = base;
    c->keys.pages = pages;
    fill_rows(run, wants, c);
    float *q = ops_input(run, c->n_heads * DIM), *weights = ops_input(run, c->n_heads);
    fill_query(run, c, q, weights);
    c->q = q;
    c->weights = weights;
}

static float *scores_of(ops_run *run, const index_case *c, int32_t n_threads)
{
    dsv4_compute compute = {.cpu_level = run->level, .n_threads = n_threads};
    float *scores = ops_output(run, c->n_keys);
    dsv4_indexer_cpu(&compute, c->q, c->weights, c->n_heads, &c->keys, c->n_keys, scores);
    return scores;
}

/* Numbers that a result may be. */
typedef struct range {
    double low, high;
} range;

static double nearest_bf16(double value)
{
    return (double)dsv4_bf16_to_f32(dsv4_bf16_from_f32((float)value));
}

static range widen(range r, double error)
{
    return isfinite(error) ? (range){r.low - error, r.high + error} : r;
}

/* Rounding is monotone: a range of numbers becomes a range of rounded ones. */
static range round_range(const index_case *c, range r)
{
    if (!c->keys.is_fp4) return r;
    return (range){nearest_bf16(r.low), nearest_bf16(r.high)};
}

/*
 * One head. A product of q and key goes through its own rounding and 128 additions. The bf16 instruction does
 * not round products and counts what is below 2^-126 as zero. Then the dot is rounded, and so is its
 * product with the weight, once to f32 and, for FP4 keys, to bf16.
 */
static range weighted_range(const index_case *c, int64_t head, const float *key, bool *may_overflow)
{
    double dot = 0, magnitude = 0, weight = (double)c->weights[head];
    for (int d = 0; d < DIM; d++) {
        double product = (double)c->q[head * DIM + d] * (double)key[d];
        dot += product;
        if (isfinite(product)) magnitude += fabs(product);
    }
    *may_overflow = fmax(magnitude, magnitude * fabs(weight)) > 0x1p-10 * (double)FLT_MAX;
    double error = (1 + 128 + 1) * OPS_U * magnitude + 4 * DIM * 0x1p-126;
    range dots = round_range(c, widen((range){dot, dot}, error));
    dots.low = dots.low < 0 ? 0 : dots.low;
    dots.high = dots.high < 0 ? 0 : dots.high;
    range r = {weight * dots.low, weight * dots.high};
    if (weight < 0) r = (range){r.high, r.low};
    double rounding = fmax(fabs(r.low), fabs(r.high)) * OPS_U + 0x1p-126;
    return round_range(c, widen(r, rounding));
}

/*
 * A weighted dot goes through the additions of a lane (64 / lanes vectors of a block at the most, padded),
 * the tree (at most 5) and the blocks; in the reference through those of all heads.
 */
static bool check_score(ops_run *run, const index_case *c, int64_t j, float got)
{
    float key[DIM];
    if (c->keys.is_fp4) {
        dsv4_indexer_read_fp4(key_row(c, j), key);
    } else {
        memcpy(key, key_row(c, j), sizeof key);
    }
    range sum = {0, 0};
    double magnitude = 0;
    for (int64_t h = 0; h < c->n_heads; h++) {
        bool may_overflow;
        range one = weighted_range(c, h, key, &may_overflow);
        if (may_overflow) return true; /* a partial sum, as its order has it */
        sum = (range){sum.low + one.low, sum.high + one.high};
        magnitude += fmax(fabs(one.low), fabs(one.high));
    }
    double n_roundings = 64.0 / ops_lanes(run->level) + 5 + 4;
    if (run->level == 0) n_roundings = (double)c->n_heads + 1;
    double error = n_roundings * OPS_U * magnitude + 0x1p-126;
    sum = round_range(c, widen(sum, error));
    if (sum.low == sum.high) return ops_near(run, "score", j, got, sum.low, 0);
    double middle = sum.low / 2 + sum.high / 2;
    return ops_near(run, "score", j, got, middle, (sum.high - sum.low) * (0.5 + 0x1p-40));
}

static bool check_scores(ops_run *run, const index_wants *wants)
{
    index_case c;
    make_case(run, wants, &c);
    const float *scores = scores_of(run, &c, (int32_t)attn_rng_range(&run->rng, 1, 3));
    for (int64_t j = 0; j < c.n_keys; j++) {
        if (!check_score(run, &c, j, scores[j])) return false;
    }
    return true;
}

bool ops_check_index_values(ops_run *run)
{
    index_wants wants = {.n_keys = attn_rng_range(&run->rng, 1, 300),
                         .extreme_scales = attn_rng_chance(&run->rng, 30)};
    return check_scores(run, &wants);
}

bool ops_check_index_specials(ops_run *run)
{
    index_wants wants = {.n_keys = attn_rng_range(&run->rng, 1, 60),
                         .has_specials = true,
                         .extreme_scales = attn_rng_chance(&run->rng, 30)};
    return check_scores(run, &wants);
}

/* The same bits on any number of threads, and for any run of pages scored without those before it. */
bool ops_check_index_bits(ops_run *run)
{
    index_wants wants = {.n_keys = attn_rng_range(&run->rng, 1, 1500),
                         .extreme_scales = attn_rng_chance(&run->rng, 50)};
    index_case c;
    make_case(run, &wants, &c);
    const float *scores = scores_of(run, &c, 1);
    for (int32_t n_threads = 2; n_threads <= 3; n_threads++) {
        if (!ops_same(run, "threads", scores_of(run, &c, n_threads), scores, c.n_keys))
            return false;
    }
    for (int i = 0; i < 8; i++) {
        index_case part = c;
        int64_t page = attn_rng_range(&run->rng, 0, (c.n_keys - 1) / c.keys.page_rows);
        int64_t first = page * c.keys.page_rows;
        part.keys.pages += page;
        part.n_keys = attn_rng_range(&run->rng, 1, i < 4 ? 9 : c.n_keys);
        if (part.n_keys > c.n_keys - first) part.n_keys = c.n_keys - first;
        if (!ops_same(run, "part", scores_of(run, &part, 1), scores + first, part.n_keys)) {
            return false;
        }
    }
    return true;
}
