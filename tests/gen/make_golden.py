#!/usr/bin/env python3
"""Make a random DeepSeek-V4 checkpoint and the logits that Hugging Face transformers computes for it.

The checkpoint has the official tensor names, types and config.json keys: FP8 e4m3 weights with ue8m0
scales per 128 x 128, FP4 e2m1 experts with ue8m0 scales per 32, BF16, F32. The answer is that of
transformers' DeepseekV4ForCausalLM in float32 on the dequantized weights: nothing is quantized on
the way, and there is no Hadamard rotation. An engine that computes in float32 agrees to rounding.

Where a router or an indexer chooses between nearly equal scores, rounding decides and the answer
says nothing; such seeds are passed over: --seed is the first that is tried.

Needs torch, numpy, safetensors >= 0.6, transformers >= 5.17 (which has the model type deepseek_v4).
Writes OUT/config.json, OUT/model.safetensors and OUT/golden.safetensors:
  tokens      I32 [T]
  logits      F32 [T][vocab]      teacher forcing; row t predicts token t + 1
  mtp_logits  F32 [T - 1][vocab]  with --mtp: row i, from the streams of position i and token i + 1,
                                  predicts token i + 2. transformers ignores the MTP block; here its
                                  parts are put together as the specification has them (section 6).
The fixtures of this tree are made by make_model_fixtures.sh.
"""
import argparse
import json
import os

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

HEAD_DIM, ROPE_DIM, INDEX_DIM, N_STREAMS = 512, 64, 128, 4
E2M1 = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])
LAYER_KINDS = {0: "sliding_attention", 4: "compressed_sparse_attention",
               128: "heavily_compressed_attention"}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--layers", default="0,4,128,4", help="compress ratio of each layer")
    for name, default in (("seed", 1), ("tokens", 300), ("hidden", 256), ("heads", 8),
                          ("groups", 2), ("q-lora", 128), ("o-lora", 128), ("index-heads", 4),
                          ("index-topk", 64), ("experts", 8), ("topk", 2), ("inter", 128),
                          ("hash-layers", 1), ("vocab", 512), ("yarn-orig", 256)):
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--route-scale", type=float, default=1.5)
    parser.add_argument("--swiglu-limit", type=float, default=10.0)
    parser.add_argument("--min-gap", type=float, default=1e-4,
                        help="least gap at a choice, relative to the largest score")
    parser.add_argument("--mtp", action="store_true")
    return parser.parse_args()


def make_config(a, ratios):
    return {
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4",
        "vocab_size": a.vocab, "hidden_size": a.hidden, "num_hidden_layers": len(ratios),
        "num_attention_heads": a.heads, "num_key_value_heads": 1, "head_dim": HEAD_DIM,
        "qk_rope_head_dim": ROPE_DIM, "q_lora_rank": a.q_lora, "o_lora_rank": a.o_lora,
        "o_groups": a.groups, "sliding_window": 128, "compress_ratios": ratios + [0],
        "index_n_heads": a.index_heads, "index_head_dim": INDEX_DIM, "index_topk": a.index_topk,
        "n_routed_experts": a.experts, "num_experts_per_tok": a.topk, "n_shared_experts": 1,
        "moe_intermediate_size": a.inter, "num_hash_layers": a.hash_layers,
        "routed_scaling_factor": a.route_scale, "scoring_func": "sqrtsoftplus",
        "topk_method": "noaux_tc", "norm_topk_prob": True, "swiglu_limit": a.swiglu_limit,
        "hc_mult": N_STREAMS, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "rms_norm_eps": 1e-6,
        "rope_theta": 10000, "compress_rope_theta": 160000,
        "rope_scaling": {"type": "yarn", "factor": 16, "beta_fast": 32, "beta_slow": 1,
                         "original_max_position_embeddings": a.yarn_orig},
        "max_position_embeddings": a.yarn_orig * 16, "num_nextn_predict_layers": int(a.mtp),
        "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
        "torch_dtype": "bfloat16", "expert_dtype": "fp4",
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
                                "weight_block_size": [128, 128],
                                "activation_scheme": "dynamic"},
    }


def scale_exponent(amax, max_code):
    """Exponent of the smallest power of two that is >= amax / max_code."""
    return torch.ceil(torch.log2((amax / max_code).clamp_min(2.0 ** -126))).to(torch.int32)


def to_ue8m0(exponent):
    return (exponent + 127).clamp(0, 254).to(torch.uint8).view(torch.float8_e8m0fnu)


def fp8_block(w):
    """[n, k] -> e4m3 [n, k], ue8m0 [ceil(n / 128), ceil(k / 128)], dequantized [n, k]"""
    n, k = w.shape
    rows, columns = -(-n // 128), -(-k // 128)
    padded = torch.zeros(rows * 128, columns * 128)
    padded[:n, :k] = w
    blocks = padded.view(rows, 128, columns, 128)
    exponent = scale_exponent(blocks.abs().amax(dim=(1, 3)), 448)
    scale = torch.exp2(exponent.float())[:, None, :, None]
    codes = (blocks / scale).to(torch.float8_e4m3fn)
    values = (codes.float() * scale).view(rows * 128, columns * 128)[:n, :k].contiguous()
    return codes.view(rows * 128, columns * 128)[:n, :k].contiguous(), to_ue8m0(exponent), values


def fp4_rows(w):
    """[n, k] -> two codes per byte [n, k / 2], ue8m0 [n, k / 32], dequantized [n, k]"""
    n, k = w.shape
    groups = w.view(n, k // 32, 32)
    exponent = scale_exponent(groups.abs().amax(-1), 6)
    scale = torch.exp2(exponent.float())[..., None]
    codes = ((groups / scale)[..., None] - E2M1).abs().argmin(-1)
    values = (E2M1[codes] * scale).view(n, k)
    codes = codes.view(n, k // 2, 2)
    packed = (codes[..., 0] | (codes[..., 1] << 4)).to(torch.uint8).view(torch.int8).contiguous()
    return packed, to_ue8m0(exponent), values


class Checkpoint:
    """Tensors under their official names, and in float32 under those of transformers."""

    def __init__(self, a, ratios, seed):
        self.a, self.rng = a, np.random.default_rng(seed)
        self.official, self.float32 = {}, {}
        self.matrix("embed.weight", "model.embed_tokens.weight", self.normal(a.vocab, a.hidden))
        self.matrix("head.weight", "lm_head.weight", self.linear(a.vocab, a.hidden, 3.0))
        self.matrix("norm.weight", "model.norm.weight", self.norm(a.hidden))
        self.head("", "model.hc_head.hc_")
        for i, ratio in enumerate(ratios):
            self.block(f"layers.{i}.", f"model.layers.{i}.", ratio, i < a.hash_layers)
        if a.mtp:
            self.mtp_block("mtp.0.", "mtp.")

    def normal(self, *shape, std=1.0):
        return torch.from_numpy(self.rng.standard_normal(shape, np.float32) * np.float32(std))

    def linear(self, n, k, gain=1.0):
        return self.normal(n, k, std=gain * k ** -0.5)

    def norm(self, n, mean=1.0):
        return mean * (1 + self.normal(n, std=0.2))

    def fp8(self, name, other, w):
        codes, scale, values = fp8_block(w)
        self.official[name + ".weight"], self.official[name + ".scale"] = codes, scale
        self.float32[other] = values

    def matrix(self, name, other, w):
        self.official[name] = w.to(torch.bfloat16)
        self.float32[other] = self.official[name].float()

    def exact(self, name, other, w):
        self.official[name] = w.contiguous()
        self.float32[other] = w.clone()

    def head(self, name, other):
        width = N_STREAMS * self.a.hidden
        self.exact(name + "hc_head_fn", other + "fn", self.linear(N_STREAMS, width))
        self.exact(name + "hc_head_base", other + "base", self.normal(N_STREAMS, std=.5))
        self.exact(name + "hc_head_scale", other + "scale", 1 + self.normal(1, std=.1))

    def hyper(self, name, other):
        n = (2 + N_STREAMS) * N_STREAMS
        self.exact(name + "_fn", other + ".fn", self.linear(n, N_STREAMS * self.a.hidden))
        self.exact(name + "_base", other + ".base", self.normal(n, std=.7))
        self.exact(name + "_scale", other + ".scale", 1 + self.normal(3, std=.1))

    def compressor(self, name, other, ratio, dim, gain):
        n = (2 if ratio == 4 else 1) * dim
        self.matrix(name + "wkv.weight", other + "kv_proj.weight", self.linear(n, self.a.hidden))
        self.matrix(name + "wgate.weight", other + "gate_proj.weight",
                    self.linear(n, self.a.hidden, 1.5))
        self.exact(name + "ape", other + "position_bias", self.normal(ratio, n))
        self.matrix(name + "norm.weight", other + "kv_norm.weight", self.norm(dim, gain))

    def attention(self, name, other, ratio):
        a = self.a
        self.fp8(name + "wq_a", other + "q_a_proj.weight", self.linear(a.q_lora, a.hidden))
        self.matrix(name + "q_norm.weight", other + "q_a_norm.weight", self.norm(a.q_lora))
        self.fp8(name + "wq_b", other + "q_b_proj.weight",
                 self.linear(a.heads * HEAD_DIM, a.q_lora))
        self.fp8(name + "wkv", other + "kv_proj.weight", self.linear(HEAD_DIM, a.hidden))
        self.matrix(name + "kv_norm.weight", other + "kv_norm.weight", self.norm(HEAD_DIM, 2.5))
        self.exact(name + "attn_sink", other + "sinks", self.normal(a.heads, std=2.0))
        self.fp8(name + "wo_a", other + "o_a_proj.weight",
                 self.linear(a.groups * a.o_lora, a.heads * HEAD_DIM // a.groups))
        self.fp8(name + "wo_b", other + "o_b_proj.weight",
                 self.linear(a.hidden, a.groups * a.o_lora))
        if ratio > 0:
            self.compressor(name + "compressor.", other + "compressor.", ratio, HEAD_DIM, 2.5)
        if ratio == 4:
            name, other = name + "indexer.", other + "compressor.indexer."
            self.compressor(name + "compressor.", other, ratio, INDEX_DIM, 1.0)
            self.fp8(name + "wq_b", other + "q_b_proj.weight",
                     self.linear(a.index_heads * INDEX_DIM, a.q_lora, 2.0))
            self.matrix(name + "weights_proj.weight", other + "scorer.weights_proj.weight",
                        self.linear(a.index_heads, a.hidden))

    def experts(self, name, other, is_hashed):
        a = self.a
        shapes = {"w1": (a.inter, a.hidden), "w3": (a.inter, a.hidden), "w2": (a.hidden, a.inter)}
        self.matrix(name + "gate.weight", other + "gate.weight", self.linear(a.experts, a.hidden))
        if is_hashed:
            table = np.stack([self.rng.permutation(a.experts)[:a.topk] for _ in range(a.vocab)])
            self.official[name + "gate.tid2eid"] = torch.from_numpy(table.astype(np.int64))
            self.float32[other + "gate.tid2eid"] = self.official[name + "gate.tid2eid"].clone()
        else:
            self.exact(name + "gate.bias", other + "gate.e_score_correction_bias",
                       self.normal(a.experts, std=.2))
        inner, outer = [], []
        for e in range(a.experts):
            values = {}
            for part, shape in shapes.items():
                key = f"{name}experts.{e}.{part}."
                packed, scale, values[part] = fp4_rows(self.linear(*shape, 1.5))
                self.official[key + "weight"], self.official[key + "scale"] = packed, scale
            inner.append(torch.cat([values["w1"], values["w3"]]))
            outer.append(values["w2"])
        self.float32[other + "experts.gate_up_proj"] = torch.stack(inner)
        self.float32[other + "experts.down_proj"] = torch.stack(outer)
        for part, long_name in (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")):
            self.fp8(f"{name}shared_experts.{part}", f"{other}shared_experts.{long_name}.weight",
                     self.linear(*shapes[part], 1.5))

    def block(self, name, other, ratio, is_hashed):
        self.matrix(name + "attn_norm.weight", other + "input_layernorm.weight",
                    self.norm(self.a.hidden))
        self.matrix(name + "ffn_norm.weight", other + "post_attention_layernorm.weight",
                    self.norm(self.a.hidden))
        self.hyper(name + "hc_attn", other + "attn_hc")
        self.hyper(name + "hc_ffn", other + "ffn_hc")
        self.attention(name + "attn.", other + "self_attn.", ratio)
        self.experts(name + "ffn.", other + "mlp.", is_hashed)

    def mtp_block(self, name, other):
        self.block(name, other + "model.layers.0.", 0, False)
        for part in ("e_proj", "h_proj"):
            self.fp8(name + part, other + part, self.linear(self.a.hidden, self.a.hidden))
        for part in ("enorm", "hnorm"):
            self.matrix(f"{name}{part}.weight", other + part, self.norm(self.a.hidden))
        self.matrix(name + "norm.weight", other + "model.norm.weight", self.norm(self.a.hidden))
        self.head(name, other + "model.hc_head.hc_")


class Gaps:
    """While active, watches every torch topk: the least gap between what is chosen and what not."""

    def __enter__(self):
        self.least, self.plain = float("inf"), torch.Tensor.topk
        self.function = torch.topk
        torch.Tensor.topk = torch.topk = lambda *args, **options: self.topk(*args, **options)
        return self

    def __exit__(self, *_):
        torch.Tensor.topk, torch.topk = self.plain, self.function

    def topk(self, scores, k, dim=-1, **options):
        if k < scores.shape[-1]:
            best = self.plain(scores, k + 1, dim=-1).values
            largest = scores.masked_fill(scores.isinf(), 0).abs().amax(-1)
            gap = (best[..., k - 1] - best[..., k]) / largest
            self.least = min(self.least, gap.nan_to_num(nan=torch.inf).min().item())
        return self.plain(scores, k, dim=dim, **options)


def make_model(config, ratios, float32):
    """transformers' model with these tensors, which must be all that it asks for"""
    dropped = ("compress_ratios", "rope_scaling", "quantization_config", "torch_dtype",
               "expert_dtype", "topk_method", "architectures", "model_type", "num_hash_layers",
               "num_hidden_layers")
    yarn = config["rope_scaling"]
    n_hashed = config["num_hash_layers"]
    made = DeepseekV4Config(
        **{key: value for key, value in config.items() if key not in dropped},
        num_hidden_layers=len(ratios), layer_types=[LAYER_KINDS[r] for r in ratios],
        mlp_layer_types=["hash_moe" if i < n_hashed else "moe" for i in range(len(ratios))],
        rope_parameters={"rope_type": "yarn", "factor": float(yarn["factor"]),
                         "original_max_position_embeddings":
                             yarn["original_max_position_embeddings"],
                         "beta_fast": 32.0, "beta_slow": 1.0, "rope_theta": 10000.0},
        attn_implementation="eager", experts_implementation="eager")
    model = DeepseekV4ForCausalLM(made).float().eval()
    missing, unexpected = model.load_state_dict(float32, strict=False)
    assert not unexpected and all("inv_freq" in name for name in missing), (missing, unexpected)
    return model


def rms_norm(x, weight, eps):
    return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))


def run_mtp(config, float32, tokens, streams):
    """streams [1, T, 4, d] after the model's last layer -> logits [T - 1, vocab]"""
    own = {name[4:]: value for name, value in float32.items() if name.startswith("mtp.")}
    e_proj, h_proj, enorm, hnorm = (own.pop(key) for key in ("e_proj", "h_proj", "enorm", "hnorm"))
    own["model.embed_tokens.weight"] = float32["model.embed_tokens.weight"]
    own["lm_head.weight"] = float32["lm_head.weight"]
    block = make_model({**config, "num_hash_layers": 0}, [0], own)
    eps = config["rms_norm_eps"]
    following = own["model.embed_tokens.weight"][tokens[1:].long()]
    entering = (rms_norm(following, enorm, eps) @ e_proj.T)[None, :, None] + \
        rms_norm(streams[:, :-1], hnorm, eps) @ h_proj.T
    block.model.layers[0].register_forward_pre_hook(
        lambda layer, arguments: (entering, *arguments[1:]))
    return block(tokens[1:].long()[None], use_cache=False).logits[0]


def run(config, ratios, checkpoint, tokens):
    """-> dictionary of logits, least gap of all choices"""
    own = {k: v for k, v in checkpoint.float32.items() if not k.startswith("mtp.")}
    model, kept = make_model(config, ratios, own), {}
    model.model.layers[-1].register_forward_hook(
        lambda layer, arguments, out: kept.update(streams=out))
    with torch.no_grad(), Gaps() as gaps:
        logits = {"logits": model(tokens.long()[None], use_cache=False).logits[0].contiguous()}
        if config["num_nextn_predict_layers"]:
            mtp = run_mtp(config, checkpoint.float32, tokens, kept["streams"])
            logits["mtp_logits"] = mtp.contiguous()
    return logits, gaps.least


def main():
    a = parse_args()
    ratios = [int(ratio) for ratio in a.layers.split(",")]
    config = make_config(a, ratios)
    for seed in range(a.seed, a.seed + 1000):
        checkpoint = Checkpoint(a, ratios, seed)
        tokens = torch.from_numpy(checkpoint.rng.integers(2, a.vocab, a.tokens, np.int32))
        tokens[0] = 0
        logits, least_gap = run(config, ratios, checkpoint, tokens)
        if least_gap >= a.min_gap:
            break
    os.makedirs(a.out, exist_ok=True)
    with open(f"{a.out}/config.json", "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)
        file.write("\n")
    save_file({k: v.contiguous() for k, v in checkpoint.official.items()},
              f"{a.out}/model.safetensors")
    save_file({"tokens": tokens, **logits}, f"{a.out}/golden.safetensors")
    print(f"{a.out}: seed {seed}, least gap {least_gap:.2e}, "
          f"{os.path.getsize(a.out + '/model.safetensors')} bytes, "
          f"logits of standard deviation {logits['logits'].std().item():.2f}")


if __name__ == "__main__":
    main()
