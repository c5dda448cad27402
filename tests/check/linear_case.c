/*
 * linear_case.c - makes, runs and answers random products.
 *
 * Place: tests.
 */
#include "linear_case.h"

#include "attn_rng.h"
#include "dsv4/base.h"
#include "num/bf16.h"
#include "num/e2m1.h"
#include "num/e4m3.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD_FLOATS = 64 };

/* A NaN that no computation makes. */
#define POISON_BITS 0x7fab0badu

void *linear_alloc(int64_t n_bytes)
{
    void *memory = malloc(n_bytes > 0 ? (size_t)n_bytes : 1);
    if (!memory) {
        fprintf(stderr, "out of memory: %lld bytes\n", (long long)n_bytes);
        exit(2);
    }
    return memory;
}

int32_t linear_config_list(linear_config configs[LINEAR_MAX_CONFIGS])
{
    int32_t n = 0;
    configs[n++] = (linear_config){.name = "reference", .level = 0};
    for (int32_t level = DSV4_CPU_LEVEL_V2; level <= dsv4_cpu_level(); level++) {
        configs[n++] = (linear_config){.name = dsv4_cpu_level_name(level), .level = level};
    }
    if (dsv4_cpu_level() == DSV4_CPU_LEVEL_AVX512BF16) {
        configs[n - 1].name = "bf16-f32";
        configs[n++] = (linear_config){
            .name = "avx512bf16", .level = DSV4_CPU_LEVEL_AVX512BF16, .promises_bf16 = true};
    }
    return n;
}

void linear_spec_print(const linear_spec *spec)
{
    printf(
        "  case %llu: kind %d n_out %lld n_in %lld rows %lld x_pad %lld y_pad %lld misalign %lld "
        "scales %d nan_codes %d small %d positive %d x_is_bf16 %d x_specials %d threads %d\n",
        (unsigned long long)spec->id, spec->kind, (long long)spec->n_out, (long long)spec->n_in,
        (long long)spec->n_rows, (long long)spec->x_pad, (long long)spec->y_pad,
        (long long)spec->misalign, (int)spec->scales, spec->has_nan_codes, spec->has_small_codes,
        spec->is_positive, spec->x_is_bf16, spec->x_has_specials, spec->n_threads);
}

/* ---- making ---- */

static uint8_t draw_scale(const linear_spec *spec, attn_rng *rng)
{
    if (spec->scales == LINEAR_SCALES_EXTREME) {
        /* Half at the ends, where formats leave their range. */
        if (attn_rng_chance(rng, 25)) return (uint8_t)attn_rng_range(rng, 0, 12);
        if (attn_rng_chance(rng, 33)) return (uint8_t)attn_rng_range(rng, 242, 254);
        return (uint8_t)attn_rng_range(rng, 0, 254);
    }
    if (spec->scales == LINEAR_SCALES_LIMIT) {
        static const uint8_t outside[] = {102, 128, 40, 200};
        if (spec->id % 8 < 4 && attn_rng_chance(rng, 5)) return outside[spec->id % 4];
        return (uint8_t)attn_rng_range(rng, 103, 127);
    }
    int64_t least = spec->kind == DSV4_LINEAR_FP8 ? 10 : 2;
    int64_t most = spec->kind == DSV4_LINEAR_FP8 ? 246 : 252;
    if (spec->scales == LINEAR_SCALES_LOW)
        return (uint8_t)attn_rng_range(rng, least - 1, least + 2);
    if (spec->scales == LINEAR_SCALES_HIGH) return (uint8_t)attn_rng_range(rng, most - 2, most + 1);
    if (spec->scales == LINEAR_SCALES_NAN && attn_rng_chance(rng, 3)) return 255;
    return (uint8_t)attn_rng_range(rng, 115, 126);
}

static uint8_t *place(linear_case *c, int block, int64_t misalign, int64_t n_bytes)
{
    c->blocks[block] = linear_alloc(misalign + n_bytes);
    return (uint8_t *)c->blocks[block] + misalign;
}

static uint8_t draw_fp8(const linear_spec *spec, attn_rng *rng)
{
    uint8_t code = (uint8_t)attn_rng_next(rng);
    if (spec->scales == LINEAR_SCALES_LOW) code &= 0x87u;
    if (spec->has_small_codes) code &= 0xbfu;
    if ((code & 0x7fu) == 0x7fu) code ^= 2u;
    return spec->is_positive ? (code & 0x7fu) | 1u : code;
}

static uint8_t draw_fp4_pair(const linear_spec *spec, attn_rng *rng)
{
    uint8_t codes = (uint8_t)attn_rng_next(rng);
    if (spec->scales == LINEAR_SCALES_LOW) codes &= 0x99u;
    if (spec->has_small_codes) codes &= 0xbbu;
    return spec->is_positive ? (codes & 0x77u) | 0x11u : codes;
}

static void fill_codes(const linear_spec *spec, attn_rng *rng, uint8_t *bytes)
{
    int64_t n_values = spec->n_out * spec->n_in;
    for (int64_t i = 0; i < n_values; i++) {
        float value = attn_rng_normal(rng);
        uint16_t half = dsv4_bf16_from_f32(value);
        bool is_nan = spec->has_nan_codes && attn_rng_range(rng, 0, 800) == 0;
        switch (spec->kind) {
        case DSV4_LINEAR_FP8:
            bytes[i] = draw_fp8(spec, rng);
            if (is_nan) bytes[i] |= 0x7fu;
            break;
        case DSV4_LINEAR_FP4: bytes[i / 2] = draw_fp4_pair(spec, rng); break;
        case DSV4_LINEAR_BF16:
            if (is_nan) half = 0xffc1;
            memcpy(bytes + 2 * i, &half, sizeof half);
            break;
        default:
            if (is_nan) value = NAN;
            memcpy(bytes + 4 * i, &value, sizeof value);
            break;
        }
    }
}

static void make_weight(linear_case *c, attn_rng *rng)
{
    const linear_spec *spec = &c->spec;
    dsv4_linear *linear = &c->linear;
    *linear = (dsv4_linear){.n_out = spec->n_out, .n_in = spec->n_in, .kind = spec->kind};
    int64_t n_values = spec->n_out * spec->n_in, n_scales = 0, n_bytes = n_values;
    if (spec->kind == DSV4_LINEAR_FP8) {
        n_scales = (spec->n_out + 127) / 128 * ((spec->n_in + 127) / 128);
    } else if (spec->kind == DSV4_LINEAR_FP4) {
        n_bytes = n_values / 2;
        n_scales = n_values / 32;
    } else {
        n_bytes = n_values * (spec->kind == DSV4_LINEAR_BF16 ? 2 : 4);
    }
    uint8_t *weight = place(c, 0, spec->misalign, n_bytes);
    fill_codes(spec, rng, weight);
    linear->weight = weight;
    if (spec->kind == DSV4_LINEAR_BF16 || spec->kind == DSV4_LINEAR_F32) return;
    uint8_t *scales = place(c, 1, 0, n_scales);
    for (int64_t i = 0; i < n_scales; i++) scales[i] = draw_scale(spec, rng);
    linear->scales = scales;
}

/* Exponents -80 .. 60, often the ends; in half of the cases some or all outside. */
static float draw_limit_x(const linear_spec *spec, attn_rng *rng)
{
    int exponent = (int)attn_rng_range(rng, -80, 60);
    if (attn_rng_chance(rng, 40)) exponent = attn_rng_chance(rng, 50) ? -80 : 60;
    if (spec->id % 8 == 4 && attn_rng_chance(rng, 2)) exponent = 61;
    if (spec->id % 8 == 5 && attn_rng_chance(rng, 5)) exponent = 110;
    if (spec->id % 8 == 6) exponent = (int)attn_rng_range(rng, -84, -78);
    if (spec->id % 8 == 7) exponent = (int)attn_rng_range(rng, -126, -105);
    if (attn_rng_chance(rng, 5)) return 0.0f;
    float magnitude = ldexpf(1.0f + (float)attn_rng_range(rng, 0, 127) / 128, exponent);
    return attn_rng_chance(rng, 50) ? magnitude : -magnitude;
}

static void make_x(linear_case *c, attn_rng *rng)
{
    static const float specials[4] = {INFINITY, -INFINITY, NAN, 0.0f};
    const linear_spec *spec = &c->spec;
    c->x_stride = spec->n_in + spec->x_pad;
    int64_t n_floats = spec->n_rows > 0 ? (spec->n_rows - 1) * c->x_stride + spec->n_in : 0;
    float *x = (float *)(void *)place(c, 2, 4, n_floats * (int64_t)sizeof *x);
    float scale = 1.0f;
    if (spec->scales == LINEAR_SCALES_EXTREME || spec->scales == LINEAR_SCALES_HIGH) {
        scale = 0x1p-24f;
    } else if (spec->scales == LINEAR_SCALES_LOW) {
        scale = 0x1p24f;
    }
    for (int64_t i = 0; i < n_floats; i++) {
        x[i] = spec->scales == LINEAR_SCALES_LIMIT ? draw_limit_x(spec, rng)
                                                   : attn_rng_normal(rng) * scale;
        if (spec->is_positive) x[i] = fabsf(x[i]);
        if (spec->x_is_bf16) x[i] = dsv4_bf16_to_f32(dsv4_bf16_from_f32(x[i]));
        if (spec->x_has_specials && attn_rng_range(rng, 0, 1500) == 0) {
            x[i] = specials[attn_rng_range(rng, 0, 3)];
        }
    }
    /* What lies between rows must not matter. */
    for (int64_t i = 0; i < n_floats; i++) {
        if (i % c->x_stride >= spec->n_in) x[i] = NAN;
    }
    c->x = x;
}

void linear_case_make(linear_case *c, const linear_spec *spec)
{
    attn_rng rng = {.state = spec->id * 1000003u + 17u};
    memset(c, 0, sizeof *c);
    c->spec = *spec;
    make_weight(c, &rng);
    make_x(c, &rng);
}

void linear_case_free(linear_case *c)
{
    for (int i = 0; i < 3; i++) free(c->blocks[i]);
    free(c->answers);
}

/* ---- running ---- */

static bool is_poison(const float *value)
{
    uint32_t bits;
    memcpy(&bits, value, sizeof bits);
    return bits == POISON_BITS;
}

static bool collect(const linear_case *c, const float *block, int64_t n_floats, int64_t n_rows,
                    float *y, char *text)
{
    int64_t n_out = c->spec.n_out, stride = n_out + c->spec.y_pad;
    for (int64_t i = 0; i < n_floats; i++) {
        int64_t offset = i - GUARD_FLOATS;
        bool is_inside = offset >= 0 && offset < n_rows * stride && offset % stride < n_out;
        if (is_inside == is_poison(&block[i])) {
            (void)snprintf(text, LINEAR_TEXT_BYTES, "float %lld of y (%lld rows) %s",
                           (long long)offset, (long long)n_rows,
                           is_inside ? "was not written" : "is outside and was written");
            return false;
        }
        if (is_inside) y[offset / stride * n_out + offset % stride] = block[i];
    }
    return true;
}

bool linear_run(const linear_case *c, const linear_config *config, int32_t n_threads, int64_t first,
                int64_t n_rows, float *y, char *text)
{
    const uint32_t poison = POISON_BITS;
    int64_t stride = c->spec.n_out + c->spec.y_pad;
    int64_t n_floats = n_rows * stride + 2 * GUARD_FLOATS;
    float *block = linear_alloc(n_floats * (int64_t)sizeof *block);
    for (int64_t i = 0; i < n_floats; i++) memcpy(&block[i], &poison, sizeof poison);
    dsv4_compute compute = {.cpu_level = config->level, .n_threads = n_threads};
    dsv4_linear_cpu(&compute, &c->linear, c->x + first * c->x_stride, c->x_stride, n_rows,
                    config->promises_bf16, block + GUARD_FLOATS, stride);
    bool is_good = collect(c, block, n_floats, n_rows, y, text);
    free(block);
    return is_good;
}

/* ---- the answer ---- */

static double scale_value(uint8_t scale)
{
    return scale == 255 ? (double)NAN : ldexp(1.0, scale - 127);
}

void linear_oracle_row(const linear_case *c, int64_t i, float *values)
{
    const dsv4_linear *linear = &c->linear;
    const uint8_t *bytes = linear->weight;
    int64_t n_in = linear->n_in, n_blocks = (n_in + 127) / 128;
    for (int64_t k = 0; k < n_in; k++) {
        int64_t at = i * n_in + k;
        double value;
        uint16_t half;
        switch (linear->kind) {
        case DSV4_LINEAR_FP8:
            value = (double)dsv4_e4m3_to_f32(bytes[at]) *
                    scale_value(linear->scales[i / 128 * n_blocks + k / 128]);
            break;
        case DSV4_LINEAR_FP4:
            value = (double)dsv4_e2m1_to_f32((uint8_t)(bytes[at / 2] >> (at % 2 * 4)) & 15u) *
                    scale_value(linear->scales[at / 32]);
            break;
        case DSV4_LINEAR_BF16:
            memcpy(&half, bytes + 2 * at, sizeof half);
            value = (double)dsv4_bf16_to_f32(half);
            break;
        default: memcpy(&values[k], bytes + 4 * at, sizeof values[k]); continue;
        }
        values[k] = (float)value;
    }
}

linear_answer linear_oracle(const linear_case *c, int64_t row, const float *values)
{
    linear_answer answer = {0};
    const float *x = c->x + row * c->x_stride;
    for (int64_t k = 0; k < c->linear.n_in; k++) {
        double product = (double)values[k] * (double)x[k];
        answer.sum += product;
        if (isfinite(product)) answer.magnitude += fabs(product);
        /* Weights with scales are never dropped: their subnormals take another path. */
        bool is_dropped =
            fabsf(x[k]) < FLT_MIN || (c->linear.scales == NULL && fabsf(values[k]) < FLT_MIN);
        if (is_dropped) answer.dropped += fabs(product);
        if (!isfinite(values[k]) || !isfinite(x[k])) answer.has_special = true;
    }
    return answer;
}
