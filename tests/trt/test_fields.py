"""Fields: from annotations, to bytes and back, and what is refused on the way."""

from __future__ import annotations

import enum
import math
import struct
from typing import Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from my_llm_ffi.tensorrt.fields import REQUIRED, Field, Raw, decode_all, encode_all, read


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


int64 = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(allow_nan=False)
text = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)))
VALUES = {
    Field("a_bool", "bool"): st.booleans(),
    Field("an_int", "int"): int64,
    Field("a_float", "float"): finite,
    Field("a_str", "str"): text,
    Field("a_choice", "str", choices=("x", "y")): st.sampled_from(("x", "y")),
    Field("a_mode", "str", enum=Mode): st.sampled_from(Mode),
    Field("a_level", "int", enum=Level): st.sampled_from(Level),
    Field("ints", "ints"): st.lists(int64, max_size=5).map(tuple),
    Field("floats", "floats"): st.lists(finite, max_size=5).map(tuple),
    Field("pair", "ints", length=2): st.tuples(int64, int64),
    Field("maybe", "float", None, True): st.none() | finite,
}


@given(st.fixed_dictionaries({field.name: values for field, values in VALUES.items()}))
def test_round_trip(values: dict[str, Any]) -> None:
    fields = tuple(VALUES)
    checked = {field.name: field.check(values[field.name]) for field in fields}
    raws = encode_all(fields, 3, checked)
    assert all(raw.length > 0 for _, raw in raws)  # TensorRT never meets an empty field
    found = decode_all("P", fields, 3, reversed(raws))
    assert found == values
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in values.items()}


def test_bytes_are_those_of_the_contract():
    fields = [Field("flag", "bool"), Field("n", "int"), Field("eps", "float"), Field("s", "str")]
    fields += [Field("empty", "str"), Field("sizes", "ints"), Field("none", "int", None, True)]
    values = {"flag": True, "n": -2, "eps": 0.5, "s": "é", "empty": "", "sizes": (), "none": None}
    assert encode_all(fields, 1, values) == [
        ("schema_version", Raw("INT32", b"\1\0\0\0")),
        ("flag", Raw("INT8", b"\1")),
        ("n", Raw("INT64", b"\xfe" + b"\xff" * 7)),
        ("eps", Raw("FLOAT64", struct.pack("<d", 0.5))),
        ("s", Raw("CHAR", b"\xc3\xa9")),
        ("empty", Raw("CHAR", b"\0")),
        ("sizes", Raw("CHAR", b"()")),
    ]


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        ("bool", Raw("INT32", struct.pack("=i", 1)), True),
        ("bool", Raw("INT64", struct.pack("=q", 0)), False),
        ("int", Raw("INT32", struct.pack("=i", -5)), -5),
        ("float", Raw("FLOAT32", struct.pack("=f", 0.25)), 0.25),
        ("str", Raw("CHAR", b"tanh\0"), "tanh"),
        ("ints", Raw("INT32", struct.pack("=2i", 1, 2)), (1, 2)),
        ("floats", Raw("FLOAT32", struct.pack("=2f", 1, 2)), (1.0, 2.0)),
    ],
)
def test_what_an_onnx_file_or_cpp_writes_is_read(kind: str, raw: Raw, value: Any):
    assert Field("f", kind).decode(raw) == value


WRONG = [
    ("bool", Raw("INT8", b"\2"), ValueError, "f is 2, expected 0 or 1"),
    ("bool", Raw("FLOAT32", b"\0" * 4), TypeError, "type FLOAT32, expected INT8"),
    ("int", Raw("INT64", b"\0" * 16), ValueError, "length 2, expected 1"),
    ("int", Raw("INT64", b""), ValueError, "length 0, expected 1"),
    ("int", Raw("FLOAT64", b"\0" * 8), TypeError, "type FLOAT64, expected INT64 or INT32"),
    ("float", Raw("INT64", b"\0" * 8), TypeError, "expected FLOAT64 or FLOAT32"),
    ("str", Raw("INT8", b"a"), TypeError, "expected CHAR"),
    ("str", Raw("CHAR", b"\xff"), ValueError, "expected UTF-8"),
    ("ints", Raw("CHAR", b"x"), TypeError, "expected INT64"),
]


@pytest.mark.parametrize(("kind", "raw", "error", "said"), WRONG)
def test_a_wrong_field_is_refused(kind: str, raw: Raw, error: Any, said: str):
    with pytest.raises(error, match=f"^P: .*{said}"):
        decode_all("P", [Field("f", kind)], 1, [("f", raw)])


def test_unknown_missing_and_doubled_fields_and_versions_are_refused():
    n, one = Field("n", "int"), Raw("INT64", struct.pack("=q", 1))
    with pytest.raises(ValueError, match="P: there is no field 'm', expected n"):
        decode_all("P", [n], 1, [("m", one)])
    with pytest.raises(ValueError, match="P: the field n is missing"):
        decode_all("P", [n], 1, [])
    with pytest.raises(ValueError, match="P: n is there twice"):
        decode_all("P", [n], 1, [("n", one), ("n", one)])
    two = Raw("INT32", struct.pack("=i", 2))
    with pytest.raises(ValueError, match="schema version 2, this plugin reads 1"):
        decode_all("P", [n], 1, [("n", one), ("schema_version", two)])
    choice = Field("c", "str", choices=("x", "y"))
    with pytest.raises(ValueError, match="P: c is 'z', expected one of 'x', 'y'"):
        decode_all("P", [choice], 1, [("c", Raw("CHAR", b"z"))])
    pair = Field("p", "ints", length=2)
    with pytest.raises(ValueError, match=r"P: p is \(1,\), expected 2 elements"):
        decode_all("P", [pair], 1, [("p", one)])
    with pytest.raises(ValueError, match="expected one of 'fast', 'slow'"):
        decode_all("P", [Field("m", "str", enum=Mode)], 1, [("m", Raw("CHAR", b"z"))])


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        (Field("f", "bool"), 1, TypeError),
        (Field("f", "int"), True, TypeError),
        (Field("f", "int"), 1.0, TypeError),
        (Field("f", "int"), 2**63, ValueError),
        (Field("f", "int"), None, TypeError),
        (Field("f", "float"), "1", TypeError),
        (Field("f", "float"), False, TypeError),
        (Field("f", "str"), b"a", TypeError),
        (Field("f", "str"), "a\0b", ValueError),
        (Field("f", "str", choices=("x",)), "y", ValueError),
        (Field("f", "str", enum=Mode), "fast", TypeError),
        (Field("f", "ints"), 3, TypeError),
        (Field("f", "ints"), (1, 2.5), TypeError),
        (Field("f", "ints"), (2**63,), ValueError),
        (Field("f", "floats"), ("a",), TypeError),
        (Field("f", "floats", length=2), (1.0,), ValueError),
    ],
)
def test_a_wrong_value_is_refused(field: Field, value: Any, error: Any):
    with pytest.raises(error, match=r"^f is "):
        field.check(value)


def test_a_number_for_a_float_is_one():
    assert math.isinf(Field("f", "float").check(float("inf")))
    assert Field("f", "float").check(3) == 3.0 and type(Field("f", "float").check(3)) is float


def test_annotations_become_fields():
    class Plugin:
        def __init__(
            self,
            flag: bool,
            n: int = 3,
            eps: float = 1,
            name: str = "x",
            mode: Mode = Mode.FAST,
            how: Literal["a", "b"] = "a",
            sizes: tuple[int, ...] = (1, 2),
            scales: tuple[float, float] = (1.0, 2.0),
            scale: Optional[float] = None,  # noqa: UP045
        ) -> None: ...

    assert read(Plugin) == (
        Field("flag", "bool"),
        Field("n", "int", 3),
        Field("eps", "float", 1.0),
        Field("name", "str", "x"),
        Field("mode", "str", Mode.FAST, enum=Mode),
        Field("how", "str", "a", choices=("a", "b")),
        Field("sizes", "ints", (1, 2)),
        Field("scales", "floats", (1.0, 2.0), length=2),
        Field("scale", "float", None, True),
    )
    assert read(Plugin)[0].default is REQUIRED
    assert read(type("Plain", (), {})) == ()


def plain(self: Any, x): ...
def any_number(self: Any, *x: int): ...
def mapping(self: Any, x: dict): ...
def bad_default(self: Any, x: int = "a"): ...  # type: ignore[assignment]
def not_none(self: Any, x: Optional[int] = 3): ...  # noqa: UP045
def reserved(self: Any, schema_version: int): ...
def unknown(self: Any, x: NoSuchType): ...  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    ("init", "said"),
    [
        (plain, "x has no annotation, expected bool, int"),
        (any_number, "takes any number of arguments"),
        (mapping, "is annotated <class 'dict'>, expected bool, int"),
        (bad_default, "the default of x is 'a', expected an integer"),
        (not_none, "x may be None, which is written by leaving it out: default None"),
        (reserved, "every plugin has already"),
        (unknown, "an annotation cannot be read: name 'NoSuchType'"),
    ],
)
def test_an_annotation_that_is_no_field_is_refused(init: Any, said: str):
    with pytest.raises(TypeError, match=said):
        read(type("Plugin", (), {"__init__": init}))


class Huge(enum.Enum):
    ALL = 2**70


class HidesAMethod:
    def clone(self) -> None: ...

    def __init__(self, clone: int = 1) -> None: ...


class Positional:
    def __init__(self, n: int, /) -> None: ...


class OfHuge:
    def __init__(self, n: Huge = Huge.ALL) -> None: ...


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (HidesAMethod, "clone is the name of a method"),
        (Positional, "n is positional only"),
        (OfHuge, "a choice of n is .* does not fit 64 bits"),
    ],
)
def test_attributes_that_no_plugin_could_have(cls: type, said: str):
    with pytest.raises(TypeError, match=f"{cls.__name__}.__init__: {said}"):
        read(cls)


def test_values_that_no_field_could_hold():
    with pytest.raises(TypeError, match=r"x is 10.*, expected a number"):
        Field("x", "float").check(10**400)
    with pytest.raises(ValueError, match=r"s is .*, expected a string of UTF-8"):
        Field("s", "str").check("\ud800")
