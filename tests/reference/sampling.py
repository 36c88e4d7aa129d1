"""Every sampler stage in NumPy float64: logits in, probabilities by token id out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

OUT = -np.inf  # the logit of a token that a stage has dropped


def penalties(
    logits: np.ndarray,
    history: Sequence[int],
    *,
    repetition: float = 1.0,
    frequency: float = 0.0,
    presence: float = 0.0,
    last_n: int = 64,
) -> np.ndarray:
    """Makes tokens of the last `last_n` less likely; each penalty counts a token once but one.

    A positive logit is divided by `repetition`, another multiplied; then count * frequency and
    presence are subtracted.
    """
    out = np.array(logits, np.float64)
    recent = Counter(history[len(history) - min(last_n, len(history)) :])
    for token, count in recent.items():
        out[token] = out[token] / repetition if out[token] > 0 else out[token] * repetition
        out[token] -= count * frequency + presence
    return out


def bias(logits: np.ndarray, by_id: dict[int, float]) -> np.ndarray:
    """Adds to single logits."""
    out = np.array(logits, np.float64)
    for token, value in by_id.items():
        out[token] += value
    return out


def temperature(logits: np.ndarray, value: float) -> np.ndarray:
    """Divides the logits; 0 leaves the first of the largest alone."""
    if value == 0:
        return top_k(logits, 1)
    return np.asarray(np.array(logits, np.float64) / value)


def top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Keeps the k largest; of equals the lower id."""
    return _keep(logits, descending(logits)[:k])


def top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Keeps the fewest most probable tokens whose sum reaches p."""
    order = descending(logits)
    before = np.concatenate([[0.0], np.cumsum(softmax(logits)[order])[:-1]])
    return _keep(logits, order[before < p])


def min_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Keeps tokens at least p times as probable as the most probable one."""
    probability = softmax(logits)
    return _keep(logits, np.flatnonzero(probability >= p * probability.max()))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities that sum to 1."""
    wide = np.array(logits, np.float64)
    weights = np.exp(wide - wide.max())
    return np.asarray(weights / weights.sum())


def descending(logits: np.ndarray) -> np.ndarray:
    """Token ids by falling logit, of equals the lower id first."""
    return np.argsort(-np.array(logits, np.float64), kind="stable")


def candidates(logits: np.ndarray) -> tuple[list[int], list[float]]:
    """Remaining ids and their probabilities, most probable first."""
    order = [int(token) for token in descending(logits) if logits[token] != OUT]
    probability = softmax(logits)
    return order, [float(probability[token]) for token in order]


def _keep(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    out = np.full(len(logits), OUT)
    out[ids] = logits[ids]
    return out
