"""Guided decoding: answers that follow a JSON schema, a regex, a grammar or a list of choices.

`GuidedDecoding` is the logits post-processor of an executor. llguidance decides which tokens may
come next; it is the extra ``guided``, and imported at first use. Counterparts: guided_grammars.py
(what a request brings), guided_vocab.py (tokens), executor.py (who calls).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import tvm_ffi

from .checks import as_count, as_number
from .guided_grammars import GrammarCache, Guided, check_forced, error_text
from .guided_vocab import GuideVocab, import_llguidance

if TYPE_CHECKING:
    from .model import Model
    from .vocab import Vocab

__all__ = ["Guided", "GuidedDecoding", "GuidedStats", "LogitsEntry"]

_ENDING_S = 1.0


class LogitsEntry(Protocol):
    """One sequence in a call of a logits post-processor, as the engine hands it over.

    The engine calls once per step, one call at a time. A sequence's first call comes before its
    first token is sampled. Whatever became of a sequence, and also if it never had a call, one
    entry with ``is_final`` ends it.

    Attributes:
        request_id: Of the request.
        client_id: As given in the request.
        sequence_index: Which of the request's sequences.
        tokens: All tokens of the answer since the last call, forced ones included, in order;
            none at the first call. The prompt is not among them.
        bitmask: DLPack, int32 ``[ceil(n_vocab / 32)]`` on the CPU, all ones: bit i % 32 of word
            i / 32 says whether token i may come next. Fill it in place.
        temperature: Of the next draw; may be set.
        ln_min_p: Likewise.
        mask_fraction: Probability that the last mask left.
        is_final: The sequence has ended; only its ids and ``tokens`` mean anything.
        forced_tokens: To be set: the tokens that come next, whatever the logits. The engine
            appends them without a forward pass for each, as far as the request's length, end and
            stop words let it, and reports those that it appended in ``tokens``.
    """

    request_id: int
    client_id: int
    sequence_index: int
    tokens: Sequence[int]
    bitmask: Any
    temperature: float
    ln_min_p: float
    mask_fraction: float
    is_final: bool
    forced_tokens: Sequence[int]

    def fail(self, text: str) -> None:
        """Ends this sequence with an error of this text; others go on."""


@dataclass(frozen=True)
class GuidedStats:
    """What a `GuidedDecoding` holds, and did since it was made."""

    grammars_cached: int
    cache_hits: int
    cache_misses: int
    requests: int
    sequences: int
    masks_filled: int
    tokens_forced: int


class _Request:
    """A request under way: its grammar, and its sequences' states once they were called for."""

    def __init__(self, grammar: Any, n_sequences: int, may_jump: bool) -> None:
        self.grammar = grammar
        self.may_jump = may_jump
        self.open = set(range(n_sequences))
        self.states: dict[int, Any] = {}


class GuidedDecoding:
    """The logits post-processor that makes answers follow grammars.

    ``Executor(model, logits_post_processor=GuidedDecoding(model))``, then
    ``Request(..., guided=Guided.json_schema(schema))``. One serves one executor.

    Args:
        model: Whose tokens are masked; a vocabulary will do. Its part of the work is done once a
            model, some tenths of a second for 150,000 tokens.
        n_threads: Threads that fill masks, beside the forward pass; None: half of the CPUs that
            the process may use.
        cache_size: Compiled grammars that are kept.
        jump_forward: Append tokens that are the only ones possible without sampling each. The
            answer stays the same, token for token. Requests that want log-probabilities, or are
            ranked by them, have each token sampled all the same.
        compile_timeout_s: After that many seconds of compiling, a grammar is refused.
        others: Called with the entries of requests that have no grammar and asked for a logits
            post-processor; without it such a request fails.

    Raises:
        ImportError: llguidance is not installed.
        NotImplementedError: The model's kind of tokenizer is neither SPM nor BPE.
        ValueError: An argument is out of its range, or no token of the model ends an answer.
    """

    def __init__(
        self,
        model: Model | Vocab,
        *,
        n_threads: int | None = None,
        cache_size: int = 256,
        jump_forward: bool = False,
        compile_timeout_s: float = 10.0,
        others: Callable[[list[Any]], None] | None = None,
    ) -> None:
        threads = _usable_cpus() // 2 or 1 if n_threads is None else n_threads
        self._n_threads = _at_least_one("n_threads", threads)
        timeout_s = as_number("compile_timeout_s", compile_timeout_s)
        if not 0 < timeout_s <= 3600:
            raise ValueError(f"compile_timeout_s is {timeout_s}, expected 0 < seconds <= 3600")
        if others is not None and not callable(others):
            raise TypeError(f"others is {type(others).__name__}, expected a callable")
        self._vocab = GuideVocab.shared(model)
        self._cache = GrammarCache(
            self._vocab, size=_at_least_one("cache_size", cache_size), timeout_s=timeout_s
        )
        self._masks = _MaskFiller(self._vocab.mask_words, self._n_threads)
        self._jump_forward = bool(jump_forward)
        self._others = others
        # Between enqueue and the first call for what it enqueued. The garbage collector may detach
        # it on a thread that holds the lock.
        self._lock = threading.RLock()
        self._given_back = threading.Condition(self._lock)
        self._requests: dict[int, _Request] = {}
        self._in_use = False
        self._masks_filled = self._tokens_forced = 0

    # ---- for the executor, from any thread ------------------------------------------------------

    def attach(self) -> None:
        """Takes it for one executor, since request ids are an executor's own.

        Raises:
            ValueError: Another one has it.
        """
        with self._lock:
            # An executor that was dropped ends when its last callback returns.
            if not self._given_back.wait_for(lambda: not self._in_use, timeout=_ENDING_S):
                raise ValueError(
                    "logits_post_processor: this GuidedDecoding serves another executor; make one "
                    "for each (what costs time is shared by model)"
                )
            self._in_use = True

    def detach(self) -> None:
        """Gives it back, and forgets all requests: the executor's engine has ended."""
        with self._lock:
            self._in_use = False
            self._requests.clear()
            self._given_back.notify()

    def enqueue(
        self,
        guided: Guided,
        send: Callable[[], int],
        *,
        n_sequences: int = 1,
        scored: bool = False,
    ) -> int:
        """Sends a request off and ties its grammar to it.

        The grammar is compiled before, and calls for the request wait until it is tied: so none
        is ever answered without its grammar, however soon the engine begins with it.

        Args:
            guided: The grammar.
            send: Enqueues the request and returns its id; must not wait for the engine.
            n_sequences: Its sequences, 0 to n_sequences - 1; each will be reported to end.
            scored: The log-probabilities of its tokens are wanted, to be delivered or to rank its
                sequences by. A token that is forced has none, so there is no jump-forward.

        Raises:
            ValueError: The grammar cannot be compiled; nothing was sent.
        """
        grammar = self.compile(guided)
        count = _at_least_one("n_sequences", n_sequences)
        with self._lock:
            request_id = send()
            self._requests[request_id] = _Request(grammar, count, self._jump_forward and not scored)
        return request_id

    def compile(self, guided: Guided) -> Any:
        """Compiles a grammar, or finds it compiled: to have it ready, or to check it.

        Raises:
            RuntimeError: Too many others are being compiled.
            TypeError: It is no `Guided`.
            ValueError: It cannot be compiled, or takes too long to; says which and why.
        """
        if not isinstance(guided, Guided):
            raise TypeError(f"guided is {type(guided).__name__}, expected Guided")
        return self._cache.get(guided)

    def stats(self) -> GuidedStats:
        """Returns what it holds and did."""
        with self._lock:
            requests = list(self._requests.values())
        return GuidedStats(
            grammars_cached=len(self._cache),
            cache_hits=self._cache.hits,
            cache_misses=self._cache.misses,
            requests=len(requests),
            sequences=sum(len(request.states) for request in requests),
            masks_filled=self._masks_filled,
            tokens_forced=self._tokens_forced,
        )

    # ---- for the engine, one call at a time -----------------------------------------------------

    def __call__(self, entries: Sequence[LogitsEntry]) -> None:
        """Fills the masks of one step."""
        rows: list[tuple[LogitsEntry, Any]] = []
        may_jump: list[bool] = []
        others: list[LogitsEntry] = []
        for entry in entries:
            request = self._request(int(entry.request_id))
            if request is None:
                others.append(entry)
            elif entry.is_final:
                self._end(request, entry)
            else:
                state = self._advance(request, entry)
                if state is not None:
                    rows.append((entry, state))
                    may_jump.append(request.may_jump)
        if rows:
            self._masks.fill(rows)
            self._masks_filled += len(rows)
        for (entry, state), jump in zip(rows, may_jump):
            self._finish(entry, state, jump)
        if others:
            self._pass_on(others)

    def _request(self, request_id: int) -> _Request | None:
        known = self._requests.get(request_id)
        if known is not None:
            return known
        with self._lock:  # it may be between being sent and being tied
            return self._requests.get(request_id)

    def _end(self, request: _Request, entry: LogitsEntry) -> None:
        index = int(entry.sequence_index)
        request.states.pop(index, None)
        request.open.discard(index)
        if not request.open:
            with self._lock:
                self._requests.pop(int(entry.request_id), None)

    def _advance(self, request: _Request, entry: LogitsEntry) -> Any:
        """The sequence's state after its new tokens; None: it has failed, and says so."""
        index = int(entry.sequence_index)
        state = request.states.get(index)
        if state is None:
            state = request.states[index] = request.grammar.deep_copy()
        try:
            tokens = [int(token) for token in entry.tokens]
            if tokens and not state.consume_tokens(tokens):
                raise ValueError(f"guided: {error_text(state)}")
            check_forced(state)
        except Exception as error:
            entry.fail(str(error))
            return None
        return state

    def _finish(self, entry: LogitsEntry, state: Any, may_jump: bool) -> None:
        """Looks for what filling a mask cannot report, and for forced tokens."""
        if state.is_error():  # its mask then allows the end alone, which would be a wrong answer
            entry.fail(f"guided: {error_text(state)}")
        elif may_jump:
            forced = state.compute_ff_tokens()
            if forced:
                entry.forced_tokens = forced
                self._tokens_forced += len(forced)

    def _pass_on(self, entries: list[LogitsEntry]) -> None:
        if self._others is not None:
            self._others(entries)
            return
        for entry in entries:
            if not entry.is_final:
                entry.fail("guided: the request asks for a logits post-processor, has no grammar")


class _MaskFiller:
    """Fills the masks of several sequences at once, on threads that hold no lock of Python."""

    def __init__(self, n_words: int, n_threads: int) -> None:
        self._n_words = n_words
        self._n_bytes = 4 * n_words
        self._n_threads = n_threads
        self._pool: Any = None
        self._pool_pid = 0
        self._scratch = (ctypes.c_int32 * 0)()

    def fill(self, rows: list[tuple[LogitsEntry, Any]]) -> None:
        """Fills each entry's mask from its state; an entry whose mask cannot be filled fails."""
        places: list[tuple[int, Any]] = []
        for entry, state in rows:
            try:
                places.append((self._address(entry.bitmask), state))
            except Exception as error:
                entry.fail(f"guided: {error}")
        if not places:
            return
        base = min(address for address, _ in places)
        if any((address - base) % self._n_bytes for address, _ in places):
            self._fill_apart(places)
            return
        indexed = [(state, (address - base) // self._n_bytes) for address, state in places]
        self._run(indexed, base)

    def _fill_apart(self, places: list[tuple[int, Any]]) -> None:
        """The masks are not rows of one array: fills an array, and copies its rows."""
        if len(self._scratch) < len(places) * self._n_words:
            self._scratch = (ctypes.c_int32 * (len(places) * self._n_words))()
        base = ctypes.addressof(self._scratch)
        self._run([(state, row) for row, (_, state) in enumerate(places)], base)
        for row, (address, _) in enumerate(places):
            ctypes.memmove(address, base + row * self._n_bytes, self._n_bytes)

    def _run(self, indexed: list[tuple[Any, int]], base: int) -> None:
        if self._pool is None or self._pool_pid != os.getpid():  # no thread lives on in a fork
            self._pool = import_llguidance().LLExecutor(self._n_threads)
            self._pool_pid = os.getpid()
        n_rows = max(row for _, row in indexed) + 1
        self._pool.unsafe_compute_mask_ptr(indexed, base, self._n_bytes, n_rows)

    def _address(self, bitmask: Any) -> int:
        view = bitmask if isinstance(bitmask, tvm_ffi.Tensor) else tvm_ffi.from_dlpack(bitmask)
        if str(view.dtype) != "int32" or tuple(view.shape) != (self._n_words,):
            raise ValueError(
                f"bitmask is {view.dtype}{list(view.shape)}, expected int32[{self._n_words}]"
            )
        if not view.is_contiguous() or view.device.type != "cpu":
            raise ValueError("bitmask must be contiguous, on the CPU")
        return int(view.data_ptr())


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _at_least_one(name: str, value: Any) -> int:
    count = as_count(name, value)
    if count < 1:
        raise ValueError(f"{name} is {count}, expected at least 1")
    return count
