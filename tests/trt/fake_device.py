"""C++ plugins on a device that is none: which device, stream and copies they ask for.

    python fake_device.py LIBRARY DRIVER FAKE

Memory is the host's and says to be of cuda:3; kernels are functions of Python in the slots of CUDA.
In a process of its own, because the fake driver is libcuda.so.1 for all of it (test_cpp_creators.py
starts it). What a GPU would show besides, tier 2 and 3 do.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

STREAM, REFUSED, OUTER = 0x5EED, 13, 0x0DD
calls: list[tuple[str, list[tuple[str, tuple[int, ...]]], int]] = []


def kernel(name: str, error: Exception | None = None) -> None:
    """Fills a slot with what notes its tensors and the stream that is current, or fails."""
    import tvm_ffi

    def noting(*arguments: Any) -> None:
        tensors = [a for a in arguments if isinstance(a, tvm_ffi.Tensor)]
        seen = [(str(t.device), tuple(t.shape)) for t in tensors]
        calls.append((name, seen, current()))
        if error is not None:
            raise error

    tvm_ffi.register_global_func(f"my_llm_ffi.{name}.cuda", noting)


def current() -> int:
    """The stream that ops of this thread launch on."""
    import tvm_ffi

    return int(tvm_ffi.get_raw_stream(tvm_ffi.device("cuda", 3)))


def main(library: Path, driver_library: Path, fake_path: Path) -> None:
    """Enqueues and looks at what came."""
    fake = ctypes.CDLL(str(fake_path), mode=ctypes.RTLD_GLOBAL)
    fake.fake_copied_bytes.restype = ctypes.c_int64
    fake.fake_copy_stream.restype = ctypes.c_void_p
    import torch
    import tvm_ffi
    from trt.cpp_library import CppLibrary
    from trt.driver import Driver

    for name in ("rms_norm", "add_rms_norm"):
        kernel(name)
    # All that are called are filled: none may look for those of a GPU.
    kernel("silu_mul", NotImplementedError("not on this device"))
    with CppLibrary(library).registered(host=False) as loaded:
        driver = Driver(driver_library)
        norm, add = (driver.create(name, "1", "my_llm_ffi") for name in ("RmsNorm", "AddRmsNorm"))
        assert norm is not None and add is not None
        x, weight, out = torch.ones(5, 4), torch.ones(4), torch.zeros(5, 4)
        with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda", 3), OUTER):
            assert norm.enqueue([x, weight], [out], stream=STREAM) == 0, loaded.last_error()
            assert current() == OUTER
            ((name, tensors, stream),) = calls
            assert (name, stream) == ("rms_norm", STREAM)
            assert sorted(tensors) == [("cuda:3", (4,)), ("cuda:3", (5, 4)), ("cuda:3", (5, 4))]
            assert fake.fake_copied_bytes() == 0
            # An output of its own begins as its input, by a copy on the stream; one that is not
            # of its own is left alone.
            own = torch.zeros(5, 4)
            assert add.enqueue([x, x, weight], [own, out], stream=STREAM) == 0
            assert torch.equal(own, x) and fake.fake_copied_bytes() == 80
            assert fake.fake_copy_stream() == STREAM and calls[-1][2] == STREAM
            assert add.enqueue([out, x, weight], [x, own], stream=STREAM) == 0
            assert fake.fake_copied_bytes() == 80
            # Errors, of the driver and of the op, leave the stream as it was.
            assert add.enqueue([x, x, weight], [own, out], stream=REFUSED) == -1
            assert "RuntimeError: cuMemcpyDtoDAsync failed with 700" in loaded.last_error()
            assert norm.enqueue([x, weight[:3]], [out], stream=STREAM) == -1
            assert "weight has shape [3]" in loaded.last_error()
            silu = driver.create("SiluMul", "1", "my_llm_ffi")
            assert silu is not None and silu.enqueue([x, x], [out], stream=STREAM) == -1
            assert "NotImplementedError: not on this device" in loaded.last_error()
            assert current() == OUTER
    print("all is well")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
