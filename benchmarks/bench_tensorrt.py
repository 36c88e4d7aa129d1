"""What a TensorRT plugin costs above its op: `enqueue` through the real vtable, beside the bare op.

    python tests/trt/install.py ENV
    TENSORRT_INCLUDE_DIR=... ENV/bin/python benchmarks/bench_tensorrt.py

On the host: tensors of a few elements, so that the call is all there is. Where
MY_LLM_FFI_TENSORRT_LIBRARY names libmy_llm_ffi_tensorrt.so, its C++ plugin is a row too. Says "not
run" where the Python module tensorrt or NVIDIA's headers are missing.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PYTHON_US, CPP_US = 15.0, 2.0  # asked for, above the bare op
CALLS, ROUNDS = 2000, 15


def per_call_us(run: Callable[[int], Any]) -> float:
    """Microseconds of one of many calls."""
    start = time.perf_counter_ns()
    run(CALLS)
    return (time.perf_counter_ns() - start) / CALLS / 1e3


def measure(runs: dict[str, Callable[[int], Any]]) -> dict[str, float]:
    """Medians, in turns."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            samples[name].append(per_call_us(run))
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


def enqueued(driver: Any, tensors: list[Any]) -> Callable[[int], Any]:
    """The plugin that the registry has now."""
    import torch

    described = [(str(t.dtype)[6:], tuple(t.shape)) for t in tensors]
    plugin = driver.create("RmsNorm", "1", "my_llm_ffi").attach()
    if plugin.shape_change(described[:2], described[2:]) != 0:
        raise SystemExit("the plugin refused the shapes")
    run: Callable[[int], Any] = plugin.enqueue(tensors[:2], tensors[2:], prepared=True)
    tensors[2].zero_()
    run(1)
    want = torch.nn.functional.rms_norm(tensors[0], (tensors[0].shape[1],), tensors[1], 1e-6)
    if not torch.allclose(tensors[2], want, rtol=1e-5, atol=1e-6):
        raise SystemExit("the plugin is wrong")
    return run


def main() -> str | None:
    """Prints the table."""
    from trt import driver as drive

    from my_llm_ffi import tensorrt as plugins

    if not plugins.has_tensorrt() or drive.headers() is None:
        return "not run: needs the Python module tensorrt (tests/trt/install.py) and NVIDIA's " + (
            "headers (TENSORRT_INCLUDE_DIR)"
        )
    import torch
    from trt.test_tier1 import in_cpp

    tensors = [torch.randn(1, 8), torch.randn(8), torch.empty(1, 8)]
    runs = {"bare op": bare(tensors)}
    library = os.environ.get("MY_LLM_FFI_TENSORRT_LIBRARY")
    with tempfile.TemporaryDirectory() as folder, plugins.host_memory():
        driver = drive.Driver(drive.build(Path(folder)))
        runs["Python plugin"] = enqueued(driver, tensors)
        if library:
            with in_cpp(Path(library)):
                runs["C++ plugin"] = enqueued(driver, tensors)
                found = measure(runs)
        else:
            found = measure(runs)
    print("| rms_norm [1, 8], host | us | above the bare op | asked | met |\n|--|--|--|--|--|")
    asked = {"Python plugin": PYTHON_US, "C++ plugin": CPP_US}
    for name, us in found.items():
        above = us - found["bare op"]
        limit = asked.get(name)
        cells = (
            ["", "", ""]
            if limit is None
            else [f"{above:.2f}", f"{limit:g}", "yes" if above < limit else "NO"]
        )
        print(f"| {name} | {us:.2f} | {' | '.join(cells)} |")
    return None


if __name__ == "__main__":
    sys.exit(main())
