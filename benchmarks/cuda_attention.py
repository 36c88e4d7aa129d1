"""Attention: cases of bench_cuda.py. Counterpart: cuda_cases.py, the sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from my_llm_ffi import ops

from .cuda_work import BF16, Work, flashinfer, nbytes, normal

PAGE = 32


def attention(device: torch.device, tokens: int, heads: int, kv_heads: int, dim: int) -> Work:
    """A causal prompt."""
    q = normal(device, tokens, heads, dim)
    k, v = (normal(device, tokens, kv_heads, dim) for _ in range(2))
    out = torch.empty_like(q)

    def theirs() -> torch.Tensor:
        parts = [t.transpose(0, 1)[None] for t in (q, k, v)]
        made = F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
        return made[0].transpose(0, 1)

    work = Work(
        lambda: ops.attention(q, k, v, out=out),
        {"torch": theirs},
        nbytes(q, k, v, out),
        2.0 * tokens * tokens * heads * dim,  # two products over half of the square
        tolerance=2e-2,
    )
    if flashinfer():
        work.peers["FlashInfer"] = lambda: flashinfer().single_prefill_with_kv_cache(
            q, k, v, causal=True
        )
    return work


def pages(device: torch.device, rows: int, keys: int, kv_heads: int, dim: int) -> list[Any]:
    """Pages, positions and block table of sequences of equal length, on scattered pages."""
    each = -(-keys // PAGE)
    table = torch.randperm(rows * each, device=device).int().view(rows, each)
    positions = torch.full((rows * each, PAGE), -1, dtype=torch.int32, device=device)
    at = torch.arange(each * PAGE, device=device, dtype=torch.int32).view(each, PAGE)
    positions[table.long()] = torch.where(at < keys, at, -1)
    k_pages = normal(device, rows * each, kv_heads, dim, PAGE)
    v_pages = normal(device, rows * each, kv_heads, PAGE, dim)
    return [k_pages, v_pages, positions, table]


def paged_attention(
    device: torch.device, rows: int, keys: int, heads: int, kv_heads: int, dim: int, *, each: int
) -> Work:
    """`each` new tokens of every sequence over pages; torch reads keys that lie together."""
    each = min(each, keys)
    tensors = pages(device, rows, keys, kv_heads, dim)
    k_pages, v_pages, _, table = tensors
    row = torch.arange(rows, device=device, dtype=torch.int32).repeat_interleave(each)
    position = torch.arange(keys - each, keys, device=device, dtype=torch.int32).repeat(rows)
    q = normal(device, rows * each, heads, dim)
    out = torch.empty_like(q)
    chosen = table.long()
    k = k_pages[chosen].permute(0, 2, 1, 4, 3).reshape(rows, kv_heads, -1, dim)[:, :, :keys]
    v = v_pages[chosen].permute(0, 2, 1, 3, 4).reshape(rows, kv_heads, -1, dim)[:, :, :keys]
    k, v = k.contiguous(), v.contiguous()

    def theirs() -> torch.Tensor:
        parts = q.view(rows, each, heads, dim).transpose(1, 2)
        made = F.scaled_dot_product_attention(parts, k, v, is_causal=each > 1, enable_gqa=True)
        return made.transpose(1, 2).reshape(rows * each, heads, dim)

    seen = each * (keys - each) + each * (each + 1) / 2
    work = Work(
        lambda: ops.paged_attention(q, *tensors, row, position, out=out),
        {"torch": theirs},
        nbytes(k, v, q, out),
        4.0 * rows * seen * heads * dim,
        tolerance=2e-2,
    )
    if flashinfer() and each == 1:
        run = flashinfer_decode(device, q, k, v)
        work.peers["FlashInfer"] = lambda: run(q)
    return work


def flashinfer_decode(device: torch.device, q: Any, k: Any, v: Any) -> Callable[[Any], Any]:
    """FlashInfer's decode over pages of 32 of the same keys and values."""
    rows, kv_heads, keys, dim = k.shape
    each = -(-keys // PAGE)

    def paged(t: torch.Tensor) -> torch.Tensor:
        padded = F.pad(t, (0, 0, 0, each * PAGE - keys))
        return padded.transpose(1, 2).reshape(rows * each, PAGE, kv_heads, dim).contiguous()

    cache = (paged(k), paged(v))
    workspace = torch.zeros(128 << 20, dtype=torch.uint8, device=device)
    wrapper = flashinfer().BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD")
    bounds = torch.arange(0, rows * each + 1, each, dtype=torch.int32, device=device)
    indices = torch.arange(rows * each, dtype=torch.int32, device=device)
    last = torch.full((rows,), (keys - 1) % PAGE + 1, dtype=torch.int32, device=device)
    wrapper.plan(
        bounds, indices, last, q.shape[1], kv_heads, dim, PAGE, q_data_type=BF16, data_type=BF16
    )
    return lambda q: wrapper.run(q, cache)
