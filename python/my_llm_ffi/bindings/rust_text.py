"""Rust as text: names, literals, comments, lines as rustfmt breaks them. Counterpart: rust.py."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 100
_KEYWORDS = frozenset(
    "abstract as async await become box break const continue do dyn else enum extern false final fn"
    " for gen if impl in let loop macro match mod move mut override priv pub ref return static"
    " struct trait true try type typeof unsafe unsized use virtual where while yield".split()
)
_NOT_RAW = frozenset({"self", "Self", "super", "crate", "_"})  # r# is not allowed before these
_OURS = frozenset({"options"})  # a parameter that is there already


# ---- names --------------------------------------------------------------------------------------


def snake(name: str) -> str:
    """An identifier of a function, field or argument."""
    if name in _NOT_RAW | _OURS:
        return f"{name}_"
    return f"r#{name}" if name in _KEYWORDS else name


def camel(name: str) -> str:
    """An identifier of a type."""
    words = "".join(word[:1].upper() + word[1:] for word in name.split("_"))
    return words if words[:1].isalpha() else f"_{words}"


def variant(choice: str) -> str:
    """An identifier of a choice: names in capitals stay as the file formats have them."""
    plain = re.sub(r"\W", "_", choice)
    name = plain if plain.upper() == plain else camel(plain)
    name = name if name[:1].isalpha() or name[:1] == "_" else f"_{name}"
    return f"{name}_" if name in _NOT_RAW else name or "_Empty"


def text_literal(text: str) -> str:
    """A literal."""
    body = json.dumps(text, ensure_ascii=False)
    return re.sub(r"\\u([0-9a-f]{4})", lambda m: f"\\u{{{m[1].lstrip('0') or '0'}}}", body).replace(
        "\\u{0}", "\\0"
    )


def number(value: float) -> str:
    """A literal of an f64."""
    text = repr(value)
    if text in ("inf", "-inf", "nan"):
        return {"inf": "f64::INFINITY", "-inf": "f64::NEG_INFINITY", "nan": "f64::NAN"}[text]
    return text


def structure(name: str, fields: Sequence[str], indent: str) -> str:
    """A structure's value; the first line stands after ``indent`` and perhaps a ``let``."""
    line = f"{name} {{ {', '.join(fields)} }}"
    room = WIDTH - len(indent) - (len("let options = ;") if indent == "    " else 0)
    if len(line) <= room:
        return line
    inner = "".join(f"{indent}    {field},\n" for field in fields)
    return f"{name} {{\n{inner}{indent}}}"


# ---- layout, as rustfmt has it ------------------------------------------------------------------


def brackets(head: str, tail: str, items: Iterable[str]) -> str:
    """``head item, item tail`` on one line, or a list filled to the width, one indent deeper."""
    listed = list(items)
    line = f"{head}{', '.join(listed)}{tail}"
    if len(line) <= WIDTH:
        return line
    indent = " " * (len(head) - len(head.lstrip()))
    short = all(len(item) <= 10 for item in listed)  # rustfmt fills lists of short items alone
    inner = f"{indent}    "
    body = ", ".join(listed) + "," if short else ",\n".join(listed) + ","
    lines = (
        textwrap.wrap(body, WIDTH - len(inner), break_long_words=False, break_on_hyphens=False)
        if short
        else body.split("\n")
    )
    return "\n".join([head, *(inner + line for line in lines), indent + tail])


def signature(name: str, parameters: Sequence[str], *, public: bool = True) -> str:
    """The first line of a function, or lines."""
    head = f"{'pub ' * public}fn {name}("
    line = f"{head}{', '.join(parameters)}) -> Result<()> {{"
    if len(line) <= WIDTH:
        return line
    return "\n".join([head, *(f"    {p}," for p in parameters), ") -> Result<()> {"])


def documentation(text: str, indent: str = "") -> list[str]:
    """Lines of documentation; what rustdoc would take for links or tags is escaped."""
    lines: list[str] = []
    for line in text.splitlines():
        lines.append(f"{indent}/// {escape(line)}".rstrip())
    return lines


def escape(line: str) -> str:
    """Text in which nothing but code in backticks means anything to rustdoc."""
    pieces = line.replace("``", "`").split("`")
    return "`".join(
        re.sub(r"([\[\]<>])", r"\\\1", piece) if i % 2 == 0 else piece
        for i, piece in enumerate(pieces)
    )
