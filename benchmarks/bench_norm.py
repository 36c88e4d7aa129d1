"""Normalisation beside torch's, and what a call costs beside torch's way to add an op."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from my_llm_ffi import ops

from .harness import DTYPES, Case, moves, name, reusing, row_counts
from .machine import Machine

HIDDEN = 4096
EPS = 1e-6


def rms_norm(rows: int, dtype: torch.dtype, **asked: float | None) -> Case:
    """F.rms_norm."""
    x, weight = torch.randn(rows, HIDDEN).to(dtype), torch.randn(HIDDEN).to(dtype)
    return Case(
        op="rms_norm",
        shape=f"{rows}x{HIDDEN}",
        dtype=name(dtype),
        ours=reusing(ops.rms_norm, x, weight, eps=EPS),
        theirs=lambda: F.rms_norm(x, (HIDDEN,), weight, EPS),
        work=moves(reads=[x], writes=[torch.empty_like(x)]),
        **{"ratio": 2.0, **asked},
    )


def add_rms_norm(rows: int, dtype: torch.dtype, **asked: float | None) -> Case:
    """An addition in place and F.rms_norm of the sum."""
    # Small steps, so that the sum stays finite over all the calls.
    x, weight = (torch.randn(rows, HIDDEN) * 1e-3).to(dtype), torch.randn(HIDDEN).to(dtype)
    mine = torch.randn(rows, HIDDEN).to(dtype)
    other, out = mine.clone(), torch.empty_like(x)
    return Case(
        op="add_rms_norm",
        shape=f"{rows}x{HIDDEN}",
        dtype=name(dtype),
        ours=lambda: (ops.add_rms_norm(x, mine, weight, eps=EPS, out=out), mine),
        theirs=lambda: (F.rms_norm(other.add_(x), (HIDDEN,), weight, EPS), other),
        work=moves(reads=[x, mine], writes=[mine, torch.empty_like(x)]),
        **{"ratio": 2.0, **asked},
    )


def layer_norm(rows: int, dtype: torch.dtype, **asked: float | None) -> Case:
    """F.layer_norm."""
    x = torch.randn(rows, HIDDEN).to(dtype)
    weight, bias = torch.randn(HIDDEN).to(dtype), torch.randn(HIDDEN).to(dtype)
    return Case(
        op="layer_norm",
        shape=f"{rows}x{HIDDEN}",
        dtype=name(dtype),
        ours=reusing(ops.layer_norm, x, weight, bias, eps=1e-5),
        theirs=lambda: F.layer_norm(x, (HIDDEN,), weight, bias, 1e-5),
        work=moves(reads=[x], writes=[torch.empty_like(x)]),
        **{"ratio": 1.3, **asked},
    )


def call_overhead() -> Case:
    """The same call as a torch.library.custom_op, on a row that costs next to nothing."""
    x, weight, out = torch.randn(1, 64), torch.randn(64), torch.empty(1, 64)

    @torch.library.custom_op("my_llm_ffi_bench::rms_norm", mutates_args=("out",))
    def wrapped(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
        ops.rms_norm(x, weight, out=out)

    return Case(
        op="call: out=, custom_op",
        shape="1x64",
        dtype="float32",
        ours=lambda: ops.rms_norm(x, weight, out=out),
        theirs=lambda: (wrapped(x, weight, out), out)[1],
        ratio=5.0,
        at_most_us=1.5,
    )


def cases(machine: Machine) -> Iterator[Case]:
    """Rows of the table."""
    yield call_overhead()
    for dtype in DTYPES:
        row = HIDDEN * dtype.itemsize
        for op, tensors in ((rms_norm, 2), (add_rms_norm, 3), (layer_norm, 2)):
            for rows, asked in row_counts(machine, tensors * row):
                yield op(rows, dtype, **asked)
