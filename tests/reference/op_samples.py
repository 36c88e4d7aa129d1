"""Random valid calls of every op, in NumPy, drawn from its declaration.

`RECIPES` says more where sizes or values matter; an op whose tensors may hold anything needs no
entry. The calls of the device suite, which have sizes and oracles of their own, are in
device_samples.py.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from my_llm_ffi import declaration
from my_llm_ffi.declaration import REQUIRED, Op, Tensor, block_of

from .blocks import fill

Sample = tuple[list[Any], dict[str, Any]]
Values = Callable[[np.random.Generator, tuple[int, ...]], Any]

_SIZES = (3, 8, 5, 7, 4, 6, 9, 2)  # of names that no recipe mentions, in order
_BATCH = (2, 3)
_FLOAT_FORMATS = {"F32": 4, "F16": 2, "BF16": 2}
_PLAIN = {"int": 2, "float": 1.0, "bool": False, "str": "x"}  # of options that must be given


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a declaration does not say of a valid call.

    Attributes:
        sizes: By the names in the signature.
        values: What draws a tensor's elements, by its name; others are normal, or 0 and 1.
        options: Those that are given.
        dtypes: Of tensors that are not like the first one.
        absent: Optional tensors that are None.
    """

    sizes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    values: Mapping[str, Values] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    absent: tuple[str, ...] = ()


def uniform(low: float, high: float) -> Values:
    """Numbers from `low` to `high`."""
    return lambda rng, shape: rng.uniform(low, high, shape)


def integers(low: int, high: int) -> Values:
    """Integers from `low` to below `high`."""
    return lambda rng, shape: rng.integers(low, high, shape)


def these(*values: Any) -> Values:
    """Always the same elements."""
    return lambda rng, shape: np.array(values).reshape(shape)


def _distinct(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.permutation(96)[: shape[0]]


def _page_positions(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    positions = np.full(shape, -1)
    positions[1, :5] = np.arange(5)
    return positions


_WORDS = integers(-(2**31), 2**31)
_VOCABULARY = {"vocab": 34, "words": 2, "masks": 2}
_HEADS = {"heads": 4, "kv_heads": 2, "head_dim": 8}
_PAGES = {**_HEADS, "pages": 3}
_RANGES = {"temperature": uniform(0.3, 2), "top_p": uniform(0.1, 1), "min_p": uniform(0, 0.3)}
_PAGED: dict[str, Values] = {
    "page_positions": _page_positions,
    "block_table": these(1, -1),
    "token_row": these(0, 0),
    "token_position": these(3, 4),
    "windows": these(3, 0),
    "sinks": these(1, 0),
}
_YARN = {"scaling": "yarn", "factor": 4.0, "original_context": 128}

RECIPES: dict[str, tuple[Recipe, ...]] = {
    "apply_penalties": (
        Recipe(
            {"vocab": 9},
            {"tokens": integers(-1, 9), "repetition": uniform(0.5, 2)},
        ),
        Recipe({"vocab": 9}, {"tokens": integers(-1, 9)}, absent=("repetition", "frequency")),
    ),
    "apply_token_bitmask": (
        Recipe(_VOCABULARY, {"bitmask": _WORDS, "mask_rows": integers(-1, 2)}),
        Recipe({**_VOCABULARY, "masks": 3, "rows": 3}, {"bitmask": _WORDS}, absent=("mask_rows",)),
    ),
    "attention": (
        Recipe(
            {**_HEADS, "queries": 5, "keys": 6, "bounds": 3},
            {"cu_q": these(0, 2, 5), "cu_k": these(0, 3, 6)},
            {"window": 2, "soft_cap": 20.0},
        ),
        Recipe({**_HEADS, "queries": 5, "keys": 9}, absent=("cu_q", "cu_k")),
    ),
    "dequantize": (Recipe(options={"format": "Q8_0"}), Recipe(options={"format": "Q4_K"})),
    "embedding_lookup": (
        Recipe(values={"ids": integers(0, 3)}, dtypes={"ids": "int64"}),
        Recipe(values={"ids": integers(0, 3)}, options={"format": "Q4_0"}),
    ),
    "gelu_mul": (Recipe(options={"approximate": "tanh"}), Recipe()),
    "kv_append": (Recipe(_PAGES, {"slots": _distinct}),),
    "linear": (
        Recipe({"n": 5, "width": 5, "cols": 8, "row_bytes": 8}),
        Recipe({"n": 5, "width": 5, "cols": 64}, options={"format": "Q8_0"}),
        Recipe({"n": 5, "cols": 64}, options={"format": "Q4_1"}, absent=("bias",)),
    ),
    "log_softmax": (Recipe(options={"scale": 0.5, "soft_cap": 3.0}),),
    "mask_logits": (
        Recipe(
            _VOCABULARY,
            {
                "bitmask": _WORDS,
                "mask_rows": integers(-1, 2),
                "ln_min_p": uniform(-6, -0.5),
                **_RANGES,
            },
        ),
        Recipe(_VOCABULARY, _RANGES, absent=("bitmask", "mask_rows", "ln_min_p")),
    ),
    "pack_weight": (Recipe(options={"format": "Q8_0"}),),
    "paged_attention": (
        Recipe({**_PAGES, "tokens": 2, "rows": 1, "max_pages": 2}, _PAGED, {"scale": 0.3}),
    ),
    "quantize_q8_0": (Recipe({"cols": 64}),),
    "rope": (
        Recipe(
            {"head_dim": 8, "pairs": 4},
            {"positions": integers(0, 1000), "freq_factors": uniform(1, 2)},
            _YARN,
        ),
        Recipe({"head_dim": 8}, {}, {"interleaved": True}, {}, ("freq_factors",)),
    ),
    "sample": (
        Recipe({"vocab": 9}, {"uniform": uniform(0, 0.99), "top_k": integers(-1, 9), **_RANGES}),
        Recipe(
            {"vocab": 9},
            {"uniform": uniform(0, 0.99)},
            absent=("temperature", "top_k", "top_p", "min_p"),
        ),
    ),
    "top_k": (Recipe({"n": 9}, {}, {"k": 3}),),
}


def samples(op: Op, seed: int = 0, floats: str = "float32") -> Iterator[Sample]:
    """Valid calls of an op: tensors in order, None where one is absent, and options.

    Args:
        op: The declaration.
        seed: Other seeds give other numbers.
        floats: Dtype of tensors that may have several.
    """
    rng = np.random.default_rng([seed, zlib.crc32(op.name.encode())])
    for recipe in RECIPES.get(op.name, (Recipe(),)):
        yield _draw(op, recipe, rng, floats)


def _draw(op: Op, recipe: Recipe, rng: np.random.Generator, floats: str) -> Sample:
    options = dict(recipe.options)
    for a in op.attributes:
        if a.default is REQUIRED and a.name not in options:
            options[a.name] = a.choices[0] if a.choices else _PLAIN[a.kind]
    format, sizes = options.get("format"), dict(recipe.sizes)
    if format is not None:
        sizes["row_bytes"] = 2 * _FLOAT_FORMATS.get(format, block_of(format)[1])
    dtype_of: dict[str, str] = {}
    tensors: list[Any] = []
    for tensor in op.inputs:
        if tensor.name in recipe.absent:
            tensors.append(None)
            continue
        shape = _shape(tensor, sizes)
        dtype = recipe.dtypes.get(tensor.name) or _dtype(tensor, dtype_of, floats, format)
        dtype_of[tensor.name] = dtype
        draw = recipe.values.get(tensor.name)
        values = draw(rng, shape) if draw else _elements(rng, shape, dtype, format)
        tensors.append(np.ascontiguousarray(values, dtype))
    return tensors, options


def _shape(tensor: Tensor, sizes: dict[str, Any]) -> tuple[int, ...]:
    shape: list[int] = []
    for dim in tensor.dims:
        if dim.startswith("*"):
            shape += sizes.setdefault(dim, _BATCH)
        elif dim.isdigit():
            shape.append(int(dim))
        else:
            shape.append(sizes.setdefault(dim, _SIZES[len(sizes) % len(_SIZES)]))
    return tuple(shape)


def _dtype(tensor: Tensor, dtype_of: dict[str, str], floats: str, format: str | None) -> str:
    if "uint8" in tensor.dtypes and format is not None:
        return "uint8"
    if tensor.like in dtype_of:
        return dtype_of[tensor.like]
    return floats if floats in tensor.dtypes else tensor.dtypes[0]


def _elements(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, format: str | None
) -> Any:
    if dtype == "uint8" and format is not None and format not in _FLOAT_FORMATS:
        block_bytes = block_of(format)[1]
        return fill(format, (shape[0], shape[1] // block_bytes), block_bytes, rng, 1.0)
    if dtype == "uint8":
        return rng.integers(0, 256, shape)
    return rng.integers(0, 2, shape) if dtype.startswith("int") else rng.normal(size=shape)


def sample(name: str) -> Sample:
    """One valid call of an op; the same in every call."""
    return next(samples(declaration.load(name)))
