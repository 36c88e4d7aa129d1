"""Operations and types of the dialect that are no ops: memory, views, weights, caches."""

from __future__ import annotations

from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import ext

from .calls import same_shape
from .sizes import Size
from .storage import Storage, storage_of

NAMES = ("buffer", "view")


def sizes_of(attributes: Any, key: str) -> list[int | str] | None:
    """Numbers and names in an attribute ``["n", 64]``; None where it is absent.

    Raises:
        ValueError: It is something else.
    """
    if key not in attributes:
        return None
    listed = attributes[key]
    values: list[Any] = (
        [getattr(a, "value", None) for a in listed] if isinstance(listed, ir.ArrayAttr) else []
    )
    if not isinstance(listed, ir.ArrayAttr) or not all(type(v) in (int, str) for v in values):
        raise ValueError(f'{key} is {listed}, expected numbers and names such as ["n", 64]')
    return values


def sizes_attribute(shape: Any) -> ir.Attribute:
    """The attribute that `sizes_of` reads."""
    i64 = ir.IntegerType.get_signless(64)
    return ir.ArrayAttr.get(
        [ir.IntegerAttr.get(i64, s) if type(s) is int else ir.StringAttr.get(str(s)) for s in shape]
    )


def _number(operation: Any, name: str, default: int) -> int:
    if name not in operation.attributes:
        return default
    value = operation.attributes[name]
    if not isinstance(value, ir.IntegerAttr) or value.value < 0:
        raise ValueError(f"{name} is {value}, expected a number that is not negative")
    return int(value.value)


def view_shape(operation: Any, source: Storage) -> tuple[Any, ...]:
    """The shape of a view: sizes it names, those of its type, one that its elements leave.

    Args:
        operation: An ``llm.view``.
        source: What it is a view of.

    Raises:
        ValueError: It has more elements than there are.
        TypeError: It has another dtype.
    """
    result = storage_of(operation.results[0].type)
    named = sizes_of(operation.attributes, "sizes")
    if result.dtype != source.dtype:
        raise TypeError(f"view: out is {result.dtype}, expected {source.dtype} as x is")
    offset = _number(operation, "offset", 0)
    if named is not None:
        shape = tuple(n if type(n) is int else Size(str(n)) for n in named)
        if not same_shape(shape, result.shape):
            raise ValueError(
                f"view: out has shape {list(result.shape)}, expected {list(shape)} as sizes say"
            )
        result = Storage(shape, result.dtype)
    unknown = [i for i, n in enumerate(result.shape) if type(n) is not int]
    held, wanted = _product(source.shape), _product(result.shape)
    rests = [n for n in source.shape if type(n) is not int]
    if not unknown and not rests and offset + wanted > held:
        raise ValueError(
            f"view: out has {wanted} elements from {offset} on, expected at most the {held} of x"
        )
    if named is None and len(unknown) == len(rests) == 1 and held == wanted and not offset:
        shape_list = list(result.shape)
        shape_list[unknown[0]] = rests[0]
        return tuple(shape_list)
    return result.shape


def _product(shape: Any) -> int:
    total = 1
    for size in shape:
        total *= size if type(size) is int else 1
    return total


def _verify_view(operation: Any) -> None:
    view_shape(operation, storage_of(operation.operands[0].type))


def _verify_buffer(operation: Any) -> None:
    storage_of(operation.results[0].type)
    _number(operation, "storage", 0)
    sizes_of(operation.attributes, "sizes")


def _emitting(verify: Any) -> Any:
    def verify_invariants(operation: Any) -> bool:
        try:
            verify(operation)
        except Exception as error:  # MLIR must not see it: it has its own way to say so
            operation.location.emit_error(str(error))
            return False
        return True

    return staticmethod(verify_invariants)


def add_to(dialect: Any) -> None:
    """Adds these operations and types to a dialect."""
    quant = {"format": ir.StringAttr, "tensor": Any}
    type("quant", (dialect.Type,), {"__annotations__": quant, "__doc__": _QUANT}, name="quant")
    cache = {"__annotations__": {"tensor": Any}, "__doc__": _KV_CACHE}
    type("kv_cache", (dialect.Type,), cache, name="kv_cache")
    operand, result = ext.Operand[Any], ext.Result[Any]
    view = {
        "__annotations__": {"x": operand, "out": result},
        "__doc__": _VIEW,
        "verify_invariants": _emitting(_verify_view),
    }
    type("view", (dialect.Operation,), view, name="view", traits=[ext.Pure])
    buffer = {
        "__annotations__": {"out": result},
        "__doc__": _BUFFER,
        "verify_invariants": _emitting(_verify_buffer),
    }
    type("buffer", (dialect.Operation,), buffer, name="buffer")


_QUANT = """``!llm.quant<"Q8_0", tensor<5x32xf32>>``: a weight in the blocks of a format.

It is what ops take as uint8 rows of blocks, and says the format for them. The tensor inside says
the weights that it stands for.
"""
_KV_CACHE = """``!llm.kv_cache<tensor<3x2x8x32xf32>>``: pages that outlive a run.

As an argument of a function it is a parameter of the plan, and ops write it in place. An update of
it is an effect, which no pass removes.
"""
_VIEW = """Elements of another tensor under another shape, without a copy.

Attributes: ``offset``, elements before the first one; ``sizes``, numbers and names of the sizes
such as ``["n", 9, 64]``, where the type alone leaves more than one open.
"""
_BUFFER = (
    """Memory for an output; those of one ``storage`` share theirs. Made by ``plan-buffers``."""
)

DOCS = {"view": _VIEW, "buffer": _BUFFER, "!llm.quant": _QUANT, "!llm.kv_cache": _KV_CACHE}
