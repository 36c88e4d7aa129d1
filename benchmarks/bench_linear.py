"""Linear layers beside torch's: float weights, and block formats against torch's float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from my_llm_ffi import ops

from . import blocks
from .harness import DTYPES, ROWS, Case, Work, name, reusing
from .machine import Machine

COLS = 4096
MANY_ROWS = ROWS[-1]  # where arithmetic bounds it; below that, reading the weight does


def work(tokens: int, rows: int, weight_bytes: int) -> Work:
    """What bounds a layer of ``rows`` outputs."""
    if tokens < MANY_ROWS:
        return Work("read", weight_bytes, weight_bytes)
    return Work("fma", 2.0 * tokens * rows * COLS)


def linear(tokens: int, rows: int, dtype: torch.dtype, **asked: Any) -> Case:
    """F.linear with a weight of the same dtype."""
    x = torch.randn(tokens, COLS).to(dtype)
    weight = (torch.randn(rows, COLS) / COLS**0.5).to(dtype)
    return Case(
        op="linear",
        shape=f"{tokens}x{COLS} -> {rows}",
        dtype=name(dtype),
        ours=reusing(ops.linear, x, weight),
        theirs=lambda: F.linear(x, weight),
        work=work(tokens, rows, weight.nbytes),
        **asked,
    )


def quantized(tokens: int, rows: int, format: str, *, packed: bool) -> Case:
    """A weight of blocks; torch has the same weight in float32, which is 4 to 7 times as large."""
    x = torch.randn(tokens, COLS)
    weight = blocks.random_weight(format, rows, COLS)
    wide = blocks.dequantize(weight, format)
    options: dict[str, Any] = {"format": format}
    if packed:
        weight = ops.pack_weight(weight, format=format)
        options |= {"packed": True, "rows": rows}
    return Case(
        op=f"linear {format}{' packed' if packed else ''}",
        shape=f"{tokens}x{COLS} -> {rows}",
        dtype="float32",
        ours=reusing(ops.linear, x, weight, **options),
        theirs=lambda: F.linear(x, wide),
        work=Work("read", weight.nbytes, weight.nbytes) if tokens < MANY_ROWS else None,
        tolerance=2e-2,  # activations are rounded to 8 bits
    )


def cases(machine: Machine) -> Iterator[Case]:
    """Rows of the table."""
    for dtype in DTYPES:
        asked = {"ratio": 0.7 if dtype == torch.float32 else None}
        for tokens in ROWS:
            fits = machine.beyond_cache // (COLS * dtype.itemsize)
            yield linear(tokens, fits if tokens < MANY_ROWS else 4096, dtype, **asked)
    for format in blocks.FORMATS:
        for tokens in ROWS:
            for packed in (False, True):
                yield quantized(tokens, 8192, format, packed=packed)
