"""Sizes that are not known yet: their arithmetic, and inference that asks about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trt.fakes import Builder, Expression, Operations

from my_llm_ffi.tensorrt import SymTensor, Undecidable, ceil_div, maximum, minimum, where
from my_llm_ffi.tensorrt.symbolic import Dim, Trace, explore, lower, sizes

NAMES = ("a", "b", "c")
FUNCTIONS = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "//": lambda x, y: x // y,
    "%": lambda x, y: x % y,
    "max": maximum,
    "min": minimum,
    "ceil": ceil_div,
    "up": lambda x, y: -(-x // y),
    "less": lambda x, y: where(x < y, x, 7),
    "equal": lambda x, y: where(x == y, 3, y),
    "not": lambda x, y: where(x != y, 3, y),
    "at most": lambda x, y: where(x <= y, x, y),
    "at least": lambda x, y: where(x >= y, y + 1, x),
}
DIVISIONS = ("//", "%", "ceil", "up")


def leaf(name: str, trace: Trace | None = None) -> Dim:
    return Dim("leaf", (), trace or Trace(), name=name, leaf=Expression("name", (name,)))


def lowered(size: Any, names: dict[str, int]) -> int:
    return lower(size, Builder(), Operations()).value(names)


trees = st.recursive(
    st.sampled_from(NAMES) | st.integers(0, 9),
    lambda inner: st.tuples(st.sampled_from(sorted(FUNCTIONS)), inner, inner),
    max_leaves=8,
)


def evaluate(tree: Any, leaves: dict[str, Any]) -> Any:
    """The tree's value: of numbers, or of symbols; None: it divides by what is not positive."""
    if not isinstance(tree, tuple):
        return leaves.get(tree, tree) if isinstance(tree, str) else tree
    name, first, second = tree
    return FUNCTIONS[name](evaluate(first, leaves), evaluate(second, leaves))


def divides_well(tree: Any, leaves: dict[str, int]) -> bool:
    """Whether all divisions are of 0 or more by more than 0, as sizes are."""
    if not isinstance(tree, tuple):
        return True
    if not all(divides_well(part, leaves) for part in tree[1:]):
        return False
    above, below = (evaluate(part, leaves) for part in tree[1:])
    return tree[0] not in DIVISIONS or (above >= 0 and below > 0)


@settings(max_examples=300, deadline=None)
@given(tree=trees, values=st.tuples(*[st.integers(0, 20)] * 3))
def test_an_expression_is_what_python_computes(tree: Any, values: Sequence[int]) -> None:
    numbers = dict(zip(NAMES, values))
    if not divides_well(tree, numbers):
        return
    symbolic = evaluate(tree, {name: leaf(name) for name in NAMES})
    assert lowered(symbolic, numbers) == evaluate(tree, numbers)


def test_numbers_are_computed_at_once():
    n = leaf("n")
    assert n + 0 is n and 1 * n is n and n // 1 is n and n - 0 is n and maximum(n, n) is n
    assert type(ceil_div(7, 2)) is int and ceil_div(7, 2) == 4
    assert n - leaf("n") == 0 and bool(n == leaf("n")) is True
    assert (n * 2 + 1).key == (1 + n * 2).key


def test_a_cover_by_negated_floor_division_is_one_operation():
    n = leaf("n")
    assert (-(-n // 16)).op == "CEIL_DIV"  # TensorRT does not say how it rounds below zero


@pytest.mark.parametrize("wrong", [1.5, "3", None, True])
def test_a_size_is_an_integer(wrong: Any):
    with pytest.raises(TypeError, match="expected a size"):
        leaf("n") + wrong


def test_an_unknown_size_is_no_integer():
    with pytest.raises(Undecidable, match=r"x\.shape\[0\] is a size that only the engine's run"):
        range(leaf("x.shape[0]"))


def test_a_check_of_unknown_sizes_is_taken_as_passed():
    def run(trace: Trace) -> Any:
        a, b = leaf("a", trace), leaf("b", trace)
        if a != b or a > 10 or not a <= b:
            raise ValueError("sizes differ")
        return a.key

    assert explore(run, every=True) == leaf("a").key


def test_a_result_that_depends_on_an_unknown_size_is_refused():
    def run(trace: Trace) -> Any:
        return 1 if leaf("x.shape[0]", trace) < 16 else 2

    with pytest.raises(Undecidable, match=r"x\.shape\[0\] < 16.*use maximum, minimum"):
        explore(run, every=True)
    assert explore(run, every=False) == 2  # for dtypes, any way will do


def test_the_same_question_has_the_same_answer():
    def run(trace: Trace) -> Any:
        a, b = leaf("a", trace), leaf("b", trace)
        assert bool(a == b) == bool(b == a) != bool(a != b)
        return None

    explore(run, every=True)


def test_the_error_is_that_of_the_way_that_came_farthest():
    def run(trace: Trace) -> Any:
        a, b = leaf("a", trace), leaf("b", trace)
        if a != 3:
            raise ValueError("early")
        if b == 4:
            raise ValueError("late")
        raise KeyError("never less than this")

    with pytest.raises(ValueError, match="late"):
        explore(run, every=True)


def test_inference_without_a_rank_finds_one():
    def run(trace: Trace) -> Any:
        x = SymTensor("float32", sizes("x", None, trace))
        batch, heads, width = x.shape
        assert x.ndim == 3 and x.shape is not x.shape
        return [batch, heads, width][1].name

    assert explore(run, every=False) == "x.shape[1]"


def test_a_shape_is_yours_to_change():
    x = SymTensor("fp16", [4, 5])
    x.shape[0] = 9
    assert x.shape == [4, 5] and repr(x) == "SymTensor(float16, [4, 5])"


def test_a_loop_on_a_size_that_is_not_known_is_refused():
    def halve(trace: Trace) -> int:
        (n,) = sizes("x", [None], trace)()
        while n > 1:
            n = n // 2
        return 1

    with pytest.raises(Undecidable, match="does a loop wait for one of them"):
        explore(halve, every=True)


@pytest.mark.parametrize("shape", [5, [1.5], "34", [None]])
def test_shapes_hold_sizes(shape: Any):
    with pytest.raises(TypeError, match="SymTensor: shape"):
        SymTensor("float32", shape)
