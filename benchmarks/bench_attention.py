"""Attention beside torch's, which gets each head's keys and values in one contiguous piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from my_llm_ffi import ops

from .harness import DTYPES, OF_LIMIT, ROWS, TOLERANCE, Case, Work, compare, name, reusing
from .machine import Machine

HEADS, KV_HEADS, DIM = 32, 8, 128
PAGE = 32


@dataclass(frozen=True)
class Sequences:
    """Equal ones, since torch takes no others: each has ``past`` keys, then ``new`` tokens."""

    count: int
    new: int
    past: int

    @property
    def length(self) -> int:
        """Keys of a sequence."""
        return self.past + self.new

    @property
    def tokens(self) -> int:
        """Queries of all of them."""
        return self.count * self.new

    def __str__(self) -> str:
        return f"{self.count}x{self.new} over {self.length}"

    def work(self, dtype: torch.dtype) -> Work:
        """Of one query each, to read the keys and values; of more, to multiply."""
        if self.new == 1:
            read = 2 * self.count * self.length * KV_HEADS * DIM * dtype.itemsize
            return Work("read", read, read)
        visible = self.new * self.past + self.new * (self.new + 1) // 2
        return Work("fma", 4.0 * self.count * visible * HEADS * DIM)

    @property
    def asked(self) -> dict[str, float]:
        """Decode: twice torch, and at the limit of memory where that is what counts."""
        return {"ratio": 2.0, "of_limit": OF_LIMIT} if self.new == 1 else {"ratio": 1.3}


class Tensors:
    """Queries, keys and values of sequences, in our layouts and in torch's."""

    def __init__(self, s: Sequences, dtype: torch.dtype) -> None:
        self.q = torch.randn(s.tokens, HEADS, DIM).to(dtype)
        self.k = torch.randn(s.count * s.length, KV_HEADS, DIM).to(dtype)
        self.v = torch.randn(s.count * s.length, KV_HEADS, DIM).to(dtype)
        self.cu_q = torch.arange(s.count + 1, dtype=torch.int32) * s.new
        self.cu_k = torch.arange(s.count + 1, dtype=torch.int32) * s.length
        # [sequence, head, token, dim]
        self.torch_q = self.q.view(s.count, s.new, HEADS, DIM).transpose(1, 2).contiguous()
        self.torch_k = self.k.view(s.count, s.length, KV_HEADS, DIM).transpose(1, 2).contiguous()
        self.torch_v = self.v.view(s.count, s.length, KV_HEADS, DIM).transpose(1, 2).contiguous()
        self.mask = None
        if s.new > 1 and s.past:  # causal to the last key; torch's is_causal means the first
            order = torch.arange(s.length)
            self.mask = order <= torch.arange(s.new)[:, None] + s.past
        self.causal = s.new > 1 and not s.past

    def theirs(self) -> torch.Tensor:
        """Torch's fused attention."""
        return F.scaled_dot_product_attention(
            self.torch_q,
            self.torch_k,
            self.torch_v,
            attn_mask=self.mask,
            is_causal=self.causal,
            enable_gqa=True,
        )

    def check(self, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        """In our layout."""
        other = theirs.transpose(1, 2).reshape(ours.shape)
        wrong = compare(ours, other, TOLERANCE[ours.dtype])
        if wrong:
            raise SystemExit(f"attention over {tuple(self.k.shape)} is wrong: {wrong}")


def attention(s: Sequences, dtype: torch.dtype) -> Case:
    """Keys and values in one piece."""
    t = Tensors(s, dtype)
    several = {"cu_q": t.cu_q, "cu_k": t.cu_k} if s.count > 1 else {}
    return Case(
        op="attention",
        shape=str(s),
        dtype=name(dtype),
        ours=reusing(ops.attention, t.q, t.k, t.v, **several),
        theirs=t.theirs,
        work=s.work(dtype),
        check=t.check,
        **s.asked,
    )


def paged_attention(s: Sequences, dtype: torch.dtype) -> Case:
    """Keys and values in pages, in no order."""
    t = Tensors(s, dtype)
    pages = s.length // PAGE
    order = torch.randperm(s.count * pages)
    shape = (s.count * pages, PAGE, KV_HEADS, DIM)
    k_pages, v_pages = (torch.empty(shape, dtype=dtype) for _ in range(2))
    k_pages[order], v_pages[order] = t.k.view(shape), t.v.view(shape)
    k_pages = k_pages.permute(0, 2, 3, 1).contiguous()  # [page, head, dim, entry]
    v_pages = v_pages.permute(0, 2, 1, 3).contiguous()  # [page, head, entry, dim]
    positions = torch.empty(s.count * pages, PAGE, dtype=torch.int32)
    positions[order] = torch.arange(s.length, dtype=torch.int32).repeat(s.count).view(-1, PAGE)
    table = order.view(s.count, pages).int()
    token_row = torch.arange(s.count, dtype=torch.int32).repeat_interleave(s.new)
    token_position = (s.past + torch.arange(s.new, dtype=torch.int32)).repeat(s.count)
    return Case(
        op="paged_attention",
        shape=str(s),
        dtype=name(dtype),
        ours=reusing(
            ops.paged_attention,
            *(t.q, k_pages, v_pages, positions, table, token_row, token_position),
        ),
        theirs=t.theirs,
        work=s.work(dtype),
        check=t.check,
        **s.asked,
    )


def kv_append(tokens: int, dtype: torch.dtype) -> Case:
    """Into pages in no order, each of another sequence; a prompt fills them one after another.

    torch writes whole entries, in the layout that suits it.
    """
    pages = 64
    slots = torch.randperm(pages)[:, None] * PAGE + torch.arange(PAGE)
    slots = (slots if tokens >= PAGE else slots.t()).reshape(-1)[:tokens].contiguous()
    k, v = (torch.randn(tokens, KV_HEADS, DIM).to(dtype) for _ in range(2))
    k_pages = torch.zeros(pages, KV_HEADS, DIM, PAGE, dtype=dtype)
    v_pages = torch.zeros(pages, KV_HEADS, PAGE, DIM, dtype=dtype)
    k_cache, v_cache = (torch.zeros(pages * PAGE, KV_HEADS, DIM, dtype=dtype) for _ in range(2))

    def theirs() -> Any:
        return k_cache.index_copy_(0, slots, k), v_cache.index_copy_(0, slots, v)

    def check(_: Any, caches: tuple[torch.Tensor, torch.Tensor]) -> None:
        shape = (pages, PAGE, KV_HEADS, DIM)
        want_k, want_v = (cache.view(shape).transpose(1, 2) for cache in caches)
        if not (torch.equal(k_pages.transpose(2, 3), want_k) and torch.equal(v_pages, want_v)):
            raise SystemExit(f"kv_append of {tokens} {dtype} is wrong")

    return Case(
        op="kv_append",
        shape=f"{tokens}x{KV_HEADS}x{DIM}",
        dtype=name(dtype),
        ours=lambda: ops.kv_append(k_pages, v_pages, k, v, slots),
        theirs=theirs,
        work=Work("copy", 4 * k.nbytes, 4 * k.nbytes),
        ratio=1.3,
        check=check,
    )


def cases(machine: Machine) -> Iterator[Case]:
    """Rows of the table."""
    for dtype in DTYPES:
        entry_bytes = 2 * KV_HEADS * DIM * dtype.itemsize
        beyond = machine.beyond_cache // entry_bytes
        shapes = [
            Sequences(1, 1, 1023),
            Sequences(1, 1, beyond - 1),
            Sequences(16, 1, 255),
            Sequences(16, 1, beyond // 16 - 1),
            Sequences(1, 512, 0),
            Sequences(1, 512, 1536),
        ]
        for op in (attention, paged_attention):
            for s in shapes:
                yield op(s, dtype)
        for tokens in ROWS:
            yield kv_append(tokens, dtype)
