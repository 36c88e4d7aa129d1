"""libmy_llm_ffi_cuda.so without a GPU: it loads, has its kernels, and says what is missing."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm_ffi
from reference.device_arrays import OnDevice

import my_llm_ffi as llm
from my_llm_ffi import declaration


def has_gpu() -> bool:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and count.value > 0
    )


@pytest.fixture(scope="module", autouse=True)
def _library() -> None:
    assert llm.base.LIB is not None
    if llm.build_info()["cuda"] != "found":
        pytest.skip(f"no CUDA library: {llm.build_info()['cuda']}")


def test_every_op_has_its_kernel() -> None:
    missing = [
        name
        for name in declaration.op_names()
        if tvm_ffi.get_global_func(f"my_llm_ffi.{name}.cuda", allow_missing=True) is None
    ]
    assert missing == []


@pytest.mark.skipif(has_gpu(), reason="there is a GPU, and host memory would be given to it")
def test_a_call_without_a_gpu_says_so() -> None:
    x, weight, out = (OnDevice(np.ones(shape, np.float32)) for shape in ((2, 8), (8,), (2, 8)))
    with pytest.raises(RuntimeError, match=r"rms_norm.*(driver|no CUDA-capable device)"):
        llm.ops.rms_norm(x, weight, out=out)
    rows = np.ones((2, 8), np.float32)  # and the process goes on
    assert llm.ops.rms_norm(rows, rows[0]).shape == (2, 8)


def test_its_slots_are_taken_before_it_is_loaded() -> None:
    code = "import my_llm_ffi as llm; llm.register_kernel('rms_norm', 'cuda')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done
    assert "ValueError: register_kernel: rms_norm has a kernel for cuda" in done.stderr


def test_it_lies_beside_the_core_library() -> None:
    path = llm.base.library_path()
    assert path is not None
    assert Path(path).with_name("libmy_llm_ffi_cuda.so").is_file()
