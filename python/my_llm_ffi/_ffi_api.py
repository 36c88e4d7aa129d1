"""The registered functions of ``my_llm_ffi.*`` as attributes, and the classes of its objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tvm_ffi

from . import base as base  # loads the library first

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


tvm_ffi.init_ffi_api("my_llm_ffi", __name__)


@tvm_ffi.register_object("my_llm_ffi.IntPair")
class IntPair(tvm_ffi.Object):
    """Two integers in a C++ object, which Python shares by reference.

    Args:
        first: The first number, readable and writable from both sides.
        second: The second number, likewise.
    """

    if TYPE_CHECKING:
        first: int
        second: int

        def __init__(self, first: int, second: int) -> None: ...

        def get_first(self) -> int:
            """Returns the first number, through a C++ method."""

        @staticmethod
        def static_get_second(pair: IntPair) -> int:
            """Returns the second number of ``pair``, through a C++ static method."""


@tvm_ffi.register_object("my_llm_ffi.PlanValue", init=False)
class PlanValue(tvm_ffi.Object):
    """A tensor of a plan, as the methods of `PlanBuilder` give it and take it.

    Attributes:
        index: Its number within the plan.
        name: Of an input, constant, parameter or output; empty for others.
        dtype: Of its elements.
        shape: Its sizes as they were written: numbers, names, expressions.
        written: Whether a call writes it.
    """

    if TYPE_CHECKING:
        index: int
        name: str
        dtype: tvm_ffi.dtype
        shape: Sequence[str]
        written: bool


class Wrapper:
    """What users see of a native object. It is one: there is no copy, and nothing to pickle."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuses what the copies of an object without the native one would pretend to be."""
        name = type(self).__name__
        raise TypeError(f"a {name} can be neither copied nor pickled: it holds a native object")


def _raw_class(name: str) -> Any:
    """The class of a registered object with its C++ methods; what users see wraps it."""
    raw = type(name, (tvm_ffi.Object,), {})
    return tvm_ffi.register_object(f"my_llm_ffi.{name}", init=False)(raw)


Batch = _raw_class("Batch")
Context = _raw_class("Context")
Executor = _raw_class("Executor")
Generation = _raw_class("Generation")
Gguf = _raw_class("Gguf")
LoraAdapter = _raw_class("LoraAdapter")
MachineLimits = _raw_class("MachineLimits")
MaskEntry = _raw_class("MaskEntry")
Model = _raw_class("Model")
Plan = _raw_class("Plan")
PlanBuilder = _raw_class("PlanBuilder")
Response = _raw_class("Response")
Sampler = _raw_class("Sampler")
StreamDecoder = _raw_class("StreamDecoder")
Vocab = _raw_class("Vocab")
