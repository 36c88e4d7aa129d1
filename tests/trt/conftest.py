"""Plugins that tests register, and take out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from my_llm_ffi import tensorrt as plugins


@pytest.fixture
def registered() -> Iterator[Callable[..., Any]]:
    """`plugins.plugin`, undone after the test."""
    classes: list[type[plugins.PluginBase]] = []

    def decorate(name: str, **options: Any) -> Callable[[Any], Any]:
        def register(cls: Any) -> Any:
            classes.append(plugins.plugin(name, **{"namespace": "tests", **options})(cls))
            return cls

        return register

    yield decorate
    for cls in classes:
        plugins.unregister(cls)
