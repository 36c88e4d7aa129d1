"""What sizes and options of an op must agree on beyond its signature; counterpart: declaration.py.

The kernels' own checks say the same in the same words (``That`` in src/kernels/*.cc). Here they are
for frameworks that ask for shapes without calling the op, and for outputs that are about to be
allocated. Sizes that a framework does not know yet are left to the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

Sizes = Mapping[str, Any]
_TILE_ROWS = 16  # of a packed weight (src/kernels/pack_weight.h)
_WORD_BITS = 32  # of a bitmask


def check(op: str, sizes: Sizes, dtypes: Mapping[str, str]) -> None:
    """Refuses what the op refuses, as far as sizes, dtypes and options alone say it.

    Args:
        op: Name of the op.
        sizes: Sizes that the names in its signature have, and its attributes.
        dtypes: Of the inputs that are given, by name.

    Raises:
        ValueError: They do not agree; names the op and the argument.
    """
    rule = _RULES.get(op)
    fault = None if rule is None else rule(sizes, dtypes)
    if fault is not None:
        raise ValueError(f"{op}: {fault}")


def _known(*sizes: Any) -> bool:
    """Whether these are plain numbers; those of a framework may be symbols."""
    return all(type(size) is int for size in sizes)


# ---- rules: what is wrong, or None --------------------------------------------------------------


def _top_k(sizes: Sizes, dtypes: Mapping[str, str]) -> str | None:
    k, n = sizes["k"], sizes["n"]
    if _known(k, n) and not 0 <= k <= n:
        return f"k is {k}, expected 0 to the {n} elements of a row of x"
    return None


def _quantize_q8_0(sizes: Sizes, dtypes: Mapping[str, str]) -> str | None:
    if _known(sizes["cols"]) and sizes["cols"] % 32:
        return f"x has rows of {sizes['cols']}, expected a multiple of 32"
    return None


def _heads(keys: str) -> Callable[[Sizes, Mapping[str, str]], str | None]:
    def rule(sizes: Sizes, dtypes: Mapping[str, str]) -> str | None:
        heads, kv_heads, window = sizes["heads"], sizes["kv_heads"], sizes["window"]
        if _known(heads, kv_heads) and (heads % kv_heads if kv_heads else heads):
            return f"q has {heads} heads, expected a multiple of the {kv_heads} of {keys}"
        if window is not None and _known(window) and window <= 0:
            return f"window must be positive or None, got {window}"
        for one, other in (("cu_q", "cu_k"), ("cu_k", "cu_q")):
            if one in dtypes and other not in dtypes:
                return f"{one} is given without {other}"
        return None

    return rule


def _bitmask(sizes: Sizes, dtypes: Mapping[str, str]) -> str | None:
    if "bitmask" not in dtypes:
        return "mask_rows without a bitmask" if "mask_rows" in dtypes else None
    masks, words, rows, vocab = (sizes[name] for name in ("masks", "words", "rows", "vocab"))
    if _known(words, vocab) and words < (needed := -(-vocab // _WORD_BITS)):
        return (
            f"bitmask has {words} words in a row, expected at least {needed} for the {vocab} "
            "tokens of logits"
        )
    if "mask_rows" not in dtypes and _known(masks, rows) and masks != rows:
        return f"bitmask has {masks} rows, expected {rows} as logits has, or mask_rows"
    return None


def _blocks(name: str) -> Callable[[Sizes, Mapping[str, str]], str | None]:
    def rule(sizes: Sizes, dtypes: Mapping[str, str]) -> str | None:
        row_bytes, block_bytes = sizes["row_bytes"], sizes["block_bytes"]
        if _known(row_bytes) and row_bytes % block_bytes:
            return (
                f"{name} has rows of {row_bytes} bytes, expected a multiple of {block_bytes} "
                f"(one block of {sizes['format']})"
            )
        return None

    return rule


def _weight(name: str, rows_name: str = "n") -> Callable[[Sizes, Mapping[str, str]], str | None]:
    """A weight that is floats, or bytes of a format, packed or not."""

    def rule(sizes: Sizes, dtypes: Mapping[str, str]) -> str | None:
        fault = kind(sizes, dtypes[name])
        return fault if fault is not None else rows(sizes)

    def kind(sizes: Sizes, dtype: str) -> str | None:
        given, packed, height = sizes["format"], sizes["packed"], sizes[rows_name]
        if dtype != "uint8":
            wrong = "packed" if packed else None if given is None else "format"
            return wrong and f"{wrong} is for a uint8 weight, got {name} of dtype {dtype}"
        if given is None:
            return f"{name} is uint8, expected format= the name of its blocks' format"
        if packed and _known(height) and height % _TILE_ROWS:
            return (
                f"{name} has {height} rows, expected a multiple of {_TILE_ROWS} where it is packed"
            )
        return _blocks(name)(sizes, {})

    def rows(sizes: Sizes) -> str | None:
        wanted, most = sizes["rows"], sizes[rows_name]
        if wanted is None or not _known(wanted, most):
            return None
        least = most - (_TILE_ROWS - 1 if sizes["packed"] and most else 0)
        span = f"{least} to {most}" if least < most else f"{most}"
        fits = least <= wanted <= most
        return None if fits else f"rows is {wanted}, expected {span} (from {name})"

    return rule


def _linear(sizes: Sizes, dtypes: Mapping[str, str]) -> str | None:
    fault = _weight("weight")(sizes, dtypes)
    if fault is not None:
        return fault
    given, row_bytes, cols = sizes["format"], sizes["row_bytes"], sizes["cols"]
    if _known(row_bytes, cols) and cols != (
        held := row_bytes // sizes["block_bytes"] * sizes["block"]
    ):
        kind = given or {"float32": "F32", "float16": "F16"}.get(dtypes["weight"], "BF16")
        return f"x has shape [..., {cols}], expected [..., {held}] (from weight, {kind})"
    height = sizes["n"] if sizes["rows"] is None else sizes["rows"]
    if "bias" in dtypes and _known(height, sizes["width"]) and sizes["width"] != height:
        return f"bias has shape [{sizes['width']}], expected [{height}] (rows of weight)"
    return None


_RULES: dict[str, Callable[[Sizes, Mapping[str, str]], str | None]] = {
    "apply_token_bitmask": _bitmask,
    "attention": _heads("k"),
    "dequantize": _blocks("weight"),
    "embedding_lookup": _weight("table"),
    "linear": _linear,
    "mask_logits": _bitmask,
    "pack_weight": _blocks("weight"),
    "paged_attention": _heads("k_pages"),
    "quantize_q8_0": _quantize_q8_0,
    "top_k": _top_k,
}
