#!/usr/bin/env python3
"""Make the seed corpus of tests/fuzz/fuzz_attn.c. usage: make_attn_corpus.py FOLDER

The format is that of the tables in fuzz_attn.c: a seed names the fields that differ from the
default, in a mapping; all others are one zero byte each.
"""
import os
import struct
import sys

SHAPES = ["size", "n_requests", "n_queries", "n_heads", "backend", "math", "cpu_level", "n_threads",
          "out_dtype", "window.n_pages", "window.page_rows", "window.n_indices", "extra.n_pages",
          "extra.page_rows", "extra.n_indices", "n_rope_rows", "q_dtype", "cuda_kernel",
          "window.row_format", "window.reserved", "extra.row_format", "extra.reserved", "fixed_split",
          "group_heads", "join_queries", "reserved"]
STRIDES = ["q_request", "q_query", "q_head", "window.page", "window.indices_request",
           "window.indices_query", "extra.page", "extra.indices_request", "extra.indices_query",
           "out_request", "out_query", "out_head", "lse_request", "lse_query", "lse_head",
           "out_scales_request", "out_scales_query", "out_scales_head"]
MERGE = ["size", "n_parts", "n_rows", "n_heads", "part_dtype", "out_dtype", "n_threads", "backend"]

NO_LSE, WITH_SINK, WITH_ROPE, NULL_Q, NULL_SCALES = 1, 2, 4, 8, 16  # switches
NO_LENGTHS = 4                                                      # of a scope


def field(value):
    if value is None:
        return b"\0"
    for mode, code in ((1, "<b"), (2, "<i"), (3, "<q")):
        try:
            return bytes([mode]) + struct.pack(code, value)
        except struct.error:
            pass
    raise ValueError(value)


def fields(names, values):
    return b"".join(field(values.get(name)) for name in names)


def decode(shapes=None, strides=None, scale=None, switches=0, shifts=0, tail=b""):
    """tail: seed of contents (8 bytes), then what tensors_fill reads"""
    scale_bytes = b"\0" if scale is None else b"\1" + struct.pack("<f", scale)
    return (b"\0" + fields(SHAPES, shapes or {}) + scale_bytes + fields(STRIDES, strides or {}) +
            struct.pack("<q", 1) + bytes([switches, shifts]) + tail)


def merge(values=None, switches=0, shifts=0, lse=b""):
    return (b"\1" + fields(MERGE, values or {}) + bytes([switches, shifts]) +
            struct.pack("<q", 2) + lse)


def wild_list(*indices):
    return b"".join(b"\xff" + struct.pack("<i", index) for index in indices)


SEEDS = {
    "default": b"",
    "two-scopes": decode({"extra.n_pages": 3}, switches=WITH_SINK, tail=bytes(range(60))),
    "sixteen-heads": decode({"n_heads": 17, "n_threads": 3, "window.n_indices": 20}),
    "many-keys": decode({"n_requests": 1, "n_heads": 1, "window.n_indices": 400, "n_threads": 2},
                        tail=bytes(range(200)) * 4),
    "wild-indices": decode({"n_requests": 1},
                           tail=b"\0" + wild_list(-1, 6, -2**31, 2**31 - 1, 7)),
    "rope": decode({"out_dtype": 2}, switches=WITH_ROPE | WITH_SINK,
                   tail=b"\2\1\x05\1\xff\2\xff\xff\xff\x7f"),
    "lengths": decode(tail=bytes([0]) + bytes(range(10)) + field(-5) + field(2)),
    "no-lengths-no-lse": decode(switches=NO_LSE, tail=bytes([NO_LENGTHS])),
    "unaligned-cache": decode(shifts=1 << 2 | 1 << 5),
    "misaligned-q": decode(shifts=1),
    "null-q": decode(switches=NULL_Q),
    "null-empty-list": decode({"window.n_indices": 0},
                              {"window.indices_request": 8, "window.indices_query": 4},
                              tail=bytes([2])),
    "head-major": decode({}, {"out_request": 1024, "out_query": 2048, "out_head": 2048,
                              "lse_request": 4, "lse_query": 8, "lse_head": 8}),
    "overlap": decode({}, {"out_head": 1022}),
    "broadcast": decode({}, {"q_request": 0, "q_head": 0, "window.indices_request": 0}),
    "wild-shape": decode({"n_requests": 2**62, "n_heads": -2**63}),
    "wild-stride": decode({}, {"q_request": 2**63 - 2}),
    "far-pages": decode({"window.n_pages": 2**40}),
    "nan-scale": decode(scale=float("nan")),
    "large-scale": decode(scale=3e38, tail=bytes(9)),
    "bf16-math": decode({"math": 2, "n_heads": 5, "window.n_indices": 65}),
    "reference": decode({"backend": 1}),
    "official-math": decode({"math": 3, "n_heads": 5, "window.n_indices": 130, "n_requests": 1},
                            tail=bytes(range(200))),
    "f32-rows": decode({"window.row_format": 1, "extra.n_pages": 2}, tail=bytes(range(60))),
    "f32-second-scope": decode({"extra.row_format": 1, "extra.n_pages": 2, "n_threads": 2},
                               shifts=1 << 2 | 1 << 5, tail=bytes(range(60))),
    "f32-query": decode({"q_dtype": 2, "n_heads": 17}),
    "f32-everything": decode({"q_dtype": 2, "window.row_format": 1, "extra.row_format": 1,
                              "extra.n_pages": 1, "out_dtype": 2}, switches=WITH_SINK),
    "f32-page-too-short": decode({"window.row_format": 1}, {"window.page": 3 * 584}),
    "f32-official": decode({"q_dtype": 2, "math": 3}),
    "fp8-output": decode({"out_dtype": 3, "extra.n_pages": 1, "n_threads": 2},
                         switches=WITH_SINK | WITH_ROPE, tail=b"\2\1\x05" + bytes(range(60))),
    "fp8-output-permuted": decode({"out_dtype": 3}, {"out_scales_request": 4, "out_scales_query": 8,
                                                     "out_scales_head": 9}),
    "fp8-output-overlap": decode({"out_dtype": 3}, {"out_scales_head": 3}),
    "fp8-output-no-scales": decode({"out_dtype": 3}, switches=NULL_SCALES),
    "reserved": decode({"window.reserved": 1}),
    "joined": decode({"join_queries": 2, "n_queries": 2, "n_heads": 8}, tail=bytes(range(60))),
    "joined-wild": decode({"join_queries": 3}),
    "reserved-behind": decode({"reserved": 1}),
    "merge": merge(),
    "merge-empty-parts": merge({"n_parts": 4}, switches=3, lse=b"\3\3\1\3\2\3\3\3\3\3\3\3"),
    "merge-bf16": merge({"part_dtype": 1, "out_dtype": 1, "n_rows": 8, "n_threads": 3}),
    "merge-reference": merge({"backend": 1}),
    "merge-cuda": merge({"backend": 3}),
    "merge-wild": merge({"n_rows": 2**40}),
}


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    for name, data in SEEDS.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)


if __name__ == "__main__":
    main()
