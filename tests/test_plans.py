"""Models as plans: the same bits as the model path, however the tokens arrive."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from reference.gguf_files import TinySpec, write_tiny

import my_llm_ffi as llm
from my_llm_ffi import plans

EXAMPLE = Path(__file__).parents[1] / "examples" / "python" / "llama_plan.py"
PROMPT = [5, 90, 17, 203, 64, 64, 8, 131, 250, 77, 12, 20, 33, 4, 181, 59, 222, 101, 9, 140] * 2
SPECS = {
    "F32": TinySpec(),
    "tied-Q4_1": TinySpec(tied=True, format="Q4_1", seed=1),
    "llama3": TinySpec(freq_factors=True, n_heads=2, n_kv_heads=1, seed=2),
    "odd": TinySpec(n_layers=1, n_embd=96, n_heads=6, n_kv_heads=2, n_ff=33, seed=4),
    "qwen2": TinySpec(architecture="qwen2", tokenizer="bpe", seed=5),
    "Q8_0": TinySpec(format="Q8_0", seed=6),
    "Q4_K": TinySpec(format="Q4_K", n_embd=256, n_ff=512, seed=7),
}
CHUNKS = {
    "prefill": [40],
    "chunked prefill": [1, 7, 31, 1],
    "prefill and decode": [33, 1, 1, 1, 1, 1, 1, 1],
}


def compare(
    model: llm.Model, plan: llm.Plan, tokens: list[int], chunks: list[int], kv: str
) -> None:
    context = model.context(n_ctx=256, kv_dtype=kv)
    session = plans.Session(plan, n_ctx=256)
    begin = 0
    for n in chunks:
        chunk, begin = tokens[begin : begin + n], begin + n
        context.decode(chunk)
        got = session.decode(chunk)
        np.testing.assert_array_equal(got, np.from_dlpack(context.logits))
    assert begin == len(tokens)


@pytest.mark.parametrize("spec", SPECS)
def test_the_bits_of_the_model_path(spec, tiny_model, tiny_file, tmp_path):
    path = tiny_file(SPECS[spec])
    plan = plans.llama(path)
    plan.save(tmp_path / "tiny.plan")
    for ready in (plan, llm.Plan.load(tmp_path / "tiny.plan")):
        for chunks in CHUNKS.values():
            compare(tiny_model(SPECS[spec]), ready, PROMPT, chunks, "f16")


def test_pages_of_float32(tiny_model, tiny_file):
    spec = SPECS["F32"]
    plan = plans.llama(tiny_file(spec), kv_dtype="float32")
    compare(tiny_model(spec), plan, PROMPT, CHUNKS["chunked prefill"], "f32")


def test_scaled_positions(monkeypatch, tmp_path):
    """The divisor is taken as the file says it: 1 / (1 / 49) is no 49."""
    writer = gguf.GGUFWriter
    add_base = writer.add_rope_freq_base

    def add_scaling(self: gguf.GGUFWriter, base: float) -> None:
        add_base(self, base)
        self.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        self.add_rope_scaling_factor(49.0)

    monkeypatch.setattr(writer, "add_rope_freq_base", add_scaling)
    path = write_tiny(tmp_path / "scaled.gguf", SPECS["F32"])
    with llm.Model(path) as model:
        assert model.config.rope_freq_scale == 1 / 49
        compare(model, plans.llama(path), PROMPT, CHUNKS["prefill"], "f16")


def test_sequences_share_a_batch(tiny_model, tiny_file):
    """Two sequences in one run, their pages interleaved; every row's logits."""
    spec = SPECS["F32"]
    plan = plans.llama(tiny_file(spec))
    context = tiny_model(spec).context(n_ctx=256, n_seq_max=2)
    batch = llm.Batch()
    lists = {0: PROMPT[:35], 1: PROMPT[5:9]}
    pages = {0: [2, 0], 1: [3]}
    positions = np.full((4, 32), -1, np.int32)
    columns: dict[str, list[int]] = {"tokens": [], "positions": [], "rows": [], "slots": []}
    for seq, tokens in lists.items():
        for position, token in enumerate(tokens):
            batch.add(token, position, (seq,), logits=True)
            slot = pages[seq][position // 32] * 32 + position % 32
            positions.reshape(-1)[slot] = position
            for column, value in zip(columns.values(), (token, position, seq, slot)):
                column.append(value)
    context.decode(batch)
    heads = (spec.n_layers, 4, spec.n_kv_heads)
    got = plan.run(
        {
            **{name: np.array(v, "i8" if name == "slots" else "i4") for name, v in columns.items()},
            "block_table": np.array([pages[0], [*pages[1], -1]], np.int32),
            "page_positions": positions,
            "k_pages": np.zeros((*heads, spec.head_dim, 32), np.float16),
            "v_pages": np.zeros((*heads, 32, spec.head_dim), np.float16),
            "outputs": np.arange(39, dtype=np.int32),
        }
    )
    np.testing.assert_array_equal(got["logits"], np.from_dlpack(context.logits))


def test_smollm2(smollm2):
    tokens = [504, 2365, 282, 4649, 314, 7042, 30, 198] * 5
    plan = plans.llama(smollm2)
    with llm.Model(smollm2) as model:
        for chunks in CHUNKS.values():
            compare(model, plan, tokens, chunks, "f16")


def test_a_full_session_says_so(tiny_file):
    session = plans.Session(plans.llama(tiny_file(SPECS["F32"])), n_ctx=8)
    session.decode(PROMPT[:8])
    with pytest.raises(ValueError, match="9 tokens do not fit n_ctx=8"):
        session.decode([1])


def test_wrong_arguments_are_named(tiny_file):
    path = tiny_file(TinySpec())
    plan = plans.llama(path)
    session = plans.Session(plan, n_ctx=8)
    for wrong, error, message in (
        (lambda: plans.llama(path, kv_dtype="int8"), ValueError, "kv_dtype is 'int8', expe"),
        (lambda: plans.Session(None, n_ctx=8), TypeError, "plan is NoneType, expected a Plan"),
        (lambda: plans.Session(plan, n_ctx=0), ValueError, "n_ctx is 0, expected 1 or greater"),
        (lambda: plans.Session(plan, n_ctx=1.5), TypeError, "n_ctx is float, expected an integer"),
        (lambda: session.decode([]), ValueError, "tokens is empty, expected one or more"),
        (lambda: session.decode("abc"), TypeError, "tokens is str, expected token ids"),
        (lambda: session.decode([1.5]), TypeError, "an item of tokens is float, expected an int"),
        (lambda: session.decode([2**31]), IndexError, "tokens has 2147483648, expected an id"),
        (lambda: session.decode([1], outputs=(1,)), ValueError, "outputs has 1, expected an index"),
        (lambda: session.decode([1], outputs=0), TypeError, "outputs is int, expected indices"),
    ):
        with pytest.raises(error, match=f"^{re.escape(message)}"):
            wrong()
    assert session.decode([1, 2], outputs=(0, -1)).shape[0] == 2


def test_the_example(tiny_file, tmp_path):
    command = [sys.executable, str(EXAMPLE), str(tiny_file(SPECS["F32"])), str(tmp_path / "x.plan")]
    first, second = (
        subprocess.run([*command, "ab"], capture_output=True, check=True).stdout for _ in range(2)
    )
    assert first == second
    assert first.startswith(b"ab")
