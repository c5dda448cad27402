"""DeepSeek-V4's sparse MLA decode attention on tensors of any library (include/dsv4/attn.h).

    plan = attn.Plan(q, window, extra)                  # once per step
    plan.decode(q, window, extra, sink=sink, out=out)   # once per layer

Shapes: b requests, s query tokens of each, h heads, n list entries.

    q        [b, s, h, 512]   bf16, or f32 with exact math; numpy: uint16 holds the bits of bf16
    cache    [pages, page_rows, 584] or [pages, page_rows, 1, 584] u8, i8 or FP8; [pages, page_stride_bytes] with
             page_rows given; [pages, page_rows, 512] f32
    indices  [b, s, n] i32    slots: page * page_rows + row; what is out of range names no key
    lengths  [b] i32          only the first entries of a list count
    sink     [h] f32          natural-log logits
    out      [b, s, h, 512]   bf16, f32 or FP8
    lse      [b, s, h] f32    natural log, without the sink; +inf where there is no key

Tensors on CUDA go to the CUDA kernels and their work to torch's current stream, or to the one that is given. The
device of torch's tensors is made the current one for the call; with GPU tensors of other libraries the caller does
that.
"""
import contextlib
import ctypes
import threading
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple, Type

from . import memory, native
from .caches import set_cache
from .errors import InvalidArgument
from .native import DIM, Backend, CpuLevel, CudaKernel, Dtype, Join, Math, lib
from .tensors import (View, gpu_backend, check_dense, check_device, check_dtype, check_shape, check_unit,
                      check_writable, device_name, layouts, stream_of, torch_of, view)

_NAMES = ("q", "window.cache", "window.indices", "window.lengths", "extra.cache", "extra.indices", "extra.lengths",
          "sink", "rope_table", "rope_rows", "out_scales", "out", "lse")
_MADE = len(_NAMES) - 2  # where those begin that a call may have made itself
_OUTPUTS = ("out", "lse", "out_scales")
_DTYPE_NUMBERS = {"bf16": 1, "u16": 1, "f32": 2, "fp8": 3, "u8": 3}
_DEFAULT_SCALE = DIM**-0.5


class Scope(NamedTuple):
    """One paged cache and the lists that name rows in it; shapes at the head of this module."""

    cache: Any
    indices: Any
    lengths: Any = None
    page_rows: Optional[int] = None


_ABSENT = Scope(None, None)


def _scope(name, given):
    if not isinstance(given, Scope):
        raise InvalidArgument(f"{name}: a {type(given).__name__}, expected a dsv4.attn.Scope")
    return given


def _extra(given):
    return _ABSENT if given is None else _scope("extra", given)


def set_options(params: Any, backend: str, n_threads: int, gpu: Optional[str]) -> None:
    """Fields that all params structs share. A GPU's backend is where the tensors are, not a choice."""
    number = native.number_of(native.BACKENDS, backend, "backend")
    if gpu and backend not in ("auto", gpu) or not gpu and backend in ("cuda", "hip"):
        raise InvalidArgument(f"backend: {backend!r}, but the tensors are on {gpu or 'the cpu'}")
    params.backend = native.BACKENDS[gpu] if gpu else number
    params.n_threads = native.integer(n_threads, "n_threads")


_NO_CONTEXT = contextlib.nullcontext()


class DecodeCall:
    """The params struct of decodes of one shape, without memory of its own: what Plan and torch's ops share.

    Tensors are checked when anything but an address changes; else a call only sets addresses. One thread at a time.
    """

    LABELS: Dict[str, str] = {name: name for name in _NAMES}  # what errors call the tensors

    def __init__(self, q: Any, window: Scope, extra: Optional[Scope], *, out_dtype: Optional[Dtype] = None,
                 math: Math = "auto", backend: Backend = "auto", cpu_level: CpuLevel = "auto",
                 cuda_kernel: CudaKernel = "auto", n_threads: int = 0, fixed_split: bool = False,
                 group_heads: int = 0, join_queries: Join = "auto"):
        window, extra = _scope("window", window), _extra(extra)
        self._start(q, out_dtype)
        p = self._params
        set_options(p, backend, n_threads, self._gpu)
        p.math = native.number_of(native.MATHS, math, "math")
        p.cpu_level = native.number_of(native.CPU_LEVELS, cpu_level, "cpu_level")
        p.cuda_kernel = native.number_of(native.CUDA_KERNELS, cuda_kernel, "cuda_kernel")
        p.fixed_split = native.integer(fixed_split, "fixed_split")
        p.group_heads = native.integer(group_heads, "group_heads")
        p.join_queries = native.number_of(native.JOINS, join_queries, "join_queries")
        p.window.n_indices = self._list_length("window.indices", window.indices)
        p.extra.n_indices = self._list_length("extra.indices", extra.indices)
        self._bind((q, *window[:3], *extra[:3], None, None, None, None, None, None),
                   (window.page_rows, extra.page_rows), None)

    def _start(self, q, out_dtype):
        found = view("q", q)
        check_dtype("q", found, "bf16", "u16", "f32")
        check_shape("q", found, (None, None, None, DIM), "[requests, queries, heads, 512]")
        self._torch, self.device = torch_of(q), found.device
        self._gpu = gpu_backend(found.device)
        self._raw_stream = self._current_device = None
        if self._torch is not None and self._gpu:
            # What compiled torch code itself asks for the current stream; the public way builds an object each time.
            self._raw_stream = getattr(self._torch._C, "_cuda_getCurrentRawStream", None)
            self._current_device = self._torch.cuda.current_device
        self._params = p = native.AttnParams()
        self._reference = ctypes.byref(p)
        self._error = native.ErrorText()
        self._error_reference = ctypes.byref(self._error)
        lib.dsv4_attn_params_default(self._reference)
        self.shape = found.shape
        p.n_requests, p.n_queries, p.n_heads = found.shape[:3]
        self.out_dtype = out_dtype or ("f32" if found.dtype == "f32" else "bf16")
        p.q_dtype = _DTYPE_NUMBERS[found.dtype]
        p.out_dtype = native.number_of(native.DTYPES, self.out_dtype, "out_dtype")
        lib.dsv4_attn_params_set_dense(self._reference)
        w, e = p.window, p.extra
        self._targets = ((p, "q"), (w, "cache"), (w, "indices"), (w, "lengths"), (e, "cache"), (e, "indices"),
                         (e, "lengths"), (p, "sink"), (p, "rope_table"), (p, "rope_rows"), (p, "out_scales"),
                         (p, "out"), (p, "lse"))

    def _list_length(self, name, indices):
        if indices is None:
            return 0
        shape = view(self.LABELS[name], indices).shape
        if len(shape) != 3:
            raise InvalidArgument(f"{self.LABELS[name]}: shape {list(shape)}, expected [requests, queries, entries]")
        return shape[2]

    def sizes(self) -> Tuple[int, int]:
        """Bytes of `memory` and of `workspace` that this shape needs."""
        n_plan, n_workspace = ctypes.c_size_t(), ctypes.c_size_t()
        with self._on_device():
            native.call("dsv4_attn_plan_size", self._reference, ctypes.byref(n_plan), ctypes.byref(n_workspace))
        return n_plan.value, n_workspace.value

    # ---- tensors into params ----

    def _bind(self, tensors, page_rows, found_layouts):
        """Checks all tensors and fills params; called when anything but an address has changed."""
        self._layouts = None
        views = {}
        for name, tensor, (struct, field) in zip(_NAMES, tensors, self._targets):
            found, label = None, self.LABELS[name]
            if tensor is not None:
                found = view(label, tensor)
                check_device(label, found, self.device, "the queries")
                if name in _OUTPUTS:
                    check_writable(label, found)
            views[name] = found
            setattr(struct, field, None if found is None else found.address)
        self._bind_queries(views["q"])
        for scope, struct, rows in zip(("window", "extra"), (self._params.window, self._params.extra), page_rows):
            self._bind_scope(scope, struct, views, rows)
        self._bind_outputs(views)
        self._bind_vectors(views)
        self._layouts = (found_layouts, page_rows)

    def _bind_queries(self, q):
        check_shape("q", q, self.shape, "[requests, queries, heads, 512] as in the plan")
        check_dtype("q", q, *(("f32",) if self._params.q_dtype == 2 else ("bf16", "u16")))
        check_unit("q", q)
        p = self._params
        p.q_request_stride_bytes, p.q_query_stride_bytes, p.q_head_stride_bytes = q.strides[:3]

    def _bind_scope(self, scope, struct, views, page_rows):
        fields = [f"{scope}.{field}" for field in ("cache", "indices", "lengths")]
        cache, indices, lengths = (views[field] for field in fields)
        cache_label, indices_label, lengths_label = (self.LABELS[field] for field in fields)
        if cache is None:
            struct.n_pages = 0
            if struct.n_indices or indices is not None or lengths is not None:
                raise InvalidArgument(f"{cache_label}: not given, expected the cache that {indices_label} names rows "
                                      "of")
            return
        set_cache(cache_label, cache, page_rows, struct)
        if indices is None:
            raise InvalidArgument(f"{indices_label}: not given, expected [requests, queries, entries] of i32")
        check_dtype(indices_label, indices, "i32")
        check_shape(indices_label, indices, (*self.shape[:2], struct.n_indices),
                    "[requests, queries, entries] as in the plan")
        check_unit(indices_label, indices)
        struct.indices_request_stride_bytes, struct.indices_query_stride_bytes = indices.strides[:2]
        if lengths is not None:
            self._check_lengths(lengths_label, lengths)

    def _check_lengths(self, label, found):
        check_dtype(label, found, "i32")
        check_shape(label, found, self.shape[:1], "[requests]")
        check_dense(label, found)

    def _bind_outputs(self, views):
        p = self._params
        out, lse, scales = views["out"], views["lse"], views["out_scales"]
        if out is not None:
            allowed = {"bf16": ("bf16", "u16"), "f32": ("f32",), "fp8": ("fp8", "u8")}[self.out_dtype]
            check_dtype("out", out, *allowed)
            check_shape("out", out, self.shape, "[requests, queries, heads, 512]")
            check_unit("out", out)
            p.out_request_stride_bytes, p.out_query_stride_bytes, p.out_head_stride_bytes = out.strides[:3]
        if lse is not None:
            check_dtype("lse", lse, "f32")
            check_shape("lse", lse, self.shape[:3], "[requests, queries, heads]")
            p.lse_request_stride_bytes, p.lse_query_stride_bytes, p.lse_head_stride_bytes = lse.strides
        if scales is not None:
            check_dtype("out_scales", scales, "u8")
            check_shape("out_scales", scales, (*self.shape[:3], 4), "[requests, queries, heads, 4]")
            check_unit("out_scales", scales)
            (p.out_scales_request_stride_bytes, p.out_scales_query_stride_bytes,
             p.out_scales_head_stride_bytes) = scales.strides[:3]

    def _bind_vectors(self, views):
        n_requests, n_queries, n_heads = self.shape[:3]
        for name, dtype, shape, meaning in (("sink", "f32", (n_heads,), "[heads]"),
                                            ("rope_table", "f32", (None, 64), "[positions, 64]"),
                                            ("rope_rows", "i32", (n_requests, n_queries), "[requests, queries]")):
            found: Optional[View] = views[name]
            if found is None:
                continue
            label = self.LABELS[name]
            check_dtype(label, found, dtype)
            check_shape(label, found, shape, meaning)
            check_dense(label, found)
        if views["rope_table"] is not None:
            self._params.n_rope_rows = views["rope_table"].shape[0]

    def _set(self, tensors, page_rows, are_made):
        found = layouts(tensors[:_MADE] if are_made else tensors)
        if found is None or (found, page_rows) != self._layouts:
            self._bind(tensors, page_rows, found)
            return
        for (struct, field), tensor in zip(self._targets, tensors):
            if tensor is not None:  # else it is None already: layouts are the same
                setattr(struct, field, tensor.data_ptr())

    # ---- calls ----

    def _on_device(self):
        """A context in which the plan's device is the current one."""
        if self._torch is not None and self._gpu:
            return self._torch.cuda.device(self.device[1])
        return _NO_CONTEXT

    def _stream(self, stream):
        if stream is None and self._raw_stream is not None:
            return self._raw_stream(self.device[1])
        return stream_of(stream, self.device, self._torch)

    def _call(self, function, *args):
        if self._current_device is None or self._current_device() == self.device[1]:
            status = function(*args, self._error_reference)
        else:
            with self._on_device():
                status = function(*args, self._error_reference)
        if status != 0:
            native.raise_error(status, self._error)

    def run_build(self, window: Scope, extra: Optional[Scope], stream: Any, address: int, n_bytes: int) -> None:
        """Builds a plan in n_bytes of memory at address."""
        p = self._params
        before = p.window.lengths, p.extra.lengths
        try:
            for name, struct, scope in (("window", p.window, _scope("window", window)),
                                        ("extra", p.extra, _extra(extra))):
                struct.lengths = self._lengths_of(name, scope)
            self._call(lib.dsv4_attn_plan_build, self._stream(stream), self._reference, address, n_bytes)
        finally:
            p.window.lengths, p.extra.lengths = before  # those of decodes

    def _lengths_of(self, name, scope):
        """The address of a scope's lengths, for a build."""
        if scope.lengths is None:
            return None
        label = self.LABELS[f"{name}.lengths"]
        found = view(label, scope.lengths)
        self._check_lengths(label, found)
        check_device(label, found, self.device, "the queries")
        return found.address

    def run_decode(self, q: Any, window: Scope, extra: Scope, sink: Any, softmax_scale: float, out: Any, lse: Any,
                   rope_table: Any, rope_rows: Any, out_scales: Any, stream: Any, blocks: Sequence[int],
                   are_made: bool = False) -> None:
        """One decode; blocks: address and size of the plan, then of the workspace; are_made: out and lse are new, and
        of the same strides in every call that says so."""
        before = bytes(self._params)
        try:
            self._set((q, window[0], window[1], window[2], extra[0], extra[1], extra[2], sink, rope_table, rope_rows,
                       out_scales, out, lse), (window[3], extra[3]), are_made)
            try:
                self._params.softmax_scale = softmax_scale
            except TypeError:
                raise InvalidArgument(f"softmax_scale: {softmax_scale!r}, expected a number") from None
            self._call(lib.dsv4_attn_decode, self._stream(stream), self._reference, *blocks)
        except BaseException:
            # The next build reads this struct: nothing of a refused decode may stay in it.
            ctypes.memmove(self._reference, before, len(before))
            self._layouts = None
            raise

    def choice(self) -> dict:
        """What decodes run: backend, kernel, math and the reason, as words."""
        with self._on_device():
            return _choose(self._params)


_MAX_CALLS = 64
_threads = threading.local()


def call_for(kind: Type[DecodeCall], q: Any, window: Scope, extra: Scope, fixed_split: bool) -> DecodeCall:
    """A call of class `kind` for torch tensors of these layouts: one that this thread has made before, which saves the
    checks and the struct, or a new one."""
    calls = _threads.__dict__.setdefault("calls", {})
    found = layouts((q, *window[:3], *extra[:3]))
    if found is None:  # not all of torch: nothing that tells one call from another
        return kind(q, window, extra, fixed_split=fixed_split)
    key = (kind, found, fixed_split)
    call = calls.get(key)
    if call is None:
        if len(calls) >= _MAX_CALLS:
            calls.clear()
        call = calls[key] = kind(q, window, extra, fixed_split=fixed_split)
    return call


class Plan(DecodeCall):
    """How a step's lists are split over threads, and the memory that decodes of this shape share.

    Built once per step from shapes and lengths; every decode of the step's layers uses it. When the values of
    `lengths` change, call build() again (on CUDA that is a kernel, so that a graph that begins with it follows them).
    One decode at a time may use a Plan.

        q, window, extra   tensors of the shapes that decodes will have; only lengths are read
        out_dtype          "bf16", "f32" or "fp8"; None: bf16 for bf16 queries, else f32
        math, backend, cpu_level, cuda_kernel, n_threads, fixed_split, group_heads, join_queries
                           as in dsv4_attn_params, by name
        memory, workspace  uint8 tensors to use, of plan_bytes and workspace_bytes (sizes()), at multiples of 64;
                           on CUDA workspace must be zero before its first use
        stream             where build() runs; None: torch's current stream

    Raises dsv4.InvalidArgument, dsv4.Unsupported or dsv4.OutOfMemory with the field, the value and the rule.
    """

    def __init__(self, q: Any, window: Scope, extra: Optional[Scope] = None, *, memory: Any = None,
                 workspace: Any = None, stream: Any = None, out_dtype: Optional[Dtype] = None, math: Math = "auto",
                 backend: Backend = "auto", cpu_level: CpuLevel = "auto", cuda_kernel: CudaKernel = "auto",
                 n_threads: int = 0, fixed_split: bool = False, group_heads: int = 0, join_queries: Join = "auto"):
        super().__init__(q, window, extra, out_dtype=out_dtype, math=math, backend=backend, cpu_level=cpu_level,
                         cuda_kernel=cuda_kernel, n_threads=n_threads, fixed_split=fixed_split,
                         group_heads=group_heads, join_queries=join_queries)
        self._allocate(memory, workspace, stream)
        self.build(window, extra, stream=stream)

    def _allocate(self, plan, workspace, stream):
        n_plan, n_workspace = self.sizes()
        if plan is None:
            plan = memory.zeros("memory", n_plan, self.device, self._torch, stream)
        if workspace is None:
            workspace = memory.zeros("workspace", n_workspace, self.device, self._torch, stream)
        self.memory, self.workspace = plan, workspace
        blocks = []
        for name, block in (("memory", self.memory), ("workspace", self.workspace)):
            found = view(name, block)
            check_dtype(name, found, "u8", "i8")
            check_dense(name, found)
            check_device(name, found, self.device, "q")
            check_writable(name, found)
            n_bytes = 1
            for extent in found.shape:
                n_bytes *= extent
            blocks += [found.address, n_bytes]
        self._blocks = tuple(blocks)

    def build(self, window: Scope, extra: Optional[Scope] = None, *, stream: Any = None) -> None:
        """Builds the plan again, because the values of lengths have changed; shapes are those it was made with."""
        self.run_build(window, extra, stream, *self._blocks[:2])

    def decode(self, q: Any, window: Scope, extra: Optional[Scope] = None, *, sink: Any = None,
               softmax_scale: float = _DEFAULT_SCALE, out: Any = None, lse: Any = None, rope_table: Any = None,
               rope_rows: Any = None, out_scales: Any = None, stream: Any = None) -> Tuple[Any, Any]:
        """Computes the attention and returns (out, lse).

            sink        [heads] f32, +-inf allowed, or None
            out         [requests, queries, heads, 512] of the plan's out_dtype, any strides but the last; None: made
            lse         [requests, queries, heads] f32, any strides; None: made when out is, else left out
            rope_table  [positions, 64] f32: 32 cosines, 32 sines; dims 448..511 of out are rotated back by the row
            rope_rows   [requests, queries] i32 that names each query's position
            out_scales  [requests, queries, heads, 4] u8, with out_dtype "fp8"
            stream      a CUDA stream or its address; None: torch's current one

        With out given nothing is allocated and nothing is waited for, and the call can be captured in a CUDA graph.
        """
        window, extra = _scope("window", window), _extra(extra)
        if out is None:
            out, lse = self._make_outputs(lse, out_scales, stream)
        self.run_decode(q, window, extra, sink, softmax_scale, out, lse, rope_table, rope_rows, out_scales, stream,
                        self._blocks)
        return out, lse

    def _make_outputs(self, lse, out_scales, stream):
        like = View(0, "", (), (), self.device, False)
        if self.out_dtype == "fp8" and out_scales is None:
            raise InvalidArgument("out_scales: not given, expected [requests, queries, heads, 4] of u8 with out_dtype "
                                  "fp8")
        if lse is None:
            lse = memory.empty("lse", self.shape[:3], "f32", like, self._torch, stream)
        return memory.empty("out", self.shape, self.out_dtype, like, self._torch, stream), lse

    def __repr__(self) -> str:
        b, s, h = self.shape[:3]
        return f"<dsv4.attn.Plan of {b} requests, {s} queries, {h} heads on {device_name(self.device)}>"


def _choose(params):
    choice = native.AttnChoice()
    native.call("dsv4_attn_choose", ctypes.byref(params), ctypes.byref(choice))
    return {name: getattr(choice, name).decode() for name, _ in native.AttnChoice._fields_}


def choose(backend: Backend = "auto", math: Math = "auto", cpu_level: CpuLevel = "auto",
           cuda_kernel: CudaKernel = "auto") -> dict:
    """What a decode with these options would run on this machine; raises dsv4.Unsupported with the reason if nothing.

    Returns {"backend", "kernel", "math", "reason"}. With backend "cuda" or "hip" it asks the current device.
    """
    p = native.AttnParams()
    lib.dsv4_attn_params_default(ctypes.byref(p))
    p.backend = native.number_of(native.BACKENDS, backend, "backend")
    p.math = native.number_of(native.MATHS, math, "math")
    p.cpu_level = native.number_of(native.CPU_LEVELS, cpu_level, "cpu_level")
    p.cuda_kernel = native.number_of(native.CUDA_KERNELS, cuda_kernel, "cuda_kernel")
    return _choose(p)


def page_stride_bytes(page_rows: int) -> int:
    """Bytes from one page to the next as peers lay pages out: page_rows * 584, rounded up to a multiple of 576."""
    n_bytes = lib.dsv4_cache_page_stride_bytes(native.integer(page_rows, "page_rows", 64))
    if n_bytes == 0:
        raise InvalidArgument(f"page_rows: {page_rows}, expected at least 1 and a size that fits")
    return n_bytes


def decode(q: Any, window: Scope, extra: Optional[Scope] = None, *, sink: Any = None,
           softmax_scale: float = _DEFAULT_SCALE, out: Any = None, lse: Any = None, rope_table: Any = None,
           rope_rows: Any = None, out_scales: Any = None, stream: Any = None, out_dtype: Optional[Dtype] = None,
           math: Math = "auto", backend: Backend = "auto", cpu_level: CpuLevel = "auto",
           cuda_kernel: CudaKernel = "auto", n_threads: int = 0, fixed_split: bool = False,
           group_heads: int = 0, join_queries: Join = "auto") -> Tuple[Any, Any]:
    """One decode with a plan of its own, whose memory it allocates even with out given: arguments are those of Plan
    and of Plan.decode."""
    plan = Plan(q, window, extra, stream=stream, out_dtype=out_dtype, math=math, backend=backend, cpu_level=cpu_level,
                cuda_kernel=cuda_kernel, n_threads=n_threads, fixed_split=fixed_split, group_heads=group_heads,
                join_queries=join_queries)
    return plan.decode(q, window, extra, sink=sink, softmax_scale=softmax_scale, out=out, lse=lse,
                       rope_table=rope_table, rope_rows=rope_rows, out_scales=out_scales, stream=stream)


def merge(out_parts: Any, lse_parts: Any, *, sink: Any = None, out: Any = None, lse: Any = None, n_threads: int = 0,
          backend: Backend = "auto", stream: Any = None) -> Tuple[Any, Any]:
    """Merges partial results of disjoint key sets, each made without a sink; returns (out, lse).

        out_parts  [parts, ..., heads, 512] bf16 or f32, dense
        lse_parts  [parts, ..., heads] f32, dense
        sink       [heads] f32 or None: applied once, here
        out        [..., heads, 512] bf16 or f32, dense; None: made, of the parts' type
        lse        [..., heads] f32, dense; None: made when out is, else left out
    """
    parts, torch = view("out_parts", out_parts), torch_of(out_parts)
    if len(parts.shape) < 3 or parts.shape[-1] != DIM:
        raise InvalidArgument(f"out_parts: shape {list(parts.shape)}, expected [parts, ..., heads, 512]")
    rest = parts.shape[1:]
    if out is None:
        out = memory.empty("out", rest, "f32" if parts.dtype == "f32" else "bf16", parts, torch, stream)
        if lse is None:
            lse = memory.empty("lse", rest[:-1], "f32", parts, torch, stream)
    p = native.AttnMergeParams(size=ctypes.sizeof(native.AttnMergeParams), n_parts=parts.shape[0], n_rows=1,
                               n_heads=rest[-2])
    for extent in rest[:-2]:
        p.n_rows *= extent
    set_options(p, backend, n_threads, gpu_backend(parts.device))
    values = ("bf16", "u16", "f32")
    for name, tensor, dtypes, shape in (("out_parts", out_parts, values, parts.shape), ("out", out, values, rest),
                                        ("lse_parts", lse_parts, ("f32",), parts.shape[:-1]),
                                        ("sink", sink, ("f32",), rest[-2:-1]), ("lse", lse, ("f32",), rest[:-1])):
        if tensor is None:
            continue
        found = view(name, tensor)
        check_dtype(name, found, *dtypes)
        check_shape(name, found, shape, "dense, as out_parts [parts, ..., heads, 512]")
        check_dense(name, found)
        check_device(name, found, parts.device, "out_parts")
        if name in _OUTPUTS:
            check_writable(name, found)
        setattr(p, name, found.address)
        if name in ("out_parts", "out"):
            setattr(p, "part_dtype" if name == "out_parts" else name + "_dtype", _DTYPE_NUMBERS[found.dtype])
    call_on(parts.device, torch, "dsv4_attn_merge", stream_of(stream, parts.device, torch), ctypes.byref(p))
    return out, lse


def call_on(device: Tuple[int, int], torch: Any, name: str, *args: Any) -> None:
    """native.call with `device` as the current one, where torch can make it that."""
    if torch is not None and gpu_backend(device):
        with torch.cuda.device(device[1]):
            native.call(name, *args)
    else:
        native.call(name, *args)
