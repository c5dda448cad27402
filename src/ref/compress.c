/*
 * compress.c - pooling of a group's raw rows into one key (specification 3.6).
 *
 * Place: ref. Per channel: p_s = softmax over slots s of G_s, v = sum_s p_s K_s, then RMSNorm and
 * rotation. f32; maxima and sums run over slots in ascending order. A NULL row stands for K = 0 and
 * G = -infinity: it has weight 0 and is left out. What follows (fakequant, Hadamard) is in quant.h.
 */
#include "ref/compress.h"

#include <math.h>
#include <stddef.h>

#include "ref/norm.h"
#include "ref/quant.h"
#include "ref/rope.h"

enum { ROPE_DIM = 64, OVERLAP_RATIO = 4, MAX_SLOTS = 128 };

void dsv4_compress_pool(const float *const *rows, int ratio, int64_t dim, float *pooled)
{
    int n_halves = ratio == OVERLAP_RATIO ? 2 : 1;
    int n_slots = n_halves * ratio;
    int64_t gate_offset = n_halves * dim; /* from a K to its G */

    for (int64_t channel = 0; channel < dim; channel++) {
        float max = -INFINITY;
        for (int slot = 0; slot < n_slots; slot++) {
            if (rows[slot] == NULL) continue;
            float gate = rows[slot][gate_offset + slot / ratio * dim + channel];
            if (gate > max) max = gate;
        }
        float weights[MAX_SLOTS], total = 0.0f, sum = 0.0f;
        for (int slot = 0; slot < n_slots; slot++) {
            if (rows[slot] == NULL) continue;
            const float *key = rows[slot] + slot / ratio * dim + channel;
            weights[slot] = expf(key[gate_offset] - max);
            total += weights[slot];
        }
        for (int slot = 0; slot < n_slots; slot++) {
            if (rows[slot] == NULL) continue;
            sum += weights[slot] / total * rows[slot][slot / ratio * dim + channel];
        }
        pooled[channel] = sum;
    }
}

void dsv4_compress_finish(float *pooled, int64_t dim, const uint16_t *norm_weight, float norm_eps,
                          const float *table, int round)
{
    if (round) dsv4_quant_bf16(pooled, dim);
    dsv4_norm_rms(pooled, norm_weight, dim, norm_eps, pooled);
    if (round) dsv4_quant_bf16(pooled, dim);
    float *tail = pooled + dim - ROPE_DIM;
    dsv4_rope_turn(tail, table, 0);
    if (round) dsv4_quant_bf16(tail, ROPE_DIM);
}
