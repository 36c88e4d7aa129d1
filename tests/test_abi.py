"""The binary interface: what is registered is what tests/golden/abi.json says (docs/abi.md)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

UPDATE = Path(__file__).parent / "golden" / "update.py"
GOLDEN = json.loads((UPDATE.parent / "abi.json").read_text("utf-8"))
HOW = (
    "The names or types that callers see have changed. If that is meant, run "
    "`python tests/golden/update.py` and say in CHANGELOG.md what changed and why."
)


@pytest.fixture(scope="module")
def now():
    """What a fresh interpreter sees: tests may have registered names of their own in this one."""
    command = [sys.executable, str(UPDATE), "--print"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=UPDATE.parent)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def differences(before: dict, after: dict) -> list[str]:
    """One line for each name that went, came or changed."""
    lines = []
    for name in sorted(set(before) | set(after)):
        if before.get(name) != after.get(name):
            lines.append(f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}")
    return lines


@pytest.mark.parametrize("section", ["functions", "exports", "objects"])
def test_nothing_changed_unsaid(now, section):
    changed = differences(GOLDEN[section], now[section])
    assert not changed, "\n".join([HOW, *changed])


def test_the_changelog_names_the_list():
    text = json.dumps(GOLDEN, sort_keys=True, ensure_ascii=False)
    named = f"ABI {hashlib.sha256(text.encode()).hexdigest()[:12]}"
    changelog = (Path(__file__).parents[1] / "CHANGELOG.md").read_text("utf-8")
    assert named in changelog, f"say in CHANGELOG.md what changed in abi.json, and name {named}"


def test_the_list_holds_the_walk_through():
    assert GOLDEN["functions"]["my_llm_ffi.add_one"] == "Callable[[Tensor, Tensor], None]"
    assert "add_one" in GOLDEN["exports"]
    assert set(GOLDEN["objects"]["my_llm_ffi.IntPair"]["fields"]) == {"first", "second"}


def test_differences_name_what_changed():
    before, after = {"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "4", "d": "5"}
    assert differences(before, after) == ["b: 2 -> 4", "c: 3 -> absent", "d: absent -> 5"]


def test_everything_has_types(now):
    assert [name for name, schema in now["functions"].items() if schema == "untyped"] == []


def test_update_refuses_unknown_arguments():
    command = [sys.executable, str(UPDATE), "--wrong"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert result.returncode == 2
