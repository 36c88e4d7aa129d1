"""Weights in any format: quantized by `gguf` where it can, valid random blocks where it cannot."""

from __future__ import annotations

import zlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

FLOATS = ("F32", "F16", "BF16")
QUANTIZED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")  # by gguf
RANDOM = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ2_XXS")
BLOCKS = (*QUANTIZED, *RANDOM)
FORMATS = (*FLOATS, *BLOCKS)

# Where a block keeps its float16 numbers (MXFP4 has none: an exponent in byte 0).
HALVES = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ2_XXS": (0,),
}
# What random bytes stand for under a scale of 1: the middle of weights and of minima.
LEVELS = {
    "Q2_K": (11, 1.5),
    "Q3_K": (43, 0),
    "Q4_K": (270, 7.5),
    "Q5_K": (560, 15.5),
    "Q6_K": (1370, 0),
    "IQ4_NL": (65, 0),
    "IQ2_XXS": (80, 0),
}


def block(format: str) -> int:
    """Weights of a block; 1 for floats."""
    return int(gguf.GGML_QUANT_SIZES[Type[format]][0])


def block_bytes(format: str) -> int:
    """Bytes of a block."""
    return int(gguf.GGML_QUANT_SIZES[Type[format]][1])


def put_half(blocks: np.ndarray, at: int, values: np.ndarray) -> None:
    """Writes float16 numbers into bytes `at` and `at + 1` of blocks [..., bytes]."""
    blocks[..., at : at + 2] = values.astype(np.float16)[..., None].view(np.uint8)


def random_blocks(
    format: str, rows: int, cols: int, *, seed: int = 1, size: float = 1
) -> np.ndarray:
    """Random bytes [rows, row_bytes] under scales that make weights of about `size`."""
    rng = np.random.default_rng(seed)
    shape = (rows, cols // block(format))
    blocks = rng.integers(0, 256, (*shape, block_bytes(format)), np.uint8)
    level, minimum = LEVELS[format]
    scale = size / level * rng.uniform(0.5, 1.5, shape)
    for at, part in zip(HALVES[format], (1, minimum)):
        put_half(blocks, at, scale * part)
    return blocks.reshape(rows, -1)


def stored(format: str, x: np.ndarray) -> np.ndarray:
    """Bytes [rows, row_bytes] of a matrix; random ones of its size where `gguf` cannot quantize."""
    if format not in RANDOM:
        return np.asarray(quants.quantize(x, Type[format]).view(np.uint8))
    seed = zlib.crc32(np.ascontiguousarray(x).tobytes())
    return random_blocks(format, *x.shape, seed=seed, size=float(x.std()) if x.size else 1)


def floats(format: str, weight: np.ndarray) -> np.ndarray:
    """What the bytes stand for, float32."""
    return np.asarray(quants.dequantize(weight, Type[format]))
