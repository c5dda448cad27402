"""A stand-in for vLLM's package: the few lines of it that the plugin's seam is made of, written for these tests."""
import os

FILES = {
    "__init__.py": "",
    "_version.py": "__version__ = version = '9.9.9'\n",
    "models/__init__.py": "",
    "models/deepseek_v4/__init__.py": "",
    "models/deepseek_v4/amd/__init__.py": "",
    "models/deepseek_v4/amd/rocm.py": '''
from vllm.models.deepseek_v4.amd.kernels import rocm_sparse_attn_decode

class DeepseekV4ROCMAiterMLAAttention:
    def _forward_decode(self, q, positions, kv_cache, swa_metadata, attn_metadata, swa_only, output,
                        adaptive_splits=False):
        rocm_sparse_attn_decode(
            q=q, kv_cache=kv_cache, swa_k_cache=swa_metadata.cache, swa_only=swa_only, topk_indices=None,
            topk_lens=None, swa_indices=None, swa_lens=None, scale=1.0, head_dim=512, nope_head_dim=448,
            rope_head_dim=64, attn_sink=None, output=output, swa_ragged_indices=None, swa_ragged_indptr=None,
            topk_ragged_indices=None, topk_ragged_indptr=None, extra_cache_nan_free=False,
            adaptive_splits=adaptive_splits, inv_rope_positions=positions, inv_rope_cos_sin_cache=None)
''',
    "models/deepseek_v4/amd/kernels.py": "def rocm_sparse_attn_decode(**arguments):\n    pass\n",
    "models/deepseek_v4/nvidia/__init__.py": "",
    "third_party/__init__.py": "",
    "third_party/flashmla/__init__.py": "",
    "third_party/flashmla/flash_mla_interface.py": '''
import dataclasses

@dataclasses.dataclass
class FlashMLASchedMeta:
    have_initialized: bool = False

def flash_mla_with_kvcache(**arguments):
    raise RuntimeError("the stand-in has no kernel")
''',
    "models/deepseek_v4/attention.py": '''
class Attention:
    def __init__(self, heads, sink):
        self.n_local_heads = heads
        self.padded_heads = 64
        self.attn_sink = sink

    def forward(self, attn_out):
        return attn_out[:, : self.n_local_heads, :]
''',
    "models/deepseek_v4/nvidia/flashmla.py": '''
from vllm.models.deepseek_v4.attention import Attention
from vllm.third_party.flashmla.flash_mla_interface import flash_mla_with_kvcache

class DeepseekV4FlashMLAAttention(Attention):
    scale = 512**-0.5

    def _forward_decode(self, q, kv_cache, swa_metadata, attn_metadata, swa_only, output):
        flash_mla_with_kvcache(
            q=q.unsqueeze(1), k_cache=swa_metadata.cache, block_table=None, cache_seqlens=None, head_dim_v=512,
            tile_scheduler_metadata=swa_metadata.schedule, is_fp8_kvcache=True, indices=swa_metadata.indices,
            topk_length=swa_metadata.lengths, softmax_scale=self.scale, attn_sink=self.attn_sink,
            extra_k_cache=None if swa_only else kv_cache,
            extra_indices_in_kvcache=None if swa_only else attn_metadata.indices,
            extra_topk_length=None if swa_only else attn_metadata.lengths, out=output.unsqueeze(1))
''',
}
ROCM_LAYER_FILE = "models/deepseek_v4/amd/rocm.py"
LAYER_FILE = "models/deepseek_v4/nvidia/flashmla.py"


def write(folder, changes=None):
    """Writes folder/vllm; changes: {file: (old text, new text)}. Returns the package's folder."""
    package = os.path.join(folder, "vllm")
    for path, text in FILES.items():
        old, new = (changes or {}).get(path, ("", ""))
        assert old in text
        path = os.path.join(package, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace(old, new, 1))
    return package
