"""Normalisation ops against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tvm_ffi

import my_llm_ffi as llm

# float32: the sum of hidden squares, rounded once per step of a tree. float16: the rounding of the
# output, 2^-11, and of nothing else, because the kernel accumulates in float32.
TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 1e-6}, "float16": {"rtol": 1e-3, "atol": 1e-6}}


def reference(x, weight, eps):
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight.astype(np.float64)


def inputs(tokens, hidden, dtype):
    rng = np.random.default_rng(hidden * 1000 + tokens)
    x = rng.normal(size=(tokens, hidden)).astype(dtype)
    return x, rng.normal(size=hidden).astype(dtype)


@pytest.mark.parametrize("tokens", [0, 1, 7, 64])
@pytest.mark.parametrize("hidden", [1, 15, 16, 17, 63, 64, 65, 4096])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rms_norm_matches_reference(tokens, hidden, dtype):
    x, weight = inputs(tokens, hidden, dtype)
    out = llm.ops.rms_norm(x, weight, eps=1e-5)
    assert isinstance(out, np.ndarray)
    assert out.dtype == x.dtype
    np.testing.assert_allclose(out, reference(x, weight, 1e-5), **TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [(48,), (1, 48), (2, 3, 48), (2, 0, 48), (1, 1, 2, 48)])
def test_any_number_of_leading_axes(shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    weight = np.linspace(-1, 1, 48, dtype=np.float32)
    out = llm.ops.rms_norm(x, weight)
    assert out.shape == shape
    np.testing.assert_allclose(out, reference(x, weight, 1e-6), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1e-2, 10.0])
def test_eps_is_added_to_the_mean_square(eps):
    x, weight = inputs(3, 64, "float32")
    np.testing.assert_allclose(
        llm.ops.rms_norm(x, weight, eps=eps), reference(x, weight, eps), rtol=2e-5, atol=1e-6
    )


def test_a_row_of_zeros_stays_zero():
    out = llm.ops.rms_norm(np.zeros((2, 64), np.float32), np.ones(64, np.float32))
    np.testing.assert_array_equal(out, 0)


def test_out_is_written_and_returned():
    x, weight = inputs(5, 32, "float32")
    out = np.full_like(x, np.nan)
    assert llm.ops.rms_norm(x, weight, out=out) is out
    np.testing.assert_array_equal(out, llm.ops.rms_norm(x, weight))


def test_out_may_be_x():
    x, weight = inputs(5, 33, "float32")
    expected = llm.ops.rms_norm(x, weight)
    llm.ops.rms_norm(x, weight, out=x)
    np.testing.assert_array_equal(x, expected)


def test_a_row_does_not_depend_on_its_batch():
    x, weight = inputs(32, 576, "float32")
    batch = llm.ops.rms_norm(x, weight)
    rows = [llm.ops.rms_norm(x[i : i + 1], weight)[0] for i in range(32)]
    np.testing.assert_array_equal(batch, rows)


def test_tvm_ffi_tensors_give_tvm_ffi_tensors():
    x, weight = inputs(3, 64, "float32")
    out = llm.ops.rms_norm(tvm_ffi.from_dlpack(x), tvm_ffi.from_dlpack(weight))
    assert isinstance(out, tvm_ffi.Tensor)
    np.testing.assert_array_equal(np.from_dlpack(out), llm.ops.rms_norm(x, weight))


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_torch_tensors_give_torch_tensors(name):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    dtype = getattr(torch, name)
    x, weight = (torch.from_numpy(a).to(dtype) for a in inputs(7, 96, "float32"))
    out = llm.ops.rms_norm(x, weight)
    assert isinstance(out, torch.Tensor)
    assert out.dtype == dtype
    expected = reference(x.double().numpy(), weight.double().numpy(), 1e-6)
    rtol = {"float32": 2e-5, "float16": 1e-3, "bfloat16": 8e-3}[name]  # half a last digit
    np.testing.assert_allclose(out.double().numpy(), expected, rtol=rtol, atol=1e-6)


# ---- add_rms_norm -------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [0, 1, 7])
@pytest.mark.parametrize("hidden", [1, 15, 16, 17, 65, 4096, 32768])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_add_rms_norm_matches_reference(tokens, hidden, dtype):
    x, weight = inputs(tokens, hidden, dtype)
    residual = np.random.default_rng(1).normal(size=x.shape).astype(dtype)
    total = residual + x  # rounded to the dtype: the norm is that of what the residual holds
    out = llm.ops.add_rms_norm(x, residual, weight, eps=1e-5)
    np.testing.assert_array_equal(residual, total)
    np.testing.assert_allclose(out, reference(total, weight, 1e-5), **TOLERANCE[dtype])


def test_add_rms_norm_out_may_be_x():
    x, weight = inputs(5, 33, "float32")
    residual = np.ones_like(x)
    expected = llm.ops.add_rms_norm(x, residual.copy(), weight)
    assert llm.ops.add_rms_norm(x, residual, weight, out=x) is x
    np.testing.assert_array_equal(x, expected)


def test_add_rms_norm_of_bfloat16():
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    x, weight = (torch.from_numpy(a).bfloat16() for a in inputs(7, 96, "float32"))
    residual = torch.ones_like(x)
    total = residual + x
    out = llm.ops.add_rms_norm(x, residual, weight)
    assert torch.equal(residual, total)
    expected = reference(total.double().numpy(), weight.double().numpy(), 1e-6)
    np.testing.assert_allclose(out.double().numpy(), expected, rtol=4e-3, atol=1e-6)


# ---- layer_norm ---------------------------------------------------------------------------------


def layer_reference(x, weight, bias, eps):
    x = x.astype(np.float64)
    x = x - x.mean(-1, keepdims=True)
    out = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight.astype(np.float64)
    return out if bias is None else out + bias.astype(np.float64)


@pytest.mark.parametrize("tokens", [0, 1, 7])
@pytest.mark.parametrize("hidden", [1, 2, 15, 16, 17, 63, 64, 65, 4096, 32768])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("with_bias", [False, True])
def test_layer_norm_matches_reference(with_bias, dtype, hidden, tokens):
    x, weight = inputs(tokens, hidden, dtype)
    bias = np.linspace(-1, 1, hidden).astype(dtype) if with_bias else None
    out = llm.ops.layer_norm(x, weight, bias, eps=1e-5)
    assert out.dtype == x.dtype
    expected = layer_reference(x, weight, bias, 1e-5)
    rtol, atol = TOLERANCE[dtype]["rtol"], 2e-6  # bias and product may cancel
    np.testing.assert_allclose(out, expected, rtol=rtol, atol=atol)


def test_layer_norm_of_a_small_spread_around_a_large_mean():
    x, weight = inputs(3, 4096, "float32")
    x += 1000
    out = llm.ops.layer_norm(x, weight)
    expected = layer_reference(x, weight, None, 1e-5)
    error = np.linalg.norm(out - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert (error < 2e-6).all()


def test_layer_norm_of_equal_elements_is_the_bias():
    for value in (0.0, 1e4, 1e6):
        x = np.full((1, 1001), value, np.float32)
        out = llm.ops.layer_norm(x, np.ones(1001, np.float32), np.ones(1001, np.float32), eps=1e-12)
        np.testing.assert_array_equal(out, 1)


def test_layer_norm_keeps_nan_in_its_row():
    x, weight = inputs(3, 70, "float32")
    x[1, 69] = np.nan
    out = llm.ops.layer_norm(x, weight)
    np.testing.assert_array_equal(np.isnan(out).all(-1), [False, True, False])
    assert np.isfinite(out[[0, 2]]).all()


@pytest.mark.parametrize("eps", [1e-12, 1e-2, 10.0])
def test_layer_norm_adds_eps_to_the_variance(eps):
    x, weight = inputs(3, 64, "float32")
    np.testing.assert_allclose(
        llm.ops.layer_norm(x, weight, eps=eps),
        layer_reference(x, weight, None, eps),
        rtol=2e-5,
        atol=1e-6,
    )


def test_layer_norm_out_may_be_x():
    x, weight = inputs(5, 33, "float32")
    expected = llm.ops.layer_norm(x, weight, weight)
    assert llm.ops.layer_norm(x, weight, weight, out=x) is x
    np.testing.assert_array_equal(x, expected)


def test_layer_norm_of_bfloat16():
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16: needs torch")
    x, weight = (torch.from_numpy(a).bfloat16() for a in inputs(7, 96, "float32"))
    out = llm.ops.layer_norm(x, weight, weight)
    expected = layer_reference(*(t.double().numpy() for t in (x, weight, weight)), 1e-5)
    np.testing.assert_allclose(out.double().numpy(), expected, rtol=4e-3, atol=2e-6)


# ---- refusals -----------------------------------------------------------------------------------

X, W = np.ones((4, 1024), np.float32), np.ones(1024, np.float32)

REJECTED = {
    "weight's length": (
        (X, W[:512].copy(), 1e-6),
        ValueError,
        r"rms_norm: weight has shape \[512\], expected \[hidden=1024 \(from x\)\]",
    ),
    "rank of x": (
        (np.ones((), np.float32), W, 1e-6),
        ValueError,
        r"x has shape \[\], expected",
    ),
    "rank of weight": ((X, X, 1e-6), ValueError, r"weight has shape \[4, 1024\]"),
    "dtype of x": ((X.astype("i4"), W, 1e-6), TypeError, "x is int32, expected one of float32"),
    "dtype of weight": (
        (X, W.astype("f8"), 1e-6),
        TypeError,
        "weight is float64, expected",
    ),
    "eps of zero": ((X, W, 0.0), ValueError, "eps"),
    "negative eps": ((X, W, -1.0), ValueError, "eps"),
    "eps of NaN": ((X, W, float("nan")), ValueError, "eps"),
    "strides": ((X[:, ::2], W[:512].copy(), 1e-6), ValueError, "x must be contiguous"),
    "width of no rows": ((X[:0], W[:512].copy(), 1e-6), ValueError, "hidden=1024"),
    "None": ((None, W, 1e-6), TypeError, "."),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rms_norm_rejects(case):
    (x, weight, eps), error, message = REJECTED[case]
    out = np.empty((4, 1024), np.float32) if x is None else np.empty(x.shape, x.dtype)
    with pytest.raises(error, match=message):
        llm.ops.rms_norm(x, weight, eps=eps, out=out)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.empty((4, 512), np.float32), ValueError, r"out has shape \[4, 512\]"),
        (np.empty((4, 1024), np.float16), TypeError, "out is float16, expected float32"),
        (np.broadcast_to(np.float32(0), (4, 1024)), BufferError, "read-only"),
    ],
    ids=["shape", "dtype", "read-only"],
)
def test_rms_norm_rejects_out(out, error, message):
    with pytest.raises(error, match=message):
        llm.ops.rms_norm(X, W, out=out)


def test_rms_norm_rejects_partial_overlap():
    buffer = np.ones(5 * 8, np.float32)
    x, out = buffer[:32].reshape(4, 8), buffer[8:].reshape(4, 8)
    with pytest.raises(ValueError, match="out overlaps x"):
        llm.ops.rms_norm(x, np.ones(8, np.float32), out=out)


@pytest.mark.parametrize("x", [[1.0, 2.0], 3, "text"], ids=repr)
def test_rms_norm_rejects_what_is_no_array(x):
    with pytest.raises(TypeError, match=r"rms_norm: x is \w+, expected an array"):
        llm.ops.rms_norm(x, W)


R = np.zeros_like(X)
REJECTED_BY_OTHERS = {
    "residual's shape": (
        ("add_rms_norm", X, R[:3].copy(), W),
        {},
        ValueError,
        r"add_rms_norm: residual has shape \[3, 1024\], expected \[\*batch=\(4\) \(from x\), ",
    ),
    "residual's dtype": (
        ("add_rms_norm", X, R.astype("f2"), W),
        {},
        TypeError,
        "residual is float16, expected float32",
    ),
    "read-only residual": (
        ("add_rms_norm", X, np.broadcast_to(np.float32(0), X.shape), W),
        {},
        BufferError,
        "read-only",
    ),
    "x as residual": (("add_rms_norm", X, X, W), {}, ValueError, "residual overlaps x in memory"),
    "residual as out": (
        ("add_rms_norm", X, R, W),
        {"out": R},
        ValueError,
        "residual overlaps out in memory|out overlaps residual in memory",
    ),
    "weight's length": (
        ("add_rms_norm", X, R, W[:5].copy()),
        {},
        ValueError,
        r"weight has shape \[5\], expected \[hidden=1024 \(from x\)\]",
    ),
    "negative eps": (
        ("add_rms_norm", X, R, W),
        {"eps": -1.0},
        ValueError,
        "eps must be a positive",
    ),
    "bias's length": (
        ("layer_norm", X, W, W[:5].copy()),
        {},
        ValueError,
        r"layer_norm: bias has shape \[5\], expected \[hidden=1024 \(from x\)\]",
    ),
    "bias's dtype": (
        ("layer_norm", X, W, W.astype("f2")),
        {},
        TypeError,
        "bias is float16, expected float32",
    ),
    "bias as out": (("layer_norm", X[:1], W, X[0]), {"out": X[:1]}, ValueError, "overlaps bias"),
    "eps of NaN": (("layer_norm", X, W), {"eps": np.nan}, ValueError, "eps must be a positive"),
    "eps of zero": (("layer_norm", X, W), {"eps": 0.0}, ValueError, "eps must be a positive"),
    "dtype": (("layer_norm", X.astype("i4"), W), {}, TypeError, "x is int32, expected one of"),
}


@pytest.mark.parametrize("case", REJECTED_BY_OTHERS)
def test_rejects(case):
    (name, *arguments), options, error, message = REJECTED_BY_OTHERS[case]
    with pytest.raises(error, match=message):
        getattr(llm.ops, name)(*arguments, **options)
