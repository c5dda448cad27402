"""The checkpoint: official names and formats out, dequantized float32 back in."""
import json
import os

import torch
from safetensors.torch import load_file, save_file

import quant
from config import main_model
from model import BF16, F32, FP4, FP8, Mtp, format_of

BLOCK_NAMES = (
    ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
    ("attn_hc.", "hc_attn_"), ("ffn_hc.", "hc_ffn_"),
    ("self_attn.compressor.indexer.scorer.weights_proj", "attn.indexer.weights_proj"),
    ("self_attn.compressor.indexer.q_b_proj", "attn.indexer.wq_b"),
    ("self_attn.compressor.indexer.", "attn.indexer.compressor."),
    ("self_attn.", "attn."), ("mlp.", "ffn."),
    ("q_a_proj", "wq_a"), ("q_a_norm", "q_norm"), ("q_b_proj", "wq_b"),
    ("o_a_proj", "wo_a"), ("o_b_proj", "wo_b"), ("sinks", "attn_sink"),
    ("compressor.kv_proj", "compressor.wkv"), ("compressor.gate_proj", "compressor.wgate"),
    ("compressor.kv_norm", "compressor.norm"), ("compressor.position_bias", "compressor.ape"),
    ("attn.kv_proj", "attn.wkv"), ("gate.e_score_correction_bias", "gate.bias"),
    ("shared_experts.gate_proj", "shared_experts.w1"),
    ("shared_experts.up_proj", "shared_experts.w3"),
    ("shared_experts.down_proj", "shared_experts.w2"),
)


def official_name(name):
    """Of a parameter or buffer of Nano; routed experts keep their own names."""
    for own, official in (("main.model.layers.", "layers."), ("mtp.block.", "mtp.0."),
                          ("mtp.", "mtp.0."), ("main.lm_head.", "head."),
                          ("main.model.embed_tokens.", "embed."), ("main.model.", "")):
        if name.startswith(own):
            name = official + name[len(own):]
            break
    if "layers." in name or name.startswith("mtp.0."):
        for own, official in BLOCK_NAMES:
            name = name.replace(own, official)
    return name.replace("hc_head.hc_", "hc_head_")


def to_ue8m0(exponent):
    return (exponent + 127).clamp(0, 254).to(torch.uint8).view(torch.float8_e8m0fnu)


def from_ue8m0(scale):
    return quant.power_of_two(scale.view(torch.uint8).to(torch.int32) - 127)


def put_expert_matrix(tensors, name, w):
    codes, exponent, _ = quant.fp4_rows(w)
    pairs = codes.view(*codes.shape[:-1], -1, 2).to(torch.uint8)
    tensors[name + ".weight"] = (pairs[..., 0] | (pairs[..., 1] << 4)).view(torch.int8)
    tensors[name + ".scale"] = to_ue8m0(exponent)


def official_tensors(state):
    """State dictionary of Nano -> tensors of the checkpoint"""
    tensors = {}
    for name, w in state.items():
        if "inv_freq" in name:
            continue
        own, kind = official_name(name), format_of(name)
        if name.endswith("tid2eid"):
            tensors[own] = w.to(torch.int64)
        elif name.endswith("e_score_correction_bias"):
            tensors[own] = w.float()
        elif kind == FP4:
            base, part = own.rsplit(".", 1)
            for e, matrix in enumerate(w):
                if part == "gate_up_proj":
                    for key, half in zip(("w1", "w3"), matrix.chunk(2)):
                        put_expert_matrix(tensors, f"{base}.{e}.{key}", half)
                else:
                    put_expert_matrix(tensors, f"{base}.{e}.w2", matrix)
        elif kind == FP8:
            codes, exponent, _ = quant.fp8_blocks(w)
            tensors[own], tensors[own.replace(".weight", ".scale")] = codes, to_ue8m0(exponent)
        else:
            tensors[own] = w.to(torch.bfloat16 if kind == BF16 else torch.float32)
    return {name: w.cpu().contiguous() for name, w in tensors.items()}


def write(folder, config, state):
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/config.json", "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)
        file.write("\n")
    save_file(official_tensors(state), f"{folder}/model.safetensors")


def expert_matrix(tensors, name):
    packed = tensors[name + ".weight"].view(torch.uint8)
    codes = torch.stack([packed & 15, packed >> 4], -1).flatten(-2).long()
    values = torch.tensor([*quant.E2M1, *(-x for x in quant.E2M1)])[codes]
    return values * from_ue8m0(tensors[name + ".scale"]).repeat_interleave(32, 1)


def read(folder):
    """-> config, transformers' model and the MTP block, both in float32 as transformers has them"""
    with open(f"{folder}/config.json", encoding="utf-8") as file:
        config = json.load(file)
    tensors = load_file(f"{folder}/model.safetensors")
    parts = torch.nn.ModuleDict({"main": main_model(config), "mtp": Mtp(config)})
    state, used = {}, set()
    for name, like in parts.state_dict().items():
        own = official_name(name)
        if own in tensors:
            w = tensors[own]
            used.add(own)
            if w.dtype == torch.float8_e4m3fn:
                scale_name = own.replace(".weight", ".scale")
                used.add(scale_name)
                scale = from_ue8m0(tensors[scale_name])
                scale = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
                w = w.float() * scale[:w.shape[0], :w.shape[1]]
            state[name] = w if w.dtype == torch.int64 else w.float()
        elif "experts" in own:
            base, part = own.rsplit(".", 1)
            keys = ("w1", "w3") if part == "gate_up_proj" else ("w2",)
            used |= {f"{base}.{e}.{key}.{kind}" for e in range(len(like)) for key in keys
                     for kind in ("weight", "scale")}
            state[name] = torch.stack([
                torch.cat([expert_matrix(tensors, f"{base}.{e}.{key}") for key in keys])
                for e in range(len(like))])
        else:
            raise KeyError(f"{folder}: tensor {own} is missing")
    assert used == set(tensors), set(tensors) - used
    parts.load_state_dict(state)
    return config, parts["main"].float().eval(), parts["mtp"].float().eval()
