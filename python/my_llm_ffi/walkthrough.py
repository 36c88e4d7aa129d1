"""The walk-through of tvm-ffi's packaging guide: each thing that can cross the border, once.

Counterpart: src/extension.cc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from . import _ffi_api
from ._ffi_api import IntPair
from .arrays import check_array
from .base import call_relaying

if TYPE_CHECKING:
    from logging import Logger

__all__ = [
    "IntPair",
    "add_one",
    "build_info",
    "call_from_threads",
    "call_with",
    "invert_dict",
    "join_strings",
    "log_to_logging",
    "raise_error",
    "set_log_callback",
    "swap_pair",
]

First = TypeVar("First")
Second = TypeVar("Second")


def add_one(x: Any, y: Any) -> None:
    """``y = x + 1``, elementwise.

    Args:
        x: ``[n]`` float32 on the CPU, contiguous; any DLPack array.
        y: Like ``x``, written to; may be ``x`` itself, but must not overlap it in part.

    Raises:
        ValueError: A shape or stride is wrong, or ``y`` overlaps ``x`` in part.
        TypeError: A dtype is not float32, or an argument is not an array that can be shared.
        BufferError: An array is read-only.
        NotImplementedError: An array is not on the CPU.
    """
    check_array("add_one", "x", x)
    check_array("add_one", "y", y)
    _ffi_api.add_one(x, y)


def raise_error(message: str, *, kind: str = "RuntimeError") -> None:
    """Raises an error from C++; its traceback names the C++ file, line and function.

    Args:
        message: The text of the error.
        kind: Name of a builtin exception class; an unknown name arrives as RuntimeError.

    Raises:
        RuntimeError: Always, or the class that ``kind`` names.
    """
    _ffi_api.raise_error(kind, message)


def join_strings(parts: Sequence[str], separator: str = "") -> str:
    """Joins strings in C++, as ``separator.join(parts)`` does."""
    return str(_ffi_api.join_strings(parts, separator))


def swap_pair(pair: tuple[First, Second]) -> tuple[Second, First]:
    """Swaps a tuple of two values of any kind in C++."""
    second, first = _ffi_api.swap_pair(pair)
    return second, first


def invert_dict(mapping: Mapping[str, int]) -> dict[int, str]:
    """Swaps keys and values in C++.

    Raises:
        ValueError: A value occurs twice.
    """
    return dict(_ffi_api.invert_dict(dict(mapping)))


def call_with(callback: Callable[[Any], Any], value: Any) -> Any:
    """Calls ``callback(value)`` from C++ and returns its result.

    An exception inside the callback comes out as the very object that was raised.
    """
    return call_relaying(_ffi_api.call_with, callback, value)


def call_from_threads(
    callback: Callable[[int, int], int], *, n_threads: int = 2, n_calls: int = 1
) -> int:
    """Calls ``callback(thread, i)`` for every ``i < n_calls`` from each of ``n_threads`` threads.

    The threads are C++ threads that Python has not started.

    Args:
        callback: Returns an integer.
        n_threads: 0 to 64.
        n_calls: Calls per thread.

    Returns:
        The sum of all results.

    Raises:
        ValueError: ``n_threads`` or ``n_calls`` is out of range.
        BaseException: What the callback raised, as itself.
    """
    return int(call_relaying(_ffi_api.call_from_threads, callback, n_threads, n_calls))


_LOG_LEVELS = ("debug", "info", "warning", "error")


def set_log_callback(callback: Callable[[str, str], None] | None) -> None:
    """Hands the library's messages to ``callback(level, message)``; ``None`` silences it again.

    One callback serves the process, C++ and Rust alike. It may be called from any thread, from
    several at once. What it raises is swallowed, because logging must not break the work it reports
    on; only KeyboardInterrupt is passed on.

    Args:
        callback: Receives ``"debug"``, ``"info"``, ``"warning"`` or ``"error"``, and the message.

    Raises:
        TypeError: ``callback`` is neither callable nor None.
    """
    if callback is not None and not callable(callback):
        raise TypeError(
            f"set_log_callback: expected a callable or None, got {type(callback).__name__}"
        )
    _ffi_api.set_log_callback(callback)


def log_to_logging(logger: str | Logger = "my_llm_ffi") -> None:
    """Sends the library's messages to Python's ``logging``; replaces the callback that is set.

    Args:
        logger: A logger or its name; its level and handlers decide what is seen.
    """
    import logging

    target = logging.getLogger(logger) if isinstance(logger, str) else logger
    levels = {level: getattr(logging, level.upper()) for level in _LOG_LEVELS}
    set_log_callback(lambda level, message: target.log(levels[level], "%s", message))


def build_info() -> dict[str, Any]:
    """What this build is and what it found on this machine.

    Returns:
        ``version``; ``cpu_level`` in use and ``cpu_levels`` compiled in; ``cuda``: "found" or why
        not; ``compiler``; ``tvm_ffi``: the version it was built against; ``features``.

    Raises:
        ValueError: The environment variable MY_LLM_FFI_CPU names an unknown or missing level.
    """
    info = {key: str(value) for key, value in _ffi_api.build_info().items()}
    levels = tuple(level for level in info.pop("cpu_levels").split(",") if level)
    features = [f"cpu:{level}" for level in levels]
    if info["cuda"] == "found":
        features.append("cuda")
    return {**info, "cpu_levels": levels, "features": tuple(features)}
