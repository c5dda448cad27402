"""Tensors of any library as addresses, shapes and strides, without importing that library.

Three ways in: torch tensors by their own methods, numpy's array interface, DLPack for everything else. A tensor is
looked at while its owner is held by the caller, so that nothing has to be kept.
"""
import ctypes
import sys
from typing import Any, NamedTuple, Optional, Sequence, Tuple

from .errors import InvalidArgument, Unsupported

CPU, CUDA, ROCM = 1, 2, 10  # DLPack's device types
_DEVICE_NAMES = {CPU: "cpu", CUDA: "cuda", 3: "cuda_host", ROCM: "rocm", 11: "rocm_host", 13: "cuda_managed"}

# Names of element types, their bytes, and under which names and codes libraries know them.
ITEM_BYTES = {"f32": 4, "bf16": 2, "u16": 2, "i32": 4, "u8": 1, "i8": 1, "fp8": 1}
_TORCH_DTYPES = {"torch.float32": "f32", "torch.bfloat16": "bf16", "torch.uint16": "u16", "torch.int32": "i32",
                 "torch.uint8": "u8", "torch.int8": "i8", "torch.float8_e4m3fn": "fp8"}
_ARRAY_DTYPES = {"<f4": "f32", "<u2": "u16", "<i4": "i32", "|u1": "u8", "|i1": "i8"}
_DLPACK_DTYPES = {(2, 32): "f32", (4, 16): "bf16", (1, 16): "u16", (0, 32): "i32", (1, 8): "u8", (0, 8): "i8",
                  (10, 8): "fp8"}
_DLPACK_VERSION = (1, 1)  # the first with FP8
_IS_READONLY, _IS_COPIED = 1, 2  # flags of DLPack 1.x


class View(NamedTuple):
    """Where a tensor lies. Strides are in bytes."""

    address: int
    dtype: str
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]
    device: Tuple[int, int]
    is_readonly: bool


class _DLTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


class _DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
                ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("tensor", _DLTensor)]


_capsule_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_capsule_is_valid.argtypes = [ctypes.py_object, ctypes.c_char_p]
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def torch_of(tensor: Any) -> Any:
    """The torch module when tensor is one of its tensors, else None."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(tensor, torch.Tensor) else None


def device_name(device: Tuple[int, int]) -> str:
    name = _DEVICE_NAMES.get(device[0], f"DLPack device {device[0]}")
    return name if device[0] == CPU else f"{name}:{device[1]}"


def _view_torch(name, tensor, torch):
    if tensor.layout is not torch.strided:
        raise InvalidArgument(f"{name}: layout {tensor.layout}, expected a strided tensor")
    kind = tensor.device.type
    if kind == "cpu":
        device = (CPU, 0)
    elif kind == "cuda":
        device = (ROCM if torch.version.hip else CUDA, tensor.device.index)
    else:
        raise InvalidArgument(f"{name}: device {tensor.device}, expected cpu or cuda")
    dtype = _TORCH_DTYPES.get(str(tensor.dtype), str(tensor.dtype))
    item = tensor.element_size()
    return View(tensor.data_ptr(), dtype, tuple(tensor.shape), tuple(s * item for s in tensor.stride()), device, False)


def dense_strides(shape: Sequence[int], item_bytes: int) -> Tuple[int, ...]:
    """Strides in bytes of a dense tensor."""
    strides, step = [], item_bytes
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def _view_array(interface):
    address, is_readonly = interface["data"]
    typestr, shape = interface["typestr"], tuple(interface["shape"])
    strides = interface.get("strides") or dense_strides(shape, int(typestr[2:]))
    return View(address, _ARRAY_DTYPES.get(typestr, typestr), shape, tuple(strides), (CPU, 0), is_readonly)


def _dlpack_capsule(tensor):
    device_type, _ = tensor.__dlpack_device__()
    # -1: the producer is not to synchronize; the caller's stream orders the work.
    options = {} if device_type == CPU else {"stream": -1}
    try:
        return tensor.__dlpack__(max_version=_DLPACK_VERSION, **options)
    except TypeError:  # a library from before DLPack 1.0
        return tensor.__dlpack__(**options)


def _open_capsule(capsule):
    """(tensor, flags) of a capsule of either layout; the older one has no flags."""
    if not _capsule_is_valid(capsule, b"dltensor_versioned"):
        return _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor")), 0
    managed = _DLManagedTensorVersioned.from_address(_capsule_pointer(capsule, b"dltensor_versioned"))
    if managed.major != _DLPACK_VERSION[0]:  # the layout of all that follows may differ
        raise ValueError(f"version {managed.major}.{managed.minor}, expected {_DLPACK_VERSION[0]}")
    return managed.tensor, managed.flags


def _view_dlpack(name, tensor):
    try:
        capsule = _dlpack_capsule(tensor)
        found, flags = _open_capsule(capsule)
    except Exception as error:  # whatever that library raises
        raise InvalidArgument(f"{name}: its library does not give it as DLPack: {error}") from error
    if flags & _IS_COPIED:
        raise InvalidArgument(f"{name}: its library gives a copy as DLPack, expected the tensor's own memory")
    dtype = _DLPACK_DTYPES.get((found.code, found.bits), f"code {found.code} of {found.bits} bits")
    if found.lanes != 1:
        raise InvalidArgument(f"{name}: {found.lanes} values in an element, expected 1")
    shape = tuple(found.shape[:found.ndim])
    if found.strides:
        strides = tuple(s * (found.bits // 8) for s in found.strides[:found.ndim])
    else:
        strides = dense_strides(shape, found.bits // 8)
    return View((found.data or 0) + found.byte_offset, dtype, shape, strides, (found.device_type, found.device_id),
                bool(flags & _IS_READONLY))


def view(name: str, tensor: Any) -> View:
    """Where `tensor` lies; `name` is what errors call it."""
    torch = torch_of(tensor)
    if torch is not None:
        return _view_torch(name, tensor, torch)
    interface = getattr(tensor, "__array_interface__", None)
    if interface is not None:
        return _view_array(interface)
    if hasattr(tensor, "__dlpack__"):
        return _view_dlpack(name, tensor)
    raise InvalidArgument(f"{name}: a {type(tensor).__name__}, expected a tensor of torch, numpy or any library "
                          "that speaks DLPack")


def layouts(tensors: Sequence[Any]) -> Optional[tuple]:
    """What may differ between calls apart from addresses, when all tensors are torch's; else None.

    This is the fast path: it compares as one tuple, without a look at any single property.
    """
    try:
        return tuple([x if x is None else (x.shape, x.stride(), x.dtype, x.device) for x in tensors])
    except (AttributeError, RuntimeError):
        return None


# ---- checks; each names the tensor, what it is and what was expected ----

def check_dtype(name: str, found: View, *expected: str) -> None:
    if found.dtype not in expected:
        raise InvalidArgument(f"{name}: dtype {found.dtype}, expected {' or '.join(expected)}")


def check_shape(name: str, found: View, expected: Sequence[Optional[int]], meaning: str) -> None:
    """expected: extents, None where any will do; meaning: the shape in words."""
    shape = found.shape
    if len(shape) != len(expected) or any(e is not None and e != s for s, e in zip(shape, expected)):
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise InvalidArgument(f"{name}: shape {list(shape)}, expected [{wanted}], that is {meaning}")


def check_unit(name: str, found: View) -> None:
    """The last dimension is contiguous."""
    if found.shape[-1] > 1 and found.strides[-1] != ITEM_BYTES[found.dtype]:
        raise InvalidArgument(f"{name}: last stride {found.strides[-1]} bytes, expected {ITEM_BYTES[found.dtype]}: "
                              "elements next to each other")


def check_dense(name: str, found: View) -> None:
    wanted = dense_strides(found.shape, ITEM_BYTES[found.dtype])
    if 0 in found.shape:
        return
    if any(n > 1 and s != w for n, s, w in zip(found.shape, found.strides, wanted)):
        raise InvalidArgument(f"{name}: strides {list(found.strides)} bytes, expected {list(wanted)}: a dense tensor")


def check_device(name: str, found: View, device: Tuple[int, int], like: str) -> None:
    if found.device != device:
        raise InvalidArgument(f"{name}: on {device_name(found.device)}, expected {device_name(device)} as {like}")


def check_writable(name: str, found: View) -> None:
    if found.is_readonly:
        raise InvalidArgument(f"{name}: read-only, expected a tensor that can be written")


_GPU_BACKENDS = {CUDA: "cuda", ROCM: "hip"}


def gpu_backend(device: Tuple[int, int]) -> Optional[str]:
    """The backend of tensors on a GPU, None of those on the CPU; raises where no backend can compute them."""
    if device[0] != CPU and device[0] not in _GPU_BACKENDS:
        raise Unsupported(f"device: {device_name(device)}, expected cpu, cuda or rocm: there is no other backend")
    return _GPU_BACKENDS.get(device[0])


def stream_of(stream: Any, device: Tuple[int, int], torch: Any) -> Optional[int]:
    """A stream's address: the given one, torch's current one with torch tensors; None on the CPU."""
    if stream is not None:
        for attribute in ("cuda_stream", "ptr"):  # torch's streams, CuPy's streams
            stream = getattr(stream, attribute, stream)
        if not isinstance(stream, int):
            raise InvalidArgument(f"stream: a {type(stream).__name__}, expected a stream or its address")
        return stream
    if device[0] == CPU:
        return None
    if torch is None:
        raise InvalidArgument("stream: not given, expected the stream or its address; only torch's current stream "
                              "is known, and these are not torch tensors")
    return torch.cuda.current_stream(device[1]).cuda_stream
