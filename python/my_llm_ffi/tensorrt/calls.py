"""A plugin called with tensors: of a network, which adds a layer, or of memory, which computes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import bindings, failures, inference
from .declared import check_declared
from .dtypes import DType, dtype_of, is_torch
from .memory import TensorWrapper, wrap
from .symbolic import SymTensor

if TYPE_CHECKING:
    from .plugin_base import PluginBase


def _prepare(plugin: PluginBase, tensors: Sequence[Any]) -> tuple[PluginBase, list[Any], list[Any]]:
    """The plugin of one call, its inputs and its shape inputs."""
    called, given = plugin.prepare(tensors)
    name = called.plugin_name
    check_declared(called, name)
    if len(given) < called.shape_inputs:
        raise TypeError(
            f"{name}: {len(given)} inputs given, and {called.shape_inputs} of them must be shape "
            "inputs"
        )
    at = len(given) - called.shape_inputs
    return called, given[:at], given[at:]


def _shape_input_size(name: str, tensor: Any) -> int:
    """How many numbers a shape input has.

    Raises:
        TypeError: It is no tensor of int32 or int64.
        ValueError: It has not one dimension, of known size.
    """
    if not (hasattr(tensor, "dtype") and hasattr(tensor, "shape")):
        raise TypeError(f"{name} is {type(tensor).__name__}, expected a tensor of int32 or int64")
    dtype = dtype_of(tensor, name)
    if dtype not in ("int32", "int64"):
        raise TypeError(f"{name} is {dtype}, expected int32 or int64")
    shape = network_shape(tensor)
    if shape is None or len(shape) != 1 or shape[0] is None:
        said = "unknown" if shape is None else [-1 if size is None else size for size in shape]
        raise ValueError(f"{name} has shape {said}, expected one dimension of known size")
    return shape[0]


def _names(plugin: PluginBase, inputs: Sequence[Any]) -> list[str]:
    """What messages call the inputs, if there are as many as the plugin takes."""
    inference.supported(plugin, len(inputs))
    return [f"{plugin.plugin_name}: {plugin.input_name(i)}" for i in range(len(inputs))]


def _shape_names(plugin: PluginBase) -> list[str]:
    return [f"{plugin.plugin_name}: shape input {i}" for i in range(plugin.shape_inputs)]


# ---- on a network -------------------------------------------------------------------------------


def network_shape(tensor: Any) -> list[int | None] | None:
    """Shape of a network's tensor: None where the engine's run says it."""
    try:
        sizes = [int(size) for size in tensor.shape]
    except ValueError:  # TensorRT's way to say that the number of dimensions is not known
        return None
    return [None if size < 0 else size for size in sizes]


def add_layer(plugin: PluginBase, network: Any, tensors: Sequence[Any]) -> list[Any]:
    """Adds a layer to a network; what is wrong is said here already, and not by TensorRT's log.

    Args:
        plugin: Of the layer, which gets one of its own.
        network: `tensorrt.INetworkDefinition`.
        tensors: `tensorrt.ITensor`; None where an optional input is left out.

    Returns:
        The layer's outputs.

    Raises:
        TypeError: A dtype or a number of inputs is wrong, or one is no tensor of a network.
        ValueError: Shapes do not fit.
        RuntimeError: TensorRT refused.
    """
    called, inputs, shape_inputs = _prepare(plugin, tensors)
    dtypes = [_network_dtype(name, t) for name, t in zip(_names(called, inputs), inputs)]
    named = zip(_shape_names(called), shape_inputs)
    values = [[None] * _shape_input_size(name, tensor) for name, tensor in named]
    shapes = [network_shape(tensor) for tensor in inputs]
    known = inference.Inputs(dtypes, shapes, values)
    made = inference.output_dtypes(called, dtypes, shapes)
    sizes = None if None in shapes else inference.output_shapes(called, known)
    check_aliases(called, known, made, sizes)
    failures.forget()
    layer = network.add_plugin_v3(inputs, shape_inputs, _shown(called, dtypes, shapes))
    failures.raise_stored()
    if layer is None:
        raise RuntimeError(f"{called.plugin_name}: TensorRT added no layer; its log says why")
    return [layer.get_output(i) for i in range(called.num_outputs)]


def _network_dtype(name: str, tensor: Any) -> DType:
    if tensor is None:
        raise TypeError(f"{name} is None")
    has_memory = is_torch(tensor) or hasattr(tensor, "__array_interface__")
    if has_memory or not (hasattr(tensor, "dtype") and hasattr(tensor, "shape")):
        raise TypeError(f"{name} is {type(tensor).__name__}, expected a tensor of the network")
    return dtype_of(tensor, name)


def _shown(plugin: PluginBase, dtypes: list[Any], known: list[Any]) -> Any:
    """What TensorRT sees of a plugin; without TensorRT the plugin itself."""
    if bindings.trt is None:
        return plugin
    from .adapter import Adapter

    return Adapter(plugin, dtypes=dtypes, shapes=known)


# ---- at once ------------------------------------------------------------------------------------


def compute(plugin: PluginBase, tensors: Sequence[Any]) -> list[Any]:
    """Runs a plugin on tensors of torch or NumPy.

    Args:
        plugin: Which; one with the same fields runs.
        tensors: Contiguous, on one device; shape inputs on any.

    Returns:
        The outputs; an aliased one is its input.

    Raises:
        TypeError: A dtype or a number of inputs is wrong, or one is no tensor.
        ValueError: Shapes or devices do not fit.
    """
    called, arrays, shape_arrays = _prepare(plugin, tensors)
    name = called.plugin_name
    inputs = [wrap(array, what) for what, array in zip(_names(called, arrays), arrays)]
    if not inputs:
        raise TypeError(f"{name}: 0 inputs given, expected a tensor at least")
    devices = {tensor.device for tensor in inputs}
    if len(devices) != 1:
        raise ValueError(f"{name}: inputs are on {sorted(devices)}, expected one device")
    for what, array in zip(_shape_names(called), shape_arrays):
        _shape_input_size(what, array)
    known = inference.Inputs(
        [tensor.dtype for tensor in inputs],
        [tensor.shape for tensor in inputs],
        [[int(value) for value in array] for array in shape_arrays],
    )
    symbols = inference.outputs(called, known)
    check_aliases(called, known, [s.dtype for s in symbols], [s.shape for s in symbols])
    made = _made(called, arrays, symbols)
    outputs = [wrap(array, f"output {i}") for i, array in enumerate(made)]
    n_bytes = inference.workspace_bytes(
        called, [SymTensor(t.dtype, t.shape) for t in inputs], symbols
    )
    space = _empty(arrays[0], SymTensor("uint8", [n_bytes])) if n_bytes else None
    with _current(arrays[0]) as stream:
        run_forward(
            called, inputs, outputs, None if space is None else wrap(space, "workspace"), stream
        )
    return made


def _made(plugin: PluginBase, arrays: Sequence[Any], symbols: Sequence[SymTensor]) -> list[Any]:
    """The outputs of a computation: new memory, or that of an input."""
    aliased = plugin.aliased_outputs
    for i in aliased.values():
        if not (is_torch(arrays[i]) or arrays[i].flags.writeable):
            raise ValueError(
                f"{plugin.plugin_name}: {plugin.input_name(i)} is read-only, expected what may be "
                "written in place"
            )
    return [
        arrays[aliased[i]] if i in aliased else _empty(arrays[0], symbol)
        for i, symbol in enumerate(symbols)
    ]


def _empty(model: Any, symbol: SymTensor) -> Any:
    shape = [int(size) for size in symbol.shape]
    if is_torch(model):
        return sys.modules["torch"].empty(shape, dtype=symbol.dtype.torch, device=model.device)
    return sys.modules["numpy"].empty(shape, str(symbol.dtype))


@contextlib.contextmanager
def _current(model: Any) -> Any:
    """The stream of an eager call: torch's current one, on the tensors' device."""
    if not is_torch(model) or model.device.type != "cuda":
        yield 0
        return
    torch = sys.modules["torch"]
    import tvm_ffi

    with torch.cuda.device(model.device):
        stream = torch.cuda.current_stream().cuda_stream
        with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda", model.device.index or 0), stream):
            yield stream


# ---- of both ------------------------------------------------------------------------------------


def check_aliases(
    plugin: PluginBase,
    inputs: inference.Inputs,
    dtypes: Sequence[DType],
    shapes: Sequence[Sequence[Any]] | None,
) -> None:
    """Refuses an aliased output that is not like its input, as far as both are known.

    Args:
        plugin: Which.
        inputs: What is known of its inputs, their dtypes at least.
        dtypes: Of its outputs.
        shapes: Of its outputs; None: not known.

    Raises:
        ValueError: It is not; or there is no such output or input.
    """
    name = plugin.plugin_name
    for output, source in plugin.aliased_outputs.items():
        if not (output < len(dtypes) and source < len(inputs.shapes)):
            raise ValueError(
                f"{name}: aliased_outputs is {dict(plugin.aliased_outputs)}, and there are "
                f"{len(dtypes)} outputs and {len(inputs.shapes)} inputs"
            )
        want = inputs.shapes[source]
        have = want if shapes is None or want is None else shapes[output]
        dtype = DType((inputs.dtypes or ())[source])
        if dtypes[output] != dtype or not _may_be_equal(have, want):
            made, given = [[] if shape is None else list(shape) for shape in (have, want)]
            raise ValueError(
                f"{name}: output {output} is {dtypes[output]} {made}, expected {dtype} {given}, "
                f"those of {plugin.input_name(source)}, which it is written into"
            )


def _may_be_equal(a: Sequence[Any] | None, b: Sequence[Any] | None) -> bool:
    if a is None or b is None:
        return True
    numbers = ((x, y) for x, y in zip(a, b) if isinstance(x, int) and isinstance(y, int))
    return len(a) == len(b) and all(x == y for x, y in numbers)


def run_forward(
    plugin: PluginBase,
    inputs: Sequence[TensorWrapper],
    outputs: Sequence[TensorWrapper],
    workspace: TensorWrapper | None,
    stream: int,
) -> None:
    """Calls ``forward`` with what its signature takes."""
    takes = plugin.forward_takes
    if not takes:
        plugin.forward(inputs, outputs)  # type: ignore[call-arg]
        return
    options = {"workspace": workspace, "stream": stream}
    plugin.forward(inputs, outputs, **{name: options[name] for name in takes})  # type: ignore[arg-type]
