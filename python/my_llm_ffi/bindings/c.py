"""The C client: text of c_ops.h and c_objects.h.

Counterparts: include/my_llm_ffi/c_call.h, by hand; cpp.py.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ..declaration import REQUIRED, Attribute, Op
from ..render import describe_tensor, split_doc
from . import interface
from .cpp_text import call_like, identifier
from .interface import Enum, Field, Function, Type

_WIDTH = 94
# type of the registry: type in C, what wraps it
_ARGUMENTS = {
    "int": ("int64_t {}", "mlf_int({})"),
    "float": ("double {}", "mlf_float({})"),
    "bool": ("bool {}", "mlf_bool({})"),
    "ffi.String": ("const char* {}", "mlf_text({})"),
    "ffi.Bytes": ("const TVMFFIByteArray* {}", "mlf_bytes({})"),
    "DLTensor*": ("const DLTensor* {}", "mlf_tensor({})"),
}
_OPTIONALS = {
    "int": ("const int64_t* {}", "mlf_optional_int({})"),
    "float": ("const double* {}", "mlf_optional_float({})"),
    "ffi.String": ("const char* {}", "mlf_text({})"),
}
_OTHERS = ("TVMFFIAny {}", "{}")


def _comment(text: str) -> str:
    lines: list[str] = []
    for paragraph in text.replace("``", "`").replace("*/", "* /").split("\n\n"):
        lines += textwrap.wrap(" ".join(paragraph.split()), _WIDTH, break_on_hyphens=False)
    return "/* " + "\n * ".join(lines) + " */\n"


def _argument(kind: Type) -> tuple[str, str]:
    if kind.name == "Optional":
        return _OPTIONALS.get(kind.args[0].name, _OTHERS)
    if kind.name == "Variant" and all(a.name in ("ffi.String", "ffi.Bytes") for a in kind.args):
        return _ARGUMENTS["ffi.String"]  # a path
    return _ARGUMENTS.get(kind.name, _OTHERS)


def _function(
    name: str, doc: str, items: Sequence[tuple[str, str, str]], call: str, *, out: bool
) -> str:
    """A function that wraps its arguments and calls."""
    parameters = [kind.format(n) for n, kind, _ in items]
    parameters += ["TVMFFIAny* out"] * out
    wrapped = ", ".join(wrap.format(n) for n, _, wrap in items)
    lines = [
        _comment(doc),
        call_like(f"static inline int {name}", parameters or ["void"], " {") + "\n",
        "  static TVMFFIObjectHandle mlf_function;\n",
    ]
    given = "NULL"
    if items:
        array = f"  TVMFFIAny mlf_args[] = {{{wrapped}}};"
        if len(array) > 100:
            array = (
                "  TVMFFIAny mlf_args[] = {\n"
                + textwrap.fill(wrapped, 98, initial_indent="    ", subsequent_indent="    ")
                + "};"
            )
        lines.append(array + "\n")
        given = "mlf_args"
    callee, _, key = call.partition("(")
    passed = [*key.split(", "), given, str(len(items)), "out" if out else "NULL"]
    lines.append(call_like(f"return {callee}", passed, ";", "  ") + "\n}\n")
    return "".join(lines)


def _option(a: Attribute) -> tuple[str, str, str]:
    kind = {"str": "ffi.String"}.get(a.kind, a.kind)
    table = _OPTIONALS if a.optional else _ARGUMENTS
    return (identifier(a.name), *table[kind])


def _default(a: Attribute) -> str:
    if a.default is REQUIRED:
        return ""
    if isinstance(a.default, bool):
        return f" {str(a.default).lower()} by default."
    return f" {'NULL' if a.default is None else a.default} by default."


def _op(op: Op) -> str:
    """An op; it returns nothing but whether it went well."""
    head, texts = split_doc(op)
    tensors = op.inputs + op.outputs
    entries = [f"{t.name}: {describe_tensor(t)} {texts.get(t.name, '')}" for t in tensors]
    for a in op.attributes:
        choices = f"One of {', '.join(a.choices)}. " if a.choices else ""
        entries.append(f"{a.name}: {choices}{texts.get(a.name, '')}{_default(a)}")
    items = [(identifier(t.name), *_ARGUMENTS["DLTensor*"]) for t in tensors]
    items += [_option(a) for a in op.attributes]
    call = f'mlf_call(&mlf_function, "my_llm_ffi.{op.name}"'
    return _function(f"mlf_{op.name}", "\n\n".join([head, *entries]), items, call, out=False)


def _spread(f: Function, owner: str) -> str:
    """A method of any number of tensors."""
    name, result = f.parameters[0].name, f.result.name != "None"
    head = f"static inline int mlf_{_snake(owner)}_{f.name}"
    parameters = ["TVMFFIAny self", f"const DLTensor* const* {name}", f"int32_t n_{name}"]
    given = [f'"my_llm_ffi.{owner}"', f'"{f.name}"', "self", name, f"n_{name}"]
    given = ["&mlf_function", *given, "out" if result else "NULL"]
    call = call_like("return mlf_call_spread", given, ";", "  ")
    start = call_like(head, parameters + ["TVMFFIAny* out"] * result, " {")
    return f"{_comment(f.doc)}{start}\n  static TVMFFIObjectHandle mlf_function;\n{call}\n}}\n"


def _method(f: Function, owner: str) -> str:
    if any(p.type.name == interface.TENSORS for p in f.parameters):
        return _spread(f, owner)
    items = [] if f.is_static else [("self", *_OTHERS)]
    items += [(identifier(p.name), *_argument(p.type)) for p in f.parameters]
    call = f'mlf_call_method(&mlf_function, "my_llm_ffi.{owner}", "{f.name}"'
    return _function(
        f"mlf_{_snake(owner)}_{f.name}", f.doc, items, call, out=f.result.name != "None"
    )


def _field(f: Field, owner: str) -> str:
    head = f"static inline int mlf_{_snake(owner)}_{f.name}"
    given = ["self", f'"my_llm_ffi.{owner}"', f'"{f.name}"', "out"]
    start = call_like(head, ["TVMFFIAny self", "TVMFFIAny* out"], " {")
    call = call_like("return mlf_get_field", given, ";", "  ")
    return f"{_comment(f.doc)}{start}\n{call}\n}}\n"


def _enum(e: Enum) -> str:
    prefix = f"MLF_{_snake(e.name).upper()}"
    values = "".join(f"  {prefix}_{name} = {number},\n" for name, number in e.values)
    return f"{_comment(e.doc)}enum mlf_{_snake(e.name)} {{\n{values}}};\n"


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _plain(f: Function) -> str:
    items = [(identifier(p.name), *_argument(p.type)) for p in f.parameters]
    call = f'mlf_call(&mlf_function, "my_llm_ffi.{f.name}"'
    return _function(f"mlf_{f.name}", f.doc, items, call, out=f.result.name != "None")


def _header(what: str, guard: str, functions: Sequence[str]) -> str:
    return (
        f"/* {what}: an int each, 0, or -1 after an error.\n"
        " * Generated by scripts/generate: do not edit. */\n/* clang-format off */\n"
        f"#ifndef {guard}\n#define {guard}\n"
        '#include "my_llm_ffi/c_call.h"\n\n'
        '#ifdef __cplusplus\nextern "C" {\n#endif\n\n'
        + "\n".join(functions)
        + f"\n#ifdef __cplusplus\n}}\n#endif\n#endif /* {guard} */\n"
    )


def ops_header(ops: Sequence[Op]) -> str:
    """c_ops.h: a function per op; outputs are arguments."""
    return _header("Ops in C", "MY_LLM_FFI_C_OPS_H_", [_op(op) for op in ops])


def objects_header() -> str:
    """c_objects.h: enums, functions, fields and methods of objects."""
    parts = [_enum(e) for e in interface.enums()]
    parts += [_plain(f) for f in interface.functions()]
    for o in interface.objects():
        parts += [_field(f, o.name) for f in o.fields]
        parts += [_method(m, o.name) for m in o.methods]
    return _header("Functions and objects in C", "MY_LLM_FFI_C_OBJECTS_H_", parts)


def dispatch(ops: Sequence[Op]) -> str:
    """dispatch.h of the parity driver: calls an op by its name through the client."""
    readers = {"int": "int", "float": "float", "bool": "bool", "str": "text"}
    cases = []
    for o in ops:
        tensors = [f"T({i})" for i in range(len(o.inputs + o.outputs))]
        options = [
            f"{'optional_' * (a.optional and a.kind != 'str')}{readers[a.kind]}_at(c, {i})"
            for i, a in enumerate(o.attributes)
        ]
        call = call_like(f"    return mlf_{o.name}", tensors + options, ";")
        cases.append(f'  if (strcmp(c->op, "{o.name}") == 0) {{\n{call}\n  }}\n')
    return (
        "/* Every op through the C client. Generated by scripts/generate: do not edit. */\n"
        '/* clang-format off */\n#include "case.h"\n\n'
        "static int dispatch(const struct parity_case* c) {\n"
        "#define T(i) tensor_at(c, i)\n"
        + "".join(cases)
        + '#undef T\n  return mlf_missing("", c->op);\n}\n'
    )
