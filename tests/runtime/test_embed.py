"""Hidden rows of a context and vectors of texts, against NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest
from reference.driving import batch_of, relative_l2, rows, sequence
from reference.forward import ReferenceContext, ReferenceModel
from reference.gguf_files import TinySpec
from reference.handles import Model

SPEC = TinySpec()
TEXTS = ["Once upon a time", "a", "The quick brown fox, and then some more words"]


def hidden(path: Path, tokens: list[int]) -> np.ndarray:
    """Normed hidden rows [tokens, n_embd] in float64."""
    model = ReferenceModel(path)
    return model.norm(ReferenceContext(model).hidden(sequence(tokens)), "output_norm")


@pytest.mark.parametrize("spec", [SPEC, TinySpec(architecture="qwen2", tokenizer="bpe")])
def test_rows_of_all_tokens(
    llm: ModuleType,
    tiny_file: Callable[[TinySpec], Path],
    tiny_model: Callable[..., Model],
    spec: TinySpec,
) -> None:
    tokens = [5, 90, 17, 203, 64, 64, 8]
    want = hidden(tiny_file(spec), tokens)
    for n_batch in (512, 2):
        context = tiny_model(spec).context(kv_dtype="f32", embeddings=True, n_batch=n_batch)
        context.decode(tokens)
        assert np.from_dlpack(context.logits).shape[0] == 1
        got = np.from_dlpack(context.embeddings)
        assert got.dtype == np.float32
        assert relative_l2(got, want) < 1e-5
    context.clear()
    context.decode(batch_of(llm, sequence(tokens), logits=False))
    assert rows(context).shape[0] == 0
    assert relative_l2(np.from_dlpack(context.embeddings), want) < 1e-5


def test_held_rows_keep_their_values(tiny_model: Callable[..., Model]) -> None:
    context = tiny_model(SPEC).context(embeddings=True)
    context.decode([5, 6])
    held = np.from_dlpack(context.embeddings)
    before = held.copy()
    context.decode([7, 8])
    np.testing.assert_array_equal(held, before)
    assert (np.from_dlpack(context.embeddings) != before).any()


def test_logits_are_the_same_bits_with_and_without(tiny_model: Callable[..., Model]) -> None:
    results = []
    for embeddings in (False, True):
        context = tiny_model(SPEC).context(embeddings=embeddings)
        context.decode([5, 90, 17])
        results.append(rows(context))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("pooling", [None, "mean", "cls", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_texts(
    tiny_file: Callable[[TinySpec], Path],
    tiny_model: Callable[..., Model],
    pooling: str | None,
    normalize: bool,
) -> None:
    model = tiny_model(SPEC)
    got = np.from_dlpack(model.embed(TEXTS, pooling=pooling, normalize=normalize))
    assert got.shape == (len(TEXTS), SPEC.n_embd)
    for text, vector in zip(TEXTS, got):
        all_rows = hidden(tiny_file(SPEC), model.vocab.tokenize(text))
        want = {"cls": all_rows[0], "last": all_rows[-1]}.get(str(pooling), all_rows.mean(axis=0))
        if normalize:
            want = want / np.linalg.norm(want)
        assert relative_l2(vector[None], want[None]) < 2e-3  # keys and values in float16
        alone = np.from_dlpack(model.embed(text, pooling=pooling, normalize=normalize))
        np.testing.assert_array_equal(alone[0], vector)


def test_the_file_says_how_to_pool(
    llm: ModuleType, tiny_file: Callable[[TinySpec], Path], tmp_path: Path
) -> None:
    for kind, name in ((0, "mean"), (1, "mean"), (2, "cls"), (3, "last")):
        model = llm.Model(with_pooling(tiny_file(SPEC), tmp_path / f"{kind}.gguf", kind))
        got, want = model.embed(TEXTS), model.embed(TEXTS, pooling=name)
        np.testing.assert_array_equal(np.from_dlpack(got), np.from_dlpack(want))
    model = llm.Model(with_pooling(tiny_file(SPEC), tmp_path / "rank.gguf", 4))
    with pytest.raises(NotImplementedError, match="pooling_type is 4"):
        model.embed(TEXTS)
    assert np.from_dlpack(model.embed(TEXTS, pooling="last")).shape == (3, SPEC.n_embd)


def with_pooling(source: Path, path: Path, kind: int) -> Path:
    """A copy of the file that says pooling_type."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kinds = field.types
            sub = kinds[-1] if kinds[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kinds[0], sub)
    writer.add_uint32("llama.pooling_type", kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_many_and_long_texts(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model(TinySpec(n_ctx_train=2048))
    long = "word " * 300  # more than one pass
    assert len(model.vocab.tokenize(long)) > 512
    texts = ["a b c", long, *(f"text {i}" for i in range(100))]
    together = np.from_dlpack(model.embed(iter(texts)))
    for i in (0, 1, 2, 50, 101):
        np.testing.assert_array_equal(together[i], np.from_dlpack(model.embed(texts[i]))[0])
    assert np.from_dlpack(model.embed([])).shape == (0, SPEC.n_embd)


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        ([3], {}, TypeError, "texts: int is not a string"),
        ([b"a"], {}, TypeError, "texts: bytes is not a string"),
        (3, {}, TypeError, "not iterable"),
        (["a\ud800"], {}, ValueError, "texts"),
        (["a"], {"pooling": "max"}, ValueError, 'pooling is "max", expected "mean", "cls" or'),
        (["a"], {"pooling": 1}, TypeError, "pooling is int"),
        (["a " * 600], {}, ValueError, "text 0 has .* tokens, more than 512"),
    ],
)
def test_rejects(
    tiny_model: Callable[..., Model],
    texts: Any,
    options: dict[str, Any],
    error: type,
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        tiny_model(SPEC).embed(texts, **options)


def test_rows_that_are_not_there(llm: ModuleType, tiny_model: Callable[..., Model]) -> None:
    model = tiny_model(SPEC)
    plain = model.context()
    plain.decode([5])
    with pytest.raises(ValueError, match="made without embeddings=True"):
        _ = plain.embeddings
    context = model.context(embeddings=True)
    with pytest.raises(RuntimeError, match="nothing has been decoded"):
        _ = context.embeddings
    context.decode([5])
    context.clear()
    with pytest.raises(RuntimeError, match="nothing has been decoded"):
        _ = context.embeddings
    bpe = tiny_model(TinySpec(architecture="qwen2", tokenizer="bpe"))
    with pytest.raises(ValueError, match="text 1 has no tokens"):
        bpe.embed(["a", ""])
