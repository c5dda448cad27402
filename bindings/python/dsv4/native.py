"""The C library: its structs and functions, as include/dsv4/*.h declare them.

Place: below everything else of the package. Names are those of the headers; tests/python compares sizes and
offsets of every struct with what a C compiler makes of the headers.
"""
import ctypes
import operator
import os
from ctypes import c_char, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any, Literal

from . import errors
from .errors import InvalidArgument

BACKENDS = {"auto": 0, "ref": 1, "cpu": 2, "cuda": 3, "hip": 4}
MATHS = {"auto": 0, "exact": 1, "bf16": 2, "official": 3, "fp8": 4}
CUDA_KERNELS = {"auto": 0, "mma": 1, "sm90": 2}
JOINS = {"auto": 0, "never": 1, "always": 2}
CPU_LEVELS = {"auto": 0, "v2": 1, "avx2": 2, "avx512": 3, "avx512bf16": 4}
DTYPES = {"bf16": 1, "f32": 2, "fp8": 3}
ROWS_FP8, ROWS_F32 = 0, 1
NUMERICS = {"official": 1, "exact": 2}
# The same names as types.
Backend = Literal["auto", "ref", "cpu", "cuda", "hip"]
Math = Literal["auto", "exact", "bf16", "official", "fp8"]
CudaKernel = Literal["auto", "mma", "sm90"]
Join = Literal["auto", "never", "always"]
CpuLevel = Literal["auto", "v2", "avx2", "avx512", "avx512bf16"]
Dtype = Literal["bf16", "f32", "fp8"]
Numerics = Literal["official", "exact"]
DIM = 512
RECORD_BYTES = 584


def _strides(name, *dims):
    return [(f"{name}_{dim}_stride_bytes", c_int64) for dim in dims]


def _all(kind, *names):
    return [(name, kind) for name in names]


class ErrorText(ctypes.Structure):
    c_name = "dsv4_error"
    _fields_ = [("status", c_int32), ("text", c_char * 512)]


class Scope(ctypes.Structure):
    c_name = "dsv4_attn_scope"
    _fields_ = (_all(c_void_p, "cache") + _all(c_int64, "n_pages", "page_rows", "page_stride_bytes")
                + _all(c_int32, "row_format", "reserved") + _all(c_void_p, "indices") + _all(c_int64, "n_indices")
                + _strides("indices", "request", "query") + _all(c_void_p, "lengths"))


class AttnParams(ctypes.Structure):
    c_name = "dsv4_attn_params"
    _fields_ = (_all(c_uint64, "size") + _all(c_int64, "n_requests", "n_queries", "n_heads")
                + _all(c_float, "softmax_scale")
                + _all(c_int32, "backend", "math", "cpu_level", "n_threads", "out_dtype", "q_dtype", "fixed_split",
                       "group_heads", "cuda_kernel")
                + _all(c_void_p, "q") + _strides("q", "request", "query", "head")
                + _all(Scope, "window", "extra") + _all(c_void_p, "sink")
                + _all(c_void_p, "out") + _strides("out", "request", "query", "head")
                + _all(c_void_p, "lse") + _strides("lse", "request", "query", "head")
                + _all(c_void_p, "rope_table") + _all(c_int64, "n_rope_rows") + _all(c_void_p, "rope_rows")
                + _all(c_void_p, "out_scales") + _strides("out_scales", "request", "query", "head")
                + _all(c_int32, "join_queries", "reserved"))


class AttnChoice(ctypes.Structure):
    c_name = "dsv4_attn_choice"
    _fields_ = _all(c_char_p, "backend", "kernel", "math", "reason")


class AttnMergeParams(ctypes.Structure):
    c_name = "dsv4_attn_merge_params"
    _fields_ = (_all(c_uint64, "size") + _all(c_int64, "n_parts", "n_rows", "n_heads")
                + _all(c_int32, "part_dtype", "out_dtype", "n_threads", "backend")
                + _all(c_void_p, "out_parts", "lse_parts", "sink", "out", "lse"))


class KeysCache(ctypes.Structure):
    c_name = "dsv4_keys_cache"
    _fields_ = (_all(c_void_p, "pages") + _all(c_int64, "n_pages", "page_rows", "page_stride_bytes")
                + _all(c_int32, "row_format", "reserved"))


class KeysFinishParams(ctypes.Structure):
    c_name = "dsv4_keys_finish_params"
    _fields_ = (_all(c_uint64, "size") + _all(c_int64, "n_tokens", "n_heads") + _all(c_float, "norm_eps")
                + _all(c_int32, "backend", "math", "n_threads", "q_dtype", "out_dtype", "kv_dtype", "reserved")
                + _all(c_void_p, "q") + _strides("q", "token", "head")
                + _all(c_void_p, "out") + _strides("out", "token", "head")
                + _all(c_void_p, "kv") + _strides("kv", "token") + _all(c_void_p, "kv_norm")
                + _all(KeysCache, "window") + _all(c_void_p, "slots", "rope_table") + _all(c_int64, "n_rope_rows")
                + _all(c_void_p, "rope_rows"))


class KeysCompressParams(ctypes.Structure):
    c_name = "dsv4_keys_compress_params"
    _fields_ = (_all(c_uint64, "size") + _all(c_int64, "n_tokens", "n_requests") + _all(c_int32, "ratio")
                + _all(c_float, "norm_eps") + _all(c_int32, "backend", "math", "n_threads", "reserved")
                + _all(c_void_p, "requests", "positions", "k") + _strides("k", "token")
                + _all(c_void_p, "g") + _strides("g", "token") + _all(c_void_p, "ape", "norm", "state")
                + _all(c_int64, "n_state_pages", "state_page_rows", "state_page_stride_bytes")
                + _all(c_void_p, "tables") + _all(c_int64, "n_table_pages", "table_stride_bytes")
                + _all(KeysCache, "compressed") + _all(c_void_p, "slots", "rope_table")
                + _all(c_int64, "n_rope_rows") + _all(c_void_p, "rope_rows"))


class KeysReadParams(ctypes.Structure):
    c_name = "dsv4_keys_read_params"
    _fields_ = (_all(c_uint64, "size") + _all(c_int64, "n_rows")
                + _all(c_int32, "backend", "n_threads", "out_dtype", "reserved") + _all(KeysCache, "cache")
                + _all(c_void_p, "slots", "pages", "out") + _strides("out", "row"))


OpenProgress = ctypes.CFUNCTYPE(None, c_void_p, c_int64, c_int64)
OnToken = ctypes.CFUNCTYPE(c_int32, c_void_p, c_int32, c_void_p, c_size_t)


class ModelOptions(ctypes.Structure):
    c_name = "dsv4_model_options"
    _fields_ = (_all(c_uint64, "size") + _all(c_int32, "numerics", "cpu_level", "n_threads", "n_sessions")
                + _all(c_int64, "n_tokens", "step_tokens", "rewind_tokens") + [("progress", OpenProgress)]
                + _all(c_void_p, "progress_context") + _all(c_int32, "n_draft"))


class ForwardEntry(ctypes.Structure):
    c_name = "dsv4_forward_entry"
    _fields_ = (_all(c_void_p, "session", "tokens") + _all(c_int64, "n_tokens", "n_logits")
                + _all(c_void_p, "logits"))


class Sampling(ctypes.Structure):
    c_name = "dsv4_sampling"
    _fields_ = (_all(c_uint64, "size") + _all(c_float, "temperature", "top_p", "min_p") + _all(c_int32, "top_k")
                + _all(c_uint64, "seed"))


STRUCTS = (ErrorText, Scope, AttnParams, AttnChoice, AttnMergeParams, KeysCache, KeysFinishParams,
           KeysCompressParams, KeysReadParams, ModelOptions, ForwardEntry, Sampling)

# name: (result, arguments). Pointers to structs and tensors are c_void_p, which takes byref() and addresses alike.
_P = c_void_p
_FUNCTIONS = {
    "dsv4_version": (c_char_p, ()),
    "dsv4_cpu_level": (c_int32, ()),
    "dsv4_cpu_level_name": (c_char_p, (c_int32,)),
    "dsv4_cache_page_stride_bytes": (c_int64, (c_int64,)),
    "dsv4_attn_params_default": (None, (_P,)),
    "dsv4_attn_params_set_dense": (None, (_P,)),
    "dsv4_attn_plan_size": (c_int32, (_P, _P, _P, _P)),
    "dsv4_attn_plan_build": (c_int32, (_P, _P, _P, c_size_t, _P)),
    "dsv4_attn_decode": (c_int32, (_P, _P, _P, c_size_t, _P, c_size_t, _P)),
    "dsv4_attn_choose": (c_int32, (_P, _P, _P)),
    "dsv4_attn_merge": (c_int32, (_P, _P, _P)),
    "dsv4_keys_finish_params_default": (None, (_P,)),
    "dsv4_keys_finish": (c_int32, (_P, _P, _P)),
    "dsv4_keys_compress_params_default": (None, (_P,)),
    "dsv4_keys_compress": (c_int32, (_P, _P, _P)),
    "dsv4_keys_read_params_default": (None, (_P,)),
    "dsv4_keys_read": (c_int32, (_P, _P, _P)),
    "dsv4_model_options_default": (None, (_P,)),
    "dsv4_model_open": (c_int32, (c_char_p, _P, _P, _P)),
    "dsv4_model_close": (None, (_P,)),
    "dsv4_model_n_vocab": (c_int64, (_P,)),
    "dsv4_model_max_tokens": (c_int64, (_P,)),
    "dsv4_model_bos": (c_int32, (_P,)),
    "dsv4_model_eos": (c_int32, (_P,)),
    "dsv4_model_cache_bytes": (c_int64, (_P,)),
    "dsv4_model_cache_used_bytes": (c_int64, (_P,)),
    "dsv4_model_draft_counts": (None, (_P, _P, _P)),
    "dsv4_model_tokenize": (c_int32, (_P, c_char_p, c_size_t, c_int32, _P, c_size_t, _P, _P)),
    "dsv4_model_token_bytes": (_P, (_P, c_int32, _P)),
    "dsv4_model_token_is_special": (c_int32, (_P, c_int32)),
    "dsv4_chat_prompt": (c_int32, (c_char_p, c_size_t, c_int32, _P, _P, _P)),
    "dsv4_text_free": (None, (_P,)),
    "dsv4_session_create": (c_int32, (_P, _P, _P)),
    "dsv4_session_free": (None, (_P,)),
    "dsv4_session_n_tokens": (c_int64, (_P,)),
    "dsv4_session_tokens": (_P, (_P,)),
    "dsv4_session_fork": (c_int32, (_P, _P, _P)),
    "dsv4_session_rewind": (c_int32, (_P, c_int64, _P)),
    "dsv4_model_forward": (c_int32, (_P, _P, c_int64, _P)),
    "dsv4_sampling_default": (None, (_P,)),
    "dsv4_sample": (c_int32, (_P, _P, c_int64, _P, _P)),
    "dsv4_session_generate": (c_int32, (_P, _P, c_int64, _P, c_int64, OnToken, _P, _P, _P)),
}


def _load():
    """The library beside this file, or the one that DSV4_LIBRARY names (a build that is not installed)."""
    path = os.environ.get("DSV4_LIBRARY") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "libdsv4.so")
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"dsv4: cannot load its C library: {error}; install the wheel, or set DSV4_LIBRARY to a "
                          "built libdsv4.so") from error
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise ImportError(f"dsv4: {path} has no {name}: it is of another version than this package") from None
        function.restype, function.argtypes = result, arguments
    return library


lib = _load()
VERSION = lib.dsv4_version().decode()


def raise_error(status: int, error: ErrorText) -> None:
    """Raises what a failed call left in error."""
    raise errors.from_status(status, error.text.decode(errors="replace"))


def call(name: str, *args) -> None:
    """Calls a function whose last parameter is a dsv4_error, and raises what it reports."""
    error = ErrorText()
    status = getattr(lib, name)(*args, ctypes.byref(error))
    if status != 0:
        raise_error(status, error)


def number_of(names: dict, value: str, field: str) -> int:
    """The number of an option's name."""
    try:
        return names[value]
    except (KeyError, TypeError):
        raise InvalidArgument(f"{field}: {value!r}, expected one of {', '.join(names)}") from None


def integer(value: Any, field: str, n_bits: int = 32) -> int:
    """An integer that a C field of so many bits holds; ctypes would cut a larger one."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidArgument(f"{field}: {value!r}, expected an integer") from None
    if not -1 << (n_bits - 1) <= number < 1 << (n_bits - 1):
        raise InvalidArgument(f"{field}: {number}, expected an integer of {n_bits} bits")
    return number


def real(value: Any, field: str) -> float:
    """A number for a C float."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidArgument(f"{field}: {value!r}, expected a number") from None
