"""Dtypes by name, equal to those of torch, NumPy and TensorRT that mean the same."""

from __future__ import annotations

import sys
from typing import Any

# Name -> (TensorRT's name, DLPack's type code, bits).
_TABLE = {
    "float32": ("FLOAT", 2, 32),
    "float16": ("HALF", 2, 16),
    "bfloat16": ("BF16", 4, 16),
    "float8_e4m3fn": ("FP8", 10, 8),
    "int8": ("INT8", 0, 8),
    "int32": ("INT32", 0, 32),
    "int64": ("INT64", 0, 64),
    "bool": ("BOOL", 6, 8),
    "uint8": ("UINT8", 1, 8),
}
_FROM_TENSORRT = {row[0]: name for name, row in _TABLE.items()}
_ALIASES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "float8_e4m3fn"}
# What a plugin may take and give; uint8 is for workspaces alone.
TENSOR_DTYPES = tuple(name for name in _TABLE if name != "uint8")


def _name_of(value: Any) -> str | None:
    """The name of what may be a dtype of any framework; None: it is none that is known."""
    if isinstance(value, str):
        name = _ALIASES.get(value, value)
    elif type(value).__name__ == "DataType" and hasattr(value, "name"):
        name = _FROM_TENSORRT.get(value.name, "")
    elif isinstance(value, type):  # numpy.float32, bool, ml_dtypes.bfloat16
        name = _ALIASES.get(value.__name__, value.__name__).rstrip("_")
    else:  # "torch.float32"; numpy's prints "float32"
        name = str(value).rpartition(".")[2]
    return name if name in _TABLE else None


class DType(str):
    """The name of a dtype, such as ``"float32"``.

    It equals the name and the dtype of torch, NumPy or TensorRT that means the same; use ``==`` or
    ``in`` a tuple, not ``in`` a set of another framework's dtypes, whose hashes differ.
    """

    __slots__ = ()

    def __new__(cls, value: Any) -> DType:
        """Takes a name or another framework's dtype.

        Args:
            value: ``"float32"``, ``"fp16"``, ``torch.bfloat16``, ``numpy.int32``,
                ``tensorrt.DataType.FP8`` …

        Raises:
            TypeError: A plugin cannot have tensors of it.
        """
        if type(value) is cls:
            return value
        name = _name_of(value)
        if name is None:
            raise TypeError(f"{value!r} is no dtype of a plugin, expected one of {_listed()}")
        return str.__new__(cls, name)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return str.__eq__(self, other)
        return str.__eq__(self, _name_of(other) or "")

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return _TABLE[self][2] // 8

    @property
    def dlpack(self) -> tuple[int, int]:
        """DLPack's type code and bits."""
        return _TABLE[self][1:]

    @property
    def tensorrt(self) -> Any:
        """``tensorrt.DataType``."""
        from .bindings import require

        return getattr(require().DataType, _TABLE[self][0])

    @property
    def torch(self) -> Any:
        """``torch.dtype``."""
        import torch

        return getattr(torch, str(self))


def _listed() -> str:
    return ", ".join(TENSOR_DTYPES)


def dtype_of(array: Any, name: str) -> DType:
    """Dtype of an array of torch or NumPy, or of a tensor of a network.

    Args:
        array: Whose.
        name: For messages.

    Raises:
        TypeError: A plugin cannot have such a tensor.
    """
    try:
        return DType(array.dtype)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def torch_dtype_to_trt(dtype: Any) -> Any:
    """``tensorrt.DataType`` of a ``torch.dtype``."""
    return DType(dtype).tensorrt


def trt_dtype_to_torch(dtype: Any) -> Any:
    """``torch.dtype`` of a ``tensorrt.DataType``."""
    return DType(dtype).torch


def is_torch(array: Any) -> bool:
    """Whether an object is a torch tensor; imports nothing."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)
