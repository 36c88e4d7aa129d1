"""The same request gives the same answer, bit for bit, whatever the executor is doing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from reference.gguf_files import TinySpec
from reference.handles import Model
from reference.serving import TIMEOUT_S, Answer, Executor, collect, run, settled

RNG = np.random.default_rng(8)
NEVER = {2: -100.0}  # the model's end
MakeExecutor = Callable[..., Executor]


def prompt(n: int, seed: int) -> list[int]:
    """Random tokens; those of equal seeds begin alike."""
    return [int(t) for t in np.random.default_rng(seed).integers(3, 355, n)]


def observed(llm: ModuleType) -> list[Any]:
    """Requests of many kinds whose answers are compared."""

    def sampled(**params: Any) -> Any:
        return llm.SamplingParams(logit_bias=NEVER, **params)

    return [
        llm.Request(tokens=prompt(5, 1), max_new_tokens=50),
        llm.Request(tokens=prompt(33, 2), max_new_tokens=40, sampling=sampled(seed=1)),
        llm.Request(
            tokens=prompt(70, 3), max_new_tokens=40, logprobs=3, prompt_logprobs=2,
            sampling=sampled(seed=2, temperature=1.5, top_k=50, repetition_penalty=1.2),
        ),
        llm.Request(
            tokens=prompt(64, 4), max_new_tokens=30, num_return_sequences=3, logprobs=1,
            sampling=sampled(seed=3, top_p=0.95, min_p=0.001),
        ),
        llm.Request(
            tokens=prompt(20, 5), max_new_tokens=20, best_of=3,
            sampling=sampled(seed=4, typical_p=0.9, presence_penalty=0.3),
        ),
        llm.Request(tokens=prompt(40, 6), max_new_tokens=20, beam_width=3),
        llm.Request(tokens=prompt(100, 7), max_new_tokens=30, streaming=True, stop_words=["e", "T"],
                    sampling=sampled(seed=5), logprobs=1),
    ]  # fmt: skip


def others(llm: ModuleType, n: int = 25) -> list[Any]:
    """Requests that run beside them, some with the same beginnings."""
    return [
        llm.Request(
            tokens=prompt(3 + 7 * i, i % 9),
            max_new_tokens=4 + 5 * (i % 9),
            sampling=llm.SamplingParams(seed=i, temperature=0.5 + i / 10),
            num_return_sequences=1 + (i % 5 == 0),
        )
        for i in range(n)
    ]


def facts(answers: list[Answer]) -> list[Any]:
    """All of an answer that must not change by a bit."""
    return [
        (
            got.tokens, got.text, got.reason, got.error, got.logprobs, got.prompt_logprobs,
            got.last.cumulative_logprob,
        )
        for got in answers
    ]  # fmt: skip


def alone(executor: Executor, requests: list[Any]) -> list[Any]:
    """Facts about requests that run one after the other."""
    return [facts(run(executor, [request])[0]) for request in requests]


def together(
    llm: ModuleType, executor: Executor, requests: list[Any], crowd: list[Any] | None = None
) -> list[Any]:
    """Facts about requests in a crowd."""
    crowd = others(llm) if crowd is None else crowd
    mixed = [*crowd[::2], *requests, *crowd[1::2]]
    answers = run(executor, mixed)
    first = len(crowd[::2])
    return [facts(answers[first + i]) for i in range(len(requests))]


@pytest.fixture(scope="module")
def expected(llm: ModuleType, model: Model) -> list[Any]:
    """Alone, with every setting as it is by default, on a cold cache."""
    with llm.Executor(model, llm.ExecutorConfig(enable_prefix_cache=False)) as executor:
        return alone(executor, observed(llm))


def test_facts_differ(llm: ModuleType, expected: list[Any], executor: MakeExecutor) -> None:
    """Another seed gives other facts: the comparison can fail."""
    assert all(len(tokens) > 3 for request in expected for tokens, *_ in request)
    request = llm.Request(
        tokens=prompt(33, 2), max_new_tokens=40,
        sampling=llm.SamplingParams(seed=9, logit_bias=NEVER),
    )  # fmt: skip
    assert alone(executor(), [request])[0] != expected[1]


CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "no-cache": {"enable_prefix_cache": False},
    "no-chunks": {"enable_chunked_prefill": False},
    "no-chunks-small": {"enable_chunked_prefill": False, "max_num_tokens": 181},
    "tokens-5": {"max_num_tokens": 5},
    "tokens-31": {"max_num_tokens": 31},
    "tokens-32": {"max_num_tokens": 32},
    "tokens-100": {"max_num_tokens": 100},
    "tokens-4096": {"max_num_tokens": 4096},
    "batch-4": {"max_batch_size": 4},
    "no-evict": {"scheduler_policy": 1, "kv_cache_tokens": 1024},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_in_a_crowd(
    llm: ModuleType, executor: MakeExecutor, expected: list[Any], config: dict[str, Any]
) -> None:
    assert together(llm, executor(**config), observed(llm)) == expected


@pytest.mark.parametrize("config", [{}, {"max_num_tokens": 7}, {"kv_cache_tokens": 640}])
def test_prefix_cache_hits(
    llm: ModuleType, executor: MakeExecutor, expected: list[Any], config: dict[str, Any]
) -> None:
    ex = executor(**config)
    assert alone(ex, observed(llm)) == expected
    missed = settled(ex)["prefix_tokens_hit"]
    assert alone(ex, observed(llm)) == expected
    assert settled(ex)["prefix_tokens_hit"] > missed


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("cache", [True, False])
def test_preemption(
    llm: ModuleType, executor: MakeExecutor, expected: list[Any], cache: bool, chunked: bool
) -> None:
    ex = executor(kv_cache_tokens=448, enable_prefix_cache=cache, enable_chunked_prefill=chunked)
    growing = [
        llm.Request(
            tokens=prompt(20, i), max_new_tokens=70,
            sampling=llm.SamplingParams(temperature=0, logit_bias=NEVER),
        )
        for i in range(16)
    ]  # fmt: skip
    assert together(llm, ex, observed(llm), growing) == expected
    stats = settled(ex)
    assert stats["preemptions"] >= 1
    assert stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"] == 14


@pytest.mark.parametrize(
    "config",
    [{}, {"kv_cache_tokens": 640}, {"max_num_tokens": 17}],
    ids=["default", "preempted", "small-steps"],
)
def test_each_is_preempted(
    llm: ModuleType, executor: MakeExecutor, expected: list[Any], config: dict[str, Any]
) -> None:
    """Higher priorities come in while each of them runs."""
    for request, want in zip(observed(llm), expected):
        ids: list[int] = []
        enqueued = threading.Event()

        def interrupt(
            stats: dict[str, Any], ids: list[int] = ids, enqueued: threading.Event = enqueued
        ) -> None:
            assert enqueued.wait(TIMEOUT_S)
            if stats["running"] == 1 and len(ids) in range(1, 6):
                urgent = llm.Request(
                    tokens=prompt(9, len(ids)), max_new_tokens=2, priority=1.0,
                    num_return_sequences=8, sampling=llm.SamplingParams(seed=len(ids)),
                )  # fmt: skip
                ids.append(ex.enqueue_request(urgent))

        ex = executor(max_batch_size=8, on_step=interrupt, **config)
        ids.append(ex.enqueue_request(request))
        enqueued.set()
        assert facts(collect(ex, ids[:1])[ids[0]]) == want
        assert settled(ex)["preemptions"] >= 1


SPECS = {
    "Q8_0": TinySpec(format="Q8_0"),
    "Q4_0": TinySpec(format="Q4_0", seed=3),
    "qwen2": TinySpec(architecture="qwen2", tokenizer="bpe", tied=True),
}


@pytest.mark.parametrize("kv_dtype", ["f16", "f32"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_other_models(
    llm: ModuleType,
    tiny_model: Callable[..., Model],
    executor: MakeExecutor,
    spec: TinySpec,
    kv_dtype: str,
) -> None:
    requests = [
        llm.Request(
            tokens=[t % 290 for t in prompt(n, n)], max_new_tokens=25, logprobs=2,
            sampling=llm.SamplingParams(seed=n, top_k=k),
        )
        for n, k in ((3, None), (32, 20), (90, 300))
    ]  # fmt: skip
    model = tiny_model(spec)
    want = alone(executor(model, kv_dtype=kv_dtype, enable_prefix_cache=False), requests)
    crowd = [llm.Request(tokens=prompt(10 + i, 0)[:40], max_new_tokens=i) for i in range(20)]
    crowd = [llm.Request(tokens=[t % 290 for t in r.tokens], max_new_tokens=5) for r in crowd]
    for config in ({}, {"max_num_tokens": 13}, {"kv_cache_tokens": 256}):
        ex = executor(model, kv_dtype=kv_dtype, **config)
        answers = run(ex, [*crowd, *requests])[len(crowd) :]
        assert [facts(got) for got in answers] == want


@pytest.mark.parametrize("kv_dtype", ["f16", "f32"])
def test_threads(
    llm: ModuleType, tiny_model: Callable[..., Model], executor: MakeExecutor, kv_dtype: str
) -> None:
    """Wide enough that two threads share the work."""
    spec = TinySpec(n_embd=256, n_heads=8, n_kv_heads=4, n_ff=512, n_layers=1)
    requests = observed(llm)
    facts_of = [
        together(llm, executor(tiny_model(spec, n_threads=threads), kv_dtype=kv_dtype), requests)
        for threads in (1, 2, 3)
    ]
    assert facts_of[0] == facts_of[1] == facts_of[2]
    one = executor(tiny_model(spec, n_threads=1), kv_dtype=kv_dtype)
    assert alone(one, requests[:3]) == facts_of[1][:3]


def test_kv_dtype_matters(llm: ModuleType, executor: MakeExecutor, expected: list[Any]) -> None:
    assert alone(executor(kv_dtype="f32"), observed(llm)[2:3]) != expected[2:3]


@hypothesis.settings(max_examples=15)
@hypothesis.given(st.data())
def test_any_crowd(llm: ModuleType, model: Model, expected: list[Any], data: st.DataObject) -> None:
    """Any mix of settings, neighbours and moments of arrival."""
    config = llm.ExecutorConfig(
        max_batch_size=data.draw(st.integers(3, 20)),
        max_num_tokens=data.draw(st.one_of(st.none(), st.integers(3, 200))),
        enable_prefix_cache=data.draw(st.booleans()),
        kv_cache_tokens=data.draw(st.integers(400, 2000)),
        scheduler_policy=data.draw(st.sampled_from([0, 1])),
        n_post_processor_threads=1,
    )
    crowd = others(llm)
    wanted = observed(llm)
    order = data.draw(st.permutations(range(len(wanted) + 10)))
    pool = [*wanted, *[crowd[i] for i in data.draw(st.permutations(range(25)))[:10]]]
    with llm.Executor(model, config) as ex:
        answers = run(ex, [pool[i] for i in order])
    for place, i in enumerate(order):
        if i < len(wanted):
            assert facts(answers[place]) == expected[i]
