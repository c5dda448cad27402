/*
 * compress.h - one compressed key from the raw rows of its group (specification 3.6).
 *
 * Place: ref. A raw row holds K and G (the gate with its position bias `ape` already added) of one token,
 * [2, n_halves * dim] f32: K then G; n_halves is 2 for ratio 4, 1 for ratio 128.
 */
#ifndef DSV4_REF_COMPRESS_H
#define DSV4_REF_COMPRESS_H

#include <stdint.h>

/*
 * Ratio 128: softmax pooling of rows[0 .. 127], per channel. rows [128] pointers to [2, dim].
 * Ratio 4: rows [8] pointers to [2, 2 * dim]: slots 0..3 are the previous group's tokens and use the
 * first half of the channels, slots 4..7 the current group's, using the second half; pointers 0..3 are
 * NULL for the first group.
 *   pooled [dim] f32
 */
void dsv4_compress_pool(const float *const *rows, int ratio, int64_t dim, float *pooled);

/*
 * pooled -> key, in place: (round to bf16,) RMSNorm with weight [dim] bf16, (round,) rotation of the
 * last 64 values by `table`, which must be that of the group's FIRST token, (round).
 */
void dsv4_compress_finish(float *pooled, int64_t dim, const uint16_t *norm_weight, float norm_eps,
                          const float *table, int round);

#endif
