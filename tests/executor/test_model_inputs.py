"""Adapters, prompt tables, windows and embeddings of requests, beside each other in one batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference.adapters import Adapter, random_adapter
from reference.driving import sequence
from reference.forward import ReferenceContext, ReferenceModel
from reference.gguf_files import TinySpec, random_tensors
from reference.handles import Model
from reference.serving import Answer, Executor, Gate, answer, collect, run, settled

MakeExecutor = Callable[..., Executor]
SPEC = TinySpec()
RNG = np.random.default_rng(12)
PROMPT = [int(t) for t in RNG.integers(3, 355, 70)]


def request(llm: ModuleType, count: int = 12, **fields: Any) -> Any:
    """Greedy, with the log-probabilities of what is chosen."""
    sampling = llm.SamplingParams(temperature=0, logit_bias={2: -100.0})
    given = {"tokens": PROMPT, "max_new_tokens": count, "sampling": sampling, "logprobs": 1}
    return llm.Request(**{**given, **fields})


def facts(got: Answer) -> Any:
    """What must not change by a bit."""
    return got.tokens, got.logprobs, got.last.cumulative_logprob


# ---- adapters -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Adapter, Path]]:
    """Three that change everything."""
    folder = tmp_path_factory.mktemp("adapters")
    weights = random_tensors(SPEC)
    made = [random_adapter(weights, seed=seed, rank=4 + seed) for seed in range(3)]
    return [(one, one.write(folder / f"{i}.gguf")) for i, one in enumerate(made)]


@pytest.fixture
def with_adapters(
    executor: MakeExecutor, adapters: list[tuple[Adapter, Path]]
) -> Callable[..., Executor]:
    """Makes executors with the adapters 0, 1 and 2."""

    def make(**config: Any) -> Executor:
        ex = executor(**config)
        for i, (_, path) in enumerate(adapters):
            ex.load_lora(str(i), path)
        return ex

    return make


def test_adapters_as_in_a_context(
    llm: ModuleType,
    model: Model,
    with_adapters: Callable[..., Executor],
    adapters: list[tuple[Adapter, Path]],
) -> None:
    """Token by token what a context with the adapter prefers."""
    ex = with_adapters()
    answers = run(ex, [request(llm, lora=name) for name in ("0", "1", "2", None)])
    assert len({tuple(got.tokens) for (got,) in answers}) == 4
    for (got,), lora in zip(answers, [*[(path,) for _, path in adapters], ()]):
        with model.context(lora=lora) as context:
            context.decode(PROMPT)
            for token in got.tokens:
                logits = np.from_dlpack(context.logits)[-1].copy()
                logits[2] = -np.inf
                assert int(logits.argmax()) == token
                context.decode([token])


@pytest.mark.parametrize(
    "config",
    [{}, {"max_num_tokens": 40}, {"enable_prefix_cache": False}, {"kv_cache_tokens": 640}],
    ids=["plain", "small-steps", "no-cache", "preempted"],
)
def test_adapters_mixed_in_a_batch(
    llm: ModuleType, with_adapters: Callable[..., Executor], config: dict[str, Any]
) -> None:
    names = ["0", None, "2", "1", "0", "2", None, "1"] * 2
    requests = [
        request(llm, 20, lora=name, num_return_sequences=1 + i % 2) for i, name in enumerate(names)
    ]
    alone = with_adapters(enable_prefix_cache=False)
    want = [[facts(got) for got in run(alone, [one])[0]] for one in requests]
    answers = run(with_adapters(**config), requests)
    assert [[facts(got) for got in group] for group in answers] == want


def test_adapters_share_no_prompts(llm: ModuleType, with_adapters: Callable[..., Executor]) -> None:
    ex = with_adapters()
    for name in (None, "0", "1"):
        assert answer(ex, request(llm, lora=name)).last.cached_tokens == 0
        assert answer(ex, request(llm, lora=name)).last.cached_tokens == 64


def test_load_list_unload(
    llm: ModuleType, executor: MakeExecutor, adapters: list[tuple[Adapter, Path]]
) -> None:
    ex = executor()
    assert ex.loras() == []
    path = adapters[0][1]
    ex.load_lora("mine", path)
    (only,) = ex.loras()
    assert (only["name"], only["path"], only["alpha"]) == ("mine", str(path), 16.0)
    assert only["n_pairs"] == len(adapters[0][0].pairs)
    assert only["bytes"] > 0
    with pytest.raises(ValueError, match='"mine" is loaded already'):
        ex.load_lora("mine", path)
    with pytest.raises(ValueError, match="name is empty"):
        ex.load_lora("", path)
    with pytest.raises(OSError, match=r"nothing\.gguf"):
        ex.load_lora("other", path.with_name("nothing.gguf"))
    with pytest.raises(KeyError, match="other"):
        ex.unload_lora("other")
    for bad in (5, None, b"mine"):
        with pytest.raises(TypeError, match="name"):
            ex.load_lora(bad, path)
        with pytest.raises(TypeError, match="name"):
            ex.unload_lora(bad)
    with pytest.raises(TypeError, match="path"):
        ex.load_lora("other", 5)
    ex.unload_lora("mine")
    assert ex.loras() == []
    with pytest.raises(KeyError, match="mine"):
        ex.enqueue_request(request(llm, lora="mine"))
    with pytest.raises(KeyError, match="mine"):
        ex.unload_lora("mine")


def test_a_name_is_used_again(
    llm: ModuleType, with_adapters: Callable[..., Executor], adapters: list[tuple[Adapter, Path]]
) -> None:
    """Another adapter under an old name finds nothing of the old one's, and frees its blocks."""
    ex = with_adapters()
    old = answer(ex, request(llm, lora="0"))
    want = answer(ex, request(llm, lora="1"))
    ex.unload_lora("0")
    ex.unload_lora("1")
    ex.load_lora("0", adapters[1][1])
    new = answer(ex, request(llm, lora="0"))
    assert new.last.cached_tokens == 0
    assert new.tokens == want.tokens != old.tokens


def test_unloading_ends_no_request(
    llm: ModuleType, with_adapters: Callable[..., Executor], executor: MakeExecutor
) -> None:
    gate = Gate()
    ex = with_adapters(on_step=gate, max_batch_size=1)
    want = facts(answer(ex, request(llm, lora="0", cache_salt="other")))
    gate.close()
    running = ex.enqueue_request(request(llm, lora="0"))
    gate.await_held()
    waiting = ex.enqueue_request(request(llm, lora="0"))
    ex.unload_lora("0")
    with pytest.raises(KeyError):
        ex.enqueue_request(request(llm, lora="0"))
    gate.open()
    answers = collect(ex, [running, waiting])
    assert facts(answers[running][0]) == facts(answers[waiting][0]) == want
    stats = settled(ex)
    assert stats["blocks_used"] == 0


# ---- prompt tables ------------------------------------------------------------------------------


def embeddings_of(tokens: list[int]) -> np.ndarray:
    """The model's own rows."""
    table = random_tensors(SPEC)["token_embd.weight"]
    return np.ascontiguousarray(table[tokens], np.float32)


def test_a_table_of_the_models_rows(llm: ModuleType, executor: MakeExecutor) -> None:
    """Rows that the model would have looked up itself change nothing."""
    ex = executor()
    want = answer(ex, request(llm))
    for soft in ([0], [5, 6, 7], list(range(70)), [69], list(range(0, 70, 3))):
        tokens = list(PROMPT)
        for row, place in enumerate(soft):
            tokens[place] = 355 + row
        table = embeddings_of([PROMPT[place] for place in soft])
        got = answer(ex, request(llm, tokens=tokens, prompt_table=table))
        assert facts(got) == facts(want)


def test_tables_in_a_batch(llm: ModuleType, executor: MakeExecutor) -> None:
    """Each request has rows of its own, also the second time and after a pre-emption."""
    tables = [RNG.standard_normal((3, 64)).astype(np.float32) for _ in range(6)]
    tokens = [*PROMPT[:40], 355, 357, 356, *PROMPT[40:50]]
    requests = [request(llm, 40, tokens=tokens, prompt_table=table) for table in tables]
    alone = executor(enable_prefix_cache=False)
    want = [facts(answer(alone, one)) for one in requests]
    assert len({tuple(tokens) for tokens, *_ in want}) == 6
    for config in ({}, {"max_num_tokens": 9}, {"kv_cache_tokens": 320}):
        ex = executor(**config)
        for _ in range(2):
            assert [facts(got) for (got,) in run(ex, requests)] == want


def test_soft_tokens_are_not_cached(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor()
    tokens = [*PROMPT[:40], 355, *PROMPT[41:]]
    table = np.ones((1, 64), np.float32)
    assert answer(ex, request(llm, tokens=tokens, prompt_table=table)).last.cached_tokens == 0
    got = answer(ex, request(llm, tokens=tokens, prompt_table=table * 2))
    assert got.last.cached_tokens == 32  # the page before the first row of a table


def test_prompt_logprobs_around_soft_tokens(llm: ModuleType, executor: MakeExecutor) -> None:
    tokens = [5, 355, 6, 7]
    one = request(llm, 2, tokens=tokens, prompt_table=embeddings_of([9]), prompt_logprobs=1)
    plain = request(llm, 2, tokens=[5, 9, 6, 7], prompt_logprobs=1)
    ex = executor()
    got, want = answer(ex, one).prompt_logprobs, answer(ex, plain).prompt_logprobs
    assert len(got) == 3
    assert got[1:] == want[1:]


# ---- windows ------------------------------------------------------------------------------------


def windowed(path: Path, tokens: list[int], window: int, sinks: int) -> np.ndarray:
    """Logits of the last token in float64, each token seeing its window and the sinks."""

    class Windowed(ReferenceContext):
        def visible(self, seq: int, position: int) -> list[Any]:
            return [
                entry
                for entry in super().visible(seq, position)
                if window == 0 or entry.position > position - window or entry.position < sinks
            ]

    return Windowed(ReferenceModel(path)).decode(sequence(tokens))[-1]


@pytest.mark.parametrize(("window", "sinks"), [(0, 0), (1, 0), (8, 0), (8, 3), (40, 1), (500, 5)])
@pytest.mark.parametrize("of", ["request", "config"])
def test_windows(
    llm: ModuleType,
    executor: MakeExecutor,
    tiny_file: Callable[[TinySpec], Path],
    window: int,
    sinks: int,
    of: str,
) -> None:
    fields = {"attention_window": window, "sink_tokens": sinks}
    ex = executor(kv_dtype="f32", max_num_tokens=30, **(fields if of == "config" else {}))
    got = answer(ex, request(llm, 4, **(fields if of == "request" else {})))
    for i in (0, 3):
        logits = windowed(tiny_file(SPEC), PROMPT + got.tokens[:i], window, sinks)
        logits = logits - logits.max()
        row = logits - np.log(np.exp(logits).sum())
        assert got.logprobs[i].logprob == pytest.approx(row[got.tokens[i]], abs=1e-4)


def test_a_request_overrides_the_window(llm: ModuleType, executor: MakeExecutor) -> None:
    plain, narrow = executor(), executor(attention_window=8, sink_tokens=2)
    everything = request(llm, attention_window=0, sink_tokens=0)
    assert facts(answer(narrow, everything)) == facts(answer(plain, request(llm)))
    few = request(llm, attention_window=8, sink_tokens=2)
    assert facts(answer(plain, few)) == facts(answer(narrow, request(llm)))
    assert facts(answer(plain, few)) != facts(answer(plain, request(llm)))


def test_windows_mixed_in_a_batch(llm: ModuleType, executor: MakeExecutor) -> None:
    views = [(0, 0), (1, 0), (16, 0), (16, 4), (33, 1), (0, 0), (64, 64)]
    requests = [
        request(llm, 30, attention_window=window, sink_tokens=sinks) for window, sinks in views
    ]
    alone = executor(enable_prefix_cache=False)
    want = [facts(answer(alone, one)) for one in requests]
    for config in ({}, {"max_num_tokens": 11}, {"kv_cache_tokens": 384}):
        assert [facts(got) for (got,) in run(executor(**config), requests)] == want


# ---- embeddings ---------------------------------------------------------------------------------


def vector(got: Answer) -> np.ndarray:
    """The embedding that came."""
    (row,) = np.array(np.from_dlpack(got.last.embedding))
    return row


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
@pytest.mark.parametrize("n", [1, 2, 33, 70])
def test_embeddings(
    llm: ModuleType,
    model: Model,
    executor: MakeExecutor,
    pooling: str,
    normalize: bool,
    n: int,
) -> None:
    with model.context(embeddings=True) as context:
        context.decode(PROMPT[:n])
        rows = np.from_dlpack(context.embeddings).astype(np.float64)
    want = {"mean": rows.mean(0), "last": rows[-1], "cls": rows[0]}[pooling]
    if normalize:
        want = want / np.linalg.norm(want)
    fields = {"tokens": PROMPT[:n], "pooling": pooling, "normalize": normalize, "logprobs": 0}
    vectors = []
    for config in ({}, {"max_num_tokens": 7}, {"enable_prefix_cache": False}):
        ex = executor(**config)
        for _ in range(2):
            got = answer(ex, request(llm, **fields))
            assert (got.tokens, got.text, got.error) == ([], "", "")
            assert got.reason == llm.FinishReason.LENGTH
            vectors.append(vector(got))
    np.testing.assert_allclose(vectors[0], want, rtol=0, atol=2e-6 * np.abs(want).max() + 1e-7)
    for other in vectors[1:]:
        np.testing.assert_array_equal(other, vectors[0])


def test_embeddings_beside_answers(llm: ModuleType, executor: MakeExecutor) -> None:
    ex = executor(max_num_tokens=50)
    vectors = [request(llm, tokens=PROMPT[i:], pooling="mean", logprobs=0) for i in range(6)]
    answers = [request(llm, tokens=PROMPT[i:]) for i in range(6)]
    alone = executor(enable_prefix_cache=False)
    want_vectors = [vector(answer(alone, one)) for one in vectors]
    want = [facts(answer(alone, one)) for one in answers]
    mixed = run(ex, [one for pair in zip(vectors, answers) for one in pair])
    for (got,), expected in zip(mixed[::2], want_vectors):
        np.testing.assert_array_equal(vector(got), expected)
    assert [facts(got) for (got,) in mixed[1::2]] == want
    assert all(got.last.embedding is None for (got,) in mixed[1::2])


def test_embeddings_of_adapters_and_windows(
    llm: ModuleType, with_adapters: Callable[..., Executor]
) -> None:
    ex = with_adapters()
    kinds: list[dict[str, Any]] = [{}, {"lora": "0"}, {"lora": "1"}, {"attention_window": 8}]
    got = [
        vector(answer(ex, request(llm, pooling="last", logprobs=0, **fields))) for fields in kinds
    ]
    for i, one in enumerate(got):
        assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
        assert not any(np.array_equal(one, other) for other in got[:i])
