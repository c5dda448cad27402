/*
 * quant.h - the quantizers that the model was trained with, as quantize-then-dequantize (specification
 * 3.7, 3.8), and rounding to bf16.
 *
 * Place: ref. All in place on f32, unless they say otherwise. Scales are powers of two, so results are exact in f32 (and, for
 * normal exponents, in bf16).
 */
#ifndef DSV4_REF_QUANT_H
#define DSV4_REF_QUANT_H

#include <stdint.h>

/* Rounds n values to bf16. */
void dsv4_quant_bf16(float *values, int64_t n);

/* e4m3 with one scale per group_dim values; n is a multiple of group_dim (64 for keys, 128 for GEMMs). */
void dsv4_quant_fp8(float *values, int64_t n, int64_t group_dim);

/* The same, but values stay and codes [n] (e4m3) and scales [n / group_dim] (ue8m0) are written. */
void dsv4_quant_fp8_codes(const float *values, int64_t n, int64_t group_dim, uint8_t *codes,
                          uint8_t *scales);

/* e2m1 with one scale per 32 values. */
void dsv4_quant_fp4(float *values, int64_t n);

/* Orthonormal Walsh-Hadamard transform of 128 values (specification 3.7). */
void dsv4_quant_hadamard(float values[128]);

#endif
