"""From a module to a plan: each op one call, in order."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch_mlir import ir

from .. import declaration
from ..declaration import Op
from ..plan import Plan, PlanBuilder
from . import calls, dialect, extra_ops, sizes, structure
from .graph import NAME, PARAMETER, SIZES, WRITTEN
from .sizes import Size
from .storage import CONSTANTS, KV_CACHE, Storage, storage_of, type_name
from .text import MlirError, error_at, verify
from .walking import argument_marks, body, call_of, functions, result_marks


def lower(module: ir.Module, *, function: str | None = None) -> Plan:
    """Makes a plan of a function: it runs without MLIR and without Python.

    Arguments become inputs; those of type ``!llm.kv_cache`` and those marked ``llm.parameter``
    become parameters, which `Plan.bind` gives. Names are those of ``llm.name``, or ``arg0`` and
    ``out0`` on. A ``?`` becomes a size by name, as ``llm.sizes`` says it or a new one.

    Args:
        module: Verified here. Elementary operations must have been fused away.
        function: Its name; None where the module has one.

    Raises:
        MlirError: An operation has no kernel, an argument would be written that is not marked
            ``llm.written``, a value is used after an op wrote over it, or a size is unknown; says
            where.
    """
    verify(module)
    with module.context, ir.Location.unknown():
        return _Lowering(_find(module, function)).run()


def save(module: ir.Module, path: str | os.PathLike[str], *, function: str | None = None) -> None:
    """Translates a module to a plan's file.

    Args:
        module: As `lower` takes it.
        path: Takes its place when all is written.
        function: As `lower` takes it.

    Raises:
        MlirError: As `lower` raises it.
        OSError: It cannot be written.
    """
    lower(module, function=function).save(path)


def _find(module: ir.Module, name: str | None) -> Any:
    found = {f.name.value: f for f in functions(module)}
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        raise MlirError(f"function is {name!r}, expected one of: {', '.join(found) or 'none'}")
    return found[name]


@contextmanager
def _placed(operation: Any) -> Iterator[None]:
    """Gives what is refused the place of an operation."""
    try:
        yield
    except MlirError:
        raise
    except (ValueError, TypeError) as error:
        raise error_at(operation, str(error)) from error


def _name(marks: Any, default: str) -> str:
    """The name that attributes give a tensor.

    Raises:
        ValueError: It is no text.
    """
    if NAME not in marks:
        return default
    if not isinstance(marks[NAME], ir.StringAttr):
        raise ValueError(f"{NAME} is {marks[NAME]}, expected text")
    return str(marks[NAME].value)


class _Lowering:
    """One function on its way.

    Attributes:
        shapes: Sizes of each value. `?` that ops demand to be equal have become one.
        plan_values: What the plan calls a value.
        root: The first value of the same memory, and `age` how often that was overwritten.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self.builder = PlanBuilder()
        self.shapes: dict[Any, tuple[Any, ...]] = {}
        self.plan_values: dict[Any, Any] = {}
        self.root: dict[Any, Any] = {}
        self.age: dict[Any, int] = {}
        self.born: dict[Any, int] = {}
        self.writer: dict[Any, str] = {}
        self.writable: set[Any] = set()
        self.buffers: dict[int, Any] = {}
        self.operations = body(function)

    def run(self) -> Plan:
        """The plan."""
        with _placed(self.function):
            self._name_sizes()
        for operation in self.operations:
            with _placed(operation):
                self._infer(operation)
        with _placed(self.function):
            self._add_arguments()
        constants = 0
        for operation in self.operations:
            self._check_uses(operation)
            name = str(operation.name)
            with _placed(operation):
                if name == "arith.constant":
                    self._constant(operation, constants)
                    constants += 1
                elif name == "llm.view":
                    self._view(operation)
                elif name == "func.return":
                    self._return(operation)
                elif name != "llm.buffer":
                    self._call(operation)
        with _placed(self.function):
            return self.builder.build()

    # ---- sizes ----------------------------------------------------------------------------------

    def _name_sizes(self) -> None:
        named: dict[str, Size] = {}
        for argument, marks in zip(self.function.arguments, argument_marks(self.function)):
            shape = storage_of(argument.type).shape
            given = structure.sizes_of(marks, SIZES)
            if given is not None:
                wanted = [named.setdefault(n, Size(n)) if isinstance(n, str) else n for n in given]
                if not calls.same_shape(shape, wanted):
                    raise error_at(
                        self.function, f"{SIZES} are {given}, but the type is {argument.type}"
                    )
                shape = tuple(wanted)
            self.shapes[argument] = shape
        self.named = named

    def _infer(self, operation: Any) -> None:
        """Gives results their sizes; what ops compare becomes the same."""
        call = call_of(operation)
        if call is None:
            if str(operation.name) == "llm.view":
                source = storage_of(operation.operands[0].type)._replace(
                    shape=self.shapes[operation.operands[0]]
                )
                shape = structure.view_shape(operation, source)
                self.shapes[operation.results[0]] = tuple(self._known(size) for size in shape)
            else:
                for result in operation.results:
                    self.shapes[result] = self._shape_of(operation, result)
            return
        known = [self._storage(value) for value in call.inputs]
        made = call.op.infer(
            [None if s is None else s.shape for s in known],
            [None if s is None else s.dtype for s in known],
            call.options,
        )
        for value, (shape, _) in zip(call.outputs, made):
            self.shapes[value] = shape
        for index, value in call.updates.items():
            self.shapes[value] = self.shapes[call.inputs[index]]

    def _shape_of(self, operation: Any, result: Any) -> tuple[Any, ...]:
        try:
            return storage_of(result.type).shape
        except TypeError as error:
            raise error_at(operation, f"{operation.name}: its result is {error}") from None

    def _known(self, size: Any) -> Any:
        """The size of an argument that a view's name means."""
        if isinstance(size, Size) and size.name in self.named:
            return self.named[size.name]
        return size

    def _storage(self, value: Any) -> Storage | None:
        if value is None:
            return None
        return storage_of(value.type)._replace(shape=self.shapes[value])

    def _texts(self, operation: Any, value: Any) -> list[int | str]:
        try:
            return [sizes.text(size) for size in self.shapes[value]]
        except ValueError as error:
            raise error_at(operation, str(error)) from None

    # ---- operations -----------------------------------------------------------------------------

    def _add_arguments(self) -> None:
        unused = (name for name in map("n{}".format, itertools.count()) if name not in self.named)
        for index, argument in enumerate(self.function.arguments):
            marks = argument_marks(self.function)[index]
            name = _name(marks, f"arg{index}")
            for size in self.shapes[argument]:
                known = size.resolve() if isinstance(size, Size) else size
                if isinstance(known, Size) and repr(known) == "?":
                    known.name = next(unused)
            is_cache = type_name(argument.type) == KV_CACHE
            add = self.builder.parameter if is_cache or PARAMETER in marks else self.builder.input
            dtype = storage_of(argument.type).dtype
            self._hold(argument, add(name, dtype, self._texts(self.function, argument)))
            if is_cache or WRITTEN in marks:
                self.writable.add(argument)

    def _hold(self, value: Any, planned: Any, *, root: Any = None) -> None:
        self.plan_values[value] = planned
        self.root[value] = value if root is None else root
        self.born[value] = self.age.setdefault(self.root[value], 0)

    def _check_uses(self, operation: Any) -> None:
        for value in operation.operands:
            root = self.root.get(value)
            if root is not None and self.born[value] != self.age[root]:
                raise error_at(
                    operation,
                    f"{operation.name} reads a value that {self.writer[root]} has written over; "
                    "use the new one",
                )

    def _constant(self, operation: Any, count: int) -> None:
        marks = operation.attributes
        name = _name(marks, f"constant{count}")
        result = operation.results[0]
        array = _values_of(marks["value"], storage_of(result.type))
        self._hold(result, self.builder.constant(array, name=name))

    def _view(self, operation: Any) -> None:
        source, result = operation.operands[0], operation.results[0]
        offset = operation.attributes["offset"].value if "offset" in operation.attributes else 0
        shape = self._texts(operation, result)
        view = self.builder.view(self.plan_values[source], shape, offset=offset)
        self._hold(result, view, root=self.root[source])

    def _return(self, operation: Any) -> None:
        marks = result_marks(self.function)
        for index, value in enumerate(operation.operands):
            self.builder.output(_name(marks[index], f"out{index}"), self.plan_values[value])

    def _call(self, operation: Any) -> None:
        call = call_of(operation)
        if call is None:
            raise error_at(
                operation,
                f"{operation.name} has no counterpart in a plan, expected operations of llm",
            )
        if dialect.is_elementary(call.op.name):
            raise error_at(
                operation,
                f"llm.{call.op.name} has no kernel; run the pass fuse, and see which group it "
                "belongs to",
            )
        self._check_written(call)
        self._add_outputs(call)
        for op, inputs, outputs, options in _steps(call):
            tensors = [None if v is None else self.plan_values[v] for v in (*inputs, *outputs)]
            self.builder.call(op.name, *tensors, *options)
        self._write(call)

    def _check_written(self, call: calls.Call) -> None:
        roots = [self.root[v] for v in call.inputs if v is not None]
        for index in call.updates:
            root, name = self.root[call.inputs[index]], call.op.inputs[index].name
            is_argument = isinstance(root.owner, ir.Block)
            if is_argument and root not in self.writable:
                raise error_at(
                    call.operation,
                    f"{call.op.name} writes {name}, an argument of the function that is not marked "
                    f"{WRITTEN}",
                )
            if not is_argument and str(root.owner.name) == "arith.constant":
                raise error_at(call.operation, f"{call.op.name} writes {name}, a constant")
            if roots.count(root) > 1:
                raise error_at(
                    call.operation, f"{call.op.name} writes {name}, which is another input too"
                )

    def _write(self, call: calls.Call) -> None:
        for index, value in call.updates.items():
            old = call.inputs[index]
            root = self.root[old]
            self.age[root] += 1
            self.writer[root] = f"llm.{call.op.name}"
            self._hold(value, self.plan_values[old], root=root)

    def _add_outputs(self, call: calls.Call) -> None:
        for position, value in enumerate(call.outputs):
            memory = call.into[position] if call.into else None
            dtype, shape = storage_of(value.type).dtype, self._texts(call.operation, value)
            maker = None if memory is None else memory.owner
            if maker is not None and str(getattr(maker, "name", "")) != "llm.buffer":
                root = self.root[memory]  # over an input
                self.age[root] += 1
                self.writer[root] = f"llm.{call.op.name}"
                self._hold(value, self.plan_values[memory], root=root)
                continue
            marks = {} if maker is None else maker.attributes
            storage = marks["storage"].value if "storage" in marks else None
            self._hold(value, self._buffer(call, storage, dtype, shape))

    def _buffer(
        self, call: calls.Call, storage: int | None, dtype: str, shape: list[int | str]
    ) -> Any:
        if storage is None:
            return self.builder.buffer(dtype, shape)
        key = (dtype, tuple(shape))
        held = self.buffers.setdefault(storage, (key, self.builder.buffer(dtype, shape)))
        if held[0] != key:
            raise error_at(
                call.operation,
                f"storage {storage} is {held[0][0]} {list(held[0][1])}, and {dtype} {shape} here",
            )
        return held[1]


def _steps(call: calls.Call) -> list[tuple[Op, list[Any], list[Any], list[Any]]]:
    """The plan's calls that an operation stands for: ops, inputs, outputs, options."""
    options = call.arguments()
    if call.op.name != extra_ops.ROPE_KV_APPEND or _is_registered(call.op):
        return [(call.op, call.inputs, call.outputs, options)]
    q, k, positions, k_pages, v_pages, v, slots, factors = call.inputs
    return [
        (declaration.load("rope"), [q, k, positions, factors], [], options),
        (declaration.load("kv_append"), [k_pages, v_pages, k, v, slots], [], []),
    ]


def _is_registered(op: Op) -> bool:
    """Whether somebody declared a composite with the same signature as an op of its own."""
    try:
        return declaration.load(op.name).signature == op.signature
    except KeyError:
        return False


def _values_of(attribute: Any, storage: Storage) -> Any:
    import numpy as np

    if not isinstance(attribute, ir.DenseElementsAttr) or storage.dtype == "bfloat16":
        raise ValueError(
            f"a constant of dtype {storage.dtype}, expected dense<…> of {', '.join(CONSTANTS)}; "
            "or make it a parameter"
        )
    shape = [int(str(size)) for size in storage.shape]
    if attribute.is_splat:
        value = attribute.get_splat_value().value
        return np.full(shape, value, storage.dtype)
    return np.array(attribute).astype(storage.dtype, copy=False).reshape(shape)
