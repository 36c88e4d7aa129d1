"""The ops of this package, from every language and framework that is installed."""

from __future__ import annotations

import my_op
import numpy as np
import pytest

import my_llm_ffi as llm

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((3, 5, 7)) * 40).astype(np.float32)


def softcap(x, cap=30.0):
    return cap * np.tanh(x.astype(np.float64) / cap)


def entropy(x):
    p = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=-1)


def test_they_are_ops_like_the_built_in_ones():
    assert {"softcap", "token_entropy"} <= set(dir(llm.ops))
    assert my_op.softcap is llm.ops.softcap
    assert "Keeps logits between -cap and cap" in my_op.softcap.__doc__


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5, 7), (2, 0, 3)])
def test_softcap(shape):
    x = (RNG.standard_normal(shape) * 40).astype(np.float32)
    np.testing.assert_allclose(my_op.softcap(x, cap=5.0), softcap(x, 5.0), rtol=1e-6)
    assert my_op.softcap(x, out=x) is x


def test_token_entropy():
    np.testing.assert_allclose(my_op.token_entropy(X), entropy(X), rtol=1e-4, atol=1e-6)
    x = X.copy()
    x[..., 1:3] = -np.inf
    np.testing.assert_allclose(my_op.token_entropy(x), entropy(x), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(my_op.token_entropy(np.zeros(8, "f4")), np.log(8), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: my_op.softcap(X.astype("f8")),
            TypeError,
            "softcap: x is float64, expected one of",
        ),
        (lambda: my_op.softcap(X[..., ::2]), ValueError, "softcap: x must be contiguous"),
        (lambda: my_op.softcap(X, out=X[0]), ValueError, r"softcap: out has shape \[5, 7\]"),
        (lambda: my_op.softcap(X, cap=0.0), ValueError, "softcap: cap must be positive, got 0"),
        (lambda: my_op.softcap(X, cap="2"), TypeError, "softcap: cap is str, expected a number"),
        (
            lambda: my_op.token_entropy(X.astype("f2")),
            TypeError,
            "token_entropy: logits is float16",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_device_without_a_kernel():
    """The slots are those of the package, and nobody fills them twice."""
    with pytest.raises(ValueError, match="softcap has a kernel for cpu"):
        llm.register_kernel("softcap", "cpu")


def test_loading_again_declares_nothing():
    assert llm.load_ops(my_op.library_path()) == []


def test_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import my_llm_ffi.torch  # noqa: F401

    def both(x):
        return torch.ops.my_llm_ffi.token_entropy(torch.ops.my_llm_ffi.softcap(x, cap=5.0))

    x = torch.from_numpy(X)
    expected = entropy(softcap(X, 5.0))
    np.testing.assert_allclose(both(x).numpy(), expected, rtol=1e-3, atol=1e-5)
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), both(x), rtol=0, atol=0)
    half = x.to(torch.bfloat16)
    want = (5 * torch.tanh(half.float() / 5)).to(torch.bfloat16)
    torch.testing.assert_close(my_op.softcap(half, cap=5.0), want, rtol=2**-7, atol=0)


def test_torch_cuda():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    x = torch.from_numpy(X).cuda()
    torch.testing.assert_close(my_op.softcap(x, cap=5.0), 5 * torch.tanh(x / 5))
    np.testing.assert_allclose(my_op.token_entropy(x).cpu(), entropy(X), rtol=1e-4, atol=1e-6)


def test_jax():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    llm_jax = pytest.importorskip("my_llm_ffi.jax", reason="jax-tvm-ffi is not installed")
    capped = jax.jit(lambda x: llm_jax.softcap(x, cap=5.0))(jax.numpy.asarray(X))
    np.testing.assert_array_equal(np.asarray(capped), my_op.softcap(X, cap=5.0))


def test_mlir():
    mlir = pytest.importorskip(
        "my_llm_ffi.mlir", reason="torch-mlir is not installed", exc_type=ImportError
    )
    builder = mlir.Builder()
    x = builder.input("x", "float32", X.shape)
    builder.output("y", builder.softcap(x, cap=5.0))
    ran = mlir.lower(builder.build()).run({"x": X})["y"]
    np.testing.assert_array_equal(np.from_dlpack(ran), my_op.softcap(X, cap=5.0))
