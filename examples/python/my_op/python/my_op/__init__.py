"""Two ops for my_llm_ffi: softcap, in C++ and CUDA, and token_entropy, in Python.

Importing the package declares them. They are then `my_llm_ffi.ops.softcap` and
`my_llm_ffi.ops.token_entropy`, for arrays of any framework, and what my_llm_ffi makes of its own
ops it makes of these: torch.ops, JAX, MLIR, clients in C++ and Rust.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import my_llm_ffi as llm

from . import entropy as entropy  # declares token_entropy

_LIBRARY = "libmy_op.so"


def library_path() -> Path:
    """The library of the ops in C++, for `my_llm_ffi.load_ops` of other languages."""
    path = Path(__file__).parent / "lib" / _LIBRARY
    if path.is_file():
        return path
    files = importlib.metadata.files("my-op") or []  # an editable install keeps it elsewhere
    return next(Path(str(file.locate())) for file in files if file.name == _LIBRARY)


llm.load_ops(library_path())

softcap = llm.ops.softcap
token_entropy = llm.ops.token_entropy

__all__ = ["library_path", "softcap", "token_entropy"]
