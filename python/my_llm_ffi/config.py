"""Where the installed library is, for builds of C++ and Rust callers: ``python -m …config``."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from tvm_ffi import libinfo

from ._version import __version__
from .base import library_path


def libdir() -> Path:
    """Folder of libmy_llm_ffi.so."""
    path = library_path()
    if path is None:
        raise RuntimeError("my_llm_ffi is not installed: this is its source tree")
    return path.parent


def includedir() -> Path:
    """Folder to put on the include path: ``my_llm_ffi/my_llm_ffi.h`` lies below it."""
    folder = libdir().parent / "include"
    tree = Path(__file__).resolve().parents[2] / "include"  # the library was put into the source
    return tree if not folder.is_dir() and tree.is_dir() else folder


def cmakedir() -> Path:
    """Folder of my_llm_ffi-config.cmake, for ``find_package(my_llm_ffi)``."""
    return libdir().parent / "share" / "cmake" / "my_llm_ffi"


def cflags() -> str:
    """Include paths, for a C or C++ compiler's command line; tvm-ffi's without its warnings."""
    paths = [f"-isystem {shlex.quote(path)}" for path in _tvm_ffi_includes()]
    return " ".join([f"-I{shlex.quote(str(includedir()))}", *paths])


def ldflags() -> str:
    """What links a C++ program with the library, which it then finds where it is now."""
    folders = [libdir(), Path(libinfo.find_libtvm_ffi()).parent]
    paths = [f"-L{shlex.quote(str(f))} -Wl,-rpath,{shlex.quote(str(f))}" for f in folders]
    return " ".join([*paths, "-Wl,--no-as-needed -lmy_llm_ffi -ltvm_ffi"])


def _tvm_ffi_includes() -> list[str]:
    found = [libinfo.find_include_path(), libinfo.find_dlpack_include_path()]
    return list(dict.fromkeys(str(path) for path in found))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what the options ask for, one line each; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m my_llm_ffi.config", description="Where the library is installed."
    )
    answers = {
        "libdir": libdir,
        "includedir": includedir,
        "cmakedir": cmakedir,
        "cflags": cflags,
        "ldflags": ldflags,
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
