/*
 * quant.c - quantize-then-dequantize and the Hadamard transform (specification 3.7, 3.8).
 *
 * Place: ref. Per group: amax = max |x|, raised to a floor; scale = 2^ceil(log2(amax / max_code));
 * x becomes round(clamp(x / scale, +-max_code)) * scale, round being to nearest, ties to even. As
 * in the cache record, a NaN does not count in amax; it stays NaN in FP8, and becomes +-6 times the
 * scale by its sign bit in FP4, which lacks NaN.
 */
#include "ref/quant.h"

#include <math.h>

#include "num/bf16.h"
#include "num/e2m1.h"
#include "num/e4m3.h"
#include "num/ue8m0.h"

enum { FP4_GROUP_DIM = 32, HADAMARD_DIM = 128 };

#define FP8_AMAX_FLOOR 1e-4f
#define FP4_AMAX_FLOOR (6.0f * 0x1p-126f)
#define HADAMARD_SCALE 0.08838834764831845f /* 128^-0.5 */

void dsv4_quant_bf16(float *values, int64_t n)
{
    for (int64_t i = 0; i < n; i++) values[i] = dsv4_bf16_to_f32(dsv4_bf16_from_f32(values[i]));
}

static uint8_t group_scale(const float *values, int64_t n, float max_code, float floor)
{
    float amax = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        float magnitude = fabsf(values[i]);
        if (magnitude > amax) amax = magnitude; /* never true for NaN */
    }
    return dsv4_ue8m0_group_scale(amax, max_code, floor);
}

/* In double: 1 / scale is normal for every scale. The clamp is in the rounding of either format. */
static float divide(float value, float scale)
{
    return (float)((double)value / (double)scale);
}

void dsv4_quant_fp8_codes(const float *values, int64_t n, int64_t group_dim, uint8_t *codes,
                          uint8_t *scales)
{
    for (int64_t begin = 0; begin < n; begin += group_dim) {
        const float *group = values + begin;
        uint8_t code = group_scale(group, group_dim, DSV4_E4M3_MAX, FP8_AMAX_FLOOR);
        float scale = dsv4_ue8m0_to_f32(code);
        for (int64_t i = 0; i < group_dim; i++) {
            codes[begin + i] = dsv4_e4m3_from_f32(divide(group[i], scale));
        }
        scales[begin / group_dim] = code;
    }
}

void dsv4_quant_fp8(float *values, int64_t n, int64_t group_dim)
{
    for (int64_t begin = 0; begin < n; begin += group_dim) {
        float *group = values + begin;
        uint8_t code = group_scale(group, group_dim, DSV4_E4M3_MAX, FP8_AMAX_FLOOR);
        float scale = dsv4_ue8m0_to_f32(code);
        for (int64_t i = 0; i < group_dim; i++) {
            group[i] = dsv4_e4m3_to_f32(dsv4_e4m3_from_f32(divide(group[i], scale))) * scale;
        }
    }
}

void dsv4_quant_fp4(float *values, int64_t n)
{
    for (int64_t begin = 0; begin < n; begin += FP4_GROUP_DIM) {
        float *group = values + begin;
        uint8_t code = group_scale(group, FP4_GROUP_DIM, DSV4_E2M1_MAX, FP4_AMAX_FLOOR);
        float scale = dsv4_ue8m0_to_f32(code);
        for (int64_t i = 0; i < FP4_GROUP_DIM; i++) {
            group[i] = dsv4_e2m1_to_f32(dsv4_e2m1_from_f32(divide(group[i], scale))) * scale;
        }
    }
}

/*
 * y[a] = 128^-0.5 sum_b (-1)^popcount(a & b) x[b]: one pass per bit of the index, from the lowest,
 * each replacing pairs whose indices differ in that bit by their sum and difference; the scale
 * comes last.
 */
void dsv4_quant_hadamard(float values[128])
{
    for (int bit = 1; bit < HADAMARD_DIM; bit *= 2) {
        for (int i = 0; i < HADAMARD_DIM; i++) {
            if ((i & bit) != 0) continue;
            float low = values[i], high = values[i + bit];
            values[i] = low + high;
            values[i + bit] = low - high;
        }
    }
    for (int i = 0; i < HADAMARD_DIM; i++) values[i] *= HADAMARD_SCALE;
}
