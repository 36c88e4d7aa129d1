"""Several answers of one request: draws of their own, best-of, beams."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference.driving import decode_all, sequence
from reference.handles import Model
from reference.serving import Answer, Executor, Gate, answer, collect, run, settled

PROMPT = [9, 80, 140, 33, 210]
EOS = 2
LEFT = [40, 100, 170, 300]  # the only tokens where a vocabulary of four is wanted
INF = float("inf")


def drawn(llm: ModuleType, **fields: Any) -> Any:
    """A request with a fixed seed."""
    sampling = llm.SamplingParams(seed=7, temperature=fields.pop("temperature", 1.0))
    fields = {"tokens": PROMPT, "max_new_tokens": 24, "sampling": sampling, **fields}
    return llm.Request(**fields)


# ---- n ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 16])
@pytest.mark.parametrize("streaming", [False, True])
def test_n(llm: ModuleType, executor: Callable[..., Executor], n: int, streaming: bool) -> None:
    ex = executor(max_batch_size=16)
    (answers,) = run(ex, [drawn(llm, num_return_sequences=n, streaming=streaming)])
    assert len(answers) == n
    assert len({tuple(got.tokens) for got in answers}) == n
    alone = answer(ex, drawn(llm))
    assert answers[0].tokens == alone.tokens
    (again,) = run(ex, [drawn(llm, num_return_sequences=n)])
    assert [got.tokens for got in again] == [got.tokens for got in answers]


def test_more_answers_change_none(llm: ModuleType, executor: Callable[..., Executor]) -> None:
    requests = [drawn(llm, num_return_sequences=n) for n in (2, 5, 8)]
    two, five, eight = ([got.tokens for got in group] for group in run(executor(), requests))
    assert five[:2] == two
    assert eight[:5] == five


def test_greedy_answers_are_equal(llm: ModuleType, executor: Callable[..., Executor]) -> None:
    (answers,) = run(executor(), [drawn(llm, temperature=0, num_return_sequences=4)])
    assert len({tuple(got.tokens) for got in answers}) == 1


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("n_prompt", [1, 2, 32, 33, 65, 100])
def test_the_prompt_is_computed_once(
    llm: ModuleType, executor: Callable[..., Executor], n_prompt: int, cache: bool
) -> None:
    ex = executor(enable_prefix_cache=cache)
    prompt = [(7 * i) % 340 + 5 for i in range(n_prompt)]
    (answers,) = run(ex, [drawn(llm, tokens=prompt, num_return_sequences=8, max_new_tokens=1)])
    assert len(answers) == 8
    # The last token of the prompt once for each.
    assert settled(ex)["computed_tokens"] == n_prompt + 7
    (alone,) = run(ex, [drawn(llm, tokens=prompt, num_return_sequences=8, max_new_tokens=10)])
    again = [answer(ex, drawn(llm, tokens=prompt, max_new_tokens=10))]
    assert alone[0].tokens == again[0].tokens


def test_one_fails_and_others_go_on(llm: ModuleType, executor: Callable[..., Executor]) -> None:
    def fail_second(entries: list[Any]) -> None:
        for entry in entries:
            if entry.sequence_index == 1 and not entry.is_final:
                entry.fail("not this one")

    ex = executor(logits_post_processor=fail_second)
    request = drawn(llm, num_return_sequences=3, use_logits_post_processor=True)
    (answers,) = run(ex, [request])
    reasons = llm.FinishReason
    assert [got.reason == reasons.ERROR for got in answers] == [False, True, False]
    assert answers[1].error == "not this one"


# ---- best of ------------------------------------------------------------------------------------


def mean(got: Answer) -> float:
    """Mean log-probability over all that was drawn, an end token included."""
    count = len(got.tokens) + (got.reason == 1)
    return float(got.last.cumulative_logprob / count)


@pytest.mark.parametrize("bias", [0.0, 4.0, 8.0], ids=["long", "mixed", "short"])
@pytest.mark.parametrize(("n", "best_of"), [(1, 2), (1, 8), (3, 8), (7, 8)])
def test_best_of(
    llm: ModuleType, executor: Callable[..., Executor], n: int, best_of: int, bias: float
) -> None:
    ex = executor()
    sampling = llm.SamplingParams(seed=3, logit_bias={EOS: bias})
    fields = {"tokens": PROMPT, "max_new_tokens": 8, "sampling": sampling, "logprobs": 1}
    every, best = run(
        ex,
        [
            llm.Request(**fields, num_return_sequences=best_of),
            llm.Request(**fields, num_return_sequences=n, best_of=best_of),
        ],
    )
    ranked = sorted(every, key=mean, reverse=True)[:n]
    assert [got.tokens for got in best] == [got.tokens for got in ranked]
    assert [got.text for got in best] == [got.text for got in ranked]
    assert [got.reason for got in best] == [got.reason for got in ranked]
    assert [got.logprobs for got in best] == [got.logprobs for got in ranked]
    scores = [got.last.cumulative_logprob for got in best]
    assert scores == [got.last.cumulative_logprob for got in ranked]


def test_best_of_a_cut_request(llm: ModuleType, executor: Callable[..., Executor]) -> None:
    """Whoever came to its end is not the best of three where the others were cut short."""
    gate = Gate()
    ex = executor(on_step=gate)
    sampling = llm.SamplingParams(seed=3, logit_bias={EOS: 4.0})
    fields = {"tokens": PROMPT, "max_new_tokens": 60, "sampling": sampling}
    (every,) = run(ex, [llm.Request(**fields, num_return_sequences=8)])
    lengths = sorted(len(got.tokens) for got in every)
    assert lengths[0] + 4 < lengths[-1]
    gate.close()
    ranked = ex.enqueue_request(llm.Request(**fields, num_return_sequences=2, best_of=8))
    gate.await_held()
    gate.step(lengths[0] + 2)
    assert ex.cancel_request(ranked)
    gate.open()
    answers = collect(ex, [ranked])[ranked]
    assert [got.reason for got in answers] == [llm.FinishReason.CANCELLED] * 2


def test_best_of_as_many(llm: ModuleType, executor: Callable[..., Executor]) -> None:
    same, plain = run(
        executor(),
        [drawn(llm, num_return_sequences=3, best_of=3), drawn(llm, num_return_sequences=3)],
    )
    assert [got.tokens for got in same] == [got.tokens for got in plain]


# ---- beams --------------------------------------------------------------------------------------


class Oracle:
    """Log-probabilities of the four tokens after any answer, by a context."""

    def __init__(self, llm: ModuleType, model: Model, left: Sequence[int]) -> None:
        self.left = list(left)

        @lru_cache(None)
        def rows(tokens: tuple[int, ...]) -> np.ndarray:
            with model.context(n_ctx=64) as context:
                logits = decode_all(llm, context, sequence([*PROMPT, *tokens]))[-1]
            wide = logits.astype(np.float64)[self.left]
            wide -= wide.max()
            return np.asarray(wide - np.log(np.exp(wide).sum()))

        self.rows = rows

    def score(self, tokens: Sequence[int]) -> float:
        """Sum of log-probabilities."""
        total = 0.0
        for i, token in enumerate(tokens):
            total += self.rows(tuple(tokens[:i]))[self.left.index(token)]
        return total

    def best(
        self, length: int, *, power: float = 1.0, end: int | None = None
    ) -> list[tuple[float, tuple[int, ...]]]:
        """All answers by score: those of full length, and shorter ones that the end token ends."""
        found = []
        for tokens in itertools.product(self.left, repeat=length):
            if end in tokens[:-1]:
                continue
            found.append(tokens)
        for short in range(1, length):
            for tokens in itertools.product(self.left, repeat=short):
                if end is not None and tokens[-1] == end and end not in tokens[:-1]:
                    found.append(tokens)
        scored = [(self.score(tokens) / len(tokens) ** power, tokens) for tokens in found]
        return sorted(scored, reverse=True)


def beam_request(llm: ModuleType, left: Sequence[int], **fields: Any) -> Any:
    """Beam search in which nothing but the tokens of `left` can come."""
    bans = {token: -INF for token in range(355) if token not in left}
    sampling = llm.SamplingParams(logit_bias=bans)
    return llm.Request(**{"tokens": PROMPT, "sampling": sampling, "ignore_eos": True, **fields})


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("power", [0.0, 1.0, -0.5])
def test_wide_beams_find_the_best(
    llm: ModuleType, model: Model, executor: Callable[..., Executor], length: int, power: float
) -> None:
    """Sixteen beams hold all answers of two tokens, hence the best of three."""
    request = beam_request(
        llm, LEFT, max_new_tokens=length, beam_width=16, num_return_sequences=4,
        length_penalty=power,
    )  # fmt: skip
    (answers,) = run(executor(), [request])
    want = Oracle(llm, model, LEFT).best(length)
    assert [tuple(got.tokens) for got in answers] == [tokens for _, tokens in want[:4]]
    for got, (score, _) in zip(answers, want):
        assert got.last.cumulative_logprob == pytest.approx(score * length, abs=1e-5)
        assert got.reason == llm.FinishReason.LENGTH


@pytest.mark.parametrize("power", [0.0, 0.7, 2.0])
def test_beams_that_end(
    llm: ModuleType, model: Model, executor: Callable[..., Executor], power: float
) -> None:
    left = [*LEFT[:2], 250]
    end = left[2]
    request = beam_request(
        llm, left, max_new_tokens=3, beam_width=16, num_return_sequences=6,
        length_penalty=power, stop_token_ids=[end], early_stopping=llm.EarlyStopping.NEVER,
    )  # fmt: skip
    (answers,) = run(executor(), [request])
    want = Oracle(llm, model, left).best(3, power=power, end=end)
    for got, (score, tokens) in zip(answers, want):
        ended = tokens[-1] == end
        assert tuple(got.tokens) == (tokens[:-1] if ended else tokens)
        reasons = llm.FinishReason
        assert got.reason == (reasons.END_ID if ended else reasons.LENGTH)
        scaled = got.last.cumulative_logprob / len(tokens) ** power
        assert scaled == pytest.approx(score, abs=1e-5)
    assert {got.reason for got in answers} > {llm.FinishReason.END_ID}


def narrow_beams(oracle: Oracle, width: int, length: int) -> list[tuple[float, tuple[int, ...]]]:
    """The search by its definition: after each token only the best `width` go on."""
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for _ in range(length):
        longer = [
            (score + value, (*tokens, token))
            for score, tokens in beams
            for token, value in zip(oracle.left, oracle.rows(tokens))
        ]
        beams = sorted(longer, reverse=True)[:width]
    return beams


@pytest.mark.parametrize("width", [2, 3, 5])
@pytest.mark.parametrize("config", [{}, {"enable_prefix_cache": False}, {"max_num_tokens": 5}],
                         ids=["plain", "no-cache", "small-steps"])  # fmt: skip
def test_narrow_beams(
    llm: ModuleType,
    model: Model,
    executor: Callable[..., Executor],
    width: int,
    config: dict[str, Any],
) -> None:
    request = beam_request(
        llm, LEFT, max_new_tokens=40, beam_width=width, num_return_sequences=width
    )
    (answers,) = run(executor(**config), [request])
    want = narrow_beams(Oracle(llm, model, LEFT), width, 40)
    assert [tuple(got.tokens) for got in answers] == [tokens for _, tokens in want]
    for got, (score, _) in zip(answers, want):
        assert got.last.cumulative_logprob == pytest.approx(score, abs=1e-4)


def test_beam_text(llm: ModuleType, model: Model, executor: Callable[..., Executor]) -> None:
    request = llm.Request(tokens=PROMPT, max_new_tokens=12, beam_width=4, num_return_sequences=4)
    (answers,) = run(executor(), [request])
    for got in answers:
        decoder = model.vocab.decoder()
        text = "".join(decoder.push(token) for token in got.tokens) + decoder.finish()
        assert got.text == text


def test_beams_need_a_step_that_holds_them(
    llm: ModuleType, executor: Callable[..., Executor]
) -> None:
    ex = executor(max_num_tokens=3)
    with pytest.raises(ValueError, match="beam_width is 4"):
        ex.enqueue_request(llm.Request(tokens=PROMPT, beam_width=4))
    assert answer(ex, llm.Request(tokens=PROMPT, beam_width=3, max_new_tokens=4)).tokens
