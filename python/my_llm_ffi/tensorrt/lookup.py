"""The plugin LookUp: rows of an embedding table. C++ counterpart: src/tensorrt/."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import declaration
from .memory import TensorWrapper, convert_to_torch_tensor
from .op_plugins import NAMESPACE
from .plugin_base import PluginBase, plugin
from .symbolic import SymTensor

_lookup: Any = declaration.load("embedding_lookup").function


@plugin("LookUp", version="1", namespace=NAMESPACE)
class LookUp(PluginBase):
    """Rows of a table: ``out[..., :] = table[index[..., ], :]``.

    Inputs: ``index``, int32 or int64; ``table``, ``[n, width]``, float32, float16 or bfloat16.
    """

    supported_dtypes = (("int32", "int64"), ("float32", "float16", "bfloat16"))
    ranks = (None, 2)

    def __init__(self, use_torch_tensor: bool = False, fp32_output: bool = False) -> None:
        """Chooses how it is computed.

        Args:
            use_torch_tensor: Compute by torch, instead of the op `embedding_lookup`.
            fp32_output: Give float32, whatever the table holds.
        """
        self.use_torch_tensor = use_torch_tensor
        self.fp32_output = fp32_output

    @property
    def uses_torch(self) -> bool:  # type: ignore[override]
        """Whether torch has to know the stream."""
        return self.use_torch_tensor

    def input_name(self, index: int) -> str:
        """What messages call an input."""
        return ("index", "table")[index] if index < 2 else f"input {index}"

    def shape_dtype_inference(self, inputs: Sequence[SymTensor]) -> SymTensor:
        """A row of the table for each index."""
        if len(inputs) != 2:
            raise TypeError(f"LookUp: {len(inputs)} inputs given, expected index and table")
        index, table = inputs
        if table.ndim != 2:
            raise ValueError(f"LookUp: table has shape {table.shape}, expected [n, width]")
        dtype = "float32" if self.fp32_output else table.dtype
        return SymTensor(dtype, [*index.shape, table.shape[1]])

    def forward(self, inputs: Sequence[TensorWrapper], outputs: Sequence[TensorWrapper]) -> None:  # type: ignore[override]
        """Looks up."""
        if not self.use_torch_tensor:
            index, table = (tensor.tensor for tensor in inputs)
            _lookup(table, index, outputs[0].tensor, None, False, None)
            return
        at, rows, out = (convert_to_torch_tensor(t) for t in (*inputs, *outputs))
        at, out = at.reshape(-1), out.view(at.numel(), rows.shape[1])
        if out.dtype == rows.dtype:
            _torch().index_select(rows, 0, at, out=out)
        else:
            out.copy_(_torch().index_select(rows, 0, at))


def _torch() -> Any:
    import torch

    return torch
