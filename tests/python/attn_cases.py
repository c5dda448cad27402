"""Case files with float64 answers (tests/gen/make_attn_case.py) for the tests of the Python package, and the folders
they lie in. Needs numpy alone."""
import json
import os
import struct

import numpy

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
FOLDER = os.path.join(ROOT, "tests", "fixtures", "attn")
_DTYPES = {"F32": "<f4", "BF16": "<u2", "I32": "<i4", "U8": "|u1"}


def read_safetensors(path):
    """(tensors, metadata) of a file; BF16 comes as its bits."""
    with open(path, "rb") as file:
        data = file.read()
    (n_head,) = struct.unpack_from("<Q", data)
    head = json.loads(data[8:8 + n_head])
    metadata = head.pop("__metadata__", {})
    tensors = {}
    for name, entry in head.items():
        begin, end = (8 + n_head + offset for offset in entry["data_offsets"])
        # A copy: what is mapped from the file may lie at any address.
        tensors[name] = numpy.frombuffer(data[begin:end], _DTYPES[entry["dtype"]]).reshape(entry["shape"]).copy()
    return tensors, metadata


def case_paths():
    return [os.path.join(FOLDER, name) for name in sorted(os.listdir(FOLDER)) if name.endswith(".safetensors")]


def to_bf16(values):
    """float32 to the bits of bf16, nearest even."""
    bits = numpy.ascontiguousarray(values, numpy.float32).view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def from_bf16(bits):
    return (bits.astype(numpy.uint32) << 16).view(numpy.float32)


def e4m3(code):
    """The value of a code."""
    exponent, mantissa = (code >> 3) & 15, code & 7
    value = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0**(exponent - 7)
    return numpy.nan if code & 127 == 127 else -value if code & 128 else value


class Case:
    """One file: q, window and extra scopes as (cache, indices, lengths, page_rows), sink, scale, out, lse."""

    def __init__(self, path):
        tensors, metadata = read_safetensors(path)
        self.name = os.path.basename(path)
        self.q, self.sink = tensors["q"], tensors.get("attn_sink")
        self.window = (tensors["kv"], tensors["indices"], tensors.get("topk_length"), int(metadata["block_size"]))
        self.extra = None
        if "extra_kv" in tensors:
            self.extra = (tensors["extra_kv"], tensors["extra_indices"], tensors.get("extra_topk_length"),
                          int(metadata["extra_block_size"]))
        self.scale = float(metadata["softmax_scale"])
        self.out, self.lse = tensors["out"], tensors["lse"]


def apart(out, want, lse, want_lse):
    """(relative norm error over all heads, largest error of lse where it is finite); infinite where any NaN is or
    infinities differ."""
    if not (numpy.isfinite(out).all() and (numpy.isinf(lse) == numpy.isinf(want_lse)).all()):
        return float("inf"), float("inf")
    norm = numpy.linalg.norm(want.astype(numpy.float64))
    error = numpy.linalg.norm(out.astype(numpy.float64) - want) / (norm if norm else 1.0)
    finite = numpy.isfinite(want_lse)
    return error, abs(lse[finite] - want_lse[finite]).max(initial=0.0)
