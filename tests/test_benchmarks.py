"""Every op is measured. What the benchmarks find is never tested: that depends on the machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FILES = sorted(
    f
    for f in (Path(__file__).parents[1] / "benchmarks").glob("bench_*.py")
    if not f.stem.endswith("_cuda")
)


def test_every_op_has_a_row(llm):
    text = "\n".join(f.read_text("utf-8") for f in FILES)
    missing = [op for op in dir(llm.ops) if not re.search(rf"\bops\.{op}\b", text)]
    assert not missing, "no file benchmarks/bench_*.py calls these"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_every_file_can_be_found(file):
    assert re.search(r"^def cases\(", file.read_text("utf-8"), re.M), "python -m benchmarks asks it"
