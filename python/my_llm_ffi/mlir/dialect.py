"""The dialect ``llm``: an operation for each declared op, made when this module is imported.

torch-mlir's ``ext`` turns Python classes into a dialect of MLIR's own (IRDL): operands and results
by name, types, attributes. What IRDL cannot say, which options an op has and how the shapes belong
together, is checked by the declaration (calls.py) inside MLIR's verifier.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Optional

from torch_mlir import ir
from torch_mlir.dialects import ext, irdl

from .. import declaration, render
from ..declaration import Attribute, Op
from . import calls, extra_ops, structure

_lock = threading.RLock()
_ops: dict[str, Op] = {}
_enums: set[str] = set()
_parts: list[Any] = []  # one dialect class for the import, one for each op that came later
_loaded: list[ir.Context] = []


def declared(name: str) -> Op:
    """The declaration of an operation of the dialect.

    Args:
        name: Without the dialect's ``llm.``.

    Raises:
        KeyError: The dialect has no such operation.
    """
    return _ops[name]


def names() -> list[str]:
    """Names of the operations that stand for ops, sorted."""
    return sorted(_ops)


def is_operation(name: str) -> bool:
    """Whether the dialect has an operation of this name, without its ``llm.``."""
    return name in _ops or name in structure.NAMES


def is_elementary(name: str) -> bool:
    """Whether an operation has no kernel, and is there to be fused."""
    return name in extra_ops.ELEMENTARY


def op_of(operation: Any) -> Op | None:
    """The declaration of an operation; None where it is none of the dialect's ops."""
    name = str(operation.name)
    return _ops.get(name[len(calls.PREFIX) :]) if name.startswith(calls.PREFIX) else None


# ---- classes ------------------------------------------------------------------------------------


def _annotations(op: Op) -> dict[str, Any]:
    operand: Any = ext.Operand[Any]
    result = ext.Result[Any]
    listed: dict[str, Any] = {
        t.name: Optional[operand] if t.optional else operand for t in op.inputs
    }
    listed.update({_into(op, out.name): Optional[operand] for out in op.outputs})
    return {**listed, **{name: result for name in calls.result_names(op)}}


def _into(op: Op, out: str) -> str:
    """Name of the operand that is an output's memory; no other has it."""
    name = f"into_{out}"
    while name in {t.name for t in op.inputs + op.outputs}:
        name += "_"
    return name


def _verifier(op: Op) -> Any:
    def verify_invariants(operation: Any) -> bool:
        try:
            calls.check(operation, op)
        except Exception as error:  # MLIR must not see it: it has its own way to say so
            operation.location.emit_error(str(error))
            return False
        return True

    return staticmethod(verify_invariants)


def _accessor(op: Op, kind: str, key: Any) -> property:
    def get(self: Any) -> Any:
        call = calls.read(self, op)
        if kind == "option":
            return call.options.get(key.name, key.default)
        return call.inputs[key] if kind == "input" else self.results[key]

    return property(get, doc=f"The {kind} of this name.")


def _make_class(dialect: Any, op: Op) -> None:
    body = {
        "__annotations__": _annotations(op),
        "__doc__": render.docstring(op),
        "__module__": __name__,
        "verify_invariants": _verifier(op),
        "DECLARATION": op,
    }
    traits = [] if calls.written_inputs(op) else [ext.Pure]
    made = type(op.name, (dialect.Operation,), body, name=op.name, traits=traits)
    members: list[tuple[str, str, Any]] = [("input", t.name, i) for i, t in enumerate(op.inputs)]
    members += [("result", name, i) for i, name in enumerate(calls.result_names(op))]
    members += [("option", a.name, a) for a in op.attributes]
    for kind, name, key in members:
        if not hasattr(ir.OpView, name):  # MLIR's own, such as `location`, stays
            setattr(made, name, _accessor(op, kind, key))
    _ops[op.name] = op


def _make_enum(dialect: Any, attribute: Attribute) -> None:
    if attribute.choices and attribute.name not in _enums:
        _enums.add(attribute.name)
        body = {"__annotations__": {"value": ir.StringAttr}, "__module__": __name__}
        type(attribute.name, (dialect.Attribute,), body, name=attribute.name)


def _make_part(ops: Mapping[str, Op]) -> Any:
    dialect = type("llm", (ext.Dialect,), {"__module__": __name__}, name="llm")
    for op in ops.values():
        for attribute in op.attributes:
            _make_enum(dialect, attribute)
        _make_class(dialect, op)
    _parts.append(dialect)
    return dialect


# ---- contexts -----------------------------------------------------------------------------------


def _load_part(dialect: Any) -> None:
    """Adds a part to the current context, which may hold others of the same dialect."""
    with ir.Location.unknown():
        irdl.load_dialects(dialect._emit_module())
    for op in dialect.operations:
        op._attach_traits()
        ext._cext.register_operation(dialect, replace=True)(op)
    for made in dialect.types:  # their ids are those of the context
        found = ir.DynamicType.lookup_typeid(made.type_name)
        ext._cext.register_type_caster(found, replace=True)(made)
    for made in dialect.attributes:
        found = ir.DynamicAttr.lookup_typeid(made.attr_name)
        ext._cext.register_type_caster(found, replace=True)(made)


def load(context: ir.Context) -> None:
    """Loads the dialect into a context of your own; `context()` has it.

    Args:
        context: Of torch-mlir. One that has the dialect stays as it is.
    """
    with _lock:
        if any(known is context for known in _loaded):
            return
        with context:
            for part in _parts:
                _load_part(part)
        _loaded.append(context)


def register(name: str) -> None:
    """Adds an op that was declared after the import, to every context that has the dialect.

    Args:
        name: As `declare_op` was given it. One that the dialect has stays as it is, as do the
            operations of the dialect itself, whose names other ops then lack here.

    Raises:
        KeyError: No such op is declared.
    """
    with _lock:
        op = declaration.load(name)
        if name in _ops or name in extra_ops.ELEMENTARY or name in structure.NAMES:
            return
        part = _make_part({name: op})
        for known in _loaded:
            with known:
                _load_part(part)


def context() -> ir.Context:
    """The context that this package's functions work in; it has the dialect."""
    return _context


def declared_ops() -> dict[str, Op]:
    """What the dialect has an operation for: all ops that are declared now, and its own."""
    ops = {name: declaration.load(name) for name in declaration.op_names()}
    own = {**extra_ops.ELEMENTARY, **extra_ops.composites()}
    return {**{n: op for n, op in ops.items() if n not in structure.NAMES}, **own}


_first = _make_part(declared_ops())
structure.add_to(_first)
_context = ir.Context()
load(_context)
