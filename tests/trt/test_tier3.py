"""Engines: built and run by the examples, in processes of their own. Needs TensorRT and a GPU.

python -m pytest tests/trt/test_tier3.py
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from my_llm_ffi import tensorrt as plugins

EXAMPLES = Path(__file__).parents[2] / "examples" / "tensorrt"


def lacking() -> str | None:
    """What this machine lacks for an engine."""
    if not plugins.has_tensorrt():
        return "no Python module tensorrt"
    try:
        plugins.memory.driver()
    except RuntimeError as error:
        return str(error)
    import tensorrt as trt

    try:
        trt.Builder(trt.Logger(trt.Logger.ERROR))
    except TypeError:  # the stub libraries of tests/trt/install.py
        return "the Python module tensorrt has no builder"
    return None


def example(name: str, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *options]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=dict(os.environ))


@pytest.mark.parametrize("name", ["build_lookup.py", "run_lookup.py"])
def test_the_examples_say_what_they_need(name: str, tmp_path: Path):
    if lacking() is None:
        pytest.skip("everything is here")
    found = example(name, cwd=tmp_path)
    assert found.returncode == 1 and len(found.stderr.splitlines()) == 1, found.stderr
    assert found.stderr.startswith(f"{name} needs ")


def test_the_examples_look_for_the_builder_and_for_what_a_plugin_imports(tmp_path: Path):
    if not plugins.has_tensorrt() or lacking() is None:
        pytest.skip("for bindings without a builder")
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); import build_lookup\n"
        "torch.cuda.is_available = lambda: True\n"
        "sys.modules['triton'] = None\n"
        "print(build_lookup.missing()); print(build_lookup.missing('triton_lookup'))"
    )
    command = [sys.executable, "-c", code, str(EXAMPLES)]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    builder, triton = found.stdout.splitlines()
    assert "no builder" in builder and triton.startswith("what triton_lookup imports")


@pytest.fixture(scope="module")
def machine() -> None:
    reason = lacking()
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("package", ["my_llm_ffi.tensorrt", "lookup_plugin", "triton_lookup"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("wide", [(), ("--fp32-output",)])
def test_an_engine_is_built_and_runs_in_a_fresh_process(
    machine: None, tmp_path: Path, package: str, dtype: str, wide: tuple[str, ...]
):
    if package == "triton_lookup" and importlib.util.find_spec("triton") is None:
        pytest.skip("no Triton")
    built = example("build_lookup.py", "--plugin", package, "--dtype", dtype, *wide, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    ran = example("run_lookup.py", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("equal to torch's") == 4


def test_an_engine_with_python_plugins_runs_with_cpp_ones(machine: None, tmp_path: Path):
    """The fields are the same: the library's creators take over, with Python's out of the way."""
    library = os.environ.get("MY_LLM_FFI_TENSORRT_LIBRARY")
    if library is None:
        pytest.skip("MY_LLM_FFI_TENSORRT_LIBRARY does not name libmy_llm_ffi_tensorrt.so")
    assert example("build_lookup.py", "--dtype", "float16", cwd=tmp_path).returncode == 0
    code = f"""
import tensorrt as trt, torch
trt.get_plugin_registry().load_library({library!r})
engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(
    open("lookup.engine", "rb").read())
context = engine.create_execution_context()
table = torch.randn(1000, 128, device="cuda").half()
index = torch.arange(20, dtype=torch.int32, device="cuda")
out = torch.empty(20, 128, device="cuda").half()
context.set_input_shape("index", (20,))
for name, tensor in (("index", index), ("table", table), ("out", out)):
    context.set_tensor_address(name, tensor.data_ptr())
assert context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
torch.cuda.synchronize()
assert torch.equal(out, table[:20])
"""
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
