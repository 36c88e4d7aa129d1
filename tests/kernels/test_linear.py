"""`linear` against NumPy in float64: float weights, block formats, both layouts."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants
from reference.stored import BLOCKS, block, stored

import my_llm_ffi as llm

FLOATS = ["float32", "float16"]
SIXTEEN_BITS = ("Q4_1", "Q5_1")  # of activations
HALF = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # rounding of the result


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantized(format: str, rows: int, cols: int, seed: int = 1) -> np.ndarray:
    return stored(format, normal(seed, rows, cols))


def rounded(x: np.ndarray, format: str) -> np.ndarray:
    """What a block format's product sees of x: 8 bits under a float16 scale, or 16 bits."""
    largest = 32512 if format in SIXTEEN_BITS else 127
    blocks = x.astype(np.float32).reshape(*x.shape[:-1], x.shape[-1] // 32, 32)
    scale = np.abs(blocks).max(-1, keepdims=True) / np.float32(largest)
    inverse = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1), 0).astype(np.float32)
    integers = np.rint(blocks * inverse)
    stored = scale.astype(np.float16) if largest == 127 else scale
    return (integers.astype(np.float64) * stored.astype(np.float64)).reshape(x.shape)


def assert_near(out, x, weight, bias=None, dtype: str = "float32") -> None:
    """Within 2e-6 of the norms of the rows, and one rounding of the exact result."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    exact = x @ weight.T
    norms = np.linalg.norm(x, axis=-1)[..., None] * np.linalg.norm(weight, axis=-1)
    if bias is not None:
        exact = exact + np.asarray(bias, np.float64)
        norms = norms + np.abs(np.asarray(bias, np.float64))
    allowed = 2e-6 * norms + HALF[dtype] * np.abs(exact) * 1.01
    if dtype == "float16":
        allowed += 2.0**-25
    assert out.shape == exact.shape
    assert (np.abs(np.asarray(out, np.float64) - exact) <= allowed).all()


@pytest.mark.parametrize("tokens", [0, 1, 2, 7, 8, 9, 17, 33])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 31, 32, 49])
@pytest.mark.parametrize("cols", [1, 3, 4, 15, 16, 17, 65])
def test_float32(tokens, rows, cols):
    x, weight, bias = normal(1, tokens, cols), normal(2, rows, cols), normal(3, rows)
    assert_near(llm.ops.linear(x, weight), x, weight)
    assert_near(llm.ops.linear(x, weight, bias), x, weight, bias)


@pytest.mark.parametrize("tokens", [1, 5, 40])
@pytest.mark.parametrize("cols", [1, 7, 8, 9, 64, 127])
@pytest.mark.parametrize("weight_dtype", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_float_dtypes_mix(dtype, weight_dtype, cols, tokens):
    x, bias = normal(1, tokens, cols).astype(dtype), normal(3, 35).astype(dtype)
    weight = normal(2, 35, cols).astype(weight_dtype)
    out = llm.ops.linear(x, weight, bias)
    assert out.dtype == dtype
    assert_near(out, x, weight, bias, dtype)


@pytest.mark.parametrize("tokens", [1, 6, 40])
@pytest.mark.parametrize("dtype", [*FLOATS, "bfloat16"])
@pytest.mark.parametrize("weight_dtype", [*FLOATS, "bfloat16"])
def test_torch_tensors_give_torch_tensors(dtype, weight_dtype, tokens):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    x = torch.from_numpy(normal(1, tokens, 75)).to(getattr(torch, dtype))
    weight = torch.from_numpy(normal(2, 33, 75)).to(getattr(torch, weight_dtype))
    bias = torch.from_numpy(normal(3, 33)).to(x.dtype)
    out = llm.ops.linear(x, weight, bias)
    assert out.dtype == x.dtype
    assert_near(*(t.double().numpy() for t in (out, x, weight, bias)), dtype)


@pytest.mark.parametrize("format", BLOCKS)
@pytest.mark.parametrize("blocks", [1, 3, 11])
@pytest.mark.parametrize("rows", [1, 16, 33])
@pytest.mark.parametrize("tokens", [0, 1, 5, 34])
def test_block_formats(format, rows, blocks, tokens):
    cols = blocks * block(format)
    x, weight, bias = normal(2, tokens, cols), quantized(format, rows, cols), normal(3, rows)
    floats = quants.dequantize(weight, Type[format])
    out = llm.ops.linear(x, weight, bias, format=format)
    assert_near(out, rounded(x, format), floats, bias)
    exact = x.astype(np.float64) @ floats.T.astype(np.float64) + bias
    typical = np.linalg.norm(x) * np.linalg.norm(floats) / np.sqrt(cols)  # of the product's norm
    assert np.linalg.norm(out - exact) <= 0.02 * max(typical, np.linalg.norm(exact))


@pytest.mark.parametrize("format", [*BLOCKS, "F32", "F16", "BF16"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("tokens", [1, 3, 19])
def test_packed_weights_give_the_same_bits(format, dtype, tokens):
    cols = 3 * max(32, block(format))
    for rows in (1, 16, 37):
        x, weight = normal(2, tokens, cols).astype(dtype), quantized(format, rows, cols)
        packed = llm.ops.pack_weight(weight, format=format)
        out = llm.ops.linear(x, packed, format=format, packed=True, rows=rows)
        np.testing.assert_array_equal(out, llm.ops.linear(x, weight, format=format))


@pytest.mark.parametrize("dtype", FLOATS)
def test_float_tensors_are_the_float_formats(dtype):
    x, weight = normal(1, 3, 40), normal(2, 20, 40).astype(dtype)
    name = {"float32": "F32", "float16": "F16"}[dtype]
    out = llm.ops.linear(x, weight.view(np.uint8), format=name)
    np.testing.assert_array_equal(out, llm.ops.linear(x, weight))


@pytest.mark.parametrize("format", BLOCKS)
def test_half_activations_are_those_of_float32(format):
    cols = 2 * block(format)
    x, weight = normal(2, 9, cols).astype(np.float16), quantized(format, 20, cols)
    wide = llm.ops.linear(x.astype(np.float32), weight, format=format)
    np.testing.assert_array_equal(llm.ops.linear(x, weight, format=format), wide.astype(np.float16))


@pytest.mark.parametrize("weight", ["float32", "float16", *BLOCKS])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_row_does_not_depend_on_its_batch(weight, dtype):
    format = weight if weight in BLOCKS else None
    cols = 160 if format is None else 5 * block(format)
    x = normal(1, 70, cols).astype(dtype)
    w = normal(2, 37, cols).astype(weight) if format is None else quantized(weight, 37, cols)
    batch = llm.ops.linear(x, w, format=format)
    for n in (1, 2, 8, 9, 33):
        for begin in (0, 70 - n):
            part = llm.ops.linear(x[begin : begin + n], w, format=format)
            np.testing.assert_array_equal(part, batch[begin : begin + n])


@pytest.mark.parametrize("shape", [(48,), (1, 48), (2, 3, 48), (2, 0, 48), (1, 1, 2, 48)])
def test_any_number_of_leading_axes(shape):
    x, weight = normal(1, *shape), normal(2, 20, 48)
    out = llm.ops.linear(x, weight)
    assert out.shape == (*shape[:-1], 20)
    flat = llm.ops.linear(x.reshape(-1, 48), weight)
    np.testing.assert_array_equal(out.reshape(-1, 20), flat)


@pytest.mark.parametrize(("rows", "cols"), [(128256, 64), (3, 32768), (0, 64), (17, 0)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_extreme_shapes(rows, cols, dtype):
    x, weight = normal(1, 3, cols).astype(dtype), normal(2, rows, cols).astype(dtype)
    bias = normal(3, rows).astype(dtype)
    assert_near(llm.ops.linear(x, weight, bias), x, weight, bias, dtype)


def test_many_rows_of_another_dtype_go_through_in_chunks():
    x, weight = normal(1, 700, 32).astype(np.float16), quantized("Q4_0", 8000, 32)
    out = llm.ops.linear(x, weight, format="Q4_0")
    for t in (0, 255, 256, 699):
        alone = llm.ops.linear(x[t : t + 1], weight, format="Q4_0")
        np.testing.assert_array_equal(out[t : t + 1], alone)


@pytest.mark.parametrize("format", [None, "Q8_0", "Q4_1", "Q2_K", "Q4_K", "Q6_K"])
def test_nan_stays_in_its_row(format):
    cols = 64 if format is None else 2 * block(format)
    x = normal(1, 4, cols)
    weight = normal(2, 20, cols) if format is None else quantized(format, 20, cols)
    clean = llm.ops.linear(x, weight, format=format)
    x[2, 5] = np.nan
    out = llm.ops.linear(x, weight, format=format)
    assert np.isnan(out[2]).all()
    np.testing.assert_array_equal(np.delete(out, 2, 0), np.delete(clean, 2, 0))


def test_what_stood_in_the_same_memory_before_is_forgotten():
    """Rounded activations serve the next product of the same ones alone."""
    few = {format: quantized(format, 16, 64) for format in ("Q8_0", "Q4_1")}

    def product(x: np.ndarray, format: str) -> np.ndarray:
        return llm.ops.linear(x, few[format], format=format)

    memory = np.empty((2, 64), np.float32)
    given = [normal(seed, 2, 64) for seed in (1, 2)]
    expected = {
        (i, f): product(np.tile(x, (100, 1)), f)[:2] for i, x in enumerate(given) for f in few
    }
    for i, format in [(0, "Q8_0"), (0, "Q4_1"), (1, "Q4_1"), (1, "Q8_0"), (0, "Q8_0"), (0, "Q8_0")]:
        memory[:] = given[i]
        np.testing.assert_array_equal(product(memory, format), expected[i, format])
    np.testing.assert_array_equal(product(memory[:1], "Q8_0"), expected[0, "Q8_0"][:1])
    halves = memory.reshape(4, 32)  # the same bytes in rows of another length
    weight = quantized("Q8_0", 16, 32)
    whole = llm.ops.linear(np.tile(halves, (100, 1)), weight, format="Q8_0")
    np.testing.assert_array_equal(llm.ops.linear(halves, weight, format="Q8_0"), whole[:4])


def test_out_is_filled_and_returned():
    x, weight = normal(1, 4, 64), normal(2, 20, 64)
    out = np.full((4, 20), np.nan, np.float32)
    assert llm.ops.linear(x, weight, out=out) is out
    np.testing.assert_array_equal(out, llm.ops.linear(x, weight))


X, W, Q = normal(1, 4, 64), normal(2, 20, 64), quantized("Q8_0", 20, 64)
PACKED = np.zeros((32, 68), np.uint8)

REJECTED = {
    "cols of a float weight": (
        (X[:, :32].copy(), W),
        {},
        ValueError,
        r"linear: x has shape \[..., 32\], expected \[..., 64\] \(from weight, F32\)",
    ),
    "cols of a block format": (
        (X[:, :32].copy(), Q),
        {"format": "Q8_0"},
        ValueError,
        r"x has shape \[..., 32\], expected \[..., 64\] \(from weight, Q8_0\)",
    ),
    "part of a block": (
        (X, Q[:, :67].copy()),
        {"format": "Q8_0"},
        ValueError,
        r"weight has rows of 67 bytes, expected a multiple of 34 \(one block of Q8_0\)",
    ),
    "part of a super-block": (
        (X, np.zeros((20, 2 * 144 - 4), np.uint8)),
        {"format": "Q4_K"},
        ValueError,
        r"weight has rows of 284 bytes, expected a multiple of 144 \(one block of Q4_K\)",
    ),
    "no format": ((X, Q), {}, ValueError, "weight is uint8, expected format= one of F32, F16"),
    "unknown format": ((X, Q), {"format": "Q9_9"}, ValueError, 'format is "Q9_9", expected one of'),
    "format of a float weight": (
        (X, W),
        {"format": "Q8_0", "out": np.empty((4, 20), np.float32)},
        ValueError,
        "format is for a uint8 weight, got weight of dtype float32",
    ),
    "packed float weight": (
        (X, W),
        {"packed": True},
        ValueError,
        "packed is for a uint8 weight, got weight of dtype float32",
    ),
    "packed without padding": (
        (X, Q),
        {"format": "Q8_0", "packed": True},
        ValueError,
        "weight has 20 rows, expected a multiple of 16 where it is packed",
    ),
    "too few rows": (
        (X, PACKED),
        {"format": "Q8_0", "packed": True, "rows": 16},
        ValueError,
        r"rows is 16, expected 17 to 32 \(from weight\)",
    ),
    "too many rows": (
        (X, PACKED),
        {"format": "Q8_0", "packed": True, "rows": 33},
        ValueError,
        "rows is 33, expected 17 to 32",
    ),
    "rows of a weight that is not packed": (
        (X, W),
        {"rows": 19},
        ValueError,
        r"rows is 19, expected 20 \(from weight\)",
    ),
    "negative rows": (
        (X, W),
        {"rows": -1, "out": np.empty((4, 20), np.float32)},
        ValueError,
        "rows is -1, expected 20",
    ),
    "length of bias": (
        (X, W, normal(3, 19)),
        {},
        ValueError,
        r"bias has shape \[19\], expected \[20\] \(rows of weight\)",
    ),
    "dtype of bias": (
        (X, W, normal(3, 20).astype(np.float16)),
        {},
        TypeError,
        "bias is float16, expected float32",
    ),
    "dtype of x": ((X.astype("i4"), W), {}, TypeError, "x is int32, expected one of float32"),
    "dtype of weight": ((X, W.astype("f8")), {}, TypeError, "weight is float64, expected one of"),
    "rank of x": ((np.ones((), np.float32), W), {}, ValueError, r"x has shape \[\]"),
    "rank of weight": ((X, W[0]), {}, ValueError, r"weight has shape \[64\]"),
    "rank of bias": ((X, W, W), {}, ValueError, r"bias has shape \[20, 64\]"),
    "strides of x": ((X[:, ::2], W[:, :32].copy()), {}, ValueError, "x must be contiguous"),
    "strides of weight": ((X, W[::2]), {}, ValueError, "weight must be contiguous"),
    "shape of out": (
        (X, W),
        {"out": np.empty((4, 19), np.float32)},
        ValueError,
        r"out has shape \[..., 19\], expected \[..., 20\] \(rows of weight\)",
    ),
    "batch of out": (
        (X, W),
        {"out": np.empty((3, 20), np.float32)},
        ValueError,
        r"out has shape \[3, 20\], expected .*\(4\) \(from x\)",
    ),
    "dtype of out": (
        (X, W),
        {"out": np.empty((4, 20), np.float16)},
        TypeError,
        "out is float16, expected float32",
    ),
    "read-only out": (
        (X, W),
        {"out": np.broadcast_to(np.float32(0), (4, 20))},
        BufferError,
        "read-only",
    ),
    "None": ((None, W), {"out": np.empty((4, 20), np.float32)}, TypeError, "x is NoneType"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejects(case):
    arguments, options, error, message = REJECTED[case]
    with pytest.raises(error, match=message):
        llm.ops.linear(*arguments, **options)


def test_rejects_an_out_that_overlaps():
    buffer = np.ones(4 * 64, np.float32)
    x, out = buffer.reshape(4, 64), buffer[:80].reshape(4, 20)
    with pytest.raises(ValueError, match="out overlaps x in memory"):
        llm.ops.linear(x, W, out=out)
    weight = np.ones((20, 64), np.float32)
    with pytest.raises(ValueError, match="out overlaps weight in memory"):
        llm.ops.linear(X, weight, out=weight.reshape(-1)[:80].reshape(4, 20))


def test_block_sizes_are_those_of_gguf():
    for format in BLOCKS:
        block, block_bytes = gguf.GGML_QUANT_SIZES[Type[format]]
        out = llm.ops.linear(
            normal(1, 1, block), np.zeros((1, block_bytes), np.uint8), format=format
        )
        assert out.shape == (1, 1)
