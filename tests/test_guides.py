"""The examples of the guides run as they stand, each with the names of those above it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def blocks(name: str) -> list[str]:
    """The Python in a guide, with line numbers kept for tracebacks."""
    text = (DOCS / name).read_text("utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S)
    return ["\n" * text.count("\n", 0, match.start(1)) + match[1] for match in found]


def run(name: str, skip: tuple[str, ...] = ()) -> int:
    """Runs all blocks but those with a word of `skip`; returns how many."""
    names: dict[str, Any] = {}
    chosen = [block for block in blocks(name) if not any(word in block for word in skip)]
    for block in chosen:
        exec(compile(block, str(DOCS / name), "exec"), names)
    return len(chosen)


def test_guide_ops() -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        assert run("guide_ops.md", skip=("torch",)) >= 4
    else:
        assert run("guide_ops.md") >= 5


def test_guide_models(
    llm: Any, smollm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llm, "fetch_model", lambda name: smollm2)
    assert run("guide_models.md", skip=("adapter.gguf",)) >= 7
    assert "Hello, wörld" in capsys.readouterr().out


def test_guide_executor(
    llm: Any, smollm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llm, "fetch_model", lambda name: smollm2)
    assert run("guide_executor.md", skip=("pirate.gguf",)) >= 2
    assert "Paris" in capsys.readouterr().out


def test_guide_guided(llm: Any, smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llguidance")
    monkeypatch.setattr(llm, "fetch_model", lambda name: smollm2)
    assert run("guide_guided.md") >= 2
