"""Block formats to floats and back beside the same in torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from my_llm_ffi import ops

from . import blocks
from .harness import Case, compare, moves, reusing, row_counts
from .machine import Machine

COLS = 4096


def dequantize(format: str, rows: int, **asked: Any) -> Case:
    """Whole rows to float32."""
    weight = blocks.random_weight(format, rows, COLS)
    return Case(
        op=f"dequantize {format}",
        shape=f"{rows}x{COLS}",
        dtype="float32",
        ours=reusing(ops.dequantize, weight, format=format),
        theirs=lambda: blocks.dequantize(weight, format),
        work=moves(reads=[weight], writes=[torch.empty(rows, COLS)]),
        **{"ratio": 1.3, **asked},
    )


def quantize_q8_0(rows: int, **asked: Any) -> Case:
    """Whole rows of float32; a tie may round to either side."""
    x = torch.randn(rows, COLS)

    def check(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        mine, other = (blocks.dequantize(w, "Q8_0") for w in (ours, theirs))
        wrong = compare(mine, other, 1e-3)
        if wrong:
            raise SystemExit(f"quantize_q8_0 {rows}x{COLS} is wrong: {wrong}")

    weight = torch.empty(rows, blocks.row_bytes("Q8_0", COLS), dtype=torch.uint8)
    return Case(
        op="quantize_q8_0",
        shape=f"{rows}x{COLS}",
        dtype="float32",
        ours=reusing(ops.quantize_q8_0, x),
        theirs=lambda: blocks.quantize_q8_0(x),
        work=moves(reads=[x], writes=[weight]),
        check=check,
        **{"ratio": 1.3, **asked},
    )


def pack_weight(format: str, rows: int, **asked: Any) -> Case:
    """Into tiles of 16 rows; in torch, groups of 16 blocks (its quants stay as they are)."""
    weight = blocks.random_weight(format, rows, COLS)
    x = torch.randn(2, COLS)

    groups = weight.view(rows // 16, 16, COLS // 32, blocks.BLOCK_BYTES[format]).transpose(1, 2)
    out = torch.empty_like(groups, memory_format=torch.contiguous_format)

    def check(ours: torch.Tensor, _: torch.Tensor) -> None:
        packed = ops.linear(x, ours, format=format, packed=True, rows=rows)
        wrong = compare(packed, x @ blocks.dequantize(weight, format).T, 2e-2)
        if wrong:
            raise SystemExit(f"pack_weight {format} {rows}x{COLS} is wrong: {wrong}")

    return Case(
        op=f"pack_weight {format}",
        shape=f"{rows}x{COLS}",
        dtype="uint8",
        ours=reusing(ops.pack_weight, weight, format=format),
        theirs=lambda: out.copy_(groups),
        work=moves(reads=[weight], writes=[torch.empty_like(weight)]),
        check=check,
        **{"ratio": 1.3, **asked},
    )


def cases(machine: Machine) -> Iterator[Case]:
    """Rows of the table."""
    for format in blocks.FORMATS:
        weight_row = blocks.row_bytes(format, COLS)
        for rows, asked in row_counts(machine, weight_row + 4 * COLS):
            yield dequantize(format, rows, **asked)
        for rows, asked in row_counts(machine, 2 * weight_row):
            if rows % 16 == 0:
                yield pack_weight(format, rows, **asked)
    for rows, asked in row_counts(machine, blocks.row_bytes("Q8_0", COLS) + 4 * COLS):
        yield quantize_q8_0(rows, **asked)
