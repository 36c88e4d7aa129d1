"""From a plan's file to a module: the way back of to_plan.py. The format: src/plan/plan_file.h."""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path
from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import arith

from .. import declaration
from ..declaration import Op
from ..plan import Plan
from . import calls, dialect, structure
from .graph import NAME, PARAMETER, WRITTEN, Graph
from .storage import CONSTANTS, tensor_type
from .text import MlirError

_INPUT, _CONSTANT, _PARAMETER, _BUFFER, _VIEW = range(5)
_CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}


@dataclasses.dataclass(frozen=True)
class _Tensor:
    kind: int
    name: str
    dtype: str
    shape: tuple[int | str, ...]
    data: memoryview | None = None
    source: int = -1
    offset: int | str = 0


@dataclasses.dataclass(frozen=True)
class _Ref:
    index: int


class _Reader:
    """The description of a plan; `Plan.load` has checked the file before."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = memoryview(data), 64
        self.constants = self._peek("<Q", 48)

    def _peek(self, kind: str, at: int) -> Any:
        return struct.unpack_from(kind, self.data, at)[0]

    def take(self, kind: str) -> Any:
        value = self._peek(kind, self.at)
        self.at += struct.calcsize(kind)
        return value

    def text(self) -> str:
        size = self.take("<Q")
        self.at += size
        return bytes(self.data[self.at - size : self.at]).decode()

    def size(self) -> int | str:
        text = self.text()
        return int(text) if text.lstrip("-").isdigit() else text

    def tensor(self) -> _Tensor:
        kind, name = self.take("<B"), self.text()
        code, bits = self.take("<B"), self.take("<B")
        dtype = f"{_CODES[code]}{'' if code == 6 else bits}"
        shape = tuple(self.size() for _ in range(self.take("<Q")))
        if kind == _CONSTANT:
            begin, size = self.constants + self.take("<Q"), self.take("<Q")
            return _Tensor(kind, name, dtype, shape, self.data[begin : begin + size])
        if kind == _VIEW:
            return _Tensor(kind, name, dtype, shape, source=self.take("<Q"), offset=self.size())
        return _Tensor(kind, name, dtype, shape)

    def argument(self) -> Any:
        kind = self.take("<B")
        if kind == 0:
            return None
        if kind == 1:
            return _Ref(self.take("<Q"))
        if kind == 5:
            return self.text()
        value = self.take({2: "<q", 3: "<d", 4: "<B"}[kind])
        return bool(value) if kind == 4 else value

    def listed(self, one: Any) -> list[Any]:
        return [one() for _ in range(self.take("<Q"))]

    def call(self) -> tuple[str, list[Any]]:
        name = self.text()
        return name, self.listed(self.argument)

    def output(self) -> tuple[str, int]:
        name = self.text()
        return name, self.take("<Q")


def load(path: str | os.PathLike[str], *, function: str = "main") -> ir.Module:
    """Translates a plan's file to a module of one function.

    Values take the place of the plan's buffers, so that passes can change what is computed; the
    memory is planned anew afterwards.

    Args:
        path: A file that `Plan.save` or `save` wrote.
        function: Name of the function.

    Raises:
        ValueError: As `Plan.load` raises it.
        MlirError: A call is of no op, has shapes that the op refuses, or writes a part of a buffer,
            which values cannot say; names the step. Or a constant has a dtype that MLIR's do not
            have, such as the bytes of weights, or a view begins at a place that a run says.
        OSError: It cannot be read.
    """
    Plan.load(path)
    reader = _Reader(Path(path).read_bytes())
    tensors, steps = reader.listed(reader.tensor), reader.listed(reader.call)
    return _Raising(tensors, function).run(steps, reader.listed(reader.output))


class _Raising:
    def __init__(self, tensors: list[_Tensor], function: str) -> None:
        self.tensors = tensors
        self.graph = Graph(function)
        self.block = self.graph._block
        self.current: dict[int, Any] = {}  # value of each input, constant, parameter and buffer

    def run(self, steps: list[tuple[str, list[Any]]], outputs: list[tuple[str, int]]) -> ir.Module:
        """The module."""
        written = {
            self._root(argument.index)
            for step, (name, arguments) in enumerate(steps)
            for argument, tensor in zip(arguments, _op(name, step).inputs)
            if tensor.use == "mutable" and isinstance(argument, _Ref)
        }
        with dialect.context(), ir.Location.unknown():
            for index, tensor in enumerate(self.tensors):
                self._add(index, tensor, index in written)
            with ir.InsertionPoint(self.block):
                for step, (name, arguments) in enumerate(steps):
                    self._call(step, _op(name, step), arguments)
                for name, index in outputs:
                    self.graph.output(name, self._value(index))
        return self.graph.build()

    def _root(self, index: int) -> int:
        while self.tensors[index].kind == _VIEW:
            index = self.tensors[index].source
        return index

    def _add(self, index: int, tensor: _Tensor, written: bool) -> None:
        if tensor.kind in (_INPUT, _PARAMETER):
            marks = {PARAMETER: ir.UnitAttr.get()} if tensor.kind == _PARAMETER else {}
            if written:
                marks[WRITTEN] = ir.UnitAttr.get()
            made = tensor_type(tensor.shape, tensor.dtype)
            self.current[index] = self.graph._argument(tensor.name, made, tensor.shape, marks)
        elif tensor.kind == _CONSTANT:
            made = tensor_type(tensor.shape, tensor.dtype)
            values = ir.DenseElementsAttr.get(_array(tensor), type=made.element_type)
            with ir.InsertionPoint(self.block):
                constant = arith.ConstantOp(made, values)
            constant.operation.attributes[NAME] = ir.StringAttr.get(tensor.name)
            self.current[index] = constant.result

    def _value(self, index: int) -> Any:
        tensor = self.tensors[index]
        if tensor.kind != _VIEW:
            return self.current[index]
        return self._view(self._value(tensor.source), tensor.shape, tensor.dtype, tensor.offset)

    def _view(
        self, value: Any, shape: tuple[int | str, ...], dtype: str, offset: int | str = 0
    ) -> Any:
        made = tensor_type(shape, dtype)
        attributes: dict[str, ir.Attribute] = {}
        if any(type(size) is str for size in shape):
            attributes["sizes"] = structure.sizes_attribute(shape)
        if isinstance(offset, str):
            raise MlirError(f"a view begins at {offset!r}, expected a number in a module")
        if offset:
            i64 = ir.IntegerType.get_signless(64)
            attributes["offset"] = ir.IntegerAttr.get(i64, int(offset))
        made_view = ir.Operation.create(
            "llm.view", results=[made], operands=[value], attributes=attributes
        )
        return made_view.results[0]

    def _call(self, step: int, op: Op, arguments: list[Any]) -> None:
        count = len(op.inputs) + len(op.outputs)
        tensors, options = arguments[:count], arguments[count:]
        inputs = [None if t is None else self._value(t.index) for t in tensors[: len(op.inputs)]]
        targets = tensors[len(op.inputs) :]
        types = [
            tensor_type(self.tensors[t.index].shape, self.tensors[t.index].dtype) for t in targets
        ]
        given = {a.name: value for a, value in zip(op.attributes, options)}
        try:
            call = calls.make(op, inputs, given, types=types)
            calls.check(call.operation, op)
        except (ValueError, TypeError) as error:
            raise MlirError(f"step {step}: {error}") from error
        for target, value in zip(targets, call.outputs):
            self._write(step, op, target.index, value)
        for index, value in call.updates.items():
            self._write(step, op, tensors[index].index, value)

    def _write(self, step: int, op: Op, index: int, value: Any) -> None:
        """The value takes the place of a tensor, or of all that the tensor is a view of."""
        tensor, root = self.tensors[index], self._root(index)
        if index == root:
            self.current[root] = value
            return
        whole = self.tensors[root]
        if tensor.offset != 0 or not _same_elements(tensor.shape, whole.shape):
            raise MlirError(
                f"step {step} ({op.name}) writes a part of a buffer, which values cannot say"
            )
        self.current[root] = self._view(value, whole.shape, whole.dtype)


def _op(name: str, step: int) -> Op:
    short = name[len(declaration.PREFIX) :]
    try:
        if not name.startswith(declaration.PREFIX):
            raise KeyError(name)
        return dialect.declared(short)
    except KeyError:
        raise MlirError(f"step {step} calls {name}, which is no op of the dialect") from None


def _same_elements(one: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    def parts(shape: tuple[int | str, ...]) -> tuple[int, list[str]]:
        product = 1
        for size in shape:
            product *= size if isinstance(size, int) else 1
        return product, sorted(size for size in shape if isinstance(size, str))

    return parts(one) == parts(other)


def _array(tensor: _Tensor) -> Any:
    import numpy as np

    if tensor.dtype not in CONSTANTS:
        raise MlirError(
            f"constant {tensor.name} is {tensor.dtype}, expected one of {', '.join(CONSTANTS)}"
        )
    assert tensor.data is not None
    return np.frombuffer(tensor.data, tensor.dtype).reshape(tensor.shape).copy()
