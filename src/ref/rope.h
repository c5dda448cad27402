/*
 * rope.h - rotary position embedding of adjacent pairs, with YaRN frequencies (specification 3.1).
 *
 * Place: ref.
 */
#ifndef DSV4_REF_ROPE_H
#define DSV4_REF_ROPE_H

#include <stdint.h>

/*
 * The 32 frequencies of a layer. original_positions == 0 means no YaRN: f_i = theta^(-2i/64).
 *   frequencies [32] f32
 */
void dsv4_rope_frequencies(double theta, double factor, int64_t original_positions,
                           double beta_fast, double beta_slow, float *frequencies);

/* table [64] f32: 32 cosines and 32 sines of position * f_i, the angle being an f32 product. */
void dsv4_rope_table(const float *frequencies, int64_t position, float *table);

/* Turns the 64 values (32 adjacent pairs) forward by a table's angles; backward when inverse. */
void dsv4_rope_turn(float *values, const float *table, int inverse);

#endif
