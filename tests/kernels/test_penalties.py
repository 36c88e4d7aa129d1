"""Penalties for tokens that were seen against NumPy in float64."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import my_llm_ffi as llm

NAN, INF = float("nan"), float("inf")


def reference(logits, tokens, repetition, frequency, presence):
    out = logits.astype(np.float64)
    repetition, frequency, presence = (
        a.astype(np.float64) for a in (repetition, frequency, presence)
    )
    for r, row in enumerate(tokens):
        for token, count in Counter(int(t) for t in row if t >= 0).items():
            value = out[r, token]
            value = value / repetition[r] if value > 0 else value * repetition[r]
            out[r, token] = value - count * frequency[r] - presence[r]
    return out


def inputs(rows, vocab, seen, dtype="float32"):
    rng = np.random.default_rng(rows * 1000 + vocab + seen)
    logits = (rng.normal(size=(rows, vocab)) * 5).astype(dtype)
    tokens = rng.integers(0, vocab, size=(rows, seen)).astype(np.int32)
    tokens[rng.random(size=tokens.shape) < 0.2] = -1
    repetition = rng.uniform(0.5, 2, rows).astype(np.float32)
    frequency, presence = rng.normal(size=(2, rows)).astype(np.float32)
    return logits, tokens, repetition, frequency, presence


@pytest.mark.parametrize("rows", [0, 1, 3, 16])
@pytest.mark.parametrize("vocab", [1, 31, 33, 1000])
@pytest.mark.parametrize("seen", [0, 1, 7, 300])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_matches_reference(rows, vocab, seen, dtype):
    logits, tokens, *penalties = inputs(rows, vocab, seen, dtype)
    expected = reference(logits, tokens, *penalties)
    out = logits.copy()
    assert llm.ops.apply_penalties(out, tokens, *penalties) is None
    # One rounding to the dtype, of a value computed in float64.
    rtol, atol = (6e-8, 0) if dtype == "float32" else (5e-4, 6e-8)
    np.testing.assert_allclose(out, expected, rtol=rtol, atol=atol)
    seen_ids = np.zeros(logits.shape, bool)
    for r, row in enumerate(tokens):
        seen_ids[r, row[row >= 0]] = True
    np.testing.assert_array_equal(out[~seen_ids], logits[~seen_ids])


def test_bfloat16():
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    logits, tokens, *penalties = inputs(3, 500, 40)
    x = torch.from_numpy(logits).bfloat16()
    expected = reference(x.double().numpy(), tokens, *penalties)
    llm.ops.apply_penalties(x, *(torch.from_numpy(a) for a in (tokens, *penalties)))
    np.testing.assert_allclose(x.double().numpy(), expected, rtol=4e-3, atol=1e-30)


def test_each_penalty_alone():
    logits = np.array([[2.0, -2.0, 1.0, 0.0]], np.float32)
    tokens = np.array([[0, 1, 1, -1, 3]], np.int32)
    for name, value, expected in [
        ("repetition", 4, [0.5, -8, 1, 0]),
        ("frequency", 0.5, [1.5, -3, 1, -0.5]),
        ("presence", 0.5, [1.5, -2.5, 1, -0.5]),
        ("presence", -1, [3, -1, 1, 1]),
    ]:
        out = logits.copy()
        llm.ops.apply_penalties(out, tokens, **{name: np.array([value], np.float32)})
        np.testing.assert_array_equal(out, [expected])
    out = logits.copy()
    llm.ops.apply_penalties(out, tokens)
    np.testing.assert_array_equal(out, logits)


def test_infinities_and_nan_stay():
    logits = np.array([[INF, -INF, NAN, 1]], np.float32)
    three = [np.array([v], np.float32) for v in (1.5, 0.5, 0.25)]
    llm.ops.apply_penalties(logits, np.array([[0, 1, 2, 2]], np.int32), *three)
    np.testing.assert_array_equal(logits, [[INF, -INF, NAN, 1]])


def test_a_row_does_not_depend_on_its_batch():
    logits, tokens, *penalties = inputs(33, 5000, 600)
    batch = logits.copy()
    llm.ops.apply_penalties(batch, tokens, *penalties)
    for r in range(33):
        row = logits[r : r + 1].copy()
        llm.ops.apply_penalties(row, *(a[r : r + 1] for a in (tokens, *penalties)))
        np.testing.assert_array_equal(row[0], batch[r])


def good():
    logits, tokens, repetition, frequency, presence = inputs(2, 8, 4)
    return {
        "logits": logits,
        "tokens": tokens,
        "repetition": repetition,
        "frequency": frequency,
        "presence": presence,
    }


def two(value):
    return np.array([1, value], np.float32)


REJECTED = {
    "dtype of logits": ("logits", np.zeros((2, 8)), TypeError, "logits is float64, expected one"),
    "rank of logits": ("logits", np.zeros(8, np.float32), ValueError, r"logits has shape \[8\]"),
    "strides": ("logits", np.zeros((2, 16), np.float32)[:, ::2], ValueError, "contiguous"),
    "read-only": ("logits", np.broadcast_to(np.float32(0), (2, 8)), BufferError, "read-only"),
    "dtype of tokens": ("tokens", np.zeros((2, 4), np.int64), TypeError, "tokens is int64"),
    "rows of tokens": ("tokens", np.zeros((3, 4), np.int32), ValueError, r"rows=2 \(from"),
    "token beyond": (
        "tokens",
        np.array([[0, 8]] * 2, np.int32),
        ValueError,
        r"tokens\[1\] is 8, expected a token of logits",
    ),
    "token below": ("tokens", np.array([[0, -2]] * 2, np.int32), ValueError, r"tokens\[1\] is -2"),
    "rows of repetition": (
        "repetition",
        np.ones(3, np.float32),
        ValueError,
        r"rows=2 \(from",
    ),
    "dtype of presence": ("presence", np.ones(2), TypeError, "presence is float64"),
    "repetition of 0": ("repetition", two(0), ValueError, r"repetition\[1\] is 0, expected a fin"),
    "negative repetition": ("repetition", two(-1), ValueError, "repetition"),
    "repetition of NaN": ("repetition", two(NAN), ValueError, "repetition"),
    "repetition of inf": ("repetition", two(INF), ValueError, "repetition"),
    "frequency of NaN": ("frequency", two(NAN), ValueError, r"frequency\[1\]"),
    "frequency of inf": ("frequency", two(-INF), ValueError, r"frequency\[1\]"),
    "presence of NaN": ("presence", two(NAN), ValueError, r"presence\[1\]"),
    "presence of inf": ("presence", two(INF), ValueError, r"presence\[1\]"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejects(case):
    name, value, error, message = REJECTED[case]
    with pytest.raises(error, match=message):
        llm.ops.apply_penalties(**{**good(), name: value})


def test_rejects_overlap():
    buffer = np.zeros(32, np.float32)
    logits, repetition = buffer[:16].reshape(2, 8), buffer[15:17]
    with pytest.raises(ValueError, match="overlaps"):
        llm.ops.apply_penalties(logits, np.zeros((2, 1), np.int32), repetition)
