"""Jump-forward with a real engine: tokens that are forced change no answer, only its cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from reference.handles import Model
from reference.mask_engine import Entry, MaskEngine
from reference.serving import Answer, Executor, run

pytest.importorskip("llguidance", reason="llguidance is not installed (extra `guided`)")

MakeExecutor = Callable[..., Executor]
SCHEMA = {
    "type": "object",
    "properties": {
        "inhabitants": {"type": "integer", "minimum": 0, "maximum": 999},
        "colour of the flag": {"enum": ["red", "dark green"]},
        "capital": {"type": "boolean"},
    },
    "required": ["inhabitants", "colour of the flag", "capital"],
    "additionalProperties": False,
}
PATTERN = "The quick brown fox [0-9]{1,9} jumps over(, over)* the lazy dog"


def grammars() -> list[Any]:
    """Each with text that is forced between texts that are not."""
    from my_llm_ffi.guided import Guided

    return [
        Guided.regex(PATTERN),
        Guided.json_schema(SCHEMA),
        Guided.json_schema(SCHEMA, compact=True),
        Guided.choice(["once upon a time", "once upon a tree", "never before"]),
    ]


def asked(llm: ModuleType, **fields: Any) -> list[Any]:
    """Requests over all grammars: drawn and greedy, several sequences, cut short, stopped."""
    variants: list[dict[str, Any]] = [
        {},
        {"sampling": None},
        {"num_return_sequences": 3},
        {"streaming": True},
        {"max_new_tokens": 7},
        {"stop_words": ["fox 1", "flag", "upon a t"]},
        {"min_tokens": 2, "priority": 1.0},
    ]
    return [
        llm.Request(
            **{
                "tokens": [1, 80, 140 + seed],
                "max_new_tokens": 90,
                "sampling": llm.SamplingParams(seed=seed, temperature=1.2, top_p=0.95),
                "guided": grammar,
                **variant,
                **fields,
            }
        )
        for grammar in grammars()
        for seed, variant in enumerate(variants)
    ]


def both_ways(
    executor: MakeExecutor, model: Model, requests: list[Any], **config: Any
) -> tuple[list[list[Answer]], list[list[Answer]], int]:
    """The answers without and with jump-forward, and how many tokens were forced."""
    from my_llm_ffi.guided import GuidedDecoding

    found = []
    for jump_forward in (False, True):
        processor = GuidedDecoding(model, jump_forward=jump_forward)
        found.append(run(executor(model, logits_post_processor=processor, **config), requests))
    return found[0], found[1], processor.stats().tokens_forced


def check_same_answers(
    llm: ModuleType, executor: MakeExecutor, model: Model, **config: Any
) -> None:
    plain, jumped, n_forced = both_ways(executor, model, asked(llm), **config)
    assert n_forced > 100
    for before, after in zip(plain, jumped):
        assert [a.tokens for a in after] == [a.tokens for a in before]
        assert [(a.text, a.reason) for a in after] == [(a.text, a.reason) for a in before]


@pytest.mark.parametrize("max_num_tokens", [None, 4])
def test_answers_are_the_same(
    llm: ModuleType, executor: MakeExecutor, model: Model, max_num_tokens: int | None
) -> None:
    """Forced tokens are computed with the next step's, in parts where a step is narrow."""
    check_same_answers(llm, executor, model, max_num_tokens=max_num_tokens)


def test_answers_are_the_same_where_memory_runs_out(
    llm: ModuleType, executor: MakeExecutor, model: Model
) -> None:
    check_same_answers(llm, executor, model, kv_cache_tokens=640, max_sequence_length=256)


def test_answers_of_a_real_model_are_the_same(
    llm: ModuleType, executor: MakeExecutor, data_dir: Path
) -> None:
    model = llm.Model(data_dir / "models" / "stories260K-F32.gguf")
    check_same_answers(llm, executor, model)


def test_nothing_is_forced_in_a_request_that_is_scored(llm: ModuleType, model: Model) -> None:
    """Its neighbours jump all the same."""
    from my_llm_ffi.guided import Guided, GuidedDecoding

    vocab = model.vocab
    pieces = [vocab.piece(token) for token in range(vocab.size)]
    ends = [token for token in range(vocab.size) if vocab.is_eog(token)]
    processor = GuidedDecoding(model, jump_forward=True)
    forced: dict[int, int] = {}

    def watched(entries: list[Entry]) -> None:
        processor(entries)
        for entry in entries:
            forced.setdefault(entry.request_id, 0)
            forced[entry.request_id] += len(entry.forced_tokens)

    engine = MaskEngine(watched, pieces, ends)
    text = Guided.choice(["once upon a time"])
    scored, other = (
        processor.enqueue(text, engine.send, scored=scored) for scored in (True, False)
    )
    engine.run()
    assert engine.texts(scored) == engine.texts(other) == ["once upon a time"]
    assert forced[scored] == 0 < forced[other]


@pytest.mark.parametrize(
    "fields", [{"best_of": 4}, {"best_of": 5, "num_return_sequences": 2}, {"logprobs": 2}]
)
def test_scores_are_the_same(
    llm: ModuleType, executor: MakeExecutor, model: Model, fields: dict[str, Any]
) -> None:
    """Log-probabilities, and the order of answers that are ranked by them."""
    requests = [
        request
        for request in asked(llm, **fields)
        if not (request.streaming and "best_of" in fields) and request.num_return_sequences < 3
    ]
    plain, jumped, n_forced = both_ways(executor, model, requests)
    assert n_forced == 0
    for before, after in zip(plain, jumped):
        assert [(a.tokens, a.logprobs) for a in after] == [(a.tokens, a.logprobs) for a in before]
        scores = [[a.last.cumulative_logprob for a in answers] for answers in (before, after)]
        assert scores[0] == scores[1]
        assert all(score < 0 for score in scores[0])
