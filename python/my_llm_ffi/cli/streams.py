"""Standard streams that are closed or lose their reader; used by ../cli and run_example.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Callable

_MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}


def with_streams(run: Callable[[], int]) -> int:
    """Runs a command that may read and write what is not there.

    A stream that was closed (``>&-``) is empty, or takes everything; a reader that left (``head``)
    has seen enough.

    Args:
        run: The command.

    Returns:
        Its exit status; 0 when it was ended by a reader that left.

    """
    for name, mode in _MODES.items():
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))
    try:
        return run()
    except BrokenPipeError:
        return 0
    finally:
        _drop_what_cannot_be_written()


def _drop_what_cannot_be_written() -> None:
    """Python would try again when it exits, fail, and say so."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
