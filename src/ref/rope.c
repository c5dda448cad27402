/*
 * rope.c - rotary position embedding (specification 3.1).
 *
 * Place: ref. (e, o) -> (e cos - o sin, o cos + e sin) with the angle t f_i; the inverse turns by
 * minus the angle. There is no magnitude factor. Frequencies are rounded to f32 at the steps where
 * the model's own code rounds (power, reciprocal, ramp, blend): at positions near 2^20 a last-bit
 * difference in a frequency is a visible angle, and the network was trained with those roundings.
 */
#include "ref/rope.h"

#include <math.h>

enum { ROPE_DIM = 64, N_PAIRS = ROPE_DIM / 2 };

#define TWO_PI 6.283185307179586

/* The (fractional) pair index whose wave turns n_turns times over the original positions. */
static double pair_of_turns(double n_turns, double theta, double original_positions)
{
    return ROPE_DIM * log(original_positions / (n_turns * TWO_PI)) / (2.0 * log(theta));
}

void dsv4_rope_frequencies(double theta, double factor, int64_t original_positions,
                           double beta_fast, double beta_slow, float *frequencies)
{
    for (int i = 0; i < N_PAIRS; i++) {
        frequencies[i] = 1.0f / (float)pow(theta, 2.0 * i / ROPE_DIM);
    }
    if (original_positions == 0) return;

    double low = floor(pair_of_turns(beta_fast, theta, (double)original_positions));
    double high = ceil(pair_of_turns(beta_slow, theta, (double)original_positions));
    low = fmax(low, 0.0);
    high = fmin(high, ROPE_DIM - 1);
    if (low == high) high += 0.001; /* a step instead of a division by zero */
    for (int i = 0; i < N_PAIRS; i++) {
        float ramp = ((float)i - (float)low) / (float)(high - low);
        ramp = fminf(fmaxf(ramp, 0.0f), 1.0f);
        float keep = 1.0f - ramp;
        frequencies[i] = frequencies[i] / (float)factor * (1.0f - keep) + frequencies[i] * keep;
    }
}

void dsv4_rope_table(const float *frequencies, int64_t position, float *table)
{
    for (int i = 0; i < N_PAIRS; i++) {
        float angle = (float)position * frequencies[i];
        table[i] = (float)cos((double)angle);
        table[N_PAIRS + i] = (float)sin((double)angle);
    }
}

void dsv4_rope_turn(float *values, const float *table, int inverse)
{
    for (int i = 0; i < N_PAIRS; i++) {
        float even = values[2 * i], odd = values[2 * i + 1];
        float cosine = table[i];
        float sine = inverse ? -table[N_PAIRS + i] : table[N_PAIRS + i];
        values[2 * i] = even * cosine - odd * sine;
        values[2 * i + 1] = odd * cosine + even * sine;
    }
}
