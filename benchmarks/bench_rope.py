"""Rotary embedding in place beside the usual formula in torch, which is given its angles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from my_llm_ffi import ops

from .harness import DTYPES, Case, moves, name, row_counts
from .machine import Machine

HEADS, KV_HEADS, DIM = 32, 8, 128
BASE = 10000.0
CONTEXT = 8192


def angles(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of every position, as models keep them."""
    frequency = BASE ** (-torch.arange(0, DIM, 2, dtype=torch.float64) / DIM)
    angle = torch.arange(CONTEXT, dtype=torch.float64)[:, None] * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotated_halves(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """NeoX's pairs: a dimension and the one half a head above."""
    low, high = x.chunk(2, -1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


def rotated_neighbours(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Interleaved pairs: a dimension and the next."""
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def rope(tokens: int, dtype: torch.dtype, *, interleaved: bool, **asked: Any) -> Case:
    """Queries and keys of one layer."""
    q = torch.randn(tokens, HEADS, DIM).to(dtype)
    k = torch.randn(tokens, KV_HEADS, DIM).to(dtype)
    q_mine, k_mine = q.clone(), k.clone()
    positions = torch.arange(tokens, dtype=torch.int32) % CONTEXT
    cos, sin = angles(dtype)
    rotated = rotated_neighbours if interleaved else rotated_halves

    def ours() -> Any:
        ops.rope(q_mine, k_mine, positions, interleaved=interleaved, base=BASE)
        return q_mine, k_mine

    def theirs() -> Any:
        c, s = cos[positions, None], sin[positions, None]
        return rotated(q, c, s), rotated(k, c, s)

    return Case(
        op="rope interleaved" if interleaved else "rope",
        shape=f"{tokens}x({HEADS}+{KV_HEADS})x{DIM}",
        dtype=name(dtype),
        ours=ours,
        theirs=theirs,
        work=moves(reads=[q_mine, k_mine], writes=[q_mine, k_mine]),
        **{"ratio": 2.0, **asked},
    )


def cases(machine: Machine) -> Iterator[Case]:
    """Rows of the table."""
    for dtype in DTYPES:
        token_bytes = (HEADS + KV_HEADS) * DIM * dtype.itemsize
        for interleaved in (False, True):
            for tokens, asked in row_counts(machine, token_bytes):
                yield rope(tokens, dtype, interleaved=interleaved, **asked)
