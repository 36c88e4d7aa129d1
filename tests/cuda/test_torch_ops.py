"""torch.ops.my_llm_ffi.* on tensors of a device: eager and compiled, the bits of the plain op."""

from __future__ import annotations

import importlib
import os

import pytest

# Without it, setuptools refuses to be imported by the compiler after somebody imported distutils.
os.environ.setdefault("SETUPTOOLS_USE_DISTUTILS", "stdlib")
torch = pytest.importorskip("torch", reason="CUDA kernels are tested through torch")
importlib.import_module("my_llm_ffi.torch")
samples = importlib.import_module("reference.device_samples")
targets = importlib.import_module("reference.device_target")

OPS = torch.ops.my_llm_ffi
FAMILIES = samples.FAMILIES


def sample_of(name):
    """A call with the outputs that torch would allocate."""
    dtype = FAMILIES[name].dtypes[0]
    for sample in FAMILIES[name].samples(dtype, samples.Draw(1)):
        whole = all(t is None or t.numel() > 1 for t in sample.tensors)
        if whole and sample.out_dtypes in (None, (dtype,)):
            return sample
    raise LookupError(name)


def compare(name, call, target):
    """Results and mutated inputs of `call` beside those of the plain op."""
    sample = sample_of(name)
    if not target.takes(sample):
        pytest.skip("refused on CUDA")
    plain = targets.Call.of(name, sample, target.device)
    plain()
    inputs = [None if t is None else t.to(target.device, copy=True) for t in sample.tensors]
    result = call(*inputs, **sample.options)
    outputs = [] if result is None else list(result) if isinstance(result, tuple) else [result]
    written = [t for t, spec in zip(inputs, plain.op.inputs) if spec.use == "mutable"]
    target.synchronize()
    for got, want in zip([*outputs, *written], plain.results(), strict=True):
        assert got.device.type == target.device.type
        torch.testing.assert_close(got.cpu(), want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_eager(name, target):
    compare(name, getattr(OPS, name), target)


@pytest.mark.parametrize("name", FAMILIES)
def test_compiled_without_graph_breaks(name, target):
    torch._dynamo.reset()
    backend = "inductor" if target.is_cuda else "aot_eager"  # test_torch.py has it on the CPU
    compiled = torch.compile(
        lambda *a, **k: getattr(OPS, name)(*a, **k), fullgraph=True, backend=backend
    )
    compare(name, compiled, target)


def test_captured_between_other_kernels(cuda_target):
    """A compiled function with torch's own kernels around ours, replayed as a graph."""
    x, weight = (torch.randn(64, 512, device="cuda"), torch.randn(512, device="cuda"))

    def layer(x, weight):
        return torch.relu(OPS.rms_norm(x * 2, weight)) + x

    compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    for _ in range(3):  # a warm-up, the capture, a replay
        got = compiled(x, weight).clone()
    torch.testing.assert_close(got, layer(x, weight))
