"""Python source of ops, from their declarations: the functions of :mod:`my_llm_ffi.ops`, its stub.

The functions are straight-line code, so that a call costs little more than the native one.
"""

from __future__ import annotations

import linecache
import re
import textwrap
from collections.abc import Sequence
from typing import Any, Callable

from . import arrays
from .declaration import REQUIRED, Attribute, Op, Tensor, block_of

WIDTH = 100
_ERRORS = {
    "ValueError": "A shape, stride, device or value is wrong, or an output overlaps another tensor;"
    " the message names the argument.",
    "TypeError": "A dtype or type is wrong; or an array is an eager JAX array or has no memory of"
    " its own.",
    "BufferError": "An array is read-only.",
    "NotImplementedError": "There is no kernel for the device, or torch would record a gradient.",
}


# ---- documentation ------------------------------------------------------------------------------


def split_doc(op: Op) -> tuple[str, dict[str, str]]:
    """The text above the arguments of a registration's documentation, and one text for each."""
    names = {t.name for t in op.inputs + op.outputs} | {a.name for a in op.attributes}
    head: list[str] = []
    texts: dict[str, str] = {}
    current: str | None = None
    for line in op.doc.strip().splitlines():
        match = re.match(r"(\w+): (.*)", line)
        if match and match[1] in names:
            current = match[1]
            texts[current] = match[2]
        elif current is not None and line.startswith("    "):
            texts[current] += " " + line.strip()
        else:
            current = None
            head.append(line)
    return _wrap("\n".join(head).strip()), texts


def _wrap(text: str) -> str:
    """Fills paragraphs anew, because they are indented where they end up; not examples."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        p if p.startswith(" ") else textwrap.fill(p, WIDTH - 4, break_on_hyphens=False)
        for p in paragraphs
    )


def describe_tensor(tensor: Tensor) -> str:
    """Shape and dtypes of a tensor, for people."""
    shape = f"``[{', '.join(tensor.dims)}]``"
    dtypes = list(tensor.dtypes)
    if tensor.like is not None:
        dtypes.insert(0, f"dtype of ``{tensor.like}``")
    listed = " or ".join(filter(None, [", ".join(dtypes[:-1]), dtypes[-1]]))
    kind = {"input": "", "mutable": ", written in place", "output": ""}[tensor.use]
    aliases = " or ".join(f"``{name}``" for name in tensor.may_be)
    return f"{shape}, {listed}{kind}{f'; may be {aliases} itself' if aliases else ''}."


def describe_attribute(attribute: Attribute) -> str:
    """Choices of an attribute, for people."""
    listed = ", ".join(f'``"{c}"``' for c in attribute.choices)
    return f"One of {listed}." if listed else ""


def docstring(op: Op) -> str:
    """The documentation of an op as a Google docstring."""
    head, texts = split_doc(op)
    entries: dict[str, str] = {}
    for tensor in op.inputs:
        entries[tensor.name] = f"{describe_tensor(tensor)} {texts.get(tensor.name, '')}"
    for attribute in op.attributes:
        text = texts.get(attribute.name, "")
        entries[attribute.name] = f"{describe_attribute(attribute)} {text}"
    outputs = " and ".join(f"``{o.name}``" for o in op.outputs)
    if len(op.outputs) == 1:
        out = op.outputs[0]
        text = f"{describe_tensor(out)} {texts.get(out.name, '')}".rstrip()
        entries["out"] = f"{text} Allocated when omitted."
    elif op.outputs:
        entries["out"] = f"The outputs {outputs}, allocated when omitted. " + " ".join(
            f"``{o.name}``: {describe_tensor(o)} {texts.get(o.name, '')}" for o in op.outputs
        )
    sections = [head, section("Args", entries)]
    if op.outputs:
        sections.append(f"Returns:\n    {outputs if len(op.outputs) > 1 else '``out``'}.")
    sections.append(section("Raises", _ERRORS))
    return "\n\n".join(sections)


def section(title: str, entries: dict[str, str]) -> str:
    """A section of a Google docstring, such as ``Args``."""
    lines = [f"{title}:"]
    for name, text in entries.items():
        lines += textwrap.wrap(
            f"{name}: {' '.join(text.split())}",
            WIDTH - 8,
            initial_indent="    ",
            subsequent_indent="        ",
            break_on_hyphens=False,
        )
    return "\n".join(lines)


# ---- source -------------------------------------------------------------------------------------


def annotation(attribute: Attribute) -> str:
    """Type of an attribute in Python."""
    literal = f"Literal[{', '.join(repr(c).replace(chr(39), chr(34)) for c in attribute.choices)}]"
    kind = literal if attribute.choices else attribute.kind
    return f"{kind} | None" if attribute.optional else kind


def parameters(op: Op) -> list[str]:
    """Parameters of the function, as Python writes them."""
    listed = [f"{t.name}: {_array(op, t)}{' | None = None' * t.optional}" for t in op.inputs]
    keywords = options(op)
    if op.outputs:
        keywords.append(f"out: {result(op)} | None = None")
    return listed + (["*", *keywords] if keywords else [])


def options(op: Op) -> list[str]:
    """Options of the function, as Python writes them."""
    listed = []
    for a in op.attributes:
        default = "" if a.default is REQUIRED else f" = {a.default!r}".replace("'", '"')
        listed.append(f"{a.name}: {annotation(a)}{default}")
    return listed


def result(op: Op) -> str:
    """Return type of the function."""
    if not op.outputs:
        return "None"
    arrays = [_array(op, o) for o in op.outputs]
    return arrays[0] if len(arrays) == 1 else f"tuple[{', '.join(arrays)}]"


def _array(op: Op, tensor: Tensor) -> str:
    """Type of a tensor: that of the first one where the dtype is the same in every call."""
    first = op.inputs[0].name
    same = tensor.name == first or (tensor.like == first and not tensor.dtypes)
    return "Array" if same else "AnyArray"


def head(op: Op) -> str:
    """The line ``def …:`` of the function."""
    return definition(op.name, parameters(op), result(op))


def definition(name: str, listed: list[str], result: str, width: int = WIDTH) -> str:
    """The line ``def …:``, in the way ruff formats it."""
    line = f"def {name}({', '.join(listed)}) -> {result}:"
    if len(line) <= width:
        return line
    if len(", ".join(listed)) + 4 <= width:
        return f"def {name}(\n    {', '.join(listed)}\n) -> {result}:"
    return f"def {name}(\n" + "".join(_own_line(p, width) for p in listed) + f") -> {result}:"


def _own_line(parameter: str, width: int) -> str:
    """A parameter on a line of its own, or on more where its choices are many."""
    line = f"    {parameter},\n"
    if len(line) <= width + 1 or "[" not in parameter:
        return line
    start, _, rest = parameter.partition("[")
    choices, _, default = rest.partition("]")
    lines = [f"    {start}[", *(f"        {choice}," for choice in choices.split(", "))]
    if default:
        return "\n".join([*lines, "    ]", f"    {default.strip()},"]) + "\n"
    return "\n".join([*lines, "    ],"]) + "\n"


def _check(op: str, name: str, *, optional: bool = False) -> str:
    given = f"{name} is not None and " if optional else ""
    checked = f"_check({op!r}, {name!r}, {name})"
    return f"    if {given}type({name}) not in _known:\n        {checked}\n"


def _check_numbers(op: Op) -> str:
    """Identities, because type() costs a call; ops without numbers pay nothing."""
    return "".join(
        f"    if {a.name} is True or {a.name} is False:\n"
        f"        _refuse_bool(_op, {a.name!r}, {a.name})\n"
        for a in op.attributes
        if a.kind in ("int", "float")
    )


def _size(op: Op, dim: str) -> str:
    """An expression for a dimension of an output, from the arguments of the function."""
    names: dict[str, str] = {a.name: a.name for a in op.attributes}
    if "format" in names:
        names.update(block="_block_of(format)[0]", block_bytes="_block_of(format)[1]")
    for tensor in op.inputs:
        batch = tensor.dims[0].startswith("*")
        for i, name in enumerate(tensor.dims):
            after = i - len(tensor.dims)
            if name.startswith("*"):
                names.setdefault(name, f"*{tensor.name}.shape[:{after + 1 or None}]")
            elif not tensor.optional:
                names.setdefault(name, f"{tensor.name}.shape[{after if batch else i}]")
    if dim.startswith("*"):
        return names[dim]
    return re.sub(r"[A-Za-z_]\w*", lambda m: names.get(m[0], m[0]), dim)


def _new(op: Op, out: Tensor) -> str:
    """An expression that allocates an output."""
    first = op.inputs[0]
    if out.dims == first.dims:
        shape = f"{first.name}.shape"
    else:
        shape = f"({''.join(f'{_size(op, dim)}, ' for dim in out.dims)})"
    dtype = _dtype(op, out)
    return f"_new({op.name!r}, {first.name}, {shape}{f', {dtype}' if dtype != 'None' else ''})"


def _dtype(op: Op, out: Tensor) -> str:
    """An expression for the dtype of an output, as `output_dtype` has it; None: the first's."""
    if out.like is None:
        return repr(out.dtypes[0])
    inputs = {t.name: t for t in op.inputs}
    like = "None" if out.like == op.inputs[0].name else f"_dtype_name({out.like})"
    if not out.dtypes:
        return like
    others = [f"{out.like} is None"] if inputs[out.like].optional else []
    if _may_hold_bytes(inputs, out.like):
        has_format = any(a.name == "format" for a in op.attributes)  # given for bytes alone
        others.append("format is not None" if has_format else f"_dtype_name({out.like}) == 'uint8'")
    return f"{out.dtypes[0]!r} if {' or '.join(others)} else {like}" if others else like


def _may_hold_bytes(inputs: dict[str, Tensor], name: str) -> bool:
    """Whether an input may be the bytes of a weight format."""
    tensor = inputs[name]
    return "uint8" in tensor.dtypes or (
        tensor.like is not None and _may_hold_bytes(inputs, tensor.like)
    )


def _allocation(op: Op) -> str:
    """Statements that leave an array in each output.

    Where a size cannot be had (a rank is wrong, say), the declaration is asked, and says why.
    """
    if not op.outputs:
        return ""
    inputs = "".join(f"{t.name}, " for t in op.inputs)
    options = ", ".join(f"{a.name!r}: {a.name}" for a in op.attributes)
    names = ", ".join(o.name for o in op.outputs)
    made = ", ".join(_new(op, o) for o in op.outputs)
    slow = f"{names}{',' * (len(op.outputs) == 1)} = _allocate(_op, ({inputs}), {{{options}}}, "
    lines = [
        "    if out is None:",
        "        try:",
        f"            {names} = {made}",
        "        except _SIZE_ERRORS:",
        f"            {slow}None)",
        "    else:",
    ]
    if len(op.outputs) > 1:
        lines.append(f"        {slow}out)")
    body = "\n".join(lines) + "\n"
    return body + textwrap.indent("".join(_check(op.name, o.name) for o in op.outputs), "    ")


def source(op: Op) -> str:
    """The whole function."""
    text = textwrap.indent(docstring(op), "    ").lstrip().replace("\\", "\\\\")
    outputs = [o.name for o in op.outputs]
    inputs = "".join(f"{t.name}, " for t in op.inputs if t.use == "input")
    written = [t.name for t in op.inputs if t.use == "mutable"]
    if outputs:
        written.append("out" if len(outputs) == 1 else "*(out or ())")
    seen = f"({inputs}), ({''.join(f'{name}, ' for name in written)})"
    arguments = ", ".join([t.name for t in op.inputs] + outputs + [a.name for a in op.attributes])
    return (
        f'{head(op)}\n    """{text}\n    """\n'
        + "".join(_check(op.name, t.name, optional=t.optional) for t in op.inputs)
        + _check_numbers(op)
        + f"    if _torch_seen:\n        _check_torch({op.name!r}, {seen})\n"
        + _allocation(op)
        + f"    try:\n        _native({arguments})\n"
        + "    except _EXPLAINED as error:\n"
        + f"        raise _explain(_op, error, ({arguments},)) from None\n"
        + (f"    return {', '.join(outputs)}\n" if outputs else "")
    )


def stub(op: Op) -> str:
    """The function as a ``.pyi`` file has it."""
    text = textwrap.indent(docstring(op), "    ").lstrip()
    return f'{head(op)}\n    """{text}\n    """\n'


def all_of(ops: Sequence[Op]) -> list[str]:
    """Lines of ``__all__``, for a stub."""
    return ["__all__ = [", *(f'    "{op.name}",' for op in ops), "]", ""]


def compile_op(op: Op) -> Callable[..., Any]:
    """The function itself."""
    code, name = source(op), f"<my_llm_ffi.ops.{op.name}>"
    scope: dict[str, Any] = {
        "__name__": "my_llm_ffi.ops",
        "_op": op,
        "_native": op.function,
        "_known": arrays.known_types,
        "_torch_seen": arrays.torch_seen,
        "_check": arrays.check_array,
        "_new": arrays.new,
        "_dtype_name": arrays.dtype_name,
        "_block_of": block_of,
        "_SIZE_ERRORS": (
            *(AttributeError, IndexError, MemoryError),
            *(OverflowError, RuntimeError, TypeError, ValueError),
        ),
        "_allocate": arrays.allocate,
        "_explain": arrays.explain,
        "_refuse_bool": arrays.refuse_bool,
        "_check_torch": arrays.check_torch,
        "_EXPLAINED": (TypeError, BufferError, OverflowError, RuntimeError),
    }
    exec(compile("from __future__ import annotations\n" + code, name, "exec"), scope)
    linecache.cache[name] = (len(code), None, ("\n" + code).splitlines(keepends=True), name)
    function: Callable[..., Any] = scope[op.name]
    return function
