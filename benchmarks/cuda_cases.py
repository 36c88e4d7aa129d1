"""What bench_cuda.py measures: sizes and targets of each op."""

from __future__ import annotations

from collections.abc import Iterator

from .cuda_attention import attention, paged_attention
from .cuda_logits import apply_penalties, apply_token_bitmask, argmax, mask_logits, sample, top_k
from .cuda_rows import (
    add_rms_norm,
    embedding_lookup,
    gated,
    kv_append,
    layer_norm,
    rms_norm,
    rope,
    softmaxes,
)
from .cuda_weights import dequantize, linear, quantize_q8_0
from .cuda_work import Case

COPY, DECODE = ("copy", 0.85), ("us", 5.0)


def weights() -> Iterator[Case]:
    """linear: one row by bandwidth, many by the matrix rate."""
    for format in ("Q4_K", "Q8_0", "Q4_0", "Q6_K"):
        one = {"rows": 1, "cols": 8192, "n": 28672}
        many = {"rows": 4096, "cols": 8192, "n": 8192}
        yield Case(f"linear {format}", one, linear, ("copy", 0.75), {"format": format})
        yield Case(f"linear {format}", many, linear, ("matrix", 0.6), {"format": format})
    for rows, n in ((1, 28672), (4096, 8192)):
        sizes = {"rows": rows, "cols": 8192, "n": n}
        yield Case("linear BF16", sizes, linear, None, {"format": "BF16"})
    eight = {"rows": 8, "cols": 8192, "n": 28672}
    yield Case("linear Q4_K", eight, linear, None, {"format": "Q4_K"})


def attentions() -> Iterator[Case]:
    """Decode by bandwidth, prompts by the matrix rate."""
    heads = {"heads": 32, "kv_heads": 8, "dim": 128}
    gqa = {"heads": 64, "kv_heads": 8, "dim": 128}
    decode, one = {"rows": 64, "keys": 4096, **gqa}, {"rows": 1, "keys": 4096, **gqa}
    prompt = {"rows": 1, "keys": 4096, **heads}
    yield Case("paged_attention decode", decode, paged_attention, ("copy", 0.8), {"each": 1})
    yield Case("paged_attention decode", one, paged_attention, None, {"each": 1})
    yield Case("paged_attention prefill", prompt, paged_attention, ("matrix", 0.5), {"each": 4096})
    yield Case("attention prefill", {"tokens": 4096, **heads}, attention, ("matrix", 0.5))


def rows_of(many: bool) -> Iterator[Case]:
    """Ops that memory bounds: at several times the L2, or at the sizes of decoding."""
    target = COPY if many else DECODE
    rows, wide = (65536, 32768) if many else (16, 16)
    norm, gate = {"rows": rows, "hidden": 4096}, {"rows": wide, "hidden": 11008}
    yield Case("rms_norm", norm, rms_norm, target)
    yield Case("add_rms_norm", norm, add_rms_norm, target)
    yield Case("layer_norm", norm, layer_norm, target)
    yield Case("silu_mul", gate, gated, target, {"name": "silu_mul"})
    yield Case("gelu_mul", gate, gated, target, {"name": "gelu_mul"})
    turn = {"tokens": wide, "heads": 32, "kv_heads": 8, "dim": 128}
    yield Case("rope", turn, rope, target)
    append = {"tokens": 65536 if many else 16, "kv_heads": 8, "dim": 128}
    yield Case("kv_append", append, kv_append, target)
    look = {"tokens": rows, "rows": 128256, "hidden": 4096}
    yield Case("embedding_lookup", look, embedding_lookup, target)


def logits() -> Iterator[Case]:
    """Ops on rows of a vocabulary."""
    rows = {"rows": 256, "vocab": 131072}
    yield Case("mask_logits", rows, mask_logits, ("copy", 0.8))
    yield Case("apply_token_bitmask", {"rows": 1024, "vocab": 131072}, apply_token_bitmask, COPY)
    yield Case("argmax", {"rows": 1024, "vocab": 131072}, argmax, COPY)
    yield Case("sample", rows, sample, None, {"filters": False})
    yield Case("sample top_k top_p", rows, sample, None, {"filters": True})
    yield Case("top_k", {**rows, "k": 64}, top_k, None)
    yield Case("apply_penalties", {**rows, "seen": 512}, apply_penalties, None)
    for name, make in (("mask_logits", mask_logits), ("argmax", argmax)):
        yield Case(name, {"rows": 1, "vocab": 131072}, make, None)
    one = {"rows": 1, "vocab": 131072}
    yield Case("sample top_k top_p", one, sample, None, {"filters": True})
    yield Case("top_k", {**one, "k": 64}, top_k, None)
    for name in ("softmax", "log_softmax"):
        yield Case(name, {"rows": 8192, "n": 32768}, softmaxes, COPY, {"name": name})


def formats() -> Iterator[Case]:
    """Formats back and forth."""
    size = {"rows": 32768, "cols": 8192}
    for format in ("Q4_K", "Q8_0"):
        yield Case(f"dequantize {format}", size, dequantize, COPY, {"format": format})
    yield Case("quantize_q8_0", size, quantize_q8_0, COPY)


def cases() -> list[Case]:
    """All rows, those with a target of their own first: a run may end early."""
    parts = (attentions(), weights(), logits(), rows_of(True), rows_of(False), formats())
    return [case for part in parts for case in part]
