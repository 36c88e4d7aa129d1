"""Random blocks of every weight format, from the library's own block sizes: needs NumPy alone."""

from __future__ import annotations

import numpy as np

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
    "Q8_0": (74, 0),
    "Q4_0": (4.6, 0),
    "Q4_1": (4.6, -7.5),
    "Q5_0": (9.2, 0),
    "Q5_1": (9.2, -15.5),
    "Q2_K": (11, 1.5),
    "Q3_K": (43, 0),
    "Q4_K": (270, 7.5),
    "Q5_K": (560, 15.5),
    "Q6_K": (1370, 0),
    "IQ4_NL": (65, 0),
    "IQ2_XXS": (80, 0),
}


def put_half(blocks: np.ndarray, at: int, values: np.ndarray) -> None:
    """Writes float16 numbers into bytes `at` and `at + 1` of blocks [..., bytes]."""
    blocks[..., at : at + 2] = values.astype(np.float16)[..., None].view(np.uint8)


def fill(
    format: str, blocks: tuple[int, int], block_bytes: int, rng: np.random.Generator, size: float
) -> np.ndarray:
    """Random bytes [rows, row_bytes] of `blocks` [rows, a row's] that make weights of `size`.

    Of a block format; the scale of MXFP4 is a power of two.
    """
    made = rng.integers(0, 256, (*blocks, block_bytes), np.uint8)
    if format == "MXFP4":
        made[..., 0] = 125 + int(np.log2(size)) + rng.integers(0, 2, blocks)
        return made.reshape(blocks[0], blocks[1] * block_bytes)
    level, minimum = LEVELS[format]
    scale = size / level * rng.uniform(0.5, 1.5, blocks)
    for at, part in zip(HALVES[format], (1, minimum)):
        put_half(made, at, scale * part)
    return made.reshape(blocks[0], blocks[1] * block_bytes)
