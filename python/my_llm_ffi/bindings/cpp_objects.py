"""The C++ client beside its ops: text of types.h, objects.h and objects_inl.h.

Counterparts: include/my_llm_ffi/convert.h, by hand; cpp.py, the ops.
"""

from __future__ import annotations

import re

from . import interface
from .cpp_text import (
    BY_VALUE,
    WIDTH,
    annotated,
    call_like,
    camel,
    comment,
    cpp_type,
    enum,
    enumerator,
    head,
    identifier,
    int_enumerator,
    literal,
    names_of,
)
from .interface import REQUIRED, Field, Function, Object, Parameter, Structure

MAX_DEFAULTS = 4  # a method with more of them takes a structure of options


# ---- parameters ---------------------------------------------------------------------------------


def _value_type(p: Parameter) -> str:
    return annotated(p.annotation) if p.annotation else cpp_type(p.type)


def _declared(p: Parameter) -> str:
    kind = _value_type(p)
    return f"{kind if kind in BY_VALUE else f'const {kind}&'} {identifier(p.name)}"


def _passed(p: Parameter, expression: str) -> str:
    """What is handed to the library for a parameter."""
    plain = p.type.name
    if p.annotation and not p.annotation.startswith(("Callable", "Sequence")):
        return f"{expression}.ToValues()"
    if p.annotation:
        return f"detail::Pass({expression})"
    if plain == interface.TENSORS:
        return expression
    if plain == "ffi.Shape":
        return f"detail::PassShape({expression})"
    if plain == "ffi.Bytes" or (plain == "ffi.Array" and p.type.args[0].name == "ffi.Bytes"):
        return f"detail::PassBytes({expression})"
    if cpp_type(p.type) in (*BY_VALUE, "TensorView", "Tensor", "Values", "tvm::ffi::Any"):
        return expression
    return f"detail::Pass({expression})"


# ---- types.h ------------------------------------------------------------------------------------


def _field_type(f: Field) -> str:
    return "std::optional<Tensor>" if f.type == "Any" else annotated(f.type)


def _put(f: Field) -> str:
    if f.name == "sampling":  # flat; without it the best token is taken
        return (
            "    if (sampling) {\n      for (const auto& [key, value] : sampling->ToValues()) "
            "values.Set(key, value);\n    } else {\n"
            '      values.Set("temperature", 0.0);\n    }\n'
        )
    passed = "PassBytes" if f.type == "Sequence[str]" else "Pass"
    put = f'detail::Put(values, "{f.name}", detail::{passed}({f.name}));\n'
    is_map = annotated(f.type).startswith("std::map")
    return f"    {f'if (!{f.name}.empty()) ' * is_map}{put}"


def _structure(s: Structure) -> str:
    lines = [comment(s.doc), f"struct {s.name} {{\n"]
    for f in s.fields:
        kind = _field_type(f)
        default = "{}" if f.default is REQUIRED else literal(f.default, kind)
        initial = default if default == "{}" else f" = {default}"
        lines.append(f"{comment(f.doc, '  ')}  {kind} {f.name}{initial};\n")
    if s.is_input:
        lines += ["\n  Values ToValues() const {\n    Values values;\n"]
        lines += [_put(f) for f in s.fields]
        lines += ["    return values;\n  }\n"]
    else:
        lines += [f"\n  static {s.name} FromValues(const Values& values) {{\n    {s.name} taken;\n"]
        lines += [f'    detail::Get(values, "{f.name}", taken.{f.name});\n' for f in s.fields]
        lines += ["    return taken;\n  }\n"]
    return "".join([*lines, "};\n"])


def types_header() -> str:
    """types.h: enums and structures."""
    enums, formats = interface.enums(), interface.formats()
    numbered = [(e, [(int_enumerator(n), v) for n, v in e.values]) for e in enums]
    format_values = [(enumerator(f), i) for i, f in enumerate(formats)]
    parts = [
        head("Enums and structures.", ['"my_llm_ffi/convert.h"']),
        "namespace my_llm_ffi {\n\n",
        enum("Format", "Formats of weights, as GGUF names them.", format_values),
        "\n",
        *(f"{enum(e.name, e.doc, values)}\n" for e, values in numbered),
        "namespace detail {\n\n",
        "\n".join(
            [
                names_of("Format", formats),
                *(names_of(e.name, [n for n, _ in e.values], e.values[0][1]) for e in enums),
            ]
        ),
        "\n}  // namespace detail\n\n",
        "\n".join(_structure(s) for s in interface.structures()),
        "\n}  // namespace my_llm_ffi\n",
    ]
    return "".join(parts)


# ---- objects.h ----------------------------------------------------------------------------------


def _result(f: Function) -> str:
    return annotated(f.result_annotation) if f.result_annotation else cpp_type(f.result)


def _options_name(f: Function, owner: str) -> str:
    return f"{owner}{camel(f.name)}Options"


def _split_defaults(f: Function) -> tuple[list[Parameter], list[Parameter]]:
    """Parameters that stand alone, and those that a structure of options holds."""
    defaulted = [p for p in f.parameters if p.default is not REQUIRED]
    if len(defaulted) <= MAX_DEFAULTS:
        return list(f.parameters), []
    return [p for p in f.parameters if p.default is REQUIRED], defaulted


def _signature(f: Function, owner: str, *, defaults: bool) -> list[str]:
    alone, grouped = _split_defaults(f)
    items = []
    for p in alone:
        text = _declared(p)
        if defaults and p.default is not REQUIRED:
            text += f" = {literal(p.default, _value_type(p))}"
        items.append(text)
    if grouped:
        items.append(f"const {_options_name(f, owner)}& options" + " = {}" * defaults)
    return items


def _declaration(f: Function, owner: str) -> str:
    items = _signature(f, owner, defaults=True)
    head = f"{'static ' * f.is_static}{_result(f)} {identifier(f.name)}"
    return comment(f.doc, "  ") + call_like(
        head, items, " const;" if not f.is_static else ";", "  "
    )


def _body(f: Function, callee: str) -> str:
    _, grouped = _split_defaults(f)
    names = {p.name for p in grouped}
    arguments = [] if f.is_static else ["ref()"]
    for p in f.parameters:
        source = f"options.{p.name}" if p.name in names else identifier(p.name)
        arguments.append(_passed(p, source))
    result = _result(f)
    many = any(p.type.name == interface.TENSORS for p in f.parameters)
    call = call_like("callee.Spread" if many else "callee", arguments, "", "  ").lstrip()
    if result == "void":
        last = f"  {call};\n"
    else:
        last = f"  return detail::Take<{result}>({call});\n"
        if len(last) > WIDTH + 1:
            last = f"  return detail::Take<{result}>(\n      {call});\n"
    return f"  static const auto callee = {callee};\n{last}"


def _definition(f: Function, owner: str) -> str:
    name = f"inline {_result(f)} {owner}::{identifier(f.name)}"
    items = _signature(f, owner, defaults=False)
    start = call_like(name, items, " {" if f.is_static else " const {")
    return f'{start}\n{_body(f, f"""detail::Callee::Method(kTypeKey, "{f.name}")""")}}}\n'


def _field_accessors(o: Object) -> str:
    lines = []
    for f in o.fields:
        kind = _field_type(f)
        lines.append(
            f"{comment(f.doc, '  ')}  {kind} {identifier(f.name)}() const {{\n"
            f'    static const detail::Getter getter(kTypeKey, "{f.name}");\n'
            f"    return detail::TakeField<{kind}>(getter, *this);\n  }}\n"
        )
    return "".join(lines)


def _options_structure(f: Function, owner: str) -> str:
    _, grouped = _split_defaults(f)
    if not grouped:
        return ""
    lines = []
    for p in grouped:
        default = literal(p.default, _value_type(p))
        initial = default if default == "{}" else f" = {default}"
        lines.append(f"  {_value_type(p)} {identifier(p.name)}{initial};\n")
    title = f"Options of {owner}::{f.name}, which says what they are."
    return f"{comment(title)}struct {_options_name(f, owner)} {{\n{''.join(lines)}}};\n\n"


def _class(o: Object) -> str:
    options = "".join(_options_structure(m, o.name) for m in o.methods)
    methods = "\n".join(_declaration(m, o.name) for m in o.methods)
    return (
        f"{options}{comment(o.doc)}class {o.name} : public Handle {{\n public:\n"
        f'  static constexpr const char* kTypeKey = "my_llm_ffi.{o.name}";\n'
        f"  using Handle::Handle;\n\n{_field_accessors(o)}{methods}{chr(10) * bool(o.methods)}}};\n"
    )


def _ordered(objects: list[Object]) -> list[Object]:
    """Objects whose options hold others by value come after those."""

    def held(o: Object) -> set[str]:
        kinds = {_value_type(p) for m in o.methods for p in _split_defaults(m)[1]}
        return {x.name for x in objects if any(re.search(rf"\b{x.name}\b", k) for k in kinds)}

    done: list[Object] = []
    while len(done) < len(objects):
        names = {d.name for d in done}
        done += [o for o in objects if o not in done and held(o) <= names]
    return done


def objects_header() -> str:
    """objects.h: classes and functions, declared and documented."""
    objects = interface.objects()
    forward = "".join(f"class {o.name};\n" for o in objects)
    functions = "".join(f"{_function_declaration(f)}\n" for f in interface.functions())
    return (
        head("Objects and functions of the library.", ['"my_llm_ffi/types.h"'])
        + f"namespace my_llm_ffi {{\n\n{forward}\n"
        + "\n".join(_class(o) for o in _ordered(objects))
        + f"\n{functions}\n}}  // namespace my_llm_ffi\n\n"
        + '#include "my_llm_ffi/objects_inl.h"\n'
    )


def _function_declaration(f: Function) -> str:
    items = _signature(f, "", defaults=True)
    return comment(f.doc) + call_like(f"{_result(f)} {identifier(f.name)}", items, ";")


def _function_definition(f: Function) -> str:
    items = _signature(f, "", defaults=False)
    start = call_like(f"inline {_result(f)} {identifier(f.name)}", items, " {")
    callee = f'detail::Callee::Function("my_llm_ffi.{f.name}")'
    return f"{start}\n{_body(f, callee)}}}\n"


def objects_inline_header() -> str:
    """objects_inl.h: what objects.h declares."""
    methods = [_definition(m, o.name) for o in interface.objects() for m in o.methods]
    functions = [_function_definition(f) for f in interface.functions()]
    return (
        head("Definitions of objects.h.", ['"my_llm_ffi/objects.h"'])
        + "namespace my_llm_ffi {\n\n"
        + "\n".join(methods + functions)
        + "\n}  // namespace my_llm_ffi\n"
    )
