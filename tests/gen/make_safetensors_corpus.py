#!/usr/bin/env python3
"""Writes the seed files of fuzz_safetensors: make_safetensors_corpus.py <folder>.

Each seed shows the fuzzer one part of the format or one refusal; the output is the same on every
run. Plain Python, no packages.
"""
import json
import pathlib
import sys

DTYPES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E8M0": 1, "F16": 2, "BF16": 2, "I16": 2,
    "I32": 4, "F32": 4, "I64": 8, "F64": 8,
}


def image(header, n_data_bytes):
    """A file of a header (text, or a value to print as JSON) and data bytes 0, 1, 2, ..."""
    text = header
    if not isinstance(text, bytes):
        text = json.dumps(header, separators=(",", ":")).encode()
    data = bytes(i % 256 for i in range(n_data_bytes))
    return len(text).to_bytes(8, "little") + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def all_dtypes():
    header, end = {}, 0
    for dtype, n_bytes in DTYPES.items():
        header[f"layers.0.{dtype}"] = tensor(dtype, [2, 1], end, end + 2 * n_bytes)
        end += 2 * n_bytes
    return image(header, end)


SEEDS = {
    "no-tensors": image({}, 0),
    "one": image({"a": tensor("U8", [3], 0, 3)}, 3),
    "all-dtypes": all_dtypes(),
    "metadata": image({"__metadata__": {"format": "pt", "k": ""}, "a": tensor("I16", [], 0, 2)}, 2),
    "empty-tensors": image({"z": tensor("F32", [0, 5], 2, 2), "a": tensor("BF16", [1], 0, 2),
                            "y": tensor("I64", [0], 0, 0)}, 2),
    "rank-8": image({"a": tensor("U8", [1, 2, 1, 1, 3, 1, 1, 1], 0, 6)}, 6),
    "escapes": image(b'{"\\u00e9\\"\\\\\\n\\ud83d\\ude00":{"dtype":"U8","shape":[1],'
                     b'"data_offsets":[0,1]}}  \n', 1),
    "overlap": image({"a": tensor("U8", [3], 0, 3), "b": tensor("U8", [3], 2, 5)}, 5),
    "hole": image({"a": tensor("U8", [3], 0, 3), "b": tensor("U8", [3], 4, 7)}, 7),
    "trailing": image({"a": tensor("U8", [3], 0, 3)}, 4),
    "duplicate": image(b'{"a":{"dtype":"U8","dtype":"U8"}}', 0),
    "too-big": image({"a": tensor("F64", [2**62, 4], 0, 2**63 - 1)}, 0),
    "unknown-field": image({"a": {**tensor("U8", [1], 0, 1), "x": 1.5e3}}, 1),
    "deep": image(b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", 0),
    "long-header": (2**63).to_bytes(8, "little") + b"{}",
}


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in SEEDS.items():
        (folder / f"{name}.safetensors").write_bytes(content)


if __name__ == "__main__":
    main()
