"""Plugins whose compute is an op of this library, made from its declaration by one function.

C++ counterpart: src/tensorrt/. docs/guide_tensorrt.md says what both agree on.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .. import declaration
from ..declaration import Attribute, Op, Tensor
from ..render import docstring
from .dtypes import DType
from .fields import REQUIRED, Field
from .memory import TensorWrapper
from .plugin_base import PluginBase, plugin
from .symbolic import SymTensor

# The ops that ship as plugins; any other op, a user's own too, becomes one by `op_plugin`.
SHIPPED = ("rms_norm", "add_rms_norm", "silu_mul", "rope", "mask_logits", "paged_attention")
NAMESPACE = "my_llm_ffi"


class OpPlugin(PluginBase):
    """An op as a plugin: options are its fields, tensors its inputs and outputs."""

    op: ClassVar[Op]
    uses_torch = False

    def __init__(self, **options: Any) -> None:
        """Takes the op's options.

        Args:
            **options: By name; the op's defaults where one is missing.

        Raises:
            TypeError: The op has no such option, or a value is of a wrong type.
            ValueError: A value is not allowed.
        """
        known = {field.name: field for field in self.fields}
        for name in options:
            if name not in known:
                listed = ", ".join(attribute.name for attribute in self.op.attributes) or "none"
                raise TypeError(f"{self.plugin_name}: no option {name!r}, expected {listed}")
        for field in self.fields:
            value = options.get(field.name, field.default)
            if value is REQUIRED:
                raise TypeError(f"{self.plugin_name}: the option {field.name} is missing")
            setattr(self, field.name, value)
        self._values = tuple(self.values()[a.name] for a in self.op.attributes)
        self._present = [t for t in self.op.inputs if not t.optional or getattr(self, _has(t))]
        self.supported_dtypes = [_dtypes(self.op, tensor) for tensor in self._present]
        self.ranks = [_rank(t) for t in self._present]
        written = [t.name for t in self.op.inputs if t.use == "mutable"]
        names = [t.name for t in self._present]
        self.aliased_outputs = {i: names.index(name) for i, name in enumerate(written)}
        self._plan = self._arguments(written, names)

    def _arguments(self, written: list[str], names: list[str]) -> list[tuple[bool, int] | None]:
        """Where each tensor of a call comes from: whether from the outputs, and which."""
        plan: list[tuple[bool, int] | None] = []
        for tensor in self.op.inputs:
            if tensor.name in written:
                plan.append((True, written.index(tensor.name)))
            else:
                plan.append((False, names.index(tensor.name)) if tensor.name in names else None)
        return plan + [(True, len(written) + i) for i in range(len(self.op.outputs))]

    def input_name(self, index: int) -> str:
        """Its name in the op's signature."""
        return self._present[index].name if index < len(self._present) else f"input {index}"

    def prepare(self, tensors: Sequence[Any]) -> tuple[PluginBase, list[Any]]:
        """The plugin with the inputs that are given; None is one that is left out."""
        declared = self.op.inputs
        if len(tensors) > len(declared):
            raise TypeError(
                f"{self.plugin_name}: {len(tensors)} inputs given, at most {len(declared)} expected"
            )
        padded = [*tensors, *[None] * (len(declared) - len(tensors))]
        options = self.values()
        for tensor, given in zip(declared, padded):
            if tensor.optional:
                options[_has(tensor)] = given is not None
            elif given is None:
                raise TypeError(f"{self.plugin_name}: {tensor.name} is missing")
        return type(self)(**options), [given for given in padded if given is not None]

    def shape_dtype_inference(self, inputs: Sequence[SymTensor]) -> tuple[SymTensor, ...]:
        """What the op's declaration says: inputs that are written in place, then its outputs."""
        if len(inputs) != len(self._present):
            names = ", ".join(tensor.name for tensor in self._present)
            raise TypeError(f"{self.plugin_name}: {len(inputs)} inputs given, expected {names}")
        given = {tensor.name: symbol for tensor, symbol in zip(self._present, inputs)}
        symbols = [given.get(tensor.name) for tensor in self.op.inputs]
        shapes = [None if s is None else s.shape for s in symbols]
        dtypes = [None if s is None else str(s.dtype) for s in symbols]
        options = {a.name: v for a, v in zip(self.op.attributes, self._values)}
        made = self.op.infer(shapes, dtypes, options)
        written = [given[t.name] for t in self.op.inputs if t.use == "mutable"]
        return (*written, *(SymTensor(dtype, shape) for shape, dtype in made))

    def forward(self, inputs: Sequence[TensorWrapper], outputs: Sequence[TensorWrapper]) -> None:  # type: ignore[override]
        """Calls the op; inputs that it writes in place are outputs already."""
        tensors = (inputs, outputs)
        self.op.function(  # type: ignore[misc]
            *[None if at is None else tensors[at[0]][at[1]].tensor for at in self._plan],
            *self._values,
        )


def _has(tensor: Tensor) -> str:
    return f"has_{tensor.name}"


def _rank(tensor: Tensor) -> int | None:
    any_batch = bool(tensor.dims) and tensor.dims[0].startswith("*")
    return None if any_batch else len(tensor.dims)


def _dtypes(op: Op, tensor: Tensor) -> tuple[DType, ...]:
    """Dtypes that an input may have; those of the tensor whose dtype it shares."""
    if tensor.like is None or tensor.like == tensor.name:
        names = tensor.dtypes
    else:
        model = next(t for t in op.inputs if t.name == tensor.like)
        names = (*tensor.dtypes, *_dtypes(op, model))
    return tuple(dict.fromkeys(DType(name) for name in names if name != "uint8"))


def _field(attribute: Attribute) -> Field:
    default = REQUIRED if attribute.default is declaration.REQUIRED else attribute.default
    field = Field(
        attribute.name, attribute.kind, REQUIRED, attribute.optional, tuple(attribute.choices)
    )
    if default is REQUIRED:
        return field
    return Field(field.name, field.kind, field.check(default), field.optional, field.choices)


def _fields(op: Op) -> list[Field]:
    optional = [tensor for tensor in op.inputs if tensor.optional]
    return [
        *(_field(attribute) for attribute in op.attributes),
        *(Field(_has(tensor), "bool", False) for tensor in optional),
    ]


def op_plugin(
    op_name: str, *, name: str | None = None, version: str = "1", namespace: str = NAMESPACE
) -> type[OpPlugin]:
    """Registers an op as a plugin.

    Args:
        op_name: Of any op, one of :func:`my_llm_ffi.declare_op` too.
        name: Of the plugin; the op's in CamelCase if omitted.
        version: Of the plugin.
        namespace: Of the plugin.

    Returns:
        A class: ``cls(eps=1e-5)(network, x, weight)``.

    Raises:
        TypeError: The op's name is no string.
        KeyError: There is no such op.
        ValueError: There is such a plugin, or the op takes more than TensorRT can give it.
    """
    if not isinstance(op_name, str):
        raise TypeError(f"op_plugin: op_name is {op_name!r}, expected a string")
    op = declaration.load(op_name)
    camel = name or "".join(word.capitalize() for word in op_name.split("_"))
    written = [tensor for tensor in op.inputs if tensor.use == "mutable"]
    if any(tensor.optional for tensor in written):
        raise ValueError(f"op_plugin: {op_name} writes an optional input in place")
    for tensor in op.inputs:
        if not _dtypes(op, tensor):
            raise ValueError(f"op_plugin: {op_name}: {tensor.name} has no dtype that plugins have")
    fields = _fields(op)
    body: Mapping[str, Any] = {
        "__doc__": docstring(op),
        "__module__": sys._getframe(1).f_globals.get(
            "__name__", "__main__"
        ),  # whose import registers it
        "__signature__": _signature(fields),
        "op": op,
        "num_outputs": len(written) + len(op.outputs),
    }
    cls = type(camel, (OpPlugin,), dict(body))
    return plugin(camel, version=version, namespace=namespace, fields=fields)(cls)


def _signature(fields: Sequence[Field]) -> inspect.Signature:
    empty = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=empty if field.default is REQUIRED else field.default,
            )
            for field in fields
        ]
    )
