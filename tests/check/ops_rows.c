/*
 * ops_rows.c - checks of cpu/rows_cpu.h.
 *
 * Place: tests. What the header calls EXACT is compared with the reference bit for bit, the rest with double
 * precision under bounds derived beside each check. u = OPS_U bounds the relative error of one rounding.
 */
#include "ops_check.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "cpu/rows_cpu.h"
#include "num/bf16.h"

static float to_bf16(float value)
{
    return dsv4_bf16_to_f32(dsv4_bf16_from_f32(value));
}

static const dsv4_rows_kernels *kernels_of(const ops_run *run)
{
    return dsv4_rows_kernels_of(run->level);
}

static const dsv4_rows_kernels *reference(void)
{
    return dsv4_rows_kernels_of(0);
}

static float *copy_of(ops_run *run, const float *values, int64_t n)
{
    float *copy = ops_output(run, n);
    memcpy(copy, values, (size_t)n * sizeof *copy);
    return copy;
}

/* ---- formats ---- */

bool ops_check_round(ops_run *run)
{
    int64_t n = ops_length(run);
    float *values = ops_input(run, n);
    ops_fill(run, values, n, attn_rng_chance(&run->rng, 50));
    /* Ties, to even and to odd. */
    for (int64_t i = 0; i < n; i += 5) values[i] = to_bf16(values[i]) * (1.0f + 0x1p-8f);
    float *got = copy_of(run, values, n), *want = copy_of(run, values, n);
    kernels_of(run)->round(got, n);
    reference()->round(want, n);
    if (!ops_same(run, "round", got, want, n)) return false;

    float *wide = ops_output(run, n);
    uint16_t *bits = (uint16_t *)(void *)ops_output(run, (n + 1) / 2);
    kernels_of(run)->to_bf16(values, n, bits);
    for (int64_t i = 0; i < n; i++) wide[i] = dsv4_bf16_to_f32(bits[i]);
    if (n % 2 != 0) bits[n] = 0; /* the guard's check is by whole floats */
    return ops_same(run, "to_bf16", wide, want, n);
}

/* Values whose quotient by their group's scale is on, beside and halfway between codes. */
static void fill_codes(ops_run *run, float *values, int64_t n)
{
    float scale = ldexpf(1.0f, (int)attn_rng_range(&run->rng, -20, 100));
    for (int64_t i = 0; i < n; i++) {
        int64_t steps = attn_rng_range(&run->rng, -32, 32);
        values[i] = ldexpf((float)steps, (int)attn_rng_range(&run->rng, -12, 4)) * scale;
        if (attn_rng_chance(&run->rng, 20)) values[i] = nextafterf(values[i], 0.0f);
        if (attn_rng_chance(&run->rng, 20)) values[i] = nextafterf(values[i], INFINITY);
    }
}

bool ops_check_quantize(ops_run *run)
{
    int64_t n = ops_length(run), n4 = (n + 31) / 32 * 32;
    float *values = ops_input(run, n4);
    if (attn_rng_chance(&run->rng, 50)) {
        fill_codes(run, values, n4);
    } else {
        ops_fill(run, values, n4, attn_rng_chance(&run->rng, 50));
    }
    if (attn_rng_chance(&run->rng, 10)) memset(values, 0, (size_t)n4 * sizeof *values);
    float *got = ops_output(run, n), *want = ops_output(run, n), *place = copy_of(run, values, n);
    kernels_of(run)->quantize_fp8(values, n, got);
    reference()->quantize_fp8(values, n, want);
    kernels_of(run)->quantize_fp8(place, n, place);
    if (!ops_same(run, "fp8", got, want, n)) return false;
    if (!ops_same(run, "fp8 in place", place, want, n)) return false;

    float *got4 = copy_of(run, values, n4), *want4 = copy_of(run, values, n4);
    kernels_of(run)->quantize_fp4(got4, n4);
    reference()->quantize_fp4(want4, n4);
    return ops_same(run, "fp4", got4, want4, n4);
}

bool ops_check_hadamard(ops_run *run)
{
    float values[128];
    ops_fill(run, values, 128, attn_rng_chance(&run->rng, 20));
    float *got = copy_of(run, values, 128), *want = copy_of(run, values, 128);
    kernels_of(run)->hadamard(got);
    reference()->hadamard(want);
    return ops_same(run, "hadamard", got, want, 128);
}

/* ---- streams ---- */

bool ops_check_streams(ops_run *run)
{
    int64_t n = ops_length(run);
    int round = attn_rng_chance(&run->rng, 50);
    bool has_specials = attn_rng_chance(&run->rng, 30);
    dsv4_hyper_mix mix;
    float *factors = (float *)(void *)&mix;
    for (size_t i = 0; i < sizeof mix / sizeof *factors; i++) {
        factors[i] = attn_rng_normal(&run->rng);
    }
    float *streams = ops_input(run, 4 * n), *sublayer = ops_input(run, n);
    ops_fill(run, streams, 4 * n, has_specials);
    ops_fill(run, sublayer, n, has_specials);
    float *got = ops_output(run, n), *want = ops_output(run, n);
    kernels_of(run)->collapse(mix.pre, streams, n, round, got);
    reference()->collapse(mix.pre, streams, n, round, want);
    if (!ops_same(run, "collapse", got, want, n)) return false;

    float *got4 = copy_of(run, streams, 4 * n), *want4 = copy_of(run, streams, 4 * n);
    kernels_of(run)->expand(&mix, sublayer, n, round, got4);
    reference()->expand(&mix, sublayer, n, round, want4);
    return ops_same(run, "expand", got4, want4, 4 * n);
}

/* ---- norms ---- */

/* Roundings to f32 in a sum of n squares: the last one, and the additions in f64. */
static double sum_roundings(int64_t n)
{
    return 1 + (double)n * 0x1p-29;
}

bool ops_check_norm(ops_run *run)
{
    int64_t n = ops_length(run);
    bool has_specials = attn_rng_chance(&run->rng, 20), has_weight = attn_rng_chance(&run->rng, 80);
    float *x = ops_input(run, n), *weight_values = ops_input(run, n);
    uint16_t *weight = (uint16_t *)(void *)ops_bytes(run, 2 * n + 1);
    weight = (uint16_t *)(void *)((unsigned char *)weight + ((uintptr_t)weight & 1u));
    ops_fill(run, x, n, has_specials);
    ops_fill(run, weight_values, n, false);
    double sum = 0, eps = (double)1e-6f;
    for (int64_t i = 0; i < n; i++) {
        weight[i] = dsv4_bf16_from_f32(weight_values[i]);
        sum += (double)x[i] * (double)x[i];
    }
    /* Squares of the largest specials leave f32. */
    double want_sum = sum > (double)FLT_MAX ? (double)INFINITY : sum;
    double relative = sum_roundings(n) * OPS_U;
    if (!ops_near(run, "sum_squares", 0, kernels_of(run)->sum_squares(x, n), want_sum,
                  relative * sum + (double)n * 0x1p-149)) {
        return false;
    }
    float *y = ops_output(run, n);
    bool in_place = attn_rng_chance(&run->rng, 50);
    if (in_place) memcpy(y, x, (size_t)n * sizeof *y);
    kernels_of(run)->normalize(in_place ? y : x, has_weight ? weight : NULL, n, (float)eps, y);
    double scale = 1 / sqrt(want_sum / (double)n + eps);
    /* The root halves the errors of the sum, the division and the addition; then root, inverse and two
     * products are rounded. One more for higher orders. */
    double rounded = relative / 2 + 6 * OPS_U;
    for (int64_t i = 0; i < n; i++) {
        double w = has_weight ? (double)dsv4_bf16_to_f32(weight[i]) : 1.0;
        double want = w * ((double)x[i] * scale);
        double floor = 0x1p-149 * (1 + fabs(w));
        if (!ops_near(run, "normalize", i, y[i], want, fabs(want) * rounded + floor)) return false;
    }
    return true;
}

/* The factor of the official head norm for a sum of squares. */
static float official_scale(double sum, int64_t n, float eps)
{
    float mean = to_bf16(to_bf16((float)(sum / (double)n)) + eps);
    return to_bf16(1.0f / sqrtf(mean));
}

/*
 * Rounding makes jumps, so the sum's error becomes a range of factors: the result must be that of one of
 * them, for all values the same. The function is monotone.
 */
bool ops_check_norm_bf16(ops_run *run)
{
    int64_t n = attn_rng_chance(&run->rng, 50) ? 512 : ops_length(run);
    float eps = 1e-6f, *q = ops_input(run, n);
    ops_fill(run, q, n, false);
    float *got = copy_of(run, q, n), *want = ops_output(run, n);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)to_bf16(q[i] * q[i]);
    kernels_of(run)->normalize_bf16(got, n, eps);
    double error = (sum_roundings(n) + 1) * OPS_U;
    uint16_t least = dsv4_bf16_from_f32(official_scale(sum * (1 + error), n, eps));
    uint16_t most = dsv4_bf16_from_f32(official_scale(sum * (1 - error), n, eps));
    for (uint16_t bits = least; bits <= most; bits++) {
        for (int64_t i = 0; i < n; i++) want[i] = to_bf16(q[i] * dsv4_bf16_to_f32(bits));
        if (ops_same(run, "normalize_bf16", got, want, n)) return true;
    }
    return false;
}

/* ---- exponentials ---- */

/*
 * One channel. A weight e^x, x = gate - max, has the relative error d = (|x| + 5) u: the difference is
 * rounded, which moves the exponent by |x| u; vf_exp errs by 2 ulp = 4 u, expf by less. Below -87 it may
 * become 0. Sums of n add n u, products and quotients u.
 */
static bool check_channel(ops_run *run, const float *const *rows, int ratio, int64_t dim,
                          int64_t channel, float got)
{
    int n_halves = ratio == 4 ? 2 : 1, n = n_halves * ratio;
    double max = -INFINITY, weights = 0, sum = 0, weights_error = 0, sum_error = 0;
    for (int s = 0; s < n; s++) {
        if (rows[s] == NULL) continue;
        double gate = (double)rows[s][n_halves * dim + s / ratio * dim + channel];
        if (gate > max) max = gate;
    }
    for (int s = 0; s < n; s++) {
        if (rows[s] == NULL) continue;
        double key = (double)rows[s][s / ratio * dim + channel];
        double x = (double)rows[s][n_halves * dim + s / ratio * dim + channel] - max;
        double weight = exp(x), error = 0x1p-125;
        if (weight > 0) error += weight * (fabs(x) + 8 + n) * OPS_U;
        weights += weight;
        sum += weight * key;
        weights_error += error;
        sum_error += error * fabs(key) + 0x1p-149;
    }
    double want = sum / weights;
    double bound = 1.001 * (sum_error + fabs(want) * weights_error) / weights;
    return ops_near(run, "pool", channel, got, want, bound + fabs(want) * OPS_U + 0x1p-149);
}

bool ops_check_pool(ops_run *run)
{
    int ratio = attn_rng_chance(&run->rng, 70) ? 4 : 128;
    int64_t dim = attn_rng_range(&run->rng, 1, 40), width = (ratio == 4 ? 2 : 1) * dim;
    bool is_first = ratio == 4 && attn_rng_chance(&run->rng, 30);
    int n_rows = ratio == 4 ? 8 : 128;
    float *all = ops_input(run, n_rows * 2 * width);
    ops_fill(run, all, n_rows * 2 * width, false);
    const float *rows[128];
    for (int s = 0; s < n_rows; s++) {
        rows[s] = is_first && s < 4 ? NULL : all + s * 2 * width;
        float *gates = all + s * 2 * width + width;
        for (int64_t i = 0; i < width; i++) {
            gates[i] = 8.0f * attn_rng_normal(&run->rng);
            if (attn_rng_chance(&run->rng, 2)) gates[i] = -INFINITY;
        }
    }
    if (attn_rng_chance(&run->rng, 20)) all[(n_rows - 1) * 2 * width + width] = NAN;
    float *pooled = ops_output(run, dim);
    kernels_of(run)->pool(rows, ratio, dim, pooled);
    for (int64_t channel = 0; channel < dim; channel++) {
        if (!check_channel(run, rows, ratio, dim, channel, pooled[channel])) return false;
    }
    return true;
}

/*
 * silu(g) u w. Each exponential errs by 2 ulp = 4 u. Six more roundings, one for higher orders. Below -87
 * an exponential may become 0.
 */
static bool check_product(ops_run *run, int64_t i, float gate, float up, float weight, int round,
                          float got)
{
    double g = (double)gate, scale = (double)up * (double)weight;
    double want = g / (1 + exp(-g)) * scale;
    if (g == -(double)INFINITY) want = (double)NAN; /* inf / inf, as the reference has it */
    double bound = fabs(want) * 15 * OPS_U + (1 + fabs(g * scale)) * 0x1p-125;
    if (!round || !isfinite(want)) return ops_near(run, "swiglu", i, got, want, bound);
    bool is_good = got >= to_bf16((float)(want - bound)) && got <= to_bf16((float)(want + bound));
    return is_good || ops_near(run, "swiglu rounded", i, got, want, 0);
}

bool ops_check_swiglu(ops_run *run)
{
    int64_t n = ops_length(run);
    int round = attn_rng_chance(&run->rng, 50);
    bool has_limit = attn_rng_chance(&run->rng, 60);
    float limit = has_limit ? 7.0f : 0.0f, weight = attn_rng_normal(&run->rng);
    float *gate = ops_input(run, n), *up = ops_input(run, n), *hidden = ops_output(run, n);
    for (int64_t i = 0; i < n; i++) {
        gate[i] = attn_rng_normal(&run->rng) * (attn_rng_chance(&run->rng, 10) ? 60.0f : 4.0f);
        up[i] = attn_rng_normal(&run->rng) * 4.0f;
        if (attn_rng_chance(&run->rng, 1)) gate[i] = NAN;
        if (attn_rng_chance(&run->rng, 1)) up[i] = NAN;
        if (attn_rng_chance(&run->rng, 1))
            gate[i] = attn_rng_chance(&run->rng, 50) ? 1e30f : -1e30f;
    }
    kernels_of(run)->swiglu(gate, up, n, limit, weight, round, hidden);
    for (int64_t i = 0; i < n; i++) {
        float g = round ? to_bf16(gate[i]) : gate[i], u = round ? to_bf16(up[i]) : up[i];
        if (has_limit && g > limit) g = limit;
        if (has_limit && fabsf(u) > limit) u = copysignf(limit, u);
        if (!check_product(run, i, g, u, weight, round, hidden[i])) return false;
    }
    return true;
}
