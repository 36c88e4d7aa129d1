"""Rows of an embedding table, by torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from my_llm_ffi.tensorrt import (
    PluginBase,
    SymTensor,
    TensorWrapper,
    convert_to_torch_tensor,
    plugin,
)


@plugin("LookUp", version="1", namespace="lookup_plugin")
class LookUp(PluginBase):
    """Rows of a table: index [n], table [rows, width] -> [n, width]."""

    supported_dtypes = (("int32", "int64"), ("float32", "float16", "bfloat16"))

    def __init__(self, fp32_output: bool = False) -> None:
        """Takes the attributes, which become fields of the engine.

        Args:
            fp32_output: Give float32, whatever the table holds.
        """
        self.fp32_output = fp32_output

    def shape_dtype_inference(self, inputs: Sequence[SymTensor]) -> SymTensor:
        """As many rows as there are indices."""
        index, table = inputs
        dtype = torch.float32 if self.fp32_output else table.dtype
        return SymTensor(dtype, [index.shape[0], table.shape[1]])

    def forward(self, inputs: Sequence[TensorWrapper], outputs: Sequence[TensorWrapper]) -> None:
        """Runs on the caller's stream, which is torch's current one here."""
        index, table, out = map(convert_to_torch_tensor, (*inputs, *outputs))
        if out.dtype == table.dtype:
            torch.index_select(table, 0, index, out=out)
        else:
            out.copy_(torch.index_select(table, 0, index))
