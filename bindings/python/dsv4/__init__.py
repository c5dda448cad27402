"""dsv4: DeepSeek-V4's attention, its neighbours and its engine, from libdsv4.

    dsv4.attn       the decode attention on any tensors         dsv4.keys       what makes its queries and keys
    dsv4.Model      a checkpoint that generates text            dsv4.torch_ops  torch.ops.dsv4 (imports torch)
    dsv4.flash_mla  FlashMLA's names on our kernels (imports torch)

Importing this package needs neither torch nor numpy.
"""
from . import attn, keys
from .engine import Model, Session
from .errors import BadFile, DeviceError, Error, FileError, InvalidArgument, OutOfMemory, Unsupported
from .native import VERSION as __version__

__all__ = ["BadFile", "DeviceError", "Error", "FileError", "InvalidArgument", "Model", "OutOfMemory", "Session",
           "Unsupported", "__version__", "attn", "keys"]
