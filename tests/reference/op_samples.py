"""One valid call of each op, in NumPy: what the tests of all ops at once are driven with.

A new op gets an entry here; test_declaration.py fails without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Sample = tuple[list[Any], dict[str, Any]]

PAGES, PAGE = 3, 32


def _floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def _uniform(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(size=shape, dtype=np.float32)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def _q8_0(rows: int, cols: int) -> np.ndarray:
    return np.zeros((rows, cols // 32 * 34), np.uint8)


def _row(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def _paged_attention() -> Sample:
    positions = np.full((PAGES, PAGE), -1, np.int32)
    positions[1, :5] = np.arange(5)
    k_pages, v_pages = _floats(PAGES, 2, 8, PAGE), _floats(PAGES, 2, PAGE, 8)
    table = np.array([[1, -1]], np.int32)
    return [_floats(2, 4, 8), k_pages, v_pages, positions, table, _ints(0, 0), _ints(3, 4)], {}


def _kv_append() -> Sample:
    pages = [np.zeros((PAGES, 2, 8, PAGE), np.float32), np.zeros((PAGES, 2, PAGE, 8), np.float32)]
    slots = np.array([33, 34, 2], np.int64)
    return [*pages, _floats(3, 2, 8), _floats(3, 2, 8) + 1, slots], {}


def _mask_logits() -> Sample:
    mask = np.array([[0b10110, 1], [-1, 3]], np.int32)
    return [_floats(2, 34), mask, _ints(1, 0), _row(0.7, 1.3), _row(-3.0, -2.0)], {}


SAMPLES: dict[str, Callable[[], Sample]] = {
    "add_rms_norm": lambda: ([_floats(3, 8), _floats(3, 8) + 1, _floats(8)], {"eps": 1e-5}),
    "apply_penalties": lambda: (
        [_floats(2, 9), np.array([[1, 1, 4], [8, -1, -1]], np.int32), *[_row(1.5, 2.0)] * 3],
        {},
    ),
    "apply_token_bitmask": lambda: ([_floats(2, 9), np.array([[5], [256]], np.int32)], {}),
    "argmax": lambda: ([_floats(2, 3, 9)], {}),
    "attention": lambda: (
        [_floats(5, 4, 8), _floats(6, 2, 8), _floats(6, 2, 8) - 1, _ints(0, 2, 5), _ints(0, 3, 6)],
        {"window": 2, "soft_cap": 20.0},
    ),
    "dequantize": lambda: ([_q8_0(3, 64)], {"format": "Q8_0"}),
    "embedding_lookup": lambda: ([_floats(5, 8), np.array([[4, 0], [2, 2]], np.int64)], {}),
    "gelu_mul": lambda: ([_floats(3, 8), _floats(3, 8) - 1], {"approximate": "tanh"}),
    "kv_append": _kv_append,
    "layer_norm": lambda: ([_floats(3, 8), _floats(8), _floats(8) + 1], {}),
    "linear": lambda: ([_floats(3, 32), _q8_0(5, 32), _floats(5)], {"format": "Q8_0"}),
    "log_softmax": lambda: ([_floats(3, 8)], {"scale": 0.5, "soft_cap": 3.0}),
    "mask_logits": _mask_logits,
    "pack_weight": lambda: ([_q8_0(3, 64)], {"format": "Q8_0"}),
    "paged_attention": _paged_attention,
    "quantize_q8_0": lambda: ([_floats(3, 64)], {}),
    "rms_norm": lambda: ([_floats(3, 8), _floats(8)], {"eps": 1e-5}),
    "rope": lambda: (
        [_floats(3, 4, 8), _floats(3, 2, 8), _ints(0, 7, 9), _uniform(4) + 1],
        {"scaling": "yarn", "factor": 4.0, "original_context": 128},
    ),
    "sample": lambda: (
        [_floats(2, 9), _uniform(2), _row(0.7, 0.0), _ints(5, 0), _row(0.9, 1.0), _row(0.1, 0.0)],
        {},
    ),
    "silu_mul": lambda: ([_floats(3, 8), _floats(3, 8) - 1], {}),
    "softmax": lambda: ([_floats(3, 8)], {}),
    "top_k": lambda: ([_floats(2, 9)], {"k": 3}),
}
