"""Row-wise kernels in Triton, in the manner of its tutorials: peers of benchmarks/bench_cuda.py.

One program per row, which it holds whole, as the tutorials on softmax and layer normalisation do.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _softmax(out, x, n, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    value = tl.load(x + row * n + at, mask=at < n, other=-float("inf")).to(tl.float32)
    weight = tl.exp(value - tl.max(value, axis=0))
    tl.store(out + row * n + at, weight / tl.sum(weight, axis=0), mask=at < n)


@triton.jit
def _rms_norm(out, x, weight, n, eps, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    value = tl.load(x + row * n + at, mask=at < n, other=0.0).to(tl.float32)
    scale = 1 / tl.sqrt(tl.sum(value * value, axis=0) / n + eps)
    gain = tl.load(weight + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(out + row * n + at, value * scale * gain, mask=at < n)


@triton.jit
def _layer_norm(out, x, weight, bias, n, eps, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    value = tl.load(x + row * n + at, mask=at < n, other=0.0).to(tl.float32)
    centred = tl.where(at < n, value - tl.sum(value, axis=0) / n, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, axis=0) / n + eps)
    gain = tl.load(weight + at, mask=at < n, other=0.0).to(tl.float32)
    shift = tl.load(bias + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(out + row * n + at, centred * scale * gain + shift, mask=at < n)


@triton.jit
def _silu_mul(out, gate, up, n, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(gate + at, mask=at < n, other=0.0).to(tl.float32)
    other = tl.load(up + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(out + at, value / (1 + tl.exp(-value)) * other, mask=at < n)


def _launch(x: torch.Tensor) -> tuple[torch.Tensor, tuple[int], dict[str, int]]:
    n = x.shape[-1]
    block = triton.next_power_of_2(n)
    return torch.empty_like(x), (x.numel() // n,), {"BLOCK": block, "num_warps": _warps(block)}


def _warps(block: int) -> int:
    return min(16, max(4, block // 1024))


def softmax(x: torch.Tensor) -> torch.Tensor:
    """Softmax of the last dimension."""
    out, grid, options = _launch(x)
    _softmax[grid](out, x, x.shape[-1], **options)
    return out


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square normalisation of the last dimension."""
    out, grid, options = _launch(x)
    _rms_norm[grid](out, x, weight, x.shape[-1], eps, **options)
    return out


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """Layer normalisation of the last dimension."""
    out, grid, options = _launch(x)
    _layer_norm[grid](out, x, weight, bias, x.shape[-1], eps, **options)
    return out


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """SiLU of the gate times up."""
    out, block = torch.empty_like(gate), 1024
    _silu_mul[(triton.cdiv(gate.numel(), block),)](out, gate, up, gate.numel(), BLOCK=block)
    return out
