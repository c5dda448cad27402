/*
 * attention.c - the attention sublayer (specification 3.1 to 3.5).
 *
 * Place: model. Query path, window key, compressor, selection, the decode attention over both caches, and
 * the grouped output projection. Rounding follows DeepSeek's code where step->round is 1.
 */
#include "dsv4/attn.h"
#include "ref/rope.h"
#include "step.h"

enum { DIM = DSV4_HEAD_DIM, ROPE = DSV4_ROPE_DIM, NOPE = DIM - ROPE };

enum { MOST_GROUPS = 16 }; /* of the output projection, run together */

/* Normalizes a query head without weight; DeepSeek's code does it on bf16 tensors (3.2). */
static void normalize_head(const dsv4_step *step, float *q)
{
    if (step->round) {
        step->rows->normalize_bf16(q, DIM, step->config->norm_eps);
    } else {
        step->rows->normalize(q, NULL, DIM, step->config->norm_eps, q);
    }
}

static void finish_query(const dsv4_step *step, const dsv4_layer *layer,
                         const dsv4_layer_cache *cache, int64_t token, int32_t worker)
{
    (void)layer, (void)cache, (void)worker;
    int64_t n_heads = step->config->n_heads;
    for (int64_t h = 0; h < n_heads; h++) {
        float *q = step->q + (token * n_heads + h) * DIM;
        dsv4_step_round(step, q, DIM);
        normalize_head(step, q);
        dsv4_rope_turn(q + NOPE, step->tables + token * ROPE, 0);
        if (!step->round) continue;
        step->rows->to_bf16(q, DIM, step->q_bf16 + (token * n_heads + h) * DIM);
    }
}

static void finish_key(const dsv4_step *step, const dsv4_layer *layer,
                       const dsv4_layer_cache *cache, int64_t token, int32_t worker)
{
    (void)worker;
    const dsv4_batch *batch = step->batch;
    float *kv = step->kv + token * DIM;
    dsv4_step_round(step, kv, DIM);
    step->rows->normalize(kv, layer->kv_norm, DIM, step->config->norm_eps, kv);
    dsv4_step_round(step, kv, DIM);
    dsv4_rope_turn(kv + NOPE, step->tables + token * ROPE, 0);
    dsv4_step_round(step, kv + NOPE, ROPE);
    int32_t slot = dsv4_cache_slot(step->cache, &batch->views[batch->sequences[token]],
                                   DSV4_CACHE_WINDOW, batch->positions[token]);
    dsv4_cache_write_key(step->cache, &cache->window, DSV4_CACHE_WINDOW, slot, kv);
}

/* The result, as DeepSeek's code has it: rounded, turned back by the query's position, rounded. */
static void turn_back(const dsv4_step *step, const dsv4_layer *layer, const dsv4_layer_cache *cache,
                      int64_t token, int32_t worker)
{
    (void)layer, (void)cache, (void)worker;
    int64_t n_heads = step->config->n_heads;
    for (int64_t h = 0; h < n_heads; h++) {
        float *out = step->attended + (token * n_heads + h) * DIM;
        dsv4_step_round(step, out, DIM);
        dsv4_rope_turn(out + NOPE, step->tables + token * ROPE, 1);
        dsv4_step_round(step, out + NOPE, ROPE);
    }
}

static void set_scope(const dsv4_step *step, int kind, const int32_t *list, int64_t stride,
                      const int32_t *lens, dsv4_attn_scope *scope)
{
    const dsv4_cache *cache = step->cache;
    scope->row_format = step->round ? DSV4_ATTN_ROWS_FP8 : DSV4_ATTN_ROWS_F32;
    scope->n_pages = cache->n_pages[kind];
    scope->page_rows = cache->page_rows[kind];
    scope->indices = list;
    scope->n_indices = stride;
    scope->lengths = lens;
}

void dsv4_step_attn_params(const dsv4_step *step, int plan, dsv4_attn_params *params)
{
    dsv4_attn_params_default(params);
    params->n_requests = step->n_tokens;
    params->n_heads = step->config->n_heads;
    params->n_threads = step->compute->n_threads;
    params->backend = step->compute->cpu_level == 0 ? DSV4_BACKEND_REF : DSV4_BACKEND_CPU;
    params->cpu_level = step->compute->cpu_level;
    params->math = step->round ? DSV4_ATTN_MATH_OFFICIAL : DSV4_ATTN_MATH_EXACT;
    params->q_dtype = step->round ? DSV4_DTYPE_BF16 : DSV4_DTYPE_F32;
    params->q = step->round ? (const void *)step->q_bf16 : step->q;
    params->out_dtype = DSV4_DTYPE_F32;
    params->out = step->attended;
    set_scope(step, DSV4_CACHE_WINDOW, step->window_list, DSV4_WINDOW, NULL, &params->window);
    if (plan == DSV4_STEP_PLAN_C4) {
        set_scope(step, DSV4_CACHE_C4, step->c4_list, step->c4_stride, step->c4_lens,
                  &params->extra);
    } else if (plan == DSV4_STEP_PLAN_C128) {
        set_scope(step, DSV4_CACHE_C128, step->c128_list, step->c128_stride, step->c128_lens,
                  &params->extra);
    }
    dsv4_attn_params_set_dense(params);
}

static dsv4_status attend(const dsv4_step *step, const dsv4_layer *layer,
                          const dsv4_layer_cache *cache, dsv4_error *error)
{
    int plan = layer->ratio == 4     ? DSV4_STEP_PLAN_C4
               : layer->ratio == 128 ? DSV4_STEP_PLAN_C128
                                     : DSV4_STEP_PLAN_WINDOW;
    dsv4_attn_params params;
    dsv4_step_attn_params(step, plan, &params);
    params.sink = layer->sink;
    params.window.cache = cache->window.base;
    params.window.page_stride_bytes = cache->window.page_stride_bytes;
    params.extra.cache = cache->compressed.base;
    params.extra.page_stride_bytes = cache->compressed.page_stride_bytes;
    return dsv4_attn_decode(NULL, &params, step->plans[plan], step->plan_bytes,
                            step->attn_workspace, step->attn_workspace_bytes, error);
}

static void finish_output_low(const dsv4_step *step, const dsv4_layer *layer,
                              const dsv4_layer_cache *cache, int64_t token, int32_t worker)
{
    (void)layer, (void)cache, (void)worker;
    int64_t all_low = step->config->n_o_groups * step->config->o_lora_rank;
    float *o_low = step->o_low + token * all_low;
    dsv4_step_round(step, o_low, all_low);
    dsv4_step_quantize(step, o_low, all_low, o_low);
}

/* Heads in groups, each with its own low-rank projection, then one projection of all (3.5). */
static void project_output(const dsv4_step *step, const dsv4_layer *layer)
{
    const dsv4_config *config = step->config;
    int64_t group_in = config->n_heads * DIM / config->n_o_groups;
    int64_t low = config->o_lora_rank, all_low = config->n_o_groups * low;
    const unsigned char *weight = layer->wo_a.weight;
    int64_t scale_columns = (group_in + 127) / 128;
    for (int64_t first = 0; first < config->n_o_groups; first += MOST_GROUPS) {
        dsv4_linear groups[MOST_GROUPS];
        dsv4_linear_product products[MOST_GROUPS];
        int64_t n = 0;
        for (; n < MOST_GROUPS && first + n < config->n_o_groups; n++) {
            int64_t g = first + n;
            groups[n] = layer->wo_a;
            groups[n].n_out = low;
            groups[n].weight = weight + g * low * group_in;
            groups[n].scales = layer->wo_a.scales + g * low / 128 * scale_columns;
            products[n] = dsv4_step_product(step, &groups[n], step->attended + g * group_in,
                                            step->o_low + g * low);
            products[n].x_stride = config->n_heads * DIM;
            products[n].y_stride = all_low;
        }
        dsv4_step_linears(step, products, n);
    }
    dsv4_step_each(step, layer, NULL, finish_output_low);
    dsv4_step_linear(step, &layer->wo_b, step->o_low, step->sublayer);
    dsv4_step_round(step, step->sublayer, step->n_tokens * config->hidden_size);
}

static void finish_query_low(const dsv4_step *step, const dsv4_layer *layer,
                             const dsv4_layer_cache *cache, int64_t token, int32_t worker)
{
    (void)cache, (void)worker;
    int64_t low = step->config->q_lora_rank;
    float *q_low = step->q_low + token * low;
    dsv4_step_round(step, q_low, low);
    step->rows->normalize(q_low, layer->q_norm, low, step->config->norm_eps, q_low);
    dsv4_step_round(step, q_low, low);
    dsv4_step_quantize(step, q_low, low, step->q_low_quantized + token * low);
}

/* Everything that reads the sublayer's input: threads wait for each other once. */
static void project_input(const dsv4_step *step, const dsv4_layer *layer)
{
    const float *x = step->x;
    dsv4_linear_product products[7];
    int64_t n = 0;
    products[n++] = dsv4_step_product(step, &layer->wq_a, step->x_quantized, step->q_low);
    products[n++] = dsv4_step_product(step, &layer->wkv, step->x_quantized, step->kv);
    if (layer->ratio > 0) {
        const dsv4_compressor *compressor = &layer->compressor;
        products[n++] = dsv4_step_product(step, &compressor->wkv, x, step->raw_k);
        products[n++] = dsv4_step_product(step, &compressor->wgate, x, step->raw_g);
    }
    if (layer->ratio == 4) {
        const dsv4_compressor *compressor = &layer->index_compressor;
        products[n++] = dsv4_step_product(step, &compressor->wkv, x, step->index_raw_k);
        products[n++] = dsv4_step_product(step, &compressor->wgate, x, step->index_raw_g);
    }
    if (dsv4_step_chooses(step, layer)) {
        products[n++] = dsv4_step_product(step, &layer->index_weights, x, step->index_weights);
    }
    dsv4_step_linears(step, products, n);
}

static void project_query(const dsv4_step *step, const dsv4_layer *layer)
{
    dsv4_step_each(step, layer, NULL, finish_query_low);
    const float *q_low = step->q_low_quantized;
    dsv4_linear_product products[2] = {dsv4_step_product(step, &layer->wq_b, q_low, step->q)};
    bool chooses = dsv4_step_chooses(step, layer);
    if (chooses) products[1] = dsv4_step_product(step, &layer->index_wq_b, q_low, step->index_q);
    dsv4_step_linears(step, products, chooses ? 2 : 1);
}

dsv4_status dsv4_step_attention(const dsv4_step *step, const dsv4_layer *layer,
                                const dsv4_layer_cache *cache, dsv4_error *error)
{
    project_input(step, layer);
    project_query(step, layer);
    dsv4_step_each(step, layer, cache, finish_query);
    dsv4_step_each(step, layer, cache, finish_key);
    if (layer->ratio > 0) dsv4_step_compress(step, layer, cache);
    if (layer->ratio == 4) dsv4_step_select(step, layer, cache);
    dsv4_status status = attend(step, layer, cache, error);
    if (status != DSV4_OK) return status;
    dsv4_step_each(step, layer, cache, turn_back);
    project_output(step, layer);
    return DSV4_OK;
}
