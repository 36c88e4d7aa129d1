"""Waiting for responses, cancelling, shutting down: exactly one end for each request."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from reference.gguf_files import TinySpec
from reference.serving import (
    TIMEOUT_S,
    Answer,
    Answers,
    Executor,
    Gate,
    answer,
    collect,
    run,
    settled,
    wait_for,
)  # fmt: skip

MakeExecutor = Callable[..., Executor]


@pytest.fixture
def gate() -> Gate:
    return Gate()


def request(llm: ModuleType, count: int = 5, **fields: Any) -> Any:
    """One of so many tokens exactly."""
    sampling = llm.SamplingParams(temperature=0, logit_bias={2: -100.0})
    return llm.Request(**{"tokens": [7] * 4, "max_new_tokens": count, "sampling": sampling,
                          **fields})  # fmt: skip


def all_free(ex: Executor) -> bool:
    """No block is in use, but for what can be evicted."""
    stats = settled(ex)
    return bool(stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"])


# ---- waiting ------------------------------------------------------------------------------------


def test_nothing_in_flight(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    assert ex.await_responses() == []
    assert ex.await_responses(0) == []
    assert ex.await_responses(20) == []
    assert ex.await_responses(-5) == []
    answer(ex, request(llm))
    assert ex.await_responses() == []


def test_times_out(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(on_step=gate)
    gate.close()
    held = ex.enqueue_request(request(llm, 30))
    start = time.monotonic()
    assert ex.await_responses(100) == []
    assert ex.await_responses(100, held) == []
    assert time.monotonic() - start >= 0.2
    for timeout in (0, -1, -float("inf")):
        assert ex.await_responses(timeout) == ex.await_responses(timeout, held) == []
    gate.open()
    assert [r.request_id for r in ex.await_responses(float("inf"))] == [held]


def test_by_id_and_for_any(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    first, second, third = (ex.enqueue_request(request(llm)) for _ in range(3))
    (response,) = ex.await_responses(None, second)
    assert response.request_id == second
    assert ex.await_responses(None, second) == []
    rest = []
    while len(rest) < 2:
        rest += [r.request_id for r in ex.await_responses()]
    assert sorted(rest) == [first, third]
    assert ex.await_responses(None, first) == ex.await_responses(None, third) == []


@pytest.mark.parametrize("readers", [1, 2, 8])
def test_many_threads_wait_for_any(llm: ModuleType, executor: MakeExecutor, readers: int) -> None:
    ex = executor(max_batch_size=16)
    ids = [ex.enqueue_request(request(llm, 3 + i % 7, streaming=i % 2 == 0)) for i in range(60)]

    def read() -> list[Any]:
        mine: list[Any] = []
        while got := ex.await_responses():
            mine += got
        return mine

    with ThreadPoolExecutor(readers) as pool:
        shares = [
            future.result(TIMEOUT_S) for future in [pool.submit(read) for _ in range(readers)]
        ]
    responses = [response for share in shares for response in share]
    assert sorted(r.request_id for r in responses if r.is_request_final) == ids
    per_request = {i: sum(len(r.tokens) for r in responses if r.request_id == i) for i in ids}
    assert list(per_request.values()) == [3 + i % 7 for i in range(60)]


def test_threads_wait_for_one_request(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    wanted = ex.enqueue_request(request(llm, 100, streaming=True))

    def read() -> list[Any]:
        mine: list[Any] = []
        while got := ex.await_responses(None, wanted):
            mine += got
        return mine

    with ThreadPoolExecutor(4) as pool:
        shares = [future.result(TIMEOUT_S) for future in [pool.submit(read) for _ in range(4)]]
    responses = [response for share in shares for response in share]
    assert sum(len(r.tokens) for r in responses) == 100
    assert sum(r.is_request_final for r in responses) == 1


def test_waiters_are_let_go(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    """Whoever waits without a time-out returns when the last request was taken by another."""
    ex = executor(on_step=gate)
    gate.close()
    held = ex.enqueue_request(request(llm, 3))
    with ThreadPoolExecutor(3) as pool:
        waits = [pool.submit(ex.await_responses), pool.submit(ex.await_responses, None, held),
                 pool.submit(ex.await_responses, None, held)]  # fmt: skip
        time.sleep(0.05)
        gate.open()
        results = [wait.result(TIMEOUT_S) for wait in waits]
    assert sorted(len(result) for result in results) == [0, 0, 1]


# ---- cancelling ---------------------------------------------------------------------------------


def cancelled(llm: ModuleType, answers: list[Answer], n: int = 1) -> None:
    """All ended as cancelled."""
    assert [got.reason for got in answers] == [llm.FinishReason.CANCELLED] * n


@pytest.mark.parametrize(
    "fields",
    [{}, {"streaming": True}, {"num_return_sequences": 3}, {"best_of": 3},
     {"beam_width": 3, "num_return_sequences": 2}, {"prompt_logprobs": 1}],
    ids=["plain", "streaming", "n", "best_of", "beams", "prompt_logprobs"],
)  # fmt: skip
@pytest.mark.parametrize("steps", [None, 0, 1, 2, 7], ids=lambda s: f"after-{s}")
def test_cancel(
    llm: ModuleType,
    executor: MakeExecutor,
    gate: Gate,
    steps: int | None,
    fields: dict[str, Any],
) -> None:
    """While it waits, in its prompt's first and second part, in its answer."""
    ex = executor(max_batch_size=3, max_num_tokens=40, on_step=gate)
    gate.close()
    blocking = ex.enqueue_request(request(llm, 60, num_return_sequences=3))
    other = ex.enqueue_request(request(llm, 10))
    gate.await_held()
    ids = [ex.enqueue_request(request(llm, 100, tokens=[9] * 100, **fields)) for _ in range(2)]
    if steps is not None:
        assert ex.cancel_request(blocking)
        gate.step(1 + steps)
    for request_id in ids:
        assert ex.cancel_request(request_id)
        assert ex.cancel_request(request_id) in (True, False)
    gate.open()
    answers = collect(ex, [*ids, other, blocking])
    for request_id in ids:
        cancelled(llm, answers[request_id], fields.get("num_return_sequences", 1))
        assert not ex.cancel_request(request_id)
    assert answers[other][0].reason == llm.FinishReason.LENGTH
    assert all_free(ex)


def test_cancel_keeps_what_there_is(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(on_step=gate)
    expected = answer(ex, request(llm, 40)).tokens
    gate.close()
    half = ex.enqueue_request(request(llm, 40))
    gate.step(5)
    ex.cancel_request(half)
    gate.open()
    (got,) = collect(ex, [half])[half]
    assert 0 < len(got.tokens) < 40
    assert got.tokens == expected[: len(got.tokens)]


def test_cancel_when_preempted(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(max_batch_size=1, on_step=gate)
    gate.close()
    low = ex.enqueue_request(request(llm, 40))
    gate.await_held()
    high = ex.enqueue_request(request(llm, 40, priority=1.0))
    gate.step()
    assert ex.stats()["preemptions"] == 1
    ex.cancel_request(low)
    gate.open()
    cancelled(llm, collect(ex, [low])[low])
    assert len(collect(ex, [high])[high][0].tokens) == 40


def test_cancel_what_is_over(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    done = ex.enqueue_request(request(llm))
    wait_for(lambda: ex.stats()["unread"] == 1)
    assert not ex.cancel_request(done)
    collect(ex, [done])
    assert not ex.cancel_request(done)
    for unknown in (done + 1, -1, 2**62):
        with pytest.raises(ValueError, match=f"request_id {unknown} was never given"):
            ex.cancel_request(unknown)
        with pytest.raises(ValueError, match=f"request_id {unknown} was never given"):
            ex.await_responses(0, unknown)


def test_cancel_from_a_callback(llm: ModuleType, executor: MakeExecutor) -> None:
    ids: list[int] = []
    ex = executor(on_step=lambda stats: [ex.cancel_request(i) for i in ids])
    ids.append(ex.enqueue_request(request(llm, 500)))
    cancelled(llm, collect(ex, ids)[ids[0]])


def test_cancel_races_with_the_end(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    for i in range(60):
        racing = ex.enqueue_request(request(llm, 1 + i % 5))
        time.sleep((i % 7) * 2e-4)
        ex.cancel_request(racing)
        (got,) = collect(ex, [racing])[racing]
        assert got.reason in (llm.FinishReason.CANCELLED, llm.FinishReason.LENGTH)
    assert all_free(ex)


# ---- shutting down ------------------------------------------------------------------------------


def flight(llm: ModuleType, ex: Executor) -> list[int]:
    """Requests of all kinds, more than can run."""
    kinds: list[dict[str, Any]] = [
        {}, {"streaming": True}, {"num_return_sequences": 2}, {"best_of": 2}, {"beam_width": 2},
        {"tokens": [5] * 200}, {"priority": 3.0}, {"deadline_ms": 1e6},
    ]  # fmt: skip
    return [ex.enqueue_request(request(llm, 30, **fields)) for fields in kinds * 2]


def finished(ex: Executor) -> Answers:
    """Everything that is left after a shutdown."""
    answers = Answers()
    while responses := ex.await_responses():
        for response in responses:
            answers.add(response)
    return answers


@pytest.mark.parametrize("steps", [0, 3, 20])
def test_shutdown_aborts(llm: ModuleType, executor: MakeExecutor, gate: Gate, steps: int) -> None:
    ex = executor(max_batch_size=4, on_step=gate)
    gate.close()
    ids = flight(llm, ex)
    gate.step(1 + steps)
    gate.open()
    ex.shutdown()
    answers = finished(ex)
    assert sorted(answers.over) == ids
    reasons = {got.reason for one in ids for got in answers.of(one)}
    assert llm.FinishReason.CANCELLED in reasons
    assert reasons <= {llm.FinishReason.CANCELLED, llm.FinishReason.LENGTH}
    text = {got.error for i in ids for got in answers.of(i) if got.reason == 4}
    assert text == {"the executor was shut down"}


def test_shutdown_drains(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(max_batch_size=4)
    ids = flight(llm, ex)
    ex.shutdown(drain=True)
    answers = finished(ex)
    assert sorted(answers.over) == ids
    assert {got.reason for i in ids for got in answers.of(i)} == {llm.FinishReason.LENGTH}


def test_after_a_shutdown(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(logits_post_processor=lambda entries: None)
    done = ex.enqueue_request(request(llm))
    ex.shutdown(drain=True)
    ex.shutdown()
    ex.shutdown(drain=True)
    assert not ex.can_enqueue_request()
    for fields in ({}, {"use_logits_post_processor": True}):
        with pytest.raises(RuntimeError, match="shut down"):
            ex.enqueue_request(request(llm, **fields))
    with pytest.raises(RuntimeError, match="shut down"):
        ex.stream(request(llm))
    with pytest.raises(RuntimeError, match="shut down"):
        ex.load_lora("name", "file.gguf")
    stats = ex.stats()
    assert stats["requests_finished"] == 1
    assert stats["blocks_used"] == stats["running"] == stats["waiting"] == 0
    assert not ex.cancel_request(done)
    assert collect(ex, [done])[done][0].reason == llm.FinishReason.LENGTH
    assert ex.await_responses() == ex.await_responses(1e6) == []
    assert ex.loras() == []


def test_drain_is_a_bool(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    for bad in ("no", 0, 1, None):
        with pytest.raises(TypeError, match=r"drain is .*, expected bool"):
            ex.shutdown(drain=bad)
    assert ex.can_enqueue_request()


def test_a_drain_can_be_cut_short(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(on_step=gate)
    gate.close()
    endless = ex.enqueue_request(request(llm, 400))
    gate.await_held()
    with ThreadPoolExecutor(2) as pool:
        drain = pool.submit(ex.shutdown, True)
        wait_for(lambda: not ex.can_enqueue_request())
        gate.step(3)
        abort = pool.submit(ex.shutdown)
        time.sleep(0.05)
        assert not drain.done()
        gate.open()
        drain.result(TIMEOUT_S)
        abort.result(TIMEOUT_S)
    cancelled(llm, collect(ex, [endless])[endless])


def test_shutdown_from_many_threads(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    ids = flight(llm, ex)
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(ex.shutdown, i % 2 == 0) for i in range(6)]
        futures += [pool.submit(ex.stats), pool.submit(ex.can_enqueue_request)]
        for future in futures:
            future.result(TIMEOUT_S)
    assert sorted(finished(ex).over) == ids


def test_shutdown_lets_waiters_go(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(ex.await_responses, 1e9)
        time.sleep(0.05)
        ex.shutdown()
        assert wait.result(TIMEOUT_S) == []


def test_shutdown_does_not_wait_for_a_callback(llm: ModuleType, executor: MakeExecutor) -> None:
    release, called = threading.Event(), threading.Event()

    def block(_: Any) -> None:
        called.set()
        release.wait(TIMEOUT_S)

    ex = executor(logits_post_processor=block, post_processor_timeout_ms=1e7)
    asked = ex.enqueue_request(request(llm, use_logits_post_processor=True))
    assert called.wait(TIMEOUT_S)
    start = time.monotonic()
    ex.shutdown()
    assert time.monotonic() - start < TIMEOUT_S / 2
    release.set()
    cancelled(llm, collect(ex, [asked])[asked])


def test_leaving_the_block_aborts(llm: ModuleType, model: Any) -> None:
    with pytest.raises(KeyError, match="mine"), llm.Executor(model) as ex:
        ids = flight(llm, ex)
        raise KeyError("mine")
    assert sorted(finished(ex).over) == ids


# ---- what else ends -----------------------------------------------------------------------------


def test_two_executors(llm: ModuleType, executor: MakeExecutor) -> None:
    one, other = executor(), executor(kv_dtype="f32", max_num_tokens=8)
    requests = [request(llm, 20, tokens=[i + 5]) for i in range(20)]
    with ThreadPoolExecutor(2) as pool:
        both = [future.result(TIMEOUT_S) for future in
                [pool.submit(run, ex, requests) for ex in (one, other)]]  # fmt: skip
    tokens = [[got.tokens for (got,) in answers] for answers in both]
    third = run(executor(), requests)
    assert tokens[0] == [got.tokens for (got,) in third]
    one.shutdown()
    again = run(other, requests)
    assert tokens[1] == [got.tokens for (got,) in again]


def test_model_is_closed(llm: ModuleType, tmp_path: Path, gate: Gate) -> None:
    from reference.gguf_files import write_tiny

    model = llm.Model(write_tiny(tmp_path / "tiny.gguf", TinySpec()))
    with llm.Executor(model, on_step=gate) as ex:
        gate.close()
        ids = flight(llm, ex)
        gate.step(2)
        model.close()
        gate.open()
        answers = collect(ex, ids)
        for one in ids:
            for got in answers[one]:
                closed = got.reason == llm.FinishReason.ERROR and "closed" in got.error
                assert closed or got.reason == llm.FinishReason.LENGTH
        late = ex.enqueue_request(request(llm))
        assert collect(ex, [late])[late][0].reason == llm.FinishReason.ERROR
    with pytest.raises(ValueError, match="closed"):
        llm.Executor(model)


@pytest.mark.parametrize("busy", [False, True])
def test_garbage_collection(llm: ModuleType, model: Any, busy: bool) -> None:
    """Dropped with work in flight, while a callback of it may run."""
    steps: list[Any] = []
    ex = llm.Executor(model, on_step=lambda stats: (steps.append(stats), time.sleep(0.002)))
    gone = weakref.ref(ex)
    if busy:
        flight(llm, ex)
        wait_for(lambda: steps)
    before = threading.active_count()
    del ex

    def collected() -> bool:  # a callback that is still running holds its owner
        gc.collect()
        return gone() is None

    wait_for(collected)
    count = len(steps)
    time.sleep(0.05)
    assert len(steps) == count  # the engine is gone too
    assert threading.active_count() <= before
