"""What a plan costs per op, and the forward pass of SmolLM2 as a plan beside the model path.

``python -m benchmarks plan`` shows the first beside torch;
``python -m benchmarks.bench_plan [MODEL.gguf]`` prints both. benchmarks/native/bench_plan.cc
measures what a plan adds to the bare kernel.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any, Callable

import numpy as np

import my_llm_ffi as llm
from my_llm_ffi import plans

from .machine import Machine

ROUNDS = 15
SHORT, LONG = 10, 1010  # calls: the difference leaves out what a run costs by itself
PROMPT = 128
ASKED_RATIO = 0.95


def seconds(call: Callable[[], object], repeat: int) -> float:
    """Of one call, the best of some rounds: what other programs took is no cost of ours."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(repeat):
            call()
        best = min(best, (time.perf_counter() - begin) / repeat)
    return best


def chain(calls: int) -> Callable[[], object]:
    """A run of as many norms of four numbers."""
    b = llm.PlanBuilder()
    x, y = b.input("x", "float32", (1, 4)), b.buffer("float32", (1, 4))
    weight = b.constant(np.ones(4, np.float32), name="weight")
    for _ in range(calls):
        b.call("rms_norm", x, weight, y, 1e-6)
    b.output("y", y)
    plan = b.build()
    given, out = np.ones((1, 4), np.float32), np.empty((1, 4), np.float32)
    np.testing.assert_array_equal(
        plan.run({"x": given}, out={"y": out})["y"],
        llm.ops.rms_norm(given, np.ones(4, np.float32)),
    )

    def run() -> np.ndarray:
        plan._handle.run(given, out)
        return out

    return run


def cases(machine: Machine) -> Iterator[Any]:
    """A plan of 100 small norms beside 100 calls of torch's."""
    import torch
    import torch.nn.functional as F

    from .harness import Case

    run, x, weight = chain(100), torch.ones(1, 4), torch.ones(4)

    def loop() -> torch.Tensor:
        y = x
        for _ in range(100):
            y = F.rms_norm(x, (4,), weight, 1e-6)
        return y

    yield Case(
        op="plan of 100 rms_norm",
        shape="1x4",
        dtype="float32",
        ours=lambda: torch.from_numpy(run()),
        theirs=loop,
    )


def report_overhead() -> None:
    """Prints nanoseconds per op: the op's checks and arithmetic are in it."""
    short, long = (seconds(chain(n), 20) for n in (SHORT, LONG))
    per_op = (long - short) / (LONG - SHORT) * 1e9
    print(f"rms_norm of 4 numbers in a plan: {per_op:.0f} ns, its own checks and kernel included")
    x, weight = np.ones((1, 4), np.float32), np.ones(4, np.float32)
    out = np.empty_like(x)
    direct = seconds(lambda: llm.ops.rms_norm(x, weight, out=out), 1000) * 1e9
    print(f"the same called from Python:     {direct:.0f} ns")


def report_model(path: str) -> None:
    """Prints tokens per second of both ways, measured in turns."""
    plan, model = plans.llama(path), llm.Model(path)
    for n, repeat in ((PROMPT, 1), (1, 8)):
        tokens = [504] * n
        room = 2 * ROUNDS * repeat * n + n
        context, session = model.context(n_ctx=room), plans.Session(plan, n_ctx=room)
        times: dict[str, list[float]] = {"native": [], "plan": []}
        for _ in range(ROUNDS):
            for name, decode in (("native", context.decode), ("plan", session.decode)):
                begin = time.perf_counter()
                for _ in range(repeat):
                    decode(tokens)
                times[name].append((time.perf_counter() - begin) / repeat)
        np.testing.assert_array_equal(session.decode(tokens[:1]), decode_one(context, tokens[0]))
        ratio = statistics.median(a / b for a, b in zip(times["native"], times["plan"]))
        rates = ", ".join(f"{k} {n / min(v):.1f} tokens/s" for k, v in times.items())
        print(f"{n} tokens at once: {rates}; ratio {ratio:.3f} (asked: {ASKED_RATIO})")


def decode_one(context: llm.Context, token: int) -> np.ndarray:
    """Logits of one more token."""
    context.decode([token])
    return np.from_dlpack(context.logits)


if __name__ == "__main__":
    report_overhead()
    if len(sys.argv) > 1:
        report_model(sys.argv[1])
