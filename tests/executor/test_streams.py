"""stream and astream: one request's responses, cancelled when nobody wants them any more."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
from reference.serving import (
    TIMEOUT_S,
    Executor,
    Gate,
    answer,
    collect,
    in_flight,
    run,
    settled,
    wait_for,
)

MakeExecutor = Callable[..., Executor]


@pytest.fixture
def gate() -> Gate:
    return Gate()


def request(llm: ModuleType, count: int = 5, **fields: Any) -> Any:
    """One of so many tokens exactly."""
    sampling = llm.SamplingParams(temperature=0, logit_bias={2: -100.0})
    given = {"tokens": [7] * 4, "max_new_tokens": count, "sampling": sampling, "streaming": True}
    return llm.Request(**{**given, **fields})


def idle(ex: Executor) -> bool:
    """Nothing runs, waits or is unread, and no block is in use."""
    wait_for(lambda: ex.stats()["unread"] == 0)
    return bool(settled(ex)["blocks_used"] == 0)


# ---- stream -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"streaming": False}, {"num_return_sequences": 3}])
def test_stream(llm: ModuleType, executor: MakeExecutor, fields: dict[str, Any]) -> None:
    ex = executor()
    responses = list(ex.stream(request(llm, 12, **fields)))
    assert [r.is_request_final for r in responses] == [False] * (len(responses) - 1) + [True]
    (want,) = run(ex, [request(llm, 12, **fields)])
    for index, got in enumerate(want):
        tokens = [t for r in responses if r.sequence_index == index for t in r.tokens]
        assert tokens == got.tokens
    assert idle(ex)


def test_streams_in_turn(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    streams = [ex.stream(request(llm, 5 + i)) for i in range(6)]
    counts = [0] * 6
    while any(streams):
        for i, stream in enumerate(streams):
            if stream is None:
                continue
            response = next(stream)
            counts[i] += len(response.tokens)
            if response.is_request_final:
                assert list(stream) == []
                streams[i] = None
    assert counts == [5, 6, 7, 8, 9, 10]


def test_a_stream_begins_at_once(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(on_step=gate)
    stream = ex.stream(request(llm))
    wait_for(lambda: ex.stats()["requests_finished"] == 1)
    assert sum(len(r.tokens) for r in stream) == 5
    with pytest.raises(ValueError, match="max_new_tokens"):
        ex.stream(request(llm, -1))


def test_responses_of_a_stream_are_its_own(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    stream = ex.stream(request(llm, 50))
    plain = ex.enqueue_request(request(llm, 3, streaming=False))
    assert [r.request_id for r in ex.await_responses()] == [plain]
    assert ex.await_responses() == []
    assert sum(len(r.tokens) for r in stream) == 50


@pytest.mark.parametrize("how", ["break", "close", "raise", "drop", "never-begun"])
def test_leaving_a_stream(llm: ModuleType, executor: MakeExecutor, gate: Gate, how: str) -> None:
    ex = executor(on_step=gate)
    gate.close()
    stream = ex.stream(request(llm, 450))
    gate.step(2)
    if how != "never-begun":
        assert len(next(stream).tokens) == 1
    gate.open()
    if how == "break":
        for _ in stream:
            break
    elif how == "close":
        stream.close()
        assert list(stream) == []
    elif how == "raise":
        with pytest.raises(KeyError):
            for response in stream:
                raise KeyError(response.request_id)
    stream = None
    gc.collect()
    assert idle(ex)
    assert ex.stats()["generated_tokens"] < 450


def test_shutdown_ends_streams(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(on_step=gate)
    gate.close()
    stream = ex.stream(request(llm, 400))
    gate.step(3)
    gate.open()
    ex.shutdown()
    *_, last = stream
    assert last.finish_reason == llm.FinishReason.CANCELLED
    assert last.is_request_final


def test_cancelled_stream_ends(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(on_step=gate)
    gate.close()
    stream = ex.stream(request(llm, 400))
    gate.step(3)
    ex.cancel_request(next(stream).request_id)
    gate.open()
    *_, last = stream
    assert last.finish_reason == llm.FinishReason.CANCELLED


# ---- astream ------------------------------------------------------------------------------------


def asynchronously(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine, but not for ever."""

    async def bounded() -> Any:
        return await asyncio.wait_for(work, TIMEOUT_S)

    return asyncio.run(bounded())


async def tokens_of(ex: Executor, one: Any) -> list[int]:
    """All tokens of the first answer."""
    responses = [response async for response in ex.astream(one)]
    assert [r.is_request_final for r in responses] == [False] * (len(responses) - 1) + [True]
    return [token for r in responses if r.sequence_index == 0 for token in r.tokens]


@pytest.mark.parametrize("fields", [{}, {"streaming": False}, {"num_return_sequences": 3}])
def test_astream(llm: ModuleType, executor: MakeExecutor, fields: dict[str, Any]) -> None:
    ex = executor()
    one = request(llm, 12, **fields)
    got = asynchronously(tokens_of(ex, one))
    assert got == run(ex, [one])[0][0].tokens
    assert asynchronously(tokens_of(ex, one)) == got  # a second event loop
    assert idle(ex)


def test_a_hundred_at_once(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(max_batch_size=16)
    requests = [request(llm, 5 + i % 9, tokens=[5 + i, 6]) for i in range(100)]

    async def all_of_them() -> list[list[int]]:
        return await asyncio.gather(*(tokens_of(ex, one) for one in requests))

    got = asynchronously(all_of_them())
    assert got == [answers[0].tokens for answers in run(ex, requests)]
    assert idle(ex)


def test_event_loops_in_threads(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    with ThreadPoolExecutor(4) as pool:
        futures = [
            pool.submit(asynchronously, tokens_of(ex, request(llm, 20 + i))) for i in range(12)
        ]
        lengths = [len(future.result(TIMEOUT_S)) for future in futures]
    assert lengths == list(range(20, 32))


def test_exception_in_a_consumer(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()

    async def consume() -> None:
        async for response in ex.astream(request(llm, 450)):
            raise KeyError(response.request_id)

    for _ in range(5):
        with pytest.raises(KeyError):
            asynchronously(consume())
    assert idle(ex)
    assert ex.stats()["generated_tokens"] < 5 * 450


def test_cancelled_tasks(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(max_batch_size=4)

    async def begin_and_cancel() -> None:
        tasks = [asyncio.ensure_future(tokens_of(ex, request(llm, 450))) for _ in range(12)]
        while ex.stats()["generated_tokens"] == 0:
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} <= {asyncio.CancelledError, list}

    asynchronously(begin_and_cancel())
    assert idle(ex)


def test_the_loop_goes_away(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    """Its iterators were never closed: what comes for them finds no loop."""
    ex = executor(on_step=gate)
    gate.close()
    loop = asyncio.new_event_loop()
    stream = ex.astream(request(llm, 400))
    first = loop.create_task(stream.__anext__())
    loop.run_until_complete(asyncio.sleep(0))  # it is enqueued
    gate.step(2)
    loop.run_until_complete(first)
    loop.close()
    gate.open()
    assert settled(ex)["generated_tokens"] < 400
    assert idle(ex)
    assert len(asynchronously(tokens_of(ex, request(llm, 4)))) == 4
    del stream


def test_shutdown_ends_astreams(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(on_step=gate)

    async def consume() -> list[Any]:
        gate.close()
        stream = ex.astream(request(llm, 400))
        first = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)  # it is enqueued
        gate.step(2)
        await first
        gate.open()
        ex.shutdown()  # in the event loop's thread
        return [response async for response in stream]

    last = asynchronously(consume())[-1]
    assert last.finish_reason == llm.FinishReason.CANCELLED


def test_refusals_come_out(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(max_queue_size=1, max_batch_size=1, on_step=gate)
    with pytest.raises(ValueError, match="max_new_tokens"):
        asynchronously(tokens_of(ex, request(llm, -1)))
    gate.close()
    ids = [ex.enqueue_request(request(llm, 5))]
    gate.await_held()
    ids.append(ex.enqueue_request(request(llm, 5)))
    with pytest.raises(RuntimeError, match="queue is full"):
        asynchronously(tokens_of(ex, request(llm)))
    gate.open()
    collect(ex, ids)
    ex.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        asynchronously(tokens_of(ex, request(llm)))


def test_astream_beside_everything(llm: ModuleType, executor: MakeExecutor) -> None:
    """Awaiting for any, streams and astreams do not take each other's responses."""
    ex = executor()
    taken: list[int] = []

    def take() -> None:
        while len(taken) < 20:
            taken.extend(r.request_id for r in ex.await_responses(1000) if r.is_request_final)

    reader = threading.Thread(target=take)
    reader.start()
    mine: list[int] = []

    async def use_all() -> None:
        async def plain() -> None:
            for _ in range(20):
                mine.append(ex.enqueue_request(request(llm, 6)))
                await asyncio.sleep(0)

        await asyncio.gather(plain(), *(tokens_of(ex, request(llm, 9)) for _ in range(20)))

    asynchronously(use_all())
    assert sum(len(r.tokens) for r in ex.stream(request(llm, 9))) == 9
    reader.join(TIMEOUT_S)
    assert sorted(taken) == sorted(mine)


def test_slow_consumers_are_cancelled(llm: ModuleType, executor: MakeExecutor) -> None:
    """A stream whose reader does not come; others are not held up."""
    ex = executor(max_pending_responses=4)
    stream = ex.stream(request(llm, 300))
    assert answer(ex, request(llm, 30, streaming=False)).reason == llm.FinishReason.LENGTH
    wait_for(lambda: ex.stats()["running"] == 0)
    responses = list(stream)
    assert responses[-1].finish_reason == llm.FinishReason.CANCELLED
    assert "max_pending_responses=4" in responses[-1].error
    assert len(responses) == 5
    assert [len(r.tokens) for r in responses] == [1] * 5


def test_slow_consumers_of_asyncio_are_cancelled(llm: ModuleType, executor: MakeExecutor) -> None:
    """Likewise of an `astream`, with the same words; its event loop is not held up."""
    ex = executor(max_pending_responses=4, on_step=lambda _: time.sleep(0.005))

    async def consume() -> list[Any]:
        stream = ex.astream(request(llm, 300))
        first = await stream.__anext__()
        while in_flight(ex):
            await asyncio.sleep(0.001)
        return [first] + [response async for response in stream]

    responses = asynchronously(consume())
    assert responses[-1].finish_reason == llm.FinishReason.CANCELLED
    assert 5 <= len(responses) < 100
    assert ex.stats()["generated_tokens"] < 100
    plain = ex.stream(request(llm, 300))
    wait_for(lambda: in_flight(ex) == 0)
    unread = list(plain)
    assert responses[-1].error == unread[-1].error != "", unread
    tokens = [token for response in responses for token in response.tokens]
    assert tokens == answer(ex, request(llm, 300, streaming=False)).tokens[: len(tokens)]
    assert idle(ex)


def test_consumers_of_asyncio_that_keep_up(
    llm: ModuleType, executor: MakeExecutor, gate: Gate
) -> None:
    """What was taken does not count, however little may wait."""
    ex = executor(max_pending_responses=1, on_step=gate)

    async def consume() -> int:
        gate.close()
        count = 0
        stream = ex.astream(request(llm, 30))
        task = asyncio.ensure_future(stream.__anext__())
        while not gate.steps:
            await asyncio.sleep(0.001)
        for i in range(30):
            count += len((await task).tokens)
            if i < 29:
                task = asyncio.ensure_future(stream.__anext__())
                gate.step()
        gate.open()
        assert [response async for response in stream] == []
        return count

    assert asynchronously(consume()) == 30


def test_astream_of_no_request(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    for bad in (None, 5, {"tokens": [5]}):
        with pytest.raises(TypeError, match=r"request is .*, expected Request"):
            asynchronously(tokens_of(ex, bad))
        with pytest.raises(TypeError, match=r"request is .*, expected Request"):
            ex.stream(bad)
