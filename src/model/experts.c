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

/* ---- several experts at once ---- */

enum { MOST_EXPERTS = 16 };

/* One expert and the rows of the step's expert buffers that it computes. */
typedef struct expert_rows {
    const dsv4_expert *expert;
    const float *in; /* [n_rows, hidden] quantized */
    float *out;      /* [n_rows, hidden] */
    int64_t first_row, n_rows;
} expert_rows;

/* Experts that are computed together: threads need not wait for each other between them. */
typedef struct expert_round {
    const dsv4_step *step;
    expert_rows experts[MOST_EXPERTS];
    int64_t n_experts, n_rows;
} expert_round;

static void activate_row(void *shared, int64_t row, int32_t worker)
{
    (void)worker;
    const dsv4_step *step = ((const expert_round *)shared)->step;
    int64_t width = step->config->expert_dim;
    float *inner = step->expert_gate + row * width;
    step->rows->swiglu(inner, step->expert_up + row * width, width, step->config->swiglu_limit,
                       step->expert_weights[row], step->round, inner);
    dsv4_step_quantize(step, inner, width, inner);
}

/* An expert's rows x times one of its matrices. */
static dsv4_linear_product product_of(const expert_rows *use, const dsv4_linear *linear,
                                      const float *x, float *y)
{
    return (dsv4_linear_product){.linear = linear,
                                 .x = x,
                                 .y = y,
                                 .x_stride = linear->n_in,
                                 .y_stride = linear->n_out,
                                 .n_rows = use->n_rows};
}

/* in -> out of all experts of the round, which is empty then. */
static void run_round(expert_round *round)
{
    const dsv4_step *step = round->step;
    int64_t hidden = step->config->hidden_size, width = step->config->expert_dim;
    dsv4_linear_product products[2 * MOST_EXPERTS];
    for (int64_t i = 0; i < round->n_experts; i++) {
        const expert_rows *use = &round->experts[i];
        int64_t at = use->first_row * width;
        products[2 * i] = product_of(use, &use->expert->w1, use->in, step->expert_gate + at);
        products[2 * i + 1] = product_of(use, &use->expert->w3, use->in, step->expert_up + at);
    }
    dsv4_step_linears(step, products, 2 * round->n_experts);
    dsv4_step_spread(step, round->n_rows, width, activate_row, round);
    for (int64_t i = 0; i < round->n_experts; i++) {
        const expert_rows *use = &round->experts[i];
        products[i] =
            product_of(use, &use->expert->w2, step->expert_gate + use->first_row * width, use->out);
    }
    dsv4_step_linears(step, products, round->n_experts);
    for (int64_t i = 0; i < round->n_experts; i++) {
        dsv4_step_round(step, round->experts[i].out, round->experts[i].n_rows * hidden);
    }
    round->n_experts = round->n_rows = 0;
}

static void add_expert(expert_round *round, const dsv4_expert *expert, const float *in, float *out,
                       int64_t n_rows)
{
    round->experts[round->n_experts++] = (expert_rows){expert, in, out, round->n_rows, n_rows};
    round->n_rows += n_rows;
}

/* Copies what each token of a round's routed experts put out to the place of its choice. */
static void scatter_outputs(const dsv4_step *step, const int32_t *choices, int64_t n_rows)
{
    int64_t hidden = step->config->hidden_size;
    for (int64_t row = 0; row < n_rows; row++) {
        memcpy(step->routed_out + choices[row] * hidden, step->expert_out + row * hidden,
               (size_t)hidden * sizeof(float));
    }
}

static void run_experts(const dsv4_step *step, const dsv4_layer *layer)
{
    int64_t hidden = step->config->hidden_size, n_active = step->config->n_active_experts;
    const int64_t *begin = step->routed_begin;
    expert_round round = {.step = step};
    int64_t done = 0; /* choices that rounds before this one computed */
    for (int64_t e = 0; e < step->config->n_experts; e++) {
        int64_t n_rows = begin[e + 1] - begin[e];
        if (n_rows == 0) continue;
        if (round.n_experts == MOST_EXPERTS || round.n_rows + n_rows > step->n_expert_rows) {
            int64_t n_done = round.n_rows;
            run_round(&round);
            scatter_outputs(step, step->routed + done, n_done);
            done += n_done;
        }
        for (int64_t row = 0; row < n_rows; row++) {
            int32_t choice = step->routed[begin[e] + row];
            memcpy(step->expert_in + (round.n_rows + row) * hidden,
                   step->x_quantized + choice / n_active * hidden, (size_t)hidden * sizeof(float));
            step->expert_weights[round.n_rows + row] = step->chosen_weights[choice];
        }
        add_expert(&round, &layer->experts[e], step->expert_in + round.n_rows * hidden,
                   step->expert_out + round.n_rows * hidden, n_rows);
    }
    int64_t n_routed = round.n_rows;
    if (round.n_experts == MOST_EXPERTS || n_routed + step->n_tokens > step->n_expert_rows) {
        run_round(&round);
    }
    for (int64_t t = 0; t < step->n_tokens; t++) step->expert_weights[round.n_rows + t] = 1.0f;
    add_expert(&round, &layer->shared, step->x_quantized, step->shared_out, step->n_tokens);
    run_round(&round);
    scatter_outputs(step, step->routed + done, n_routed);
}

static void add_outputs(const dsv4_step *step, const dsv4_layer *layer,
                        const dsv4_layer_cache *cache, int64_t token, int32_t worker)
{
    (void)layer, (void)cache, (void)worker;
    int64_t hidden = step->config->hidden_size, n_active = step->config->n_active_experts;
    const float *shared = step->shared_out + token * hidden;
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
    run_experts(step, layer);
    dsv4_step_each(step, layer, NULL, add_outputs);
}
