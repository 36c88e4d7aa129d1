"""Building a function of the dialect in Python: arguments, constants, results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import arith, func

from ..checks import as_utf8
from ..declaration import Op
from . import calls, dialect, structure
from .storage import CONSTANTS, kv_cache, quant, storage_of, tensor_type
from .text import verify

Value = Any  # ir.Value: the bindings of MLIR carry no types
NAME, SIZES, WRITTEN, PARAMETER = "llm.name", "llm.sizes", "llm.written", "llm.parameter"


class Graph:
    """A function under construction; the ops are methods of `Builder`.

    Every operation carries the place of the Python line that made it, so that errors of passes and
    of `lower` point there.
    """

    def __init__(self, name: str = "main") -> None:
        self._arguments: list[dict[str, ir.Attribute]] = []
        self._results: list[tuple[str, Value]] = []
        self._done = False
        with dialect.context(), ir.Location.unknown():
            self._module = ir.Module.create()
            with ir.InsertionPoint(self._module.body):
                self._function = func.FuncOp(name, ([], []))
            self._block = self._function.add_entry_block()

    def input(
        self, name: str, dtype: str, shape: Sequence[int | str], *, written: bool = False
    ) -> Value:
        """A tensor that each run is given.

        Args:
            name: No other argument has it.
            dtype: ``"float32"`` and so on.
            shape: Numbers, and names for sizes that a run brings along.
            written: Whether ops may write it in place.
        """
        with dialect.context():
            marks = {WRITTEN: ir.UnitAttr.get()} if written else {}
            return self._argument(name, tensor_type(shape, dtype), shape, marks)

    def parameter(
        self, name: str, dtype: str, shape: Sequence[int | str], *, format: str | None = None
    ) -> Value:
        """A weight: a tensor that is bound once for many runs.

        Args:
            name: No other argument has it.
            dtype: ``"float32"`` and so on; ignored where ``format`` is given.
            shape: Numbers or names; of the weights, not of their bytes, where ``format`` is given.
            format: Of the weight's blocks: its type is ``!llm.quant`` then.
        """
        with dialect.context():
            marks = {PARAMETER: ir.UnitAttr.get()}
            if format is None:
                return self._argument(name, tensor_type(shape, dtype), shape, marks)
            if len(shape) != 2:
                raise ValueError(f"shape has {len(shape)} sizes, expected rows and columns")
            rows, cols = shape
            made = quant(format, rows, cols)
            stored = [rows, *storage_of(made).shape[1:]]
            return self._argument(name, made, stored, marks)

    def cache(self, name: str, dtype: str, shape: Sequence[int | str]) -> Value:
        """Pages of a KV cache, bound once and written in place by every run.

        Args:
            name: No other argument has it.
            dtype: ``"float32"`` and so on.
            shape: Numbers or names.
        """
        with dialect.context():
            return self._argument(name, kv_cache(shape, dtype), shape, {})

    def constant(self, array: Any, *, name: str | None = None) -> Value:
        """A tensor whose values stand in the module.

        Args:
            array: NumPy, of floats, signed integers or bools; make anything else a parameter.
            name: In the plan; ``constant<number>`` where it is omitted.

        Raises:
            TypeError: It is no array, or of a dtype that MLIR's constants do not have.
        """
        dtype = str(getattr(array, "dtype", type(array).__name__))
        if dtype not in CONSTANTS:
            raise TypeError(f"constant: dtype is {dtype!r}, expected one of {', '.join(CONSTANTS)}")
        with dialect.context(), self._here(sys._getframe(1)), self._end():
            made = tensor_type(array.shape, dtype)
            contiguous = array if array.flags.c_contiguous else array.copy()
            values = ir.DenseElementsAttr.get(contiguous, type=made.element_type, shape=array.shape)
            constant = arith.ConstantOp(made, values)
            if name is not None:
                constant.operation.attributes[NAME] = ir.StringAttr.get(name)
            return constant.result

    def view(self, x: Value, shape: Sequence[int | str], *, offset: int = 0) -> Value:
        """Elements of another tensor under another shape.

        Args:
            x: Whose elements.
            shape: Numbers and names.
            offset: Elements of ``x`` before the first one.
        """
        self._check_value("view: x", x)
        with dialect.context(), self._here(sys._getframe(1)), self._end():
            made = tensor_type(shape, storage_of(x.type).dtype)
            attributes = {"sizes": structure.sizes_attribute(shape)} if made_is_open(made) else {}
            if offset:
                i64 = ir.IntegerType.get_signless(64)
                attributes["offset"] = ir.IntegerAttr.get(i64, offset)
            operation = ir.Operation.create(
                "llm.view", results=[made], operands=[x], attributes=attributes
            )
            structure.view_shape(operation, storage_of(x.type))
            return operation.results[0]

    def output(self, name: str, value: Value) -> None:
        """Names a result of the function.

        Args:
            name: No other result has it.
            value: What it is.

        Raises:
            TypeError: It is no value, or the name no text.
            ValueError: The name is taken, or the value another builder's.
        """
        as_utf8("output: name", name)
        if any(name == taken for taken, _ in self._results):
            raise ValueError(f"output: there are two outputs {name!r}")
        self._check_value("output: value", value)
        self._results.append((name, value))

    def build(self) -> ir.Module:
        """The module; the builder is done.

        Raises:
            MlirError: An operation is wrong.
        """
        values = [value for _, value in self._results]
        with dialect.context(), ir.Location.unknown():
            with self._end():
                func.ReturnOp(values)
            self._done = True
            arguments = [argument.type for argument in self._block.arguments]
            kind = ir.FunctionType.get(arguments, [value.type for value in values])
            self._function.attributes["function_type"] = ir.TypeAttr.get(kind)
            self._function.arg_attrs = [ir.DictAttr.get(a) for a in self._arguments]
            names = [{NAME: ir.StringAttr.get(name)} for name, _ in self._results]
            self._function.attributes["res_attrs"] = ir.ArrayAttr.get(
                [ir.DictAttr.get(n) for n in names]
            )
        verify(self._module)
        return self._module

    def _argument(
        self, name: str, type: ir.Type, shape: Any, marks: dict[str, ir.Attribute]
    ) -> Value:
        self._end()
        as_utf8("name", name)
        given = ir.StringAttr.get(name)
        if any(marks_of[NAME] == given for marks_of in self._arguments):
            raise ValueError(f"there are two arguments {name!r}")
        named: dict[str, ir.Attribute] = {NAME: given, **marks}
        if any(isinstance(size, str) for size in shape):
            named[SIZES] = structure.sizes_attribute(shape)
        self._arguments.append(named)
        return self._block.add_argument(type, ir.Location.unknown())

    def _end(self) -> ir.InsertionPoint:
        """Where operations are added.

        Raises:
            RuntimeError: The module has been built.
        """
        if self._done:
            raise RuntimeError("Builder: the module has been built, expected a new Builder")
        return ir.InsertionPoint(self._block)

    def _check_value(self, what: str, value: Any) -> None:
        if not isinstance(value, ir.Value):
            raise TypeError(f"{what} is {type(value).__name__}, expected a value")
        maker = value.owner
        if (maker if isinstance(maker, ir.Block) else maker.operation.block) != self._block:
            raise ValueError(f"{what} is a value of another builder")

    def _here(self, frame: FrameType | None) -> ir.Location:
        if frame is None:
            return ir.Location.unknown()
        return ir.Location.file(frame.f_code.co_filename, frame.f_lineno, 1)

    def _call(self, op: Op, inputs: Sequence[Any], options: dict[str, Any], frame: Any) -> Any:
        with dialect.context(), self._here(frame), self._end():
            for tensor, value in zip(op.inputs, inputs):
                if value is None and tensor.optional:
                    continue
                if value is None:
                    raise TypeError(f"{op.name}: {tensor.name} is None, expected a value")
                self._check_value(f"{op.name}: {tensor.name}", value)
            call = calls.make(op, inputs, options)
            results = list(call.operation.results)
        return results[0] if len(results) == 1 else tuple(results)


def made_is_open(type: ir.Type) -> bool:
    """Whether a tensor type has a ``?``."""
    return not ir.RankedTensorType(type).has_static_shape
