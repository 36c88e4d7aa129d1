"""`dequantize` into 16-bit outputs, and its checks; float32 is in tests/quant/test_formats.py."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants
from reference.stored import FORMATS, block, stored

import my_llm_ffi as llm


def quantized(format: str, rows: int, cols: int) -> np.ndarray:
    x = np.random.default_rng(rows).standard_normal((rows, cols)).astype(np.float32)
    return stored(format, x)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (3, 7), (17, 9), (1000, 1), (2, 1024)])
def test_float16_is_rounded_once(format, rows, blocks):
    cols = blocks * max(32, block(format))
    weight = quantized(format, rows, cols)
    out = np.full((rows, cols), np.nan, np.float16)
    assert llm.ops.dequantize(weight, format=format, out=out) is out
    exact = llm.ops.dequantize(weight, format=format)
    np.testing.assert_array_equal(exact, quants.dequantize(weight, Type[format]))
    np.testing.assert_array_equal(out.view(np.uint16), exact.astype(np.float16).view(np.uint16))


@pytest.mark.parametrize("format", FORMATS)
def test_bfloat16_is_rounded_once(format):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    cols = 9 * max(32, block(format))
    weight = quantized(format, 5, cols)
    out = torch.empty(5, cols, dtype=torch.bfloat16)
    llm.ops.dequantize(torch.from_numpy(weight), format=format, out=out)
    exact = torch.from_numpy(quants.dequantize(weight, Type[format]))
    assert torch.equal(out, exact.bfloat16())


@pytest.mark.parametrize("format", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("cols", [1, 15, 17, 172])
def test_float_formats_take_any_cols(format, cols):
    weight = quantized(format, 3, cols)
    exact = quants.dequantize(weight, Type[format])
    np.testing.assert_array_equal(llm.ops.dequantize(weight, format=format), exact)
    half = llm.ops.dequantize(weight, format=format, out=np.empty((3, cols), np.float16))
    np.testing.assert_array_equal(half, exact.astype(np.float16))


@pytest.mark.parametrize("shape", [(0, 34), (3, 0)])
def test_nothing(shape):
    out = llm.ops.dequantize(np.zeros(shape, np.uint8), format="Q8_0")
    assert out.shape == (shape[0], shape[1] // 34 * 32)
    assert out.dtype == np.float32


W = np.zeros((4, 68), np.uint8)

REJECTED = {
    "unknown format": ((W,), {"format": "Q9_9"}, ValueError, 'format is "Q9_9", expected one of'),
    "part of a block": (
        (W[:, :67].copy(),),
        {"format": "Q8_0"},
        ValueError,
        r"weight has rows of 67 bytes, expected a multiple of 34 \(one block of Q8_0\)",
    ),
    "dtype": ((W.view("i1"),), {"format": "Q8_0"}, TypeError, "weight is int8, expected uint8"),
    "rank": ((W[0],), {"format": "Q8_0"}, ValueError, r"weight has shape \[68\]"),
    "strides": ((W[:, ::2],), {"format": "Q8_0"}, ValueError, "weight must be contiguous"),
    "cols of out": (
        (W,),
        {"format": "Q8_0", "out": np.empty((4, 32), np.float32)},
        ValueError,
        "out has rows of 32, expected cols=64",
    ),
    "dtype of out": (
        (W,),
        {"format": "Q8_0", "out": np.empty((4, 64))},
        TypeError,
        "out is float64, expected one of float32, float16, bfloat16",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejects(case):
    arguments, options, error, message = REJECTED[case]
    with pytest.raises(error, match=message):
        llm.ops.dequantize(*arguments, **options)


def test_rejects_an_out_that_overlaps():
    buffer = np.zeros(4 * 64, np.float32)
    weight = buffer.view(np.uint8)[: 4 * 68].reshape(4, 68)
    with pytest.raises(ValueError, match="out overlaps weight in memory"):
        llm.ops.dequantize(weight, format="Q8_0", out=buffer.reshape(4, 64))
