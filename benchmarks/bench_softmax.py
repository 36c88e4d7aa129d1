"""Softmax and its logarithm beside torch's."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Callable

import torch

from my_llm_ffi import ops

from .harness import DTYPES, Case, moves, name, reusing, row_counts
from .machine import Machine

WIDTH = 4096
SOFT_CAP = 30.0

Rows = Callable[..., Any]


def soft_capped(x: torch.Tensor, *, out: Any = None) -> torch.Tensor:
    """Softmax of scaled scores that tanh bounds."""
    return torch.softmax(SOFT_CAP * torch.tanh(x * (0.125 / SOFT_CAP)), -1, out=out)


def rows_of(op: str, ours: Rows, theirs: Rows, rows: int, dtype: torch.dtype, **asked: Any) -> Case:
    """One op on one size."""
    x = (3 * torch.randn(rows, WIDTH)).to(dtype)
    return Case(
        op=op,
        shape=f"{rows}x{WIDTH}",
        dtype=name(dtype),
        ours=reusing(ours, x),
        theirs=reusing(theirs, x),
        work=moves(reads=[x], writes=[torch.empty_like(x)]),
        **asked,
    )


def cases(machine: Machine) -> Iterator[Case]:
    """Rows of the table."""
    rivals: list[tuple[str, Rows, Rows, float]] = [
        ("softmax", ops.softmax, functools.partial(torch.softmax, dim=-1), 2.0),
        (
            "softmax scale, cap",
            functools.partial(ops.softmax, scale=0.125, soft_cap=SOFT_CAP),
            soft_capped,
            2.0,
        ),
        ("log_softmax", ops.log_softmax, functools.partial(torch.log_softmax, dim=-1), 1.3),
    ]
    for dtype in DTYPES:
        for op, ours, theirs, ratio in rivals:
            for rows, asked in row_counts(machine, 2 * WIDTH * dtype.itemsize):
                yield rows_of(op, ours, theirs, rows, dtype, **{"ratio": ratio, **asked})
