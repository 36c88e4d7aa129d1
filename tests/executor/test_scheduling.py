"""Who runs when: priorities, aging, policies, deadlines, the bounds of queue and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from reference.serving import Answers, Executor, Gate, answer, collect, run, settled

MakeExecutor = Callable[..., Executor]
NEVER_ENDS = {2: -100.0}


@pytest.fixture
def gate() -> Gate:
    return Gate()


def request(llm: ModuleType, count: int = 5, n_prompt: int = 4, **fields: Any) -> Any:
    """One of so many tokens exactly."""
    sampling = llm.SamplingParams(temperature=0, logit_bias=NEVER_ENDS)
    given = {"tokens": [7] * n_prompt, "max_new_tokens": count, "sampling": sampling}
    return llm.Request(**{**given, **fields})


def hold(llm: ModuleType, ex: Executor, gate: Gate, **fields: Any) -> int:
    """Starts a request and holds the engine while it runs."""
    gate.close()
    held = ex.enqueue_request(request(llm, **{"count": 40, **fields}))
    gate.await_held()
    assert ex.stats()["running"] == 1
    return held


def ends(ex: Executor, ids: list[int]) -> list[int]:
    """The order in which requests end."""
    answers, order = Answers(), []
    while len(order) < len(ids):
        responses = ex.await_responses(60_000)
        assert responses, "a request does not end"
        for response in responses:
            answers.add(response)
            if response.is_request_final:
                order.append(response.request_id)
    return order


def one_by_one(gate: Gate, ex: Executor, ids: list[int]) -> list[int]:
    """The same step by step, because responses to a late reader come by id."""
    order: list[int] = []
    for _ in range(2000):
        order += [r.request_id for r in ex.await_responses(0) if r.is_request_final]
        if len(order) == len(ids):
            return order
        gate.step()
    raise AssertionError("requests do not end")


# ---- rank ---------------------------------------------------------------------------------------


def test_fifo(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(max_batch_size=1, on_step=gate)
    ids = [hold(llm, ex, gate)]
    ids += [ex.enqueue_request(request(llm, 6 - i)) for i in range(6)]
    assert one_by_one(gate, ex, ids) == ids


def test_priorities(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(max_batch_size=1, on_step=gate)
    first = hold(llm, ex, gate, priority=100.0)
    priorities = [0.0, -1.5, 3.0, 0.0, 3.0, 2.9, -1e300]
    ids = [ex.enqueue_request(request(llm, priority=p)) for p in priorities]
    ranked = sorted(range(len(ids)), key=lambda i: -priorities[i])  # stable: FIFO inside one
    assert one_by_one(gate, ex, [first, *ids]) == [first, *[ids[i] for i in ranked]]
    assert settled_after(gate, ex)["preemptions"] == 0


def settled_after(gate: Gate, ex: Executor) -> dict[str, Any]:
    """Figures after the engine was let go."""
    gate.open()
    return settled(ex)


def test_a_higher_priority_preempts(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(max_batch_size=1, on_step=gate)
    low = hold(llm, ex, gate)
    equal = ex.enqueue_request(request(llm))
    high = ex.enqueue_request(request(llm, priority=1.0))
    higher = ex.enqueue_request(request(llm, priority=2.0))
    assert one_by_one(gate, ex, [low, equal, high, higher]) == [higher, high, low, equal]
    assert settled_after(gate, ex)["preemptions"] == 1


def test_the_last_in_rank_gives_way(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    """Room for three of four sequences at their ends, where equal ones share no page."""
    ex = executor(kv_cache_tokens=320, enable_prefix_cache=False, on_step=gate)
    gate.close()
    ids = [ex.enqueue_request(request(llm, 90, priority=p)) for p in (1.0, 0.0, 3.0, 2.0)]
    assert one_by_one(gate, ex, ids)[-1] == ids[1]
    stats = settled_after(gate, ex)
    assert stats["preemptions"] >= 1
    assert stats["blocks_used"] == 0


def test_a_preempted_request_keeps_its_tokens(
    llm: ModuleType, executor: MakeExecutor, gate: Gate
) -> None:
    ex = executor(max_batch_size=1, on_step=gate)
    low = hold(llm, ex, gate, streaming=True)
    gate.step(10)
    before = ex.await_responses(0, low)
    high = ex.enqueue_request(request(llm, priority=1.0))
    gate.open()
    answers = Answers()
    for response in before:
        answers.add(response)
    while low not in answers.over:
        for response in ex.await_responses(None, low):
            answers.add(response)
    (got,) = answers.of(low)
    assert got.tokens == answer(ex, request(llm, 40)).tokens
    assert len(collect(ex, [high])[high][0].tokens) == 5


@pytest.mark.parametrize("aging_ms", [1.0, 1e9])
def test_aging(llm: ModuleType, executor: MakeExecutor, gate: Gate, aging_ms: float) -> None:
    ex = executor(max_batch_size=1, on_step=gate, priority_aging_ms=aging_ms)
    first = hold(llm, ex, gate, priority=1e9)
    old = ex.enqueue_request(request(llm))
    time.sleep(0.1)
    young = ex.enqueue_request(request(llm, priority=50.0))
    order = one_by_one(gate, ex, [first, old, young])
    assert order[1:] == ([old, young] if aging_ms == 1 else [young, old])


def test_an_aged_request_is_not_preempted_by_its_equals(
    llm: ModuleType, executor: MakeExecutor, gate: Gate
) -> None:
    """What waiting has added stays while it runs."""
    ex = executor(max_batch_size=1, on_step=gate, priority_aging_ms=1.0)
    first = hold(llm, ex, gate, priority=1e9, count=3)
    old = ex.enqueue_request(request(llm, 200))
    time.sleep(0.3)
    gate.step(5)
    assert [r.request_id for r in ex.await_responses(0)] == [first]
    young = ex.enqueue_request(request(llm, priority=20.0))
    gate.step()
    assert ex.stats()["preemptions"] == 0
    gate.open()
    assert sorted(ends(ex, [old, young])) == [old, young]


# ---- policies -----------------------------------------------------------------------------------


def growing(llm: ModuleType) -> list[Any]:
    """Short prompts that grow to three pages each."""
    return [request(llm, 80, tokens=[7 + i] * 6) for i in range(12)]


def test_max_utilization_preempts(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(kv_cache_tokens=256)
    expected = run(executor(), growing(llm))
    answers = run(ex, growing(llm))
    assert [got.tokens for (got,) in answers] == [got.tokens for (got,) in expected]
    assert settled(ex)["preemptions"] > 0


def test_guaranteed_no_evict(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(kv_cache_tokens=256, scheduler_policy=llm.SchedulerPolicy.GUARANTEED_NO_EVICT)
    expected = run(executor(), growing(llm))
    answers = run(ex, growing(llm))
    assert [got.tokens for (got,) in answers] == [got.tokens for (got,) in expected]
    assert settled(ex)["preemptions"] == 0


def test_guaranteed_no_evict_holds_against_priorities(
    llm: ModuleType, executor: MakeExecutor, gate: Gate
) -> None:
    ex = executor(
        max_batch_size=1,
        scheduler_policy=llm.SchedulerPolicy.GUARANTEED_NO_EVICT,
        on_step=gate,
    )
    low = hold(llm, ex, gate)
    high = ex.enqueue_request(request(llm, priority=5.0))
    assert one_by_one(gate, ex, [low, high]) == [low, high]
    assert settled_after(gate, ex)["preemptions"] == 0


# ---- steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 8, 33])
def test_tokens_of_a_step(llm: ModuleType, executor: MakeExecutor, gate: Gate, limit: int) -> None:
    ex = executor(max_num_tokens=limit, on_step=gate)
    run(ex, [request(llm, 6, n_prompt=50) for _ in range(4)])
    settled(ex)
    computed = [0, *[stats["computed_tokens"] for stats in gate.steps]]
    assert max(b - a for a, b in zip(computed, computed[1:])) == limit


def test_sequences_of_a_step(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(max_batch_size=3, on_step=gate)
    run(ex, [request(llm, 6) for _ in range(8)])
    assert max(stats["running"] for stats in gate.steps) == 3


def test_decode_first(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    """Running requests get a token in every step while a long prompt is computed."""
    ex = executor(max_num_tokens=16, on_step=gate)
    short = hold(llm, ex, gate, streaming=True, count=100)
    ex.await_responses(0, short)
    long = ex.enqueue_request(request(llm, 3, n_prompt=300))
    for _ in range(300 // 15):
        gate.step()
        (response,) = ex.await_responses(0, short)
        assert len(response.tokens) == 1
    assert ex.stats()["running"] == 2
    assert ex.await_responses(0, long) == []
    gate.open()
    collect(ex, [long])


def test_a_whole_prompt_gets_its_step(llm: ModuleType, executor: MakeExecutor) -> None:
    """Without chunks it needs a step to itself, which those who come later do not prevent."""
    ex = executor(enable_chunked_prefill=False, max_num_tokens=64, max_batch_size=4)
    gate_free = [request(llm, 20 + 7 * i) for i in range(12)]
    ids = [ex.enqueue_request(r) for r in gate_free[:2]]
    whole = ex.enqueue_request(request(llm, 2, n_prompt=64))
    ids += [ex.enqueue_request(r) for r in gate_free[2:]]
    order: list[int] = []
    while len(order) < len(ids) + 1:
        order += [r.request_id for r in ex.await_responses(60_000) if r.is_request_final]
    assert order.index(whole) < 6


# ---- deadlines ----------------------------------------------------------------------------------


def test_queue_deadline(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(max_batch_size=1, on_step=gate)
    first = hold(llm, ex, gate)
    late = ex.enqueue_request(request(llm, queue_deadline_ms=5.0))
    in_time = ex.enqueue_request(request(llm, queue_deadline_ms=1e7))
    time.sleep(0.02)
    gate.open()
    answers = collect(ex, [first, late, in_time])
    assert answers[late][0].reason == llm.FinishReason.TIMED_OUT
    assert answers[late][0].error == "queue_deadline_ms is over"
    assert answers[late][0].tokens == []
    assert answers[in_time][0].reason == answers[first][0].reason == llm.FinishReason.LENGTH


def test_deadline(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(max_batch_size=2, on_step=gate)
    for _ in range(20):  # on a busy machine it may not start in time
        gate.close()
        running = ex.enqueue_request(
            request(llm, 400, deadline_ms=100.0, num_return_sequences=2, streaming=True)
        )
        gate.await_held()
        started = ex.stats()["running"] == 1
        waiting = ex.enqueue_request(request(llm, deadline_ms=5.0))
        time.sleep(0.11)
        gate.open()
        answers = collect(ex, [running, waiting])
        for got in (*answers[running], *answers[waiting]):
            assert got.reason == llm.FinishReason.TIMED_OUT
            assert got.error == "deadline_ms is over"
        if started:
            assert len(answers[running]) == 2
            assert 0 < len(answers[running][0].tokens) < 400  # what there is is delivered
            return
    pytest.fail("no request started within its deadline")


@pytest.mark.parametrize("name", ["queue_deadline_ms", "deadline_ms"])
def test_no_time_at_all(llm: ModuleType, executor: MakeExecutor, name: str) -> None:
    got = answer(executor(), request(llm, **{name: 0}))
    assert got.reason == llm.FinishReason.TIMED_OUT


def test_queue_deadline_of_the_configuration(
    llm: ModuleType, executor: MakeExecutor, gate: Gate
) -> None:
    ex = executor(queue_deadline_ms=0.0)
    assert answer(ex, request(llm)).reason == llm.FinishReason.TIMED_OUT
    got = answer(ex, request(llm, queue_deadline_ms=1e7))
    assert got.reason == llm.FinishReason.LENGTH


def test_queue_deadline_is_for_the_queue(
    llm: ModuleType, executor: MakeExecutor, gate: Gate
) -> None:
    """Once started, a request has as long as it needs."""
    ex = executor(on_step=gate)
    for _ in range(20):  # on a busy machine it may not start in time
        gate.close()
        request_id = ex.enqueue_request(request(llm, queue_deadline_ms=100.0))
        gate.await_held()
        started = ex.stats()["running"] == 1
        time.sleep(0.11)
        gate.open()
        (got,) = collect(ex, [request_id])[request_id]
        if started:
            assert got.reason == llm.FinishReason.LENGTH
            return
    pytest.fail("no request started within its deadline")


# ---- bounds -------------------------------------------------------------------------------------


def test_full_queue(llm: ModuleType, executor: MakeExecutor, gate: Gate) -> None:
    ex = executor(max_batch_size=1, max_queue_size=3, on_step=gate)
    ids = [hold(llm, ex, gate)]
    for _ in range(3):
        assert ex.can_enqueue_request()
        ids.append(ex.enqueue_request(request(llm)))
    assert not ex.can_enqueue_request()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="queue is full: max_queue_size=3"):
            ex.enqueue_request(request(llm))
    with pytest.raises(RuntimeError, match="queue is full"):
        ex.stream(request(llm))
    gate.open()
    collect(ex, ids)
    assert ex.can_enqueue_request()
    assert answer(ex, request(llm)).tokens


def test_unread_answers_fill_the_queue(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(max_queue_size=2)
    ids = [ex.enqueue_request(request(llm)) for _ in range(2)]
    while ex.stats()["unread"] < 2:
        time.sleep(0.001)
    assert not ex.can_enqueue_request()
    with pytest.raises(RuntimeError, match="nobody read"):
        ex.enqueue_request(request(llm))
    collect(ex, ids[:1])
    ids.append(ex.enqueue_request(request(llm)))
    collect(ex, ids[1:])


def test_what_can_never_fit_is_refused(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(kv_cache_tokens=96)
    with pytest.raises(ValueError, match="can never fit kv_cache_tokens=96"):
        ex.enqueue_request(request(llm, 10, n_prompt=30, num_return_sequences=2))
    with pytest.raises(ValueError, match="tokens is 97, expected at most 95"):
        ex.enqueue_request(request(llm, n_prompt=97))
    (both,) = run(ex, [request(llm, 2, n_prompt=30, num_return_sequences=1)])
    assert len(both[0].tokens) == 2
    assert len(answer(ex, request(llm, 1000, n_prompt=95)).tokens) == 1
    assert settled(ex)["blocks_used"] == 0


def test_longer_than_a_step_without_chunks(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(enable_chunked_prefill=False, max_num_tokens=40)
    with pytest.raises(ValueError, match="max_num_tokens=40 without chunked prefill"):
        ex.enqueue_request(request(llm, n_prompt=41))
    assert len(answer(ex, request(llm, n_prompt=40)).tokens) == 5


def test_forced_tokens_in_steps_that_are_too_small(llm: ModuleType, executor: MakeExecutor) -> None:
    def force(entries: list[Any]) -> None:
        for entry in entries:
            if not entry.is_final:
                entry.forced_tokens = [50, 51, 52, 53, 54]

    for chunked in (True, False):
        ex = executor(logits_post_processor=force, max_num_tokens=4, enable_chunked_prefill=chunked)
        got = answer(ex, request(llm, 12, use_logits_post_processor=True))
        assert got.tokens == [50, 51, 52, 53, 54] * 2 + [50, 51]
