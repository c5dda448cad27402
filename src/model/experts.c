/*
 * experts.c - the mixture-of-experts sublayer (specification 5.1, 5.2).
 *
 * Place: model. Choices are sorted by expert so that an expert's matrices are read once for all tokens
 * that chose it; a token then adds its experts' outputs in the order of its own choices, so the sum does
 * not depend on the batch.
 */
#include <string.h>

#include "ref/gate.h"
#include "step.h"

static void route_token(const dsv4_step *step, const dsv4_layer *layer,
                        const dsv4_layer_cache *cache, int64_t token, int32_t worker)
{
    (void)cache, (void)worker;
    const dsv4_config *config = step->config;
    int64_t n_active = config->n_active_experts;
    float *scores = step->gate + token * config->n_experts;
    int32_t *chosen = step->chosen + token * n_active;
    dsv4_gate_scores(scores, config->n_experts);
    if (layer->hash_table != NULL) {
        int64_t row = step->tokens[token] * n_active;
        for (int64_t i = 0; i < n_active; i++) {
            chosen[i] = (int32_t)dsv4_layer_hash_entry(layer, row + i);
        }
    } else {
        dsv4_gate_choose(scores, layer->gate_bias, config->n_experts, n_active, chosen);
    }
    dsv4_gate_weigh(scores, chosen, n_active, config->routed_scale,
                    step->chosen_weights + token * n_active);
}

/* Counting sort of all choices by expert; stable, so an expert's tokens stay in order. */
static void sort_choices(const dsv4_step *step)
{
    int64_t n_choices = step->n_tokens * step->config->n_active_experts;
    int64_t n_experts = step->config->n_experts;
    int64_t *begin = step->routed_begin;
    memset(begin, 0, (size_t)(n_experts + 1) * sizeof *begin);
    for (int64_t i = 0; i < n_choices; i++) begin[step->chosen[i] + 1]++;
    for (int64_t e = 0; e < n_experts; e++) begin[e + 1] += begin[e];
    for (int64_t i = 0; i < n_choices; i++) step->routed[begin[step->chosen[i]]++] = (int32_t)i;
    for (int64_t e = n_experts; e > 0; e--) begin[e] = begin[e - 1];
    begin[0] = 0;
}

/* What the rows of one expert share. */
typedef struct activation {
    const dsv4_step *step;
    const float *weights; /* [n_rows] or NULL for ones */
} activation;

static void activate_row(void *shared, int64_t row, int32_t worker)
{
    (void)worker;
    const activation *use = shared;
    const dsv4_step *step = use->step;
    const float *weights = use->weights;
    int64_t width = step->config->expert_dim;
    float *inner = step->expert_gate + row * width;
    step->rows->swiglu(inner, step->expert_up + row * width, width, step->config->swiglu_limit,
                       weights == NULL ? 1.0f : weights[row], step->round, inner);
    dsv4_step_quantize(step, inner, width, inner);
}

/* in [n_rows, hidden] (quantized) -> out [n_rows, hidden]; weights per row, or NULL for ones. */
static void run_expert(const dsv4_step *step, const dsv4_expert *expert, const float *in,
                       const float *weights, int64_t n_rows, float *out)
{
    int64_t hidden = step->config->hidden_size, width = step->config->expert_dim;
    int is_bf16 = step->round;
    dsv4_linear_cpu(step->compute, &expert->w1, in, hidden, n_rows, is_bf16, step->expert_gate,
                    width);
    dsv4_linear_cpu(step->compute, &expert->w3, in, hidden, n_rows, is_bf16, step->expert_up,
                    width);
    activation use = {step, weights};
    dsv4_step_spread(step, n_rows, width, activate_row, &use);
    dsv4_linear_cpu(step->compute, &expert->w2, step->expert_gate, width, n_rows, is_bf16, out,
                    hidden);
    dsv4_step_round(step, out, n_rows * hidden);
}

static void run_routed(const dsv4_step *step, const dsv4_layer *layer)
{
    int64_t hidden = step->config->hidden_size, n_active = step->config->n_active_experts;
    size_t row_bytes = (size_t)hidden * sizeof(float);
    for (int64_t e = 0; e < step->config->n_experts; e++) {
        const int32_t *choices = step->routed + step->routed_begin[e];
        int64_t n_rows = step->routed_begin[e + 1] - step->routed_begin[e];
        if (n_rows == 0) continue;
        for (int64_t row = 0; row < n_rows; row++) {
            memcpy(step->expert_in + row * hidden,
                   step->x_quantized + choices[row] / n_active * hidden, row_bytes);
            step->expert_weights[row] = step->chosen_weights[choices[row]];
        }
        run_expert(step, &layer->experts[e], step->expert_in, step->expert_weights, n_rows,
                   step->expert_out);
        for (int64_t row = 0; row < n_rows; row++) {
            memcpy(step->routed_out + choices[row] * hidden, step->expert_out + row * hidden,
                   row_bytes);
        }
    }
}

static void add_outputs(const dsv4_step *step, const dsv4_layer *layer,
                        const dsv4_layer_cache *cache, int64_t token, int32_t worker)
{
    (void)layer, (void)cache, (void)worker;
    int64_t hidden = step->config->hidden_size, n_active = step->config->n_active_experts;
    const float *shared = step->expert_out + token * hidden;
    float *out = step->sublayer + token * hidden;
    memset(out, 0, (size_t)hidden * sizeof *out);
    for (int64_t i = 0; i < n_active; i++) {
        const float *routed = step->routed_out + (token * n_active + i) * hidden;
        for (int64_t d = 0; d < hidden; d++) out[d] += routed[d];
    }
    for (int64_t d = 0; d < hidden; d++) out[d] += shared[d];
    dsv4_step_round(step, out, hidden);
}

void dsv4_step_experts(const dsv4_step *step, const dsv4_layer *layer)
{
    dsv4_step_linear(step, &layer->gate, step->x, step->gate);
    dsv4_step_each(step, layer, NULL, route_token);
    sort_choices(step);
    run_routed(step, layer);
    run_expert(step, &layer->shared, step->x_quantized, NULL, step->n_tokens, step->expert_out);
    dsv4_step_each(step, layer, NULL, add_outputs);
}
