"""Calls of every op on torch tensors, for any device: random inputs of many sizes, and checks.

`FAMILIES` has an entry per op; a new op needs one, or tests/cuda/test_every_op.py fails. Needs
torch and NumPy alone. A family yields its samples in the same order and shapes for every generator,
so that a second draw can take the place of the first one's memory. Counterpart: device_checks.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from my_llm_ffi import ops
from my_llm_ffi.declaration import block_of

from . import device_checks as checks
from .blocks import fill

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
FLOATS = (F32, F16, BF16)
BLOCKS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
BLOCKS += ("IQ4_NL", "MXFP4", "IQ2_XXS")
FORMATS = {"F32": F32, "F16": F16, "BF16": BF16}
PAGE = 32


@dataclasses.dataclass
class Sample:
    """A call of an op.

    Attributes:
        label: What is special in it, for messages.
        tensors: Inputs on the CPU in the op's order, None where one is absent.
        options: Attributes.
        out_dtypes: Of the outputs, where they are not those that the op declares first.
        cpu_only: Whether other devices refuse it by design (NotImplementedError).
    """

    label: str
    tensors: list[torch.Tensor | None]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    out_dtypes: tuple[torch.dtype, ...] | None = None
    cpu_only: bool = False


Results = Sequence[torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Family:
    """Samples of an op, and what its results must be.

    Attributes:
        samples: Draws them, for the dtype of the first tensor (of the values, where that is bytes).
        check: Takes a sample and its results on the CPU: outputs, then what was written in place.
        rows: Tensors that are cut with the first output, or with the first tensor: a row's result
            may not depend on the others. Empty: the op has no such rows.
        dtypes: Of the first tensor.
        fewest: Of how many rows a CUDA kernel makes the bits that it makes of those of a sample;
            0: of no other number, for sure.
    """

    samples: Callable[[torch.dtype, Draw], Iterator[Sample]]
    check: Callable[[Sample, Results], None]
    rows: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = FLOATS
    fewest: Callable[[Sample], int] = lambda sample: 1


class Draw:
    """Random tensors from one seed."""

    def __init__(self, *seed: int) -> None:
        self.numpy = np.random.default_rng(seed)
        self.torch = torch.Generator().manual_seed(int(self.numpy.integers(2**62)))

    def normal(self, *shape: int, dtype: torch.dtype = F32) -> torch.Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self.torch).to(dtype)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """Uniform numbers, float32."""
        return low + (high - low) * torch.rand(*shape, generator=self.torch)

    def ints(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> Any:
        """Integers from `low` to below `high`."""
        return torch.randint(low, high, shape, generator=self.torch).to(dtype)

    def order(self, n: int) -> torch.Tensor:
        """A permutation of 0 … n - 1."""
        return torch.randperm(n, generator=self.torch)

    def weight(self, format: str, rows: int, cols: int, size: float = 1.0) -> torch.Tensor:
        """A weight in the bytes of a format."""
        if format in FORMATS:
            values = self.normal(rows, cols, dtype=FORMATS[format]) * size
            return values.view(torch.uint8)
        block, block_bytes = block_of(format)
        return torch.from_numpy(fill(format, (rows, cols // block), block_bytes, self.numpy, size))


# ---- row by row ---------------------------------------------------------------------------------

ROWS = [(0, 8), (1, 1), (3, 7), (5, 64), (2, 1025), (130, 576), (3, 8200), (1, 40000)]


def normed(op: str) -> Callable[[torch.dtype, Draw], Iterator[Sample]]:
    """Samples of a normalisation."""

    def samples(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
        for rows, hidden in ROWS:
            x = draw.normal(rows, hidden, dtype=dtype)
            weight, other = draw.normal(hidden, dtype=dtype), draw.normal(hidden, dtype=dtype)
            more: list[torch.Tensor | None] = {
                "rms_norm": [weight],
                "add_rms_norm": [draw.normal(rows, hidden, dtype=dtype), weight],
                "layer_norm": [weight, other if rows != 3 else None],
            }[op]
            yield Sample(f"{rows}x{hidden}", [x, *more], {"eps": 1e-5})

    return samples


def gated(**options: str) -> Callable[[torch.dtype, Draw], Iterator[Sample]]:
    """Samples of a gated activation."""

    def samples(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
        for rows, hidden in ROWS:
            gate, up = (draw.normal(rows, hidden, dtype=dtype) for _ in range(2))
            for name, value in options.items() or [("", "")]:
                for choice in value.split() or [""]:
                    chosen = {name: choice} if name else {}
                    yield Sample(f"{rows}x{hidden} {choice}", [gate * 3, up], chosen)

    return samples


def scores(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
    """Samples of the softmaxes."""
    for rows, n in [*ROWS, (2, 131073)]:
        for options in ({}, {"scale": 0.3, "soft_cap": 5.0}):
            x = draw.normal(rows, n, dtype=dtype) * 4
            if n > 8 and not options:
                x[0, draw.ints(0, n, n // 2).long()] = -torch.inf
            yield Sample(f"{rows}x{n} {options}", [x], dict(options))


def ranked(k: bool) -> Callable[[torch.dtype, Draw], Iterator[Sample]]:
    """Samples of argmax and top_k: with ties, infinities and NaN."""

    def samples(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
        for rows, n in [(0, 4), (1, 1), (3, 33), (7, 1000), (130, 576), (2, 32001), (2, 131073)]:
            x = (draw.normal(rows, n) * 8).round().to(dtype) / 4
            if n > 8:
                x[0, draw.ints(0, n, n // 4).long()] = torch.nan
                x[1] = x[1, 0]
                x[-1, draw.ints(0, n, 3).long()] = -torch.inf
            for count in sorted({0, 1, min(n, 5), min(n, 64), min(n, 300)}) if k else [0]:
                yield Sample(f"{rows}x{n} k={count}", [x], {"k": count} if k else {})

    return samples


# ---- positions and pages ------------------------------------------------------------------------


def turned(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
    """Samples of rope."""
    yarn = {"scaling": "yarn", "factor": 4.0, "original_context": 4096}
    for tokens, heads, kv, dim in [(0, 2, 1, 8), (1, 1, 1, 2), (5, 3, 1, 64), (70, 32, 8, 128)]:
        for options in ({}, {"interleaved": True}, yarn, {"scaling": "linear", "factor": 2.0}):
            q = draw.normal(tokens, heads, dim, dtype=dtype)
            k = draw.normal(tokens, kv, dim, dtype=dtype)
            wide = torch.int64 if options else torch.int32
            positions = draw.ints(-10, 100_000, tokens, dtype=wide)
            given = {**options, **({"rotary_dims": dim // 2} if dim == 64 else {})}
            pairs = given.get("rotary_dims", dim) // 2
            factors = draw.uniform(pairs, low=1, high=8) if heads == 3 else None
            label = f"{tokens}x{heads}x{dim} {given}"
            yield Sample(label, [q, k, positions, factors], given)


def appended(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
    """Samples of kv_append: pages of `dtype`, keys of each dtype."""
    for tokens, pages, heads, dim in [(0, 1, 1, 8), (1, 2, 1, 1), (33, 3, 2, 15), (90, 9, 8, 128)]:
        for keys in FLOATS:
            k_pages = draw.normal(pages, heads, dim, PAGE, dtype=dtype)
            v_pages = draw.normal(pages, heads, PAGE, dim, dtype=dtype)
            k, v = (draw.normal(tokens, heads, dim, dtype=keys) for _ in range(2))
            slots = draw.order(pages * PAGE)[:tokens].contiguous()
            label = f"{tokens}x{heads}x{dim} {keys}"
            yield Sample(label, [k_pages, v_pages, k, v, slots])


ATTENTION = [  # queries and keys of each sequence, heads, kv_heads, head_dim
    ([(1, 1)], 1, 1, 8),
    ([(5, 33)], 4, 2, 64),
    ([(1, 700), (1, 3), (1, 0)], 8, 1, 128),
    ([(65, 130), (0, 4), (129, 129)], 4, 4, 80),
    ([(3, 70)], 2, 1, 17),
    ([(40, 300)], 6, 2, 256),
]
VIEWS: list[dict[str, Any]] = [{}, {"window": 20, "soft_cap": 10.0, "scale": 0.2}]


def starts(counts: Sequence[int]) -> torch.Tensor:
    """Bounds of packed sequences."""
    return torch.tensor([0, *np.cumsum(counts)], dtype=torch.int32)


def attended(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
    """Samples of attention."""
    for sequences, heads, kv_heads, dim in ATTENTION:
        queries, keys = zip(*sequences)
        for options in (*VIEWS, {"causal": False}):
            q = draw.normal(sum(queries), heads, dim, dtype=dtype)
            k, v = (draw.normal(sum(keys), kv_heads, dim, dtype=dtype) for _ in range(2))
            bounds = [starts(queries), starts(keys)] if len(sequences) > 1 else [None, None]
            label = f"{sequences} {heads}/{kv_heads}x{dim} {options}"
            yield Sample(label, [q, k, v, *bounds], dict(options))


def paged(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
    """Samples of paged_attention: the sequences of ATTENTION on scattered pages with holes."""
    for at, (sequences, heads, kv_heads, dim) in enumerate(ATTENTION):
        stored = FLOATS[at % 3] if at else dtype
        for options in (*VIEWS, {"each": True}):
            tensors = pages_of(draw, sequences, kv_heads, dim, stored)
            tokens = sum(n for n, _ in sequences)
            row = torch.cat([torch.full((n,), i) for i, (n, _) in enumerate(sequences)])
            position = torch.cat([torch.arange(m - n, m) for n, m in sequences])
            views: list[torch.Tensor | None] = [None, None]
            if "each" in options:
                views = [draw.ints(0, 40, tokens), draw.ints(0, 5, tokens)]
            q = draw.normal(tokens, heads, dim, dtype=dtype)
            given = {name: value for name, value in options.items() if name != "each"}
            label = f"{sequences} {heads}/{kv_heads}x{dim} pages {stored} {options}"
            yield Sample(label, [q, *tensors, row.int(), position.int(), *views], given)


def pages_of(
    draw: Draw, sequences: Sequence[tuple[int, int]], kv_heads: int, dim: int, dtype: torch.dtype
) -> list[torch.Tensor]:
    """Pages of keys and values, positions and the block table; unused entries are NaN."""
    most = max(-(-keys // PAGE) for _, keys in sequences) + 1
    pages = most * len(sequences) + 1
    order = draw.order(pages).int()
    table = torch.full((len(sequences), most), -1, dtype=torch.int32)
    positions = torch.full((pages, PAGE), -1, dtype=torch.int32)
    k_pages = torch.full((pages, kv_heads, dim, PAGE), torch.nan, dtype=dtype)
    v_pages = torch.full((pages, kv_heads, PAGE, dim), torch.nan, dtype=dtype)
    for s, (_, keys) in enumerate(sequences):
        used = -(-keys // PAGE)
        table[s, :used] = order[s * most : s * most + used]
        for p in range(keys):
            page, entry = int(table[s, p // PAGE]), p % PAGE
            k_pages[page, :, :, entry] = draw.normal(kv_heads, dim, dtype=dtype)
            v_pages[page, :, entry] = draw.normal(kv_heads, dim, dtype=dtype)
            positions[page, entry] = p if p % 50 != 7 else -1
    return [k_pages, v_pages, positions, table]


# ---- logits -------------------------------------------------------------------------------------

VOCABULARIES = [(0, 9), (1, 1), (3, 33), (2, 32001), (9, 1000), (2, 131073)]


def bitmask(draw: Draw, rows: int, vocab: int) -> torch.Tensor:
    """Random words; the first row allows all."""
    mask = draw.ints(-(2**31), 2**31, rows, -(-vocab // 32) + 1)
    mask[:1] = -1
    return mask


def masked(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
    """Samples of mask_logits and, their first three tensors, of apply_token_bitmask."""
    for rows, vocab in VOCABULARIES:
        logits = draw.normal(rows, vocab, dtype=dtype) * 4
        every = draw.ints(-1, 3, rows)
        temperature = draw.uniform(rows, low=0.2, high=2)
        temperature[1::3] = 0
        ln_min_p = draw.uniform(rows, low=-6, high=-0.5)
        mask = bitmask(draw, 3, vocab)
        size = f"{rows}x{vocab}"
        yield Sample(f"{size} all", [logits, mask, every, temperature, ln_min_p])
        yield Sample(f"{size} rows", [logits, bitmask(draw, rows, vocab), None, None, None])
        yield Sample(f"{size} none", [logits, None, None, temperature, None])
        if rows > 2:
            odd = logits.clone()
            odd[0], odd[1, 0], odd[2, 0] = -torch.inf, torch.nan, torch.inf
            yield Sample(f"{size} odd", [odd, mask, every, temperature, ln_min_p])


def bitmasked(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
    """Samples of apply_token_bitmask."""
    for sample in masked(dtype, draw):
        if sample.tensors[1] is not None:
            yield Sample(sample.label, sample.tensors[:3])


def penalized(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
    """Samples of apply_penalties."""
    for rows, vocab in VOCABULARIES:
        for seen in (0, 1, 70):
            tokens = draw.ints(-1, min(vocab, 40), rows, seen)
            factors = [draw.uniform(rows, low=0.5, high=2) for _ in range(3)]
            given = factors if seen != 1 else [factors[0], None, None]
            logits = draw.normal(rows, vocab, dtype=dtype) * 4
            yield Sample(f"{rows}x{vocab} of {seen}", [logits, tokens, *given])


def sampled(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
    """Samples of sample."""
    for rows, vocab in VOCABULARIES:
        logits = draw.normal(rows, vocab, dtype=dtype) * 4
        uniform = draw.uniform(rows)
        temperature = draw.uniform(rows, low=0.3, high=2)
        temperature[1::3] = 0
        top_k = draw.ints(-1, 50, rows)
        top_p, min_p = draw.uniform(rows, low=0.1), draw.uniform(rows, high=0.3)
        size = f"{rows}x{vocab}"
        yield Sample(f"{size} all", [logits, uniform, temperature, top_k, top_p, min_p])
        yield Sample(f"{size} plain", [logits, uniform, None, None, None, None])
        yield Sample(f"{size} top_p", [logits, uniform, None, None, top_p, None])
        yield Sample(f"{size} min_p", [logits, uniform, temperature, None, None, min_p])
        if rows > 2:
            odd = logits.clone()
            odd[0], odd[1, ::2], odd[2, 1:3] = -torch.inf, torch.nan, torch.inf
            yield Sample(f"{size} odd", [odd, uniform, None, top_k, None, None])


# ---- weights ------------------------------------------------------------------------------------


def columns(format: str, blocks: int) -> int:
    """Columns of rows that hold about as many blocks of 32."""
    return max(block_of(format)[0], 32 * blocks // 256 * 256 or 32 * blocks)


def dequantized(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
    """Samples of dequantize into `dtype`."""
    for format in (*FORMATS, *BLOCKS):
        for rows, blocks in [(0, 1), (1, 1), (5, 24), (70, 8)]:
            weight = draw.weight(format, rows, columns(format, blocks))
            yield Sample(f"{format} {rows}x{blocks}", [weight], {"format": format}, (dtype,))


def packed(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
    """Samples of pack_weight."""
    for format in (*FORMATS, *BLOCKS):
        for rows, blocks in [(0, 1), (1, 1), (5, 24), (33, 8)]:
            weight = draw.weight(format, rows, columns(format, blocks))
            label = f"{format} {rows}x{blocks}"
            yield Sample(label, [weight], {"format": format}, cpu_only=True)


def quantized(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
    """Samples of quantize_q8_0."""
    for rows, blocks in [(0, 1), (1, 1), (3, 7), (70, 128)]:
        x = draw.normal(rows, 32 * blocks, dtype=dtype)
        if blocks > 1:
            x[0, :32], x[1, 3], x[2, 40] = 0, torch.inf, torch.nan
        yield Sample(f"{rows}x{blocks}", [x])


def looked_up(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
    """Samples of embedding_lookup: rows of floats of `dtype`, and of every format."""
    for rows, cols, count in [(1, 1, 0), (5, 7, 3), (100, 576, 70), (33, 8192, 9)]:
        table = draw.normal(rows, cols, dtype=dtype)
        ids = draw.ints(0, rows, count, dtype=torch.int64 if count % 2 else torch.int32)
        for out in dict.fromkeys((dtype, F32)):
            yield Sample(f"{rows}x{cols} [{count}] {out}", [table, ids], {}, (out,))
    if dtype != F32:
        return
    for format in (*FORMATS, *BLOCKS):
        weight = draw.weight(format, 37, columns(format, 16))
        ids = draw.ints(0, 37, 2, 5)
        yield Sample(f"{format} 37", [weight, ids], {"format": format})
        tiles = ops.pack_weight(weight, format=format)
        options = {"format": format, "packed": True, "rows": 37}
        yield Sample(f"{format} packed", [tiles, ids], options)


def multiplied(dtype: torch.dtype, draw: Draw) -> Iterator[Sample]:
    """Samples of linear: float weights of each dtype, and every format with few and many rows."""
    sizes = [(0, 8, 8), (1, 1, 1), (3, 7, 33), (1, 576, 100), (5, 1025, 64), (70, 512, 129)]
    for rows, cols, n in [*sizes, (130, 256, 256)]:
        for stored in FLOATS:
            x = draw.normal(rows, cols, dtype=dtype)
            weight = draw.normal(n, cols, dtype=stored)
            bias = draw.normal(n, dtype=dtype) if rows != 3 else None
            yield Sample(f"{rows}x{cols} by {n} {stored}", [x, weight, bias])
    for format in (*FORMATS, *BLOCKS):
        for rows, blocks, n in [(1, 8, 37), (4, 40, 64), (9, 8, 33), (100, 16, 130)]:
            cols = columns(format, blocks)
            x, weight = draw.normal(rows, cols, dtype=dtype), draw.weight(format, n, cols)
            bias = draw.normal(n, dtype=dtype) if rows == 4 else None
            yield Sample(f"{rows}x{cols} by {n} {format}", [x, weight, bias], {"format": format})
            tiles = ops.pack_weight(weight, format=format)
            options = {"format": format, "packed": True, "rows": n}
            label = f"{rows}x{cols} by {n} {format} packed"
            yield Sample(label, [x, tiles, bias], options, cpu_only=True)


def fewest_multiplied(sample: Sample) -> int:
    """Rows of x that take the same kernel: linear has one for few and one for many."""
    x, weight, _ = sample.tensors
    assert x is not None
    assert weight is not None
    stored = FORMATS.get(sample.options.get("format", ""), weight.dtype)
    if stored != torch.uint8:  # cuBLASLt may add up in another order for another number
        return 0 if len(x) > 8 and stored == x.dtype else 1
    return 33 if len(x) > 32 else 1


FAMILIES: dict[str, Family] = {
    "add_rms_norm": Family(normed("add_rms_norm"), checks.add_rms_norm, ("x", "residual")),
    "apply_penalties": Family(
        penalized,
        checks.apply_penalties,
        ("logits", "tokens", "repetition", "frequency", "presence"),
    ),
    "apply_token_bitmask": Family(bitmasked, checks.same_as_cpu("apply_token_bitmask")),
    "argmax": Family(ranked(k=False), checks.same_as_cpu("argmax"), ("x",)),
    "attention": Family(attended, checks.attention),
    "dequantize": Family(dequantized, checks.same_as_cpu("dequantize"), ("weight",)),
    "embedding_lookup": Family(looked_up, checks.same_as_cpu("embedding_lookup"), ("ids",)),
    "gelu_mul": Family(gated(approximate="none tanh"), checks.gelu_mul, ("gate", "up")),
    "kv_append": Family(appended, checks.same_as_cpu("kv_append")),
    "layer_norm": Family(normed("layer_norm"), checks.layer_norm, ("x",)),
    "linear": Family(multiplied, checks.linear, ("x",), fewest=fewest_multiplied),
    "log_softmax": Family(scores, checks.log_softmax, ("x",)),
    "mask_logits": Family(masked, checks.mask_logits),
    "pack_weight": Family(packed, checks.same_as_cpu("pack_weight"), dtypes=(torch.uint8,)),
    "paged_attention": Family(
        paged,
        checks.paged_attention,
        ("q", "token_row", "token_position", "windows", "sinks"),
    ),
    "quantize_q8_0": Family(quantized, checks.same_as_cpu("quantize_q8_0"), ("x",)),
    "rms_norm": Family(normed("rms_norm"), checks.rms_norm, ("x",)),
    "rope": Family(turned, checks.rope, ("q", "k", "positions")),
    "sample": Family(
        sampled,
        checks.sample,
        ("logits", "uniform", "temperature", "top_k", "top_p", "min_p"),
    ),
    "silu_mul": Family(gated(), checks.silu_mul, ("gate", "up")),
    "softmax": Family(scores, checks.softmax, ("x",)),
    "top_k": Family(ranked(k=True), checks.same_as_cpu("top_k"), ("x",)),
}
