/*
 * weights.c - binds tensors of a model directory by name.
 *
 * Place: model. The directory has checked names, shapes and dtypes; here they only get their roles.
 */
#include "weights.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"

enum { PART_BYTES = 64, PREFIX_BYTES = 128, NAME_BYTES = 256, FP8_BLOCK = 128 };

/* One allocation in the chain that `owned` heads. */
typedef struct owned_block {
    struct owned_block *next;
    double payload[]; /* double: aligned for any element */
} owned_block;

typedef struct binder {
    const dsv4_model_dir *dir;
    dsv4_weights *weights;
    dsv4_error *error;
    dsv4_status status; /* the first failure; later calls then do nothing useful */
} binder;

static void *own(binder *bind, size_t len_bytes)
{
    size_t total;
    owned_block *block = NULL;
    if (dsv4_checked_add(sizeof(owned_block), len_bytes, &total)) block = calloc(1, total);
    if (block == NULL) {
        bind->status = dsv4_error_set(bind->error, DSV4_ERROR_OUT_OF_MEMORY,
                                      "weights: no memory for %zu bytes", len_bytes);
        return NULL;
    }
    block->next = bind->weights->owned;
    bind->weights->owned = block;
    return block->payload;
}

static const dsv4_tensor_view *find(binder *bind, const char *prefix, const char *name)
{
    char full[NAME_BYTES + PREFIX_BYTES];
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    const dsv4_tensor_view *view = dsv4_model_dir_tensor(bind->dir, full);
    if (view == NULL && bind->status == DSV4_OK) {
        bind->status =
            dsv4_error_set(bind->error, DSV4_ERROR_BAD_FILE, "tensor '%s': missing", full);
    }
    return view;
}

/* A vector or small table, aligned to its element: borrowed, or copied. */
static const void *bind_vector(binder *bind, const char *prefix, const char *name,
                               size_t align_bytes)
{
    const dsv4_tensor_view *view = find(bind, prefix, name);
    if (view == NULL || (uintptr_t)view->data % align_bytes == 0) {
        return view == NULL ? NULL : view->data;
    }
    void *copy = own(bind, (size_t)view->len_bytes);
    if (copy != NULL) memcpy(copy, view->data, (size_t)view->len_bytes);
    return copy;
}

static const float *bind_f32(binder *bind, const char *prefix, const char *name)
{
    return bind_vector(bind, prefix, name, sizeof(float));
}

static const uint16_t *bind_bf16(binder *bind, const char *prefix, const char *name)
{
    return bind_vector(bind, prefix, name, sizeof(uint16_t));
}

/* A matrix stored plain ("name") in bf16 or f32. */
static dsv4_linear bind_plain(binder *bind, const char *prefix, const char *name)
{
    dsv4_linear linear = {0};
    const dsv4_tensor_view *view = find(bind, prefix, name);
    if (view == NULL) return linear;
    linear.weight = view->data;
    linear.kind = view->dtype == DSV4_SAFETENSORS_F32 ? DSV4_LINEAR_F32 : DSV4_LINEAR_BF16;
    linear.n_out = view->shape[0];
    linear.n_in = view->shape[1];
    return linear;
}

/* A quantized matrix: "name.weight" and "name.scale". */
static dsv4_linear bind_quantized(binder *bind, const char *prefix, const char *name)
{
    char part[PART_BYTES];
    dsv4_linear linear = {0};
    (void)snprintf(part, sizeof part, "%s.weight", name);
    const dsv4_tensor_view *weight = find(bind, prefix, part);
    (void)snprintf(part, sizeof part, "%s.scale", name);
    const dsv4_tensor_view *scale = find(bind, prefix, part);
    if (weight == NULL || scale == NULL) return linear;
    bool is_fp8 = weight->dtype == DSV4_SAFETENSORS_F8_E4M3;
    linear.weight = weight->data;
    linear.scales = scale->data;
    linear.kind = is_fp8 ? DSV4_LINEAR_FP8 : DSV4_LINEAR_FP4;
    linear.n_out = weight->shape[0];
    linear.n_in = is_fp8 ? weight->shape[1] : 2 * weight->shape[1];
    return linear;
}

static dsv4_hyper bind_hyper(binder *bind, const char *prefix, const char *name)
{
    char part[PART_BYTES];
    dsv4_hyper hyper;
    (void)snprintf(part, sizeof part, "hc_%s_fn", name);
    hyper.fn = bind_f32(bind, prefix, part);
    (void)snprintf(part, sizeof part, "hc_%s_base", name);
    hyper.base = bind_f32(bind, prefix, part);
    (void)snprintf(part, sizeof part, "hc_%s_scale", name);
    hyper.scale = bind_f32(bind, prefix, part);
    return hyper;
}

static dsv4_compressor bind_compressor(binder *bind, const char *prefix, const char *name)
{
    char at[NAME_BYTES];
    (void)snprintf(at, sizeof at, "%s%s.", prefix, name);
    return (dsv4_compressor){.wkv = bind_plain(bind, at, "wkv.weight"),
                             .wgate = bind_plain(bind, at, "wgate.weight"),
                             .ape = bind_f32(bind, at, "ape"),
                             .norm = bind_bf16(bind, at, "norm.weight")};
}

static dsv4_expert bind_expert(binder *bind, const char *prefix, const char *name)
{
    char at[NAME_BYTES];
    (void)snprintf(at, sizeof at, "%s%s.", prefix, name);
    return (dsv4_expert){.w1 = bind_quantized(bind, at, "w1"),
                         .w2 = bind_quantized(bind, at, "w2"),
                         .w3 = bind_quantized(bind, at, "w3")};
}

static void bind_attention(binder *bind, const char *prefix, dsv4_layer *layer)
{
    layer->wq_a = bind_quantized(bind, prefix, "attn.wq_a");
    layer->wq_b = bind_quantized(bind, prefix, "attn.wq_b");
    layer->wkv = bind_quantized(bind, prefix, "attn.wkv");
    layer->wo_a = bind_quantized(bind, prefix, "attn.wo_a");
    layer->wo_b = bind_quantized(bind, prefix, "attn.wo_b");
    layer->q_norm = bind_bf16(bind, prefix, "attn.q_norm.weight");
    layer->kv_norm = bind_bf16(bind, prefix, "attn.kv_norm.weight");
    layer->sink = bind_f32(bind, prefix, "attn.attn_sink");
    if (layer->ratio > 0) layer->compressor = bind_compressor(bind, prefix, "attn.compressor");
    if (layer->ratio != 4) return;
    layer->index_compressor = bind_compressor(bind, prefix, "attn.indexer.compressor");
    layer->index_wq_b = bind_quantized(bind, prefix, "attn.indexer.wq_b");
    layer->index_weights = bind_plain(bind, prefix, "attn.indexer.weights_proj.weight");
}

/* Entries are read as indices of experts at every token: they are checked once, here. */
static void check_hash_table(binder *bind, const char *prefix, const dsv4_layer *layer)
{
    const dsv4_config *config = &bind->weights->config;
    int64_t n_entries = config->vocab_size * config->n_active_experts;
    for (int64_t i = 0; i < n_entries && bind->status == DSV4_OK; i++) {
        int64_t expert = dsv4_layer_hash_entry(layer, i);
        if (expert >= 0 && expert < config->n_experts) continue;
        bind->status = dsv4_error_set(bind->error, DSV4_ERROR_BAD_FILE,
                                      "tensor '%sffn.gate.tid2eid': expert %lld at %lld, "
                                      "expected 0 .. %lld",
                                      prefix, (long long)expert, (long long)i,
                                      (long long)config->n_experts - 1);
    }
}

static void bind_experts(binder *bind, const char *prefix, bool is_hashed, dsv4_layer *layer)
{
    int64_t n_experts = bind->weights->config.n_experts;
    layer->gate = bind_plain(bind, prefix, "ffn.gate.weight");
    if (is_hashed) {
        const dsv4_tensor_view *table = find(bind, prefix, "ffn.gate.tid2eid");
        if (table == NULL) return;
        layer->hash_table = table->data;
        layer->hash_table_bytes = table->dtype == DSV4_SAFETENSORS_I64 ? 8 : 4;
        check_hash_table(bind, prefix, layer);
    } else {
        layer->gate_bias = bind_f32(bind, prefix, "ffn.gate.bias");
    }
    layer->shared = bind_expert(bind, prefix, "ffn.shared_experts");
    layer->experts = own(bind, (size_t)n_experts * sizeof *layer->experts);
    for (int64_t e = 0; layer->experts != NULL && e < n_experts; e++) {
        char name[PART_BYTES];
        (void)snprintf(name, sizeof name, "ffn.experts.%lld", (long long)e);
        layer->experts[e] = bind_expert(bind, prefix, name);
    }
}

static void bind_layer(binder *bind, int64_t index)
{
    const dsv4_config *config = &bind->weights->config;
    dsv4_layer *layer = &bind->weights->layers[index];
    char prefix[PREFIX_BYTES];
    if (index < config->n_layers) {
        (void)snprintf(prefix, sizeof prefix, "layers.%lld.", (long long)index);
    } else {
        (void)snprintf(prefix, sizeof prefix, "mtp.%lld.", (long long)(index - config->n_layers));
    }
    layer->ratio = config->ratios[index];
    layer->hyper_attn = bind_hyper(bind, prefix, "attn");
    layer->hyper_ffn = bind_hyper(bind, prefix, "ffn");
    layer->attn_norm = bind_bf16(bind, prefix, "attn_norm.weight");
    layer->ffn_norm = bind_bf16(bind, prefix, "ffn_norm.weight");
    bind_attention(bind, prefix, layer);
    bind_experts(bind, prefix, index < config->n_hash_layers, layer);
}

dsv4_status dsv4_weights_open(const dsv4_model_dir *dir, dsv4_weights *weights, dsv4_error *error)
{
    memset(weights, 0, sizeof *weights);
    weights->config = *dsv4_model_dir_config(dir);
    const dsv4_config *config = &weights->config;
    if (config->o_lora_rank % FP8_BLOCK != 0) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "o_lora_rank: %lld, expected a multiple of %d",
                              (long long)config->o_lora_rank, FP8_BLOCK);
    }
    binder bind = {.dir = dir, .weights = weights, .error = error};
    int64_t n_layers = config->n_layers + config->n_mtp_blocks;
    weights->embed = bind_plain(&bind, "", "embed.weight");
    weights->unembed = bind_plain(&bind, "", "head.weight");
    weights->head = (dsv4_head){bind_hyper(&bind, "", "head"), bind_bf16(&bind, "", "norm.weight")};
    weights->layers = own(&bind, (size_t)n_layers * sizeof *weights->layers);
    for (int64_t i = 0; weights->layers != NULL && i < n_layers; i++) bind_layer(&bind, i);
    if (config->n_mtp_blocks > 0) {
        weights->mtp = (dsv4_mtp){.e_proj = bind_quantized(&bind, "mtp.0.", "e_proj"),
                                  .h_proj = bind_quantized(&bind, "mtp.0.", "h_proj"),
                                  .enorm = bind_bf16(&bind, "mtp.0.", "enorm.weight"),
                                  .hnorm = bind_bf16(&bind, "mtp.0.", "hnorm.weight"),
                                  .head = {bind_hyper(&bind, "mtp.0.", "head"),
                                           bind_bf16(&bind, "mtp.0.", "norm.weight")}};
    }
    if (bind.status != DSV4_OK) dsv4_weights_close(weights);
    return bind.status;
}

int64_t dsv4_layer_hash_entry(const dsv4_layer *layer, int64_t i)
{
    const unsigned char *entry = layer->hash_table + i * layer->hash_table_bytes;
    if (layer->hash_table_bytes == 8) {
        int64_t wide;
        memcpy(&wide, entry, sizeof wide);
        return wide;
    }
    int32_t narrow;
    memcpy(&narrow, entry, sizeof narrow);
    return narrow;
}

void dsv4_weights_close(dsv4_weights *weights)
{
    owned_block *block = weights->owned;
    while (block != NULL) {
        owned_block *next = block->next;
        free(block);
        block = next;
    }
    memset(weights, 0, sizeof *weights);
}
