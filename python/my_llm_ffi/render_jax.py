"""Python source of :mod:`my_llm_ffi.jax`, from the declarations: its functions, its stub.

Counterparts: render.py (the same of :mod:`my_llm_ffi.ops`), jax_calls.py (what the functions call).
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence

from . import render
from .declaration import Attribute, Op, Tensor

_ERRORS = {
    "ValueError": "A shape or an option does not fit; the message names the argument.",
    "TypeError": "A dtype or type is wrong, or an option is traced.",
    "NotImplementedError": "JAX differentiates an input: there is no derivative.",
    "jax.errors.JaxRuntimeError": "A value is wrong or there is no kernel for the device: with the"
    " message of the op, when the result is waited for.",
}
_PLAIN_TYPES = {"float": "float", "int": "int", "str": "str"}


def written(op: Op) -> list[Tensor]:
    """Inputs that the op writes: results of the function, after the outputs."""
    return [t for t in op.inputs if t.use == "mutable"]


def results(op: Op) -> list[str]:
    """Names of the results, in order."""
    return [t.name for t in (*op.outputs, *written(op))]


def result(op: Op) -> str:
    """Return type of the function."""
    count = len(results(op))
    return "Array" if count == 1 else f"tuple[{', '.join(['Array'] * count)}]"


def head(op: Op) -> str:
    """The line ``def …:``, in the way ruff formats it."""
    listed = [f"{t.name}: ArrayLike{' | None = None' * t.optional}" for t in op.inputs]
    options = render.options(op)
    return render.definition(op.name, listed + (["*", *options] if options else []), result(op))


def docstring(op: Op) -> str:
    """The documentation of the function as a Google docstring."""
    text, texts = render.split_doc(op)
    entries: dict[str, str] = {}
    for tensor in op.inputs:
        shape = render.describe_tensor(dataclasses.replace(tensor, use="input", may_be=()))
        entries[tensor.name] = f"{shape} {texts.get(tensor.name, '')}"
    for attribute in op.attributes:
        choices = render.describe_attribute(attribute)
        entries[attribute.name] = f"{choices} {texts.get(attribute.name, '')}"
    listed = [_describe_output(t, texts) for t in op.outputs]
    listed += [f"``{t.name}`` as the op leaves it." for t in written(op)]
    said = " ".join(f"{text.rstrip().rstrip('.')}." for text in listed)
    returns = textwrap.fill(
        said,
        render.WIDTH - 8,
        initial_indent="    ",
        subsequent_indent="    ",
        break_on_hyphens=False,
    )
    errors = render.section("Raises", _ERRORS)
    return "\n\n".join(
        filter(None, [text, render.section("Args", entries), f"Returns:\n{returns}", errors])
    )


def _describe_output(tensor: Tensor, texts: dict[str, str]) -> str:
    shape = render.describe_tensor(dataclasses.replace(tensor, may_be=()))
    said = f"``{tensor.name}``, {shape} {texts.get(tensor.name, '')}"
    return " ".join(said.split())


def _check_option(attribute: Attribute) -> str:
    """A statement that leaves the function's fast path for anything but a plain value."""
    name = attribute.name
    if attribute.kind == "bool":
        wrong = f"{name} is not True and {name} is not False"
    else:
        wrong = f"type({name}) is not {_PLAIN_TYPES[attribute.kind]}"
    if attribute.optional:
        wrong = f"{name} is not None and {wrong}"
    return f"    if {wrong}:\n        {name} = _plain(_op, {name!r}, {name})\n"


def source(op: Op) -> str:
    """The whole function."""
    text = textwrap.indent(docstring(op), "    ").lstrip().replace("\\", "\\\\")
    tensors = "".join(f"{t.name}, " for t in op.inputs)
    options = ", ".join(f"{a.name}={a.name}" for a in op.attributes)
    return (
        f'{head(op)}\n    """{text}\n    """\n'
        + "".join(_check_option(a) for a in op.attributes)
        + f"    try:\n        return _jitted({tensors}{options})\n"
        + "    except TypeError as error:\n"
        + f"        raise _explain(_op, error, ({tensors})) from None\n"
    )


def stub_file(ops: Sequence[Op]) -> str:
    """``jax.pyi``: what type checkers and editors know of :mod:`my_llm_ffi.jax`."""
    lines = [
        '"""The ops for JAX, made by scripts/generate from the declarations: do not edit."""',
        "",
        "from typing import Literal",
        "",
        "from jax import Array",
        "from jax.typing import ArrayLike",
        "",
        *render.all_of(ops),
    ]
    texts = [textwrap.indent(docstring(op), "    ").lstrip() for op in ops]
    stubs = (f'\n{head(op)}\n    """{text}\n    """\n' for op, text in zip(ops, texts))
    return "\n".join(lines) + "".join(stubs)
