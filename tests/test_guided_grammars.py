"""Grammars as text, the cache of compiled ones, and grammars made to do harm."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from reference.gguf_files import TinySpec

try:
    import llguidance
except ImportError:
    llguidance = None

MANY: dict[str, Any] = {str(number): {} for number in range(2001)}

needs_llguidance = pytest.mark.skipif(
    llguidance is None, reason="llguidance is not installed (extra `guided`)"
)


@pytest.fixture(scope="module")
def grammars(llm: ModuleType) -> ModuleType:
    """The module under test."""
    import my_llm_ffi.guided_grammars

    return my_llm_ffi.guided_grammars


@pytest.fixture(scope="module")
def guided(llm: ModuleType) -> ModuleType:
    """What users import."""
    import my_llm_ffi.guided

    return my_llm_ffi.guided


@pytest.fixture(scope="module")
def vocab_path(tiny_file: Callable[[TinySpec], Path]) -> Path:
    """A file with a vocabulary of some hundred tokens."""
    return tiny_file(TinySpec())


@pytest.fixture
def processor(llm: ModuleType, guided: ModuleType, vocab_path: Path) -> Any:
    """A GuidedDecoding with room for 8 grammars."""
    return guided.GuidedDecoding(llm.Vocab.from_file(vocab_path), cache_size=8)


# ---- as text ------------------------------------------------------------------------------------


def test_a_schema_may_be_text_mapping_or_boolean(grammars: ModuleType) -> None:
    make = grammars.Guided.json_schema
    schema = {"type": "object", "properties": {"z": {}, "a": {"const": "ü"}}}
    assert make(schema) == make(json.dumps(schema, ensure_ascii=False))
    assert make(schema).text.index('"z"') < make(schema).text.index('"a"')
    assert make(True).text == "true"
    assert make(schema) != make(schema, compact=True)
    assert make(schema).key() != make(schema, compact=True).key()


def test_a_schema_can_choose_its_white_space(grammars: ModuleType) -> None:
    def options(given: dict[str, Any], *, compact: bool) -> dict[str, Any]:
        source = grammars.Guided.json_schema({"x-guidance": given}, compact=compact).source()
        return json.loads(source)["grammars"][0]["json_schema"]["x-guidance"]

    assert options({}, compact=True)["whitespace_flexible"] is False
    assert "{1,40}" in options({"lenient": True}, compact=False)["whitespace_pattern"]
    assert options({"whitespace_pattern": " "}, compact=False)["whitespace_pattern"] == " "


@pytest.mark.parametrize(
    ("kind", "argument", "error", "text"),
    [
        ("json_schema", 5, TypeError, "json_schema is int"),
        ("json_schema", ["a"], TypeError, "json_schema is list"),
        ("json_schema", "{", ValueError, "json_schema is not JSON"),
        ("json_schema", "[]", ValueError, "an empty list, expected object or boolean"),
        ("json_schema", "null", ValueError, "null, expected object or boolean"),
        ("json_schema", '{"minimum": NaN}', ValueError, "NaN is no JSON"),
        ("json_schema", {"minimum": float("inf")}, ValueError, "cannot be written as JSON"),
        ("json_schema", {"const": {1, 2}}, TypeError, "cannot be written as JSON"),
        ("json_schema", '{"items":' * 100_000, ValueError, "at most 262144"),
        ("json_schema", "[" * 200_000, ValueError, "is nested too deeply"),
        ("json_schema", {"x-guidance": 3}, ValueError, "x-guidance is no object"),
        ("json_schema", {"items": [{"properties": MANY}]},
         ValueError, "2001 properties in one object, expected at most 2000"),
        ("json_schema", '{"const": "\ud800"}', ValueError, "surrogate"),
        ("regex", 5, TypeError, "guided regex is int"),
        ("regex", None, TypeError, "guided regex is NoneType"),
        ("regex", "\ud800", ValueError, "surrogate"),
        ("regex", "a" * 262_145, ValueError, "regex of 262145 bytes, expected at most 262144"),
        ("lark", b"start: A", TypeError, "guided lark is bytes"),
        ("choice", "abc", TypeError, "choice is str, expected a sequence"),
        ("choice", {"a", "b"}, TypeError, "choice is set, expected a sequence"),
        ("choice", 7, TypeError, "choice is int, expected a sequence"),
        ("choice", [], ValueError, "choice is an empty list"),
        ("choice", ["a", 1], TypeError, r"choice\[1\] is a number or boolean"),
        ("choice", ["a", "\ud800"], ValueError, "surrogate"),
    ],
)  # fmt: skip
def test_what_is_no_grammar_is_refused(
    grammars: ModuleType, kind: str, argument: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        getattr(grammars.Guided, kind)(argument)


def test_fields_are_checked_too(grammars: ModuleType) -> None:
    with pytest.raises(ValueError, match="kind is 'gbnf', expected one of"):
        grammars.Guided("gbnf", "root ::= a")
    with pytest.raises(ValueError, match="choice is an object, expected at least one string"):
        grammars.Guided("choice", "{}")


def test_without_llguidance_the_error_says_what_to_install(
    llm: ModuleType, guided: ModuleType, vocab_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    guided.Guided.json_schema({})  # a request can be made, and sent elsewhere
    with pytest.raises(ImportError, match=r"pip install 'my-llm-ffi\[guided\]'"):
        guided.GuidedDecoding(llm.Vocab.from_file(vocab_path))


# ---- compiled -----------------------------------------------------------------------------------


@needs_llguidance
@pytest.mark.parametrize(
    ("kind", "argument", "text"),
    [
        ("regex", "(a", "unclosed group"),
        ("regex", "a(?=b)", "look-around"),
        ("regex", r"\bfoo", "lookarounds not supported"),
        ("lark", "start: nothing", "nothing"),
        ("lark", "", ""),
        ("lark", "no grammar at all", ""),
        ("lark", '{"grammars": []}', ""),
        ("lark", "start: " + "(" * 5000 + '"a"' + ")" * 5000, "too deeply nested"),
        ("regex", "(" * 5000 + "a" + ")" * 5000, ""),
        ("json_schema", False, ""),
        ("json_schema", {"type": "nope"}, "Invalid type: nope"),
        ("json_schema", {"$ref": "http://127.0.0.1/x"}, "does not fetch resources"),
        ("json_schema", {"$ref": "#/$defs/none"}, ""),
        ("json_schema", {"type": "string", "pattern": "("}, "unclosed group"),
        ("json_schema", {"type": "integer", "minimum": 5, "maximum": 1}, "Unsatisfiable"),
        ("json_schema", {"not": {}}, 'Unimplemented keys: \\["not"\\]'),
        ("json_schema", {"type": "string", "format": "nosuch"}, "Unknown format"),
        ("json_schema", '{"allOf":[' * 300 + "{}" + "]}" * 300, ""),
    ],
)
def test_a_grammar_that_does_not_compile_is_named(
    guided: ModuleType, processor: Any, kind: str, argument: Any, text: str
) -> None:
    bad = getattr(guided.Guided, kind)(argument)
    with pytest.raises(ValueError, match=f"(?s)^guided: Guided.{kind}.*{text}") as raised:
        processor.compile(bad)
    assert len(str(raised.value)) < 700
    assert len(processor._cache) == 0
    processor.compile(guided.Guided.regex("still well"))


@needs_llguidance
def test_the_cache_is_bounded(guided: ModuleType, processor: Any) -> None:
    schemas = [guided.Guided.json_schema({"const": number}) for number in range(1000)]
    for schema in schemas:
        processor.compile(schema)
    assert len(processor._cache) == 8
    assert processor.stats().cache_hits == 0
    for schema in schemas[-8:]:
        processor.compile(schema)
    assert processor.stats().cache_hits == 8
    processor.compile(schemas[-8])  # used last, so it outlives 7 others
    for schema in schemas[:7]:
        processor.compile(schema)
    processor.compile(schemas[-8])
    assert processor.stats().cache_hits == 10


@needs_llguidance
def test_the_cache_is_bounded_in_bytes(
    grammars: ModuleType, guided: ModuleType, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammars, "_MAX_CACHED_BYTES", 2000)
    for number in range(6):
        processor.compile(guided.Guided.choice([f"{number}" + "x" * 490]))
        assert len(processor._cache) == min(number + 1, 4)
    processor.compile(guided.Guided.regex("y" * 1990))
    assert len(processor._cache) == 1
    processor.compile(guided.Guided.regex("z" * 2001))
    assert len(processor._cache) == 0
    assert processor._cache._n_bytes == 0


@needs_llguidance
def test_many_threads_compile_at_once(guided: ModuleType, processor: Any) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(20):
                processor.compile(guided.Guided.choice([f"{(number + step) % 12}"]))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    stats = processor.stats()
    assert stats.cache_hits + stats.cache_misses == 160
    assert stats.grammars_cached == 8


@needs_llguidance
def test_a_slow_grammar_is_given_up(
    llm: ModuleType, grammars: ModuleType, guided: ModuleType, vocab_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    processor = guided.GuidedDecoding(llm.Vocab.from_file(vocab_path), compile_timeout_s=0.05)
    go_on = threading.Event()

    def stuck(vocab: Any, grammar: Any) -> None:
        go_on.wait()

    with monkeypatch.context() as patch:
        patch.setattr(grammars, "_compile", stuck)
        for number in range(grammars._MAX_COMPILES):
            with pytest.raises(ValueError, match=r"takes longer than 0\.05 s to compile"):
                processor.compile(guided.Guided.regex(f"{number}"))
        with pytest.raises(RuntimeError, match="4 grammars are being compiled already"):
            processor.compile(guided.Guided.regex("a"))
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "compile grammar":
            thread.join()
    processor.compile(guided.Guided.regex("a"))


@needs_llguidance
def test_a_grammar_that_forces_endless_text_is_refused(guided: ModuleType, processor: Any) -> None:
    doubling = "start: T0\n" + "".join(f"T{i}: T{i + 1} T{i + 1}\n" for i in range(17)) + 'T17: "a"'
    with pytest.raises(ValueError, match="forces 131072 bytes at once, expected at most 65536"):
        processor.compile(guided.Guided.lark(doubling))


CHAINS = """
import sys
import my_llm_ffi as llm
from my_llm_ffi.guided import Guided, GuidedDecoding

def name(number):
    letters = ""
    while number or not letters:
        letters, number = letters + "bcdefghijkmnopqrstuvwxyz"[number % 24], number // 24
    return letters

def chain(line, room):  # of as many lines as fit
    lines, n_bytes = [], 0
    while n_bytes < room:
        lines.append(line(name(len(lines)), name(len(lines) + 1)))
        n_bytes += len(lines[-1]) + 1
    return lines, name(len(lines))

processor = GuidedDecoding(llm.Vocab.from_file(sys.argv[1]), compile_timeout_s=120)
room = (256 << 10) - 100
rules, last = chain("{}:{}".format, room)
lark = "start:b\\n" + "\\n".join(rules) + f'\\n{last}:"a"'
refs, end = chain('"{}":{{"$ref":"#/{}"}}'.format, room)
items, final = chain('"{}":{{"items":{{"$ref":"#/{}"}}}}'.format, room)
for made in (
    lambda: Guided.lark(lark),
    lambda: Guided.lark(lark.upper().replace("START", "start")),
    lambda: Guided.json_schema('{"$ref":"#/b",' + ",".join(refs) + f',"{end}":{{}}}}'),
    lambda: Guided.json_schema('{"$ref":"#/b",' + ",".join(items) + f',"{final}":{{}}}}'),
):
    try:
        processor.compile(made())
        print("compiled")
    except ValueError as error:
        print("refused", str(error)[-60:])
"""


@needs_llguidance
def test_chains_of_rules_do_not_end_the_process(vocab_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHAINS, str(vocab_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 4, done.stdout
