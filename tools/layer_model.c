/*
 * layer_model.c - lays out and fills the weights of a layer.
 *
 * Place: program, bench. Laying out runs twice: without memory it counts, with memory it fills. Weights
 * start 8 bytes past a cache line, as in a checkpoint file, whose header is padded to 8, and lie in
 * small pages, as a mapped file does.
 */
#define _DEFAULT_SOURCE /* madvise */
#include "layer_model.h"

#include "random_bits.h"

#include "base/error.h"
#include "model/layer_cache.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    N_VOCAB = 1024,
    ALIGN_BYTES = 64,
    FILE_OFFSET_BYTES = 8,
    PAGE_BYTES = 4096,
    MIN_COPIES = 2,
    N_MIX = 24,
};

/* What is the same in all shapes: specification 1. */
#define COMMON_CONFIG                                                                              \
    .vocab_size = N_VOCAB, .n_layers = 1, .expert_dtype = DSV4_EXPERT_FP4, .swiglu_limit = 10.0f,  \
    .n_sinkhorn_iters = 20, .hc_eps = 1e-6f, .norm_eps = 1e-6f, .rope_theta = 10000,               \
    .compress_rope_theta = 160000, .yarn_factor = 16, .yarn_beta_fast = 32, .yarn_beta_slow = 1,   \
    .yarn_original_positions = 65536, .eos_id = 1

const dsv4_layer_shape dsv4_layer_shapes[DSV4_N_LAYER_SHAPES] = {
    {
        .name = "flash",
        .kinds = {{"window-hash", 0, true, 2},
                  {"c4-hash", 4, true, 1},
                  {"c4", 4, false, 20},
                  {"c128", 128, false, 20}},
        .cold_bytes = (int64_t)384 << 20,
        .config = {COMMON_CONFIG, .hidden_size = 4096, .n_heads = 64, .q_lora_rank = 1024,
                   .o_lora_rank = 1024, .n_o_groups = 8, .n_index_heads = 64, .index_topk = 512,
                   .n_experts = 256, .n_active_experts = 6, .expert_dim = 2048,
                   .routed_scale = 1.5f},
    },
    {
        .name = "pro",
        .kinds = {{"c128-hash", 128, true, 2},
                  {"c4-hash", 4, true, 1},
                  {"c4", 4, false, 29},
                  {"c128", 128, false, 29}},
        .cold_bytes = (int64_t)384 << 20,
        .config = {COMMON_CONFIG, .hidden_size = 7168, .n_heads = 128, .q_lora_rank = 1536,
                   .o_lora_rank = 1024, .n_o_groups = 16, .n_index_heads = 64, .index_topk = 1024,
                   .n_experts = 384, .n_active_experts = 6, .expert_dim = 3072,
                   .routed_scale = 2.5f},
    },
    {
        .name = "tiny",
        .kinds = {{"window-hash", 0, true, 1}, {"c4", 4, false, 1}, {"c128", 128, false, 1}},
        .cold_bytes = (int64_t)1 << 20,
        .config = {COMMON_CONFIG, .hidden_size = 256, .n_heads = 8, .q_lora_rank = 128,
                   .o_lora_rank = 128, .n_o_groups = 2, .n_index_heads = 2, .index_topk = 32,
                   .n_experts = 64, .n_active_experts = 2, .expert_dim = 128, .routed_scale = 1.5f},
    },
};

/* ---- memory and random numbers ---- */

typedef struct arena {
    unsigned char *memory; /* NULL: only count */
    size_t used_bytes;
    uint64_t random;
} arena;

static unsigned char *take(arena *from, int64_t len_bytes)
{
    size_t begin = from->used_bytes + FILE_OFFSET_BYTES;
    size_t lines = ((size_t)len_bytes + FILE_OFFSET_BYTES + ALIGN_BYTES - 1) / ALIGN_BYTES;
    from->used_bytes += lines * ALIGN_BYTES;
    return from->memory == NULL ? NULL : from->memory + begin;
}

/* Random bits where `mask` has ones, `fixed` elsewhere, in every 8 bytes. */
static void fill(unsigned char *bytes, int64_t len_bytes, uint64_t mask, uint64_t fixed,
                 uint64_t *random)
{
    for (int64_t i = 0; i < len_bytes; i += 8) {
        uint64_t word = (dsv4_random_bits(random) & mask) | fixed;
        memcpy(bytes + i, &word, (size_t)(len_bytes - i < 8 ? len_bytes - i : 8));
    }
}

/* Sign and mantissa are random: magnitudes 2^exponent .. 2^(exponent + 1). */
static void fill_bf16(unsigned char *bytes, int64_t n_values, int exponent, uint64_t *random)
{
    uint64_t bits = (uint64_t)(127 + exponent) << 7;
    fill(bytes, 2 * n_values, UINT64_C(0x807f807f807f807f), bits * UINT64_C(0x0001000100010001),
         random);
}

static void fill_f32(unsigned char *bytes, int64_t n_values, int exponent, uint64_t *random)
{
    uint64_t bits = (uint64_t)(127 + exponent) << 23;
    fill(bytes, 4 * n_values, UINT64_C(0x807fffff807fffff), bits | bits << 32, random);
}

/* Rounded down, for powers of about 1 / sqrt(n). */
static int half_log2(int64_t n)
{
    int log = 0;
    while (n >> (log + 1) > 0) log++;
    return log / 2;
}

static int64_t weight_bytes(const dsv4_linear *linear)
{
    int64_t n = linear->n_out * linear->n_in;
    switch (linear->kind) {
    case DSV4_LINEAR_FP8: return n;
    case DSV4_LINEAR_FP4: return n / 2;
    case DSV4_LINEAR_BF16: return 2 * n;
    default: return 4 * n;
    }
}

void dsv4_layer_fill_linear(const dsv4_linear *linear, unsigned char *weight, uint8_t *scales,
                            uint64_t *random)
{
    int64_t n = linear->n_out * linear->n_in, n_bytes = weight_bytes(linear);
    int exponent = -half_log2(linear->n_in);
    switch (linear->kind) {
    case DSV4_LINEAR_FP8: /* magnitudes 0.5 .. 1.875 */
        fill(weight, n_bytes, UINT64_C(0x8f8f8f8f8f8f8f8f), UINT64_C(0x3030303030303030), random);
        break;
    case DSV4_LINEAR_FP4: /* any code, magnitudes 0 .. 6 */
        fill(weight, n_bytes, UINT64_MAX, 0, random);
        exponent--;
        break;
    case DSV4_LINEAR_BF16: fill_bf16(weight, n, exponent, random); return;
    default: fill_f32(weight, n, exponent, random); return;
    }
    memset(scales, 127 + exponent, (size_t)(dsv4_linear_bytes(linear) - n_bytes));
}

/* ---- the parts of a layer ---- */

static dsv4_linear take_linear(arena *from, int32_t kind, int64_t n_out, int64_t n_in)
{
    dsv4_linear linear = {.kind = kind, .n_out = n_out, .n_in = n_in};
    int64_t scale_bytes = dsv4_linear_bytes(&linear) - weight_bytes(&linear);
    unsigned char *weight = take(from, weight_bytes(&linear));
    uint8_t *scales = scale_bytes > 0 ? take(from, scale_bytes) : NULL;
    if (weight != NULL) dsv4_layer_fill_linear(&linear, weight, scales, &from->random);
    linear.weight = weight;
    linear.scales = scales;
    return linear;
}

static const uint16_t *take_norm(arena *from, int64_t n)
{
    uint16_t *values = (void *)take(from, 2 * n);
    for (int64_t i = 0; values != NULL && i < n; i++) values[i] = 0x3f80; /* 1 in bf16 */
    return values;
}

/* n equal values. */
static const float *take_floats(arena *from, int64_t n, float value)
{
    float *values = (void *)take(from, 4 * n);
    for (int64_t i = 0; values != NULL && i < n; i++) values[i] = value;
    return values;
}

static dsv4_hyper take_hyper(arena *from, int64_t hidden, int64_t n_out, int64_t n_scales)
{
    dsv4_linear fn = take_linear(from, DSV4_LINEAR_F32, n_out, DSV4_N_STREAMS * hidden);
    return (dsv4_hyper){fn.weight, take_floats(from, n_out, 0.0f),
                        take_floats(from, n_scales, 0.5f)};
}

/* With rows for two halves and biases for `ratio` positions: as large as any kind of layer needs. */
static dsv4_compressor take_compressor(arena *from, int64_t hidden, int32_t ratio, int64_t dim)
{
    return (dsv4_compressor){.wkv = take_linear(from, DSV4_LINEAR_BF16, 2 * dim, hidden),
                             .wgate = take_linear(from, DSV4_LINEAR_BF16, 2 * dim, hidden),
                             .ape = take_floats(from, ratio * 2 * dim, 0.0f),
                             .norm = take_norm(from, dim)};
}

static dsv4_expert take_expert(arena *from, int32_t kind, int64_t hidden, int64_t width)
{
    return (dsv4_expert){.w1 = take_linear(from, kind, width, hidden),
                         .w2 = take_linear(from, kind, hidden, width),
                         .w3 = take_linear(from, kind, width, hidden)};
}

/* For each token of the vocabulary n_active different experts, each as likely as any other. */
static void fill_hash_table(const dsv4_config *config, int32_t *table, uint64_t *random)
{
    for (int64_t token = 0; token < N_VOCAB; token++) {
        int32_t *row = table + token * config->n_active_experts;
        for (int64_t i = 0; i < config->n_active_experts; i++) {
            bool is_new;
            do {
                row[i] = (int32_t)(dsv4_random_bits(random) % (uint64_t)config->n_experts);
                is_new = true;
                for (int64_t j = 0; j < i; j++) is_new &= row[j] != row[i];
            } while (!is_new);
        }
    }
}

/* All that any kind of layer has; the kind decides later what of it is used. */
static void take_layer(arena *from, const dsv4_config *config, const int32_t *hash_table,
                       dsv4_layer *layer)
{
    int64_t hidden = config->hidden_size, queries = config->n_heads * DSV4_HEAD_DIM;
    int64_t o_ranks = config->n_o_groups * config->o_lora_rank;
    layer->hyper_attn = take_hyper(from, hidden, N_MIX, 3);
    layer->attn_norm = take_norm(from, hidden);
    layer->wq_a = take_linear(from, DSV4_LINEAR_FP8, config->q_lora_rank, hidden);
    layer->q_norm = take_norm(from, config->q_lora_rank);
    layer->wq_b = take_linear(from, DSV4_LINEAR_FP8, queries, config->q_lora_rank);
    layer->wkv = take_linear(from, DSV4_LINEAR_FP8, DSV4_HEAD_DIM, hidden);
    layer->kv_norm = take_norm(from, DSV4_HEAD_DIM);
    layer->sink = take_floats(from, config->n_heads, 0.0f);
    layer->wo_a = take_linear(from, DSV4_LINEAR_FP8, o_ranks, queries / config->n_o_groups);
    layer->wo_b = take_linear(from, DSV4_LINEAR_FP8, hidden, o_ranks);
    layer->compressor = take_compressor(from, hidden, 128, DSV4_HEAD_DIM);
    layer->index_compressor = take_compressor(from, hidden, 4, DSV4_INDEX_DIM);
    layer->index_wq_b = take_linear(from, DSV4_LINEAR_FP8, config->n_index_heads * DSV4_INDEX_DIM,
                                    config->q_lora_rank);
    layer->index_weights = take_linear(from, DSV4_LINEAR_BF16, config->n_index_heads, hidden);
    layer->hyper_ffn = take_hyper(from, hidden, N_MIX, 3);
    layer->ffn_norm = take_norm(from, hidden);
    layer->gate = take_linear(from, DSV4_LINEAR_BF16, config->n_experts, hidden);
    layer->gate_bias = take_floats(from, config->n_experts, 0.0f);
    layer->hash_table = (const void *)hash_table;
    layer->hash_table_bytes = sizeof *hash_table;
    layer->shared = take_expert(from, DSV4_LINEAR_FP8, hidden, config->expert_dim);
}

/* ---- the model ---- */

/* Everything but the experts: the model's own tensors, then the copies. */
static void take_model(arena *from, dsv4_layer_model *model)
{
    dsv4_weights *weights = &model->weights;
    const dsv4_config *config = &weights->config;
    int64_t hidden = config->hidden_size;
    int32_t *table =
        (void *)take(from, N_VOCAB * config->n_active_experts * (int64_t)sizeof *table);
    if (table != NULL) fill_hash_table(config, table, &from->random);
    weights->embed = take_linear(from, DSV4_LINEAR_BF16, N_VOCAB, hidden);
    if (from->memory != NULL) {
        /* Of size 1, so that a token's own embedding decides the gate's choice, not the attention. */
        fill_bf16((void *)(uintptr_t)weights->embed.weight, N_VOCAB * hidden, 0, &from->random);
    }
    weights->head =
        (dsv4_head){take_hyper(from, hidden, DSV4_N_STREAMS, 1), take_norm(from, hidden)};
    for (int64_t i = 0; i < model->n_copies; i++) {
        dsv4_layer layer = {0};
        take_layer(from, config, table, &layer);
        if (model->experts != NULL) layer.experts = model->experts + i * config->n_experts;
        if (model->copies != NULL) model->copies[i] = layer;
    }
}

/* Decides how many copies and experts there will be, and how much memory they take. */
static dsv4_status plan_memory(const dsv4_layer_shape *shape, int64_t limit_bytes,
                               dsv4_layer_model *model, dsv4_error *error)
{
    const dsv4_config *config = &model->weights.config;
    arena one_expert = {0}, one_layer = {0}, all = {0};
    (void)take_expert(&one_expert, DSV4_LINEAR_FP4, config->hidden_size, config->expert_dim);
    dsv4_layer layer = {0};
    take_layer(&one_layer, config, NULL, &layer);
    int64_t per_expert = (int64_t)one_expert.used_bytes;
    int64_t per_step = (int64_t)one_layer.used_bytes + config->n_active_experts * per_expert;
    model->n_copies = shape->cold_bytes / per_step + 1;
    if (model->n_copies < MIN_COPIES) model->n_copies = MIN_COPIES;
    take_model(&all, model);
    int64_t room = (limit_bytes - (int64_t)all.used_bytes) / per_expert;
    if (limit_bytes < (int64_t)all.used_bytes || room < config->n_active_experts) {
        int64_t needed = (int64_t)all.used_bytes + config->n_active_experts * per_expert;
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "option --memory-limit: '%" PRId64 "' is too little for the layers "
                              "of %s; expected at least %" PRId64 " MiB",
                              limit_bytes >> 20, shape->name, (needed >> 20) + 1);
    }
    model->n_held_experts = room < config->n_experts ? room : config->n_experts;
    model->memory_bytes = all.used_bytes + (size_t)(model->n_held_experts * per_expert);
    return DSV4_OK;
}

static void take_experts(arena *from, dsv4_layer_model *model)
{
    const dsv4_config *config = &model->weights.config;
    for (int64_t e = 0; e < model->n_held_experts; e++) {
        model->experts[e] =
            take_expert(from, DSV4_LINEAR_FP4, config->hidden_size, config->expert_dim);
    }
    for (int64_t e = model->n_held_experts; e < model->n_copies * config->n_experts; e++) {
        model->experts[e] = model->experts[e % config->n_experts % model->n_held_experts];
    }
}

dsv4_status dsv4_layer_model_open(const dsv4_layer_shape *shape, int64_t limit_bytes,
                                  dsv4_layer_model *model, dsv4_error *error)
{
    *model = (dsv4_layer_model){.weights = {.config = shape->config}};
    DSV4_TRY(plan_memory(shape, limit_bytes, model, error));
    size_t n_experts = (size_t)(model->n_copies * shape->config.n_experts);
    model->memory_bytes = (model->memory_bytes / PAGE_BYTES + 1) * PAGE_BYTES;
    model->copies = calloc((size_t)model->n_copies, sizeof *model->copies);
    model->experts = calloc(n_experts, sizeof *model->experts);
    model->memory = aligned_alloc(PAGE_BYTES, model->memory_bytes);
    if (model->copies == NULL || model->experts == NULL || model->memory == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY,
                              "no memory for the weights of %s (%zu MiB)", shape->name,
                              model->memory_bytes >> 20);
    }
    (void)madvise(model->memory, model->memory_bytes, MADV_NOHUGEPAGE);
    arena from = {.memory = model->memory, .random = 1};
    take_model(&from, model);
    take_experts(&from, model);
    model->weights.layers = model->copies;
    return DSV4_OK;
}

void dsv4_layer_model_close(dsv4_layer_model *model)
{
    free(model->memory);
    free(model->experts);
    free(model->copies);
    *model = (dsv4_layer_model){0};
}

void dsv4_layer_model_set_kind(dsv4_layer_model *model, const dsv4_layer_kind *kind)
{
    model->weights.config.ratios[0] = kind->ratio;
    model->weights.config.n_hash_layers = kind->is_hashed;
    const unsigned char *table = model->memory + FILE_OFFSET_BYTES;
    int64_t width = (kind->ratio == 4 ? 2 : 1) * DSV4_HEAD_DIM;
    for (int64_t i = 0; i < model->n_copies; i++) {
        dsv4_layer *layer = &model->copies[i];
        layer->ratio = kind->ratio;
        layer->hash_table = kind->is_hashed ? table : NULL;
        layer->compressor.wkv.n_out = layer->compressor.wgate.n_out = width;
    }
}

void dsv4_layer_model_turn(dsv4_layer_model *model)
{
    model->weights.layers = &model->copies[model->next_copy];
    model->next_copy = (model->next_copy + 1) % model->n_copies;
}
