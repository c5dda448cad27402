/*
 * config.c - the architecture of a checkpoint from its config.json.
 *
 * Place: io. Every key is taken out of the parsed object by the line that checks it; what is left
 * at the end must be a key without influence on results, else it is refused by name. So no key can
 * be forgotten silently.
 */
#include "io/config.h"

#include "base/error.h"
#include "io/json_text.h"

#include <float.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Far beyond any checkpoint; products of two sizes and an element's bytes fit in 63 bits. */
#define MAX_SIZE       (INT64_C(1) << 20)
#define MAX_VOCAB_SIZE (INT64_C(1) << 24)
#define MAX_EXPERTS    4096
#define MAX_HEADS      128 /* of attention and of the indexer */
#define MAX_POSITIONS  INT32_MAX
#define MAX_SINKHORN   1000

/* Values per scale of FP4 weights; the packed rows and their scales need whole groups. */
#define SIZE_STEP 32

/* A JSON object whose known keys are removed as they are read. */
typedef struct reader {
    const char *path;
    const char *scope; /* "" or the name of the object and a dot, before keys in texts */
    json_t *object;
    dsv4_error *error;
} reader;

/* Keys that do not change what an inference computes. */
static const char *const ignored_keys[] = {
    "_name_or_path",
    "attention_dropout",
    "aux_loss_alpha",
    "chunk_size_feed_forward",
    "dtype",
    "ep_size",
    "id2label",
    "initializer_range",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "seq_aux",
    "torch_dtype",
    "transformers_version",
    "use_cache",
};

/* How keys of other architectures begin; specification, appendix A. */
static const struct {
    const char *prefix, *architecture;
} foreign_keys[] = {
    {"dspark_", "a model with DSpark drafts"},
    {"text_config", "DeepSeek-V4.1"},
    {"vision_", "DeepSeek-V4.1"},
    {"image_token_id", "DeepSeek-V4.1"},
    {"engram_", "DeepSeek-V4.1"},
    {"kv_source_layer_ids", "DeepSeek-V4.1"},
    {"index_source_layer_ids", "DeepSeek-V4.1"},
    {"candidate_", "DeepSeek-V4.1"},
    {"kv_lora_rank", "DeepSeek-V3 or V3.2"},
    {"qk_nope_head_dim", "DeepSeek-V3 or V3.2"},
    {"v_head_dim", "DeepSeek-V3 or V3.2"},
};

/* Error texts. */

/* `status` with "<path>: <scope><key> <text>". */
static dsv4_status refuse(const reader *r, dsv4_status status, const char *key, const char *format,
                          ...) __attribute__((format(printf, 4, 5)));
static dsv4_status refuse(const reader *r, dsv4_status status, const char *key, const char *format,
                          ...)
{
    char text[DSV4_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return dsv4_error_set(r->error, status, "%s: %s%s %s", dsv4_shorten(r->path).text, r->scope,
                          dsv4_shorten(key).text, text);
}

static dsv4_status refuse_missing(const reader *r, const char *key, const char *expected)
{
    return refuse(r, DSV4_ERROR_BAD_FILE, key, "is missing, expected %s", expected);
}

static dsv4_status refuse_value(const reader *r, const char *key, const json_t *value,
                                const char *expected)
{
    return refuse(r, DSV4_ERROR_BAD_FILE, key, "is %s, expected %s", dsv4_json_describe(value).text,
                  expected);
}

/* Taking single values. A null counts as an absent key, as in the libraries that write them. */

static json_t *find(const reader *r, const char *key)
{
    json_t *value = json_object_get(r->object, key);
    return json_is_null(value) ? NULL : value;
}

static void drop(const reader *r, const char *key)
{
    (void)json_object_del(r->object, key); /* fails only when the key is absent */
}

static dsv4_status take_integer(const reader *r, const char *key, int64_t min, int64_t max,
                                int64_t step, int64_t *result)
{
    char expected[128];
    (void)snprintf(expected, sizeof expected, "an integer from %" PRId64 " to %" PRId64, min, max);
    if (step > 1) {
        (void)snprintf(expected, sizeof expected,
                       "a multiple of %" PRId64 " from %" PRId64 " to %" PRId64, step, min, max);
    }
    const json_t *value = find(r, key);
    if (value == NULL) return refuse_missing(r, key, expected);
    int64_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < min || number > max || number % step != 0) {
        return refuse_value(r, key, value, expected);
    }
    *result = number;
    drop(r, key);
    return DSV4_OK;
}

static dsv4_status take_id(const reader *r, const char *key, int64_t vocab_size, int32_t *result)
{
    int64_t number = 0;
    DSV4_TRY(take_integer(r, key, 0, vocab_size - 1, 1, &number));
    *result = (int32_t)number;
    return DSV4_OK;
}

/* A number above `above` that is a normal float, so that it stays positive and finite as one. */
static dsv4_status take_number(const reader *r, const char *key, double above, double *result)
{
    char expected[64];
    (void)snprintf(expected, sizeof expected, "a number above %g in the range of a float", above);
    const json_t *value = find(r, key);
    if (value == NULL) return refuse_missing(r, key, expected);
    double number = json_number_value(value);
    if (!json_is_number(value) || number <= above || number < (double)FLT_MIN ||
        number > (double)FLT_MAX) {
        return refuse_value(r, key, value, expected);
    }
    *result = number;
    drop(r, key);
    return DSV4_OK;
}

static dsv4_status take_float(const reader *r, const char *key, float *result)
{
    double number = 0;
    DSV4_TRY(take_number(r, key, 0, &number));
    *result = (float)number;
    return DSV4_OK;
}

/* A key with one implemented value. */
static dsv4_status take_fixed_integer(const reader *r, const char *key, int64_t only,
                                      bool is_optional)
{
    char expected[32];
    (void)snprintf(expected, sizeof expected, "%" PRId64, only);
    const json_t *value = find(r, key);
    if (value == NULL && !is_optional) return refuse_missing(r, key, expected);
    if (value != NULL && (!json_is_integer(value) || json_integer_value(value) != only)) {
        return refuse_value(r, key, value, expected);
    }
    drop(r, key);
    return DSV4_OK;
}

static dsv4_status take_fixed_bool(const reader *r, const char *key, bool only, bool is_optional)
{
    const char *expected = only ? "true" : "false";
    const json_t *value = find(r, key);
    if (value == NULL && !is_optional) return refuse_missing(r, key, expected);
    if (value != NULL && json_typeof(value) != (only ? JSON_TRUE : JSON_FALSE)) {
        return refuse_value(r, key, value, expected);
    }
    drop(r, key);
    return DSV4_OK;
}

static bool is_text(const json_t *value, const char *text)
{
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

static dsv4_status take_fixed_text(const reader *r, const char *key, const char *only,
                                   bool is_optional)
{
    char expected[64];
    (void)snprintf(expected, sizeof expected, "'%s'", only);
    const json_t *value = find(r, key);
    if (value == NULL && !is_optional) return refuse_missing(r, key, expected);
    if (value != NULL && !is_text(value, only)) return refuse_value(r, key, value, expected);
    drop(r, key);
    return DSV4_OK;
}

/* Objects and arrays. */

static dsv4_status take_architecture(const reader *r)
{
    static const char model_type[] = "deepseek_v4", class_name[] = "DeepseekV4ForCausalLM";
    const json_t *type = find(r, "model_type");
    if (type == NULL) return refuse_missing(r, "model_type", "'deepseek_v4'");
    if (!json_is_string(type)) return refuse_value(r, "model_type", type, "'deepseek_v4'");
    if (!is_text(type, model_type)) {
        return refuse(r, DSV4_ERROR_UNSUPPORTED, "model_type",
                      "is %s, expected '%s': another architecture", dsv4_json_describe(type).text,
                      model_type);
    }
    drop(r, "model_type");
    const json_t *classes = find(r, "architectures");
    if (classes != NULL) {
        const json_t *first = json_array_get(classes, 0);
        if (json_array_size(classes) != 1 || !json_is_string(first)) {
            return refuse_value(r, "architectures", classes, "['DeepseekV4ForCausalLM']");
        }
        if (!is_text(first, class_name)) {
            return refuse(r, DSV4_ERROR_UNSUPPORTED, "architectures[0]",
                          "is %s, expected '%s': another architecture",
                          dsv4_json_describe(first).text, class_name);
        }
    }
    drop(r, "architectures");
    return DSV4_OK;
}

static dsv4_status refuse_foreign_keys(const reader *r)
{
    const char *key;
    json_t *value;
    json_object_foreach(r->object, key, value)
    {
        for (size_t i = 0; i < sizeof foreign_keys / sizeof foreign_keys[0]; i++) {
            const char *prefix = foreign_keys[i].prefix;
            if (strncmp(key, prefix, strlen(prefix)) == 0) {
                return refuse(r, DSV4_ERROR_UNSUPPORTED, key,
                              "belongs to %s, expected a DeepSeek-V4 model",
                              foreign_keys[i].architecture);
            }
        }
    }
    return DSV4_OK;
}

/* What is left must be without influence. */
static dsv4_status refuse_unknown_keys(const reader *r, const char *const *ignored,
                                       size_t n_ignored)
{
    const char *key;
    json_t *value;
    json_object_foreach(r->object, key, value)
    {
        bool is_ignored = false;
        for (size_t i = 0; i < n_ignored; i++) {
            if (strcmp(key, ignored[i]) == 0) is_ignored = true;
        }
        if (!is_ignored) {
            return refuse(r, DSV4_ERROR_UNSUPPORTED, key,
                          "is an unknown key, expected only keys of DeepSeek-V4");
        }
    }
    return DSV4_OK;
}

/* compress_ratios: one per layer, or one more for the MTP block; specification, section 1. */
static dsv4_status take_ratios(const reader *r, dsv4_config *config)
{
    static const char key[] = "compress_ratios";
    const json_t *ratios = find(r, key);
    if (ratios == NULL) return refuse_missing(r, key, "an array");
    if (!json_is_array(ratios)) return refuse_value(r, key, ratios, "an array");
    size_t n_layers = (size_t)config->n_layers, n_ratios = json_array_size(ratios);
    if (n_ratios != n_layers && n_ratios != n_layers + 1) {
        bool is_dspark = n_ratios > n_layers + 1;
        for (size_t i = n_layers; i < n_ratios; i++) {
            const json_t *ratio = json_array_get(ratios, i);
            if (!json_is_integer(ratio) || json_integer_value(ratio) != 0) is_dspark = false;
        }
        return refuse(r, is_dspark ? DSV4_ERROR_UNSUPPORTED : DSV4_ERROR_BAD_FILE, key,
                      "has %zu values, expected num_hidden_layers or one more, %zu or %zu%s",
                      n_ratios, n_layers, n_layers + 1,
                      is_dspark ? ": a model with DSpark drafts" : "");
    }
    for (size_t i = 0; i < n_ratios; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "%s[%zu]", key, i);
        const json_t *value = json_array_get(ratios, i);
        int64_t ratio = json_is_integer(value) ? json_integer_value(value) : -1;
        if (i == n_layers && ratio != 0) {
            return refuse_value(r, name, value, "0: the MTP block has a window only");
        }
        if (ratio != 0 && ratio != 4 && ratio != 128) {
            return refuse_value(r, name, value, "0, 4 or 128");
        }
        config->ratios[i] = (int32_t)ratio;
    }
    drop(r, key);
    return DSV4_OK;
}

/* A reader of the object `key`; `scope` is its name with a dot. */
static dsv4_status enter_object(const reader *r, const char *key, const char *scope, reader *inner)
{
    json_t *value = find(r, key);
    if (value == NULL) return refuse_missing(r, key, "an object");
    if (!json_is_object(value)) return refuse_value(r, key, value, "an object");
    *inner = (reader){.path = r->path, .scope = scope, .object = value, .error = r->error};
    return DSV4_OK;
}

static dsv4_status take_rope_scaling(const reader *r, dsv4_config *config)
{
    reader inner;
    DSV4_TRY(enter_object(r, "rope_scaling", "rope_scaling.", &inner));
    DSV4_TRY(take_fixed_text(&inner, "type", "yarn", false));
    DSV4_TRY(take_number(&inner, "factor", 0, &config->yarn_factor));
    DSV4_TRY(take_integer(&inner, "original_max_position_embeddings", 1, MAX_POSITIONS, 1,
                          &config->yarn_original_positions));
    DSV4_TRY(take_number(&inner, "beta_slow", 0, &config->yarn_beta_slow));
    DSV4_TRY(take_number(&inner, "beta_fast", config->yarn_beta_slow, &config->yarn_beta_fast));
    DSV4_TRY(refuse_unknown_keys(&inner, NULL, 0));
    drop(r, "rope_scaling");
    return DSV4_OK;
}

static dsv4_status take_quantization(const reader *r)
{
    reader inner;
    DSV4_TRY(enter_object(r, "quantization_config", "quantization_config.", &inner));
    DSV4_TRY(take_fixed_text(&inner, "quant_method", "fp8", false));
    DSV4_TRY(take_fixed_text(&inner, "fmt", "e4m3", false));
    DSV4_TRY(take_fixed_text(&inner, "scale_fmt", "ue8m0", false));
    DSV4_TRY(take_fixed_text(&inner, "activation_scheme", "dynamic", false));
    const json_t *block = find(&inner, "weight_block_size");
    if (block == NULL) return refuse_missing(&inner, "weight_block_size", "[128, 128]");
    const json_t *rows = json_array_get(block, 0), *columns = json_array_get(block, 1);
    if (json_array_size(block) != 2 || !json_is_integer(rows) || !json_is_integer(columns)) {
        return refuse_value(&inner, "weight_block_size", block, "[128, 128]");
    }
    if (json_integer_value(rows) != 128 || json_integer_value(columns) != 128) {
        return refuse(&inner, DSV4_ERROR_BAD_FILE, "weight_block_size",
                      "is [%" PRId64 ", %" PRId64 "], expected [128, 128]",
                      (int64_t)json_integer_value(rows), (int64_t)json_integer_value(columns));
    }
    drop(&inner, "weight_block_size");
    DSV4_TRY(refuse_unknown_keys(&inner, NULL, 0));
    drop(r, "quantization_config");
    return DSV4_OK;
}

/* Storage of the routed experts; the Base checkpoints do not have the key and hold FP8. */
static dsv4_status take_expert_dtype(const reader *r, dsv4_config *config)
{
    const json_t *value = find(r, "expert_dtype");
    if (value == NULL || is_text(value, "fp8")) {
        config->expert_dtype = DSV4_EXPERT_FP8;
    } else if (is_text(value, "fp4")) {
        config->expert_dtype = DSV4_EXPERT_FP4;
    } else {
        return refuse_value(r, "expert_dtype", value, "'fp4' or 'fp8'");
    }
    drop(r, "expert_dtype");
    return DSV4_OK;
}

/* The groups of keys, in the order of specification, section 1. */

static dsv4_status take_fixed_keys(const reader *r)
{
    DSV4_TRY(take_fixed_integer(r, "num_key_value_heads", 1, false));
    DSV4_TRY(take_fixed_integer(r, "head_dim", DSV4_HEAD_DIM, false));
    DSV4_TRY(take_fixed_integer(r, "qk_rope_head_dim", DSV4_ROPE_DIM, false));
    DSV4_TRY(take_fixed_integer(r, "sliding_window", DSV4_WINDOW, false));
    DSV4_TRY(take_fixed_integer(r, "index_head_dim", DSV4_INDEX_DIM, false));
    DSV4_TRY(take_fixed_integer(r, "n_shared_experts", 1, false));
    DSV4_TRY(take_fixed_integer(r, "hc_mult", DSV4_N_STREAMS, false));
    DSV4_TRY(take_fixed_text(r, "scoring_func", "sqrtsoftplus", false));
    DSV4_TRY(take_fixed_text(r, "topk_method", "noaux_tc", false));
    DSV4_TRY(take_fixed_bool(r, "norm_topk_prob", true, false));
    /* Absent or without effect. */
    DSV4_TRY(take_fixed_integer(r, "n_group", 1, true));
    DSV4_TRY(take_fixed_integer(r, "topk_group", 1, true));
    DSV4_TRY(take_fixed_integer(r, "first_k_dense_replace", 0, true));
    DSV4_TRY(take_fixed_integer(r, "moe_layer_freq", 1, true));
    DSV4_TRY(take_fixed_bool(r, "attention_bias", false, true));
    DSV4_TRY(take_fixed_bool(r, "mlp_bias", false, true));
    DSV4_TRY(take_fixed_bool(r, "tie_word_embeddings", false, true));
    return take_fixed_text(r, "hidden_act", "silu", true);
}

static dsv4_status take_attention_keys(const reader *r, dsv4_config *config)
{
    DSV4_TRY(take_integer(r, "num_attention_heads", 1, MAX_HEADS, 1, &config->n_heads));
    DSV4_TRY(take_integer(r, "q_lora_rank", SIZE_STEP, MAX_SIZE, SIZE_STEP, &config->q_lora_rank));
    DSV4_TRY(take_integer(r, "o_lora_rank", SIZE_STEP, MAX_SIZE, SIZE_STEP, &config->o_lora_rank));
    DSV4_TRY(take_integer(r, "o_groups", 1, MAX_HEADS, 1, &config->n_o_groups));
    if (config->n_heads % config->n_o_groups != 0) {
        return refuse(r, DSV4_ERROR_BAD_FILE, "o_groups",
                      "is %" PRId64 ", expected a divisor of num_attention_heads, %" PRId64,
                      config->n_o_groups, config->n_heads);
    }
    DSV4_TRY(take_integer(r, "index_n_heads", 1, MAX_HEADS, 1, &config->n_index_heads));
    return take_integer(r, "index_topk", 1, MAX_SIZE, 1, &config->index_topk);
}

static dsv4_status take_moe_keys(const reader *r, dsv4_config *config)
{
    DSV4_TRY(take_integer(r, "n_routed_experts", 1, MAX_EXPERTS, 1, &config->n_experts));
    DSV4_TRY(
        take_integer(r, "num_experts_per_tok", 1, config->n_experts, 1, &config->n_active_experts));
    DSV4_TRY(take_integer(r, "moe_intermediate_size", SIZE_STEP, MAX_SIZE, SIZE_STEP,
                          &config->expert_dim));
    DSV4_TRY(take_integer(r, "num_hash_layers", 0, config->n_layers, 1, &config->n_hash_layers));
    DSV4_TRY(take_float(r, "routed_scaling_factor", &config->routed_scale));
    DSV4_TRY(take_float(r, "swiglu_limit", &config->swiglu_limit));
    return take_expert_dtype(r, config);
}

static dsv4_status take_rope_keys(const reader *r, dsv4_config *config)
{
    DSV4_TRY(take_number(r, "rope_theta", 1, &config->rope_theta));
    DSV4_TRY(take_number(r, "compress_rope_theta", 1, &config->compress_rope_theta));
    DSV4_TRY(take_rope_scaling(r, config));
    return take_integer(r, "max_position_embeddings", 1, MAX_POSITIONS, 1, &config->max_positions);
}

static dsv4_status take_all_keys(const reader *r, dsv4_config *config)
{
    DSV4_TRY(take_architecture(r));
    DSV4_TRY(refuse_foreign_keys(r));
    DSV4_TRY(take_fixed_keys(r));
    DSV4_TRY(take_integer(r, "vocab_size", 1, MAX_VOCAB_SIZE, 1, &config->vocab_size));
    DSV4_TRY(take_id(r, "bos_token_id", config->vocab_size, &config->bos_id));
    DSV4_TRY(take_id(r, "eos_token_id", config->vocab_size, &config->eos_id));
    DSV4_TRY(take_integer(r, "hidden_size", SIZE_STEP, MAX_SIZE, SIZE_STEP, &config->hidden_size));
    DSV4_TRY(take_integer(r, "num_hidden_layers", 1, DSV4_CONFIG_MAX_LAYERS, 1, &config->n_layers));
    if (find(r, "num_nextn_predict_layers") == NULL) {
        drop(r, "num_nextn_predict_layers");
    } else {
        DSV4_TRY(take_integer(r, "num_nextn_predict_layers", 0, 1, 1, &config->n_mtp_blocks));
    }
    DSV4_TRY(take_ratios(r, config));
    DSV4_TRY(take_attention_keys(r, config));
    DSV4_TRY(take_moe_keys(r, config));
    int64_t n_sinkhorn_iters = 0;
    DSV4_TRY(take_integer(r, "hc_sinkhorn_iters", 1, MAX_SINKHORN, 1, &n_sinkhorn_iters));
    config->n_sinkhorn_iters = (int32_t)n_sinkhorn_iters;
    DSV4_TRY(take_float(r, "hc_eps", &config->hc_eps));
    DSV4_TRY(take_float(r, "rms_norm_eps", &config->norm_eps));
    DSV4_TRY(take_rope_keys(r, config));
    DSV4_TRY(take_quantization(r));
    return refuse_unknown_keys(r, ignored_keys, sizeof ignored_keys / sizeof ignored_keys[0]);
}

dsv4_status dsv4_config_parse(const char *path, const void *bytes, size_t len_bytes,
                              dsv4_config *config, dsv4_error *error)
{
    reader r = {.path = path, .scope = "", .error = error};
    DSV4_TRY(dsv4_json_parse(path, bytes, len_bytes, &r.object, error));
    dsv4_config result = {0};
    dsv4_status status = take_all_keys(&r, &result);
    json_decref(r.object);
    if (status == DSV4_OK) *config = result;
    return status;
}
