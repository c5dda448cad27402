/*
 * random_model.c - writes a small checkpoint of random weights.
 *
 * Place: tests.
 */
#include "random_model.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "io/config.h"
#include "io/safetensors.h"
#include "io/tensor_names.h"

enum { MAX_TENSORS = 512, PATH_BYTES = 4096, N_EXPERTS = 6 };

/* Two window layers, one of them with hash routing, and one of each ratio. */
static const char config_text[] =
    "{\"model_type\":\"deepseek_v4\",\"vocab_size\":%" PRId64 ",\"hidden_size\":128,"
    "\"num_hidden_layers\":4,\"num_attention_heads\":4,\"num_key_value_heads\":1,"
    "\"head_dim\":512,\"qk_rope_head_dim\":64,\"q_lora_rank\":64,\"o_lora_rank\":128,"
    "\"o_groups\":2,\"sliding_window\":128,\"compress_ratios\":[0,4,128,0,0],"
    "\"index_n_heads\":2,\"index_head_dim\":128,\"index_topk\":32,\"n_routed_experts\":%d,"
    "\"num_experts_per_tok\":2,\"n_shared_experts\":1,\"moe_intermediate_size\":64,"
    "\"num_hash_layers\":1,\"routed_scaling_factor\":1.5,\"scoring_func\":\"sqrtsoftplus\","
    "\"topk_method\":\"noaux_tc\",\"norm_topk_prob\":true,\"swiglu_limit\":10,\"hc_mult\":4,"
    "\"hc_sinkhorn_iters\":20,\"hc_eps\":1e-06,\"rms_norm_eps\":1e-06,\"rope_theta\":10000,"
    "\"compress_rope_theta\":160000,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":16,"
    "\"original_max_position_embeddings\":256,\"beta_fast\":32,\"beta_slow\":1},"
    "\"max_position_embeddings\":%" PRId64 ",\"bos_token_id\":0,\"eos_token_id\":%" PRId32 ","
    "\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"scale_fmt\":\"ue8m0\","
    "\"weight_block_size\":[128,128],\"activation_scheme\":\"dynamic\"},"
    "\"num_nextn_predict_layers\":%" PRId32 ",\"expert_dtype\":\"fp4\"}";

typedef struct tensors {
    dsv4_tensor_view views[MAX_TENSORS];
    char names[MAX_TENSORS][DSV4_TENSOR_NAME_BYTES];
    int64_t n;
    uint64_t random;
    bool repeats;
} tensors;

static uint32_t draw(tensors *all)
{
    all->random = all->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(all->random >> 33);
}

/* -1 <= result < 1 */
static float draw_value(tensors *all)
{
    return (float)draw(all) * 0x1p-30f - 1.0f;
}

/* How values of a tensor are spread: center + width * [-1, 1). */
static void choose_spread(const char *name, float *center, float *width)
{
    static const struct {
        const char *pattern;
        float center, width;
    } rules[] = {
        {"norm", 1.0f, 0.25f},       {"embed.weight", 0.0f, 1.0f},
        {"head.weight", 0.0f, 0.4f}, {"_scale", 0.75f, 0.25f},
        {"_base", 0.0f, 0.5f},       {"attn_sink", 0.0f, 1.0f},
        {"gate.weight", 0.0f, 0.3f}, {"", 0.0f, 0.1f},
    };
    size_t i = 0;
    while (strstr(name, rules[i].pattern) == NULL) i++;
    *center = rules[i].center;
    *width = rules[i].width;
}

static void fill_floats(tensors *all, const dsv4_tensor_view *view, unsigned char *bytes)
{
    float center, width;
    choose_spread(view->name, &center, &width);
    if (all->repeats && strcmp(view->name, "head.weight") == 0) width = 0.0f;
    bool is_bf16 = view->dtype == DSV4_SAFETENSORS_BF16;
    int64_t element_bytes = dsv4_safetensors_dtype_bytes(view->dtype);
    for (int64_t at = 0; at < view->len_bytes; at += element_bytes) {
        float value = center + width * draw_value(all);
        /* bf16 is the upper half */
        memcpy(bytes + at, (unsigned char *)&value + (is_bf16 ? 2 : 0), (size_t)element_bytes);
    }
}

/* Entry j of token t is expert (t + j) mod n: no expert twice for a token. */
static void fill_table(const dsv4_tensor_view *view, unsigned char *bytes)
{
    int64_t element_bytes = dsv4_safetensors_dtype_bytes(view->dtype);
    for (int64_t i = 0; i < view->len_bytes / element_bytes; i++) {
        int64_t expert = (i / view->shape[1] + i % view->shape[1]) % N_EXPERTS;
        memcpy(bytes + i * element_bytes, &expert, (size_t)element_bytes);
    }
}

static void fill(tensors *all, const dsv4_tensor_view *view, unsigned char *bytes)
{
    switch (view->dtype) {
    case DSV4_SAFETENSORS_BF16:
    case DSV4_SAFETENSORS_F32: fill_floats(all, view, bytes); return;
    case DSV4_SAFETENSORS_I32:
    case DSV4_SAFETENSORS_I64: fill_table(view, bytes); return;
    default: break;
    }
    for (int64_t i = 0; i < view->len_bytes; i++) {
        uint32_t bits = draw(all);
        switch (view->dtype) {
        case DSV4_SAFETENSORS_F8_E4M3: /* magnitudes 2^-4 .. 2^2 */
            bytes[i] = (unsigned char)((bits & 0x87u) | (3u + (bits >> 8) % 6u) << 3);
            break;
        case DSV4_SAFETENSORS_F8_E8M0: bytes[i] = (unsigned char)(121 + bits % 3); break;
        default: bytes[i] = (unsigned char)bits; break; /* two e2m1 codes */
        }
    }
}

static dsv4_status add_tensor(void *context, const dsv4_tensor_rule *rule)
{
    tensors *all = context;
    if (all->n == MAX_TENSORS) return DSV4_ERROR_OUT_OF_MEMORY;
    dsv4_tensor_view *view = &all->views[all->n];
    memcpy(all->names[all->n], rule->name, strlen(rule->name) + 1);
    *view = (dsv4_tensor_view){
        .name = all->names[all->n++], .dtype = rule->dtypes[0], .rank = rule->rank};
    for (int32_t i = 0; i < rule->rank; i++) view->shape[i] = rule->shape[i];
    if (!dsv4_tensor_view_bytes(view, &view->len_bytes)) return DSV4_ERROR_OUT_OF_MEMORY;
    unsigned char *bytes = malloc((size_t)view->len_bytes);
    if (bytes == NULL) return DSV4_ERROR_OUT_OF_MEMORY;
    fill(all, view, bytes);
    view->data = bytes;
    return DSV4_OK;
}

static dsv4_status write_text(const char *path, const char *text, dsv4_error *error)
{
    FILE *file = fopen(path, "wb");
    bool written = file != NULL && fputs(text, file) >= 0;
    if (file != NULL && fclose(file) != 0) written = false;
    return written ? DSV4_OK : dsv4_error_set(error, DSV4_ERROR_IO, "%.300s: cannot write", path);
}

dsv4_status random_model_write(const char *dir, const random_model *model, dsv4_error *error)
{
    char path[PATH_BYTES], text[4096];
    dsv4_config config;
    (void)snprintf(text, sizeof text, config_text, model->n_vocab, N_EXPERTS, model->max_positions,
                   model->eos_id, model->n_mtp_blocks);
    (void)snprintf(path, sizeof path, "%s/config.json", dir);
    DSV4_TRY(write_text(path, text, error));
    DSV4_TRY(dsv4_config_parse(path, text, strlen(text), &config, error));

    tensors *all = calloc(1, sizeof *all);
    if (all == NULL) return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory");
    all->repeats = model->repeats;
    dsv4_status status = dsv4_tensor_rules_visit(&config, add_tensor, all);
    if (status == DSV4_OK) {
        (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
        status = dsv4_safetensors_write(path, all->views, all->n, NULL, 0, error);
    } else {
        (void)dsv4_error_set(error, status, "no memory for the tensors");
    }
    for (int64_t i = 0; i < all->n; i++) free((void *)all->views[i].data);
    free(all);
    return status;
}
