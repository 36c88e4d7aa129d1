"""Plans: calls of ops put together once, saved to a file, run by the library without Python.

A plan is an object of the core library (src/plan/): C++, Rust and every other language build, load
and run the same one through its registered methods. docs/guide_plan.md shows how.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union

import tvm_ffi

from . import _ffi_api, arrays
from .checks import as_count, as_path, as_utf8
from .declaration import PREFIX

PlanValue = _ffi_api.PlanValue
Size = Union[int, str]
Argument = Union["_ffi_api.PlanValue", float, str, None]


class PlanBuilder(_ffi_api.Wrapper):
    """Puts a plan together: tensors, then calls in the order in which they run.

    A size is a number, a name, or an expression of names such as ``"n * 9"``, ``"(n + 31) // 32"``
    (``+ - * //``, parentheses). A name stands for a size that each run brings along: the first
    input or parameter that has it says what it is, all others must agree.

    Every method raises ``ValueError`` or ``TypeError`` that names what is wrong at once; what needs
    the whole plan is said by `build`.
    """

    def __init__(self) -> None:
        self._handle: Any = _ffi_api.PlanBuilder.create()

    def input(self, name: str, dtype: str, shape: Sequence[Size]) -> PlanValue:
        """A tensor that each run is given.

        Args:
            name: No other input, constant or parameter has it.
            dtype: ``"float32"``, ``"int32"`` and so on.
            shape: Its sizes.
        """
        as_utf8("name", name)
        value: PlanValue = self._handle.input(name, _dtype(dtype), _shape("shape", shape))
        return value

    def constant(self, array: Any, *, name: str) -> PlanValue:
        """A tensor whose values are part of the plan and of its file.

        Args:
            array: The values, on the CPU; copied.
            name: No other input, constant or parameter has it.
        """
        tensor = arrays.shared_or_copied("PlanBuilder.constant", "array", array)
        as_utf8("name", name)
        value: PlanValue = self._handle.constant(name, tensor)
        return value

    def parameter(self, name: str, dtype: str, shape: Sequence[Size]) -> PlanValue:
        """A tensor that `Plan.bind` gives once for many runs: a weight, a cache.

        Args:
            name: No other input, constant or parameter has it.
            dtype: ``"float32"``, ``"int32"`` and so on.
            shape: Its sizes.
        """
        as_utf8("name", name)
        value: PlanValue = self._handle.parameter(name, _dtype(dtype), _shape("shape", shape))
        return value

    def buffer(self, dtype: str, shape: Sequence[Size]) -> PlanValue:
        """A tensor inside the plan. Buffers whose lives do not overlap share their memory.

        Args:
            dtype: ``"float32"``, ``"int32"`` and so on.
            shape: Its sizes, of names that inputs and parameters before it have.
        """
        value: PlanValue = self._handle.buffer(_dtype(dtype), _shape("shape", shape))
        return value

    def view(self, value: PlanValue, shape: Sequence[Size], *, offset: Size = 0) -> PlanValue:
        """Elements of another tensor under another shape: a reshape, or a slice of its first rows.

        Costs nothing in a run.

        Args:
            value: Whose elements.
            shape: Sizes of the view.
            offset: How many elements of ``value`` stand before the view.
        """
        sizes, begin = _shape("shape", shape), _size("offset", offset)
        made: PlanValue = self._handle.view(_value("value", value), sizes, begin)
        return made

    def call(self, function: str, *arguments: Argument) -> None:
        """Calls a function in every run.

        Args:
            function: An op's name (``"rms_norm"``), or the full name of any registered function;
                the latter is loaded from a file only by those who allow it.
            *arguments: In the order of the registered function: the tensors of an op, its outputs,
                its options (``None``, numbers, bools, text), none of them left out.
        """
        as_utf8("function", function)
        full = function if "." in function else PREFIX + function
        self._handle.call(full, list(arguments))

    def output(self, name: str, value: PlanValue) -> None:
        """Names a result: a buffer, the whole of one under another shape, or an input.

        Args:
            name: No other output has it.
            value: A buffer is written where the caller wants it. An input is what a call wrote in
                place: the run gives the caller's own array back.
        """
        as_utf8("name", name)
        self._handle.output(name, _value("value", value))

    def build(self) -> Plan:
        """The plan. The builder goes on as it is, and may build others."""
        return Plan(self._handle.build())


class Plan(_ffi_api.Wrapper):
    """Calls of ops, ready to run. Made by `PlanBuilder.build` and `Plan.load`.

    Used from one thread at a time: a run that comes while another one goes on raises
    ``RuntimeError`` and changes nothing.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._inputs = {v.name: v for v in handle.inputs()}
        self._outputs = {v.name: v for v in handle.outputs()}
        self._parameters = {v.name: v for v in handle.parameters()}
        # An output that is an input has no array of its own: the caller's comes back.
        by_index = {v.index: name for name, v in self._inputs.items()}
        self._same = {
            name: by_index[v.index] for name, v in self._outputs.items() if v.index in by_index
        }
        self._made = [v for v in handle.outputs() if v.index not in by_index]

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, allow: Sequence[str] = ()) -> Plan:
        """Opens a file that `save` wrote. Its constants are mapped, and read when they are used.

        Args:
            path: The file.
            allow: Full names of registered functions that the file may call besides ops.

        Raises:
            ValueError: It is no plan, is damaged, calls what is neither an op nor allowed, or calls
                an op with other arguments than it has here; says where.
            NotImplementedError: It has a version that this library does not know.
            OSError: It cannot be read.
        """
        names = _names("allow", allow)
        return cls(_ffi_api.Plan.load(as_path("path", path), names))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan with its constants; parameters stay outside of the file.

        Args:
            path: Takes its place when all is written.
        """
        self._handle.save(as_path("path", path))

    @property
    def inputs(self) -> dict[str, PlanValue]:
        """What `run` takes, by name."""
        return dict(self._inputs)

    @property
    def outputs(self) -> dict[str, PlanValue]:
        """What `run` gives, by name."""
        return dict(self._outputs)

    @property
    def parameters(self) -> dict[str, PlanValue]:
        """What `bind` takes, by name."""
        return dict(self._parameters)

    def bind(self, parameters: Mapping[str, Any]) -> None:
        """Gives parameters their arrays, which are shared and kept until others take their place.

        Args:
            parameters: Arrays by name; those of before stay where none is given.

        Raises:
            ValueError: There is no such parameter, or the shape is wrong.
            TypeError: The dtype is wrong, or an array cannot be shared.
        """
        for name, array in _mapping("Plan.bind: parameters", parameters).items():
            as_utf8("Plan.bind: a name", name)
            arrays.check_array("Plan.bind", name, array)
            self._handle.bind(name, tvm_ffi.from_dlpack(array))

    def run(
        self, inputs: Mapping[str, Any], *, out: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Runs all calls.

        Args:
            inputs: An array for each input. Arrays that calls write in place must be writable.
            out: Arrays for outputs, all or some; the others are allocated beside the first input.

        Returns:
            An array for each output.

        Raises:
            ValueError: An input is missing or unknown; a shape, device or stride is wrong; a
                parameter has no array; an array that is written overlaps another one.
            TypeError: A dtype is wrong, or an array cannot be shared.
            RuntimeError: Another thread runs this plan.
        """
        given = _in_order("Plan.run: inputs", inputs, self._inputs)
        into = {} if out is None else _mapping("Plan.run: out", out)
        for name, array in zip(self._inputs, given):
            if type(array) not in arrays.known_types:
                arrays.check_array("Plan.run", name, array)
        made: dict[str, Any] = {}
        try:
            made = self._results(given, into)
            if arrays.torch_seen:
                self._check_torch(given, made)
            self._handle.run(*given, *made.values())
        except (TypeError, BufferError, OverflowError, RuntimeError) as error:
            names = (*self._inputs, *made)
            tensors = (*given, *made.values())
            raise arrays.explain_sharing("Plan.run", names, tensors, error) from None
        return {
            name: inputs[self._same[name]] if name in self._same else made[name]
            for name in self._outputs
        }

    def _results(self, given: Sequence[Any], out: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays for the outputs that have one of their own, in order."""
        for name in out:
            if name not in self._outputs or name in self._same:
                own = [n for n in self._outputs if n not in self._same]
                raise ValueError(f"Plan.run: out has {name!r}, expected some of {own}")
        for name, array in out.items():
            arrays.check_array("Plan.run", name, array)
        missing = [v for v in self._made if v.name not in out]
        if not missing:
            return {v.name: out[v.name] for v in self._made}
        if not given:
            raise ValueError("Plan.run: a plan without inputs needs out= for all its outputs")
        shapes = dict(zip(self._outputs, self._handle.output_shapes(*given)))
        return {
            v.name: out[v.name]
            if v.name in out
            else arrays.new("Plan.run", given[0], tuple(shapes[v.name]), str(v.dtype))
            for v in self._made
        }

    def _check_torch(self, given: Sequence[Any], made: Mapping[str, Any]) -> None:
        written = [a for a, v in zip(given, self._inputs.values()) if v.written]
        read = [a for a, v in zip(given, self._inputs.values()) if not v.written]
        arrays.check_torch("Plan.run", tuple(read), (*written, *made.values()))


def _in_order(what: str, given: Mapping[str, Any], names: Mapping[str, Any]) -> list[Any]:
    """The values of ``given`` for each name; ValueError where they are not the same names."""
    given = _mapping(what, given)
    try:
        values = [given[name] for name in names]
    except KeyError as error:
        raise ValueError(f"{what} has no {error.args[0]!r}, expected {list(names)}") from None
    if len(given) != len(values):
        others = [name for name in given if name not in names]
        raise ValueError(f"{what} has {others[0]!r}, expected {list(names)}")
    return values


def _mapping(what: str, given: Any) -> Mapping[str, Any]:
    if type(given) is not dict and not isinstance(given, Mapping):
        raise TypeError(f"{what} is {type(given).__name__}, expected arrays by name")
    return given


def _value(name: str, value: Any) -> PlanValue:
    if not isinstance(value, PlanValue):
        raise TypeError(f"{name} is {type(value).__name__}, expected a PlanValue")
    return value


def _dtype(name: Any) -> tvm_ffi.dtype:
    try:
        return tvm_ffi.dtype(str(name).rpartition(".")[2])
    except (ValueError, TypeError, RuntimeError):
        raise ValueError(f"dtype is {name!r}, expected a name such as 'float32'") from None


def _size(name: str, size: Any) -> int | str:
    return size if isinstance(size, str) else as_count(name, size)


def _shape(name: str, shape: Any) -> list[int | str]:
    if isinstance(shape, (str, bytes)) or not hasattr(shape, "__iter__"):
        raise TypeError(f"{name} is {type(shape).__name__}, expected sizes")
    return [_size(f"a size of {name}", size) for size in shape]


def _names(argument: str, names: Any) -> list[str]:
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise TypeError(f"{argument} is {type(names).__name__}, expected a sequence of names")
    return [as_utf8(f"an item of {argument}", name).decode() for name in names]
