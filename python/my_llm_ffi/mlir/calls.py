"""Reading and making operations of the dialect: operands and results by the names of the op."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch_mlir import ir

from ..declaration import REQUIRED, Attribute, Op
from .sizes import Size
from .storage import QUANT, Storage, storage_of, tensor_type, type_name

PREFIX = "llm."
SEGMENTS = "operandSegmentSizes"


@dataclasses.dataclass(frozen=True)
class Call:
    """An operation, read by the declaration of its op.

    Attributes:
        operation: The operation.
        op: The declaration.
        inputs: Values in the order of the declaration; None where an optional one is absent.
        into: Values whose memory the outputs take; none before buffers are planned.
        options: Those that are given, by name.
        outputs: Results for the outputs of the op.
        updates: Results for the inputs that it writes in place, by the input's index.
    """

    operation: ir.Operation
    op: Op
    inputs: list[Any]
    into: list[Any]
    options: dict[str, Any]
    outputs: list[Any]
    updates: dict[int, Any]

    def arguments(self) -> list[Any]:
        """All options in order, as the registered function takes them."""
        return [self.options.get(a.name, a.default) for a in self.op.attributes]

    def storages(self) -> list[Storage | None]:
        """Shape and dtype of each input."""
        return [None if v is None else storage_of(v.type) for v in self.inputs]


def written_inputs(op: Op) -> list[int]:
    """Indices of the inputs that an op writes in place."""
    return [i for i, tensor in enumerate(op.inputs) if tensor.use == "mutable"]


def result_names(op: Op) -> list[str]:
    """Names of an operation's results: the outputs, then ``<input>_new`` for what is updated."""
    return [o.name for o in op.outputs] + [f"{op.inputs[i].name}_new" for i in written_inputs(op)]


def has_segments(op: Op) -> bool:
    """Whether the operands alone do not say which is which."""
    return len(op.outputs) > 1 or any(t.optional for t in op.inputs)


def read(operation: Any, op: Op) -> Call:
    """Reads an operation.

    Raises:
        ValueError: Operands, results or options are not those of the op.
        TypeError: An option is of the wrong type.
    """
    inputs, into = _operands(operation, op)
    results = list(operation.results)
    names = result_names(op)
    if len(results) != len(names):
        raise ValueError(
            f"{op.name}: has {len(results)} results, expected {len(names)}: {', '.join(names)}"
        )
    count = len(op.outputs)
    updates = dict(zip(written_inputs(op), results[count:]))
    call = Call(operation, op, inputs, into, {}, results[:count], updates)
    call.options.update(_options(operation, op, inputs))
    return call


def _operands(operation: Any, op: Op) -> tuple[list[Any], list[Any]]:
    values, counts = list(operation.operands), [1] * len(op.inputs)
    if has_segments(op):
        sizes = operation.attributes[SEGMENTS] if SEGMENTS in operation.attributes else None
        total = len(counts) + len(op.outputs)
        if not isinstance(sizes, ir.DenseI32ArrayAttr) or len(sizes) != total:
            raise ValueError(f"{op.name}: {SEGMENTS} must have {total} numbers")
        counts = list(sizes)[: len(counts)]
    if len(values) < sum(counts):
        names = ", ".join(t.name for t in op.inputs)
        raise ValueError(f"{op.name}: has {len(values)} operands, expected {names}")
    inputs: list[Any] = []
    for tensor, count in zip(op.inputs, counts):
        if count not in ((0, 1) if tensor.optional else (1,)):
            raise ValueError(f"{op.name}: {tensor.name} has {count} operands")
        inputs.append(values.pop(0) if count else None)
    if len(values) not in (0, len(op.outputs)):
        raise ValueError(
            f"{op.name}: has {len(values)} operands after its inputs, expected none or memory for "
            f"each of its {len(op.outputs)} outputs"
        )
    return inputs, values


# ---- options ------------------------------------------------------------------------------------


def _options(operation: Any, op: Op, inputs: Sequence[Any]) -> dict[str, Any]:
    by_name = {a.name: a for a in op.attributes}
    given: dict[str, Any] = {}
    for name, value in operation.attributes.items():
        if name in by_name:
            given[name] = _value(op, by_name[name], value)
        elif name != SEGMENTS and "." not in name:  # with a dot it belongs to another dialect
            listed = ", ".join(by_name) or "none"
            raise ValueError(f"{op.name}: has no option {name}, expected some of: {listed}")
    for name, attribute in by_name.items():
        if attribute.default is REQUIRED and name not in given:
            said = _format_of(op, inputs) if name == "format" else None
            if said is None:
                raise ValueError(f"{op.name}: {name} is missing, expected {attribute.expected}")
    if "format" in by_name:
        said = _format_of(op, inputs)
        if said is not None:
            _check_format(op, given.setdefault("format", said), said)
    return given


def _check_format(op: Op, given: Any, said: str) -> None:
    if given != said:
        raise ValueError(f'{op.name}: format is "{given}", expected "{said}" as the weight has')


def _format_of(op: Op, inputs: Sequence[Any]) -> str | None:
    """The format that a weight's type says."""
    for value in inputs:
        if value is not None and type_name(value.type) == QUANT:
            return storage_of(value.type).format
    return None


def _value(op: Op, attribute: Attribute, value: ir.Attribute) -> Any:
    if attribute.optional and isinstance(value, ir.UnitAttr):
        return None
    if attribute.choices:
        if isinstance(value, ir.DynamicAttr) and value.attr_name == enum_name(attribute):
            return ir.StringAttr(value.params[0]).value
    elif attribute.kind == "bool" and isinstance(value, ir.BoolAttr):
        return value.value
    elif attribute.kind == "int" and isinstance(value, ir.IntegerAttr):
        if str(value.type) == "i64":
            return value.value
    elif attribute.kind == "float" and isinstance(value, ir.FloatAttr):
        if str(value.type) == "f64":
            return value.value
    elif attribute.kind == "str" and isinstance(value, ir.StringAttr):
        return value.value
    raise TypeError(f"{op.name}: {attribute.name} is {value}, expected {attribute.expected}")


def enum_name(attribute: Attribute) -> str:
    """Name of the dialect's attribute for the choices of an option."""
    return PREFIX + attribute.name


def _attribute(op: Op, attribute: Attribute, value: Any) -> ir.Attribute:
    if value is None and attribute.optional:
        return ir.UnitAttr.get()
    op._check_attribute(attribute, value)
    if attribute.choices:
        return ir.DynamicAttr.get(enum_name(attribute), [ir.StringAttr.get(value)])
    if attribute.kind == "bool" and isinstance(value, bool):
        return ir.BoolAttr.get(value)
    if attribute.kind == "int":
        return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), int(value))
    if attribute.kind == "float":
        return ir.FloatAttr.get(ir.F64Type.get(), float(value))
    if attribute.kind == "str" and isinstance(value, str):
        return ir.StringAttr.get(value)
    raise op.option_error(attribute, value)


# ---- making -------------------------------------------------------------------------------------


def infer(call: Call) -> list[tuple[tuple[Any, ...], str]]:
    """Shapes and dtypes of the outputs.

    Raises:
        ValueError: A shape or a choice is wrong, as the op itself says it.
        TypeError: A dtype is wrong, likewise.
    """
    found = call.storages()
    return call.op.infer(
        [None if s is None else s.shape for s in found],
        [None if s is None else s.dtype for s in found],
        call.options,
    )


def make(
    op: Op,
    inputs: Sequence[Any],
    options: Mapping[str, Any],
    *,
    into: Sequence[Any] = (),
    types: Sequence[ir.Type] | None = None,
) -> Call:
    """Inserts an operation at the current insertion point.

    Args:
        op: The declaration.
        inputs: Values in order; None for those that are absent.
        options: By name; what equals its default is left out.
        into: Memory for the outputs, if buffers are planned.
        types: Of the outputs; inferred where they are not given.

    Raises:
        ValueError: As the op itself raises it.
        TypeError: Likewise.
    """
    names = [a.name for a in op.attributes]
    for name in options:
        if name not in names:
            raise TypeError(f"{op.name}: has no option {name}, expected some of: {names}")
    by_name = {a.name: a for a in op.attributes}
    for name, value in options.items():
        _attribute(op, by_name[name], value)  # True is no 1.0, although it equals that default
    given = {n: v for n, v in options.items() if v is None or v != by_name[n].default}
    given = {n: v for n, v in given.items() if v is not by_name[n].default}
    said = _format_of(op, inputs) if "format" in names else None
    if said is not None:
        _check_format(op, given.setdefault("format", said), said)
        del given["format"]  # the type says it
    attributes = {
        a.name: _attribute(op, a, given[a.name]) for a in op.attributes if a.name in given
    }
    if has_segments(op):
        counts = [int(v is not None) for v in inputs] + [int(bool(into))] * len(op.outputs)
        attributes[SEGMENTS] = ir.DenseI32ArrayAttr.get(counts)
    draft = Call(None, op, list(inputs), list(into), dict(given), [], {})
    if said is not None:
        draft.options.setdefault("format", said)
    for attribute in op.attributes:
        if attribute.default is REQUIRED and attribute.name not in draft.options:
            raise TypeError(f"{op.name}: {attribute.name} is missing")
    if types is None:
        types = [tensor_type(shape, dtype) for shape, dtype in infer(draft)]
    updated = [inputs[i].type for i in written_inputs(op)]
    operation = ir.Operation.create(
        PREFIX + op.name,
        results=[*types, *updated],
        operands=[v for v in inputs if v is not None] + list(into),
        attributes=attributes,
    )
    return read(operation, op)


# ---- verifying ----------------------------------------------------------------------------------


def check(operation: Any, op: Op) -> None:
    """Compares an operation with its declaration: the verifier of the dialect.

    Raises:
        ValueError: As the op itself raises it; or results, operands or options are not the op's.
        TypeError: Likewise.
    """
    call = read(operation, op)
    for tensor, value in zip(op.inputs, call.inputs):
        if value is not None:
            _storage(op, tensor.name, value)
    expected = infer(call)
    dtypes = {t.name: s.dtype for t, s in zip(op.inputs, call.storages()) if s is not None}
    for out, value, (shape, _) in zip(op.outputs, call.outputs, expected):
        given = _storage(op, out.name, value)
        allowed = dict(dtypes)
        if out.like is not None and dtypes.get(out.like) == "uint8" and out.dtypes:
            allowed.pop(out.like)
        op._check_dtype(out, given.dtype, allowed)
        if not same_shape(given.shape, shape):
            raise ValueError(
                f"{op.name}: {out.name} has shape {list(given.shape)}, expected {list(shape)}"
            )
    for i, value in call.updates.items():
        if value.type != call.inputs[i].type:
            raise ValueError(
                f"{op.name}: {op.inputs[i].name}_new is {value.type}, expected "
                f"{call.inputs[i].type} as {op.inputs[i].name} is"
            )
    for out, value, memory in zip(op.outputs, call.outputs, call.into):
        if value.type != memory.type:
            raise ValueError(
                f"{op.name}: the memory for {out.name} is {memory.type}, expected {value.type}"
            )


def _storage(op: Op, name: str, value: Any) -> Storage:
    try:
        return storage_of(value.type)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{op.name}: {name} is {error}") from None


def same_shape(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two shapes can be the same; ``?`` can be anything."""
    return len(one) == len(other) and all(
        a == b or isinstance(a, Size) or isinstance(b, Size) for a, b in zip(one, other)
    )
