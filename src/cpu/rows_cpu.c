/*
 * rows_cpu.c - the table of row functions of each level, and that of the reference.
 *
 * Place: cpu; the arithmetic is in rows_tmpl.h and in ref.
 */
#include "rows_cpu.h"

#include <math.h>

#include "dsv4/base.h"
#include "num/bf16.h"
#include "ref/compress.h"
#include "ref/gate.h"
#include "ref/norm.h"
#include "ref/quant.h"

enum { FP8_GROUP = 128 };

static float round_one(float value)
{
    return dsv4_bf16_to_f32(dsv4_bf16_from_f32(value));
}

float dsv4_rows_inverse_bf16(float sum, int64_t n, float eps)
{
    float mean = round_one(round_one(sum / (float)n) + eps);
    return round_one(1.0f / sqrtf(mean));
}

static void to_bf16(const float *values, int64_t n, uint16_t *bits)
{
    for (int64_t i = 0; i < n; i++) bits[i] = dsv4_bf16_from_f32(values[i]);
}

static void quantize_fp8(const float *x, int64_t n, float *out)
{
    int64_t whole = n / FP8_GROUP * FP8_GROUP;
    if (out != x) {
        for (int64_t i = 0; i < n; i++) out[i] = x[i];
    }
    dsv4_quant_fp8(out, whole, FP8_GROUP);
    if (n > whole) dsv4_quant_fp8(out + whole, n - whole, n - whole);
}

static float sum_squares(const float *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return (float)sum;
}

static void normalize_bf16(float *q, int64_t n, float eps)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)round_one(q[i] * q[i]);
    float scale = dsv4_rows_inverse_bf16((float)sum, n, eps);
    for (int64_t i = 0; i < n; i++) q[i] = round_one(q[i] * scale);
}

static const dsv4_rows_kernels reference = {.round = dsv4_quant_bf16,
                                            .to_bf16 = to_bf16,
                                            .quantize_fp8 = quantize_fp8,
                                            .quantize_fp4 = dsv4_quant_fp4,
                                            .hadamard = dsv4_quant_hadamard,
                                            .sum_squares = sum_squares,
                                            .normalize = dsv4_norm_rms,
                                            .normalize_bf16 = normalize_bf16,
                                            .collapse = dsv4_hyper_collapse,
                                            .expand = dsv4_hyper_expand,
                                            .pool = dsv4_compress_pool,
                                            .swiglu = dsv4_gate_swiglu};

const dsv4_rows_kernels *dsv4_rows_kernels_of(int32_t level)
{
    switch (level) {
    case 0: return &reference;
    case DSV4_CPU_LEVEL_V2: return &dsv4_rows_v2;
    case DSV4_CPU_LEVEL_AVX2: return &dsv4_rows_avx2;
    default: return &dsv4_rows_avx512;
    }
}
