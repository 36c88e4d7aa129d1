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
    log_to_logging,
    raise_error,
    set_log_callback,
    swap_pair,
)

if TYPE_CHECKING:
    from . import ops
    from .context import Batch, Context
    from .custom import declare_op, load_ops, register_kernel
    from .executor import Executor, MaskEntry
    from .fetch import fetch_model
    from .generation import FinishReason, Generation
    from .lora import LoraAdapter
    from .model import Model, ModelConfig
    from .plan import Plan, PlanBuilder, PlanValue
    from .request import (
        EarlyStopping,
        ExecutorConfig,
        Request,
        Response,
        SchedulerPolicy,
        TokenLogprobs,
    )
    from .responses import ResponseStream
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
    "EarlyStopping": "request",
    "Executor": "executor",
    "ExecutorConfig": "request",
    "FinishReason": "generation",
    "Generation": "generation",
    "LogitBias": "sampling",
    "MaskEntry": "executor",
    "LoraAdapter": "lora",
    "MinP": "sampling",
    "Model": "model",
    "ModelConfig": "model",
    "Plan": "plan",
    "PlanBuilder": "plan",
    "PlanValue": "plan",
    "Penalties": "sampling",
    "Request": "request",
    "Response": "request",
    "ResponseStream": "responses",
    "Sampler": "sampling",
    "SamplingParams": "sampling",
    "SchedulerPolicy": "request",
    "StreamDecoder": "vocab",
    "Temperature": "sampling",
    "TokenLogprobs": "request",
    "TopK": "sampling",
    "TopP": "sampling",
    "TypicalP": "sampling",
    "Vocab": "vocab",
    "declare_op": "custom",
    "fetch_model": "fetch",
    "load_ops": "custom",
    "register_kernel": "custom",
}

__all__ = [
    "Batch",
    "Context",
    "Draw",
    "EarlyStopping",
    "Executor",
    "ExecutorConfig",
    "FinishReason",
    "Generation",
    "IntPair",
    "InternalError",
    "LogitBias",
    "LoraAdapter",
    "MaskEntry",
    "MinP",
    "Model",
    "ModelConfig",
    "Penalties",
    "Plan",
    "PlanBuilder",
    "PlanValue",
    "Request",
    "Response",
    "ResponseStream",
    "Sampler",
    "SamplingParams",
    "SchedulerPolicy",
    "StreamDecoder",
    "Temperature",
    "TokenLogprobs",
    "TopK",
    "TopP",
    "TypicalP",
    "Vocab",
    "__version__",
    "add_one",
    "build_info",
    "call_from_threads",
    "call_with",
    "declare_op",
    "fetch_model",
    "invert_dict",
    "join_strings",
    "load_ops",
    "log_to_logging",
    "ops",
    "raise_error",
    "register_kernel",
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
