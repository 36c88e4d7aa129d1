"""Embedding lookup beside torch's, from float tables and from quantized ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from my_llm_ffi import ops

from . import blocks
from .harness import DTYPES, Case, Work, name, reusing, row_counts
from .machine import Machine

VOCABULARY, HIDDEN = 49152, 2048


def lookup(table: torch.Tensor, rows: int, **asked: Any) -> Case:
    """Rows of a float table."""
    ids = torch.randint(0, VOCABULARY, (rows,))
    row = HIDDEN * table.itemsize
    return Case(
        op="embedding_lookup",
        shape=f"{rows} of {VOCABULARY}x{HIDDEN}",
        dtype=name(table.dtype),
        ours=reusing(ops.embedding_lookup, table, ids),
        theirs=reusing(torch.index_select, table, 0, ids),
        work=Work("copy", 2 * rows * row, 2 * rows * row),
        **{"ratio": 1.3, **asked},
    )


def quantized_lookup(table: torch.Tensor, format: str, rows: int, **asked: Any) -> Case:
    """Rows of a table of blocks, as float32."""
    ids = torch.randint(0, VOCABULARY, (rows,))
    moved = rows * (table.shape[1] + HIDDEN * 4)
    return Case(
        op=f"embedding_lookup {format}",
        shape=f"{rows} of {VOCABULARY}x{HIDDEN}",
        dtype="float32",
        ours=reusing(ops.embedding_lookup, table, ids, format=format),
        theirs=lambda: blocks.dequantize(table[ids], format),
        work=Work("copy", moved, moved),
        **{"ratio": 1.3, **asked},
    )


def cases(machine: Machine) -> Iterator[Case]:
    """Rows of the table."""
    for dtype in DTYPES:
        table = torch.randn(VOCABULARY, HIDDEN).to(dtype)
        for rows, asked in row_counts(machine, 2 * HIDDEN * dtype.itemsize):
            yield lookup(table, rows, **asked)
    for format in blocks.FORMATS:
        table = blocks.random_weight(format, VOCABULARY, HIDDEN)
        for rows, asked in row_counts(machine, table.shape[1] + HIDDEN * 4):
            yield quantized_lookup(table, format, rows, **asked)
