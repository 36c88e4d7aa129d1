"""An op called through each language and framework, on the same NumPy arrays.

A caller takes the op's declaration, its tensors and its options, and gives copies of what the op
made: outputs, then what it wrote in place. What a language lacks here skips its tests, with the
reason.
"""

from __future__ import annotations

import functools
import importlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity.case import Case, read_case, write_case
from reference.native_builds import need_cargo

from my_llm_ffi import base, config, ops
from my_llm_ffi.declaration import Op

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
Caller = Callable[[Op, Sequence[Any], "dict[str, Any]"], "list[np.ndarray]"]


class Refused(Exception):
    """What an op raised, in any language: ``Kind: message``."""


def copies(tensors: Sequence[Any]) -> list[Any]:
    """Fresh memory of the same contents."""
    return [None if t is None else t.copy() for t in tensors]


def listed(result: Any) -> list[Any]:
    """Results of a call as a list."""
    if result is None:
        return []
    return list(result) if isinstance(result, (tuple, list)) else [result]


def written(op: Op, tensors: Sequence[Any]) -> list[Any]:
    """Those of the inputs that the op writes."""
    return [t for t, spec in zip(tensors, op.inputs) if spec.use == "mutable" and t is not None]


def refused(error: Exception) -> Refused:
    """An exception of Python as other languages print theirs."""
    return Refused(f"{type(error).__name__}: {error}")


# ---- in this process ----------------------------------------------------------------------------


def call_python(op: Op, tensors: Sequence[Any], options: dict[str, Any]) -> list[np.ndarray]:
    """`my_llm_ffi.ops`, on NumPy arrays."""
    given = copies(tensors)
    try:
        results = listed(getattr(ops, op.name)(*given, **options))
    except Exception as error:
        raise refused(error) from None
    return [*results, *written(op, given)]


def torch_caller(folder: Path) -> Caller:
    """`torch.ops.my_llm_ffi`."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    importlib.import_module("my_llm_ffi.torch")

    def call(op: Op, tensors: Sequence[Any], options: dict[str, Any]) -> list[np.ndarray]:
        given = [None if t is None else torch.from_numpy(t) for t in copies(tensors)]
        try:
            results = listed(getattr(torch.ops.my_llm_ffi, op.name)(*given, **options))
        except Exception as error:
            raise refused(error) from None
        return [t.numpy() for t in (*results, *written(op, given))]

    return call


def jax_caller(folder: Path) -> Caller:
    """`my_llm_ffi.jax`, under `jax.jit`."""
    for package in ("jax", "jax_tvm_ffi"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    jax, ours = importlib.import_module("jax"), importlib.import_module("my_llm_ffi.jax")

    def call(op: Op, tensors: Sequence[Any], options: dict[str, Any]) -> list[np.ndarray]:
        function = jax.jit(functools.partial(getattr(ours, op.name), **options))
        try:
            return [np.asarray(result) for result in listed(function(*tensors))]
        except Exception as error:
            raise refused(error) from None

    return call


def mlir_caller(folder: Path) -> Caller:
    """A module of `my_llm_ffi.mlir` with the one op, lowered to a plan."""
    if not (Path(ops.__file__).parent / "mlir").is_dir():
        pytest.skip("my_llm_ffi.mlir is not there")
    pytest.importorskip("torch_mlir", reason="torch-mlir is not installed")
    mlir = importlib.import_module("my_llm_ffi.mlir")

    def call(op: Op, tensors: Sequence[Any], options: dict[str, Any]) -> list[np.ndarray]:
        given = {t.name: a for t, a in zip(op.inputs, copies(tensors)) if a is not None}
        in_place = {t.name for t in op.inputs if t.use == "mutable"}
        try:
            builder = mlir.Builder()
            values = {
                name: builder.input(name, array.dtype.name, array.shape, written=name in in_place)
                for name, array in given.items()
            }
            results = listed(getattr(builder, op.name)(**values, **options))
            for i, value in enumerate(results):
                builder.output(f"result{i}", value)
            made = mlir.lower(builder.build()).run(given)
        except Exception as error:
            raise refused(error) from None
        return [np.asarray(made[f"result{i}"]) for i in range(len(results))]

    return call


# ---- programs -----------------------------------------------------------------------------------


def build(command: Sequence[Any], **options: Any) -> None:
    """Compiles; what the compiler says is the failure."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr


def compiler(variable: str, *names: str) -> str:
    """A compiler, or the reason why its language is left out."""
    found = next(filter(None, map(shutil.which, (os.environ.get(variable) or "", *names))), None)
    return found or pytest.skip(f"no {' or '.join(names)} to compile the driver with")


def flags(*names: str) -> list[str]:
    """What ``python -m my_llm_ffi.config --<name>`` prints."""
    if not all(hasattr(config, name) for name in names):
        pytest.skip("the package has no C and C++ clients")
    return [word for name in names for word in shlex.split(getattr(config, name)())]


def source(*path: str) -> Path:
    """A driver's source."""
    found = ROOT.joinpath(*path)
    return found if found.exists() else pytest.skip(f"{'/'.join(path)} is not there")


def cpp_caller(folder: Path) -> Caller:
    """The C++ client, through tests/parity/cpp/driver.cc."""
    driver, program = source("tests", "parity", "cpp", "driver.cc"), folder / "driver_cpp"
    cxx, compiled, linked = compiler("CXX", "g++", "clang++"), flags("cflags"), flags("ldflags")
    build([cxx, "-std=c++17", "-O1", *compiled, driver, "-o", program, *linked])
    return functools.partial(call_program, [str(program)], folder)


def c_caller(folder: Path) -> Caller:
    """The C client, through tests/parity/c/driver.c."""
    driver, program = source("tests", "parity", "c", "driver.c"), folder / "driver_c"
    cc, compiled = compiler("CC", "gcc", "clang"), flags("cflags")
    build([cc, "-std=c11", "-O1", *compiled, driver, "-ldl", "-o", program])
    return functools.partial(call_program, [str(program)], folder)


def rust_caller(folder: Path) -> Caller:
    """The Rust crate, through its example parity_driver."""
    manifest = source("rust", "my-llm-ffi", "Cargo.toml")
    environment = {**os.environ, "CARGO_TARGET_DIR": str(folder / "rust")}
    environment.setdefault("MY_LLM_FFI_PYTHON", sys.executable)
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [need_cargo(), "build", "--offline", "--manifest-path", manifest]
    build([*command, "--example", "parity_driver"], env=environment)
    program = folder / "rust" / "debug" / "examples" / "parity_driver"
    return functools.partial(call_program, [str(program)], folder)


def call_program(
    command: list[str], folder: Path, op: Op, tensors: Sequence[Any], options: dict[str, Any]
) -> list[np.ndarray]:
    """Runs a driver on a case; what it must fill is full of something else before."""
    values = [options.get(a.name, a.default) for a in op.attributes]
    floats = [a.kind == "float" for a in op.attributes]
    plain = [float(v) if f and v is not None else v for f, v in zip(floats, values)]
    case, out = folder / "case", folder / "out"
    out.unlink(missing_ok=True)
    write_case(case, Case(op.name, [*tensors, *outputs(op, tensors, options)], plain))
    environment = {**os.environ, "MY_LLM_FFI_LIBRARY": str(base.library_path())}
    done = subprocess.run(
        [*command, str(case), str(out)], capture_output=True, text=True, env=environment
    )
    if done.returncode == 1 and not out.exists():
        raise Refused(done.stderr.strip())
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr}"
    after = read_case(out)
    assert (after.op, len(after.tensors)) == (op.name, len(op.inputs) + len(op.outputs))
    return [*after.tensors[len(op.inputs) :], *written(op, after.tensors)]


def outputs(op: Op, tensors: Sequence[Any], options: dict[str, Any]) -> list[np.ndarray]:
    """Memory for the outputs; of any size where the call is one that the op refuses."""
    shapes = [None if t is None else t.shape for t in tensors]
    dtypes = [None if t is None else t.dtype.name for t in tensors]
    try:
        made = op.infer(shapes, dtypes, options)
    except (TypeError, ValueError):
        made = [((1,), "float32")] * len(op.outputs)
    return [np.full(shape, 77, dtype) for shape, dtype in made]


LANGUAGES: dict[str, Callable[[Path], Caller]] = {
    "torch": torch_caller,
    "jax": jax_caller,
    "c": c_caller,
    "cpp": cpp_caller,
    "rust": rust_caller,
    "mlir": mlir_caller,
}
