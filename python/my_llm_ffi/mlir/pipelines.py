"""Passes and pipelines by name, with options: ``"fuse{only=silu-mul},cse,dce,plan-buffers"``.

Own passes are Python functions; a name that is none of them is looked up among MLIR's own.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

from torch_mlir import ir
from torch_mlir.passmanager import PassManager

from ..checks import as_utf8
from .text import MlirError, explained, verify

Run = Callable[..., None]
_NAME = re.compile(r"[a-z][a-z0-9-]*")


@dataclasses.dataclass(frozen=True)
class Pass:
    """A pass or a pipeline.

    Attributes:
        name: Of lower-case words and hyphens.
        options: Their defaults, by name as pipelines write it.
        doc: What it does.
        run: Takes a module and the options; a pipeline gives the text that it stands for.
        is_pipeline: Whether it is one.
    """

    name: str
    options: dict[str, Any]
    doc: str
    run: Callable[..., Any]
    is_pipeline: bool


_passes: dict[str, Pass] = {}


def _register(name: str, function: Callable[..., Any], *, is_pipeline: bool) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"a pass is named {name!r}, expected lower-case words and hyphens")
    if name in _passes:
        raise ValueError(f"there is a pass {name} already")
    options = {
        p.name.replace("_", "-"): p.default
        for p in inspect.signature(function).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for option, default in options.items():
        if type(default) not in (bool, int, str, tuple):
            raise TypeError(f"{name}: {option} needs a default: a bool, an int, text or a tuple")
    _passes[name] = Pass(name, options, inspect.getdoc(function) or "", function, is_pipeline)


def register_pass(name: str) -> Callable[[Run], Run]:
    """Registers a pass: a decorator of a function that changes a module.

    Its keyword-only parameters are the options, whose defaults (a bool, an int, text, or a tuple of
    texts) say their types.

    Args:
        name: What pipelines call it.

    Raises:
        ValueError: The name is taken or malformed.
        TypeError: An option has no default of these types.
    """

    def register(run: Run) -> Run:
        _register(name, run, is_pipeline=False)
        return run

    return register


def register_pipeline(name: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Registers a named pipeline: a decorator of a function that gives its text.

    Args:
        name: What other pipelines call it.

    Raises:
        ValueError: The name is taken or malformed.
        TypeError: An option has no default of the types that options have.
    """

    def register(expand: Callable[..., str]) -> Callable[..., str]:
        _register(name, expand, is_pipeline=True)
        return expand

    return register


def passes() -> list[Pass]:
    """All passes and pipelines that are registered here."""
    return [_passes[name] for name in sorted(_passes)]


# ---- pipelines ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Item:
    text: str
    name: str
    options: str | None
    column: int


def _split(text: str) -> list[_Item]:
    """The parts between the commas that stand outside of braces and parentheses."""
    items: list[_Item] = []
    depth, begin = 0, 0
    for i, c in enumerate(text + ","):
        depth += (c in "({") - (c in ")}")
        if depth < 0 or (i == len(text) and depth > 0):
            raise _error("unbalanced braces", i + 1)
        if c == "," and depth == 0:
            items.append(_item(text[begin:i], begin))
            begin = i + 1
    return items


def _item(text: str, begin: int) -> _Item:
    column = begin + 1 + len(text) - len(text.lstrip())
    text = text.strip()
    found = re.fullmatch(r"([^\s{}()]+)\s*(?:\{(.*)\})?", text, re.DOTALL)
    if found is not None:
        return _Item(text, found[1], found[2], column)
    if re.fullmatch(r"[\w.-]+\(.*\)", text, re.DOTALL):  # MLIR's own: func.func(…)
        return _Item(text, text, None, column)
    raise _error(f"{text!r} is no pass, expected name or name{{option=value}}", column)


def _error(message: str, column: int) -> MlirError:
    return MlirError(message, source="pipeline", line=1, column=column)


def _options(item: _Item, found: Pass) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for match in re.finditer(r"\S+", item.options or ""):
        column = item.column + item.text.index("{") + 1 + match.start()
        name, equals, value = match[0].partition("=")
        if name not in found.options or not equals:
            listed = ", ".join(found.options) or "none"
            raise _error(
                f"{found.name} has no option {match[0]!r}, expected name=value of: {listed}", column
            )
        given[name.replace("-", "_")] = _value(found, name, value, column)
    return given


def _value(found: Pass, name: str, value: str, column: int) -> Any:
    default = found.options[name]
    if type(default) is tuple:
        return tuple(part for part in value.split(",") if part)
    if type(default) is bool and value in ("true", "false"):
        return value == "true"
    if type(default) is int and re.fullmatch(r"-?\d{1,18}", value):
        return int(value)
    if type(default) is str:
        return value
    kind = "true or false" if type(default) is bool else "an integer"
    raise _error(f"{found.name}: {name} is {value!r}, expected {kind}", column)


def run_pipeline(module: ir.Module, pipeline: str) -> ir.Module:
    """Runs passes over a module, in place; it is verified after each of them.

    Args:
        module: What is changed; of a context that has the dialect.
        pipeline: Names between commas, options in braces: ``"fuse{only=silu-mul},dce"``.

    Returns:
        The module.

    Raises:
        MlirError: There is no such pass or option (says the column), or a pass refuses the module
            or leaves a wrong one.
    """
    as_utf8("pipeline", pipeline)
    verify(module)
    with module.context, ir.Location.unknown():
        _run(module, pipeline, ())
    return module


def _run(module: ir.Module, pipeline: str, within: tuple[str, ...]) -> None:
    planned: list[Callable[[], None]] = []
    for item in _split(pipeline):  # all of them are looked up before the first one runs
        found = _passes.get(item.name)
        if found is None:
            planned.append(_of_mlir(module, item))
            continue
        if found.name in within:
            raise _error(f"{found.name} contains itself", item.column)
        planned.append(_own(module, found, _options(item, found), within))
    for step in planned:
        step()


def _own(
    module: ir.Module, found: Pass, options: dict[str, Any], within: tuple[str, ...]
) -> Callable[[], None]:
    def run() -> None:
        if found.is_pipeline:
            _run(module, found.run(**options), (*within, found.name))
            return
        try:
            found.run(module, **options)
        except MlirError:
            raise
        except ValueError as error:
            raise MlirError(f"{found.name}: {error}") from error
        verify(module)

    return run


def _of_mlir(module: ir.Module, item: _Item) -> Callable[[], None]:
    try:
        manager = PassManager.parse(f"builtin.module({item.text})", module.context)
    except (ir.MLIRError, ValueError):
        own = ", ".join(sorted(_passes))
        raise _error(
            f"there is no pass {item.name!r}, neither here ({own}) nor in MLIR", item.column
        ) from None

    def run() -> None:
        with explained():
            manager.run(module.operation)

    return run
