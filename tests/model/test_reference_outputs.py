"""Real models: teacher-forced logits against llama.cpp's outputs and against NumPy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference.driving import decode_all, relative_l2, rows, sequence
from reference.forward import ReferenceModel
from reference.handles import Model


@dataclass(frozen=True)
class Case:
    """One model with what its logits may differ by."""

    name: str
    peer_tolerance: float  # of a top-8 logit of llama.cpp
    numpy_tolerance: float  # relative L2 of a whole row
    exact: bool  # the peer computes as precisely as we do: argmax must agree wherever it is clear
    peer_is_far: bool = False  # the peer's own rounding exceeds its tolerance


# F16: the peer rounds activations to F16. Quantized weights: the peer rounds activations to 8 bits,
# about 0.5 % a layer, and so do we but for Q4_1. Over the 30 layers of SmolLM2 this
# puts the peer itself up to 1.09 from the exact logits (float64, dequantized weights), so that no
# runtime can be within 0.35 of both: there a logit may be 0.35 further from the peer's than the
# exact one is, and test_whole_rows holds it to the exact row. TinyLlama likewise: the peer rounds
# activations in blocks of 256 for its formats, not 32, and ends up to 1.06 from the exact logits,
# this package up to 0.37.
CASES = [
    Case("stories260K-F32", 1e-3, 1e-4, True),
    Case("stories260K-F16", 2e-2, 1e-4, True),
    Case("stories260K-Q8_0", 0.35, 0.03, False),
    Case("stories260K-Q4_0", 0.35, 0.03, False),
    Case("SmolLM2-135M-Instruct-Q4_1", 0.35, 0.03, False, peer_is_far=True),
    Case("TinyLlama-1.1B-Chat-IQ2_XXS", 0.5, 0.05, False, peer_is_far=True),
]


@dataclass(frozen=True)
class Loaded:
    """A case with its file, the package's model and the peer's outputs."""

    case: Case
    path: Path
    model: Model
    results: list[dict[str, Any]]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def loaded(request: pytest.FixtureRequest, llm: ModuleType, data_dir: Path) -> Iterator[Loaded]:
    case = request.param
    path = data_dir / "models" / f"{case.name}.gguf"
    for name in ("smollm2", "tinyllama"):
        if case.name.lower().startswith(name):
            path = request.getfixturevalue(name)
    outputs = json.loads((data_dir / "models" / "ref" / f"{case.name}.json").read_text())
    with llm.Model(path) as model:
        yield Loaded(case, path, model, outputs["results"])


def teacher_forced(llm: ModuleType, loaded: Loaded, result: dict[str, Any]) -> np.ndarray:
    """Logits where the peer chose a token: the prompt in one batch, then token by token."""
    context = loaded.model.context(n_ctx=256, kv_dtype="f32")
    context.decode(result["prompt_ids"])
    steps = [rows(context)]
    for token in result["gen_ids"][:-1]:
        context.decode([token])
        steps.append(rows(context))
    return np.concatenate(steps)


@lru_cache(maxsize=1)  # one is gigabytes
def numpy_model(path: Path) -> ReferenceModel:
    """The same by NumPy."""
    dtype = np.float32 if path.stat().st_size > 50e6 else np.float64  # memory
    return ReferenceModel(path, dtype)


def exact_logits(loaded: Loaded, result: dict[str, Any]) -> np.ndarray:
    """The same rows by NumPy."""
    tokens = result["prompt_ids"] + result["gen_ids"][:-1]
    return numpy_model(loaded.path).logits(tokens)[len(result["prompt_ids"]) - 1 :]


def test_prompt_ids(loaded: Loaded) -> None:
    for result in loaded.results:
        ids = loaded.model.vocab.tokenize(result["prompt"], add_special=True, parse_special=True)
        assert list(ids) == result["prompt_ids"]


def test_generated_text(loaded: Loaded) -> None:
    for result in loaded.results:
        decoder = loaded.model.vocab.decoder()
        text = "".join(decoder.push(token) for token in result["gen_ids"]) + decoder.finish()
        assert text == result["text"]


def test_top_logits(llm: ModuleType, loaded: Loaded) -> None:
    worst = -np.inf
    for result in loaded.results:
        got = teacher_forced(llm, loaded, result)
        exact = exact_logits(loaded, result) if loaded.case.peer_is_far else None
        for index, (row, step) in enumerate(zip(got, result["steps"])):
            ids, peer = step["top_ids"], np.array(step["top_logits"])
            allowed = 0.0 if exact is None else np.abs(exact[index][ids] - peer)
            worst = max(worst, float((np.abs(row[ids] - peer) - allowed).max()))
    assert worst <= loaded.case.peer_tolerance


def test_argmax(llm: ModuleType, loaded: Loaded) -> None:
    needed = 2 * loaded.case.peer_tolerance if loaded.case.exact else loaded.case.peer_tolerance
    for result in loaded.results:
        got = teacher_forced(llm, loaded, result)
        for index, (row, step) in enumerate(zip(got, result["steps"])):
            if step["top_logits"][0] - step["top_logits"][1] > needed:
                assert row.argmax() == step["top_ids"][0], (result["prompt"], index)


def test_whole_rows(llm: ModuleType, loaded: Loaded) -> None:
    for result in loaded.results:
        tokens = result["prompt_ids"] + result["gen_ids"][:-1]
        context = loaded.model.context(n_ctx=256, kv_dtype="f32")
        got = decode_all(llm, context, sequence(tokens))
        exact = numpy_model(loaded.path).logits(tokens)
        assert relative_l2(got, exact) <= loaded.case.numpy_tolerance


def test_greedy_generation(llm: ModuleType, loaded: Loaded) -> None:
    if not loaded.case.exact:
        pytest.skip("rounding activations to 8 bits may turn a close choice and all after it")
    greedy = llm.SamplingParams(temperature=0)
    for result in loaded.results:
        out = loaded.model.generate(
            result["prompt_ids"], max_new_tokens=len(result["gen_ids"]), sampling=greedy
        )
        same = [a == b for a, b in zip(out.tokens, result["gen_ids"])]
        gaps = [step["top_logits"][0] - step["top_logits"][1] for step in result["steps"]]
        wrong = same.index(False) if False in same else len(same)
        assert min(gaps[: wrong + 1]) < 0.1 or wrong == len(same)  # f16 cache: a close choice
