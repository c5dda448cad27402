/*
 * norm.h - RMS normalization (specification 2.4).
 *
 * Place: ref. y = w * (x * rsqrt(mean(x^2) + eps)), f32.
 */
#ifndef DSV4_REF_NORM_H
#define DSV4_REF_NORM_H

#include <stdint.h>

/* x [n] f32, weight [n] bf16 or NULL for ones, y [n] f32 (may be x). */
void dsv4_norm_rms(const float *x, const uint16_t *weight, int64_t n, float eps, float *y);

#endif
