"""Fixtures of the executor's tests: a model and executors that are shut down in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from reference.adapters import random_adapter
from reference.gguf_files import TinySpec, random_tensors
from reference.handles import Model
from reference.serving import Executor, Gate


@pytest.fixture(scope="session")
def model(tiny_model: Callable[..., Model]) -> Model:
    """A random model of 355 tokens, which is no multiple of the bits of a word."""
    return tiny_model(TinySpec())


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an adapter for the model."""
    folder = tmp_path_factory.mktemp("adapter")
    return random_adapter(random_tensors(TinySpec()), seed=1).write(folder / "adapter.gguf")


@pytest.fixture
def executor(llm: ModuleType, model: Model) -> Iterator[Callable[..., Executor]]:
    """Makes executors: options are those of its configuration and of its callbacks."""
    made: list[tuple[Executor, object]] = []

    def make(
        on: Model | None = None,
        *,
        logits_post_processor: object = None,
        on_step: object = None,
        **config: object,
    ) -> Executor:
        new = llm.Executor(
            on or model,
            llm.ExecutorConfig(**config),
            logits_post_processor=logits_post_processor,
            on_step=on_step,
        )
        made.append((new, on_step))
        return new

    yield make
    for one, on_step in made:
        if isinstance(on_step, Gate):
            on_step.open()
        one.shutdown()
