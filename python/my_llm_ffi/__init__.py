"""LLM kernels, models and a runtime in C++ and CUDA: one wheel for every Python and framework.

Importing the package loads the library and nothing else of weight: the modules of the model path
are imported when one of their names is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .base import InternalError
from .walkthrough import (
    IntPair,
    add_one,
    build_info,
    call_from_threads,
    call_with,
    invert_dict,
    join_strings,
    raise_error,
    set_log_callback,
    swap_pair,
)

if TYPE_CHECKING:
    from . import ops
    from .context import Batch, Context
    from .fetch import fetch_model
    from .generation import FinishReason, Generation
    from .model import Model, ModelConfig
    from .sampling import (
        Draw,
        LogitBias,
        MinP,
        Penalties,
        Sampler,
        SamplingParams,
        Temperature,
        TopK,
        TopP,
        TypicalP,
    )
    from .vocab import StreamDecoder, Vocab

# Which module defines a name that is imported at first use.
_LAZY = {
    "Batch": "context",
    "Context": "context",
    "Draw": "sampling",
    "FinishReason": "generation",
    "Generation": "generation",
    "LogitBias": "sampling",
    "MinP": "sampling",
    "Model": "model",
    "ModelConfig": "model",
    "Penalties": "sampling",
    "Sampler": "sampling",
    "SamplingParams": "sampling",
    "StreamDecoder": "vocab",
    "Temperature": "sampling",
    "TopK": "sampling",
    "TopP": "sampling",
    "TypicalP": "sampling",
    "Vocab": "vocab",
    "fetch_model": "fetch",
}

__all__ = [
    "Batch",
    "Context",
    "Draw",
    "FinishReason",
    "Generation",
    "IntPair",
    "InternalError",
    "LogitBias",
    "MinP",
    "Model",
    "ModelConfig",
    "Penalties",
    "Sampler",
    "SamplingParams",
    "StreamDecoder",
    "Temperature",
    "TopK",
    "TopP",
    "TypicalP",
    "Vocab",
    "__version__",
    "add_one",
    "build_info",
    "call_from_threads",
    "call_with",
    "fetch_model",
    "invert_dict",
    "join_strings",
    "ops",
    "raise_error",
    "set_log_callback",
    "swap_pair",
]


def __getattr__(name: str) -> Any:
    if name == "ops":
        return importlib.import_module(".ops", __name__)
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY) | {"ops"})
