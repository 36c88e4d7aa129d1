"""Exceptions of plugins that TensorRT would only print: kept here, raised after the execution."""

from __future__ import annotations

import threading
from collections import deque

_KEPT = 16
_lock = threading.Lock()
_failures: deque[tuple[object, BaseException]] = deque(maxlen=_KEPT)
_local = threading.local()


def _me() -> object:
    """What stands for this thread: its number would be another one's after its end."""
    if not hasattr(_local, "me"):
        _local.me = object()
    return _local.me


def store(error: BaseException) -> None:
    """Keeps an exception, with its traceback, for the thread that it happened in."""
    with _lock:
        if all(kept is not error for _, kept in _failures):
            _failures.append((_me(), error))


def forget() -> None:
    """Drops what is kept for this thread: before an execution."""
    take()


def take(*, any_thread: bool = False) -> BaseException | None:
    """The first exception that is kept for this thread, or for any; those with it are dropped."""
    me = _me()
    with _lock:
        mine = [pair for pair in _failures if any_thread or pair[0] is me]
        others = [pair for pair in _failures if not any_thread and pair[0] is not me]
        _failures.clear()
        _failures.extend(others)
    return mine[0][1] if mine else None


def raise_stored(*, any_thread: bool = False) -> None:
    """Raises the first exception that a plugin had in this thread, with its own traceback.

    For code that builds and executes engines through TensorRT itself: call it when TensorRT gave
    None or False. `Session` and calls of plugins do so by themselves.

    Args:
        any_thread: Whether those of other threads count too: for a builder that has threads.
    """
    error = take(any_thread=any_thread)
    if error is not None:
        raise error
