"""vLLM's plugin: dsv4's decode attention in the place of FlashMLA's in DeepSeek-V4 layers on CUDA.

vLLM loads register() in each of its processes (entry point vllm.general_plugins). It touches nothing but waits for
the module of V4's CUDA attention to be imported; then vLLM's sources are compared with what is known
(dsv4.vllm_seam), and when the first layer is made, so that the process has its device, the device is asked. One line in
vLLM's log says "on", or why not; then everything stays vLLM's own. VLLM_PLUGINS without "dsv4" leaves it out.

What changes: the layer's _forward_decode hands the heads that are there, not those padded to 64 or 128, to
dsv4.flash_mla instead of FlashMLA. Page layout, lists and metadata are vLLM's; prefill stays FlashMLA's. ROCm's
layer has the same seam (vllm_seam.ROCM), which waits for a first run of the kernels on an AMD GPU.
"""
import functools
import importlib.abc
import importlib.util
import logging
import os
import sys
from typing import Any, Callable, Optional

from . import attn, vllm_seam
from .errors import Error
from .native import VERSION

# A child of vLLM's logger, whose handler and level it takes.
_log = logging.getLogger("vllm.dsv4")


def register() -> None:
    """Called by vLLM in each process, maybe several times."""
    seam = vllm_seam.CUDA
    module = sys.modules.get(seam.module)
    if module is not None:
        _or_refuse(install, module)
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport(seam.module, install))
        sys.meta_path.insert(0, _AfterImport(vllm_seam.ROCM.module, _refuse_rocm))


class _AfterImport(importlib.abc.MetaPathFinder):
    """Runs an action behind the first import of a module, which others find."""

    def __init__(self, name: str, action: Callable[[Any], None]):
        self._name, self._action = name, action

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            _or_refuse(self._hook, spec.loader)
        return spec

    def _hook(self, loader: Any) -> None:
        run = loader.exec_module

        def exec_module(module):
            run(module)
            _or_refuse(self._action, module)

        loader.exec_module = exec_module


def _or_refuse(action: Callable[..., None], *args: Any) -> None:
    """Does it, or says why not: nothing that fails here may end vLLM, which works without."""
    try:
        action(*args)
    except Exception as error:
        _refuse(f"{type(error).__name__}: {error}")


def _refuse(reason: str) -> None:
    _log.warning("dsv4 %s: off, the decode attention stays vLLM's: %s", VERSION, reason)


def _refuse_rocm(_module: Any) -> None:
    _refuse("dsv4's kernels for ROCm have never run on an AMD GPU")


def device_refusal() -> Optional[str]:
    """Why the decode attention is not dsv4's on this process's device, or None."""
    try:
        kernel = attn.choose(backend="cuda")["kernel"]
    except Error as error:
        return str(error)
    if kernel != "sm90":
        return f"the device's kernel would be {kernel}, expected sm90: only Hopper's is known to be the faster one"
    return None


def _package():
    return os.path.dirname(str(sys.modules["vllm"].__file__))


def install(module: Any) -> None:
    """Prepares the module of V4's CUDA attention: what is decided when its first layer is made."""
    seam = vllm_seam.CUDA
    layer = getattr(module, seam.layer, None)
    found = vllm_seam.differences(_package(), seam)
    if layer is None or found:
        _refuse("; ".join(found) or f"no class {seam.layer}")
        return
    if getattr(layer, "_dsv4_is_prepared", False):
        return
    layer._dsv4_is_prepared = True
    original = layer.__init__

    @functools.wraps(original)
    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if layer.__init__ is init:
            layer.__init__ = original
            _or_refuse(_decide, module, layer)

    layer.__init__ = init


def _decide(module: Any, layer: Any) -> None:
    reason = device_refusal()
    if reason is not None:
        _refuse(reason)
        return
    version = vllm_seam.version_of(_package()) or "of unknown version"
    note = "" if version in vllm_seam.KNOWN_VERSIONS else (
        f"; vLLM {version} fits, but is not one of those checked: {', '.join(vllm_seam.KNOWN_VERSIONS)}")
    switch_on(module, layer)
    _log.info("dsv4 %s: on, the decode attention of DeepSeek-V4 layers is dsv4's%s", VERSION, note)


def switch_on(module: Any, layer: Any) -> None:
    """Puts dsv4's decode into the layer class."""
    from . import flash_mla

    forward_decode = layer._forward_decode

    @functools.wraps(forward_decode)
    def real_heads(self, q, kv_cache, swa_metadata, attn_metadata, swa_only, output):
        n_heads = self.n_local_heads
        forward_decode(self, q=q[:, :n_heads], kv_cache=kv_cache, swa_metadata=swa_metadata,
                       attn_metadata=attn_metadata, swa_only=swa_only, output=output[:, :n_heads])

    def decode(*, q, tile_scheduler_metadata, attn_sink, **others):
        # vLLM makes one metadata object a step and type of layer; ours lives as long.
        own = tile_scheduler_metadata.__dict__.get("dsv4")
        if own is None:
            own = tile_scheduler_metadata.dsv4 = flash_mla.FlashMLASchedMeta()
        sink = None if attn_sink is None else attn_sink[:q.shape[2]]
        return flash_mla.flash_mla_with_kvcache(q=q, tile_scheduler_metadata=own, attn_sink=sink, **others)

    layer._forward_decode = real_heads
    setattr(module, vllm_seam.CUDA.decode, decode)
