"""Sampler stages against NumPy, their order, their seeds and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from reference import sampling
from reference.driving import rows
from reference.gguf_files import TinySpec
from reference.handles import Model, Sampler

NAN, INF = float("nan"), float("inf")
RNG = np.random.default_rng(0)
LOGITS = (RNG.standard_normal(50) * 3).astype(np.float32)
TIED = np.round(LOGITS)  # many equal logits
# Float32 softmax of some hundred terms.
PROBABILITY_TOLERANCE = 1e-5


def check(sampler: Sampler, logits: np.ndarray, expected: np.ndarray) -> None:
    """The sampler's candidates are those of the oracle's logits."""
    ids, probabilities = sampler.probabilities(logits)
    want_ids, want = sampling.candidates(expected)
    assert list(ids) == want_ids
    np.testing.assert_allclose(list(probabilities), want, rtol=0, atol=PROBABILITY_TOLERANCE)


# ---- single stages ----------------------------------------------------------------------------


def test_greedy(llm: ModuleType) -> None:
    assert llm.Sampler.greedy().sample_logits(LOGITS) == LOGITS.argmax()
    assert llm.Sampler.greedy().sample_logits(TIED) == TIED.argmax()  # the lowest id of equals


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 1000, 49152])
def test_greedy_sizes(llm: ModuleType, size: int) -> None:
    greedy = llm.Sampler.greedy()
    for best in {0, size // 2, size - 1}:
        logits = np.full(size, -3, np.float32)
        logits[best] = -2
        assert greedy.sample_logits(logits) == best


def test_no_stage_is_softmax(llm: ModuleType) -> None:
    check(llm.Sampler([]), LOGITS, LOGITS)


@pytest.mark.parametrize("value", [0.01, 0.5, 1.0, 2.0, 100.0])
def test_temperature(llm: ModuleType, value: float) -> None:
    check(llm.Sampler([llm.Temperature(value)]), LOGITS, sampling.temperature(LOGITS, value))


def test_temperature_zero_is_greedy(llm: ModuleType) -> None:
    for logits in (LOGITS, TIED):
        ids, probabilities = llm.Sampler([llm.Temperature(0.0)]).probabilities(logits)
        assert list(ids) == [logits.argmax()]
        assert list(probabilities) == [1.0]
        sampler = llm.Sampler([llm.Temperature(0.0), llm.Draw(seed=1)])
        assert {sampler.sample_logits(logits) for _ in range(20)} == {logits.argmax()}


@pytest.mark.parametrize("k", [1, 2, 7, 49, 50, 51, 1000])
@pytest.mark.parametrize("logits", [LOGITS, TIED], ids=["distinct", "tied"])
def test_top_k(llm: ModuleType, logits: np.ndarray, k: int) -> None:
    check(llm.Sampler([llm.TopK(k)]), logits, sampling.top_k(logits, k))


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_top_p(llm: ModuleType, p: float) -> None:
    check(llm.Sampler([llm.TopP(p)]), LOGITS, sampling.top_p(LOGITS, p))


def test_top_p_includes_the_token_that_reaches_p(llm: ModuleType) -> None:
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    assert list(llm.Sampler([llm.TopP(0.45)]).probabilities(logits)[0]) == [0]
    assert list(llm.Sampler([llm.TopP(0.55)]).probabilities(logits)[0]) == [0, 1]
    assert list(llm.Sampler([llm.TopP(0.8)]).probabilities(logits)[0]) == [0, 1, 2]


@pytest.mark.parametrize("p", [0.0, 0.01, 0.2, 0.999, 1.0])
def test_min_p(llm: ModuleType, p: float) -> None:
    check(llm.Sampler([llm.MinP(p)]), LOGITS, sampling.min_p(LOGITS, p))


def test_logit_bias(llm: ModuleType) -> None:
    by_id = {0: 5.0, 7: -3.5, 49: 100.0}
    check(llm.Sampler([llm.LogitBias(by_id)]), LOGITS, sampling.bias(LOGITS, by_id))
    check(llm.Sampler([llm.LogitBias({})]), LOGITS, LOGITS)


PENALTIES = [
    {"repetition": 1.3},
    {"repetition": 0.8},
    {"frequency": 0.7},
    {"frequency": -0.4},
    {"presence": 1.1},
    {"presence": -0.6},
    {"repetition": 1.2, "frequency": 0.3, "presence": 0.5},
    {"repetition": 1.2, "frequency": 0.3, "presence": 0.5, "last_n": 3},
    {"repetition": 1.2, "frequency": 0.3, "presence": 0.5, "last_n": 0},
]


@pytest.mark.parametrize("options", PENALTIES, ids=str)
def test_penalties(llm: ModuleType, options: dict[str, Any]) -> None:
    sampler = llm.Sampler([llm.Penalties(**options)])
    history: list[int] = []
    high, low = int(LOGITS.argmax()), int(LOGITS.argmin())  # one positive logit, one negative
    for token in [high, low, 3, high, 3, 3, 9]:
        check(sampler, LOGITS, sampling.penalties(LOGITS, history, **options))
        sampler.accept(token)
        history.append(token)
    check(sampler, LOGITS, sampling.penalties(LOGITS, history, **options))
    sampler.reset()
    check(sampler, LOGITS, LOGITS)


@hypothesis.given(
    history=st.lists(st.integers(0, 49), max_size=100),
    repetition=st.floats(0.5, 2),
    frequency=st.floats(-2, 2),
    presence=st.floats(-2, 2),
    last_n=st.integers(0, 80),
)
def test_penalties_of_any_history(llm: ModuleType, history: list[int], **options: float) -> None:
    sampler = llm.Sampler([llm.Penalties(**options)])
    for token in history:
        sampler.accept(token)
    expected = sampling.penalties(LOGITS, history, **options)  # type: ignore[arg-type]
    ids, probabilities = sampler.probabilities(LOGITS)
    by_id = dict(zip(ids, probabilities))  # order may turn where two logits all but meet
    got = np.array([by_id[token] for token in range(50)])
    np.testing.assert_allclose(got, sampling.softmax(expected), atol=PROBABILITY_TOLERANCE)


# ---- combinations -----------------------------------------------------------------------------


def test_stages_run_in_list_order(llm: ModuleType) -> None:
    first = sampling.top_p(sampling.temperature(LOGITS, 2.0), 0.6)
    second = sampling.temperature(sampling.top_p(LOGITS, 0.6), 2.0)
    check(llm.Sampler([llm.Temperature(2.0), llm.TopP(0.6)]), LOGITS, first)
    check(llm.Sampler([llm.TopP(0.6), llm.Temperature(2.0)]), LOGITS, second)
    assert len(sampling.candidates(first)[0]) != len(sampling.candidates(second)[0])


def test_params_have_one_order(llm: ModuleType) -> None:
    """Penalties, logit bias, temperature, top_k, top_p, min_p, whatever the order of arguments."""
    params = llm.SamplingParams(
        min_p=0.05, top_p=0.8, top_k=12, temperature=1.7, logit_bias={4: 2.5, 11: -1.0},
        presence_penalty=0.4, frequency_penalty=0.3, repetition_penalty=1.2,
    )  # fmt: skip
    sampler, history = llm.Sampler.from_params(params), [int(LOGITS.argmax()), 4, 4]
    for token in history:
        sampler.accept(token)
    expected = sampling.penalties(LOGITS, history, repetition=1.2, frequency=0.3, presence=0.4)
    expected = sampling.bias(expected, {4: 2.5, 11: -1.0})
    expected = sampling.top_k(sampling.temperature(expected, 1.7), 12)
    expected = sampling.min_p(sampling.top_p(expected, 0.8), 0.05)
    check(sampler, LOGITS, expected)


def test_params_unset_change_nothing(llm: ModuleType) -> None:
    check(llm.Sampler.from_params(llm.SamplingParams()), LOGITS, LOGITS)


def test_params_temperature_zero_is_greedy(llm: ModuleType) -> None:
    sampler = llm.Sampler.from_params(llm.SamplingParams(temperature=0, seed=3))
    assert {sampler.sample_logits(LOGITS) for _ in range(20)} == {LOGITS.argmax()}


@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 300),
    heat=st.floats(0.2, 5),
    k=st.integers(1, 310),
    p=st.floats(0.01, 1),
    m=st.floats(0, 1),
)
def test_truncations_together(
    llm: ModuleType, seed: int, size: int, heat: float, k: int, p: float, m: float
) -> None:
    logits = (np.random.default_rng(seed).standard_normal(size) * 4).astype(np.float32)
    limited = sampling.top_k(sampling.temperature(logits, heat), k)
    sums = np.cumsum(sampling.candidates(limited)[1])
    hypothesis.assume(np.abs(sums - p).min() > 1e-5 or p == 1)  # no verdict by rounding
    nucleus = sampling.top_p(limited, p)
    share = sampling.softmax(nucleus) / sampling.softmax(nucleus).max()
    hypothesis.assume(np.abs(share - m).min() > 1e-5 or m == 1)
    stages = [llm.Temperature(heat), llm.TopK(k), llm.TopP(p), llm.MinP(m)]
    check(llm.Sampler(stages), logits, sampling.min_p(nucleus, m))


# ---- drawing ----------------------------------------------------------------------------------


def chi_square_limit(degrees: int, z: float = 4.75) -> float:
    """Upper quantile at 1 - 1e-6 by Wilson and Hilferty's cube root."""
    return degrees * float(1 - 2 / (9 * degrees) + z * np.sqrt(2 / (9 * degrees))) ** 3


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_draws_follow_softmax(llm: ModuleType, seed: int) -> None:
    logits, draws = LOGITS[:20] / 2, 20000
    sampler = llm.Sampler([llm.Draw(seed=seed)])
    counts = np.bincount([sampler.sample_logits(logits) for _ in range(draws)], minlength=20)
    expected = sampling.softmax(logits) * draws
    assert ((counts - expected) ** 2 / expected).sum() < chi_square_limit(19)


def test_consecutive_draws_are_independent(llm: ModuleType) -> None:
    sampler, draws = llm.Sampler([llm.Draw(seed=5)]), 20000
    flat = np.zeros(4, np.float32)
    ids = [sampler.sample_logits(flat) for _ in range(draws)]
    pairs = np.bincount([4 * a + b for a, b in zip(ids[:-1:2], ids[1::2])], minlength=16)
    expected = draws / 2 / 16
    assert ((pairs - expected) ** 2 / expected).sum() < chi_square_limit(15)


def test_first_draws_of_neighbouring_seeds_are_independent(llm: ModuleType) -> None:
    flat = np.zeros(8, np.float32)
    ids = [llm.Sampler([llm.Draw(seed=seed)]).sample_logits(flat) for seed in range(4000)]
    counts = np.bincount(ids, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < chi_square_limit(7)


def test_seed_repeats(llm: ModuleType) -> None:
    def draws(sampler: Sampler) -> list[int]:
        return [sampler.sample_logits(LOGITS) for _ in range(50)]

    first = llm.Sampler([llm.Draw(seed=7)])
    expected = draws(first)
    assert draws(llm.Sampler([llm.Draw(seed=7)])) == expected
    assert draws(llm.Sampler([llm.Draw(seed=8)])) != expected
    assert draws(first) != expected  # it goes on, it does not start again
    first.reset()
    assert draws(first) == expected


def test_dropped_tokens_are_never_drawn(llm: ModuleType) -> None:
    sampler = llm.Sampler([llm.TopK(3), llm.Draw(seed=0)])
    allowed = set(sampling.descending(LOGITS)[:3].tolist())
    assert {sampler.sample_logits(LOGITS / 10) for _ in range(500)} == allowed


def test_logits_are_not_changed(llm: ModuleType) -> None:
    before = LOGITS.copy()
    stages = [llm.Temperature(0.5), llm.TopK(3), llm.LogitBias({1: 3.0}), llm.Draw(seed=0)]
    llm.Sampler(stages).sample_logits(LOGITS)
    np.testing.assert_array_equal(LOGITS, before)


def test_extreme_logits(llm: ModuleType) -> None:
    sampler = llm.Sampler([llm.Draw(seed=0)])
    assert sampler.sample_logits(np.array([-INF, 3e38, -3e38, -INF], np.float32)) == 1
    banned = np.array([-INF, 0, -INF, 0], np.float32)
    assert {sampler.sample_logits(banned) for _ in range(50)} == {1, 3}


# ---- with a context ---------------------------------------------------------------------------


def test_sample_reads_the_row_and_accepts(
    llm: ModuleType, tiny_model: Callable[..., Model]
) -> None:
    context, batch = tiny_model(TinySpec()).context(n_ctx=64), llm.Batch()
    for position, token in enumerate([5, 9, 70, 31]):
        batch.add(token, position, logits=position > 0)
    context.decode(batch)
    logits, greedy = rows(context), llm.Sampler.greedy()
    assert [greedy.sample(context, index=i) for i in range(3)] == logits.argmax(1).tolist()
    assert greedy.sample(context) == greedy.sample(context, index=-1) == logits[-1].argmax()
    assert greedy.sample(context, index=-3) == logits[0].argmax()
    picky = llm.Sampler([llm.Penalties(presence=1000.0), llm.Temperature(0.0)])
    drawn = [picky.sample(context) for _ in range(5)]
    assert drawn == sampling.descending(logits[-1])[:5].tolist()  # each accepted, none repeated


@pytest.mark.parametrize("index", [1, -2, 100])
def test_sample_refuses_a_row_that_is_not_there(
    llm: ModuleType, tiny_model: Callable[..., Model], index: int
) -> None:
    context = tiny_model(TinySpec()).context(n_ctx=64)
    context.decode([5, 9])
    with pytest.raises((IndexError, ValueError), match="index"):
        llm.Sampler.greedy().sample(context, index=index)
    assert llm.Sampler.greedy().sample(context) == rows(context)[0].argmax()


# ---- refusals ---------------------------------------------------------------------------------

BAD_PARAMS: list[tuple[str, list[Any]]] = [
    ("temperature", [-0.1, NAN, INF, -INF]),
    ("top_k", [-1, 0]),
    ("top_p", [-0.1, 1.1, NAN, INF]),
    ("min_p", [-0.1, 1.1, NAN, INF]),
    ("repetition_penalty", [0.0, -1.0, NAN, INF]),
    ("frequency_penalty", [NAN, INF, -INF]),
    ("presence_penalty", [NAN, INF, -INF]),
    ("penalty_last_n", [-2, -5]),
    ("logit_bias", [{0: NAN}, {0: INF}, {-1: 1.0}]),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_PARAMS for value in values]
)
def test_params_refuse_by_name(llm: ModuleType, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        llm.SamplingParams(**{name: value})


@pytest.mark.parametrize("name", [name for name, _ in BAD_PARAMS])
def test_params_refuse_other_types(llm: ModuleType, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        llm.SamplingParams(**{name: "0.5"})


@pytest.mark.parametrize("penalties", [{}, {"presence_penalty": 0.1}], ids=repr)
def test_params_name_the_count_of_penalties(llm: ModuleType, penalties: dict[str, float]) -> None:
    """Where there are penalties, and where there are none."""
    with pytest.raises(ValueError, match=r"^penalty_last_n is -2, expected a count, or -1 for all"):
        llm.SamplingParams(penalty_last_n=-2, **penalties)
    with pytest.raises(TypeError, match=r"^penalty_last_n is str, expected an integer"):
        llm.SamplingParams(penalty_last_n="all", **penalties)
    for count in (-1, 0, 3):
        assert llm.SamplingParams(penalty_last_n=count, **penalties).penalty_last_n == count


def test_numbers_are_told_exactly(llm: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"top_p is 1\.0000001, expected"):
        llm.SamplingParams(top_p=1.0000001)
    with pytest.raises(ValueError, match=r"logit_bias token is 1000000, expected a token of"):
        llm.Sampler([llm.LogitBias({1_000_000: 1.0})]).sample_logits(LOGITS)
    with pytest.raises(ValueError, match=r"top_k is -1000000, expected"):
        llm.TopK(-1_000_000)


def test_params_refuse_unknown_names(llm: ModuleType) -> None:
    with pytest.raises(TypeError, match="temprature"):
        llm.SamplingParams(temprature=0.5)


BAD_STAGES: list[tuple[str, str, Callable[[Any], object]]] = [
    ("Temperature", "temperature", lambda m: m.Temperature(-1.0)),
    ("Temperature", "temperature", lambda m: m.Temperature(NAN)),
    ("Temperature", "temperature", lambda m: m.Temperature(INF)),
    ("TopK", "k", lambda m: m.TopK(-1)),
    ("TopP", "p", lambda m: m.TopP(1.5)),
    ("TopP", "p", lambda m: m.TopP(-0.5)),
    ("TopP", "p", lambda m: m.TopP(NAN)),
    ("MinP", "p", lambda m: m.MinP(1.5)),
    ("MinP", "p", lambda m: m.MinP(-0.5)),
    ("MinP", "p", lambda m: m.MinP(NAN)),
    ("Penalties", "repetition", lambda m: m.Penalties(repetition=0.0)),
    ("Penalties", "repetition", lambda m: m.Penalties(repetition=NAN)),
    ("Penalties", "frequency", lambda m: m.Penalties(frequency=INF)),
    ("Penalties", "presence", lambda m: m.Penalties(presence=NAN)),
    ("Penalties", "last_n", lambda m: m.Penalties(last_n=-2)),
    ("LogitBias", "bias", lambda m: m.LogitBias({3: NAN})),
    ("LogitBias", "token", lambda m: m.LogitBias({-3: 1.0})),
]


@pytest.mark.parametrize(("stage", "field", "make"), BAD_STAGES)
def test_stages_refuse_by_name(
    llm: ModuleType, stage: str, field: str, make: Callable[[Any], object]
) -> None:
    with pytest.raises(ValueError, match=f"(?i){stage}|{field}"):
        make(llm)


def test_bias_beyond_the_vocabulary(llm: ModuleType) -> None:
    with pytest.raises((ValueError, IndexError), match="50"):
        llm.Sampler([llm.LogitBias({50: 1.0})]).sample_logits(LOGITS)


@pytest.mark.parametrize(
    ("logits", "kind"),
    [
        (np.zeros(0, np.float32), ValueError),
        (np.zeros((2, 5), np.float32), ValueError),
        (np.zeros(10, np.float64), TypeError),
        (np.zeros(10, np.int32), TypeError),
        (np.zeros(20, np.float32)[::2], ValueError),
        (np.full(10, NAN, np.float32), ValueError),
        (np.full(10, -INF, np.float32), ValueError),
        ([0.0, 1.0], TypeError),
        (None, TypeError),
    ],
    ids=["empty", "2-D", "float64", "int32", "strided", "NaN", "all banned", "list", "None"],
)
def test_logits_refused(llm: ModuleType, logits: object, kind: type[Exception]) -> None:
    sampler = llm.Sampler([llm.Draw(seed=0)])
    with pytest.raises(kind):
        sampler.sample_logits(logits)
    assert 0 <= sampler.sample_logits(LOGITS) < 50


@pytest.mark.parametrize("stages", [None, [None], ["top_k"], [3]], ids=str)
def test_stage_lists_refused(llm: ModuleType, stages: object) -> None:
    with pytest.raises(TypeError):
        llm.Sampler(stages)
