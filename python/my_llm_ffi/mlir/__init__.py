"""MLIR: a dialect ``llm`` of all declared ops, passes in Python, and the way to a `Plan`.

Needs the extra ``mlir`` (PyPI's torch-mlir, CPython 3.10 to 3.12). docs/guide_mlir.md shows how.
"""

from __future__ import annotations

try:
    import torch_mlir.ir as _ir  # noqa: F401
except ImportError as error:
    raise ImportError(
        "my_llm_ffi.mlir needs torch-mlir, which PyPI has for CPython 3.10 to 3.12: "
        "pip install 'my-llm-ffi[mlir]'"
    ) from error

from . import buffers as _buffers  # noqa: F401  registers the pass
from .builder import Builder
from .cleaning import dce as _dce  # noqa: F401
from .dialect import context, load, names, register
from .from_plan import load as load_plan
from .pipelines import Pass, passes, register_pass, register_pipeline, run_pipeline
from .storage import kv_cache, quant
from .text import MlirError, parse, parse_file, verify
from .to_plan import lower, save

__all__ = [
    "Builder",
    "MlirError",
    "Pass",
    "context",
    "kv_cache",
    "load",
    "load_plan",
    "lower",
    "names",
    "parse",
    "parse_file",
    "passes",
    "quant",
    "register",
    "register_pass",
    "register_pipeline",
    "run_pipeline",
    "save",
    "verify",
]
