"""Plugins on a GPU, without TensorRT: device memory, a side stream, a CUDA graph, no waiting."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trt import cpp_library
from trt import driver as drive
from trt.driver import Driver

import my_llm_ffi as llm
from my_llm_ffi import tensorrt as plugins
from my_llm_ffi.tensorrt.execution import Execution

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def description(tensor: Any) -> Any:
    return types.SimpleNamespace(type=tensor.dtype, dims=tuple(tensor.shape))


def enqueue(plugin: Any, inputs: Any, outputs: Any, stream: Any) -> Execution:
    """As TensorRT does it: descriptions first, then addresses and a stream."""
    torch.cuda.current_stream()  # makes torch's context the current one
    execution = Execution(plugin, *([description(t) for t in ts] for ts in (inputs, outputs)))
    repeat(execution, inputs, outputs, stream)
    return execution


def repeat(execution: Execution, inputs: Any, outputs: Any, stream: Any) -> None:
    pointers = [[t.data_ptr() for t in ts] for ts in (inputs, outputs)]
    execution.enqueue(*pointers, 0, stream.cuda_stream)


@contextlib.contextmanager
def nobody_waits() -> Iterator[None]:
    """An error for any synchronisation that torch knows of."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["forward", "enqueue"])
@pytest.mark.parametrize("use_torch", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_lookup_on_device_memory(name: str, use_torch: bool, dtype: str):
    table = torch.randn(100, 64, device="cuda").to(getattr(torch, dtype))
    index = torch.randint(0, 100, (33,), dtype=torch.int32, device="cuda")
    plugin = plugins.LookUp(use_torch_tensor=use_torch)
    if name == "forward":
        out = plugin(index, table)
    else:
        out = torch.empty(33, 64, dtype=table.dtype, device="cuda")
        enqueue(plugin, [index, table], [out], torch.cuda.current_stream())
    assert torch.equal(out, table[index.long()])


def test_aliased_outputs_are_copied_on_the_stream():
    x, stream, weight = (torch.randn(*s, device="cuda") for s in ((5, 64), (5, 64), (64,)))
    want_stream = stream.clone()
    want = llm.ops.add_rms_norm(x, want_stream, weight)
    found = [torch.empty_like(x), torch.empty_like(x)]
    plugin, _ = plugins.AddRmsNorm().prepare([x, stream, weight])
    enqueue(plugin, [x, stream, weight], found, torch.cuda.current_stream())
    assert torch.equal(found[0], want_stream) and torch.equal(found[1], want)


@pytest.mark.parametrize("use_torch", [False, True])
def test_the_stream_is_the_callers_and_nobody_waits(use_torch: bool):
    """What precedes on the side stream is slow: whoever ran on another would read too early."""
    side = torch.cuda.Stream()
    table = torch.zeros(100, 64, device="cuda")
    index = torch.arange(100, device="cuda")
    out = torch.empty(100, 64, device="cuda")
    plugin = plugins.LookUp(use_torch_tensor=use_torch)
    execution = enqueue(plugin, [index, table], [out], side)
    torch.cuda.synchronize()
    with nobody_waits():
        with torch.cuda.stream(side):
            torch.cuda._sleep(50_000_000)
            table.fill_(3)
        repeat(execution, [index, table], [out], side)
    side.synchronize()
    assert bool((out == 3).all())


def test_a_cuda_graph_holds_what_is_enqueued():
    x, weight = torch.randn(7, 128, device="cuda"), torch.randn(128, device="cuda")
    out, side, graph = torch.empty_like(x), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    execution = enqueue(plugins.RmsNorm(), [x, weight], [out], side)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=side):
        repeat(execution, [x, weight], [out], side)
    for _ in range(2):
        x.normal_()
        out.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out, llm.ops.rms_norm(x, weight))


@pytest.fixture
def cpp_driver(tmp_path: Path) -> Iterator[Driver]:
    reason = cpp_library.lacking() or (None if drive.headers() else "no headers of TensorRT")
    if reason is not None or not plugins.has_tensorrt():
        pytest.skip(reason or "no Python module tensorrt: its registry has the creators")
    library = cpp_library.CppLibrary(cpp_library.build(tmp_path / "library"))
    with library.registered(host=False):
        yield Driver(drive.build(tmp_path))


def test_cpp_plugins_on_a_side_stream_and_in_a_graph(cpp_driver: Driver):
    x, residual, weight = (torch.randn(*s, device="cuda") for s in ((5, 64), (5, 64), (64,)))
    found = [torch.empty_like(x), torch.empty_like(x)]
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    plugin = cpp_driver.create("AddRmsNorm", "1", "my_llm_ffi")
    assert plugin is not None
    assert plugin.enqueue([x, residual, weight], found, stream=side.cuda_stream) == 0
    torch.cuda.synchronize()
    with nobody_waits(), torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        x.fill_(3)
        assert plugin.enqueue([x, residual, weight], found, stream=side.cuda_stream) == 0
    side.synchronize()
    want_stream = residual.clone()
    want = llm.ops.add_rms_norm(x, want_stream, weight)
    assert torch.equal(found[0], want_stream) and torch.equal(found[1], want)
    with torch.cuda.graph(graph, stream=side):
        assert plugin.enqueue([x, residual, weight], found, stream=side.cuda_stream) == 0
    for tensor in found:
        tensor.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found[0], want_stream) and torch.equal(found[1], want)
