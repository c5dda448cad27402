/*
 * norm.c - RMS normalization (specification 2.4): y = w * (x * rsqrt(mean(x^2) + eps)).
 *
 * Place: ref. f32 but for the sum of squares, which is in f64: a unit in its last place would move the
 * whole row, and rows that lie on the edge of a rounding are many.
 */
#include "ref/norm.h"

#include <math.h>
#include <stddef.h>

#include "num/bf16.h"

void dsv4_norm_rms(const float *x, const uint16_t *weight, int64_t n, float eps, float *y)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    float inverse = 1.0f / sqrtf((float)sum / (float)n + eps);
    for (int64_t i = 0; i < n; i++) {
        float scaled = x[i] * inverse;
        y[i] = weight == NULL ? scaled : dsv4_bf16_to_f32(weight[i]) * scaled;
    }
}
