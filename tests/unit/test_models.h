/*
 * test_models.h - a small configuration, and transformers' names for its tensors.
 * Include after cmocka.h.
 */
#ifndef DSV4_TESTS_TEST_MODELS_H
#define DSV4_TESTS_TEST_MODELS_H

#include "io/config.h"

#include <stdio.h>

#define MAX_TENSORS 256 /* more than the configuration has */

/* A window layer with hash routing, one of each ratio, an MTP block; no size is a multiple of 128
 * where 32 is enough. */
static const char config_text[] =
    "{\"model_type\":\"deepseek_v4\",\"vocab_size\":24,\"hidden_size\":160,"
    "\"num_hidden_layers\":3,\"num_attention_heads\":4,\"num_key_value_heads\":1,"
    "\"head_dim\":512,\"qk_rope_head_dim\":64,\"q_lora_rank\":64,\"o_lora_rank\":96,"
    "\"o_groups\":2,\"sliding_window\":128,\"compress_ratios\":[0,4,128,0],"
    "\"index_n_heads\":3,\"index_head_dim\":128,\"index_topk\":64,\"n_routed_experts\":3,"
    "\"num_experts_per_tok\":2,\"n_shared_experts\":1,\"moe_intermediate_size\":32,"
    "\"num_hash_layers\":1,\"routed_scaling_factor\":1.5,\"scoring_func\":\"sqrtsoftplus\","
    "\"topk_method\":\"noaux_tc\",\"norm_topk_prob\":true,\"swiglu_limit\":10,\"hc_mult\":4,"
    "\"hc_sinkhorn_iters\":20,\"hc_eps\":1e-06,\"rms_norm_eps\":1e-06,\"rope_theta\":10000,"
    "\"compress_rope_theta\":160000,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":16,"
    "\"original_max_position_embeddings\":256,\"beta_fast\":32,\"beta_slow\":1},"
    "\"max_position_embeddings\":4096,\"bos_token_id\":0,\"eos_token_id\":1,"
    "\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"scale_fmt\":\"ue8m0\","
    "\"weight_block_size\":[128,128],\"activation_scheme\":\"dynamic\"},"
    "\"num_nextn_predict_layers\":%d,\"expert_dtype\":\"%s\"}";

static inline dsv4_config make_config(int n_mtp_blocks, const char *expert_dtype)
{
    char text[2048];
    int len_bytes = snprintf(text, sizeof text, config_text, n_mtp_blocks, expert_dtype);
    dsv4_config config;
    dsv4_error error = {0};
    if (dsv4_config_parse("c", text, (size_t)len_bytes, &config, &error) != DSV4_OK) {
        fail_msg("%s", error.text);
    }
    return config;
}

/* Names after "layers.<n>." or "mtp.0.". */
static const struct {
    const char *official, *other;
} block_names[] = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"hc_attn_fn", "attn_hc.fn"},
    {"hc_attn_base", "attn_hc.base"},
    {"hc_attn_scale", "attn_hc.scale"},
    {"hc_ffn_fn", "ffn_hc.fn"},
    {"hc_ffn_base", "ffn_hc.base"},
    {"hc_ffn_scale", "ffn_hc.scale"},
    {"hc_head_fn", "hc_head.hc_fn"},
    {"hc_head_base", "hc_head.hc_base"},
    {"hc_head_scale", "hc_head.hc_scale"},
    {"attn.wq_a.weight", "self_attn.q_a_proj.weight"},
    {"attn.wq_a.scale", "self_attn.q_a_proj.weight_scale_inv"},
    {"attn.q_norm.weight", "self_attn.q_a_norm.weight"},
    {"attn.wq_b.weight", "self_attn.q_b_proj.weight"},
    {"attn.wq_b.scale", "self_attn.q_b_proj.weight_scale_inv"},
    {"attn.wkv.weight", "self_attn.kv_proj.weight"},
    {"attn.wkv.scale", "self_attn.kv_proj.weight_scale_inv"},
    {"attn.kv_norm.weight", "self_attn.kv_norm.weight"},
    {"attn.attn_sink", "self_attn.sinks"},
    {"attn.wo_a.weight", "self_attn.o_a_proj.weight"},
    {"attn.wo_a.scale", "self_attn.o_a_proj.weight_scale_inv"},
    {"attn.wo_b.weight", "self_attn.o_b_proj.weight"},
    {"attn.wo_b.scale", "self_attn.o_b_proj.weight_scale_inv"},
    {"attn.compressor.wkv.weight", "self_attn.compressor.kv_proj.weight"},
    {"attn.compressor.wgate.weight", "self_attn.compressor.gate_proj.weight"},
    {"attn.compressor.ape", "self_attn.compressor.position_bias"},
    {"attn.compressor.norm.weight", "self_attn.compressor.kv_norm.weight"},
    {"attn.indexer.wq_b.weight", "self_attn.compressor.indexer.q_b_proj.weight"},
    {"attn.indexer.wq_b.scale", "self_attn.compressor.indexer.q_b_proj.weight_scale_inv"},
    {"attn.indexer.weights_proj.weight", "self_attn.compressor.indexer.scorer.weights_proj.weight"},
    {"attn.indexer.compressor.wkv.weight", "self_attn.compressor.indexer.kv_proj.weight"},
    {"attn.indexer.compressor.wgate.weight", "self_attn.compressor.indexer.gate_proj.weight"},
    {"attn.indexer.compressor.ape", "self_attn.compressor.indexer.position_bias"},
    {"attn.indexer.compressor.norm.weight", "self_attn.compressor.indexer.kv_norm.weight"},
    {"ffn.gate.weight", "mlp.gate.weight"},
    {"ffn.gate.bias", "mlp.gate.e_score_correction_bias"},
    {"ffn.gate.tid2eid", "mlp.gate.tid2eid"},
    {"ffn.shared_experts.w1.weight", "mlp.shared_experts.gate_proj.weight"},
    {"ffn.shared_experts.w1.scale", "mlp.shared_experts.gate_proj.weight_scale_inv"},
    {"ffn.shared_experts.w2.weight", "mlp.shared_experts.down_proj.weight"},
    {"ffn.shared_experts.w2.scale", "mlp.shared_experts.down_proj.weight_scale_inv"},
    {"ffn.shared_experts.w3.weight", "mlp.shared_experts.up_proj.weight"},
    {"ffn.shared_experts.w3.scale", "mlp.shared_experts.up_proj.weight_scale_inv"},
    {"ffn.experts.0.w1.weight", "mlp.experts.0.gate_proj.weight"},
    {"ffn.experts.0.w1.scale", "mlp.experts.0.gate_proj.weight_scale_inv"},
    {"ffn.experts.1.w2.weight", "mlp.experts.1.down_proj.weight"},
    {"ffn.experts.1.w2.scale", "mlp.experts.1.down_proj.weight_scale_inv"},
    {"ffn.experts.2.w3.weight", "mlp.experts.2.up_proj.weight"},
    {"ffn.experts.2.w3.scale", "mlp.experts.2.up_proj.weight_scale_inv"},
};

#endif
