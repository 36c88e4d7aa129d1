"""GuidedDecoding, driven by an engine that draws at random from what the masks leave."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference.gguf_files import TinySpec
from reference.mask_engine import Entry, MaskEngine, allowed_tokens

pytest.importorskip("llguidance", reason="llguidance is not installed (extra `guided`)")

REAL = ["llama-spm", "gpt-2", "llama-bpe", "qwen2"]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
OPTIONS = ["red", "green", "dark green", "?*(x|[é]\\", "a\nb", "你好", "reddish"]
EXPRESSION = r"[0-9]{3}-[A-Z]{2,4}"
ARITHMETIC = r"""
start: expr
expr: NUM | "(" expr OP expr ")"
OP: /[-+*]/
NUM: /[0-9]{1,3}/
"""


class Case:
    """A vocabulary, and what makes engines for it."""

    def __init__(self, vocab: Any) -> None:
        self.vocab = vocab
        self.pieces = [vocab.piece(token) for token in range(vocab.size)]
        self.ends = [token for token in range(vocab.size) if vocab.is_eog(token)]

    def engine(self, processor: Any, **options: Any) -> MaskEngine:
        def prefer(token: int) -> float:  # or half of what is drawn is white space
            return 1e-3 if self.pieces[token].isspace() else 1.0

        return MaskEngine(processor, self.pieces, self.ends, prefer=prefer, **options)

    def continuation(self, text: str) -> list[int]:
        """Ids of text that continues other text: a line feed takes the space that SPM puts."""
        if self.vocab._handle.model() != "llama":
            return self.vocab.tokenize(text, add_special=False)
        with_break = self.vocab.tokenize("\n" + text, add_special=False)
        n_break = len(self.vocab.tokenize("\n", add_special=False))
        return with_break[n_break:]


@pytest.fixture(scope="module")
def guided(llm: ModuleType) -> ModuleType:
    """The module under test."""
    import my_llm_ffi.guided

    return my_llm_ffi.guided


@pytest.fixture(scope="module")
def case(llm: ModuleType, tiny_file: Callable[[TinySpec], Path]) -> Callable[[str], Case]:
    """Cases by name: the tiny vocabularies, or those of REAL, read once."""
    known: dict[str, Case] = {}

    def get(name: str, folder: Path | None = None) -> Case:
        if name not in known:
            path = (
                tiny_file(TinySpec(tokenizer=name))
                if folder is None
                else folder / "vocabs" / f"ggml-vocab-{name}.gguf"
            )
            known[name] = Case(llm.Vocab.from_file(path))
        return known[name]

    return get


@pytest.fixture(params=["spm", "bpe"])
def tiny(request: pytest.FixtureRequest, case: Callable[[str], Case]) -> Case:
    """A vocabulary of some hundred tokens."""
    return case(request.param)


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest, case: Any, data_dir: Path) -> Case:
    """A vocabulary that models are made with."""
    return case(request.param, data_dir)


def is_person(text: str) -> bool:
    value = json.loads(text)
    return (
        list(value) == ["name", "age", "tags"]
        and isinstance(value["name"], str)
        and len(value["name"]) <= 12
        and type(value["age"]) is int
        and 0 <= value["age"] <= 150
        and len(value["tags"]) <= 3
        and set(value["tags"]) <= {"red", "green", "blue"}
    )


def is_arithmetic(text: str) -> bool:
    while "(" in text:
        shorter = re.sub(r"\([0-9]{1,3}[-+*][0-9]{1,3}\)", "1", text)
        if shorter == text:
            return False
        text = shorter
    return re.fullmatch(r"[0-9]{1,3}", text) is not None


def every_kind(guided: ModuleType) -> list[tuple[Any, Callable[[str], Any]]]:
    """A grammar of each kind, and what says whether a text is of it."""
    make = guided.Guided
    return [
        (make.json_schema(PERSON), is_person),
        (make.json_schema(json.dumps(PERSON), compact=True), is_person),
        (make.choice(OPTIONS), OPTIONS.__contains__),
        (make.regex(EXPRESSION), re.compile(EXPRESSION).fullmatch),
        (make.lark(ARITHMETIC), is_arithmetic),
    ]


def run_all(guided: ModuleType, case: Case, *, rows: str, jump_forward: bool) -> MaskEngine:
    """Three requests of each kind, two sequences each; checks every answer that came to its end."""
    processor = guided.GuidedDecoding(case.vocab, jump_forward=jump_forward, n_threads=2)
    engine = case.engine(processor, rows=rows)
    sent = []
    for seed in range(3):
        for grammar, accepts in every_kind(guided):
            number = processor.enqueue(
                grammar, lambda seed=seed: engine.send(n=2, seed=seed), n_sequences=2
            )
            sent.append((number, accepts))
    engine.run()
    assert [s.error for s in engine.sequences if s.error] == []
    n_ended = 0
    for number, accepts in sent:
        own = [s for s in engine.sequences if s.request_id == number]
        for sequence, text in zip(own, engine.texts(number)):
            if sequence.ended:
                assert accepts(text), text
                n_ended += 1
    assert n_ended >= 25  # of 30; the others ran into max_tokens
    stats = processor.stats()
    assert (stats.requests, stats.sequences, stats.grammars_cached) == (0, 0, 5)
    assert (stats.cache_misses, stats.cache_hits) == (5, 10)
    assert stats.tokens_forced >= engine.n_forced
    return engine


def answers(engine: MaskEngine) -> list[list[int]]:
    return [sequence.tokens for sequence in engine.sequences]


def check_answers(guided: ModuleType, case: Case) -> None:
    plain = run_all(guided, case, rows="matrix", jump_forward=False)
    jumped = run_all(guided, case, rows="apart", jump_forward=True)
    assert plain.n_forced == 0 < jumped.n_forced
    calls = [sum(s.n_calls for s in engine.sequences) for engine in (plain, jumped)]
    assert calls[1] < calls[0]
    assert answers(plain) == answers(jumped)


def test_answers_follow_their_grammar(guided: ModuleType, tiny: Case) -> None:
    check_answers(guided, tiny)


def test_answers_follow_their_grammar_with_real_vocabularies(
    guided: ModuleType, real: Case
) -> None:
    check_answers(guided, real)


def test_answers_of_a_model_of_stories(llm: ModuleType, guided: ModuleType, data_dir: Path) -> None:
    with llm.Model(data_dir / "models" / "stories260K-F32.gguf") as model:
        check_answers(guided, Case(model.vocab))
        assert guided.GuidedDecoding(model)._vocab is guided.GuidedDecoding(model)._vocab


def check_forced(guided: ModuleType, case: Case) -> None:
    """One text is possible: its tokens are the ones that the tokenizer gives."""
    for text in [
        '{"name": "Dr. Smith"}',
        "Once upon a time, there was",
        " x",
        "naïve 你好\n\n1234",
    ]:
        processor = guided.GuidedDecoding(case.vocab, jump_forward=True)
        engine = case.engine(processor)
        number = processor.enqueue(guided.Guided.choice([text]), engine.send)
        engine.run()
        assert engine.texts(number) == [text]
        tokens = engine.sequences[0].tokens
        assert tokens[:-1] == case.continuation(text)
        assert tokens[-1] in case.ends
        assert engine.n_steps <= 3


def test_a_text_without_choice_is_tokenized_as_ever(guided: ModuleType, tiny: Case) -> None:
    check_forced(guided, tiny)


def test_a_text_without_choice_is_tokenized_as_ever_with_real_vocabularies(
    guided: ModuleType, real: Case
) -> None:
    check_forced(guided, real)


def check_options(guided: ModuleType, case: Case) -> None:
    """Each option's own tokens are allowed all along, and nothing that leads to no option."""
    options = ["red", "redder", "green tea", " green", "blue\n", "übel", "7"]
    processor = guided.GuidedDecoding(case.vocab)
    for option in options:
        number = processor.enqueue(guided.Guided.choice(options), lambda: 1)
        so_far, new = b"", []
        for token in [*case.continuation(option), case.vocab.eos_id]:
            entry = call(processor, case, number, tokens=new)
            allowed = allowed_tokens(entry.bitmask, case.vocab.size)
            assert token in allowed
            ends = set(allowed) & set(case.ends)
            assert (ends == set(case.ends)) if so_far.decode("utf-8", "ignore") in options else True
            assert not ends or so_far.decode() in options
            for other in set(allowed) - ends:
                text = so_far + case.pieces[other]
                assert any(o.encode().startswith(text) for o in options)
            so_far, new = so_far + case.pieces[token], [token]
        processor.detach()


def call(processor: Any, case: Case, number: int, **fields: Any) -> Entry:
    mask = np.full((case.vocab.size + 31) // 32, -1, np.int32)
    entry = Entry(number, fields.pop("index", 0), fields.pop("tokens", []), mask, **fields)
    processor([entry])
    return entry


def test_masks_hold_what_leads_to_an_option(guided: ModuleType, tiny: Case) -> None:
    check_options(guided, tiny)


def test_masks_hold_what_leads_to_an_option_with_real_vocabularies(
    guided: ModuleType, real: Case
) -> None:
    check_options(guided, real)


def test_byte_tokens_and_their_letters_are_both_allowed(
    guided: ModuleType, case: Callable[[str], Case]
) -> None:
    spm = case("spm")
    processor = guided.GuidedDecoding(spm.vocab)
    number = processor.enqueue(guided.Guided.regex("[a-c]+"), lambda: 1)
    allowed = allowed_tokens(call(processor, spm, number).bitmask, spm.vocab.size)
    expected = [t for t, piece in enumerate(spm.pieces) if re.fullmatch(rb"[a-c]+", piece)]
    assert allowed == expected
    assert spm.pieces[expected[0]] in [spm.pieces[token] for token in expected[1:]]


def test_unused_tokens_are_never_allowed(
    guided: ModuleType, tiny: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    import my_llm_ffi.guided_vocab

    monkeypatch.setattr(my_llm_ffi.guided_vocab, "_UNUSED", 1)  # as if all normal ones were
    vocab = my_llm_ffi.guided_vocab.GuideVocab(tiny.vocab)
    matcher = guided.import_llguidance().LLMatcher(vocab.tokenizer, "start: /[a-z]*/")
    mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist()
    assert allowed
    assert 1 not in {tiny.vocab._handle.type(token) for token in allowed}


def test_control_tokens_are_no_text(guided: ModuleType, tiny: Case) -> None:
    processor = guided.GuidedDecoding(tiny.vocab)
    number = processor.enqueue(guided.Guided.regex("(?s).+"), lambda: 1)
    allowed = allowed_tokens(call(processor, tiny, number).bitmask, tiny.vocab.size)
    control = [t for t in range(tiny.vocab.size) if tiny.vocab._handle.type(t) in (2, 3)]
    assert control
    assert not set(control) & set(allowed)


def test_white_space_is_bounded(guided: ModuleType, case: Callable[[str], Case]) -> None:
    bpe = case("bpe")
    processor = guided.GuidedDecoding(bpe.vocab)
    engine = MaskEngine(
        processor, bpe.pieces, bpe.ends, prefer=lambda t: 1e6 if bpe.pieces[t].isspace() else 1
    )
    number = processor.enqueue(guided.Guided.json_schema(PERSON), engine.send)
    engine.run()
    longest = max(map(len, re.findall(r"\s+", engine.texts(number)[0])))
    assert 30 <= longest <= 40


# ---- requests -----------------------------------------------------------------------------------


def test_a_call_waits_until_the_grammar_is_tied(guided: ModuleType, tiny: Case) -> None:
    processor = guided.GuidedDecoding(tiny.vocab)
    seen: list[Entry] = []
    engine_thread = threading.Thread(target=lambda: seen.append(call(processor, tiny, 77)))

    def send() -> int:
        engine_thread.start()
        engine_thread.join(0.1)  # the engine is as fast as it can be
        return 77

    processor.enqueue(guided.Guided.regex("[0-9]"), send)
    engine_thread.join(10)
    assert seen[0].error is None
    allowed = allowed_tokens(seen[0].bitmask, tiny.vocab.size)
    assert {tiny.pieces[token] for token in allowed} == {b"%d" % digit for digit in range(10)}


def test_nothing_is_kept_of_what_was_not_sent(guided: ModuleType, tiny: Case) -> None:
    processor = guided.GuidedDecoding(tiny.vocab)

    def full() -> int:
        raise RuntimeError("queue is full")

    with pytest.raises(RuntimeError, match="queue is full"):
        processor.enqueue(guided.Guided.regex("a"), full)
    sent: list[int] = []
    with pytest.raises(ValueError, match=r"(?s)guided: Guided\.regex\('\(a'\).*unclosed group"):
        processor.enqueue(guided.Guided.regex("(a"), lambda: sent.append(1) or 1)
    assert sent == []
    assert processor.stats().requests == 0


def test_a_request_ends_with_its_last_sequence(guided: ModuleType, tiny: Case) -> None:
    processor = guided.GuidedDecoding(tiny.vocab)
    engine = tiny.engine(processor)
    processor.enqueue(guided.Guided.regex("[a-z]{50}"), lambda: engine.send(n=3), n_sequences=3)
    engine.step(engine.sequences)
    assert processor.stats().sequences == 3
    for left in (2, 1, 0):
        engine.finish([engine.sequences[left]])
        engine.finish([engine.sequences[left]])  # an end that comes twice ends one
        assert processor.stats().sequences == left
        assert processor.stats().requests == min(left, 1)


def test_a_request_that_never_had_a_call_can_end(guided: ModuleType, tiny: Case) -> None:
    processor = guided.GuidedDecoding(tiny.vocab)
    engine = tiny.engine(processor)
    processor.enqueue(guided.Guided.regex("a"), engine.send)
    engine.finish(engine.sequences)
    assert processor.stats().requests == 0


def test_a_token_that_is_not_allowed_fails_its_request_alone(
    guided: ModuleType, tiny: Case
) -> None:
    processor = guided.GuidedDecoding(tiny.vocab)
    engine = tiny.engine(processor)
    good, bad = (processor.enqueue(guided.Guided.choice(OPTIONS), engine.send) for _ in range(2))
    engine.step(engine.sequences)
    engine.sequences[1].tokens[-1:] = tiny.continuation("zz")
    engine.run()
    assert engine.sequences[0].error is None
    assert engine.texts(good)[0] in OPTIONS
    assert "doesn't satisfy the grammar" in engine.sequences[1].error
    assert len(engine.sequences[1].error) < 600
    assert processor.stats().requests == 0
    assert bad != good


def test_a_grammar_that_grows_too_large_fails_its_request_alone(
    guided: ModuleType, tiny: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    import my_llm_ffi.guided_grammars

    monkeypatch.setattr(my_llm_ffi.guided_grammars, "_MAX_LEXER_STATES", 500)
    processor = guided.GuidedDecoding(tiny.vocab)
    never = {token for token, piece in enumerate(tiny.pieces) if b"c" in piece}
    engine = MaskEngine(
        processor, tiny.pieces, tiny.ends, prefer=lambda token: 1e-9 if token in never else 1
    )
    processor.enqueue(guided.Guided.regex("[a-z]{400}"), engine.send)  # one state after the other
    processor.enqueue(guided.Guided.regex("[ab]*a[ab]{20}c"), engine.send)  # 2**20 states
    engine.run()
    good, bad = engine.sequences
    assert good.error is None
    assert len(good.tokens) >= 100
    assert bad.error == "guided: lexer error: too many states: 500 >= 500"
    assert not bad.ended
    assert processor.stats().requests == 0


@pytest.mark.parametrize(
    "mask", [np.zeros(3, np.int32), np.zeros((1, 40), np.int32), np.zeros(40, np.int64), None, 5]
)
def test_a_mask_of_the_wrong_kind_fails_its_request_alone(
    guided: ModuleType, tiny: Case, mask: Any
) -> None:
    processor = guided.GuidedDecoding(tiny.vocab)
    numbers = iter((1, 2))
    for _ in range(2):
        processor.enqueue(guided.Guided.regex("[0-9]"), lambda: next(numbers))
    right = np.full((tiny.vocab.size + 31) // 32, -1, np.int32)
    entries = [Entry(1, 0, [], mask), Entry(2, 0, [], right)]
    processor(entries)
    assert entries[0].error is not None
    assert entries[1].error is None
    assert 10 <= len(allowed_tokens(right, tiny.vocab.size)) <= 20


def test_requests_without_a_grammar(guided: ModuleType, tiny: Case) -> None:
    assert "has no grammar" in str(call(guided.GuidedDecoding(tiny.vocab), tiny, 5).error)
    assert call(guided.GuidedDecoding(tiny.vocab), tiny, 5, final=True).error is None
    seen: list[list[Entry]] = []
    processor = guided.GuidedDecoding(tiny.vocab, others=seen.append)
    processor.enqueue(guided.Guided.regex("a"), lambda: 1)
    own, other = (Entry(n, 0, [], np.full(-(-tiny.vocab.size // 32), -1, np.int32)) for n in (1, 2))
    processor([own, other])
    assert seen == [[other]]
    assert (own.error, other.error) == (None, None)
    assert (other.bitmask == -1).all()


def test_one_serves_one_executor(guided: ModuleType, tiny: Case) -> None:
    processor = guided.GuidedDecoding(tiny.vocab)
    processor.attach()
    with pytest.raises(ValueError, match="serves another executor"):
        processor.attach()
    processor.enqueue(guided.Guided.regex("a"), lambda: 1)
    processor.detach()
    assert processor.stats().requests == 0
    processor.attach()


def test_an_answer_depends_on_nothing_around_it(guided: ModuleType, tiny: Case) -> None:
    alone: list[list[int]] = []
    for seed, (grammar, _) in enumerate(every_kind(guided)):
        processor = guided.GuidedDecoding(tiny.vocab, n_threads=1)
        engine = tiny.engine(processor)
        processor.enqueue(grammar, lambda e=engine, s=seed: e.send(seed=s))
        engine.run()
        alone += answers(engine)
    processor = guided.GuidedDecoding(tiny.vocab, n_threads=3)
    engine = tiny.engine(processor)
    for seed, (grammar, _) in enumerate(every_kind(guided)):
        processor.enqueue(grammar, lambda s=seed: engine.send(seed=s))
    engine.run()
    assert answers(engine) == alone


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"n_threads": 0}, ValueError, "n_threads is 0"),
        ({"n_threads": 1.5}, TypeError, "n_threads is float"),
        ({"cache_size": 0}, ValueError, "cache_size is 0"),
        ({"compile_timeout_s": 0}, ValueError, "compile_timeout_s is 0"),
        ({"compile_timeout_s": float("nan")}, ValueError, "compile_timeout_s is nan"),
        ({"compile_timeout_s": "1"}, TypeError, "compile_timeout_s is str"),
        ({"others": 3}, TypeError, "others is int"),
    ],
)
def test_options_are_checked(
    guided: ModuleType, tiny: Case, options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        guided.GuidedDecoding(tiny.vocab, **options)


def test_arguments_are_checked(guided: ModuleType, tiny: Case) -> None:
    with pytest.raises(TypeError, match="model is str, expected a Model or a Vocab"):
        guided.GuidedDecoding("model.gguf")
    processor = guided.GuidedDecoding(tiny.vocab)
    with pytest.raises(TypeError, match="guided is dict, expected Guided"):
        processor.enqueue(PERSON, lambda: 1)
    with pytest.raises(ValueError, match="n_sequences is 0"):
        processor.enqueue(guided.Guided.regex("a"), lambda: 1, n_sequences=0)


def test_a_vocabulary_of_another_kind_is_refused(
    guided: ModuleType, tiny: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    import my_llm_ffi.guided_vocab

    monkeypatch.setattr(my_llm_ffi.guided_vocab, "_KINDS", ("wpm",))
    with pytest.raises(NotImplementedError, match="tokenizer; expected one of"):
        my_llm_ffi.guided_vocab.GuideVocab(tiny.vocab)
