/*
 * test_config.c - the parser of config.json.
 *
 * The published configurations of Flash and Pro are parsed whole; every refusal changes one key of
 * a small valid configuration and is checked for its code and for the words that name the key, the
 * value and the rule.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "io/config.h"
#include "test_files.h"

#include <jansson.h>

static const char small_text[] =
    "{\"architectures\":[\"DeepseekV4ForCausalLM\"],\"model_type\":\"deepseek_v4\","
    "\"vocab_size\":512,\"hidden_size\":96,\"num_hidden_layers\":3,\"num_attention_heads\":6,"
    "\"num_key_value_heads\":1,\"head_dim\":512,\"qk_rope_head_dim\":64,\"q_lora_rank\":64,"
    "\"o_lora_rank\":32,\"o_groups\":2,\"sliding_window\":128,\"compress_ratios\":[0,4,128,0],"
    "\"index_n_heads\":3,\"index_head_dim\":128,\"index_topk\":64,\"n_routed_experts\":5,"
    "\"num_experts_per_tok\":2,\"n_shared_experts\":1,\"moe_intermediate_size\":160,"
    "\"num_hash_layers\":1,\"routed_scaling_factor\":1.25,\"scoring_func\":\"sqrtsoftplus\","
    "\"topk_method\":\"noaux_tc\",\"norm_topk_prob\":true,\"swiglu_limit\":7,\"hc_mult\":4,"
    "\"hc_sinkhorn_iters\":19,\"hc_eps\":2e-06,\"rms_norm_eps\":3e-06,\"rope_theta\":10001,"
    "\"compress_rope_theta\":160001.5,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":15,"
    "\"original_max_position_embeddings\":256,\"beta_fast\":31,\"beta_slow\":2},"
    "\"max_position_embeddings\":4096,\"num_nextn_predict_layers\":1,"
    "\"tie_word_embeddings\":false,\"bos_token_id\":3,\"eos_token_id\":511,"
    "\"expert_dtype\":\"fp4\",\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\","
    "\"scale_fmt\":\"ue8m0\",\"weight_block_size\":[128,128],\"activation_scheme\":\"dynamic\"}}";

/* What DeepSeek published with V4-Flash, but for the ratios, which are below. */
static const char flash_text[] =
    "{\"architectures\":[\"DeepseekV4ForCausalLM\"],\"attention_bias\":false,"
    "\"attention_dropout\":0.0,\"bos_token_id\":0,\"eos_token_id\":1,\"expert_dtype\":\"fp4\","
    "\"hc_eps\":1e-06,\"hc_mult\":4,\"hc_sinkhorn_iters\":20,\"head_dim\":512,"
    "\"hidden_act\":\"silu\",\"hidden_size\":4096,\"index_head_dim\":128,\"index_n_heads\":64,"
    "\"index_topk\":512,\"initializer_range\":0.02,\"max_position_embeddings\":1048576,"
    "\"model_type\":\"deepseek_v4\",\"moe_intermediate_size\":2048,\"n_routed_experts\":256,"
    "\"n_shared_experts\":1,\"norm_topk_prob\":true,\"num_attention_heads\":64,"
    "\"num_experts_per_tok\":6,\"num_hidden_layers\":43,\"num_hash_layers\":3,"
    "\"num_key_value_heads\":1,\"num_nextn_predict_layers\":1,\"o_groups\":8,\"o_lora_rank\":1024,"
    "\"q_lora_rank\":1024,\"qk_rope_head_dim\":64,\"quantization_config\":{"
    "\"activation_scheme\":\"dynamic\",\"fmt\":\"e4m3\",\"quant_method\":\"fp8\","
    "\"scale_fmt\":\"ue8m0\",\"weight_block_size\":[128,128]},\"rms_norm_eps\":1e-06,"
    "\"rope_scaling\":{\"beta_fast\":32,\"beta_slow\":1,\"factor\":16,"
    "\"original_max_position_embeddings\":65536,\"type\":\"yarn\"},\"rope_theta\":10000,"
    "\"routed_scaling_factor\":1.5,\"scoring_func\":\"sqrtsoftplus\",\"sliding_window\":128,"
    "\"swiglu_limit\":10.0,\"tie_word_embeddings\":false,\"topk_method\":\"noaux_tc\","
    "\"torch_dtype\":\"bfloat16\",\"transformers_version\":\"4.57.1\",\"use_cache\":true,"
    "\"vocab_size\":129280,\"compress_rope_theta\":160000}";

/* Sets (or, with NULL, removes) a key; "a.b" is key b of the object a. */
static void set_key(json_t *root, const char *key, const char *value_text)
{
    json_t *object = root;
    const char *dot = strchr(key, '.');
    if (dot != NULL) {
        char outer[64];
        (void)snprintf(outer, sizeof outer, "%.*s", (int)(dot - key), key);
        object = json_object_get(root, outer);
        key = dot + 1;
    }
    assert_non_null(object);
    if (value_text == NULL) {
        assert_int_equal(json_object_del(object, key), 0);
        return;
    }
    json_t *value = json_loads(value_text, JSON_DECODE_ANY, NULL);
    assert_non_null(value);
    assert_int_equal(json_object_set_new(object, key, value), 0);
}

static dsv4_status parse(const char *text, size_t len_bytes, dsv4_config *config, dsv4_error *error)
{
    /* exactly as long as the text, so that AddressSanitizer sees a read past its end */
    char *bytes = malloc(len_bytes + (len_bytes == 0));
    assert_non_null(bytes);
    memcpy(bytes, text, len_bytes);
    dsv4_status status = dsv4_config_parse("c.json", bytes, len_bytes, config, error);
    free(bytes);
    return status;
}

/* The small configuration with one key changed. */
static dsv4_status parse_changed(const char *key, const char *value_text, dsv4_config *config,
                                 dsv4_error *error)
{
    json_t *root = json_loads(small_text, 0, NULL);
    assert_non_null(root);
    set_key(root, key, value_text);
    char *text = json_dumps(root, 0);
    assert_non_null(text);
    dsv4_status status = parse(text, strlen(text), config, error);
    free(text);
    json_decref(root);
    return status;
}

static dsv4_config accept_changed(const char *key, const char *value_text)
{
    dsv4_config config;
    dsv4_error error = {0};
    if (parse_changed(key, value_text, &config, &error) != DSV4_OK) {
        fail_msg("%s = %s refused: %s", key, value_text == NULL ? "nothing" : value_text,
                 error.text);
    }
    return config;
}

typedef struct refusal {
    const char *key, *value_text;
    const char *parts[3]; /* of the error text */
} refusal;

static void assert_refused(const refusal *expected, dsv4_status expected_status)
{
    dsv4_config config, untouched;
    memset(&config, 0x5a, sizeof config);
    untouched = config;
    dsv4_error error = {0};
    dsv4_status status = parse_changed(expected->key, expected->value_text, &config, &error);
    if (status == DSV4_OK) fail_msg("accepted, expected a text with '%s'", expected->parts[0]);
    if (status != expected_status) fail_msg("status %d: %s", (int)status, error.text);
    assert_int_equal(error.status, expected_status);
    assert_int_equal(strncmp(error.text, "c.json: ", 8), 0);
    for (int i = 0; i < 3; i++) assert_contains(error.text, expected->parts[i]);
    assert_memory_equal(&config, &untouched, sizeof config);
}

/* Valid configurations */

static void test_every_field_is_read(void **state)
{
    (void)state;
    dsv4_config config = accept_changed("use_cache", "true");
    assert_int_equal(config.vocab_size, 512);
    assert_int_equal(config.hidden_size, 96);
    assert_int_equal(config.n_layers, 3);
    assert_int_equal(config.n_heads, 6);
    assert_int_equal(config.q_lora_rank, 64);
    assert_int_equal(config.o_lora_rank, 32);
    assert_int_equal(config.n_o_groups, 2);
    const int32_t ratios[] = {0, 4, 128, 0};
    assert_memory_equal(config.ratios, ratios, sizeof ratios);
    assert_int_equal(config.n_index_heads, 3);
    assert_int_equal(config.index_topk, 64);
    assert_int_equal(config.n_experts, 5);
    assert_int_equal(config.n_active_experts, 2);
    assert_int_equal(config.expert_dim, 160);
    assert_int_equal(config.n_hash_layers, 1);
    assert_int_equal(config.expert_dtype, DSV4_EXPERT_FP4);
    assert_true(config.routed_scale == 1.25f);
    assert_true(config.swiglu_limit == 7.0f);
    assert_int_equal(config.n_sinkhorn_iters, 19);
    assert_true(config.hc_eps == 2e-6f);
    assert_true(config.norm_eps == 3e-6f);
    assert_true(config.rope_theta == 10001.0);
    assert_true(config.compress_rope_theta == 160001.5);
    assert_true(config.yarn_factor == 15.0);
    assert_true(config.yarn_beta_fast == 31.0);
    assert_true(config.yarn_beta_slow == 2.0);
    assert_int_equal(config.yarn_original_positions, 256);
    assert_int_equal(config.max_positions, 4096);
    assert_int_equal(config.n_mtp_blocks, 1);
    assert_int_equal(config.bos_id, 3);
    assert_int_equal(config.eos_id, 511);
}

static json_t *published_ratios(int first, int n_layers)
{
    json_t *ratios = json_array();
    for (int i = 0; i < n_layers; i++) {
        int ratio = i < 2 ? first : i % 2 == 0 ? 4 : 128;
        assert_int_equal(json_array_append_new(ratios, json_integer(ratio)), 0);
    }
    assert_int_equal(json_array_append_new(ratios, json_integer(0)), 0);
    return ratios;
}

/* Flash with the keys of `changes` replaced, and the ratios of n_layers layers. */
static dsv4_config parse_published(const char *changes, int first_ratio, int n_layers)
{
    json_t *root = json_loads(flash_text, 0, NULL), *update = json_loads(changes, 0, NULL);
    assert_non_null(root);
    assert_int_equal(json_object_update(root, update), 0);
    assert_int_equal(
        json_object_set_new(root, "compress_ratios", published_ratios(first_ratio, n_layers)), 0);
    char *text = json_dumps(root, 0);
    assert_non_null(text);
    dsv4_config config;
    dsv4_error error = {0};
    if (parse(text, strlen(text), &config, &error) != DSV4_OK) fail_msg("%s", error.text);
    free(text);
    json_decref(update);
    json_decref(root);
    return config;
}

static void test_published_flash(void **state)
{
    (void)state;
    dsv4_config config = parse_published("{}", 0, 43);
    assert_int_equal(config.n_layers, 43);
    assert_int_equal(config.hidden_size, 4096);
    assert_int_equal(config.n_heads, 64);
    assert_int_equal(config.n_experts, 256);
    assert_int_equal(config.vocab_size, 129280);
    assert_int_equal(config.max_positions, 1048576);
    int n_window = 0, n_sparse = 0, n_heavy = 0;
    for (int i = 0; i <= 43; i++) {
        n_window += config.ratios[i] == 0;
        n_sparse += config.ratios[i] == 4;
        n_heavy += config.ratios[i] == 128;
    }
    assert_int_equal(n_window, 3);
    assert_int_equal(n_sparse, 21);
    assert_int_equal(n_heavy, 20);
}

static void test_published_pro(void **state)
{
    (void)state;
    dsv4_config config = parse_published(
        "{\"num_hidden_layers\":61,\"hidden_size\":7168,\"num_attention_heads\":128,"
        "\"q_lora_rank\":1536,\"o_groups\":16,\"index_topk\":1024,\"n_routed_experts\":384,"
        "\"moe_intermediate_size\":3072,\"routed_scaling_factor\":2.5}",
        128, 61);
    assert_int_equal(config.n_layers, 61);
    assert_int_equal(config.n_heads, 128);
    assert_int_equal(config.n_o_groups, 16);
    assert_true(config.routed_scale == 2.5f);
    assert_int_equal(config.ratios[1], 128);
    assert_int_equal(config.ratios[60], 4);
    assert_int_equal(config.ratios[61], 0);
}

static void test_optional_keys(void **state)
{
    (void)state;
    assert_int_equal(accept_changed("expert_dtype", NULL).expert_dtype, DSV4_EXPERT_FP8);
    assert_int_equal(accept_changed("expert_dtype", "null").expert_dtype, DSV4_EXPERT_FP8);
    assert_int_equal(accept_changed("expert_dtype", "\"fp8\"").expert_dtype, DSV4_EXPERT_FP8);
    assert_int_equal(accept_changed("num_nextn_predict_layers", NULL).n_mtp_blocks, 0);
    assert_int_equal(accept_changed("num_nextn_predict_layers", "null").n_mtp_blocks, 0);
    assert_int_equal(accept_changed("num_nextn_predict_layers", "0").n_mtp_blocks, 0);
    dsv4_config config = accept_changed("compress_ratios", "[128, 0, 4]");
    const int32_t ratios[] = {128, 0, 4, 0};
    assert_memory_equal(config.ratios, ratios, sizeof ratios);
    assert_true(accept_changed("rms_norm_eps", "1e-20").norm_eps == 1e-20f);
    assert_true(accept_changed("rope_scaling.factor", "16.5").yarn_factor == 16.5);
}

static void test_keys_without_effect(void **state)
{
    (void)state;
    static const struct {
        const char *key, *value_text;
    } keys[] = {
        {"architectures", NULL},
        {"tie_word_embeddings", NULL},
        {"hidden_act", "\"silu\""},
        {"attention_bias", "false"},
        {"mlp_bias", "false"},
        {"n_group", "1"},
        {"topk_group", "1"},
        {"n_group", "null"},
        {"first_k_dense_replace", "0"},
        {"moe_layer_freq", "1"},
        {"torch_dtype", "\"bfloat16\""},
        {"dtype", "\"bfloat16\""},
        {"attention_dropout", "0.5"},
        {"initializer_range", "0.02"},
        {"pad_token_id", "null"},
        {"transformers_version", "\"5.0\""},
        {"ep_size", "8"},
        {"router_aux_loss_coef", "0.1"},
    };
    dsv4_config config = accept_changed("use_cache", "true");
    for (size_t i = 0; i < LENGTH_OF(keys); i++) {
        dsv4_config other = accept_changed(keys[i].key, keys[i].value_text);
        assert_memory_equal(&config, &other, sizeof config);
    }
}

/* Ranges */

static void test_integer_ranges(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        int64_t min, max, step;
    } ranges[] = {
        {"vocab_size", 512, INT64_C(1) << 24, 1}, /* 512: eos_token_id is 511 */
        {"hidden_size", 32, INT64_C(1) << 20, 32},
        {"q_lora_rank", 32, INT64_C(1) << 20, 32},
        {"o_lora_rank", 32, INT64_C(1) << 20, 32},
        {"moe_intermediate_size", 32, INT64_C(1) << 20, 32},
        {"num_attention_heads", 2, 128, 2}, /* 2: o_groups */
        {"index_n_heads", 1, 128, 1},
        {"index_topk", 1, INT64_C(1) << 20, 1},
        {"n_routed_experts", 2, 4096, 1}, /* 2: num_experts_per_tok */
        {"num_experts_per_tok", 1, 5, 1},
        {"num_hash_layers", 0, 3, 1},
        {"hc_sinkhorn_iters", 1, 1000, 1},
        {"max_position_embeddings", 1, INT32_MAX, 1},
        {"rope_scaling.original_max_position_embeddings", 1, INT32_MAX, 1},
        {"num_nextn_predict_layers", 0, 1, 1},
        {"bos_token_id", 0, 511, 1},
        {"eos_token_id", 0, 511, 1},
    };
    for (size_t i = 0; i < LENGTH_OF(ranges); i++) {
        char text[32];
        const int64_t good[] = {ranges[i].min, ranges[i].min + ranges[i].step, ranges[i].max};
        for (size_t k = 0; k < LENGTH_OF(good); k++) {
            (void)snprintf(text, sizeof text, "%lld", (long long)good[k]);
            (void)accept_changed(ranges[i].key, text);
        }
        const int64_t bad[] = {ranges[i].min - ranges[i].step, ranges[i].max + ranges[i].step,
                               ranges[i].step > 1 ? ranges[i].min + 1 : INT64_MAX, INT64_MIN};
        for (size_t k = 0; k < LENGTH_OF(bad); k++) {
            (void)snprintf(text, sizeof text, "%lld", (long long)bad[k]);
            assert_refused(&(refusal){ranges[i].key, text, {"expected"}}, DSV4_ERROR_BAD_FILE);
        }
        assert_refused(&(refusal){ranges[i].key, "1.0", {ranges[i].key, "is 1, expected"}},
                       DSV4_ERROR_BAD_FILE);
        assert_refused(&(refusal){ranges[i].key, "\"64\"", {ranges[i].key, "is '64', expected"}},
                       DSV4_ERROR_BAD_FILE);
    }
}

static void test_number_ranges(void **state)
{
    (void)state;
    static const struct {
        const char *key, *good[2], *bad[3];
    } ranges[] = {
        {"routed_scaling_factor", {"1", "1e38"}, {"0", "-1.5", "1e39"}},
        {"swiglu_limit", {"10", "0.5"}, {"0.0", "-10", "true"}},
        {"hc_eps", {"1e-37", "1"}, {"0", "1e-39", "\"1e-6\""}},
        {"rms_norm_eps", {"1e-37", "1"}, {"0", "1e-39", "[]"}},
        {"rope_theta", {"1.5", "1e6"}, {"1", "0", "{}"}},
        {"compress_rope_theta", {"1.5", "1e6"}, {"1", "-5", "false"}},
        {"rope_scaling.factor", {"1", "0.5"}, {"0", "-1", "\"16\""}},
        {"rope_scaling.beta_slow", {"1", "30.5"}, {"0", "31", "32"}},
        {"rope_scaling.beta_fast", {"2.5", "64"}, {"2", "1", "\"32\""}},
    };
    for (size_t i = 0; i < LENGTH_OF(ranges); i++) {
        for (int k = 0; k < 2; k++) (void)accept_changed(ranges[i].key, ranges[i].good[k]);
        for (int k = 0; k < 3; k++) {
            assert_refused(&(refusal){ranges[i].key, ranges[i].bad[k], {"expected a number above"}},
                           DSV4_ERROR_BAD_FILE);
        }
    }
}

/* Refusals */

static void test_missing_keys(void **state)
{
    (void)state;
    static const char *const optional[] = {"architectures", "expert_dtype",
                                           "num_nextn_predict_layers", "tie_word_embeddings"};
    json_t *root = json_loads(small_text, 0, NULL);
    assert_non_null(root);
    size_t n_required = 0;
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        bool is_optional = false;
        for (size_t i = 0; i < LENGTH_OF(optional); i++) {
            if (strcmp(key, optional[i]) == 0) is_optional = true;
        }
        if (is_optional) continue;
        n_required++;
        assert_refused(&(refusal){key, NULL, {key, "is missing, expected "}}, DSV4_ERROR_BAD_FILE);
        assert_refused(&(refusal){key, "null", {key, "is missing, expected "}},
                       DSV4_ERROR_BAD_FILE);
        if (!json_is_object(value)) continue;
        const char *inner_key;
        json_t *inner_value;
        json_object_foreach(value, inner_key, inner_value)
        {
            char name[96];
            (void)snprintf(name, sizeof name, "%s.%s", key, inner_key);
            assert_refused(&(refusal){name, NULL, {name, "is missing, expected "}},
                           DSV4_ERROR_BAD_FILE);
            n_required++;
        }
    }
    assert_int_equal(n_required, 47);
    json_decref(root);
}

static void test_other_values(void **state)
{
    (void)state;
    static const refusal refusals[] = {
        {"num_key_value_heads", "8", {"num_key_value_heads is 8, expected 1"}},
        {"head_dim", "128", {"head_dim is 128, expected 512"}},
        {"qk_rope_head_dim", "32", {"qk_rope_head_dim is 32, expected 64"}},
        {"sliding_window", "4096", {"sliding_window is 4096, expected 128"}},
        {"index_head_dim", "64", {"index_head_dim is 64, expected 128"}},
        {"n_shared_experts", "2", {"n_shared_experts is 2, expected 1"}},
        {"hc_mult", "2", {"hc_mult is 2, expected 4"}},
        {"hc_mult", "4.0", {"hc_mult is 4, expected 4"}},
        {"scoring_func", "\"softmax\"", {"scoring_func is 'softmax', expected 'sqrtsoftplus'"}},
        {"scoring_func", "1", {"scoring_func is 1, expected 'sqrtsoftplus'"}},
        {"topk_method", "\"greedy\"", {"topk_method is 'greedy', expected 'noaux_tc'"}},
        {"norm_topk_prob", "false", {"norm_topk_prob is false, expected true"}},
        {"norm_topk_prob", "1", {"norm_topk_prob is 1, expected true"}},
        {"n_group", "8", {"n_group is 8, expected 1"}},
        {"topk_group", "4", {"topk_group is 4, expected 1"}},
        {"first_k_dense_replace", "3", {"first_k_dense_replace is 3, expected 0"}},
        {"moe_layer_freq", "2", {"moe_layer_freq is 2, expected 1"}},
        {"attention_bias", "true", {"attention_bias is true, expected false"}},
        {"mlp_bias", "true", {"mlp_bias is true, expected false"}},
        {"tie_word_embeddings", "true", {"tie_word_embeddings is true, expected false"}},
        {"hidden_act", "\"gelu\"", {"hidden_act is 'gelu', expected 'silu'"}},
        {"expert_dtype", "\"bf16\"", {"expert_dtype is 'bf16', expected 'fp4' or 'fp8'"}},
        {"expert_dtype", "4", {"expert_dtype is 4, expected 'fp4' or 'fp8'"}},
        {"o_groups", "4", {"o_groups is 4, expected a divisor of num_attention_heads, 6"}},
        {"o_groups", "0", {"o_groups is 0, expected an integer from 1 to 128"}},
        {"num_hidden_layers", "0", {"num_hidden_layers is 0", "from 1 to 256"}},
        {"num_hidden_layers", "257", {"num_hidden_layers is 257", "from 1 to 256"}},
        {"eos_token_id", "[1, 2]", {"eos_token_id is an array, expected an integer"}},
        {"architectures", "[]", {"architectures is an array, expected ['DeepseekV4ForCausalLM']"}},
        {"architectures", "\"DeepseekV4ForCausalLM\"", {"architectures is 'Deepseek"}},
        {"architectures", "[\"DeepseekV4ForCausalLM\", \"Other\"]", {"architectures is an array"}},
        {"model_type", "7", {"model_type is 7, expected 'deepseek_v4'"}},
        {"rope_scaling", "[]", {"rope_scaling is an array, expected an object"}},
        {"rope_scaling.type", "\"linear\"", {"rope_scaling.type is 'linear', expected 'yarn'"}},
        {"quantization_config", "5", {"quantization_config is 5, expected an object"}},
        {"quantization_config.quant_method",
         "\"awq\"",
         {"quantization_config.quant_method is 'awq', expected 'fp8'"}},
        {"quantization_config.fmt", "\"e5m2\"", {"fmt is 'e5m2', expected 'e4m3'"}},
        {"quantization_config.scale_fmt", "\"float\"", {"is 'float', expected 'ue8m0'"}},
        {"quantization_config.activation_scheme",
         "\"static\"",
         {"is 'static', expected 'dynamic'"}},
        {"quantization_config.weight_block_size",
         "[1, 32]",
         {"weight_block_size is [1, 32], expected [128, 128]"}},
        {"quantization_config.weight_block_size", "[128, 64]", {"is [128, 64], expected [128"}},
        {"quantization_config.weight_block_size", "[128]", {"an array, expected [128, 128]"}},
        {"quantization_config.weight_block_size", "[128, 128, 1]", {"an array, expected [128"}},
        {"quantization_config.weight_block_size", "[128, \"x\"]", {"an array, expected [128"}},
        {"quantization_config.weight_block_size", "128", {"is 128, expected [128, 128]"}},
    };
    for (size_t i = 0; i < LENGTH_OF(refusals); i++) {
        assert_refused(&refusals[i], DSV4_ERROR_BAD_FILE);
    }
}

static void test_ratios(void **state)
{
    (void)state;
    static const refusal bad[] = {
        {"compress_ratios", "{}", {"compress_ratios is an object, expected an array"}},
        {"compress_ratios", "[]", {"has 0 values", "3 or 4"}},
        {"compress_ratios", "[0, 4]", {"has 2 values", "3 or 4"}},
        {"compress_ratios", "[0, 4, 128, 0, 4]", {"has 5 values", "3 or 4"}},
        {"compress_ratios", "[0, 2, 128]", {"compress_ratios[1] is 2, expected 0, 4 or 128"}},
        {"compress_ratios", "[0, 4, 1]", {"compress_ratios[2] is 1, expected 0, 4 or 128"}},
        {"compress_ratios", "[-1, 4, 128]", {"compress_ratios[0] is -1, expected 0"}},
        {"compress_ratios", "[0, 4, 4294967296]", {"compress_ratios[2] is 4294967296"}},
        {"compress_ratios", "[0, 4.0, 128]", {"compress_ratios[1] is 4, expected 0, 4 or 128"}},
        {"compress_ratios", "[0, null, 128]", {"compress_ratios[1] is null"}},
        {"compress_ratios", "[0, 4, 128, 4]", {"compress_ratios[3] is 4, expected 0", "MTP"}},
    };
    for (size_t i = 0; i < LENGTH_OF(bad); i++) assert_refused(&bad[i], DSV4_ERROR_BAD_FILE);
    static const refusal dspark[] = {
        {"compress_ratios", "[0, 4, 128, 0, 0]", {"has 5 values", "DSpark"}},
        {"compress_ratios", "[0, 4, 128, 0, 0, 0]", {"has 6 values", "DSpark"}},
    };
    for (size_t i = 0; i < LENGTH_OF(dspark); i++) {
        assert_refused(&dspark[i], DSV4_ERROR_UNSUPPORTED);
    }
}

static void test_most_layers(void **state)
{
    (void)state;
    json_t *root = json_loads(small_text, 0, NULL);
    assert_non_null(root);
    set_key(root, "num_hidden_layers", "256");
    assert_int_equal(json_object_set_new(root, "compress_ratios", published_ratios(128, 256)), 0);
    char *text = json_dumps(root, 0);
    assert_non_null(text);
    dsv4_config config;
    dsv4_error error = {0};
    assert_int_equal(parse(text, strlen(text), &config, &error), DSV4_OK);
    assert_int_equal(config.ratios[255], 128);
    assert_int_equal(config.ratios[256], 0);
    free(text);
    json_decref(root);
}

static void test_other_architectures(void **state)
{
    (void)state;
    static const refusal refusals[] = {
        {"model_type", "\"deepseek_v3\"", {"model_type is 'deepseek_v3', expected 'deepseek_v4'"}},
        {"model_type", "\"deepseek_v4_1\"", {"'deepseek_v4_1'", "another architecture"}},
        {"architectures",
         "[\"DeepseekV32ForCausalLM\"]",
         {"architectures[0] is 'DeepseekV32ForCausalLM', expected 'DeepseekV4ForCausalLM'"}},
        {"dspark_block_size", "5", {"dspark_block_size belongs to a model with DSpark drafts"}},
        {"dspark_target_layer_ids", "[40]", {"dspark_target_layer_ids belongs to", "DSpark"}},
        {"text_config", "{}", {"text_config belongs to DeepSeek-V4.1"}},
        {"vision_config", "{}", {"vision_config belongs to DeepSeek-V4.1"}},
        {"kv_source_layer_ids", "[2]", {"kv_source_layer_ids belongs to DeepSeek-V4.1"}},
        {"index_source_layer_ids", "[2]", {"index_source_layer_ids", "DeepSeek-V4.1"}},
        {"candidate_topk_blocks", "2048", {"candidate_topk_blocks", "DeepSeek-V4.1"}},
        {"engram_layer_ids", "[1]", {"engram_layer_ids belongs to DeepSeek-V4.1"}},
        {"image_token_id", "1", {"image_token_id belongs to DeepSeek-V4.1"}},
        {"kv_lora_rank", "512", {"kv_lora_rank belongs to DeepSeek-V3 or V3.2"}},
        {"qk_nope_head_dim", "128", {"qk_nope_head_dim belongs to DeepSeek-V3"}},
        {"v_head_dim", "128", {"v_head_dim belongs to DeepSeek-V3"}},
    };
    for (size_t i = 0; i < LENGTH_OF(refusals); i++) {
        assert_refused(&refusals[i], DSV4_ERROR_UNSUPPORTED);
    }
}

static void test_unknown_keys(void **state)
{
    (void)state;
    static const refusal refusals[] = {
        {"gate_temperature", "1", {"c.json: gate_temperature is an unknown key, expected only"}},
        {"hidden_sizes", "null", {"c.json: hidden_sizes is an unknown key"}},
        {"use_cach", "true", {"use_cach is an unknown key"}},
        {"layer_types", "[]", {"layer_types is an unknown key"}},
        {"rope_scaling.mscale", "1", {"rope_scaling.mscale is an unknown key"}},
        {"rope_scaling.use_cache", "1", {"rope_scaling.use_cache is an unknown key"}},
        {"quantization_config.group_size",
         "32",
         {"quantization_config.group_size is an unknown key"}},
    };
    for (size_t i = 0; i < LENGTH_OF(refusals); i++) {
        assert_refused(&refusals[i], DSV4_ERROR_UNSUPPORTED);
    }
}

static void test_long_values_are_shortened(void **state)
{
    (void)state;
    char value[1024];
    memset(value, 'x', sizeof value);
    value[0] = value[sizeof value - 2] = '"';
    value[sizeof value - 1] = '\0';
    assert_refused(&(refusal){"topk_method", value, {"is '...xxx", "x', expected 'noaux_tc'"}},
                   DSV4_ERROR_BAD_FILE);
    char key[512];
    memset(key, 'k', sizeof key);
    key[sizeof key - 1] = '\0';
    assert_refused(&(refusal){key, "1", {": ...kkk", "kkk is an unknown key, expected only"}},
                   DSV4_ERROR_UNSUPPORTED);
}

static void test_broken_json(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t len_bytes;
        const char *part;
    } broken[] = {
        {"", 0, "expected a JSON object"},
        {"{", 1, "line 1, column 1"},
        {"[]", 2, "is an array, expected a JSON object"},
        {"7", 1, "expected a JSON object"},
        {"{\"a\":1,\"a\":2}", 13, "duplicate"},
        {"{} x", 4, "expected a JSON object"},
        {"{}\0", 3, "byte 2 is NUL, expected JSON text"},
        {"{\"hc_eps\":1e999}", 16, "overflow"},
        {"{\"vocab_size\":99999999999999999999}", 35, "too big"},
        {"{\"a\":\"\xff\"}", 9, "expected a JSON object"},
    };
    for (size_t i = 0; i < LENGTH_OF(broken); i++) {
        dsv4_config config;
        dsv4_error error = {0};
        assert_int_equal(parse(broken[i].text, broken[i].len_bytes, &config, &error),
                         DSV4_ERROR_BAD_FILE);
        assert_int_equal(strncmp(error.text, "c.json: ", 8), 0);
        assert_contains(error.text, broken[i].part);
        assert_int_equal(parse(broken[i].text, broken[i].len_bytes, &config, NULL),
                         DSV4_ERROR_BAD_FILE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_field_is_read),
        cmocka_unit_test(test_published_flash),
        cmocka_unit_test(test_published_pro),
        cmocka_unit_test(test_optional_keys),
        cmocka_unit_test(test_keys_without_effect),
        cmocka_unit_test(test_integer_ranges),
        cmocka_unit_test(test_number_ranges),
        cmocka_unit_test(test_missing_keys),
        cmocka_unit_test(test_other_values),
        cmocka_unit_test(test_ratios),
        cmocka_unit_test(test_most_layers),
        cmocka_unit_test(test_other_architectures),
        cmocka_unit_test(test_unknown_keys),
        cmocka_unit_test(test_long_values_are_shortened),
        cmocka_unit_test(test_broken_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
