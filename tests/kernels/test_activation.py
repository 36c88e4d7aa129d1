"""Gated activations against NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

import my_llm_ffi as llm

SIZES = [0, 1, 15, 16, 17, 63, 64, 65, 11008, 32768]
# float32: the roundings of exponents up to 80. Else one rounding of the exact product, 2^-11 or
# 2^-8 of it: a negative gate, where the usual formulas cancel, is no exception.
RTOL = {"float32": 1e-5, "float16": 4.93e-4, "bfloat16": 3.92e-3}
ATOL = {"float32": 1e-35, "float16": 3e-8, "bfloat16": 1e-35}  # half of the least step


def silu(x):
    return x * np.exp(-np.logaddexp(0, -x))


def gelu(x):
    return 0.5 * x * np.vectorize(math.erfc, otypes=[np.float64])(-x / math.sqrt(2))


def gelu_tanh(x):
    return silu_of_twice(x, math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def silu_of_twice(x, u):  # x (1 + tanh u) / 2
    return x * np.exp(-np.logaddexp(0, -2 * u))


OPS = {
    "silu_mul": (lambda *a, **k: llm.ops.silu_mul(*a, **k), silu),
    "gelu_mul": (lambda *a, **k: llm.ops.gelu_mul(*a, **k), gelu),
    "gelu_mul tanh": (lambda *a, **k: llm.ops.gelu_mul(*a, approximate="tanh", **k), gelu_tanh),
}


def inputs(shape, dtype="float32"):
    rng = np.random.default_rng(sum(shape))
    return (4 * rng.normal(size=shape)).astype(dtype), rng.normal(size=shape).astype(dtype)


def assert_one_rounding(out, gate, up, exact, dtype):
    want = exact(gate.astype(np.float64)) * up.astype(np.float64)
    np.testing.assert_allclose(out, want, rtol=RTOL[dtype], atol=ATOL[dtype])


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", OPS)
def test_matches_reference(name, dtype, n, rows):
    op, exact = OPS[name]
    gate, up = inputs((rows, n), dtype)
    out = op(gate, up)
    assert out.dtype == gate.dtype
    assert_one_rounding(out, gate, up, exact, dtype)


@pytest.mark.parametrize("name", OPS)
def test_bfloat16(name):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    op, exact = OPS[name]
    gate, up = (torch.from_numpy(a).to(torch.bfloat16) for a in inputs((5, 1001)))
    out = op(gate, up)
    assert out.dtype == torch.bfloat16
    arrays = (t.double().numpy() for t in (out, gate, up))
    assert_one_rounding(*arrays, exact, "bfloat16")


@pytest.mark.parametrize("name", OPS)
def test_every_half_precision_gate(name):
    op, exact = OPS[name]
    gate = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    gate = gate[np.isfinite(gate)]
    out = op(gate, np.ones_like(gate))
    assert_one_rounding(out, gate, np.ones_like(gate), exact, "float16")


@pytest.mark.parametrize("name", OPS)
def test_the_ends_of_the_range(name):
    op, _ = OPS[name]
    gate = np.array([np.inf, -np.inf, 3e38, -3e38, np.nan, 0.0, -0.0], np.float32)
    out = op(gate, np.ones_like(gate))
    assert out[0] == np.inf
    assert out[2] == np.float32(3e38)
    np.testing.assert_allclose(out[[1, 3]], 0, atol=1e-35)
    assert np.isnan(out[4])
    np.testing.assert_array_equal(out[5:], 0)
    assert np.isnan(op(np.ones(1, np.float32), np.full(1, np.nan, np.float32)))[0]


@pytest.mark.parametrize("shape", [(48,), (2, 3, 48), (2, 0, 48)])
def test_any_number_of_leading_axes(shape):
    gate, up = inputs(shape)
    assert_one_rounding(llm.ops.silu_mul(gate, up), gate, up, silu, "float32")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", OPS)
def test_out_may_be_an_input(name, which):
    op, _ = OPS[name]
    arrays = inputs((3, 100))
    expected = op(*arrays)
    assert op(*arrays, out=arrays[which]) is arrays[which]
    np.testing.assert_array_equal(arrays[which], expected)


X = np.ones((4, 64), np.float32)
REJECTED = {
    "dtype": ((X.astype("i4"), X), {}, TypeError, "gate is int32, expected one of float32"),
    "dtype of up": ((X, X.astype("f2")), {}, TypeError, "up is float16, expected float32"),
    "dtype of out": ((X, X), {"out": X.astype("f2")}, TypeError, "out is float16"),
    "rank": (
        (np.ones((), np.float32), np.ones((), np.float32)),
        {},
        ValueError,
        r"gate has shape \[\]",
    ),
    "shape of up": (
        (X, X[:, :63].copy()),
        {},
        ValueError,
        r"up has shape \[4, 63\], expected .*=\(4\) \(from gate\), hidden=64 \(from gate\)\]",
    ),
    "rows of up": ((X, X[:3].copy()), {}, ValueError, r"up has shape \[3, 64\]"),
    "shape of out": ((X, X), {"out": X[:3].copy()}, ValueError, r"out has shape \[3, 64\]"),
    "strides": ((X[:, ::2], X[:, ::2]), {}, ValueError, "gate must be contiguous"),
    "read-only out": ((X, X), {"out": np.broadcast_to(X[0], (4, 64))}, BufferError, "read-only"),
}


@pytest.mark.parametrize("case", REJECTED)
@pytest.mark.parametrize("name", ["silu_mul", "gelu_mul"])
def test_rejects(name, case):
    arguments, options, error, message = REJECTED[case]
    with pytest.raises(error, match=message):
        getattr(llm.ops, name)(*arguments, **options)


@pytest.mark.parametrize("name", ["silu_mul", "gelu_mul"])
def test_rejects_partial_overlap(name):
    buffer = np.ones(5 * 8, np.float32)
    gate, out = buffer[:32].reshape(4, 8), buffer[8:].reshape(4, 8)
    with pytest.raises(ValueError, match="out overlaps gate"):
        getattr(llm.ops, name)(gate, np.ones((4, 8), np.float32), out=out)


def test_rejects_an_unknown_approximation():
    with pytest.raises(ValueError, match=r"approximate is .*expected one of 'none', 'tanh'"):
        llm.ops.gelu_mul(X, X, approximate="sigmoid")


@pytest.mark.parametrize(
    ("op", "options"),
    [("silu_mul", {}), ("gelu_mul", {}), ("gelu_mul", {"approximate": "tanh"})],
)
def test_a_gate_far_below_makes_nothing_of_a_large_factor(op, options):
    gate = np.array([[-np.inf, -1e4, -200.0]], np.float32)
    out = getattr(llm.ops, op)(gate, np.full_like(gate, 1e38), **options)
    np.testing.assert_array_equal(out, 0)
