"""Text in chat templates: filters, str's methods. Counterparts: chat_filters.py, chat_sandbox.py.

They mean what Jinja2's and Python's own mean, and each pays for its result before it makes it.
"""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any, Callable

from jinja2 import Undefined

from .chat_budget import ChatTemplateError, size_of

if TYPE_CHECKING:
    from .chat_sandbox import ChatEnvironment

LIST_ITEM_BYTES = 64  # a pointer and a short string
_ESCAPED = 24  # bytes that a character may take when it is written as \uXXXX beside an emoji
_MAX_INDENT = 16
_MAX_WIDTH = 999
_CONVERSION = re.compile(  # counted repetitions only: nothing to backtrack into
    r"%(?:\((\w*)\))?[-+ #0]{0,5}(\d{0,5})(?:\.(\d{0,5}))?([a-zA-Z%*])"
)
_WORD_START = re.compile(r"([-\s({\[<]+)")
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def _plain_method(name: str, *, growth: int = 3) -> Callable[..., Any]:
    """A method of str whose result is no longer than `growth` times its text."""
    method = getattr(str, name)

    def call(env: ChatEnvironment, text: str, *args: Any) -> Any:
        for arg in args:
            if type(arg) is str:
                env.budget.search(text, arg)
        env.budget.spend(growth * size_of(text))
        return method(text, *args)

    return call


def _splitting(name: str) -> Callable[..., Any]:
    method = getattr(str, name)

    def call(env: ChatEnvironment, text: str, sep: str | None = None, maxsplit: int = -1) -> Any:
        if sep is not None:
            env.budget.search(text, sep)
        parts = len(text) // 2 + 1 if sep is None else text.count(sep) + 1
        if maxsplit >= 0:
            parts = min(parts, maxsplit + 1)
        env.budget.spend(size_of(text) + LIST_ITEM_BYTES * parts)
        return method(text, sep, maxsplit)

    return call


def _splitlines(env: ChatEnvironment, text: str, keepends: bool = False) -> list[str]:
    lines = sum(map(text.count, _LINE_ENDS)) + 1
    env.budget.spend(size_of(text) + LIST_ITEM_BYTES * lines)
    return text.splitlines(bool(keepends))


def _padding(name: str) -> Callable[..., str]:
    method = getattr(str, name)

    def call(env: ChatEnvironment, text: str, width: int, *fill: str) -> str:
        env.budget.spend(size_of(text) + 4 * _width(width))
        return str(method(text, width, *fill))

    return call


def _str_replace(env: ChatEnvironment, text: str, old: str, new: str, count: int = -1) -> str:
    env.budget.search(text, old)
    found = text.count(old)
    if count >= 0:
        found = min(found, count)
    width = max(size_of(text) // max(len(text), 1), size_of(new) // max(len(new), 1), 4)
    env.budget.spend(size_of(text) + found * len(new) * min(width, 4))
    return text.replace(old, new, count)


def str_join(env: ChatEnvironment, separator: str, parts: Any) -> str:
    """``separator.join(parts)``."""
    texts = list(env.items(parts))
    chars = len(separator) * len(texts) + sum(map(len, texts))
    wide = any(not text.isascii() for text in texts) or not separator.isascii()
    env.budget.spend(chars * (4 if wide else 1))
    return separator.join(texts)


def to_text(env: ChatEnvironment, value: Any) -> str:
    """``str(value)`` of plain data."""
    env.budget.step()
    if type(value) is str:
        env.budget.spend(len(value))
        return value
    if isinstance(value, Undefined):
        return str(value)
    size = env.budget.measure(value)
    env.budget.spend(_ESCAPED * size.chars + 4 * size.items)
    return str(value)


def _sized(env: ChatEnvironment, value: Any, growth: int = 1) -> str:
    text = to_text(env, value)
    env.budget.spend(growth * size_of(text))
    return text


def _trim(env: ChatEnvironment, value: Any, chars: str | None = None) -> str:
    return str(_plain_method("strip")(env, _sized(env, value), chars))


def _title(env: ChatEnvironment, value: Any) -> str:
    text = to_text(env, value)
    env.budget.spend(40 * len(text))
    words = _WORD_START.split(text)
    return "".join(word[:1].upper() + word[1:].lower() for word in words)


def _replace(env: ChatEnvironment, value: Any, old: Any, new: Any, count: int | None = None) -> str:
    limit = -1 if count is None else count
    return _str_replace(env, to_text(env, value), to_text(env, old), to_text(env, new), limit)


def _indent(
    env: ChatEnvironment, value: Any, width: Any = 4, first: bool = False, blank: bool = False
) -> str:
    text = to_text(env, value)
    margin = width if type(width) is str else " " * _width(width)
    lines = (text + "\n").splitlines()
    env.budget.spend(2 * size_of(text) + len(lines) * (LIST_ITEM_BYTES + 4 * len(margin)))
    rest = [margin + line if line or blank else line for line in lines[1:]]
    return "\n".join([(margin if first else "") + lines[0], *rest])


def _center(env: ChatEnvironment, value: Any, width: int = 80) -> str:
    return _padding("center")(env, to_text(env, value), width)


def _escape(env: ChatEnvironment, value: Any) -> str:
    return html.escape(_sized(env, value, 6)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def _join(env: ChatEnvironment, value: Any, d: str = "", attribute: Any = None) -> str:
    read = env.reader(attribute)
    return str_join(env, to_text(env, d), [to_text(env, read(item)) for item in env.items(value)])


def _tojson(
    env: ChatEnvironment,
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Like the filter that chat templates are written for: characters as they are, no HTML."""
    margin = 0
    if indent is not None:
        margin = len(indent) if type(indent) is str else _width(indent)
    item_joint, key_joint = ("", "") if separators is None else separators
    joints = (to_text(env, item_joint), to_text(env, key_joint))
    if margin > _MAX_INDENT or max(map(len, joints)) > _MAX_INDENT:
        raise ChatTemplateError(f"tojson: indent and separators are at most {_MAX_INDENT} wide")
    size = env.budget.measure(value)
    env.budget.spend(
        _ESCAPED * size.chars + size.items * (2 * _MAX_INDENT + margin * (size.depth + 1))
    )
    chosen = None if separators is None else joints
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=chosen, sort_keys=sort_keys
    )


def percent(env: ChatEnvironment, text: str, values: Any) -> str:
    """``text % values`` with bounded widths; %r and %a are left out."""
    longest = 0
    named = type(values) is dict
    given = list(values.values()) if named else list(values if type(values) is tuple else [values])
    for i, value in enumerate(given):
        if type(value) not in (int, float, bool):
            given[i] = to_text(env, value)
            longest = max(longest, len(given[i]))
    if "%" in _CONVERSION.sub("", text):
        raise ChatTemplateError("format: incomplete conversion in a chat template")
    for match in _CONVERSION.finditer(text):
        _, width, precision, kind = match.groups()
        if kind not in "sdifFgGeExXoc%" or _too_wide(width) or _too_wide(precision):
            raise ChatTemplateError(f"format: {match.group()!r} is not allowed in a chat template")
        env.budget.spend(4 * longest + 512 + 2 * _MAX_WIDTH)
    return text % (dict(zip(values, given)) if named else tuple(given))


def _format(env: ChatEnvironment, value: Any, /, *args: Any, **named: Any) -> str:
    return percent(env, to_text(env, value), named or args)


def _too_wide(digits: str | None) -> bool:
    return int(digits or "0") > _MAX_WIDTH


def _width(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"a width is a {type(value).__name__}, expected an integer")
    if value > _MAX_WIDTH:
        raise ChatTemplateError(f"a width of {value} is more than {_MAX_WIDTH}")
    return max(value, 0)


_STR_PLAIN = (
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit "
    "isidentifier islower isnumeric isprintable isspace istitle isupper lower lstrip partition "
    "removeprefix removesuffix rfind rindex rpartition rstrip startswith strip swapcase title upper"
)

STR_METHODS: dict[str, Callable[..., Any]] = {
    **{name: _plain_method(name) for name in _STR_PLAIN.split()},
    **{name: _padding(name) for name in ("center", "ljust", "rjust", "zfill")},
    "join": str_join,
    "replace": _str_replace,
    "rsplit": _splitting("rsplit"),
    "split": _splitting("split"),
    "splitlines": _splitlines,
}

TEXT_FILTERS: dict[str, Callable[..., Any]] = {
    "capitalize": lambda env, value: _sized(env, value, 3).capitalize(),
    "center": _center,
    "e": _escape,
    "escape": _escape,
    "format": _format,
    "indent": _indent,
    "join": _join,
    "lower": lambda env, value: _sized(env, value, 3).lower(),
    "replace": _replace,
    "safe": to_text,
    "string": to_text,
    "title": _title,
    "tojson": _tojson,
    "trim": _trim,
    "upper": lambda env, value: _sized(env, value, 3).upper(),
}
