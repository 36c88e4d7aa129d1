"""Results of generation, whole or as a stream."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ._ffi_api import Wrapper


class FinishReason(enum.IntEnum):
    """Why a generation ended."""

    NOT_FINISHED = 0
    END_ID = 1
    STOP_WORDS = 2
    LENGTH = 3
    CANCELLED = 4
    TIMED_OUT = 5
    ERROR = 6


@dataclass(frozen=True)
class Timings:
    """Where the time went.

    The first generated token comes out of the prompt's pass, so that ``generated_tokens`` counts
    the steps after it, which took ``generated_seconds``.
    """

    prompt_tokens: int
    prompt_seconds: float
    generated_tokens: int
    generated_seconds: float


@dataclass(frozen=True)
class Generation:
    """What came of a prompt: text without stop strings, token ids without the end token."""

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    timings: Timings


class TextStream(Wrapper, Iterator[str]):
    """Pieces of text as they are generated; `result` is whole once the iteration has ended."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._pieces: list[str] = []

    def __next__(self) -> str:
        piece = self._handle.next()
        if piece is None:
            raise StopIteration
        self._pieces.append(str(piece))
        return self._pieces[-1]

    @property
    def result(self) -> Generation:
        """What has been generated so far."""
        return Generation(
            text="".join(self._pieces),
            tokens=list(self._handle.tokens()),
            finish_reason=FinishReason(self._handle.finish_reason()),
            timings=Timings(**dict(self._handle.timings().items())),
        )

    def finish(self) -> Generation:
        """Generates to the end and returns the result."""
        for _ in self:
            pass
        return self.result
