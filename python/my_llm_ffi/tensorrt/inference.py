"""Inference of a plugin's outputs, from as much as is known: dtypes, symbols, or sizes.

Each function asks the plugin anew and keeps nothing, so that the order of the calls, clones and
threads do not matter.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .dtypes import TENSOR_DTYPES, DType
from .symbolic import MAX_RANK, Dim, Size, SymTensor, Trace, Undecidable, explore, sizes

if TYPE_CHECKING:
    from .plugin_base import PluginBase

_SIZES = range(2**63)
_MAX_DTYPES = 5_000  # combinations that are tried where none is known


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What is known of a call's inputs.

    Attributes:
        dtypes: Of each; None: not known.
        shapes: Of each, as :func:`my_llm_ffi.tensorrt.symbolic.sizes` takes it.
        values: Of each shape input: its numbers, as far as they are known.
    """

    dtypes: Sequence[Any] | None
    shapes: Sequence[Sequence[Any] | None]
    values: Sequence[Sequence[Any] | None] = ()


def check_dtypes(plugin: PluginBase, dtypes: Sequence[Any]) -> list[DType]:
    """Dtypes of the inputs, if the plugin takes them.

    Raises:
        TypeError: It does not, or not as many.
    """
    named = [DType(dtype) for dtype in dtypes]
    allowed = supported(plugin, len(named))
    for i, (dtype, choices) in enumerate(zip(named, allowed)):
        if dtype not in choices:
            raise TypeError(
                f"{plugin.plugin_name}: {plugin.input_name(i)} is {dtype}, expected "
                f"{' or '.join(choices)}"
            )
    return named


def supported(plugin: PluginBase, count: int) -> list[tuple[DType, ...]]:
    """Dtypes that each of some inputs may have.

    Raises:
        TypeError: The plugin takes another number of inputs.
    """
    if plugin.supported_dtypes is None:
        return [tuple(DType(name) for name in TENSOR_DTYPES)] * count
    listed = [tuple(DType(d) for d in choices) for choices in plugin.supported_dtypes]
    if len(listed) != count:
        raise TypeError(f"{plugin.plugin_name}: {count} inputs given, expected {len(listed)}")
    return listed


def output_dtypes(
    plugin: PluginBase, dtypes: Sequence[Any], shapes: Sequence[Any] | None = None
) -> list[DType]:
    """Dtypes of the outputs, when not even the number of dimensions may be known.

    Args:
        plugin: Which.
        dtypes: Of the inputs.
        shapes: What is known of their shapes; None: nothing is.
    """
    named = check_dtypes(plugin, dtypes)
    inputs = Inputs(named, shapes or [None] * len(named), [None] * plugin.shape_inputs)
    return list(explore(lambda trace: [o.dtype for o in _ask(plugin, inputs, trace)], every=False))


def output_shapes(plugin: PluginBase, inputs: Inputs) -> list[list[Size]]:
    """Shapes of the outputs, with expressions of the sizes that are not known yet.

    Where dtypes are not known either, those that the plugin takes are tried: no shape may depend on
    them.
    """
    count, first = len(inputs.shapes), None
    choices = supported(plugin, count) if inputs.dtypes is None else [[d] for d in inputs.dtypes]
    for dtypes in itertools.islice(itertools.product(*choices), _MAX_DTYPES):
        known = dataclasses.replace(inputs, dtypes=check_dtypes(plugin, dtypes))
        try:
            return list(explore(functools.partial(_shapes, plugin, known), every=True))
        except Undecidable:
            raise
        except Exception as error:
            first = first or error
    raise first or TypeError(f"{plugin.plugin_name}: there are no dtypes that it takes")


def _shapes(plugin: PluginBase, inputs: Inputs, trace: Trace) -> _Shapes:
    return _Shapes(o.shape for o in _ask(plugin, inputs, trace))


def outputs(plugin: PluginBase, inputs: Inputs) -> list[SymTensor]:
    """Dtypes and shapes of the outputs, where all sizes are numbers."""
    known = dataclasses.replace(inputs, dtypes=check_dtypes(plugin, inputs.dtypes or ()))
    return _ask(plugin, known, Trace())


def workspace_bytes(
    plugin: PluginBase, inputs: Sequence[SymTensor], outputs: Sequence[SymTensor]
) -> int:
    """What a plugin asks for beside tensors of some sizes.

    Raises:
        TypeError: It gives no integer.
        ValueError: It gives a negative one.
    """
    given = plugin.workspace_size(inputs, outputs)
    try:
        n_bytes = operator.index(given)
    except TypeError:
        raise TypeError(
            f"{plugin.plugin_name}: workspace_size is {given!r}, expected an integer"
        ) from None
    if n_bytes < 0:
        raise ValueError(f"{plugin.plugin_name}: workspace_size is {n_bytes}, expected 0 or more")
    return n_bytes


class _Shapes(list):  # type: ignore[type-arg]
    """Shapes that are equal where their expressions are: a Dim's own == asks."""

    def _keys(self) -> list[list[Any]]:
        return [[s.key if isinstance(s, Dim) else int(s) for s in shape] for shape in self]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shapes) and self._keys() == other._keys()

    __hash__ = None


def _ask(plugin: PluginBase, inputs: Inputs, trace: Trace) -> list[SymTensor]:
    """One run of the author's inference, its result checked."""
    symbols = []
    if plugin.ranks is not None and len(plugin.ranks) != len(inputs.shapes):
        raise TypeError(
            f"{plugin.plugin_name}: {len(inputs.shapes)} inputs given, expected {len(plugin.ranks)}"
        )
    names = [plugin.input_name(i) for i in range(len(inputs.shapes))]
    for i, (dtype, shape) in enumerate(zip(inputs.dtypes or (), inputs.shapes)):
        rank = plugin.ranks[i] if shape is None and plugin.ranks is not None else None
        known = shape if rank is None else [None] * rank
        # Sizes are told apart by their names, and a plugin may call its inputs as it likes.
        name = names[i] if names.count(names[i]) == 1 else f"{names[i]} ({i})"
        symbols.append(SymTensor(dtype, sizes(name, known, trace)))
    arguments: list[Any] = [symbols]
    if plugin.shape_inputs:
        names = [f"shape input {i}" for i in range(plugin.shape_inputs)]
        arguments.append([_values(n, v, trace) for n, v in zip(names, inputs.values)])
    found = plugin.shape_dtype_inference(*arguments)
    listed = list(found) if isinstance(found, (tuple, list)) else [found]
    for i, tensor in enumerate(listed):
        _check_output(plugin.plugin_name, i, tensor)
    if len(listed) != plugin.num_outputs:
        raise ValueError(
            f"{plugin.plugin_name}: shape_dtype_inference returned {len(listed)} outputs, its "
            f"annotation or num_outputs says {plugin.num_outputs}"
        )
    return listed


def _check_output(plugin: str, index: int, tensor: Any) -> None:
    """Refuses what no output of a plugin can be."""
    if not isinstance(tensor, SymTensor):
        raise TypeError(
            f"{plugin}: shape_dtype_inference returned {type(tensor).__name__}, expected "
            "SymTensor, or a tuple of them"
        )
    if tensor.dtype not in TENSOR_DTYPES:
        raise TypeError(f"{plugin}: output {index} would be {tensor.dtype}, which no plugin gives")
    shape = tensor.shape
    if len(shape) > MAX_RANK:
        raise ValueError(f"{plugin}: an output has {len(shape)} dimensions, at most {MAX_RANK}")
    if any(not isinstance(size, Dim) and int(size) not in _SIZES for size in shape):
        raise ValueError(f"{plugin}: output {index} would have shape {shape}")


class _Unknown(list):  # type: ignore[type-arg]
    """Values of a shape input before there are any: each is a symbol."""

    def __init__(self, name: str, trace: Trace) -> None:
        super().__init__()
        self._name, self._trace = name, trace

    def __getitem__(self, index: Any) -> Any:
        return Dim("leaf", (), self._trace, name=f"{self._name}[{index}]")


def _values(name: str, values: Sequence[Any] | None, trace: Trace) -> list[Any]:
    if values is None:
        return _Unknown(name, trace)
    return [
        v if type(v) is int else Dim("leaf", (), trace, name=f"{name}[{i}]", leaf=v)
        for i, v in enumerate(values)
    ]
