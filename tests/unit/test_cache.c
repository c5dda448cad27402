/*
 * test_cache.c - the paged cache record: page strides, bytes of a row, accuracy, special values.
 *
 * Expected positions and values come from the layout's text (offsets spelled out, powers by ldexp),
 * not from the number formats' code.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, MAP_NORESERVE */

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "dsv4/cache.h"
#include "test_bits.h"

#define GUARD          0xa5
#define N_RANDOM       400
#define SMALL_ROWS     3
#define SMALL_BYTES    (SMALL_ROWS * 584)
#define ONE_ROW_SCALES 576 /* where the scales of a page of one row begin */

/*
 * values  [512] f32, written: each group at its own magnitude between 2^low and 2^(low + span),
 *         its values spread over 16 powers of two below that, a few of them zero
 */
static void row_random(float *values, uint64_t *state, int low, uint32_t span)
{
    int top = low;
    for (int dim = 0; dim < DSV4_CACHE_DIM; dim++) {
        if (dim % 64 == 0) top = low + (int)(random_next(state) % span);
        double mantissa = 1.0 + ldexp((double)(random_next(state) >> 9), -23);
        double value = ldexp(mantissa, top - (int)(random_next(state) % 17));
        if (random_next(state) % 32 == 0) value = 0.0;
        values[dim] = (float)(random_next(state) % 2 == 0 ? value : -value);
    }
}

static void page_strides(void **state)
{
    (void)state;
    assert_int_equal(dsv4_cache_page_stride_bytes(64), 37440);
    assert_int_equal(dsv4_cache_page_stride_bytes(2), 1728);
    assert_int_equal(dsv4_cache_page_stride_bytes(1), 1152);
    assert_int_equal(dsv4_cache_page_stride_bytes(72), 72 * 584); /* divides: nothing to round */
    assert_int_equal(dsv4_cache_page_stride_bytes(73), 74 * 576 + 72 * 8);
    assert_int_equal(dsv4_cache_page_stride_bytes(256), 149760);
    assert_int_equal(dsv4_cache_page_stride_bytes(0), 0);
    assert_int_equal(dsv4_cache_page_stride_bytes(-1), 0);
    assert_int_equal(dsv4_cache_page_stride_bytes(-2), 0);
    assert_int_equal(dsv4_cache_page_stride_bytes(-1000), 0);
    assert_int_equal(dsv4_cache_page_stride_bytes(INT64_MIN), 0);
    for (int64_t page_rows = 1; page_rows < 1000; page_rows++) {
        int64_t stride_bytes = dsv4_cache_page_stride_bytes(page_rows);
        assert_int_equal(stride_bytes % 576, 0);
        assert_in_range(stride_bytes - page_rows * 584, 0, 575);
    }
}

static void page_stride_does_not_overflow(void **state)
{
    (void)state;
    int64_t most = INT64_MAX / 584; /* the last page whose unrounded size fits */
    assert_int_equal(dsv4_cache_page_stride_bytes(INT64_MAX), 0);
    assert_int_equal(dsv4_cache_page_stride_bytes(most + 1), 0);
    /* most * 584 is 2^63 - 512, a multiple of 576: it fits, though adding 575 to it would not. */
    assert_int_equal(dsv4_cache_page_stride_bytes(most), INT64_MAX - 511);
    assert_int_equal(dsv4_cache_page_stride_bytes(most - 1), INT64_MAX - 511 - 576);
    assert_true(dsv4_cache_page_stride_bytes((int64_t)1 << 40) > (int64_t)584 << 40);
}

/* What a hand-computed row is made of: a value at a dimension, and the code it must become. */
struct cell {
    int dim;
    float value;
    int code;
};

/*
 * e4m3 codes near the top: 224 = 76, 256 = 78, 288 = 79, 320 = 7a, 448 = 7e; 1 = 38, 1.125 = 39;
 * 2^-9 = 01. Scales: 127 is 1, 128 is 2.
 */
static const struct cell hand_cells[] = {
    /* group 0: amax 448, scale 1 */
    {0, 448.0f, 0x7e},
    {1, 1.0f, 0x38},
    {2, -1.0625f, 0xb8}, /* tie of 1 and 1.125 */
    {3, 0x1p-9f, 0x01},
    {4, 0x1p-10f, 0x00},  /* tie of 0 and 2^-9 */
    {5, 0x1.8p-9f, 0x02}, /* tie of 1 and 2 units */
    {6, -0.0f, 0x80},
    {7, -300.0f, 0xf9},
    {63, 304.0f, 0x7a}, /* tie of 288 and 320 */
    /* group 1: amax 449, scale 2 */
    {64, -449.0f, 0xf6}, /* 224.5 */
    {127, -3.0f, 0xbc},  /* 1.5 */
    /* group 2 stays zero; group 3: tiny, floor's scale 2^-22 */
    {192, 1e-6f, 0x48},       /* 4.19 -> 4 */
    {193, -0x1.8p-21f, 0xc4}, /* 3 */
    {194, 1e-30f, 0x00},
    {195, -1e-30f, 0x80},
    /* group 4: amax 1 beside NaN, scale 2^-8 */
    {256, 1.0f, 0x78},
    {257, NAN, 0x7f},
    {258, -NAN, 0x7f},
    {319, -0x1p-8f, 0xb8},
    /* group 5: infinity, scale 2^127 */
    {320, INFINITY, 0x7e},
    {321, -INFINITY, 0xfe},
    {322, 0x1p127f, 0x38},
    {323, -1.0f, 0x80},
    {324, FLT_MAX, 0x40}, /* 2 - 2^-23 -> 2 */
    /* group 6: amax 448 * 2^-7, scale 2^-7 */
    {384, 3.5f, 0x7e},
    {447, -0.4375f, 0xe6}, /* 56 */
    /* the bf16 tail */
    {448, 1.0f, 0x3f80},
    {449, -2.0f, 0xc000},
    {450, 0x1.01p0f, 0x3f80}, /* tie, even below */
    {451, 0x1.03p0f, 0x3f82}, /* tie, even above */
    {452, INFINITY, 0x7f80},
    {453, -INFINITY, 0xff80},
    {454, FLT_MAX, 0x7f80},
    {455, -0.0f, 0x8000},
    {511, 0x1.234568p5f, 0x4212}, /* 36.41: mantissa 0010010, then below a half */
};
static const uint8_t hand_scales[8] = {127, 128, 105, 105, 119, 254, 120, 0};

#define N_HAND_CELLS (sizeof hand_cells / sizeof hand_cells[0])

static void hand_computed_bytes(void **state)
{
    (void)state;
    float values[DSV4_CACHE_DIM] = {0};
    uint8_t expected[SMALL_BYTES];
    memset(expected, GUARD, sizeof expected);
    uint8_t *data = expected + 576; /* row 1 */
    memset(data, 0, 576);
    memcpy(expected + 3 * 576 + 8, hand_scales, 8);
    for (size_t i = 0; i < N_HAND_CELLS; i++) {
        const struct cell *cell = &hand_cells[i];
        values[cell->dim] = cell->value;
        if (cell->dim < 448) {
            data[cell->dim] = (uint8_t)cell->code;
        } else {
            data[448 + 2 * (cell->dim - 448)] = (uint8_t)(cell->code % 256);
            data[449 + 2 * (cell->dim - 448)] = (uint8_t)(cell->code / 256);
        }
    }
    uint8_t page[SMALL_BYTES];
    memset(page, GUARD, sizeof page);
    dsv4_cache_row_write(page, SMALL_ROWS, 1, values);
    assert_memory_equal(page, expected, sizeof page);
}

/* The payload of a NaN is free: only its kind counts. */
static void nan_in_tail(void **state)
{
    (void)state;
    float values[DSV4_CACHE_DIM] = {0};
    values[448] = float_of(0x7f800001u);
    values[511] = float_of(0xffffffffu);
    uint8_t page[584];
    float back[DSV4_CACHE_DIM];
    dsv4_cache_row_write(page, 1, 0, values);
    dsv4_cache_row_read(page, 1, 0, back);
    assert_true(isnan(back[448]));
    assert_true(isnan(back[511]));
    assert_true(back[449] == 0.0f && back[510] == 0.0f);
}

/* Value of each e4m3 code by its definition; codes 0x7f and 0xff give NaN. */
static double e4m3_value(uint32_t code)
{
    uint32_t exponent = code / 8 % 16;
    double mantissa = (double)(code % 8) / 8.0;
    double magnitude = ldexp(1.0 + mantissa, (int)exponent - 7);
    if (exponent == 0) magnitude = ldexp(mantissa, -6);
    if (code % 128 == 127) magnitude = (double)NAN;
    return code < 128 ? magnitude : -magnitude;
}

/*
 * Every code under every scale byte, NaN ones included. The product is exact in f32 unless it is
 * 2^128 or more, which the conversion from double turns into infinity as f32 arithmetic does.
 */
static void reads_every_code_and_scale(void **state)
{
    (void)state;
    for (uint32_t scale = 0; scale < 256; scale++) {
        uint8_t page[584] = {0};
        float values[DSV4_CACHE_DIM];
        for (uint32_t dim = 0; dim < 448; dim++)
            page[dim] = (uint8_t)(dim < 256 ? dim : 255 - dim % 64);
        for (uint32_t group = 0; group < 7; group++)
            page[ONE_ROW_SCALES + group] = (uint8_t)(scale + group);
        dsv4_cache_row_read(page, 1, 0, values);
        for (uint32_t dim = 0; dim < 448; dim++) {
            uint32_t scale_code = (scale + dim / 64) % 256;
            double power = scale_code == 255 ? (double)NAN : ldexp(1.0, (int)scale_code - 127);
            double expected = e4m3_value(page[dim]) * power;
            if (isnan(expected)) {
                assert_true(isnan(values[dim]));
                continue;
            }
            if (fabs(expected) > (double)FLT_MAX) expected = copysign((double)INFINITY, expected);
            assert_int_equal(bits_of(values[dim]), bits_of((float)expected));
        }
    }
}

static void reads_bf16_tail(void **state)
{
    (void)state;
    for (uint32_t first = 0; first < 65536; first += 64) {
        uint8_t page[584] = {0};
        float values[DSV4_CACHE_DIM];
        for (uint32_t i = 0; i < 64; i++) {
            page[448 + 2 * i] = (uint8_t)((first + i) % 256);
            page[449 + 2 * i] = (uint8_t)((first + i) / 256);
        }
        dsv4_cache_row_read(page, 1, 0, values);
        for (uint32_t i = 0; i < 64; i++) {
            if ((first + i) % 0x8000u > 0x7f80u)
                assert_true(isnan(values[448 + i]));
            else
                assert_int_equal(bits_of(values[448 + i]), (first + i) * 65536u);
        }
    }
}

/*
 * Half the distance of neighbouring codes around |x|, times the scale. Codes in [2^e, 2^(e+1)) are
 * 2^(e-3) apart for e >= -6, and 2^-9 apart below.
 */
static double half_ulp(double value, double scale)
{
    int exponent;
    frexp(fabs(value) / scale, &exponent);
    exponent -= 1;
    if (value == 0.0 || exponent < -6) exponent = -6;
    return ldexp(scale, exponent - 4);
}

static void check_accuracy(const float *values, const uint8_t *page, const float *back)
{
    for (int dim = 0; dim < DSV4_CACHE_FP8_DIM; dim++) {
        double scale = ldexp(1.0, page[ONE_ROW_SCALES + dim / 64] - 127);
        double value = (double)values[dim];
        assert_true(fabs(value) <= 448.0 * scale);
        assert_true(fabs((double)back[dim] - value) <= half_ulp(value, scale));
        assert_true(signbit(back[dim]) == signbit(values[dim]));
    }
    /* bf16 normals: 8 significant bits, so half an ulp is at most 2^-8 of the value's power. */
    for (int dim = DSV4_CACHE_FP8_DIM; dim < DSV4_CACHE_DIM; dim++) {
        int exponent;
        frexp((double)values[dim], &exponent);
        double error = fabs((double)back[dim] - (double)values[dim]);
        assert_true(error <= (values[dim] == 0.0f ? 0.0 : ldexp(1.0, exponent - 9)));
    }
}

/* The scale is the smallest that holds amax, raised to the floor. */
static void check_scales_tight(const float *values, const uint8_t *page)
{
    for (int group = 0; group < DSV4_CACHE_N_GROUPS; group++) {
        double amax = (double)1e-4f;
        for (int dim = group * 64; dim < (group + 1) * 64; dim++)
            amax = fmax(amax, fabs((double)values[dim]));
        double scale = ldexp(1.0, page[ONE_ROW_SCALES + group] - 127);
        assert_true(amax <= 448.0 * scale && amax > 224.0 * scale);
    }
}

/* Groups from far below the floor's scale up to 2^120, where nothing rounds past f32's end. */
static void write_read_is_within_half_ulp(void **state)
{
    (void)state;
    static const int lows[4] = {-6, -100, -20, 60};
    static const uint32_t spans[4] = {16, 80, 20, 60};
    uint64_t random = 4;
    for (int i = 0; i < N_RANDOM; i++) {
        float values[DSV4_CACHE_DIM], back[DSV4_CACHE_DIM];
        uint8_t page[584];
        memset(page, GUARD, sizeof page);
        row_random(values, &random, lows[i % 4], spans[i % 4]);
        dsv4_cache_row_write(page, 1, 0, values);
        dsv4_cache_row_read(page, 1, 0, back);
        check_scales_tight(values, page);
        check_accuracy(values, page, back);
        assert_int_equal(page[583], 0);
    }
}

/* Whether a group's largest code is 224's: the one case in which rewriting changes the bytes. */
static int has_halving_group(const uint8_t *page)
{
    for (int group = 0; group < DSV4_CACHE_N_GROUPS; group++) {
        int largest = 0;
        for (int dim = group * 64; dim < (group + 1) * 64; dim++)
            if (page[dim] % 128 > largest) largest = page[dim] % 128;
        if (largest == 0x76) return 1;
    }
    return 0;
}

/* Writing what was read gives the same values always, and the same bytes unless scales halve. */
static void rewriting_is_idempotent(void **state)
{
    (void)state;
    uint64_t random = 5;
    int n_same = 0, n_halved = 0;
    for (int i = 0; i < N_RANDOM; i++) {
        float values[DSV4_CACHE_DIM], again[DSV4_CACHE_DIM];
        uint8_t first[584], second[584], third[584];
        row_random(values, &random, -20, 40);
        dsv4_cache_row_write(first, 1, 0, values);
        dsv4_cache_row_read(first, 1, 0, values);
        dsv4_cache_row_write(second, 1, 0, values);
        dsv4_cache_row_read(second, 1, 0, again);
        assert_memory_equal(again, values, sizeof values);
        dsv4_cache_row_write(third, 1, 0, again);
        assert_memory_equal(third, second, sizeof second);
        if (has_halving_group(first)) {
            n_halved++;
        } else {
            n_same++;
            assert_memory_equal(second, first, sizeof first);
        }
    }
    assert_true(n_same > N_RANDOM / 4 && n_halved > N_RANDOM / 8);
}

static void rewriting_halves_scale_of_224(void **state)
{
    (void)state;
    float values[DSV4_CACHE_DIM] = {230.0f, -7.0f};
    uint8_t page[584];
    dsv4_cache_row_write(page, 1, 0, values);
    assert_int_equal(page[ONE_ROW_SCALES], 127);
    assert_int_equal(page[0], 0x76);
    dsv4_cache_row_read(page, 1, 0, values);
    assert_true(values[0] == 224.0f && values[1] == -7.0f);
    dsv4_cache_row_write(page, 1, 0, values);
    assert_int_equal(page[ONE_ROW_SCALES], 126);
    assert_int_equal(page[0], 0x7e);
    assert_int_equal(page[1], 0xd6); /* -14 = -1.75 * 2^3 */
    dsv4_cache_row_read(page, 1, 0, values);
    assert_true(values[0] == 224.0f && values[1] == -7.0f);
}

/* f32's end: below 248 * 2^120 (the tie of 240 and 256) values survive, from there they cannot. */
static void largest_finite_values(void **state)
{
    (void)state;
    float tie = 0x1.fp127f;
    float values[DSV4_CACHE_DIM] = {FLT_MAX, tie, nextafterf(tie, 0.0f), -0x1p100f};
    float back[DSV4_CACHE_DIM];
    uint8_t page[584];
    dsv4_cache_row_write(page, 1, 0, values);
    assert_int_equal(page[ONE_ROW_SCALES], 247);
    assert_int_equal(page[0], 0x78);
    assert_int_equal(page[1], 0x78);
    assert_int_equal(page[2], 0x77);
    assert_int_equal(page[3], 0x80);
    dsv4_cache_row_read(page, 1, 0, back);
    assert_true(isinf(back[0]) && isinf(back[1]));
    assert_true(back[2] == 0x1.ep127f);
}

/* NaN neither raises nor hides the amax of its group, wherever it stands. */
static void nan_leaves_neighbours_alone(void **state)
{
    (void)state;
    for (int at = 0; at < 64; at++) {
        float values[DSV4_CACHE_DIM], back[DSV4_CACHE_DIM];
        uint8_t page[584];
        for (int dim = 0; dim < DSV4_CACHE_DIM; dim++) values[dim] = -2.0f;
        values[64 + at] = at % 2 == 0 ? NAN : -NAN;
        dsv4_cache_row_write(page, 1, 0, values);
        dsv4_cache_row_read(page, 1, 0, back);
        assert_int_equal(page[64 + at], 0x7f);
        assert_int_equal(page[ONE_ROW_SCALES + 1], 120); /* 2 / 448 = 2^-7.8 */
        for (int dim = 0; dim < DSV4_CACHE_DIM; dim++) {
            if (dim == 64 + at)
                assert_true(isnan(back[dim]));
            else
                assert_true(back[dim] == -2.0f);
        }
    }
}

static void all_nan_and_all_zero_groups(void **state)
{
    (void)state;
    float values[DSV4_CACHE_DIM] = {0};
    uint8_t page[584];
    memset(page, GUARD, sizeof page);
    for (int dim = 0; dim < 64; dim++) {
        values[dim] = NAN;
        values[64 + dim] = -0.0f;
        values[128 + dim] = -FLT_TRUE_MIN;
        values[192 + dim] = 0x1p-31f; /* 2^-9 of the floor's scale: the smallest that lasts */
        values[256 + dim] = 1e-4f;
    }
    static const uint8_t codes[7] = {0x7f, 0x80, 0x80, 0x01, 0x7d, 0, 0};
    dsv4_cache_row_write(page, 1, 0, values);
    for (int dim = 0; dim < 448; dim++) {
        assert_int_equal(page[dim], codes[dim / 64]);
        assert_int_equal(page[ONE_ROW_SCALES + dim / 64], 105);
    }
    assert_int_equal(page[583], 0);
}

/* Each row of a page is its own bytes and no others, whatever the page's address. */
static void rows_touch_only_their_bytes(void **state)
{
    (void)state;
    uint64_t random = 6;
    float values[DSV4_CACHE_DIM], back[DSV4_CACHE_DIM], alone[DSV4_CACHE_DIM];
    uint8_t one[584], buffer[16 + SMALL_BYTES + 16], expected[sizeof buffer];
    row_random(values, &random, -10, 20);
    dsv4_cache_row_write(one, 1, 0, values);
    dsv4_cache_row_read(one, 1, 0, alone);
    for (size_t shift = 0; shift < 16; shift++) {
        for (size_t row = 0; row < SMALL_ROWS; row++) {
            memset(buffer, GUARD, sizeof buffer);
            memset(expected, GUARD, sizeof expected);
            memcpy(expected + shift + row * 576, one, 576);
            memcpy(expected + shift + SMALL_ROWS * 576 + row * 8, one + 576, 8);
            dsv4_cache_row_write(buffer + shift, SMALL_ROWS, (int64_t)row, values);
            assert_memory_equal(buffer, expected, sizeof buffer);
            dsv4_cache_row_read(buffer + shift, SMALL_ROWS, (int64_t)row, back);
            assert_memory_equal(back, alone, sizeof back);
            assert_memory_equal(buffer, expected, sizeof buffer);
        }
    }
}

/* Heap blocks of the exact size, so that a sanitizer sees any byte past them. */
static void exact_size_buffers(void **state)
{
    (void)state;
    uint8_t *page = malloc(SMALL_BYTES);
    float *values = malloc(DSV4_CACHE_DIM * sizeof *values);
    assert_non_null(page);
    assert_non_null(values);
    for (int64_t row = 0; row < SMALL_ROWS; row++) {
        for (int dim = 0; dim < DSV4_CACHE_DIM; dim++) values[dim] = (float)(row + 1);
        dsv4_cache_row_write(page, SMALL_ROWS, row, values);
    }
    for (int64_t row = 0; row < SMALL_ROWS; row++) {
        dsv4_cache_row_read(page, SMALL_ROWS, row, values);
        for (int dim = 0; dim < DSV4_CACHE_DIM; dim++) assert_true(values[dim] == (float)(row + 1));
    }
    free(values);
    free(page);
}

/* One page of more than 4 GiB, of which only the touched rows take memory. */
static void offsets_are_64_bit(void **state)
{
    (void)state;
    const int64_t page_rows = 7456541 + 64; /* the first factor is the first row past 2^32 */
    const int64_t row = page_rows - 1;
    assert_true(7456540 * INT64_C(576) < INT64_C(1) << 32);
    assert_true(7456541 * INT64_C(576) >= INT64_C(1) << 32);
    size_t page_bytes = (size_t)dsv4_cache_page_stride_bytes(page_rows);
    uint8_t *page = mmap(NULL, page_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(page != MAP_FAILED);

    uint64_t random = 7;
    float values[DSV4_CACHE_DIM], back[DSV4_CACHE_DIM], alone[DSV4_CACHE_DIM];
    uint8_t one[584];
    row_random(values, &random, -10, 20);
    dsv4_cache_row_write(one, 1, 0, values);
    dsv4_cache_row_read(one, 1, 0, alone);
    dsv4_cache_row_write(page, page_rows, row, values);
    size_t data_offset = (size_t)row * 576;
    size_t scale_offset = (size_t)page_rows * 576 + (size_t)row * 8;
    assert_memory_equal(page + data_offset, one, 576);
    assert_memory_equal(page + scale_offset, one + 576, 8);
    dsv4_cache_row_read(page, page_rows, row, back);
    assert_memory_equal(back, alone, sizeof back);

    /* Where offsets cut to 32 bits would have gone, and the last row below 2^32. */
    static const uint8_t zeros[576] = {0};
    assert_memory_equal(page + (uint32_t)data_offset, zeros, 576);
    assert_memory_equal(page + (uint32_t)scale_offset, zeros, 8);
    dsv4_cache_row_write(page, page_rows, 0, values);
    assert_memory_equal(page, one, 576);
    assert_memory_equal(page + (size_t)page_rows * 576, one + 576, 8);
    assert_int_equal(munmap(page, page_bytes), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(page_strides),
        cmocka_unit_test(page_stride_does_not_overflow),
        cmocka_unit_test(hand_computed_bytes),
        cmocka_unit_test(nan_in_tail),
        cmocka_unit_test(reads_every_code_and_scale),
        cmocka_unit_test(reads_bf16_tail),
        cmocka_unit_test(write_read_is_within_half_ulp),
        cmocka_unit_test(rewriting_is_idempotent),
        cmocka_unit_test(rewriting_halves_scale_of_224),
        cmocka_unit_test(largest_finite_values),
        cmocka_unit_test(nan_leaves_neighbours_alone),
        cmocka_unit_test(all_nan_and_all_zero_groups),
        cmocka_unit_test(rows_touch_only_their_bytes),
        cmocka_unit_test(exact_size_buffers),
        cmocka_unit_test(offsets_are_64_bit),
    };
    return cmocka_run_group_tests_name("cache", tests, NULL, NULL);
}
