"""Gated activations beside torch's."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Callable

import torch
import torch.nn.functional as F

from my_llm_ffi import ops

from .harness import DTYPES, Case, moves, name, reusing, row_counts
from .machine import Machine

WIDTH = 8192

Gated = Callable[..., Any]


def silu_mul(gate: torch.Tensor, up: torch.Tensor, *, out: Any = None) -> torch.Tensor:
    """What is written where there is no fused one."""
    return torch.mul(F.silu(gate), up, out=out)


def gelu_mul(gate: torch.Tensor, up: torch.Tensor, *, out: Any = None) -> torch.Tensor:
    """By the error function."""
    return torch.mul(F.gelu(gate), up, out=out)


def gelu_tanh_mul(gate: torch.Tensor, up: torch.Tensor, *, out: Any = None) -> torch.Tensor:
    """By its approximation with tanh."""
    return torch.mul(F.gelu(gate, approximate="tanh"), up, out=out)


def gated(op: str, ours: Gated, theirs: Gated, rows: int, dtype: torch.dtype, **asked: Any) -> Case:
    """One op on one size."""
    gate, up = (torch.randn(rows, WIDTH).to(dtype) for _ in range(2))
    return Case(
        op=op,
        shape=f"{rows}x{WIDTH}",
        dtype=name(dtype),
        ours=reusing(ours, gate, up),
        theirs=reusing(theirs, gate, up),
        work=moves(reads=[gate, up], writes=[torch.empty_like(up)]),
        **asked,
    )


def cases(machine: Machine) -> Iterator[Case]:
    """Rows of the table."""
    rivals: list[tuple[str, Gated, Gated, float]] = [
        ("silu_mul", ops.silu_mul, silu_mul, 2.0),
        ("gelu_mul", ops.gelu_mul, gelu_mul, 1.3),
        (
            "gelu_mul tanh",
            functools.partial(ops.gelu_mul, approximate="tanh"),
            gelu_tanh_mul,
            1.3,
        ),
    ]
    for dtype in DTYPES:
        for op, ours, theirs, ratio in rivals:
            for rows, asked in row_counts(machine, 3 * WIDTH * dtype.itemsize):
                yield gated(op, ours, theirs, rows, dtype, **{"ratio": ratio, **asked})
