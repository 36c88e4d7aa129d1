"""What a plugin says of itself in attributes, checked before TensorRT or inference reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .dtypes import DType
from .symbolic import MAX_RANK


def check_declared(plugin: Any, name: str) -> None:
    """Refuses attributes that are not of the form that `PluginBase` describes.

    Args:
        plugin: A plugin, or a class of them: its properties are known of a plugin alone.
        name: Of it, for messages.

    Raises:
        TypeError: An attribute is of another form; says which.
        ValueError: Attributes do not fit one another.
    """
    for attribute, (fits, expected) in _FORMS.items():
        value = getattr(plugin, attribute)
        if not isinstance(value, property) and not fits(value):
            raise TypeError(f"{name}: {attribute} is {value!r}, expected {expected}")
    dtypes, ranks = plugin.supported_dtypes, plugin.ranks
    if _is_listed(dtypes) and _is_listed(ranks) and len(dtypes) != len(ranks):
        raise ValueError(
            f"{name}: supported_dtypes is of {len(dtypes)} inputs and ranks of {len(ranks)}"
        )


def _is_listed(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_dtype(value: Any) -> bool:
    try:
        return DType(value) != "uint8"
    except TypeError:
        return False


def _are_dtypes(value: Any) -> bool:
    return value is None or (_is_listed(value) and all(map(_are_choices, value)))


def _are_choices(value: Any) -> bool:
    return _is_listed(value) and len(value) > 0 and all(map(_is_dtype, value))


def _are_ranks(value: Any) -> bool:
    return value is None or (
        _is_listed(value) and all(r is None or (_is_count(r) and r <= MAX_RANK) for r in value)
    )


def _are_aliases(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and all(_is_count(end) for pair in value.items() for end in pair)
        and len(set(value.values())) == len(value)
    )


# Attribute -> what it must be, and how a message says so.
_FORMS = {
    "supported_dtypes": (_are_dtypes, 'a tuple of dtypes for each input, as (("float32",),)'),
    "ranks": (_are_ranks, f"a number of dimensions up to {MAX_RANK} or None for each input"),
    "aliased_outputs": (_are_aliases, "output -> input, each input once"),
    "shape_inputs": (_is_count, "a number of inputs"),
}
