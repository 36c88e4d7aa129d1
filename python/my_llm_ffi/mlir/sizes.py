"""Sizes that a type does not know (``?``): what is compared becomes the same, as ops demand it."""

from __future__ import annotations

from typing import Any, Union

Given = Union[int, "Size"]


class Size:
    """A size that is known when a plan runs.

    `Op.infer` compares the sizes of an op's tensors; two that must be equal become one here. The
    text is read when all comparisons are done.

    Attributes:
        name: What the user calls it, if anything.
    """

    def __init__(
        self, name: str | None = None, *, made_of: tuple[str, Any, Any] | None = None
    ) -> None:
        self.name = name
        self._made_of = made_of
        self._same_as: Given | None = None

    def resolve(self) -> Given:
        """What it is, after all comparisons so far: a number, or the size that stands for it."""
        size: Given = self
        while isinstance(size, Size) and size._same_as is not None:
            size = size._same_as
        return size

    def __eq__(self, other: object) -> bool:
        mine, theirs = self.resolve(), _resolve(other)
        if mine is theirs:
            return True
        if not isinstance(mine, Size):
            mine, theirs = theirs, mine
        if not isinstance(mine, Size):
            return bool(mine == theirs)
        if isinstance(theirs, Size):
            if mine._is_settled and not theirs._is_settled:
                mine, theirs = theirs, mine
        elif type(theirs) is not int:
            return False
        if mine._made_of is None:
            mine._same_as = theirs
        return True  # the run compares what two expressions are

    __hash__ = object.__hash__

    @property
    def _is_settled(self) -> bool:
        return self.name is not None or self._made_of is not None

    def __add__(self, other: Any) -> Given:
        return _combine("+", self, other)

    def __radd__(self, other: Any) -> Given:
        return _combine("+", other, self)

    def __sub__(self, other: Any) -> Given:
        return _combine("-", self, other)

    def __rsub__(self, other: Any) -> Given:
        return _combine("-", other, self)

    def __mul__(self, other: Any) -> Given:
        return _combine("*", self, other)

    def __rmul__(self, other: Any) -> Given:
        return _combine("*", other, self)

    def __floordiv__(self, other: Any) -> Given:
        return _combine("//", self, other)

    def __rfloordiv__(self, other: Any) -> Given:
        return _combine("//", other, self)

    def __repr__(self) -> str:
        size = self.resolve()
        if not isinstance(size, Size):
            return str(size)
        if size._made_of is not None:
            operator, left, right = size._made_of
            return f"({left!r} {operator} {right!r})"
        return size.name or "?"


def _resolve(size: Any) -> Any:
    return size.resolve() if isinstance(size, Size) else size


def _combine(operator: str, left: Any, right: Any) -> Given:
    """A size made of others; itself where the other one changes nothing."""
    left, right = _resolve(left), _resolve(right)
    if right == 1 and type(right) is int and operator in ("*", "//"):
        return left  # type: ignore[no-any-return]
    if type(left) is int and type(right) is int:
        return {"+": left + right, "-": left - right, "*": left * right}.get(
            operator, left // right if right else 0
        )
    return Size(made_of=(operator, left, right))


def text(size: Given) -> int | str:
    """A size as a plan takes it: a number, a name, an expression.

    Raises:
        ValueError: Nothing gives it a name.
    """
    known = _resolve(size)
    if type(known) is int:
        return known
    said = repr(known)
    if "?" in said:
        raise ValueError("a size is ?, and no argument of the function has it")
    return said[1:-1] if said.startswith("(") else said
