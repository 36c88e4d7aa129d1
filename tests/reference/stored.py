"""Weights in any format: quantized by `gguf` where it can, valid random blocks where it cannot."""

from __future__ import annotations

import zlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

from .blocks import HALVES as HALVES
from .blocks import fill
from .blocks import put_half as put_half

FLOATS = ("F32", "F16", "BF16")
QUANTIZED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")  # by gguf
RANDOM = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ2_XXS")
BLOCKS = (*QUANTIZED, *RANDOM)
FORMATS = (*FLOATS, *BLOCKS)


def block(format: str) -> int:
    """Weights of a block; 1 for floats."""
    return int(gguf.GGML_QUANT_SIZES[Type[format]][0])


def block_bytes(format: str) -> int:
    """Bytes of a block."""
    return int(gguf.GGML_QUANT_SIZES[Type[format]][1])


def random_blocks(
    format: str, rows: int, cols: int, *, seed: int = 1, size: float = 1
) -> np.ndarray:
    """Random bytes [rows, row_bytes] under scales that make weights of about `size`."""
    shape = (rows, cols // block(format))
    return fill(format, shape, block_bytes(format), np.random.default_rng(seed), size)


def stored(format: str, x: np.ndarray) -> np.ndarray:
    """Bytes [rows, row_bytes] of a matrix; random ones of its size where `gguf` cannot quantize."""
    if format not in RANDOM:
        return np.asarray(quants.quantize(x, Type[format]).view(np.uint8))
    seed = zlib.crc32(np.ascontiguousarray(x).tobytes())
    return random_blocks(format, *x.shape, seed=seed, size=float(x.std()) if x.size else 1)


def floats(format: str, weight: np.ndarray) -> np.ndarray:
    """What the bytes stand for, float32."""
    return np.asarray(quants.dequantize(weight, Type[format]))
