"""Sizes that are not known yet, and the tensors of shape inference that have them.

A shape holds integers where the size is known, and :class:`Dim` where only the engine's run says
it. Expressions of them become TensorRT's `IDimensionExpr` at the end (:func:`lower`).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Callable, Union

from .dtypes import DType

Size = Union[int, "Dim"]
Key = tuple[Any, ...]
MAX_RANK = 8  # of TensorRT
# Where nothing says how many dimensions an input has: the usual ones first.
_RANKS = (2, 1, 3, 4, 0, 5, 6, 7, 8)
_MAX_RUNS, _MAX_QUESTIONS = 10_000, 256


class Undecidable(TypeError):
    """Inference took different ways for sizes that are not known, to different results."""


class Endless(Undecidable):
    """Inference asks too much to try every answer."""


class Trace:
    """Answers what inference cannot know yet: a way through it, which :func:`explore` varies."""

    def __init__(self, script: Sequence[int] = ()) -> None:
        """Begins with the answers of a script; those after it are 0."""
        self._script = script
        self._taken: list[tuple[int, int]] = []
        self._known: dict[Key, int] = {}
        self.questions: list[object] = []

    def choose(self, key: Key, options: int, question: object) -> int:
        """One of some options; the same for the same key."""
        if key not in self._known:
            at = len(self._taken)
            if at == _MAX_QUESTIONS:
                raise Endless(
                    f"inference asks more than {at} questions on sizes that only the engine's run "
                    "knows: does a loop wait for one of them?"
                )
            answer = self._script[at] if at < len(self._script) else 0
            self._taken.append((answer, options))
            self._known[key] = answer
            self.questions.append(question)
        return self._known[key]

    def next_script(self) -> list[int] | None:
        """The next way; None after the last."""
        taken = list(self._taken)
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return None
        return [answer for answer, _ in taken[:-1]] + [taken[-1][0] + 1]


def explore(run: Callable[[Trace], Any], *, every: bool) -> Any:
    """The result of inference over the answers that it does not raise an error for.

    Args:
        run: The inference; asks its trace.
        every: Look at all ways, which must have equal results; or take the first one.

    Raises:
        Undecidable: Results differ.
        Exception: What the inference raised, where every way ends in an error: that of the way
            which came farthest.
    """
    script: list[int] | None = []
    results: list[Any] = []
    errors: list[tuple[int, Exception]] = []
    runs = 0
    while script is not None and runs < _MAX_RUNS:
        trace, runs = Trace(script), runs + 1
        try:
            result = run(trace)
        except Endless:
            raise
        except Exception as error:
            errors.append((len(trace.questions), error))
        else:
            if not every:
                return result
            if results and result != results[0]:
                asked = "; ".join(map(str, trace.questions))
                raise Undecidable(
                    "the result depends on a condition on sizes that only the engine's run knows "
                    f"({asked}): use maximum, minimum, ceil_div or where"
                )
            results.append(result)
        script = trace.next_script()
    if results and script is not None:
        raise Endless(f"inference takes more than {runs} ways for sizes that are not known")
    if not results:
        raise max(errors, key=lambda pair: pair[0])[1]
    return results[0]


# ---- sizes --------------------------------------------------------------------------------------

_FOLD: dict[str, Callable[[int, int], int]] = {
    "SUM": operator.add,
    "PROD": operator.mul,
    "MAX": max,
    "MIN": min,
    "SUB": operator.sub,
    "EQUAL": lambda a, b: int(a == b),
    "LESS": lambda a, b: int(a < b),
    "FLOOR_DIV": operator.floordiv,
    "CEIL_DIV": lambda a, b: -(-a // b),
}
_SIGNS = {"SUM": "+", "PROD": "*", "SUB": "-", "EQUAL": "==", "LESS": "<", "FLOOR_DIV": "//"}


def apply(op: str, a: Size, b: Size) -> Size:
    """An operation of `tensorrt.DimensionOperation`; on numbers it is done at once."""
    for size in (a, b):
        if not isinstance(size, Dim) and (isinstance(size, bool) or not _is_integer(size)):
            raise TypeError(
                f"{size!r} is {type(size).__name__}, expected a size: an integer or Dim"
            )
    if not isinstance(a, Dim) and not isinstance(b, Dim):
        return _FOLD[op](operator.index(a), operator.index(b))
    if _key(a) == _key(b):
        if op in ("SUB", "LESS"):
            return 0
        if op == "EQUAL":
            return 1
        if op in ("MAX", "MIN"):
            return a
    if (op in ("SUM", "SUB") and _is(b, 0)) or (op in ("PROD", "FLOOR_DIV") and _is(b, 1)):
        return a
    if (op == "SUM" and _is(a, 0)) or (op == "PROD" and _is(a, 1)):
        return b
    trace = a.trace if isinstance(a, Dim) else b.trace  # type: ignore[union-attr]
    return Dim(op, (a, b), trace)


def _is_integer(value: Any) -> bool:
    return hasattr(value, "__index__")


def _is(size: Size, number: int) -> bool:
    return not isinstance(size, Dim) and size == number


def _key(size: Size) -> Key:
    return size.key if isinstance(size, Dim) else ("number", int(size))


class Dim:
    """A size that is not known yet: ``+ - * // %``, comparisons, and the functions below.

    A comparison in a condition (``if a != b: raise …``) is taken the way that raises no error, and
    looked at again when the sizes are known. A result that depends on the way taken is refused.
    """

    __slots__ = ("args", "key", "leaf", "name", "op", "trace")

    def __init__(
        self,
        op: str,
        args: tuple[Size, ...],
        trace: Trace,
        *,
        name: str = "",
        leaf: Any = None,
    ) -> None:
        """An expression; or, with the op ``"leaf"``, a size of an input.

        Args:
            op: Name of an operation of `tensorrt.DimensionOperation`, or ``"leaf"``.
            args: What it is of.
            trace: Who is asked for what is not known.
            name: Of a leaf.
            leaf: TensorRT's expression of a leaf.
        """
        self.op, self.args, self.trace, self.name, self.leaf = op, args, trace, name, leaf
        keys = [_key(a) for a in args]
        if op in ("EQUAL", "SUM", "PROD", "MAX", "MIN"):
            keys.sort(key=repr)
        self.key: Key = (op, name, *keys)

    def __repr__(self) -> str:
        if self.op == "leaf":
            return self.name
        if self.op in _SIGNS:
            return f"({self.args[0]!r} {_SIGNS[self.op]} {self.args[1]!r})"
        return f"{self.op.lower()}({', '.join(map(repr, self.args))})"

    def __add__(self, other: Size) -> Size:
        return apply("SUM", self, other)

    def __radd__(self, other: Size) -> Size:
        return apply("SUM", other, self)

    def __sub__(self, other: Size) -> Size:
        return apply("SUB", self, other)

    def __rsub__(self, other: Size) -> Size:
        return apply("SUB", other, self)

    def __mul__(self, other: Size) -> Size:
        return apply("PROD", self, other)

    def __rmul__(self, other: Size) -> Size:
        return apply("PROD", other, self)

    def __floordiv__(self, other: Size) -> Size:
        return apply("FLOOR_DIV", self, other)

    def __rfloordiv__(self, other: Size) -> Size:
        return apply("FLOOR_DIV", other, self)

    def __mod__(self, other: Size) -> Size:
        return self - self // other * other

    def __rmod__(self, other: Size) -> Size:
        return other - other // self * self

    def __neg__(self) -> Size:
        if self.op == "FLOOR_DIV":  # -(-a // b)
            above, below = self.args
            if isinstance(above, Dim) and above.op == "SUB" and _is(above.args[0], 0):
                return apply("CEIL_DIV", above.args[1], below)
        return apply("SUB", 0, self)

    def __eq__(self, other: Any) -> Any:
        return apply("EQUAL", self, other) if _is_size(other) else NotImplemented

    def __ne__(self, other: Any) -> Any:
        return apply("SUB", 1, apply("EQUAL", self, other)) if _is_size(other) else NotImplemented

    def __lt__(self, other: Size) -> Size:
        return apply("LESS", self, other)

    def __gt__(self, other: Size) -> Size:
        return apply("LESS", other, self)

    def __le__(self, other: Size) -> Size:
        return apply("SUB", 1, apply("LESS", other, self))

    def __ge__(self, other: Size) -> Size:
        return apply("SUB", 1, apply("LESS", self, other))

    def __hash__(self) -> int:
        return hash(self.key)

    def __bool__(self) -> bool:
        if self.op == "SUB" and _is(self.args[0], 1) and _is_comparison(self.args[1]):
            return not self.args[1]
        # 0 is the answer tried first: sizes are equal, none is less than another or empty.
        first = self.op != "LESS"
        chosen = self.trace.choose(self.key, 2, self)
        return first if chosen == 0 else not first

    def __index__(self) -> int:
        raise Undecidable(
            f"{self!r} is a size that only the engine's run knows, and no integer; compute with it"
        )

    __int__ = __index__


def _is_size(value: object) -> bool:
    return isinstance(value, Dim) or (_is_integer(value) and not isinstance(value, bool))


def _is_comparison(size: Size) -> bool:
    return isinstance(size, Dim) and size.op in ("EQUAL", "LESS")


def maximum(a: Size, b: Size) -> Size:
    """The larger of two sizes; the builtin ``max`` would have to know them."""
    return apply("MAX", a, b)


def minimum(a: Size, b: Size) -> Size:
    """The smaller of two sizes."""
    return apply("MIN", a, b)


def ceil_div(a: Size, b: Size) -> Size:
    """How many ``b`` cover ``a``."""
    return apply("CEIL_DIV", a, b)


def where(condition: Size, a: Size, b: Size) -> Size:
    """``a`` where a comparison holds, else ``b``; ``condition`` is 0 or 1."""
    if not isinstance(condition, Dim):
        is_bool = type(condition).__name__ in ("bool", "bool_")  # NumPy's are no integers
        if not (is_bool or _is_integer(condition)) or int(condition) not in (0, 1):
            raise TypeError(f"where: condition is {condition!r}, expected a comparison of sizes")
        condition = int(condition)
    return apply("SUM", b, apply("PROD", condition, apply("SUB", a, b)))


def lower(size: Size, builder: Any, operations: Any) -> Any:
    """TensorRT's expression of a size.

    Args:
        size: What to express.
        builder: `tensorrt.IExprBuilder`.
        operations: `tensorrt.DimensionOperation`.
    """
    if not isinstance(size, Dim):
        return builder.constant(int(size))
    if size.op == "leaf":
        return size.leaf
    a, b = (lower(arg, builder, operations) for arg in size.args)
    return builder.operation(getattr(operations, size.op), a, b)


# ---- tensors ------------------------------------------------------------------------------------


class SymTensor:
    """Dtype and shape of a tensor, before there is one.

    Attributes:
        dtype: Its dtype, a :class:`DType`.
    """

    __slots__ = ("_shape", "dtype")

    def __init__(self, dtype: Any, shape: Sequence[Size] | Callable[[], list[Size]]) -> None:
        """A tensor of shape inference.

        Args:
            dtype: Of this package, torch, NumPy or TensorRT, or a name.
            shape: Sizes: integers, or expressions of the inputs' sizes.
        """
        self.dtype = DType(dtype)
        if callable(shape):
            self._shape: Any = shape
            return
        try:
            self._shape = list(shape)
        except TypeError:
            raise TypeError(f"SymTensor: shape is {shape!r}, expected a list of sizes") from None
        for size in self._shape:
            if not _is_size(size):
                raise TypeError(f"SymTensor: shape holds {size!r}, expected integers and Dims")

    @property
    def shape(self) -> list[Size]:
        """Its sizes: a new list each time, yours to change."""
        return self._shape() if callable(self._shape) else list(self._shape)

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    def __repr__(self) -> str:
        return f"SymTensor({self.dtype}, {self.shape})"


def sizes(name: str, shape: Sequence[Any] | None, trace: Trace) -> Callable[[], list[Size]]:
    """The shape of an input, of which only some is known.

    Args:
        name: Of the input, for messages.
        shape: A number, None (not known) or TensorRT's expression per dimension; None: not even
            their number is known.
        trace: Who is asked for what is not known.
    """

    def leaf(axis: int, expression: Any) -> Dim:
        return Dim("leaf", (), trace, name=f"{name}.shape[{axis}]", leaf=expression)

    def made() -> list[Size]:
        known = shape
        if known is None:
            key = ("rank", name)
            rank = _RANKS[trace.choose(key, len(_RANKS), f"the number of dimensions of {name}")]
            known = [None] * rank
        return [s if type(s) is int else leaf(axis, s) for axis, s in enumerate(known)]

    return made
