"""An engine without a model: drives a logits post-processor as the executor's engine does."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class Entry:
    """One sequence in one call."""

    def __init__(
        self, request_id: int, index: int, tokens: Sequence[int], mask: Any, *, final: bool = False
    ) -> None:
        self.request_id, self.client_id, self.sequence_index = request_id, 0, index
        self.tokens, self.bitmask, self.is_final = tokens, mask, final
        self.temperature, self.ln_min_p, self.mask_fraction = 1.0, -np.inf, 1.0
        self.forced_tokens: Sequence[int] = ()
        self.error: str | None = None

    def fail(self, text: str) -> None:
        """What the post-processor says when this sequence cannot go on."""
        self.error = text


@dataclass
class Sequence_:
    """One answer on its way."""

    request_id: int
    index: int
    rng: random.Random
    tokens: list[int] = field(default_factory=list)
    n_reported: int = 0
    n_calls: int = 0
    error: str | None = None
    ended: bool = False  # by an end token
    done: bool = False


class MaskEngine:
    """Draws at random from what the masks leave.

    Args:
        pieces: The bytes of each token.
        end_ids: Tokens that end an answer.
        end_share: How often an answer ends where it may.
        max_tokens: Of an answer.
        prefer: Weight of a token in a draw.
        rows: "matrix": masks are rows of one array; "apart": each has its own.
    """

    def __init__(
        self,
        processor: Callable[[list[Any]], None],
        pieces: list[bytes],
        end_ids: Sequence[int],
        *,
        end_share: float = 0.5,
        max_tokens: int = 400,
        prefer: Callable[[int], float] | None = None,
        rows: str = "matrix",
    ) -> None:
        self._processor, self._rows = processor, rows
        self._pieces, self._end_ids = pieces, frozenset(end_ids)
        self._end_share, self._max_tokens = end_share, max_tokens
        weights = [1.0 if prefer is None else prefer(token) for token in range(len(pieces))]
        self._weights = np.array(weights)
        self._n_words = (len(pieces) + 31) // 32
        self._next_id = 0
        self.sequences: list[Sequence_] = []
        self.n_steps = self.n_forced = 0

    def send(self, *, n: int = 1, seed: int = 0) -> int:
        """Enqueues a request of n sequences."""
        self._next_id += 1
        for index in range(n):
            rng = random.Random(f"{seed} {index}")
            self.sequences.append(Sequence_(self._next_id, index, rng))
        return self._next_id

    def run(self, *, max_steps: int = 10_000) -> None:
        """Steps until all have ended."""
        for _ in range(max_steps):
            running = [sequence for sequence in self.sequences if not sequence.done]
            if not running:
                return
            self.step(running)
        raise AssertionError(f"not done after {max_steps} steps")

    def step(self, running: list[Sequence_]) -> None:
        """One call of the post-processor, and one draw or some forced tokens for each."""
        masks = self._masks(len(running))
        entries = [
            Entry(s.request_id, s.index, s.tokens[s.n_reported :], mask)
            for s, mask in zip(running, masks)
        ]
        self._processor(entries)
        self.n_steps += 1
        for sequence, entry in zip(running, entries):
            sequence.n_reported = len(sequence.tokens)
            sequence.n_calls += 1
            sequence.error = entry.error
            if entry.error is None:
                self._append(sequence, entry)
            sequence.done = (
                sequence.error is not None
                or sequence.ended
                or len(sequence.tokens) >= self._max_tokens
            )
        self.finish([sequence for sequence in running if sequence.done])

    def finish(self, ended: list[Sequence_]) -> None:
        """Tells the post-processor of the sequences that have ended."""
        for sequence in ended:
            sequence.done = True
        if ended:
            self._processor([Entry(s.request_id, s.index, (), None, final=True) for s in ended])

    def texts(self, request_id: int) -> list[str]:
        """Answers of a request, in the order of its sequences."""
        return [
            b"".join(self._pieces[t] for t in s.tokens if t not in self._end_ids).decode()
            for s in self.sequences
            if s.request_id == request_id
        ]

    def _masks(self, n: int) -> list[np.ndarray]:
        if self._rows == "matrix":
            return list(np.full((n, self._n_words), -1, np.int32))
        # 4 bytes more than a row apart, so that no two of them are rows of one array
        wide = np.full((n, self._n_words + 1), -1, np.int32)
        return [row[: self._n_words] for row in wide]

    def _append(self, sequence: Sequence_, entry: Entry) -> None:
        allowed = allowed_tokens(entry.bitmask, len(self._pieces))
        assert allowed, "a mask without a token"
        if entry.forced_tokens:
            assert allowed == [entry.forced_tokens[0]]
            room = self._max_tokens - len(sequence.tokens)
            forced = list(entry.forced_tokens)[:room]
            for _ in forced:  # one draw per token, forced or not, so that seeds go on the same
                sequence.rng.random(), sequence.rng.random()
            sequence.tokens += forced
            self.n_forced += len(forced)
            return
        token = self._draw(sequence.rng, allowed)
        sequence.tokens.append(token)
        sequence.ended = token in self._end_ids

    def _draw(self, rng: random.Random, allowed: list[int]) -> int:
        coin, place = rng.random(), rng.random()
        ends = [token for token in allowed if token in self._end_ids]
        others = [token for token in allowed if token not in self._end_ids]
        if ends and (not others or coin < self._end_share):
            return ends[0]
        total = np.cumsum(self._weights[others])
        return others[int(np.searchsorted(total, place * total[-1], side="right"))]


def allowed_tokens(mask: np.ndarray, n_vocab: int) -> list[int]:
    """Ids whose bit is set."""
    bits = np.unpackbits(np.asarray(mask).view(np.uint8), bitorder="little")
    return np.flatnonzero(bits[:n_vocab]).tolist()
