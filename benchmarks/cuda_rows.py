"""Ops on rows, positions, pages: cases of bench_cuda.py. Counterpart: cuda_cases.py, the sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from my_llm_ffi import ops

from .cuda_work import BF16, Work, flashinfer, nbytes, normal, triton_peers

PAGE = 32
EPS = 1e-6


def rms_norm(device: torch.device, rows: int, hidden: int) -> Work:
    """rms_norm in bfloat16."""
    x, weight, out = normal(device, rows, hidden), normal(device, hidden), None
    out = torch.empty_like(x)
    work = Work(
        lambda: ops.rms_norm(x, weight, eps=EPS, out=out),
        {"torch": lambda: F.rms_norm(x, (hidden,), weight, EPS)},
        nbytes(x, out, weight),
        compiled=(lambda x, weight: F.rms_norm(x, (hidden,), weight, EPS), (x, weight)),
    )
    if flashinfer():
        work.peers["FlashInfer"] = lambda: flashinfer().rmsnorm(x, weight, EPS)
    if triton_peers():
        work.peers["Triton"] = lambda: triton_peers().rms_norm(x, weight, EPS)
    return work


def add_rms_norm(device: torch.device, rows: int, hidden: int) -> Work:
    """add_rms_norm in bfloat16; torch adds in place too."""
    x, weight = normal(device, rows, hidden), normal(device, hidden)
    mine, others = (normal(device, rows, hidden) for _ in range(2))
    others.copy_(mine)
    out = torch.empty_like(x)

    def theirs(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        residual += x
        return F.rms_norm(residual, (hidden,), weight, EPS)

    work = Work(
        lambda: ops.add_rms_norm(x, mine, weight, eps=EPS, out=out),
        {"torch": lambda: theirs(x, others, weight)},
        nbytes(x, out, mine, mine, weight),
        compiled=(theirs, (x, others, weight)),
    )
    if flashinfer():
        moved, stream = x.clone(), mine.clone()
        work.peers["FlashInfer"] = lambda: flashinfer().fused_add_rmsnorm(
            moved, stream, weight, EPS
        )
    return work


def layer_norm(device: torch.device, rows: int, hidden: int) -> Work:
    """layer_norm in bfloat16."""
    x, weight, bias = (normal(device, *s) for s in ((rows, hidden), (hidden,), (hidden,)))
    out = torch.empty_like(x)
    work = Work(
        lambda: ops.layer_norm(x, weight, bias, eps=EPS, out=out),
        {"torch": lambda: F.layer_norm(x, (hidden,), weight, bias, EPS)},
        nbytes(x, out, weight, bias),
        compiled=(lambda *a: F.layer_norm(a[0], (hidden,), a[1], a[2], EPS), (x, weight, bias)),
    )
    if triton_peers():
        work.peers["Triton"] = lambda: triton_peers().layer_norm(x, weight, bias, EPS)
    return work


def gated(device: torch.device, rows: int, hidden: int, *, name: str) -> Work:
    """silu_mul and gelu_mul in bfloat16."""
    gate, up = (normal(device, rows, hidden) for _ in range(2))
    out = torch.empty_like(gate)
    op, activation = getattr(ops, name), getattr(F, name.partition("_")[0])
    work = Work(
        lambda: op(gate, up, out=out),
        {"torch": lambda: activation(gate) * up},
        nbytes(gate, up, out),
        compiled=(lambda gate, up: activation(gate) * up, (gate, up)),
    )
    if name == "silu_mul":
        if flashinfer():
            both = torch.cat([gate, up], -1)
            work.peers["FlashInfer"] = lambda: flashinfer().silu_and_mul(both)
        if triton_peers():
            work.peers["Triton"] = lambda: triton_peers().silu_mul(gate, up)
    return work


def softmaxes(device: torch.device, rows: int, n: int, *, name: str) -> Work:
    """Softmax and log_softmax in bfloat16."""
    x = normal(device, rows, n)
    out = torch.empty_like(x)
    op, theirs = getattr(ops, name), getattr(F, name)
    work = Work(
        lambda: op(x, out=out),
        {"torch": lambda: theirs(x, -1)},
        nbytes(x, out),
        compiled=(lambda x: theirs(x, -1), (x,)),
    )
    if name == "softmax" and n <= 65536 and triton_peers():
        work.peers["Triton"] = lambda: triton_peers().softmax(x)
    return work


def rope(device: torch.device, tokens: int, heads: int, kv_heads: int, dim: int) -> Work:
    """Rotary embedding of queries and keys in place, bfloat16."""
    q, k = normal(device, tokens, heads, dim), normal(device, tokens, kv_heads, dim)
    q2, k2 = q.clone(), k.clone()
    positions = torch.arange(tokens, device=device, dtype=torch.int32)
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float64) / dim)
    angle = (positions[:, None] * frequency)[:, None, :]
    cos, sin = angle.cos().float(), angle.sin().float()

    def turned(x: torch.Tensor) -> None:
        a, b = x.float().chunk(2, -1)
        x.copy_(torch.cat([a * cos - b * sin, b * cos + a * sin], -1))

    def theirs(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        turned(q)
        turned(k)
        return q, k

    def mine() -> tuple[torch.Tensor, torch.Tensor]:
        ops.rope(q, k, positions)
        return q, k

    work = Work(mine, {"torch": lambda: theirs(q2, k2)}, 2 * nbytes(q, k) + nbytes(positions))
    work.compiled = (theirs, (q2, k2))
    return work


def kv_append(device: torch.device, tokens: int, kv_heads: int, dim: int) -> Work:
    """Keys and values of a 16th of the tokens each to scattered pages, bfloat16.

    Neighbours in a page share the sectors of its transposed keys, so that many tokens of a prompt
    move few bytes beside their own; a token alone moves 32 bytes for each element of its key.
    """
    run = max(1, min(PAGE, tokens // 16))
    pages = -(-tokens // run) + 1
    k, v = (normal(device, tokens, kv_heads, dim) for _ in range(2))
    mine = [normal(device, pages, kv_heads, *s) for s in ((dim, PAGE), (PAGE, dim))]
    others = [t.clone() for t in mine]
    order = torch.randperm(pages, device=device)[:, None] * PAGE
    slots = (order + torch.arange(run, device=device)).flatten()[:tokens].contiguous()
    page, entry = slots // PAGE, slots % PAGE

    def ours() -> list[torch.Tensor]:
        ops.kv_append(*mine, k, v, slots)
        return mine

    def theirs() -> list[torch.Tensor]:
        others[0][page, :, :, entry] = k
        others[1][page, :, entry] = v
        return others

    return Work(ours, {"torch": theirs}, 2 * nbytes(k, v) + nbytes(slots))


def embedding_lookup(device: torch.device, tokens: int, rows: int, hidden: int) -> Work:
    """Rows of a bfloat16 table."""
    table, ids = normal(device, rows, hidden), torch.randint(rows, (tokens,), device=device)
    out = torch.empty(tokens, hidden, dtype=BF16, device=device)
    return Work(
        lambda: ops.embedding_lookup(table, ids, out=out),
        {"torch": lambda: F.embedding(ids, table)},
        2 * nbytes(out) + nbytes(ids),
        compiled=(lambda ids, table: F.embedding(ids, table), (ids, table)),
    )
