"""What TensorRT sees of a plugin: `IPluginV3` and its creator. The only file of its base classes.

Counterparts: plugin_base.py (the plugin itself), src/tensorrt/ (the same in C++).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy

from . import failures, inference
from .bindings import require
from .execution import Execution
from .fields import FORMATS, SCHEMA_VERSION, Raw, decode_all, encode_all
from .fields import Field as FieldSpec
from .plugin_base import PluginBase
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
        self._execution: Execution | None = None

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
        return inference.workspace_bytes(self.plugin, *largest)

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
        self._execution = None
        self._execution = Execution(self.plugin, inputs, outputs)

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
            if self._execution is None:
                self._execution = Execution(self.plugin, input_desc, output_desc)
            self._execution.enqueue(inputs, outputs, workspace, stream)
        except BaseException as error:
            failures.store(error)
            raise


def _expressions(dims: Any) -> list[Any]:
    """Numbers where they are constant, TensorRT's expressions elsewhere."""
    found = [dims[i] for i in range(len(dims))]
    return [e.get_constant_value() if e.is_constant() else e for e in found]


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
