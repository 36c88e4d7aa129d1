"""`quantize_q8_0` against PyPI's gguf, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants
from hypothesis import given
from hypothesis import strategies as st

import my_llm_ffi as llm


def assert_as_gguf(x: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        expected = quants.quantize(x.astype(np.float32), Type.Q8_0)
    np.testing.assert_array_equal(llm.ops.quantize_q8_0(x), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("rows", "cols"), [(1, 32), (3, 64), (17, 1024), (1000, 32), (2, 32768)])
def test_normal_numbers(rows, cols, dtype):
    x = np.random.default_rng(rows).standard_normal((rows, cols)).astype(dtype)
    assert_as_gguf(x)


@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-150, 127), width=st.integers(0, 40))
def test_numbers_of_any_size(seed, exponent, width):
    rng = np.random.default_rng(seed)
    scale = 2.0 ** (exponent + rng.uniform(-width, 0, (4, 64)))
    x = (rng.uniform(-1, 1, (4, 64)) * scale).astype(np.float32)
    assert_as_gguf(x)


def test_ties_go_away_from_zero():
    x = np.arange(-16, 16, dtype=np.float32)[None] + 0.5
    x[0, 0] = 127
    quants_of = llm.ops.quantize_q8_0(x)[0, 2:].view(np.int8)
    assert quants_of[1:].tolist() == [i + (1 if i >= 0 else 0) for i in range(-15, 16)]
    assert_as_gguf(x)


def test_just_below_a_tie():
    x = np.full((1, 32), np.nextafter(np.float32(0.5), np.float32(0)))
    x[0, 0] = -127
    assert_as_gguf(x)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 3e38, 1e-38, 2e-39])
def test_constant_blocks(value):
    assert_as_gguf(np.full((2, 64), value, np.float32))


def test_every_float16():
    finite = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = finite[np.isfinite(finite)]
    assert_as_gguf(finite.reshape(-1, 32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_becomes_the_scale(bad):
    x = np.ones((3, 32), np.float32)
    x[1, 3] = bad
    q = llm.ops.quantize_q8_0(x)
    scale = q[:, :2].copy().view(np.float16)[:, 0]
    np.testing.assert_array_equal(scale[1], np.float16(abs(bad)))
    assert not q[1, 2:].any()
    np.testing.assert_array_equal(q[[0, 2]], quants.quantize(x[[0, 2]], Type.Q8_0))


def test_dequantize_brings_it_back():
    x = np.random.default_rng(1).standard_normal((5, 96)).astype(np.float32)
    back = llm.ops.dequantize(llm.ops.quantize_q8_0(x), format="Q8_0")
    step = np.abs(x.reshape(-1, 32)).max(-1, keepdims=True) / 127
    assert (np.abs(back - x).reshape(-1, 32) <= 0.5001 * step + 127 * step * 2.0**-11).all()


def test_bfloat16():
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    x = torch.randn(7, 96, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = quants.quantize(x.float().numpy(), Type.Q8_0)
    np.testing.assert_array_equal(llm.ops.quantize_q8_0(x).numpy(), expected)


@pytest.mark.parametrize("shape", [(0, 32), (3, 0), (0, 0)])
def test_nothing(shape):
    out = llm.ops.quantize_q8_0(np.ones(shape, np.float32))
    assert out.shape == (shape[0], shape[1] // 32 * 34)


X = np.ones((4, 64), np.float32)

REJECTED = {
    "part of a block": (
        (X[:, :33].copy(),),
        {"out": np.empty((4, 34), np.uint8)},
        ValueError,
        "quantize_q8_0: x has rows of 33, expected a multiple of 32",
    ),
    "dtype": ((X.astype("f8"),), {}, TypeError, "x is float64, expected one of float32, float16"),
    "rank": ((X[0],), {}, ValueError, r"x has shape \[64\]"),
    "strides": ((X[:, ::2],), {}, ValueError, "x must be contiguous"),
    "bytes of out": (
        (X,),
        {"out": np.empty((4, 64), np.uint8)},
        ValueError,
        "out has rows of 64 bytes, expected 68",
    ),
    "rows of out": (
        (X,),
        {"out": np.empty((3, 68), np.uint8)},
        ValueError,
        r"out has shape \[3, 68\], expected \[rows=4 \(from x\)",
    ),
    "dtype of out": (
        (X,),
        {"out": np.empty((4, 68), np.int8)},
        TypeError,
        "out is int8, expected uint8",
    ),
    "overlap": (
        (X,),
        {"out": X.view(np.uint8).reshape(-1)[: 4 * 68].reshape(4, 68)},
        ValueError,
        "out overlaps x in memory",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejects(case):
    arguments, options, error, message = REJECTED[case]
    with pytest.raises(error, match=message):
        llm.ops.quantize_q8_0(*arguments, **options)
