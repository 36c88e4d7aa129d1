"""Keeps messages from spelling control tokens; counterparts: chat.py, which renders, and model.py.

A message may hold ``<|im_end|>`` as text, and after the template has run nothing tells it from the
template's own. So messages that spell a control token are rendered a second time with a stand-in, a
character that occurs nowhere else, in the place of each first character: where it comes out, the
prompt holds the words of a message. The stand-ins are neither spaces nor letters, so that templates
may trim, cut and join; where a template looks at the token itself, the two renderings differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable, NamedTuple

from .chat_budget import ChatTemplateError
from .checks import as_utf8

_STAND_INS = (*range(0x2801, 0x2900), *range(0xE000, 0xF900))  # braille; for private use


class Prompt(NamedTuple):
    """A rendered prompt, and where it spells control tokens that are text.

    Attributes:
        text: The prompt.
        plain_at: Byte offsets in its UTF-8, in rising order, at which no control token begins.
    """

    text: str
    plain_at: list[int]


def render_guarded(
    render: Callable[[Any, Any], str], messages: Any, tools: Any, control_tokens: Iterable[str]
) -> Prompt:
    """Renders, and finds the control tokens that came out of messages and tools.

    Args:
        render: Renders messages and tools; checks them.
        messages: As `render_chat` takes them.
        tools: As `render_chat` takes them.
        control_tokens: What the vocabulary's control tokens look like.

    Returns:
        What ``render(messages, tools)`` returns, and the places.

    Raises:
        ChatTemplateError: A message spells a control token that the template reads or changes, and
            that reaches the prompt: nobody can tell whose it is.
        ValueError: A message holds a lone surrogate.

    """
    text = render(messages, tools)
    spelled = _Spelled(control_tokens)
    strings = list(_strings((messages, tools)))
    for string in strings:
        as_utf8("messages", string)
    if not any(spelled.starts(string) for string in strings):
        return Prompt(text, [])
    taken = set(text).union(*strings)
    free = (chr(code) for code in _STAND_INS if chr(code) not in taken)
    stand_ins = dict(zip(sorted(spelled.by_first), free))
    if len(stand_ins) < len(spelled.by_first):
        raise _refusal(spelled.found(strings))

    def guard(string: str) -> str:
        characters = list(string)
        for start in spelled.starts(string):
            characters[start] = stand_ins[characters[start]]
        return "".join(characters)

    try:
        guarded = render(_mapped(messages, guard), _mapped(tools, guard))
    except ChatTemplateError:
        raise _refusal(spelled.found(strings)) from None
    if guarded.translate({ord(new): old for old, new in stand_ins.items()}) == text:
        return Prompt(text, list(_byte_offsets(text, guarded, stand_ins.values())))
    unclear = [
        token for token in spelled.found(strings) if text.count(token) > guarded.count(token)
    ]
    if unclear:
        raise _refusal(unclear)
    return Prompt(text, [])  # the template has taken them out, or written them in another way


class _Spelled:
    """Finds where control tokens begin in a string."""

    def __init__(self, control_tokens: Iterable[str]) -> None:
        self.by_first: dict[str, tuple[str, ...]] = {}
        for token in filter(None, control_tokens):
            self.by_first[token[0]] = (*self.by_first.get(token[0], ()), token)
        self._tokens = [token for tokens in self.by_first.values() for token in tokens]
        self._first = re.compile("|".join(map(re.escape, self.by_first)) or r"(?!)")
        self._longest = max(map(len, self._tokens), default=0)

    def starts(self, string: str) -> list[int]:
        """Where one begins, whole or cut off by the end: the next string may go on with it."""
        return [
            match.start()
            for match in self._first.finditer(string)
            if string.startswith(self.by_first[match.group()], match.start())
            or self._is_cut_off(string, match.start())
        ]

    def _is_cut_off(self, string: str, start: int) -> bool:
        if len(string) - start >= self._longest or string[start].isalnum():
            return False  # not every word that ends like a word-like token begins
        rest = string[start:]
        return any(token.startswith(rest) for token in self.by_first[rest[0]])

    def found(self, strings: list[str]) -> list[str]:
        """The tokens that are spelled out, or could be when strings are joined."""
        whole = [token for token in self._tokens if any(token in string for string in strings)]
        return whole or self._tokens


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_mapped(key, change): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(item, change) for item in value]
    return value


def _byte_offsets(text: str, guarded: str, stand_ins: Iterable[str]) -> Iterator[int]:
    done = offset = 0
    for match in re.finditer(f"[{''.join(stand_ins)}]", guarded):
        offset += len(text[done : match.start()].encode())
        done = match.start()
        yield offset


def _refusal(tokens: list[str]) -> ChatTemplateError:
    return ChatTemplateError(
        f"messages spell the control token {tokens[0]!r}, which the chat template reads or "
        "changes: nobody can tell it from the template's own; take it out of the messages"
    )
