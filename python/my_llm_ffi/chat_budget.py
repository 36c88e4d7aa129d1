"""What one rendering of a chat template may cost; counterpart: chat_sandbox.py, which spends it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_DEPTH = 64  # of nested values, blocks and calls
MAX_INT_BITS = 1024
MAX_SEARCH = 1 << 27  # haystack x needle: str.find is quadratic in Python 3.9, str.strip everywhere
_END: Any = object()
_CHECK_EVERY = 64  # steps between two looks at the clock


class ChatTemplateError(ValueError):
    """A chat template is malformed, refuses the messages, or wants more than its budget."""


@dataclass(frozen=True)
class ChatLimits:
    """Bounds of one rendering; each ends it with a ChatTemplateError.

    Attributes:
        template_chars: Length of the template.
        output_chars: Length of the rendered prompt.
        steps: Loop iterations, calls, operators and visited values.
        memory_bytes: Bytes of all values ever made, so also an upper bound of those alive.
        seconds: CPU time of this thread: a backstop, so that a busy machine fails no good template.
    """

    template_chars: int = 256 << 10
    output_chars: int = 4 << 20
    steps: int = 500_000
    memory_bytes: int = 128 << 20
    seconds: float = 0.4


class Size(NamedTuple):
    """Extent of a value written out in full: shared parts count each time they are met."""

    chars: int
    items: int
    depth: int


class Budget:
    """Counts down one ChatLimits."""

    def __init__(self, limits: ChatLimits) -> None:
        self.limits = limits
        self._steps = limits.steps
        self._bytes = limits.memory_bytes
        self._deadline = time.thread_time() + limits.seconds

    def step(self) -> None:
        """One unit of work, each of them short."""
        self._steps -= 1
        if self._steps < 0:
            raise ChatTemplateError(f"the template takes more than {self.limits.steps} steps")
        if self._steps % _CHECK_EVERY == 0:
            self.check_time()

    def spend(self, size_bytes: int) -> None:
        """Pays for `size_bytes` before they are allocated or walked over."""
        self._bytes -= size_bytes
        if self._bytes < 0:
            raise ChatTemplateError(
                f"the template handles more than {self.limits.memory_bytes} bytes of values"
            )
        if size_bytes > 1 << 16:
            self.check_time()

    def search(self, text: str, needle: str) -> None:
        """Pays for looking for `needle` in `text` with any of str's methods."""
        if len(text) * len(needle) > MAX_SEARCH:
            raise ChatTemplateError(
                f"the template searches {len(text)} characters for {len(needle)} others: too slow"
            )
        self.spend(len(text) // 16)
        if len(text) * len(needle) > 1 << 20:
            self.check_time()

    def check_time(self) -> None:
        """Raises when the thread has worked on this rendering for too long."""
        if time.thread_time() > self._deadline:
            raise ChatTemplateError(f"the template takes more than {self.limits.seconds} s")

    def steps_over(self, items: Any) -> Iterator[Any]:
        """The items, a step each."""
        for item in items:
            self.step()
            yield item

    def measure(self, value: Any) -> Size:
        """Size of plain data; pays for one walk over it.

        A list that holds itself twice, forty times over, has 2**40 items for ``str`` and ``==``:
        those run only on values that this walk could finish. Iterators keep the walk's own memory
        at one entry per level.
        """
        chars = items = depth = 0
        levels: list[Iterator[Any]] = [iter((value,))]
        while levels:
            item: Any = next(levels[-1], _END)
            if item is _END:
                levels.pop()
                continue
            self.step()
            items += 1
            kind = type(item)
            if kind is str:
                chars += len(item)
                if chars > self.limits.memory_bytes:
                    self.spend(chars)
            elif kind is list or kind is tuple:
                levels.append(iter(item))
            elif kind is dict:
                levels.append(part for pair in item.items() for part in pair)
            elif item is None or kind is bool or kind is float or kind is range:
                chars += 48
            elif kind is int:
                chars += 8 + item.bit_length() // 3
            elif not _is_undefined(item):
                raise TypeError(f"a {kind.__name__} is not data that can be written or compared")
            depth = max(depth, len(levels) - 1)
            if depth > MAX_DEPTH:
                raise ChatTemplateError(f"a value is nested deeper than {MAX_DEPTH} levels")
        self.spend(chars)
        return Size(chars, items, depth)


def size_of(text: str) -> int:
    """Bytes of a string in memory: 1, 2 or 4 a character."""
    return sys.getsizeof(text)


def _is_undefined(value: Any) -> bool:
    from jinja2 import Undefined

    return isinstance(value, Undefined)
