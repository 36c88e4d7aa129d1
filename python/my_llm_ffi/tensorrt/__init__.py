"""TensorRT plugins in Python, and this library's ops as plugins; docs/guide_tensorrt.md.

Importing this registers the plugins that ship: with TensorRT, where it is installed, so that
engines which hold them can be loaded. Without it, plugins can be written, inferred and run on torch
tensors, and nothing else.
"""

from __future__ import annotations

from .bindings import trt as _trt
from .dtypes import DType, torch_dtype_to_trt, trt_dtype_to_torch
from .failures import raise_stored
from .lookup import LookUp
from .manifest import check_manifest, load_engine, manifest_path, save_engine
from .memory import TensorWrapper, convert_to_torch_tensor, host_memory
from .op_plugins import SHIPPED, OpPlugin, op_plugin
from .plugin_base import PluginBase, plugin, unregister
from .session import Session, TensorInfo
from .symbolic import Dim, SymTensor, Undecidable, ceil_div, maximum, minimum, where

RmsNorm, AddRmsNorm, SiluMul, Rope, MaskLogits, PagedAttention = map(op_plugin, SHIPPED)

__all__ = [
    "AddRmsNorm",
    "DType",
    "Dim",
    "LookUp",
    "MaskLogits",
    "OpPlugin",
    "PagedAttention",
    "PluginBase",
    "RmsNorm",
    "Rope",
    "Session",
    "SiluMul",
    "SymTensor",
    "TensorInfo",
    "TensorWrapper",
    "Undecidable",
    "ceil_div",
    "check_manifest",
    "convert_to_torch_tensor",
    "has_tensorrt",
    "host_memory",
    "load_engine",
    "manifest_path",
    "maximum",
    "minimum",
    "op_plugin",
    "plugin",
    "raise_stored",
    "save_engine",
    "torch_dtype_to_trt",
    "trt_dtype_to_torch",
    "unregister",
    "where",
]


def has_tensorrt() -> bool:
    """Whether the Python module of TensorRT is there."""
    return _trt is not None
