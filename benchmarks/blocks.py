"""GGUF's block formats written in torch: what a user without kernels for them has."""

from __future__ import annotations

import torch

# Formats that are measured: 8 and 4 bits stand for the rest.
FORMATS = ("Q8_0", "Q4_0")
BLOCK_BYTES = {"Q8_0": 34, "Q4_0": 18}


def row_bytes(format: str, cols: int) -> int:
    """Bytes of a row of ``cols`` weights."""
    return cols // 32 * BLOCK_BYTES[format]


def random_weight(format: str, rows: int, cols: int) -> torch.Tensor:
    """uint8 ``[rows, row_bytes]``: any quants, scales near 1e-2."""
    blocks = torch.randint(0, 256, (rows, cols // 32, BLOCK_BYTES[format]), dtype=torch.uint8)
    scales = (0.01 * (1 + torch.rand(rows, cols // 32, 1))).half()
    blocks[..., :2] = scales.view(torch.uint8)
    return blocks.view(rows, -1)


def dequantize(weight: torch.Tensor, format: str) -> torch.Tensor:
    """float32 ``[rows, cols]``."""
    blocks = weight.view(weight.shape[0], -1, BLOCK_BYTES[format])
    scales = blocks[..., :2].contiguous().view(torch.float16).float()
    quants = blocks[..., 2:]
    if format == "Q8_0":
        values = quants.view(torch.int8).float()
    else:
        values = torch.cat((quants & 15, quants >> 4), -1).float() - 8
    return (values * scales).view(weight.shape[0], -1)


def quantize_q8_0(x: torch.Tensor) -> torch.Tensor:
    """uint8 ``[rows, row_bytes]``: the largest of 32 becomes ±127."""
    blocks = x.float().view(x.shape[0], -1, 32)
    scales = blocks.abs().amax(-1, keepdim=True) / 127
    quants = (blocks / scales.clamp_min(1e-30)).round().to(torch.int8)
    parts = (scales.half().view(torch.uint8), quants.view(torch.uint8))
    return torch.cat(parts, -1).view(x.shape[0], -1)
