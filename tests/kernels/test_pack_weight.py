"""`pack_weight` against an independent account of the tiled layouts (src/quant)."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from reference.stored import FORMATS
from reference.tiles import super_tiles

import my_llm_ffi as llm

SUPER_BLOCKS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


def random_weight(format: str, rows: int, blocks: int) -> np.ndarray:
    row_bytes = blocks * gguf.GGML_QUANT_SIZES[Type[format]][1]
    return np.random.default_rng(rows).integers(0, 256, (rows, row_bytes), np.uint8)


def interleaved(groups: np.ndarray, piece: int) -> np.ndarray:
    """[groups, 16, blocks, bytes] -> [groups, blocks, 16 * bytes], pieces of rows side by side."""
    g, rows, blocks, size = groups.shape
    pieces = groups.reshape(g, rows, blocks, size // piece, piece)
    return pieces.transpose(0, 2, 3, 1, 4).reshape(g, blocks, rows * size)


def tiled(weight: np.ndarray, format: str) -> np.ndarray:
    """The layout's definition, for formats whose bytes only change places."""
    block_bytes = gguf.GGML_QUANT_SIZES[Type[format]][1]
    padded = np.zeros((-(-len(weight) // 16) * 16, weight.shape[1]), np.uint8)
    padded[: len(weight)] = weight
    if padded.size == 0:
        return padded
    groups = padded.reshape(len(padded) // 16, 16, weight.shape[1] // block_bytes, block_bytes)
    if format in ("F32", "F16", "BF16"):
        return interleaved(groups, block_bytes).reshape(padded.shape)
    missing = np.arange(len(padded)).reshape(-1, 16) >= len(weight)
    if format in SUPER_BLOCKS:
        tiles = super_tiles(format, groups)
        minima = tiles[:, :, 33:64:2]  # negated in a tile; the zeros of missing rows stay zeros
        if format in ("Q2_K", "Q4_K", "Q5_K"):
            minima[np.broadcast_to(missing[:, None], minima.shape)] = 0
        return tiles.reshape(padded.shape)
    head = {"Q4_1": 4, "MXFP4": 1}.get(format, 2)
    quants = groups[..., head:]
    if format == "Q8_0":  # unsigned in a tile, likewise
        quants = np.where(missing[:, :, None, None], 0, quants ^ 0x80).astype(np.uint8)
    tiles = [interleaved(groups[..., :head], min(head, 2)), interleaved(quants, 4)]
    return np.concatenate(tiles, -1).reshape(padded.shape)


@pytest.mark.parametrize("format", [f for f in FORMATS if f not in ("Q5_0", "Q5_1")])
@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 49])
@pytest.mark.parametrize("blocks", [0, 1, 3, 4, 5, 16, 37])
def test_layout(format, rows, blocks):
    weight = random_weight(format, rows, blocks)
    packed = llm.ops.pack_weight(weight, format=format)
    np.testing.assert_array_equal(packed, tiled(weight, format))


@pytest.mark.parametrize("format", FORMATS)
def test_many_groups_on_all_threads(format):
    weight = random_weight(format, 1000, 64)
    packed = llm.ops.pack_weight(weight, format=format)
    assert packed.shape == (1008, weight.shape[1])
    part = llm.ops.pack_weight(weight[992:].copy(), format=format)
    np.testing.assert_array_equal(packed[992:], part)


def test_out_is_filled_and_returned():
    weight = random_weight("Q4_0", 17, 2)
    out = np.full((32, weight.shape[1]), 0xEE, np.uint8)
    assert llm.ops.pack_weight(weight, format="Q4_0", out=out) is out
    np.testing.assert_array_equal(out, tiled(weight, "Q4_0"))


W = np.zeros((17, 68), np.uint8)

REJECTED = {
    "unknown format": ((W,), {"format": "Q9_9"}, ValueError, 'format is "Q9_9", expected one of'),
    "part of a block": (
        (W[:, :67].copy(),),
        {"format": "Q8_0"},
        ValueError,
        r"pack_weight: weight has rows of 67 bytes, expected a multiple of 34 \(one block of Q8_0",
    ),
    "dtype": ((W.view("i1"),), {"format": "Q8_0"}, TypeError, "weight is int8, expected uint8"),
    "rank": ((W[0],), {"format": "Q8_0"}, ValueError, r"weight has shape \[68\]"),
    "strides": ((W[:, ::2],), {"format": "Q8_0"}, ValueError, "weight must be contiguous"),
    "rows of out": (
        (W,),
        {"format": "Q8_0", "out": np.empty((17, 68), np.uint8)},
        ValueError,
        "out has 17 rows, expected 32",
    ),
    "bytes of out": (
        (W,),
        {"format": "Q8_0", "out": np.empty((32, 34), np.uint8)},
        ValueError,
        r"out has shape \[32, 34\]",
    ),
    "dtype of out": (
        (W,),
        {"format": "Q8_0", "out": np.empty((32, 68), np.int8)},
        TypeError,
        "out is int8, expected uint8",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejects(case):
    arguments, options, error, message = REJECTED[case]
    with pytest.raises(error, match=message):
        llm.ops.pack_weight(*arguments, **options)


def test_rejects_an_out_that_is_the_weight():
    weight = np.zeros((16, 34), np.uint8)
    with pytest.raises(ValueError, match="out overlaps weight in memory"):
        llm.ops.pack_weight(weight, format="Q8_0", out=weight)
