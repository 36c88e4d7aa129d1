"""The oracle itself: forward.py against llama.cpp's outputs and against what rope promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reference.forward import ReferenceContext, ReferenceModel, Token
from reference.gguf_files import TinySpec, write_scripted, write_tiny
from reference.stored import FLOATS, QUANTIZED

TinyFile = Callable[[TinySpec], Path]
SPECS = [
    TinySpec(),
    TinySpec(tied=True, freq_factors=True, tokenizer="bpe"),
    TinySpec(architecture="qwen2", tokenizer="bpe"),
]


@pytest.mark.parametrize(("name", "tolerance"), [("F32", 1e-4), ("F16", 2e-2)])
def test_agrees_with_llama_cpp(data_dir: Path, name: str, tolerance: float) -> None:
    # llama.cpp rounds activations to F16 for F16 weights; nothing is rounded here.
    model = ReferenceModel(data_dir / "models" / f"stories260K-{name}.gguf")
    reference = json.loads((data_dir / "models" / "ref" / f"stories260K-{name}.json").read_text())
    for result in reference["results"]:
        rows = model.logits(result["prompt_ids"] + result["gen_ids"][:-1])
        for row, step in zip(rows[len(result["prompt_ids"]) - 1 :], result["steps"]):
            assert np.abs(row[step["top_ids"]] - step["top_logits"]).max() < tolerance
            assert np.isclose(np.linalg.norm(row), step["l2"], rtol=tolerance)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.architecture)
def test_only_distances_matter_to_rope(tiny_file: TinyFile, spec: TinySpec) -> None:
    model, tokens = ReferenceModel(tiny_file(spec)), [5, 9, 2, 70, 31]
    moved = ReferenceContext(model)
    moved.decode([Token(t, p) for p, t in enumerate(tokens[:-1])])
    moved.shift(0, 0, None, 100)
    row = moved.decode([Token(tokens[-1], 104)])[0]
    np.testing.assert_allclose(row, model.logits(tokens)[-1], atol=1e-9)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.architecture)
def test_every_weight_and_position_matters(tiny_file: TinyFile, spec: TinySpec) -> None:
    model, tokens = ReferenceModel(tiny_file(spec)), [5, 9, 2, 70, 31]
    row = model.logits(tokens)[-1]
    gap = ReferenceContext(model)
    swapped = gap.decode([Token(t, p) for t, p in zip(tokens, [0, 1, 2, 3, 5])])[-1]
    assert np.abs(swapped - row).max() > 1e-2
    for name, weight in model.weights.items():
        original = weight.copy()
        weight *= np.where(np.arange(weight.shape[-1]) % 2, 1.1, 0.9)
        assert np.abs(model.logits(tokens)[-1] - row).max() > 1e-3, name
        weight[:] = original


def test_same_spec_same_bytes(tmp_path: Path) -> None:
    a, b = (write_tiny(tmp_path / f"{n}.gguf", TinySpec()).read_bytes() for n in "ab")
    assert a == b
    assert a != write_tiny(tmp_path / "c.gguf", TinySpec(seed=1)).read_bytes()


@pytest.mark.parametrize("name", [*FLOATS, *QUANTIZED])
def test_formats_keep_the_weights(tiny_file: TinyFile, name: str) -> None:
    exact = ReferenceModel(tiny_file(TinySpec())).weights["blk.0.attn_q.weight"]
    stored = ReferenceModel(tiny_file(TinySpec(format=name))).weights["blk.0.attn_q.weight"]
    step = {"F32": 0, "F16": 1e-3, "BF16": 1e-2, "Q8_0": 0.01, "Q5_0": 0.08, "Q5_1": 0.08}
    step["MXFP4"] = 0.2
    assert np.abs(stored - exact).max() <= step.get(name, 0.16) * np.abs(exact).max()


def test_script_is_followed(tmp_path: Path) -> None:
    chain = {1: 40, 40: 7, 7: 300, 300: 2}
    model = ReferenceModel(write_scripted(tmp_path / "s.gguf", TinySpec(), chain, gap=9.0))
    rows = model.logits([1, 40, 7, 300, 99])
    assert rows[:-1].argmax(1).tolist() == [40, 7, 300, 2]
    np.testing.assert_allclose(rows[:-1].max(1), 9.0, rtol=1e-3)  # eps of the norm
    assert np.count_nonzero(rows[:-1] > 1e-6) == 4
    assert not rows[-1].any()
