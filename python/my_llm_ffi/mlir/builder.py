"""`Builder`: a function of the dialect, with a method for each op; builder.pyi shows them all."""

from __future__ import annotations

import functools
import sys
from typing import Any

from .. import render
from ..declaration import REQUIRED, Op
from . import dialect
from .graph import Graph


class Builder(Graph):
    """Builds a module of one function. Methods named like the ops add operations.

    A method takes values where the op takes arrays, and gives the outputs, then the new values of
    what the op writes in place: one value, or a tuple.
    """

    def __getattr__(self, name: str) -> Any:
        """The method of an op."""
        try:
            op = dialect.declared(name)
        except KeyError:
            raise AttributeError(f"Builder has no op {name!r}") from None
        return functools.partial(_method(op), self)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dialect.names()})


@functools.cache
def _method(op: Op) -> Any:
    """The method of an op: names, defaults and documentation of its declaration."""
    names = {tensor.name for tensor in op.inputs}
    defaults = {t.name: None for t in op.inputs if t.optional}
    required = [a.name for a in op.attributes if a.default is REQUIRED and a.name != "format"]

    def method(self: Graph, *values: Any, **given: Any) -> Any:
        if len(values) > len(op.inputs):
            raise TypeError(
                f"{op.name}: got {len(values)} values, expected at most {len(op.inputs)}"
            )
        by_name = dict(zip((t.name for t in op.inputs), values))
        for name in names & given.keys():
            if name in by_name:
                raise TypeError(f"{op.name}: {name} is given twice")
            by_name[name] = given.pop(name)
        for name in [t.name for t in op.inputs if t.name not in by_name and not t.optional]:
            raise TypeError(f"{op.name}: {name} is missing")
        for name in [r for r in required if r not in given]:
            raise TypeError(f"{op.name}: {name} is missing")
        inputs = [by_name.get(t.name, defaults.get(t.name)) for t in op.inputs]
        return self._call(op, inputs, given, sys._getframe(1))

    method.__name__ = method.__qualname__ = op.name
    method.__doc__ = render.docstring(op)
    return method
