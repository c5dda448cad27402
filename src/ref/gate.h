/*
 * gate.h - routing of a token to experts (specification 5.1) and the experts' activation (5.2).
 *
 * Place: ref.
 */
#ifndef DSV4_REF_GATE_H
#define DSV4_REF_GATE_H

#include <stdint.h>

#define DSV4_GATE_MAX_ACTIVE 32

/*
 * logits [n_experts] f32 -> scores in place: sqrt(softplus(z)), softplus(z) = z past 20.
 */
void dsv4_gate_scores(float *logits, int64_t n_experts);

/*
 * Score routing: the n_active experts with the largest scores[e] + bias[e], best first; ties go to the
 * smaller expert. The bias chooses, it does not weigh.
 */
void dsv4_gate_choose(const float *scores, const float *bias, int64_t n_experts, int64_t n_active,
                      int32_t *experts);

/* weights[i] = scores[experts[i]] / sum of those * routed_scale. */
void dsv4_gate_weigh(const float *scores, const int32_t *experts, int64_t n_active,
                     float routed_scale, float *weights);

/*
 * hidden [n] = silu(min(gate, limit)) * clamp(up, -limit, limit) * weight; round: gate and up are
 * rounded to bf16 first, hidden last. limit <= 0: no clamp.
 */
void dsv4_gate_swiglu(const float *gate, const float *up, int64_t n, float limit, float weight,
                      int round, float *hidden);

#endif
