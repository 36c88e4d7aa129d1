"""LoRA adapters against weights that they are merged into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference.adapters import Adapter, random_adapter
from reference.driving import decode_all, relative_l2, rows, sequence
from reference.forward import ReferenceContext, ReferenceModel
from reference.gguf_files import TinySpec
from reference.handles import Context, Model

SPEC = TinySpec()
PROMPT = [5, 90, 17, 203, 64, 64, 8, 131, 77, 4]


def merged_logits(
    path: Path, adapters: list[tuple[Adapter, float]], tokens: list[int]
) -> np.ndarray:
    reference = ReferenceModel(path)
    for adapter, scale in adapters:
        reference.weights = adapter.changed(reference.weights, scale)
    return ReferenceContext(reference).decode(sequence(tokens))


@pytest.fixture
def adapter(tiny_file: Callable[[TinySpec], Path]) -> Adapter:
    return random_adapter(ReferenceModel(tiny_file(SPEC)).weights)


@pytest.fixture
def file(adapter: Adapter, tmp_path: Path) -> Path:
    return adapter.write(tmp_path / "adapter.gguf")


@pytest.mark.parametrize(
    ("spec", "format_name", "rank", "tolerance"),
    [
        (SPEC, "F32", 8, 1e-5),
        (SPEC, "F32", 1, 1e-5),
        (SPEC, "F32", 96, 1e-5),
        (SPEC, "F16", 5, 1e-5),
        (SPEC, "BF16", 16, 1e-5),
        (SPEC, "Q8_0", 32, 2e-2),  # activations are rounded to 8 bits
        (TinySpec(tied=True), "F32", 8, 1e-5),
        (TinySpec(architecture="qwen2", tokenizer="bpe"), "F32", 8, 1e-5),
    ],
)
def test_equals_merged_weights(
    llm: ModuleType,
    tiny_file: Callable[[TinySpec], Path],
    tiny_model: Callable[..., Model],
    tmp_path: Path,
    spec: TinySpec,
    format_name: str,
    rank: int,
    tolerance: float,
) -> None:
    path, model = tiny_file(spec), tiny_model(spec)
    options: dict[str, Any] = {"format": format_name, "architecture": spec.architecture}
    adapter = random_adapter(ReferenceModel(path).weights, rank=rank, **options)
    loaded = llm.LoraAdapter(adapter.write(tmp_path / "a.gguf"), model)
    assert loaded.alpha == 16.0
    assert loaded.n_matrices == len(adapter.pairs) == 14 + (not spec.tied)
    for scale in (1.0, -0.5):
        context = model.context(kv_dtype="f32", lora=(loaded, scale))
        got = decode_all(llm, context, sequence(PROMPT))
        want = merged_logits(path, [(adapter, scale)], PROMPT)
        assert relative_l2(got, want) < tolerance
        assert relative_l2(merged_logits(path, [], PROMPT), want) > 0.05


def test_alpha_of_zero_counts_as_the_rank(
    llm: ModuleType, tiny_model: Callable[..., Model], adapter: Adapter, tmp_path: Path
) -> None:
    model = tiny_model(SPEC)
    results = []
    for name, alpha in (("zero", 0.0), ("eight", 8.0)):
        file = Adapter(adapter.pairs, alpha=alpha).write(tmp_path / f"{name}.gguf")
        results.append(decode_all(llm, model.context(lora=file), sequence(PROMPT)))
    np.testing.assert_array_equal(*results)


def test_several_adapters_and_all_ways_to_name_them(
    llm: ModuleType,
    tiny_file: Callable[[TinySpec], Path],
    tiny_model: Callable[..., Model],
    adapter: Adapter,
    file: Path,
    tmp_path: Path,
) -> None:
    path, model = tiny_file(SPEC), tiny_model(SPEC)
    other = random_adapter(ReferenceModel(path).weights, rank=3, seed=1, alpha=2.0)
    second = other.write(tmp_path / "second.gguf")

    def logits(lora: Any) -> np.ndarray:
        context = model.context(kv_dtype="f32", lora=lora)
        return decode_all(llm, context, sequence(PROMPT))

    both = logits([file, (llm.LoraAdapter(second, model), 0.5)])
    want = merged_logits(path, [(adapter, 1.0), (other, 0.5)], PROMPT)
    assert relative_l2(both, want) < 1e-5
    np.testing.assert_array_equal(both, logits([(str(file), 1), (second, np.float32(0.5))]))
    alone = logits(file)
    for same in (str(file), bytes(file), (file, 1.0), [file], ((file, 1),)):
        np.testing.assert_array_equal(logits(same), alone)
    np.testing.assert_array_equal(logits((file, 0.0)), logits(()))


def test_chunks_and_threads_make_no_difference(
    llm: ModuleType, tiny_model: Callable[..., Model], file: Path
) -> None:
    results = []
    for n_threads in (1, 2):
        model = tiny_model(SPEC, n_threads=n_threads)
        for n_batch in (1, 3, 512):  # 1: room for one row of logits at a time
            context = model.context(n_batch=n_batch, lora=file)
            results.append(decode_all(llm, context, sequence(PROMPT * 4)))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_the_head_is_adapted_for_the_rows_that_are_wanted(
    llm: ModuleType, tiny_model: Callable[..., Model], file: Path
) -> None:
    model = tiny_model(SPEC)
    whole = decode_all(llm, model.context(lora=file), sequence(PROMPT))
    for n_batch in (512, 4):
        context = model.context(lora=file, n_batch=n_batch)
        context.decode(PROMPT)
        np.testing.assert_array_equal(rows(context), whole[-1:])
        context.clear()
        batch = llm.Batch()
        for position, token in enumerate(PROMPT):
            batch.add(token, position, logits=position % 3 == 1)
        context.decode(batch)
        np.testing.assert_array_equal(rows(context), whole[1::3])


def test_states_of_other_adapters_are_refused(
    tiny_model: Callable[..., Model], file: Path, tmp_path: Path
) -> None:
    model = tiny_model(SPEC)
    saved = model.context(lora=file)
    saved.decode(PROMPT)
    saved.save_state(tmp_path / "state")
    for lora in ((), (file, 0.5), (file, file)):
        with pytest.raises(ValueError, match="was saved by"):
            model.context(lora=lora).load_state(tmp_path / "state")
    context: Context = model.context(lora=[file])
    context.load_state(tmp_path / "state")
    for c in (saved, context):
        c.decode([7])
    np.testing.assert_array_equal(rows(context), rows(saved))


def test_an_adapter_of_another_model_is_refused(
    llm: ModuleType, tiny_model: Callable[..., Model], file: Path
) -> None:
    other = tiny_model(TinySpec(n_ff=160))
    with pytest.raises(ValueError, match=r"lora_b has shape \[96, 8\], expected \[160, 8\]"):
        llm.LoraAdapter(file, other)
    with pytest.raises(ValueError, match="this adapter was loaded for another model"):
        other.context(lora=llm.LoraAdapter(file, tiny_model(SPEC)))
    with pytest.raises(ValueError, match='architecture is "llama", expected "qwen2"'):
        llm.LoraAdapter(file, tiny_model(TinySpec(architecture="qwen2", tokenizer="bpe")))


def test_the_model_itself_is_no_adapter(
    llm: ModuleType, tiny_file: Callable[[TinySpec], Path], tiny_model: Callable[..., Model]
) -> None:
    with pytest.raises(ValueError, match='type is missing, expected "adapter"'):
        llm.LoraAdapter(tiny_file(SPEC), tiny_model(SPEC))
    with pytest.raises(FileNotFoundError):
        llm.LoraAdapter("no such file", tiny_model(SPEC))


@pytest.mark.parametrize(
    ("lora", "error", "message"),
    [
        (3, TypeError, "not iterable"),
        ([3], TypeError, "lora: int is no adapter"),
        ([None], TypeError, "lora: NoneType is no adapter"),
        (["FILE", 0.5], TypeError, "lora: float is no adapter"),
        ([("FILE", 0.5, 1)], TypeError, "lora: tuple is no adapter"),
        ([("FILE", True)], TypeError, "lora scale is bool"),
        ([("FILE", float("nan"))], ValueError, "lora: scale is nan"),
        ([("FILE", float("inf"))], ValueError, "lora: scale is inf"),
        ([("FILE", 1e300)], ValueError, "the scale of an adapter in lora is 1e"),
    ],
)
def test_rejects(
    tiny_model: Callable[..., Model], file: Path, lora: Any, error: type, message: str
) -> None:
    def filled(item: Any) -> Any:
        if isinstance(item, (list, tuple)):
            return type(item)(filled(i) for i in item)
        return file if item == "FILE" else item

    with pytest.raises(error, match=message):
        tiny_model(SPEC).context(lora=filled(lora))


def test_closed_models(llm: ModuleType, tiny_file: Callable[[TinySpec], Path], file: Path) -> None:
    model = llm.Model(tiny_file(SPEC))
    adapter = llm.LoraAdapter(file, model)
    context = model.context(lora=adapter)
    del adapter  # the context keeps what it needs
    context.decode(PROMPT)
    model.close()
    with pytest.raises(ValueError, match="closed"):
        context.decode([5])
