"""The pages of docs/reference: every public name is there, and the files are up to date."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import my_llm_ffi as llm
from my_llm_ffi import declaration, reference_pages

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/reference"
ELSEWHERE = {"__version__", "ops"}  # a string, and the module that ops.md documents


def documented() -> set[str]:
    """Headings of all pages but those of the ops."""
    pages = [FOLDER / f"{name}.md" for name in reference_pages.PAGES]
    lines = "\n".join(page.read_text("utf-8") for page in pages).splitlines()
    return {line.lstrip("# ") for line in lines if line.startswith("##")}


def test_every_public_name_of_the_package_is_documented():
    assert set(llm.__all__) - ELSEWHERE - documented() == set()


@pytest.mark.parametrize("module", ["config", "guided"])
def test_every_public_name_of_a_module_is_documented(module):
    names = reference_pages.public_names(importlib.import_module(f"my_llm_ffi.{module}"))
    assert {f"{module}.{name}" for name in names if name != "main"} - documented() == set()


def test_every_public_member_is_documented():
    found = documented()
    for name in set(llm.__all__) - ELSEWHERE:
        value = getattr(llm, name)
        for member, _ in reference_pages.members(value) if isinstance(value, type) else ():
            assert f"{name}.{member}" in found


@pytest.mark.parametrize("page", ["ops", "jax"])
def test_every_op_is_documented(page):
    text = (FOLDER / f"{page}.md").read_text("utf-8")
    assert [name for name in declaration.op_names() if f"\n## {name}\n" not in text] == []


def test_a_name_without_a_docstring_is_refused():
    def bare() -> None: ...

    with pytest.raises(ValueError, match="it has no docstring"):
        list(reference_pages._entry("it", bare))


def test_signatures():
    def plain(a: int, b: str = "x", *rest: int, c: bool = False, **more: int) -> None: ...
    def keyword(*, a: object = plain) -> list[int]: ...

    assert reference_pages.signature(plain) == (
        "(a: int, b: str = 'x', *rest: int, c: bool = False, **more: int) -> None"
    )
    assert reference_pages.signature(keyword) == "(*, a: object = …) -> list[int]"
    assert reference_pages.signature(llm.InternalError) == "(RuntimeError)"


def test_generated_files_are_up_to_date():
    """Also when they are made twice: nothing depends on the order of sets or on the machine."""
    if not (ROOT / "scripts/generate").is_file():
        pytest.skip("this is no source tree")
    command = [sys.executable, str(ROOT / "scripts/generate"), "--check"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
