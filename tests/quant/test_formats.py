"""Dequantization against PyPI's gguf, bit for bit. Counterpart: src/quant."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.stored import FLOATS, FORMATS, HALVES, block, put_half, stored

from my_llm_ffi import _ffi_api


def dequantize(weight: np.ndarray, format: str) -> np.ndarray:
    """The op, with an output of the right shape."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[Type[format]]
    out = np.full((weight.shape[0], weight.shape[1] // block_bytes * block), np.nan, np.float32)
    _ffi_api.dequantize(weight, out, format)
    return out


def assert_bits_equal(ours: np.ndarray, oracle: np.ndarray) -> None:
    np.testing.assert_array_equal(ours.view(np.uint32), oracle.view(np.uint32))


def oracle(weight: np.ndarray, format: str) -> np.ndarray:
    return quants.dequantize(weight, Type[format])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (3, 2), (17, 32), (1000, 1)])
def test_quantized_normal_numbers(format: str, rows: int, blocks: int) -> None:
    cols = blocks * max(32, block(format))
    x = np.random.default_rng(rows).standard_normal((rows, cols)).astype(np.float32)
    weight = stored(format, x)
    assert_bits_equal(dequantize(weight, format), oracle(weight, format))


@pytest.mark.parametrize("format", FORMATS)
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 5), blocks=st.integers(0, 5))
def test_random_bytes(format: str, seed: int, rows: int, blocks: int) -> None:
    block_bytes = gguf.GGML_QUANT_SIZES[Type[format]][1]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, blocks, block_bytes), np.uint8)
    # Finite numbers only: the bits of a NaN are the processor's choice.
    for at in HALVES.get(format, ()):
        raw[..., at + 1] &= 0xBF  # exponent below 16; subnormals stay
    if format in FLOATS:
        raw[..., -1] &= 0xBF
    weight = raw.reshape(rows, blocks * block_bytes)
    ours = dequantize(weight, format)
    if weight.size:  # gguf takes no empty arrays
        with np.errstate(over="ignore"):  # exponents of MXFP4
            assert_bits_equal(ours, oracle(weight, format))


@pytest.mark.parametrize("format", sorted(HALVES))
@pytest.mark.parametrize("bits", [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF])
def test_extreme_scales(format: str, bits: int) -> None:
    block_bytes = gguf.GGML_QUANT_SIZES[Type[format]][1]
    weight = np.arange(8 * block_bytes, dtype=np.uint32).astype(np.uint8).reshape(8, block_bytes)
    for at in HALVES[format]:
        put_half(weight, at, np.full(8, bits, np.uint16).view(np.float16))
    assert_bits_equal(dequantize(weight, format), oracle(weight, format))


def test_every_exponent_of_mxfp4() -> None:
    weight = np.arange(256 * 17, dtype=np.uint32).astype(np.uint8).reshape(256, 17)
    weight[:, 0] = np.arange(256)
    with np.errstate(over="ignore"):
        assert_bits_equal(dequantize(weight, "MXFP4"), oracle(weight, "MXFP4"))


@pytest.mark.parametrize("format", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("cols", [1, 3, 172])
def test_float_formats_take_any_cols(format: str, cols: int) -> None:
    x = np.random.default_rng(cols).standard_normal((2, cols)).astype(np.float32)
    weight = quants.quantize(x, Type[format]).view(np.uint8)
    assert_bits_equal(dequantize(weight, format), oracle(weight, format))


def test_rejects_an_unknown_format() -> None:
    with pytest.raises(ValueError, match="dequantize: format is \"Q9_9\", expected one of 'F32'"):
        _ffi_api.dequantize(np.zeros((1, 34), np.uint8), np.zeros((1, 32), np.float32), "Q9_9")


def test_rejects_a_part_of_a_block() -> None:
    with pytest.raises(ValueError, match=r"rows of 33 bytes, expected a multiple of 34 \(one"):
        _ffi_api.dequantize(np.zeros((1, 33), np.uint8), np.zeros((1, 32), np.float32), "Q8_0")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ((1, 64), r"out has rows of 64, expected cols=32"),
        ((2, 32), r"out has shape \[2, 32\], expected \[rows=1 \(from weight\)"),
        ((32,), r"out has shape \[32\]"),
    ],
)
def test_rejects_a_wrong_output_shape(out: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ffi_api.dequantize(np.zeros((1, 34), np.uint8), np.zeros(out, np.float32), "Q8_0")


def test_rejects_wrong_dtypes() -> None:
    with pytest.raises(TypeError, match="out is float64, expected one of float32, float16"):
        _ffi_api.dequantize(np.zeros((1, 34), np.uint8), np.zeros((1, 32)), "Q8_0")
    with pytest.raises(TypeError, match="weight is int8, expected uint8"):
        _ffi_api.dequantize(np.zeros((1, 34), np.int8), np.zeros((1, 32), np.float32), "Q8_0")


def test_rejects_a_strided_weight() -> None:
    with pytest.raises(ValueError, match="weight must be contiguous"):
        weight = np.zeros((2, 68), np.uint8)[:, :34]
        _ffi_api.dequantize(weight, np.zeros((2, 32), np.float32), "Q8_0")
