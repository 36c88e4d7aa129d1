"""Attention in NumPy float64, by the formula: the oracle of the attention ops."""

from __future__ import annotations

import numpy as np


def attend(q, k, v, visible, *, scale=None, soft_cap=None):
    """softmax(scale * q @ k.T) @ v over visible [queries, keys]; zero rows where nothing is."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(a, group, axis=1) for a in (k, v))
    scale = q.shape[2] ** -0.5 if scale is None else scale
    scores = scale * np.einsum("nhd,mhd->hnm", q, k)
    if soft_cap is not None:
        scores = soft_cap * np.tanh(scores / soft_cap)
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - np.max(scores, axis=-1, keepdims=True, initial=-1e300))
    total = weights.sum(-1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total != 0)
    return np.einsum("hnm,mhd->nhd", weights, v)


def visible_keys(queries, keys, *, causal=True, window=None):
    """Which keys each query of one sequence sees."""
    p = keys - queries + np.arange(queries)[:, None]
    j = np.arange(keys)[None, :]
    seen = j <= p if causal else np.ones((queries, keys), bool)
    return seen if window is None else seen & (np.abs(p - j) < window)


def row_error(out, expected, least=0.0):
    """The largest distance of a row, as a share of its norm or of `least`, if that is larger."""
    distance = np.linalg.norm(out.astype(np.float64) - expected, axis=-1)
    norm = np.maximum(np.linalg.norm(expected, axis=-1), max(least, 1e-30))
    return np.max(distance / norm, initial=0)
