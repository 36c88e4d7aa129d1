"""gguf_raw.py takes files apart and puts the same file together again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from reference.gguf_files import TinySpec
from reference.gguf_lies import BPE_CASES, CASES, Bad
from reference.gguf_raw import end_of_data, parse


@pytest.mark.parametrize(
    "spec", [TinySpec(), TinySpec(format="Q4_0", tokenizer="bpe"), TinySpec(format="BF16")]
)
def test_round_trip(tiny_file: Callable[[TinySpec], Path], spec: TinySpec) -> None:
    path = tiny_file(spec)
    assert parse(path).to_bytes() == path.read_bytes()
    assert end_of_data(path) <= path.stat().st_size


@pytest.mark.parametrize(
    ("tokenizer", "cases"), [("spm", CASES), ("bpe", BPE_CASES)], ids=["spm", "bpe"]
)
def test_every_lie_changes_the_file(
    tiny_file: Callable[[TinySpec], Path], tokenizer: str, cases: list[Bad]
) -> None:
    path = tiny_file(TinySpec(tokenizer=tokenizer))
    valid, seen = parse(path), {path.read_bytes()}
    for case in cases:
        lying = copy.deepcopy(valid)
        case.change(lying)
        changed = lying.to_bytes()
        assert changed not in seen, case.name
        seen.add(changed)
