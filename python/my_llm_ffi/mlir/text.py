"""Text and verification of modules; errors that say the place."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch_mlir import ir

from ..checks import as_utf8
from . import dialect

_PLACE = re.compile(r'"(?P<file>(?:[^"\\]|\\.)*)":(?P<line>\d+):(?P<column>\d+)')
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|->|>=|[()\[\]{}<>]')
_ALIAS = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|([#!][\w.$-]+)(\s*=)?')
_CUSTOM = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|(?<![\w.!#])llm\.(\w+)')
_OPENED_BY = {")": "(", "]": "[", "}": "{", ">": "<"}
_MAX_NESTED = 256


class MlirError(ValueError):
    """What is wrong with a module, and where.

    Attributes:
        source: Name of the text.
        line: Counted from 1; 0 where no text says it.
        column: Likewise.
    """

    def __init__(self, message: str, *, source: str = "", line: int = 0, column: int = 0) -> None:
        where = f"{source}:{line}:{column}: " if line else ""
        super().__init__(where + message)
        self.source, self.line, self.column = source, line, column


def error_at(operation: Any, message: str) -> MlirError:
    """The error for an operation, with the place that it comes from.

    Args:
        operation: Whose place.
        message: What is wrong.
    """
    found = _PLACE.search(str(operation.location))
    if found is None:
        return MlirError(message)
    place = {"line": int(found["line"]), "column": int(found["column"])}
    return MlirError(message, source=_source(found["file"], "<text>"), **place)


def _source(file: str, name: str) -> str:
    return name if file == "-" else file


def _from_mlir(error: ir.MLIRError, name: str) -> MlirError:
    """The first error that MLIR found; its notes repeat the operation and are left out."""
    lines = str(error).splitlines()
    first = next((line for line in lines if line.startswith("error: ")), lines[-1])
    found = _PLACE.search(first)
    message = first[len("error: ") :] if first.startswith("error: ") else first
    if found is None:
        return MlirError(message.removeprefix("unknown: "))
    message = message[message.find(found[0]) + len(found[0]) :].removeprefix(": ")
    return MlirError(
        message,
        source=_source(found["file"], name),
        line=int(found["line"]),
        column=int(found["column"]),
    )


@contextmanager
def explained(name: str = "<text>") -> Iterator[None]:
    """Turns MLIR's errors into ours.

    Args:
        name: What a text without a file is called in messages.
    """
    try:
        yield
    except ir.MLIRError as error:
        raise _from_mlir(error, name) from None


def parse(text: str, *, source: str = "<text>") -> ir.Module:
    """Reads and verifies a module. `str(module)` is its text again.

    Args:
        text: In MLIR's notation; the dialects of MLIR beside ``llm`` are there too.
        source: What messages call the text.

    Raises:
        MlirError: The text is malformed or nested deeper than any parser goes, or an operation in
            it is wrong; says line and column.
        TypeError: It is no text.
        ValueError: It holds halves of surrogate pairs.
    """
    as_utf8("text", text)
    _check_nesting(text, source)
    _check_aliases(text, source)
    try:
        with dialect.context(), explained(source):
            return ir.Module.parse(text)
    except MlirError as error:
        if not error.line:
            _refuse_custom_form(text, source)
        raise


def _refuse_custom_form(text: str, source: str) -> None:
    """Where an operation stands without quotes MLIR looks for its own parser, and says nothing."""
    for found in _CUSTOM.finditer(text):
        if found[1] is not None and dialect.is_operation(found[1]):
            raise MlirError(
                f'llm.{found[1]} stands without quotes, expected "llm.{found[1]}"(…)',
                source=source,
                **_place(text, found.start()),
            )


def _check_nesting(text: str, source: str) -> None:
    """Refuses what MLIR's parser, which recurses, would end the process with."""
    depth = dict.fromkeys("([{<", 0)
    for found in _TOKEN.finditer(text):
        token = found[0]
        if token in depth:
            depth[token] += 1
            if depth[token] > _MAX_NESTED:
                place = _place(text, found.start())
                raise MlirError(f"more than {_MAX_NESTED} {token} are open", source=source, **place)
        elif token in _OPENED_BY:
            depth[_OPENED_BY[token]] -= depth[_OPENED_BY[token]] > 0


def _check_aliases(text: str, source: str) -> None:
    """Refuses names of names of names, which nest what they stand for."""
    depth: dict[str, int] = {}
    defined = ""
    for found in _ALIAS.finditer(text):
        name = found[1]
        if name is None:
            continue
        if found[2]:
            defined, depth[name] = name, 1
        elif defined:
            depth[defined] = max(depth[defined], depth.get(name, 0) + 1)
            if depth[defined] > _MAX_NESTED:
                place = _place(text, found.start())
                said = f"more than {_MAX_NESTED} names stand for one another"
                raise MlirError(said, source=source, **place)


def _place(text: str, at: int) -> dict[str, int]:
    """Line and column of a character."""
    return {"line": text.count("\n", 0, at) + 1, "column": at - text.rfind("\n", 0, at)}


def parse_file(path: str | os.PathLike[str]) -> ir.Module:
    """As `parse`, from a file, whose name stands in messages.

    Args:
        path: The file, UTF-8.

    Raises:
        MlirError: As `parse` raises it.
        OSError: It cannot be read.
    """
    data, source = Path(path).read_bytes(), os.fspath(path)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        place = _place(before, len(before))
        raise MlirError("a byte is no UTF-8", source=source, **place) from None
    return parse(text, source=source)


def verify(module: ir.Module) -> None:
    """Checks all operations of a module.

    Args:
        module: It, or any operation.

    Raises:
        MlirError: An operation is wrong; says which one, as the op itself says it.
        TypeError: It is neither.
    """
    if not isinstance(module, (ir.Module, ir.OpView, ir.Operation)):
        raise TypeError(f"module is {type(module).__name__}, expected a Module of torch_mlir.ir")
    with explained():
        module.operation.verify()
