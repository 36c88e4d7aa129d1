"""Ops that users declare, and kernels that they register, from Python."""

from __future__ import annotations

import ast
import json

import numpy as np
import pytest
import tvm_ffi
from reference.custom_ops import forget

import my_llm_ffi as llm
from my_llm_ffi import base, custom, declaration, render

SIGNATURE = (
    "(x: T['*batch n', 'f32 f16'], gain: T['n'] | None = None, *, factor: float = 2.0, "
    "times: int = 1, clamp: bool = False, mode: Literal['up', 'down'] = 'up', "
    "least: float | None = None) -> T['*batch n', 'may be x']"
)
DOC = """Scales.

x: What is scaled.
gain: Of each element.
factor: Of all.
"""


def scale(x, gain, out, factor, times, clamp, mode, least):
    wide = x * factor**times if mode == "up" else x / factor**times
    wide = wide if gain is None else wide * gain
    wide = wide if least is None else np.maximum(wide, least)
    out[...] = np.minimum(wide, 1) if clamp else wide


@pytest.fixture
def scaled():
    """The op `test_scaled` with a kernel for the CPU; gone afterwards."""
    llm.declare_op("test_scaled", SIGNATURE, doc=DOC)
    llm.register_kernel("test_scaled", "cpu", arrays=np.from_dlpack)(scale)
    yield lambda *a, **k: llm.ops.test_scaled(*a, **k)
    forget("test_scaled")


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_calls(scaled):
    np.testing.assert_array_equal(scaled(X), X * 2)
    np.testing.assert_array_equal(scaled(X, X[1], factor=3, times=2), X * 9 * X[1])
    np.testing.assert_array_equal(scaled(X, mode="down"), X / 2)
    np.testing.assert_array_equal(scaled(X, clamp=True), np.minimum(X * 2, 1))
    np.testing.assert_array_equal(scaled(X, least=5.0), np.maximum(X * 2, 5))
    half = X.astype(np.float16)
    assert scaled(half).dtype == np.float16
    mine = X.copy()
    assert scaled(mine, out=mine) is mine
    np.testing.assert_array_equal(mine, X * 2)
    assert scaled(X[:0]).shape == (0, 3)


def test_it_is_an_op_like_others(scaled):
    assert "test_scaled" in dir(llm.ops)
    op = declaration.load("test_scaled")
    assert [a.name for a in op.attributes] == ["factor", "times", "clamp", "mode", "least"]
    assert "gain: ``[n]``, dtype of ``x``. Of each element." in render.docstring(op)
    assert scaled(X, factor=1.0).tolist() == X.tolist()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ([X.astype("f8")], {}, TypeError, "test_scaled: x is float64, expected one of float32"),
        (
            [X, X[0, :2].copy()],
            {},
            ValueError,
            r"gain has shape \[2\], expected \[n=3 \(from x\)\]",
        ),
        ([X[:, ::2]], {}, ValueError, "test_scaled: x must be contiguous"),
        ([X], {"out": X[:1].copy()}, ValueError, r"out has shape \[1, 3\]"),
        ([X], {"factor": "much"}, TypeError, "test_scaled: factor is str, expected a number"),
        ([X], {"times": 1.5}, TypeError, "test_scaled: times is float, expected an integer"),
        ([X], {"clamp": "yes"}, TypeError, "test_scaled: clamp is str, expected a bool"),
        ([X], {"mode": "sideways"}, ValueError, "test_scaled: mode is .*expected one of 'up'"),
        ([X], {"mode": None}, TypeError, "test_scaled: mode is NoneType, expected a string"),
        ([None], {}, TypeError, "test_scaled: x is NoneType, expected an array"),
    ],
)
def test_refusals(scaled, arguments, options, error, message):
    with pytest.raises(error, match=message):
        scaled(*arguments, **options)


def test_natively_the_checks_are_the_same(scaled):
    """As C++ and Rust call it."""
    native = tvm_ffi.get_global_func("my_llm_ffi.test_scaled")
    out = np.empty_like(X)
    native(X, None, out, 2, 1, False, "up", None)
    np.testing.assert_array_equal(out, X * 2)
    with pytest.raises(ValueError, match=r"test_scaled: out has shape \[2\]"):
        native(X, None, out[0, :2].copy(), 2.0, 1, False, "up", None)
    with pytest.raises(ValueError, match='test_scaled: mode is "x", expected one of'):
        native(X, None, out, 2.0, 1, False, "x", None)
    with pytest.raises(TypeError, match="test_scaled: expected 8 arguments, got 2"):
        native(X, out)
    with pytest.raises(TypeError, match=r"Mismatched type on argument #3 .*factor"):
        native(X, None, out, "2", 1, False, "up", None)


def test_an_exception_of_a_kernel_arrives(scaled):
    llm.declare_op("test_broken", "(x: T['n', 'f32']) -> T['n']", doc="Breaks.")
    try:
        with pytest.raises(NotImplementedError, match="test_broken: no kernel for device cpu"):
            llm.ops.test_broken(X[0])

        @llm.register_kernel("test_broken", "cpu")
        def broken(x, out):
            assert isinstance(x, tvm_ffi.Tensor)
            raise ValueError("test_broken: the kernel says no")

        with pytest.raises(ValueError, match="the kernel says no"):
            llm.ops.test_broken(X[0])
    finally:
        forget("test_broken")


@pytest.mark.parametrize(
    ("name", "signature", "message"),
    [
        ("rms_norm", "(x: T['n', 'f32']) -> T['n']", "my_llm_ffi.rms_norm is registered already"),
        ("not a name", "(x: T['n', 'f32']) -> T['n']", "expected an identifier"),
        ("test_bad", "(x: T['n', 'f32'", "bad signature"),
        ("test_bad", "(x: T['n', 'f32']) -> T['n//2']", "out has the size n//2, expected"),
        ("test_bad", "(x: T['n', 'f32'], *, k: int) -> T['k']", "out has the size k, expected"),
        ("test_bad", "(*, k: int) -> None", "must begin with a tensor"),
        ("lambda", "(x: T['n', 'f32']) -> T['n']", "name is 'lambda', expected an identifier"),
        ("_hidden", "(x: T['n', 'f32']) -> T['n']", "expected an identifier"),
        ("test_bad", "(x: T['n', 'f32'], x: T['n']) -> None", "a second x"),
        ("test_bad", "(x: T['n', 'f32'], if: T['n']) -> None", "'if' is no name"),
        ("test_bad", "(out: T['n', 'f32']) -> None", "'out' is what callers name the outputs"),
        ("test_bad", "(x: T['n', 'f32'], k: int) -> None", "k is an option before the"),
        ("test_bad", "(x: T['n', 'f32'], *, y: T['n']) -> None", "y is a tensor behind the"),
        ("test_bad", "(x: T['n', 'f32'], *, *, k: int) -> None", "a second '\\*'"),
        ("test_bad", "(x: T['n', 'f32'], *) -> None", "no option behind the"),
        ("test_bad", "(x: T['n', 'f32'], y: T['n'] | None) -> None", "expected '='"),
        ("test_bad", "(x: T['n', 'f32'], y: T['n'] | None = None, z: T['n']) -> None", "z must be"),
        ("test_bad", "(x: T['n', 'f32'], *, k: str) -> None", "unknown type of k"),
        ("test_bad", "(x: T['n', 'f32'], *, k: Literal[]) -> None", "k has no choices"),
        ("test_bad", "(x: T['n', 'f32'], *, k: int = 1.5) -> None", "a default that fits k"),
        ("test_bad", "(x: T['n', 'f32'], *, k: int = 01) -> None", "a default that fits k"),
        ("test_bad", "(x: T['n', 'f32'], *, k: float = nan) -> None", "a default that fits k"),
        ("test_bad", "(x: T['n', 'f32'], *, k: bool = None) -> None", "a default that fits k"),
        ("test_bad", "(x: T['n', 'f32'], *, k: Literal['a'] = 'b') -> None", "default that fits k"),
        ("test_bad", "(x: T['n', 'f32']) -> {'p': T['n'], 'q': T['n', 'like p']}", "q is like p"),
        ("test_bad", "(x: T['99999999999999999999', 'f32']) -> None", "is no size"),
    ],
)
def test_bad_declarations(name, signature, message):
    with pytest.raises(ValueError, match=message):
        llm.declare_op(name, signature, doc="Is refused.")


NUMBERS = ("1", "-1", "0", "1.", "2.5", "1e-06", "-1.5e+3", "1e06", "0.0", "100e2")


@pytest.mark.parametrize(
    "option",
    [
        *(f"float = {n}" for n in NUMBERS),
        *(f"float | None = {n}" for n in ("None", "1.0")),
        *("int = -3", "int", "int | None", "bool = True", "bool | None = None"),
        *("Literal['a', 'b'] = 'b'", "Literal['a',] | None = None"),
    ],
)
def test_what_is_declared_natively_is_read_in_python(option):
    """Both sides read the same notation."""
    llm.declare_op("test_read", f"(x: T['*b n', 'f32'], *, k: {option}) -> T['*b n']", doc="Reads.")
    try:
        attribute = declaration.load("test_read").attributes[0]
        default = option.partition("= ")[2]
        assert not default or repr(attribute.default) == repr(ast.literal_eval(default))
        assert "k" in llm.ops.test_read.__doc__
    finally:
        forget("test_read")


def test_kernels_are_compared_with_the_op(scaled):
    """As C++ registers them: with the types of the kernel."""
    register = tvm_ffi.get_global_func("my_llm_ffi.register_kernel")

    def schema(*types):
        named = {"return": [{"type": "None"}], "params": [{"type": t} for t in types]}
        whole = {"type": "ffi.Function", "named_args": named}
        return json.dumps(whole, separators=(",", ":"))

    llm.declare_op("test_typed", "(x: T['n', 'f32'], *, k: int) -> T['n']", doc="Is typed.")
    try:
        message = (
            r"the kernel of test_typed for cpu takes \(DLTensor\*, DLTensor\*, float\), "
            r"expected \(DLTensor\*, DLTensor\*, int\)"
        )
        with pytest.raises(TypeError, match=message):
            register("test_typed", "cpu", print, schema("DLTensor*", "DLTensor*", "float"))
        seen = []
        kernel = lambda x, out, k: seen.append(k)  # noqa: E731
        register("test_typed", "cpu", kernel, schema("DLTensor*", "DLTensor*", "int"))
        llm.ops.test_typed(X[0], k=3)
        assert seen == [3]
        with pytest.raises(ValueError, match="test_typed has a kernel for cpu"):
            register("test_typed", "cpu", kernel, "")
        with pytest.raises(ValueError, match="rms_norm has a kernel for cpu"):
            register("rms_norm", "cpu", kernel, "")
        for name in ("no_such_op", "declare_op"):
            with pytest.raises(KeyError, match=f"no op is declared as {name}"):
                register(name, "cpu", kernel, "")
    finally:
        forget("test_typed")


def test_libraries_that_hold_no_ops(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot load the ops of .*missing\.so"):
        llm.load_ops(tmp_path / "missing.so")
    text = tmp_path / "text.so"
    text.write_text("no library")
    with pytest.raises(OSError, match=r"text\.so does not load"):
        llm.load_ops(text)
    with pytest.raises(ValueError, match=r"libmy_llm_ffi\.so has no MY_LLM_FFI_OPS block"):
        llm.load_ops(base.library_path())


def test_bad_kernels(scaled):
    with pytest.raises(ValueError, match="test_scaled has a kernel for cpu"):
        llm.register_kernel("test_scaled", "cpu")
    with pytest.raises(ValueError, match="rms_norm has a kernel for cpu"):
        llm.register_kernel("rms_norm", "cpu")
    with pytest.raises(KeyError, match="no_such_op"):
        llm.register_kernel("no_such_op", "cuda")
    for device in ("CUDA", "cuda:0", "gpu", "", None, 3):
        with pytest.raises(ValueError, match=r"device is .*, expected one of"):
            llm.register_kernel("rms_norm", device)
    with pytest.raises(TypeError, match="arrays is int, expected a callable"):
        llm.register_kernel("rms_norm", "rocm", arrays=3)
    with pytest.raises(TypeError, match="the kernel is NoneType, expected a callable"):
        llm.register_kernel("rms_norm", "rocm")(None)
    register = llm.register_kernel("rms_norm", "metal")
    try:
        register(scale)
        with pytest.raises(ValueError, match="rms_norm has a kernel for metal"):
            register(scale)
    finally:
        tvm_ffi.registry.remove_global_func("my_llm_ffi.rms_norm.metal")


def test_a_kernel_in_a_library_that_is_not_loaded_yet(scaled, monkeypatch):
    """Its own would come second, and end the process in a constructor."""
    slot = "my_llm_ffi.test_scaled.cuda"

    def load():
        tvm_ffi.register_global_func(slot, lambda *_: None, override=True)

    monkeypatch.setattr(custom._ffi_api, "build_info", load)
    try:
        with pytest.raises(ValueError, match="test_scaled has a kernel for cuda"):
            llm.register_kernel("test_scaled", "cuda")
    finally:
        tvm_ffi.registry.remove_global_func(slot)


def test_as_an_op_of_torch(scaled):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import my_llm_ffi.torch  # noqa: F401

    x = torch.from_numpy(X)
    function = torch.ops.my_llm_ffi.test_scaled
    torch.testing.assert_close(function(x, factor=3.0), x * 3)
    compiled = torch.compile(lambda x: function(x * 2) + 1, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), x * 4 + 1)
