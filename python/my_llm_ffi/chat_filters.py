"""Filters, tests and methods that a chat template may use; counterpart: chat_sandbox.py.

They mean what Jinja2's own mean, and each pays for its result before it makes it. Sequences come
back as lists, never as iterators, so that every value in a template has a size. Those of text are
in chat_text.py.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from jinja2 import Undefined
from jinja2.exceptions import FilterArgumentError

from .chat_budget import ChatTemplateError, size_of
from .chat_text import LIST_ITEM_BYTES, STR_METHODS, TEXT_FILTERS, str_join, to_text

if TYPE_CHECKING:
    from .chat_sandbox import ChatEnvironment

_NUMBER_TEXT = 64  # longest text that int and float look at
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
}


# ---- numbers ---------------------------------------------------------------------------------


def _int(env: ChatEnvironment, value: Any, default: Any = 0, base: int = 10) -> Any:
    if type(value) is str and len(value) > _NUMBER_TEXT:
        return default
    try:
        return int(value, base) if type(value) is str else int(value)
    except (TypeError, ValueError, OverflowError):
        try:
            return int(float(value))
        except (TypeError, ValueError, OverflowError):
            return default


def _float(env: ChatEnvironment, value: Any, default: Any = 0.0) -> Any:
    if type(value) is str and len(value) > _NUMBER_TEXT:
        return default
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return default


def _round(env: ChatEnvironment, value: Any, precision: int = 0, method: str = "common") -> Any:
    if method not in ("common", "ceil", "floor"):
        raise FilterArgumentError("method must be common, ceil or floor")
    if abs(precision) > 30:
        raise ChatTemplateError(f"round: a precision of {precision} is more than 30")
    if method == "common":
        return round(value, precision)
    return getattr(math, method)(value * 10**precision) / 10**precision


# ---- sequences -------------------------------------------------------------------------------


def _sort_key(env: ChatEnvironment, attribute: Any, case_sensitive: bool) -> Callable[[Any], Any]:
    parts = [] if attribute is None else to_text(env, attribute).split(",")
    reads = [env.reader(part) for part in parts]

    def fold(value: Any) -> Any:
        if type(value) is not str or case_sensitive:
            return value
        env.budget.spend(4 * len(value))
        return value.lower()

    def key(item: Any) -> Any:
        return [fold(read(item)) for read in reads] if reads else fold(item)

    return key


def _sort(
    env: ChatEnvironment,
    value: Any,
    reverse: bool = False,
    case_sensitive: bool = False,
    attribute: Any = None,
) -> list[Any]:
    items = list(env.items(value))
    env.budget.measure(items)
    return sorted(items, key=_sort_key(env, attribute, case_sensitive), reverse=bool(reverse))


def _dictsort(
    env: ChatEnvironment,
    value: dict[Any, Any],
    case_sensitive: bool = False,
    by: str = "key",
    reverse: bool = False,
) -> list[Any]:
    if by not in ("key", "value"):
        raise FilterArgumentError("You can only sort by either 'key' or 'value'")
    return _sort(env, _items(env, value), reverse, case_sensitive, int(by == "value"))


def _unique(
    env: ChatEnvironment, value: Any, case_sensitive: bool = False, attribute: Any = None
) -> list[Any]:
    key = _sort_key(env, attribute, case_sensitive)
    found: dict[Any, Any] = {}
    for item in env.items(value):
        found.setdefault(env.hashable(key(item)), item)
    return list(found.values())


def _extreme(choose: Callable[..., Any]) -> Callable[..., Any]:
    def pick(
        env: ChatEnvironment, value: Any, case_sensitive: bool = False, attribute: Any = None
    ) -> Any:
        items = list(env.items(value))
        env.budget.measure(items)
        if not items:
            return env.undefined("No aggregated item, sequence was empty.")
        return choose(items, key=_sort_key(env, attribute, case_sensitive))

    return pick


def _sum(env: ChatEnvironment, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    read, total = env.reader(attribute), start
    for item in env.items(value):
        total = env.add(total, read(item))
    return total


def _map(env: ChatEnvironment, value: Any, /, *args: Any, **kwargs: Any) -> list[Any]:
    if not args and "attribute" in kwargs:
        apply = env.reader(kwargs.pop("attribute"), kwargs.pop("default", None))
    elif args and type(args[0]) is str and args[0] in env.filters:
        named: Any = env.filters[args[0]]
        apply = partial(_applied, named, args[1:], dict(kwargs))
        kwargs = {}
    else:
        raise FilterArgumentError("map requires the name of a known filter, or attribute=")
    if kwargs:
        raise FilterArgumentError(f"map got an unexpected argument {next(iter(kwargs))!r}")
    return [apply(item) for item in env.items(value)]


def _applied(fn: Callable[..., Any], args: Any, kwargs: dict[str, Any], item: Any) -> Any:
    return fn(item, *args, **kwargs)


def _choose(env: ChatEnvironment, value: Any, wanted: bool, read: Any, test: Any) -> list[Any]:
    name, *rest = test or ["true value"]
    if test and (type(name) is not str or name not in env.tests):
        raise FilterArgumentError("no such test")
    tests: dict[str, Any] = env.tests
    passes = partial(_applied, tests[name], rest, {}) if test else bool
    return [item for item in env.items(value) if bool(passes(read(item))) == wanted]


def _select(env: ChatEnvironment, value: Any, *test: Any) -> list[Any]:
    return _choose(env, value, True, env.reader(None), test)


def _reject(env: ChatEnvironment, value: Any, *test: Any) -> list[Any]:
    return _choose(env, value, False, env.reader(None), test)


def _selectattr(env: ChatEnvironment, value: Any, attribute: Any, *test: Any) -> list[Any]:
    return _choose(env, value, True, env.reader(attribute), test)


def _rejectattr(env: ChatEnvironment, value: Any, attribute: Any, *test: Any) -> list[Any]:
    return _choose(env, value, False, env.reader(attribute), test)


def _first(env: ChatEnvironment, value: Any) -> Any:
    return next(env.items(value), env.undefined("No first item, sequence was empty."))


def _last(env: ChatEnvironment, value: Any) -> Any:
    return next(env.items(value, backwards=True), env.undefined("No last item, sequence was empty"))


def _reverse(env: ChatEnvironment, value: Any) -> Any:
    if type(value) is str:
        env.budget.spend(2 * size_of(value))
        return value[::-1]
    return list(env.items(value, backwards=True))


def _items(env: ChatEnvironment, value: Any) -> list[Any]:
    if isinstance(value, Undefined):
        return []
    if type(value) is not dict:
        raise TypeError("Can only get item pairs from a mapping.")
    env.budget.spend(2 * LIST_ITEM_BYTES * len(value))
    return list(value.items())


def _default(env: ChatEnvironment, value: Any, fallback: Any = "", boolean: bool = False) -> Any:
    return fallback if isinstance(value, Undefined) or (boolean and not value) else value


# ---- what the transformed tree calls (chat_sandbox.py) -----------------------------------------


def compare(env: ChatEnvironment, left: Any, *rest: Any) -> Any:
    """``left op value op value …``: both sides are measured before they are compared."""
    result: Any = True
    for op, right in zip(rest[::2], rest[1::2]):
        result = _compare_two(env, op, left, right)
        if not result:
            return result
        left = right
    return result


def _compare_two(env: ChatEnvironment, op: str, left: Any, right: Any) -> Any:
    env.budget.step()
    if op in ("in", "notin"):
        return _contains(env, right, left) == (op == "in")
    for side in (left, right):
        if type(side) in (list, tuple, dict):
            env.budget.measure(side)
        elif type(side) is str:
            env.budget.spend(len(side) // 16)
    return _COMPARISONS[op](left, right)


def _contains(env: ChatEnvironment, box: Any, item: Any) -> bool:
    if type(box) is str and type(item) is str:
        env.budget.search(box, item)
    elif type(box) is dict:
        env.hashable(item)
    elif type(box) in (list, tuple):
        env.budget.measure(box)
        env.budget.measure(item)
    elif type(box) is range and type(item) is not int:
        return False
    return item in box


def dictionary(env: ChatEnvironment, _: None, *parts: Any) -> dict[Any, Any]:
    """``{key: value, …}`` from keys and values in turn."""
    env.budget.step()
    env.budget.spend(LIST_ITEM_BYTES * (2 + len(parts)))
    return dict(zip(map(env.hashable, parts[::2]), parts[1::2]))


def literal(env: ChatEnvironment, value: Any) -> Any:
    """Pays for a list or tuple that the template wrote out."""
    env.budget.step()
    env.budget.spend(LIST_ITEM_BYTES + 8 * len(value))
    return value


def concatenate(env: ChatEnvironment, parts: Sequence[Any]) -> str:
    """``a ~ b ~ …``."""
    return str_join(env, "", [to_text(env, part) for part in parts])


def cut(env: ChatEnvironment, value: Any, start: Any, stop: Any, step: Any) -> Any:
    """``value[start:stop:step]``."""
    if type(value) is str:
        env.budget.spend(size_of(value))
    elif type(value) in (list, tuple):
        env.budget.spend(LIST_ITEM_BYTES + 8 * len(value))
    elif type(value) is not range:
        raise TypeError(f"a {type(value).__name__} cannot be sliced")
    env.budget.step()
    return value[start:stop:step]


# ---- methods ---------------------------------------------------------------------------------


def _seek(name: str) -> Callable[..., Any]:
    """The index and count methods of lists and tuples."""

    def call(env: ChatEnvironment, items: Any, wanted: Any) -> Any:
        env.budget.measure(items)
        env.budget.measure(wanted)
        return getattr(items, name)(wanted)

    return call


def _get(env: ChatEnvironment, mapping: dict[Any, Any], key: Any, default: Any = None) -> Any:
    return mapping.get(env.hashable(key), default)


def _list(env: ChatEnvironment, value: Any) -> list[Any]:
    items = list(env.items(value))
    env.budget.spend(LIST_ITEM_BYTES + 8 * len(items))
    return items


def _copy(env: ChatEnvironment, mapping: dict[Any, Any]) -> dict[Any, Any]:
    env.budget.spend(2 * LIST_ITEM_BYTES * len(mapping))
    return dict(mapping)


_SEQUENCE_METHODS = {"index": _seek("index"), "count": _seek("count")}

METHODS: dict[type, dict[str, Callable[..., Any]]] = {
    str: STR_METHODS,
    dict: {
        "copy": _copy,
        "get": _get,
        "items": _items,
        "keys": _list,
        "values": lambda env, mapping: _list(env, list(mapping.values())),
    },
    list: {**_SEQUENCE_METHODS, "copy": _list},
    tuple: _SEQUENCE_METHODS,
}

FILTERS: dict[str, Callable[..., Any]] = {
    **TEXT_FILTERS,
    "abs": lambda env, value: abs(value),
    "attr": lambda env, value, name: env.getattr(value, to_text(env, name)),
    "count": lambda env, value: len(value),
    "d": _default,
    "default": _default,
    "dictsort": _dictsort,
    "first": _first,
    "float": _float,
    "int": _int,
    "items": _items,
    "last": _last,
    "length": lambda env, value: len(value),
    "list": _list,
    "map": _map,
    "max": _extreme(max),
    "min": _extreme(min),
    "reject": _reject,
    "rejectattr": _rejectattr,
    "reverse": _reverse,
    "round": _round,
    "select": _select,
    "selectattr": _selectattr,
    "sort": _sort,
    "sum": _sum,
    "unique": _unique,
}


def _comparing(op: str) -> Callable[..., Any]:
    return lambda env, left, right: _compare_two(env, op, left, right)


def _remainder(env: ChatEnvironment, value: Any, divisor: Any) -> bool:
    if not isinstance(value, (int, float)):
        raise TypeError(f"a {type(value).__name__} is not a number")
    return bool(value % divisor == 0)


TESTS: dict[str, Callable[..., Any]] = {
    **{name: _comparing("eq") for name in ("eq", "==", "equalto")},
    **{name: _comparing("ne") for name in ("ne", "!=")},
    **{name: _comparing("lt") for name in ("lt", "<", "lessthan")},
    **{name: _comparing("lteq") for name in ("le", "<=")},
    **{name: _comparing("gt") for name in ("gt", ">", "greaterthan")},
    **{name: _comparing("gteq") for name in ("ge", ">=")},
    "in": _comparing("in"),
    "boolean": lambda env, value: value is True or value is False,
    "callable": lambda env, value: callable(value),
    "defined": lambda env, value: not isinstance(value, Undefined),
    "divisibleby": _remainder,
    "even": lambda env, value: _remainder(env, value, 2),
    "false": lambda env, value: value is False,
    "float": lambda env, value: type(value) is float,
    "integer": lambda env, value: type(value) is int,
    "iterable": lambda env, value: isinstance(value, (str, list, tuple, dict, range, Undefined)),
    "lower": lambda env, value: type(value) is str and value.islower(),
    "mapping": lambda env, value: type(value) is dict,
    "none": lambda env, value: value is None,
    "number": lambda env, value: isinstance(value, (int, float)),
    "odd": lambda env, value: not _remainder(env, value, 2),
    "sameas": lambda env, value, other: value is other,
    "sequence": lambda env, value: isinstance(value, (str, list, tuple, dict, range, Undefined)),
    "string": lambda env, value: type(value) is str,
    "true": lambda env, value: value is True,
    "undefined": lambda env, value: isinstance(value, Undefined),
    "upper": lambda env, value: type(value) is str and value.isupper(),
}
