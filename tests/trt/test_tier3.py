"""Engines: built and run by the examples, in processes of their own. Needs TensorRT and a GPU.

python -m pytest tests/trt/test_tier3.py
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trt import cpp_library
from trt import driver as drive

from my_llm_ffi import tensorrt as plugins

CAPTURED: Any = {"capture_output": True, "text": True}
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
    return subprocess.run(command, cwd=cwd, **CAPTURED)


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
    found = subprocess.run(command, cwd=tmp_path, check=True, **CAPTURED)
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


def test_an_engine_with_python_plugins_runs_from_cpp(machine: None, tmp_path: Path):
    """The fields are the same: a program without Python loads it with the library's creators."""
    reason = cpp_library.lacking()
    if reason is not None:
        pytest.skip(reason)
    library, runner = cpp_library.build(tmp_path / "library"), drive.build_runner(tmp_path)
    assert example("build_lookup.py", "--dtype", "float32", cwd=tmp_path).returncode == 0
    found = subprocess.run([runner, library, "lookup.engine"], cwd=tmp_path, **CAPTURED)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("equal to the table's") == 4


def test_the_cpp_example_says_what_it_needs(tmp_path: Path):
    if lacking() is None:
        pytest.skip("everything is here")
    if drive.headers() is None:
        pytest.skip("TENSORRT_INCLUDE_DIR names no folder with NvInferRuntime.h")
    runner = drive.build_runner(tmp_path)
    found = subprocess.run([runner, "none.so", "none.engine"], **CAPTURED)
    assert found.returncode == 1 and len(found.stderr.splitlines()) == 1, found.stderr
    assert found.stderr.startswith("run_lookup.cc needs ")
    assert subprocess.run([runner], **CAPTURED).returncode == 2
