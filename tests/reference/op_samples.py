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
    "add_rms_norm": lambda: ([_floats(3, 8), _floats(3, 8) + 1, _floats(8)], {"eps": 1e-5}),
    "dequantize": lambda: ([np.zeros((3, 68), np.uint8)], {"format": "Q8_0"}),
    "gelu_mul": lambda: ([_floats(3, 8), _floats(3, 8)], {"approximate": "tanh"}),
    "layer_norm": lambda: ([_floats(3, 8), _floats(8), _floats(8)], {"eps": 1e-5}),
    "log_softmax": lambda: ([_floats(3, 8)], {"scale": 0.5, "soft_cap": 5.0}),
    "rms_norm": lambda: ([_floats(3, 8), _floats(8)], {"eps": 1e-5}),
    "rope": lambda: (
        [_floats(3, 2, 8), _floats(3, 1, 8), np.arange(3), np.ones(3, np.float32)],
        {"rotary_dims": 6, "scaling": "yarn", "factor": 4.0, "original_context": 64},
    ),
    "silu_mul": lambda: ([_floats(3, 8), _floats(3, 8)], {}),
    "softmax": lambda: ([_floats(3, 8)], {"scale": 0.5, "soft_cap": 5.0}),
}
