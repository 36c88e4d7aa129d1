"""argmax, top_k and sample against NumPy in float64; draws by their frequencies."""

from __future__ import annotations

import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from reference import sampling as oracle

import my_llm_ffi as llm

NAN, INF = float("nan"), float("inf")
VOCABS = [1, 2, 15, 16, 17, 31, 33, 63, 65, 255, 257, 1000, 2049, 16385, 128256]
DTYPES = ["float32", "float16"]
# Weights are float32 (2 ulp, and the rounding of their exponent): where two tokens meet, this much
# of the mass may go to either.
EDGE = 2e-6
LOGPROB = {"rtol": 2e-6, "atol": 2e-6}


def rows_of(rows, vocab, dtype="float32", scale=3.0):
    rng = np.random.default_rng(rows * 1000003 + vocab)
    return (rng.normal(size=(rows, vocab)) * scale).astype(dtype)


def order_of(row):
    """Ids by falling value, of equals the lowest first, NaN last."""
    wide = row.astype(np.float64)
    return np.lexsort((np.arange(len(row)), -np.where(np.isnan(wide), 0, wide), np.isnan(wide)))


# ---- argmax and top_k ----------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_argmax(vocab, dtype):
    x = np.round(rows_of(5, vocab, dtype))  # ties
    out = llm.ops.argmax(x)
    assert out.dtype == np.int32
    np.testing.assert_array_equal(out, x.argmax(-1))


@pytest.mark.parametrize("shape", [(7,), (0, 7), (2, 3, 7), (2, 0, 7), (1, 1, 1, 7)])
def test_argmax_and_top_k_of_any_rank(shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    assert np.shape(llm.ops.argmax(x)) == shape[:-1]
    np.testing.assert_array_equal(llm.ops.argmax(x), x.argmax(-1))
    values, ids = llm.ops.top_k(x, k=3)
    assert values.shape == ids.shape == (*shape[:-1], 3)
    np.testing.assert_array_equal(ids, np.argsort(-x, -1, kind="stable")[..., :3])
    np.testing.assert_array_equal(values, np.take_along_axis(x, ids.astype(np.int64), -1))


def test_argmax_of_nan_and_infinities():
    x = np.array([[NAN, NAN, NAN], [NAN, -INF, -INF], [1, INF, INF], [-0.0, 0.0, NAN]], np.float32)
    for dtype in DTYPES:
        np.testing.assert_array_equal(llm.ops.argmax(x.astype(dtype)), [0, 1, 1, 0])


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_top_k(vocab, dtype):
    for scale in (3.0, 0.7):
        x = rows_of(3, vocab, dtype, scale)
        x[1] = np.round(x[1])  # ties
        for k in sorted({0, 1, 2, 5, 50, 400, 1024, 1025, vocab // 2, vocab}):
            if k > vocab:
                continue
            values, ids = llm.ops.top_k(x, k=k)
            expected = np.stack([order_of(row)[:k] for row in x])
            np.testing.assert_array_equal(ids, expected)
            np.testing.assert_array_equal(values, np.take_along_axis(x, expected, -1))


@pytest.mark.parametrize("vocab", [6, 3000])
def test_top_k_of_nan_and_infinities(vocab):
    x = np.full((2, vocab), -INF, np.float32)
    x[:, 1], x[:, 2], x[:, 3], x[:, 5] = NAN, INF, -0.0, 0.0
    for k in (1, 3, 4, 6, vocab):
        values, ids = llm.ops.top_k(x, k=k)
        expected = order_of(x[0])[:k]
        np.testing.assert_array_equal(ids, [expected, expected])
        np.testing.assert_array_equal(values, x[:, expected])
    assert llm.ops.top_k(x, k=3)[1][0].tolist() == [2, 3, 5]


def test_top_k_of_equals():
    for vocab in (40, 5000, 20000):
        for k in (1, 17, min(vocab, 1500)):
            _, ids = llm.ops.top_k(np.full((1, vocab), 2.5, np.float32), k=k)
            np.testing.assert_array_equal(ids[0], np.arange(k))


def test_bfloat16():
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    x = torch.from_numpy(rows_of(4, 5001)).bfloat16()
    wide = x.float().numpy()
    np.testing.assert_array_equal(llm.ops.argmax(x).numpy(), wide.argmax(-1))
    values, ids = llm.ops.top_k(x, k=20)
    assert values.dtype == torch.bfloat16
    np.testing.assert_array_equal(ids.numpy(), [order_of(row)[:20] for row in wide])
    uniform = torch.tensor([0.1, 0.4, 0.7, 0.95])
    top_p = torch.full((4,), 0.8)
    drawn, logprobs = llm.ops.sample(x, uniform, None, None, top_p)
    again, same = llm.ops.sample(x.float(), uniform, None, None, top_p)
    np.testing.assert_array_equal(drawn.numpy(), again.numpy())
    np.testing.assert_array_equal(logprobs.numpy(), same.numpy())


# ---- sample --------------------------------------------------------------------------------------


def distribution(row, temperature, top_k, top_p, min_p):
    """Probabilities by id, in float64."""
    row = np.where(np.isnan(row), -INF, row.astype(np.float64))
    row = oracle.temperature(row, temperature)
    if top_k > 0:
        row = oracle.top_k(row, top_k)
    if top_p < 1:
        row = oracle.top_p(row, top_p)
    if min_p > 0:
        row = oracle.min_p(row, min_p)
    return oracle.softmax(row)


def check_draws(logits, uniform, options, ids, logprobs):
    for r, row in enumerate(logits):
        p = distribution(row, *(options[name][r] for name in ("temperature", *FILTERS)))
        ranked = 0 < options["top_k"][r] < row.size or options["top_p"][r] < 1
        by_rank = oracle.descending(np.where(np.isnan(row), -INF, row))
        order = by_rank if ranked else np.arange(row.size)
        above = np.concatenate([[0], np.cumsum(p[order])])
        place = int(np.flatnonzero(order == ids[r])[0])
        assert above[place] - EDGE <= uniform[r] <= above[place + 1] + EDGE, (r, options)
        raw = row.astype(np.float64)
        want = raw[ids[r]] - raw.max() - np.log(np.exp(raw - raw.max()).sum())
        np.testing.assert_allclose(logprobs[r], want, **LOGPROB)


FILTERS = ("top_k", "top_p", "min_p")
NONE = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1e-3},
    {"temperature": 3.0},
    {"temperature": 100.0},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 900, "temperature": 5.0},
    {"top_k": 3000, "temperature": 5.0},
    {"top_p": 0.9},
    {"top_p": 0.999, "temperature": 2.0},
    {"top_p": 0.5, "temperature": 30.0},
    {"top_p": 1e-6},
    {"min_p": 0.05},
    {"min_p": 1e-4, "temperature": 4.0},
    {"min_p": 1.0},
    {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.02},
    {"temperature": 20.0, "top_k": 5000, "top_p": 0.8, "min_p": 0.6},
    {"temperature": 20.0, "top_k": 10000, "top_p": 0.97, "min_p": 0.01},
]


def columns(setting, rows):
    values = {**NONE, **setting}
    return {
        name: np.full(rows, values[name], np.int32 if name == "top_k" else np.float32)
        for name in NONE
    }


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("vocab", [1, 2, 17, 300, 1000, 20001])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sample_follows_the_order(vocab, setting, dtype):
    rows = 12
    logits = rows_of(rows, vocab, dtype)
    logits[0] = np.round(logits[0])  # ties
    logits[1, ::3] = -INF
    logits[1, 0] = 1
    uniform = np.random.default_rng(vocab).random(rows, np.float32)
    uniform[:3] = 0, 1 - 2.0**-24, 0.5
    options = columns(setting, rows)
    ids, logprobs = llm.ops.sample(logits, uniform, *options.values())
    assert ids.dtype == np.int32
    check_draws(logits, uniform, options, ids, logprobs)


@pytest.mark.parametrize(
    "setting", [{}, {"top_p": 0.9}, {"top_k": 50}, {"temperature": 0.1}], ids=str
)
def test_sample_of_a_whole_vocabulary(setting):
    for scale in (0.5, 6.0):
        logits = rows_of(3, 128256, scale=scale)
        uniform = np.array([0.02, 0.6, 0.97], np.float32)
        options = columns(setting, 3)
        check_draws(logits, uniform, options, *llm.ops.sample(logits, uniform, *options.values()))


def test_each_row_has_its_own_options():
    logits = np.repeat(rows_of(1, 3000), len(SETTINGS), 0)
    every = [columns(s, 1) for s in SETTINGS]
    options = {name: np.concatenate([e[name] for e in every]) for name in NONE}
    uniform = np.random.default_rng(3).random(len(SETTINGS), np.float32)
    ids, logprobs = llm.ops.sample(logits, uniform, *options.values())
    check_draws(logits, uniform, options, ids, logprobs)
    for r, one in enumerate(every):
        alone = llm.ops.sample(logits[:1], uniform[r : r + 1], *one.values())
        assert (alone[0][0], alone[1][0]) == (ids[r], logprobs[r])


def test_equal_weights_split_evenly():
    """Exact: sums of equal weights have no rounding."""
    logits = np.full((1, 1024), -3.25, np.float32)
    for u in (0, 0.25, 0.5, 0.75, 511 / 1024, 1 - 2.0**-24):
        ids, logprobs = llm.ops.sample(logits, np.array([u], np.float32))
        assert ids[0] == int(u * 1024)
        np.testing.assert_allclose(logprobs, -np.log(1024), rtol=1e-6)
    half = np.array([0.5], np.float32)
    for u, expected in [(0, 0), (0.5, 256), (1 - 2.0**-24, 511)]:
        ids, _ = llm.ops.sample(logits, np.array([u], np.float32), top_p=half)
        assert ids[0] == expected


def test_zeros_of_both_signs_and_what_is_next_to_them():
    """All weights are 1, and only the order of the logits counts."""
    logits = np.zeros((1, 3000), np.float32)
    logits[0, 1::3] = -0.0
    logits[0, 2::3] = np.linspace(-1e-45, -1e-39, 1000, dtype=np.float32)
    order = order_of(logits[0])
    ranked = np.array([2999], np.int32)
    for u in (0, 0.2, 0.5, 0.7, 0.9, 0.99):
        ids, _ = llm.ops.sample(logits, np.array([u], np.float32), top_k=ranked)
        assert ids[0] == order[int(np.float32(u).astype(np.float64) * 2999)]


@pytest.mark.parametrize("vocab", [8, 300, 5000])
def test_greedy(vocab):
    logits = np.round(rows_of(20, vocab))
    logits[3, 0] = NAN
    uniform = np.full(20, 0.999, np.float32)
    ids, logprobs = llm.ops.sample(logits, uniform, np.zeros(20, np.float32))
    clean = np.where(np.isnan(logits), -INF, logits).astype(np.float64)
    np.testing.assert_array_equal(ids, clean.argmax(-1))
    want = clean.max(-1) - np.log(np.exp(clean).sum(-1))
    np.testing.assert_allclose(logprobs, want, **LOGPROB)


def test_infinities_and_nan():
    rows = np.zeros((5, 100), np.float32)
    rows[0] = -INF
    rows[1] = NAN
    rows[2, [5, 40, 60]] = INF
    rows[3, 1:] = NAN
    rows[4] = np.where(np.arange(100) == 7, -1000, -INF)
    for temperature in (0.0, 0.5, 1.0):
        ids, logprobs = llm.ops.sample(
            rows, np.full(5, 0.5, np.float32), np.full(5, temperature, np.float32)
        )
        assert ids.tolist() == [-1, -1, 5 if temperature == 0 else 40, 0, 7]
        np.testing.assert_allclose(logprobs, [-INF, -INF, -np.log(3), 0, 0], rtol=1e-6)


def test_extreme_temperatures():
    logits = rows_of(1, 5000)
    best = logits.argmax()
    for temperature in (1e-45, 1e-30, 1e-6):
        ids, _ = llm.ops.sample(logits, np.array([0.9], np.float32), np.float32([temperature]))
        assert ids[0] == best
    hot = [
        llm.ops.sample(logits, np.array([u], np.float32), np.float32([3e38]))[0][0]
        for u in (0, 0.5)
    ]
    assert hot == [0, 2500]  # all weights are 1, and nothing ranks the tokens


@pytest.mark.parametrize(
    "setting", [{}, {"temperature": 0.6, "top_p": 0.9}, {"top_k": 12, "min_p": 0.02}], ids=str
)
def test_frequencies_of_draws(setting):
    """Chi-square against NumPy's probabilities; the limit is passed once in a million runs."""
    draws = 40000
    row = np.random.default_rng(9).normal(size=200).astype(np.float32) * 2
    p = distribution(row, *{**NONE, **setting}.values())
    uniform = np.random.default_rng(10).random(draws, np.float32)
    logits = np.repeat(row[None], draws, 0)
    ids, _ = llm.ops.sample(logits, uniform, *columns(setting, draws).values())
    counts = np.bincount(ids, minlength=200)
    assert not counts[p == 0].any()
    often = p * draws >= 5
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(p[often], p[~often].sum()) * draws
    observed, expected = observed[expected > 0], expected[expected > 0]
    statistic, freedom = ((observed - expected) ** 2 / expected).sum(), len(expected) - 1
    # Wilson and Hilferty's normal approximation at 4.75 standard deviations.
    limit = freedom * (1 - 2 / (9 * freedom) + 4.75 * np.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < limit


@hypothesis.given(st.data())
def test_random_rows(data):
    vocab = data.draw(st.integers(1, 600))
    seed = data.draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(1, vocab)) * data.draw(st.sampled_from([0.01, 1, 10]))).astype("f4")
    if data.draw(st.booleans()):
        logits = np.round(logits, 1)
    setting = {
        "temperature": data.draw(st.sampled_from([0.05, 1.0, 9.0])),
        "top_k": data.draw(st.integers(-1, vocab + 1)),
        "top_p": data.draw(st.floats(0.015625, 1.0, width=32)),
        "min_p": data.draw(st.sampled_from([0.0, 0.011, 0.5])),
    }
    uniform = rng.random(1, np.float32)
    options = columns(setting, 1)
    p = distribution(logits[0], *(v[0].item() for v in options.values()))
    ids, _ = llm.ops.sample(logits, uniform, *options.values())
    order = oracle.descending(logits[0])
    above = np.concatenate([[0], np.cumsum(p[order])])
    place = int(np.flatnonzero(order == ids[0])[0])
    # A token more or less at the edge of top_p or min_p moves the others by its own mass.
    slack = EDGE + p.max() * bool(setting["top_p"] < 1 or setting["min_p"] > 0)
    assert above[place] - slack <= uniform[0] <= above[place + 1] + slack


PINNED = """
import hashlib, os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))} if sys.argv[1] == "1" else
                     os.sched_getaffinity(0))
import numpy as np
import my_llm_ffi as llm
rng = np.random.default_rng(5)
digest = hashlib.sha256()
for rows in (1, 3, 8):
    logits = rng.normal(size=(rows, 70001)).astype(np.float32)
    uniform = rng.random(rows, np.float32)
    for p in (1, 0.8):
        top_p = np.full(rows, p, np.float32)
        for a in llm.ops.sample(logits, uniform, np.full(rows, 0.7, np.float32), None, top_p):
            digest.update(a.tobytes())
    digest.update(llm.ops.top_k(logits, k=30)[1].tobytes())
print(digest.hexdigest())
"""


def test_bits_do_not_depend_on_threads():
    digests = {
        subprocess.run(
            [sys.executable, "-c", PINNED, threads], capture_output=True, text=True, check=True
        ).stdout
        for threads in ("1", "all")
    }
    assert len(digests) == 1


# ---- what is refused -----------------------------------------------------------------------------


X = np.zeros((2, 8), np.float32)


def two(value, dtype=np.float32):
    return np.array([value if dtype == np.int32 else 0.5, value], dtype)


REJECTED = {
    "dtype of logits": ("logits", np.zeros((2, 8)), TypeError, "logits is float64, expected one"),
    "rank of logits": ("logits", X[0], ValueError, r"logits has shape \[8\]"),
    "strides": ("logits", np.zeros((2, 16), np.float32)[:, ::2], ValueError, "contiguous"),
    "no tokens": ("logits", np.zeros((2, 0), np.float32), ValueError, "rows of no tokens"),
    "rows of uniform": ("uniform", np.zeros(3, np.float32), ValueError, r"rows=2 \(from logits\)"),
    "dtype of uniform": ("uniform", np.zeros(2), TypeError, "uniform is float64"),
    "uniform of 1": ("uniform", two(1), ValueError, r"uniform\[1\] is 1, expected a number from 0"),
    "negative uniform": ("uniform", two(-0.1), ValueError, "uniform"),
    "uniform of NaN": ("uniform", two(NAN), ValueError, "uniform"),
    "negative temperature": ("temperature", two(-1), ValueError, r"temperature\[1\] is -1"),
    "temperature of NaN": ("temperature", two(NAN), ValueError, "temperature"),
    "temperature of inf": ("temperature", two(INF), ValueError, "temperature"),
    "rows of temperature": ("temperature", np.ones(1, np.float32), ValueError, "rows=2"),
    "dtype of top_k": ("top_k", two(1), TypeError, "top_k is float32, expected int32"),
    "rows of top_k": ("top_k", np.zeros(3, np.int32), ValueError, "rows=2"),
    "top_p of 0": ("top_p", two(0), ValueError, r"top_p\[1\] is 0, expected 0 < top_p <= 1"),
    "top_p above 1": ("top_p", two(1.1), ValueError, "top_p"),
    "top_p of NaN": ("top_p", two(NAN), ValueError, "top_p"),
    "negative min_p": ("min_p", two(-0.1), ValueError, r"min_p\[1\] is -0.1, expected 0 <= min_p"),
    "min_p above 1": ("min_p", two(1.1), ValueError, "min_p"),
    "min_p of NaN": ("min_p", two(NAN), ValueError, "min_p"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_sample_rejects(case):
    name, value, error, message = REJECTED[case]
    with pytest.raises(error, match=message):
        llm.ops.sample(**{"logits": X, "uniform": np.zeros(2, np.float32), name: value})


def test_sample_rejects_outputs():
    ids, logprobs = np.zeros(2, np.int32), np.zeros(2, np.float32)
    uniform = np.zeros(2, np.float32)
    for out, error, message in [
        ((np.zeros(3, np.int32), logprobs), ValueError, "ids has shape"),
        ((ids, np.zeros(2)), TypeError, "logprobs is float64, expected float32"),
        ((ids, uniform), ValueError, "logprobs overlaps uniform"),
    ]:
        with pytest.raises(error, match=message):
            llm.ops.sample(X, uniform, out=out)
    got = llm.ops.sample(X, uniform, out=(ids, logprobs))
    assert got[0] is ids
    assert got[1] is logprobs


@pytest.mark.parametrize(
    ("x", "k", "error", "message"),
    [
        (X, -1, ValueError, "k is -1, expected 0 to the 8 elements"),
        (X, 9, ValueError, "k is 9, expected 0 to the 8 elements"),
        (X.astype(np.int32), 1, TypeError, "x is int32, expected one of float32"),
        (np.ones((), np.float32), 1, ValueError, r"x has shape \[\]"),
        (np.zeros((2, 16), np.float32)[:, ::2], 1, ValueError, "contiguous"),
    ],
    ids=["negative k", "k beyond", "dtype", "rank", "strides"],
)
def test_top_k_rejects(x, k, error, message):
    out = np.empty((2, max(k, 0)), np.float32), np.empty((2, max(k, 0)), np.int32)
    with pytest.raises(error, match=message):
        llm.ops.top_k(x, k=k, out=out)


def test_top_k_rejects_outputs():
    values, ids = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.int32)
    for out, error, message in [
        ((values[:, :2].copy(), ids), ValueError, "values has 2 in a row, expected k=3"),
        ((values, ids[:, :2].copy()), ValueError, "ids has 2 in a row, expected k=3"),
        ((values[:1], ids), ValueError, "values has shape"),
        ((values.astype(np.float16), ids), TypeError, "values is float16"),
        ((values, ids.astype(np.int64)), TypeError, "ids is int64"),
        ((values, values.view(np.int32)), ValueError, "overlaps"),
    ]:
        with pytest.raises(error, match=message):
            llm.ops.top_k(X, k=3, out=out)


@pytest.mark.parametrize(
    ("x", "out", "error", "message"),
    [
        (np.zeros((2, 0), np.float32), None, ValueError, "rows of no elements"),
        (np.zeros((2, 3)), None, TypeError, "x is float64"),
        (np.zeros((), np.float32), np.zeros((), np.int32), ValueError, r"x has shape \[\]"),
        (X, np.zeros(3, np.int32), ValueError, "out has shape"),
        (X, np.zeros(2, np.int64), TypeError, "out is int64, expected int32"),
        (X, X[0, :2].view(np.int32), ValueError, "out overlaps x"),
    ],
    ids=["no elements", "dtype", "rank", "shape of out", "dtype of out", "overlap"],
)
def test_argmax_rejects(x, out, error, message):
    with pytest.raises(error, match=message):
        llm.ops.argmax(x, out=out)
