"""Grammars as text, and compiled in a bounded cache. Counterpart: guided.py."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .checks import as_utf8
from .guided_vocab import import_llguidance

if TYPE_CHECKING:
    from .guided_vocab import GuideVocab

_KINDS = ("json_schema", "regex", "lark", "choice")

# The compiler recurses once per rule or $ref of a chain. 256 KiB hold a chain of 33,000, for which
# 8 MiB of stack are not enough by far and 512 MiB plenty; only what is touched becomes memory.
MAX_TEXT_BYTES = 256 << 10
_STACK_BYTES = 512 << 20
# Compiling takes time in the square of this number: 0.7 s at 2000.
MAX_PROPERTIES = 2000
# What one sequence's automaton may grow to, at 1 to 2 KB a state.
_MAX_LEXER_STATES = 50_000
# An answer is at most that long where a grammar leaves no choice at all.
MAX_FORCED_BYTES = 64 << 10
_MAX_CACHED_BYTES = 16 << 20
_MAX_COMPILES = 4
_MAX_ERROR = 500

# JSON allows any white space between its tokens, and models have been seen to write nothing else.
_WHITESPACE = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,40}"}
_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}

_stack_lock = threading.Lock()  # threading.stack_size is one for the process


@dataclass(frozen=True)
class Guided:
    """What an answer must look like; made by one of the class methods.

    Nothing is compiled and llguidance is not needed until a request is enqueued.

    Args:
        kind: ``"json_schema"``, ``"regex"``, ``"lark"`` or ``"choice"``.
        text: The schema as JSON, the expression, the grammar, or the choices as a JSON list.
        compact: JSON without white space between its tokens.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The text is longer than 256 KiB, or no text of its kind; says what is wrong.
    """

    kind: str
    text: str
    compact: bool = False

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"guided: kind is {self.kind!r}, expected one of {_KINDS}")
        n_bytes = len(as_utf8(f"guided {self.kind}", self.text))
        if n_bytes > MAX_TEXT_BYTES:
            raise ValueError(
                f"guided: {self.kind} of {n_bytes} bytes, expected at most {MAX_TEXT_BYTES}"
            )
        if self.kind == "json_schema":
            _check_schema(_parse_json(self.kind, self.text))
        elif self.kind == "choice":
            _check_choices(_parse_json(self.kind, self.text))

    @classmethod
    def json_schema(
        cls, schema: str | bool | Mapping[str, Any], *, compact: bool = False
    ) -> Guided:
        """An answer that is JSON of this schema.

        Args:
            schema: The schema, parsed or as JSON text; ``True`` or ``{}``: any JSON. Properties
                come in the order in which the schema lists them.
            compact: No white space between the tokens of JSON. Otherwise up to 40 characters of
                it, unless the schema says another thing under ``"x-guidance"``.

        Raises:
            TypeError: It is neither a mapping nor text, or holds what JSON cannot.
            ValueError: It is not JSON, too long, or has too many properties in one object.
        """
        if not isinstance(schema, (str, bool)):
            if not isinstance(schema, Mapping):
                kind = type(schema).__name__
                raise TypeError(f"guided: json_schema is {kind}, expected a mapping or JSON text")
            schema = _dump(dict(schema))
        return cls("json_schema", schema if isinstance(schema, str) else _dump(schema), compact)

    @classmethod
    def regex(cls, pattern: str) -> Guided:
        """An answer that matches the expression as a whole, in the syntax of Rust's regex crate."""
        return cls("regex", pattern)

    @classmethod
    def lark(cls, grammar: str) -> Guided:
        """An answer of this context-free grammar, in llguidance's dialect of Lark."""
        return cls("lark", grammar)

    @classmethod
    def choice(cls, options: Sequence[str]) -> Guided:
        """An answer that is one of these strings.

        Raises:
            TypeError: An option is no string.
            ValueError: There is none.
        """
        if isinstance(options, str) or not isinstance(options, Sequence):
            kind = type(options).__name__
            raise TypeError(f"guided: choice is {kind}, expected a sequence of strings")
        return cls("choice", _dump(list(options)))

    def source(self) -> str:
        """Returns the grammar as llguidance's JSON."""
        if self.kind == "json_schema":
            schema = json.loads(self.text)
            schema = {} if schema is True else {"not": {}} if schema is False else schema
            given = schema.get("x-guidance", {})
            options = {**(_COMPACT if self.compact else _WHITESPACE), **given}
            grammar: dict[str, Any] = {"json_schema": {**schema, "x-guidance": options}}
        elif self.kind == "lark":
            grammar = {"lark_grammar": self.text}
        else:
            pattern = self.text if self.kind == "regex" else _either(json.loads(self.text))
            return str(import_llguidance().LLMatcher.grammar_from_regex(pattern))
        return json.dumps({"grammars": [grammar]}, ensure_ascii=False)

    def key(self) -> bytes:
        """Returns what a cache knows it by."""
        return hashlib.sha256(repr((self.kind, self.compact, self.text)).encode()).digest()

    def __repr__(self) -> str:
        shown = self.text if len(self.text) <= 80 else self.text[:77] + "..."
        return f"Guided.{self.kind}({shown!r})"


class GrammarCache:
    """Compiled grammars of one vocabulary, the least recently used forgotten first.

    Usable from any thread. What it returns is never changed: copy it.
    """

    def __init__(self, vocab: GuideVocab, *, size: int, timeout_s: float) -> None:
        self._vocab = vocab
        self._size = size
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._compiled: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()
        self._n_bytes = 0
        self._compiling = threading.BoundedSemaphore(_MAX_COMPILES)
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._compiled)

    def get(self, guided: Guided) -> Any:
        """Returns the compiled grammar (an ``LLMatcher``).

        Raises:
            RuntimeError: So many others are being compiled that it did not get its turn.
            ValueError: It does not compile, takes too long to, or no answer can satisfy it.
        """
        key = guided.key()
        with self._lock:
            known = self._compiled.get(key)
            if known is not None:
                self._compiled.move_to_end(key)
                self.hits += 1
                return known[0]
            self.misses += 1
        compiled = self._compile(guided)
        self._put(key, compiled, len(guided.text))
        return compiled

    def _put(self, key: bytes, compiled: Any, n_bytes: int) -> None:
        with self._lock:
            if key in self._compiled:
                return
            self._compiled[key] = (compiled, n_bytes)
            self._n_bytes += n_bytes
            while len(self._compiled) > self._size or self._n_bytes > _MAX_CACHED_BYTES:
                _, (_, gone) = self._compiled.popitem(last=False)
                self._n_bytes -= gone

    def _compile(self, guided: Guided) -> Any:
        """Compiles on a thread with a stack that no grammar of the length allowed can exhaust."""
        if not self._compiling.acquire(timeout=self._timeout_s):
            raise RuntimeError(f"guided: {_MAX_COMPILES} grammars are being compiled already")
        done: Future[Any] = Future()

        def work() -> None:
            try:
                done.set_result(_compile(self._vocab, guided))
            except BaseException as error:
                done.set_exception(error)
            finally:
                self._compiling.release()

        try:
            _start_with_stack(work)
        except BaseException:
            self._compiling.release()
            raise
        try:
            return done.result(timeout=self._timeout_s)
        except FutureTimeoutError:
            raise ValueError(
                f"guided: {guided!r} takes longer than {self._timeout_s:g} s to compile"
            ) from None


def _start_with_stack(work: Any) -> None:
    thread = threading.Thread(target=work, name="compile grammar")
    with _stack_lock:
        before = threading.stack_size(_STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(before)


def _compile(vocab: GuideVocab, guided: Guided) -> Any:
    llguidance = import_llguidance()
    limits = llguidance.LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)
    try:
        source = guided.source()
    except RecursionError:
        raise ValueError(f"guided: {guided!r} is nested too deeply") from None
    matcher = llguidance.LLMatcher(vocab.tokenizer, source, log_level=0, limits=limits)
    if not matcher.is_error():
        check_forced(matcher)  # raises what compute_bitmask would take minutes over
        matcher.compute_bitmask()  # shows what only fails at use, and warms what copies share
    if matcher.is_error():
        raise ValueError(f"guided: {guided!r}: {error_text(matcher)}")
    return matcher


def check_forced(matcher: Any) -> None:
    """Refuses a matcher whose grammar forces a text of absurd length.

    Raises:
        ValueError: Says how long.
    """
    forced = len(matcher.compute_ff_bytes())
    if forced > MAX_FORCED_BYTES:
        raise ValueError(
            f"guided: the grammar forces {forced} bytes at once, expected at most "
            f"{MAX_FORCED_BYTES}"
        )


def error_text(matcher: Any) -> str:
    """Returns what went wrong in a matcher, shortened to what a log can hold."""
    text = str(matcher.get_error())
    for dump in ("\n<state>", "\n<non-verbose/>"):
        text = text.split(dump, 1)[0].strip()
    return text if len(text) <= _MAX_ERROR else text[: _MAX_ERROR - 3] + "..."


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise type(error)(f"guided: cannot be written as JSON: {error}") from None


def _parse_json(kind: str, text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError(f"guided: {kind} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"guided: {kind} is not JSON: {error}") from None


def _check_schema(schema: Any) -> None:
    if not isinstance(schema, (dict, bool)):
        raise ValueError(f"guided: json_schema is {_json_type(schema)}, expected object or boolean")
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            properties = node.get("properties")
            if isinstance(properties, dict) and len(properties) > MAX_PROPERTIES:
                raise ValueError(
                    f"guided: json_schema has {len(properties)} properties in one object, "
                    f"expected at most {MAX_PROPERTIES}"
                )
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
    if isinstance(schema, dict) and not isinstance(schema.get("x-guidance", {}), dict):
        raise ValueError("guided: json_schema's x-guidance is no object")


def _check_choices(options: Any) -> None:
    if not isinstance(options, list) or not options:
        raise ValueError(f"guided: choice is {_json_type(options)}, expected at least one string")
    for index, option in enumerate(options):
        if not isinstance(option, str):
            raise TypeError(f"guided: choice[{index}] is {_json_type(option)}, expected a string")
        as_utf8(f"guided: choice[{index}]", option)


def _json_type(value: Any) -> str:
    if isinstance(value, list) and not value:
        return "an empty list"
    return {dict: "an object", list: "a list", str: "a string", type(None): "null"}.get(
        type(value), "a number or boolean"
    )


def _either(options: Sequence[str]) -> str:
    """An expression for one of the strings, each character taken as it is."""
    return "|".join("".join(map(_escaped, option)) for option in dict.fromkeys(options))


def _escaped(character: str) -> str:
    plain = character.isalnum() or character in " _" or not character.isascii()
    return character if plain else f"\\x{ord(character):02x}"
