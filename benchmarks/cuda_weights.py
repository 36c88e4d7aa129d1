"""Weights in block formats: cases of bench_cuda.py. Counterpart: cuda_cases.py, the sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from my_llm_ffi import ops
from my_llm_ffi.declaration import block_of

from .cuda_work import BF16, Work, nbytes, normal

_HALVES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,)}


def blocks(device: torch.device, format: str, rows: int, cols: int) -> torch.Tensor:
    """Random bytes of a format under small scales."""
    block, block_bytes = block_of(format)
    weight = torch.randint(
        0, 256, (rows, cols // block, block_bytes), dtype=torch.uint8, device=device
    )
    for at in _HALVES[format]:
        scale = (1e-3 * (1 + torch.rand(rows, cols // block, 1, device=device))).half()
        weight[..., at : at + 2] = scale.view(torch.uint8)
    return weight.view(rows, -1)


def dequantize(device: torch.device, rows: int, cols: int, *, format: str) -> Work:
    """A format to bfloat16; compared with the CPU."""
    weight = blocks(device, format, rows, cols)
    out = torch.empty(rows, cols, dtype=BF16, device=device)
    wanted = torch.empty(64, cols, dtype=BF16)
    ops.dequantize(weight[:64].cpu(), format=format, out=wanted)
    return Work(
        lambda: ops.dequantize(weight, format=format, out=out),
        bytes=nbytes(weight, out),
        check=lambda made: "" if torch.equal(made[:64].cpu(), wanted) else "not as on the CPU",
    )


def quantize_q8_0(device: torch.device, rows: int, cols: int) -> Work:
    """Activations to Q8_0."""
    x = normal(device, rows, cols)
    out = torch.empty(rows, cols // 32 * 34, dtype=torch.uint8, device=device)

    def theirs(x: torch.Tensor) -> torch.Tensor:
        block = x.float().view(rows, -1, 32)
        scale = block.abs().amax(-1, keepdim=True) / 127
        values = (block / scale.clamp_min(1e-30)).round().to(torch.int8)
        return torch.cat([scale.half().view(torch.uint8), values.view(torch.uint8)], -1).view(
            rows, -1
        )

    return Work(
        lambda: ops.quantize_q8_0(x, out=out),
        {"torch": lambda: theirs(x)},
        nbytes(x, out),
        tolerance=2e-2,
        compiled=(theirs, (x,)),
    )


def linear(device: torch.device, rows: int, cols: int, n: int, *, format: str) -> Work:
    """Block formats beside torch on the same weight in bfloat16, which is 2 to 4 times as large."""
    x = normal(device, rows, cols)
    out = torch.empty(rows, n, dtype=BF16, device=device)
    if format == "BF16":
        weight = normal(device, n, cols)
        values, options = weight, {}
    else:
        weight, options = blocks(device, format, n, cols), {"format": format}
        values = torch.empty(n, cols, dtype=BF16, device=device)
        ops.dequantize(weight, format=format, out=values)
    return Work(
        lambda: ops.linear(x, weight, out=out, **options),
        {"torch": lambda: F.linear(x, values)},
        nbytes(x, weight, out),
        2.0 * rows * cols * n,
        tolerance=2e-2,
    )
