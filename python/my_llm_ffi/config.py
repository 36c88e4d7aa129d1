"""Where the installed library is, for builds of C++ and Rust callers: ``python -m …config``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ._version import __version__
from .base import library_path


def libdir() -> Path:
    """Folder of libmy_llm_ffi.so."""
    path = library_path()
    if path is None:
        raise RuntimeError("my_llm_ffi is not installed: this is its source tree")
    return path.parent


def includedir() -> Path:
    """Folder to put on the include path: ``my_llm_ffi/version.h`` lies below it."""
    return libdir().parent / "include"


def cmakedir() -> Path:
    """Folder of my_llm_ffi-config.cmake, for ``find_package(my_llm_ffi)``."""
    return libdir().parent / "share" / "cmake" / "my_llm_ffi"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what the options ask for, one line each; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m my_llm_ffi.config", description="Where the library is installed."
    )
    answers = {
        "libdir": libdir,
        "includedir": includedir,
        "cmakedir": cmakedir,
        "version": lambda: __version__,
    }
    for name, answer in answers.items():
        doc = "The version." if name == "version" else answer.__doc__
        parser.add_argument(f"--{name}", action="append_const", const=answer, dest="ask", help=doc)
    ask = parser.parse_args(argv).ask
    if not ask:
        parser.print_help()
        return 2
    for answer in ask:
        print(answer())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
