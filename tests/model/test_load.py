"""Loading a model: what a progress callback is told, and what it may answer."""

from __future__ import annotations

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
