"""The logits of a row do not depend on the batch around it, on chunks, threads or layout."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference.driving import decode_all, sequence
from reference.forward import Token
from reference.gguf_files import TinySpec
from reference.handles import Model
from reference.stored import FORMATS, block

# 100 and 297 rows: neither fills the last tile of any SIMD width. Super-blocks want rows of 256 and
# get them in one architecture alone.
SPECS = [
    TinySpec(format=name, architecture=architecture, n_ff=100, tied=tied, tokenizer="bpe")
    for name in FORMATS
    if block(name) <= 32
    for architecture, tied in (("llama", True), ("qwen2", False))
] + [
    TinySpec(format=name, n_embd=256, n_ff=100, n_layers=1, tied=True, tokenizer="bpe")
    for name in FORMATS
    if block(name) > 32
]
SEQUENCES = 32
N_CTX = 64 * SEQUENCES
TEXTS = [[(17 * s + 5 * t + s * t) % 297 for t in range(9 + s % 5)] for s in range(SEQUENCES)]
LONG = [(7 * t * t + 3 * t + 11) % 297 for t in range(70)]


@pytest.fixture(scope="module", params=SPECS, ids=lambda s: f"{s.architecture}-{s.format}")
def spec(request: pytest.FixtureRequest) -> TinySpec:
    return request.param  # type: ignore[no-any-return]


def alone(llm: ModuleType, model: Model, tokens: list[int]) -> np.ndarray:
    """Rows of one sequence, each decoded as a batch of one token."""
    context = model.context(n_ctx=N_CTX)
    steps = [decode_all(llm, context, [Token(t, p)]) for p, t in enumerate(tokens)]
    return np.concatenate(steps)


def test_one_batch_of_32_sequences(
    llm: ModuleType, tiny_model: Callable[..., Model], spec: TinySpec
) -> None:
    model = tiny_model(spec)
    context = model.context(n_ctx=N_CTX, n_seq_max=SEQUENCES)
    batch = [token for s, text in enumerate(TEXTS) for token in sequence(text, seq_ids=(s,))]
    got = decode_all(llm, context, batch)
    start = 0
    for text in TEXTS:
        np.testing.assert_array_equal(got[start : start + len(text)], alone(llm, model, text))
        start += len(text)


def test_decode_of_32_sequences(
    llm: ModuleType, tiny_model: Callable[..., Model], spec: TinySpec
) -> None:
    model = tiny_model(spec)
    context = model.context(n_ctx=N_CTX, n_seq_max=SEQUENCES)
    short = [text[:6] for text in TEXTS]
    expected = [alone(llm, model, text) for text in short]
    for position in range(6):
        got = decode_all(
            llm, context, [Token(x[position], position, (s,)) for s, x in enumerate(short)]
        )
        np.testing.assert_array_equal(got, np.stack([rows[position] for rows in expected]))


@pytest.mark.parametrize("chunk", [7, 32, 64, 70])
def test_chunks(
    llm: ModuleType, tiny_model: Callable[..., Model], spec: TinySpec, chunk: int
) -> None:
    model = tiny_model(spec)
    context = model.context(n_ctx=N_CTX)
    tokens = sequence(LONG)
    parts = [
        decode_all(llm, context, tokens[start : start + chunk])
        for start in range(0, len(LONG), chunk)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), alone(llm, model, LONG))


@pytest.mark.parametrize("n_batch", [7, 512])
def test_chunks_by_n_batch(
    llm: ModuleType, tiny_model: Callable[..., Model], spec: TinySpec, n_batch: int
) -> None:
    model = tiny_model(spec)
    context = model.context(n_ctx=N_CTX, n_batch=n_batch)
    got = decode_all(llm, context, sequence(LONG))
    np.testing.assert_array_equal(got, alone(llm, model, LONG))


@pytest.mark.parametrize(
    "options", [{"n_threads": 1}, {"n_threads": 2}, {"n_threads": 3}, {"repack": False}], ids=str
)
def test_threads_and_layout(
    llm: ModuleType, tiny_model: Callable[..., Model], spec: TinySpec, options: dict[str, Any]
) -> None:
    expected = alone(llm, tiny_model(spec), LONG[:20])
    model = tiny_model(spec, **options)
    got = decode_all(llm, model.context(n_ctx=N_CTX), sequence(LONG[:20]))
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(alone(llm, model, LONG[:20]), expected)


def test_which_rows_are_asked_for_changes_nothing(
    llm: ModuleType, tiny_model: Callable[..., Model], spec: TinySpec
) -> None:
    model = tiny_model(spec)
    expected = alone(llm, model, LONG[:20])
    context = model.context(n_ctx=N_CTX)
    batch, wanted = llm.Batch(), [0, 3, 4, 18]
    for position, token in enumerate(LONG[:20]):
        batch.add(token, position, logits=position in wanted)
    context.decode(batch)
    np.testing.assert_array_equal(np.from_dlpack(context.logits), expected[wanted])
