"""What stands beside the decode attention: queries and window keys, the compressor, reading rows back
(include/dsv4/keys.h, docs/keys.md).

Tensors may be of any library, as in dsv4.attn; with numpy, uint16 holds the bits of bf16. Caches are
[pages, page_rows, 584] or [pages, page_rows, 1, 584] u8, i8 or FP8, [pages, page_rows, 512] f32, or
[pages, page_stride_bytes] with page_rows given. Each function is one launch, allocates nothing but outputs that are
not given, and waits for nothing.
"""
import ctypes
import threading
from typing import Any, Literal, Optional

from . import memory, native
from .attn import call_on, set_options
from .caches import set_cache
from .errors import InvalidArgument
from .native import DIM, Backend, Math, lib
from .tensors import (gpu_backend, check_dense, check_device, check_dtype, check_shape, check_unit, check_writable,
                      layouts, stream_of, torch_of, view)

_DTYPE_NUMBERS = {"bf16": 1, "u16": 1, "f32": 2}
_VALUES = ("bf16", "u16", "f32")
_MAX_CALLS = 64


class _Call:
    """A params struct, filled from tensors of one layout; further calls with that layout only set addresses."""

    def __init__(self, names, tensors, outputs):
        views = {name: None if t is None else view(name, t) for name, t in zip(names, tensors)}
        first = next((name for name in names if views[name] is not None), None)
        if first is None:
            raise InvalidArgument(f"{names[0]}: not given, expected a tensor")
        self.device = views[first].device
        self.torch = torch_of(tensors[names.index(first)])
        self.gpu = gpu_backend(self.device)
        for name, found in views.items():
            if found is not None:
                check_device(name, found, self.device, first)
                if name in outputs:
                    check_writable(name, found)
        self.params = self._fill(views)
        self.reference = ctypes.byref(self.params)
        self.targets = self._targets()
        for name, (struct, field) in zip(names, self.targets):
            setattr(struct, field, None if views[name] is None else views[name].address)

    def set_addresses(self, tensors):
        for (struct, field), tensor in zip(self.targets, tensors):
            if tensor is not None:
                setattr(struct, field, tensor.data_ptr())

    def run(self, name, stream):
        call_on(self.device, self.torch, name, stream_of(stream, self.device, self.torch), self.reference)


def _set_rope(params, views, n_tokens, must_have_rows):
    table, rows = views["rope_table"], views["rope_rows"]
    if table is None:
        raise InvalidArgument("rope_table: not given, expected [positions, 64] of f32")
    check_dtype("rope_table", table, "f32")
    check_shape("rope_table", table, (None, 64), "[positions, 64]: 32 cosines, 32 sines")
    check_dense("rope_table", table)
    params.n_rope_rows = table.shape[0]
    _check_list("rope_rows", rows, n_tokens, must_have_rows)


def _check_list(name, found, length, must_be_there=True):
    if found is None:
        if must_be_there:
            raise InvalidArgument(f"{name}: not given, expected [{length}] of i32")
        return
    check_dtype(name, found, "i32")
    check_shape(name, found, (length,), "one for each token or row")
    check_dense(name, found)


def _check_norm(name, found):
    if found is not None:
        check_dtype(name, found, "bf16", "u16")
        check_shape(name, found, (DIM,), "one for each channel")
        check_dense(name, found)


class _Finish(_Call):
    NAMES = ("q", "out", "kv", "kv_norm", "window", "slots", "rope_table", "rope_rows")
    OUTPUTS = ("out", "window")

    def __init__(self, tensors, page_rows):
        self._page_rows = page_rows
        super().__init__(self.NAMES, tensors, self.OUTPUTS)

    def _targets(self):
        p = self.params
        return ((p, "q"), (p, "out"), (p, "kv"), (p, "kv_norm"), (p.window, "pages"), (p, "slots"),
                (p, "rope_table"), (p, "rope_rows"))

    def _fill(self, views):
        p = native.KeysFinishParams()
        lib.dsv4_keys_finish_params_default(ctypes.byref(p))
        q, out, kv, window = views["q"], views["out"], views["kv"], views["window"]
        if q is not None:
            check_dtype("q", q, *_VALUES)
            check_shape("q", q, (None, None, DIM), "[tokens, heads, 512]")
            check_unit("q", q)
            p.n_tokens, p.n_heads, p.q_dtype = q.shape[0], q.shape[1], _DTYPE_NUMBERS[q.dtype]
            p.q_token_stride_bytes, p.q_head_stride_bytes = q.strides[:2]
            check_dtype("out", out, *_VALUES)
            check_shape("out", out, q.shape, "[tokens, heads, 512] as q")
            check_unit("out", out)
            p.out_dtype = _DTYPE_NUMBERS[out.dtype]
            p.out_token_stride_bytes, p.out_head_stride_bytes = out.strides[:2]
        if kv is not None:
            check_dtype("kv", kv, *_VALUES)
            check_shape("kv", kv, (None if q is None else q.shape[0], DIM), "[tokens, 512]")
            check_unit("kv", kv)
            p.n_tokens, p.kv_dtype, p.kv_token_stride_bytes = kv.shape[0], _DTYPE_NUMBERS[kv.dtype], kv.strides[0]
            _check_norm("kv_norm", views["kv_norm"])
            if window is None:
                raise InvalidArgument("window: not given, expected the cache that kv goes into")
            set_cache("window", window, self._page_rows, p.window)
            _check_list("slots", views["slots"], p.n_tokens)
        else:
            for name in ("window", "slots", "kv_norm"):
                if views[name] is not None:
                    raise InvalidArgument(f"{name}: given without kv, expected both or neither")
        _set_rope(p, views, p.n_tokens, True)
        return p


class _Compress(_Call):
    NAMES = ("requests", "positions", "k", "g", "ape", "norm", "state", "tables", "compressed", "slots",
             "rope_table", "rope_rows")
    OUTPUTS = ("state", "compressed")

    def __init__(self, tensors, ratio, page_rows):
        self._ratio, self._page_rows = ratio, page_rows
        super().__init__(self.NAMES, tensors, self.OUTPUTS)

    def _targets(self):
        p = self.params
        return tuple((p.compressed, "pages") if name == "compressed" else (p, name) for name in self.NAMES)

    def _fill(self, views):
        p = native.KeysCompressParams()
        lib.dsv4_keys_compress_params_default(ctypes.byref(p))
        for name in ("requests", "positions", "k", "g", "ape", "state", "tables", "compressed", "slots"):
            if views[name] is None:
                raise InvalidArgument(f"{name}: not given, expected a tensor")
        if self._ratio not in (4, 128):
            raise InvalidArgument(f"ratio: {self._ratio}, expected 4 or 128")
        p.ratio, width = self._ratio, DIM if self._ratio == 128 else 2 * DIM
        k, g, ape, state, tables = (views[name] for name in ("k", "g", "ape", "state", "tables"))
        check_dtype("k", k, "f32")
        check_shape("k", k, (None, width), f"[tokens, {width}] with ratio {self._ratio}")
        p.n_tokens = k.shape[0]
        check_dtype("g", g, "f32")
        check_shape("g", g, k.shape, "[tokens, width] as k")
        for name, found in (("k", k), ("g", g)):
            check_unit(name, found)
            setattr(p, f"{name}_token_stride_bytes", found.strides[0])
        check_dtype("ape", ape, "f32")
        check_shape("ape", ape, (self._ratio, width), "[ratio, width]")
        check_dense("ape", ape)
        _check_norm("norm", views["norm"])
        for name in ("requests", "positions", "slots"):
            _check_list(name, views[name], p.n_tokens)
        check_dtype("state", state, "f32")
        check_shape("state", state, (None, None, 2, width), "[pages, page_rows, 2, width]")
        if state.strides[1:] != (8 * width, 4 * width, 4) and 0 not in state.shape:
            raise InvalidArgument(f"state: strides {list(state.strides)} bytes, expected pages in one piece, that is "
                                  f"[any, {8 * width}, {4 * width}, 4]")
        p.n_state_pages, p.state_page_rows = state.shape[:2]
        p.state_page_stride_bytes = state.strides[0]
        check_dtype("tables", tables, "i32")
        check_shape("tables", tables, (None, None), "[requests, table pages]")
        check_unit("tables", tables)
        p.n_requests, p.n_table_pages = tables.shape
        p.table_stride_bytes = tables.strides[0]
        set_cache("compressed", views["compressed"], self._page_rows, p.compressed)
        _set_rope(p, views, p.n_tokens, False)
        return p


class _Read(_Call):
    NAMES = ("cache", "slots", "pages", "out")
    OUTPUTS = ("out",)

    def __init__(self, tensors, page_rows):
        self._page_rows = page_rows
        super().__init__(self.NAMES, tensors, self.OUTPUTS)

    def _targets(self):
        p = self.params
        return ((p.cache, "pages"), (p, "slots"), (p, "pages"), (p, "out"))

    def _fill(self, views):
        p = native.KeysReadParams()
        lib.dsv4_keys_read_params_default(ctypes.byref(p))
        out = views["out"]
        if views["cache"] is None:
            raise InvalidArgument("cache: not given, expected the pages to read")
        set_cache("cache", views["cache"], self._page_rows, p.cache)
        check_dtype("out", out, *_VALUES)
        check_shape("out", out, (None, DIM), "[rows, 512]")
        check_unit("out", out)
        p.n_rows, p.out_dtype, p.out_row_stride_bytes = out.shape[0], _DTYPE_NUMBERS[out.dtype], out.strides[0]
        _check_list("slots", views["slots"], p.n_rows, False)
        if views["pages"] is not None:
            _check_list("pages", views["pages"], -(-p.n_rows // p.cache.page_rows))
        return p


_threads = threading.local()


def _prepare(kind, tensors, *options):
    """The call for these layouts: one that this thread has made before, or a new one."""
    found = layouts(tensors)
    if found is None:
        return kind(tensors, *options)
    calls = _threads.__dict__.setdefault("calls", {})
    key = (kind, found, options)
    call = calls.get(key)
    if call is None:
        if len(calls) >= _MAX_CALLS:
            calls.clear()
        call = calls[key] = kind(tensors, *options)
    else:
        call.set_addresses(tensors)
    return call


def finish(q: Any = None, kv: Any = None, window: Any = None, slots: Any = None, *, rope_table: Any, rope_rows: Any,
           kv_norm: Any = None, out: Any = None, page_rows: Optional[int] = None, norm_eps: float = 1e-6,
           math: Math = "auto", backend: Backend = "auto", n_threads: int = 0, stream: Any = None) -> Any:
    """Queries: norm and rotation. Window keys: norm, rotation, quantization, insertion. Returns out.

        q           [tokens, heads, 512] bf16 or f32, or None: keys alone
        kv          [tokens, 512] bf16 or f32, or None: queries alone
        window      the cache that kv goes into, written
        slots       [tokens] i32: where each key goes; out of range: nowhere
        rope_table  [positions, 64] f32: 32 cosines, 32 sines
        rope_rows   [tokens] i32: table row of each token's position
        kv_norm     [512] bf16, or None: ones
        out         [tokens, heads, 512], may be q itself; None: made, of q's type
    """
    if q is None and out is not None:
        raise InvalidArgument("out: given without q, expected both or neither")
    if q is not None and out is None:
        found = view("q", q)
        check_dtype("q", found, *_VALUES)
        out = memory.empty("out", found.shape, "f32" if found.dtype == "f32" else "bf16", found, torch_of(q), stream)
    call = _prepare(_Finish, (q, out, kv, kv_norm, window, slots, rope_table, rope_rows), page_rows)
    set_options(call.params, backend, n_threads, call.gpu)
    call.params.math = native.number_of(native.MATHS, math, "math")
    call.params.norm_eps = native.real(norm_eps, "norm_eps")
    call.run("dsv4_keys_finish", stream)
    return out


def compress(k: Any, g: Any, *, ratio: int, requests: Any, positions: Any, ape: Any, state: Any, tables: Any,
             compressed: Any, slots: Any, rope_table: Any, rope_rows: Any = None, norm: Any = None,
             page_rows: Optional[int] = None, norm_eps: float = 1e-6, math: Math = "auto", backend: Backend = "auto",
             n_threads: int = 0, stream: Any = None) -> None:
    """One step of a compressor: raw rows into state, finished groups' keys into the compressed cache.

        k, g        [tokens, width] f32; width is 512 with ratio 128, 1024 with ratio 4; g without the bias
        requests    [tokens] i32: row of tables        positions   [tokens] i32; < 0: padding
        ape         [ratio, width] f32                 norm        [512] bf16, or None: ones
        state       [pages, page_rows, 2, width] f32, read and written
        tables      [requests, table pages] i32: page numbers of each request's ring of raw rows
        compressed  the cache that keys go into, written
        slots       [tokens] i32: where the key of the group goes that the token ends
        rope_table  [positions, 64] f32
        rope_rows   [tokens] i32: table row of the group's first position, or None: row p is position p
    """
    call = _prepare(_Compress, (requests, positions, k, g, ape, norm, state, tables, compressed, slots, rope_table,
                                rope_rows), ratio, page_rows)
    set_options(call.params, backend, n_threads, call.gpu)
    call.params.math = native.number_of(native.MATHS, math, "math")
    call.params.norm_eps = native.real(norm_eps, "norm_eps")
    call.run("dsv4_keys_compress", stream)


def read(cache: Any, *, slots: Any = None, pages: Any = None, out: Any = None, dtype: Literal["bf16", "f32"] = "bf16",
         page_rows: Optional[int] = None, backend: Backend = "auto", n_threads: int = 0, stream: Any = None) -> Any:
    """Rows of a cache as numbers; returns out [rows, 512].

        slots  [rows] i32: row i of out is that slot; out of range: zeros
        pages  [pages] i32, instead of slots: whole pages one after another
        out    [rows, 512] bf16 or f32; None: made, of `dtype` ("bf16" or "f32"), for all that is named
    """
    if out is None:
        found = view("cache", cache)
        n_rows = _count_rows(found, slots, pages, page_rows)
        if dtype not in ("bf16", "f32"):
            raise InvalidArgument(f"dtype: {dtype!r}, expected bf16 or f32")
        out = memory.empty("out", (n_rows, DIM), dtype, found, torch_of(cache), stream)
    call = _prepare(_Read, (cache, slots, pages, out), page_rows)
    set_options(call.params, backend, n_threads, call.gpu)
    call.run("dsv4_keys_read", stream)
    return out


def _count_rows(cache, slots, pages, page_rows):
    if slots is not None:
        return _length("slots", slots)
    if pages is None:
        raise InvalidArgument("slots: not given, nor pages; expected one of them")
    struct = native.KeysCache()
    set_cache("cache", cache, page_rows, struct)
    return _length("pages", pages) * struct.page_rows


def _length(name, tensor):
    found = view(name, tensor)
    check_shape(name, found, (None,), "one for each row or page")
    return found.shape[0]
