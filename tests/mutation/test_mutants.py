"""Every fault of mutants.py still fits the sources; run.py plants them, which takes minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutation.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_applies_and_its_tests_exist(mutant):
    text = (ROOT / mutant.file).read_text("utf-8")
    assert mutant.applied(text) != text
    assert mutant.tests
    assert mutant.missing_tests(ROOT) == []


def test_names_are_distinct():
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("text", ["nothing of it", "a + b, a + b"])
def test_text_that_is_not_there_once_is_refused(text):
    with pytest.raises(ValueError, match="not once"):
        Mutant("x", "src/x.cc", "a + b", "a - b", ("native:x_test",)).applied(text)


@pytest.mark.parametrize(
    "test",
    ["native:no_such_test", "tests/no_such.py", "tests/mutation/test_mutants.py::test_no_such"],
)
def test_missing_tests_are_named(test):
    assert Mutant("x", "src/x.cc", "a", "b", (test,)).missing_tests(ROOT) == [test]
