/*
 * test_ref_linear.c - dequantized rows, matrix products and RMS normalization.
 *
 * Expected weights come from the formulas of the number formats in double; a code times a scale is
 * exact in either. A product is compared with a double sum, and bit for bit with its stated order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "ref/linear.h"
#include "ref/norm.h"
#include "test_ref.h"

/* A matrix with random codes and scales in memory of its own. */
struct matrix {
    dsv4_linear linear;
    uint8_t *weight, *scales;
};

static int64_t n_blocks(int64_t n)
{
    return (n + 127) / 128;
}

static int64_t weight_bytes(int32_t kind, int64_t n)
{
    if (kind == DSV4_LINEAR_FP8) return n;
    if (kind == DSV4_LINEAR_FP4) return n / 2;
    return kind == DSV4_LINEAR_BF16 ? 2 * n : 4 * n;
}

static int64_t scale_bytes(int32_t kind, int64_t n_out, int64_t n_in)
{
    if (kind == DSV4_LINEAR_FP8) return n_blocks(n_out) * n_blocks(n_in);
    return kind == DSV4_LINEAR_FP4 ? n_out * n_in / 32 : 0;
}

/* Random finite elements: any byte but the NaN codes of e4m3; bf16 and f32 in +-1. */
static void weight_fill(uint64_t *state, int32_t kind, uint8_t *bytes, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (kind == DSV4_LINEAR_FP8) {
            bytes[i] = (uint8_t)random_next(state);
            if ((bytes[i] & 0x7f) == 0x7f) bytes[i] ^= 1;
        } else if (kind == DSV4_LINEAR_FP4) {
            bytes[i / 2] = (uint8_t)random_next(state);
        } else {
            float value = random_unit(state);
            uint32_t bits = bits_of(value);
            uint16_t upper = (uint16_t)(bits >> 16);
            if (kind == DSV4_LINEAR_BF16) memcpy(bytes + 2 * i, &upper, sizeof upper);
            if (kind == DSV4_LINEAR_F32) memcpy(bytes + 4 * i, &bits, sizeof bits);
        }
    }
}

/* The weights start at an odd address. */
static struct matrix matrix_make(uint64_t *state, int32_t kind, int64_t n_out, int64_t n_in)
{
    struct matrix matrix = {0};
    int64_t n_scales = scale_bytes(kind, n_out, n_in);
    matrix.weight = malloc((size_t)weight_bytes(kind, n_out * n_in) + 1);
    matrix.scales = malloc((size_t)n_scales + 1);
    assert_non_null(matrix.weight);
    assert_non_null(matrix.scales);
    weight_fill(state, kind, matrix.weight + 1, n_out * n_in);
    for (int64_t i = 0; i < n_scales; i++) {
        matrix.scales[i] = (uint8_t)(117 + random_next(state) % 16);
    }
    matrix.linear = (dsv4_linear){matrix.weight + 1, NULL, n_out, n_in, kind};
    if (n_scales > 0) matrix.linear.scales = matrix.scales;
    return matrix;
}

static void matrix_free(struct matrix *matrix)
{
    free(matrix->weight);
    free(matrix->scales);
}

/* Value of a code of a small float format by its definition. */
static double small_float(uint32_t code, int n_exponent, int n_mantissa, int bias)
{
    double sign = (code >> (n_exponent + n_mantissa)) != 0 ? -1.0 : 1.0;
    int exponent = (int)((code >> n_mantissa) % (1u << n_exponent));
    double mantissa = ldexp((double)(code % (1u << n_mantissa)), -n_mantissa);
    if (exponent == 0) return sign * ldexp(mantissa, 1 - bias);
    return sign * ldexp(1.0 + mantissa, exponent - bias);
}

/* W[i][c] by the layout: the number of the element alone says where it and its scale are. */
static double element(const dsv4_linear *linear, int64_t i, int64_t c)
{
    const uint8_t *bytes = linear->weight;
    int64_t at = i * linear->n_in + c;
    if (linear->kind == DSV4_LINEAR_FP8) {
        int scale = linear->scales[(i >> 7) * n_blocks(linear->n_in) + (c >> 7)];
        return ldexp(small_float(bytes[at], 4, 3, 7), scale - 127);
    }
    if (linear->kind == DSV4_LINEAR_FP4) {
        uint32_t code = at % 2 == 0 ? bytes[at / 2] % 16u : bytes[at / 2] / 16u;
        return ldexp(small_float(code, 2, 1, 1), linear->scales[at / 32] - 127);
    }
    float value;
    if (linear->kind == DSV4_LINEAR_F32) {
        memcpy(&value, bytes + 4 * at, sizeof value);
        return (double)value;
    }
    uint32_t bits = (uint32_t)(bytes[2 * at] + 256 * bytes[2 * at + 1]) << 16;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

static const struct {
    int32_t kind;
    int64_t n_out, n_in;
} shapes[] = {
    {DSV4_LINEAR_FP8, 130, 200}, {DSV4_LINEAR_FP8, 1, 1},      {DSV4_LINEAR_FP8, 257, 128},
    {DSV4_LINEAR_FP8, 3, 1027},  {DSV4_LINEAR_FP8, 129, 384},  {DSV4_LINEAR_FP4, 5, 32},
    {DSV4_LINEAR_FP4, 7, 160},   {DSV4_LINEAR_FP4, 130, 96},   {DSV4_LINEAR_FP4, 3, 2048},
    {DSV4_LINEAR_BF16, 1, 1},    {DSV4_LINEAR_BF16, 9, 1000},  {DSV4_LINEAR_BF16, 4, 4096},
    {DSV4_LINEAR_F32, 2, 7},     {DSV4_LINEAR_F32, 24, 16384}, {DSV4_LINEAR_F32, 5, 129},
};

enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static void rows_match_definition(void **unused)
{
    (void)unused;
    uint64_t state = 1;
    for (int s = 0; s < N_SHAPES; s++) {
        int64_t n_out = shapes[s].n_out, n_in = shapes[s].n_in;
        struct matrix matrix = matrix_make(&state, shapes[s].kind, n_out, n_in);
        float *row = new_floats(n_in + 1);
        for (int64_t i = 0; i < n_out; i++) {
            row[n_in] = 77.0f;
            dsv4_linear_row(&matrix.linear, i, row);
            for (int64_t c = 0; c < n_in; c++) {
                assert_true((double)row[c] == element(&matrix.linear, i, c));
            }
            assert_true(row[n_in] == 77.0f);
        }
        free(row);
        matrix_free(&matrix);
    }
}

/* Four different scales of a 2 x 2 grid of blocks; all codes are 1.0. */
static void fp8_block_edges(void **unused)
{
    (void)unused;
    enum { N_OUT = 130, N_IN = 200 };
    static uint8_t codes[N_OUT * N_IN];
    memset(codes, 0x38, sizeof codes);
    const uint8_t scales[4] = {127, 128, 130, 133}; /* 1, 2, 8, 64 */
    dsv4_linear linear = {codes, scales, N_OUT, N_IN, DSV4_LINEAR_FP8};
    float row[N_IN];
    dsv4_linear_row(&linear, 127, row);
    assert_true(row[0] == 1.0f && row[127] == 1.0f && row[128] == 2.0f && row[199] == 2.0f);
    dsv4_linear_row(&linear, 128, row);
    assert_true(row[0] == 8.0f && row[127] == 8.0f && row[128] == 64.0f && row[199] == 64.0f);

    float ones[N_IN], y[N_OUT];
    for (int c = 0; c < N_IN; c++) ones[c] = 1.0f;
    dsv4_linear_ref(&linear, ones, N_IN, 1, y, N_OUT);
    assert_true(y[0] == 128.0f + 2 * 72.0f && y[127] == y[0]);
    assert_true(y[128] == 8 * 128.0f + 64 * 72.0f && y[129] == y[128]);
}

static void fp4_nibbles_and_groups(void **unused)
{
    (void)unused;
    uint8_t codes[2 * 32] = {0};                    /* 2 rows of 64 columns */
    const uint8_t scales[4] = {127, 128, 126, 129}; /* 1, 2; 0.5, 4 */
    codes[0] = 0x71;                                /* columns 0: 0.5, 1: 6 */
    codes[15] = 0x2a;                               /* columns 30: -1, 31: 1 */
    codes[16] = 0x03;                               /* columns 32: 1.5, 33: 0 */
    codes[32] = 0xf4;                               /* row 1, columns 0: 2, 1: -6 */
    codes[63] = 0x5e;                               /* row 1, columns 62: -4, 63: 3 */
    dsv4_linear linear = {codes, scales, 2, 64, DSV4_LINEAR_FP4};
    float row[64];
    dsv4_linear_row(&linear, 0, row);
    assert_true(row[0] == 0.5f && row[1] == 6.0f && row[30] == -1.0f && row[31] == 1.0f);
    assert_true(row[32] == 3.0f && row[33] == 0.0f);
    dsv4_linear_row(&linear, 1, row);
    assert_true(row[0] == 1.0f && row[1] == -3.0f && row[62] == -16.0f && row[63] == 12.0f);
}

/*
 * Rounding errors of a sum in this order: at most 16 + 3 additions inside a block, one per block
 * and one of the product, each relative to the sum of magnitudes.
 */
static void check_product(const struct matrix *matrix, const float *x, int64_t i, float y)
{
    double sum = 0.0, magnitudes = 0.0;
    for (int64_t c = 0; c < matrix->linear.n_in; c++) {
        double product = element(&matrix->linear, i, c) * (double)x[c];
        sum += product;
        magnitudes += fabs(product);
    }
    double n_roundings = 20.0 + (double)n_blocks(matrix->linear.n_in);
    assert_near((double)y, sum, n_roundings * F32_ROUNDING * magnitudes);
}

static void products_match_double(void **unused)
{
    (void)unused;
    enum { N_ROWS = 3, GAP = 2 };
    uint64_t state = 2;
    for (int s = 0; s < N_SHAPES; s++) {
        int64_t n_out = shapes[s].n_out, n_in = shapes[s].n_in;
        struct matrix matrix = matrix_make(&state, shapes[s].kind, n_out, n_in);
        int64_t x_stride = n_in + 5, y_stride = n_out + GAP;
        float *x = new_floats(N_ROWS * x_stride), *y = new_floats(N_ROWS * y_stride);
        random_fill(&state, 3.0f, x, N_ROWS * x_stride);
        for (int64_t i = 0; i < N_ROWS * y_stride; i++) y[i] = 77.0f;
        dsv4_linear_ref(&matrix.linear, x, x_stride, N_ROWS, y, y_stride);
        for (int64_t row = 0; row < N_ROWS; row++) {
            for (int64_t i = 0; i < n_out; i++) {
                check_product(&matrix, x + row * x_stride, i, y[row * y_stride + i]);
            }
            for (int64_t i = n_out; i < y_stride; i++) assert_true(y[row * y_stride + i] == 77.0f);
        }
        free(x);
        free(y);
        matrix_free(&matrix);
    }
}

/* The order that ref/dot.h states, as one pass that keeps the lanes and flushes them. */
static float sum_in_order(const float *a, const float *b, int64_t n)
{
    float total = 0.0f, lanes[8] = {0.0f};
    for (int64_t c = 0; c < n; c++) {
        float product = a[c] * b[c];
        lanes[c % 8] = lanes[c % 8] + product;
        if (c % 128 != 127 && c != n - 1) continue;
        for (int half = 4; half > 0; half /= 2) {
            for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
        }
        total += lanes[0];
        memset(lanes, 0, sizeof lanes);
    }
    return total;
}

static void order_is_as_stated_in_any_batch(void **unused)
{
    (void)unused;
    enum { N_ROWS = 5 };
    uint64_t state = 3;
    for (int s = 0; s < N_SHAPES; s++) {
        int64_t n_out = shapes[s].n_out, n_in = shapes[s].n_in;
        struct matrix matrix = matrix_make(&state, shapes[s].kind, n_out, n_in);
        float *x = new_floats(N_ROWS * n_in), *row = new_floats(n_in);
        float *batch = new_floats(N_ROWS * n_out), *single = new_floats(n_out);
        random_fill(&state, 1.0f, x, N_ROWS * n_in);
        dsv4_linear_ref(&matrix.linear, x, n_in, N_ROWS, batch, n_out);
        dsv4_linear_ref(&matrix.linear, x + 4 * n_in, n_in, 1, single, n_out);
        assert_memory_equal(single, batch + 4 * n_out, (size_t)n_out * sizeof *single);
        for (int64_t i = 0; i < n_out; i++) {
            dsv4_linear_row(&matrix.linear, i, row);
            float expected = sum_in_order(row, x + 4 * n_in, n_in);
            assert_int_equal(bits_of(single[i]), bits_of(expected));
        }
        free(x);
        free(row);
        free(batch);
        free(single);
        matrix_free(&matrix);
    }
}

static void nan_stays_in_its_block(void **unused)
{
    (void)unused;
    uint64_t state = 4;
    struct matrix matrix = matrix_make(&state, DSV4_LINEAR_FP8, 130, 200);
    matrix.scales[3] = 255;            /* rows 128, 129; columns 128 .. 199 */
    matrix.weight[1 + 5 * 200] = 0xff; /* row 5 */
    float x[200], y[130];
    random_fill(&state, 1.0f, x, 200);
    dsv4_linear_ref(&matrix.linear, x, 200, 1, y, 130);
    for (int i = 0; i < 130; i++) assert_true((isnan(y[i]) != 0) == (i == 5 || i >= 128));
    matrix_free(&matrix);
}

static void bytes_of_each_kind(void **unused)
{
    (void)unused;
    for (int s = 0; s < N_SHAPES; s++) {
        int64_t n_out = shapes[s].n_out, n_in = shapes[s].n_in;
        int32_t kind = shapes[s].kind;
        dsv4_linear linear = {NULL, NULL, n_out, n_in, kind};
        assert_int_equal(dsv4_linear_bytes(&linear),
                         weight_bytes(kind, n_out * n_in) + scale_bytes(kind, n_out, n_in));
    }
    dsv4_linear fp8 = {NULL, NULL, 130, 200, DSV4_LINEAR_FP8};
    dsv4_linear fp4 = {NULL, NULL, 2048, 4096, DSV4_LINEAR_FP4};
    assert_int_equal(dsv4_linear_bytes(&fp8), 26004);
    assert_int_equal(dsv4_linear_bytes(&fp4), 2048 * 2048 + 2048 * 128);
}

/* weight NULL: ones. bf16 weights are the upper halves of f32 weights. */
static void check_norm(uint64_t *state, int64_t n, float scale, float eps, int weighted)
{
    float *x = new_floats(n), *y = new_floats(n);
    uint16_t *weight = malloc((size_t)n * sizeof *weight);
    assert_non_null(weight);
    random_fill(state, scale, x, n);
    for (int64_t i = 0; i < n; i++) weight[i] = (uint16_t)(bits_of(random_unit(state)) >> 16);
    dsv4_norm_rms(x, weighted ? weight : NULL, n, eps, y);

    double squares = 0.0;
    for (int64_t i = 0; i < n; i++) squares += (double)x[i] * (double)x[i];
    double root = sqrt(squares / (double)n + (double)eps);
    for (int64_t i = 0; i < n; i++) {
        float w = 1.0f;
        uint32_t bits = (uint32_t)weight[i] << 16;
        if (weighted) memcpy(&w, &bits, sizeof w);
        double expected = (double)w * (double)x[i] / root;
        /* Half the sum's 19 + n / 128 roundings (square root), and 7 more operations. */
        double n_roundings = 17.0 + (double)n_blocks(n) / 2.0;
        assert_near((double)y[i], expected, n_roundings * F32_ROUNDING * fabs(expected));
    }
    dsv4_norm_rms(x, weighted ? weight : NULL, n, eps, x);
    assert_memory_equal(x, y, (size_t)n * sizeof *x);
    free(x);
    free(y);
    free(weight);
}

static void norm_matches_double(void **unused)
{
    (void)unused;
    uint64_t state = 5;
    static const int64_t lengths[] = {1, 7, 128, 512, 1000, 7168};
    for (int i = 0; i < 6; i++) {
        for (int weighted = 0; weighted < 2; weighted++) {
            check_norm(&state, lengths[i], 2.0f, 1e-6f, weighted);
            check_norm(&state, lengths[i], 1e-3f, 1e-6f, weighted); /* eps outweighs the mean */
            check_norm(&state, lengths[i], 1e6f, 1e-20f, weighted);
        }
    }
}

static void norm_of_zeros_is_zero(void **unused)
{
    (void)unused;
    float x[64] = {0.0f};
    dsv4_norm_rms(x, NULL, 64, 1e-6f, x);
    for (int i = 0; i < 64; i++) assert_true(x[i] == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_match_definition),
        cmocka_unit_test(fp8_block_edges),
        cmocka_unit_test(fp4_nibbles_and_groups),
        cmocka_unit_test(products_match_double),
        cmocka_unit_test(order_is_as_stated_in_any_batch),
        cmocka_unit_test(nan_stays_in_its_block),
        cmocka_unit_test(bytes_of_each_kind),
        cmocka_unit_test(norm_matches_double),
        cmocka_unit_test(norm_of_zeros_is_zero),
    };
    return cmocka_run_group_tests_name("ref_linear", tests, NULL, NULL);
}
