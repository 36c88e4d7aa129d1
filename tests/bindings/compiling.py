"""Compiles programs against the installed headers, the way the guide says."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WARNINGS = ("-Wall", "-Wextra", "-Werror")


def compiler(variable: str, *names: str) -> str:
    """Path of a compiler; skips the test where there is none."""
    for name in (os.environ.get(variable), *names):
        found = shutil.which(name) if name else None
        if found:
            return found
    pytest.skip(f"no {' or '.join(names)}: nothing to compile with")


def flags(*which: str) -> list[str]:
    """What ``python -m my_llm_ffi.config`` prints; skips where the headers are not installed."""
    from my_llm_ffi import config

    if not (config.includedir() / "my_llm_ffi" / "call.h").is_file():
        pytest.skip("the headers are not installed")
    return [flag for name in which for flag in shlex.split(getattr(config, name)())]


def run(command: list[object], **options: object) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end; no Python can get at it."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, **options)


def build(command: list[object], **options: object) -> None:
    """Compiles; what the compiler says is the failure."""
    done = run(command, **options)
    assert done.returncode == 0, done.stderr


def build_cpp(
    source: Path,
    program: Path,
    *extra: str,
    standard: str = "c++17",
    includes: Path | None = None,
) -> Path:
    """A C++ program, linked with the library; against other headers than the installed ones."""
    cxx = compiler("CXX", "g++", "clang++")
    ours, *tvm_ffi = flags("cflags")
    included = [ours if includes is None else f"-I{includes}", *tvm_ffi]
    command = [cxx, f"-std={standard}", *WARNINGS, *extra, *included]
    build([*command, source, "-o", program, *flags("ldflags")])
    return program


def build_c(source: Path, program: Path, *extra: str) -> Path:
    """A C program, linked with nothing but dlopen."""
    cc = compiler("CC", "gcc", "clang")
    build([cc, "-std=c11", *WARNINGS, *extra, *flags("cflags"), source, "-ldl", "-o", program])
    return program


def cargo_environment(target: object) -> dict[str, str]:
    """For cargo, and what it builds into a folder: the libraries of this Python, but no Python."""
    from tvm_ffi.libinfo import find_libtvm_ffi

    from my_llm_ffi import config

    return {
        **os.environ,
        "CARGO_TARGET_DIR": str(target),
        "CARGO_NET_OFFLINE": "true",
        "MY_LLM_FFI_PYTHON": "",
        "MY_LLM_FFI_LIBDIR": str(config.libdir()),
        "TVM_FFI_LIBDIR": str(Path(find_libtvm_ffi()).parent),
    }


def without_python() -> dict[str, str]:
    """An environment in which no Python is found."""
    return {"PATH": "/nonexistent", "LC_ALL": os.environ.get("LC_ALL", "C")}


def said_by(call: Callable[[], Any]) -> str:
    """An error of Python, as checks.cc prints it."""
    with pytest.raises(Exception) as caught:
        call()
    error = caught.value
    text = error.args[0] if error.args else ""
    return f"{type(error).__name__}: {text}"
