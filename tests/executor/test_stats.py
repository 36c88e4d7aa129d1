"""Figures of an executor: they add up, and blocks come back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference.serving import Executor, Gate, answer, collect, run, settled, wait_for

MakeExecutor = Callable[..., Executor]
PAGE = 32
NEVER_ENDS = {2: -100.0}


def prompt(n: int, seed: int = 0) -> list[int]:
    """Random tokens."""
    return [int(t) for t in np.random.default_rng(seed).integers(3, 355, n)]


def request(llm: ModuleType, count: int = 5, **fields: Any) -> Any:
    """One of so many tokens exactly."""
    sampling = llm.SamplingParams(temperature=0, logit_bias=NEVER_ENDS)
    given = {"tokens": prompt(4), "max_new_tokens": count, "sampling": sampling}
    return llm.Request(**{**given, **fields})


def test_names(llm: ModuleType, executor: MakeExecutor) -> None:
    stats = executor().stats()
    assert {name for name, value in stats.items() if isinstance(value, list)} == {
        "time_to_first_token_counts", "time_between_tokens_counts",
    }  # fmt: skip
    assert {name for name, value in stats.items() if isinstance(value, float)} == {
        "forward_seconds", "step_seconds", "prefill_seconds", "decode_seconds",
        "time_to_first_token_seconds", "time_between_tokens_seconds",
    }  # fmt: skip
    counts = {n: v for n, v in stats.items() if not isinstance(v, list)}
    nonzero = {"blocks_total", "blocks_free", "max_num_tokens"}
    assert {name for name, value in counts.items() if value} == nonzero


@pytest.mark.parametrize("cache", [True, False])
def test_counters_add_up(llm: ModuleType, executor: MakeExecutor, cache: bool) -> None:
    ex = executor(enable_prefix_cache=cache)
    lengths = [(1, 1), (40, 7), (33, 20), (90, 3), (64, 11)]
    requests = [request(llm, count, tokens=prompt(n, n)) for n, count in lengths]
    run(ex, requests)
    stats = settled(ex)
    n_prompt, n_new = (sum(pair[i] for pair in lengths) for i in (0, 1))
    assert stats["requests"] == stats["requests_finished"] == len(lengths)
    assert stats["prompt_tokens"] == n_prompt
    assert stats["generated_tokens"] == n_new
    # The last token of each answer goes nowhere.
    assert stats["computed_tokens"] == n_prompt + n_new - len(lengths)
    assert stats["prefill_tokens"] + stats["decode_tokens"] == stats["computed_tokens"]
    assert stats["cached_prompt_tokens"] == stats["preemptions"] == 0
    seconds = stats["prefill_seconds"] + stats["decode_seconds"]
    assert seconds == pytest.approx(stats["forward_seconds"])
    assert 0 < stats["forward_seconds"] <= stats["step_seconds"]
    assert sum(stats["time_to_first_token_counts"]) == len(lengths)
    assert sum(stats["time_between_tokens_counts"]) == n_new - len(lengths)
    assert stats["time_to_first_token_seconds"] > 0
    assert stats["time_between_tokens_seconds"] > 0
    assert stats["steps"] >= 20


def test_histograms(llm: ModuleType, executor: MakeExecutor) -> None:
    """Classes double from 1 ms on; the sum lies between their bounds."""
    ex = executor()
    run(ex, [request(llm, 30) for _ in range(6)])
    stats = settled(ex)
    for name in ("time_to_first_token", "time_between_tokens"):
        counts = stats[f"{name}_counts"]
        upper = [1e-3 * 2**i for i in range(len(counts))]
        lower = [0.0, *upper[:-1]]
        total = stats[f"{name}_seconds"]
        assert np.dot(counts, lower) <= total
        assert counts[-1] or total <= np.dot(counts, upper)


def test_tokens_of_several_answers(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    run(ex, [request(llm, 6, num_return_sequences=4)])
    stats = settled(ex)
    assert stats["generated_tokens"] == 24
    assert stats["prompt_tokens"] == 4
    assert stats["requests"] == stats["requests_finished"] == 1
    assert sum(stats["time_to_first_token_counts"]) == 1
    assert sum(stats["time_between_tokens_counts"]) == 4 * 5


def test_now(llm: ModuleType, executor: MakeExecutor) -> None:
    gate = Gate()
    ex = executor(max_batch_size=2, on_step=gate)
    gate.close()
    ids = [ex.enqueue_request(request(llm, 10))]
    gate.await_held()
    ids += [ex.enqueue_request(request(llm, 10)) for _ in range(3)]
    gate.step(2)
    stats = ex.stats()
    assert (stats["running"], stats["waiting"]) == (2, 2)
    assert stats["blocks_used"] == 2
    gate.open()
    stats = settled(ex)
    assert stats["unread"] == 4
    collect(ex, ids)
    assert ex.stats()["unread"] == 0


# ---- blocks -------------------------------------------------------------------------------------


def test_blocks(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(kv_cache_tokens=1000, enable_prefix_cache=False)
    assert ex.stats()["blocks_total"] == 32  # whole ones
    run(ex, [request(llm, 5, tokens=prompt(n)) for n in (1, 31, 32, 33, 100)])
    stats = settled(ex)
    assert stats["blocks_free"] == 32
    assert stats["blocks_used"] == stats["blocks_cached"] == 0


def test_blocks_in_use(llm: ModuleType, executor: MakeExecutor) -> None:
    gate = Gate()
    ex = executor(on_step=gate)
    for n in (1, 31, 32, 33, 64, 65):
        gate.close()
        one = ex.enqueue_request(request(llm, 3, tokens=prompt(n, n)))
        gate.await_held()
        used = {gate.steps[-1]["blocks_used"]}
        gate.step()
        used.add(gate.steps[-1]["blocks_used"])
        gate.open()
        collect(ex, [one])
        made = settled(ex)["steps"]
        wait_for(lambda made=made: gate.steps[-1]["steps"] == made)  # the gate was told of all
        assert used == {-(-n // PAGE), -(-(n + 1) // PAGE)}


def test_blocks_are_all_free_or_cached(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(kv_cache_tokens=640)
    everything = [
        request(llm, 40, tokens=prompt(10 + 5 * i, i % 4), **fields)
        for i, fields in enumerate(
            [{}, {"num_return_sequences": 3}, {"best_of": 2}, {"beam_width": 3},
             {"streaming": True}, {"prompt_logprobs": 1}, {"deadline_ms": 1}, {"priority": 1.0}] * 3
        )
    ]  # fmt: skip
    ids = [ex.enqueue_request(one) for one in everything]
    for i in ids[::5]:
        ex.cancel_request(i)
    collect(ex, ids)
    stats = settled(ex)
    assert stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"] == 20
    assert stats["blocks_used"] == 0
    assert stats["requests_finished"] == len(ids)


# ---- the prefix cache ---------------------------------------------------------------------------


def test_a_hundred_with_one_beginning(llm: ModuleType, executor: MakeExecutor) -> None:
    """64 shared tokens are two pages, which one request computes for all."""
    ex = executor()
    shared = prompt(64)
    requests = [request(llm, 3, tokens=shared + prompt(5, i)) for i in range(100)]
    first = answer(ex, requests[0])
    assert first.last.cached_tokens == 0
    rest = run(ex, requests[1:])
    assert [got.last.cached_tokens for (got,) in rest] == [64] * 99
    stats = settled(ex)
    assert stats["prefix_tokens_hit"] == stats["cached_prompt_tokens"] == 99 * 64
    assert stats["prefix_tokens_hit"] >= 0.95 * 100 * 64
    assert stats["computed_tokens"] == 64 + 100 * (5 + 2)


def test_a_hundred_at_once(llm: ModuleType, executor: MakeExecutor) -> None:
    """Those that begin in the same step cannot know of each other; the others can."""
    ex = executor()
    shared = prompt(64)
    run(ex, [request(llm, 3, tokens=shared + prompt(5, i)) for i in range(100)])
    assert settled(ex)["prefix_tokens_hit"] >= 0.95 * 100 * 64


@pytest.mark.parametrize(
    ("n", "cached"), [(1, 0), (31, 0), (32, 0), (33, 32), (63, 32), (64, 32), (65, 64), (97, 96)]
)
def test_full_pages_are_shared(
    llm: ModuleType, executor: MakeExecutor, n: int, cached: int
) -> None:
    """The last token of a prompt is always computed."""
    ex = executor()
    one = request(llm, 2, tokens=prompt(n))
    assert answer(ex, one).last.cached_tokens == 0
    assert answer(ex, one).last.cached_tokens == cached


def test_answers_are_known_too(llm: ModuleType, executor: MakeExecutor) -> None:
    """What was generated is the beginning of the next turn's prompt."""
    ex = executor()
    start = prompt(20)
    said = answer(ex, request(llm, 60, tokens=start)).tokens
    turn = request(llm, 3, tokens=[*start, *said, 5, 6])
    assert answer(ex, turn).last.cached_tokens == 64


def test_other_beginnings_are_not_shared(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    base = prompt(70)
    answer(ex, request(llm, 2, tokens=base))
    changed = [*base[:31], (base[31] + 1) % 300 + 3, *base[32:]]
    assert answer(ex, request(llm, 2, tokens=changed)).last.cached_tokens == 0
    later = [*base[:40], (base[40] + 1) % 300 + 3, *base[41:]]
    assert answer(ex, request(llm, 2, tokens=later)).last.cached_tokens == 32


def test_windows_are_not_shared(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    base = prompt(70)
    answer(ex, request(llm, 2, tokens=base))
    for fields in ({"attention_window": 16}, {"attention_window": 16, "sink_tokens": 4}):
        other = request(llm, 2, tokens=base, **fields)
        assert answer(ex, other).last.cached_tokens == 0
        assert answer(ex, other).last.cached_tokens == 64


def test_the_oldest_is_forgotten(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(kv_cache_tokens=320)
    texts = [request(llm, 2, tokens=prompt(97, i)) for i in range(6)]
    run(ex, texts[:1])
    for one in texts[1:]:  # three pages each, of ten
        answer(ex, one)
    assert answer(ex, texts[5]).last.cached_tokens == 96
    assert answer(ex, texts[0]).last.cached_tokens == 0
    stats = settled(ex)
    assert stats["blocks_cached"] + stats["blocks_free"] == 10


def test_no_cache(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(enable_prefix_cache=False)
    one = request(llm, 2, tokens=prompt(70))
    for _ in range(2):
        assert answer(ex, one).last.cached_tokens == 0
    stats = settled(ex)
    assert stats["prefix_tokens_hit"] == stats["prefix_tokens_looked_up"] == 0
    assert stats["blocks_cached"] == 0


# ---- the log ------------------------------------------------------------------------------------


def test_log(llm: ModuleType, executor: MakeExecutor, caplog: pytest.LogCaptureFixture) -> None:
    def fail(stats: dict[str, Any]) -> None:
        raise ValueError("a bad day")

    ex = executor(on_step=fail)
    llm.log_to_logging()
    try:
        with caplog.at_level(logging.DEBUG, logger="my_llm_ffi"):
            answer(ex, request(llm))
            settled(ex)
    finally:
        llm.set_log_callback(None)
    assert any("a bad day" in record.getMessage() for record in caplog.records)
    count = len(caplog.records)
    answer(ex, request(llm))
    settled(ex)
    assert len(caplog.records) == count
