"""What is made from the declarations for people and type checkers: the dialect's page, a stub."""

from __future__ import annotations

import inspect
import textwrap

from .. import render
from ..declaration import REQUIRED, Op
from . import calls, dialect, extra_ops, structure
from .pipelines import passes

_PAGE = """\
# The dialect `llm`

Operations of [`my_llm_ffi.mlir`](../guide_mlir.md), one for each declared op. This page is made by
`scripts/generate` from the declarations.

Operands are the inputs of the op in order; results are its outputs, then `<input>_new` for what it
writes in place. Options are attributes: `f64`, `i64`, a bool, text, or `#llm.<option><"choice">`;
those left out have their defaults. The last operands are the memory for the outputs, which
`plan-buffers` adds. An operation with optional inputs or several outputs says in
`operandSegmentSizes` which operands are there: a number for each input, and one for each output.
"""
_HEAD = '''\
"""The builder, made by scripts/generate from the declarations: do not edit."""

from typing import Any, Literal

from .graph import Graph, Value

class Builder(Graph):
    """Builds a module of one function. Methods named like the ops add operations.

    A method takes values where the op takes arrays, and gives the outputs, then the new values of
    what the op writes in place: one value, or a tuple.
    """

    def __getattr__(self, name: str) -> Any: ...
'''


def _operations() -> list[Op]:
    ops = dialect.declared_ops()
    return [ops[name] for name in sorted(ops)]


def page() -> str:
    """The page of the docs, as Markdown."""
    ops = _operations()
    parts = [_PAGE]
    parts += [f"- [`llm.{op.name}`](#llm{op.name})" for op in ops]
    parts += [_entry(op) for op in ops]
    parts.append("\n## Structure and types\n")
    for name, doc in structure.DOCS.items():
        title = name if name.startswith("!") else f"llm.{name}"
        parts.append(f"### {title}\n\n{inspect.cleandoc(doc).replace('``', '`')}\n")
    parts.append("## Passes and pipelines\n")
    for found in passes():
        kind = "pipeline" if found.is_pipeline else "pass"
        parts.append(f"### {found.name} ({kind})\n\n{found.doc.replace('``', '`')}\n")
    return "\n".join(parts)


def _entry(op: Op) -> str:
    head, texts = render.split_doc(op)
    rows = ["| | name | type | |", "| --- | --- | --- | --- |"]
    for tensor in op.inputs:
        kind = "operand?" if tensor.optional else "operand"
        rows.append(_row(kind, tensor.name, render.describe_tensor(tensor), texts))
    for attribute in op.attributes:
        default = "" if attribute.default is REQUIRED else f", default `{attribute.default}`"
        kind = f"`#llm.{attribute.name}`" if attribute.choices else attribute.kind
        rows.append(_row("attribute", attribute.name, kind + default, texts))
    for tensor in op.outputs:
        rows.append(_row("result", tensor.name, render.describe_tensor(tensor), texts))
    for name in calls.result_names(op)[len(op.outputs) :]:
        rows.append(_row("result", name, f"type of `{name[: -len('_new')]}`", {}))
    note = ""
    if dialect.is_elementary(op.name):
        note = "No kernel: to be fused before `lower`.\n\n"
    elif op.name == extra_ops.ROPE_KV_APPEND:
        note = "A composite.\n\n"
    table = "\n".join(rows)
    return f"\n## llm.{op.name}\n\n{note}{head.replace('``', '`')}\n\n{table}"


def _row(kind: str, name: str, type: str, texts: dict[str, str]) -> str:
    cells = (kind, f"`{name}`", type.replace("``", "`").rstrip("."), texts.get(name, ""))
    return "| " + " | ".join(c.replace("|", "\\|").replace("``", "`") for c in cells) + " |"


def stub_file() -> str:
    """``builder.pyi``: what type checkers and editors know of `Builder`."""
    return _HEAD + "".join(_stub(op) for op in _operations()).removeprefix("\n")


def _stub(op: Op) -> str:
    listed = ["self"]
    listed += [f"{t.name}: Value{' | None = None' * t.optional}" for t in op.inputs]
    options = []
    for a in op.attributes:
        default = "" if a.default is REQUIRED else f" = {a.default!r}".replace("'", '"')
        if a.name == "format" and a.default is REQUIRED:
            default = " = ..."  # a type may say it
        options.append(f"{a.name}: {render.annotation(a)}{default}")
    listed += ["*", *options] if options else []
    count = len(calls.result_names(op))
    result = "Value" if count == 1 else f"tuple[{', '.join(['Value'] * count)}]"
    text = textwrap.indent(_docstring(op), "        ").lstrip()
    return f'\n{_head(op.name, listed, result)}\n        """{text}\n        """\n'


def _head(name: str, listed: list[str], result: str) -> str:
    """The line ``def …:``, in the way ruff formats it."""
    line = f"    def {name}({', '.join(listed)}) -> {result}:"
    if len(line) <= render.WIDTH:
        return line
    joined = ", ".join(listed)
    if len(joined) + 8 <= render.WIDTH:
        return f"    def {name}(\n        {joined}\n    ) -> {result}:"
    lines = "".join(
        f"        {p},\n" if len(p) + 9 <= render.WIDTH else textwrap.indent(_choices(p), "    ")
        for p in listed
    )
    return f"    def {name}(\n{lines}    ) -> {result}:"


def _choices(parameter: str) -> str:
    start, _, rest = parameter.partition("[")
    choices, _, default = rest.partition("]")
    lines = [f"    {start}[", *(f"        {choice}," for choice in choices.split(", "))]
    if default.startswith(" = "):
        return "\n".join([*lines, f"    ]{default},"]) + "\n"
    return (
        "\n".join([*lines, "    ]", f"    {default.strip()},"] if default else [*lines, "    ],"])
        + "\n"
    )


def _docstring(op: Op) -> str:
    head, texts = render.split_doc(op)
    lines = [
        textwrap.fill(p, render.WIDTH - 8) if not p.startswith(" ") else p
        for p in head.split("\n\n")
    ]
    entries = {t.name: f"{render.describe_tensor(t)} {texts.get(t.name, '')}" for t in op.inputs}
    entries |= {
        a.name: f"{render.describe_attribute(a)} {texts.get(a.name, '')}" for a in op.attributes
    }
    args = ["Args:"]
    for name, text in entries.items():
        args += textwrap.wrap(
            f"{name}: {' '.join(text.split())}",
            render.WIDTH - 12,
            initial_indent="    ",
            subsequent_indent="        ",
            break_on_hyphens=False,
        )
    names = ", ".join(f"``{name}``" for name in calls.result_names(op))
    return "\n\n".join([*lines, "\n".join(args), f"Returns:\n    {names}."])
