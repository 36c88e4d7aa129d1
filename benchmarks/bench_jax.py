"""What a call of an op costs under `jax.jit`, beside a jitted function that does nothing.

    python benchmarks/bench_jax.py [--calls 2000] [--rounds 11]

Results are compared with those of NumPy before the clock starts. The rows alternate, so that what
else the machine does meets all of them alike; a row is the median of its rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import my_llm_ffi as llm
import my_llm_ffi.jax as ops

ASKED_US = 5.0  # above the call that does nothing


def cases() -> dict[str, Callable[[], Any]]:
    """Calls by name; the first does nothing."""
    x = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)
    weight = np.ones(64, np.float32)
    np.testing.assert_array_equal(ops.rms_norm(x, weight), llm.ops.rms_norm(x, weight))
    given, gain = jax.numpy.asarray(x), jax.numpy.asarray(weight)
    nothing = jax.jit(lambda x, weight: x * 1)
    jitted = jax.jit(lambda x, weight: ops.rms_norm(x, weight))
    return {
        "no-op": lambda: nothing(given, gain),
        "rms_norm in jit": lambda: jitted(given, gain),
        "rms_norm, eager": lambda: ops.rms_norm(given, gain),
    }


def microseconds(call: Callable[[], Any], calls: int) -> float:
    """Mean of one call in a run of many."""
    begin = time.perf_counter()
    for _ in range(calls):
        call().block_until_ready()
    return (time.perf_counter() - begin) / calls * 1e6


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=2000, help="calls in a round")
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    rows = cases()
    for call in rows.values():
        microseconds(call, arguments.calls // 10 + 1)
    rounds = [
        {name: microseconds(call, arguments.calls) for name, call in rows.items()}
        for _ in range(arguments.rounds)
    ]
    for name in rows:
        median = statistics.median(r[name] for r in rounds)
        above = statistics.median(r[name] - r["no-op"] for r in rounds)
        print(f"{name:20} {median:7.2f} us  {above:+6.2f} us above the no-op")
    print(f"asked for: at most {ASKED_US:+.2f} us")


if __name__ == "__main__":
    main()
