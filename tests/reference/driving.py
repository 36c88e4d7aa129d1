"""Drives a context of the package and the NumPy oracle through the same steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType

import numpy as np

from .forward import Token
from .handles import Batch, Context


def rows(context: Context) -> np.ndarray:
    """A copy of the context's logits, [n_outputs, n_vocab]."""
    return np.array(np.from_dlpack(context.logits))


def batch_of(
    llm: ModuleType,
    tokens: Iterable[Token],
    *,
    logits: bool = True,
) -> Batch:
    """A Batch of the tokens, each with or without an output."""
    batch = llm.Batch()
    for token in tokens:
        batch.add(token.token, token.position, seq_ids=token.seq_ids, logits=logits)
    return batch


def decode_all(llm: ModuleType, context: Context, tokens: Iterable[Token]) -> np.ndarray:
    """Decodes the tokens as one batch; logits of every one of them."""
    context.decode(batch_of(llm, tokens))
    return rows(context)


def sequence(
    tokens: Sequence[int], *, start: int = 0, seq_ids: tuple[int, ...] = (0,)
) -> list[Token]:
    """Tokens at positions start, start + 1 and so on."""
    return [Token(token, start + offset, seq_ids) for offset, token in enumerate(tokens)]


def relative_l2(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest ||got - expected|| / ||expected|| over the rows."""
    error = np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    return float(error.max())
