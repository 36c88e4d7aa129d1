"""The C++ client's ops: text of ops.h, and of the dispatch of tests/parity.

Counterparts: include/my_llm_ffi/call.h, by hand; cpp_objects.py, the rest of the client.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..declaration import REQUIRED, Attribute, Op
from ..render import describe_tensor, split_doc
from . import interface
from .cpp_text import (
    call_like,
    camel,
    comment,
    enum,
    enumerator,
    head,
    identifier,
    literal,
    names_of,
)

# ---- ops.h --------------------------------------------------------------------------------------


def choice_type(op: Op, a: Attribute) -> str:
    """The enum of an option."""
    if a.name == "format" and a.choices == interface.formats():
        return "Format"
    return camel(op.name) + camel(a.name)


def _option_type(op: Op, a: Attribute) -> str:
    plain = {"float": "double", "int": "int64_t", "bool": "bool", "str": "std::string"}
    kind = choice_type(op, a) if a.choices else plain[a.kind]
    return f"std::optional<{kind}>" if a.optional else kind


def _option_default(op: Op, a: Attribute) -> str:
    if a.choices and a.default is not None:
        return f" = {choice_type(op, a)}::{enumerator(a.default)}"
    kind = "double" if a.kind == "float" else ""
    default = literal(a.default, kind)
    return default if default == "{}" else f" = {default}"


def options_of(op: Op) -> tuple[list[Attribute], list[Attribute]]:
    """Options that must be given, and those with defaults, which a structure holds."""
    required = [a for a in op.attributes if a.default is REQUIRED]
    return required, [a for a in op.attributes if a not in required]


def _op_doc(op: Op) -> str:
    head, texts = split_doc(op)
    required, _ = options_of(op)
    entries = [f"{t.name}: {describe_tensor(t)} {texts.get(t.name, '')}" for t in op.inputs]
    entries += [f"{t.name}: {describe_tensor(t)} {texts.get(t.name, '')}" for t in op.outputs]
    entries += [f"{a.name}: {texts.get(a.name, '')}" for a in required]
    return "\n\n".join([head]) + "\n\n" + "\n\n".join(entries)


def _op_comment(op: Op) -> str:
    head, _, arguments = comment(_op_doc(op)).partition("///\n/// " + op.inputs[0].name + ":")
    lines = f"/// {op.inputs[0].name}:{arguments}".replace("///\n", "")
    return f"{head}///\n{lines}"


def _op_enums(op: Op) -> list[Attribute]:
    return [a for a in op.attributes if a.choices and choice_type(op, a) != "Format"]


def _op(op: Op) -> str:
    required, optional = options_of(op)
    _, texts = split_doc(op)
    parts = []
    for a in _op_enums(op):
        values = [(enumerator(c), i) for i, c in enumerate(a.choices)]
        parts.append(enum(choice_type(op, a), f"Option {a.name} of {op.name}.", values) + "\n")
    if optional:
        fields = "".join(
            f"{comment(texts.get(a.name, ''), '  ')}"
            f"  {_option_type(op, a)} {identifier(a.name)}{_option_default(op, a)};\n"
            for a in optional
        )
        title = comment(f"Options of {op.name}.")
        parts.append(f"{title}struct {camel(op.name)}Options {{\n{fields}}};\n\n")
    tensors = op.inputs + op.outputs
    items = [
        f"const {'OptionalTensor' if t.optional else 'TensorView'}& {identifier(t.name)}"
        + " = {}" * (not required and all(later.optional for later in tensors[i:]))
        for i, t in enumerate(tensors)
    ]
    items += [f"{_option_type(op, a)} {identifier(a.name)}" for a in required]
    if optional:
        items.append(f"const {camel(op.name)}Options& options = {{}}")
    passed = [identifier(t.name) for t in op.inputs + op.outputs]
    for a in op.attributes:
        source = identifier(a.name) if a in required else f"options.{identifier(a.name)}"
        passed.append(f"detail::NameOf({source})" if a.choices else source)
    parts.append(_op_comment(op))
    parts.append(
        f"{call_like(f'inline void {identifier(op.name)}', items, ' {')}\n"
        f'  static const auto callee = detail::Callee::Function("my_llm_ffi.{op.name}");\n'
        f"{call_like('callee', passed, ';', '  ')}\n}}\n"
    )
    return "".join(parts)


def ops_header(ops: Sequence[Op]) -> str:
    """ops.h: a function per op; outputs are arguments."""
    enums = [(op, a) for op in ops for a in _op_enums(op)]
    names = [names_of(f"ops::{choice_type(op, a)}", a.choices) for op, a in enums]
    detail = (
        "namespace detail {\n\n" + "\n".join(names) + "\n}  // namespace detail\n\n"
        if names
        else ""
    )
    forward = "".join(f"enum class {choice_type(op, a)} : int64_t;\n" for op, a in enums)
    before = f"namespace ops {{\n{forward}}}  // namespace ops\n\n{detail}" if enums else ""
    return (
        head("Ops: kernels on your own tensors.", ['"my_llm_ffi/types.h"'])
        + f"namespace my_llm_ffi {{\n\n{before}namespace ops {{\n\n"
        + "\n".join(_op(op) for op in ops)
        + "\n}  // namespace ops\n}  // namespace my_llm_ffi\n"
    )


# ---- the driver of tests/parity -----------------------------------------------------------------


def dispatch(ops: Sequence[Op]) -> str:
    """dispatch.h of the parity driver: calls an op by its name through the client."""
    cases = []
    for op in ops:
        required, optional = options_of(op)
        place = {a.name: i for i, a in enumerate(op.attributes)}
        arguments = [
            f"c.{'Optional' if t.optional else 'Given'}({i})"
            for i, t in enumerate(op.inputs + op.outputs)
        ]
        arguments += [f"c.Option<{_option_type(op, a)}>({place[a.name]})" for a in required]
        lines = [f'      {{"{op.name}",\n       [](const Case& c) {{\n']
        if optional:
            lines.append(f"         ops::{camel(op.name)}Options o;\n")
            lines += [
                f"         c.Read({place[a.name]}, o.{identifier(a.name)});\n" for a in optional
            ]
            arguments.append("o")
        call = call_like(f"ops::{identifier(op.name)}", arguments, ";", "         ")
        cases.append("".join([*lines, f"{call}\n       }}}},\n"]))
    return (
        head("Every op through the C++ client.", ['"case.h"'])
        + "inline const std::map<std::string, void (*)(const Case&)>& Ops() {\n"
        + "  using namespace my_llm_ffi;  // NOLINT(build/namespaces)\n"
        + "  static const std::map<std::string, void (*)(const Case&)> ops = {\n"
        + "".join(cases)
        + "  };\n  return ops;\n}\n"
    )
