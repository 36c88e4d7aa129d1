"""The stub of `torch.ops.my_llm_ffi`, from the declarations. See torch.py and render.py."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from . import render
from .declaration import Op


def head(op: Op) -> str:
    """The line ``def …:`` of the method, in the way ruff formats it, not indented."""
    listed = ["self", *(f"{t.name}: Tensor{' | None = None' * t.optional}" for t in op.inputs)]
    options = render.options(op)
    count = len(op.outputs)
    result = "Tensor" if count == 1 else f"tuple[{', '.join(['Tensor'] * count)}]"
    result = result if count else "None"
    width = render.WIDTH - 4
    return render.definition(op.name, listed + (["*", *options] if options else []), result, width)


def stub_file(ops: Sequence[Op]) -> str:
    """``torch_types.pyi``: what type checkers and editors know of the operators of torch."""
    lines = [
        '"""The type of torch.ops.my_llm_ffi, made by scripts/generate: do not edit."""',
        "",
        "from typing import Literal",
        "",
        "from torch import Tensor",
        "",
        "class Operators:",
        '    """Every op as an operator of torch."""',
        "",
    ]
    return "\n".join(lines) + "".join(f"\n{textwrap.indent(_method(op), '    ')}" for op in ops)


def _method(op: Op) -> str:
    said, _ = render.split_doc(op)
    summary = said.partition("\n")[0]
    return f'{head(op)}\n    """{summary}"""\n'
