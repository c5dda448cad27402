"""FlashMLA's names for the sparse FP8 decode of DeepSeek-V4, on dsv4's kernels.

    import dsv4.flash_mla as flash_mla

Signatures, shapes, strides and results are FlashMLA's: `out` [b, s_q, h_q, 512] bf16, `lse` a [b, h_q, s_q] view of
f32 [b, s_q, h_q], natural log without the sink; a query without keys gives out 0 and lse +inf. Taken besides: any
number of heads from 1 to 128, lists of any length, tensors on the CPU, devices from sm_80 on, and any index out of
range as no key. Other formats (V3.2's 576, V4.1's records, dense and bf16 caches) are refused by name.
"""
import dataclasses
import threading
from typing import Any, Optional, Tuple

import torch

from .attn import DecodeCall, Scope, call_for
from .errors import InvalidArgument, Unsupported
from .memory import zeros
from .native import DIM, RECORD_BYTES

__all__ = ["FlashMLASchedMeta", "flash_mla_with_kvcache", "get_mla_metadata"]

_NONE = Scope(None, None)
_OTHER_RECORDS = {656: "V3.2's FP8", 352: "V3.2's NVFP4", 528: "V4.1's FP8", 288: "V4.1's FP4", 512: "a bf16 cache",
                  576: "a bf16 cache"}


class _FlashMLACall(DecodeCall):
    """A call whose errors call tensors by FlashMLA's names, and whose lse is [requests, heads, queries]."""

    LABELS = {**DecodeCall.LABELS, "window.cache": "k_cache", "window.indices": "indices",
              "window.lengths": "topk_length", "extra.cache": "extra_k_cache",
              "extra.indices": "extra_indices_in_kvcache", "extra.lengths": "extra_topk_length", "sink": "attn_sink"}

    def _bind_outputs(self, views):
        lse = views["lse"]
        if lse is not None:
            views["lse"] = lse._replace(shape=tuple(lse.shape[i] for i in (0, 2, 1)),
                                        strides=tuple(lse.strides[i] for i in (0, 2, 1)))
        super()._bind_outputs(views)


@dataclasses.dataclass
class FlashMLASchedMeta:
    """What calls of one step share: the plan, and its memory. Empty until the first call.

    It may be used again as long as shapes and the values of topk_length and extra_topk_length stay the same, by one
    stream at a time. `tile_scheduler_metadata` is the plan's memory, for those who keep tensors of a graph alive.
    """

    @dataclasses.dataclass
    class Config:
        """What the first call was made with."""

        b: int
        s_q: int
        h_q: int
        page_block_size: int
        h_k: int
        causal: bool
        is_fp8_kvcache: bool
        topk: int
        extra_page_block_size: Optional[int]
        extra_topk: Optional[int]
        enable_batch_invariant: bool

    have_initialized: bool = False
    config: Optional[Config] = None
    tile_scheduler_metadata: Optional[torch.Tensor] = None
    num_splits: Optional[torch.Tensor] = None
    workspace: Optional[torch.Tensor] = None
    call: Optional[_FlashMLACall] = None
    thread: int = 0  # whose call it is
    blocks: Tuple[int, ...] = ()  # addresses and sizes of the two memories
    lse_layout: Tuple[Tuple[int, ...], ...] = ()  # shape and strides


def get_mla_metadata(*_args: Any, **_kwargs: Any) -> Tuple[FlashMLASchedMeta, None]:
    """An empty FlashMLASchedMeta and None; arguments are ignored, as FlashMLA does."""
    return FlashMLASchedMeta(), None


def flash_mla_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    block_table: Optional[torch.Tensor],
    cache_seqlens: Optional[torch.Tensor],
    head_dim_v: int,
    tile_scheduler_metadata: FlashMLASchedMeta,
    num_splits: None = None,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    is_fp8_kvcache: bool = False,
    indices: Optional[torch.Tensor] = None,
    attn_sink: Optional[torch.Tensor] = None,
    extra_k_cache: Optional[torch.Tensor] = None,
    extra_indices_in_kvcache: Optional[torch.Tensor] = None,
    topk_length: Optional[torch.Tensor] = None,
    extra_topk_length: Optional[torch.Tensor] = None,
    *,
    out: Optional[torch.Tensor] = None,
    enable_batch_invariant: bool = False,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Sparse FP8 decode in V4's format; returns (out, lse).

        q                         [b, s_q, h_q, 512] bf16, last dimension contiguous
        k_cache                   [num_blocks, page, 1, 584] u8, i8 or e4m3; stride(0) free
        block_table, cache_seqlens  ignored
        head_dim_v                512
        tile_scheduler_metadata   from get_mla_metadata(); the first call fills it
        num_splits                None
        softmax_scale             None: 512^-0.5
        causal, is_fp8_kvcache    False, True
        indices                   [b, s_q, topk] i32: page number * page + row; out of range: no key
        attn_sink                 [h_q] f32, +-inf allowed
        extra_k_cache, extra_indices_in_kvcache, extra_topk_length   the second scope, alike
        topk_length               [b] i32: only the first entries count
        out                       [b, s_q, h_q, 512] bf16 to write (vLLM's version of FlashMLA has it); None: made
        enable_batch_invariant    results do not depend on the batch (vLLM's version has it)

    Raises dsv4.InvalidArgument or dsv4.Unsupported with the argument, its value and what was expected.
    """
    run = _run_uncompiled if torch.compiler.is_dynamo_compiling() else _run
    return run(q, k_cache, head_dim_v, tile_scheduler_metadata, num_splits, softmax_scale, causal, is_fp8_kvcache,
               indices, attn_sink, extra_k_cache, extra_indices_in_kvcache, topk_length, extra_topk_length, out,
               enable_batch_invariant)


def _run(q, k_cache, head_dim_v, meta, num_splits, softmax_scale, causal, is_fp8_kvcache, indices, attn_sink,
         extra_k_cache, extra_indices_in_kvcache, topk_length, extra_topk_length, out, enable_batch_invariant):
    if not is_fp8_kvcache or indices is None or causal or head_dim_v != DIM or num_splits is not None:
        _refuse_mode(causal, is_fp8_kvcache, indices, head_dim_v, num_splits)
    window = Scope(k_cache, indices, topk_length)
    extra = _NONE
    if extra_k_cache is not None or extra_indices_in_kvcache is not None:
        extra = Scope(extra_k_cache, extra_indices_in_kvcache, extra_topk_length)
    elif extra_topk_length is not None:
        raise InvalidArgument("extra_topk_length: given without extra_k_cache, expected both or neither")
    if not isinstance(meta, FlashMLASchedMeta):  # FlashMLA's own, for instance
        raise InvalidArgument(f"tile_scheduler_metadata: a {type(meta).__module__}.{type(meta).__name__}, expected the "
                              "FlashMLASchedMeta that dsv4.flash_mla.get_mla_metadata() returns")
    if not meta.have_initialized:
        _refuse_format(q, k_cache, indices, extra_k_cache, extra_indices_in_kvcache, topk_length, extra_topk_length)
        _build_plan(meta, q, window, extra, enable_batch_invariant)
        meta.config = FlashMLASchedMeta.Config(
            *q.shape[:3], k_cache.shape[1], 1, causal, is_fp8_kvcache, indices.shape[2],
            None if extra_k_cache is None else extra_k_cache.shape[1],
            None if extra_k_cache is None else extra_indices_in_kvcache.shape[2], enable_batch_invariant)
        meta.have_initialized = True
    elif meta.config.enable_batch_invariant != enable_batch_invariant:
        raise InvalidArgument(f"enable_batch_invariant: {enable_batch_invariant}, expected "
                              f"{meta.config.enable_batch_invariant} as in the first call with this "
                              "tile_scheduler_metadata")
    are_made = out is None
    if are_made:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
    call = meta.call
    if meta.thread != threading.get_ident():
        call = _call_of_this_thread(meta, q, window, extra)
    lse = torch.empty_strided(*meta.lse_layout, dtype=torch.float32, device=q.device)
    call.run_decode(q, window, extra, attn_sink, DIM**-0.5 if softmax_scale is None else softmax_scale, out, lse, None,
                    None, None, None, meta.blocks, are_made)
    return out, lse


# torch.compile cannot look into calls of C: it breaks its graph here (torch.ops.dsv4 does not need that).
_run_uncompiled = torch.compiler.disable(_run)


def _call_of_this_thread(meta, q, window, extra):
    """Threads have params of their own; the plan is for all."""
    call = call_for(_FlashMLACall, q, window, extra, meta.config.enable_batch_invariant)
    sizes = [indices.shape[2] if indices is not None else None for indices in (window.indices, extra.indices)]
    first_sizes = [meta.config.topk, meta.config.extra_topk]
    if call.shape != meta.call.shape or sizes != first_sizes:
        raise InvalidArgument(f"q: shape {list(call.shape)} with lists of {sizes} entries, expected "
                              f"{list(meta.call.shape)} and {first_sizes} as in the first call with this "
                              "tile_scheduler_metadata")
    meta.call, meta.thread = call, threading.get_ident()
    return call


def _build_plan(meta, q, window, extra, enable_batch_invariant):
    meta.call = call = call_for(_FlashMLACall, q, window, extra, enable_batch_invariant)
    meta.thread = threading.get_ident()
    plan, workspace = (zeros(name, n_bytes, call.device, torch)
                       for name, n_bytes in zip(("plan", "workspace"), call.sizes()))
    meta.tile_scheduler_metadata, meta.workspace = plan, workspace
    meta.blocks = (plan.data_ptr(), plan.numel(), workspace.data_ptr(), workspace.numel())
    b, s_q, h_q = call.shape[:3]
    meta.lse_layout = ((b, h_q, s_q), (s_q * h_q, 1, h_q))
    call.run_build(window, extra, None, *meta.blocks[:2])


def _refuse_mode(causal, is_fp8_kvcache, indices, head_dim_v, num_splits):
    if indices is None:
        raise Unsupported("indices: None, expected [b, s_q, topk]: dsv4 has sparse decode alone, not the dense one "
                          "with block_table and cache_seqlens")
    if not is_fp8_kvcache:
        raise Unsupported("is_fp8_kvcache: False, expected True: dsv4 reads V4's FP8 records, not bf16 caches")
    if causal:
        raise Unsupported("causal: True, expected False: the lists say what a query sees")
    if head_dim_v != DIM:
        raise InvalidArgument(f"head_dim_v: {head_dim_v}, expected {DIM}")
    raise InvalidArgument(f"num_splits: {num_splits!r}, expected None")


def _refuse_format(q, k_cache, indices, extra_k_cache, extra_indices_in_kvcache, topk_length, extra_topk_length):
    for name, tensor, may_be_none in (("q", q, False), ("k_cache", k_cache, False), ("indices", indices, False),
                                      ("extra_k_cache", extra_k_cache, True),
                                      ("extra_indices_in_kvcache", extra_indices_in_kvcache, True),
                                      ("topk_length", topk_length, True),
                                      ("extra_topk_length", extra_topk_length, True)):
        if not isinstance(tensor, torch.Tensor) and not (may_be_none and tensor is None):
            raise InvalidArgument(f"{name}: a {type(tensor).__name__}, expected a torch.Tensor")
    if q.dim() == 4 and q.shape[-1] == 576:
        raise Unsupported("q: 576 wide, V3.2's format; dsv4 has V4's: 512 wide, records of 584 bytes")
    if q.dtype != torch.bfloat16:
        raise InvalidArgument(f"q: {q.dtype}, expected torch.bfloat16")
    for name, cache in (("k_cache", k_cache), ("extra_k_cache", extra_k_cache)):
        if cache is None:
            continue
        if cache.dim() != 4:
            raise InvalidArgument(f"{name}: shape {list(cache.shape)}, expected [num_blocks, page, 1, {RECORD_BYTES}]")
        if cache.shape[2] != 1:
            raise InvalidArgument(f"{name}: {cache.shape[2]} key heads, expected 1")
        n_bytes = cache.shape[3]
        if n_bytes != RECORD_BYTES:
            other = _OTHER_RECORDS.get(n_bytes, "another format")
            raise Unsupported(f"{name}: rows of {n_bytes}, that is {other}; expected V4's {RECORD_BYTES} bytes")


def __getattr__(name: str) -> Any:
    if name.startswith(("flash_mla_", "flash_attn_")):
        raise AttributeError(f"dsv4.flash_mla has FlashMLA's sparse FP8 decode alone, not {name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
