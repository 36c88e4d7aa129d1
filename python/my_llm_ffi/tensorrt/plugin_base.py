"""Plugins as classes: what an author writes, and how it is registered.

Counterparts: calls.py, where they are called; adapter.py, which shows them to TensorRT.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Callable, ClassVar, TypeVar

from . import bindings
from .calls import add_layer, compute
from .declared import check_declared
from .fields import Field, is_c_string, read
from .memory import TensorWrapper
from .symbolic import SymTensor

Key = tuple[str, str, str]
Plugin = TypeVar("Plugin", bound="type[PluginBase]")
# All plugins of this process, by name, version and namespace.
registry: dict[Key, type[PluginBase]] = {}
# Those that were added to a network, for the manifest of its engine.
used: dict[Key, type[PluginBase]] = {}


class PluginBase:
    """A plugin: attributes, inference of its outputs, and what it computes.

    A class of plugins has an ``__init__`` whose parameters are annotated and kept as attributes of
    the same names: these are its fields, and all of its state. A plugin is copied by making it anew
    from them. It is registered with :func:`plugin`, and called with tensors of a network, which
    adds a layer, or with torch's, which computes.

    Attributes:
        num_outputs: How many it has; from the annotation of ``shape_dtype_inference`` if omitted.
        supported_dtypes: For each input the dtypes that it may have; None: all, and inference
            refuses what it must.
        ranks: For each input how many dimensions it has, None where it may have any; None: any.
            Where a plugin is made from an ONNX file or by C++, TensorRT asks for dtypes before it
            says shapes; without this, inference is then tried with all of them.
        aliased_outputs: Output -> the input whose memory it is: read and written in place.
        shape_inputs: How many of the last inputs are shape tensors: integers on the host, whose
            values inference gets as its second argument. ``forward`` does not see them.
        uses_torch: Whether torch's current stream is set while ``forward`` runs.
    """

    num_outputs: int = 0
    supported_dtypes: Sequence[Sequence[Any]] | None = None
    ranks: Sequence[int | None] | None = None
    aliased_outputs: Mapping[int, int] = {}
    shape_inputs: int = 0
    uses_torch: bool = True

    # Of the decorator.
    plugin_name: ClassVar[str] = ""
    plugin_version: ClassVar[str] = ""
    plugin_namespace: ClassVar[str] = ""
    schema_version: ClassVar[int] = 1
    fields: ClassVar[tuple[Field, ...]] = ()
    forward_takes: ClassVar[frozenset[str]] = frozenset()

    def shape_dtype_inference(self, inputs: Sequence[SymTensor]) -> Any:
        """Dtypes and shapes of the outputs, from those of the inputs.

        Args:
            inputs: One for each input; sizes may be symbols (:class:`SymTensor`).

        Returns:
            A `SymTensor`, or a tuple of them.
        """
        raise NotImplementedError(f"{type(self).__name__} has no shape_dtype_inference")

    def forward(
        self,
        inputs: Sequence[TensorWrapper],
        outputs: Sequence[TensorWrapper],
        *,
        workspace: TensorWrapper | None,
        stream: int,
    ) -> None:
        """Computes the outputs: launches on the stream, and neither waits nor keeps a tensor.

        Args:
            inputs: What is read.
            outputs: What is written.
            workspace: Bytes, as many as ``workspace_size`` said; None for 0. May be left out of the
                signature.
            stream: Handle of the CUDA stream, 0 on the host. May be left out too: it is torch's
                current one.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def workspace_size(self, inputs: Sequence[SymTensor], outputs: Sequence[SymTensor]) -> int:
        """Bytes that ``forward`` needs beside its tensors, whose largest sizes are given."""
        return 0

    def input_name(self, index: int) -> str:
        """What messages call an input."""
        return f"input {index}"

    def values(self) -> dict[str, Any]:
        """The fields' values, checked.

        Raises:
            TypeError: An attribute is missing or of another type than its annotation says.
            ValueError: A value is not allowed.
        """
        found = {}
        for field in self.fields:
            if not hasattr(self, field.name):
                raise TypeError(
                    f"{self.plugin_name}: __init__ takes {field.name} and does not keep it; "
                    f"expected self.{field.name} = {field.name}"
                )
            try:
                found[field.name] = field.check(getattr(self, field.name))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{self.plugin_name}: {error}") from None
        return found

    def clone(self) -> PluginBase:
        """Another one with the same fields, which shares nothing with it.

        Raises:
            ValueError: ``__init__`` made other values of them.
        """
        values = self.values()
        made = type(self)(**values)
        for name, value in made.values().items():
            if value is not values[name] and value != values[name]:
                raise ValueError(
                    f"{self.plugin_name}: __init__ makes {name} = {value!r} of {values[name]!r}, "
                    "expected it kept as it is given: a copy is made anew from it"
                )
        return made

    def prepare(self, tensors: Sequence[Any]) -> tuple[PluginBase, list[Any]]:
        """The plugin of one call, and its inputs: where inputs may be left out."""
        return self.clone(), list(tensors)

    def __call__(self, *arguments: Any) -> Any:
        """Adds a layer to a network, or computes at once.

        Args:
            *arguments: A network (`tensorrt.INetworkDefinition`) and its tensors; or tensors of
                torch (or NumPy).

        Returns:
            The output, or a tuple of them; an aliased output of a computation is its input.

        Raises:
            TypeError: A dtype or a number of inputs is wrong.
            ValueError: Shapes do not fit.
        """
        # A class without a name has its base's; one that was unregistered is in no registry.
        if registry.get(_key(type(self))) is not type(self):
            raise TypeError(f"{type(self).__name__} is not registered, expected @plugin(name)")
        if arguments and hasattr(arguments[0], "add_plugin_v3"):
            found = add_layer(self, arguments[0], arguments[1:])
            used[_key(type(self))] = type(self)
        else:
            found = compute(self, arguments)
        return found[0] if len(found) == 1 else tuple(found)


# ---- registration -------------------------------------------------------------------------------


def _key(cls: type[PluginBase]) -> Key:
    return cls.plugin_name, cls.plugin_version, cls.plugin_namespace


def plugin(
    name: str,
    *,
    version: str = "1",
    namespace: str = "",
    schema_version: int = 1,
    fields: Sequence[Field] | None = None,
) -> Callable[[Plugin], Plugin]:
    """Registers a class of plugins: a decorator.

    Where TensorRT is installed, its registry gets a creator, so that engines that hold the plugin
    can be loaded.

    Args:
        name: Of the plugin.
        version: Of the plugin: engines ask for it.
        namespace: Whose plugin it is, such as the name of your package.
        schema_version: Of its fields: raise it when a field changes its meaning.
        fields: Instead of those that ``__init__`` says.

    Raises:
        TypeError: The class is none of plugins, or an annotation cannot be a field.
        ValueError: There is such a plugin.
    """
    for what, text in (("name", name), ("version", version), ("namespace", namespace)):
        if not isinstance(text, str):
            raise TypeError(f"plugin: {what} is {text!r}, expected a string")
        if not is_c_string(text) or (not text and what != "namespace"):
            expected = "a string that is not empty, of UTF-8 without NUL"
            raise ValueError(f"plugin: {what} is {text!r}, expected {expected}")
    if not isinstance(schema_version, int) or isinstance(schema_version, bool):
        raise TypeError(f"plugin: schema_version is {schema_version!r}, expected an integer")
    if not 1 <= schema_version < 2**31:
        raise ValueError(f"plugin: schema_version is {schema_version}, expected 1 to 2^31 - 1")

    def register(cls: Plugin) -> Plugin:
        if not (isinstance(cls, type) and issubclass(cls, PluginBase)):
            raise TypeError(f"plugin: {cls!r} is no class of plugins, expected one of PluginBase")
        key = (name, version, namespace)
        _refuse_known(key)
        if registry.get(_key(cls)) is cls:
            raise ValueError(
                f"plugin: {cls.__name__} is {cls.plugin_name} already, and has one name"
            )
        check_declared(cls, cls.__name__)
        found = tuple(read(cls) if fields is None else fields)
        count, takes = _count_outputs(cls), _forward_takes(cls)
        cls.plugin_name, cls.plugin_version, cls.plugin_namespace = key
        cls.schema_version, cls.fields = schema_version, found
        cls.num_outputs, cls.forward_takes = count, takes
        enter(cls)
        return cls

    return register


def _refuse_known(key: Key) -> None:
    if key in registry:
        other = registry[key]
        raise ValueError(
            f"plugin: {key[0]}, version {key[1]} of namespace {key[2]!r}, is registered already: "
            f"{other.__module__}.{other.__qualname__}"
        )


def enter(cls: type[PluginBase]) -> None:
    """Puts a class into the registries: at its definition, or after :func:`unregister`.

    Args:
        cls: A class that :func:`plugin` has seen.

    Raises:
        ValueError: There is such a plugin.
    """
    _refuse_known(_key(cls))
    if bindings.trt is not None:
        from .adapter import register_creator

        register_creator(cls)
    registry[_key(cls)] = cls


def unregister(cls: type[PluginBase]) -> None:
    """Takes a class of plugins out of the registries: its name is free again.

    Args:
        cls: A class that :func:`plugin` registered.

    Raises:
        KeyError: It is not registered.
    """
    if registry.get(_key(cls)) is not cls:
        raise KeyError(cls.plugin_name or cls.__name__)
    if bindings.trt is not None:
        from .adapter import deregister_creator

        deregister_creator(cls)
    del registry[_key(cls)]
    used.pop(_key(cls), None)


def _count_outputs(cls: type[PluginBase]) -> int:
    """How many outputs a class says that it has."""
    declared: Any = cls.num_outputs
    said = isinstance(declared, property) or (isinstance(declared, int) and declared > 0)
    # The nearest class says it: a base's number is that of the base's inference.
    here = next(c for c in cls.__mro__ if {"num_outputs", "shape_dtype_inference"} & set(vars(c)))
    if said and "num_outputs" in vars(here):
        return declared  # type: ignore[no-any-return]
    try:
        hint = typing.get_type_hints(cls.shape_dtype_inference).get("return")
    except (NameError, TypeError):
        hint = None
    if hint is SymTensor:
        return 1
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and arguments and set(arguments) == {SymTensor}:
        return len(arguments)
    if said:
        return declared  # type: ignore[no-any-return]
    raise TypeError(
        f"{cls.__name__}: how many outputs are there? Expected shape_dtype_inference to be "
        "annotated -> SymTensor or -> tuple[SymTensor, SymTensor], or an attribute num_outputs"
    )


def _forward_takes(cls: type[PluginBase]) -> frozenset[str]:
    """Which options ``forward`` takes."""
    for kind in ("coroutine", "generator", "asyncgen"):
        if getattr(inspect, f"is{kind}function")(cls.forward):
            raise TypeError(f"{cls.__name__}.forward is a {kind}, which no call would run")
    signature = inspect.signature(cls.forward)
    parameters = list(signature.parameters.values())[1:]
    options = {"workspace", "stream"}
    named = options & {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        named = options
    try:
        signature.bind(None, (), (), **dict.fromkeys(named))
    except TypeError:
        taken = ", ".join(p.name for p in parameters) or "nothing"
        raise TypeError(
            f"{cls.__name__}.forward takes {taken}, expected (inputs, outputs, *, workspace, "
            "stream) or fewer of these options"
        ) from None
    return frozenset(named)
