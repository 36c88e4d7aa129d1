"""Runs an engine on torch tensors."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import failures
from .bindings import require
from .dtypes import DType, is_torch
from .manifest import engine_bytes, load_engine
from .memory import driver


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Name, dtype and shape of an engine's input or output.

    Attributes:
        name: Its name.
        dtype: Its dtype; given in any framework's way, a :class:`DType` afterwards.
        shape: Its sizes; -1 where only a run says it.
    """

    name: str
    dtype: Any
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", DType(self.dtype))
        try:
            shape = tuple(operator.index(size) for size in self.shape)
        except TypeError:
            raise TypeError(
                f"{self.name} has shape {self.shape!r}, expected a tuple of integers"
            ) from None
        object.__setattr__(self, "shape", shape)


class Session:
    """An engine, and one execution context of it: to be used from one thread at a time."""

    def __init__(self, engine: Any, context: Any) -> None:
        """Takes what TensorRT made; :meth:`from_serialized_engine` makes it.

        Args:
            engine: `ICudaEngine`.
            context: `IExecutionContext` of it.
        """
        self.engine, self.context = engine, context
        trt = require()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names]
        host = trt.TensorLocation.HOST
        self._on_host = {name: engine.get_tensor_location(name) == host for name in names}
        infos = [self._info(name) for name in names]
        self.inputs = [info for info, is_input in zip(infos, inputs) if is_input]
        self.outputs = [info for info, is_input in zip(infos, inputs) if not is_input]
        self._shape_tensors: dict[str, Any] = {}  # of the newest run: TensorRT reads them later too
        self._places: dict[Any, Any] = {}  # of empty tensors, by device

    def _info(self, name: str) -> TensorInfo:
        engine = self.engine
        return TensorInfo(name, engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name)))

    @classmethod
    def from_serialized_engine(cls, engine: bytes | str | Path, *, logger: Any = None) -> Session:
        """Loads an engine.

        Args:
            engine: Its bytes, or its file: then its manifest is checked first.
            logger: `tensorrt.ILogger`; one that prints warnings if omitted.

        Raises:
            ImportError: TensorRT is not installed.
            RuntimeError: There is no GPU, or TensorRT refused the engine.
            LookupError: A plugin is not registered; says what to import.
        """
        trt = require()
        if isinstance(engine, (str, Path)):
            data = load_engine(engine)
        else:
            data = engine_bytes("from_serialized_engine", engine)
        driver()  # without one, TensorRT would end the process
        failures.forget()
        runtime = trt.Runtime(logger or trt.Logger(trt.Logger.WARNING))
        made = runtime.deserialize_cuda_engine(data)
        failures.raise_stored()
        if made is None:
            raise RuntimeError("TensorRT refused the engine; its log says why")
        context = made.create_execution_context()
        failures.raise_stored()
        if context is None:
            raise RuntimeError("TensorRT made no execution context; its log says why")
        session = cls(made, context)
        session._runtime = runtime  # type: ignore[attr-defined]
        return session

    def infer_shapes(self, inputs: Sequence[TensorInfo]) -> list[TensorInfo]:
        """The outputs for inputs of some shapes.

        Args:
            inputs: One per input of the engine.

        Raises:
            ValueError: An input is unknown or missing, its shape is outside of the engine's
                profile, or the shape of an output depends on data.
            TypeError: The engine has another dtype.
        """
        failures.forget()
        self._check_names([info.name for info in inputs])
        wanted = {info.name: info for info in self.inputs}
        for info in inputs:
            if info.dtype != wanted[info.name].dtype:
                raise TypeError(
                    f"{info.name} is {info.dtype}, the engine takes {wanted[info.name].dtype}"
                )
            if not self.context.set_input_shape(info.name, info.shape):
                raise ValueError(
                    f"{info.name} has shape {list(info.shape)}, the engine takes "
                    f"{list(wanted[info.name].shape)} within its profile"
                )
        missing = self.context.infer_shapes()
        failures.raise_stored()
        if missing:
            raise ValueError(f"shapes cannot be inferred without {', '.join(missing)}")
        shape_of = self.context.get_tensor_shape
        found = [TensorInfo(o.name, o.dtype, tuple(shape_of(o.name))) for o in self.outputs]
        for info in found:
            if min(info.shape, default=0) < 0:
                raise ValueError(
                    f"{info.name} has shape {list(info.shape)}, which only the data says: an "
                    "engine with such an output is for TensorRT's IOutputAllocator"
                )
        return found

    def _address(self, tensor: Any) -> int:
        """Where a tensor is; TensorRT takes no null, which is where torch has empty ones."""
        if tensor.numel() == 0:
            tensor = self._places.setdefault(tensor.device, tensor.new_empty(1))
        return int(tensor.data_ptr())

    def _check_names(self, names: Sequence[str]) -> None:
        expected = [info.name for info in self.inputs]
        if sorted(names) != sorted(expected):
            raise ValueError(f"inputs are {', '.join(names)}, the engine has {', '.join(expected)}")

    def _check_place(self, name: str, tensor: Any) -> None:
        """Refuses memory that the GPU cannot read, or the host: TensorRT does not look."""
        if name not in self._on_host:
            return  # of an unknown name: the names are checked next
        if self._on_host[name] == tensor.is_cuda:
            expected = "cpu (TensorRT reads it there)" if self._on_host[name] else "cuda"
            raise ValueError(f"{name} is on {tensor.device}, expected {expected}")

    def run(
        self,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any] | None = None,
        stream: Any = None,
    ) -> dict[str, Any]:
        """Executes the engine; does not wait for it.

        Args:
            inputs: torch tensors by name, contiguous, on the GPU (shape tensors: on the host).
            outputs: Where results are written; None: new tensors. They must not be freed before the
                stream is done.
            stream: `torch.cuda.Stream` or its handle; torch's current one if omitted.

        Returns:
            The outputs by name.

        Raises:
            ValueError: A name, shape or layout is wrong.
            TypeError: A dtype is wrong.
            RuntimeError: TensorRT refused.
            Exception: What a plugin's ``forward`` raised, with its traceback.
        """
        import torch

        for name, tensor in {**inputs, **(outputs or {})}.items():
            if not is_torch(tensor) or not tensor.is_contiguous():
                raise ValueError(f"{name} is expected to be a contiguous torch tensor")
            self._check_place(name, tensor)
        infos = [TensorInfo(name, t.dtype, tuple(t.shape)) for name, t in inputs.items()]
        # Shapes depend on the values of these: TensorRT asks for their addresses first.
        shape_tensors = {name: t for name, t in inputs.items() if self._on_host.get(name)}
        for name, tensor in shape_tensors.items():
            self.context.set_tensor_address(name, self._address(tensor))
        self._shape_tensors = shape_tensors
        inferred = self.infer_shapes(infos)
        if outputs is None:
            device = next((t.device for t in inputs.values() if t.is_cuda), "cuda")
            results = {
                o.name: torch.empty(o.shape, dtype=o.dtype.torch, device=device) for o in inferred
            }
        else:
            unknown = set(outputs) - {info.name for info in inferred}
            results = {info.name: _checked(info, outputs) for info in inferred}
            if unknown:
                raise ValueError(f"the engine has no output {', '.join(sorted(unknown))}")
        for name, tensor in {**inputs, **results}.items():
            self.context.set_tensor_address(name, self._address(tensor))
        if stream is None:
            stream = torch.cuda.current_stream()
        done = self.context.execute_async_v3(getattr(stream, "cuda_stream", stream))
        failures.raise_stored()
        if not done:
            raise RuntimeError("TensorRT did not execute the engine; its log says why")
        return results


def _checked(info: TensorInfo, outputs: Mapping[str, Any]) -> Any:
    """An output that was given, if it is what the engine writes."""
    if info.name not in outputs:
        raise ValueError(f"outputs are {', '.join(outputs)}, the engine has {info.name} too")
    tensor = outputs[info.name]
    if info.dtype != tensor.dtype:
        raise TypeError(f"{info.name} is {tensor.dtype}, the engine gives {info.dtype}")
    if tuple(tensor.shape) != info.shape:
        raise ValueError(f"{info.name} has shape {list(tensor.shape)}, expected {list(info.shape)}")
    return tensor
