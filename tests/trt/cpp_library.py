"""libmy_llm_ffi_tensorrt.so in the place of Python's plugins. Counterpart: src/tensorrt/.

MY_LLM_FFI_TENSORRT_LIBRARY names one; else it is built, which needs cmake and NVIDIA's headers.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trt import driver as drive

from my_llm_ffi import tensorrt as plugins
from my_llm_ffi.base import library_path

SOURCE = Path(__file__).parents[2] / "src" / "tensorrt"
SHIPPED = ("LookUp", "RmsNorm", "AddRmsNorm", "SiluMul", "Rope", "MaskLogits", "PagedAttention")


def lacking() -> str | None:
    """Why there is no library, and none can be built."""
    if os.environ.get("MY_LLM_FFI_TENSORRT_LIBRARY"):
        return None
    if drive.headers() is None:
        return "TENSORRT_INCLUDE_DIR names no folder with NvInferRuntime.h"
    if not SOURCE.is_dir():
        return "the sources of the C++ creators are not here"
    return None if shutil.which("cmake") else "no cmake"


def build(folder: Path) -> Path:
    """The library that is named, or one that is built."""
    named = os.environ.get("MY_LLM_FFI_TENSORRT_LIBRARY")
    return Path(named) if named else compile(folder)


def compile(folder: Path, *, sanitize: str = "") -> Path:
    """Builds the library by CMake, beside the package that is imported."""
    options = {
        "TENSORRT_INCLUDE_DIR": drive.headers(),
        "MLF_CORE_LIBRARY": library_path(),
        "MLF_SANITIZE": sanitize,
        "Python_EXECUTABLE": sys.executable,
        "CMAKE_BUILD_TYPE": "None" if sanitize else "Release",
        "CMAKE_CXX_FLAGS": "-Werror -O1" if sanitize else "-Werror",
    }
    defines = [f"-D{name}={value}" for name, value in options.items()]
    for command in (["-S", str(SOURCE), "-B", str(folder), *defines], ["--build", str(folder)]):
        found = subprocess.run(["cmake", *command], capture_output=True, text=True)
        assert found.returncode == 0, found.stdout + found.stderr
    return folder / "libmy_llm_ffi_tensorrt.so"


class CppLibrary:
    """The library's own functions; TensorRT calls the others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = ctypes.CDLL(str(path))
        self.handle.my_llm_ffi_tensorrt_last_error.restype = ctypes.c_char_p

    def last_error(self) -> str:
        """What a plugin reported last in this thread."""
        return str(self.handle.my_llm_ffi_tensorrt_last_error().decode())

    @contextlib.contextmanager
    def registered(self, *, host: bool = True) -> Iterator[CppLibrary]:
        """Within, the plugins that ship are the library's, loaded by TensorRT's registry.

        Args:
            host: Whether they are given addresses of the host.
        """
        registry: Any = plugins.bindings.trt.get_plugin_registry()
        classes = [getattr(plugins, name) for name in SHIPPED]
        for cls in classes:
            plugins.unregister(cls)
        loaded = registry.load_library(str(self.path))
        self.handle.my_llm_ffi_tensorrt_host_memory(int(host))
        try:
            yield self
        finally:
            self.handle.my_llm_ffi_tensorrt_host_memory(0)
            registry.deregister_library(loaded)
            for cls in classes:
                plugins.plugin_base.enter(cls)
