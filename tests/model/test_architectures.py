"""Random tiny models of each architecture against NumPy float64: every way through the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from reference.driving import decode_all, rows, sequence
from reference.forward import ReferenceContext, ReferenceModel, Token
from reference.gguf_files import TinySpec
from reference.handles import Model

# Float32 against float64: about 1e-6 a layer, with room for another order of summation.
TOLERANCE = 2e-4
# A key or value that float32 and float64 leave on two sides of a rounding edge differs by one unit
# in the last place of a float16, 2^-11 of it; the oracle rounds to float16 as well.
F16_TOLERANCE = 1e-2
SPECS = {
    "llama": TinySpec(),
    "llama-tied": TinySpec(tied=True, tokenizer="bpe", seed=1),
    "llama-llama3": TinySpec(freq_factors=True, n_heads=2, n_kv_heads=1, seed=2),
    "llama-mha": TinySpec(n_kv_heads=4, n_ff=100, seed=3),
    "llama-one-layer": TinySpec(n_layers=1, n_embd=96, n_heads=6, n_kv_heads=2, n_ff=33, seed=4),
    "qwen2": TinySpec(architecture="qwen2", tokenizer="bpe", seed=5),
    "qwen2-tied": TinySpec(architecture="qwen2", tokenizer="bpe", tied=True, n_ff=100, seed=6),
}
PROMPT = [5, 90, 17, 203, 64, 64, 8, 131, 290, 77, 12, 250, 33, 4, 181, 59, 222, 101, 9, 140]


class Pair:
    """The package and the oracle on one file, driven together; `decode` compares."""

    def __init__(
        self,
        llm: ModuleType,
        model: Model,
        reference: ReferenceModel,
        n_seq_max: int = 4,
    ) -> None:
        """Opens both with empty caches."""
        self.llm = llm
        self.context = model.context(n_ctx=512, n_seq_max=n_seq_max, kv_dtype="f32")
        self.oracle = ReferenceContext(reference)

    def decode(self, tokens: list[Token]) -> None:
        """Decodes one batch on both sides and compares every row."""
        got = decode_all(self.llm, self.context, tokens)
        np.testing.assert_allclose(got, self.oracle.decode(tokens), rtol=0, atol=TOLERANCE)

    def remove(self, seq: int, p0: int = 0, p1: int | None = None) -> None:
        """seq_remove on both sides."""
        self.context.seq_remove(seq, p0, p1)
        self.oracle.remove(seq, p0, p1)

    def copy(self, src: int, dst: int, p0: int = 0, p1: int | None = None) -> None:
        """seq_copy on both sides."""
        self.context.seq_copy(src, dst, p0, p1)
        self.oracle.copy(src, dst, p0, p1)

    def shift(self, seq: int, p0: int, p1: int, delta: int) -> None:
        """seq_shift on both sides."""
        self.context.seq_shift(seq, p0, p1, delta)
        self.oracle.shift(seq, p0, p1, delta)

    def keep(self, seq: int) -> None:
        """seq_keep on both sides."""
        self.context.seq_keep(seq)
        self.oracle.keep(seq)

    def check_positions(self, seqs: int = 4) -> None:
        """First and last position of each sequence agree."""
        for seq in range(seqs):
            held = [e.position for e in self.oracle.sequences.get(seq, [])]
            expected = (min(held), max(held)) if held else None
            got = self.context.seq_positions(seq)
            assert (None if got is None else tuple(got)) == expected, seq


@pytest.fixture(scope="module", params=SPECS, ids=str)
def spec(request: pytest.FixtureRequest) -> TinySpec:
    return SPECS[request.param]


@pytest.fixture(scope="module")
def reference(spec: TinySpec, tiny_file: Callable[[TinySpec], Path]) -> ReferenceModel:
    return ReferenceModel(tiny_file(spec))


@pytest.fixture
def pair(
    llm: ModuleType,
    tiny_model: Callable[..., Model],
    spec: TinySpec,
    reference: ReferenceModel,
) -> Pair:
    return Pair(llm, tiny_model(spec), reference)


@pytest.mark.parametrize("length", [1, 2, 7, 20, 31, 32, 33, 100])
def test_prefill(pair: Pair, length: int) -> None:
    pair.decode(sequence((PROMPT * 5)[:length]))


def test_decode_one_by_one(pair: Pair) -> None:
    for position, token in enumerate(PROMPT * 2):
        pair.decode([Token(token, position)])


@pytest.mark.parametrize("chunk", [1, 3, 7, 16])
def test_chunked_prefill(pair: Pair, chunk: int) -> None:
    tokens = sequence(PROMPT * 2)
    for start in range(0, len(tokens), chunk):
        pair.decode(tokens[start : start + chunk])


def test_plain_list_gives_the_last_row(pair: Pair, reference: ReferenceModel) -> None:
    pair.context.decode(PROMPT[:6])
    pair.context.decode(PROMPT[6:])
    got = rows(pair.context)
    assert got.shape == (1, reference.n_vocab)
    np.testing.assert_allclose(got[0], reference.logits(PROMPT)[-1], rtol=0, atol=TOLERANCE)


def test_interleaved_sequences(pair: Pair) -> None:
    texts = {0: PROMPT[:9], 1: PROMPT[9:], 2: PROMPT[3:8], 3: PROMPT[::-1]}
    batches: list[list[Token]] = [[], [], []]
    for seq, text in texts.items():
        for token in sequence(text, seq_ids=(seq,)):
            batches[token.position % 3 if token.position < 3 else 2].append(token)
    for batch in batches:
        pair.decode(sorted(batch, key=lambda t: (t.position, t.seq_ids)))
    for step in range(3):
        pair.decode([Token(7 + step, len(text) + step, (seq,)) for seq, text in texts.items()])
    pair.check_positions()


def test_sequences_share_a_prompt(pair: Pair) -> None:
    pair.decode(sequence(PROMPT, seq_ids=(0, 1, 2)))
    for step in range(3):
        pair.decode([Token(10 * seq + step, len(PROMPT) + step, (seq,)) for seq in range(3)])
    pair.check_positions()


@pytest.mark.parametrize(("p0", "p1"), [(0, 5), (3, 4), (5, 11), (0, 19), (31, 33), (2, 39)])
def test_removed_middle(pair: Pair, p0: int, p1: int) -> None:
    pair.decode(sequence(PROMPT * 2))
    pair.remove(0, p0, p1)
    pair.check_positions()
    pair.decode(sequence([3, 14, 15], start=40))


@pytest.mark.parametrize("p0", [1, 5, 31, 32, 33, 39])
def test_removed_tail(pair: Pair, p0: int) -> None:
    pair.decode(sequence(PROMPT * 2))
    pair.remove(0, p0)
    pair.check_positions()
    pair.decode(sequence([3, 14, 15], start=p0))


def test_removed_whole_sequence(pair: Pair) -> None:
    for seq in (0, 1):
        pair.decode(sequence(PROMPT, seq_ids=(seq,)))
    pair.remove(0)
    pair.check_positions()
    pair.decode([*sequence([3, 14], seq_ids=(0,)), Token(5, len(PROMPT), (1,))])


@pytest.mark.parametrize(
    ("cut", "back"), [((4, 12), -8), ((0, 8), -8), ((0, 0), 5), ((1, 33), -32)]
)
def test_shifted_tail(pair: Pair, cut: tuple[int, int], back: int) -> None:
    """The usual way to go on past n_ctx: drop a range, close the gap, continue."""
    pair.decode(sequence(PROMPT * 2))
    if cut[1]:
        pair.remove(0, *cut)
    pair.shift(0, cut[1], 40, back)
    pair.check_positions()
    pair.decode(sequence([3, 14, 15], start=40 + back))


def test_shifted_twice_and_partly(pair: Pair) -> None:
    pair.decode(sequence(PROMPT * 2))
    pair.shift(0, 30, 40, 10)
    pair.shift(0, 35, 45, 20)  # positions 40..44 move to 60..64
    pair.check_positions()
    pair.decode(sequence([3, 14], start=65))


def test_shift_leaves_a_copy_alone(pair: Pair) -> None:
    pair.decode(sequence(PROMPT))
    pair.copy(0, 1)
    pair.shift(0, 0, len(PROMPT), 3)
    pair.check_positions()
    pair.decode([Token(9, len(PROMPT), (1,)), Token(9, len(PROMPT) + 3, (0,))])


@pytest.mark.parametrize("span", [(0, None), (0, 10), (4, 13), (0, 32), (32, 40)])
def test_copy_then_diverge(pair: Pair, span: tuple[int, int | None]) -> None:
    pair.decode(sequence(PROMPT * 2))
    pair.copy(0, 2, *span)
    pair.check_positions()
    start = 40 if span[1] is None else span[1]
    for step in range(4):
        pair.decode([Token(11, 40 + step, (0,)), Token(200 - step, start + step, (2,))])
    pair.check_positions()


def test_keep(pair: Pair) -> None:
    for seq in range(3):
        pair.decode(sequence(PROMPT[seq:], seq_ids=(seq,)))
    pair.keep(1)
    pair.check_positions()
    pair.decode([Token(5, len(PROMPT) - 1, (1,)), *sequence([6, 7], seq_ids=(2,))])


def test_clear(pair: Pair) -> None:
    pair.decode(sequence(PROMPT))
    pair.context.clear()
    pair.oracle = ReferenceContext(pair.oracle.model)
    pair.check_positions()
    pair.decode(sequence(PROMPT[5:]))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("decode"), st.integers(0, 2), st.integers(1, 9)),
        st.tuples(st.just("remove"), st.integers(0, 2), st.integers(0, 30), st.integers(1, 30)),
        st.tuples(st.just("shift"), st.integers(0, 2), st.integers(1, 40)),
        st.tuples(st.just("copy"), st.integers(0, 2), st.integers(0, 2)),
        st.tuples(st.just("keep"), st.integers(0, 2)),
    ),
    min_size=1,
    max_size=8,
)


@hypothesis.settings(max_examples=25)
@hypothesis.given(steps=STEPS)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_any_order_of_operations(
    llm: ModuleType,
    tiny_model: Callable[..., Model],
    tiny_file: Callable[[TinySpec], Path],
    name: str,
    steps: list[tuple[Any, ...]],
) -> None:
    pair = Pair(llm, tiny_model(SPECS[name]), ReferenceModel(tiny_file(SPECS[name])))
    for step in steps:
        apply_step(pair, step)
        pair.check_positions(3)


def apply_step(pair: Pair, step: tuple[Any, ...]) -> None:
    """Runs one random operation in a form that is always valid."""
    kind, seq, *rest = step
    held = [e.position for e in pair.oracle.sequences.get(seq, [])]
    if kind == "decode":
        start = max(held) + 1 if held else 0
        tokens = [(start + offset) * 7 % 290 for offset in range(rest[0])]
        pair.decode(sequence(tokens, start=start, seq_ids=(seq,)))
    elif kind == "remove":
        pair.remove(seq, rest[0], rest[0] + rest[1])
    elif kind == "shift" and held:
        pair.shift(seq, min(held), max(held) + 1, rest[0])
    elif kind == "copy" and rest[0] != seq:
        pair.remove(rest[0])  # a copy onto positions that are held already has no one meaning
        pair.copy(seq, rest[0])
    elif kind == "keep":
        pair.keep(seq)


@pytest.mark.parametrize("options", [{"repack": False}, {"mmap": False}], ids=str)
def test_load_options_change_no_bit(
    llm: ModuleType, tiny_model: Callable[..., Model], spec: TinySpec, options: dict[str, bool]
) -> None:
    plain, other = (tiny_model(spec, **o).context(n_ctx=64) for o in ({}, options))
    expected, got = (decode_all(llm, c, sequence(PROMPT)) for c in (plain, other))
    np.testing.assert_array_equal(got, expected)


def test_f16_cache(
    llm: ModuleType, tiny_model: Callable[..., Model], spec: TinySpec, reference: ReferenceModel
) -> None:
    context = tiny_model(spec).context(n_ctx=64, kv_dtype="f16")
    oracle = ReferenceContext(reference, np.float16)
    for tokens in (sequence(PROMPT), sequence([1, 2, 3], start=len(PROMPT))):
        got = decode_all(llm, context, tokens)
        np.testing.assert_allclose(got, oracle.decode(tokens), rtol=0, atol=F16_TOLERANCE)


def test_config_tells_the_file(tiny_model: Callable[..., Model], spec: TinySpec) -> None:
    config = tiny_model(spec).config
    assert config.architecture == spec.architecture
    assert (config.n_layers, config.n_embd) == (spec.n_layers, spec.n_embd)
    assert (config.n_heads, config.n_kv_heads) == (spec.n_heads, spec.n_kv_heads)
    assert config.n_ctx_train == spec.n_ctx_train
