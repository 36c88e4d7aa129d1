"""One valid call of each op, in NumPy: what the tests of all ops at once are driven with.

A new op gets an entry here; test_declaration.py fails without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Sample = tuple[list[Any], dict[str, Any]]


def _floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


SAMPLES: dict[str, Callable[[], Sample]] = {
    "dequantize": lambda: ([np.zeros((3, 68), np.uint8)], {"format": "Q8_0"}),
    "embedding_lookup": lambda: ([_floats(5, 8), np.array([[4, 0, 2]])], {}),
    "linear": lambda: ([_floats(3, 8), _floats(5, 8), _floats(5)], {}),
    "pack_weight": lambda: ([np.zeros((3, 68), np.uint8)], {"format": "Q8_0"}),
    "quantize_q8_0": lambda: ([_floats(3, 64)], {}),
    "rms_norm": lambda: ([_floats(3, 8), _floats(8)], {"eps": 1e-5}),
}
