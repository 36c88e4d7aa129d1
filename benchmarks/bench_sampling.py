"""Work on rows of logits beside torch's, and beside a sampler that sorts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from my_llm_ffi import ops

from .harness import (
    DTYPES,
    OF_LIMIT,
    ROWS,
    TOLERANCE,
    Case,
    compare,
    moves,
    name,
    reusing,
    take_turns,
)
from .machine import Machine

VOCABULARY = 128256
FEW_ROWS = ROWS[:2]  # torch's sort of 512 rows takes seconds
INF = float("inf")


def random_logits(rows: int, dtype: torch.dtype) -> torch.Tensor:
    """As a model's: a few stand out."""
    return (2.5 * torch.randn(rows, VOCABULARY)).to(dtype)


def random_bitmask(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed, 1 = allowed, lowest bit first; and what it forbids as torch wants to have it."""
    words = torch.randint(-(2**31), 2**31, (rows, -(-VOCABULARY // 32)), dtype=torch.int64)
    bits = (words[..., None] >> torch.arange(32)) & 1
    return words.int(), bits.view(rows, -1)[:, :VOCABULARY] == 0


def mask_logits(rows: int, dtype: torch.dtype) -> Case:
    """Mask and temperature in place, and the mass that was allowed."""
    mine = random_logits(rows, dtype)
    other = mine.clone()
    words, forbidden = random_bitmask(rows)
    temperatures = [torch.full((rows,), t) for t in (0.5, 2.0)]  # the second undoes the first

    def torch_mask(temperature: torch.Tensor) -> Any:
        other.div_(temperature[:, None])
        mass = torch.softmax(other, -1, dtype=torch.float32).masked_fill_(forbidden, 0).sum(-1)
        return other.masked_fill_(forbidden, -INF), mass

    def our_mask(temperature: torch.Tensor) -> Any:
        return mine, ops.mask_logits(mine, words, temperature=temperature)[0]

    return Case(
        op="mask_logits",
        shape=f"{rows}x{VOCABULARY}",
        dtype=name(dtype),
        ours=take_turns(*(lambda t=t: our_mask(t) for t in temperatures)),
        theirs=take_turns(*(lambda t=t: torch_mask(t) for t in temperatures)),
        work=moves(reads=[mine, words], writes=[mine]),
        ratio=2.0,
        tolerance=max(TOLERANCE[dtype], 1e-4),  # torch's own mass is off by 1e-5
        of_limit=OF_LIMIT,
    )


def apply_token_bitmask(rows: int, dtype: torch.dtype) -> Case:
    """The mask alone."""
    mine = random_logits(rows, dtype)
    other = mine.clone()
    words, forbidden = random_bitmask(rows)
    return Case(
        op="apply_token_bitmask",
        shape=f"{rows}x{VOCABULARY}",
        dtype=name(dtype),
        ours=lambda: (ops.apply_token_bitmask(mine, words), mine)[1],
        theirs=lambda: other.masked_fill_(forbidden, -INF),
        work=moves(reads=[mine, words], writes=[mine]),
        ratio=1.3,
        of_limit=OF_LIMIT,
    )


def apply_penalties(rows: int, dtype: torch.dtype) -> Case:
    """Of 1024 tokens per row; torch counts them in a row as long as the vocabulary."""
    mine = random_logits(rows, dtype)
    other = mine.clone()
    tokens = torch.randint(0, VOCABULARY, (rows, 1024), dtype=torch.int32)
    # The second set turns back what the first does, so that logits stay where they are.
    sets = [
        [torch.full((rows,), value) for value in values]
        for values in ((1.25, 0.5, 0.25), (0.8, -0.5, -0.25))
    ]

    def torch_penalties(repetition: Any, frequency: Any, presence: Any) -> torch.Tensor:
        ids = tokens.long()
        counts = torch.zeros(rows, VOCABULARY).scatter_add_(1, ids, torch.ones(ids.shape))
        seen, times = counts > 0, repetition[:, None]
        scaled = torch.where(other > 0, other / times, other * times)
        other.copy_(torch.where(seen, scaled, other))
        return other.sub_(frequency[:, None] * counts + presence[:, None] * seen)

    def our_penalties(repetition: Any, frequency: Any, presence: Any) -> torch.Tensor:
        ops.apply_penalties(mine, tokens, repetition, frequency, presence)
        return mine

    return Case(
        op="apply_penalties",
        shape=f"{rows}x{VOCABULARY}, 1024",
        dtype=name(dtype),
        ours=take_turns(*(lambda s=s: our_penalties(*s) for s in sets)),
        theirs=take_turns(*(lambda s=s: torch_penalties(*s) for s in sets)),
        ratio=1.3,
    )


class Drawing:
    """A draw from rows of logits, by us and as it is written in torch."""

    def __init__(
        self, rows: int, dtype: torch.dtype, *, top_k: int | None, top_p: float | None
    ) -> None:
        self.logits = random_logits(rows, dtype)
        self.uniform = torch.rand(rows)
        self.temperature = torch.full((rows,), 0.8)
        self.top_k = None if top_k is None else torch.full((rows,), top_k, dtype=torch.int32)
        self.top_p = None if top_p is None else torch.full((rows,), top_p)

    def ours(self) -> Any:
        """One call."""
        return ops.sample(
            self.logits, self.uniform, self.temperature, top_k=self.top_k, top_p=self.top_p
        )

    def probabilities(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Zero beyond top_k and top_p, and the ids: sorted where there is something to cut off."""
        scaled = self.logits.float() / self.temperature[:, None]
        if self.top_k is None and self.top_p is None:
            return torch.softmax(scaled, -1), None
        scaled, ids = scaled.sort(descending=True)
        if self.top_k is not None:
            scaled.masked_fill_(torch.arange(VOCABULARY) >= self.top_k[:, None], -INF)
        p = torch.softmax(scaled, -1)
        if self.top_p is not None:
            p.masked_fill_(p.cumsum(-1) - p >= self.top_p[:, None], 0)
        return p, ids

    def theirs(self) -> Any:
        """The textbook: the first id at which the sum of probabilities passes the number."""
        p, ids = self.probabilities()
        sums = p.cumsum(-1)
        at = torch.searchsorted(sums, self.uniform[:, None] * sums[:, -1:], right=True)
        chosen = at if ids is None else ids.gather(1, at)
        return chosen[:, 0], self.logprobs(chosen)

    def logprobs(self, ids: torch.Tensor) -> torch.Tensor:
        """Of ids [rows, 1], under the logits as given."""
        return torch.log_softmax(self.logits, -1, dtype=torch.float32).gather(1, ids)[:, 0]

    def check(self, ours: Any, _: Any) -> None:
        """The id is one of those that top_k and top_p keep, with its log-probability."""
        chosen = ours[0].long()[:, None]
        p, ids = self.probabilities()
        if ids is not None:
            p = torch.zeros_like(p).scatter_(1, ids, p)
        wrong = compare(ours[1], self.logprobs(chosen), 1e-5)
        if wrong or not (p.gather(1, chosen) > 0).all():
            raise SystemExit(f"sample is wrong: {wrong or 'a token that was cut off'}")


def sample(rows: int, dtype: torch.dtype, top_k: int | None, top_p: float | None) -> Case:
    """Temperature, what cuts off, and the draw."""
    drawing = Drawing(rows, dtype, top_k=top_k, top_p=top_p)
    cut = [f"k={top_k}"] if top_k else []
    cut += [f"p={top_p:g}"] if top_p else []
    return Case(
        op=" ".join(["sample", *cut]),
        shape=f"{rows}x{VOCABULARY}",
        dtype=name(dtype),
        ours=drawing.ours,
        theirs=drawing.theirs,
        ratio=2.0,
        check=drawing.check,
    )


def argmax(rows: int, dtype: torch.dtype) -> Case:
    """The likeliest token; of equals either will do for torch, so that there are none."""
    x = random_logits(rows, dtype)
    x[torch.arange(rows), torch.randint(0, VOCABULARY, (rows,))] = 40
    return Case(
        op="argmax",
        shape=f"{rows}x{VOCABULARY}",
        dtype=name(dtype),
        ours=reusing(ops.argmax, x),
        theirs=reusing(torch.argmax, x, -1),
        work=moves(reads=[x]),
        ratio=1.3,
        of_limit=OF_LIMIT,
    )


def top_k(rows: int, dtype: torch.dtype, k: int) -> Case:
    """The k likeliest; ids of equal values may differ, values may not."""
    x = random_logits(rows, dtype)

    def check(ours: Any, theirs: Any) -> None:
        wrong = compare(ours[0], theirs[0], 0.0) or compare(
            x.gather(-1, ours[1].long()), ours[0], 0.0
        )
        if wrong:
            raise SystemExit(f"top_k of {rows} rows is wrong: {wrong}")

    return Case(
        op=f"top_k {k}",
        shape=f"{rows}x{VOCABULARY}",
        dtype=name(dtype),
        ours=reusing(ops.top_k, x, k=k),
        theirs=reusing(torch.topk, x, k, -1),
        work=moves(reads=[x]),
        ratio=1.3,
        check=check,
    )


def cases(_: Machine) -> Iterator[Case]:
    """Rows of the table."""
    for dtype in DTYPES:
        for rows in ROWS:
            yield mask_logits(rows, dtype)
            yield apply_token_bitmask(rows, dtype)
            yield argmax(rows, dtype)
        for rows in FEW_ROWS:
            yield apply_penalties(rows, dtype)
            for top_k_, top_p in ((None, None), (50, None), (None, 0.9), (50, 0.9)):
                yield sample(rows, dtype, top_k_, top_p)
            yield top_k(rows, dtype, 50)
