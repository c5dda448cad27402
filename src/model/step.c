/*
 * step.c - memory of a step, and the helpers that layer code shares.
 *
 * Place: model, private.
 */
#include "step.h"

#include <string.h>

#include "base/checked.h"
#include "step_memory.h"

enum {
    ALIGN_BYTES = 64,
    SPREAD_VALUES = 32768, /* some 10 us of one thread, several times what waking others costs */
    ROUND_VALUES = 16384,  /* per task */
    FEW_EXPERT_ROWS = 64   /* of experts that a few tokens chose: computed together */
};

void dsv4_step_linear(const dsv4_step *step, const dsv4_linear *linear, const float *x, float *y)
{
    dsv4_linear_product product = dsv4_step_product(step, linear, x, y);
    dsv4_step_linears(step, &product, 1);
}

dsv4_linear_product dsv4_step_product(const dsv4_step *step, const dsv4_linear *linear,
                                      const float *x, float *y)
{
    return (dsv4_linear_product){.linear = linear,
                                 .x = x,
                                 .y = y,
                                 .x_stride = linear->n_in,
                                 .y_stride = linear->n_out,
                                 .n_rows = step->n_tokens};
}

void dsv4_step_linears(const dsv4_step *step, const dsv4_linear_product *products,
                       int64_t n_products)
{
    dsv4_linear_cpu_all(step->compute, products, n_products, step->round != 0);
}

void dsv4_step_spread(const dsv4_step *step, int64_t n_rows, int64_t row_len,
                      dsv4_parallel_body *body, void *context)
{
    bool is_large = n_rows > SPREAD_VALUES / row_len;
    dsv4_parallel_for(is_large ? step->compute->n_threads : 1, n_rows, body, context);
}

typedef struct round_context {
    const dsv4_step *step;
    float *values;
    int64_t n;
} round_context;

static void round_part(void *shared, int64_t part, int32_t worker)
{
    (void)worker;
    const round_context *context = shared;
    int64_t begin = part * ROUND_VALUES, n_left = context->n - begin;
    context->step->rows->round(context->values + begin,
                               n_left < ROUND_VALUES ? n_left : ROUND_VALUES);
}

void dsv4_step_round(const dsv4_step *step, float *values, int64_t n)
{
    if (!step->round) return;
    round_context context = {step, values, n};
    if (n <= ROUND_VALUES) {
        step->rows->round(values, n);
        return;
    }
    dsv4_step_spread(step, (n + ROUND_VALUES - 1) / ROUND_VALUES, ROUND_VALUES, round_part,
                     &context);
}

void dsv4_step_quantize(const dsv4_step *step, const float *x, int64_t n, float *quantized)
{
    if (step->round) {
        step->rows->quantize_fp8(x, n, quantized);
    } else if (quantized != x) {
        memcpy(quantized, x, (size_t)n * sizeof *x);
    }
}

typedef struct each_context {
    const dsv4_step *step;
    const dsv4_layer *layer;
    const dsv4_layer_cache *cache;
    dsv4_token_body *body;
} each_context;

static void run_token(void *shared, int64_t token, int32_t worker)
{
    const each_context *context = shared;
    context->body(context->step, context->layer, context->cache, token, worker);
}

void dsv4_step_each(const dsv4_step *step, const dsv4_layer *layer, const dsv4_layer_cache *cache,
                    dsv4_token_body *body)
{
    each_context context = {step, layer, cache, body};
    dsv4_parallel_for(step->compute->n_threads, step->n_tokens, run_token, &context);
}

/* ---- memory ---- */

/* Hands out pieces of `base`, or, when it is NULL, only counts. */
typedef struct carver {
    unsigned char *base;
    size_t at;
    bool overflow;
} carver;

static void *carve(carver *from, int64_t count, size_t element_bytes)
{
    size_t len_bytes = 0, end = 0;
    if (!dsv4_checked_mul((size_t)count, element_bytes, &len_bytes) ||
        !dsv4_checked_add(from->at, len_bytes, &end) ||
        !dsv4_checked_add(end, ALIGN_BYTES - 1, &end)) {
        from->overflow = true;
        return NULL;
    }
    void *piece = from->base == NULL ? NULL : from->base + from->at;
    from->at = end / ALIGN_BYTES * ALIGN_BYTES;
    return piece;
}

static float *carve_floats(carver *from, int64_t rows, int64_t columns)
{
    int64_t count = 0;
    if (!dsv4_checked_mul_i64(rows, columns, &count)) from->overflow = true;
    return carve(from, count, sizeof(float));
}

static void place_streams(dsv4_step *step, carver *from)
{
    int64_t n = step->n_tokens, hidden = step->config->hidden_size;
    step->streams = carve_floats(from, n, DSV4_N_STREAMS * hidden);
    step->mtp_streams = carve_floats(from, n, DSV4_N_STREAMS * hidden);
    step->mixes = carve(from, n, sizeof *step->mixes);
    step->projected = carve_floats(from, n, 24);
    step->x = carve_floats(from, n, hidden);
    step->x_quantized = carve_floats(from, n, hidden);
    step->sublayer = carve_floats(from, n, hidden);
    step->head_in = carve_floats(from, n, hidden);
    step->head_rows = carve(from, n, sizeof *step->head_rows);
    step->mtp_tokens = carve(from, n, sizeof *step->mtp_tokens);
    step->mtp_sequences = carve(from, n, sizeof *step->mtp_sequences);
    step->mtp_source = carve(from, n, sizeof *step->mtp_source);
    step->mtp_positions = carve(from, n, sizeof *step->mtp_positions);
}

static void place_attention(dsv4_step *step, carver *from)
{
    const dsv4_config *config = step->config;
    int64_t n = step->n_tokens, n_threads = step->compute->n_threads;
    int64_t q_width = config->n_heads * DSV4_HEAD_DIM;
    step->plain_tables = carve_floats(from, n, DSV4_ROPE_DIM);
    step->compressed_tables = carve_floats(from, n, DSV4_ROPE_DIM);
    step->q_low = carve_floats(from, n, config->q_lora_rank);
    step->q_low_quantized = carve_floats(from, n, config->q_lora_rank);
    step->q = carve_floats(from, n, q_width);
    step->q_bf16 = carve(from, n * q_width, sizeof *step->q_bf16);
    step->attended = carve_floats(from, n, q_width);
    step->o_low = carve_floats(from, n, config->n_o_groups * config->o_lora_rank);
    step->kv = carve_floats(from, n, DSV4_HEAD_DIM);
    step->raw_k = carve_floats(from, n, 2 * DSV4_HEAD_DIM);
    step->raw_g = carve_floats(from, n, 2 * DSV4_HEAD_DIM);
    step->index_raw_k = carve_floats(from, n, 2 * DSV4_INDEX_DIM);
    step->index_raw_g = carve_floats(from, n, 2 * DSV4_INDEX_DIM);
    step->index_q = carve_floats(from, n, config->n_index_heads * DSV4_INDEX_DIM);
    step->index_weights = carve_floats(from, n, config->n_index_heads);
    step->index_scores = carve_floats(from, n_threads, step->max_visible);
    step->index_scratch = carve(from, n_threads * step->max_visible, sizeof(int32_t));
    step->index_chosen = carve(from, n_threads * config->index_topk, sizeof(int32_t));
    step->window_list = carve(from, n * DSV4_WINDOW, sizeof(int32_t));
    step->c4_list = carve(from, n * step->c4_stride, sizeof(int32_t));
    step->c128_list = carve(from, n * step->c128_stride, sizeof(int32_t));
    step->c4_lens = carve(from, n, sizeof(int32_t));
    step->c128_lens = carve(from, n, sizeof(int32_t));
    for (int i = 0; i < DSV4_STEP_N_PLANS; i++) step->plans[i] = carve(from, 1, step->plan_bytes);
    step->attn_workspace = carve(from, 1, step->attn_workspace_bytes);
}

static void place_experts(dsv4_step *step, carver *from)
{
    const dsv4_config *config = step->config;
    int64_t n = step->n_tokens, n_choices = n * config->n_active_experts;
    step->gate = carve_floats(from, n, config->n_experts);
    step->chosen = carve(from, n_choices, sizeof(int32_t));
    step->chosen_weights = carve_floats(from, n, config->n_active_experts);
    step->routed = carve(from, n_choices, sizeof(int32_t));
    step->routed_begin = carve(from, config->n_experts + 1, sizeof(int64_t));
    int64_t n_rows = n + (n_choices < FEW_EXPERT_ROWS ? n_choices : FEW_EXPERT_ROWS);
    step->n_expert_rows = n_rows;
    step->expert_in = carve_floats(from, n_rows, config->hidden_size);
    step->expert_weights = carve_floats(from, n_rows, 1);
    step->expert_gate = carve_floats(from, n_rows, config->expert_dim);
    step->expert_up = carve_floats(from, n_rows, config->expert_dim);
    step->expert_out = carve_floats(from, n_rows, config->hidden_size);
    step->shared_out = carve_floats(from, n, config->hidden_size);
    step->routed_out = carve_floats(from, n_choices, config->hidden_size);
}

bool dsv4_step_place(dsv4_step *step, unsigned char *memory, size_t *len_bytes)
{
    carver from = {.base = memory};
    place_streams(step, &from);
    place_attention(step, &from);
    place_experts(step, &from);
    *len_bytes = from.at;
    return !from.overflow;
}
