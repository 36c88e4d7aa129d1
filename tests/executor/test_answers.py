"""What a request is answered: the same tokens as Model.generate, and how answers end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from reference.gguf_files import TinySpec, write_scripted
from reference.handles import Model
from reference.serving import Answer, Executor, answer, run

RNG = np.random.default_rng(5)
PROMPTS = [[int(t) for t in RNG.integers(3, 355, n)] for n in (1, 2, 31, 32, 33, 100)]
EOS = 2

SPEC = TinySpec(tokenizer="bpe")
VOCABULARY = SPEC.vocabulary
# "a" is followed by "b", … "z", by a character of three bytes, by words, by the end.
PIECES = [*"abcdefghijklmnopqrstuvwxyz", " the", "in", "er", " of", "ing"]
EURO = [VOCABULARY.byte_id(byte) for byte in "€".encode()]
LETTERS = [VOCABULARY.id_of(piece) for piece in PIECES]
SCRIPT = [*LETTERS[:26], *EURO, *LETTERS[26:]]
TEXT = "bcdefghijklmnopqrstuvwxyz€ theiner ofing"


@pytest.fixture(scope="module")
def letters(llm: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Says TEXT after "a"."""
    path = tmp_path_factory.mktemp("script") / "letters.gguf"
    chain = dict(zip(SCRIPT, [*SCRIPT[1:], VOCABULARY.eos_id]))
    with llm.Model(write_scripted(path, SPEC, chain)) as model:
        yield model


@pytest.fixture(scope="module")
def speller(llm: ModuleType, letters: Model) -> Executor:
    with llm.Executor(letters) as executor:
        yield executor


def spell(llm: ModuleType, executor: Executor, **fields: Any) -> Answer:
    """What is said after "a"."""
    fields = {"tokens": SCRIPT[:1], "max_new_tokens": 200, **fields}
    return answer(executor, llm.Request(**fields))


# ---- the tokens of Model.generate ---------------------------------------------------------------

SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0},
    {"seed": 1},
    {"temperature": 0.7, "seed": 2},
    {"temperature": 2.5, "top_k": 40, "seed": 3},
    {"top_p": 0.9, "seed": 4},
    {"min_p": 0.02, "seed": 5},
    {"typical_p": 0.8, "seed": 6},
    {"temperature": 0.8, "top_k": 30, "top_p": 0.95, "min_p": 0.01, "seed": 7},
    {"temperature": 0, "repetition_penalty": 1.3},
    {"frequency_penalty": 0.5, "presence_penalty": 0.4, "seed": 8},
    {"repetition_penalty": 1.2, "penalty_last_n": 4, "top_k": 20, "seed": 9},
    {"temperature": 0, "logit_bias": {EOS: -100.0, 40: 8.0, 41: float("-inf")}},
    {"logit_bias": {EOS: float("-inf"), 300: 5.0}, "top_k": 5, "seed": -3},
]


@pytest.mark.parametrize("params", SAMPLING, ids=lambda params: ",".join(params))
def test_as_generate(
    llm: ModuleType, model: Model, executor: Callable[..., Executor], params: dict[str, Any]
) -> None:
    sampling = llm.SamplingParams(**params)
    expected = [model.generate(p, max_new_tokens=40, sampling=sampling) for p in PROMPTS]
    requests = [llm.Request(tokens=p, max_new_tokens=40, sampling=sampling) for p in PROMPTS]
    answers = run(executor(), requests)
    for (got,), want in zip(answers, expected):
        assert got.tokens == want.tokens
        assert got.text == want.text
        assert got.reason == want.finish_reason


def test_as_generate_without_sampling(
    llm: ModuleType, model: Model, executor: Callable[..., Executor]
) -> None:
    got = answer(executor(), llm.Request(tokens=PROMPTS[3]))
    assert got.tokens == model.generate(PROMPTS[3]).tokens


def test_real_model(llm: ModuleType, data_dir: Path, executor: Callable[..., Executor]) -> None:
    with llm.Model(data_dir / "models" / "stories260K-Q4_0.gguf") as stories:
        ids = stories.vocab.tokenize("Once upon a time")
        sampling = llm.SamplingParams(temperature=0.8, top_k=40, seed=11)
        want = stories.generate(ids, max_new_tokens=60, sampling=sampling)
        request = llm.Request(tokens=ids, max_new_tokens=60, sampling=sampling)
        got = answer(executor(stories), request)
        assert (got.tokens, got.text) == (want.tokens, want.text)


def test_no_seed_draws_anew(llm: ModuleType, executor: Callable[..., Executor]) -> None:
    sampling = llm.SamplingParams()
    request = llm.Request(tokens=[5], max_new_tokens=30, sampling=sampling, ignore_eos=True)
    assert len({tuple(answers[0].tokens) for answers in run(executor(), [request] * 4)}) == 4


# ---- how they end -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_length(llm: ModuleType, speller: Executor, count: int) -> None:
    out = spell(llm, speller, max_new_tokens=count)
    assert out.text == TEXT[:count]
    assert out.tokens == SCRIPT[1 : count + 1]
    assert out.reason == llm.FinishReason.LENGTH
    assert out.error == ""


def test_end_id(llm: ModuleType, speller: Executor) -> None:
    out = spell(llm, speller)
    assert out.text == TEXT
    assert out.tokens == SCRIPT[1:]
    assert out.reason == llm.FinishReason.END_ID


def test_stop_token_id(llm: ModuleType, speller: Executor) -> None:
    out = spell(llm, speller, stop_token_ids=(SCRIPT[9], SCRIPT[5]))
    assert out.text == TEXT[:4]
    assert out.tokens == SCRIPT[1:5]
    assert out.reason == llm.FinishReason.END_ID


def test_ignore_eos(llm: ModuleType, speller: Executor) -> None:
    out = spell(llm, speller, max_new_tokens=len(SCRIPT) + 5, ignore_eos=True)
    assert out.tokens[: len(SCRIPT)] == [*SCRIPT[1:], VOCABULARY.eos_id]
    assert len(out.tokens) == len(SCRIPT) + 5
    assert out.reason == llm.FinishReason.LENGTH
    assert spell(llm, speller, ignore_eos=True, stop_token_ids=[SCRIPT[3]]).text == TEXT[:2]


@pytest.mark.parametrize("at_least", [0, 4, 5, 9])
def test_min_tokens(llm: ModuleType, speller: Executor, at_least: int) -> None:
    ends = [SCRIPT[5]]  # would be the fifth
    out = spell(llm, speller, max_new_tokens=12, min_tokens=at_least, stop_token_ids=ends)
    assert out.tokens[:4] == SCRIPT[1:5]
    if at_least <= 4:
        assert out.reason == llm.FinishReason.END_ID
        assert len(out.tokens) == 4
    else:  # another token than the script's, after which the model is lost
        assert len(out.tokens) >= at_least
        assert out.tokens[4] != SCRIPT[5]
        assert not {*ends, VOCABULARY.eos_id} & set(out.tokens)


def test_min_tokens_ban_the_models_end_too(
    llm: ModuleType, executor: Callable[..., Executor]
) -> None:
    ex = executor()
    sampling = llm.SamplingParams(logit_bias={EOS: 30.0}, seed=1)
    requests = [
        llm.Request(tokens=[7], max_new_tokens=20, min_tokens=n, sampling=sampling)
        for n in (0, 1, 15, 20)
    ]
    assert [len(answers[0].tokens) for answers in run(ex, requests)] == [0, 1, 15, 20]
    request = llm.Request(
        tokens=[7], max_new_tokens=20, min_tokens=15, sampling=sampling, ignore_eos=True
    )
    assert answer(ex, request).tokens == [EOS] * 20


@pytest.mark.parametrize("room", [1, 2, 31, 32, 33, 60])
def test_end_of_context(llm: ModuleType, executor: Callable[..., Executor], room: int) -> None:
    ex = executor(max_sequence_length=64)
    sampling = llm.SamplingParams(temperature=0, logit_bias={EOS: -100.0})
    request = llm.Request(tokens=[9] * (64 - room), max_new_tokens=500, sampling=sampling)
    out = answer(ex, request)
    assert len(out.tokens) == room
    assert out.reason == llm.FinishReason.LENGTH
    with pytest.raises(ValueError, match="tokens is 64, expected at most 63"):
        ex.enqueue_request(llm.Request(tokens=[9] * 64))


def test_prompt_alone(llm: ModuleType, executor: Callable[..., Executor]) -> None:
    ex = executor(max_sequence_length=64)
    for n in (1, 32, 64):
        out = answer(ex, llm.Request(tokens=[9] * n, max_new_tokens=0))
        assert (out.tokens, out.text, out.reason) == ([], "", llm.FinishReason.LENGTH)
    with pytest.raises(ValueError, match="tokens"):
        ex.enqueue_request(llm.Request(tokens=[9] * 65, max_new_tokens=0))


# ---- stop words ---------------------------------------------------------------------------------

STOPS = [
    ("b",), ("bc",), ("z",), ("cde", "d"), ("d", "cde"), ("cdx", "ef"), ("uvwxy", "w"),
    ("z€",), ("€",), ("€ t",), (" the",), ("he",), ("rin", "in"), ("fing",), ("g",), ("gX",),
    ("bcdefghijklmnopqrstuvwxyz€ theiner ofing",), ("ABC",), ("no", "x", "y"),
]  # fmt: skip


def spoken(stops: tuple[str, ...], raw: bytes = b"") -> str:
    """TEXT up to the first stop word, looking after each token; a token is seen whole."""
    text = ""
    for piece in [*PIECES[1:26], "€", *PIECES[26:]]:
        text += piece
        found = [text.index(stop) for stop in stops if stop in text]
        if found:
            return text[: min(found)]
    return text


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("stops", STOPS, ids="|".join)
def test_stop_words(
    llm: ModuleType, letters: Model, speller: Executor, stops: tuple[str, ...], streaming: bool
) -> None:
    out = spell(llm, speller, stop_words=stops, streaming=streaming)
    assert out.text == spoken(stops)
    stopped = any(stop in TEXT for stop in stops)
    reasons = llm.FinishReason
    assert out.reason == (reasons.STOP_WORDS if stopped else reasons.END_ID)
    assert out.tokens == letters.generate(SCRIPT[:1], max_new_tokens=200, stop=stops).tokens


@hypothesis.given(st.lists(st.text("bcdefgyz€ thing", min_size=1, max_size=4), max_size=3))
def test_any_stop_words(llm: ModuleType, speller: Executor, stops: list[str]) -> None:
    assert spell(llm, speller, stop_words=stops).text == spoken(tuple(stops))
    streamed = spell(llm, speller, stop_words=stops, streaming=True)
    assert streamed.text == spoken(tuple(stops))


def test_text_is_held_back(llm: ModuleType, speller: Executor) -> None:
    out = spell(llm, speller, stop_words=["defX", "hijk"], streaming=True)
    pieces = [(list(r.tokens), r.text) for r in out.responses]
    ids = SCRIPT[1:]
    assert pieces[:6] == [
        ([ids[0]], "b"), ([ids[1]], "c"), ([ids[2]], ""), ([ids[3]], ""), ([ids[4]], ""),
        ([ids[5]], "defg"),
    ]  # fmt: skip
    assert out.text == "bcdefg"
    assert out.reason == llm.FinishReason.STOP_WORDS


def test_what_was_held_back_comes_at_the_end(llm: ModuleType, speller: Executor) -> None:
    for streaming in (False, True):
        out = spell(llm, speller, stop_words=["defX"], max_new_tokens=4, streaming=streaming)
        assert out.text == "bcde"
        assert out.reason == llm.FinishReason.LENGTH


def test_no_half_characters(llm: ModuleType, speller: Executor) -> None:
    out = spell(llm, speller, streaming=True)
    assert out.text == TEXT
    assert not any("\ufffd" in response.text for response in out.responses)
    cut = spell(llm, speller, max_new_tokens=27)  # within the bytes of a character
    assert cut.text == TEXT[:25] + "\ufffd"


# ---- streaming ----------------------------------------------------------------------------------


def test_streaming_gives_each_token_once(llm: ModuleType, speller: Executor) -> None:
    out = spell(llm, speller, streaming=True)
    assert out.tokens == SCRIPT[1:]
    assert [len(r.tokens) for r in out.responses[:-1]] == [1] * (len(SCRIPT) - 1)
    assert len(spell(llm, speller).responses) == 1


@pytest.mark.parametrize("params", [{"temperature": 0}, {"seed": 12}])
def test_streaming_of_random_text(
    llm: ModuleType, executor: Callable[..., Executor], params: dict[str, Any]
) -> None:
    ex = executor()
    for prompt in PROMPTS:
        fields = {
            "tokens": prompt,
            "max_new_tokens": 50,
            "sampling": llm.SamplingParams(**params),
            "logprobs": 2,
        }
        whole = answer(ex, llm.Request(**fields))
        parts = answer(ex, llm.Request(**fields, streaming=True))
        assert (parts.tokens, parts.text, parts.logprobs, parts.reason) == (
            whole.tokens, whole.text, whole.logprobs, whole.reason
        )  # fmt: skip


def test_ids_come_back(llm: ModuleType, executor: Callable[..., Executor]) -> None:
    ex = executor()
    clients = [0, -5, 2**62, 7]
    requests = [llm.Request(tokens=[5], max_new_tokens=3, client_id=c) for c in clients]
    ids = [ex.enqueue_request(request) for request in requests]
    assert len(set(ids)) == len(ids)
    for request_id, client in zip(ids, clients):
        (response,) = ex.await_responses(None, request_id)
        assert (response.request_id, response.client_id) == (request_id, client)
        assert response.sequence_index == 0
