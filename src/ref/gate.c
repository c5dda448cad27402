/*
 * gate.c - routing (specification 5.1) and the experts' activation (5.2).
 *
 * Place: ref. f32 through expf and log1pf; sums in the order of the list of experts.
 *   s = sqrt(softplus(z)), softplus(z) = ln(1 + e^z)
 *   w_i = s_i / sum s * routed_scale
 *   h = silu(g) u w, silu(g) = g / (1 + e^-g)
 * A NaN score is chosen last.
 */
#include "ref/gate.h"

#include <math.h>

#include "num/bf16.h"

#define SOFTPLUS_LINEAR 20.0f /* past it softplus(z) is taken as z */

void dsv4_gate_scores(float *logits, int64_t n_experts)
{
    for (int64_t e = 0; e < n_experts; e++) {
        float z = logits[e];
        logits[e] = sqrtf(z > SOFTPLUS_LINEAR ? z : log1pf(expf(z)));
    }
}

static int is_better(float a, float b)
{
    return a > b || (isnan(b) && !isnan(a));
}

/* Insertion into the list of the best so far; an equal newcomer stays behind. */
void dsv4_gate_choose(const float *scores, const float *bias, int64_t n_experts, int64_t n_active,
                      int32_t *experts)
{
    float best[DSV4_GATE_MAX_ACTIVE];
    int64_t n_best = 0;
    for (int64_t e = 0; e < n_experts; e++) {
        float choice = scores[e] + bias[e];
        int64_t place = n_best;
        while (place > 0 && is_better(choice, best[place - 1])) place--;
        if (place == n_active) continue;
        if (n_best < n_active) n_best++;
        for (int64_t i = n_best - 1; i > place; i--) {
            best[i] = best[i - 1];
            experts[i] = experts[i - 1];
        }
        best[place] = choice;
        experts[place] = (int32_t)e;
    }
}

void dsv4_gate_weigh(const float *scores, const int32_t *experts, int64_t n_active,
                     float routed_scale, float *weights)
{
    float sum = 0.0f;
    for (int64_t i = 0; i < n_active; i++) sum += scores[experts[i]];
    for (int64_t i = 0; i < n_active; i++) weights[i] = scores[experts[i]] / sum * routed_scale;
}

static float round_bf16(float value)
{
    return dsv4_bf16_to_f32(dsv4_bf16_from_f32(value));
}

void dsv4_gate_swiglu(const float *gate, const float *up, int64_t n, float limit, float weight,
                      int round, float *hidden)
{
    for (int64_t i = 0; i < n; i++) {
        float g = round ? round_bf16(gate[i]) : gate[i];
        float u = round ? round_bf16(up[i]) : up[i];
        if (limit > 0.0f) {
            if (g > limit) g = limit; /* from above only; NaN stays */
            if (u > limit) u = limit;
            if (u < -limit) u = -limit;
        }
        float h = g / (1.0f + expf(-g)) * u * weight;
        hidden[i] = round ? round_bf16(h) : h;
    }
}
