"""What a TensorRT plugin costs above its op: `enqueue` through the real vtable, beside the bare op.

    python tests/trt/install.py ENV
    TENSORRT_INCLUDE_DIR=... ENV/bin/python benchmarks/bench_tensorrt.py

On the host, and on a GPU where torch has one: tensors of a few elements, so that the call is all
there is. The Python plugin stands above the op called from Python, the C++ plugin above the op
called in C. The library of the C++
plugin is built with cmake, or named by MY_LLM_FFI_TENSORRT_LIBRARY. Says "not run" where the Python
module tensorrt or NVIDIA's headers are missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PYTHON_US, CPP_US = 15.0, 2.0  # asked for, above the bare op
# Calls of a turn: fewer on a GPU, than a stream's queue takes without waiting.
CALLS, ROUNDS = {"cpu": 2000, "cuda": 500}, 15


def per_call_us(run: Callable[[int], Any], device: str) -> float:
    """Microseconds of one of many calls."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter_ns()
    run(CALLS[device])
    return (time.perf_counter_ns() - start) / CALLS[device] / 1e3


def measure(runs: dict[str, Callable[[int], Any]], device: str) -> dict[str, float]:
    """Medians, in turns."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            samples[name].append(per_call_us(run, device))
    return {name: statistics.median(found) for name, found in samples.items()}


def bare(tensors: list[Any]) -> Callable[[int], Any]:
    """The op alone, called from Python."""
    import tvm_ffi

    function = tvm_ffi.get_global_func("my_llm_ffi.rms_norm")
    x, weight, out = map(tvm_ffi.from_dlpack, tensors)

    def run(count: int) -> None:
        for _ in range(count):
            function(x, weight, out, 1e-6)

    return run


def bare_in_c(driver: Any, tensors: list[Any]) -> Callable[[int], Any]:
    """The op alone, called in C as the C++ plugin calls it."""
    import tvm_ffi
    from tvm_ffi import libinfo

    ffi = ctypes.CDLL(libinfo.find_libtvm_ffi())
    function = tvm_ffi.get_global_func("my_llm_ffi.rms_norm")
    held = [tvm_ffi.from_dlpack(tensor) for tensor in tensors]
    # A TVMFFIAny is its type's index and its value; an object's header is of 24 bytes.
    packed = [struct.pack("=iIQ", 7, 0, tensor.__chandle__() + 24) for tensor in held]
    packed.append(struct.pack("=iId", 3, 0, 1e-6))
    arguments = ctypes.create_string_buffer(b"".join(packed))
    handle = ctypes.c_void_p(function.__chandle__())
    call = ctypes.cast(ffi.TVMFFIFunctionCall, ctypes.c_void_p)

    def run(count: int) -> None:
        assert held
        if driver.call("call", call, handle, arguments, len(packed), count) != 0:
            raise SystemExit("the op failed")

    return run


def enqueued(driver: Any, tensors: list[Any]) -> Callable[[int], Any]:
    """The plugin that the registry has now."""
    import torch

    described = [(str(t.dtype)[6:], tuple(t.shape)) for t in tensors]
    plugin = driver.create("RmsNorm", "1", "my_llm_ffi").attach()
    if plugin.shape_change(described[:2], described[2:]) != 0:
        raise SystemExit("the plugin refused the shapes")
    stream = torch.cuda.current_stream().cuda_stream if tensors[0].is_cuda else 0
    run: Callable[[int], Any] = plugin.enqueue(
        tensors[:2], tensors[2:], stream=stream, prepared=True
    )
    tensors[2].zero_()
    run(1)
    want = torch.nn.functional.rms_norm(tensors[0], (tensors[0].shape[1],), tensors[1], 1e-6)
    if not torch.allclose(tensors[2], want, rtol=1e-5, atol=1e-6):
        raise SystemExit("the plugin is wrong")
    return run


def table(found: dict[str, float], device: str) -> str:
    """Each plugin above the op that is called from its language."""
    lines = [
        f"| rms_norm [1, 8], {device} | us | above the bare op | asked | met |",
        "|--|--|--|--|--|",
    ]
    compared = {
        "Python plugin": ("op, from Python", PYTHON_US),
        "C++ plugin": ("op, from C", CPP_US),
    }
    for name, us in found.items():
        cells = ["", "", ""]
        if name in compared:
            base, limit = compared[name]
            above = us - found[base]
            cells = [f"{above:.2f}", f"{limit:g}", "yes" if above < limit else "NO"]
        lines.append(f"| {name} | {us:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> str | None:
    """Prints the table."""
    from trt import driver as drive

    from my_llm_ffi import tensorrt as plugins

    if not plugins.has_tensorrt() or drive.headers() is None:
        return "not run: needs the Python module tensorrt (tests/trt/install.py) and NVIDIA's " + (
            "headers (TENSORRT_INCLUDE_DIR)"
        )
    import torch
    from trt import cpp_library

    lacking = cpp_library.lacking()
    with tempfile.TemporaryDirectory() as folder:
        driver = drive.Driver(drive.build(Path(folder)))
        library = None
        if lacking is None:
            library = cpp_library.CppLibrary(cpp_library.build(Path(folder, "library")))
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            print(table(compare(driver, library, device), device))
    return None if lacking is None else f"C++ plugin: not run, {lacking}"


def compare(driver: Any, library: Any, device: str) -> dict[str, float]:
    """Medians of the op and its plugins on a device, in microseconds."""
    import torch

    from my_llm_ffi.tensorrt import host_memory

    on_host = device == "cpu"
    shapes = ((1, 8), (8,), (1, 8))
    tensors = [torch.randn(shape, device=device) for shape in shapes]
    with contextlib.ExitStack() as stack:
        stack.enter_context(host_memory() if on_host else contextlib.nullcontext())
        runs = {"op, from Python": bare(tensors), "Python plugin": enqueued(driver, tensors)}
        runs["op, from C"] = bare_in_c(driver, tensors)
        if library is not None:
            stack.enter_context(library.registered(host=on_host))
            runs["C++ plugin"] = enqueued(driver, tensors)
        return measure(runs, device)


if __name__ == "__main__":
    sys.exit(main())
