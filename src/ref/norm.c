/*
 * norm.c - RMS normalization (specification 2.4): y = w * (x * rsqrt(mean(x^2) + eps)).
 *
 * Place: ref. f32 throughout; the sum of squares is a dot product in the order of dot.h.
 */
#include "ref/norm.h"

#include <math.h>
#include <stddef.h>

#include "num/bf16.h"
#include "ref/dot.h"

void dsv4_norm_rms(const float *x, const uint16_t *weight, int64_t n, float eps, float *y)
{
    float inverse = 1.0f / sqrtf(dsv4_dot_f32(x, x, n) / (float)n + eps);
    for (int64_t i = 0; i < n; i++) {
        float scaled = x[i] * inverse;
        y[i] = weight == NULL ? scaled : dsv4_bf16_to_f32(weight[i]) * scaled;
    }
}
