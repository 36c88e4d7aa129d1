"""LookUp whose compute is a Triton kernel on the engine's own memory: no copy, no torch tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton

from my_llm_ffi.tensorrt import (
    PluginBase,
    SymTensor,
    TensorWrapper,
    convert_to_torch_tensor,
    plugin,
)

from .kernel import lookup_kernel

_BLOCK = 512


@plugin("LookUp", version="1", namespace="triton_lookup")
class LookUp(PluginBase):
    """Rows of a table: index [n], table [rows, width] -> [n, width]."""

    supported_dtypes = (("int32", "int64"), ("float32", "float16", "bfloat16"))

    def __init__(self, use_torch_tensor: bool = False, fp32_output: bool = False) -> None:
        """Takes the attributes, which become fields of the engine.

        Args:
            use_torch_tensor: Compute by torch instead of Triton; it refuses an index outside of the
                table, where Triton's kernel gives zeros.
            fp32_output: Give float32, whatever the table holds.
        """
        self.use_torch_tensor = use_torch_tensor
        self.fp32_output = fp32_output

    def shape_dtype_inference(self, inputs: Sequence[SymTensor]) -> SymTensor:
        """As many rows as there are indices."""
        index, table = inputs
        dtype = torch.float32 if self.fp32_output else table.dtype
        return SymTensor(dtype, [index.shape[0], table.shape[1]])

    def forward(self, inputs: Sequence[TensorWrapper], outputs: Sequence[TensorWrapper]) -> None:
        """Launches on the engine's stream, which is torch's (and so Triton's) current one."""
        index, table, out = (*inputs, *outputs)
        if self.use_torch_tensor:
            rows, where, result = map(convert_to_torch_tensor, (table, index, out))
            result.copy_(rows.index_select(0, where))
            return
        n, (n_rows, width) = index.shape[0], table.shape
        if n and width:
            grid = (n, triton.cdiv(width, _BLOCK))
            # Triton takes whatever has data_ptr() and dtype.
            lookup_kernel[grid](index, table, out, width, n_rows, BLOCK=_BLOCK)
