"""Log-probabilities of answers and prompts against a float64 log_softmax of a context's logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference.driving import decode_all, sequence
from reference.handles import Model
from reference.serving import Answer, Answers, Executor, Gate, answer, collect, run

RNG = np.random.default_rng(6)
PROMPT = [int(t) for t in RNG.integers(3, 355, 45)]
# Exponentials in float32, their sum and its logarithm in float64.
TOLERANCE = 2e-6
SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 3.0, "top_k": 50, "seed": 1},
    # What changes the choice, but not what the model gave.
    {"temperature": 0, "repetition_penalty": 1.5, "logit_bias": {2: -100.0, 17: 6.0}},
]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(-1, keepdims=True)))


def oracle(llm: ModuleType, model: Model, tokens: Sequence[int]) -> np.ndarray:
    """Row i: log-probabilities of what follows tokens[: i + 1]."""
    with model.context(n_ctx=512) as context:
        return log_softmax(decode_all(llm, context, sequence(tokens)))


def check(entry: Any, row: np.ndarray, token: int, count: int) -> None:
    """One token's log-probabilities are those of the row."""
    assert entry.logprob == pytest.approx(row[token], abs=TOLERANCE)
    assert len(entry.best) == count
    ids = [id for id, _ in entry.best]
    values = [value for _, value in entry.best]
    assert len(set(ids)) == count
    assert values == sorted(values, reverse=True)
    np.testing.assert_allclose(values, np.sort(row)[::-1][:count], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(values, row[ids], rtol=0, atol=TOLERANCE)


def check_answer(llm: ModuleType, model: Model, prompt: list[int], got: Answer, k: int) -> None:
    """All log-probabilities of an answer."""
    rows = oracle(llm, model, prompt + got.tokens)[len(prompt) - 1 :]
    assert len(got.logprobs) == len(got.tokens)
    for entry, row, token in zip(got.logprobs, rows, got.tokens):
        check(entry, row, token, k)


@pytest.mark.parametrize("params", SAMPLING, ids=["greedy", "drawn", "edited"])
@pytest.mark.parametrize("k", [1, 2, 7, 100])
def test_logprobs(
    llm: ModuleType,
    model: Model,
    executor: Callable[..., Executor],
    params: dict[str, Any],
    k: int,
) -> None:
    request = llm.Request(
        tokens=PROMPT, max_new_tokens=12, sampling=llm.SamplingParams(**params), logprobs=k
    )
    check_answer(llm, model, PROMPT, answer(executor(), request), k)


@pytest.mark.parametrize("params", SAMPLING, ids=["greedy", "drawn", "edited"])
def test_logprobs_change_no_token(
    llm: ModuleType, executor: Callable[..., Executor], params: dict[str, Any]
) -> None:
    fields = {
        "tokens": PROMPT,
        "max_new_tokens": 30,
        "sampling": llm.SamplingParams(**params),
    }
    requests = [
        llm.Request(**fields, logprobs=k, prompt_logprobs=p)
        for k, p in ((0, 0), (1, 0), (100, 0), (0, 3), (5, 5))
    ]
    answers = [answers[0] for answers in run(executor(), requests)]
    assert len({tuple(got.tokens) for got in answers}) == 1
    assert answers[0].logprobs == answers[0].prompt_logprobs == []


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("max_new_tokens", [0, 1, 5])
@pytest.mark.parametrize("n", [1, 2, 32, 33, 200])
def test_prompt_logprobs(
    llm: ModuleType,
    model: Model,
    executor: Callable[..., Executor],
    n: int,
    max_new_tokens: int,
    streaming: bool,
) -> None:
    prompt = (PROMPT * 5)[:n]
    request = llm.Request(
        tokens=prompt, max_new_tokens=max_new_tokens, prompt_logprobs=3, streaming=streaming
    )
    got = answer(executor(max_num_tokens=50), request)
    rows = oracle(llm, model, prompt)
    assert len(got.prompt_logprobs) == n - 1
    for entry, row, token in zip(got.prompt_logprobs, rows, prompt[1:]):
        check(entry, row, token, 3)


def test_prompt_logprobs_after_a_preemption(
    llm: ModuleType, executor: Callable[..., Executor]
) -> None:
    """What has been streamed is not told again when the prompt is computed again."""
    gate = Gate()
    ex = executor(max_batch_size=1, on_step=gate)
    fields = {"tokens": PROMPT, "max_new_tokens": 12, "ignore_eos": True, "streaming": True}
    gate.close()
    low = ex.enqueue_request(llm.Request(**fields, prompt_logprobs=2))
    gate.await_held()
    gate.step(3)
    answers = Answers()
    for response in ex.await_responses(0, low):
        answers.add(response)
    high = ex.enqueue_request(llm.Request(**fields, priority=1.0))
    gate.open()
    collect(ex, [high])
    while low not in answers.over:
        for response in ex.await_responses(None, low):
            answers.add(response)
    assert ex.stats()["preemptions"] == 1
    (got,) = answers.of(low)
    assert len(got.prompt_logprobs) == len(PROMPT) - 1
    (alone,) = run(ex, [llm.Request(**fields, prompt_logprobs=2)])
    assert got.prompt_logprobs == alone[0].prompt_logprobs


def test_prompt_logprobs_without_chunks(
    llm: ModuleType, model: Model, executor: Callable[..., Executor]
) -> None:
    """More rows of logits than one step has."""
    ex = executor(enable_chunked_prefill=False, max_batch_size=1, max_num_tokens=300)
    prompt = (PROMPT * 5)[:200]
    got = answer(ex, llm.Request(tokens=prompt, max_new_tokens=2, prompt_logprobs=1))
    rows = oracle(llm, model, prompt)
    assert len(got.prompt_logprobs) == len(prompt) - 1
    for entry, row, token in zip(got.prompt_logprobs, rows, prompt[1:]):
        check(entry, row, token, 1)


def test_prompt_logprobs_of_a_cached_prompt(
    llm: ModuleType, executor: Callable[..., Executor]
) -> None:
    ex = executor()
    prompt = (PROMPT * 3)[:100]
    plain = llm.Request(tokens=prompt, max_new_tokens=2)
    asked = llm.Request(tokens=prompt, max_new_tokens=2, prompt_logprobs=2)
    first = answer(ex, asked)
    assert answer(ex, plain).last.cached_tokens == 96
    again = answer(ex, asked)
    assert len(first.prompt_logprobs) == 99
    assert again.prompt_logprobs == first.prompt_logprobs


def test_prompt_logprobs_of_several_answers(
    llm: ModuleType, executor: Callable[..., Executor]
) -> None:
    ex = executor()
    sampling = llm.SamplingParams(seed=1)
    fields = {"tokens": PROMPT, "max_new_tokens": 4, "sampling": sampling, "prompt_logprobs": 1}
    (alone,), several, best = run(
        ex,
        [
            llm.Request(**fields),
            llm.Request(**fields, num_return_sequences=3),
            llm.Request(**fields, best_of=4),
        ],
    )
    for answers in (several, best):
        assert answers[0].prompt_logprobs == alone.prompt_logprobs
        assert all(got.prompt_logprobs == [] for got in answers[1:])


def test_cumulative(llm: ModuleType, model: Model, executor: Callable[..., Executor]) -> None:
    ex = executor()
    for seed in range(8):
        sampling = llm.SamplingParams(seed=seed, logit_bias={2: 6.0})
        request = llm.Request(
            tokens=PROMPT, max_new_tokens=20, sampling=sampling, logprobs=1, streaming=True
        )
        got = answer(ex, request)
        rows = oracle(llm, model, PROMPT + got.tokens)[len(PROMPT) - 1 :]
        values = [row[token] for row, token in zip(rows, got.tokens)]
        for i, response in enumerate(got.responses[:-1]):
            assert response.cumulative_logprob == pytest.approx(sum(values[: i + 1]), abs=1e-4)
        if got.reason == llm.FinishReason.END_ID:
            values.append(rows[len(got.tokens)][2])
        assert got.last.cumulative_logprob == pytest.approx(sum(values), abs=1e-4)


def test_more_alternatives_than_tokens(llm: ModuleType, shared_small: Executor) -> None:
    with pytest.raises(ValueError, match="logprobs is 101"):
        shared_small.enqueue_request(llm.Request(tokens=[1], logprobs=101))


@pytest.fixture
def shared_small(executor: Callable[..., Executor]) -> Executor:
    return executor(max_batch_size=2)


# ---- what moves the choice ----------------------------------------------------------------------


def test_logit_bias(llm: ModuleType, executor: Callable[..., Executor]) -> None:
    ex = executor()
    forced = llm.SamplingParams(seed=1, logit_bias={40: 1000.0})
    assert answer(ex, llm.Request(tokens=[5], max_new_tokens=9, sampling=forced)).tokens == [40] * 9
    free = answer(ex, llm.Request(tokens=[5], max_new_tokens=9, ignore_eos=True)).tokens
    bans = {token: float("-inf") for token in free}
    request = llm.Request(
        tokens=[5], max_new_tokens=9, sampling=llm.SamplingParams(temperature=0, logit_bias=bans)
    )
    assert not set(answer(ex, request).tokens) & set(free)


def test_no_token_is_left(llm: ModuleType, executor: Callable[..., Executor]) -> None:
    ex = executor()
    nothing = llm.SamplingParams(logit_bias={token: float("-inf") for token in range(355)})
    requests = [
        llm.Request(tokens=[5], max_new_tokens=9, sampling=nothing),
        llm.Request(tokens=[5], max_new_tokens=9, ignore_eos=True),
    ]
    (failed,), (fine,) = run(ex, requests)
    assert failed.reason == llm.FinishReason.ERROR
    assert "leave no token" in failed.error
    assert failed.tokens == []
    assert len(fine.tokens) == 9


def test_penalties(llm: ModuleType, model: Model, executor: Callable[..., Executor]) -> None:
    """Greedy with strong penalties: each step takes the best of what the penalties leave."""
    sampling = llm.SamplingParams(temperature=0, presence_penalty=3.0, frequency_penalty=1.5)
    request = llm.Request(tokens=PROMPT, max_new_tokens=20, sampling=sampling, ignore_eos=True)
    got = answer(executor(), request).tokens
    rows = oracle(llm, model, PROMPT + got)[len(PROMPT) - 1 :]
    history = list(PROMPT)
    for row, token in zip(rows, got):
        counts = np.bincount(history, minlength=355)
        assert token == int((row - 1.5 * counts - 3.0 * (counts > 0)).argmax())
        history.append(token)
