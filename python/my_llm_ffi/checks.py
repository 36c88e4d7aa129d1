"""Arguments of the wrong type, refused by name before they reach the library."""

from __future__ import annotations

import numbers
import operator
import os
from collections.abc import Mapping, Set
from typing import Any

INT64_MAX = 2**63 - 1
_FLOAT32_MAX = 2.0**128 - 2.0**104


def is_too_large(value: Any) -> bool:
    """Whether an integer does not fit 64 bits."""
    return type(value) is int and not -INT64_MAX - 1 <= value <= INT64_MAX


def as_number(name: str, value: Any) -> float:
    """Returns ``value`` as a float; TypeError or OverflowError naming the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {type(value).__name__}, expected a number")
    try:
        return float(value)
    except OverflowError:
        raise OverflowError(f"{name} does not fit a float") from None


def as_float32(name: str, value: Any) -> float:
    """Returns ``value`` as a float that float32 does not make infinite; else as `as_number`.

    Raises:
        ValueError: It would; names the argument.
    """
    number = as_number(name, value)
    if _FLOAT32_MAX < abs(number) < float("inf"):
        raise ValueError(f"{name} is {number}, expected a finite number of float32")
    return number


def as_flag(name: str, value: Any) -> bool:
    """Returns ``value``; TypeError naming the argument where it is no bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {type(value).__name__}, expected bool")
    return value


def as_count(name: str, value: Any) -> int:
    """Returns ``value`` as a 64-bit integer; TypeError or OverflowError naming the argument."""
    if isinstance(value, bool):
        raise TypeError(f"{name} is bool, expected an integer")
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {type(value).__name__}, expected an integer") from None
    if not -INT64_MAX <= count <= INT64_MAX:
        raise OverflowError(f"{name} is {count}, which does not fit 64 bits")
    return count


def as_ids(name: str, values: Any, *, expected: str) -> list[int]:
    """Returns ids of anything with an order, an array too; TypeError naming the argument.

    Args:
        name: Of the argument.
        values: What was given.
        expected: What it should be, for the message.
    """
    wrong = isinstance(values, (str, bytes, bytearray, Mapping, Set))
    try:
        ids = None if wrong else iter(values)
    except TypeError:  # an array without dimensions is iterable, and is not
        ids = None
    if ids is None:
        raise TypeError(f"{name} is {type(values).__name__}, expected {expected}")
    return [as_count(f"an item of {name}", value) for value in ids]


def as_range(p0: Any, p1: Any) -> tuple[int, int | None]:
    """Returns the positions of a range as integers; no ``p1``: to the end."""
    return as_count("p0", p0), None if p1 is None else as_count("p1", p1)


def as_path(name: str, value: Any) -> bytes:
    """Returns a path as the system has it: any bytes, because a name need not be UTF-8.

    Raises:
        TypeError: It is no path; names the argument.
        ValueError: It is text that no name of a file can be.
    """
    try:
        return os.fsencode(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{name} is {kind}, expected str, bytes or os.PathLike") from None
    except UnicodeEncodeError as error:
        bad, encoding = error.object[error.start], error.encoding
        raise ValueError(
            f"{name} holds {bad!a} at {error.start}, expected the name of a file in {encoding}"
        ) from None


def as_utf8(name: str, text: Any) -> bytes:
    """Returns ``text`` in UTF-8; TypeError or ValueError naming the argument where it has none."""
    if not isinstance(text, str):
        raise TypeError(f"{name} is {type(text).__name__}, expected str")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} holds {text[error.start]!a} at {error.start}, half of a surrogate pair or a "
            "byte that was not decoded; expected text that UTF-8 can hold"
        ) from None


def goes_on(answer: Any) -> bool:
    """Whether a progress callback's answer lets the work go on: anything but a kind of False."""
    return answer is None or bool(answer)
