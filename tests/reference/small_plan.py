"""A plan of three calls, and what it computes."""

from __future__ import annotations

import numpy as np

import my_llm_ffi as llm

ONES = np.ones(16, np.float32)


def rows(n: int, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width), dtype=np.float32)


def small_builder() -> llm.PlanBuilder:
    """silu(norm(x) * w) * norm(norm(x)) with a constant, a parameter, buffers and a view."""
    b = llm.PlanBuilder()
    x = b.input("x", "float32", ("n", 16))
    w = b.constant(2 * ONES, name="w")
    p = b.parameter("p", "float32", (16,))
    y, z = b.buffer("float32", ("n", 16)), b.buffer("float32", ("n", 16))
    out = b.buffer("float32", ("n * 2", 8))
    b.call("rms_norm", x, w, y, 1e-6)
    b.call("rms_norm", y, p, z, 1e-6)
    b.call("silu_mul", y, z, b.view(out, ("n", 16)))
    b.output("out", out)
    return b


def expected(x: np.ndarray) -> np.ndarray:
    y = llm.ops.rms_norm(x, 2 * ONES)
    return llm.ops.silu_mul(y, llm.ops.rms_norm(y, 3 * ONES)).reshape(-1, 8)
