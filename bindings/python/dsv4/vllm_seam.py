"""What the vLLM plugin relies on of vLLM's sources, and the check that they are so.

Sources are read, not imported: the plugin asks before it touches anything, and the tests ask of any package that lies
unpacked somewhere. A version that differs is refused with the difference in words.
"""
import ast
import os
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

KNOWN_VERSIONS = ("0.30.0", "0.31.0", "0.32.0", "0.33.0")  # whose sources this has been checked against
ROCM_VERSIONS = KNOWN_VERSIONS[1:]  # of which ROCM fits these: 0.30.0 handed no positions on

PLUGIN_GROUP = "vllm.general_plugins"


class Seam(NamedTuple):
    """Where a platform's decode attention is called: `decode`, a global of `module`, in `method` of `layer`."""

    module: str
    layer: str
    method: str
    parameters: Tuple[str, ...]
    decode: str
    keywords: Tuple[str, ...]


CUDA = Seam(
    module="vllm.models.deepseek_v4.nvidia.flashmla",
    layer="DeepseekV4FlashMLAAttention",
    method="_forward_decode",
    parameters=("self", "q", "kv_cache", "swa_metadata", "attn_metadata", "swa_only", "output"),
    decode="flash_mla_with_kvcache",
    keywords=("attn_sink", "block_table", "cache_seqlens", "extra_indices_in_kvcache", "extra_k_cache",
              "extra_topk_length", "head_dim_v", "indices", "is_fp8_kvcache", "k_cache", "out", "q", "softmax_scale",
              "tile_scheduler_metadata", "topk_length"),
)
ROCM = Seam(
    module="vllm.models.deepseek_v4.amd.rocm",
    layer="DeepseekV4ROCMAiterMLAAttention",
    method="_forward_decode",
    parameters=("self", "q", "positions", "kv_cache", "swa_metadata", "attn_metadata", "swa_only", "output",
                "adaptive_splits"),
    decode="rocm_sparse_attn_decode",
    keywords=("adaptive_splits", "attn_sink", "extra_cache_nan_free", "head_dim", "inv_rope_cos_sin_cache",
              "inv_rope_positions", "kv_cache", "nope_head_dim", "output", "q", "rope_head_dim", "scale", "swa_indices",
              "swa_k_cache", "swa_lens", "swa_only", "swa_ragged_indices", "swa_ragged_indptr", "topk_indices",
              "topk_lens", "topk_ragged_indices", "topk_ragged_indptr"),
)
# The layer's base class: heads behind n_local_heads are padding, cut off before the output projection.
ATTENTION_FILE = "models/deepseek_v4/attention.py"
PADDING_CUT = "[:, :self.n_local_heads, :]"
LAYER_ATTRIBUTES = ("attn_sink", "n_local_heads", "padded_heads")
# Where the scheduler metadata's class is; the plugin keeps its own state in an attribute of its objects.
METADATA_FILE = "third_party/flashmla/flash_mla_interface.py"
METADATA_CLASS = "FlashMLASchedMeta"


def version_of(package: str) -> Optional[str]:
    """The version that a package folder's _version.py states."""
    try:
        tree = _parse(package, "_version.py")
    except (OSError, SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            if any(isinstance(target, ast.Name) and target.id == "__version__" for target in node.targets):
                return str(node.value.value)
    return None


def differences(package: str, seam: Seam = CUDA) -> List[str]:
    """What of vLLM's package folder is not as the seam needs it, in words; empty: all is."""
    try:
        return list(_layer_differences(package, seam)) + list(_padding_differences(package, seam))
    except (OSError, SyntaxError, ValueError) as error:  # ValueError: bytes that are no UTF-8, or NUL
        return [f"cannot read vLLM's sources: {error}"]


def _parse(package, path):
    with open(os.path.join(package, path), encoding="utf-8") as file:
        return ast.parse(file.read(), path)


def _classes(tree) -> Dict[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _layer_differences(package, seam) -> Iterator[str]:
    path = os.path.join(*seam.module.split(".")[1:]) + ".py"
    tree = _parse(package, path)
    layer = _classes(tree).get(seam.layer)
    if layer is None:
        yield f"{path}: no class {seam.layer}"
        return
    methods = {node.name: node for node in layer.body if isinstance(node, ast.FunctionDef)}
    method = methods.get(seam.method)
    if method is None:
        yield f"{path}: {seam.layer} has no method {seam.method}"
        return
    found = tuple(arg.arg for arg in method.args.posonlyargs + method.args.args + method.args.kwonlyargs)
    if found != seam.parameters or method.args.vararg or method.args.kwarg:
        yield f"{path}: {seam.method}({', '.join(found)}), expected ({', '.join(seam.parameters)})"
    imported = {name.asname or name.name for node in tree.body if isinstance(node, ast.ImportFrom)
                for name in node.names}
    if seam.decode not in imported:
        yield f"{path}: {seam.decode} is not imported by name"
    calls = [node for node in ast.walk(method) if isinstance(node, ast.Call)
             and isinstance(node.func, ast.Name) and node.func.id == seam.decode]
    if len(calls) != 1:
        yield f"{path}: {seam.method} calls {seam.decode} {len(calls)} times, expected once"
        return
    keywords = tuple(sorted(keyword.arg or "**" for keyword in calls[0].keywords))
    if calls[0].args or keywords != seam.keywords:
        yield (f"{path}: {seam.decode} is called with {len(calls[0].args)} positional arguments and "
               f"({', '.join(keywords)}), expected none and ({', '.join(seam.keywords)})")


def _padding_differences(package, seam) -> Iterator[str]:
    if seam is not CUDA:
        return
    tree = _parse(package, ATTENTION_FILE)
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
                  and isinstance(node.value, ast.Name) and node.value.id == "self"
                  and isinstance(node.ctx, ast.Store)}
    for name in LAYER_ATTRIBUTES:
        if name not in attributes:
            yield f"{ATTENTION_FILE}: self.{name} is not set"
    if not any(isinstance(node, ast.Subscript) and ast.unparse(node).endswith(PADDING_CUT) for node in ast.walk(tree)):
        yield f"{ATTENTION_FILE}: nothing is cut by {PADDING_CUT}: heads that are padding may be read"
    metadata = _classes(_parse(package, METADATA_FILE)).get(METADATA_CLASS)
    if metadata is None or any(keyword.arg == "slots" for d in metadata.decorator_list if isinstance(d, ast.Call)
                               for keyword in d.keywords):
        yield f"{METADATA_FILE}: no class {METADATA_CLASS} whose objects can hold further attributes"
