"""Loads libmy_llm_ffi.so and teaches tvm-ffi the error kinds that it throws."""

from __future__ import annotations

import atexit
import importlib.metadata
import os
import platform
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import tvm_ffi
from tvm_ffi.libinfo import load_lib_module

if TYPE_CHECKING:
    from tvm_ffi import Module

_LIBRARY = "libmy_llm_ffi.so"
_SUPPORTED_MACHINES = ("x86_64", "aarch64")


class InternalError(RuntimeError):
    """A bug of this library, not of its caller."""

    def __new__(cls, *args: Any) -> Any:
        """A MemoryError where that is what happened: tvm-ffi calls what C++ throws internal."""
        if args == ("std::bad_alloc",):
            return MemoryError("the system has no memory left for what this call needs")
        return super().__new__(cls, *args)


# Kinds that tvm-ffi does not map by itself; without this they would all arrive as RuntimeError.
ERRORS: tuple[type[BaseException], ...] = (
    InternalError,
    KeyboardInterrupt,
    BufferError,
    NotImplementedError,
    OSError,
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    TimeoutError,
    OverflowError,
    ZeroDivisionError,
    StopIteration,
)


class _Relay:
    """A callback whose exception reaches the caller as the very object that was raised."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.error: BaseException | None = None

    def __call__(self, *args: Any) -> Any:
        try:
            return self.fn(*args)
        except BaseException as error:
            self.error = error
            raise


def call_relaying(native: Callable[..., Any], fn: Callable[..., Any], *args: Any) -> Any:
    """Calls ``native(fn, *args)``; an exception that ``fn`` raised comes out as itself.

    tvm-ffi carries exceptions of builtin classes by name; this keeps every class, with its
    attributes and its traceback.
    """
    relay = _Relay(fn)
    try:
        return native(relay, *args)
    except BaseException:
        if relay.error is not None:
            raise relay.error from None
        raise


def _register_errors() -> None:
    for error in ERRORS:
        tvm_ffi.register_error(error.__name__, error)


def library_path() -> Path | None:
    """Path of the installed libmy_llm_ffi.so; None in a source tree that was never installed."""
    path = Path(__file__).parent / "lib" / _LIBRARY
    if path.is_file():
        return path
    try:  # an editable install keeps the library apart from the sources
        files = importlib.metadata.files("my-llm-ffi") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in files if f.name == _LIBRARY), None)


def _load_library() -> Module:
    try:
        path = library_path()
        if path is not None:
            return tvm_ffi.load_module(str(path))
        return load_lib_module("my-llm-ffi", "my_llm_ffi")  # looks at LD_LIBRARY_PATH too
    except (RuntimeError, OSError, ValueError) as error:
        machine = platform.machine()
        if sys.platform != "linux" or machine not in _SUPPORTED_MACHINES:
            reason = f"Linux on x86_64 or aarch64 is supported, this is {sys.platform} on {machine}"
        else:
            reason = f"{_LIBRARY} does not load, reinstall the package: {error}"
        raise ImportError(f"my_llm_ffi: {reason}") from error


_register_errors()
LIB = _load_library()


def _begin_exit() -> None:
    """Lets threads that are about to come out of native code do so before the interpreter ends."""
    begin = time.monotonic()
    while True:
        held = _native_begin_exit()
        waited = time.monotonic() - begin
        inside = _threads_inside()
        if inside is None or waited >= (_LONGEST_WAY_S if inside > held else _WAY_BACK_S):
            return
        time.sleep(0.005)  # without the GIL; whoever calls us again stays there


def _threads_inside() -> int | None:
    """Threads in this package or tvm-ffi, or in what is called there; None: there are no threads.

    A native call of any other function cannot be told apart.
    """
    frames = sys._current_frames()
    frames.pop(threading.get_ident(), None)
    inside = sum(frame.f_code.co_filename.startswith(_PACKAGES) for frame in frames.values())
    return inside if frames else None


_PACKAGES = tuple(str(Path(str(file)).parent) + os.sep for file in (__file__, tvm_ffi.__file__))
_WAY_BACK_S, _LONGEST_WAY_S = 0.1, 2.0
_native_begin_exit = tvm_ffi.get_global_func("my_llm_ffi.begin_exit")
atexit.register(_begin_exit)
