"""Compiles and runs programs against the installed package, as people who have it do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import tvm_ffi.libinfo

from my_llm_ffi import config

_LIMIT_S = 600
_CARGO = (1, 70)  # rust-version of rust/my-llm-ffi/Cargo.toml


def need(*modules: str) -> None:
    """Skips unless all of these can be imported."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def need_tool(*names: str) -> str:
    """The first of these commands that there is; skips when there is none."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"{' or '.join(names)} is not installed")
    return found


def need_cargo() -> str:
    """The cargo that the crate can be built with; skips without one."""
    cargo = need_tool("cargo")
    words = subprocess.run([cargo, "--version"], capture_output=True, text=True).stdout.split()
    version = words[1] if len(words) > 1 else "broken"
    if not version[0].isdigit() or tuple(map(int, version.split(".")[:2])) < _CARGO:
        pytest.skip(f"{cargo} is {version}, and the crate needs {'.'.join(map(str, _CARGO))}")
    return cargo


def need_headers() -> Path:
    """Folder of the installed headers; skips without them."""
    if not (config.includedir() / "my_llm_ffi" / "declare.h").is_file():
        pytest.skip("the headers of my_llm_ffi are not installed")
    return config.includedir()


def need_cmake_package() -> None:
    """Skips in a source tree, which has no CMake package."""
    need_headers()
    if not config.cmakedir().is_dir():
        pytest.skip("my_llm_ffi is used from its source tree; pip install it")


def need_package_tools() -> None:
    """Skips unless packages can be built that have native code and use ours."""
    need("pip", "scikit_build_core")
    need_tool("cmake")
    need_tool("ninja", "make")
    need_tool("c++", "g++", "clang++")
    need_cmake_package()


def run(command: Sequence[str | Path], **variables: str) -> str:
    """What a command prints; fails the test with all of it when the command fails.

    Args:
        command: What to run.
        variables: Environment variables beside those that are.
    """
    result = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        env={**os.environ, **variables},
    )
    if result.returncode != 0:
        said = result.stdout + result.stderr
        pytest.fail(f"{command[0]} ended with {result.returncode}:\n{said[-6000:]}", pytrace=False)
    return result.stdout


def python(*arguments: str | Path, path: Sequence[Path] = ()) -> str:
    """What this Python prints, with folders before its own path."""
    before = [str(folder) for folder in path]
    given = os.pathsep.join([*before, *filter(None, [os.environ.get("PYTHONPATH")])])
    return run([sys.executable, *arguments], PYTHONPATH=given)


def compile_cpp(source: Path, output: Path, *options: str | Path) -> Path:
    """Compiles one C++ file into a program, or with ``-shared`` a library, and links ours.

    Args:
        source: The file.
        output: What to write.
        options: More options, such as include folders that go first.
    """
    headers = need_headers()
    libraries = [config.libdir(), Path(tvm_ffi.libinfo.find_libtvm_ffi()).parent]
    includes = [headers, *tvm_ffi.libinfo.include_paths()]
    command: list[str | Path] = [need_tool("c++", "g++", "clang++"), "-std=c++17", "-O1", "-fPIC"]
    command += [*options, source, "-o", output, *(f"-I{folder}" for folder in includes)]
    for folder in libraries:
        command += [f"-L{folder}", f"-Wl,-rpath,{folder}"]
    run([*command, "-Wl,--no-as-needed", "-lmy_llm_ffi", "-ltvm_ffi", "-ldl"])
    return output


def build_wheel(source: Path, folder: Path) -> Path:
    """Builds a package with what is installed here, without the network; the one wheel of it."""
    offline = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    python("-m", "pip", "wheel", *offline, "-w", folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel
