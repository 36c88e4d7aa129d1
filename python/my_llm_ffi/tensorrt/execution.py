"""One plugin in one execution context: its tensors, moved to the addresses of each execution.

Counterpart: adapter.py, whose `enqueue` this is. Nothing here needs TensorRT.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tvm_ffi

from . import inference
from .calls import check_aliases, run_forward
from .memory import CUDA, TensorWrapper, copy, current_device
from .symbolic import SymTensor

if TYPE_CHECKING:
    from .plugin_base import PluginBase

_NOTHING = contextlib.nullcontext()


def _wrapper(desc: Any, place: tuple[int, int]) -> TensorWrapper:
    return TensorWrapper(0, desc.type, tuple(desc.dims), place)


class Execution:
    """The tensors of one execution context, moved to the addresses of each execution."""

    def __init__(self, plugin: PluginBase, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Describes the tensors, and infers once more.

        Args:
            plugin: Of one execution context.
            inputs: `tensorrt.PluginTensorDesc`: ``type`` and ``dims``.
            outputs: Likewise.

        Raises:
            ValueError: The outputs are not those that inference gives for the inputs.
        """
        self._plugin = plugin
        place = current_device()
        self._on_host = place[0] != CUDA
        self._device = tvm_ffi.device("cpu" if self._on_host else "cuda", place[1])
        self._place = place
        self._stream: tuple[int, Any] | None = None  # the last one, and torch's object of it
        self._inputs = [_wrapper(desc, place) for desc in inputs]
        self._outputs = [_wrapper(desc, place) for desc in outputs]
        self._check()
        self._aliases = [
            (self._outputs[o], self._inputs[i], self._outputs[o].nbytes)
            for o, i in plugin.aliased_outputs.items()
        ]
        sizes = [[SymTensor(t.dtype, t.shape) for t in ts] for ts in (self._inputs, self._outputs)]
        n_bytes = inference.workspace_bytes(plugin, *sizes)
        self._workspace = TensorWrapper(0, "uint8", [n_bytes], place) if n_bytes else None

    def _check(self) -> None:
        """Refuses outputs that are not those inferred from the inputs' sizes."""
        plugin = self._plugin
        if plugin.shape_inputs:  # their values do not come here
            return
        dtypes = [tensor.dtype for tensor in self._inputs]
        known = inference.Inputs(dtypes, [tensor.shape for tensor in self._inputs])
        inferred = inference.outputs(plugin, known)
        check_aliases(plugin, known, [t.dtype for t in inferred], [t.shape for t in inferred])
        for i, (want, have) in enumerate(zip(inferred, self._outputs)):
            if want.dtype != have.dtype or want.shape != list(have.shape):
                raise ValueError(
                    f"{plugin.plugin_name}: output {i} is {have.dtype} {list(have.shape)} in the "
                    f"engine, inference for these inputs gives {want.dtype} {want.shape}"
                )

    def enqueue(
        self, inputs: Sequence[int], outputs: Sequence[int], workspace: int, stream: int
    ) -> None:
        """Runs the plugin's ``forward`` on memory at some addresses; launches, and does not wait.

        Args:
            inputs: Addresses.
            outputs: Addresses.
            workspace: Address.
            stream: Handle of the CUDA stream.
        """
        self._point(inputs, outputs, workspace, stream)
        if self._on_host:
            self._run(stream)
            return
        with tvm_ffi.use_raw_stream(self._device, stream), self._torch_stream(stream):
            self._run(stream)

    def _point(
        self, inputs: Sequence[int], outputs: Sequence[int], workspace: int, stream: int
    ) -> None:
        """Moves the tensors; fills an aliased output that has memory of its own."""
        for tensor, pointer in zip(self._inputs, inputs):
            tensor.point(pointer)
        for tensor, pointer in zip(self._outputs, outputs):
            tensor.point(pointer)
        if self._workspace is not None:
            self._workspace.point(workspace)
        for output, source, n_bytes in self._aliases:
            target = output.data_ptr()
            if target != source.data_ptr():
                copy(target, source.data_ptr(), n_bytes, self._place, stream)

    def _run(self, stream: int) -> None:
        run_forward(self._plugin, self._inputs, self._outputs, self._workspace, stream)

    def _torch_stream(self, stream: int) -> Any:
        """A context in which the stream is torch's current one, for plugins that use torch."""
        torch = sys.modules.get("torch") if self._plugin.uses_torch else None
        if torch is None:
            return _NOTHING
        if self._stream is None or self._stream[0] != stream:
            device = torch.device("cuda", self._place[1])
            self._stream = stream, torch.cuda.ExternalStream(stream, device=device)
        return torch.cuda.stream(self._stream[1])
