"""A progress bar on stderr, seen only where stderr is a terminal; used by fetch.py and cli.py."""

from __future__ import annotations

import sys
from types import TracebackType

_WIDTH = 30


class ProgressBar:
    """Callable with a fraction from 0 to 1, as ``progress=`` of Model and fetch_model wants it."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._stream = sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None
        self._shown = -1

    def __call__(self, fraction: float) -> bool:
        """Draws; True: go on."""
        percent = int(100 * min(max(fraction, 0.0), 1.0))
        if self._stream is not None and percent != self._shown:
            self._shown = percent
            done = percent * _WIDTH // 100
            bar = "█" * done + "·" * (_WIDTH - done)
            self._stream.write(f"\r{self._label} {bar} {percent:3d} %")
            self._stream.flush()
        return True

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._stream is not None and self._shown >= 0:  # leave the line as if nothing had been
            self._stream.write("\r\x1b[K")
            self._stream.flush()
