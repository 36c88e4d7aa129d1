"""Every op as torch.ops.my_llm_ffi.<name>: eager, compiled, exported, checked by torch itself."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
from reference import op_samples

import my_llm_ffi as llm
from my_llm_ffi import declaration, render

# Without it, setuptools refuses to be imported by the compiler after somebody imported distutils.
os.environ.setdefault("SETUPTOOLS_USE_DISTUTILS", "stdlib")
torch = pytest.importorskip("torch", reason="torch is not installed")
llm_torch = importlib.import_module("my_llm_ffi.torch")

NAMES = declaration.op_names()
OPS = torch.ops.my_llm_ffi


def sample(name: str):
    tensors, options = op_samples.sample(name)
    return [None if t is None else torch.from_numpy(t) for t in tensors], options


def listed(result):
    return [] if result is None else list(result) if isinstance(result, tuple) else [result]


def both(name: str, call):
    """Results and mutated inputs of `call` and of the plain op, on equal inputs."""
    mine, options = sample(name)
    plain, _ = sample(name)
    got = listed(call(*mine, **options))
    expected = listed(getattr(llm.ops, name)(*plain, **options))
    written = [i for i, t in enumerate(declaration.load(name).inputs) if t.use == "mutable"]
    return got + [mine[i] for i in written], expected + [plain[i] for i in written]


def assert_equal(got, expected):
    assert len(got) == len(expected)
    for a, b in zip(got, expected):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_eager(name):
    assert_equal(*both(name, getattr(OPS, name)))


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    tensors, options = sample(name)
    torch.library.opcheck(getattr(OPS, name).default, tuple(tensors), options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("dtypes", ["like table", "like table or f32"])
def test_the_fake_kernel_follows_another_tensor_than_the_first(dtypes, dtype):
    signature = f"(ids: T['n', 'i32'], table: T['r d', 'f32 f16']) -> T['n d', '{dtypes}']"
    op = dataclasses.replace(declaration.parse("toy", signature), function=lambda *arguments: None)
    ids, table = torch.zeros(3, dtype=torch.int32), torch.zeros(2, 4, dtype=dtype)
    made, fake = render.compile_op(op)(ids, table), llm_torch._fake(op)(ids, table)
    assert (made.shape, made.dtype) == (fake.shape, fake.dtype) == ((3, 4), dtype)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("name", NAMES)
def test_compile_without_graph_breaks(name, backend):
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *a, **k: getattr(OPS, name)(*a, **k), fullgraph=True, backend=backend
    )
    assert_equal(*both(name, compiled))


def test_compile_in_the_middle_of_other_code():
    x, weight = torch.randn(4, 6, 16), torch.randn(16)

    def layer(x, weight):
        y = OPS.rms_norm(x.transpose(0, 1).contiguous() * 2, weight)
        return torch.relu(y.transpose(0, 1)) + x

    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(x, weight), layer(x, weight))


def test_the_compiler_makes_its_own_layouts_contiguous():
    x, weight = torch.randn(6, 4, 16), torch.randn(16)

    def permuted(x, weight):
        return OPS.rms_norm((x + 1).permute(1, 0, 2) * 2, weight)

    expected = torch.nn.functional.rms_norm((x + 1).permute(1, 0, 2) * 2, (16,), weight, 1e-6)
    torch.testing.assert_close(torch.compile(permuted)(x, weight), expected)
    with pytest.raises(ValueError, match="rms_norm: x must be contiguous"):
        permuted(x, weight)


def test_export_with_a_dynamic_batch():
    class Norm(torch.nn.Module):
        def forward(self, x, weight):
            return OPS.rms_norm(x, weight, eps=1e-5)

    x, weight = torch.randn(4, 16), torch.randn(16)
    shapes = {"x": {0: torch.export.Dim("tokens")}, "weight": None}
    program = torch.export.export(Norm(), (x, weight), dynamic_shapes=shapes)
    for tokens in (1, 7, 100):
        x = torch.randn(tokens, 16)
        torch.testing.assert_close(
            program.module()(x, weight), torch.nn.functional.rms_norm(x, (16,), weight, 1e-5)
        )


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_refused_by_name(name):
    tensors, options = sample(name)
    floats = [i for i, t in enumerate(tensors) if t is not None and t.is_floating_point()]
    for i in floats:
        given = [t.clone().requires_grad_() if j == i else t for j, t in enumerate(tensors)]
        for function in (getattr(OPS, name), getattr(llm.ops, name)):
            with pytest.raises(NotImplementedError, match=f"{name}: an input requires grad"):
                function(*given, **options)
            with torch.no_grad():
                function(*[None if t is None else t.clone() for t in given], **options)


@pytest.mark.parametrize("name", NAMES)
def test_tangents_are_refused_by_name(name):
    from torch.autograd import forward_ad

    tensors, options = sample(name)
    for i in [i for i, t in enumerate(tensors) if t is not None and t.is_floating_point()]:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(tensors[i].clone(), torch.ones_like(tensors[i]))
            given = [dual if j == i else t for j, t in enumerate(tensors)]
            for function in (getattr(OPS, name), getattr(llm.ops, name)):
                with pytest.raises(
                    NotImplementedError, match=f"{name}: an input carries a forward"
                ):
                    function(*given, **options)
            getattr(OPS, name)(*(None if t is None else t.clone() for t in tensors), **options)


def test_forward_derivatives_of_functions_are_refused():
    x, weight = torch.rand(2, 8), torch.rand(8)
    with pytest.raises(NotImplementedError, match="rms_norm: an input carries a forward-mode"):
        torch.func.jvp(lambda x: OPS.rms_norm(x, weight), (x,), (torch.ones_like(x),))


@pytest.mark.parametrize("name", NAMES)
def test_fake_tensors_are_refused_by_the_plain_op(name):
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode() as mode:
        tensors, options = sample(name)
        fake = [None if t is None else mode.from_tensor(t) for t in tensors]
        with pytest.raises(
            TypeError, match=f"{name}: {declaration.load(name).inputs[0].name} is a"
        ):
            getattr(llm.ops, name)(*fake, **options)


def test_bad_shapes_are_refused_while_tracing():
    compiled = torch.compile(lambda x, w: OPS.rms_norm(x, w), fullgraph=True)
    with pytest.raises(
        Exception, match=r"weight has shape \[3\], expected \[hidden=16 \(from x\)\]"
    ):
        compiled(torch.randn(2, 16), torch.randn(3))
    with pytest.raises(ValueError, match=r"weight has shape \[3\]"):
        OPS.rms_norm(torch.randn(2, 16), torch.randn(3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: OPS.top_k(x, k=33), "top_k: k is 33, expected 0 to the 32 elements"),
        (lambda x: OPS.quantize_q8_0(x[:, :31].clone()), "x has rows of 31, expected a multiple"),
        (lambda x: OPS.linear(x, x, rows=9), "linear: rows is 9, expected 2"),
    ],
)
def test_fake_kernels_refuse_what_the_op_refuses(call, words):
    from torch._subclasses import FakeTensorMode

    for mode in (contextlib.nullcontext(), FakeTensorMode()):
        with mode, pytest.raises(ValueError, match=words):
            call(torch.zeros(2, 32))


def test_bfloat16_and_half_reach_the_kernel():
    for dtype in (torch.bfloat16, torch.float16):
        x, weight = torch.randn(3, 32).to(dtype), torch.randn(32).to(dtype)
        got = OPS.rms_norm(x, weight)
        assert got.dtype == dtype
        expected = torch.nn.functional.rms_norm(x.double(), (32,), weight.double(), 1e-6)
        torch.testing.assert_close(got.double(), expected, rtol=1e-2, atol=1e-3)


def test_inference_mode():
    with torch.inference_mode():
        x, weight = torch.randn(3, 32), torch.randn(32)
        torch.testing.assert_close(OPS.rms_norm(x, weight), llm.ops.rms_norm(x, weight))


def test_an_unknown_op_is_not_registered():
    with pytest.raises(KeyError, match="nope"):
        llm_torch.register("nope")


def test_importing_the_package_does_not_import_this():
    code = "import my_llm_ffi, sys; assert 'my_llm_ffi.torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_numpy_results_are_the_same_bits():
    x, weight = np.random.default_rng(0).normal(size=(2, 5, 40)).astype(np.float32), np.ones(40)
    weight = weight.astype(np.float32)
    got = OPS.rms_norm(torch.from_numpy(x), torch.from_numpy(weight))
    np.testing.assert_array_equal(got.numpy(), llm.ops.rms_norm(x, weight))


def test_what_is_written_in_place_has_a_new_version():
    bitmask = torch.tensor([[3], [3]], dtype=torch.int32)
    for apply in (OPS.apply_token_bitmask, llm.ops.apply_token_bitmask):
        leaf = torch.rand(2, 8, requires_grad=True)
        hidden = leaf * 1
        loss = (hidden * hidden).sum()
        with torch.no_grad():
            apply(hidden, bitmask)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_an_output_that_requires_grad_is_refused():
    x, weight = torch.rand(2, 8), torch.rand(8)
    with pytest.raises(NotImplementedError, match="rms_norm: an input requires grad"):
        llm.ops.rms_norm(x, weight, out=torch.empty(2, 8, requires_grad=True))


def test_negated_views_are_refused_or_right():
    view = torch.tensor([[1 + 2j, 3 + 4j]]).conj().imag
    assert view.is_neg()
    ones = torch.ones(1, 2)
    view = torch._neg_view(torch.tensor([[2.0, 4.0]]))
    with pytest.raises(ValueError, match="silu_mul: a tensor is a negated view"):
        llm.ops.silu_mul(view, ones)
    torch.testing.assert_close(OPS.silu_mul(view, ones), torch.nn.functional.silu(view * 1))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: torch.ones(2, 8, device="meta"), "a meta tensor"),
        (lambda: torch.ones(2, 8).to_sparse(), "a sparse or nested tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(2, 8), 1, 0, torch.qint8), "a quantized"),
    ],
)
def test_tensors_without_plain_memory_are_named(make, what):
    with pytest.raises(Exception, match=f"rms_norm: x is {what}"):
        llm.ops.rms_norm(make(), torch.ones(8), out=torch.empty(2, 8))
