"""Arguments of the wrong type, refused by name before they reach the library."""

from __future__ import annotations

import numbers
import operator
from typing import Any

INT64_MAX = 2**63 - 1


def as_number(name: str, value: Any) -> float:
    """Returns ``value`` as a float; TypeError naming the argument for anything but a number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {type(value).__name__}, expected a number")
    return float(value)


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


def as_range(p0: Any, p1: Any) -> tuple[int, int | None]:
    """Returns the positions of a range as integers; no ``p1``: to the end."""
    return as_count("p0", p0), None if p1 is None else as_count("p1", p1)


def goes_on(answer: Any) -> bool:
    """Whether a progress callback's answer lets the work go on: anything but a kind of False."""
    return answer is None or bool(answer)
