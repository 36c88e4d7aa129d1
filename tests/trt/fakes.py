"""A network that records, and expressions of sizes that are computed later."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

OPERATIONS: Mapping[str, Callable[[int, int], int]] = {
    "SUM": operator.add,
    "PROD": operator.mul,
    "MAX": max,
    "MIN": min,
    "SUB": operator.sub,
    "EQUAL": lambda a, b: int(a == b),
    "LESS": lambda a, b: int(a < b),
    "FLOOR_DIV": operator.floordiv,
    "CEIL_DIV": lambda a, b: -(-a // b),
}


class Operations:
    """Stands for `tensorrt.DimensionOperation`: each operation is its own name."""

    def __getattr__(self, name: str) -> str:
        if name not in OPERATIONS:
            raise AttributeError(name)
        return name


@dataclasses.dataclass(frozen=True)
class Expression:
    """A node of `IExprBuilder`: a constant, a name, or an operation."""

    op: str
    args: tuple[Any, ...]

    def value(self, names: Mapping[str, int]) -> int:
        """Its value, given those of names."""
        if self.op == "constant":
            return int(self.args[0])
        if self.op == "name":
            return names[self.args[0]]
        a, b = (arg.value(names) for arg in self.args)
        return OPERATIONS[self.op](a, b)


class Builder:
    """Stands for `tensorrt.IExprBuilder`."""

    def constant(self, value: int) -> Expression:
        assert type(value) is int
        return Expression("constant", (value,))

    def operation(self, op: str, first: Expression, second: Expression) -> Expression:
        assert isinstance(first, Expression) and isinstance(second, Expression)
        return Expression(op, (first, second))


@dataclasses.dataclass
class NetworkTensor:
    """Stands for `tensorrt.ITensor`."""

    name: str
    dtype: Any
    shape: Sequence[int]


class Layer:
    """Stands for `tensorrt.IPluginV3Layer`."""

    def __init__(self, name: str, outputs: int) -> None:
        self.outputs = [NetworkTensor(f"{name}.{i}", "float32", ()) for i in range(outputs)]

    def get_output(self, index: int) -> NetworkTensor:
        return self.outputs[index]


class Network:
    """Stands for `tensorrt.INetworkDefinition`: keeps what is added."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.added: list[tuple[list[Any], list[Any], Any]] = []
        self._refuses = refuses

    def add_plugin_v3(self, inputs: list[Any], shape_inputs: list[Any], plugin: Any) -> Any:
        self.added.append((inputs, shape_inputs, plugin))
        if self._refuses:
            return None
        return Layer(f"layer{len(self.added)}", plugin.num_outputs)


def plugin_of(added: Any) -> Any:
    """The plugin behind what a network was given: itself, or in TensorRT's clothes."""
    return getattr(added, "plugin", added)
