"""Faults in an executor's callbacks, each with a test of its name. Counterpart: test_faults.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from reference.serving import Executor, answer, collect, in_flight, run, settled, wait_for

MakeExecutor = Callable[..., Executor]
CALLBACKS = ["on_step", "logits_post_processor"]


def request(llm: ModuleType, count: int = 8, **fields: Any) -> Any:
    """One of so many tokens exactly."""
    sampling = llm.SamplingParams(seed=1, logit_bias={2: -100.0})
    given = {"tokens": [9, 80, 140], "max_new_tokens": count, "sampling": sampling}
    return llm.Request(**{**given, **fields})


def goes_on(llm: ModuleType, ex: Executor) -> None:
    """The executor answers as if nothing had happened, and holds no block."""
    wait_for(lambda: settled(ex)["blocks_used"] == 0)
    assert len(answer(ex, request(llm)).tokens) == 8


@pytest.mark.parametrize(
    "error",
    [ValueError("text"), KeyboardInterrupt(), SystemExit(1), MemoryError(), StopIteration(),
     GeneratorExit(), RuntimeError("\x00\ud800 é"), type("Odd", (BaseException,), {})()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_fault_callback_that_raises(
    llm: ModuleType, executor: MakeExecutor, error: BaseException
) -> None:
    def process(entries: list[Any]) -> None:
        if any(entry.client_id == 1 and not entry.is_final for entry in entries):
            raise error

    def step(stats: dict[str, Any]) -> None:
        raise error

    ex = executor(logits_post_processor=process, on_step=step)
    masked = request(llm, use_logits_post_processor=True, client_id=1)
    got = answer(ex, masked)
    assert got.reason == llm.FinishReason.ERROR
    assert "logits post-processor" in got.error
    assert len(answer(ex, request(llm, use_logits_post_processor=True)).tokens) == 8
    goes_on(llm, ex)


def test_fault_callback_that_blocks(llm: ModuleType, executor: MakeExecutor) -> None:
    release = threading.Event()
    ex = executor(
        logits_post_processor=lambda entries: release.wait(60), post_processor_timeout_ms=50.0
    )
    masked = request(llm, use_logits_post_processor=True)
    for answers in run(ex, [masked, masked]):
        assert "no answer after 50 ms" in answers[0].error
    goes_on(llm, ex)
    start = time.monotonic()
    ex.shutdown()
    assert time.monotonic() - start < 30
    release.set()


def test_fault_callback_that_blocks_the_step(llm: ModuleType, executor: MakeExecutor) -> None:
    """Waits end at their time, cancels are taken, and all goes on when it comes back."""
    blocked, release = threading.Event(), threading.Event()

    def block(_: Any) -> None:
        blocked.set()
        assert release.wait(60)

    ex = executor(on_step=block)
    ids = [ex.enqueue_request(request(llm, 200)) for _ in range(3)]
    assert blocked.wait(60)
    ids.append(ex.enqueue_request(request(llm)))
    assert ex.await_responses(30, ids[0]) == ex.await_responses(30) == []
    assert ex.cancel_request(ids[0])
    assert ex.cancel_request(ids[3])
    assert in_flight(ex) == 4
    release.set()
    cut, whole, also_whole, never = (answers for (answers,) in collect(ex, ids).values())
    assert cut.reason == never.reason == llm.FinishReason.CANCELLED
    assert len(whole.tokens) == len(also_whole.tokens) == 200
    assert never.tokens == []
    goes_on(llm, ex)


@pytest.mark.parametrize("where", CALLBACKS)
def test_fault_callback_that_calls_back(
    llm: ModuleType, executor: MakeExecutor, where: str
) -> None:
    """What would wait for the engine, which waits for the callback, is refused."""
    said: list[str] = []
    mine: list[int] = []

    def refused(call: Callable[[], object]) -> None:
        try:
            call()
        except RuntimeError as error:
            said.append(str(error))
        else:
            said.append("was let through")

    def use(_: Any) -> None:
        if len(mine) == 8:
            return
        mine.append(ex.enqueue_request(request(llm, 3)))
        ex.cancel_request(mine[-1])
        ex.stats()
        ex.await_responses(0, mine[0])
        refused(lambda: ex.shutdown(drain=True))
        refused(lambda: ex.await_responses())
        refused(lambda: ex.await_responses(None, mine[-1]))
        refused(lambda: ex.await_responses(1e6, mine[-1]))
        refused(lambda: list(ex.stream(request(llm, 3))))

    ex = executor(**{where: use}, post_processor_timeout_ms=60_000.0)
    got = answer(ex, request(llm, use_logits_post_processor=where != "on_step"))
    assert len(got.tokens) == 8
    wait_for(lambda: mine and len(said) == 5 * len(mine))
    assert all("callback" in text for text in said), said
    collect(ex, mine[1:])
    goes_on(llm, ex)


def test_fault_killed_worker(llm: ModuleType, executor: MakeExecutor) -> None:
    """Each call is given up; each time another worker takes the place of the lost one."""
    release = threading.Event()
    ex = executor(
        logits_post_processor=lambda entries: release.wait(60),
        post_processor_timeout_ms=20.0,
        n_post_processor_threads=2,
    )
    masked = request(llm, use_logits_post_processor=True, num_return_sequences=2)
    for _ in range(10):
        ((one, two),) = run(ex, [masked])
        assert one.reason == two.reason == llm.FinishReason.ERROR
    release.set()
    # On a busy machine a good call may be late too.
    wait_for(lambda: [len(got.tokens) for got in run(ex, [masked])[0]] == [8, 8])
    goes_on(llm, ex)
