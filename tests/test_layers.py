"""A folder of src/ is a layer: what each may include, and what files may look like."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"

# Layer -> the layers it may include besides itself. `tensorrt` is an optional target.
ALLOWED = {
    "base": set(),
    "quant": {"base"},
    "kernels": {"base", "quant"},
    "io": {"base", "quant"},
    "text": {"base"},
    "model": {"base", "quant", "kernels", "io", "text"},
    "runtime": {"base", "quant", "kernels", "text", "model"},
    "plan": {"base", "io"},
    "tensorrt": {"base"},
    "ffi": {"base", "quant", "kernels", "io", "text", "model", "runtime", "plan"},
}
# *_simd.cc files are compiled once per instruction level: whatever inline function they pull in is
# compiled with that level's instructions, so only headers without any are welcome.
SIMD_SYSTEM_HEADERS = {
    *("cfloat", "climits", "cmath", "cstddef", "cstdint", "cstring", "type_traits"),
    *("immintrin.h", "arm_neon.h", "stdint.h", "stddef.h", "bit", "utility", "limits"),
    *("cuda_bf16.h", "cuda_fp16.h"),  # half.h, under __CUDACC__ only
}
FORBIDDEN_NAMES = re.compile(r"(?:^|_)(?:utils?|helpers?|misc|common)(?:_|\.|$)")
MAX_LINES = 500

NATIVE = sorted(p for p in SRC.rglob("*") if p.suffix in (".cc", ".cu", ".h"))
PYTHON = sorted((ROOT / "python").rglob("*.py"))


def own_includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include "([^"]+)"', path.read_text("utf-8"), re.M)


def system_includes(path: Path) -> list[str]:
    return re.findall(r"^\s*#\s*include <([^>]+)>", path.read_text("utf-8"), re.M)


def violations(path: Path, layer: str) -> list[str]:
    """Includes of `path`, a file of `layer`, that the table does not allow."""
    found = []
    for name in own_includes(path):
        target = name.partition("/")[0] if "/" in name else layer
        if target != layer and target not in ALLOWED[layer]:
            found.append(name)
    return found


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_folder_is_a_known_layer():
    assert {p.name for p in SRC.iterdir() if p.is_dir()} <= set(ALLOWED)


@pytest.mark.parametrize("path", [p for p in NATIVE if p.parent != SRC], ids=relative)
def test_includes_stay_inside_the_allowed_set(path):
    layer = path.relative_to(SRC).parts[0]
    assert violations(path, layer) == [], f"{layer} may include {sorted(ALLOWED[layer])} only"


@pytest.mark.parametrize("path", NATIVE, ids=relative)
def test_included_files_exist_and_nobody_includes_the_top(path):
    for name in own_includes(path):
        assert (SRC / name).is_file(), f"{name}: write the path from src/"
        if path.parent != SRC and path.relative_to(SRC).parts[0] != "ffi":
            assert not name.startswith("ffi/")
        assert name != "extension.cc"


def reached_headers(path: Path) -> set[Path]:
    todo, seen = [path], set()
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += [SRC / name for name in own_includes(file)]
    return seen


@pytest.mark.parametrize("path", [p for p in NATIVE if p.stem.endswith("_simd")], ids=relative)
def test_simd_files_reach_light_headers_only(path):
    if path.suffix == ".h":
        pytest.skip("a header of plain code, which may declare for both sides")
    for file in reached_headers(path):
        heavy = set(system_includes(file)) - SIMD_SYSTEM_HEADERS
        assert not heavy, f"{relative(path)} reaches {sorted(heavy)} through {relative(file)}"


@pytest.mark.parametrize("path", NATIVE + PYTHON, ids=relative)
def test_files_are_short_named_by_a_noun_and_say_what_they_are(path):
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= MAX_LINES, f"{len(lines)} lines, at most {MAX_LINES}"
    assert not FORBIDDEN_NAMES.search(path.name), "name it after what is in it"
    assert lines, "empty file"
    assert lines[0].startswith("// " if path.suffix != ".py" else '"""'), "say what is here"


@pytest.mark.parametrize(
    ("layer", "include", "bad"),
    [
        ("base", "quant/formats.h", True),
        ("io", "text/vocab.h", True),
        ("runtime", "io/gguf.h", True),
        ("kernels", "base/op.h", False),
        ("ffi", "runtime/context.h", False),
        ("tensorrt", "base/signature.h", False),
        ("tensorrt", "kernels/norm.h", True),
    ],
)
def test_the_layer_check_itself(tmp_path, layer, include, bad):
    file = tmp_path / "x.cc"
    file.write_text(f'#include "{include}"\n', "utf-8")
    assert bool(violations(file, layer)) is bad


def test_import_is_light():
    """Neither torch, nor the template engine, nor our own model path is imported by our hand."""
    code = (
        "import sys, tvm_ffi; before = set(sys.modules); import my_llm_ffi; "
        "print(*sorted(set(sys.modules) - before))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "tests"
    )
    added = set(result.stdout.split())
    heavy = {"numpy", "torch", "jax", "jinja2", "urllib.request", "argparse", "my_llm_ffi.model"}
    assert "my_llm_ffi.base" in added
    assert not added & heavy
