"""Loading a model: what a progress callback is told, and what it may answer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference.gguf_files import TinySpec


@pytest.mark.parametrize("answer", [None, True, np.bool_(True)], ids=repr)
def test_progress_goes_on(
    llm: ModuleType, tiny_file: Callable[[TinySpec], Path], answer: Any
) -> None:
    fractions: list[float] = []

    def progress(fraction: float) -> Any:
        fractions.append(fraction)
        return answer

    llm.Model(tiny_file(TinySpec()), progress=progress).close()
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.parametrize("answer", [False, np.bool_(False), 0], ids=repr)
def test_progress_cancels(
    llm: ModuleType, tiny_file: Callable[[TinySpec], Path], answer: Any
) -> None:
    with pytest.raises(RuntimeError, match="loading was cancelled by the progress callback"):
        llm.Model(tiny_file(TinySpec()), progress=lambda fraction: answer)


def test_what_progress_raises_comes_out(
    llm: ModuleType, tiny_file: Callable[[TinySpec], Path]
) -> None:
    def progress(fraction: float) -> Any:
        return np.array([True, False])  # neither True nor False

    with pytest.raises(ValueError, match="ambiguous"):
        llm.Model(tiny_file(TinySpec()), progress=progress)


def test_paths_of_any_bytes(
    llm: ModuleType, tiny_file: Callable[[TinySpec], Path], tmp_path: Path
) -> None:
    """A name of a file is bytes, which need not be UTF-8."""
    raw = os.fsencode(tmp_path) + b"/caf\xe9.gguf"
    shutil.copy(tiny_file(TinySpec()), raw)
    for path in (raw, os.fsdecode(raw), Path(os.fsdecode(raw))):
        llm.Model(path).close()
        assert llm.Vocab.from_file(path).size > 0
    for load in (llm.Model, llm.Vocab.from_file):
        with pytest.raises(FileNotFoundError, match=r'cannot open ".*no\\x[Ee]9"'):
            load(os.fsencode(tmp_path) + b"/no\xe9")
        with pytest.raises(TypeError, match=r"path is list, expected str, bytes or os\.PathLike"):
            load([raw])
        with pytest.raises(ValueError, match=r"path holds '.ud800' at 0, expected the name of a"):
            load("\ud800")
        with pytest.raises(ValueError, match="contains a null byte"):
            load(raw + b"\0")
