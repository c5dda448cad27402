"""Outputs and scratch memory for callers who bring none, made by the library that the inputs come from."""
import contextlib
import ctypes
from typing import Any, Sequence, Tuple

from .errors import InvalidArgument
from .tensors import CPU, View, device_name, stream_of

_ALIGN = 64
_TORCH_NAMES = {"f32": "float32", "bf16": "bfloat16", "fp8": "float8_e4m3fn", "u8": "uint8"}
_NUMPY_NAMES = {"f32": "float32", "bf16": "uint16", "fp8": "uint8", "u8": "uint8"}


class HostBytes:
    """Aligned host memory, zeroed; a tensor to this package by numpy's array interface."""

    def __init__(self, n_bytes: int):
        self._buffer = ctypes.create_string_buffer(n_bytes + _ALIGN)
        start = ctypes.addressof(self._buffer)
        self.__array_interface__ = {"data": (start + -start % _ALIGN, False), "typestr": "|u1",
                                    "shape": (n_bytes,), "version": 3}


def _on_stream(stream, device, torch):
    """A context in which torch allocates for a stream that the caller named: memory is zeroed there, and what is given
    back is used again behind that stream's work."""
    if stream is None or device[0] == CPU:
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.ExternalStream(stream_of(stream, device, torch), device=device[1]))


def zeros(name: str, n_bytes: int, device: Tuple[int, int], torch: Any, stream: Any = None) -> Any:
    """Zeroed bytes that start at a multiple of 64; name is what the caller may give instead."""
    if torch is not None:
        where = "cpu" if device[0] == CPU else f"cuda:{device[1]}"
        with _on_stream(stream, device, torch):
            block = torch.zeros(n_bytes + _ALIGN, dtype=torch.uint8, device=where)
        start = -block.data_ptr() % _ALIGN
        return block[start:start + n_bytes]
    if device[0] == CPU:
        return HostBytes(n_bytes)
    raise InvalidArgument(f"{name}: not given, expected {n_bytes} bytes on {device_name(device)}; they are allocated "
                          "only for torch tensors and in host memory")


def empty(name: str, shape: Sequence[int], dtype: str, like: View, torch: Any, stream: Any = None) -> Any:
    """An output tensor where `like` lies. numpy has no bf16 and no FP8: their bits come as uint16 and uint8."""
    if torch is not None:
        where = "cpu" if like.device[0] == CPU else f"cuda:{like.device[1]}"
        with _on_stream(stream, like.device, torch):
            return torch.empty(tuple(shape), dtype=getattr(torch, _TORCH_NAMES[dtype]), device=where)
    if like.device[0] == CPU:
        try:
            import numpy
            return numpy.empty(tuple(shape), dtype=_NUMPY_NAMES[dtype])
        except ImportError:
            pass
    raise InvalidArgument(f"{name}: not given, expected a tensor {list(shape)} of {dtype} on "
                          f"{device_name(like.device)}; it is allocated only with torch or numpy at hand")
