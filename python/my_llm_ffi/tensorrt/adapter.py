"""What TensorRT sees of a plugin: `IPluginV3` and its creator. The only file of its base classes.

Counterparts: plugin_base.py (the plugin itself), src/tensorrt/ (the same in C++).
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy
import tvm_ffi

from . import failures, inference
from .bindings import require
from .fields import FORMATS, SCHEMA_VERSION, Raw, decode_all, encode_all
from .fields import Field as FieldSpec
from .memory import _CUDA, TensorWrapper, copy, current_device
from .plugin_base import PluginBase, check_aliases, run_forward
from .symbolic import SymTensor, lower

trt: Any = require()
_BASES: Any = (
    trt.IPluginV3,
    trt.IPluginV3OneCore,
    trt.IPluginV3OneBuildV2,
    trt.IPluginV3OneRuntime,
)
_CREATOR_BASE: Any = trt.IPluginCreatorV3One
_NUMPY = {name: numpy.dtype("=" + code) for name, code in FORMATS.items()}


def _stored(method: Any) -> Any:
    """Keeps what a method raises: TensorRT only prints it."""

    @functools.wraps(method)
    def call(self: Any, *arguments: Any) -> Any:
        try:
            return method(self, *arguments)
        except BaseException as error:
            failures.store(error)
            raise

    return call


class Adapter(*_BASES):  # type: ignore[misc]
    """One plugin as TensorRT calls it: in the builder, or in one execution context."""

    def __init__(
        self,
        plugin: PluginBase,
        *,
        dtypes: Sequence[Any] | None = None,
        shapes: Sequence[Any] | None = None,
    ) -> None:
        """Shows a plugin.

        Args:
            plugin: The plugin; no other adapter has it.
            dtypes: Those of its inputs in the network; None: not known.
            shapes: What the network knows of its inputs' shapes; None: nothing.
        """
        for base in _BASES:
            base.__init__(self)
        self.plugin = plugin
        self.dtypes, self.shapes = dtypes, shapes
        self.plugin_name = plugin.plugin_name
        self.plugin_version = plugin.plugin_version
        self.plugin_namespace = plugin.plugin_namespace
        self.num_outputs = plugin.num_outputs
        self.timing_cache_id = ""
        self._slots: _Slots | None = None

    # ---- all phases

    def get_capability_interface(self, type: Any) -> Any:
        """Itself: it is all of them."""
        return self

    @_stored
    def clone(self) -> Adapter:
        """Another one that shares nothing with it."""
        return Adapter(self.plugin.clone(), dtypes=self.dtypes, shapes=self.shapes)

    # ---- build

    @_stored
    def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
        """Dtypes of the outputs; TensorRT does not say the number of dimensions here."""
        found = inference.output_dtypes(self.plugin, input_types, self._known(len(input_types)))
        return [dtype.tensorrt for dtype in found]

    def _known(self, count: int) -> Sequence[Any] | None:
        return self.shapes if self.shapes is not None and len(self.shapes) == count else None

    @_stored
    def get_output_shapes(
        self, inputs: Sequence[Any], shape_inputs: Sequence[Any], builder: Any
    ) -> list[Any]:
        """Shapes of the outputs, as expressions of those of the inputs."""
        # Dtypes do not come with this call.
        known = inference.Inputs(
            self.dtypes,
            [_expressions(dims) for dims in inputs],
            [_expressions(dims) for dims in shape_inputs],
        )
        shapes = inference.output_shapes(self.plugin, known)
        operations = trt.DimensionOperation
        return [trt.DimsExprs([lower(s, builder, operations) for s in shape]) for shape in shapes]

    def get_aliased_input(self, output_index: int) -> int:
        """The input that an output is written into; -1: none."""
        return self.plugin.aliased_outputs.get(output_index, -1)

    @_stored
    def supports_format_combination(self, position: int, tensors: Any, num_inputs: int) -> bool:
        """Whether a tensor, given those before it, has a layout and dtype that the plugin takes."""
        described = tensors[position].desc
        if described.format != trt.TensorFormat.LINEAR:
            return False
        try:
            if position < num_inputs:
                return described.type in inference.supported(self.plugin, num_inputs)[position]
            dtypes = [tensors[i].desc.type for i in range(num_inputs)]
            found = inference.output_dtypes(self.plugin, dtypes, self._known(num_inputs))
        except (TypeError, ValueError):  # no combination that it takes: inference says so
            return False
        return bool(found[position - num_inputs] == described.type)

    def configure_plugin(self, inputs: Any, outputs: Any) -> None:
        """Nothing is chosen in advance."""

    @_stored
    def get_workspace_size(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        """Bytes for tensors of the largest sizes."""
        largest = [
            [SymTensor(t.desc.type, list(t.max)) for t in tensors] for tensors in (inputs, outputs)
        ]
        return int(self.plugin.workspace_size(*largest))

    def get_valid_tactics(self) -> list[int]:
        """None: there is one way to compute it."""
        return []

    # ---- run time

    def set_tactic(self, tactic: int) -> None:
        """There is one."""

    @_stored
    def attach_to_context(self, context: Any) -> Adapter:
        """A plugin of an execution context's own."""
        return Adapter(self.plugin.clone(), dtypes=self.dtypes, shapes=self.shapes)

    @_stored
    def get_fields_to_serialize(self) -> Any:
        """What an engine keeps of it."""
        raws = encode_all(self.plugin.fields, self.plugin.schema_version, self.plugin.values())
        # TensorRT holds addresses of all three, as long as the plugin is there.
        self._arrays = [numpy.frombuffer(raw.data, _NUMPY[raw.type]).copy() for _, raw in raws]
        self._vector = trt.PluginFieldCollection(
            [
                trt.PluginField(name, array, getattr(trt.PluginFieldType, raw.type))
                for (name, raw), array in zip(raws, self._arrays)
            ]
        )
        self._collection = trt.PluginFieldCollection_(self._vector)
        return self._collection

    @_stored
    def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Infers once more, now that the sizes are known; what did not fit is said here."""
        self._slots = None
        self._slots = _Slots(self.plugin, inputs, outputs)

    def enqueue(
        self,
        input_desc: Sequence[Any],
        output_desc: Sequence[Any],
        inputs: Sequence[int],
        outputs: Sequence[int],
        workspace: int,
        stream: int,
    ) -> None:
        """Computes, on a stream."""
        try:
            slots = self._slots
            if slots is None:
                slots = self._slots = _Slots(self.plugin, input_desc, output_desc)
            slots.point(inputs, outputs, workspace, stream)
            if slots.on_host:
                slots.run(stream)
            else:
                with tvm_ffi.use_raw_stream(slots.device, stream), slots.torch_stream(stream):
                    slots.run(stream)
        except BaseException as error:
            failures.store(error)
            raise


def _expressions(dims: Any) -> list[Any]:
    """Numbers where they are constant, TensorRT's expressions elsewhere."""
    found = [dims[i] for i in range(len(dims))]
    return [e.get_constant_value() if e.is_constant() else e for e in found]


class _Slots:
    """The tensors of one execution context, moved to the addresses of each execution."""

    def __init__(self, plugin: PluginBase, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        self._plugin = plugin
        place = current_device()
        self.on_host = place[0] != _CUDA
        self.device = tvm_ffi.device("cpu" if self.on_host else "cuda", place[1])
        self._place = place
        self._streams: dict[int, Any] = {}
        self._inputs = [_wrapper(desc, place) for desc in inputs]
        self._outputs = [_wrapper(desc, place) for desc in outputs]
        self._check()
        self._aliases = [
            (self._outputs[o], self._inputs[i], self._outputs[o].nbytes)
            for o, i in plugin.aliased_outputs.items()
        ]
        sizes = [[SymTensor(t.dtype, t.shape) for t in ts] for ts in (self._inputs, self._outputs)]
        n_bytes = int(plugin.workspace_size(*sizes))
        self._workspace = TensorWrapper(0, "uint8", [n_bytes], place) if n_bytes else None

    def _check(self) -> None:
        """Refuses outputs that are not those inferred from the inputs' sizes."""
        plugin = self._plugin
        if plugin.shape_inputs:  # their values do not come here
            return
        dtypes = [tensor.dtype for tensor in self._inputs]
        known = inference.Inputs(dtypes, [tensor.shape for tensor in self._inputs])
        inferred = inference.outputs(plugin, known)
        check_aliases(plugin, known, inferred)
        for i, (want, have) in enumerate(zip(inferred, self._outputs)):
            if want.dtype != have.dtype or want.shape != list(have.shape):
                raise ValueError(
                    f"{plugin.plugin_name}: output {i} is {have.dtype} {list(have.shape)} in the "
                    f"engine, inference for these inputs gives {want.dtype} {want.shape}"
                )

    def point(
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

    def run(self, stream: int) -> None:
        """Calls the plugin's ``forward``."""
        run_forward(self._plugin, self._inputs, self._outputs, self._workspace, stream)

    def torch_stream(self, stream: int) -> Any:
        """A context in which the stream is torch's current one, for plugins that use torch."""
        torch = sys.modules.get("torch") if self._plugin.uses_torch else None
        if torch is None:
            return _NOTHING
        if stream not in self._streams:
            device = torch.device("cuda", self._place[1])
            self._streams[stream] = torch.cuda.ExternalStream(stream, device=device)
        return torch.cuda.stream(self._streams[stream])


_NOTHING = contextlib.nullcontext()


def _wrapper(desc: Any, place: tuple[int, int]) -> TensorWrapper:
    return TensorWrapper(0, desc.type, tuple(desc.dims), place)


# ---- creators -----------------------------------------------------------------------------------


class Creator(_CREATOR_BASE):  # type: ignore[misc]
    """Makes plugins of one class from fields: in ONNX, in C++ and out of engines."""

    def __init__(self, cls: type[PluginBase]) -> None:
        """Creates plugins.

        Args:
            cls: A class that :func:`my_llm_ffi.tensorrt.plugin` registers.
        """
        _CREATOR_BASE.__init__(self)
        self.cls = cls
        self.name = cls.plugin_name
        self.plugin_version, self.plugin_namespace = cls.plugin_version, cls.plugin_namespace
        listed = [FieldSpec(SCHEMA_VERSION, "int"), *cls.fields]
        types = ["INT32", *(field.type for field in cls.fields)]
        # TensorRT holds their addresses.
        self._arrays = [
            numpy.zeros(field.listed_length, _NUMPY[kind]) for field, kind in zip(listed, types)
        ]
        self.field_names = trt.PluginFieldCollection(
            [
                trt.PluginField(field.name, array, getattr(trt.PluginFieldType, kind))
                for field, array, kind in zip(listed, self._arrays, types)
            ]
        )

    @_stored
    def create_plugin(self, name: str, fields: Any, phase: Any) -> Adapter:
        """A plugin with the given fields.

        Raises:
            TypeError: A field is of another type than the class has.
            ValueError: A field is unknown or missing, or its value is wrong.
        """
        cls = self.cls
        raws = [(field.name, _raw(cls.plugin_name, field)) for field in fields]
        values = decode_all(cls.plugin_name, cls.fields, cls.schema_version, raws)
        return Adapter(cls(**values))


def _raw(plugin: str, field: Any) -> Raw:
    kind = field.type.name
    if kind not in _NUMPY:
        raise TypeError(
            f"{plugin}: {field.name} is a field of type {kind}, which no plugin here has"
        )
    if field.size == 0:
        return Raw(kind, b"")
    return Raw(kind, numpy.asarray(field.data).astype(_NUMPY[kind], copy=False).tobytes())


_creators: dict[type[PluginBase], Creator] = {}


def register_creator(cls: type[PluginBase]) -> None:
    """Registers a class with TensorRT.

    Raises:
        ValueError: TensorRT has such a creator: from a library that was loaded, say.
    """
    creator = Creator(cls)
    if not trt.get_plugin_registry().register_creator(creator, cls.plugin_namespace):
        raise ValueError(
            f"plugin: TensorRT has a creator of {cls.plugin_name}, version {cls.plugin_version} of "
            f"namespace {cls.plugin_namespace!r}, already: from a plugin library?"
        )
    _creators[cls] = creator


def deregister_creator(cls: type[PluginBase]) -> None:
    """Takes a class out of TensorRT's registry."""
    creator = _creators.pop(cls, None)
    if creator is not None:
        trt.get_plugin_registry().deregister_creator(creator)
