#!/usr/bin/env python3
"""Logits of a DeepSeek-V4 checkpoint under the official numerics, in numpy.

A reading of the specification of its own: nothing here calls or is generated from the library. The
whole prompt is computed at once; there is no cache. Arrays are float32 and hold bf16 values wherever
DeepSeek's code rounds: after every matrix product, norm, rotation and sum of streams; GEMM inputs
pass the FP8 quantizer (groups of 128), keys the FP8 one (64), indexer queries and keys Hadamard and
the FP4 one (32). Scores of the indexer and probabilities are rounded where that code rounds them.

Two evaluations that sum in different orders differ in the last bit here and there, a quantizer or a
choice among experts or keys then turns that into a visible difference; so answers agree closely for
most tokens and not for all, and only checkpoints of one layer or two are worth comparing.

usage: official_ref.py DIR            adds official_logits [T][vocab] and, with an MTP block,
                                      official_mtp_logits [T - 1][vocab] to DIR/golden.safetensors
       official_ref.py DIR --compare FILE
                                      compares with logits and mtp_logits of a safetensors file
"""
import argparse
import json
import math
import struct

import numpy as np

F32 = np.float32
HEAD_DIM, ROPE_DIM, INDEX_DIM, WINDOW, N_STREAMS = 512, 64, 128, 128, 4
TYPES = {"F32": F32, "I32": np.int32, "I64": np.int64, "BF16": np.uint16, "I8": np.uint8,
         "F8_E4M3": np.uint8, "F8_E8M0": np.uint8}


# Files.

def read_safetensors(path):
    """-> dictionary: name -> (dtype name, array)"""
    with open(path, "rb") as file:
        data = file.read()
    n_header = struct.unpack("<Q", data[:8])[0]
    header, tensors = json.loads(data[8:8 + n_header]), {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + n_header + at for at in entry["data_offsets"])
            array = np.frombuffer(data[begin:end], TYPES[entry["dtype"]])
            tensors[name] = entry["dtype"], array.reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape),
                        "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())


# Formats (3.8, 5.3).

def bf16(x):
    bits = np.ascontiguousarray(x, F32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(F32)


def e4m3_values():
    codes = np.arange(128)
    exponent, mantissa = codes >> 3, codes & 7
    values = np.where(exponent == 0, mantissa * 2.0 ** -9,
                      (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    return values[:127].astype(F32)  # the last is NaN


E4M3 = e4m3_values()
E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6], F32)


def round_to(values, x):
    """Nearest of the sorted values by magnitude, ties to the even code, clamped to the largest."""
    magnitude = np.minimum(np.abs(x), values[-1])
    high = np.searchsorted(values, magnitude).clip(1, len(values) - 1)
    low = high - 1
    middle = (values[low] + values[high]) / 2
    takes_high = (magnitude > middle) | ((magnitude == middle) & (high % 2 == 0))
    return np.copysign(np.where(takes_high, values[high], values[low]), x).astype(F32)


def fakequant(x, group, values, floor):
    """Groups of the last axis, each with the power of two that is at least amax / largest code."""
    n = x.shape[-1]
    if n % group != 0:  # the rest is a group of its own
        whole = n - n % group
        parts = [x[..., :whole], x[..., whole:]] if whole > 0 else [x]
        return np.concatenate([fakequant(p, min(group, p.shape[-1]), values, floor)
                               for p in parts], -1) if whole > 0 else \
            fakequant(x, n, values, floor)
    groups = x.reshape(*x.shape[:-1], n // group, group)
    amax = np.maximum(np.abs(groups).max(-1, keepdims=True), F32(floor))
    ratio = (amax * F32(1 / values[-1])).astype(F32)
    mantissa, exponent = np.frexp(ratio)  # ratio = mantissa * 2^exponent, 0.5 <= mantissa < 1
    scale = np.ldexp(F32(1), np.where(mantissa == 0.5, exponent - 1, exponent)).astype(F32)
    return bf16(round_to(values, groups / scale) * scale).reshape(x.shape)


def quant_fp8(x, group):
    return fakequant(x, group, E4M3, 1e-4)


def quant_fp4(x):
    return fakequant(x, 32, E2M1, 6 * 2.0 ** -126)


def hadamard(x):
    a = np.arange(INDEX_DIM)
    ones = np.array([bin(i).count("1") for i in range(INDEX_DIM)])
    signs = 1 - 2 * (ones[a[:, None] & a[None]] % 2)
    return bf16(x @ (signs * INDEX_DIM ** -0.5).astype(F32))


# Rotation (3.1).

def frequencies(config, is_compressed):
    i = np.arange(ROPE_DIM // 2, dtype=np.float64)
    if not is_compressed:
        return (config["rope_theta"] ** (-2 * i / ROPE_DIM)).astype(F32)
    theta, yarn = config["compress_rope_theta"], config["rope_scaling"]
    plain = theta ** (-2 * i / ROPE_DIM)

    def pair_of(n_turns):
        length = yarn["original_max_position_embeddings"]
        return ROPE_DIM * math.log(length / (n_turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_of(yarn["beta_fast"])), 0)
    high = min(math.ceil(pair_of(yarn["beta_slow"])), ROPE_DIM - 1)
    ramp = np.clip((i - low) / max(high - low, 0.001), 0, 1)
    return (plain / yarn["factor"] * ramp + plain * (1 - ramp)).astype(F32)


def rotate(x, positions, freqs, sign=1):
    """Turns the last 64 of x [T, ..., n] by their positions [T] and rounds them."""
    angles = positions.astype(F32)[:, None] * freqs
    angles = angles.reshape(len(positions), *[1] * (x.ndim - 2), ROPE_DIM // 2).astype(np.float64)
    cosine, sine = np.cos(angles).astype(F32), np.sin(sign * angles).astype(F32)
    even, odd = x[..., -ROPE_DIM::2], x[..., -ROPE_DIM + 1::2]
    out = x.copy()
    out[..., -ROPE_DIM::2] = bf16(even * cosine - odd * sine)
    out[..., -ROPE_DIM + 1::2] = bf16(even * sine + odd * cosine)
    return out


def softmax(x, axis):
    shifted = np.exp(x - x.max(axis, keepdims=True))
    return shifted / shifted.sum(axis, keepdims=True)


def sigmoid(x):
    return F32(1) / (F32(1) + np.exp(-x))


class Model:
    def __init__(self, folder):
        with open(f"{folder}/config.json", encoding="utf-8") as file:
            self.config = json.load(file)
        self.tensors = read_safetensors(f"{folder}/model.safetensors")
        self.eps = F32(self.config["rms_norm_eps"])

    def get(self, name):
        dtype, array = self.tensors[name]
        return (array.astype(np.uint32) << 16).view(F32) if dtype == "BF16" else array

    def matrix(self, name):
        """Dequantized weights of name.weight."""
        dtype, codes = self.tensors[name + ".weight"]
        if dtype == "BF16":
            return self.get(name + ".weight")
        scales = np.ldexp(F32(1), self.get(name + ".scale").astype(np.int32) - 127)
        if dtype == "I8":
            pairs = np.stack([codes & 15, codes >> 4], -1).reshape(len(codes), -1)
            values = np.concatenate([E2M1, -E2M1])[pairs]
            return (values * np.repeat(scales, 32, 1)).astype(F32)
        signed = np.concatenate([E4M3, [np.nan], -E4M3, [np.nan]]).astype(F32)[codes]
        scales = np.repeat(np.repeat(scales, 128, 0), 128, 1)
        return signed * scales[:codes.shape[0], :codes.shape[1]]

    def linear(self, name, x):
        """A quantized product: x through the FP8 quantizer, the result rounded."""
        return bf16(quant_fp8(x, 128) @ self.matrix(name).T)

    def norm(self, x, name):
        scale = 1 / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.eps)
        return bf16(x * scale * self.get(name + ".weight"))

    # Hyper-connections and head (2).

    def projected(self, streams, name):
        x = streams.reshape(len(streams), -1)
        scale = 1 / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.eps)
        return (x @ self.get(name + "_fn").T) * scale

    def enter(self, streams, name):
        """-> collapsed [T, d], post [T, 4], comb [T, source, destination]"""
        m, base, scale = self.projected(streams, name), self.get(name + "_base"), \
            self.get(name + "_scale")
        eps = F32(self.config["hc_eps"])
        pre = sigmoid(m[:, :4] * scale[0] + base[:4]) + eps
        post = 2 * sigmoid(m[:, 4:8] * scale[1] + base[4:8])
        comb = softmax((m[:, 8:] * scale[2] + base[8:]).reshape(-1, 4, 4), 2) + eps
        comb /= comb.sum(1, keepdims=True) + eps
        for _ in range(self.config["hc_sinkhorn_iters"] - 1):
            comb /= comb.sum(2, keepdims=True) + eps
            comb /= comb.sum(1, keepdims=True) + eps
        return bf16((pre[:, :, None] * streams).sum(1)), post, comb

    @staticmethod
    def leave(streams, sublayer, post, comb):
        mixed = (comb[..., None] * streams[:, :, None]).sum(1)
        return bf16(post[..., None] * sublayer[:, None] + mixed)

    def head(self, streams, name, norm):
        base, scale = self.get(name + "hc_head_base"), self.get(name + "hc_head_scale")
        m = self.projected(streams, name + "hc_head")
        pre = sigmoid(m * scale[0] + base) + F32(self.config["hc_eps"])
        h = self.norm(bf16((pre[:, :, None] * streams).sum(1)), norm)
        return h @ self.get("head.weight").T

    # Attention (3).

    def compress(self, x, name, ratio, freqs):
        """Compressed keys [n, dim] of groups 0 .. n - 1, rotated, not yet quantized (3.6)."""
        k, g = x @ self.matrix(name + "wkv").T, x @ self.matrix(name + "wgate").T
        n, dim = len(x) // ratio, len(self.get(name + "norm.weight"))
        k = k[:n * ratio].reshape(n, ratio, -1)
        g = g[:n * ratio].reshape(n, ratio, -1) + self.get(name + "ape")
        if ratio == 4:
            before_k = np.concatenate([np.zeros_like(k[:1]), k[:-1]])[..., :dim]
            before_g = np.concatenate([np.full_like(g[:1], -np.inf), g[:-1]])[..., :dim]
            k = np.concatenate([before_k, k[..., dim:]], 1)
            g = np.concatenate([before_g, g[..., dim:]], 1)
        pooled = bf16((softmax(g, 1) * k).sum(1))
        return rotate(self.norm(pooled, name + "norm"), np.arange(n) * ratio, freqs)

    def choose(self, x, q_low, name, freqs):
        """Which compressed-4 keys each token attends to: bool [T, n] (3.7)."""
        n_heads, k = self.config["index_n_heads"], self.config["index_topk"]
        positions = np.arange(len(x))
        keys = quant_fp4(hadamard(self.compress(x, name + "compressor.", 4, freqs)))
        q = self.linear(name + "wq_b", q_low).reshape(len(x), n_heads, INDEX_DIM)
        q = quant_fp4(hadamard(rotate(q, positions, freqs)))
        weights = bf16(x @ self.matrix(name + "weights_proj").T)
        weights = bf16(weights * F32(INDEX_DIM ** -0.5 * n_heads ** -0.5))
        dots = np.maximum(bf16(np.einsum("thd,nd->thn", q, keys)), 0)
        scores = bf16(bf16(dots * weights[..., None]).sum(1))
        visible = np.arange(len(keys)) < ((positions + 1) // 4)[:, None]
        scores = np.where(visible, scores, -np.inf)
        order = np.argsort(-scores, 1, kind="stable")[:, :k]
        chosen = np.zeros_like(visible)
        np.put_along_axis(chosen, order, True, 1)
        return chosen & visible

    def attend(self, q, keys, allowed, sink):
        """q [T, H, 512], keys [n, 512], allowed [T, n] -> [T, H, 512] (3.4)"""
        scores = np.einsum("thd,nd->thn", q, keys) * F32(HEAD_DIM ** -0.5)
        scores = np.where(allowed[:, None], scores, -np.inf)
        largest = scores.max(-1, keepdims=True)
        p = np.exp(scores - largest)
        total = p.sum(-1, keepdims=True) + np.exp(sink[:, None] - largest)
        return bf16(np.einsum("thn,nd->thd", bf16(p), keys) / total)

    def query(self, low, name, freqs):
        q = self.linear(name + "wq_b", low).reshape(len(low), -1, HEAD_DIM)
        mean = bf16(bf16(q * q).mean(-1, keepdims=True, dtype=F32))  # on bf16 tensors, 3.2
        q = bf16(q * bf16(1 / np.sqrt(bf16(mean + self.eps))))
        return rotate(q, np.arange(len(low)), freqs)

    @staticmethod
    def quant_keys(keys):
        nope = HEAD_DIM - ROPE_DIM
        return np.concatenate([quant_fp8(keys[:, :nope], 64), keys[:, nope:]], 1)

    def attention(self, x, name, ratio):
        positions, freqs = np.arange(len(x)), frequencies(self.config, ratio > 0)
        low = self.norm(self.linear(name + "wq_a", x), name + "q_norm")
        keys = self.norm(self.linear(name + "wkv", x), name + "kv_norm")
        keys = self.quant_keys(rotate(keys, positions, freqs))
        distance = positions[:, None] - positions
        allowed = (distance >= 0) & (distance < WINDOW)
        if ratio > 0:
            extra = self.quant_keys(self.compress(x, name + "compressor.", ratio, freqs))
            seen = np.arange(len(extra)) < ((positions + 1) // ratio)[:, None]
            if ratio == 4:
                seen = self.choose(x, low, name + "indexer.", freqs)
            keys, allowed = np.concatenate([keys, extra]), np.concatenate([allowed, seen], 1)
        q = self.query(low, name, freqs)
        out = self.attend(q, keys, allowed, self.get(name + "attn_sink"))
        out = rotate(out, positions, freqs, -1).reshape(len(x), self.config["o_groups"], -1)
        wo_a = self.matrix(name + "wo_a").reshape(self.config["o_groups"], -1, out.shape[-1])
        out = bf16(np.einsum("tgi,goi->tgo", out, wo_a))  # not quantized, 3.5
        return self.linear(name + "wo_b", out.reshape(len(x), -1))

    # Experts (5).

    def expert(self, x, name, weights):
        limit = F32(self.config["swiglu_limit"])
        gate = np.minimum(self.linear(name + "w1", x), limit)
        up = np.clip(self.linear(name + "w3", x), -limit, limit)
        hidden = gate * sigmoid(gate) * up
        return self.linear(name + "w2", bf16(hidden if weights is None else hidden * weights))

    def experts(self, x, tokens, name, is_hashed):
        k = self.config["num_experts_per_tok"]
        scores = x @ self.matrix(name + "gate").T
        scores = np.sqrt(np.where(scores > 20, scores, np.log1p(np.exp(np.minimum(scores, 20)))))
        if is_hashed:
            chosen = self.get(name + "gate.tid2eid")[tokens]
        else:
            chosen = np.argsort(-(scores + self.get(name + "gate.bias")), 1, kind="stable")[:, :k]
        weights = np.take_along_axis(scores, chosen, 1)
        weights = weights / weights.sum(1, keepdims=True) * F32(
            self.config["routed_scaling_factor"])
        out = np.zeros_like(x)
        for e in range(self.config["n_routed_experts"]):
            rows, places = np.nonzero(chosen == e)
            if len(rows) > 0:
                out[rows] += self.expert(x[rows], f"{name}experts.{e}.",
                                         weights[rows, places][:, None])
        return bf16(out + self.expert(x, name + "shared_experts.", None))

    # The whole.

    def block(self, streams, tokens, name, ratio, is_hashed):
        x, post, comb = self.enter(streams, name + "hc_attn")
        out = self.attention(self.norm(x, name + "attn_norm"), name + "attn.", ratio)
        streams = self.leave(streams, out, post, comb)
        x, post, comb = self.enter(streams, name + "hc_ffn")
        out = self.experts(self.norm(x, name + "ffn_norm"), tokens, name + "ffn.", is_hashed)
        return self.leave(streams, out, post, comb)

    def run(self, tokens):
        """-> logits [T, vocab], logits of the MTP block [T - 1, vocab] or None"""
        embedded = self.get("embed.weight")[tokens]
        streams = np.repeat(embedded[:, None], N_STREAMS, 1)
        for i in range(self.config["num_hidden_layers"]):
            streams = self.block(streams, tokens, f"layers.{i}.",
                                 self.config["compress_ratios"][i],
                                 i < self.config["num_hash_layers"])
        logits = self.head(streams, "", "norm")
        if self.config["num_nextn_predict_layers"] == 0:
            return logits, None
        following = self.linear("mtp.0.e_proj", self.norm(embedded[1:], "mtp.0.enorm"))
        entering = self.linear("mtp.0.h_proj", self.norm(streams[:-1], "mtp.0.hnorm"))
        streams = self.block(bf16(following[:, None] + entering), tokens[1:], "mtp.0.", 0, False)
        return logits, self.head(streams, "mtp.0.", "mtp.0.norm")


def compare(name, ours, theirs):
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    worst = np.abs(ours - theirs).max(1)
    print(f"{name}: cosine mean {cosine.mean():.7f} least {cosine.min():.7f}, "
          f"arg-max {(ours.argmax(1) == theirs.argmax(1)).mean():.4f}, "
          f"within 2e-3 {(worst <= 2e-3).mean():.4f}, median of largest {np.median(worst):.2e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--compare", metavar="FILE")
    args = parser.parse_args()
    path = f"{args.dir}/golden.safetensors"
    golden = read_safetensors(path)
    logits, mtp_logits = Model(args.dir).run(golden["tokens"][1])
    if args.compare is not None:
        theirs = read_safetensors(args.compare)
        compare("logits", logits, theirs["logits"][1])
        if "mtp_logits" in theirs:
            compare("mtp_logits", mtp_logits, theirs["mtp_logits"][1])
        return
    golden["official_logits"] = "F32", logits
    if mtp_logits is not None:
        golden["official_mtp_logits"] = "F32", mtp_logits
    write_safetensors(path, golden)


if __name__ == "__main__":
    main()
