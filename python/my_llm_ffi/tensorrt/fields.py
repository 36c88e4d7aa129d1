"""Fields of a plugin: how its attributes stand in an engine, typed, for Python and C++ alike.

The table is in docs/guide_tensorrt.md; C++ counterpart: src/tensorrt/. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import operator
import struct
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, NamedTuple, TypeVar, Union

SCHEMA_VERSION = "schema_version"
# What the decorator says of a class, and no field may hide.
_RESERVED = frozenset(
    (SCHEMA_VERSION, "fields", "forward_takes", "plugin_name", "plugin_namespace", "plugin_version")
)
REQUIRED = object()
# Name of a PluginFieldType that is written or read -> its format in the module struct.
FORMATS = {"INT8": "b", "INT32": "i", "INT64": "q", "FLOAT32": "f", "FLOAT64": "d", "CHAR": "b"}
# Kind -> the type that is written, and those that are read as well.
_TYPES = {
    "bool": ("INT8", ("INT32", "INT64")),
    "int": ("INT64", ("INT32",)),
    "float": ("FLOAT64", ("FLOAT32",)),
    "str": ("CHAR", ()),
    "ints": ("INT64", ("INT32",)),
    "floats": ("FLOAT64", ("FLOAT32",)),
}
_PYTHON = {
    "bool": "a bool",
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "ints": "a tuple of integers",
    "floats": "a tuple of numbers",
}
_EMPTY_TUPLE = b"()"
_INT64 = range(-(2**63), 2**63)
_Number = TypeVar("_Number", int, float)


def is_c_string(text: str) -> bool:
    """Whether C++ reads the same text: it is UTF-8, and ends where a NUL is."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


class Raw(NamedTuple):
    """A field as it stands in an engine.

    Attributes:
        type: Name of its `PluginFieldType`.
        data: Its bytes.
    """

    type: str
    data: bytes

    @property
    def length(self) -> int:
        """How many elements it has."""
        return len(self.data) // struct.calcsize(FORMATS[self.type])


@dataclasses.dataclass(frozen=True)
class Field:
    """One attribute of a plugin.

    Attributes:
        name: Its name.
        kind: ``"bool"``, ``"int"``, ``"float"``, ``"str"``, ``"ints"`` or ``"floats"``.
        default: What it is when absent; :data:`REQUIRED` when it must be there.
        optional: Whether it may be None, which is written by leaving it out.
        choices: Strings allowed.
        enum: Class of its values, which stand as their ``value``.
        length: How many elements a tuple has; None: any number.
    """

    name: str
    kind: str
    default: Any = REQUIRED
    optional: bool = False
    choices: tuple[str, ...] = ()
    enum: type[enum.Enum] | None = None
    length: int | None = None

    @property
    def type(self) -> str:
        """Name of the `PluginFieldType` that is written."""
        return _TYPES[self.kind][0]

    @property
    def listed_length(self) -> int:
        """The length that a creator lists: 0 where it varies."""
        if self.kind in ("ints", "floats"):
            return self.length or 0
        return 0 if self.kind == "str" else 1

    def check(self, value: Any) -> Any:
        """The value as the kind has it (an integer given for a float becomes one).

        Raises:
            TypeError: It is of another type.
            ValueError: It is none of the choices, or does not fit.
        """
        if value is None and self.optional:
            return None
        if self.enum is not None:
            if isinstance(value, self.enum):
                return value
            raise TypeError(f"{self.name} is {value!r}, expected a member of {self.enum.__name__}")
        checked = _CHECKS[self.kind](value)
        if checked is None:
            expected = _PYTHON[self.kind] + " or None" * self.optional
            raise TypeError(f"{self.name} is {value!r}, expected {expected}")
        self._check_range(checked)
        return checked

    def _check_range(self, value: Any) -> None:
        if self.choices and value not in self.choices:
            listed = ", ".join(map(repr, self.choices))
            raise ValueError(f"{self.name} is {value!r}, expected one of {listed}")
        if self.length is not None and len(value) != self.length:
            raise ValueError(f"{self.name} is {value!r}, expected {self.length} elements")
        integers = value if self.kind == "ints" else (value,) if self.kind == "int" else ()
        for integer in integers:
            if integer not in _INT64:
                raise ValueError(f"{self.name} is {integer}, which does not fit 64 bits")
        if self.kind == "str" and not is_c_string(value):
            raise ValueError(f"{self.name} is {value!r}, expected a string of UTF-8 without NUL")

    def encode(self, value: Any) -> Raw | None:
        """How a value stands in an engine; None: not at all, because it is None."""
        if value is None:
            return None
        value = value.value if self.enum is not None else value
        if self.kind == "str":
            return Raw("CHAR", value.encode() or b"\0")
        if self.kind in ("ints", "floats"):
            if not value:
                return Raw("CHAR", _EMPTY_TUPLE)
            return Raw(self.type, struct.pack(f"={len(value)}{FORMATS[self.type]}", *value))
        return Raw(self.type, struct.pack("=" + FORMATS[self.type], value))

    def decode(self, raw: Raw) -> Any:
        """The value that stands in an engine.

        Raises:
            TypeError: The field is of another type.
            ValueError: Its length or its value is wrong.
        """
        value = self._decode(raw)
        if self.enum is not None:
            try:
                return self.enum(value)
            except ValueError:
                listed = ", ".join(repr(member.value) for member in self.enum)
                raise ValueError(f"{self.name} is {value!r}, expected one of {listed}") from None
        self._check_range(value)
        return value

    def _decode(self, raw: Raw) -> Any:
        if self.kind in ("ints", "floats") and raw == ("CHAR", _EMPTY_TUPLE):
            return ()
        written, others = _TYPES[self.kind]
        if raw.type != written and raw.type not in others:
            expected = " or ".join((written, *others))
            raise TypeError(f"{self.name} is a field of type {raw.type}, expected {expected}")
        if self.kind == "str":
            try:
                return raw.data.rstrip(b"\0").decode()
            except UnicodeDecodeError:
                raise ValueError(f"{self.name} is {raw.data!r}, expected UTF-8") from None
        values = struct.unpack(f"={raw.length}{FORMATS[raw.type]}", raw.data)
        if self.kind in ("ints", "floats"):
            return values
        if len(values) != 1:
            raise ValueError(f"{self.name} is a field of length {len(values)}, expected 1")
        if self.kind != "bool":
            return values[0]
        if values[0] not in (0, 1):
            raise ValueError(f"{self.name} is {values[0]}, expected 0 or 1 for a bool")
        return bool(values[0])


def _checked_bool(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _checked_int(value: Any) -> int | None:
    wrong = isinstance(value, (bool, float)) or not hasattr(value, "__index__")
    return None if wrong else _number(operator.index, value)


def _checked_float(value: Any) -> float | None:
    wrong = isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__")
    return None if wrong else _number(float, value)


def _number(convert: Callable[[Any], _Number], value: Any) -> _Number | None:
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # arrays of several, say
        return None


def _checked_str(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _checked_all(check: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...] | None]:
    def checked(value: Any) -> tuple[Any, ...] | None:
        if not isinstance(value, (tuple, list)):
            return None
        values = tuple(check(v) for v in value)
        return None if None in values else values

    return checked


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "bool": _checked_bool,
    "int": _checked_int,
    "float": _checked_float,
    "str": _checked_str,
    "ints": _checked_all(_checked_int),
    "floats": _checked_all(_checked_float),
}


# ---- a plugin's fields --------------------------------------------------------------------------


def read(cls: type) -> tuple[Field, ...]:
    """The fields of a class of plugins: the parameters of its ``__init__``.

    Raises:
        TypeError: A parameter has no annotation, or one that no field can be.
    """
    init = cls.__init__  # type: ignore[misc]
    if init is object.__init__:
        return ()
    parameters = list(inspect.signature(init).parameters.values())[1:]
    try:
        hints = typing.get_type_hints(init)
    except (NameError, TypeError) as error:
        raise TypeError(f"{cls.__name__}.__init__: an annotation cannot be read: {error}") from None
    return tuple(_field(cls, parameter, hints) for parameter in parameters)


def _field(cls: type, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Field:
    where = f"{cls.__name__}.__init__: {parameter.name}"
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise TypeError(f"{where} takes any number of arguments, expected named attributes alone")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise TypeError(f"{where} is positional only, and a plugin is made from named attributes")
    if parameter.name in _RESERVED:
        raise TypeError(f"{where} is a name that every plugin has already")
    if callable(getattr(cls, parameter.name, None)):
        raise TypeError(f"{where} is the name of a method, which the attribute would hide")
    if parameter.name not in hints:
        raise TypeError(f"{where} has no annotation, expected {_ALLOWED}")
    hint, optional = _without_none(hints[parameter.name])
    kind, choices, enum_class = _kind(hint)
    if kind is None:
        raise TypeError(f"{where} is annotated {hint!r}, expected {_ALLOWED}")
    default = REQUIRED if parameter.default is parameter.empty else parameter.default
    if optional and default is not None:
        raise TypeError(f"{where} may be None, which is written by leaving it out: default None")
    arguments = typing.get_args(hint) if kind in ("ints", "floats") else ()
    length = len(arguments) if arguments and Ellipsis not in arguments else None
    field = Field(parameter.name, kind, REQUIRED, optional, choices, enum_class, length)
    for value in choices if enum_class is None else [member.value for member in enum_class]:
        try:
            field._check_range(value)
        except ValueError as error:
            raise TypeError(f"{cls.__name__}.__init__: a choice of {error}") from None
    if default is REQUIRED:
        return field
    try:
        return dataclasses.replace(field, default=field.check(default))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{cls.__name__}.__init__: the default of {error}") from None


_ALLOWED = (
    "bool, int, float, str, an Enum, Literal strings, tuple[int, ...] or tuple[float, ...], "
    "or one of them | None"
)


def _without_none(hint: Any) -> tuple[Any, bool]:
    arguments = typing.get_args(hint)
    union = typing.get_origin(hint) is Union or type(hint).__name__ == "UnionType"
    if not union or type(None) not in arguments:
        return hint, False
    rest = [a for a in arguments if a is not type(None)]
    return (rest[0], True) if len(rest) == 1 else (hint, False)


def _kind(hint: Any) -> tuple[str | None, tuple[str, ...], type[enum.Enum] | None]:
    if hint in (bool, int, float, str):
        return hint.__name__, (), None
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal and all(isinstance(a, str) for a in arguments):
        return "str", arguments, None
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        kinds = {type(member.value) for member in hint}
        if kinds in ({str}, {int}):
            return kinds.pop().__name__, (), hint
    element = {a for a in arguments if a is not Ellipsis}
    if typing.get_origin(hint) is tuple and len(element) == 1:
        return {int: "ints", float: "floats"}.get(element.pop()), (), None
    return None, (), None


def encode_all(
    fields: Sequence[Field], schema_version: int, values: Mapping[str, Any]
) -> list[tuple[str, Raw]]:
    """All fields of a plugin as they stand in an engine."""
    found = [(SCHEMA_VERSION, Raw("INT32", struct.pack("=i", schema_version)))]
    for field in fields:
        raw = field.encode(values[field.name])
        if raw is not None:
            found.append((field.name, raw))
    return found


def decode_all(
    name: str, fields: Sequence[Field], schema_version: int, raws: Iterable[tuple[str, Raw]]
) -> dict[str, Any]:
    """Values of all fields of a plugin, from what stands in an engine.

    Args:
        name: Of the plugin, for messages.
        fields: Those that it has.
        schema_version: The version that it reads.
        raws: What there is, in any order.

    Raises:
        TypeError: A field is of another type.
        ValueError: A field is unknown, twice or missing, has a wrong value, or the schema is of
            another version.
    """
    known = {field.name: field for field in fields}
    values: dict[str, Any] = {}
    version = Field(SCHEMA_VERSION, "int")
    for key, raw in raws:
        try:
            if key in values:
                raise ValueError(f"{key} is there twice")
            if key == SCHEMA_VERSION:
                values[key] = version.decode(raw)
            elif key in known:
                values[key] = known[key].decode(raw)
            else:
                raise ValueError(
                    f"there is no field {key!r}, expected {', '.join(known) or 'none'}"
                )
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
    found = values.pop(SCHEMA_VERSION, 1)
    if found != schema_version:
        raise ValueError(
            f"{name}: the fields are of schema version {found}, this plugin reads {schema_version}"
        )
    for field in fields:
        if field.name not in values:
            if field.default is REQUIRED:
                raise ValueError(f"{name}: the field {field.name} is missing")
            values[field.name] = field.default
    return values
