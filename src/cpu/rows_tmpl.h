/*
 * rows_tmpl.h - one level's table of rows_cpu.h.
 *
 * Place: cpu; a template. Included once by each rows_<level>.c after one vec_*.h and round_tmpl.h; defines the
 * functions and ROWS_TABLE, the table's initializer. The last elements of a row, where they do not fill a vector,
 * are copied and padded with zeros, so that a row takes the same path wherever it lies.
 */
#include <math.h>
#include <string.h>

#include "base/compiler.h"
#include "num/ue8m0.h"
#include "rows_cpu.h"

enum { N_STREAMS = 4, FP4_GROUP = 32, HADAMARD_DIM = 128, OVERLAP_RATIO = 4, MAX_POOL_ROWS = 128 };

#define FP4_MAX         6.0f
#define FP4_FLOOR       (6.0f * 0x1p-126f)
#define FP4_LEAST       1.0f
#define FP4_SPAN        0x1.8p22f
#define HADAMARD_FACTOR 0.08838834764831845f /* 128^-0.5 */

static DSV4_ALWAYS_INLINE void store_some(float *p, int64_t n_left, vf a)
{
    if (n_left >= VF_LANES) {
        vf_store(p, a);
        return;
    }
    float padded[VF_LANES];
    vf_store(padded, a);
    memcpy(p, padded, (size_t)n_left * sizeof *p);
}

static DSV4_ALWAYS_INLINE vf load_some_bf16(const uint16_t *p, int64_t n_left)
{
    if (n_left >= VF_LANES) return vf_load_bf16(p);
    uint16_t padded[VF_LANES] = {0};
    memcpy(padded, p, (size_t)n_left * sizeof *p);
    return vf_load_bf16(padded);
}

/* ---- formats ---- */

static void round_row(float *values, int64_t n)
{
    for (int64_t i = 0; i < n; i += VF_LANES) {
        store_some(values + i, n - i, vf_round_bf16(load_some(values + i, n - i)));
    }
}

static void row_to_bf16(const float *values, int64_t n, uint16_t *bits)
{
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) vf_store_bf16(bits + i, vf_load(values + i));
    for (; i < n; i++) bits[i] = dsv4_bf16_from_f32(values[i]);
}

/* The inverse of a power of two is exact: of 2^127 it is subnormal, and what it makes subnormal is 0. */
static DSV4_ALWAYS_INLINE void quantize_group(const float *x, int64_t n, int is_fp8, float *out)
{
    float max = is_fp8 ? FP8_MAX : FP4_MAX, floor = is_fp8 ? FP8_FLOOR : FP4_FLOOR;
    float scale = dsv4_ue8m0_to_f32(dsv4_ue8m0_group_scale(group_max(x, n), max, floor));
    vf factor = vf_set1(scale), inverse = vf_set1(1.0f / scale), most = vf_set1(max);
    for (int64_t i = 0; i < n; i += VF_LANES) {
        vf scaled = vf_mul(load_some(x + i, n - i), inverse), magnitude = vf_abs(scaled);
        /* FP4 has no NaN: it takes the largest code. */
        magnitude = is_fp8 ? vf_min(most, magnitude) : vf_min(magnitude, most);
        vf rounded = is_fp8 ? round_to_grid(magnitude, FP8_LEAST, FP8_SPAN)
                            : round_to_grid(magnitude, FP4_LEAST, FP4_SPAN);
        store_some(out + i, n - i, vf_mul(vf_or(rounded, vf_sign(scaled)), factor));
    }
}

static void quantize_fp8_row(const float *x, int64_t n, float *out)
{
    int64_t i = 0;
    for (; i + FP8_GROUP <= n; i += FP8_GROUP) quantize_group(x + i, FP8_GROUP, 1, out + i);
    if (i < n) quantize_group(x + i, n - i, 1, out + i);
}

static void quantize_fp4_row(float *values, int64_t n)
{
    for (int64_t i = 0; i < n; i += FP4_GROUP) {
        quantize_group(values + i, FP4_GROUP, 0, values + i);
    }
}

/* Passes over bits of the index, from the lowest as in ref: first those of lanes, then of vectors. */
static void hadamard_row(float values[HADAMARD_DIM])
{
    enum { N_VECS = HADAMARD_DIM / VF_LANES };
    vf v[N_VECS];
    float minus[VF_LANES];
    for (int i = 0; i < N_VECS; i++) v[i] = vf_load(values + i * VF_LANES);
    for (int bit = 1; bit < VF_LANES; bit *= 2) {
        for (int lane = 0; lane < VF_LANES; lane++) minus[lane] = (lane & bit) != 0 ? -1.0f : 1.0f;
        vf signs = vf_load(minus);
        for (int i = 0; i < N_VECS; i++) v[i] = vf_add(vf_swap(v[i], bit), vf_mul(v[i], signs));
    }
    for (int bit = 1; bit < N_VECS; bit *= 2) {
        for (int i = 0; i < N_VECS; i++) {
            if ((i & bit) != 0) continue;
            vf low = v[i], high = v[i + bit];
            v[i] = vf_add(low, high);
            v[i + bit] = vf_sub(low, high);
        }
    }
    for (int i = 0; i < N_VECS; i++) {
        vf_store(values + i * VF_LANES, vf_mul(v[i], vf_set1(HADAMARD_FACTOR)));
    }
}

/* ---- norms ---- */

/* Four sums that take vectors in turn; with `rounds`, of the squares in bf16. */
static DSV4_ALWAYS_INLINE float add_squares(const float *x, int64_t n, int rounds)
{
    vd sums[4] = {vd_zero(), vd_zero(), vd_zero(), vd_zero()};
    for (int64_t i = 0; i < n; i += 4 * VF_LANES) {
        DSV4_UNROLL for (int k = 0; k < 4; k++)
        {
            int64_t at = i + k * VF_LANES;
            if (at >= n) break;
            vf a = load_some(x + at, n - at);
            sums[k] = rounds ? vd_add_products(sums[k], vf_round_bf16(vf_mul(a, a)), vf_set1(1.0f))
                             : vd_add_products(sums[k], a, a);
        }
    }
    return (float)((vd_sum(sums[0]) + vd_sum(sums[2])) + (vd_sum(sums[1]) + vd_sum(sums[3])));
}

static float sum_row_squares(const float *x, int64_t n)
{
    return add_squares(x, n, 0);
}

static void normalize_row(const float *x, const uint16_t *weight, int64_t n, float eps, float *y)
{
    vf inverse = vf_set1(1.0f / sqrtf(add_squares(x, n, 0) / (float)n + eps));
    for (int64_t i = 0; i < n; i += VF_LANES) {
        vf scaled = vf_mul(load_some(x + i, n - i), inverse);
        if (weight != NULL) scaled = vf_mul(load_some_bf16(weight + i, n - i), scaled);
        store_some(y + i, n - i, scaled);
    }
}

static void normalize_row_bf16(float *q, int64_t n, float eps)
{
    vf scale = vf_set1(dsv4_rows_inverse_bf16(add_squares(q, n, 1), n, eps));
    for (int64_t i = 0; i < n; i += VF_LANES) {
        store_some(q + i, n - i, vf_round_bf16(vf_mul(load_some(q + i, n - i), scale)));
    }
}

/* ---- streams ---- */

/* sum of factors[j] * x[j], from stream 0 to 3, products rounded as in ref. */
static DSV4_ALWAYS_INLINE vf mix4(const vf factors[N_STREAMS], const vf x[N_STREAMS])
{
    vf sum = vf_add(vf_mul(factors[0], x[0]), vf_mul(factors[1], x[1]));
    sum = vf_add(sum, vf_mul(factors[2], x[2]));
    return vf_add(sum, vf_mul(factors[3], x[3]));
}

static DSV4_ALWAYS_INLINE void load_streams(const float *streams, int64_t dim, int64_t i,
                                            vf x[N_STREAMS])
{
    for (int j = 0; j < N_STREAMS; j++) x[j] = load_some(streams + j * dim + i, dim - i);
}

static void collapse_row(const float pre[4], const float *streams, int64_t dim, int rounds,
                         float *out)
{
    vf factors[N_STREAMS], x[N_STREAMS];
    for (int j = 0; j < N_STREAMS; j++) factors[j] = vf_set1(pre[j]);
    for (int64_t i = 0; i < dim; i += VF_LANES) {
        load_streams(streams, dim, i, x);
        vf sum = mix4(factors, x);
        store_some(out + i, dim - i, rounds ? vf_round_bf16(sum) : sum);
    }
}

static void expand_row(const dsv4_hyper_mix *mix, const float *sublayer, int64_t dim, int rounds,
                       float *streams)
{
    vf x[N_STREAMS];
    for (int64_t i = 0; i < dim; i += VF_LANES) {
        load_streams(streams, dim, i, x);
        vf added = load_some(sublayer + i, dim - i);
        for (int k = 0; k < N_STREAMS; k++) {
            vf factors[N_STREAMS];
            for (int j = 0; j < N_STREAMS; j++) factors[j] = vf_set1(mix->comb[j][k]);
            vf sum = vf_add(vf_mul(vf_set1(mix->post[k]), added), mix4(factors, x));
            store_some(streams + k * dim + i, dim - i, rounds ? vf_round_bf16(sum) : sum);
        }
    }
}

/* ---- exponentials ---- */

/* One vector of channels at `channel`, the last ones maybe fewer. */
static DSV4_ALWAYS_INLINE void pool_channels(const float *const *rows, int ratio, int64_t dim,
                                             int64_t channel, float *pooled)
{
    int n_halves = ratio == OVERLAP_RATIO ? 2 : 1;
    int64_t gate_offset = n_halves * dim, n_left = dim - channel;
    vf max = vf_set1(-INFINITY), total = vf_zero(), sum = vf_zero(), weights[MAX_POOL_ROWS];
    for (int slot = 0; slot < n_halves * ratio; slot++) {
        if (rows[slot] == NULL) continue;
        max =
            vf_max(load_some(rows[slot] + gate_offset + slot / ratio * dim + channel, n_left), max);
    }
    for (int slot = 0; slot < n_halves * ratio; slot++) {
        if (rows[slot] == NULL) continue;
        const float *key = rows[slot] + slot / ratio * dim + channel;
        weights[slot] = vf_exp(vf_sub(load_some(key + gate_offset, n_left), max));
        total = vf_add(total, weights[slot]);
    }
    for (int slot = 0; slot < n_halves * ratio; slot++) {
        if (rows[slot] == NULL) continue;
        vf key = load_some(rows[slot] + slot / ratio * dim + channel, n_left);
        sum = vf_add(sum, vf_mul(vf_div(weights[slot], total), key));
    }
    store_some(pooled + channel, n_left, sum);
}

static void pool_rows(const float *const *rows, int ratio, int64_t dim, float *pooled)
{
    for (int64_t channel = 0; channel < dim; channel += VF_LANES) {
        pool_channels(rows, ratio, dim, channel, pooled);
    }
}

/* g / (1 + e^-g) as g e^min(g, 0) / (1 + e^-|g|): no exponential overflows. */
static DSV4_ALWAYS_INLINE vf silu(vf g)
{
    vf below = vf_exp(vf_min(vf_zero(), g));
    vf e = vf_exp(vf_or(vf_abs(g), vf_set1(-0.0f)));
    return vf_div(vf_mul(g, below), vf_add(vf_set1(1.0f), e));
}

static void swiglu_row(const float *gate, const float *up, int64_t n, float limit, float weight,
                       int rounds, float *hidden)
{
    vf most = vf_set1(limit), least = vf_set1(-limit);
    for (int64_t i = 0; i < n; i += VF_LANES) {
        vf g = load_some(gate + i, n - i), u = load_some(up + i, n - i);
        if (rounds) {
            g = vf_round_bf16(g);
            u = vf_round_bf16(u);
        }
        if (limit > 0.0f) {
            g = vf_min(most, g); /* from above only; NaN stays */
            u = vf_max(least, vf_min(most, u));
        }
        vf h = vf_mul(vf_mul(silu(g), u), vf_set1(weight));
        store_some(hidden + i, n - i, rounds ? vf_round_bf16(h) : h);
    }
}

#define ROWS_TABLE                                                                                 \
    {                                                                                              \
        .round = round_row, .to_bf16 = row_to_bf16, .quantize_fp8 = quantize_fp8_row,              \
        .quantize_fp4 = quantize_fp4_row, .hadamard = hadamard_row,                                \
        .sum_squares = sum_row_squares, .normalize = normalize_row,                                \
        .normalize_bf16 = normalize_row_bf16, .collapse = collapse_row, .expand = expand_row,      \
        .pool = pool_rows, .swiglu = swiglu_row                                                    \
    }
