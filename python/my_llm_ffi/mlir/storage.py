"""What a type of the dialect stores: shape, dtype and, of weights, the format of their blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch_mlir import ir

from ..checks import INT64_MAX
from ..declaration import block_of
from .sizes import Given, Size

_DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "f64": "float64",
    "i1": "bool",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "ui8": "uint8",
    "ui16": "uint16",
    "ui32": "uint32",
    "ui64": "uint64",
}
_ELEMENTS = {name: element for element, name in _DTYPES.items()}
# What arith.constant can be: its integers have no sign.
CONSTANTS = tuple(n for n in _ELEMENTS if not n.startswith(("uint", "bfloat")))
QUANT, KV_CACHE = "llm.quant", "llm.kv_cache"


class Storage(NamedTuple):
    """A tensor as ops see it.

    Attributes:
        shape: Sizes; a new `Size` for each ``?``.
        dtype: Full name.
        format: Of the blocks, where the type says it.
    """

    shape: tuple[Given, ...]
    dtype: str
    format: str | None = None


def type_name(type: ir.Type) -> str:
    """``"llm.quant"`` or ``"llm.kv_cache"``; empty for a type of another dialect."""
    return str(type.type_name) if isinstance(type, ir.DynamicType) else ""


def storage_of(type: ir.Type) -> Storage:
    """What values of a type are to an op.

    Raises:
        TypeError: The type is none that ops take.
        ValueError: A weight's format is unknown, or its rows are no whole blocks.
    """
    name = type_name(type)
    if name in (QUANT, KV_CACHE):
        parameters = ir.DynamicType(type).params
        inner = storage_of(ir.TypeAttr(parameters[-1]).value)
        if name == KV_CACHE:
            return inner
        return _blocks(type, ir.StringAttr(parameters[0]).value, inner)
    element = str(type.element_type) if isinstance(type, ir.RankedTensorType) else ""
    if element not in _DTYPES:
        raise TypeError(f"{type}, expected a ranked tensor of {', '.join(_DTYPES)}")
    tensor = ir.RankedTensorType(type)
    shape = [Size() if tensor.is_dynamic_dim(i) else n for i, n in enumerate(tensor.shape)]
    return Storage(tuple(shape), _DTYPES[element])


def _blocks(type: ir.Type, format: str, logical: Storage) -> Storage:
    block, block_bytes = block_of(format)
    if len(logical.shape) != 2 or logical.dtype != "float32":
        raise ValueError(f"{type}, expected a tensor of rows and columns of f32")
    rows, cols = logical.shape
    if type_is_odd := isinstance(cols, int) and cols % block:
        raise ValueError(f"{type} has {type_is_odd} columns beyond the last block of {block}")
    return Storage((rows, cols // block * block_bytes), "uint8", format)


def tensor_type(shape: Sequence[Any], dtype: str) -> ir.Type:
    """The tensor type of a shape; ``?`` for every size that is not a number.

    Args:
        shape: Numbers, and anything else for what is not known.
        dtype: Full name.

    Raises:
        TypeError: No such dtype, or a size is no integer.
        ValueError: A size is negative.
    """
    if dtype not in _ELEMENTS:
        raise TypeError(f"dtype is {dtype!r}, expected one of {', '.join(_ELEMENTS)}")
    if isinstance(shape, str) or not isinstance(shape, Iterable):
        raise TypeError(f"shape is {type(shape).__name__}, expected sizes")
    dynamic = ir.ShapedType.get_dynamic_size()
    known = [size.resolve() if isinstance(size, Size) else size for size in shape]
    for size in known:
        if type(size) is int and not 0 <= size <= INT64_MAX:
            raise ValueError(f"a size of shape is {size}, expected 0 or greater in 64 bits")
        if isinstance(size, (bool, float)):
            raise TypeError(f"a size of shape is {type(size).__name__}, expected an integer")
    sizes = [size if type(size) is int else dynamic for size in known]
    element = ir.Type.parse(_ELEMENTS[dtype])
    return ir.RankedTensorType.get(sizes, element, loc=ir.Location.unknown())


def quant(format: str, rows: Any, cols: Any) -> ir.Type:
    """``!llm.quant<"Q8_0", tensor<5x32xf32>>``: weights kept in the blocks of a format.

    Args:
        format: Name of the format.
        rows: Rows of the weight; a name or None where it is not known.
        cols: Weights in a row.

    Raises:
        ValueError: The library knows no such format, or the rows are no whole blocks.
    """
    with _context():
        inner = ir.TypeAttr.get(tensor_type((rows, cols), "float32"))
        made = ir.DynamicType.get(QUANT, [ir.StringAttr.get(format), inner])
        storage_of(made)
        return made


def kv_cache(shape: Sequence[Any], dtype: str) -> ir.Type:
    """``!llm.kv_cache<tensor<…>>``: pages that outlive a run, and are written in place.

    Args:
        shape: Sizes of the pages.
        dtype: Full name of their dtype.
    """
    with _context():
        inner = ir.TypeAttr.get(tensor_type(shape, dtype))
        return ir.DynamicType.get(KV_CACHE, [inner])


def _context() -> Any:
    """The context that the caller is in, or that of this package."""
    from . import dialect  # which imports this

    return ir.Context.current or dialect.context()
