"""The configuration of models/nano, and transformers' model for it."""
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

CONFIG = {
    "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4",
    "vocab_size": 2944, "hidden_size": 256, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 512,
    "qk_rope_head_dim": 64, "q_lora_rank": 128, "o_lora_rank": 128, "o_groups": 2,
    "sliding_window": 128, "compress_ratios": [0, 4, 128, 4, 0, 0],
    "index_n_heads": 4, "index_head_dim": 128, "index_topk": 64,
    "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 128, "num_hash_layers": 1, "routed_scaling_factor": 1.5,
    "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "norm_topk_prob": True,
    "swiglu_limit": 10.0, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6,
    "rms_norm_eps": 1e-6, "rope_theta": 10000, "compress_rope_theta": 160000,
    "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536,
                     "beta_fast": 32, "beta_slow": 1},
    "max_position_embeddings": 8192, "num_nextn_predict_layers": 1, "tie_word_embeddings": False,
    "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16", "expert_dtype": "fp4",
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
                            "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
}
LAYER_KINDS = {0: "sliding_attention", 4: "compressed_sparse_attention",
               128: "heavily_compressed_attention"}
NOT_OF_TRANSFORMERS = ("compress_ratios", "rope_scaling", "quantization_config", "torch_dtype",
                       "expert_dtype", "topk_method", "architectures", "model_type",
                       "num_hash_layers", "num_hidden_layers")


def transformers_config(config, ratios, n_hash_layers):
    yarn = config["rope_scaling"]
    return DeepseekV4Config(
        **{key: value for key, value in config.items() if key not in NOT_OF_TRANSFORMERS},
        num_hidden_layers=len(ratios), layer_types=[LAYER_KINDS[r] for r in ratios],
        mlp_layer_types=["hash_moe" if i < n_hash_layers else "moe" for i in range(len(ratios))],
        rope_parameters={"rope_type": "yarn", "factor": float(yarn["factor"]),
                         "original_max_position_embeddings":
                             yarn["original_max_position_embeddings"],
                         "beta_fast": float(yarn["beta_fast"]),
                         "beta_slow": float(yarn["beta_slow"]),
                         "rope_theta": float(config["rope_theta"])},
        attn_implementation="eager", experts_implementation="eager")


def main_model(config):
    ratios = config["compress_ratios"][:config["num_hidden_layers"]]
    return DeepseekV4ForCausalLM(transformers_config(config, ratios, config["num_hash_layers"]))
