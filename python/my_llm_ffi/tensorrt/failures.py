"""Exceptions of plugins that TensorRT would only print: kept here, raised after the execution."""

from __future__ import annotations

import threading
from collections import deque

_KEPT = 16
_lock = threading.Lock()
_failures: deque[tuple[int, BaseException]] = deque(maxlen=_KEPT)


def store(error: BaseException) -> None:
    """Keeps an exception, with its traceback, for the thread that it happened in."""
    with _lock:
        if all(kept is not error for _, kept in _failures):
            _failures.append((threading.get_ident(), error))


def forget() -> None:
    """Drops what is kept for this thread: before an execution."""
    take()


def take() -> BaseException | None:
    """The first exception that is kept for this thread; all of the thread's are dropped."""
    me = threading.get_ident()
    with _lock:
        mine = [error for thread, error in _failures if thread == me]
        others = [pair for pair in _failures if pair[0] != me]
        _failures.clear()
        _failures.extend(others)
    return mine[0] if mine else None


def raise_stored() -> None:
    """Raises the first exception that a plugin had in this thread, with its own traceback.

    For code that builds and executes engines through TensorRT itself: call it when TensorRT gave
    None or False. `Session` and calls of plugins do so by themselves.
    """
    error = take()
    if error is not None:
        raise error
