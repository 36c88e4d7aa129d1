"""Every op as a function of JAX: under jit, vmap and export, what is written, what is refused."""

from __future__ import annotations

import functools
import importlib
import inspect
import subprocess
import sys

import numpy as np
import pytest
from reference import op_samples
from reference.custom_ops import forget

import my_llm_ffi as llm
from my_llm_ffi import declaration, render_jax

jax = pytest.importorskip("jax", reason="jax is not installed")
pytest.importorskip("jax_tvm_ffi", reason="jax-tvm-ffi is not installed")
ops = importlib.import_module("my_llm_ffi.jax")
jnp = jax.numpy

NAMES = declaration.op_names()
X = np.random.default_rng(0).normal(size=(4, 6, 16)).astype(np.float32)
W = np.linspace(0.5, 2, 16).astype(np.float32)


@pytest.fixture
def x64():
    """JAX with 64 bits."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def listed(result):
    return list(result) if isinstance(result, tuple) else [] if result is None else [result]


def expected_of(name, tensors, options):
    """Outputs and what is written, by the plain op."""
    given = [None if t is None else t.copy() for t in tensors]
    outputs = listed(getattr(llm.ops, name)(*given, **options))
    specs = declaration.load(name).inputs
    return outputs + [t for t, spec in zip(given, specs) if spec.use == "mutable"]


def assert_equal(got, expected):
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected):
        assert isinstance(mine, jax.Array)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(np.asarray(mine), theirs)


# ---- calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_eager_and_inputs_stay(name):
    for tensors, options in op_samples.samples(declaration.load(name)):
        mine = [None if t is None else jnp.array(t) for t in tensors]
        before = [None if t is None else np.array(t) for t in mine]
        assert_equal(
            listed(getattr(ops, name)(*mine, **options)), expected_of(name, tensors, options)
        )
        for array, was in zip(mine, before):
            assert array is None or np.array_equal(
                np.asarray(array), was, equal_nan=was.dtype.kind == "f"
            )


def test_jit_in_the_middle_of_other_code():
    @jax.jit
    def layer(x, residual, weight):
        out, residual = ops.add_rms_norm(jnp.tanh(x), residual, weight, eps=1e-5)
        return out * 2 + residual

    x, residual = X.copy(), X + 1
    want, stream = expected_of(
        "add_rms_norm", [np.asarray(jnp.tanh(x)), residual, W], {"eps": 1e-5}
    )
    np.testing.assert_allclose(layer(x, residual, W), want * 2 + stream, rtol=1e-6)


def test_what_is_written_is_the_memory_of_a_donated_input():
    step = jax.jit(lambda logits, mask: ops.apply_token_bitmask(logits, mask), donate_argnums=0)
    logits, mask = jnp.ones((2, 8)), jnp.array([[5], [1]], jnp.int32)
    lies_at = logits.unsafe_buffer_pointer()
    done = step(logits, mask)
    assert logits.is_deleted() and done.unsafe_buffer_pointer() == lies_at
    assert np.isneginf(np.asarray(done)).sum(axis=1).tolist() == [6, 7]


def test_options_arrive_with_all_their_bits():
    eps = 1.2345678901234567e-3
    got = ops.rms_norm(X, W, eps=eps)
    assert_equal([got], [llm.ops.rms_norm(X, W, eps=eps)])
    for same in (np.float64(eps), np.array(eps)):
        assert_equal([ops.rms_norm(X, W, eps=same)], [llm.ops.rms_norm(X, W, eps=eps)])
    assert_equal([ops.rms_norm(X, W, eps=1)], [llm.ops.rms_norm(X, W, eps=1.0)])
    k = np.int64(2)
    assert ops.top_k(X, k=k)[0].shape == (4, 6, 2)


@pytest.mark.parametrize("shape", [(0, 16), (16,), (2, 0, 3, 16)])
def test_sizes(shape):
    x = np.ones(shape, np.float32)
    assert_equal([ops.rms_norm(x, W)], [llm.ops.rms_norm(x, W)])


def test_bfloat16_is_that_of_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    want = llm.ops.rms_norm(torch.from_numpy(X).bfloat16(), torch.from_numpy(W).bfloat16())
    got = ops.rms_norm(jnp.asarray(X, jnp.bfloat16), jnp.asarray(W, jnp.bfloat16))
    assert got.dtype == jnp.bfloat16
    bits = np.asarray(jax.lax.bitcast_convert_type(got, jnp.int16))
    np.testing.assert_array_equal(bits, want.view(torch.int16).numpy())


def test_names_defaults_and_documents():
    for name in NAMES:
        function, op = getattr(ops, name), declaration.load(name)
        parameters = inspect.signature(function).parameters
        tensors = [t.name for t in op.inputs]
        assert list(parameters) == tensors + [a.name for a in op.attributes]
        assert "Returns:" in function.__doc__ and "in place, written" not in function.__doc__
        assert all(f"``{result}``" in function.__doc__ for result in render_jax.results(op))
    assert dir(ops) == NAMES and ops.__all__ == NAMES
    with pytest.raises(AttributeError, match=r"my_llm_ffi.jax has no op 'nope'"):
        _ = ops.nope


# ---- int64 --------------------------------------------------------------------------------------


def kv_append_sample():
    return next(op_samples.samples(declaration.load("kv_append")))[0]


def test_without_x64_int32_is_widened_where_an_op_takes_int64_alone():
    tensors = kv_append_sample()
    given = [*tensors[:-1], jnp.asarray(tensors[-1].astype(np.int32))]
    assert_equal(listed(jax.jit(ops.kv_append)(*given)), expected_of("kv_append", tensors, {}))


def test_with_x64(x64):
    tensors = kv_append_sample()
    assert jnp.asarray(tensors[-1]).dtype == np.int64
    assert_equal(listed(ops.kv_append(*tensors)), expected_of("kv_append", tensors, {}))
    table, ids = X[0], np.array([5, 0], np.int64)
    assert_equal([ops.embedding_lookup(table, ids)], [llm.ops.embedding_lookup(table, ids)])
    with pytest.raises(TypeError, match="rms_norm: x is float64, expected one of"):
        ops.rms_norm(X.astype(np.float64), W)


def test_without_x64_float64_is_float32_as_everywhere_in_jax():
    assert ops.rms_norm(X.astype(np.float64), W).dtype == np.float32


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ops.rms_norm(X, W[:3]),
            ValueError,
            r"weight has shape \[3\], expected \[hidden=16",
        ),
        (
            lambda: ops.rms_norm(X.astype("i4"), W),
            TypeError,
            "rms_norm: x is int32, expected one of",
        ),
        (lambda: ops.rms_norm([1.0], W), TypeError, "rms_norm: x is list, expected an array"),
        (lambda: ops.rms_norm("x", W), TypeError, "rms_norm: x is str, expected an array"),
        (lambda: ops.rms_norm(X, None), TypeError, "rms_norm: weight is NoneType, expected"),
        (lambda: ops.rms_norm(X, object()), TypeError, "rms_norm: weight is object, expected"),
        (lambda: ops.rms_norm(X, W, eps="1"), TypeError, "rms_norm: eps is str, expected a number"),
        (lambda: ops.rms_norm(X, W, eps=True), TypeError, "rms_norm: eps is bool, expected a"),
        (lambda: ops.rms_norm(X, W, eps=None), TypeError, "eps is NoneType, expected a number"),
        (lambda: ops.top_k(X, k=2.0), TypeError, "top_k: k is float, expected an integer"),
        (lambda: ops.top_k(X, k=17), ValueError, "top_k: k is 17, expected 0 to the 16 elements"),
        (lambda: ops.top_k(X, k=2**70), OverflowError, "top_k: k is .* does not fit 64 bits"),
        (
            lambda: ops.rope(X, X, jnp.zeros(4, "i4"), interleaved=1),
            TypeError,
            "interleaved is int",
        ),
        (
            lambda: ops.gelu_mul(X, X, approximate="x"),
            ValueError,
            "approximate is \"x\", expected one of 'none', 'tanh'",
        ),
    ],
)
def test_what_is_wrong_while_tracing(call, error, message):
    for again in (call, call, jax.jit(call)):
        with pytest.raises(error, match=message):
            again()


def test_a_wrong_option_is_refused_after_an_equal_right_one():
    assert ops.top_k(X, k=2)[0].shape == (4, 6, 2)
    for wrong in (2.0, True):
        with pytest.raises(TypeError, match="top_k: k is"):
            ops.top_k(X, k=wrong)


def test_a_traced_option_is_refused():
    with pytest.raises(TypeError, match="rms_norm: eps is traced by JAX, expected a number that"):
        jax.jit(lambda eps: ops.rms_norm(X, W, eps=eps))(1e-6)


def test_values_are_checked_when_the_op_runs():
    lookup = jax.jit(ops.embedding_lookup)
    table = X[0]
    for wrong in (-1, 6):
        with pytest.raises(
            jax.errors.JaxRuntimeError, match=rf"ids\[1\] is {wrong}, expected 0 or"
        ):
            jax.block_until_ready(lookup(table, np.array([0, wrong], np.int32)))
    assert_equal([lookup(table, np.array([5], np.int32))], [table[5:]])
    with pytest.raises(jax.errors.JaxRuntimeError, match="rms_norm: eps must be a positive"):
        jax.block_until_ready(ops.rms_norm(X, W, eps=-1.0))


@pytest.mark.parametrize("transform", ["grad", "jvp", "jacrev", "grad of vmap", "grad of jit"])
def test_derivatives_are_refused_by_name(transform):
    def loss(x):
        return ops.rms_norm(x, W).sum()

    calls = {
        "grad": lambda: jax.grad(loss)(X),
        "jvp": lambda: jax.jvp(loss, (X,), (X,)),
        "jacrev": lambda: jax.jacrev(loss)(X),
        "grad of vmap": lambda: jax.grad(lambda x: jax.vmap(loss)(x).sum())(X),
        "grad of jit": lambda: jax.grad(jax.jit(loss))(X),
    }
    with pytest.raises(NotImplementedError, match="rms_norm: JAX differentiates an input"):
        calls[transform]()


def test_derivatives_of_the_rest_are_there():
    gradient = jax.grad(lambda x: (x * ops.rms_norm(jax.lax.stop_gradient(x), W)).sum())(X)
    np.testing.assert_array_equal(gradient, llm.ops.rms_norm(X, W))


# ---- vmap ---------------------------------------------------------------------------------------


def in_loops(function, x):
    """How often the compiler's text has a loop, or a call of an op."""
    text = jax.jit(function).lower(x).as_text()
    return "stablehlo.while" in text, text.count("custom_call @my_llm_ffi.")


def test_a_batch_of_declared_leading_dimensions_is_one_call():
    batched = jax.vmap(lambda x: ops.rms_norm(x, W))
    assert in_loops(batched, X) == (False, 1)
    assert_equal([batched(X)], [llm.ops.rms_norm(X, W)])
    nested = jax.vmap(jax.vmap(functools.partial(ops.rms_norm, weight=W)))
    assert in_loops(nested, X) == (False, 1)
    assert_equal([nested(X)], [llm.ops.rms_norm(X, W)])


def test_what_is_not_batched_beside_is_repeated():
    one = X[0]
    got = jax.vmap(lambda gate: ops.silu_mul(gate, one))(X)
    assert_equal([got], [np.stack([llm.ops.silu_mul(gate, one) for gate in X])])
    out, residual = jax.vmap(lambda x: ops.add_rms_norm(x, one, W))(X)
    want = [expected_of("add_rms_norm", [x, one, W], {}) for x in X]
    assert_equal([out, residual], [np.stack(parts) for parts in zip(*want)])


def test_any_axis():
    got = jax.vmap(lambda x: ops.rms_norm(x, W), in_axes=1, out_axes=1)(X)
    assert_equal([got], [llm.ops.rms_norm(X, W)])


def test_another_batch_is_a_loop():
    weights = np.stack([W, W * 2, W * 3])
    batched = jax.vmap(lambda w: ops.rms_norm(X, w))
    assert in_loops(batched, weights) == (True, 1)
    assert_equal([batched(weights)], [np.stack([llm.ops.rms_norm(X, w) for w in weights])])


@pytest.mark.parametrize("name", NAMES)
def test_vmap_of_every_op(name):
    drawn = [next(op_samples.samples(declaration.load(name), seed)) for seed in (1, 2)]
    options = drawn[0][1]
    stacked = [
        None if one is None else np.stack([one, two]) for one, two in zip(drawn[0][0], drawn[1][0])
    ]
    got = listed(jax.vmap(functools.partial(getattr(ops, name), **options))(*stacked))
    want = zip(*(expected_of(name, tensors, options) for tensors, _ in drawn))
    assert_equal(got, [np.stack(parts) for parts in want])


# ---- compiled and stored, ops of others ---------------------------------------------------------


def test_export_with_a_symbolic_batch():
    export = importlib.import_module("jax.export")
    (tokens,) = export.symbolic_shape("tokens")
    x = jax.ShapeDtypeStruct((tokens, 16), np.float32)
    checks = [export.DisabledSafetyCheck.custom_call("my_llm_ffi.rms_norm")]
    made = export.export(jax.jit(ops.rms_norm), disabled_checks=checks)(x, W)
    for count in (1, 5):
        assert_equal([made.call(X[0, :count], W)], [llm.ops.rms_norm(X[0, :count], W)])
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
    loaded = export.deserialize(made.serialize())
    assert_equal([loaded.call(X[0], W)], [llm.ops.rms_norm(X[0], W)])


def test_an_op_declared_later():
    llm.declare_op(
        "test_jax_shift",
        "(x: Mut['*b n', 'f32'], by: T['n', 'f32'] | None = None, *, factor: float | None = None, "
        "twice: bool = False) -> {'total': T['*b', 'f32'], 'far': T['*b', 'i64']}",
        doc="Shifts.",
    )

    @llm.register_kernel("test_jax_shift", "cpu", arrays=np.from_dlpack)
    def kernel(x, by, total, far, factor, twice):
        x += 1 if by is None else by
        x *= (1 if factor is None else factor) * (2 if twice else 1)
        total[...] = x.sum(axis=-1)
        far[...] = 2**40

    before = jax.config.jax_enable_x64
    try:
        message = "test_jax_shift: far is int64, which JAX has with jax_en"
        with pytest.raises(TypeError, match=message):
            ops.test_jax_shift(X)
        jax.config.update("jax_enable_x64", True)
        for options in ({}, {"factor": 3.0}, {"twice": True}):
            total, far, x = jax.jit(functools.partial(ops.test_jax_shift, **options))(X)
            by = options.get("factor", 1) * (2 if "twice" in options else 1)
            np.testing.assert_array_equal(x, (X + 1) * np.float32(by))
            assert far.dtype == np.int64 and (np.asarray(far) == 2**40).all()
            np.testing.assert_allclose(total, np.asarray(x).sum(-1), rtol=1e-6)
        assert_equal([ops.test_jax_shift(X, W)[2]], [X + W])
    finally:
        jax.config.update("jax_enable_x64", before)
        forget("test_jax_shift")


def test_a_call_that_is_not_one_of_xla_is_refused():
    from my_llm_ffi import _ffi_api

    x, out = np.ones((1, 2), "f4"), np.zeros((1, 2), "f4")
    seen = []
    call = _ffi_api.functional_op("probe", lambda *given: seen.append(given), [True, False], 1, 1)
    call(x, out, x, 0b01, 0b1, 7)
    assert [g is None for g in seen[0]] == [False, True, False, True]
    for wrong in ([], [x, 1, 0, 7], [x, out, x, 0b101, 0, 7], [x, out, x, 0b11, 0, 7]):
        with pytest.raises(
            TypeError, match=r"probe: got .* arguments of a functional call, expected"
        ):
            call(*wrong)
    with pytest.raises(RuntimeError, match="probe: input 0 is written, and its result has other"):
        call(x, out, out, 0b01, 0, 7)
    with pytest.raises(ValueError, match="probe: has 65 arguments, expected at most 64"):
        _ffi_api.functional_op("probe", print, [False] * 65, 0, 0)
    with pytest.raises(ValueError, match="functional_op: got -1 outputs"):
        _ffi_api.functional_op("probe", print, [], -1, 0)


def test_the_plain_ops_still_refuse_arrays_of_jax():
    with pytest.raises(TypeError, match="rms_norm: x is an eager JAX array"):
        llm.ops.rms_norm(jnp.asarray(X), W)


def test_importing_the_package_does_not_import_jax():
    code = "import my_llm_ffi, sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_jax_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['jax'] = None\n"
        "try: import my_llm_ffi.jax\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "jax is not installed" in done.stdout and "my-llm-ffi[jax]" in done.stdout
