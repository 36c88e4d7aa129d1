"""Softmax and its logarithm against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

import my_llm_ffi as llm

SIZES = [1, 2, 15, 16, 17, 63, 64, 65, 1000, 4095, 4096, 4097, 32768, 128256]
NAMES = ["softmax", "log_softmax"]
# Relative to the largest of the row, or to the least normal number: float32 a few roundings, 16-bit
# floats the rounding of the output.
TOLERANCE = {"float32": 2e-6, "float16": 5e-4, "bfloat16": 4e-3}


def reference(name, x, scale=1.0, soft_cap=None):
    y = scale * x.astype(np.float64)
    if soft_cap is not None:
        y = soft_cap * np.tanh(y / soft_cap)
    y = y - y.max(-1, keepdims=True)
    total = np.exp(y).sum(-1, keepdims=True)
    return y - np.log(total) if name == "log_softmax" else np.exp(y) / total


LEAST_NORMAL = {"float32": 1e-37, "float16": 6.2e-5, "bfloat16": 1e-37}


def assert_close(out, want, dtype):
    largest = np.abs(want).max(-1, keepdims=True, initial=LEAST_NORMAL[dtype])
    np.testing.assert_allclose(out / largest, want / largest, rtol=0, atol=TOLERANCE[dtype])


def rows_of(rows, n, spread=3.0):
    return spread * np.random.default_rng(n + rows).normal(size=(rows, n))


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_matches_reference(name, dtype, n, rows):
    x = rows_of(rows, n).astype(dtype)
    out = getattr(llm.ops, name)(x)
    assert out.dtype == x.dtype
    assert_close(out.astype(np.float64), reference(name, x), dtype)


@pytest.mark.parametrize("n", [1, 17, 4097])
@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name, n):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    x = torch.from_numpy(rows_of(3, n)).to(torch.bfloat16)
    out = getattr(llm.ops, name)(x)
    assert out.dtype == torch.bfloat16
    assert_close(out.double().numpy(), reference(name, x.double().numpy()), "bfloat16")


@pytest.mark.parametrize("options", [{"scale": 0.125}, {"scale": -2.0}, {"scale": 0.0}])
@pytest.mark.parametrize("soft_cap", [None, 0.5, 30.0])
@pytest.mark.parametrize("name", NAMES)
def test_scale_and_soft_cap(name, soft_cap, options):
    x = rows_of(4, 777).astype(np.float32)
    out = getattr(llm.ops, name)(x, soft_cap=soft_cap, **options)
    assert_close(out, reference(name, x, soft_cap=soft_cap, **options), "float32")


@pytest.mark.parametrize("soft_cap", [20.0, 50.0])
def test_scores_at_their_cap(soft_cap):
    x = (30 * rows_of(40, 64)).astype(np.float32)  # most of them where tanh is nearly 1
    expected = reference("softmax", x, soft_cap=soft_cap)
    out = llm.ops.softmax(x, soft_cap=soft_cap)
    error = np.linalg.norm(out - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert error.max() < 2e-6


def test_infinite_scores_are_capped():
    x = np.array([[1, -np.inf, 2, np.inf]], np.float32)
    expected = reference("softmax", np.array([[1, -1e9, 2, 1e9]]), soft_cap=3.0)
    assert_close(llm.ops.softmax(x, soft_cap=3.0), expected, "float32")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("offset", [-3e4, 1e3, 3e4])
def test_large_scores_do_not_overflow(name, offset):
    x = (rows_of(2, 300) + offset).astype(np.float32)
    assert_close(getattr(llm.ops, name)(x), reference(name, x), "float32")


def test_probabilities_add_up_to_one():
    out = llm.ops.softmax(rows_of(2, 128256).astype(np.float32))
    np.testing.assert_allclose(out.sum(-1, dtype=np.float64), 1, atol=1e-6)


@pytest.mark.parametrize("n", [5, 100, 5000, 40000])
def test_masked_scores(n):
    x = rows_of(4, n).astype(np.float32)
    x[0, 1:] = -np.inf  # one is left
    x[1] = -np.inf  # none is left
    x[2, n // 2] = np.nan
    x[3, n - 1] = np.inf
    out, log = llm.ops.softmax(x), llm.ops.log_softmax(x)
    np.testing.assert_array_equal(out[0], np.arange(n) == 0)
    np.testing.assert_array_equal(log[0], np.where(np.arange(n) == 0, 0, -np.inf))
    assert np.isnan(out[1:]).all()
    assert np.isnan(log[1:]).all()


def test_torch_agrees_about_masked_scores():
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    x = torch.full((4, 3), -torch.inf)
    x[0, 0], x[2, 1], x[3, 2] = 1, torch.nan, torch.inf
    for name in NAMES:
        expected = getattr(torch, name)(x, -1)
        torch.testing.assert_close(getattr(llm.ops, name)(x), expected, equal_nan=True)


@pytest.mark.parametrize("shape", [(48,), (2, 3, 48), (2, 0, 48), (3, 0)])
def test_any_number_of_leading_axes(shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    out = llm.ops.softmax(x)
    assert out.shape == shape
    if x.size:
        assert_close(out, reference("softmax", x), "float32")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [33, 20000])
def test_out_may_be_x_and_rows_stand_alone(name, n):
    op = getattr(llm.ops, name)
    x = rows_of(6, n).astype(np.float32)
    expected = op(x)
    np.testing.assert_array_equal([op(row) for row in x], expected)
    assert op(x, out=x) is x
    np.testing.assert_array_equal(x, expected)


X = np.ones((4, 64), np.float32)
REJECTED = {
    "dtype": ((X.astype("f8"),), {}, TypeError, "x is float64, expected one of float32"),
    "dtype of out": ((X,), {"out": X.astype("f2")}, TypeError, "out is float16, expected float32"),
    "rank": (
        (np.ones((), np.float32),),
        {},
        ValueError,
        r"x has shape \[\], expected \[\*batch, n\]",
    ),
    "shape of out": (
        (X,),
        {"out": X[:3].copy()},
        ValueError,
        r"out has shape \[3, 64\], expected \[\*batch=\(4\) \(from x\), n=64 \(from x\)\]",
    ),
    "strides": ((X[:, ::2],), {}, ValueError, "x must be contiguous"),
    "read-only out": ((X,), {"out": np.broadcast_to(X[0], (4, 64))}, BufferError, "read-only"),
    "scale of NaN": ((X,), {"scale": np.nan}, ValueError, "scale must be a finite float32"),
    "infinite scale": ((X,), {"scale": -np.inf}, ValueError, "scale must be a finite float32"),
    "scale beyond float32": ((X,), {"scale": 1e39}, ValueError, "scale must be a finite float32"),
    "cap of 0": ((X,), {"soft_cap": 0.0}, ValueError, "soft_cap must be a positive float32, got 0"),
    "negative cap": ((X,), {"soft_cap": -1.0}, ValueError, "soft_cap must be a positive float32"),
    "cap of NaN": ((X,), {"soft_cap": np.nan}, ValueError, "soft_cap must be a positive float32"),
    "infinite cap": ((X,), {"soft_cap": np.inf}, ValueError, "soft_cap must be a positive float32"),
    "cap too small": (
        (X,),
        {"scale": 1e30, "soft_cap": 1e-30},
        ValueError,
        "scale / soft_cap must be a finite float32, got 1e\\+30 / 1e-30",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
@pytest.mark.parametrize("name", NAMES)
def test_rejects(name, case):
    arguments, options, error, message = REJECTED[case]
    with pytest.raises(error, match=message):
        getattr(llm.ops, name)(*arguments, **options)


@pytest.mark.parametrize("name", NAMES)
def test_rejects_partial_overlap(name):
    buffer = np.ones(5 * 8, np.float32)
    x, out = buffer[:32].reshape(4, 8), buffer[8:].reshape(4, 8)
    with pytest.raises(ValueError, match=f"{name}: out overlaps x"):
        getattr(llm.ops, name)(x, out=out)


@pytest.mark.parametrize("scale", [0.0884, 0.7, 1.3, -0.7, 0.0])
@pytest.mark.parametrize("largest", [1e10, 1e30, 3.4028235e38])
@pytest.mark.parametrize("sign", [1, -1])
def test_huge_scores_do_not_lose_the_row(scale, largest, sign):
    """The rounding of a scaled maximum is too large to stand in an exponent."""
    x = np.full((3, 5), sign * largest, np.float32)
    even = llm.ops.softmax(x, scale=scale)
    np.testing.assert_allclose(even, 0.2, rtol=1e-6)
    np.testing.assert_allclose(llm.ops.log_softmax(x, scale=scale), -np.log(5), rtol=1e-6)
    x[:, 1:3] *= 0.99
    keeps = [0, 3, 4] if sign * scale > 0 else [1, 2]
    if scale != 0:
        expected = np.zeros(5)
        expected[keeps] = 1 / len(keeps)
        np.testing.assert_allclose(llm.ops.softmax(x, scale=scale)[0], expected, rtol=1e-6)


def test_one_element_has_all_the_probability():
    x = np.random.default_rng(0).normal(size=(400, 1)).astype(np.float32) * 100
    np.testing.assert_array_equal(llm.ops.log_softmax(x, scale=0.37), 0)
    np.testing.assert_array_equal(llm.ops.softmax(x, scale=0.37), 1)
