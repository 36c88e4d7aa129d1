"""Chat templates: messages to a prompt, with the Jinja2 template that a model file carries.

A template comes from whoever made the file, so it is run as hostile code. Counterparts:
chat_sandbox.py (the environment), chat_filters.py (what a template may call), chat_budget.py (what
it may cost).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .chat_budget import MAX_DEPTH, ChatLimits, ChatTemplateError

__all__ = ["ChatLimits", "ChatTemplateError", "render_chat"]

_RESERVED = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token")
_PART_EXAMPLE = "{'type': 'text', 'text': ...}"


def render_chat(
    template: str | None,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    bos_token: str = "",
    eos_token: str = "",
    limits: ChatLimits | None = None,
    **extra: Any,
) -> str:
    """Renders messages with a chat template.

    The template sees what templates expect: ``messages``, ``tools``, ``add_generation_prompt``,
    ``bos_token``, ``eos_token``, the names in ``extra``, ``raise_exception``, ``strftime_now``,
    ``namespace``, ``range``, ``dict``, ``{% break %}`` and ``{% continue %}``. It sees plain data
    only (copies of what is given) and no attribute but the methods of strings, lists and mappings.

    Control tokens written inside a message's text are not escaped: what is rendered from untrusted
    messages and tokenized with ``parse_special=True`` can forge turns. `Model.chat` knows better
    (chat_guard.py).

    Args:
        template: Jinja2 source, ``vocab.chat_template`` of a model.
        messages: ``{"role": str, "content": str | list of parts | None, ...}`` in order. ``None``,
            or no content, only beside ``tool_calls``. A part is a mapping with a ``type``.
        tools: JSON schemas of functions that the model may call.
        add_generation_prompt: End with the opening of the assistant's turn.
        bos_token: Text of the token that begins a sequence.
        eos_token: Text of the token that ends one.
        limits: Bounds of output, work and memory; the default suits prompts of up to 4 Mi
            characters.
        **extra: More names for the template, plain data (``enable_thinking=False``).

    Returns:
        The prompt. Tokenize it with ``add_special=False, parse_special=True`` when the template
        writes ``bos_token`` itself.

    Raises:
        TypeError: An argument, a message or a value in it has the wrong type.
        ValueError: There is no template, there are no messages, or one contradicts itself.
        ChatTemplateError: The template is malformed, refuses the messages, reaches outside the
            sandbox or exceeds its limits.

    """
    if template is None or template == "":
        raise ValueError(
            "render_chat: the model has no chat template; pass one as template=, or write the "
            "prompt yourself and use generate"
        )
    if not isinstance(template, str):
        raise TypeError(f"render_chat: template is a {_kind(template)}, expected a str")
    reserved = sorted(set(extra).intersection(_RESERVED))
    if reserved:  # only through a mapping that was unpacked into a call of a wrapper
        raise ValueError(f"render_chat: {', '.join(reserved)} cannot be given twice")
    variables: dict[str, Any] = {name: _plain(value, name) for name, value in extra.items()}
    variables.update(
        messages=_checked_messages(messages),
        tools=None if tools is None else _checked_tools(tools),
        add_generation_prompt=bool(add_generation_prompt),
        bos_token=_text(bos_token, "bos_token"),
        eos_token=_text(eos_token, "eos_token"),
    )
    from .chat_sandbox import render  # here, so that importing the package does not import jinja2

    return render(template, variables, limits or ChatLimits())


def _checked_messages(messages: Any) -> list[dict[str, Any]]:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise TypeError(
            f"messages is a {_kind(messages)}, expected a list of mappings with role and content"
        )
    if not messages:
        raise ValueError("messages is empty, expected at least one message")
    return [_checked_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _checked_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise TypeError(f"{where} is a {_kind(message)}, expected a mapping with role and content")
    if "role" not in message:
        raise ValueError(f"{where} has no 'role'")
    role = message["role"]
    if not isinstance(role, str):
        raise TypeError(f"{where}['role'] is a {_kind(role)}, expected a str")
    if not role:
        raise ValueError(f"{where}['role'] is empty")
    content = message.get("content")
    if content is None:
        if not message.get("tool_calls"):
            raise ValueError(
                f"{where} has no 'content'; only a message with 'tool_calls' may go without"
            )
    elif not isinstance(content, str):
        _check_parts(content, f"{where}['content']")
    plain: dict[str, Any] = _plain(message, where)
    return plain


def _check_parts(content: Any, where: str) -> None:
    if isinstance(content, (bytes, Mapping)) or not isinstance(content, Sequence):
        raise TypeError(f"{where} is a {_kind(content)}, expected a str or a list of parts")
    for i, part in enumerate(content):
        if not isinstance(part, Mapping):
            raise TypeError(f"{where}[{i}] is a {_kind(part)}, expected a mapping with a 'type'")
        if not isinstance(part.get("type"), str):
            raise ValueError(f"{where}[{i}] has no 'type'; {_PART_EXAMPLE} is a part")


def _checked_tools(tools: Any) -> list[Any]:
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Sequence):
        raise TypeError(f"tools is a {_kind(tools)}, expected a list of JSON schemas")
    for i, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise TypeError(f"tools[{i}] is a {_kind(tool)}, expected a mapping (a JSON schema)")
    return [_plain(tool, f"tools[{i}]") for i, tool in enumerate(tools)]


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy of plain data in exact built-in types: nothing of the caller's is within reach."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if depth >= MAX_DEPTH:
        raise ValueError(f"{where} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {
            _key(key, where): _plain(item, f"{where}[{key!r}]", depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise TypeError(
        f"{where} is a {_kind(value)}, expected str, int, float, bool, None, a list or a mapping"
    )


def _key(key: Any, where: str) -> Any:
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, (bool, int, float)):
        return key
    raise TypeError(f"{where} has a key of type {_kind(key)}, expected a str")


def _text(value: Any, name: str) -> str:
    if value is None:  # a vocabulary without this token
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{name} is a {_kind(value)}, expected a str")
    return value


def _kind(value: Any) -> str:
    return type(value).__name__
