"""Ops on logits: cases of bench_cuda.py. Counterpart: cuda_cases.py, the sizes."""

from __future__ import annotations

import torch

from my_llm_ffi import ops

from .cuda_work import Work, nbytes, normal


def argmax(device: torch.device, rows: int, vocab: int) -> Work:
    """The largest of each row, float32."""
    x = normal(device, rows, vocab, dtype=torch.float32)
    out = torch.empty(rows, dtype=torch.int32, device=device)
    return Work(
        lambda: ops.argmax(x, out=out),
        {"torch": lambda: x.argmax(-1)},
        nbytes(x, out),
        tolerance=0.0,
        compiled=(lambda x: x.argmax(-1), (x,)),
    )


def top_k(device: torch.device, rows: int, vocab: int, k: int) -> Work:
    """The k largest, float32."""
    x = normal(device, rows, vocab, dtype=torch.float32)
    k = min(k, vocab)
    values = torch.empty(rows, k, device=device)
    ids = torch.empty(rows, k, dtype=torch.int32, device=device)
    return Work(
        lambda: ops.top_k(x, k=k, out=(values, ids))[0],
        {"torch": lambda: torch.topk(x, k, -1).values},
        nbytes(x, values, ids),
        tolerance=0.0,
    )


def mask_logits(device: torch.device, rows: int, vocab: int) -> Work:
    """Mask, temperature and min-p on float32 rows in place."""
    mine = normal(device, rows, vocab, dtype=torch.float32)
    others, words = mine.clone(), -(-vocab // 32)
    mask = torch.randint(-(2**31), 2**31, (rows, words), device=device).int()
    temperature, ln_min_p = torch.ones(rows, device=device), torch.full((rows,), -9.0).to(device)
    outs = (
        torch.empty(rows, device=device),
        torch.empty(rows, dtype=torch.int32, device=device),
    )
    bits = torch.arange(32, device=device, dtype=torch.int32)

    def ours() -> torch.Tensor:
        ops.mask_logits(mine, mask, None, temperature, ln_min_p, out=outs)
        return mine

    def theirs(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        allowed = (mask[..., None] >> bits & 1).bool().view(rows, -1)[:, :vocab]
        logits.masked_fill_(~allowed, -torch.inf).div_(temperature[:, None])
        least = logits.amax(-1, keepdim=True) + ln_min_p[:, None]
        return logits.masked_fill_(logits < least, -torch.inf)

    work = Work(
        ours,
        {"torch": lambda: theirs(others, mask)},
        2 * nbytes(mine) + nbytes(mask, temperature, ln_min_p, *outs),
    )
    work.compiled = (theirs, (others, mask))
    return work


def apply_token_bitmask(device: torch.device, rows: int, vocab: int) -> Work:
    """A bitmask on float32 rows in place."""
    mine, words = normal(device, rows, vocab, dtype=torch.float32), -(-vocab // 32)
    others = mine.clone()
    mask = torch.randint(-(2**31), 2**31, (rows, words), device=device).int()
    bits = torch.arange(32, device=device, dtype=torch.int32)

    def ours() -> torch.Tensor:
        ops.apply_token_bitmask(mine, mask)
        return mine

    def theirs(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        allowed = (mask[..., None] >> bits & 1).bool().view(rows, -1)[:, :vocab]
        return logits.masked_fill_(~allowed, -torch.inf)

    work = Work(ours, {"torch": lambda: theirs(others, mask)}, 2 * nbytes(mine) + nbytes(mask))
    work.compiled = (theirs, (others, mask))
    return work


def apply_penalties(device: torch.device, rows: int, vocab: int, seen: int) -> Work:
    """Three penalties of tokens that were seen, in place."""
    mine = normal(device, rows, vocab, dtype=torch.float32)
    others = mine.clone()
    order = torch.rand(rows, vocab, device=device).argsort(-1)
    tokens = order[:, :seen].int().contiguous()
    factors = [torch.full((rows,), value, device=device) for value in (1.1, 0.2, 0.3)]
    chosen = tokens.long()

    def ours() -> torch.Tensor:
        ops.apply_penalties(mine, tokens, *factors)
        return mine

    def theirs() -> torch.Tensor:
        found = others.gather(1, chosen)
        found = torch.where(found > 0, found / factors[0][:, None], found * factors[0][:, None])
        return others.scatter_(1, chosen, found - (factors[1] + factors[2])[:, None])

    return Work(ours, {"torch": theirs}, 3 * nbytes(tokens))


def sample(device: torch.device, rows: int, vocab: int, *, filters: bool) -> Work:
    """A token of each row; compared with the CPU but for sums that round otherwise."""
    logits = normal(device, rows, vocab, dtype=torch.float32)
    uniform = torch.rand(rows, device=device)
    temperature = torch.full((rows,), 0.8, device=device)
    top_k = torch.full((rows,), 50, device=device, dtype=torch.int32) if filters else None
    top_p = torch.full((rows,), 0.95, device=device) if filters else None
    given = [logits, uniform, temperature, top_k, top_p]
    outs = (
        torch.empty(rows, dtype=torch.int32, device=device),
        torch.empty(rows, device=device),
    )

    def ours() -> torch.Tensor:
        return ops.sample(logits, uniform, temperature, top_k, top_p, out=outs)[0]

    def theirs() -> torch.Tensor:
        weight = torch.softmax(logits / temperature[:, None], -1)
        if top_k is not None and top_p is not None:
            weight, _ = weight.topk(min(50, vocab), -1)
            before = weight.cumsum(-1) - weight
            weight = torch.where(before < top_p[:, None], weight, 0.0)
        reach = uniform[:, None] * weight.sum(-1, keepdim=True)
        return torch.searchsorted(weight.cumsum(-1), reach)

    def check(ids: torch.Tensor) -> str:
        want = ops.sample(*(None if t is None else t.cpu() for t in given))[0]
        same = float((ids.cpu() == want).float().mean())
        return "" if same > 0.9 else f"{same:.0%} of the tokens are the CPU's"

    moved = nbytes(logits, uniform, temperature, *outs)
    return Work(ours, {"torch": theirs}, moved, check=check)
