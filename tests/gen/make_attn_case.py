#!/usr/bin/env python3
"""Make one sparse-MLA-decode case as a safetensors file, with the answer in float64. Needs numpy.

Independent of the library: nothing here is generated from or calls its code.

Tensors (names and types are the contract of `dsv4 attn check`):
  q            BF16 [b][s_q][h][512]        512 = 448 unrotated + 64 rotated
  kv           U8   [blocks][stride_bytes]  window cache, FP8 page-planar records (dsv4/cache.h)
  indices      I32  [b][s_q][topk]          slot = block * block_size + offset;
                                            < 0 or past the end = no key
  topk_length  I32  [b]          optional   only the first n entries count; < 0 counts as 0
  extra_kv, extra_indices, extra_topk_length
                                 optional   second scope (compressed cache), same rules
  attn_sink    F32  [h]          optional   natural-log logit, may be +-inf
  out          F32  [b][s_q][h][512]        expected output: float64 arithmetic on the dequantized
                                            cache, rounded to F32
  lse          F32  [b][s_q][h]             expected natural-log sum of exponentials, without the
                                            sink; +inf where there is no key
Metadata (strings): block_size, extra_block_size, softmax_scale.

Every cache slot that no list names holds NaN bytes, so a kernel that reads too much shows it.

usage: make_attn_case.py OUT.safetensors --seed 1 --b 4 --sq 1 --h 64 --topk 128 --block 64
                         [--extra-topk 512 --extra-block 64] ...
"""
import argparse
import json
import struct

import numpy as np

DATA_BYTES, SCALE_BYTES = 576, 8  # of one record, in the two planes of its page


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    for name, default in (("b", 4), ("sq", 1), ("h", 64), ("topk", 128), ("block", 64),
                          ("sk", 512), ("extra-topk", 0), ("extra-block", 64),
                          ("extra-sk", 1024)):
        parser.add_argument("--" + name, type=int, default=default)
    for name in ("lengths", "extra-lengths", "sink", "all-invalid", "zero-seqs", "wild-indices"):
        parser.add_argument("--" + name, action="store_true")
    parser.add_argument("--scale", type=float, default=512 ** -0.55)
    parser.add_argument("--amp", type=float, default=1.0, help="standard deviation of the keys")
    return parser.parse_args()


def to_bf16(x):
    """float32 -> bf16 bits, nearest even"""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(u):
    return (u.astype(np.uint32) << 16).view(np.float32)


def e4m3_values():
    """the value of each of the 256 codes; the first 127 ascend from 0 to 448"""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    normal, subnormal = (8 + mantissa) * 2.0 ** (exponent - 10.0), mantissa * 2.0 ** -9
    values = np.where(exponent == 0, subnormal, normal)
    values *= np.where(codes & 128, -1, 1)
    values[[127, 255]] = np.nan
    return values


E4M3 = e4m3_values()


def to_e4m3(x):
    """nearest code of |x| <= 448, ties to the even code"""
    m = np.abs(x)
    above = np.searchsorted(E4M3[:127], m).clip(1, 126)
    below = above - 1
    to_low, to_high = m - E4M3[below], E4M3[above] - m
    tie = np.where(below % 2 == 0, below, above)
    code = np.where(to_low < to_high, below, np.where(to_low > to_high, above, tie))
    return (code | (np.signbit(x).astype(np.int64) << 7)).astype(np.uint8)


def make_lists(rng, args, sk, topk, block, has_lengths):
    """-> keys [slots][512], indices [b][sq][topk], lengths [b] or None, valid (like indices),
    number of blocks"""
    b, sq = args.b, args.sq
    seq = np.maximum(rng.normal(sk, sk / 2, b), sq).astype(int)
    if args.zero_seqs:
        seq[rng.random(b) < .5] = 0
    per_request = max(1, -(-int(seq.max()) // block))
    n_blocks = b * per_request
    table = rng.permutation(n_blocks).reshape(b, per_request)
    keys = rng.normal(0, args.amp, (n_blocks * block, 512))
    keys = keys * np.exp(rng.normal(0, 1, (n_blocks * block, 8))).repeat(64, 1)
    indices = np.full((b, sq, topk), -1, np.int64)
    if not args.all_invalid:
        for i in range(b):
            for s in range(sq):
                p = rng.permutation(seq[i])[:topk]
                indices[i, s, :len(p)] = table[i, p // block] * block + p % block
    lengths = None
    if has_lengths:
        lengths = rng.integers(-1 if args.wild_indices else 0, topk + 1, b)
    if args.wild_indices:
        wild = rng.random(indices.shape) < .1
        indices[wild] = rng.choice([-2147483648, -7, n_blocks * block, 2147483647],
                                   int(wild.sum()))
    valid = (indices >= 0) & (indices < n_blocks * block)
    if lengths is not None:
        valid &= np.arange(topk) < lengths[:, None, None]
    return keys, indices, lengths, valid, n_blocks


def make_scope(rng, args, sk, topk, block, has_lengths):
    """-> cache bytes, indices, lengths or None, valid, dequantized keys [slots][512]"""
    keys, indices, lengths, valid, n_blocks = make_lists(rng, args, sk, topk, block, has_lengths)
    stride = -(-block * (DATA_BYTES + SCALE_BYTES) // DATA_BYTES) * DATA_BYTES
    cache = np.full((n_blocks, stride), 0xFF, np.uint8)
    dequantized = np.full((n_blocks * block, 512), np.nan)

    used = np.unique(indices[valid])
    rows = keys[used].astype(np.float32)
    rope, nope = to_bf16(rows[:, 448:]), rows[:, :448].reshape(-1, 7, 64)
    amax = np.maximum(np.abs(nope).max(-1), 1e-4).astype(np.float64)
    exponent = np.ceil(np.log2(amax / 448)).astype(int)
    scale = np.exp2(exponent)[..., None]
    codes = to_e4m3((nope / scale).clip(-448, 448)).reshape(-1, 448)
    dequantized[used, :448] = (E4M3[codes].reshape(-1, 7, 64) * scale).reshape(-1, 448)
    dequantized[used, 448:] = from_bf16(rope)

    for n, slot in enumerate(used):
        page, row = divmod(int(slot), block)
        data, scales = row * DATA_BYTES, block * DATA_BYTES + row * SCALE_BYTES
        cache[page, data:data + 448] = codes[n]
        cache[page, data + 448:data + DATA_BYTES] = rope[n].view(np.uint8)
        cache[page, scales:scales + 7] = (exponent[n] + 127).astype(np.uint8)
        cache[page, scales + 7] = 0
    if lengths is not None:
        lengths = lengths.astype(np.int32)
    return cache, indices.astype(np.int32), lengths, valid, dequantized


def make_sink(rng, n_heads):
    """normal logits, about a third of them replaced by +inf, a third by -inf"""
    sink = rng.normal(0, 1, n_heads).astype(np.float32)
    u = rng.normal(0, 1, n_heads)
    sink[u > .5] = np.inf
    sink[u < -.5] = -np.inf
    return sink


def attend(q, scopes, scale, sink):
    """q [b][sq][h][512] float64, scopes of (indices, valid, keys) -> out, lse as float32"""
    b, sq, h, _ = q.shape
    out = np.zeros((b, sq, h, 512), np.float32)
    lse = np.full((b, sq, h), np.inf, np.float32)
    for i in range(b):
        for s in range(sq):
            k = np.concatenate([keys[index[i, s][valid[i, s]]] for index, valid, keys in scopes])
            if not len(k):
                continue
            z = q[i, s] @ k.T * scale
            m = z.max(-1, keepdims=True)
            p = np.exp(z - m)
            l = m[:, 0] + np.log(p.sum(-1))
            o = p @ k / p.sum(-1, keepdims=True)
            if sink is not None:
                odds = np.exp(np.clip(sink.astype(np.float64) - l, -700, 700))
                o *= np.where(np.isposinf(sink), 0, 1 / (1 + odds))[:, None]
            out[i, s], lse[i, s] = o, l
    return out, lse


def write_safetensors(path, tensors, metadata):
    head, offset = {"__metadata__": metadata}, 0
    for name, (dtype, array) in tensors.items():
        head[name] = {"dtype": dtype, "shape": list(array.shape),
                      "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, array in tensors.values():
            f.write(np.ascontiguousarray(array).tobytes())


def main():
    args = parse_args()
    rng = np.random.default_rng(args.seed)
    q = to_bf16(rng.normal(0, 1, (args.b, args.sq, args.h, 512)).clip(-4, 4))
    tensors = {"q": ("BF16", q)}
    metadata = {"softmax_scale": repr(args.scale), "block_size": str(args.block)}
    scopes = []

    def add_scope(prefix, *shape):
        cache, indices, lengths, valid, keys = make_scope(rng, args, *shape)
        tensors[prefix + "kv"], tensors[prefix + "indices"] = ("U8", cache), ("I32", indices)
        if lengths is not None:
            tensors[prefix + "topk_length"] = ("I32", lengths)
        scopes.append((indices, valid, keys))

    add_scope("", args.sk, args.topk, args.block, args.lengths)
    if args.extra_topk:
        add_scope("extra_", args.extra_sk, args.extra_topk, args.extra_block, args.extra_lengths)
        metadata["extra_block_size"] = str(args.extra_block)
    sink = None
    if args.sink:
        sink = make_sink(rng, args.h)
        tensors["attn_sink"] = ("F32", sink)
    out, lse = attend(from_bf16(q).astype(np.float64), scopes, args.scale, sink)
    tensors["out"], tensors["lse"] = ("F32", out), ("F32", lse)
    write_safetensors(args.out, tensors, metadata)


if __name__ == "__main__":
    main()
