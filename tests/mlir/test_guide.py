"""The examples of docs/guide_mlir.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch_mlir", reason="torch-mlir is not installed")

from my_llm_ffi import mlir
from my_llm_ffi.mlir import pipelines, reference

ROOT = Path(__file__).parents[2]


def test_guide():
    text = (ROOT / "docs/guide_mlir.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    names = {}
    try:
        for block in blocks:
            exec(compile(block, "docs/guide_mlir.md", "exec"), names)
    finally:
        pipelines._passes.pop("count-ops", None)
    assert len(blocks) >= 6


def test_the_guide_and_the_reference_name_every_pass():
    guide = (ROOT / "docs/guide_mlir.md").read_text("utf-8")
    for found in mlir.passes():
        assert f"`{found.name}" in guide and f"### {found.name} (" in reference.page()


def test_generated_files_are_up_to_date():
    made = {
        "docs/reference/mlir.md": reference.page(),
        "python/my_llm_ffi/mlir/builder.pyi": reference.stub_file(),
    }
    for path, text in made.items():
        if not (ROOT / path).is_file():
            pytest.skip(f"{path} is not beside the tests")
        assert (ROOT / path).read_text("utf-8") == text, f"{path}: run scripts/generate"
