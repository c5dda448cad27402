/*
 * layer_bytes.c - which matrices a layer has, and how many bytes a step of it reads.
 *
 * Place: program, bench. Follows src/model: what attention.c, compression.c, experts.c and forward.c read.
 */
#include "layer_model.h"

#include "model/layer_cache.h"

enum { N_MIX = 24, POOLED_ROWS_C4 = 8 };

static int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t expert_bytes(const dsv4_expert *expert)
{
    return dsv4_linear_bytes(&expert->w1) + dsv4_linear_bytes(&expert->w2) +
           dsv4_linear_bytes(&expert->w3);
}

static int64_t compressor_bytes(const dsv4_compressor *compressor, int64_t dim)
{
    int64_t bias = compressor->wgate.n_out * (int64_t)sizeof(float); /* of one position */
    return dsv4_linear_bytes(&compressor->wkv) + dsv4_linear_bytes(&compressor->wgate) + bias +
           2 * dim;
}

/* fn, base and scale */
static int64_t hyper_bytes(int64_t hidden, int64_t n_out, int64_t n_scales)
{
    return 4 * (n_out * DSV4_N_STREAMS * hidden + n_out + n_scales);
}

static int64_t attention_bytes(const dsv4_config *config, const dsv4_layer *layer)
{
    return dsv4_linear_bytes(&layer->wq_a) + dsv4_linear_bytes(&layer->wq_b) +
           dsv4_linear_bytes(&layer->wkv) + dsv4_linear_bytes(&layer->wo_a) +
           dsv4_linear_bytes(&layer->wo_b) + 4 * config->n_heads +
           2 * (config->hidden_size + config->q_lora_rank + DSV4_HEAD_DIM);
}

static int64_t expert_layer_bytes(const dsv4_config *config, const dsv4_layer *layer,
                                  int64_t n_tokens, int64_t n_experts)
{
    int64_t route =
        layer->hash_table != NULL ? n_tokens * config->n_active_experts * 4 : config->n_experts * 4;
    return dsv4_linear_bytes(&layer->gate) + route + expert_bytes(&layer->shared) +
           n_experts * expert_bytes(&layer->experts[0]) + 2 * config->hidden_size;
}

/* Rows of the caches that one token reads. */
static int64_t cache_bytes(const dsv4_config *config, int32_t ratio, int32_t numerics,
                           int64_t position)
{
    int64_t key = dsv4_cache_key_bytes(numerics);
    int64_t n_bytes = min_i64(DSV4_WINDOW, position + 1) * key;
    if (ratio == 0) return n_bytes;
    int64_t n_visible = (position + 1) / ratio;
    bool ends_group = (position + 1) % ratio == 0;
    if (ratio == 128) {
        n_bytes += n_visible * key;
        return n_bytes + (ends_group ? ratio * dsv4_cache_state_bytes(ratio) : 0);
    }
    n_bytes += min_i64(n_visible, config->index_topk) * key;
    if (n_visible > config->index_topk) n_bytes += n_visible * dsv4_cache_index_key_bytes(numerics);
    /* Of each raw row one half. */
    int64_t raw = dsv4_cache_state_bytes(ratio) + dsv4_cache_index_state_bytes(ratio);
    return n_bytes + (ends_group ? POOLED_ROWS_C4 * raw / 2 : 0);
}

int64_t dsv4_layer_model_step_bytes(const dsv4_layer_model *model, int32_t numerics,
                                    int64_t n_tokens, int64_t position, int64_t n_experts)
{
    const dsv4_config *config = &model->weights.config;
    const dsv4_layer *layer = model->weights.layers;
    int64_t hidden = config->hidden_size;
    int64_t n_bytes = attention_bytes(config, layer) +
                      expert_layer_bytes(config, layer, n_tokens, n_experts) +
                      2 * hyper_bytes(hidden, N_MIX, 3) + hyper_bytes(hidden, DSV4_N_STREAMS, 1) +
                      2 * hidden; /* the head's mixing and norm */
    if (layer->ratio > 0) n_bytes += compressor_bytes(&layer->compressor, DSV4_HEAD_DIM);
    if (layer->ratio == 4) {
        n_bytes += compressor_bytes(&layer->index_compressor, DSV4_INDEX_DIM);
        if ((position + 1) / 4 > config->index_topk) {
            n_bytes +=
                dsv4_linear_bytes(&layer->index_wq_b) + dsv4_linear_bytes(&layer->index_weights);
        }
    }
    return n_bytes +
           n_tokens * (cache_bytes(config, layer->ratio, numerics, position) + 2 * hidden);
}

int32_t dsv4_layer_linears(const dsv4_layer_shape *shape,
                           dsv4_layer_linear linears[static DSV4_LAYER_MAX_LINEARS])
{
    const dsv4_config *c = &shape->config;
    int64_t hidden = c->hidden_size, width = c->expert_dim, queries = c->n_heads * DSV4_HEAD_DIM;
    int64_t o_ranks = c->n_o_groups * c->o_lora_rank;
    const struct {
        const char *name;
        int32_t kind;
        int64_t n_out, n_in, n_groups;
    } rows[] = {
        {"wq_a", DSV4_LINEAR_FP8, c->q_lora_rank, hidden, 1},
        {"wq_b", DSV4_LINEAR_FP8, queries, c->q_lora_rank, 1},
        {"wkv", DSV4_LINEAR_FP8, DSV4_HEAD_DIM, hidden, 1},
        {"wo_a", DSV4_LINEAR_FP8, o_ranks, queries / c->n_o_groups, c->n_o_groups},
        {"wo_b", DSV4_LINEAR_FP8, hidden, o_ranks, 1},
        {"shared w1, w3", DSV4_LINEAR_FP8, width, hidden, 1},
        {"shared w2", DSV4_LINEAR_FP8, hidden, width, 1},
        {"expert w1, w3", DSV4_LINEAR_FP4, width, hidden, 1},
        {"expert w2", DSV4_LINEAR_FP4, hidden, width, 1},
        {"gate", DSV4_LINEAR_BF16, c->n_experts, hidden, 1},
        {"compressor c4", DSV4_LINEAR_BF16, 2 * DSV4_HEAD_DIM, hidden, 1},
        {"compressor c128", DSV4_LINEAR_BF16, DSV4_HEAD_DIM, hidden, 1},
        {"indexer wq_b", DSV4_LINEAR_FP8, c->n_index_heads * DSV4_INDEX_DIM, c->q_lora_rank, 1},
        {"indexer weights", DSV4_LINEAR_BF16, c->n_index_heads, hidden, 1},
        {"indexer compr.", DSV4_LINEAR_BF16, 2 * DSV4_INDEX_DIM, hidden, 1},
        {"hyper fn", DSV4_LINEAR_F32, N_MIX, DSV4_N_STREAMS * hidden, 1},
    };
    int32_t n = sizeof rows / sizeof *rows;
    for (int32_t i = 0; i < n; i++) {
        linears[i] = (dsv4_layer_linear){
            .name = rows[i].name,
            .linear = {.kind = rows[i].kind, .n_out = rows[i].n_out, .n_in = rows[i].n_in},
            .n_groups = rows[i].n_groups,
            .x_is_bf16 = rows[i].kind != DSV4_LINEAR_F32, /* streams are mixed in f32 */
        };
    }
    return n;
}
