"""An independent account of the tiled layouts of super-blocks (src/quant/q2_k.h … q6_k.h)."""

from __future__ import annotations

import numpy as np
from gguf import quants


def bits(field: np.ndarray, width: int, shifts: range) -> np.ndarray:
    """[..., bytes] of a field to [..., bytes * shifts / 32, 32]: runs of 32 bytes at each shift."""
    runs = field.reshape(*field.shape[:-1], -1, 1, 32) >> np.array(shifts, np.uint8)[:, None]
    return (runs & np.uint8((1 << width) - 1)).reshape(*field.shape[:-1], -1, 32)


def numbers(format: str, blocks: np.ndarray) -> np.ndarray:
    """The numbers of weights, [..., bytes] to [..., 8 blocks, 32]."""
    if format == "Q2_K":
        return bits(blocks[..., 16:80], 2, range(0, 8, 2))
    if format == "Q3_K":
        high = bits(blocks[..., :32], 1, range(8))
        return bits(blocks[..., 32:96], 2, range(0, 8, 2)) | high << 2
    if format == "Q4_K":
        return bits(blocks[..., 16:], 4, range(0, 8, 4))
    if format == "Q5_K":
        high = bits(blocks[..., 16:48], 1, range(8))
        return bits(blocks[..., 48:], 4, range(0, 8, 4)) | high << 4
    low = blocks[..., :128].reshape(*blocks.shape[:-1], 2, 1, 64) >> np.uint8([[0], [4]])
    low = (low & 15).reshape(*blocks.shape[:-1], 8, 32)
    return low | bits(blocks[..., 128:192], 2, range(0, 8, 2)) << 4


def words_of_lines(format: str, w: np.ndarray) -> np.ndarray:
    """Weights 4j … 4j + 3 in w[j] to the bytes of each line; the lines are the first axis."""
    if format == "Q2_K":
        return np.stack([w[h] | w[h + 1] << 2 | w[h + 2] << 4 | w[h + 3] << 6 for h in (0, 4)])
    if format == "Q3_K":
        last = (w[6] & 3) << 6, (w[7] & 3) << 6, (w[6] >> 2) << 6 | (w[7] >> 2) << 7
        return np.stack([w[j] | w[j + 3] << 3 | last[j] for j in range(3)])
    if format == "Q6_K":
        return np.stack([w[j] | (w[6 + j // 3] >> 2 * (j % 3) & 3) << 6 for j in range(6)])
    nibbles = [w[j] & 15 | (w[j + 4] & 15) << 4 for j in range(4)]
    if format == "Q4_K":
        return np.stack(nibbles)
    return np.stack([*nibbles, sum((w[j] >> 4) << j for j in range(8))])


def pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two times eight 6-bit numbers [..., 8] in twelve bytes."""
    nibbles = second & 15
    packed = [first | second >> 4 << 6, nibbles[..., :4] | nibbles[..., 4:] << 4]
    return np.concatenate(packed, -1)


def head(format: str, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What stands ahead of the lines: [..., 2 * halves] and bytes."""
    minus = np.uint8([0, 0, 0, 0x80])
    if format == "Q2_K":
        return blocks[..., 80:] ^ minus, blocks[..., :16]
    if format == "Q6_K":
        return blocks[..., 208:], blocks[..., 192:208]
    if format == "Q3_K":
        low, high = blocks[..., 96:104], blocks[..., 104:108]
        scales = np.concatenate([low & 15, low >> 4], -1)
        scales = scales | np.concatenate([(high >> s & 3) << 4 for s in (0, 2, 4, 6)], -1)
        return blocks[..., 108:], pairs(scales[..., ::2], scales[..., 1::2])
    scale, minimum = quants.Q4_K.get_scale_min(blocks[..., 4:16].reshape(-1, 12).copy())
    shape = (*blocks.shape[:-1], 8)
    return blocks[..., :4] ^ minus, pairs(scale.reshape(shape), minimum.reshape(shape))


def rows_side_by_side(pieces: np.ndarray) -> np.ndarray:
    """[groups, 16, blocks, ..., piece, bytes] -> [groups, blocks, bytes of all rows]."""
    moved = np.moveaxis(pieces, 1, -2)
    return moved.reshape(*moved.shape[:2], -1)


def super_tiles(format: str, groups: np.ndarray) -> np.ndarray:
    """[groups, 16 rows, blocks, bytes] -> [groups, blocks, 16 * bytes]."""
    halves, rest = head(format, groups)
    w = numbers(format, groups).reshape(*groups.shape[:3], 8, 8, 4)
    lines = words_of_lines(format, np.moveaxis(w, -2, 0))  # [lines, groups, 16, blocks, 8, 4]
    parts = (
        halves.reshape(*halves.shape[:-1], -1, 2),
        rest[..., None],
        np.moveaxis(lines, 0, -2),
    )
    return np.concatenate([rows_side_by_side(part) for part in parts], -1)
