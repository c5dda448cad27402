"""torch.ops.dsv4: the decode attention, the insertion of keys and the compressor as torch operators.

    import dsv4.torch_ops
    out, lse = torch.ops.dsv4.sparse_mla_decode(q, window_cache, window_indices)

Schemas declare what is written; fake kernels make them usable under torch.compile; they can be captured in CUDA
graphs. None of them has a derivative.

sparse_mla_decode -> (out, lse), and sparse_mla_decode_out: b requests, s query tokens of each, h heads
    q                             [b, s, h, 512]   bf16, or f32 on the CPU
    window_cache, extra_cache     [pages, page_rows, 584] or [pages, page_rows, 1, 584] u8, i8 or FP8;
                                  [pages, page_rows, 512] f32 on the CPU
    window_indices, extra_indices [b, s, n] i32    slots: page * page_rows + row; what is out of range names no key
    window_lengths, extra_lengths [b] i32          only the first entries of a list count
    sink                          [h] f32          natural-log logits
    out                           [b, s, h, 512]   bf16; f32 with f32 queries
    lse                           [b, s, h] f32    natural log, without the sink
    plan, workspace               [bytes] u8       those of a dsv4.attn.Plan of the same shapes, where the queries lie
    rope_table, rope_rows         [positions, 64] f32, [b, s] i32
sparse_mla_plan_build: the same, without sink and what follows it
keys_finish
    q, out                        [tokens, heads, 512] bf16 or f32; out may be q
    kv, kv_norm                   [tokens, 512] bf16 or f32, [512] bf16
    window_cache, slots           a cache as above, [tokens] i32
    rope_table, rope_rows         [positions, 64] f32, [tokens] i32
keys_compress: width is 512 with ratio 128, 1024 with ratio 4
    k, g                          [tokens, width] f32
    requests, positions, slots    [tokens] i32
    ape, norm                     [ratio, width] f32, [512] bf16
    state, tables                 [pages, page_rows, 2, width] f32, [requests, table pages] i32
    compressed_cache              a cache as above
    rope_table, rope_rows         [positions, 64] f32, [tokens] i32
keys_read
    cache, slots, out             a cache as above, [rows] i32, [rows, 512] bf16 or f32
"""
import torch

from . import attn, keys
from . import memory as scratch
from .attn import DecodeCall, Scope, call_for
from .errors import InvalidArgument
from .tensors import check_device, view

_SCOPES = """Tensor q, Tensor window_cache, Tensor window_indices, Tensor? window_lengths=None,
    Tensor? extra_cache=None, Tensor? extra_indices=None, Tensor? extra_lengths=None"""
_SCHEMAS = (
    # A decode with a plan and a workspace of its own.
    f"""sparse_mla_decode({_SCOPES}, Tensor? sink=None, *, float softmax_scale={attn._DEFAULT_SCALE},
    bool fixed_split=False) -> (Tensor, Tensor)""",
    # The same into the caller's memory. plan and workspace: those of a dsv4.attn.Plan, or neither.
    f"""sparse_mla_decode_out({_SCOPES}, Tensor? sink=None, *, Tensor(a!) out, Tensor(b!)? lse=None,
    Tensor? plan=None, Tensor(c!)? workspace=None, Tensor? rope_table=None, Tensor? rope_rows=None,
    float softmax_scale={attn._DEFAULT_SCALE}, bool fixed_split=False) -> ()""",
    # The plan of a step, into a dsv4.attn.Plan's memory.
    f"sparse_mla_plan_build({_SCOPES}, *, Tensor(a!) plan, bool fixed_split=False) -> ()",
    """keys_finish(Tensor? q, Tensor? kv, Tensor(a!)? window_cache, Tensor? slots, Tensor rope_table,
    Tensor rope_rows, Tensor? kv_norm=None, *, Tensor(b!)? out=None, float norm_eps=1e-6) -> ()""",
    """keys_compress(Tensor k, Tensor g, int ratio, Tensor requests, Tensor positions, Tensor ape, Tensor(a!) state,
    Tensor tables, Tensor(b!) compressed_cache, Tensor slots, Tensor rope_table, Tensor? rope_rows=None,
    Tensor? norm=None, *, float norm_eps=1e-6) -> ()""",
    "keys_read(Tensor cache, Tensor slots, *, Tensor(a!) out) -> ()",
)


class _OperatorCall(DecodeCall):
    """A call whose errors call tensors by the operators' names."""

    LABELS = {name: name.replace(".", "_") for name in DecodeCall.LABELS}


_library = torch.library.Library("dsv4", "DEF")


def _block(name, tensor, device):
    """Address and size of a memory; the kernels write to it, so it must lie where they run."""
    found = view(name, tensor)
    check_device(name, found, device, "the queries")
    if tensor.dtype not in (torch.uint8, torch.int8) or not tensor.is_contiguous():
        raise InvalidArgument(f"{name}: {tensor.dtype} with strides {tensor.stride()}, expected contiguous bytes")
    return found.address, tensor.numel()


def _plan_build(q, window_cache, window_indices, window_lengths=None, extra_cache=None, extra_indices=None,
                extra_lengths=None, *, plan, fixed_split=False):
    window = Scope(window_cache, window_indices, window_lengths)
    extra = Scope(extra_cache, extra_indices, extra_lengths)
    call = call_for(_OperatorCall, q, window, extra, fixed_split)
    call.run_build(window, extra, None, *_block("plan", plan, call.device))


def _decode_out(q, window_cache, window_indices, window_lengths=None, extra_cache=None, extra_indices=None,
                extra_lengths=None, sink=None, *, out, lse=None, plan=None, workspace=None, rope_table=None,
                rope_rows=None, softmax_scale=attn._DEFAULT_SCALE, fixed_split=False):
    window = Scope(window_cache, window_indices, window_lengths)
    extra = Scope(extra_cache, extra_indices, extra_lengths)
    call = call_for(_OperatorCall, q, window, extra, fixed_split)
    if (plan is None) != (workspace is None):
        raise InvalidArgument("plan and workspace: one given, expected both or neither")
    if plan is None:
        n_plan, n_workspace = call.sizes()
        plan = scratch.zeros("plan", n_plan, call.device, torch)
        workspace = scratch.zeros("workspace", n_workspace, call.device, torch)
        call.run_build(window, extra, None, *_block("plan", plan, call.device))
    call.run_decode(q, window, extra, sink, softmax_scale, out, lse, rope_table, rope_rows, None, None,
                    (*_block("plan", plan, call.device), *_block("workspace", workspace, call.device)))


def _out_dtype(q):
    return torch.float32 if q.dtype == torch.float32 else torch.bfloat16


def _decode(q, window_cache, window_indices, window_lengths=None, extra_cache=None, extra_indices=None,
            extra_lengths=None, sink=None, *, softmax_scale=attn._DEFAULT_SCALE, fixed_split=False):
    out = torch.empty(q.shape, dtype=_out_dtype(q), device=q.device)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    _decode_out(q, window_cache, window_indices, window_lengths, extra_cache, extra_indices, extra_lengths, sink,
                out=out, lse=lse, softmax_scale=softmax_scale, fixed_split=fixed_split)
    return out, lse


def _decode_fake(q, window_cache, window_indices, window_lengths=None, extra_cache=None, extra_indices=None,
                 extra_lengths=None, sink=None, *, softmax_scale=attn._DEFAULT_SCALE, fixed_split=False):
    torch._check(q.dim() == 4, lambda: f"q: {q.dim()} dimensions, expected [requests, queries, heads, 512]")
    return q.new_empty(q.shape, dtype=_out_dtype(q)), q.new_empty(q.shape[:3], dtype=torch.float32)


def _finish(q, kv, window_cache, slots, rope_table, rope_rows, kv_norm=None, *, out=None, norm_eps=1e-6):
    if q is not None and out is None:
        raise InvalidArgument("out: not given, expected [tokens, heads, 512] as q, or q itself")
    keys.finish(q, kv, window_cache, slots, rope_table=rope_table, rope_rows=rope_rows, kv_norm=kv_norm, out=out,
                norm_eps=norm_eps)


def _compress(k, g, ratio, requests, positions, ape, state, tables, compressed_cache, slots, rope_table,
              rope_rows=None, norm=None, *, norm_eps=1e-6):
    keys.compress(k, g, ratio=ratio, requests=requests, positions=positions, ape=ape, state=state, tables=tables,
                  compressed=compressed_cache, slots=slots, rope_table=rope_table, rope_rows=rope_rows, norm=norm,
                  norm_eps=norm_eps)


def _read(cache, slots, *, out):
    keys.read(cache, slots=slots, out=out)


def _writes_only(*_args, **_kwargs):
    """The fake kernel of an operator that returns nothing."""


def _register():
    kernels = {"sparse_mla_decode": (_decode, _decode_fake), "sparse_mla_decode_out": (_decode_out, _writes_only),
               "sparse_mla_plan_build": (_plan_build, _writes_only), "keys_finish": (_finish, _writes_only),
               "keys_compress": (_compress, _writes_only), "keys_read": (_read, _writes_only)}
    tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)  # compilers keep strides as they are
    for schema in _SCHEMAS:
        _library.define(" ".join(schema.split()), tags=tags)
    for name, (kernel, fake) in kernels.items():
        for key in ("CPU", "CUDA"):
            _library.impl(name, kernel, key)
        torch.library.register_fake(f"dsv4::{name}", fake, lib=_library)


_register()
