"""Texts for people about all ops, from their declarations: a table, and a page of the docs."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence

import tvm_ffi

from . import _ffi_api, render
from .cli.streams import with_streams
from .declaration import PREFIX, Op, load, op_names

_PAGE = """\
# Ops

Kernels on your own tensors: `my_llm_ffi.ops.<name>` takes NumPy, torch and tvm_ffi arrays (anything
with DLPack), and after `import my_llm_ffi.torch` each is `torch.ops.my_llm_ffi.<name>` too, for
`torch.compile` and `torch.export`. Outputs are allocated in the framework of the first tensor, or
given as `out=`. Tensors must be contiguous.

This page is made by `scripts/generate` from the declarations in `src/kernels/`.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``python -m my_llm_ffi.ops``: prints the table.

    Args:
        argv: Arguments after the program's name; ``None``: those of the process.

    Returns:
        The exit status: 0 done, 1 stdout cannot be written, 2 wrong usage.
    """
    parser = argparse.ArgumentParser(
        prog="python -m my_llm_ffi.ops",
        description="Prints a table of the ops: devices, dtypes of the first tensor, signature.",
    )

    def run() -> int:
        try:
            parser.parse_args(argv)
        except SystemExit as stop:  # argparse has printed help, or what was wrong
            return stop.code if isinstance(stop.code, int) else 2
        try:
            sys.stdout.write(table())
            sys.stdout.flush()
        except BrokenPipeError:  # with_streams knows what to do
            raise
        except OSError as error:
            sys.stderr.write(f"{parser.prog}: error: {error}\n")
            return 1
        return 0

    return with_streams(run)


def all_ops() -> list[Op]:
    """Every op, by name."""
    return [load(name) for name in op_names()]


def devices(op: Op) -> list[str]:
    """Devices that have a kernel of the op here."""
    _ffi_api.build_info()  # loads the libraries of other devices
    found = tvm_ffi.get_global_func(f"{PREFIX}{op.name}.cuda", allow_missing=True)
    return ["cpu"] + ["cuda"] * (found is not None)


def dtypes(op: Op) -> list[str]:
    """Dtypes of the first tensor."""
    return list(op.inputs[0].dtypes)


def table() -> str:
    """One row per op: name, devices, dtypes, signature."""
    rows = [("op", "devices", "dtypes", "signature")]
    rows += [
        (op.name, " ".join(devices(op)), " ".join(dtypes(op)), op.signature) for op in all_ops()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[3]]) + "\n" for row in rows
    )


def page(ops: Sequence[Op]) -> str:
    """The page of the docs, as Markdown."""
    contents = "\n".join(f"- [`{op.name}`](#{op.name})" for op in ops)
    return "\n".join([_PAGE, contents, *(_entry(op) for op in ops)])


def _entry(op: Op) -> str:
    text = textwrap.dedent(render.docstring(op)).replace("``", "`")
    head, _, rest = text.partition("\n\nArgs:")
    body = f"```text\nArgs:{rest}\n```"
    return (
        f"\n## {op.name}\n\n```python\n{render.head(op).rstrip(':')}\n```\n\n{head}\n\n{body}\n\n"
        f"Declared as `{op.signature}`\n"
    )


def stub_file(ops: Sequence[Op]) -> str:
    """``ops.pyi``: what type checkers and editors know of :mod:`my_llm_ffi.ops`."""
    lines = [
        '"""The ops, made by scripts/generate from the declarations: do not edit."""',
        "",
        "from typing import Literal",
        "",
        "from .arrays import AnyArray, Array",
        "",
        *render.all_of(ops),
    ]
    return "\n".join(lines) + "".join(f"\n{render.stub(op)}" for op in ops)
