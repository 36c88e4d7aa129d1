"""Code compiled for newer CPUs must stay in its own namespace, or the linker may hand it to all;
the library shows no C++ to those who link with it.

Looks at the object files that the build left in build/ (or in MY_LLM_FFI_BUILD_DIR).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEWER_LEVELS = ("avx2", "avx512", "dotprod")


def object_files() -> list[Path]:
    named = os.environ.get("MY_LLM_FFI_BUILD_DIR")
    roots = [Path(named)] if named else [p for p in (ROOT / "build").glob("*") if p.is_dir()]
    return sorted(
        file
        for root in roots
        for level in NEWER_LEVELS
        for file in root.glob(f"CMakeFiles/mlf_simd_{level}.dir/**/*.o")
    )


def level_of(file: Path) -> str:
    folder = next(p.name for p in file.parents if p.name.startswith("mlf_simd_"))
    return folder[len("mlf_simd_") : -len(".dir")]


def run_tool(*command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} (binutils) is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def visible_symbols(file: Path) -> list[str]:
    """Defined symbols that the linker may merge with those of other files."""
    fields = (line.split() for line in run_tool("nm", "--defined-only", str(file)))
    return [parts[2] for parts in fields if len(parts) == 3 and parts[1] in "ABCDGRSTuVWvw"]


def strays(symbols: list[str], level: str) -> list[str]:
    """Symbols outside of namespace mlf::<level>; guards and tables of one inside are inside."""
    inside = re.compile(rf"_Z(?:GV|T[VIS])?Z?NK?3mlf{len(level)}{level}[0-9I]")
    return [name for name in symbols if not inside.match(name)]


OBJECTS = object_files()


@pytest.mark.skipif(not OBJECTS, reason="no object files of mlf_simd_* in build/")
@pytest.mark.parametrize("file", OBJECTS, ids=lambda p: f"{level_of(p)}-{p.name}")
def test_symbols_stay_in_the_namespace_of_their_level(file):
    outside = strays(visible_symbols(file), level_of(file))
    assert not outside, f"move these into mlf::{level_of(file)} or make them always inline"


@pytest.mark.skipif(not OBJECTS, reason="no object files of mlf_simd_* in build/")
@pytest.mark.parametrize("file", OBJECTS, ids=lambda p: f"{level_of(p)}-{p.name}")
def test_no_static_initializers(file):
    sections = "\n".join(run_tool("objdump", "-h", str(file)))
    assert ".init_array" not in sections, "this would run on every CPU when the library is loaded"
    assert ".ctors" not in sections


def test_the_check_itself():
    good = ["_ZN3mlf4avx23DotEPKfi", "_ZNK3mlf4avx21V3getEv", "_ZGVZN3mlf4avx21fEvE1x"]
    bad = ["_ZN3mlf3F164FromEf", "_ZSt3maxIfERKT_S2_S2_", "_ZN3mlf6avx5121fEv", "memcpy"]
    assert strays(good + bad, "avx2") == bad


def test_the_library_shows_functions_of_the_c_abi_alone(llm):
    from my_llm_ffi import base

    lines = run_tool("nm", "-D", "--defined-only", str(base.library_path()))
    assert {line.split()[-1] for line in lines if "__tvm_ffi_" not in line} == set()
